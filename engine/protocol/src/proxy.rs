//! Tunnels through proxies: SOCKS5 (RFC 1928, 1929) and HTTP CONNECT (RFC 9110, 9.3.6), up to the first byte of the tunnel.
//!
//! Owner: whoever has a connection to a proxy (`ccbt-shards`) drives one [`Tunnel`]: sends what it writes, and pushes what
//! comes until it is open. Invariants: at most [`REPLY_LEN_MAX`] bytes of a proxy are kept, whatever it says; credentials
//! appear in no text.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Bytes of a proxy before the tunnel is open, at most.
pub const REPLY_LEN_MAX: usize = 8 * 1024;
/// Longest host name, user name and password, in bytes: the length is one byte in SOCKS5.
pub const FIELD_LEN_MAX: usize = 255;

/// How a proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// SOCKS5.
    Socks5,
    /// HTTP CONNECT.
    Http,
}

/// User name and password; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    username: String,
    password: String,
}

impl Credentials {
    /// `None`: one of them is longer than [`FIELD_LEN_MAX`] or has control characters, or the name is empty or has a colon.
    pub fn new(username: &str, password: &str) -> Option<Self> {
        let fits = |text: &str| text.len() <= FIELD_LEN_MAX && !text.contains(char::is_control);
        let is_good = fits(username) && fits(password) && !username.is_empty() && !username.contains(':');
        is_good.then(|| Self { username: username.to_owned(), password: password.to_owned() })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

/// Where a tunnel leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An address.
    Addr(SocketAddr),
    /// A name that the proxy looks up, and a port.
    Name(String, u16),
}

/// Why there is no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Not the protocol.
    #[error("the proxy does not speak {0}; check proxy.type and proxy.address")]
    Nonsense(&'static str),
    /// It wants a user name and password that it did not get, or another way of proving who we are.
    #[error("the proxy wants another authentication; check proxy.credentials_file")]
    Method,
    /// It knows us not.
    #[error("the proxy refuses the user name or password; check proxy.credentials_file")]
    Credentials,
    /// It does not connect (RFC 1928's code).
    #[error("the proxy refuses: {}", socks_reason(*.0))]
    Socks(u8),
    /// It does not connect (HTTP's status).
    #[error("the proxy refuses with HTTP status {0}")]
    Http(u16),
    /// The host name is empty, too long, or no name.
    #[error("the host name cannot be told to a proxy")]
    Name,
}

fn socks_reason(code: u8) -> &'static str {
    match code {
        1 => "general failure",
        2 => "its rules do not allow the connection",
        3 => "the network is unreachable",
        4 => "the host is unreachable",
        5 => "connection refused",
        6 => "time to live expired",
        7 => "it does not know the command",
        8 => "it does not know the type of address",
        _ => "for a reason that it does not tell",
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// SOCKS5: the method comes.
    Method,
    /// SOCKS5: the verdict on name and password comes.
    Verdict,
    /// SOCKS5: the reply to CONNECT comes.
    Reply,
    /// HTTP: the head comes.
    Head,
}

/// One tunnel that is being opened.
#[derive(Debug)]
pub struct Tunnel {
    state: State,
    target: Target,
    credentials: Option<Credentials>,
    received: Vec<u8>,
}

impl Tunnel {
    /// Begins; `out` gets what is to be sent. Errors: the target's name is none.
    pub fn new(
        kind: ProxyKind,
        credentials: Option<Credentials>,
        target: Target,
        out: &mut Vec<u8>,
    ) -> Result<Self, ProxyError> {
        if let Target::Name(name, _) = &target {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            if name.is_empty() || name.len() > FIELD_LEN_MAX || !name.bytes().all(is_name) {
                return Err(ProxyError::Name);
            }
        }
        let state = match kind {
            ProxyKind::Socks5 => {
                out.extend(if credentials.is_some() { &[5, 2, 0, 2][..] } else { &[5, 1, 0] });
                State::Method
            }
            ProxyKind::Http => {
                out.extend(http_request(&target, credentials.as_ref()).bytes());
                State::Head
            }
        };
        Ok(Self { state, target, credentials, received: Vec::new() })
    }

    /// Takes bytes of the proxy; `out` gets what is to be sent. `Some`: the tunnel is open, and these bytes came through it.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<Vec<u8>>, ProxyError> {
        self.received.extend_from_slice(bytes);
        loop {
            let len = match self.state {
                State::Head => return self.on_head(),
                State::Method | State::Verdict => 2,
                State::Reply => match socks_reply_len(&self.received)? {
                    Some(len) => len,
                    None => return Ok(None),
                },
            };
            if self.received.len() < len {
                return Ok(None);
            }
            let rest = self.received.split_off(len);
            let reply = std::mem::replace(&mut self.received, rest);
            match self.state {
                State::Method => self.on_method(reply[0], reply[1], out)?,
                State::Verdict if reply[1] != 0 => return Err(ProxyError::Credentials),
                State::Verdict => self.connect(out),
                State::Reply | State::Head => return Ok(Some(std::mem::take(&mut self.received))),
            }
        }
    }

    fn on_method(&mut self, version: u8, method: u8, out: &mut Vec<u8>) -> Result<(), ProxyError> {
        match (version, method, &self.credentials) {
            (5, 0, _) => self.connect(out),
            (5, 2, Some(Credentials { username, password })) => {
                out.extend([1, username.len() as u8]);
                out.extend(username.bytes());
                out.push(password.len() as u8);
                out.extend(password.bytes());
                self.state = State::Verdict;
            }
            (5, ..) => return Err(ProxyError::Method),
            _ => return Err(ProxyError::Nonsense("SOCKS5")),
        }
        Ok(())
    }

    fn connect(&mut self, out: &mut Vec<u8>) {
        out.extend([5, 1, 0]);
        let port = match &self.target {
            Target::Addr(addr) => {
                match addr.ip().to_canonical() {
                    IpAddr::V4(ip) => out.extend([&[1][..], &ip.octets()].concat()),
                    IpAddr::V6(ip) => out.extend([&[4][..], &ip.octets()].concat()),
                }
                addr.port()
            }
            Target::Name(name, port) => {
                out.extend([3, name.len() as u8]);
                out.extend(name.bytes());
                *port
            }
        };
        out.extend(port.to_be_bytes());
        self.state = State::Reply;
    }

    fn on_head(&mut self) -> Result<Option<Vec<u8>>, ProxyError> {
        let end = self.received.windows(4).position(|window| window == b"\r\n\r\n");
        let begins = |wanted: &[u8]| {
            let len = self.received.len().min(wanted.len());
            self.received[..len] == wanted[..len]
        };
        if !begins(b"HTTP/1.0 ") && !begins(b"HTTP/1.1 ") || end.is_none_or(|end| end > REPLY_LEN_MAX) {
            let goes_on = begins(b"HTTP/1.0 ") || begins(b"HTTP/1.1 ");
            let is_long = self.received.len() > REPLY_LEN_MAX;
            return if goes_on && !is_long { Ok(None) } else { Err(ProxyError::Nonsense("HTTP")) };
        }
        let digits = self.received.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| digits.parse::<u16>().ok()) {
            Some(200..=299) => Ok(Some(self.received.split_off(end.expect("checked above") + 4))),
            Some(407) => Err(ProxyError::Credentials),
            Some(status) => Err(ProxyError::Http(status)),
            None => Err(ProxyError::Nonsense("HTTP")),
        }
    }
}

/// Length of a SOCKS5 reply, as soon as it is known. Errors: it is a refusal or none at all.
fn socks_reply_len(reply: &[u8]) -> Result<Option<usize>, ProxyError> {
    match *reply {
        [version, ..] if version != 5 => Err(ProxyError::Nonsense("SOCKS5")),
        [_, code, ..] if code != 0 => Err(ProxyError::Socks(code)),
        [_, _, _, 1, ..] => Ok(Some(10)),
        [_, _, _, 4, ..] => Ok(Some(22)),
        [_, _, _, 3, len, ..] => Ok(Some(7 + usize::from(len))),
        [_, _, _, kind, ..] if !matches!(kind, 1 | 3 | 4) => Err(ProxyError::Nonsense("SOCKS5")),
        _ => Ok(None),
    }
}

fn http_request(target: &Target, credentials: Option<&Credentials>) -> String {
    let to = match target {
        Target::Addr(addr) => SocketAddr::new(addr.ip().to_canonical(), addr.port()).to_string(),
        Target::Name(name, port) => format!("{name}:{port}"),
    };
    let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n");
    if let Some(Credentials { username, password }) = credentials {
        let proof = base64(format!("{username}:{password}").as_bytes());
        request.push_str(&format!("Proxy-Authorization: Basic {proof}\r\n"));
    }
    request + "\r\n"
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let value = (word >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit > chunk.len() { '=' } else { char::from(DIGITS[value]) });
        }
    }
    text
}

#[cfg(test)]
mod tests;

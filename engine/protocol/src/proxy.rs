//! Tunnels through proxies: SOCKS5 (RFC 1928, 1929) and HTTP CONNECT (RFC 9110, 9.3.6), up to the first byte of the tunnel,
//! and UDP through SOCKS5 ([`datagram`]).
//!
//! Owner: whoever has a connection to a proxy (`ccbt-shards`) drives one [`Tunnel`]: sends what it writes, and pushes what
//! comes until it is open. Invariants: at most [`REPLY_LEN_MAX`] bytes of a proxy are kept, whatever it says; credentials
//! appear in no text.

pub mod datagram;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

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

/// Where a tunnel or a datagram leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address.
    Addr(SocketAddr),
    /// A name that the proxy looks up, and a port.
    Name(String, u16),
}

impl Target {
    /// Whether it can be told to a proxy. Errors: the name is empty, too long, or no name.
    fn check(&self) -> Result<(), ProxyError> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        match self {
            Self::Name(name, _)
                if name.is_empty() || name.len() > FIELD_LEN_MAX || !name.bytes().all(is_name) =>
            {
                Err(ProxyError::Name)
            }
            _ => Ok(()),
        }
    }

    /// Appends it as SOCKS5 has it: type, address and port.
    fn write(&self, out: &mut Vec<u8>) {
        let port = match self {
            Self::Addr(addr) => {
                match addr.ip().to_canonical() {
                    IpAddr::V4(ip) => out.extend([&[1][..], &ip.octets()].concat()),
                    IpAddr::V6(ip) => out.extend([&[4][..], &ip.octets()].concat()),
                }
                addr.port()
            }
            Self::Name(name, port) => {
                out.extend([3, name.len() as u8]);
                out.extend(name.bytes());
                *port
            }
        };
        out.extend(port.to_be_bytes());
    }
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
    /// UDP ASSOCIATE: the reply names no address to send to.
    #[error("the proxy does not say where it takes datagrams")]
    Relay,
}

impl ProxyError {
    /// Whether it is about what was asked for and not about now: asked again it says the same.
    pub const fn is_lasting(&self) -> bool {
        matches!(self, Self::Socks(2 | 7) | Self::Method | Self::Credentials)
    }
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
    /// Of SOCKS5: 1 CONNECT, 3 UDP ASSOCIATE.
    command: u8,
    target: Target,
    /// The address in the reply, if it is one.
    bound: Option<SocketAddr>,
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
        target.check()?;
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
        Ok(Self { state, command: 1, target, bound: None, credentials, received: Vec::new() })
    }

    /// Asks a SOCKS5 proxy to pass datagrams on instead (UDP ASSOCIATE); `out` gets what is to be sent. They may come
    /// from any address of ours, and pass as long as the connection stands.
    pub fn associate(credentials: Option<Credentials>, out: &mut Vec<u8>) -> Self {
        let any = Target::Addr(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
        let tunnel = Self::new(ProxyKind::Socks5, credentials, any, out).expect("no name is told");
        Self { command: 3, ..tunnel }
    }

    /// Where the proxy, itself at `proxy`, takes datagrams, once [`Self::push`] has opened the association.
    ///
    /// # Errors
    /// It names no address to which datagrams can be sent.
    pub fn relay(&self, proxy: IpAddr) -> Result<SocketAddr, ProxyError> {
        let bound = self.bound.filter(|bound| bound.port() != 0).ok_or(ProxyError::Relay)?;
        // Proxies behind a NAT, or bound to all addresses, do not know which one we see.
        let is_own = |ip: IpAddr| ip.is_unspecified() || ip.is_loopback() && !proxy.is_loopback();
        let ip = if is_own(bound.ip()) { proxy } else { bound.ip() };
        let is_many = ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST);
        if is_many { Err(ProxyError::Relay) } else { Ok(SocketAddr::new(ip, bound.port())) }
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
                State::Verdict => self.ask(out),
                State::Reply | State::Head => {
                    let place = datagram::place(reply.get(3..).unwrap_or_default());
                    self.bound = place.and_then(|(place, _)| place);
                    return Ok(Some(std::mem::take(&mut self.received)));
                }
            }
        }
    }

    fn on_method(&mut self, version: u8, method: u8, out: &mut Vec<u8>) -> Result<(), ProxyError> {
        match (version, method, &self.credentials) {
            (5, 0, _) => self.ask(out),
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

    fn ask(&mut self, out: &mut Vec<u8>) {
        out.extend([5, self.command, 0]);
        self.target.write(out);
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

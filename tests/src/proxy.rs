//! A proxy in threads of the test: SOCKS5 with a password (RFC 1928, 1929), UDP ASSOCIATE included, or HTTP CONNECT.
//!
//! Owner: the test; its threads end with the process. Whatever it is asked for leads to one of the places that the
//! test gives it, by host and port as asked; everything else is refused, or lost if it is a datagram.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::process::POLL;

/// The user name and the password that it wants.
pub const CREDENTIALS: (&str, &str) = ("someone", "hush-hush");

/// A running proxy.
pub struct Proxy {
    address: SocketAddr,
    desk: Arc<Desk>,
}

/// What a proxy speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// SOCKS5 with UDP ASSOCIATE.
    Socks,
    /// SOCKS5 that does not know UDP ASSOCIATE.
    SocksWithoutUdp,
    /// HTTP CONNECT.
    Http,
}

struct Desk {
    ip: Ipv4Addr,
    speech: Speech,
    places: HashMap<String, SocketAddr>,
    asked: Mutex<Vec<String>>,
    /// Connections of associations, all that were ever made, and the ports that take their datagrams.
    associations: Mutex<Vec<(TcpStream, u16)>>,
}

impl Proxy {
    /// Listens at `ip`; `places` says where each `HOST:PORT` leads.
    pub fn start(ip: Ipv4Addr, speech: Speech, places: HashMap<String, SocketAddr>) -> Self {
        let listener = TcpListener::bind((ip, 0)).expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let desk = Desk { ip, speech, places, asked: Mutex::default(), associations: Mutex::default() };
        let desk = Arc::new(desk);
        let served = desk.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let desk = served.clone();
                // A client that talks nonsense gets no answer; the test sees that it made no progress.
                thread::spawn(move || {
                    if desk.speech == Speech::Http { http(stream, &desk) } else { socks(stream, &desk) }
                });
            }
        });
        Self { address, desk }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked for: `HOST:PORT`, with `udp ` before it where that is a datagram's.
    pub fn asked(&self) -> Vec<String> {
        self.desk.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where datagrams are taken: a port for each association that was ever opened.
    pub fn udp_ports(&self) -> Vec<u16> {
        let associations = self.desk.associations.lock().unwrap_or_else(PoisonError::into_inner);
        associations.iter().map(|(_, port)| *port).collect()
    }

    /// Ends all associations.
    pub fn end_associations(&self) {
        for (stream, _) in &*self.desk.associations.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Desk {
    fn find(&self, to: &str, prefix: &str) -> Option<SocketAddr> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{prefix}{to}"));
        self.places.get(to).copied()
    }

    /// What `place` is called by those who ask for addresses.
    fn name_of(&self, place: SocketAddr) -> Option<SocketAddr> {
        let mut names = self.places.iter().filter(|(_, at)| **at == place);
        names.find_map(|(name, _)| name.parse().ok())
    }

    /// UDP ASSOCIATE, until the connection ends.
    fn associate(&self, mut stream: TcpStream) -> io::Result<()> {
        let inside = UdpSocket::bind((self.ip, 0))?;
        let outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = inside.local_addr()?.port();
        self.associations.lock().unwrap_or_else(PoisonError::into_inner).push((stream.try_clone()?, port));
        let [high, low] = port.to_be_bytes();
        // It does not say its address, as many do not.
        stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, high, low])?;
        let client = Mutex::new(None);
        let is_over = || client.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|(_, over)| over);
        for socket in [&inside, &outside] {
            socket.set_read_timeout(Some(POLL))?;
        }
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut bytes = [0; 4096];
                while !is_over() {
                    let Ok((len, from)) = inside.recv_from(&mut bytes) else { continue };
                    client.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((from, false));
                    let Some((to, payload)) = unwrapped(&bytes[..len]) else { continue };
                    if let Some(to) = self.find(&to, "udp ") {
                        let _ = outside.send_to(payload, to);
                    }
                }
            });
            scope.spawn(|| {
                let mut bytes = [0; 4096];
                while !is_over() {
                    let Ok((len, from)) = outside.recv_from(&mut bytes) else { continue };
                    let to = *client.lock().unwrap_or_else(PoisonError::into_inner);
                    if let (Some((to, _)), Some(SocketAddr::V4(from))) = (to, self.name_of(from)) {
                        let head = [&[0, 0, 0, 1][..], &from.ip().octets(), &from.port().to_be_bytes()];
                        let _ = inside.send_to(&[&head.concat(), &bytes[..len]].concat(), to);
                    }
                }
            });
            let _ = stream.read(&mut [0; 1]);
            let mut client = client.lock().unwrap_or_else(PoisonError::into_inner);
            *client = Some((client.map_or(SocketAddr::from(([0; 4], 0)), |(addr, _)| addr), true));
        });
        Ok(())
    }
}

/// Where a datagram is to go, and what it brings.
fn unwrapped(datagram: &[u8]) -> Option<(String, &[u8])> {
    let (host, rest) = match *datagram {
        [0, 0, 0, 1, a, b, c, d, ref rest @ ..] => (Ipv4Addr::from([a, b, c, d]).to_string(), rest),
        [0, 0, 0, 3, len, ref rest @ ..] => {
            let (name, rest) = rest.split_at_checked(usize::from(len))?;
            (String::from_utf8_lossy(name).into_owned(), rest)
        }
        _ => return None,
    };
    let (port, payload) = rest.split_first_chunk::<2>()?;
    Some((format!("{host}:{}", u16::from_be_bytes(*port)), payload))
}

fn socks(mut stream: TcpStream, desk: &Desk) -> io::Result<()> {
    let mut take = |len: usize| {
        let mut bytes = vec![0; len];
        stream.read_exact(&mut bytes).map(|()| bytes)
    };
    let count = take(2)?[1];
    take(usize::from(count))?;
    (&stream).write_all(&[5, 2])?;
    let mut take = |len: usize| {
        let mut bytes = vec![0; len];
        stream.read_exact(&mut bytes).map(|()| bytes)
    };
    let len = take(2)?[1];
    let user = take(usize::from(len))?;
    let len = take(1)?[0];
    let password = take(usize::from(len))?;
    let good = user == CREDENTIALS.0.as_bytes() && password == CREDENTIALS.1.as_bytes();
    stream.write_all(&[1, u8::from(!good)])?;
    let mut take = |len: usize| {
        let mut bytes = vec![0; len];
        stream.read_exact(&mut bytes).map(|()| bytes)
    };
    let request = take(4)?;
    let host = match request[3] {
        1 => Ipv4Addr::from(<[u8; 4]>::try_from(take(4)?).expect("four")).to_string(),
        3 => {
            let len = take(1)?[0];
            String::from_utf8_lossy(&take(usize::from(len))?).into_owned()
        }
        _ => IpAddr::from(<[u8; 16]>::try_from(take(16)?).expect("sixteen")).to_string(),
    };
    let port = take(2)?;
    let to = format!("{host}:{}", u16::from_be_bytes([port[0], port[1]]));
    match (request[1], desk.speech) {
        (3, Speech::Socks) if good => return desk.associate(stream),
        (3, _) => return stream.write_all(&[5, 7, 0, 1, 0, 0, 0, 0, 0, 0]),
        _ => {}
    }
    match desk.find(&to, "").filter(|_| good).map(TcpStream::connect) {
        Some(Ok(other)) => {
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
            join(stream, other)
        }
        _ => stream.write_all(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]),
    }
}

fn http(mut stream: TcpStream, desk: &Desk) -> io::Result<()> {
    // Byte by byte: what follows the head belongs to the tunnel.
    let mut reader = BufReader::with_capacity(1, stream.try_clone()?);
    let (mut request, mut head) = (String::new(), String::new());
    reader.read_line(&mut request)?;
    while reader.read_line(&mut head)? > 2 {}
    // someone:hush-hush
    let good = head.contains("Proxy-Authorization: Basic c29tZW9uZTpodXNoLWh1c2g=\r\n");
    let to = request.split(' ').nth(1).unwrap_or_default().to_owned();
    match desk.find(&to, "").filter(|_| good).map(TcpStream::connect) {
        Some(Ok(other)) => {
            stream.write_all(b"HTTP/1.1 200 Fine\r\n\r\n")?;
            join(stream, other)
        }
        _ => stream.write_all(b"HTTP/1.1 502 No\r\n\r\n"),
    }
}

/// Copies both ways until both have ended.
fn join(one: TcpStream, other: TcpStream) -> io::Result<()> {
    let (from, to) = (one.try_clone()?, other.try_clone()?);
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    let back = thread::spawn(move || copy(to, from));
    copy(one, other);
    let _ = back.join();
    Ok(())
}

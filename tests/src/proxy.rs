//! A proxy in threads of the test: SOCKS5 with a password (RFC 1928, 1929), or HTTP CONNECT.
//!
//! Owner: the test; its threads end with the process. Whatever it is asked for leads to one of the places that the
//! test gives it, by host and port as asked; everything else is refused.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// The user name and the password that it wants.
pub const CREDENTIALS: (&str, &str) = ("someone", "hush-hush");

/// A running proxy.
pub struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Listens at `ip`; `places` says where each `HOST:PORT` leads.
    pub fn start(ip: Ipv4Addr, is_http: bool, places: HashMap<String, SocketAddr>) -> Self {
        let listener = TcpListener::bind((ip, 0)).expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (told, places) = (asked.clone(), Arc::new(places));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (told, places) = (told.clone(), places.clone());
                // A client that talks nonsense gets no answer; the test sees that it made no progress.
                thread::spawn(move || {
                    if is_http { http(stream, &places, &told) } else { socks(stream, &places, &told) }
                });
            }
        });
        Self { address, asked }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked for, as `HOST:PORT`.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

type Places = HashMap<String, SocketAddr>;

fn find(places: &Places, told: &Mutex<Vec<String>>, to: String) -> Option<SocketAddr> {
    let place = places.get(&to).copied();
    told.lock().unwrap_or_else(PoisonError::into_inner).push(to);
    place
}

fn socks(mut stream: TcpStream, places: &Places, told: &Mutex<Vec<String>>) -> io::Result<()> {
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
    let host = match take(4)?[3] {
        1 => Ipv4Addr::from(<[u8; 4]>::try_from(take(4)?).expect("four")).to_string(),
        3 => {
            let len = take(1)?[0];
            String::from_utf8_lossy(&take(usize::from(len))?).into_owned()
        }
        _ => IpAddr::from(<[u8; 16]>::try_from(take(16)?).expect("sixteen")).to_string(),
    };
    let port = take(2)?;
    let to = format!("{host}:{}", u16::from_be_bytes([port[0], port[1]]));
    match find(places, told, to).filter(|_| good).map(TcpStream::connect) {
        Some(Ok(other)) => {
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
            join(stream, other)
        }
        _ => stream.write_all(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]),
    }
}

fn http(mut stream: TcpStream, places: &Places, told: &Mutex<Vec<String>>) -> io::Result<()> {
    // Byte by byte: what follows the head belongs to the tunnel.
    let mut reader = BufReader::with_capacity(1, stream.try_clone()?);
    let (mut request, mut head) = (String::new(), String::new());
    reader.read_line(&mut request)?;
    while reader.read_line(&mut head)? > 2 {}
    // someone:hush-hush
    let good = head.contains("Proxy-Authorization: Basic c29tZW9uZTpodXNoLWh1c2g=\r\n");
    let to = request.split(' ').nth(1).unwrap_or_default().to_owned();
    match find(places, told, to).filter(|_| good).map(TcpStream::connect) {
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

//! A tracker of a few lines for clients that take peers from nowhere else (aria2).
//!
//! Role: answers every HTTP request with the same compact peer list (BEP 3, BEP 23). One thread, one connection at a
//! time, on loopback. Invariant: reads at most `REQUEST_MAX` bytes and waits at most [`READ_WAIT`] per client.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::BenchError;

/// Longest request head that is read.
const REQUEST_MAX: usize = 8 << 10;
/// How long one client may take to send its request.
const READ_WAIT: Duration = Duration::from_secs(2);

/// A running tracker; ends when dropped.
pub struct Tracker {
    url: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tracker {
    /// Listens on a free loopback port and answers with `peers`.
    pub fn start(peers: &[SocketAddrV4]) -> Result<Self, BenchError> {
        let start = || -> io::Result<(TcpListener, u16)> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            let port = listener.local_addr()?.port();
            Ok((listener, port))
        };
        let (listener, port) = start().map_err(BenchError::socket("tracker"))?;
        let body = announce_body(peers);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    // A client that hangs up early asks again.
                    Ok((stream, _)) => drop(answer(stream, &body)),
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Ok(Self { url: format!("http://127.0.0.1:{port}/announce"), stop, thread: Some(thread) })
    }

    /// The announce URL.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the tracker thread does not panic");
        }
    }
}

/// The bencoded answer to an announce; peers as 6 bytes each (BEP 23).
fn announce_body(peers: &[SocketAddrV4]) -> Vec<u8> {
    let mut body = format!("d8:intervali1800e5:peers{}:", peers.len() * 6).into_bytes();
    for peer in peers {
        body.extend(peer.ip().octets());
        body.extend(peer.port().to_be_bytes());
    }
    body.push(b'e');
    body
}

fn answer(mut stream: TcpStream, body: &[u8]) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(READ_WAIT))?;
    stream.set_write_timeout(Some(READ_WAIT))?;
    let mut head = Vec::new();
    let mut buf = [0; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let len = stream.read(&mut buf)?;
        if len == 0 || head.len() + len > REQUEST_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&buf[..len]);
    }
    let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(&[reply.as_bytes(), body].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announces_get_the_compact_list() {
        let peers = [SocketAddrV4::new(Ipv4Addr::new(127, 1, 1, 1), 0x1234)];
        let tracker = Tracker::start(&peers).expect("loopback port");
        let address = tracker.url().trim_start_matches("http://").trim_end_matches("/announce");
        let mut stream = TcpStream::connect(address).expect("listens");
        stream.write_all(b"GET /announce?info_hash=x HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).expect("answered and closed");
        assert!(reply.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(reply.ends_with(b"d8:intervali1800e5:peers6:\x7f\x01\x01\x01\x12\x34e"));
    }
}

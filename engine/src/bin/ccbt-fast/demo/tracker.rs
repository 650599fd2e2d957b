//! A tracker for the demonstration: one thread, HTTP, on loopback (BEP 3, compact peers of BEP 23).
//!
//! Owner: [`super::run`]; ends when dropped. Invariant: one connection at a time, at most [`REQUEST_MAX`]
//! bytes and [`CLIENT_TIMEOUT`] each, at most [`PEERS_MAX`] peers remembered.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest request head that is read, in bytes.
const REQUEST_MAX: usize = 8 << 10;
/// Time one client may take.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// Peers remembered at most.
const PEERS_MAX: usize = 64;

/// A running tracker.
pub struct Tracker {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tracker {
    /// Listens on a free loopback port.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let serve = move || {
            let mut ports = BTreeSet::new();
            for stream in listener.incoming() {
                if is_stopped.load(Ordering::SeqCst) {
                    break;
                }
                // A client that hangs up early asks again.
                let _ = stream.and_then(|stream| answer(stream, &mut ports));
            }
        };
        let thread = std::thread::Builder::new().name("demo-tracker".to_owned()).spawn(serve)?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// The announce URL.
    pub fn url(&self) -> String {
        format!("http://{}/announce", self.address)
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread out of accept.
        let woken = TcpStream::connect_timeout(&self.address, CLIENT_TIMEOUT);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            thread.join().expect("the tracker does not panic");
        }
    }
}

fn answer(mut stream: TcpStream, ports: &mut BTreeSet<u16>) -> io::Result<()> {
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut head = Vec::new();
    let mut buf = [0; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let len = stream.read(&mut buf)?;
        if len == 0 || head.len() + len > REQUEST_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&buf[..len]);
    }
    let body = announce(&String::from_utf8_lossy(&head), ports);
    let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(&[reply.as_bytes(), &body].concat())
}

/// The reply to the request whose head is `head`. There is one torrent, and all peers are on 127.0.0.1.
fn announce(head: &str, ports: &mut BTreeSet<u16>) -> Vec<u8> {
    let target = head.split(' ').nth(1).unwrap_or_default();
    let query = target.strip_prefix("/announce?").unwrap_or_default();
    let parameter =
        |name| query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
    let port = parameter("port").and_then(|(_, port)| port.parse().ok()).filter(|port| *port != 0);
    let Some(port) = port else {
        let reason = "the announce names no port";
        return format!("d14:failure reason{}:{reason}e", reason.len()).into_bytes();
    };
    let is_leaving = parameter("event").is_some_and(|(_, event)| event == "stopped");
    let others: Vec<u16> = ports.iter().copied().filter(|other| *other != port).collect();
    if is_leaving {
        ports.remove(&port);
    } else if ports.len() < PEERS_MAX {
        ports.insert(port);
    }
    let mut body = format!("d8:intervali1800e5:peers{}:", others.len() * 6).into_bytes();
    for port in others {
        body.extend(Ipv4Addr::LOCALHOST.octets());
        body.extend(port.to_be_bytes());
    }
    body.push(b'e');
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_hear_of_each_other_until_they_leave() {
        let mut ports = BTreeSet::new();
        let mut ask = |query: &str| announce(&format!("GET /announce?{query} HTTP/1.1\r\n\r\n"), &mut ports);
        assert_eq!(ask("info_hash=x&port=258&event=started"), b"d8:intervali1800e5:peers0:e");
        assert_eq!(ask("port=5"), b"d8:intervali1800e5:peers6:\x7f\0\0\x01\x01\x02e");
        ask("port=258&event=stopped");
        assert_eq!(ask("port=5"), b"d8:intervali1800e5:peers0:e");
        assert!(ask("port=x").starts_with(b"d14:failure reason26:"));
    }

    #[test]
    fn it_serves_http_and_ends() {
        let tracker = Tracker::start().expect("loopback has free ports");
        let mut stream = TcpStream::connect(tracker.address).expect("it listens");
        stream.write_all(b"GET /announce?port=9 HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("answered and closed");
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.ends_with("5:peers0:e"), "{reply}");
        assert!(tracker.url().starts_with("http://127.0.0.1:") && tracker.url().ends_with("/announce"));
    }
}

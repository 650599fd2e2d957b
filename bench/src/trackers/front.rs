//! A measuring front of opentracker: passes announces on, notes when each began, and shortens the intervals.
//!
//! Role: opentracker asks for half an hour, which no benchmark waits for. One thread for each connection of the client,
//! which is what is counted; opentracker itself closes after each answer. Invariant: nothing else of an answer changes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::error::BenchError;

/// An announce as it came in.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub at: Instant,
    /// As in the request, percent-encoded.
    pub info_hash: String,
    /// `started`, `stopped` or nothing.
    pub event: String,
    /// Whether opentracker took it.
    pub good: bool,
}

/// Connections of the client.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: AtomicUsize,
    pub most: AtomicUsize,
    pub accepted: AtomicUsize,
}

/// A running front; ends when dropped.
pub(super) struct Front {
    pub url: String,
    pub connections: Arc<Connections>,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    address: SocketAddrV4,
    stop: Arc<AtomicBool>,
}

impl Front {
    /// Of the tracker at `tracker`, with an interval of `interval_s` seconds.
    pub(super) fn start(tracker: SocketAddrV4, interval_s: u64) -> Result<Self, BenchError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(BenchError::socket("listen"))?;
        let port = listener.local_addr().map_err(BenchError::socket("listen"))?.port();
        let connections = Arc::<Connections>::default();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let stop = Arc::<AtomicBool>::default();
        let (counted, told, stopped) = (connections.clone(), seen.clone(), stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                counted.accepted.fetch_add(1, Ordering::SeqCst);
                let now = counted.open.fetch_add(1, Ordering::SeqCst) + 1;
                counted.most.fetch_max(now, Ordering::SeqCst);
                let (counted, told) = (counted.clone(), told.clone());
                std::thread::spawn(move || {
                    // A connection that breaks is over.
                    let _ = serve(&stream, tracker, interval_s, &told);
                    counted.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        Ok(Self { url: format!("http://{address}/announce"), connections, seen, address, stop })
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    stream: &TcpStream,
    tracker: SocketAddrV4,
    interval_s: u64,
    seen: &Mutex<Vec<Seen>>,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut target = String::new();
        if reader.read_line(&mut target)? == 0 {
            return Ok(());
        }
        let at = Instant::now();
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        let body = shortened(&ask(tracker, &target)?, interval_s);
        let good = body.windows(9).any(|window| window == b"8:interva");
        let of = |name: &str| {
            let pair = target.split(['?', '&', ' ']).find_map(|pair| pair.strip_prefix(name));
            pair.unwrap_or_default().to_owned()
        };
        let announce = Seen { at, info_hash: of("info_hash="), event: of("event="), good };
        seen.lock().expect("no holder panics").push(announce);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        (&*stream).write_all(&[head.as_bytes(), &body].concat())?;
    }
}

/// Opentracker's answer to a request line.
fn ask(tracker: SocketAddrV4, request: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(tracker)?;
    stream.write_all(format!("{}\r\nHost: {tracker}\r\n\r\n", request.trim_end()).as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n");
    Ok(head.map(|at| answer.split_off(at + 4)).unwrap_or_default())
}

/// `interval` and `min interval` in place of the tracker's own.
fn shortened(body: &[u8], interval_s: u64) -> Vec<u8> {
    let mut body = body.to_vec();
    for (key, seconds) in [("8:intervali", interval_s), ("12:min intervali", interval_s / 2)] {
        let Some(at) = body.windows(key.len()).position(|window| window == key.as_bytes()) else { continue };
        let from = at + key.len();
        let digits = body[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        body.splice(from..from + digits, seconds.to_string().bytes());
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_intervals_are_replaced_and_nothing_else() {
        let body = b"d8:completei1e8:intervali1777e12:min intervali888e5:peers0:e";
        let expected = b"d8:completei1e8:intervali60e12:min intervali30e5:peers0:e";
        assert_eq!(shortened(body, 60), expected);
        assert_eq!(shortened(b"de", 60), b"de");
    }
}

//! A tiny HTTP tracker (BEP 3, compact answers of BEP 23) in a thread of the test.
//!
//! Owner: the test; dropped means stopped. Invariant: peers are kept per info-hash in announce order, and an announcer is
//! never given its own address.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::process::POLL;
use crate::{PATIENCE, SOON};

/// Seconds between announces that the tracker asks for: short, so that late peers are found within a test's patience.
const INTERVAL_S: u32 = 2;

/// One announce as it came in.
#[derive(Clone, Debug)]
pub struct Announce {
    /// The torrent.
    pub info_hash: [u8; 20],
    /// The announcer's peer port, at the address it announced from.
    pub peer: SocketAddr,
    /// Bytes it says are missing.
    pub left: u64,
    /// `started`, `completed`, `stopped` or nothing.
    pub event: String,
    /// Bytes it says it has sent.
    pub uploaded: u64,
    /// Bytes it says it has received.
    pub downloaded: u64,
}

/// What the tracker answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reply {
    /// Peers.
    #[default]
    Peers,
    /// A `failure reason` with this text.
    Failure(&'static str),
    /// These bytes as the body.
    Body(&'static [u8]),
    /// This HTTP status and no body.
    Status(u16),
    /// Nothing, while the connection stays open.
    Silence,
}

#[derive(Default)]
struct Book {
    reply: Reply,
    peers: HashMap<[u8; 20], Vec<SocketAddr>>,
    announces: Vec<Announce>,
}

/// A running tracker.
pub struct Tracker {
    address: SocketAddr,
    book: Arc<Mutex<Book>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tracker {
    /// Starts a tracker on a free loopback port.
    pub fn start() -> Self {
        Self::with_reply(Reply::Peers)
    }

    /// Starts a tracker that answers every announce like this.
    pub fn with_reply(reply: Reply) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let book = Arc::new(Mutex::new(Book { reply, ..Book::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let (books, stopping) = (Arc::clone(&book), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::Acquire) {
                    break;
                }
                let book = Arc::clone(&books);
                // A client that hangs up or talks nonsense gets no answer; the test sees that it made no progress.
                thread::spawn(move || stream.ok().and_then(|stream| answer(stream, &book)));
            }
        });
        Self { address, book, stop, thread: Some(thread) }
    }

    /// The announce URL.
    pub fn url(&self) -> String {
        format!("http://{}/announce", self.address)
    }

    /// Gives `peer` to everybody who asks for `info_hash`, as if it had announced.
    pub fn add_peer(&self, info_hash: [u8; 20], peer: SocketAddr) {
        lock(&self.book).peers.entry(info_hash).or_default().push(peer);
    }

    /// Every announce so far.
    pub fn announces(&self) -> Vec<Announce> {
        lock(&self.book).announces.clone()
    }

    /// Waits for an announce from the peer with `port` that satisfies `wanted`.
    pub fn wait_announce(&self, port: u16, wanted: impl Fn(&Announce) -> bool) -> Announce {
        let until = Instant::now() + PATIENCE;
        loop {
            let heard = self.announces();
            if let Some(found) = heard.iter().find(|a| a.peer.port() == port && wanted(a)) {
                return found.clone();
            }
            assert!(
                Instant::now() < until,
                "no such announce from port {port} within {PATIENCE:?}, only {heard:#?}"
            );
            thread::sleep(POLL);
        }
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the accept; if it fails the listener is gone and so is the thread.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads one request, answers it and closes; `None` if it is not an announce.
fn answer(stream: TcpStream, book: &Mutex<Book>) -> Option<()> {
    stream.set_read_timeout(Some(SOON)).ok()?;
    let mut reader = BufReader::new(&stream);
    let mut request = String::new();
    reader.read_line(&mut request).ok()?;
    let mut header = String::new();
    while reader.read_line(&mut header).ok()? > 2 {
        header.clear();
    }
    let query = request.split(' ').nth(1)?.split_once('?')?.1;
    let announce = parse(query, stream.peer_addr().ok()?.ip())?;
    let (reply, peers) = {
        let mut book = lock(book);
        (book.reply, record(&mut book, &announce))
    };
    let (status, body) = match reply {
        Reply::Peers => (200, peers_body(&peers)),
        Reply::Failure(text) => (200, format!("d14:failure reason{}:{text}e", text.len()).into_bytes()),
        Reply::Body(bytes) => (200, bytes.to_vec()),
        Reply::Status(status) => (status, Vec::new()),
        Reply::Silence => {
            // Until the client hangs up.
            let _ = reader.read_line(&mut header);
            return None;
        }
    };
    let len = body.len();
    let head = format!("HTTP/1.1 {status} Test\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n");
    (&stream).write_all(head.as_bytes()).ok()?;
    (&stream).write_all(&body).ok()
}

fn peers_body(peers: &[u8]) -> Vec<u8> {
    let head = format!("d8:intervali{INTERVAL_S}e12:min intervali1e5:peers{}:", peers.len());
    [head.as_bytes(), peers, b"e"].concat()
}

/// Notes an announce and returns the compact list of the other peers.
fn record(book: &mut Book, announce: &Announce) -> Vec<u8> {
    book.announces.push(announce.clone());
    let peers = book.peers.entry(announce.info_hash).or_default();
    if announce.event == "stopped" {
        peers.retain(|peer| *peer != announce.peer);
    } else if !peers.contains(&announce.peer) {
        peers.push(announce.peer);
    }
    let mut compact = Vec::new();
    for peer in peers.iter().filter(|peer| **peer != announce.peer) {
        if let IpAddr::V4(ip) = peer.ip() {
            compact.extend_from_slice(&ip.octets());
            compact.extend_from_slice(&peer.port().to_be_bytes());
        }
    }
    compact
}

fn parse(query: &str, ip: IpAddr) -> Option<Announce> {
    let fields: HashMap<&str, Vec<u8>> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, raw)| (key, unescape(raw)))
        .collect();
    let text =
        |key: &str| fields.get(key).map(|raw| String::from_utf8_lossy(raw).into_owned()).unwrap_or_default();
    Some(Announce {
        info_hash: fields.get("info_hash")?.as_slice().try_into().ok()?,
        peer: SocketAddr::new(ip, text("port").parse().ok()?),
        left: text("left").parse().ok()?,
        event: text("event"),
        uploaded: text("uploaded").parse().unwrap_or(0),
        downloaded: text("downloaded").parse().unwrap_or(0),
    })
}

/// Undoes `%xx` in a query value.
fn unescape(raw: &str) -> Vec<u8> {
    let bytes = raw.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| raw.get(at + 1..at + 3)).flatten();
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            out.push(byte);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

fn lock(book: &Mutex<Book>) -> std::sync::MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

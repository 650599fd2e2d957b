//! A tiny UDP tracker (BEP 15) in a thread of the test.
//!
//! Owner: the test; dropped means stopped. Invariant: an announce is only answered under a connection id that this tracker
//! gave to that address. Before its first real answer it sends one with a wrong transaction id, which clients ignore.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::PATIENCE;
use crate::process::{POLL, wait_until};

const PROTOCOL_ID: u64 = 0x417_2710_1980;
const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;

/// Seconds between announces that the tracker asks for.
const INTERVAL_S: u32 = 2;

/// One announce as it came in.
#[derive(Clone, Debug)]
pub struct UdpAnnounce {
    /// The torrent.
    pub info_hash: [u8; 20],
    /// Bytes it says are missing.
    pub left: u64,
    /// 0 none, 1 completed, 2 started, 3 stopped.
    pub event: u32,
    /// The announcer's peer port.
    pub port: u16,
}

#[derive(Default)]
struct Book {
    peers: Vec<SocketAddr>,
    announces: Vec<UdpAnnounce>,
}

/// A running UDP tracker.
pub struct UdpTracker {
    address: SocketAddr,
    book: Arc<Mutex<Book>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpTracker {
    /// Starts a tracker on a free loopback port that gives `peers` to everybody.
    pub fn start(peers: &[SocketAddr]) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        socket.set_read_timeout(Some(POLL)).expect("a socket has a read timeout");
        let address = socket.local_addr().expect("a bound socket has an address");
        let book = Arc::new(Mutex::new(Book { peers: peers.to_vec(), announces: Vec::new() }));
        let stop = Arc::new(AtomicBool::new(false));
        let (books, stopping) = (Arc::clone(&book), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut desk = Desk { socket, ids: HashMap::new(), spoofed: false };
            while !stopping.load(Ordering::Acquire) {
                desk.serve_one(&books);
            }
        });
        Self { address, book, stop, thread: Some(thread) }
    }

    /// The announce URL.
    pub fn url(&self) -> String {
        format!("udp://{}/announce", self.address)
    }

    /// Waits for an announce that satisfies `wanted`.
    pub fn wait_announce(&self, what: &str, wanted: impl Fn(&UdpAnnounce) -> bool) -> UdpAnnounce {
        wait_until(PATIENCE, what, || {
            let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
            book.announces.iter().find(|announce| wanted(announce)).cloned()
        })
    }
}

impl Drop for UdpTracker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Desk {
    socket: UdpSocket,
    ids: HashMap<SocketAddr, u64>,
    spoofed: bool,
}

impl Desk {
    /// Answers one datagram; nonsense gets none. `None` also when none came within the poll interval.
    fn serve_one(&mut self, book: &Mutex<Book>) -> Option<()> {
        let mut buffer = [0; 2048];
        let (len, from) = self.socket.recv_from(&mut buffer).ok()?;
        let request = &buffer[..len];
        let (action, transaction) = (word(request, 8)?, word(request, 12)?);
        match action {
            CONNECT if long(request, 0)? == PROTOCOL_ID => {
                let id = 0x1234_5678_9abc_0000 + u64::from(from.port());
                self.ids.insert(from, id);
                if !self.spoofed {
                    self.spoofed = true;
                    self.send(from, CONNECT, transaction ^ 1, &[0xff; 8]);
                }
                self.send(from, CONNECT, transaction, &id.to_be_bytes());
            }
            ANNOUNCE if self.ids.get(&from) == Some(&long(request, 0)?) => {
                let announce = UdpAnnounce {
                    info_hash: request.get(16..36)?.try_into().ok()?,
                    left: long(request, 64)?,
                    event: word(request, 80)?,
                    port: u16::from_be_bytes(request.get(96..98)?.try_into().ok()?),
                };
                let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
                book.announces.push(announce);
                let mut body = [INTERVAL_S, 0, 1].map(u32::to_be_bytes).concat();
                for peer in &book.peers {
                    if let IpAddr::V4(ip) = peer.ip() {
                        body.extend_from_slice(&ip.octets());
                        body.extend_from_slice(&peer.port().to_be_bytes());
                    }
                }
                self.send(from, ANNOUNCE, transaction, &body);
            }
            _ => {}
        }
        Some(())
    }

    fn send(&self, to: SocketAddr, action: u32, transaction: u32, body: &[u8]) {
        let head = [action, transaction].map(u32::to_be_bytes).concat();
        // A client that is gone needs no answer.
        let _ = self.socket.send_to(&[head.as_slice(), body].concat(), to);
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

//! A UDP path with delay, loss and reordering: what `tc netem` does, where kernels do not have it.
//!
//! Owner: the test. A thread relays between one client, whoever sends first, and a server; what it drops and delays is
//! drawn from a seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::ports::local;

/// What the path does to datagrams, in either direction.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// One way.
    pub delay: Duration,
    /// Up to so much more, at random: reordering.
    pub jitter: Duration,
    /// Of 1000 datagrams.
    pub lost: u64,
}

/// Numbers of a relay.
#[derive(Debug, Default)]
struct Counts {
    passed: AtomicU64,
    lost: AtomicU64,
}

/// A running relay; it ends with this value.
pub struct UdpRelay {
    address: SocketAddr,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpRelay {
    /// Relays to `server` until dropped.
    pub fn start(server: SocketAddr, path: Path) -> Self {
        let front = UdpSocket::bind(local(0)).expect("a UDP socket");
        let back = UdpSocket::bind(local(0)).expect("a UDP socket");
        back.connect(server).expect("loopback can be reached");
        for socket in [&front, &back] {
            socket.set_nonblocking(true).expect("sockets can be non-blocking");
        }
        let address = front.local_addr().expect("it is bound");
        let (counts, stop) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let told = (counts.clone(), stop.clone());
        let thread = std::thread::spawn(move || relay(&front, &back, path, &told.0, &told.1));
        Self { address, counts, stop, thread: Some(thread) }
    }

    /// Where the client sends to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Datagrams that passed, and that were lost.
    pub fn counts(&self) -> (u64, u64) {
        (self.counts.passed.load(Ordering::Relaxed), self.counts.lost.load(Ordering::Relaxed))
    }
}

impl Drop for UdpRelay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn relay(front: &UdpSocket, back: &UdpSocket, path: Path, counts: &Counts, stop: &AtomicBool) {
    let mut client = None;
    let mut queue = BinaryHeap::new();
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let mut number = 0u64;
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        for to_server in [true, false] {
            loop {
                let got = if to_server { front.recv_from(&mut buffer) } else { back.recv_from(&mut buffer) };
                let Ok((len, from)) = got else { break };
                if to_server {
                    client = Some(from);
                }
                if next() % 1000 < path.lost {
                    counts.lost.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let jitter = path.jitter.mul_f64((next() % 1000) as f64 / 1000.0);
                number += 1;
                queue.push(Reverse((
                    Instant::now() + path.delay + jitter,
                    number,
                    to_server,
                    buffer[..len].to_vec(),
                )));
            }
        }
        while queue.peek().is_some_and(|Reverse((at, ..))| *at <= Instant::now()) {
            let Some(Reverse((_, _, to_server, bytes))) = queue.pop() else { break };
            let sent = match (to_server, client) {
                (true, _) => back.send(&bytes),
                (false, Some(client)) => front.send_to(&bytes, client),
                (false, None) => Err(ErrorKind::NotConnected.into()),
            };
            counts.passed.fetch_add(u64::from(sent.is_ok()), Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

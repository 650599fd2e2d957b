//! Peers that only stay: each completes its handshake, says that it has nothing, and reads what comes.
//!
//! Role: the load of `ccbt-bench scale`. One thread with an epoll set; every peer has an address of its own, as clients
//! refuse many connections from one. Invariant: a peer that the client closes is counted in [`Peers::lost`].

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::generator::codec::{Frame, FrameParser, handshake, id, push_message};
use crate::generator::net::{Interest, Poller, dial};

/// Connects under way at a time: less than a listen queue holds.
const DIALS: usize = 64;
/// How long all of them may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Running peers; gone when dropped.
pub(super) struct Peers {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Handshakes complete.
    open: AtomicUsize,
    lost: AtomicUsize,
}

struct Peer {
    stream: TcpStream,
    parser: FrameParser,
    greeted: bool,
}

impl Peers {
    /// Connects `count` peers to `target` and waits until all are through their handshake.
    ///
    /// Errors: one was refused, or a minute has passed.
    pub(super) fn connect(
        target: SocketAddrV4,
        info_hash: [u8; 20],
        count: usize,
    ) -> Result<Self, BenchError> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            if let Err(error) = run(target, info_hash, count, &of_thread) {
                eprintln!("ccbt-bench: idle peers: {error}");
                of_thread.lost.fetch_add(1, Ordering::Relaxed);
            }
        });
        let this = Self { shared, thread: Some(thread) };
        let start = Instant::now();
        while this.open() < count {
            if this.lost() > 0 || start.elapsed() > PATIENCE {
                let (open, lost) = (this.open(), this.lost());
                let what = format!("{open} of {count} connections came about, {lost} were closed");
                return Err(BenchError::Client(what));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(this)
    }

    fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Connections that the client has closed.
    pub(super) fn lost(&self) -> usize {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Address of the nth peer: 127.3.1.1, 127.3.1.2 …
fn address(nth: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 3, 1 + (nth / 250) as u8, 1 + (nth % 250) as u8)
}

fn run(target: SocketAddrV4, info_hash: [u8; 20], count: usize, shared: &Shared) -> io::Result<()> {
    let mut poller = Poller::new()?;
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let mut ready = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let settled = shared.open.load(Ordering::Relaxed) + shared.lost.load(Ordering::Relaxed);
        while peers.len() < count && peers.len() < settled + DIALS {
            let stream = dial(address(peers.len()), target)?;
            poller.add(&stream, peers.len() as u64, Interest::ReadWrite)?;
            peers.push(Some(Peer { stream, parser: FrameParser::new(1 << 17), greeted: false }));
        }
        poller.wait(Duration::from_millis(100), &mut ready)?;
        for event in &ready {
            let place = &mut peers[event.token as usize];
            let Some(peer) = place else { continue };
            if !peer.greeted && event.writable {
                peer.greeted = true;
                poller.change(&peer.stream, event.token, Interest::Read)?;
                let mut peer_id = *b"-XX0001-000000000000";
                peer_id[8..].copy_from_slice(format!("{:012}", event.token).as_bytes());
                peer.stream.write_all(&handshake(info_hash, peer_id))?;
            }
            if event.readable && !read(peer, shared) {
                shared.lost.fetch_add(1, Ordering::Relaxed);
                *place = None;
            }
        }
    }
    Ok(())
}

/// Reads what is there; `false` when the connection is over.
fn read(peer: &mut Peer, shared: &Shared) -> bool {
    let mut buf = [0; 4096];
    loop {
        let mut input = match peer.stream.read(&mut buf) {
            Ok(0) => return false,
            Ok(len) => &buf[..len],
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        };
        loop {
            match peer.parser.next(&mut input) {
                Ok(Some(Frame::Handshake(theirs))) => {
                    let mut out = Vec::new();
                    if theirs.fast {
                        push_message(&mut out, id::HAVE_NONE, &[]);
                    }
                    if peer.stream.write_all(&out).is_err() {
                        return false;
                    }
                    shared.open.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return false,
            }
        }
    }
}

//! A seeder in a thread of the test, with a dial for dishonesty and one for slowness.
//!
//! Owner: the test; dropped means stopped. Each seeder has a loopback address of its own (127.0.0.x), so that the client
//! under test can ban one and keep the others.

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::lab::Published;
use crate::raw_peer::{RawPeer, full_bitfield, id};

/// How a seeder treats requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Flips a byte in every block.
    pub lies: bool,
    /// Pause before each block.
    pub pause: Duration,
}

struct State {
    info_hash: [u8; 20],
    piece_len: usize,
    piece_count: usize,
    data: Vec<u8>,
    manner: Manner,
    stop: AtomicBool,
    blocks: AtomicUsize,
    connections: AtomicUsize,
    closed: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
}

/// A running seeder.
pub struct RawSeeder {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl RawSeeder {
    /// Serves the published payload at `ip` on a port of its own.
    pub fn start(ip: Ipv4Addr, published: &Published, manner: Manner) -> Self {
        let listener =
            TcpListener::bind((ip, 0)).unwrap_or_else(|error| panic!("cannot listen at {ip}: {error}"));
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State {
            info_hash: published.torrent.info_hash(),
            piece_len: published.torrent.piece_len(),
            piece_count: published.torrent.piece_count(),
            data: published.payload.concatenated(),
            manner,
            stop: AtomicBool::new(false),
            blocks: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            open: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.stop.load(Ordering::Acquire) {
                    break;
                }
                let state = Arc::clone(&shared);
                thread::spawn(move || state.serve(stream));
            }
        });
        Self { address, state, thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Blocks sent so far.
    pub fn blocks(&self) -> usize {
        self.state.blocks.load(Ordering::Acquire)
    }

    /// Connections taken so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Acquire)
    }

    /// Connections that the other side has closed.
    pub fn closed(&self) -> usize {
        self.state.closed.load(Ordering::Acquire)
    }
}

impl Drop for RawSeeder {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Release);
        for stream in self.state.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // Fails when the other side was first.
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the accept; if it fails the listener is gone and so is the thread.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    fn serve(&self, stream: TcpStream) {
        let mut peer = RawPeer::new(stream);
        let Ok(socket) = peer.socket() else { return };
        // A peer may have nothing to ask for a long time; only the drop ends the wait.
        if socket.set_read_timeout(None).is_err() {
            return;
        }
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
        self.connections.fetch_add(1, Ordering::AcqRel);
        peer.send_handshake(self.info_hash);
        if peer.read_handshake().is_some_and(|theirs| theirs[28..48] == self.info_hash) {
            peer.send(id::BITFIELD, &full_bitfield(self.piece_count));
            peer.send(id::UNCHOKE, &[]);
            while let Some(message) = peer.recv() {
                let asked = (message.word(0), message.word(1), message.word(2));
                if let (id::REQUEST, (Some(piece), Some(begin), Some(len))) = (message.id, asked)
                    && !self.send_block(&mut peer, piece, begin, len)
                {
                    break;
                }
            }
        }
        self.closed.fetch_add(1, Ordering::AcqRel);
    }

    /// False when the request is out of range, which ends the connection and so the test, or the peer is gone.
    fn send_block(&self, peer: &mut RawPeer, piece: u32, begin: u32, len: u32) -> bool {
        let at = |number: u32| usize::try_from(number).expect("u32 fits");
        let start = at(piece).saturating_mul(self.piece_len).saturating_add(at(begin));
        let Some(block) = self.data.get(start..start.saturating_add(at(len))) else { return false };
        thread::sleep(self.manner.pause);
        let mut block = block.to_vec();
        if let (true, Some(byte)) = (self.manner.lies, block.last_mut()) {
            *byte ^= 1;
        }
        self.blocks.fetch_add(1, Ordering::AcqRel);
        peer.send_words(id::PIECE, &[piece, begin], &block)
    }
}

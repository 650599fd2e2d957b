//! A seeder in a thread of the test, with one dial for its quirk and one for slowness.
//!
//! Owner: the test; dropped means stopped. Each seeder has a loopback address of its own (127.0.0.x), so that the client
//! under test can ban one and keep the others. It can be dialled, and it can dial ([`RawSeeder::dial`]), so that a test
//! decides when the client meets it.

use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::lab::Published;
use crate::raw_peer::{RawPeer, full_bitfield, id};

/// How long [`Quirk::ChokesOnce`] chokes: enough for the client to have seen it, whatever it had on the way.
const CHOKE_PAUSE: Duration = Duration::from_millis(300);

/// What is odd about a seeder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quirk {
    /// Nothing.
    #[default]
    None,
    /// Flips a bit in every block.
    Lies,
    /// Flips a bit in every block whose number (counted from 1) is a multiple of this.
    LiesEvery(usize),
    /// Never unchokes.
    Chokes,
    /// Falls silent after so many blocks.
    SilentAfter(usize),
    /// Falls silent in the middle of the block after so many.
    SilentWithinBlock(usize),
    /// Hangs up in the middle of the block after so many, on every connection.
    HangsUpWithinBlock(usize),
    /// Sends every block twice.
    Twice,
    /// Answers what is asked in one go from the end.
    Backwards,
    /// Names its pieces in HAVE messages strewn between the blocks instead of a bitfield at the start.
    Haves,
    /// Cuts what it sends into writes of so many bytes.
    Fragments(usize),
    /// Chokes and unchokes a thousand times before it serves.
    Flickers,
    /// Chokes on the first requests, forgets them, and unchokes.
    ChokesOnce,
}

/// How a seeder treats requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// What is odd about it.
    pub quirk: Quirk,
    /// Pause before each block.
    pub pause: Duration,
}

impl Manner {
    /// A quirk without pauses.
    pub fn of(quirk: Quirk) -> Self {
        Self { quirk, pause: Duration::ZERO }
    }

    /// An honest one that pauses before each block.
    pub fn slow(pause: Duration) -> Self {
        Self { quirk: Quirk::None, pause }
    }
}

struct State {
    info_hash: [u8; 20],
    piece_len: usize,
    piece_count: usize,
    data: Arc<[u8]>,
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
                thread::spawn(move || state.serve(RawPeer::new(stream)));
            }
        });
        Self { address, state, thread: Some(thread) }
    }

    /// Connects to the client from this seeder's own address and serves it.
    ///
    /// Panics when the client takes no connection.
    pub fn dial(&self, client: SocketAddr) {
        let IpAddr::V4(ip) = self.address.ip() else { unreachable!("seeders live on 127.0.0.0/8") };
        let peer = RawPeer::try_connect_from(ip, client)
            .unwrap_or_else(|error| panic!("cannot reach {client} from {ip}: {error}"));
        let state = Arc::clone(&self.state);
        thread::spawn(move || state.serve(peer));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Blocks sent so far.
    pub fn blocks(&self) -> usize {
        self.state.blocks.load(Ordering::Acquire)
    }

    /// Connections made in either direction so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Acquire)
    }

    /// Connections that are over.
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

/// One connection under way.
struct Call {
    peer: RawPeer,
    /// Blocks answered on this connection.
    answered: usize,
    /// Pieces named so far, for [`Quirk::Haves`].
    named: usize,
}

impl State {
    fn serve(&self, peer: RawPeer) {
        let Ok(socket) = peer.socket() else { return };
        // A peer may have nothing to ask for a long time; only the drop ends the wait.
        if socket.set_read_timeout(None).is_err() {
            return;
        }
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
        self.connections.fetch_add(1, Ordering::AcqRel);
        let mut call = Call { peer, answered: 0, named: 0 };
        call.peer.send_handshake(self.info_hash);
        if call.peer.read_handshake().is_some_and(|theirs| theirs[28..48] == self.info_hash) {
            self.talk(&mut call);
        }
        // Only the handle in `open` may be left, and it must not keep a connection alive that is over.
        if let Ok(socket) = call.peer.socket() {
            // Fails when the other side was first.
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.closed.fetch_add(1, Ordering::AcqRel);
    }

    fn talk(&self, call: &mut Call) {
        let quirk = self.manner.quirk;
        if quirk != Quirk::Haves {
            self.put(call, id::BITFIELD, &full_bitfield(self.piece_count));
        } else {
            self.name_pieces(call, 4);
        }
        if quirk == Quirk::Flickers {
            let pair = [[0, 0, 0, 1, id::UNCHOKE], [0, 0, 0, 1, id::CHOKE]].concat();
            call.peer.send_bytes(&pair.repeat(1000));
        }
        if quirk != Quirk::Chokes {
            self.put(call, id::UNCHOKE, &[]);
        }
        let mut asked = Vec::new();
        let mut choked_once = false;
        while let Some(message) = call.peer.recv() {
            let words = (message.word(0), message.word(1), message.word(2));
            if let (id::REQUEST, (Some(piece), Some(begin), Some(len))) = (message.id, words) {
                asked.push([piece, begin, len]);
            }
            if quirk == Quirk::Backwards && call.peer.has_data() {
                continue;
            }
            if quirk == Quirk::ChokesOnce && !asked.is_empty() && !choked_once {
                choked_once = true;
                self.put(call, id::CHOKE, &[]);
                thread::sleep(CHOKE_PAUSE);
                while call.peer.has_data() && call.peer.recv().is_some() {}
                asked.clear();
                self.put(call, id::UNCHOKE, &[]);
            }
            while let Some(request) = asked.pop() {
                if !self.answer(call, request) {
                    return;
                }
            }
        }
    }

    /// False when the request is out of range, which ends the connection and so the test, or the peer is gone.
    fn answer(&self, call: &mut Call, [piece, begin, len]: [u32; 3]) -> bool {
        let at = |number: u32| usize::try_from(number).expect("u32 fits");
        let start = at(piece).saturating_mul(self.piece_len).saturating_add(at(begin));
        let Some(block) = self.data.get(start..start.saturating_add(at(len))) else { return false };
        thread::sleep(self.manner.pause);
        let mut payload = [piece.to_be_bytes(), begin.to_be_bytes()].concat();
        payload.extend_from_slice(block);
        call.answered += 1;
        match self.manner.quirk {
            Quirk::SilentAfter(most) if call.answered > most => return true,
            Quirk::SilentWithinBlock(most) if call.answered > most => {
                return call.answered > most + 1 || Self::put_half(call, &payload);
            }
            Quirk::HangsUpWithinBlock(most) if call.answered > most => {
                Self::put_half(call, &payload);
                return false;
            }
            Quirk::Haves => self.name_pieces(call, 1),
            _ => {}
        }
        let number = self.blocks.fetch_add(1, Ordering::AcqRel) + 1;
        let lie = match self.manner.quirk {
            Quirk::Lies => true,
            Quirk::LiesEvery(step) => number.is_multiple_of(step),
            _ => false,
        };
        if let (true, Some(byte)) = (lie, payload.last_mut()) {
            *byte ^= 1;
        }
        if self.manner.quirk == Quirk::Twice {
            self.put(call, id::PIECE, &payload);
        }
        self.put(call, id::PIECE, &payload)
    }

    fn name_pieces(&self, call: &mut Call, count: usize) {
        let until = (call.named + count).min(self.piece_count);
        for piece in call.named..until {
            let piece = u32::try_from(piece).expect("a test has few pieces");
            self.put(call, id::HAVE, &piece.to_be_bytes());
        }
        call.named = until;
    }

    /// The frame of a PIECE up to the middle of its block.
    fn put_half(call: &mut Call, payload: &[u8]) -> bool {
        let len = u32::try_from(payload.len() + 1).expect("a message is short");
        let mut frame = len.to_be_bytes().to_vec();
        frame.push(id::PIECE);
        frame.extend_from_slice(&payload[..payload.len() / 2]);
        call.peer.send_bytes(&frame)
    }

    fn put(&self, call: &mut Call, id: u8, payload: &[u8]) -> bool {
        let Quirk::Fragments(step) = self.manner.quirk else { return call.peer.send(id, payload) };
        let len = u32::try_from(payload.len() + 1).expect("a message is short");
        let mut frame = len.to_be_bytes().to_vec();
        frame.push(id);
        frame.extend_from_slice(payload);
        frame.chunks(step).all(|part| call.peer.send_bytes(part))
    }
}

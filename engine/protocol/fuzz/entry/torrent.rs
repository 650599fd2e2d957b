//! What must hold for any sequence of things that happen to a torrent: peers that come, say anything, go; blocks,
//! verdicts, writes, time. Run by the fuzz target and over the corpus by tests.
//!
//! The input is a list of operations, each a byte and the arguments it takes; missing bytes are zeros.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::geometry::{Block, Geometry};
use ccbt_protocol::holepunch::HolepunchError;
use ccbt_protocol::ids::{InfoHash, PeerId, PieceIndex};
use ccbt_protocol::peer::{PeerFault, PeerInfo};
use ccbt_protocol::picker::{PeerKey, Priority, Slots};
use ccbt_protocol::torrent::{BlockPlace, Torrent, TorrentConfig, TorrentEvent};
use ccbt_protocol::wire::{Message, Reserved};

const PIECES: u32 = 9;
const PIECE_LEN: u64 = 3 * 16_384;
const PEERS_MAX: usize = 6;
const OPERATIONS_MAX: usize = 800;

/// Panics when an invariant breaks.
pub fn run(data: &[u8]) {
    let mut input = Input { bytes: data, state: 1 };
    let mut world = World::new(input.byte());
    for _ in 0..OPERATIONS_MAX {
        if input.bytes.is_empty() {
            break;
        }
        world.operate(&mut input);
        world.settle(&mut input);
        world.torrent.picker().check_invariants();
    }
    for key in std::mem::take(&mut world.peers) {
        world.torrent.gone(key);
    }
    world.torrent.picker().check_invariants();
}

/// Bytes of the input, and a random source that needs none (splitmix64).
struct Input<'a> {
    bytes: &'a [u8],
    state: u64,
}

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        byte
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let (taken, rest) = self.bytes.split_at(len.min(self.bytes.len()));
        self.bytes = rest;
        taken.to_vec()
    }

    /// Mostly a piece that exists.
    fn piece(&mut self) -> PieceIndex {
        let byte = self.byte();
        PieceIndex(if byte == 255 { u32::MAX } else { u32::from(byte) % (PIECES + 1) })
    }

    /// Mostly one of our blocks.
    fn block(&mut self) -> Block {
        let (piece, at, odd) = (self.piece(), self.byte(), self.byte());
        let len = match odd {
            0..200 if piece.0 == PIECES - 1 && at % 3 == 2 => 16_384 - 5000,
            0..200 => 16_384,
            200..230 => u32::from(odd) << (at % 24),
            _ => u32::MAX - u32::from(odd),
        };
        Block { piece, begin: u32::from(at % 3) * 16_384, len }
    }
}

impl rand::TryRng for Input<'_> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(self.try_next_u64()? as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Ok(z ^ (z >> 27))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for byte in bytes {
            *byte = self.try_next_u64()? as u8;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Memory {
    held: BTreeSet<PieceIndex>,
    max: usize,
}

impl Slots for Memory {
    fn acquire(&mut self, piece: PieceIndex, len: u32) -> bool {
        assert!(len > 0 && piece.0 < PIECES);
        let room = self.held.len() < self.max;
        assert!(!room || self.held.insert(piece), "memory for piece {piece} twice");
        room
    }
}

struct World {
    now: Instant,
    torrent: Torrent,
    memory: Memory,
    peers: Vec<PeerKey>,
    hashing: Vec<PieceIndex>,
    writing: Vec<PieceIndex>,
    releases: Vec<(PeerKey, Block)>,
    faults: Vec<(PeerKey, PeerFault)>,
}

impl World {
    fn new(flags: u8) -> Self {
        let now = Instant::now();
        let geometry = Geometry::new(u64::from(PIECES) * PIECE_LEN - 5000, PIECE_LEN).expect("sane sizes");
        let mut have = Bitfield::empty(PIECES);
        (0..PIECES).filter(|piece| flags & 3 > (*piece % 3) as u8).for_each(|piece| {
            have.insert(PieceIndex(piece));
        });
        let config = TorrentConfig {
            picker: Default::default(),
            window: Default::default(),
            choker: Default::default(),
            listen_port: 1,
            metadata: None,
            pex: flags & 4 > 0,
            dht_port: u16::from(flags & 4 > 0),
            super_seeding: flags & 8 > 0,
        };
        let mut torrent = Torrent::new(now, InfoHash([1; 20]), PeerId([9; 20]), geometry, config, have);
        torrent.enable_holepunch();
        Self {
            now,
            torrent,
            memory: Memory { max: usize::from(flags >> 4) + 1, ..Memory::default() },
            peers: Vec::new(),
            hashing: Vec::new(),
            writing: Vec::new(),
            releases: Vec::new(),
            faults: Vec::new(),
        }
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        let operation = input.byte();
        if self.peers.is_empty() || operation.is_multiple_of(16) {
            return self.connect(input.byte());
        }
        let key = self.peers[usize::from(input.byte()) % self.peers.len()];
        match operation % 16 {
            1..=5 => self.message(key, input),
            6..=8 => {
                let block = input.block();
                self.block(key, block);
            }
            9..=11 => {
                // Whatever was asked first, as a peer would that behaves.
                let first = self.torrent.peer(key).expected().next();
                first.into_iter().for_each(|block| self.block(key, block));
            }
            12 => self.close(key),
            13 => {
                self.now += Duration::from_millis(u64::from(input.byte()) * 300);
                self.torrent.tick(self.now, input);
            }
            14 => self.serve(key, input.byte()),
            _ => self.disk(input),
        }
    }

    fn connect(&mut self, kind: u8) {
        if self.peers.len() == PEERS_MAX {
            return;
        }
        let reserved =
            [Reserved::NONE, Reserved::NONE.with_fast(), Reserved::NONE.with_fast().with_extension()];
        let info = PeerInfo {
            addr: ([10, 0, 0, kind % 4], 1).into(),
            id: PeerId([kind; 20]),
            reserved: reserved[usize::from(kind) % 3],
            incoming: kind.is_multiple_of(2),
        };
        self.peers.push(self.torrent.connected(self.now, info));
    }

    fn message(&mut self, key: PeerKey, input: &mut Input<'_>) {
        let bytes;
        let message = match input.byte() % 18 {
            0 => Message::KeepAlive,
            1 => Message::Choke,
            2 | 3 => Message::Unchoke,
            4 => Message::Interested,
            5 => Message::NotInterested,
            6 => Message::Have(input.piece()),
            7 => {
                bytes = input.take(2);
                Message::Bitfield(&bytes)
            }
            8 => Message::Request(input.block()),
            9 => Message::Cancel(input.block()),
            10 => Message::Reject(input.block()),
            11 => Message::Reject(self.torrent.peer(key).expected().next().unwrap_or(input.block())),
            12 => Message::Suggest(input.piece()),
            13 => Message::AllowedFast(input.piece()),
            14 => Message::HaveAll,
            15 => Message::HaveNone,
            16 => {
                let len = usize::from(input.byte());
                bytes = input.take(len);
                Message::Extended { id: bytes.first().map_or(0, |byte| byte % 2), payload: &bytes }
            }
            _ => Message::Unknown { id: input.byte(), len: 1 },
        };
        if let Err(fault) = self.torrent.message(self.now, key, message) {
            self.faults.push((key, fault));
        }
    }

    fn block(&mut self, key: PeerKey, block: Block) {
        match self.torrent.begin_block(key, block) {
            Err(fault) => self.faults.push((key, fault)),
            Ok(BlockPlace::Discard) => {}
            Ok(_) => {
                assert!(self.memory.held.contains(&block.piece), "a block without memory");
                self.torrent.end_block(self.now, key, block);
            }
        }
    }

    fn close(&mut self, key: PeerKey) {
        self.peers.retain(|peer| *peer != key);
        self.faults.retain(|(peer, _)| *peer != key);
        self.torrent.gone(key);
    }

    fn serve(&mut self, key: PeerKey, how: u8) {
        let Some(block) = self.torrent.next_upload(key) else { return };
        assert!(self.torrent.geometry().allows(block));
        match how % 4 {
            0 => self.torrent.postpone(key, block),
            1 => self.torrent.refuse(key, block),
            _ => self.torrent.sent_block(self.now, key, block),
        }
    }

    /// Hash pool, disk and user.
    fn disk(&mut self, input: &mut Input<'_>) {
        let piece = PieceIndex(u32::from(input.byte()) % PIECES);
        match input.byte() % 6 {
            0 | 1 => {
                let Some(piece) = self.hashing.pop() else { return };
                let ok = !input.byte().is_multiple_of(4);
                let salt = if ok { 0 } else { input.byte() };
                let blocks = self.torrent.geometry().block_count(piece);
                let digests = || (0..blocks).map(|nth| [(nth as u8) ^ salt; 20]).collect();
                assert_eq!(self.torrent.verdict(piece, ok, digests), ok);
                assert!(self.memory.held.remove(&piece));
                if ok {
                    self.writing.push(piece);
                }
            }
            2 | 3 => {
                let Some(piece) = self.writing.pop() else { return };
                if input.byte().is_multiple_of(5) {
                    self.torrent.write_failed(piece)
                } else {
                    self.torrent.written(piece)
                }
            }
            4 if input.byte().is_multiple_of(4) => self.torrent.lost_piece(piece),
            4 => {
                if let Some(piece) = self.torrent.abandon_one() {
                    assert!(self.memory.held.remove(&piece));
                }
            }
            _ => {
                let priorities = [Priority::Skip, Priority::Low, Priority::Normal, Priority::High];
                let priority = priorities[usize::from(input.byte()) % 4];
                self.torrent.picker_mut().set_priority(piece, priority);
            }
        }
    }

    /// What the shard does after everything that happens.
    fn settle(&mut self, input: &mut Input<'_>) {
        if self.torrent.wants_choke_round() {
            self.torrent.choke_round(self.now, input);
        }
        self.events();
        let mut dirty = Vec::new();
        self.torrent.take_dirty(&mut dirty);
        for key in dirty {
            self.torrent.fill_requests(self.now, key, &mut self.memory, input);
            self.torrent.out(self.now, key).clear();
            let peer = self.torrent.peer(key);
            assert!(peer.expected().all(|block| self.torrent.geometry().block_number(block).is_some()));
        }
        for (key, block) in std::mem::take(&mut self.releases) {
            self.torrent.released(key, block);
        }
        for (key, _) in std::mem::take(&mut self.faults) {
            if self.peers.contains(&key) {
                self.close(key);
            }
        }
        self.events();
    }

    fn events(&mut self) {
        while let Some(event) = self.torrent.poll_event() {
            match event {
                TorrentEvent::PieceComplete(piece) => {
                    assert!(self.memory.held.contains(&piece) && !self.hashing.contains(&piece));
                    self.hashing.push(piece);
                }
                TorrentEvent::Retract { peer, block, release } => {
                    if release {
                        self.releases.push((peer, block));
                    }
                }
                TorrentEvent::Close(key, fault) => self.faults.push((key, fault)),
                TorrentEvent::Ban(ip) => assert!(ip.is_ipv4()),
                TorrentEvent::Peers(peers) => assert!(peers.len() <= 100),
                TorrentEvent::OwnAddress(..) => {}
                TorrentEvent::Punch(addr) => assert!(addr.port() != 0),
                TorrentEvent::Relay(asked) => {
                    self.torrent.relayed(asked.asker, asked.refused(HolepunchError::NotConnected));
                }
                TorrentEvent::DhtNode(addr) => assert!(addr.port() != 0),
                TorrentEvent::Finished => assert!(self.torrent.is_finished()),
            }
        }
    }
}

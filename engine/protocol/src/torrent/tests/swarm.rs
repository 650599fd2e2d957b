//! A swarm in one thread: torrents that exchange encoded messages through receivers, over wires that deliver any number
//! of bytes at a time, with a clock of their own. Stands in for the shard, the hash pool and the disk.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use rand::rngs::Xoshiro256PlusPlus as TestRng;
use rand::{Rng, RngExt, SeedableRng};
use sha1::{Digest, Sha1};

use super::super::{BlockPlace, Torrent, TorrentConfig, TorrentEvent};
use crate::bitfield::Bitfield;
use crate::geometry::{Block, Geometry};
use crate::ids::{InfoHash, PeerId, PieceIndex};
use crate::peer::{PeerFault, PeerInfo};
use crate::picker::{PeerKey, Slots};
use crate::wire::message::Message;
use crate::wire::{Receiver, Reserved, Sink};

pub const FAST: Reserved = Reserved::NONE.with_fast().with_extension();

/// A byte of the torrent.
pub fn byte_at(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

pub fn config() -> TorrentConfig {
    TorrentConfig {
        picker: Default::default(),
        window: Default::default(),
        choker: Default::default(),
        listen_port: 6881,
        metadata: None,
        pex: true,
        dht_port: 0,
        super_seeding: false,
    }
}

/// How a node treats others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    #[default]
    Honest,
    /// Every block it sends is corrupt.
    Liar,
    /// Takes requests and never answers.
    Snub,
    /// Rejects every request.
    Refuses,
}

pub struct Node {
    pub torrent: Torrent,
    pub manner: Manner,
    pub disk: HashMap<PieceIndex, Vec<u8>>,
    pub memory: HashMap<PieceIndex, Vec<u8>>,
    pub memory_max: usize,
    pub bans: Vec<IpAddr>,
    pub finished: bool,
    /// Verdicts and writes that are under way.
    hashing: Vec<PieceIndex>,
    writing: Vec<PieceIndex>,
}

impl Node {
    /// Gives up what is begun and asked of nobody.
    pub fn abandon_idle(&mut self) {
        for piece in self.torrent.picker().idle_active().collect::<Vec<_>>() {
            if self.torrent.picker_mut().abandon(piece) {
                self.memory.remove(&piece).expect("a begun piece has memory");
            }
        }
    }
}

/// One end of a connection.
struct End {
    node: usize,
    key: PeerKey,
    receiver: Receiver,
    /// On the way to this end.
    wire: VecDeque<u8>,
    aside: Option<Vec<u8>>,
    releases: Vec<Block>,
    closing: Option<PeerFault>,
}

pub struct Swarm {
    pub now: Instant,
    pub rng: TestRng,
    pub geometry: Geometry,
    pub nodes: Vec<Node>,
    pub faults: Vec<(usize, PeerFault)>,
    /// Most bytes that a wire delivers at a time.
    pub mtu: usize,
    /// Most blocks that a node sends to one peer in a step.
    pub uploads: usize,
    ends: Vec<Option<[End; 2]>>,
}

struct Memory<'a>(&'a mut HashMap<PieceIndex, Vec<u8>>, usize);

impl Slots for Memory<'_> {
    fn acquire(&mut self, piece: PieceIndex, len: u32) -> bool {
        if self.0.len() >= self.1 {
            return false;
        }
        let old = self.0.insert(piece, vec![0; len as usize]);
        assert!(old.is_none(), "memory for piece {piece} twice");
        true
    }
}

struct EndSink<'a> {
    node: &'a mut Node,
    now: Instant,
    key: PeerKey,
    aside: &'a mut Option<Vec<u8>>,
}

impl Sink for EndSink<'_> {
    type Error = PeerFault;

    fn begin_block(&mut self, block: Block) -> Result<bool, PeerFault> {
        let place = self.node.torrent.begin_block(self.key, block)?;
        *self.aside = (place == BlockPlace::Aside).then(|| vec![0; block.len as usize]);
        Ok(place != BlockPlace::Discard)
    }

    fn write(&mut self, block: Block, offset: u32, bytes: &[u8]) {
        let (memory, start) = match self.aside {
            Some(aside) => (aside, offset),
            None => {
                let memory = self.node.memory.get_mut(&block.piece);
                (memory.expect("an accepted block has its place"), block.begin + offset)
            }
        };
        memory[start as usize..start as usize + bytes.len()].copy_from_slice(bytes);
    }

    fn placed(&self, _: Block, _: u32, _: u32) -> &[u8] {
        unreachable!("nothing is received in place here")
    }

    fn end_block(&mut self, block: Block, accepted: bool) -> Result<(), PeerFault> {
        if accepted
            && self.node.torrent.end_block(self.now, self.key, block)
            && let Some(aside) = self.aside.take()
        {
            let memory = self.node.memory.get_mut(&block.piece).expect("an accepted block has its place");
            memory[block.begin as usize..(block.begin + block.len) as usize].copy_from_slice(&aside);
        }
        Ok(())
    }

    fn message(&mut self, message: Message<'_>) -> Result<(), PeerFault> {
        self.node.torrent.message(self.now, self.key, message)
    }
}

impl Swarm {
    pub fn new(seed: u64, pieces: u32) -> Self {
        let piece_len = 4 * 16 * 1024;
        let total = u64::from(pieces) * piece_len - 20_000;
        Self {
            now: Instant::now(),
            rng: TestRng::seed_from_u64(seed),
            geometry: Geometry::new(total, piece_len).unwrap(),
            nodes: Vec::new(),
            faults: Vec::new(),
            mtu: 40_000,
            uploads: 2,
            ends: Vec::new(),
        }
    }

    pub fn ip(node: usize) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, node as u8 + 1).into()
    }

    /// A node that has the pieces that `has` says.
    pub fn node(&mut self, config: TorrentConfig, manner: Manner, has: impl Fn(PieceIndex) -> bool) -> usize {
        let mut have = Bitfield::empty(self.geometry.piece_count());
        let mut disk = HashMap::new();
        for piece in self.geometry.pieces().filter(|piece| has(*piece)) {
            have.insert(piece);
            disk.insert(piece, self.truth(piece));
        }
        let id = PeerId([self.nodes.len() as u8; 20]);
        let torrent = Torrent::new(self.now, InfoHash([7; 20]), id, self.geometry, config, have);
        self.nodes.push(Node {
            torrent,
            manner,
            disk,
            memory: HashMap::new(),
            memory_max: 8,
            bans: Vec::new(),
            finished: false,
            hashing: Vec::new(),
            writing: Vec::new(),
        });
        self.nodes.len() - 1
    }

    pub fn seed(&mut self, manner: Manner) -> usize {
        self.node(config(), manner, |_| true)
    }

    pub fn leech(&mut self) -> usize {
        self.node(config(), Manner::Honest, |_| false)
    }

    fn truth(&self, piece: PieceIndex) -> Vec<u8> {
        let start = self.geometry.piece_start(piece);
        (start..start + u64::from(self.geometry.piece_size(piece))).map(byte_at).collect()
    }

    /// Connects two nodes and returns the connection's number.
    pub fn connect(&mut self, a: usize, b: usize, reserved: Reserved) -> usize {
        let mut end = |node: usize, other: usize, incoming| {
            let info = PeerInfo {
                addr: (Self::ip(other), 1000 + other as u16).into(),
                id: PeerId([other as u8; 20]),
                reserved,
                incoming,
            };
            let key = self.nodes[node].torrent.connected(self.now, info);
            let receiver = Receiver::new(4096, 100_000);
            let (wire, releases) = (VecDeque::new(), Vec::new());
            End { node, key, receiver, wire, aside: None, releases, closing: None }
        };
        let ends = [end(a, b, false), end(b, a, true)];
        self.ends.push(Some(ends));
        self.ends.len() - 1
    }

    /// Connects every node with every other.
    pub fn mesh(&mut self, reserved: Reserved) {
        for a in 0..self.nodes.len() {
            (0..a).for_each(|b| _ = self.connect(a, b, reserved));
        }
    }

    pub fn is_open(&self, conn: usize) -> bool {
        self.ends[conn].is_some()
    }

    /// The keys that both ends of a connection know each other by, in the order in which they were connected.
    pub fn keys(&self, conn: usize) -> [PeerKey; 2] {
        self.ends[conn].as_ref().expect("a connection that is open").each_ref().map(|end| end.key)
    }

    pub fn disconnect(&mut self, conn: usize) {
        let Some(ends) = self.ends[conn].take() else { return };
        for end in ends {
            let torrent = &mut self.nodes[end.node].torrent;
            // Half of the time the releases come first: both orders are allowed.
            let first = self.rng.random_bool(0.5);
            if first {
                end.releases.iter().for_each(|block| torrent.released(end.key, *block));
            }
            torrent.gone(end.key);
            if !first {
                end.releases.iter().for_each(|block| torrent.released(end.key, *block));
            }
        }
    }

    /// One round of everything, after which `step` has passed.
    pub fn step(&mut self, step: Duration) {
        for node in 0..self.nodes.len() {
            let now = self.now;
            if self.nodes[node].torrent.wants_choke_round() {
                self.nodes[node].torrent.choke_round(now, &mut self.rng);
            }
            self.nodes[node].torrent.reveal(now, &mut self.rng);
            self.events(node);
            self.finish_pieces(node);
            self.fill(node);
            self.events(node);
            self.nodes[node].torrent.picker().check_invariants();
        }
        for conn in 0..self.ends.len() {
            self.send(conn);
            self.deliver(conn);
            self.close_faulty(conn);
        }
        let before = self.now;
        self.now += step;
        // About once a second.
        if (before + Duration::from_secs(1)) <= self.now || self.rng.random_bool(step.as_secs_f64().min(1.0))
        {
            for node in &mut self.nodes {
                node.torrent.tick(self.now, &mut self.rng);
            }
        }
    }

    /// Steps until `done`, at most `max` times; returns whether that came about.
    pub fn run(&mut self, step: Duration, max: usize, done: impl Fn(&Self) -> bool) -> bool {
        (0..max).any(|_| {
            self.step(step);
            done(self)
        })
    }

    fn find(&mut self, node: usize, key: PeerKey) -> Option<&mut End> {
        self.ends.iter_mut().flatten().flatten().find(|end| end.node == node && end.key == key)
    }

    fn events(&mut self, node: usize) {
        while let Some(event) = self.nodes[node].torrent.poll_event() {
            match event {
                TorrentEvent::PieceComplete(piece) => self.nodes[node].hashing.push(piece),
                TorrentEvent::Retract { peer, block, release } => {
                    let later = self.rng.random_bool(0.5);
                    let Some(end) = self.find(node, peer) else { continue };
                    end.receiver.retract(block);
                    if release && later {
                        end.releases.push(block);
                    } else if release {
                        self.nodes[node].torrent.released(peer, block);
                    }
                }
                TorrentEvent::Punch(addr) => panic!("{addr} dials us, and nobody said so"),
                TorrentEvent::Relay(asked) => panic!("{asked:?}, and nobody speaks ut_holepunch"),
                TorrentEvent::DhtNode(addr) => panic!("a node at {addr}, and nobody has one"),
                TorrentEvent::Close(key, fault) => {
                    if let Some(end) = self.find(node, key) {
                        end.closing.get_or_insert(fault);
                    }
                }
                TorrentEvent::Ban(ip) => self.nodes[node].bans.push(ip),
                // Nodes know each other, and have no addresses of their own.
                TorrentEvent::Peers(_) | TorrentEvent::OwnAddress(..) => {}
                TorrentEvent::Finished => {
                    assert!(!std::mem::replace(&mut self.nodes[node].finished, true), "finished twice");
                }
            }
        }
    }

    /// Hash pool and disk: some of what they have is done now.
    fn finish_pieces(&mut self, at: usize) {
        let hashing = std::mem::take(&mut self.nodes[at].hashing);
        for piece in hashing {
            if self.rng.random_bool(0.3) {
                self.nodes[at].hashing.push(piece);
                continue;
            }
            let truth = self.truth(piece);
            let node = &mut self.nodes[at];
            let memory = node.memory.remove(&piece).expect("a complete piece has memory");
            let ok = memory == truth;
            let sha1 = |block: &[u8]| Sha1::digest(block).into();
            let digests = || memory.chunks(16 * 1024).map(sha1).collect();
            assert_eq!(node.torrent.verdict(piece, ok, digests), ok);
            if ok {
                node.disk.insert(piece, memory);
                node.writing.push(piece);
            }
        }
        let writing = std::mem::take(&mut self.nodes[at].writing);
        for piece in writing {
            if self.rng.random_bool(0.3) {
                self.nodes[at].writing.push(piece);
            } else {
                self.nodes[at].torrent.written(piece);
            }
        }
    }

    fn fill(&mut self, at: usize) {
        let mut dirty = Vec::new();
        let node = &mut self.nodes[at];
        if !node.hashing.is_empty() || !node.writing.is_empty() || node.memory.len() < node.memory_max {
            node.torrent.mark_all();
        }
        node.torrent.take_dirty(&mut dirty);
        for key in dirty {
            let mut memory = Memory(&mut node.memory, node.memory_max);
            node.torrent.fill_requests(self.now, key, &mut memory, &mut self.rng);
        }
    }

    /// Puts what both ends have to say on the wires.
    fn send(&mut self, conn: usize) {
        let (now, budget) = (self.now, self.uploads);
        let Some(ends) = &mut self.ends[conn] else { return };
        for from in 0..2 {
            let (node, key) = (&mut self.nodes[ends[from].node], ends[from].key);
            let mut bytes = std::mem::take(node.torrent.out(now, key));
            for _ in 0..budget {
                if node.manner == Manner::Snub {
                    break;
                }
                let Some(block) = node.torrent.next_upload(key) else { break };
                if node.manner == Manner::Refuses {
                    node.torrent.refuse(key, block);
                    continue;
                }
                let piece = &node.disk[&block.piece];
                let mut data = piece[block.begin as usize..(block.begin + block.len) as usize].to_vec();
                if node.manner == Manner::Liar {
                    data[0] ^= 1 + key.0 as u8 % 8;
                }
                Message::Piece { piece: block.piece, begin: block.begin, data: &data }.encode(&mut bytes);
                node.torrent.sent_block(now, key, block);
            }
            ends[1 - from].wire.extend(bytes);
        }
    }

    /// Takes some bytes off both wires.
    fn deliver(&mut self, conn: usize) {
        let Some(ends) = &mut self.ends[conn] else { return };
        for end in ends {
            let node = &mut self.nodes[end.node];
            for block in end.releases.drain(..) {
                node.torrent.released(end.key, block);
            }
            let len = end.wire.len().min(self.rng.random_range(1..=self.mtu));
            let bytes: Vec<u8> = end.wire.drain(..len).collect();
            let mut sink = EndSink { node, now: self.now, key: end.key, aside: &mut end.aside };
            if let Err(fault) = end.receiver.feed(&bytes, &mut sink) {
                end.closing.get_or_insert(fault);
            }
        }
        // A receive may have brought what takes blocks back from others: that has to be told before they receive.
        let nodes = self.ends[conn].as_ref().map(|ends| [ends[0].node, ends[1].node]);
        nodes.into_iter().flatten().for_each(|node| self.events(node));
    }

    fn close_faulty(&mut self, conn: usize) {
        let Some(ends) = &self.ends[conn] else { return };
        let faults: Vec<_> = ends.iter().filter_map(|end| Some((end.node, end.closing?))).collect();
        if !faults.is_empty() {
            self.faults.extend(faults);
            self.disconnect(conn);
        }
    }

    pub fn faults_of(&self, node: usize) -> Vec<PeerFault> {
        self.faults.iter().filter(|(at, _)| *at == node).map(|(_, fault)| *fault).collect()
    }

    /// Everything that an honest end state needs: the right bytes, and nothing left over.
    pub fn assert_complete(&self, node: usize) {
        let at = &self.nodes[node];
        assert!(at.torrent.is_finished() && at.finished, "node {node} is not finished");
        for piece in self.geometry.pieces() {
            assert_eq!(at.disk[&piece], self.truth(piece), "piece {piece} of node {node}");
        }
        assert!(at.memory.is_empty(), "memory is left");
        at.torrent.picker().check_invariants();
    }

    /// A random number of bytes for tests that flip coins of their own.
    pub fn roll(&mut self, below: u32) -> u32 {
        self.rng.next_u32() % below
    }
}

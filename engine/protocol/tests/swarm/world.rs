//! The swarm as a whole: clock, nodes that come and go, links between them, and a tracker.

mod arriving;

use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::candidates::{Candidates, Source};
use ccbt_protocol::fetching::Fetching;
use ccbt_protocol::geometry::Geometry;
use ccbt_protocol::ids::{InfoHash, PeerId, PieceIndex};
use ccbt_protocol::lease::{Borrower, Lender};
use ccbt_protocol::peer::PeerInfo;
use ccbt_protocol::torrent::{Torrent, TorrentConfig};
use ccbt_protocol::wire::Reserved;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use sha1::{Digest, Sha1};

use crate::net::{End, Entry, LINK_WINDOW, Link, NetConfig, Packet, ToNode, What, Whose, duration_of};
use crate::node::{Manner, Node, Part, Plan, Role};

pub const SECOND: Duration = Duration::from_secs(1);
pub const MS: Duration = Duration::from_millis(1);
/// Blocks in a piece.
pub const BLOCKS: u32 = 4;
/// From one announce to the next.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(30);
/// Addresses that the tracker tells at a time.
const TRACKER_TELLS: usize = 15;
/// A second in which a node has more to do than this many times is a loop.
const EVENTS_MAX: u64 = 20_000;

pub struct World {
    pub now: Instant,
    pub begin: Instant,
    pub rng: SmallRng,
    pub net: NetConfig,
    pub geometry: Geometry,
    pub nodes: Vec<Node>,
    pub links: Vec<Option<Link>>,
    /// Whether there is one.
    pub tracker: bool,
    pub events: u64,
    /// Changes with everything that happens: equal runs have equal traces.
    pub trace: u64,
    /// Requests that arrived for a piece that was lost meanwhile.
    pub requests_crossed: u64,
    pub(crate) info_hash: InfoHash,
    pub(crate) info: Arc<[u8]>,
    pub(crate) by_addr: BTreeMap<SocketAddr, usize>,
    queue: BinaryHeap<Entry>,
    sequence: u64,
    second: (u64, u64),
}

/// What a block of the torrent is; stands for its bytes.
pub fn truth(piece: PieceIndex, nth: u32) -> u64 {
    (u64::from(piece.0 * BLOCKS + nth) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl World {
    pub fn new(seed: u64, pieces: u32, net: NetConfig) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let piece_len = u64::from(BLOCKS) * 16 * 1024;
        // The last piece is shorter, as is its last block.
        let total = u64::from(pieces) * piece_len - 20_000;
        let mut info = vec![0; 40_000];
        rng.fill_bytes(&mut info);
        let now = Instant::now();
        Self {
            now,
            begin: now,
            net,
            geometry: Geometry::new(total, piece_len).expect("sizes of a torrent"),
            nodes: Vec::new(),
            links: Vec::new(),
            tracker: true,
            events: 0,
            trace: seed,
            requests_crossed: 0,
            info_hash: InfoHash(Sha1::digest(&info).into()),
            info: info.into(),
            by_addr: BTreeMap::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            second: (0, 0),
            rng,
        }
    }

    // ---- the clock

    pub fn at(&mut self, at: Instant, what: What) {
        self.sequence += 1;
        self.queue.push(Entry { at, sequence: self.sequence, what });
    }

    pub fn later(&mut self, node: usize, delay: Duration, what: ToNode) {
        let epoch = self.nodes[node].epoch;
        self.at(self.now + delay, What::Node { node, epoch, what });
    }

    pub fn within(&mut self, range: std::ops::Range<Duration>) -> Duration {
        let span = (range.end - range.start).as_micros() as u64;
        range.start + Duration::from_micros(self.rng.random_range(0..span.max(1)))
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.random_bool(probability)
    }

    pub fn elapsed(&self) -> Duration {
        self.now - self.begin
    }

    /// Lets `time` pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.queue.peek().is_some_and(|entry| entry.at <= end) {
            let entry = self.queue.pop().expect("just seen");
            self.now = self.now.max(entry.at);
            self.note(&entry);
            self.take(entry.what);
        }
        self.now = end;
    }

    /// Lets time pass until `done`, at most `time`; whether that came about. Looked at once a second.
    pub fn run_until(&mut self, time: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + time;
        while self.now < end {
            self.run(SECOND);
            if done(self) {
                return true;
            }
        }
        false
    }

    fn note(&mut self, entry: &Entry) {
        self.events += 1;
        let at = (entry.at - self.begin).as_micros() as u64;
        self.trace = (self.trace ^ at ^ entry.sequence << 32).wrapping_mul(0x100_0000_01b3);
        let second = self.elapsed().as_secs();
        if self.second.0 != second {
            self.second = (second, 0);
        }
        self.second.1 += 1;
        let most = EVENTS_MAX * (self.nodes.len() as u64 + 1);
        assert!(self.second.1 < most, "a loop: {} events in second {second}, now {:?}", self.second.1, entry);
        let packets = 64 * self.links.iter().flatten().count() + 256 * self.nodes.len();
        assert!(self.queue.len() < packets + 4096, "{} things wait to happen", self.queue.len());
    }

    // ---- nodes

    /// A node that has the pieces that `has` says. It is not there before [`World::start`].
    pub fn add(&mut self, plan: Plan, has: impl Fn(PieceIndex) -> bool) -> usize {
        let index = self.nodes.len();
        let mut node = Node::new(self.now, index, plan);
        for piece in self.geometry.pieces().filter(|piece| has(*piece)) {
            node.disk.insert(piece, self.truth_of(piece));
            node.synced.insert(piece);
        }
        node.has_metadata = !node.plan.magnet;
        self.by_addr.insert(node.addr, index);
        self.nodes.push(node);
        index
    }

    pub fn seed(&mut self, plan: Plan) -> usize {
        let node = self.add(plan, |_| true);
        self.start(node);
        node
    }

    pub fn leech(&mut self, plan: Plan) -> usize {
        let node = self.add(plan, |_| false);
        self.start(node);
        node
    }

    pub fn blocks_of(&self, piece: PieceIndex) -> u32 {
        self.geometry.piece_size(piece).div_ceil(16 * 1024)
    }

    pub fn truth_of(&self, piece: PieceIndex) -> Vec<u64> {
        (0..self.blocks_of(piece)).map(|nth| truth(piece, nth)).collect()
    }

    /// The program starts, with what is on its disk.
    pub fn start(&mut self, at: usize) {
        let mut id = [0; 20];
        self.rng.fill_bytes(&mut id);
        let now = self.now;
        let node = &mut self.nodes[at];
        assert!(!node.online && node.parts.is_empty() && node.links.is_empty());
        node.online = true;
        node.id = PeerId(id);
        if node.disk.is_empty() && node.epoch == 0 {
            node.joined = now;
        }
        node.candidates = Candidates::new(node.addr.port());
        (node.up_free, node.down_free) = (now, now);
        if node.has_metadata {
            self.open_torrent(at);
        } else {
            let fetching = Fetching::new(self.info_hash, PeerId(id), node.addr.port(), true);
            self.nodes[at].fetching = Some(fetching);
        }
        let phase = self.within(Duration::ZERO..SECOND);
        self.later(at, phase, ToNode::Tick);
        self.later(at, phase / 2, ToNode::Announce);
    }

    pub(crate) fn open_torrent(&mut self, at: usize) {
        let (now, geometry, hash) = (self.now, self.geometry, self.info_hash);
        let node = &mut self.nodes[at];
        let mut have = Bitfield::empty(geometry.piece_count());
        node.disk.keys().for_each(|piece| _ = have.insert(*piece));
        let mut metadata = self.info.to_vec();
        if node.plan.manner == Manner::Liar {
            metadata[20_000] ^= 1;
        }
        let config = TorrentConfig { metadata: Some(metadata.into()), ..node.plan.torrent.clone() };
        let home = Torrent::new(now, hash, node.id, geometry, config.clone(), have.clone());
        let part = |torrent, role| Part { torrent, role, memory: BTreeMap::new(), starved: false, conns: 0 };
        node.parts.push(part(home, Role::Home(Lender::new(now))));
        for shard in 1..node.plan.shards {
            let torrent = Torrent::new_satellite(now, hash, node.id, geometry, config.clone(), have.clone());
            let borrower = Borrower::new(now, node.plan.shards);
            node.parts.push(part(torrent, Role::Satellite(borrower)));
            let home = &mut node.parts[0];
            let Role::Home(lender) = &mut home.role else { unreachable!() };
            lender.join(&mut home.torrent, shard);
        }
    }

    /// Its peers hear that it goes.
    pub fn leave(&mut self, at: usize) {
        for link in self.nodes[at].links.values().copied().collect::<Vec<_>>() {
            let end = self.end_of(link, at);
            self.close(link, end, true);
        }
        self.stop(at);
    }

    /// It is gone without a word, and of what was not synced half is lost.
    pub fn crash(&mut self, at: usize) {
        for link in self.nodes[at].links.values().copied().collect::<Vec<_>>() {
            let end = self.end_of(link, at);
            self.close(link, end, false);
        }
        let node = &mut self.nodes[at];
        let synced = std::mem::take(&mut node.synced);
        let rng = &mut self.rng;
        node.disk.retain(|piece, _| synced.contains(piece) || rng.random_bool(0.5));
        node.synced = node.disk.keys().copied().collect();
        self.stop(at);
    }

    fn stop(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        for part in &node.parts {
            let stats = part.torrent.stats();
            (node.sent, node.received) = (node.sent + stats.uploaded, node.received + stats.downloaded);
        }
        node.online = false;
        node.epoch += 1;
        node.parts.clear();
        node.fetching = None;
        node.ring.clear();
        (node.dialling, node.uplink_armed, node.settle_armed) = (0, false, None);
        node.finished = None;
    }

    /// A piece of its files turns out damaged.
    pub fn damage(&mut self, at: usize, piece: PieceIndex) {
        if self.nodes[at].disk.remove(&piece).is_none() {
            return;
        }
        self.nodes[at].synced.remove(&piece);
        self.nodes[at].lost.insert(piece, self.now);
        // A part reads what it knows to be there; others may not have heard of it yet.
        let node = &mut self.nodes[at];
        let has = |part: &&mut Part| part.torrent.picker().have().has(piece);
        let mut readers: Vec<&mut Part> = node.parts.iter_mut().filter(has).collect();
        if !readers.is_empty() {
            let reader = self.rng.random_range(0..readers.len());
            readers[reader].torrent.lost_piece(piece);
        }
        self.pump(at);
    }

    /// The user, or a magnet link, names an address.
    pub fn tell(&mut self, at: usize, addr: SocketAddr, source: Source) {
        self.nodes[at].candidates.add(addr, source);
    }

    pub(crate) fn announce(&mut self, at: usize) {
        let pause = self.within(ANNOUNCE_EVERY..ANNOUNCE_EVERY * 5 / 4);
        self.later(at, pause, ToNode::Announce);
        if !self.tracker || self.chance(self.net.dial_loss) {
            return;
        }
        let others: Vec<SocketAddr> =
            self.nodes.iter().filter(|node| node.online).map(|node| node.addr).collect();
        let told = (0..TRACKER_TELLS).map(|_| others[self.rng.random_range(0..others.len())]).collect();
        let delay = self.within(20 * MS..300 * MS);
        self.later(at, delay, ToNode::Told(told));
    }

    // ---- links

    pub(crate) fn end_of(&self, link: usize, node: usize) -> usize {
        let ends = &self.links[link].as_ref().expect("a link of a node").ends;
        usize::from(ends[0].node != node)
    }

    pub(crate) fn dial(&mut self, at: usize) {
        loop {
            let now = self.now;
            let node = &mut self.nodes[at];
            let seeds = node.is_finished();
            if seeds || node.links.len() + node.dialling >= node.plan.peers_max {
                return;
            }
            let Some(addr) = node.candidates.next(now, &mut self.rng) else { return };
            node.dialling += 1;
            let delay = self.within(10 * MS..400 * MS);
            self.later(at, delay, ToNode::Dialled(addr));
        }
    }

    /// The handshake of a dial is through, or is not.
    pub(crate) fn dialled(&mut self, at: usize, addr: SocketAddr) {
        self.nodes[at].dialling -= 1;
        let now = self.now;
        let other = self.by_addr.get(&addr).copied();
        if other == Some(at) {
            self.nodes[at].candidates.ourselves(addr);
        }
        let fits = |other: &usize| {
            let (a, b) = (&self.nodes[at], &self.nodes[*other]);
            let room = b.links.len() < b.plan.peers_max + b.plan.peers_max / 2;
            let free = room && !b.candidates.is_banned(a.addr.ip()) && !a.candidates.is_banned(addr.ip());
            b.online && free && !b.knows(a.id) && !a.knows(b.id)
        };
        let other = other.filter(|other| *other != at).filter(fits);
        let lost = self.chance(self.net.dial_loss);
        match other {
            Some(other) if !lost => self.connect(at, other),
            _ => self.nodes[at].candidates.gone(now, addr, false),
        }
    }

    fn connect(&mut self, a: usize, b: usize) {
        let link = self.links.len();
        let millis = self.rng.random_range(self.net.latency_ms.clone());
        let from = SocketAddr::new(self.nodes[a].addr.ip(), self.rng.random_range(30_000..60_000));
        let fast = self.nodes[a].plan.fast && self.nodes[b].plan.fast;
        let addr = self.nodes[b].addr;
        let ends = [self.attach(a, b, addr, fast, false, link), self.attach(b, a, from, fast, true, link)];
        self.links.push(Some(Link { ends, latency: millis as u32 * MS }));
        self.nodes[b].candidates.incoming(from);
        self.pump(a);
        self.pump(b);
    }

    fn attach(
        &mut self,
        at: usize,
        other: usize,
        addr: SocketAddr,
        fast: bool,
        incoming: bool,
        link: usize,
    ) -> End {
        let reserved = Reserved::NONE.with_extension();
        let reserved = if fast { reserved.with_fast() } else { reserved };
        let info = PeerInfo { addr, id: self.nodes[other].id, reserved, incoming };
        let now = self.now;
        let node = &mut self.nodes[at];
        let whose = match &mut node.fetching {
            Some(fetching) => Whose::Fetching(fetching.connected(now, info)),
            None => {
                let part = node.part_for_peer();
                node.parts[part].conns += 1;
                Whose::Part(part, node.parts[part].torrent.connected(now, info))
            }
        };
        node.links.insert(whose, link);
        End { node: at, whose, open: true, addr, last_arrival: now, in_flight: 0, releases: Vec::new() }
    }

    /// Ends the connection at one end; the other one hears of it if `tell`.
    pub fn close(&mut self, link: usize, end: usize, tell: bool) {
        let now = self.now;
        let coin = self.rng.random_bool(0.5);
        let Some(the_link) = &mut self.links[link] else { return };
        let latency = the_link.latency;
        let this = &mut the_link.ends[end];
        if !std::mem::replace(&mut this.open, false) {
            return;
        }
        let (at, whose, addr) = (this.node, this.whose, this.addr);
        let releases = std::mem::take(&mut this.releases);
        if the_link.ends.iter().all(|end| !end.open) {
            self.links[link] = None;
        }
        let node = &mut self.nodes[at];
        node.links.remove(&whose);
        let useful = match whose {
            Whose::Fetching(key) => node.fetching.as_mut().is_some_and(|fetching| fetching.gone(now, key)),
            Whose::Part(part, key) => {
                node.ring.retain(|waiting| *waiting != (part, key));
                let part = &mut node.parts[part];
                part.conns -= 1;
                // Both orders are allowed.
                if coin {
                    releases.iter().for_each(|block| part.torrent.released(key, *block));
                }
                let useful = part.torrent.gone(key);
                if !coin {
                    releases.iter().for_each(|block| part.torrent.released(key, *block));
                }
                useful
            }
        };
        node.candidates.gone(now, addr, useful);
        if tell {
            self.at(now + latency, What::Reset { link, end: 1 - end });
        }
    }

    /// Puts a packet on its way from one end to the other.
    pub(crate) fn transmit(&mut self, link: usize, from: usize, packet: Packet) {
        let now = self.now;
        let (lost, breaks) = (self.chance(self.net.loss), self.chance(self.net.breaks));
        let jitter = self.within(Duration::ZERO..self.net.jitter_ms as u32 * MS);
        let Some(the_link) = &mut self.links[link] else { return };
        let latency = the_link.latency;
        let len = packet.len() + 40;
        let sender = &mut self.nodes[the_link.ends[from].node];
        let departs = now.max(sender.up_free) + duration_of(len, sender.plan.up);
        sender.up_free = departs;
        let to = &mut the_link.ends[1 - from];
        let receiver = &mut self.nodes[to.node];
        let arrives = receiver.down_free.max(departs + latency) + duration_of(len, receiver.plan.down);
        receiver.down_free = arrives;
        // What is sent again is late, and keeps back what follows on this link, but no other link.
        let again = if lost { 200 * MS + 2 * latency } else { Duration::ZERO };
        let arrives = (arrives + jitter + again).max(to.last_arrival + Duration::from_micros(1));
        to.last_arrival = arrives;
        if let Packet::Block(block, _) = &packet {
            to.in_flight += block.len as usize;
        }
        self.at(arrives, What::Arrive { link, end: 1 - from, packet });
        if breaks {
            self.at(arrives, What::Reset { link, end: from });
            self.at(arrives, What::Reset { link, end: 1 - from });
        }
    }

    pub(crate) fn has_window(&self, link: usize, from: usize) -> bool {
        self.links[link].as_ref().is_some_and(|link| link.ends[1 - from].in_flight < LINK_WINDOW)
    }

    // ---- what happens
}

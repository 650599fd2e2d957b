//! One host: the real decisions of its torrent, with a disk, a memory and a hash pool that are fakes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::candidates::Candidates;
use ccbt_protocol::fetching::Fetching;
use ccbt_protocol::ids::{PeerId, PieceIndex};
use ccbt_protocol::lease::{Borrower, Lender};
use ccbt_protocol::peer::PeerFault;
use ccbt_protocol::picker::{PeerKey, Slots};
use ccbt_protocol::torrent::{Torrent, TorrentConfig};

use crate::net::Whose;

/// How a node treats others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    #[default]
    Honest,
    /// Every block that it sends is corrupt, and so is its metadata.
    Liar,
    /// Takes requests and never answers.
    Snub,
    /// Rejects every request.
    Refuses,
}

impl Manner {
    pub fn is_hostile(self) -> bool {
        self != Self::Honest
    }
}

/// What a node is like.
#[derive(Clone, Debug)]
pub struct Plan {
    pub torrent: TorrentConfig,
    pub manner: Manner,
    /// Bytes per second.
    pub up: u64,
    pub down: u64,
    pub peers_max: usize,
    /// Pieces that each shard has memory for.
    pub memory_max: usize,
    pub shards: usize,
    /// It knows the torrent's name only when it first comes.
    pub magnet: bool,
    /// Writes that fail.
    pub disk_faults: f64,
    /// Speaks BEP 6.
    pub fast: bool,
}

impl Plan {
    pub fn new() -> Self {
        let torrent = TorrentConfig {
            picker: Default::default(),
            window: Default::default(),
            choker: Default::default(),
            listen_port: 6881,
            metadata: None,
            pex: true,
            dht_port: 0,
            super_seeding: false,
        };
        Self {
            torrent,
            manner: Manner::Honest,
            up: 1 << 20,
            down: 4 << 20,
            peers_max: 20,
            memory_max: 12,
            shards: 1,
            magnet: false,
            disk_faults: 0.0,
            fast: true,
        }
    }
}

/// A shard's part in leases.
#[derive(Debug)]
pub enum Role {
    Home(Lender),
    Satellite(Borrower),
}

/// What one shard has of the torrent.
#[derive(Debug)]
pub struct Part {
    pub torrent: Torrent,
    pub role: Role,
    /// Blocks of pieces that are begun, as numbers that stand for their bytes.
    pub memory: BTreeMap<PieceIndex, Vec<Option<u64>>>,
    /// Somebody wanted memory and there was none.
    pub starved: bool,
    pub conns: usize,
}

/// Memory for pieces.
pub struct Memory<'a> {
    pub held: &'a mut BTreeMap<PieceIndex, Vec<Option<u64>>>,
    pub starved: &'a mut bool,
    pub max: usize,
}

impl Slots for Memory<'_> {
    fn acquire(&mut self, piece: PieceIndex, len: u32) -> bool {
        if self.held.len() >= self.max {
            *self.starved = true;
            return false;
        }
        let old = self.held.insert(piece, vec![None; len.div_ceil(16 * 1024) as usize]);
        assert!(old.is_none(), "memory for piece {piece} twice");
        true
    }
}

#[derive(Debug)]
pub struct Node {
    pub addr: SocketAddr,
    pub id: PeerId,
    pub plan: Plan,
    pub online: bool,
    pub epoch: u32,
    /// Home first. Empty while it lacks the metadata.
    pub parts: Vec<Part>,
    pub fetching: Option<Fetching>,
    pub candidates: Candidates,
    /// What is in its files: survives it.
    pub disk: BTreeMap<PieceIndex, Vec<u64>>,
    /// What of that survives a power cut.
    pub synced: BTreeSet<PieceIndex>,
    /// When pieces were last found damaged.
    pub lost: BTreeMap<PieceIndex, Instant>,
    pub has_metadata: bool,
    pub links: BTreeMap<Whose, usize>,
    /// Peers that wait for blocks.
    pub ring: VecDeque<(usize, PeerKey)>,
    pub up_free: Instant,
    pub down_free: Instant,
    pub uplink_armed: bool,
    pub settle_armed: Option<Instant>,
    pub dialling: usize,
    pub joined: Instant,
    pub finished: Option<Instant>,
    pub bans: Vec<IpAddr>,
    pub faults: Vec<(IpAddr, PeerFault)>,
    /// Payload that it sent and received, over all its runs.
    pub sent: u64,
    pub received: u64,
}

impl Node {
    pub fn new(now: Instant, index: usize, plan: Plan) -> Self {
        let ip = Ipv4Addr::new(10, 0, (index >> 8) as u8, index as u8 + 1);
        Self {
            addr: SocketAddr::new(ip.into(), 6881),
            id: PeerId([0; 20]),
            plan,
            online: false,
            epoch: 0,
            parts: Vec::new(),
            fetching: None,
            candidates: Candidates::default(),
            disk: BTreeMap::new(),
            synced: BTreeSet::new(),
            lost: BTreeMap::new(),
            has_metadata: false,
            links: BTreeMap::new(),
            ring: VecDeque::new(),
            up_free: now,
            down_free: now,
            uplink_armed: false,
            settle_armed: None,
            dialling: 0,
            joined: now,
            finished: None,
            bans: Vec::new(),
            faults: Vec::new(),
            sent: 0,
            received: 0,
        }
    }

    /// Everybody who takes part and means well.
    pub fn is_good(&self) -> bool {
        self.online && !self.plan.manner.is_hostile()
    }

    pub fn is_finished(&self) -> bool {
        !self.parts.is_empty() && self.parts.iter().all(|part| part.torrent.is_finished())
    }

    /// The home's pieces.
    pub fn have(&self) -> Option<&Bitfield> {
        Some(self.parts.first()?.torrent.picker().have())
    }

    /// Whether a connection with this peer exists already, or it is ourselves.
    pub fn knows(&self, id: PeerId) -> bool {
        let of_part = self.parts.iter().any(|part| part.torrent.has_id(id));
        id == self.id || of_part || self.fetching.as_ref().is_some_and(|fetching| fetching.has_id(id))
    }

    /// The part with the fewest connections.
    pub fn part_for_peer(&self) -> usize {
        let conns = |at: &usize| self.parts[*at].conns;
        (0..self.parts.len()).min_by_key(conns).expect("a node with a torrent has a home")
    }
}

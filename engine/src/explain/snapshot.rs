//! The facts about one torrent at one moment, as [`super::explain`] takes them.
//!
//! Role: put together from a torrent's status, what its shards know of it ([`ccbt_shards::diagnosis`]), and the engine's
//! counters. Called by [`crate::Session::explain`].

use std::time::Duration;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::candidates::Source;
use ccbt_protocol::peer::PeerStatus;
use ccbt_protocol::rate::TorrentLimits;
use ccbt_shards::diagnosis::{Endings, MetadataLook, PartLook, ShardLook, TrackerLook};

use crate::{State, TorrentStatus};

/// Why a torrent rests although it could run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Somebody has paused it.
    Paused,
    /// It waits in the queue, at this place from 1, behind so many that run.
    Queued {
        /// Its place.
        position: usize,
        /// Torrents that run.
        running: usize,
    },
    /// Its goal of seeding is reached.
    GoalReached,
}

/// A connected peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerFacts {
    /// Payload bytes per second from it.
    pub down_rate: u64,
    /// Payload bytes per second to it.
    pub up_rate: u64,
    /// It has everything.
    pub seed: bool,
    /// We want something of it.
    pub am_interested: bool,
    /// It serves nothing to us.
    pub peer_choking: bool,
    /// It wants something of us.
    pub peer_interested: bool,
    /// We serve nothing to it.
    pub am_choking: bool,
    /// It owes us blocks for too long.
    pub snubbed: bool,
}

impl From<&PeerStatus> for PeerFacts {
    fn from(peer: &PeerStatus) -> Self {
        Self {
            down_rate: peer.down_rate,
            up_rate: peer.up_rate,
            seed: peer.seed,
            am_interested: peer.am_interested,
            peer_choking: peer.peer_choking,
            peer_interested: peer.peer_interested,
            am_choking: peer.am_choking,
            snubbed: peer.snubbed,
        }
    }
}

/// See the module. Rates are payload bytes per second; limits of 0 mean none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What it does; of a magnet link without meaning.
    pub state: State,
    /// It is a magnet link, and this is how its metadata is fetched.
    pub metadata: Option<MetadataLook>,
    /// Why it rests, if it does.
    pub rest: Option<Rest>,
    /// Why it cannot go on, and whether it tries again by itself.
    pub error: Option<(String, bool)>,
    /// Wanted bytes that are not there.
    pub bytes_left: u64,
    /// Received now.
    pub down_rate: u64,
    /// Sent now.
    pub up_rate: u64,
    /// Received and sent by all torrents now.
    pub total_rates: (u64, u64),
    /// Its own limits.
    pub limits: TorrentLimits,
    /// Those of all torrents: receiving and sending.
    pub global_limits: (u64, u64),
    /// Some of its peers, 200 at most.
    pub peers: Vec<PeerFacts>,
    /// How many it has.
    pub peer_count: usize,
    /// Connections, half-open ones included.
    pub connections: usize,
    /// Of these, those not through their handshake.
    pub half_open: usize,
    /// Connections that it may have.
    pub max_peers: usize,
    /// Connections of the process, and how many it may have.
    pub process_connections: (usize, usize),
    /// Addresses known of each source.
    pub sources: Vec<(Source, usize)>,
    /// Addresses that were banned.
    pub banned: usize,
    /// Its trackers.
    pub trackers: Vec<TrackerLook>,
    /// It is looked for in the DHT.
    pub dht: bool,
    /// Nodes of the DHT that are known.
    pub dht_nodes: usize,
    /// It is looked for in the local network.
    pub lsd: bool,
    /// Only trackers may tell of peers (BEP 27).
    pub private: bool,
    /// How connections have ended.
    pub endings: Endings,
    /// Our connections have to be encrypted.
    pub must_encrypt: bool,
    /// Connections that the IP filter has prevented, of all torrents.
    pub filtered: u64,
    /// Wanted pieces that are not there.
    pub missing: u32,
    /// Of these, those that no connected peer has.
    pub unavailable: u32,
    /// A shard was refused memory for another piece of it.
    pub starved: bool,
    /// It begins no piece before others are written.
    pub behind: bool,
    /// Complete pieces of it that wait for hash or disk.
    pub backlog: usize,
    /// Jobs of all torrents that wait for hash threads or their verdict.
    pub hash_queue: u64,
    /// Parts of requests that wait for a disk, and operations in flight there.
    pub disk_queue: (u64, u64),
    /// Servers that send its files (BEP 19).
    pub web_seeds: usize,
    /// The port that is listened on; 0 = none.
    pub listen_port: u16,
    /// Connections of all torrents that were accepted.
    pub accepted: u64,
    /// So long ago the last one was.
    pub accepted_ago: Option<Duration>,
    /// So long the engine runs.
    pub uptime: Duration,
}

/// What is known besides what shards say.
#[derive(Debug)]
pub(crate) struct Around {
    pub status: Option<std::sync::Arc<TorrentStatus>>,
    pub total_rates: (u64, u64),
    pub hash_queue: u64,
    pub disk_queue: (u64, u64),
    pub dht_nodes: usize,
    pub filtered: u64,
    pub uptime: Duration,
}

impl Snapshot {
    /// `None`: no shard runs it.
    pub(crate) fn new(looks: &[ShardLook], around: Around) -> Option<Self> {
        let parts: Vec<&PartLook> = looks.iter().filter_map(|look| look.part.as_ref()).collect();
        let home = parts.iter().find_map(|part| part.home.as_ref())?;
        let status = around.status.as_deref();
        let metadata = parts.iter().find_map(|part| part.metadata);
        let has = |piece| {
            let has = |field: &Bitfield| field.has(piece);
            parts.iter().filter_map(|part| part.available.as_ref()).any(has)
        };
        let mut endings = Endings::default();
        parts.iter().for_each(|part| endings += part.endings);
        Some(Self {
            state: status.map_or(State::Opening, |status| status.state),
            metadata,
            rest: home.paused.then_some(Rest::Paused),
            error: None,
            bytes_left: status.map_or(0, |status| status.bytes_left),
            down_rate: status.map_or(0, |status| status.down_rate),
            up_rate: status.map_or(0, |status| status.up_rate),
            total_rates: around.total_rates,
            limits: home.limits,
            global_limits: home.global_limits,
            peers: status.map_or_else(Vec::new, |status| status.peers.iter().map(PeerFacts::from).collect()),
            peer_count: status.map_or(metadata.map_or(0, |look| look.connected), |status| status.peer_count),
            connections: home.connections,
            half_open: parts.iter().map(|part| part.half_open).sum(),
            max_peers: home.max_peers,
            process_connections: home.process_connections,
            sources: home.sources.clone(),
            banned: home.banned,
            trackers: home.trackers.clone(),
            dht: home.dht,
            dht_nodes: around.dht_nodes,
            lsd: home.lsd,
            private: home.private,
            endings,
            must_encrypt: home.must_encrypt,
            filtered: around.filtered,
            missing: home.missing.count(),
            unavailable: home.missing.iter().filter(|piece| !has(*piece)).count() as u32,
            starved: parts.iter().any(|part| part.starved),
            behind: parts.iter().any(|part| part.behind),
            backlog: parts.iter().map(|part| part.backlog).sum(),
            hash_queue: around.hash_queue,
            disk_queue: around.disk_queue,
            web_seeds: status.map_or(0, |status| status.web.known - status.web.banned.min(status.web.known)),
            listen_port: home.listen_port,
            accepted: looks.iter().map(|look| look.accepted).sum(),
            accepted_ago: looks.iter().filter_map(|look| look.accepted_at).max().map(|at| at.elapsed()),
            uptime: around.uptime,
        })
    }
}

//! What a torrent's shards know of why it does what it does.
//!
//! Role: facts for the rules in `ccbt_fast::explain`, gathered only when somebody asks. Owner: the shard. Every shard is
//! asked, and each that runs a part of the torrent answers, its home with what only a home knows
//! ([`crate::service::Service::diagnose`]).

use std::time::{Duration, Instant};

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::candidates::Source;
use ccbt_protocol::ids::TorrentKey;
use ccbt_protocol::picker::Priority;
use ccbt_protocol::rate::{TorrentLimits, Way};

use crate::control::shown;
use crate::encryption::Encryption;
use crate::shard::{Conn, Shard, Stage};

/// How connections of a part of a torrent have ended since it is there (counts).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endings {
    /// Nobody answered at the address.
    pub unreachable: u64,
    /// The peer did not take our encrypted connection.
    pub unencrypted: u64,
    /// The handshake was not completed, or not for this torrent.
    pub no_handshake: u64,
    /// The peer broke the protocol or sent corrupt data.
    pub faults: u64,
}

impl Endings {
    /// A connection in `conn`'s state ends by itself or by the peer's doing.
    pub(crate) fn count(&mut self, conn: &Conn, is_fault: bool) {
        if conn.superseded {
            return;
        }
        match &conn.stage {
            _ if is_fault => self.faults += 1,
            Stage::Connecting | Stage::Proxied(_) => self.unreachable += 1,
            Stage::Encrypting(_) if !conn.incoming => self.unencrypted += 1,
            Stage::Encrypting(_) | Stage::Handshake(_) => self.no_handshake += 1,
            Stage::Fetching(_) | Stage::Open(_) | Stage::Closing => {}
        }
    }
}

impl std::ops::AddAssign for Endings {
    fn add_assign(&mut self, other: Self) {
        self.unreachable += other.unreachable;
        self.unencrypted += other.unencrypted;
        self.no_handshake += other.no_handshake;
        self.faults += other.faults;
    }
}

/// What one shard says.
#[derive(Clone, Debug)]
pub struct ShardLook {
    /// Connections of all torrents that were accepted here (a count), and when the last one was.
    pub accepted: u64,
    /// See `accepted`.
    pub accepted_at: Option<Instant>,
    /// How its part of the torrent does; `None`: it has none.
    pub part: Option<PartLook>,
}

/// A part of a torrent.
#[derive(Clone, Debug)]
pub struct PartLook {
    /// Pieces that one of its peers has at least.
    pub available: Option<Bitfield>,
    /// How its connections have ended.
    pub endings: Endings,
    /// Connections that are not through their handshake (a count).
    pub half_open: usize,
    /// It was refused memory for another piece.
    pub starved: bool,
    /// Complete pieces that wait for the hash pool or the disk (a count).
    pub backlog: usize,
    /// It begins no piece before others are written.
    pub behind: bool,
    /// What only its home knows.
    pub home: Option<HomeLook>,
}

/// What only the home of a torrent knows.
#[derive(Clone, Debug)]
pub struct HomeLook {
    /// Pieces that are wanted and not there.
    pub missing: Bitfield,
    /// Its trackers in its order.
    pub trackers: Vec<TrackerLook>,
    /// Addresses known of each source, connected ones included.
    pub sources: Vec<(Source, usize)>,
    /// Addresses that were banned (a count).
    pub banned: usize,
    /// It is looked for in the DHT.
    pub dht: bool,
    /// It is looked for in the local network.
    pub lsd: bool,
    /// BEP 27.
    pub private: bool,
    /// Connections that it may have, half-open ones included.
    pub max_peers: usize,
    /// Connections that it has, those of its other parts included.
    pub connections: usize,
    /// Its own limits, in bytes per second; 0 = none.
    pub limits: TorrentLimits,
    /// Those of all torrents, as `limits`: receiving and sending.
    pub global_limits: (u64, u64),
    /// What our connections to others have to be.
    pub must_encrypt: bool,
    /// The port that is listened on; 0 = none.
    pub listen_port: u16,
    /// Connections of the whole process, and how many there may be.
    pub process_connections: (usize, usize),
    /// The user wants it to rest.
    pub paused: bool,
}

/// What is known of a tracker. Texts can be shown as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackerLook {
    /// Its announce URL, escaped.
    pub url: String,
    /// An announce is under way.
    pub announcing: bool,
    /// So long ago it answered last.
    pub answered: Option<Duration>,
    /// Failures since then (a count).
    pub failures: u32,
    /// The last failure, or a warning.
    pub problem: Option<String>,
    /// Complete and incomplete peers in its last answer.
    pub peers: Option<(u32, u32)>,
}

impl Shard {
    /// What this shard knows of the torrent.
    pub(crate) fn look(&self, key: TorrentKey) -> ShardLook {
        ShardLook {
            accepted: self.stats.accepted,
            accepted_at: self.accepted_at,
            part: self.by_key.get(&key).map(|index| self.look_at_part(*index)),
        }
    }

    fn look_at_part(&self, index: usize) -> PartLook {
        let home = &self.homes[index];
        let is_half_open = |conn: &&Conn| conn.home == Some(index) && conn.peer.is_none();
        let available = home.torrent.as_ref().map(|torrent| {
            let mut field = Bitfield::empty(home.meta.geometry.piece_count());
            let pieces = home.meta.geometry.pieces();
            pieces.filter(|piece| torrent.picker().copies(*piece) > 0).for_each(|piece| {
                field.insert(piece);
            });
            field
        });
        PartLook {
            available,
            endings: home.endings,
            half_open: self.conns.iter().flatten().filter(is_half_open).count(),
            starved: home.starved,
            backlog: home.backlog.pieces,
            behind: home.backlog.waits,
            home: (!home.part.is_satellite()).then(|| self.look_at_home(index)),
        }
    }

    fn look_at_home(&self, index: usize) -> HomeLook {
        let home = &self.homes[index];
        let mut missing = Bitfield::empty(home.meta.geometry.piece_count());
        if let Some(torrent) = &home.torrent {
            let picker = torrent.picker();
            let lacks = |piece: &_| !picker.have().has(*piece) && picker.priority(*piece) != Priority::Skip;
            home.meta.geometry.pieces().filter(lacks).for_each(|piece| {
                missing.insert(piece);
            });
        }
        let statuses = home.announces.as_ref().map(|announces| announces.statuses()).unwrap_or_default();
        let trackers = statuses.into_iter().map(|status| TrackerLook {
            url: shown(&status.url),
            announcing: status.announcing,
            answered: status.answered.map(|at| self.now.saturating_duration_since(at)),
            failures: status.failures,
            problem: status.error.or(status.warning),
            peers: status.seeders.zip(status.leechers),
        });
        use Source::{Dht, Incoming, Lsd, Magnet, Pex, Tracker, User};
        let sources = [User, Magnet, Tracker, Lsd, Dht, Pex, Incoming];
        HomeLook {
            missing,
            trackers: trackers.collect(),
            sources: sources.into_iter().map(|source| (source, home.candidates.held(source))).collect(),
            banned: home.candidates.banned(),
            dht: home.finding.dht && self.discovery.is_some(),
            lsd: home.finding.lsd && self.discovery.is_some(),
            private: home.meta.private,
            max_peers: home.max_peers,
            connections: home.all_conns(),
            limits: self.torrent_limits(index),
            global_limits: (self.global_limit(Way::Down), self.global_limit(Way::Up)),
            must_encrypt: self.config.encryption.outgoing == Encryption::Require,
            listen_port: self.config.listen_port,
            process_connections: (
                self.connections.load(std::sync::atomic::Ordering::Relaxed),
                self.config.max_connections,
            ),
            paused: home.paused,
        }
    }
}

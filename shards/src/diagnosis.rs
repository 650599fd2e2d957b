//! What a torrent's shards know of why it does what it does.
//!
//! Role: facts for the rules in `ccbt_fast::explain`, gathered only when somebody asks. Owner: the shard. Every shard is
//! asked, and each that runs a part of the torrent answers, its home with what only a home knows
//! ([`crate::service::Service::diagnose`]).

use std::time::{Duration, Instant};

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::candidates::{Candidates, Source};
use ccbt_protocol::ids::TorrentKey;
use ccbt_protocol::metadata::{FetchProgress, FetchTrouble};
use ccbt_protocol::peer::PeerFault;
use ccbt_protocol::picker::Priority;
use ccbt_protocol::rate::{TorrentLimits, Way};
use ccbt_protocol::tracker::schedule::TrackerStatus;

use crate::announce::Announces;
use crate::conns::End;
use crate::control::shown;
use crate::encryption::Encryption;
use crate::ring::SocketKey;
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
    /// How its metadata is fetched; `None`: it is there.
    pub metadata: Option<MetadataLook>,
    /// What only its home knows.
    pub home: Option<HomeLook>,
}

/// How the metadata of a magnet link is fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetadataLook {
    /// Connections through their handshake (a count).
    pub connected: usize,
    /// Received of the whole, in bytes, and how many peers have it.
    pub progress: FetchProgress,
    /// What went wrong.
    pub trouble: FetchTrouble,
    /// Connections that ended because the peer had no metadata, or gave none (a count).
    pub without: u64,
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
    /// A connection ends so.
    pub(crate) fn count_ending(&mut self, key: SocketKey, end: &End) {
        let Some(conn) = self.conns[key.index()].as_ref() else { return };
        let is_fault = matches!(end, End::Fault(fault) if fault.is_hostile());
        match (conn.home, conn.fetch) {
            _ if matches!(end, End::Ours | End::Idle) => {}
            (Some(index), _) => self.homes[index].endings.count(conn, is_fault),
            (None, Some(at)) => {
                let fetcher = &mut self.fetchers[at];
                fetcher.endings.count(conn, is_fault);
                fetcher.without += u64::from(matches!(end, End::Fault(PeerFault::NoMetadata)));
            }
            (None, None) => {}
        }
    }

    /// What this shard knows of the torrent, or of the magnet under that key.
    pub(crate) fn look(&self, key: TorrentKey) -> ShardLook {
        ShardLook {
            accepted: self.stats.accepted,
            accepted_at: self.accepted_at,
            part: match self.by_key.get(&key) {
                Some(index) => Some(self.look_at_part(*index)),
                None => self.fetcher_by_key(key).map(|at| self.look_at_fetcher(at)),
            },
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
            metadata: None,
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
        HomeLook {
            missing,
            trackers: self.look_at_trackers(home.announces.as_ref()),
            sources: sources(&home.candidates),
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
            process_connections: self.process_connections(),
            paused: home.paused,
        }
    }

    fn process_connections(&self) -> (usize, usize) {
        (self.connections.load(std::sync::atomic::Ordering::Relaxed), self.config.max_connections)
    }

    fn look_at_trackers(&self, announces: Option<&Announces>) -> Vec<TrackerLook> {
        let statuses = announces.map(Announces::statuses).unwrap_or_default();
        let look = |status: TrackerStatus| TrackerLook {
            url: shown(&status.url),
            announcing: status.announcing,
            answered: status.answered.map(|at| self.now.saturating_duration_since(at)),
            failures: status.failures,
            problem: status.error.or(status.warning),
            peers: status.seeders.zip(status.leechers),
        };
        statuses.into_iter().map(look).collect()
    }

    fn look_at_fetcher(&self, at: usize) -> PartLook {
        let fetcher = &self.fetchers[at];
        let is_half_open = |conn: &&Conn| conn.fetch == Some(at) && !matches!(conn.stage, Stage::Fetching(_));
        let home = HomeLook {
            missing: Bitfield::empty(0),
            trackers: self.look_at_trackers(fetcher.announces.as_ref()),
            sources: sources(&fetcher.candidates),
            banned: fetcher.candidates.banned(),
            dht: fetcher.dht && self.discovery.is_some(),
            lsd: fetcher.lsd && self.discovery.is_some(),
            // Nobody knows yet.
            private: false,
            max_peers: fetcher.max_peers,
            connections: fetcher.conns,
            limits: TorrentLimits::default(),
            global_limits: (0, 0),
            must_encrypt: self.config.encryption.outgoing == Encryption::Require,
            listen_port: self.config.listen_port,
            process_connections: self.process_connections(),
            paused: fetcher.paused,
        };
        PartLook {
            available: None,
            endings: fetcher.endings,
            half_open: self.conns.iter().flatten().filter(is_half_open).count(),
            starved: false,
            backlog: 0,
            behind: false,
            metadata: Some(MetadataLook {
                connected: fetcher.fetching.peer_count(),
                progress: fetcher.fetching.progress(),
                trouble: fetcher.fetching.trouble(),
                without: fetcher.without,
            }),
            home: Some(home),
        }
    }
}

/// Addresses known of each source.
fn sources(candidates: &Candidates) -> Vec<(Source, usize)> {
    use Source::{Dht, Incoming, Lsd, Magnet, Pex, Tracker, User};
    let all = [User, Magnet, Tracker, Lsd, Dht, Pex, Incoming];
    all.into_iter().map(|source| (source, candidates.held(source))).collect()
}

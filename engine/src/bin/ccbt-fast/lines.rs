//! What `download` and `seed` tell: the JSON events, and the same in words.
//!
//! Role: the vocabulary that programs read with `--json`; names and fields are a promise. Invariant: whatever
//! a stranger named (faults, reasons, URLs) is escaped in words here and in JSON by [`crate::json`].

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use ccbt_fast::{CacheStats, DeviceStats, DiscoveryStats, ShardStats, State, TorrentEvent, TorrentStatus};
use ccbt_protocol::metainfo::escape_for_terminal;
use serde::{Deserialize, Serialize};

use crate::units;

/// One line of output.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Line<'a> {
    /// The port that is listened on; the first event.
    Listening { port: u16, info_hash: String, name: &'a str },
    /// A daemon runs: its port for peers, and where it is controlled; the first event.
    Daemon { port: u16, socket: &'a str, listen: Option<String>, torrents: usize },
    /// It has stopped; the last event.
    DaemonStopped,
    /// How it goes, about four times a second while something changes, and once before `finished` and
    /// `stopped`.
    Progress(Progress),
    /// Existing data was looked at: so many pieces are good.
    Checked { good: u32, total: u32 },
    /// Everything is verified and on disk.
    Finished,
    /// The file can be played from this URL; it waits for what is not there yet.
    Streaming { url: &'a str },
    /// Others are served from now on and nothing is fetched.
    Seeding,
    /// It cannot go on; with `retry` it tries again by itself.
    Error { message: &'a str, retry: bool },
    /// It goes on after an error.
    Recovered,
    /// Worth knowing.
    Note { message: &'a str },
    /// A file of the torrent was looked for in other folders: where it was found and how it was taken over, or why not.
    Link { path: &'a str, from: Option<&'a str>, how: Option<&'a str>, reason: Option<&'a str> },
    /// So many files were taken over, and so many were not found or could not be; bytes of the first.
    Linked { files: usize, missing: usize, bytes: u64 },
    /// How far a move is. Bytes.
    MoveProgress { done: u64, total: u64 },
    /// All files are in this folder now. `left` could not be removed from the old one.
    Moved { dir: Cow<'a, str>, left: &'a [String] },
    /// An address sent corrupt data and is avoided.
    Banned { ip: IpAddr },
    /// A connection was ended because of what the peer did.
    PeerFault { addr: SocketAddr, fault: &'a str },
    /// A tracker failed.
    Tracker { url: &'a str, reason: &'a str },
    /// The DHT and local discovery have come further: once a second at most, while something changes, and before
    /// `stopped`.
    Discovery(Discovered),
    /// A web seed failed, or is not asked any more.
    WebSeed { url: &'a str, reason: &'a str },
    /// How far the metadata of a magnet link is: bytes, connections and addresses known.
    Fetching { received: u32, total: u32, peers: usize, candidates: usize },
    /// The metadata of a magnet link is there: its bytes, files, and their bytes.
    Metadata { name: &'a str, len: usize, files: usize, bytes_total: u64 },
    /// It goes on from a checkpoint that was written then (seconds since 1970) and has so many pieces.
    Resumed { pieces: u32, total: u32, saved_at: i64 },
    /// A configuration that was read again has another value; empty: none. As they stand in a file.
    Config { key: &'a str, from: &'a str, to: &'a str, needs_restart: bool },
    /// A configuration that was read again is wrong: nothing of it counts. Once per problem.
    ConfigError { message: &'a str },
    /// Output was too slow: so many `note`, `banned`, `peer_fault` and `tracker` events are missing.
    Missed { events: u64 },
    /// The engine has stopped; the last event.
    Stopped { cache: Cache, disks: Vec<Disk>, shards: Vec<Shard> },
}

/// Since the start, but for `dht_nodes`: nodes that are known now. `dht_lookups` have ended, `dht_announced` of them with a
/// node that keeps our address, `dht_peers` addresses were found; `lsd_sent` and `lsd_received` count announces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Discovered {
    pub dht_nodes: usize,
    pub dht_lookups: u64,
    pub dht_announced: u64,
    pub dht_peers: u64,
    pub lsd_sent: u64,
    pub lsd_received: u64,
}

impl From<DiscoveryStats> for Discovered {
    fn from(stats: DiscoveryStats) -> Self {
        Self {
            dht_nodes: stats.dht.nodes.iter().sum(),
            dht_lookups: stats.lookups,
            dht_announced: stats.announced,
            dht_peers: stats.dht_peers,
            lsd_sent: stats.lsd_out,
            lsd_received: stats.lsd_in,
        }
    }
}

/// What was done on one device before the engine was told to stop. `punts`: operations that a thread of the kernel had to
/// wait for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    pub device: String,
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub written_bytes: u64,
    pub buffered_bytes: u64,
    pub punts: u64,
    pub errors: u64,
    pub queue_depth: u32,
    pub operation_bytes: u32,
}

impl From<&DeviceStats> for Disk {
    fn from(stats: &DeviceStats) -> Self {
        let (read, write) = (&stats.read, &stats.write);
        Self {
            device: format!("{}:{}", stats.number >> 32, stats.number & u64::from(u32::MAX)),
            reads: read.operations,
            read_bytes: read.bytes,
            writes: write.operations,
            written_bytes: write.bytes,
            buffered_bytes: read.buffered_bytes + write.buffered_bytes,
            punts: stats.punts,
            errors: stats.errors,
            queue_depth: stats.depth_limit,
            operation_bytes: stats.batch_bytes,
        }
    }
}

/// What a shard did: bytes from and to peers, and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shard {
    pub received: u64,
    pub sent: u64,
    pub accepted: u64,
    pub handed_over: u64,
    pub peers: u64,
    pub messages: u64,
    pub lease_messages: u64,
}

impl From<ShardStats> for Shard {
    fn from(stats: ShardStats) -> Self {
        Self {
            received: stats.received,
            sent: stats.sent,
            accepted: stats.accepted,
            handed_over: stats.handed_over,
            peers: stats.peers,
            messages: stats.messages,
            lease_messages: stats.lease_messages,
        }
    }
}

/// How reading for others did: extents of 256 KiB, and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cache {
    pub hits: u64,
    pub shared: u64,
    pub misses: u64,
    pub reads: u64,
    pub read_bytes: u64,
    pub evictions: u64,
    pub ahead_reads: u64,
    pub ahead_wasted: u64,
    pub admitted: u64,
}

impl From<CacheStats> for Cache {
    fn from(stats: CacheStats) -> Self {
        Self {
            hits: stats.hits,
            shared: stats.shared,
            misses: stats.misses,
            reads: stats.reads,
            read_bytes: stats.read_bytes,
            evictions: stats.evictions,
            ahead_reads: stats.ahead_reads,
            ahead_wasted: stats.ahead_wasted,
            admitted: stats.admitted,
        }
    }
}

/// Numbers of a torrent. Bytes, bytes per second, and counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub state: StateName,
    pub pieces_done: u32,
    pub pieces_total: u32,
    pub pieces_durable: u32,
    pub blocks_partial: u32,
    pub syncs: u64,
    pub bytes_done: u64,
    pub bytes_total: u64,
    pub bytes_wanted: u64,
    pub bytes_left: u64,
    pub downloaded: u64,
    pub web_downloaded: u64,
    pub uploaded: u64,
    pub wasted: u64,
    pub hash_failures: u64,
    pub banned: u64,
    pub down_rate: u64,
    pub up_rate: u64,
    pub peers: usize,
    pub candidates: usize,
    pub web_seeds: usize,
    pub web_seeds_active: usize,
    pub web_seeds_banned: usize,
}

impl From<&TorrentStatus> for Progress {
    fn from(status: &TorrentStatus) -> Self {
        Self {
            state: status.state.into(),
            pieces_done: status.pieces_done,
            pieces_total: status.pieces_total,
            pieces_durable: status.pieces_durable,
            blocks_partial: status.blocks_partial,
            syncs: status.syncs,
            bytes_done: status.bytes_done,
            bytes_total: status.bytes_total,
            bytes_wanted: status.bytes_wanted,
            bytes_left: status.bytes_left,
            downloaded: status.stats.downloaded,
            web_downloaded: status.stats.web_downloaded,
            uploaded: status.stats.uploaded,
            wasted: status.stats.wasted,
            hash_failures: status.stats.hash_failures,
            banned: status.stats.banned,
            down_rate: status.down_rate,
            up_rate: status.up_rate,
            peers: status.peer_count,
            candidates: status.candidates,
            web_seeds: status.web.known,
            web_seeds_active: status.web.active,
            web_seeds_banned: status.web.banned,
        }
    }
}

/// [`State`] as programs see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    Opening,
    Checking,
    Downloading,
    Seeding,
    Moving,
    Paused,
}

impl From<StateName> for &'static str {
    fn from(state: StateName) -> Self {
        match state {
            StateName::Opening => "opening",
            StateName::Checking => "checking",
            StateName::Downloading => "downloading",
            StateName::Seeding => "seeding",
            StateName::Moving => "moving",
            StateName::Paused => "paused",
        }
    }
}

impl From<State> for StateName {
    fn from(state: State) -> Self {
        match state {
            State::Opening => Self::Opening,
            State::Checking => Self::Checking,
            State::Downloading => Self::Downloading,
            State::Seeding => Self::Seeding,
            State::Moving => Self::Moving,
            State::Paused => Self::Paused,
        }
    }
}

impl Progress {
    /// Pieces looked at or there, in words: `45.2 %  463.0 MiB of 1.00 GiB`.
    fn done(&self) -> String {
        let percent = f64::from(self.pieces_done) * 100.0 / f64::from(self.pieces_total.max(1));
        // 100 % is a promise.
        let percent = if self.pieces_done < self.pieces_total { percent.min(99.9) } else { percent };
        format!(
            "{percent:.1} %  {} of {}  pieces {}/{}",
            units::bytes(self.bytes_done),
            units::bytes(self.bytes_total),
            self.pieces_done,
            self.pieces_total
        )
    }

    /// Everything a person watches, on one line.
    pub fn words(&self) -> String {
        let peers = match self.peers {
            1 => "1 peer".to_owned(),
            many => format!("{many} peers"),
        };
        let (down, up) = (units::rate(self.down_rate), units::rate(self.up_rate));
        match self.state {
            StateName::Opening => "opening files".to_owned(),
            StateName::Checking => format!("checking  {}", self.done()),
            StateName::Seeding => {
                let part = match self.bytes_wanted < self.bytes_total {
                    true => {
                        format!(" {} of {}", units::bytes(self.bytes_done), units::bytes(self.bytes_total))
                    }
                    false => String::new(),
                };
                format!("seeding{part}  up {up}  sent {}  {peers}", units::bytes(self.uploaded))
            }
            StateName::Downloading | StateName::Moving | StateName::Paused => {
                let state: &str = self.state.into();
                let eta = units::eta(self.bytes_left, self.down_rate)
                    .map_or_else(|| "-".to_owned(), units::duration);
                format!("{state}  {}  down {down}  up {up}  {peers}  ETA {eta}", self.done())
            }
        }
    }
}

impl<'a> Line<'a> {
    /// The line for what a shard told; `None` for what only the engine cares about.
    pub fn of(event: &'a TorrentEvent) -> Option<Self> {
        Some(match event {
            TorrentEvent::Note(message) => Self::Note { message },
            TorrentEvent::Checked { good, total } => Self::Checked { good: *good, total: *total },
            TorrentEvent::Finished => Self::Finished,
            TorrentEvent::Failed { message, retry } => Self::Error { message, retry: *retry },
            TorrentEvent::Recovered => Self::Recovered,
            TorrentEvent::Banned(ip) => Self::Banned { ip: *ip },
            TorrentEvent::PeerFault { addr, fault } => Self::PeerFault { addr: *addr, fault },
            TorrentEvent::Tracker { url, reason } => Self::Tracker { url, reason },
            TorrentEvent::WebSeed { url, reason } => Self::WebSeed { url, reason },
            TorrentEvent::MoveProgress { done, total } => Self::MoveProgress { done: *done, total: *total },
            TorrentEvent::Moved { root, left } => Self::Moved { dir: root.to_string_lossy(), left },
            TorrentEvent::MoveFailed { message } => Self::Error { message, retry: false },
            TorrentEvent::Metadata { received, total, peers, candidates } => {
                Self::Fetching { received: *received, total: *total, peers: *peers, candidates: *candidates }
            }
            TorrentEvent::MetadataComplete
            | TorrentEvent::Selected
            | TorrentEvent::Renamed { .. }
            | TorrentEvent::Deleted { .. }
            | TorrentEvent::Removed => {
                return None;
            }
        })
    }

    /// The line for people; `None` for what goes to the log (`peer_fault`) or the progress display.
    pub fn words(&self) -> Option<String> {
        let text = match self {
            Self::Listening { port: 0, name, .. } => format!("{name} (not listening)"),
            Self::Listening { port, name, .. } => format!("{name} (listening on port {port})"),
            Self::Daemon { port, socket, listen, torrents } => {
                let listen = listen.as_ref().map(|address| format!(" and {address}")).unwrap_or_default();
                format!("daemon with {torrents} torrents on port {port}, controlled at {socket}{listen}")
            }
            Self::DaemonStopped => "stopped".to_owned(),
            Self::Checked { good, total } => format!("checked: {good} of {total} pieces are good"),
            Self::Resumed { pieces, total, saved_at } => {
                let age = crate::resume::age(*saved_at);
                format!("going on from the checkpoint written {age}: {pieces} of {total} pieces")
            }
            Self::Metadata { name, len, files, bytes_total } => {
                let (len, total) = (units::bytes(*len as u64), units::bytes(*bytes_total));
                let files = if *files == 1 { "1 file".to_owned() } else { format!("{files} files") };
                format!("found {name}: {files}, {total} (metadata of {len})")
            }
            Self::Finished => "finished: everything is verified and on disk".to_owned(),
            Self::Streaming { url } => format!("play {url}"),
            Self::Seeding => "seeding; press Ctrl-C to stop".to_owned(),
            Self::Error { message, retry: true } => {
                format!("paused: {message}; goes on by itself when it can")
            }
            Self::Error { message, retry: false } => format!("stopped: {message}"),
            Self::Recovered => "going on".to_owned(),
            Self::Note { message } => format!("note: {message}"),
            Self::Banned { ip } => format!("{ip} sent corrupt data and is avoided from now on"),
            Self::Tracker { url, reason } => format!("tracker {url}: {reason}"),
            Self::WebSeed { url, reason } => format!("web seed {url}: {reason}"),
            Self::Link { path, reason: Some(reason), .. } => format!("not linked: {path}: {reason}"),
            Self::Linked { files, missing, bytes } => {
                format!("linked {files} files ({}), {missing} not", units::bytes(*bytes))
            }
            Self::Moved { dir, left: [] } => format!("moved to {dir}"),
            Self::Moved { dir, left } => format!("moved to {dir}; still there: {}", left.join(", ")),
            Self::Config { key, to: "", needs_restart: false, .. } => format!("{key} is not set any more"),
            Self::Config { key, to, needs_restart: false, .. } => format!("{key} is {to} now"),
            Self::Config { key, .. } => format!("{key} has changed; that counts from the next start on"),
            Self::ConfigError { message } => format!("the configuration stays as it was: {message}"),
            Self::Missed { events } => format!("{events} messages were left out: the output is too slow"),
            // Shown as progress, or of no interest.
            Self::PeerFault { .. }
            | Self::Fetching { .. }
            | Self::Progress(_)
            | Self::MoveProgress { .. }
            | Self::Link { .. }
            | Self::Discovery(_)
            | Self::Stopped { .. } => return None,
        };
        Some(escape_for_terminal(&text).into_owned())
    }
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;

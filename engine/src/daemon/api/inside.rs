//! What goes on inside a daemon: pieces, trackers, shards and queues, for those who watch it.
//!
//! Role: part of the vocabulary of [`super`]. Owner: made by the daemon's thread and the HTTP thread. Invariant: answers
//! are bounded whatever the torrent is like: a map of pieces has [`CELLS_MAX`] cells at most, and a torrent keeps 200
//! trackers.

use std::time::Instant;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::ids::{InfoHash, PieceIndex};
use ccbt_protocol::tracker::schedule::TrackerStatus;
use ccbt_storage::stats::{DeviceStats, StorageStats};
use serde::{Deserialize, Serialize};

use super::ApiError;
use crate::{CacheStats, ShardStats};

/// Cells of a map at most.
const CELLS_MAX: u32 = 4096;
/// Cells for those who do not say.
const CELLS_DEFAULT: u32 = 256;

/// `GET /v1/torrents/{id}/pieces`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cells {
    /// Cells at most.
    #[serde(default)]
    pub cells: Option<u32>,
}

impl Cells {
    /// How many, if that is allowed.
    pub(crate) fn checked(self) -> Result<u32, ApiError> {
        match self.cells.unwrap_or(CELLS_DEFAULT) {
            cells @ 1..=CELLS_MAX => Ok(cells),
            _ => {
                Err(ApiError::new(400, "bad_query", format!("cells must be a number from 1 to {CELLS_MAX}")))
            }
        }
    }
}

/// How the pieces of a torrent are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces {
    /// Which torrent.
    pub info_hash: String,
    /// All pieces.
    pub pieces_total: u32,
    /// Pieces verified and written.
    pub pieces_done: u32,
    /// Whether the files were looked at; before, `pieces_done` is what was found so far.
    pub checked: bool,
    /// Percent of the pieces of each cell that are there: 0 only if none are, 100 only if all are. No more cells than pieces.
    pub cells: Vec<u8>,
}

impl Pieces {
    /// In so many cells at most.
    pub(crate) fn new(info_hash: InfoHash, cells: u32, have: &Bitfield, checked: bool) -> Self {
        let total = have.len();
        let cells = cells.min(total);
        let bound = |cell: u32| (u64::from(cell) * u64::from(total) / u64::from(cells.max(1))) as u32;
        let percent = |cell: u32| {
            let (first, end) = (bound(cell), bound(cell + 1));
            let done = (first..end).filter(|piece| have.has(PieceIndex(*piece))).count() as u32;
            match done {
                0 => 0,
                done if done == end - first => 100,
                done => (u64::from(done) * 100 / u64::from(end - first)).clamp(1, 99) as u8,
            }
        };
        Self {
            info_hash: info_hash.to_string(),
            pieces_total: total,
            pieces_done: have.count(),
            checked,
            cells: (0..cells).map(percent).collect(),
        }
    }
}

/// How announcing a torrent does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trackers {
    /// Which torrent.
    pub info_hash: String,
    /// In the order of its tiers.
    pub trackers: Vec<Tracker>,
}

/// How announcing to one tracker does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracker {
    /// Its announce URL.
    pub url: String,
    /// Its tier, from 0.
    pub tier: usize,
    /// Whether an announce is under way.
    pub announcing: bool,
    /// Seconds since its last answer; `null`: none yet.
    pub answered_seconds: Option<u64>,
    /// Failures since then.
    pub failures: u32,
    /// The last failure, until the next answer.
    pub error: Option<String>,
    /// The warning in its last answer.
    pub warning: Option<String>,
    /// Complete peers in its last answer.
    pub seeders: Option<u32>,
    /// Incomplete peers in its last answer.
    pub leechers: Option<u32>,
}

impl Trackers {
    /// As the torrent's home tells.
    pub(crate) fn new(info_hash: InfoHash, statuses: Vec<TrackerStatus>) -> Self {
        let now = Instant::now();
        let tracker = |status: TrackerStatus| Tracker {
            url: status.url,
            tier: status.tier,
            announcing: status.announcing,
            answered_seconds: status.answered.map(|at| now.saturating_duration_since(at).as_secs()),
            failures: status.failures,
            error: status.error,
            warning: status.warning,
            seeders: status.seeders,
            leechers: status.leechers,
        };
        Self { info_hash: info_hash.to_string(), trackers: statuses.into_iter().map(tracker).collect() }
    }
}

/// Shards, disks and hash threads: counts since the start, and queues as they are now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// In their order.
    pub shards: Vec<Shard>,
    /// Disks that were used.
    pub devices: Vec<Device>,
    /// Pieces that wait for their hash.
    pub hash_waiting: u64,
    /// Pieces hashed.
    pub hashed_pieces: u64,
    /// Their bytes.
    pub hashed_bytes: u64,
    /// Files that are open.
    pub open_files: u64,
}

/// One shard; bytes unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Received from peers, all in all.
    pub received: u64,
    /// Sent to peers, all in all.
    pub sent: u64,
    /// Connections that got through their handshake here (a count).
    pub peers: u64,
    /// Messages to other shards (a count).
    pub messages: u64,
    /// Pieces that hold memory now (a count).
    pub pieces: u64,
    /// Memory for pieces being fetched, in use.
    pub memory_used: u64,
    /// All of that memory.
    pub memory: u64,
    /// In the read cache.
    pub cache_used: u64,
    /// That it may have.
    pub cache: u64,
    /// Extents found in memory (a count).
    pub cache_hits: u64,
    /// Extents that had to be read (a count).
    pub cache_misses: u64,
}

/// One disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// As the kernel writes it: `major:minor`.
    pub name: String,
    /// Operations that it is given at a time at most.
    pub depth_limit: u32,
    /// Operations in flight.
    pub in_flight: u32,
    /// Parts of requests that wait.
    pub waiting: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Microseconds that 99 of 100 reads do not exceed (a power of two).
    pub read_p99_us: u64,
    /// As `read_p99_us`, of writes.
    pub write_p99_us: u64,
    /// Operations that failed for good.
    pub errors: u64,
    /// Operations handed to a kernel worker.
    pub punts: u64,
}

impl Engine {
    /// Of what the engine counts. A shard that has told nothing yet is not there.
    pub(crate) fn new(shards: &[ShardStats], caches: &[CacheStats], storage: &StorageStats) -> Self {
        let shard = |(at, stats): (usize, &ShardStats)| {
            let cache = caches.get(at).copied().unwrap_or_default();
            Shard {
                received: stats.received,
                sent: stats.sent,
                peers: stats.peers,
                messages: stats.messages,
                pieces: stats.load.pieces,
                memory_used: stats.load.download_used,
                memory: stats.load.download_capacity,
                cache_used: cache.resident,
                cache: cache.capacity,
                cache_hits: cache.hits,
                cache_misses: cache.misses,
            }
        };
        let device = |stats: &DeviceStats| Device {
            name: format!("{}:{}", stats.number >> 32, stats.number & 0xffff_ffff),
            depth_limit: stats.depth_limit,
            in_flight: stats.in_flight,
            waiting: stats.waiting_parts,
            read_bytes: stats.read.bytes,
            written_bytes: stats.write.bytes,
            read_p99_us: stats.read.latency.permille_us(990),
            write_p99_us: stats.write.latency.permille_us(990),
            errors: stats.errors,
            punts: stats.punts,
        };
        Self {
            shards: shards.iter().enumerate().map(shard).collect(),
            devices: storage.devices.iter().map(device).collect(),
            hash_waiting: storage.hash.jobs_waiting,
            hashed_pieces: storage.hash.jobs_done,
            hashed_bytes: storage.hash.bytes,
            open_files: storage.open_files,
        }
    }
}

#[cfg(test)]
#[path = "inside_tests.rs"]
mod tests;

//! What is asked of a daemon and answered, as JSON. `openapi.json` describes the same; a test compares them.
//!
//! Role: the vocabulary of the HTTP interface, for the daemon and its clients. Names and fields are a promise. Invariant:
//! unknown fields are refused, and every error says which field is wrong and what it may be.

mod inside;
mod peers;

use std::net::SocketAddr;
use std::path::PathBuf;

use ccbt_shards::binding::Binding;
use serde::{Deserialize, Deserializer, Serialize};

pub use super::api_network::{IpFilter, PortMapping};
use super::queue::Step;
use super::settings::SeedAction;

pub use inside::{Cells, Device, Engine, Pieces, Shard, Tracker, Trackers};
pub use peers::{Connection, Explanation, Trace, Traced, Way};

/// A field that may be left out (nothing changes), `null` (back to the configuration's value) or a value.
pub type Changed<T> = Option<Option<T>>;

fn changed<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Changed<T>, D::Error> {
    Option::<T>::deserialize(from).map(Some)
}

/// A goal of seeding: a number, or `"off"` for none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GoalValue(pub Option<f64>);

impl<'de> Deserialize<'de> for GoalValue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(from)?;
        match (value.as_f64(), value.as_str()) {
            (Some(number), _) if number >= 0.0 && number.is_finite() => Ok(Self(Some(number))),
            (_, Some("off")) => Ok(Self(None)),
            _ => Err(serde::de::Error::custom("a goal must be a number from 0 on, or \"off\"")),
        }
    }
}

impl Serialize for GoalValue {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(number) => to.serialize_f64(number),
            None => to.serialize_str("off"),
        }
    }
}

/// Addresses and network interfaces, between commas.
#[derive(Clone, Debug, PartialEq)]
pub struct Places(pub Binding);

impl<'de> Deserialize<'de> for Places {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = |()| serde::de::Error::custom("bind_to must be IP addresses and network interfaces");
        text.parse().map(Self).map_err(wrong)
    }
}

impl Serialize for Places {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

/// `PATCH /v1/torrents/{id}`. Rates are bytes per second, 0 = no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    /// Received from all its peers.
    #[serde(deserialize_with = "changed", skip_serializing_if = "Option::is_none")]
    pub down_limit: Changed<u64>,
    /// Sent to all its peers.
    #[serde(deserialize_with = "changed", skip_serializing_if = "Option::is_none")]
    pub up_limit: Changed<u64>,
    /// Received from each peer.
    #[serde(deserialize_with = "changed", skip_serializing_if = "Option::is_none")]
    pub peer_down_limit: Changed<u64>,
    /// Sent to each peer.
    #[serde(deserialize_with = "changed", skip_serializing_if = "Option::is_none")]
    pub peer_up_limit: Changed<u64>,
    /// Bytes to send, as a multiple of its size.
    #[serde(deserialize_with = "changed", skip_serializing_if = "Option::is_none")]
    pub seed_ratio: Changed<GoalValue>,
    /// Seconds to seed.
    #[serde(deserialize_with = "changed", skip_serializing_if = "Option::is_none")]
    pub seed_seconds: Changed<GoalValue>,
    /// What happens then.
    #[serde(deserialize_with = "changed", skip_serializing_if = "Option::is_none")]
    pub seed_action: Changed<SeedAction>,
    /// Run it whatever the queue's limits are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forced: Option<bool>,
}

/// `POST /v1/torrents`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// The torrent file in base64; empty with `magnet`.
    #[serde(default)]
    pub torrent: String,
    /// A magnet link in place of a torrent file: its metadata is looked for first.
    #[serde(default)]
    pub magnet: Option<String>,
    /// Absolute path of the folder of its files; left out: the configuration's.
    #[serde(default)]
    pub output: Option<PathBuf>,
    /// It rests until it is resumed.
    #[serde(default)]
    pub paused: bool,
    /// It stands before all others in the queue.
    #[serde(default)]
    pub top: bool,
    /// Peers to connect to.
    #[serde(default)]
    pub peers: Vec<SocketAddr>,
    /// Folders or files on HTTP servers to fetch from as well (BEP 19), also at local addresses.
    #[serde(default)]
    pub web_seeds: Vec<String>,
    /// Fetch only these files: numbers (`0,2-5`), or names with `*` and `?`. Empty: as configured, else all.
    #[serde(default)]
    pub files: Vec<String>,
    /// How much files are wanted: `FILES=PRIORITY`, the last one counts.
    #[serde(default)]
    pub file_priorities: Vec<String>,
    /// Addresses and network interfaces that it is bound to, between commas; left out: as configured.
    #[serde(default)]
    pub bind_to: Option<Places>,
    /// Values of its own.
    #[serde(default)]
    pub change: Change,
}

/// `DELETE /v1/torrents/{id}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// Its files go too.
    #[serde(default)]
    pub delete_data: bool,
}

/// `POST /v1/torrents/{id}/move`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// Absolute path of the new folder.
    pub to: PathBuf,
    /// Replace other files of the same names.
    #[serde(default)]
    pub overwrite: bool,
}

/// `POST /v1/torrents/{id}/queue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueStep {
    /// Where it goes.
    pub step: Step,
}

/// `POST /v1/torrents/{id}/peers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peers {
    /// Addresses to connect to.
    pub peers: Vec<SocketAddr>,
}

/// `PATCH /v1/limits`: all torrents together, in bytes per second; `null`: the configuration's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitChange {
    /// Receiving.
    #[serde(deserialize_with = "changed", skip_serializing_if = "Option::is_none")]
    pub down_limit: Changed<u64>,
    /// Sending.
    #[serde(deserialize_with = "changed", skip_serializing_if = "Option::is_none")]
    pub up_limit: Changed<u64>,
}

/// What a torrent of the daemon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// The metadata of a magnet link is looked for.
    FetchingMetadata,
    /// Its files are being opened.
    Opening,
    /// What is there is being hashed.
    Checking,
    /// It fetches.
    Downloading,
    /// It serves.
    Seeding,
    /// Its files are being moved.
    Moving,
    /// It waits in the queue.
    Queued,
    /// Somebody has paused it, or its goal of seeding is reached.
    Paused,
    /// It cannot go on; `error` says why.
    Error,
    /// It is being removed.
    Removing,
}

/// A torrent in a list. Bytes, bytes per second, and seconds (since 1970 where it is a date).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Torrent {
    /// 40 hexadecimal digits.
    pub info_hash: String,
    /// As the torrent file says, made safe for file systems.
    pub name: String,
    /// What it does.
    pub state: Activity,
    /// Place in the queue, from 1.
    pub position: usize,
    /// Whether it was paused.
    pub paused: bool,
    /// Whether it runs whatever the limits are.
    pub forced: bool,
    /// Size.
    pub bytes_total: u64,
    /// Verified and written.
    pub bytes_done: u64,
    /// Payload received, over all runs.
    pub downloaded: u64,
    /// Payload sent, over all runs.
    pub uploaded: u64,
    /// Sent, as a multiple of its size.
    pub ratio: f64,
    /// Payload received now.
    pub down_rate: u64,
    /// Payload sent now.
    pub up_rate: u64,
    /// Connections.
    pub peers: usize,
    /// Until it is complete at this rate.
    pub eta_seconds: Option<u64>,
    /// How long it was served while complete.
    pub seeded_seconds: u64,
    /// When it was added.
    pub added_at: i64,
    /// When it was complete; `null`: not yet, or it was when it was added.
    pub completed_at: Option<i64>,
    /// Folder of its files.
    pub output: String,
    /// Why it cannot go on, or what went wrong last.
    pub error: Option<String>,
}

/// A torrent with all that is known of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TorrentDetail {
    /// As in a list.
    #[serde(flatten)]
    pub torrent: Torrent,
    /// Pieces verified and written.
    pub pieces_done: u32,
    /// All pieces.
    pub pieces_total: u32,
    /// Bytes of a piece.
    pub piece_len: u32,
    /// Bytes received in vain in this run.
    pub wasted: u64,
    /// Pieces that failed their hash in this run.
    pub hash_failures: u64,
    /// Addresses known.
    pub candidates: usize,
    /// Limits that count; 0 = none.
    pub down_limit: u64,
    /// As `down_limit`.
    pub up_limit: u64,
    /// As `down_limit`, for each peer.
    pub peer_down_limit: u64,
    /// As `peer_down_limit`.
    pub peer_up_limit: u64,
    /// Goal that counts; `null` = none.
    pub seed_ratio: Option<f64>,
    /// As `seed_ratio`.
    pub seed_seconds: Option<u64>,
    /// What happens then.
    pub seed_action: SeedAction,
    /// Where its files are being moved.
    pub move_to: Option<String>,
    /// Bytes of that move that are done.
    pub move_done: Option<u64>,
    /// Its trackers in tiers.
    pub trackers: Vec<Vec<String>>,
    /// Its files, without padding.
    pub files: Vec<FileDetail>,
    /// Some of its connections.
    pub connections: Vec<Connection>,
}

/// A file of a torrent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDetail {
    /// Below the output folder, as the torrent says.
    pub path: String,
    /// Bytes.
    pub len: u64,
    /// How much it is wanted: `skip`, `low`, `normal` or `high`.
    pub priority: String,
}

/// The daemon as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Port for peers; 0 = none.
    pub port: u16,
    /// Torrents.
    pub torrents: usize,
    /// Of them those that fetch.
    pub downloading: usize,
    /// Those that serve.
    pub seeding: usize,
    /// Those that wait in the queue.
    pub queued: usize,
    /// Those that are paused.
    pub paused: usize,
    /// Those that cannot go on.
    pub failed: usize,
    /// Connections.
    pub peers: usize,
    /// Payload bytes per second received.
    pub down_rate: u64,
    /// Payload bytes per second sent.
    pub up_rate: u64,
    /// Payload received over all runs by the torrents that are there.
    pub downloaded: u64,
    /// As `downloaded`, sent.
    pub uploaded: u64,
    /// Limit of all together; 0 = none.
    pub down_limit: u64,
    /// As `down_limit`.
    pub up_limit: u64,
    /// UDP port of the DHT; 0 = none.
    pub dht_port: u16,
    /// Nodes of the DHT that are known.
    pub dht_nodes: usize,
    /// Look-ups of torrents in the DHT that have ended.
    pub dht_lookups: u64,
    /// Of them those after which a node has stored our announce.
    pub dht_announced: u64,
    /// Info-hashes that other nodes have announced to ours.
    pub dht_stored: usize,
    /// Announces of others that came over the local network.
    pub lsd_heard: u64,
    /// Tracker hosts that are known.
    pub tracker_hosts: usize,
    /// Of them those that do not answer.
    pub tracker_hosts_down: usize,
    /// Announces and scrapes that wait for their turn.
    pub tracker_waiting: usize,
    /// Those under way.
    pub tracker_running: usize,
    /// Those that were answered.
    pub tracker_answered: u64,
    /// Those that were not.
    pub tracker_failed: u64,
    /// Whether a router forwards our ports.
    pub port_mapping: PortMapping,
    /// Ranges of the IP filter; 0 = none.
    pub ip_filter_ranges: usize,
    /// Connections that the IP filter ended or did not let begin.
    pub filtered_connections: u64,
}

/// What the trackers of a torrent know of it (BEP 48).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrapes {
    /// Which torrent.
    pub info_hash: String,
    /// In the order of the torrent file.
    pub trackers: Vec<Scrape>,
}

/// What one tracker knows of a torrent; no counts: it does not tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrape {
    /// Its announce URL.
    pub url: String,
    /// Complete peers.
    pub seeders: Option<u32>,
    /// Incomplete peers.
    pub leechers: Option<u32>,
    /// Downloads ever completed.
    pub completed: Option<u32>,
    /// Why there is no answer.
    pub error: Option<String>,
}

/// What became of the files of a torrent that was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Which.
    pub info_hash: String,
    /// Files removed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What stays, and why.
    pub left: Vec<String>,
}

/// A line of `GET /v1/events`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A torrent was added.
    Added(Box<Torrent>),
    /// A torrent does something else, or goes on; at most once a second for each.
    Status(Box<Torrent>),
    /// What is there was looked at: so many pieces are good.
    #[allow(missing_docs)]
    Checked { info_hash: String, good: u32, total: u32 },
    /// A download is complete.
    #[allow(missing_docs)]
    Finished { info_hash: String },
    /// It cannot go on; with `retry` it tries again by itself.
    #[allow(missing_docs)]
    Error { info_hash: String, message: String, retry: bool },
    /// It goes on after an error.
    #[allow(missing_docs)]
    Recovered { info_hash: String },
    /// Its goal of seeding is reached.
    #[allow(missing_docs)]
    GoalReached { info_hash: String, action: SeedAction },
    /// Its files are in this folder now.
    #[allow(missing_docs)]
    Moved { info_hash: String, output: String },
    /// They stay where they were.
    #[allow(missing_docs)]
    MoveFailed { info_hash: String, message: String },
    /// The program for complete downloads has ended; `code` is `null` when it did not run or was killed.
    #[allow(missing_docs)]
    CommandEnded { info_hash: String, code: Option<i32> },
    /// It has left the daemon.
    #[allow(missing_docs)]
    Removed { info_hash: String },
    /// The daemon stops; the last line.
    Stopping,
    /// The reader was too slow and is cut off; the last line.
    Dropped,
}

/// Why something was not done; the body of every answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct ApiError {
    /// Of HTTP.
    #[serde(skip)]
    pub status: u16,
    /// For programs.
    pub code: String,
    /// For people: what is wrong and what may be done.
    pub message: String,
}

impl ApiError {
    /// An error of this HTTP status.
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into() }
    }
}

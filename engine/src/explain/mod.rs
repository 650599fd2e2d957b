//! Why a torrent is slow, stuck or not seeding.
//!
//! Role: [`explain`] makes findings of a [`Snapshot`]: what stops the torrent, then what slows it, then what may be worth
//! knowing, each with the numbers that show it and what to do. Pure. Called for [`crate::Session::explain`] and by the
//! daemon for `GET /v1/torrents/{id}/explain`. Invariants: no finding without evidence; the order is by severity, and
//! among equals that of the rules; what a stranger wrote is escaped.

mod rules;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use snapshot::Around;
pub use snapshot::{PeerFacts, Rest, Snapshot};

/// How much a finding matters, the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The torrent gets nowhere because of it.
    Stops,
    /// It would be faster, or seed more, without it.
    Slows,
    /// It may matter.
    Hint,
    /// Nothing is wrong.
    Fine,
}

/// What is found. The names are a promise, as those of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The disk has no room.
    DiskFull,
    /// It has failed.
    Error,
    /// Somebody has paused it.
    Paused,
    /// It waits in the queue of the daemon.
    Queued,
    /// Its goal of seeding is reached.
    GoalReached,
    /// Files are being opened, checked or moved.
    Busy,
    /// Nobody is connected.
    NoPeers,
    /// No address is known.
    NoAddresses,
    /// A tracker fails or refuses.
    TrackerError,
    /// Connections have to be encrypted, and peers refuse.
    EncryptionRefused,
    /// The IP filter keeps addresses out.
    IpFilter,
    /// Peers have what is missing, and none of them serves us.
    AllChoked,
    /// Peers that serve us do not answer.
    Snubbed,
    /// No connected peer has some missing pieces.
    PiecesMissing,
    /// The limit of all torrents is reached.
    GlobalLimit,
    /// The torrent's own limit is reached.
    TorrentLimit,
    /// The limit of each peer is reached.
    PeerLimit,
    /// Pieces wait for the disk.
    Disk,
    /// Pieces wait for hash threads.
    Hash,
    /// There is no memory for more pieces.
    Memory,
    /// It has all the connections that it may have.
    ConnectionLimit,
    /// Nobody wants what it has.
    NobodyInterested,
    /// Nobody can connect to us, or nobody does.
    PortUnreachable,
    /// Nobody can connect to us: we do not listen.
    NotListening,
    /// No peer has the metadata of a magnet link.
    NoMetadata,
    /// Peers have the metadata, and give none of it.
    MetadataRefused,
    /// What peers gave is not the metadata.
    MetadataCorrupt,
    /// What serves us sends no more.
    PeersSlow,
    /// It moves and nothing holds it back.
    Nothing,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub cause: Cause,
    /// How much it matters.
    pub severity: Severity,
    /// In words, with the numbers that matter most. Can be shown as it is.
    pub text: String,
    /// What to do.
    pub advice: String,
    /// The numbers that it was found by, by name. Rates are bytes per second.
    pub evidence: BTreeMap<String, Value>,
}

/// What is found in `snapshot`, the most important first; never empty.
pub fn explain(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = rules::apply(snapshot);
    findings.sort_by_key(|finding| finding.severity);
    findings
}

//! Trackers: what is asked and answered, the HTTP and UDP codecs, and the decision whom to announce to and when.
//!
//! Owner: the torrent's home shard keeps one [`schedule::Announcer`] per torrent; the control plane (`ccbt-shards`)
//! turns its [`schedule::Announce`]s into packets with [`http`] and [`udp`] and hands the answers back.
//! Invariant: everything read from a tracker is bounded here ([`PEERS_MAX`], [`TEXT_LEN_MAX`], [`clamp_interval`]), so
//! that nothing beyond this module sizes an allocation or a timer by what a stranger wrote.

pub mod dispatch;
pub mod http;
pub mod schedule;
pub mod udp;

use crate::ids::{InfoHash, PeerId};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Most peers kept from one answer; the rest is dropped. A home shard connects to fewer than this anyway.
pub const PEERS_MAX: usize = 2000;
/// Longest failure or warning text kept, in bytes.
pub const TEXT_LEN_MAX: usize = 512;
/// Longest tracker id kept, in bytes; a longer one is ignored, since echoing a part of it would name another session.
pub const TRACKER_ID_LEN_MAX: usize = 256;
/// Shortest interval that counts, whatever a tracker asks for; only its own `min interval` allows a sooner announce.
pub const INTERVAL_MIN: Duration = Duration::from_secs(60);
/// Longest time between two regular announces to one tracker, whatever it asks for.
pub const INTERVAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Used when a tracker gives no usable interval.
pub const INTERVAL_DEFAULT: Duration = Duration::from_secs(30 * 60);

/// What happened since the last announce (BEP 3, BEP 15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Event {
    /// A regular re-announce.
    #[default]
    None,
    /// The first announce of a session; repeated until one is answered.
    Started,
    /// The download has become complete in this session.
    Completed,
    /// The session ends: the tracker may forget us.
    Stopped,
}

/// One announce, the same for every kind of tracker (BEP 3, BEP 7, BEP 15, BEP 23).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnounceRequest {
    /// The swarm.
    pub info_hash: InfoHash,
    /// Our name in it.
    pub peer_id: PeerId,
    /// The TCP port we accept peers on; 0 when we accept none.
    pub port: u16,
    /// Payload bytes sent since `started`.
    pub uploaded: u64,
    /// Payload bytes received since `started`.
    pub downloaded: u64,
    /// Bytes still missing; 0 says that we seed.
    pub left: u64,
    /// What this announce tells.
    pub event: Event,
    /// Peers wanted; `None` lets the tracker choose.
    pub numwant: Option<u32>,
    /// Random per torrent and session: lets a tracker know us again after our address changed.
    pub key: u32,
    /// What this tracker answered last as its `tracker id`, echoed byte for byte. HTTP only.
    pub tracker_id: Option<Vec<u8>>,
    /// The address others shall reach us at, where it is not the one the request comes from. UDP carries only IPv4.
    pub ip: Option<IpAddr>,
    /// Our address of the other family than the one that the request goes by (BEP 7). HTTP only.
    pub other_ip: Option<IpAddr>,
}

impl AnnounceRequest {
    /// `numwant` as sent: whoever leaves wants no peers.
    fn peers_wanted(&self) -> Option<u32> {
        if self.event == Event::Stopped { Some(0) } else { self.numwant }
    }
}

/// A tracker's answer, bounded and cleaned of what no one can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnounceResponse {
    /// Time until the next regular announce, within [`INTERVAL_MIN`] and [`INTERVAL_MAX`].
    pub interval: Duration,
    /// Time before which even a forced announce is unwelcome, at most [`INTERVAL_MAX`].
    pub min_interval: Option<Duration>,
    /// Complete peers in the swarm, where the tracker says it.
    pub seeders: Option<u32>,
    /// Incomplete peers in the swarm, where the tracker says it.
    pub leechers: Option<u32>,
    /// At most [`PEERS_MAX`] addresses without port 0 and without repeats.
    pub peers: Vec<SocketAddr>,
    /// A text for the user, at most [`TEXT_LEN_MAX`] bytes, without control characters.
    pub warning: Option<String>,
    /// To be echoed in the next announce, at most [`TRACKER_ID_LEN_MAX`] bytes.
    pub tracker_id: Option<Vec<u8>>,
    /// Our address as the tracker sees it (BEP 24).
    pub external_ip: Option<IpAddr>,
}

impl AnnounceResponse {
    /// Adds what the same tracker has answered by another address family: peers of both, and the longer times.
    pub fn merge(&mut self, other: Self) {
        for peer in other.peers {
            if self.peers.len() < PEERS_MAX && !self.peers.contains(&peer) {
                self.peers.push(peer);
            }
        }
        self.interval = self.interval.max(other.interval);
        self.min_interval = self.min_interval.max(other.min_interval);
        self.seeders = self.seeders.max(other.seeders);
        self.leechers = self.leechers.max(other.leechers);
        self.warning = self.warning.take().or(other.warning);
        self.tracker_id = self.tracker_id.take().or(other.tracker_id);
        self.external_ip = self.external_ip.or(other.external_ip);
    }
}

impl Default for AnnounceResponse {
    fn default() -> Self {
        Self {
            interval: INTERVAL_DEFAULT,
            min_interval: None,
            seeders: None,
            leechers: None,
            peers: Vec::new(),
            warning: None,
            tracker_id: None,
            external_ip: None,
        }
    }
}

/// When a refusing tracker may be asked again (BEP 31).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryIn {
    /// Not before this time has passed.
    After(Duration),
    /// Never in this session.
    Never,
    /// After so long, and that is no wish of the tracker: its host does not answer.
    Down(Duration),
}

/// The tracker understood and refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the tracker refused the announce: {reason}")]
pub struct TrackerFailure {
    /// The tracker's own words, at most [`TEXT_LEN_MAX`] bytes, without control characters.
    pub reason: String,
    /// When to ask again, where the tracker says it (BEP 31).
    pub retry_in: Option<RetryIn>,
}

/// An interval in seconds as a tracker wrote it, made usable: zero, negative and ≥ 2^31 become [`INTERVAL_DEFAULT`],
/// the rest is brought into [`INTERVAL_MIN`]`..=`[`INTERVAL_MAX`].
pub fn clamp_interval(seconds: i64) -> Duration {
    if seconds <= 0 || seconds >= 1 << 31 {
        return INTERVAL_DEFAULT;
    }
    Duration::from_secs(seconds.unsigned_abs()).clamp(INTERVAL_MIN, INTERVAL_MAX)
}

/// Text from a stranger, fit for a log or a terminal: lossy UTF-8, no control characters, bounded.
fn clean_text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_LEN_MAX)]).chars() {
        let shown = if c.is_control() { ' ' } else { c };
        if text.len() + shown.len_utf8() > TEXT_LEN_MAX {
            break;
        }
        text.push(shown);
    }
    text.trim().to_owned()
}

/// Collects peers of one answer: bounded, without port 0, unspecified addresses and repeats.
#[derive(Default)]
struct PeerCollector {
    peers: Vec<SocketAddr>,
    seen: std::collections::HashSet<SocketAddr>,
}

impl PeerCollector {
    fn push(&mut self, ip: IpAddr, port: u16) {
        let peer = SocketAddr::new(ip.to_canonical(), port);
        if port != 0 && !ip.is_unspecified() && !self.is_full() && self.seen.insert(peer) {
            self.peers.push(peer);
        }
    }

    fn is_full(&self) -> bool {
        self.peers.len() >= PEERS_MAX
    }

    /// Compact entries of 6 bytes (IPv4, BEP 23); a ragged end is ignored.
    fn push_compact_v4(&mut self, bytes: &[u8]) {
        for entry in bytes.as_chunks::<6>().0 {
            let [a, b, c, d, port @ ..] = *entry;
            self.push(IpAddr::from([a, b, c, d]), u16::from_be_bytes(port));
        }
    }

    /// Compact entries of 18 bytes (IPv6, BEP 7); a ragged end is ignored.
    fn push_compact_v6(&mut self, bytes: &[u8]) {
        for entry in bytes.as_chunks::<18>().0 {
            let (ip, port) = entry.split_at(16);
            let ip: [u8; 16] = ip.try_into().expect("split at 16");
            self.push(IpAddr::from(ip), u16::from_be_bytes([port[0], port[1]]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_made_usable() {
        for odd in [0, -5, 1 << 31, i64::MAX, i64::MIN] {
            assert_eq!(clamp_interval(odd), INTERVAL_DEFAULT, "{odd}");
        }
        assert_eq!(clamp_interval(1), INTERVAL_MIN);
        assert_eq!(clamp_interval(1800), Duration::from_secs(1800));
        assert_eq!(clamp_interval((1 << 31) - 1), INTERVAL_MAX);
    }

    #[test]
    fn text_is_bounded_and_harmless() {
        assert_eq!(clean_text(b" \x1b[2Jno\r\nway "), "[2Jno  way");
        let long = clean_text(&[0xff; 4 * TEXT_LEN_MAX]);
        assert!(long.len() <= TEXT_LEN_MAX && !long.is_empty());
    }

    #[test]
    fn peers_are_bounded_and_cleaned() {
        let mut collector = PeerCollector::default();
        collector.push_compact_v4(&[
            127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 10, 0, 0, 1, 1, 2, 10, 0, 0, 1, 1, 2, 3,
        ]);
        assert_eq!(collector.peers, ["10.0.0.1:258".parse().unwrap()]);
        for port in 1..=u16::MAX {
            collector.push(IpAddr::from([10, 0, 0, 2]), port);
        }
        assert_eq!(collector.peers.len(), PEERS_MAX);
    }
}

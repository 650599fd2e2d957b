//! Time, and what travels: the event queue, links with delay, loss and bandwidth.
//!
//! Fault model. A link is a TCP stream: bytes arrive in order, after the sender's and the receiver's bandwidth, a latency
//! of its own and jitter; a lost packet costs a retransmission time-out, and what follows waits behind it. Links are
//! delayed independently, so what different peers say arrives in any order. A link may break at any moment. A host that
//! crashes says nothing: its peers find out by a reset when they send to its successor, or by its silence.

use std::cmp::Ordering;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ccbt_protocol::geometry::Block;
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::lease::{FromSatellite, ToSatellite};
use ccbt_protocol::picker::PeerKey;

/// Block bytes that may be on the way over one link: a TCP window.
pub const LINK_WINDOW: usize = 256 * 1024;

/// How good the network is.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// One way, drawn once for each link, in milliseconds.
    pub latency_ms: std::ops::Range<u64>,
    /// On top, drawn for each packet, in milliseconds.
    pub jitter_ms: u64,
    /// Packets that have to be sent again.
    pub loss: f64,
    /// Links that break, for each packet.
    pub breaks: f64,
    /// Dials and answers of the tracker that come to nothing.
    pub dial_loss: f64,
}

impl NetConfig {
    pub const GOOD: Self = Self { latency_ms: 5..60, jitter_ms: 5, loss: 0.0, breaks: 0.0, dial_loss: 0.0 };
    pub const BAD: Self =
        Self { latency_ms: 5..200, jitter_ms: 50, loss: 0.02, breaks: 0.0002, dial_loss: 0.1 };
}

/// What travels over a link.
#[derive(Debug)]
pub enum Packet {
    /// Whole messages.
    Bytes(Vec<u8>),
    /// A PIECE message. The number stands for its 16 KiB.
    Block(Block, u64),
}

impl Packet {
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Block(block, _) => block.len as usize + 13,
        }
    }
}

/// Between two shards of one host.
#[derive(Debug)]
pub enum LeaseMessage {
    Down(ToSatellite),
    Up(FromSatellite),
}

/// What happens to a node; `epoch` is its run: a restarted one hears nothing of what was meant for the one before.
#[derive(Debug)]
pub enum ToNode {
    Tick,
    Uplink,
    Settle,
    Announce,
    Told(Vec<SocketAddr>),
    Dialled(SocketAddr),
    Hashed(usize, PieceIndex),
    Written(usize, PieceIndex),
    Lease(usize, LeaseMessage),
}

#[derive(Debug)]
pub enum What {
    Arrive { link: usize, end: usize, packet: Packet },
    Reset { link: usize, end: usize },
    Release { link: usize, end: usize, block: Block },
    Node { node: usize, epoch: u32, what: ToNode },
}

#[derive(Debug)]
pub struct Entry {
    pub at: Instant,
    pub sequence: u64,
    pub what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// Whose peer a connection is at one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// Of a magnet that lacks its metadata.
    Fetching(PeerKey),
    /// Of a part of the torrent.
    Part(usize, PeerKey),
}

#[derive(Debug)]
pub struct End {
    pub node: usize,
    pub whose: Whose,
    pub open: bool,
    /// As this end knows the other one.
    pub addr: SocketAddr,
    /// When the last of what is on the way to this end arrives.
    pub last_arrival: Instant,
    /// Block bytes on the way to this end.
    pub in_flight: usize,
    pub releases: Vec<Block>,
}

#[derive(Debug)]
pub struct Link {
    pub ends: [End; 2],
    pub latency: Duration,
}

/// How long `bytes` take at `rate` bytes per second.
pub fn duration_of(bytes: usize, rate: u64) -> Duration {
    Duration::from_nanos(bytes as u64 * 1_000_000_000 / rate.max(1))
}

//! Rate meters and rate limits.
//!
//! Role: [`RateMeter`] measures what passed, the rest limits what may pass. A limit is a [`TokenBucket`]; one that
//! several shards share is kept by one of them as a [`SharedBucket`], which deals its tokens out, and each spends
//! from a [`Quota`]. Owner: see each. Time comes in; time that runs backwards counts as standing still.
//!
//! Sizes follow from the rate. What passes at once is small enough for peers to take turns many times a second, and
//! large enough that a fast limit costs no more calls than none; a burst covers what comes while a thread is late.

mod bucket;
mod meter;
mod overhead;
mod quota;
mod shared;

pub use bucket::TokenBucket;
pub use meter::RateMeter;
pub use overhead::Overhead;
pub use quota::Quota;
pub use shared::SharedBucket;

const NANOS: u64 = 1_000_000_000;

/// Least number of bytes that is worth a message or a call: a block with its header. With less, blocks of many peers
/// would grow in step, and all of them be complete at once.
const LEAST: u64 = 16 * 1024 + 13;
/// Most bytes that one receive or send moves under a limit.
const QUANTUM_MAX: u64 = 1 << 20;
/// Least burst: two blocks with their headers.
const BURST_MIN: u64 = 33 * 1024;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From peers to us.
    Down,
    /// From us to peers.
    Up,
}

impl Way {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Down, Self::Up];

    /// The opposite one, where acknowledgements go.
    pub fn back(self) -> Self {
        match self {
            Self::Down => Self::Up,
            Self::Up => Self::Down,
        }
    }
}

/// Limits of one torrent, in bytes per second; 0 = unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TorrentLimits {
    /// Received from all its peers together.
    pub down: u64,
    /// Sent to all its peers together.
    pub up: u64,
    /// Received from each of its peers.
    pub peer_down: u64,
    /// Sent to each of its peers.
    pub peer_up: u64,
}

impl TorrentLimits {
    /// Of all peers together.
    pub fn all(&self, way: Way) -> u64 {
        match way {
            Way::Down => self.down,
            Way::Up => self.up,
        }
    }

    /// Of each peer.
    pub fn each(&self, way: Way) -> u64 {
        match way {
            Way::Down => self.peer_down,
            Way::Up => self.peer_up,
        }
    }
}

/// Bytes that one connection moves at a time under a limit of `rate`: 4 ms' worth, and a block at least.
pub fn quantum(rate: u64) -> u64 {
    (rate / 256).clamp(LEAST, QUANTUM_MAX)
}

/// Bytes that may pass at once after a pause: 50 ms' worth.
pub fn burst(rate: u64) -> u64 {
    (rate / 20).max(BURST_MIN)
}

//! One torrent on several shards: who fetches which piece.
//!
//! Role: the home shard's [`Lender`] gives whole pieces to satellites, each satellite's [`Borrower`] asks for them
//! in time and reports what it has fetched. Pure: messages are values, times are passed in. Owners: the torrent's
//! home shard and its satellites. Invariant: a piece is fetched by at most one shard at a time
//! ([`crate::picker`]'s Elsewhere), and every piece that was lent is answered once, by [`FromSatellite::Fetched`]
//! or [`FromSatellite::Returned`], or else comes back with [`Lender::leave`].
//!
//! Messages are for batches, not for blocks: a lease is sized by what its satellite fetches in a fraction of a
//! second, and news is gathered for a while that grows with the number of parts ([`gather`]), since each piece is news
//! for all of them.

mod borrower;
mod lender;

pub use borrower::Borrower;
pub use lender::Lender;

use std::time::Duration;

use crate::bitfield::Bitfield;
use crate::ids::PieceIndex;
use crate::picker::{PeerHas, Priority};

/// News of fetched pieces waits so long for more in a torrent of up to seven parts.
pub const GATHER: Duration = Duration::from_millis(20);
/// So many fetched pieces are told at once.
pub const GATHER_PIECES: usize = 32;
/// When more than four parts have to be told, it takes so many pieces for each of them.
const GATHER_PIECES_PER_PART: usize = 8;

/// How long news waits in a torrent of so many parts: 20 ms up to seven, 320 ms for 64.
fn gather(parts: usize) -> Duration {
    GATHER * (parts / 4).max(1) as u32
}
/// Pieces of one lease at most. Bounds what a satellite that stalls can hold up.
pub const LEASE_MAX: u32 = 128;

/// A part of a torrent that completed nothing for so long is in the way of parts that have nothing to do.
pub const STALLED: Duration = Duration::from_secs(2);

/// What the peers of a satellite have together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// A seed is among them.
    All,
    /// These pieces.
    Some(Bitfield),
}

impl Reach {
    fn as_has(&self) -> PeerHas<'_> {
        match self {
            Self::All => PeerHas::All,
            Self::Some(field) => PeerHas::Some(field),
        }
    }
}

/// From a torrent's home to a satellite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToSatellite {
    /// These are yours to fetch.
    Lease {
        /// The pieces.
        pieces: Vec<PieceIndex>,
        /// Whether there are more to be had.
        more: bool,
    },
    /// Nothing is left to lend now; the request stands.
    NoMore,
    /// Other shards have fetched these: they are ours.
    Have(Vec<PieceIndex>),
    /// These turned out damaged: they are not ours any more, and not yours to fetch.
    Lost(Vec<PieceIndex>),
    /// How much pieces are wanted, where that changed.
    Priorities(Vec<(PieceIndex, Priority)>),
    /// Others have nothing to do: return what you have not begun.
    Recall,
}

/// From a satellite to the torrent's home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromSatellite {
    /// I could do with so many more pieces. Stands until a lease answers it; a later one replaces it.
    Want {
        /// Pieces.
        count: u32,
        /// What my peers have, when that may have changed since the last time.
        reach: Option<Reach>,
    },
    /// These pieces of my lease are verified and written.
    Fetched(Vec<PieceIndex>),
    /// These pieces of my lease are not begun and no longer mine.
    Returned(Vec<PieceIndex>),
    /// These pieces turned out damaged on disk.
    Lost(Vec<PieceIndex>),
}

#[cfg(test)]
mod tests;

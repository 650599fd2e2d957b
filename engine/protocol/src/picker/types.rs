//! What the picker is told and what it answers. Plain values; used by [`crate::torrent`] and by who
//! configures it.

use crate::bitfield::Bitfield;
use crate::ids::PieceIndex;
use crate::padding::Padding;

/// Names one connection of a torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey(pub u32);

/// In which order pieces are begun. A higher [`Priority`] always comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Fewest copies first, ties at random.
    #[default]
    RarestFirst,
    /// Rising order.
    Sequential,
    /// Rising order, starting behind the piece that was begun last.
    RoundRobin,
}

/// How a picker behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PickerConfig {
    /// The order.
    pub strategy: Strategy,
    /// Most peers asked for one block at once, when every block is here or asked for. 0 and 1 = no endgame.
    pub endgame_duplicates: usize,
    /// With [`Strategy::RarestFirst`]: while fewer pieces than this are begun or ours, the next one is picked
    /// at random, because rare pieces are slow to come and a newcomer has nothing to trade.
    pub random_first: u32,
    /// Blocks of these zeros are not asked for: memory for a piece comes with them ([`Slots::acquire`]).
    pub padding: Padding,
}

impl Default for PickerConfig {
    fn default() -> Self {
        Self {
            strategy: Strategy::RarestFirst,
            endgame_duplicates: 2,
            random_first: 4,
            padding: Padding::default(),
        }
    }
}

/// How much a piece is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Not at all.
    Skip,
    /// After the others.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before the others.
    High,
}

impl Priority {
    /// All, rising.
    pub const ALL: [Self; 4] = [Self::Skip, Self::Low, Self::Normal, Self::High];

    /// In lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }

    /// The one with this [`Self::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.name() == name)
    }
}

/// What a peer has.
#[derive(Clone, Copy, Debug)]
pub enum PeerHas<'a> {
    /// Everything.
    All,
    /// These.
    Some(&'a Bitfield),
}

impl PeerHas<'_> {
    /// Whether the peer has `piece`.
    pub fn has(&self, piece: PieceIndex) -> bool {
        match self {
            Self::All => true,
            Self::Some(field) => field.has(piece),
        }
    }
}

/// A peer that blocks are picked for.
#[derive(Clone, Copy, Debug)]
pub struct PeerView<'a> {
    /// The peer.
    pub key: PeerKey,
    /// What it has.
    pub has: PeerHas<'a>,
    /// Only these pieces may be asked for (BEP 6 allowed-fast, while choked).
    pub only: Option<&'a [PieceIndex]>,
    /// What it suggests (BEP 6).
    pub suggested: &'a [PieceIndex],
    /// It is far slower than others: what is needed next is better asked of them.
    pub slow: bool,
}

impl PeerView<'_> {
    /// Whether blocks of `piece` may be asked of this peer.
    pub(super) fn offers(&self, piece: PieceIndex) -> bool {
        self.has.has(piece) && self.only.is_none_or(|only| only.contains(&piece))
    }
}

/// What a received block did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// It was missing.
    Accepted,
    /// It was the last missing one of its piece: the piece waits for its verdict now.
    PieceComplete,
    /// It is here already.
    Duplicate,
    /// Its piece is not being fetched, or is reserved for another peer.
    Unwanted,
}

/// Memory for pieces.
pub trait Slots {
    /// Takes memory for a piece of `len` bytes, with zeros where the torrent has padding; `false` when there is none.
    fn acquire(&mut self, piece: PieceIndex, len: u32) -> bool;
}

/// Counts what a search looks at, so that tests can bound it. Free in production.
#[derive(Debug, Default)]
pub(super) struct Steps {
    #[cfg(test)]
    pub count: std::cell::Cell<u64>,
}

impl Steps {
    pub fn add(&self, steps: u64) {
        #[cfg(test)]
        self.count.set(self.count.get() + steps);
        let _ = steps;
    }
}

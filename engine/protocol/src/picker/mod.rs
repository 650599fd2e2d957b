//! Which piece and block next.

use rand::Rng;

use crate::bitfield::Bitfield;
use crate::geometry::{Block, Geometry};
use crate::ids::PieceIndex;

/// Names one connection of a torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey(pub u32);

/// In which order pieces are fetched.
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
    /// Peers asked for one block at most in endgame.
    pub endgame_duplicates: usize,
    /// Pieces picked at random before rarest-first starts.
    pub random_first: u32,
}

impl Default for PickerConfig {
    fn default() -> Self {
        Self { strategy: Strategy::RarestFirst, endgame_duplicates: 2, random_first: 4 }
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

/// What a peer has.
#[derive(Clone, Copy, Debug)]
pub enum PeerHas<'a> {
    /// Everything.
    All,
    /// These.
    Some(&'a Bitfield),
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
}

/// What a received block did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// It was missing.
    Accepted,
    /// It was the last missing one of its piece.
    PieceComplete,
    /// It is here already.
    Duplicate,
    /// Its piece is not being fetched.
    Unwanted,
}

/// Memory for pieces.
pub trait Slots {
    /// Takes memory for a piece of `len` bytes; `false` when there is none.
    fn acquire(&mut self, piece: PieceIndex, len: u32) -> bool;
}

/// See the module.
#[derive(Debug)]
pub struct Picker {
    have: Bitfield,
}

#[allow(unused_variables, missing_docs)]
impl Picker {
    pub fn new(geometry: Geometry, config: PickerConfig, have: Bitfield) -> Self { todo!() }
    pub fn have(&self) -> &Bitfield { &self.have }
    pub fn is_finished(&self) -> bool { todo!() }
    pub fn set_priority(&mut self, piece: PieceIndex, priority: Priority) { todo!() }
    pub fn priority(&self, piece: PieceIndex) -> Priority { todo!() }
    pub fn requesters(&self, block: Block) -> usize { todo!() }
    pub fn pick(&mut self, view: &PeerView<'_>, max: usize, slots: &mut dyn Slots, rng: &mut impl Rng, out: &mut Vec<Block>) { todo!() }
    pub fn block_received(&mut self, peer: PeerKey, block: Block, cancels: &mut Vec<(PeerKey, Block)>) -> Received { todo!() }
    pub fn request_failed(&mut self, peer: PeerKey, block: Block) { todo!() }
    pub fn seed_added(&mut self) { todo!() }
    pub fn seed_removed(&mut self) { todo!() }
    pub fn peer_bitfield_added(&mut self, field: &Bitfield) { todo!() }
    pub fn peer_bitfield_removed(&mut self, field: &Bitfield) { todo!() }
    pub fn peer_have(&mut self, piece: PieceIndex) { todo!() }
    pub fn peer_gone(&mut self, peer: PeerKey) { todo!() }
    pub fn is_interesting(&self, has: &PeerHas<'_>) -> bool { todo!() }
    pub fn piece_verified(&mut self, piece: PieceIndex) { todo!() }
    pub fn piece_written(&mut self, piece: PieceIndex) { todo!() }
    pub fn piece_failed(&mut self, piece: PieceIndex, only_from: Option<PeerKey>) { todo!() }
    pub fn write_failed(&mut self, piece: PieceIndex) { todo!() }
    pub fn invalidate(&mut self, piece: PieceIndex) { todo!() }
    pub fn senders(&self, piece: PieceIndex) -> impl Iterator<Item = (u32, PeerKey)> + '_ { std::iter::empty() }
    pub fn idle_active(&self) -> impl Iterator<Item = PieceIndex> + '_ { std::iter::empty() }
    pub fn abandon(&mut self, piece: PieceIndex) -> bool { todo!() }
}

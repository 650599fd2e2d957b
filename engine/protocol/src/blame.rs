//! Ban by block: finds which peer lied in a piece that failed its hash.

use crate::ids::PieceIndex;

/// Names a peer across reconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdent(pub u64);

/// See the module.
#[derive(Debug, Default)]
pub struct Blame {}

#[allow(unused_variables, missing_docs)]
impl Blame {
    pub fn new() -> Self { todo!() }
    /// Whether `piece` failed before and is not settled.
    pub fn suspects(&self, piece: PieceIndex) -> bool { todo!() }
    /// The piece failed. A single sender is guilty at once and returned.
    pub fn record_failure(&mut self, piece: PieceIndex, blocks: impl Iterator<Item = (u32, PeerIdent, [u8; 20])>) -> Option<PeerIdent> { todo!() }
    /// The piece is good now: whoever sent a block that differs, lied.
    pub fn on_success(&mut self, piece: PieceIndex, digests: impl Iterator<Item = [u8; 20]>) -> Vec<PeerIdent> { todo!() }
    /// Whom to fetch the whole piece from next.
    pub fn refetch_from(&mut self, piece: PieceIndex, candidates: &[PeerIdent]) -> Option<PeerIdent> { todo!() }
}

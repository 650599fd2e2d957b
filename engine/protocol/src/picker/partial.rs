//! Begun pieces whose blocks outlast their memory: they are kept where they belong in the files, and taken up again.
//!
//! Role: says which blocks of a begun piece are here, and begins a piece with blocks that an earlier run left. Owner: the
//! picker; the caller writes and reads the bytes. Invariant: blocks of an earlier run are nobody's ([`FROM_DISK`]): no
//! peer of now is blamed for them. They were never verified, so they count for nothing before their piece is.

use super::{PeerKey, Picker, State};
use crate::bitfield::Bitfield;
use crate::geometry::Geometry;
use crate::ids::PieceIndex;

/// In the place of a sender: the block was read back from a file. No peer has this key.
pub const FROM_DISK: PeerKey = PeerKey(u32::MAX);

/// The same: the block is padding.
pub const FROM_PADDING: PeerKey = PeerKey(u32::MAX - 2);

/// A piece that is not ours, and those of its 16 KiB blocks that are in its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialPiece {
    /// The piece.
    pub piece: PieceIndex,
    /// Its blocks by their number within the piece.
    pub blocks: Bitfield,
}

impl PartialPiece {
    /// Whether the torrent has such a piece.
    pub fn fits(&self, geometry: Geometry) -> bool {
        geometry.contains(self.piece) && self.blocks.len() == geometry.block_count(self.piece)
    }

    /// Whether there is something to be had, and something left to fetch.
    pub fn is_useful(&self) -> bool {
        self.blocks.count() > 0 && !self.blocks.is_full()
    }

    /// Whether the `nth` block is there.
    pub fn has(&self, nth: u32) -> bool {
        self.blocks.has(PieceIndex(nth))
    }

    /// Bytes of its blocks that are there. It has to fit.
    pub fn bytes(&self, geometry: Geometry) -> u64 {
        let here = geometry.blocks(self.piece).enumerate().filter(|(nth, _)| self.has(*nth as u32));
        here.map(|(_, block)| u64::from(block.len)).sum()
    }
}

impl Picker {
    /// The blocks of a begun piece that are here; `None` when it is not begun, or complete.
    pub fn partial(&self, piece: PieceIndex) -> Option<PartialPiece> {
        let active = self.begun.get(self.active_slot(piece)?);
        let mut blocks = Bitfield::empty(active.len());
        for (nth, _) in active.senders().filter(|(_, from)| *from != FROM_PADDING) {
            blocks.insert(PieceIndex(nth));
        }
        Some(PartialPiece { piece, blocks })
    }

    /// Begins a missing piece with the blocks that are here already, in memory which the caller holds. `false`, and
    /// nothing happens, when it is not missing, or not to be begun like this.
    pub fn take_back(&mut self, partial: &PartialPiece) -> bool {
        let piece = partial.piece;
        let begins = partial.fits(self.geometry) && partial.is_useful() && self.rarity.contains(piece);
        if !begins {
            return false;
        }
        self.leaves_order(piece);
        let slot = self.begun.push(piece, self.geometry.block_count(piece));
        self.states[piece.as_usize()] = State::Active(slot);
        for nth in partial.blocks.iter() {
            self.begun.get_mut(slot).receive(nth.0, FROM_DISK, |_| {});
        }
        self.fill_padding(slot);
        self.refile(piece);
        true
    }

    /// Padding is there from the start. One block stays to be asked for, so that the piece is completed like any other.
    pub(super) fn fill_padding(&mut self, slot: u32) {
        let active = self.begun.get_mut(slot);
        for nth in self.config.padding.blocks(self.geometry, active.piece) {
            if active.missing() > 1 {
                active.receive(nth, FROM_PADDING, |_| {});
            }
        }
    }
}

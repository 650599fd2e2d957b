//! Memory for pieces being fetched, as the picker asks for it.
//!
//! Owner: a torrent's [`crate::torrents::Home`]. Invariant: a piece has memory once, and all torrents of a shard together
//! hold no more than [`PIECES_MAX`] pieces.

use std::collections::HashMap;

use ccbt_protocol::geometry::{Block, Geometry};
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::padding::Padding;
use ccbt_protocol::picker::Slots;
use ccbt_storage::arena::Partition;
use ccbt_storage::layout::LayoutSpec;

use crate::ring::{LivePiece, Places};
use crate::shard::PIECES_MAX;

/// The memory of pieces being fetched.
#[derive(Default)]
pub(crate) struct LivePieces(pub HashMap<PieceIndex, LivePiece>);

impl Places for LivePieces {
    fn piece(&self, block: Block) -> Option<&LivePiece> {
        self.0.get(&block.piece)
    }
}

/// Gives the picker memory for pieces.
pub(crate) struct SlotSource<'a> {
    pub live: &'a mut LivePieces,
    pub partition: &'a mut Partition,
    pub spec: &'a LayoutSpec,
    pub padding: &'a Padding,
    pub geometry: Geometry,
    /// Pieces of all torrents of the shard that hold memory.
    pub pieces: &'a mut usize,
    /// The torrent is too far behind to begin pieces.
    pub behind: bool,
    /// It was refused one for that.
    pub held_back: bool,
    pub starved: bool,
}

impl Slots for SlotSource<'_> {
    fn acquire(&mut self, piece: PieceIndex, len: u32) -> bool {
        if self.behind {
            self.held_back = true;
            return false;
        }
        let room = *self.pieces < PIECES_MAX;
        let Some(mut buf) = room.then(|| self.partition.alloc(len, self.spec.phase(piece))).flatten() else {
            self.starved = true;
            return false;
        };
        for bytes in self.padding.bytes(self.geometry, piece) {
            buf.as_mut_slice()[bytes.start as usize..bytes.end as usize].fill(0);
        }
        *self.pieces += 1;
        let before = self.live.0.insert(piece, LivePiece::new(buf));
        assert!(before.is_none(), "piece {piece} has memory already");
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rig;

    #[test]
    fn memory_comes_with_zeros_where_padding_is() {
        let mut rig = Rig::finished();
        let home = &mut rig.shard.homes[0];
        let geometry = home.meta.geometry;
        let len = geometry.piece_size(PieceIndex(1));
        let mut used = rig.shard.partition.alloc(len, home.spec.phase(PieceIndex(1))).unwrap();
        used.as_mut_slice().fill(7);
        rig.shard.partition.free(used);
        let start = geometry.piece_start(PieceIndex(1));
        let mut slots = SlotSource {
            live: &mut home.live,
            partition: &mut rig.shard.partition,
            spec: &home.spec,
            padding: &Padding::new(std::iter::once(start + 100..start + 300)),
            geometry,
            pieces: &mut rig.shard.pieces,
            behind: false,
            held_back: false,
            starved: false,
        };
        assert!(slots.acquire(PieceIndex(1), len));
        let bytes = home.live.0[&PieceIndex(1)].read(0, len as usize);
        assert_eq!((bytes[99], bytes[300]), (7, 7), "the same memory");
        assert!(bytes[100..300].iter().all(|byte| *byte == 0));
    }
}

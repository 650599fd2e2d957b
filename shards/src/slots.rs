//! Memory for pieces being fetched, as the picker asks for it.
//!
//! Owner: a torrent's [`crate::torrents::Home`]. Invariant: a piece has memory once, and all torrents of a shard together
//! hold no more than [`PIECES_MAX`] pieces.

use std::collections::HashMap;

use ccbt_protocol::geometry::Block;
use ccbt_protocol::ids::PieceIndex;
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
        let Some(buf) = room.then(|| self.partition.alloc(len, self.spec.phase(piece))).flatten() else {
            self.starved = true;
            return false;
        };
        *self.pieces += 1;
        let before = self.live.0.insert(piece, LivePiece::new(buf));
        assert!(before.is_none(), "piece {piece} has memory already");
        true
    }
}

//! How a torrent's bytes divide into pieces and blocks.
//!
//! Invariant: a [`Geometry`] that exists is consistent — its piece count is the one its sizes ask for — so every other
//! module indexes with it without re-checking. Built by [`crate::metainfo`] and copied freely (16 bytes).

use crate::ids::PieceIndex;

/// Bytes in a block, the unit of REQUEST and PIECE; only a piece's last block may be shorter (BEP 3 in practice).
pub const BLOCK_LEN: u32 = 16 * 1024;
/// Largest block length that a peer may ask of us (BEP 3 clients close on more).
pub const MAX_REQUEST_LEN: u32 = 128 * 1024;
/// Largest piece length accepted; libtorrent's bound too.
pub const MAX_PIECE_LEN: u32 = 512 * 1024 * 1024;
/// Largest number of pieces accepted: 20 bytes of hash each, 2^26 makes a 1.3 GB torrent file.
pub const MAX_PIECES: u32 = 1 << 26;

/// Sizes of one torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    total_len: u64,
    piece_len: u32,
    piece_count: u32,
}

/// A range inside one piece, as REQUEST, PIECE, CANCEL and REJECT name it. Units: bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block {
    /// The piece.
    pub piece: PieceIndex,
    /// First byte within the piece.
    pub begin: u32,
    /// Length in bytes.
    pub len: u32,
}

/// Why sizes make no torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Piece length out of bounds.
    #[error("piece length {0} is not between 1 and {MAX_PIECE_LEN}")]
    PieceLen(u64),
    /// More pieces than we are ready to index.
    #[error("{0} pieces, at most {MAX_PIECES} supported")]
    TooManyPieces(u64),
    /// No bytes at all.
    #[error("the torrent is empty")]
    Empty,
}

impl Geometry {
    /// Sizes of a torrent of `total_len` bytes in pieces of `piece_len` bytes, the last one possibly shorter.
    pub fn new(total_len: u64, piece_len: u64) -> Result<Self, GeometryError> {
        if piece_len == 0 || piece_len > u64::from(MAX_PIECE_LEN) {
            return Err(GeometryError::PieceLen(piece_len));
        }
        if total_len == 0 {
            return Err(GeometryError::Empty);
        }
        let pieces = total_len.div_ceil(piece_len);
        if pieces > u64::from(MAX_PIECES) {
            return Err(GeometryError::TooManyPieces(pieces));
        }
        Ok(Self { total_len, piece_len: piece_len as u32, piece_count: pieces as u32 })
    }

    /// Bytes in the torrent, padding included.
    pub fn total_len(&self) -> u64 {
        self.total_len
    }

    /// Bytes in every piece but the last.
    pub fn piece_len(&self) -> u32 {
        self.piece_len
    }

    /// Number of pieces, at least 1.
    pub fn piece_count(&self) -> u32 {
        self.piece_count
    }

    /// All pieces, rising.
    pub fn pieces(&self) -> impl Iterator<Item = PieceIndex> + use<> {
        (0..self.piece_count).map(PieceIndex)
    }

    /// Whether `piece` exists.
    pub fn contains(&self, piece: PieceIndex) -> bool {
        piece.0 < self.piece_count
    }

    /// First byte of `piece` within the torrent.
    pub fn piece_start(&self, piece: PieceIndex) -> u64 {
        u64::from(piece.0) * u64::from(self.piece_len)
    }

    /// Bytes in `piece`. Panics when there is no such piece.
    pub fn piece_size(&self, piece: PieceIndex) -> u32 {
        assert!(self.contains(piece), "piece {piece} of {}", self.piece_count);
        (self.total_len - self.piece_start(piece)).min(u64::from(self.piece_len)) as u32
    }

    /// Number of blocks in `piece`.
    pub fn block_count(&self, piece: PieceIndex) -> u32 {
        self.piece_size(piece).div_ceil(BLOCK_LEN)
    }

    /// The `nth` block of `piece`. Panics when there is none.
    pub fn block(&self, piece: PieceIndex, nth: u32) -> Block {
        let size = self.piece_size(piece);
        let begin = nth * BLOCK_LEN;
        assert!(begin < size, "block {nth} of piece {piece}");
        Block { piece, begin, len: BLOCK_LEN.min(size - begin) }
    }

    /// All blocks of `piece`, rising.
    pub fn blocks(&self, piece: PieceIndex) -> impl Iterator<Item = Block> + use<> {
        let this = *self;
        (0..self.block_count(piece)).map(move |nth| this.block(piece, nth))
    }

    /// Whether `block` lies inside its piece, is not empty and no longer than [`MAX_REQUEST_LEN`].
    pub fn allows(&self, block: Block) -> bool {
        self.contains(block.piece)
            && (1..=MAX_REQUEST_LEN).contains(&block.len)
            && u64::from(block.begin) + u64::from(block.len) <= u64::from(self.piece_size(block.piece))
    }

    /// The position of `block` within its piece when it is one of our 16 KiB blocks, else `None`.
    pub fn block_number(&self, block: Block) -> Option<u32> {
        let nth = block.begin / BLOCK_LEN;
        let ours = self.contains(block.piece)
            && block.begin < self.piece_size(block.piece)
            && self.block(block.piece, nth) == block;
        ours.then_some(nth)
    }

    /// The pieces that hold bytes `start..start + len` of the torrent; empty when `len` is 0.
    pub fn pieces_of_range(&self, start: u64, len: u64) -> std::ops::Range<u32> {
        if len == 0 || start >= self.total_len {
            return 0..0;
        }
        let last = (start.saturating_add(len).min(self.total_len) - 1) / u64::from(self.piece_len);
        (start / u64::from(self.piece_len)) as u32..last as u32 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_nonsense() {
        assert_eq!(Geometry::new(0, 16384), Err(GeometryError::Empty));
        assert_eq!(Geometry::new(1, 0), Err(GeometryError::PieceLen(0)));
        assert_eq!(Geometry::new(1, 1 << 31), Err(GeometryError::PieceLen(1 << 31)));
        assert!(matches!(Geometry::new(u64::MAX, 16384), Err(GeometryError::TooManyPieces(_))));
    }

    proptest! {
        #[test]
        fn blocks_tile_the_torrent(total in 1u64..3_000_000, piece_len in 1u64..300_000) {
            prop_assume!(total / piece_len < 5000);
            let geometry = Geometry::new(total, piece_len).unwrap();
            let mut at = 0;
            for piece in geometry.pieces() {
                prop_assert_eq!(geometry.piece_start(piece), at);
                for (nth, block) in geometry.blocks(piece).enumerate() {
                    prop_assert_eq!(geometry.piece_start(piece) + u64::from(block.begin), at);
                    prop_assert!(geometry.allows(block));
                    prop_assert_eq!(geometry.block_number(block), Some(nth as u32));
                    at += u64::from(block.len);
                }
            }
            prop_assert_eq!(at, total);
            prop_assert_eq!(geometry.pieces_of_range(0, total), 0..geometry.piece_count());
        }
    }
}

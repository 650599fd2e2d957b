//! What one reader will want next, from what it wanted so far.
//!
//! Extents are numbered through the torrent, so many to a piece. Peers read a piece from its start to its end, but
//! pieces in any order (BEP 3 asks for the rarest first): the end of a piece bounds what is foreseen until a reader
//! has gone on to the very next piece.

use std::ops::Range;

/// Extents foreseen for one reader at most.
pub const WINDOW_MAX: u32 = 16;
/// Steps back that are no jump: requests overtake each other on their way.
const DISORDER: u64 = 2;

/// One reader's course. Starts knowing nothing and foreseeing nothing.
#[derive(Clone, Debug, Default)]
pub struct ReadAhead {
    /// The extent read last.
    at: Option<u64>,
    /// Extents foreseen behind it.
    window: u32,
    /// It went on from the end of a piece to the next one.
    crosses: bool,
}

impl ReadAhead {
    /// The reader takes something of `extent`, where every piece has `per_piece`. Returns whether it came there just
    /// now.
    pub fn visit(&mut self, extent: u64, per_piece: u32) -> bool {
        let Some(before) = self.at.replace(extent) else { return true };
        let starts_piece = extent.is_multiple_of(u64::from(per_piece));
        if extent == before {
            return false;
        } else if extent == before + 1 {
            self.crosses |= starts_piece;
            self.window = (self.window * 2).clamp(1, WINDOW_MAX);
        } else if extent < before && before - extent <= DISORDER {
            self.at = Some(before);
        } else {
            // From a piece's end to another piece: what it does within pieces still holds.
            let ended_piece = (before + 1).is_multiple_of(u64::from(per_piece));
            self.crosses = false;
            self.window = if ended_piece && starts_piece { self.window } else { 0 };
        }
        true
    }

    /// Something foreseen for this reader went unread.
    pub fn wasted(&mut self) {
        self.window /= 2;
    }

    /// The extents foreseen, of `total` in the torrent.
    pub fn ahead(&self, per_piece: u32, total: u64) -> Range<u64> {
        let Some(at) = self.at else { return 0..0 };
        let next = at + 1;
        let piece_end = next.next_multiple_of(u64::from(per_piece));
        let bound = if self.crosses { total } else { piece_end.min(total) };
        next..(next + u64::from(self.window)).min(bound).max(next)
    }

    /// Extents foreseen at most.
    pub fn window(&self) -> u32 {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(visits: &[u64]) -> ReadAhead {
        let mut reader = ReadAhead::default();
        for extent in visits {
            reader.visit(*extent, 8);
        }
        reader
    }

    #[test]
    fn a_sequential_reader_gets_a_growing_window_within_its_piece() {
        assert_eq!(after(&[8]).window(), 0);
        assert_eq!(after(&[8, 9]).ahead(8, 100), 10..11);
        assert_eq!(after(&[8, 8, 8, 9, 9, 10]).ahead(8, 100), 11..13);
        assert_eq!(after(&[8, 9, 10, 11]).ahead(8, 100), 12..16, "the piece ends there");
        let on = after(&[8, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!((on.window(), on.ahead(8, 100)), (WINDOW_MAX, 17..33), "it went on to the next piece");
        assert_eq!(on.ahead(8, 20), 17..20, "the torrent ends there");
    }

    #[test]
    fn jumps_and_waste_shrink_it() {
        assert_eq!(after(&[8, 9, 10, 40]).window(), 0);
        let pieces = after(&[8, 9, 10, 11, 12, 13, 14, 15, 40]);
        assert_eq!(
            (pieces.window(), pieces.ahead(8, 100)),
            (WINDOW_MAX, 41..48),
            "another piece from its start"
        );
        let mut reader = after(&[8, 9, 10, 11]);
        reader.wasted();
        assert_eq!(reader.window(), 2);
        (0..3).for_each(|_| reader.wasted());
        assert_eq!(reader.ahead(8, 100), 12..12);
    }

    #[test]
    fn requests_that_overtake_each_other_change_nothing() {
        let mut reader = after(&[8, 9, 10]);
        assert!(reader.visit(9, 8));
        assert_eq!(reader.ahead(8, 100), 11..13);
        assert!(reader.visit(11, 8));
        assert_eq!(reader.window(), 4);
    }

    proptest! {
        #[test]
        fn never_beyond_the_torrent_or_the_bound(
            visits in prop::collection::vec((0u64..60, any::<bool>()), 0..100),
            per_piece in 1u32..20,
        ) {
            let mut reader = ReadAhead::default();
            for (extent, waste) in visits {
                reader.visit(extent, per_piece);
                if waste {
                    reader.wasted();
                }
                let ahead = reader.ahead(per_piece, 60);
                prop_assert!(ahead.start <= ahead.end && ahead.end - ahead.start <= u64::from(WINDOW_MAX));
                prop_assert!(ahead.is_empty() || ahead.end <= 60);
            }
        }
    }
}

//! Where a torrent's padding is (BEP 47): zeros that only align files, known to everybody, so nobody is asked for them.
//!
//! Owner: [`crate::metainfo::Metainfo`], from which it is copied (a pointer) to the picker and to whoever hands out memory
//! for pieces. Invariant: ranges rise, are not empty, and neither touch nor overlap.

use std::ops::Range;
use std::sync::Arc;

use crate::geometry::Geometry;
use crate::ids::PieceIndex;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Padding(Option<Arc<[Range<u64>]>>);

impl Padding {
    /// Of padding files, each given by its bytes within the torrent, rising.
    pub fn new(files: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for file in files.into_iter().filter(|file| !file.is_empty()) {
            match ranges.last_mut() {
                Some(last) if last.end == file.start => last.end = file.end,
                _ => ranges.push(file),
            }
        }
        Self((!ranges.is_empty()).then(|| ranges.into()))
    }

    /// The parts of `piece` that are padding, as bytes within the piece, rising.
    pub fn bytes(&self, geometry: Geometry, piece: PieceIndex) -> impl Iterator<Item = Range<u32>> + '_ {
        let ranges = self.0.as_deref().unwrap_or_default();
        let (start, len) = match ranges {
            [] => (0, 0),
            _ => (geometry.piece_start(piece), u64::from(geometry.piece_size(piece))),
        };
        let first = ranges.partition_point(|range| range.end <= start);
        ranges[first..].iter().take_while(move |range| range.start < start + len).map(move |range| {
            (range.start.max(start) - start) as u32..(range.end.min(start + len) - start) as u32
        })
    }

    /// The blocks of `piece` that are padding from their first byte to their last, by their number, rising.
    pub fn blocks(&self, geometry: Geometry, piece: PieceIndex) -> impl Iterator<Item = u32> + '_ {
        self.bytes(geometry, piece).flat_map(move |bytes| {
            geometry
                .blocks(piece)
                .enumerate()
                .filter(move |(_, block)| bytes.start <= block.begin && block.begin + block.len <= bytes.end)
                .map(|(nth, _)| nth as u32)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_end_of_a_piece_is_padding() {
        // 64 KiB pieces; a file of 20,000 bytes, padding up to the next piece, a file of one byte, and padding again.
        let geometry = Geometry::new(2 * 65_536, 65_536).unwrap();
        let padding = Padding::new([20_000..65_536, 65_537..131_072]);
        assert!(padding.bytes(geometry, PieceIndex(0)).eq(std::iter::once(20_000..65_536)));
        assert_eq!(padding.blocks(geometry, PieceIndex(0)).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(padding.blocks(geometry, PieceIndex(1)).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(Padding::default().bytes(geometry, PieceIndex(0)).count(), 0);
        assert_eq!(Padding::new(std::iter::once(7..7)), Padding::default());
    }

    proptest! {
        #[test]
        fn every_byte_is_where_the_files_say(
            piece_kib in 1u32..80, lens in prop::collection::vec((0u64..60_000, any::<bool>()), 1..20),
        ) {
            let mut at = 0;
            let mut is_pad = Vec::new();
            let mut files = Vec::new();
            for (len, pad) in lens {
                if pad {
                    files.push(at..at + len);
                }
                at += len;
                is_pad.extend(std::iter::repeat_n(pad, len as usize));
            }
            prop_assume!(at > 0);
            let geometry = Geometry::new(at, u64::from(piece_kib) * 1024).unwrap();
            let padding = Padding::new(files);
            for piece in geometry.pieces() {
                let start = geometry.piece_start(piece) as usize;
                let truth = &is_pad[start..start + geometry.piece_size(piece) as usize];
                let mut said = vec![false; truth.len()];
                for bytes in padding.bytes(geometry, piece) {
                    said[bytes.start as usize..bytes.end as usize].fill(true);
                }
                prop_assert_eq!(&said[..], truth);
                let whole = geometry.blocks(piece).enumerate().filter(|(_, block)| {
                    truth[block.begin as usize..(block.begin + block.len) as usize].iter().all(|pad| *pad)
                });
                let whole: Vec<u32> = whole.map(|(nth, _)| nth as u32).collect();
                prop_assert_eq!(padding.blocks(geometry, piece).collect::<Vec<_>>(), whole);
            }
        }
    }
}

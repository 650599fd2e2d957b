//! Which files of a torrent are wanted, and how much.
//!
//! Role: turns priorities of files into priorities of pieces. Pure. Owner: the torrent's home shard. Invariant: a piece is
//! wanted as much as the most wanted of the files that it has bytes of, so a file that is wanted can be verified as a
//! whole; a file is skipped only if it has bytes, since one without any has no piece that could bring it.

use crate::ids::PieceIndex;
use crate::metainfo::Metainfo;
use crate::picker::Priority;

/// One priority for each file of [`Metainfo::files`]; files behind the last one are [`Priority::Normal`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection(Vec<Priority>);

impl Selection {
    /// By file index.
    pub fn new(priorities: Vec<Priority>) -> Self {
        Self(priorities)
    }

    /// How much a file is wanted.
    pub fn of(&self, file: usize) -> Priority {
        self.0.get(file).copied().unwrap_or_default()
    }

    /// The priorities, by file index, as far as any were given.
    pub fn priorities(&self) -> &[Priority] {
        &self.0
    }

    /// Whether all files are wanted alike, with [`Priority::Normal`].
    pub fn is_default(&self) -> bool {
        self.0.iter().all(|priority| *priority == Priority::Normal)
    }

    /// The priority of each piece.
    pub fn pieces(&self, metainfo: &Metainfo) -> Vec<Priority> {
        let geometry = metainfo.geometry;
        if self.is_default() {
            return vec![Priority::Normal; geometry.piece_count() as usize];
        }
        let mut pieces = vec![Priority::Skip; geometry.piece_count() as usize];
        // Padding (BEP 47) is wanted as much as the file that it fills up.
        let mut before = Priority::Normal;
        for (index, file) in metainfo.files.iter().enumerate() {
            if !file.pad && file.len > 0 {
                before = self.of(index);
            }
            for piece in geometry.pieces_of_range(file.offset, file.len) {
                let piece = &mut pieces[piece as usize];
                *piece = (*piece).max(before);
            }
        }
        pieces
    }

    /// The files that are not wanted and have bytes, rising.
    pub fn skipped(&self, metainfo: &Metainfo) -> Vec<u32> {
        let is_skipped = |(index, file): &(usize, &crate::metainfo::FileEntry)| {
            self.of(*index) == Priority::Skip && !file.pad && file.len > 0
        };
        metainfo.files.iter().enumerate().filter(is_skipped).map(|(index, _)| index as u32).collect()
    }

    /// Bytes of all pieces that are wanted. O(pieces).
    pub fn wanted_len(&self, metainfo: &Metainfo) -> u64 {
        if self.is_default() {
            return metainfo.geometry.total_len();
        }
        let sizes = self.pieces(metainfo).into_iter().zip(metainfo.geometry.pieces());
        let wanted = sizes.filter(|(priority, _)| *priority != Priority::Skip);
        wanted.map(|(_, piece): (_, PieceIndex)| u64::from(metainfo.geometry.piece_size(piece))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metainfo::build::{Builder, InputFile};
    use Priority::{High, Low, Normal, Skip};
    use proptest::prelude::*;

    const PIECE: u64 = 16_384;

    fn metainfo(sizes: &[u64], align: bool) -> Metainfo {
        let file = |(at, len): (usize, &u64)| InputFile {
            path: vec![format!("f{at}")],
            len: *len,
            ..InputFile::default()
        };
        let files = sizes.iter().enumerate().map(file).collect();
        let plan = Builder::multi_file("t", files).piece_len(PIECE as u32).align(align).plan().unwrap();
        let hashes = vec![[0; 20]; plan.geometry().piece_count() as usize];
        Metainfo::parse(&plan.finish(&hashes)).unwrap()
    }

    #[test]
    fn a_piece_is_wanted_as_much_as_the_most_wanted_of_its_files() {
        let meta = metainfo(&[PIECE + 1, PIECE, 2 * PIECE, 5], false);
        let pieces = |files: &[Priority]| Selection::new(files.to_vec()).pieces(&meta);
        assert_eq!(pieces(&[]), [Normal; 5]);
        assert_eq!(pieces(&[Skip, Normal, Skip, Skip]), [Skip, Normal, Normal, Skip, Skip]);
        assert_eq!(pieces(&[High, Low, Skip, Skip]), [High, High, Low, Skip, Skip]);
        assert_eq!(
            pieces(&[Skip, Skip, Skip]),
            [Skip, Skip, Skip, Skip, Normal],
            "the last one is not named"
        );
        let selection = Selection::new(vec![Skip, Skip, Skip]);
        assert_eq!((selection.wanted_len(&meta), selection.skipped(&meta)), (6, vec![0, 1, 2]));
    }

    #[test]
    fn padding_goes_with_the_file_before_it() {
        let meta = metainfo(&[10, 10, 10], true);
        let selection = Selection::new(vec![Skip, Skip, Skip, Skip, High]);
        assert_eq!(selection.pieces(&meta), [Skip, Skip, High]);
        let selection = Selection::new(vec![Normal, Normal, Skip]);
        assert_eq!(selection.pieces(&meta), [Normal, Skip, Normal]);
    }

    #[test]
    fn an_empty_file_is_never_skipped() {
        let meta = metainfo(&[0, 5, 0], false);
        assert_eq!(Selection::new(vec![Skip; 3]).skipped(&meta), [1]);
    }

    proptest! {
        /// Every byte of a file is in a piece that is wanted at least as much, and no piece is wanted without a reason.
        #[test]
        fn pieces_cover_their_files(
            files in proptest::collection::vec((0u64..3 * PIECE, 0usize..4), 1..12),
            align: bool,
        ) {
            let sizes: Vec<u64> = files.iter().map(|(len, _)| *len).collect();
            prop_assume!(sizes.iter().any(|len| *len > 0));
            let meta = metainfo(&sizes, align);
            let all = [Skip, Low, Normal, High];
            let mut own = files.iter().map(|(_, priority)| all[*priority]);
            let of_file = |file: &crate::metainfo::FileEntry| if file.pad { High } else { own.next().unwrap() };
            let selection = Selection::new(meta.files.iter().map(of_file).collect());
            let mut reasons = vec![Skip; meta.geometry.piece_count() as usize];
            for (at, file) in meta.files.iter().enumerate().filter(|(_, file)| !file.pad) {
                for piece in meta.geometry.pieces_of_range(file.offset, file.len) {
                    let reason = &mut reasons[piece as usize];
                    *reason = (*reason).max(selection.of(at));
                }
            }
            prop_assert_eq!(selection.pieces(&meta), reasons);
        }
    }
}

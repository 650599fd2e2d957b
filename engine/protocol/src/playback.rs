//! Which pieces are needed next while files are played.
//!
//! Role: from the places where readers are to a list of pieces in the order of their deadlines. Pure: a deadline is a
//! place in the list, as nobody here knows how many bytes a second of the file takes. Owner: the torrent's home shard.
//!
//! The order: first what each reader waits for; then the first and the last piece of each file, where containers keep
//! their index; then the windows of all readers side by side, up to [`WINDOW`] from where each of them is. The rest of
//! the file is left to the normal strategy. While nobody reads, a file that is to be played has a window that begins at its
//! first missing piece.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::bitfield::Bitfield;
use crate::geometry::Geometry;
use crate::ids::PieceIndex;

/// How far a window reaches, in bytes: some seconds of most films.
pub const WINDOW: u64 = 16 << 20;
/// Pieces of a window at least and at most, whatever their size.
const WINDOW_PIECES: Range<usize> = 4..64;

/// Where somebody reads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cursor {
    /// The file, as bytes of the torrent.
    file: Range<u64>,
    /// The next byte of the torrent that is needed; `None`: the first missing one of the file.
    at: Option<u64>,
}

/// All places of one torrent where somebody reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Playback {
    cursors: BTreeMap<u64, Cursor>,
}

impl Playback {
    /// `reader` needs byte `at` of the torrent next, and reads on to the end of `file`.
    pub fn read(&mut self, reader: u64, file: Range<u64>, at: u64) {
        self.cursors.insert(reader, Cursor { file, at: Some(at) });
    }

    /// `file` is to be played from its beginning.
    pub fn expect(&mut self, reader: u64, file: Range<u64>) {
        self.cursors.insert(reader, Cursor { file, at: None });
    }

    /// `reader` is gone.
    pub fn stop(&mut self, reader: u64) {
        self.cursors.remove(&reader);
    }

    /// Whether nobody reads.
    pub fn is_empty(&self) -> bool {
        self.cursors.is_empty()
    }

    /// The missing pieces that are needed next, each once.
    pub fn order(&self, geometry: Geometry, have: &Bitfield) -> Vec<PieceIndex> {
        let is_read = self.cursors.values().any(|cursor| cursor.at.is_some());
        let cursors = || self.cursors.values().filter(|cursor| !is_read || cursor.at.is_some());
        let windows: Vec<Vec<PieceIndex>> = cursors().map(|cursor| cursor.window(geometry, have)).collect();
        let mut order: Vec<PieceIndex> =
            windows.iter().filter_map(|window| window.first()).copied().collect();
        for cursor in cursors() {
            let pieces = geometry.pieces_of_range(cursor.file.start, cursor.file.end - cursor.file.start);
            let ends = [pieces.start, pieces.end.saturating_sub(1)].map(PieceIndex);
            order.extend(ends.into_iter().filter(|_| !pieces.is_empty()));
        }
        let longest = windows.iter().map(Vec::len).max().unwrap_or(0);
        order.extend((0..longest).flat_map(|nth| windows.iter().filter_map(move |window| window.get(nth))));
        let mut seen = std::collections::BTreeSet::new();
        order.retain(|piece| !have.has(*piece) && seen.insert(*piece));
        order
    }
}

impl Cursor {
    /// The missing pieces in its window, rising.
    fn window(&self, geometry: Geometry, have: &Bitfield) -> Vec<PieceIndex> {
        let missing = |pieces: Range<u32>| pieces.map(PieceIndex).filter(|piece| !have.has(*piece));
        let pieces = geometry.pieces_of_range(self.file.start, self.file.end - self.file.start);
        let first = match self.at {
            Some(at) => (at / u64::from(geometry.piece_len())) as u32,
            None => missing(pieces.clone()).next().map_or(pieces.end, |piece| piece.0),
        };
        let length = (WINDOW / u64::from(geometry.piece_len())) as usize;
        let length = length.clamp(WINDOW_PIECES.start, WINDOW_PIECES.end) as u32;
        missing(first.max(pieces.start)..pieces.end.min(first.saturating_add(length))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PIECE: u64 = 1 << 20;

    fn geometry() -> Geometry {
        Geometry::new(100 * PIECE, PIECE).unwrap()
    }

    fn numbers(pieces: &[PieceIndex]) -> Vec<u32> {
        pieces.iter().map(|piece| piece.0).collect()
    }

    fn have(pieces: impl IntoIterator<Item = u32>) -> Bitfield {
        let mut have = Bitfield::empty(100);
        pieces.into_iter().for_each(|piece| _ = have.insert(PieceIndex(piece)));
        have
    }

    #[test]
    fn the_beginning_and_the_end_of_a_file_come_first_then_a_window() {
        let mut playback = Playback::default();
        playback.read(1, 10 * PIECE..60 * PIECE, 10 * PIECE);
        let order = numbers(&playback.order(geometry(), &have([])));
        assert_eq!(order[..4], [10, 59, 11, 12]);
        assert_eq!(order.len(), 17, "16 MiB, and the last piece");
        assert_eq!(*order.last().unwrap(), 25);
        // The reader goes on: the window moves, and what is there is left out.
        playback.read(1, 10 * PIECE..60 * PIECE, 12 * PIECE + 5);
        let order = numbers(&playback.order(geometry(), &have([10, 11, 13, 59])));
        assert_eq!((&order[..2], order.last()), (&[12, 14][..], Some(&27)));
        // It jumps to the end.
        playback.read(1, 10 * PIECE..60 * PIECE, 60 * PIECE - 1);
        assert_eq!(numbers(&playback.order(geometry(), &have([]))), [59, 10]);
    }

    #[test]
    fn several_readers_take_turns() {
        let mut playback = Playback::default();
        playback.read(1, 0..50 * PIECE, 5 * PIECE);
        playback.read(2, 0..50 * PIECE, 30 * PIECE);
        let order = numbers(&playback.order(geometry(), &have([0, 49])));
        assert_eq!(order[..6], [5, 30, 6, 31, 7, 32]);
        playback.stop(1);
        assert_eq!(numbers(&playback.order(geometry(), &have([0, 49])))[..2], [30, 31]);
        playback.stop(2);
        assert!(playback.is_empty() && playback.order(geometry(), &have([])).is_empty());
    }

    #[test]
    fn a_file_that_nobody_reads_yet_is_awaited_from_its_first_gap() {
        let mut playback = Playback::default();
        playback.expect(0, 10 * PIECE..60 * PIECE);
        let order = numbers(&playback.order(geometry(), &have((10..20).chain([22]))));
        assert_eq!((&order[..4], order.last()), (&[20, 59, 21, 23][..], Some(&35)));
        assert!(playback.order(geometry(), &have(10..60)).is_empty());
        playback.read(1, 10 * PIECE..60 * PIECE, 40 * PIECE);
        assert_eq!(
            numbers(&playback.order(geometry(), &have([])))[..4],
            [40, 10, 59, 41],
            "who reads comes before"
        );
    }

    proptest! {
        /// Only missing pieces of the files, each once, and what a reader waits for before what it does not.
        #[test]
        fn the_list_is_what_is_missing_and_starts_with_what_blocks(
            cursors in proptest::collection::vec((0u64..99, 1u64..50, 0u64..50), 1..5),
            holds in proptest::collection::vec(any::<bool>(), 100),
        ) {
            let have = have((0..100).filter(|piece| holds[*piece as usize]));
            let mut playback = Playback::default();
            let mut blocked = Vec::new();
            for (id, (start, len, at)) in cursors.iter().enumerate() {
                let file = start * PIECE + 7..((start + len) * PIECE).min(100 * PIECE);
                let at = (file.start + at * PIECE).min(file.end - 1);
                playback.read(id as u64, file, at);
                let piece = PieceIndex((at / PIECE) as u32);
                if !have.has(piece) {
                    blocked.push(piece);
                }
            }
            let order = playback.order(geometry(), &have);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), order.len());
            prop_assert!(order.iter().all(|piece| !have.has(*piece)));
            for piece in blocked {
                let place = order.iter().position(|other| *other == piece).unwrap();
                prop_assert!(place < cursors.len(), "{:?} at {}", piece, place);
            }
        }
    }
}

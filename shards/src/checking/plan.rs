//! Which pieces have to be looked at.
//!
//! Pure. Invariant: a piece is trusted only when it was looked at before and every file that it lies in has the length
//! and the time that it had then; it is missing without a look only when some of its bytes cannot be there, or all of
//! them lie in holes and the expected hash is not that of zeros.

use std::ops::Range;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::metainfo::Metainfo;
use ccbt_protocol::picker::PartialPiece;
use ccbt_storage::hash::Sha1;
use ccbt_storage::messages::OpenReport;

use crate::messages::Known;

/// What is known, and what is to be found out.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Good without a look.
    pub good: Bitfield,
    /// Good or missing without a look.
    pub settled: Bitfield,
    /// Runs of pieces to look at, rising.
    pub todo: Vec<Range<u32>>,
    /// Blocks in the files of pieces that are not known to be good.
    pub partial: Vec<PartialPiece>,
}

/// Compares what is `known` with what the files are now.
pub(crate) fn plan(meta: &Metainfo, report: &OpenReport, known: Option<&Known>) -> Plan {
    let pieces = meta.geometry.piece_count();
    let mut good = Bitfield::empty(pieces);
    let mut settled = Bitfield::empty(pieces);
    let trusted = known.map(|known| unchanged(meta, report, known, known.looked.clone()));
    let mut partial = known.map_or_else(Vec::new, |known| partial_in(meta, report, known));
    let holes = hole_pieces(meta, report);
    let zeros = Zeros::new(meta, !holes.is_empty());
    let mut todo: Vec<Range<u32>> = Vec::new();
    let runs = candidates(meta, report);
    let mut candidates = Cursor(runs.iter().cloned().peekable());
    let mut holes = Cursor(holes.into_iter().peekable());
    for piece in meta.geometry.pieces() {
        let (whole, hole) = (candidates.has(piece.0), holes.has(piece.0));
        if trusted.as_ref().is_some_and(|trusted| trusted.has(piece)) {
            settled.insert(piece);
            if whole && known.is_some_and(|known| known.have.has(piece)) {
                good.insert(piece);
            }
        } else if !whole || hole && !zeros.is_hash(meta, piece) {
            settled.insert(piece);
        } else {
            match todo.last_mut() {
                Some(run) if run.end == piece.0 => run.end += 1,
                _ => todo.push(piece.0..piece.0 + 1),
            }
        }
    }
    let is_whole = |piece: PieceIndex| {
        let at = runs.partition_point(|run| run.end <= piece.0);
        runs.get(at).is_some_and(|run| run.contains(&piece.0))
    };
    partial.retain(|partial| !good.has(partial.piece) && is_whole(partial.piece));
    Plan { good, settled, todo, partial }
}

/// The pieces that lie in files which somebody has just written to, perhaps us before a crash.
pub(crate) fn recent(meta: &Metainfo, report: &OpenReport) -> Vec<PieceIndex> {
    let mut pieces = Vec::new();
    for (file, found) in meta.files.iter().zip(&report.files) {
        if found.existed && found.recent && !file.pad {
            pieces.extend(pieces_of(meta, file.offset..file.offset + file.len).map(PieceIndex));
        }
    }
    pieces.dedup();
    pieces
}

/// The pieces that have bytes in `range` of the torrent.
fn pieces_of(meta: &Metainfo, range: Range<u64>) -> Range<u32> {
    let piece_len = u64::from(meta.geometry.piece_len());
    if range.is_empty() {
        0..0
    } else {
        (range.start / piece_len) as u32..(range.end.div_ceil(piece_len)) as u32
    }
}

/// Blocks that were written to files which are still what they were.
fn partial_in(meta: &Metainfo, report: &OpenReport, known: &Known) -> Vec<PartialPiece> {
    let mut of = Bitfield::empty(meta.geometry.piece_count());
    let useful = |partial: &&PartialPiece| partial.fits(meta.geometry) && partial.is_useful();
    let mut partial: Vec<PartialPiece> = known.partial.iter().filter(useful).cloned().collect();
    for partial in &partial {
        of.insert(partial.piece);
    }
    let of = unchanged(meta, report, known, of);
    partial.retain(|partial| of.has(partial.piece));
    partial
}

/// Those of `pieces` that lie in files which are what they were.
fn unchanged(meta: &Metainfo, report: &OpenReport, known: &Known, pieces: Bitfield) -> Bitfield {
    let count = meta.geometry.piece_count();
    let fits = known.looked.len() == count && known.have.len() == count;
    if !fits || known.files.len() != report.files.len() {
        return Bitfield::empty(count);
    }
    let mut trusted = pieces;
    for ((file, found), before) in meta.files.iter().zip(&report.files).zip(&known.files) {
        let now = found.existed.then(|| found.mark());
        if file.pad || now == *before {
            continue;
        }
        for piece in pieces_of(meta, file.offset..file.offset + file.len) {
            if trusted.has(PieceIndex(piece)) {
                trusted.remove(PieceIndex(piece));
            }
        }
    }
    trusted
}

/// Runs of pieces all of whose bytes lie in what the files had when they were opened.
fn candidates(meta: &Metainfo, report: &OpenReport) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut any_data = false;
    for (file, found) in meta.files.iter().zip(&report.files) {
        let there = if file.pad { file.len } else { found.len.min(file.len) };
        any_data |= !file.pad && found.existed && there > 0;
        let there = if file.pad || found.existed { there } else { 0 };
        join(&mut runs, file.offset..file.offset + there);
    }
    if !any_data {
        return Vec::new();
    }
    whole_pieces(meta, runs)
}

/// Runs of pieces all of whose bytes lie in holes or padding.
fn hole_pieces(meta: &Metainfo, report: &OpenReport) -> Vec<Range<u32>> {
    if report.holes.is_empty() {
        return Vec::new();
    }
    let mut runs = Vec::new();
    let mut holes = report.holes.iter().peekable();
    for (at, file) in meta.files.iter().enumerate() {
        if file.pad {
            join(&mut runs, file.offset..file.offset + file.len);
        }
        while let Some(hole) = holes.next_if(|hole| hole.file as usize <= at) {
            let range = hole.range.start.min(file.len)..hole.range.end.min(file.len);
            join(&mut runs, file.offset + range.start..file.offset + range.end);
        }
    }
    whole_pieces(meta, runs)
}

fn join(runs: &mut Vec<Range<u64>>, next: Range<u64>) {
    match runs.last_mut() {
        Some(run) if run.end == next.start => run.end = next.end,
        _ if next.is_empty() => {}
        _ => runs.push(next),
    }
}

fn whole_pieces(meta: &Metainfo, runs: Vec<Range<u64>>) -> Vec<Range<u32>> {
    let (piece_len, total) = (u64::from(meta.geometry.piece_len()), meta.geometry.total_len());
    let whole = |run: Range<u64>| {
        let end = if run.end == total { u64::from(meta.geometry.piece_count()) } else { run.end / piece_len };
        run.start.div_ceil(piece_len) as u32..end as u32
    };
    runs.into_iter().map(whole).filter(|run| run.start < run.end).collect()
}

/// Walks rising runs beside a rising number.
struct Cursor<I: Iterator<Item = Range<u32>>>(std::iter::Peekable<I>);

impl<I: Iterator<Item = Range<u32>>> Cursor<I> {
    fn has(&mut self, number: u32) -> bool {
        while self.0.next_if(|run| run.end <= number).is_some() {}
        self.0.peek().is_some_and(|run| run.contains(&number))
    }
}

/// Hashes of pieces of nothing but zeros: of a whole one, and of the last one.
struct Zeros(Option<[[u8; 20]; 2]>);

impl Zeros {
    fn new(meta: &Metainfo, wanted: bool) -> Self {
        let last = PieceIndex(meta.geometry.piece_count() - 1);
        Self(wanted.then(|| [meta.geometry.piece_len(), meta.geometry.piece_size(last)].map(hash_of_zeros)))
    }

    fn is_hash(&self, meta: &Metainfo, piece: PieceIndex) -> bool {
        let is_last = piece.0 + 1 == meta.geometry.piece_count();
        self.0.is_some_and(|hashes| hashes[usize::from(is_last)] == meta.piece_hash(piece))
    }
}

fn hash_of_zeros(mut len: u32) -> [u8; 20] {
    static ZEROS: [u8; 65_536] = [0; 65_536];
    let mut sha1 = Sha1::new();
    while len > 0 {
        let part = len.min(ZEROS.len() as u32);
        sha1.update(&ZEROS[..part as usize]);
        len -= part;
    }
    sha1.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccbt_protocol::metainfo::build::{Builder, InputFile};
    use ccbt_storage::messages::{FileMark, Hole, OpenedFile};

    const PIECE: u32 = 16_384;

    /// Files `f0`… of these sizes; pieces whose number is in `zeros` are expected to be zeros.
    fn meta(sizes: &[u64], zeros: &[usize]) -> Metainfo {
        let file = |(at, len): (usize, &u64)| InputFile {
            path: vec![format!("f{at}")],
            len: *len,
            ..InputFile::default()
        };
        let files = sizes.iter().enumerate().map(file).collect();
        let plan = Builder::multi_file("t", files).piece_len(PIECE).plan().unwrap();
        let geometry = plan.geometry();
        let hash = |piece: PieceIndex| match zeros.contains(&piece.as_usize()) {
            true => hash_of_zeros(geometry.piece_size(piece)),
            false => [7; 20],
        };
        Metainfo::parse(&plan.finish(&geometry.pieces().map(hash).collect::<Vec<_>>())).unwrap()
    }

    fn report(lens: &[Option<u64>]) -> OpenReport {
        let file = |len: &Option<u64>| OpenedFile {
            existed: len.is_some(),
            len: len.unwrap_or(0),
            ..OpenedFile::default()
        };
        OpenReport { files: lens.iter().map(file).collect(), ..OpenReport::default() }
    }

    fn looked_at(meta: &Metainfo, report: &OpenReport, known: Option<&Known>) -> Vec<u32> {
        plan(meta, report, known).todo.into_iter().flatten().collect()
    }

    fn field(pieces: u32, set: impl IntoIterator<Item = u32>) -> Bitfield {
        let mut field = Bitfield::empty(pieces);
        for piece in set {
            field.insert(PieceIndex(piece));
        }
        field
    }

    #[test]
    fn looks_only_at_pieces_that_can_be_whole() {
        let meta = meta(&[40_000, 10, 60_000], &[]);
        let looked_at = |lens: &[Option<u64>]| looked_at(&meta, &report(lens), None);
        assert!(looked_at(&[None, None, None]).is_empty());
        assert_eq!(looked_at(&[Some(40_000), Some(10), Some(60_000)]), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(looked_at(&[Some(40_000), None, Some(60_000)]), [0, 1, 3, 4, 5, 6]);
        assert_eq!(looked_at(&[Some(20_000), Some(10), None]), [0]);
        assert_eq!(looked_at(&[Some(900_000), Some(10), Some(59_999)]), [0, 1, 2, 3, 4, 5]);
        assert!(looked_at(&[Some(0), Some(0), Some(0)]).is_empty());
    }

    #[test]
    fn holes_are_not_looked_at_unless_zeros_are_expected() {
        let len = 10 * u64::from(PIECE) + 5;
        let meta = meta(&[len], &[3, 10]);
        let mut report = report(&[Some(len)]);
        let hole = |range| Hole { file: 0, range };
        let piece = u64::from(PIECE);
        // From within piece 1 to within piece 6, and from piece 8 to the end.
        report.holes = vec![hole(piece + 4096..7 * piece - 1), hole(8 * piece..len)];
        assert_eq!(looked_at(&meta, &report, None), [0, 1, 3, 6, 7, 10]);
        let plan = plan(&meta, &report, None);
        assert_eq!(plan.good.count(), 0);
        assert_eq!(plan.settled, field(11, [2, 4, 5, 8, 9]));
    }

    #[test]
    fn holes_meet_over_the_ends_of_files() {
        let piece = u64::from(PIECE);
        let meta = meta(&[piece + 100, piece, 2 * piece], &[]);
        let mut report = report(&[Some(piece + 100), Some(piece), Some(2 * piece)]);
        report.holes =
            vec![Hole { file: 0, range: 4096..piece + 100 }, Hole { file: 1, range: 0..9_999_999 }];
        assert_eq!(looked_at(&meta, &report, None), [0, 2, 3, 4]);
    }

    #[test]
    fn what_is_known_is_not_looked_at_while_its_files_are_as_they_were() {
        let piece = u64::from(PIECE);
        let meta = meta(&[3 * piece + 1, 3 * piece - 1, 2 * piece], &[]);
        let mut report = report(&[Some(3 * piece + 1), Some(3 * piece - 1), Some(2 * piece)]);
        let mark = |len, mtime_ns| Some(FileMark { len, mtime_ns });
        let mut known = Known {
            have: field(8, [0, 1, 4, 6]),
            looked: field(8, [0, 1, 2, 3, 4, 6]),
            partial: Vec::new(),
            files: vec![mark(3 * piece + 1, 0), mark(3 * piece - 1, 0), mark(2 * piece, 0)],
        };
        let made = plan(&meta, &report, Some(&known));
        assert_eq!(made.todo, vec![5..6, 7..8], "what was not looked at yet");
        assert_eq!((made.good, made.settled.count()), (field(8, [0, 1, 4, 6]), 6));
        // The second file was touched: its pieces are doubtful, also the one it shares with the first.
        report.files[1].mtime_ns = 5;
        assert_eq!(looked_at(&meta, &report, Some(&known)), [3, 4, 5, 7]);
        // A file that has become shorter has no pieces behind its end, whatever is known.
        report.files[1].mtime_ns = 0;
        report.files[2].len = piece;
        assert_eq!(looked_at(&meta, &report, Some(&known)), [5, 6]);
        let other = Known { have: field(9, [8]), looked: field(9, [0, 8]), ..known.clone() };
        assert_eq!(
            looked_at(&meta, &report, Some(&other)).len(),
            7,
            "sets of another torrent are worth nothing"
        );
        known.files.pop();
        assert_eq!(looked_at(&meta, &report, Some(&known)).len(), 7, "what does not fit is worth nothing");
        report.files[1].existed = false;
        report.files[1].len = 0;
        let gone = plan(&meta, &report, Some(&known));
        assert_eq!(gone.todo, vec![0..3, 6..7], "and what is gone is missing");
    }

    #[test]
    fn blocks_are_gone_on_with_while_their_files_are_as_they_were() {
        let len = 4 * 65_536;
        let file = |name: &str, len| InputFile { path: vec![name.into()], len, ..InputFile::default() };
        let files = vec![file("a", len), file("b", len)];
        let plan = Builder::multi_file("t", files).piece_len(65_536).plan().unwrap();
        let meta = Metainfo::parse(&plan.finish(&[[7; 20]; 8])).unwrap();
        let partial = |piece: u32, blocks: u32, set: &[u32]| PartialPiece {
            piece: PieceIndex(piece),
            blocks: field(blocks, set.iter().copied()),
        };
        let known = Known {
            have: field(8, [0]),
            looked: Bitfield::full(8),
            // One that is ours, good ones of either file, and three that are of no use.
            partial: vec![
                partial(0, 4, &[1]),
                partial(1, 4, &[1]),
                partial(5, 4, &[0, 2]),
                partial(6, 4, &[]),
                partial(7, 4, &[0, 1, 2, 3]),
                partial(8, 4, &[1]),
            ],
            files: vec![Some(FileMark { len, mtime_ns: 0 }); 2],
        };
        let pieces = |report: &OpenReport| {
            let made = super::plan(&meta, report, Some(&known));
            made.partial.iter().map(|partial| partial.piece.0).collect::<Vec<_>>()
        };
        let mut report = report(&[Some(len), Some(len)]);
        assert_eq!(pieces(&report), [1, 5]);
        report.files[1].mtime_ns = 1;
        assert_eq!(pieces(&report), [1], "the second file was written to");
        report.files[0].len = 100_000;
        assert!(pieces(&report).is_empty());
    }

    #[test]
    fn recent_files_name_their_pieces_once() {
        let piece = u64::from(PIECE);
        let meta = meta(&[piece + 1, 10, 3 * piece], &[]);
        let mut report = report(&[Some(piece + 1), Some(10), Some(3 * piece)]);
        (report.files[0].recent, report.files[1].recent) = (true, true);
        assert_eq!(recent(&meta, &report), [PieceIndex(0), PieceIndex(1)]);
    }
}

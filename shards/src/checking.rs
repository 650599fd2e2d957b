//! Hashing what is on disk before a torrent runs.
//!
//! Owner: the shard, between `Opened` and running. A bounded number of pieces is read into download memory and handed
//! to the hash pool; pieces that lie in files that were not there, or were too short, are not read at all.

use std::ops::Range;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::metainfo::Metainfo;
use ccbt_storage::arena::PieceBuf;
use ccbt_storage::error::StorageError;
use ccbt_storage::messages::{HashJob, HashVerdict, OpenReport, StorageCmd};

use crate::messages::{Event, FromShard};
use crate::shard::{PIECES_MAX, Shard};
use crate::torrents::Phase;

/// Pieces being read or hashed at most: enough to keep a disk and a hash core busy.
const IN_FLIGHT: usize = 16;

/// How far the check of a torrent is.
#[derive(Debug)]
pub(crate) struct Check {
    /// Runs of pieces to look at, last one first.
    todo: Vec<Range<u32>>,
    in_flight: usize,
    good: Bitfield,
    /// Pieces looked at.
    pub looked: u32,
    /// Pieces to look at in all.
    pub total: u32,
}

impl Check {
    fn new(meta: &Metainfo, report: &OpenReport) -> Self {
        let mut todo = candidates(meta, report);
        let total = todo.iter().map(|run| run.end - run.start).sum();
        todo.reverse();
        Self { todo, in_flight: 0, good: Bitfield::empty(meta.geometry.piece_count()), looked: 0, total }
    }

    fn next(&mut self) -> Option<PieceIndex> {
        let run = self.todo.last_mut()?;
        let piece = run.next()?;
        if run.start >= run.end {
            self.todo.pop();
        }
        Some(PieceIndex(piece))
    }

    fn put_back(&mut self, piece: PieceIndex) {
        self.todo.push(piece.0..piece.0 + 1);
    }

    fn is_done(&self) -> bool {
        self.todo.is_empty() && self.in_flight == 0
    }
}

/// Runs of pieces all of whose bytes lie in what the files had when they were opened.
fn candidates(meta: &Metainfo, report: &OpenReport) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut any_data = false;
    for (file, found) in meta.files.iter().zip(&report.files) {
        let there = if file.pad { file.len } else { found.len.min(file.len) };
        any_data |= !file.pad && found.existed && there > 0;
        let there = if file.pad || found.existed { there } else { 0 };
        match runs.last_mut() {
            Some(run) if run.end == file.offset => run.end += there,
            _ if there > 0 => runs.push(file.offset..file.offset + there),
            _ => {}
        }
    }
    if !any_data {
        return Vec::new();
    }
    let (piece_len, total) = (u64::from(meta.geometry.piece_len()), meta.geometry.total_len());
    let whole = |run: Range<u64>| {
        let end = if run.end == total { u64::from(meta.geometry.piece_count()) } else { run.end / piece_len };
        run.start.div_ceil(piece_len) as u32..end as u32
    };
    runs.into_iter().map(whole).filter(|run| run.start < run.end).collect()
}

impl Shard {
    pub(crate) fn start_check(&mut self, index: usize, report: &OpenReport) {
        let home = &mut self.homes[index];
        home.phase = Phase::Checking(Check::new(&home.meta, report));
        self.continue_check(index);
    }

    /// Reads the next pieces; at the end, the torrent runs.
    pub(crate) fn continue_check(&mut self, index: usize) {
        loop {
            let home = &mut self.homes[index];
            let Phase::Checking(check) = &mut home.phase else { return };
            if check.in_flight >= IN_FLIGHT {
                return;
            }
            let Some(piece) = check.next() else { break };
            let len = home.meta.geometry.piece_size(piece);
            let room = self.pieces < PIECES_MAX;
            let Some(mut buf) = room.then(|| self.partition.alloc(len, home.spec.phase(piece))).flatten()
            else {
                // Other torrents hold the memory: again at the next tick or verdict.
                check.put_back(piece);
                return;
            };
            buf.set_len(len);
            self.pieces += 1;
            check.in_flight += 1;
            home.busy += 1;
            let start = home.meta.geometry.piece_start(piece);
            let command = StorageCmd::Read { torrent: home.key, tag: u64::from(piece.0), start, buf };
            self.command(command);
        }
        let home = &mut self.homes[index];
        let Phase::Checking(check) = &mut home.phase else { return };
        if !check.is_done() {
            return;
        }
        let (good, looked) = (std::mem::replace(&mut check.good, Bitfield::empty(0)), check.looked);
        let (key, count, total) = (home.key, good.count(), good.len());
        if looked > 0 {
            self.tell(FromShard::Event(key, Event::Checked { good: count, total }));
        }
        self.run_torrent(index, good);
    }

    pub(crate) fn on_check_read(
        &mut self,
        index: usize,
        tag: u64,
        buf: PieceBuf,
        result: Result<(), StorageError>,
    ) {
        let home = &mut self.homes[index];
        let piece = PieceIndex(tag as u32);
        let wanted = matches!(home.phase, Phase::Checking(_));
        if result.is_ok() && wanted {
            let expected = home.meta.piece_hash(piece);
            return self.storage.hash(HashJob { torrent: home.key, piece, expected, buf });
        }
        // What cannot be read is missing; it is fetched again and its write will tell if the disk is bad.
        self.end_check_piece(index, piece, false, buf);
    }

    pub(crate) fn on_check_verdict(&mut self, index: usize, verdict: HashVerdict) {
        self.end_check_piece(index, verdict.piece, verdict.ok, verdict.buf);
    }

    fn end_check_piece(&mut self, index: usize, piece: PieceIndex, ok: bool, buf: PieceBuf) {
        let home = &mut self.homes[index];
        home.busy -= 1;
        if let Phase::Checking(check) = &mut home.phase {
            check.in_flight -= 1;
            check.looked += 1;
            if ok {
                check.good.insert(piece);
            }
        }
        self.free_piece(buf);
        self.continue_check(index);
        self.touch(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccbt_protocol::metainfo::build::{Builder, InputFile};
    use ccbt_storage::messages::OpenedFile;

    fn meta(sizes: &[u64]) -> Metainfo {
        let file = |(at, len): (usize, &u64)| InputFile {
            path: vec![format!("f{at}")],
            len: *len,
            ..InputFile::default()
        };
        let files = sizes.iter().enumerate().map(file).collect();
        let plan = Builder::multi_file("t", files).piece_len(16384).plan().unwrap();
        let hashes = vec![[0; 20]; plan.geometry().piece_count() as usize];
        Metainfo::parse(&plan.finish(&hashes)).unwrap()
    }

    fn report(lens: &[Option<u64>]) -> OpenReport {
        let file = |len: &Option<u64>| OpenedFile { existed: len.is_some(), len: len.unwrap_or(0) };
        OpenReport { files: lens.iter().map(file).collect(), ..OpenReport::default() }
    }

    #[test]
    fn looks_only_at_pieces_that_can_be_whole() {
        let meta = meta(&[40_000, 10, 60_000]);
        let looked_at = |lens: &[Option<u64>]| {
            candidates(&meta, &report(lens)).into_iter().map(|run| (run.start, run.end)).collect::<Vec<_>>()
        };
        assert_eq!(looked_at(&[None, None, None]), vec![]);
        assert_eq!(looked_at(&[Some(40_000), Some(10), Some(60_000)]), vec![(0, 7)]);
        assert_eq!(looked_at(&[Some(40_000), None, Some(60_000)]), vec![(0, 2), (3, 7)]);
        assert_eq!(looked_at(&[Some(20_000), Some(10), None]), vec![(0, 1)]);
        assert_eq!(looked_at(&[Some(900_000), Some(10), Some(59_999)]), vec![(0, 6)]);
        assert_eq!(looked_at(&[Some(0), Some(0), Some(0)]), vec![]);
    }
}

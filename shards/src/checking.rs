//! Hashing what is on disk before a torrent runs.
//!
//! Role: reads the pieces that [`plan`] names, in rising order and as runs of a MiB or more, into download memory and
//! hands them to the hash pool. Owner: the shard, between `Opened` and running. Invariants: one check at a time reads
//! from a rotating device ([`line`]); while torrents of this shard transfer, a check takes a small share of the memory
//! and one read at a time; what was found so far can be asked for at any time ([`Check::good`], [`Check::looked_at`]).

pub(crate) mod line;
pub(crate) mod plan;

use std::ops::Range;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::ids::PieceIndex;
use ccbt_storage::arena::PieceBuf;
use ccbt_storage::error::{ErrorKind, StorageError};
use ccbt_storage::messages::{HashJob, HashVerdict, OpenReport, StorageCmd};

use self::plan::Plan;
use crate::messages::{Event, FromShard, ToShard};
use crate::partial::Partials;
use crate::shard::{PIECES_MAX, Shard};
use crate::torrents::{Home, Phase};

/// Small pieces are read together up to so many bytes.
const RUN_BYTES: u32 = 1 << 20;
/// Reads of one check under way: one at the disk, the others behind it, so that it never waits.
const READS: usize = 4;
/// The same while transfers run.
const READS_BESIDE: usize = 1;
/// Bytes being read or hashed by one check at most, or so many pieces if that is more: enough to keep the disk and every
/// hash core busy, and little enough to stay in their caches.
const BYTES: usize = 32 << 20;
const PIECES: usize = 16;
/// Never more than one part in so many of the download memory.
const MEMORY_PART: usize = 2;
/// The same while transfers run.
const MEMORY_PART_BESIDE: usize = 8;

/// How far the check of a torrent is.
#[derive(Debug)]
pub(crate) struct Check {
    /// Runs of pieces to look at, last one first.
    todo: Vec<Range<u32>>,
    /// Pieces of runs that could not be read, each to be read by itself.
    singly: Vec<u32>,
    /// Reads under way.
    reads: usize,
    /// Bytes being read or hashed.
    bytes: usize,
    /// Pieces found good.
    pub good: Bitfield,
    /// Pieces looked at or settled without a look.
    pub looked_at: Bitfield,
    /// Pieces looked at.
    pub looked: u32,
    /// Pieces to look at in all.
    pub total: u32,
    /// Descriptors or kernel memory ran out: on at the next tick.
    pub paused: bool,
    /// On the shard's list of checks that wait for memory.
    waits: bool,
    /// The rotating device, and whether it is our turn there.
    line: Option<(u64, bool)>,
}

impl Check {
    fn new(plan: Plan, device: Option<u64>) -> Self {
        let Plan { good, settled, mut todo, .. } = plan;
        let total = todo.iter().map(|run| run.end - run.start).sum();
        todo.reverse();
        Self {
            todo,
            singly: Vec::new(),
            reads: 0,
            bytes: 0,
            good,
            looked_at: settled,
            looked: 0,
            total,
            paused: false,
            waits: false,
            line: device.map(|device| (device, false)),
        }
    }

    /// The next pieces to read at once: `most` at most.
    fn next(&mut self, most: u32) -> Option<Range<u32>> {
        if let Some(piece) = self.singly.pop() {
            return Some(piece..piece + 1);
        }
        let run = self.todo.last_mut()?;
        let next = run.start..(run.start + most).min(run.end);
        run.start = next.end;
        if run.start >= run.end {
            self.todo.pop();
        }
        Some(next)
    }

    fn put_back(&mut self, pieces: Range<u32>) {
        self.todo.push(pieces);
    }

    fn has_more(&self) -> bool {
        !self.todo.is_empty() || !self.singly.is_empty()
    }

    fn is_done(&self) -> bool {
        !self.has_more() && self.bytes == 0
    }

    fn took(&mut self, piece: PieceIndex, ok: bool) {
        self.looked += 1;
        self.looked_at.insert(piece);
        if ok {
            self.good.insert(piece);
        }
    }
}

impl Shard {
    pub(crate) fn start_check(&mut self, index: usize, report: &OpenReport) {
        let home = &mut self.homes[index];
        let known = home.known.take();
        let mut plan = plan::plan(&home.meta, report, known.as_ref());
        home.partials = Partials::found(std::mem::take(&mut plan.partial));
        let device = (report.rotating && !plan.todo.is_empty()).then_some(report.device);
        home.recent = plan::recent(&home.meta, report);
        home.phase = Phase::Checking(Check::new(plan, device));
        self.continue_check(index);
    }

    /// Reads the next pieces; at the end, the torrent runs.
    pub(crate) fn continue_check(&mut self, index: usize) {
        if !self.has_turn(index) {
            return;
        }
        while self.check_next(index) {}
        let home = &mut self.homes[index];
        let Phase::Checking(check) = &mut home.phase else { return };
        if !check.is_done() {
            return;
        }
        let (good, looked) = (check.good.clone(), check.looked);
        let (key, count, total) = (home.key, good.count(), good.len());
        self.leave_line(index);
        if looked > 0 {
            self.tell(FromShard::Event(key, Event::Checked { good: count, total }));
        }
        self.run_torrent(index, good);
    }

    /// Starts one read; `false` when there is nothing to read now.
    fn check_next(&mut self, index: usize) -> bool {
        let (reads_max, part) =
            if self.transferring { (READS_BESIDE, MEMORY_PART_BESIDE) } else { (READS, MEMORY_PART) };
        let home = &mut self.homes[index];
        let Phase::Checking(check) = &mut home.phase else { return false };
        let geometry = home.meta.geometry;
        let piece_len = geometry.piece_len();
        let bytes_max = BYTES.max(PIECES * piece_len as usize).min(self.partition.capacity() / part);
        let room = bytes_max.saturating_sub(check.bytes) as u32 / piece_len;
        // One piece always fits, or a check beside transfers with large pieces would never end.
        let most = if check.bytes == 0 { room.max(1) } else { room };
        if check.reads >= reads_max || most == 0 || !check.has_more() {
            return false;
        }
        let most = most.min((PIECES_MAX - self.pieces) as u32);
        if most == 0 {
            self.wait_to_check(index);
            return false;
        }
        let Some(pieces) = check.next(most.min((RUN_BYTES / piece_len).max(1))) else {
            return false;
        };
        let (first, last) = (PieceIndex(pieces.start), PieceIndex(pieces.end - 1));
        let start = geometry.piece_start(first);
        let len = (geometry.piece_start(last) - start) as u32 + geometry.piece_size(last);
        let Some(mut buf) = self.partition.alloc(len, home.spec.phase(first)) else {
            // Other torrents hold the memory: again when some is given back.
            check.put_back(pieces);
            self.wait_to_check(index);
            return false;
        };
        buf.set_len(len);
        check.reads += 1;
        check.bytes += len as usize;
        self.pieces += pieces.len();
        home.busy += 1;
        let command = StorageCmd::Read { torrent: home.key, tag: u64::from(first.0), start, buf };
        self.command(command);
        true
    }

    /// Others hold the memory: on when it is this check's turn. Thousands may wait, so not all are woken at once.
    fn wait_to_check(&mut self, index: usize) {
        let Phase::Checking(check) = &mut self.homes[index].phase else { return };
        if !std::mem::replace(&mut check.waits, true) {
            self.checks.push_back(index);
        }
    }

    /// Some memory is free: the check that has waited longest goes on.
    pub(crate) fn wake_check(&mut self) {
        while let Some(index) = self.checks.pop_front() {
            // One that is gone, or looks at its files anew, waits no more.
            if let Some(Home { phase: Phase::Checking(check), .. }) = self.homes.get_mut(index)
                && std::mem::take(&mut check.waits)
            {
                return self.touch(index);
            }
        }
    }

    pub(crate) fn on_check_read(
        &mut self,
        index: usize,
        tag: u64,
        buf: PieceBuf,
        result: Result<(), StorageError>,
    ) {
        let home = &mut self.homes[index];
        home.busy -= 1;
        let first = tag as u32;
        let count = (buf.len() as u32).div_ceil(home.meta.geometry.piece_len());
        let Phase::Checking(check) = &mut home.phase else {
            // It ended or starts over.
            self.pieces -= count as usize;
            self.partition.free(buf);
            return self.touch(index);
        };
        check.reads -= 1;
        match result {
            Ok(()) => self.hash_run(index, first, buf),
            Err(error) => {
                check.bytes -= buf.len();
                if error.kind() == ErrorKind::Exhausted {
                    check.paused = true;
                    check.singly.extend((first..first + count).rev());
                } else if count > 1 {
                    // One bad sector does not take its neighbours with it.
                    check.singly.extend((first..first + count).rev());
                } else {
                    // What cannot be read is missing; it is fetched again and its write will tell if the disk is bad.
                    tracing::debug!(piece = first, %error, "a piece cannot be read");
                    check.took(PieceIndex(first), false);
                }
                self.pieces -= count as usize;
                self.partition.free(buf);
            }
        }
        self.continue_check(index);
        self.touch(index);
    }

    /// Hands every piece of a run to the hash pool.
    fn hash_run(&mut self, index: usize, first: u32, mut buf: PieceBuf) {
        let piece_len = self.homes[index].meta.geometry.piece_len();
        let mut piece = PieceIndex(first);
        while buf.len() > piece_len as usize {
            match buf.split(piece_len) {
                Ok((front, rest)) => {
                    self.hash_checked(index, piece, front);
                    buf = rest;
                }
                // The pieces share a page, and so cannot part.
                Err(whole) => return self.hash_copies(index, piece, whole),
            }
            piece.0 += 1;
        }
        self.hash_checked(index, piece, buf);
    }

    /// As [`Self::hash_run`] for pieces that start in the middle of a page.
    fn hash_copies(&mut self, index: usize, first: PieceIndex, buf: PieceBuf) {
        let home = &self.homes[index];
        let (geometry, phase) = (home.meta.geometry, home.spec.phase(first));
        let mut unread = Vec::new();
        for (piece, bytes) in (first.0..).zip(buf.as_slice().chunks(geometry.piece_len() as usize)) {
            match self.partition.alloc(bytes.len() as u32, phase) {
                Some(mut copy) => {
                    copy.as_mut_slice().copy_from_slice(bytes);
                    self.hash_checked(index, PieceIndex(piece), copy);
                }
                None => unread.push(piece),
            }
        }
        let bytes: usize = unread.iter().map(|piece| geometry.piece_size(PieceIndex(*piece)) as usize).sum();
        self.pieces -= unread.len();
        self.partition.free(buf);
        if let Phase::Checking(check) = &mut self.homes[index].phase {
            check.bytes -= bytes;
            check.singly.extend(unread.into_iter().rev());
        }
    }

    fn hash_checked(&mut self, index: usize, piece: PieceIndex, buf: PieceBuf) {
        let home = &mut self.homes[index];
        home.busy += 1;
        let expected = home.meta.piece_hash(piece);
        self.storage.hash(HashJob { torrent: home.key, piece, expected, buf });
    }

    pub(crate) fn on_check_verdict(&mut self, index: usize, verdict: HashVerdict) {
        let home = &mut self.homes[index];
        home.busy -= 1;
        if let Phase::Checking(check) = &mut home.phase {
            check.bytes -= verdict.buf.len();
            check.took(verdict.piece, verdict.ok);
        }
        self.free_piece(verdict.buf);
        self.continue_check(index);
        self.touch(index);
    }

    /// The machine may have descriptors and memory again. Once a second.
    pub(crate) fn unpause_check(&mut self, index: usize) {
        if let Phase::Checking(check) = &mut self.homes[index].phase {
            check.paused = false;
        }
    }

    // ---- rotating devices

    /// Whether the check may read now. Stands in line for a rotating device.
    fn has_turn(&mut self, index: usize) -> bool {
        let place = (self.homes[index].key, self.config.index);
        let Phase::Checking(check) = &mut self.homes[index].phase else { return true };
        if let Some((device, granted @ false)) = &mut check.line {
            *granted = self.lines.join(*device, place);
        }
        !check.paused && check.line.is_none_or(|(_, granted)| granted)
    }

    /// The check is over or given up: the next one in the line may begin.
    pub(crate) fn leave_line(&mut self, index: usize) {
        let home = &mut self.homes[index];
        let Phase::Checking(check) = &mut home.phase else { return };
        let Some((device, _)) = check.line.take() else { return };
        let place = (home.key, self.config.index);
        if let Some((key, shard)) = self.lines.leave(device, place) {
            // When its inbox is full it finds out by itself, at its next tick.
            let _ = self.others[shard].try_send(ToShard::CheckTurn(key));
        }
    }

    /// It may be this torrent's turn at a rotating device.
    pub(crate) fn on_check_turn(&mut self, index: usize) {
        self.continue_check(index);
        self.touch(index);
    }
}

#[cfg(test)]
mod tests;

//! Decides what a lane reads next.
//!
//! Owner: a lane's [`Cursor`]. Invariant: a piece is either planned as a whole, or reported here and never
//! read: because nobody wants it, because some of its bytes are absent, or because all of them are zeroes.

use std::io;
use std::ops::Range;

use ccbt_storage::arena::{PAGE, PieceBuf};
use ccbt_storage::hash::Sha1;

use super::lane::{Body, Lane, Unit};
use super::reads::{Reads, Segment};
use super::run::Run;
use super::source::{Careful, Way};
use super::{Faults, HashError};

/// Reads of one unit at most; what more short files there are go into the next one.
pub(super) const SEGMENTS_MAX: usize = 16;
/// Zeroes that are worth a unit of their own; fewer are put between the bytes of their neighbours.
const ZERO_UNIT_LEN_MIN: u64 = 32 * 1024;

/// Shorter files are not looked at for holes: reading them costs no more.
const HOLE_FILE_LEN_MIN: u64 = 64 * 1024;

/// How far a lane's work is planned. Torrent offsets.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    pub plan: usize,
    /// First byte that is not planned.
    pub at: u64,
    /// End of the chunk that was handed to the lane.
    pub end: u64,
    /// Pieces before this are to be read; a piece boundary.
    cleared: u64,
}

impl Cursor {
    /// Whether the lane's chunk is all planned.
    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.end
    }
}

/// What is to be done with a piece.
enum Verdict {
    Read,
    Unwanted,
    Absent,
    Zero,
}

/// What a unit is made of, until it is complete.
struct Draft {
    buf: PieceBuf,
    range: Range<u64>,
    start: usize,
    /// Next byte of `buf` to be filled.
    place: usize,
    capacity: usize,
    segments: Vec<Segment>,
    faults: Vec<Range<u64>>,
}

impl Draft {
    fn room(&self) -> u64 {
        (self.capacity - self.place) as u64
    }

    fn extend(&mut self, len: u64) {
        self.place += len as usize;
        self.range.end += len;
    }

    fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

impl Lane {
    /// Plans and starts one unit; false when there is no work left. The caller has seen that there is room in
    /// `reads`. `token` names a read by the lane's unit and the position within it.
    pub(super) fn plan_unit(
        &mut self,
        run: &Run<'_>,
        reads: &mut Reads,
        token: impl Fn(u64, usize) -> u64,
    ) -> Result<bool, HashError> {
        if !self.find_work(run) {
            return Ok(false);
        }
        let (plan, at) = (self.cursor.plan, self.cursor.at);
        let limit = self.clear_until(run, at + run.shape.unit_len as u64);
        let zeroes = self.zeroes(run, at, limit);
        let unit = if zeroes >= ZERO_UNIT_LEN_MIN || at + zeroes == limit {
            Unit { plan, range: at..at + zeroes, body: Body::Zeroes, faults: Vec::new() }
        } else {
            let draft = self.draft(run, reads, limit)?;
            self.is_deep = !draft.segments.is_empty();
            let name = self.next_name();
            let Draft { buf, range, start, segments, faults, .. } = draft;
            let body = if segments.is_empty() {
                Body::Ready { buf, start }
            } else {
                let key = reads.start(buf, &segments, |nth| token(name, nth));
                Body::Flying { key, pending: segments.len(), segments, troubled: Vec::new() }
            };
            Unit { plan, range, body, faults }
        };
        self.cursor.at = unit.range.end;
        self.push(unit);
        Ok(true)
    }

    /// Goes to the next byte that is to be read, taking new chunks as needed.
    fn find_work(&mut self, run: &Run<'_>) -> bool {
        loop {
            if self.cursor.is_at_end() {
                let Some(chunk) = run.claim() else { return false };
                let plan = &run.plans[chunk.plan];
                let at = plan.piece_range(chunk.pieces.start).start;
                let end = plan.piece_range(chunk.pieces.end - 1).end;
                self.cursor = Cursor { plan: chunk.plan, at, end, cleared: at };
            }
            if self.cursor.at < self.cursor.cleared {
                return true;
            }
            let plan = &run.plans[self.cursor.plan];
            let piece = plan.piece_at(self.cursor.at);
            let range = plan.piece_range(piece);
            let hash = match self.judge(run, piece, &range) {
                Verdict::Read => {
                    self.cursor.cleared = range.end;
                    return true;
                }
                Verdict::Unwanted => {
                    (self.cursor.at, self.cursor.cleared) = (range.end, range.end);
                    continue;
                }
                Verdict::Absent => None,
                Verdict::Zero => Some(run.zero_hash(self.cursor.plan, range.end - range.start)),
            };
            run.report(self.cursor.plan, piece, hash);
            run.progress.add(range.end - range.start);
            (self.cursor.at, self.cursor.cleared) = (range.end, range.end);
            if run.is_stopped() {
                return false;
            }
        }
    }

    /// Clears as many pieces as follow each other up to `target`; returns where the unit has to end.
    fn clear_until(&mut self, run: &Run<'_>, target: u64) -> u64 {
        let plan = &run.plans[self.cursor.plan];
        while self.cursor.cleared < target.min(self.cursor.end) {
            let piece = plan.piece_at(self.cursor.cleared);
            let range = plan.piece_range(piece);
            if !matches!(self.judge(run, piece, &range), Verdict::Read) {
                break;
            }
            self.cursor.cleared = range.end;
        }
        self.cursor.cleared.min(target)
    }

    fn judge(&mut self, run: &Run<'_>, piece: u32, range: &Range<u64>) -> Verdict {
        let plan = &run.plans[self.cursor.plan];
        if !(run.is_wanted)(self.cursor.plan, piece) {
            Verdict::Unwanted
        } else if !plan.is_present(range) {
            Verdict::Absent
        } else if self.zeroes(run, range.start, range.end) == range.end - range.start {
            Verdict::Zero
        } else {
            Verdict::Read
        }
    }

    /// How many bytes from `from` on, up to `to`, are known to be zeroes without reading. A file that cannot
    /// be opened has none; reading it will tell why.
    fn zeroes(&mut self, run: &Run<'_>, from: u64, to: u64) -> u64 {
        let plan = &run.plans[self.cursor.plan];
        let mut at = from;
        while at < to {
            let (index, offset) = plan.locate(at);
            let file = &plan.files()[index];
            let end = file.len.min(offset + (to - at));
            if file.pad {
                at += end - offset;
                continue;
            }
            if file.present < HOLE_FILE_LEN_MIN
                || self.source.open(self.cursor.plan, index, file, offset, run.reading).is_err()
            {
                break;
            }
            match self.source.stretch(offset, end) {
                (len, true) => at += len,
                _ => break,
            }
        }
        at - from
    }

    /// Fills a buffer from `cursor.at` on, or plans the reads that will.
    fn draft(&mut self, run: &Run<'_>, reads: &mut Reads, limit: u64) -> Result<Draft, HashError> {
        let at = self.cursor.at;
        let buf = reads.take();
        let capacity = run.shape.cached_len;
        let (segments, faults) = (Vec::new(), Vec::new());
        let mut draft = Draft { buf, range: at..at, start: 0, place: 0, capacity, segments, faults };
        let plan = &run.plans[self.cursor.plan];
        while draft.range.end < limit && draft.room() > 0 && draft.segments.len() < SEGMENTS_MAX {
            let at = draft.range.end;
            let zeroes = self.zeroes(run, at, limit);
            if zeroes >= ZERO_UNIT_LEN_MIN && !draft.is_empty() {
                break;
            }
            if zeroes > 0 {
                let len = zeroes.min(draft.room());
                draft.buf.as_mut_slice()[draft.place..][..len as usize].fill(0);
                draft.extend(len);
                continue;
            }
            let (index, offset) = plan.locate(at);
            let file = &plan.files()[index];
            if let Err(error) = self.source.open(self.cursor.plan, index, file, offset, run.reading) {
                run.fault(self.cursor.plan, index, error)?;
                let len = (limit - at).min(file.len - offset).min(draft.room());
                draft.faults.push(at..at + len);
                draft.extend(len);
                continue;
            }
            let end = file.len.min(offset + (limit - at));
            let (len, _) = self.source.stretch(offset, end);
            if !self.take_segment(run, reads, &mut draft, (index, offset, len))? {
                break;
            }
        }
        Ok(draft)
    }

    /// Puts up to `len` bytes of the open file at the draft's end; false when the unit is to end before or
    /// behind them.
    fn take_segment(
        &mut self,
        run: &Run<'_>,
        reads: &mut Reads,
        draft: &mut Draft,
        (index, offset, len): (usize, u64, u64),
    ) -> Result<bool, HashError> {
        let file = &run.plans[self.cursor.plan].files()[index];
        if self.source.way() == Way::Cached {
            let want = len.min(draft.room()) as usize;
            let into = &mut draft.buf.as_mut_slice()[draft.place..][..want];
            match self.source.read_now(offset, into) {
                // Less than wanted: the next round tells why.
                Ok(got) if got > 0 => {
                    draft.extend(got as u64);
                    return Ok(true);
                }
                _ => self.source.missed(file, run.reading),
            }
        }
        let is_direct = self.source.way() == Way::Direct;
        if is_direct && !draft.is_empty() {
            return Ok(false);
        }
        if draft.is_empty() {
            draft.capacity = run.shape.unit_len;
        }
        let before = if is_direct { offset % PAGE as u64 } else { 0 };
        // Ends on a page unless the file, or what is wanted of it, ends before.
        let want = len.min(draft.room() - before);
        let segment = Segment {
            fd: self.source.fd(),
            file: index,
            offset,
            at: draft.range.end,
            len: want as u32,
            place: (draft.place as u64 + before) as u32,
            before: before as u32,
            whole: match is_direct {
                true => (before + want).next_multiple_of(PAGE as u64) as u32,
                false => want as u32,
            },
        };
        if is_direct {
            (draft.start, draft.place) = (before as usize, before as usize);
        }
        draft.extend(want);
        if reads.can_fly() {
            draft.segments.push(segment);
        } else if !segment.read_here(&mut draft.buf) {
            let plan = self.cursor.plan;
            let faults = read_carefully(run, plan, &segment, &mut draft.buf)?;
            draft.faults.extend(faults);
        }
        Ok(!is_direct)
    }

    /// Takes in that read `nth` of the unit called `name` ended with `result`.
    pub(super) fn land(
        &mut self,
        run: &Run<'_>,
        reads: &mut Reads,
        (name, nth): (u64, usize),
        result: Result<u32, i32>,
    ) -> Result<(), HashError> {
        let unit = self.unit(name);
        let Body::Flying { key, segments, pending, troubled } = &mut unit.body else {
            panic!("a read of a unit that is complete");
        };
        let segment = &segments[nth];
        if result.is_ok_and(|got| got >= segment.before + segment.len) {
            // All there.
        } else {
            troubled.push(nth);
        }
        *pending -= 1;
        if *pending > 0 {
            return Ok(());
        }
        let mut buf = reads.land(*key);
        let start = segments[0].place as usize - (segments[0].at - unit.range.start) as usize;
        let mut faults = Vec::new();
        for &nth in &*troubled {
            faults.extend(read_carefully(run, unit.plan, &segments[nth], &mut buf)?);
        }
        unit.faults.extend(faults);
        unit.body = Body::Ready { buf, start };
        if result == Err(rustix::io::Errno::INVAL.raw_os_error()) {
            // The file system promised what it does not keep.
            self.source.give_up_direct();
        }
        Ok(())
    }
}

/// Reads a segment that came short or failed once more: piece by piece, so that one bad sector spoils no
/// other piece. Returns the ranges of the torrent that cannot be had.
fn read_carefully(
    run: &Run<'_>,
    plan_index: usize,
    segment: &Segment,
    buf: &mut PieceBuf,
) -> Result<Vec<Range<u64>>, HashError> {
    let plan = &run.plans[plan_index];
    let path = &plan.files()[segment.file].path;
    let whole = segment.at..segment.at + u64::from(segment.len);
    let careful = match Careful::open(path) {
        Ok(careful) => careful,
        Err(error) => {
            run.fault(plan_index, segment.file, error)?;
            return Ok(vec![whole]);
        }
    };
    let mut faults = Vec::new();
    let mut at = whole.start;
    while at < whole.end {
        let end = plan.piece_range(plan.piece_at(at)).end.min(whole.end);
        let into = (at - whole.start) as usize;
        let into = &mut buf.as_mut_slice()[segment.place as usize + into..][..(end - at) as usize];
        match careful.fill(segment.offset + (at - whole.start), into) {
            Ok(true) => {}
            Ok(false) if run.faults == Faults::Stop => {
                return Err(HashError::Shortened { path: path.clone() });
            }
            Ok(false) => faults.push(at..end),
            Err(error) => {
                run.fault(plan_index, segment.file, error)?;
                faults.push(at..end);
            }
        }
        at = end;
    }
    Ok(faults)
}

/// The hash of `len` zeroes.
pub(super) fn hash_of_zeroes(len: u64) -> [u8; 20] {
    let block = [0; 16 * 1024];
    let mut hasher = Sha1::new();
    let mut left = len;
    while left > 0 {
        let step = left.min(block.len() as u64);
        hasher.update(&block[..step as usize]);
        left -= step;
    }
    hasher.finalize()
}

/// Whether the error is about this process, not about a file.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

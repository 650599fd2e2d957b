//! One of the messages that a worker hashes at once, and the queue of what was read ahead for it.
//!
//! Owner: a [`Worker`](super::worker). Invariant: units follow each other in the order of the torrent, gaps
//! between them begin and end with a piece, and `at` is the first byte of the front unit that is not hashed
//! yet. A piece with a byte that could not be read is reported without a hash as soon as that is known, and
//! what else was read of it is dropped.

use std::collections::VecDeque;
use std::ops::Range;

use ccbt_storage::arena::PieceBuf;
use ccbt_storage::hash::Sha1;
use ccbt_storage::ring::BufKey;

use super::planner::Cursor;
use super::reads::{Reads, Segment};
use super::run::Run;
use super::source::Source;

/// What padding and holes are hashed from: as long as the longest step.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// A run of a torrent's bytes that was planned as one.
#[derive(Debug)]
pub(super) struct Unit {
    pub plan: usize,
    /// Torrent offsets.
    pub range: Range<u64>,
    pub body: Body,
    /// Torrent offsets that could not be read; mostly none.
    pub faults: Vec<Range<u64>>,
}

/// Where a unit's bytes are.
#[derive(Debug)]
pub(super) enum Body {
    /// Nowhere: all of them are zeroes.
    Zeroes,
    /// On their way.
    Flying {
        key: BufKey,
        segments: Vec<Segment>,
        /// Reads that have not ended.
        pending: usize,
        /// Positions of segments that came short or failed.
        troubled: Vec<usize>,
    },
    /// In memory, from byte `start` of the buffer on.
    Ready { buf: PieceBuf, start: usize },
}

/// What stands at the head of a lane's queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Front<'a> {
    /// No unit.
    Empty,
    /// One that is on its way.
    Waiting,
    /// Bytes to be hashed next, all of one piece.
    Ready(&'a [u8]),
}

/// See the module.
#[derive(Default)]
pub(super) struct Lane {
    pub cursor: Cursor,
    pub source: Source,
    /// The last read went to the disk: read ahead.
    pub is_deep: bool,
    queue: VecDeque<Unit>,
    /// Units that left the queue so far: names the front one.
    passed: u64,
    plan: usize,
    at: u64,
    /// First byte after the piece that holds `at`; `at` itself between pieces.
    piece_end: u64,
    /// The front unit is the one that holds `at`.
    has_entered: bool,
    /// The piece was reported without a hash.
    is_dropping: bool,
}

impl Lane {
    /// Units planned and not yet hashed.
    pub(super) fn depth(&self) -> usize {
        self.queue.len()
    }

    /// The name that the next unit will have: a number that rises by one.
    pub(super) fn next_name(&self) -> u64 {
        self.passed + self.queue.len() as u64
    }

    /// Queues a unit. Panics when it is empty.
    pub(super) fn push(&mut self, unit: Unit) {
        assert!(unit.range.start < unit.range.end, "an empty unit");
        self.queue.push_back(unit);
    }

    /// The unit called `name`. Panics when it has left the queue: none does while a read is in flight.
    pub(super) fn unit(&mut self, name: u64) -> &mut Unit {
        let position = usize::try_from(name - self.passed).expect("queues are short");
        &mut self.queue[position]
    }

    /// Passes what is hashed and what is to be dropped, until the front has bytes to be hashed or is waited
    /// for.
    pub(super) fn settle(&mut self, run: &Run<'_>, reads: &mut Reads, hasher: &mut Sha1) {
        while let Some(unit) = self.queue.front() {
            if matches!(unit.body, Body::Flying { .. }) {
                return;
            }
            if !self.has_entered {
                self.enter(unit.plan, unit.range.start);
                continue;
            }
            if self.at == unit.range.end {
                let unit = self.queue.pop_front().expect("looked at above");
                if let Body::Ready { buf, .. } = unit.body {
                    reads.give(buf);
                }
                self.passed += 1;
                self.has_entered = false;
                continue;
            }
            let plan = &run.plans[self.plan];
            let piece = plan.piece_at(self.at);
            if self.at == self.piece_end {
                let range = plan.piece_range(piece);
                assert_eq!(range.start, self.at, "pieces are begun at their start");
                self.piece_end = range.end;
                self.is_dropping = false;
            }
            let is_hit = |fault: &Range<u64>| fault.start < self.piece_end && self.at < fault.end;
            if !self.is_dropping && unit.faults.iter().any(is_hit) {
                self.is_dropping = true;
                *hasher = Sha1::new();
                run.report(self.plan, piece, None);
            }
            if !self.is_dropping {
                return;
            }
            let to = self.piece_end.min(unit.range.end);
            run.progress.add(to - self.at);
            self.at = to;
        }
    }

    /// Goes to the unit that starts at `start`.
    fn enter(&mut self, plan: usize, start: u64) {
        if (self.plan, self.at) != (plan, start) {
            assert_eq!(self.at, self.piece_end, "units of a piece follow each other");
            (self.plan, self.at, self.piece_end) = (plan, start, start);
        }
        self.has_entered = true;
    }

    /// After [`Self::settle`]: what is to be done with this lane.
    pub(super) fn front(&self) -> Front<'_> {
        let Some(unit) = self.queue.front() else { return Front::Empty };
        let left = self.piece_end.min(unit.range.end).saturating_sub(self.at) as usize;
        match &unit.body {
            Body::Flying { .. } => Front::Waiting,
            Body::Zeroes => Front::Ready(&ZEROES[..left.min(ZEROES.len())]),
            Body::Ready { buf, start } => {
                let from = start + (self.at - unit.range.start) as usize;
                Front::Ready(&buf.as_slice()[from..from + left])
            }
        }
    }

    /// Counts `len` of the ready bytes as hashed, and reports the piece when it is complete.
    pub(super) fn advance(&mut self, run: &Run<'_>, len: usize, hasher: &mut Sha1) {
        let piece = run.plans[self.plan].piece_at(self.at);
        self.at += len as u64;
        assert!(self.at <= self.piece_end, "bytes of one piece at a time");
        if self.at == self.piece_end {
            let digest = std::mem::take(hasher).finalize();
            run.report(self.plan, piece, Some(digest));
        }
    }
}

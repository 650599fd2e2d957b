//! A thread that reads ahead and hashes.
//!
//! Owner: [`super::run`] starts it. Invariant: it waits for the disk only when a lane has nothing else to do
//! than to wait, so that all lanes take part in every step; and whatever it waits for is in flight.
//!
//! A turn: plan reads while there is room, submit them, take in what arrived, and hash one step of every
//! lane. Lanes are planned in turn, except on a rotating device, where one chunk is planned to its end
//! before the next lane gets one.

use ccbt_storage::hash::{LANES_MAX, Sha1, update_lanes};

use super::HashError;
use super::lane::{Front, Lane};
use super::planner::SEGMENTS_MAX;
use super::reads::Reads;
use super::run::Run;

/// Bytes of a lane that are hashed before the ring is looked at again.
const STEP_LEN: usize = 64 * 1024;
/// A lane that has less ready than this does not shorten the step of the others.
const STEP_LEN_MIN: usize = 4 * 1024;

/// See the module.
pub(super) struct Worker<'r, 'a> {
    run: &'r Run<'a>,
    lanes: Vec<Lane>,
    hashers: Vec<Sha1>,
    reads: Reads,
    /// The lane whose chunk is planned, on a rotating device.
    turn: usize,
    /// There is no work left to be planned.
    is_planned: bool,
}

/// What the lanes are up to.
enum Look {
    /// All have passed what is planned.
    Done,
    /// At least one is waited for.
    Waiting,
    /// All that have work have bytes ready.
    Ready,
}

impl<'r, 'a> Worker<'r, 'a> {
    /// A worker without work; on the thread it will run on. Fails when there is no memory.
    pub(super) fn new(run: &'r Run<'a>) -> Result<Self, HashError> {
        if run.is_idle {
            ccbt_storage::ring::priority::go_idle();
        }
        let shape = run.shape;
        Ok(Self {
            run,
            lanes: (0..shape.lanes).map(|_| Lane::default()).collect(),
            hashers: vec![Sha1::new(); shape.lanes],
            reads: Reads::new(shape.buffers, shape.unit_len, run.has_ring).map_err(HashError::Resources)?,
            turn: 0,
            is_planned: false,
        })
    }

    /// Hashes until nothing is left.
    pub(super) fn work(mut self) -> Result<(), HashError> {
        loop {
            if self.run.progress.is_cancelled() {
                return Err(HashError::Cancelled);
            }
            if self.run.is_stopped() {
                return Ok(());
            }
            self.plan()?;
            self.take_in(false)?;
            match self.look() {
                Look::Ready => self.hash(),
                Look::Waiting => self.take_in(true)?,
                Look::Done if self.is_at_end() => return Ok(()),
                // What was planned is passed, and there is more to be planned.
                Look::Done => {}
            }
        }
    }

    /// Plans as much as there is room for.
    fn plan(&mut self) -> Result<(), HashError> {
        if self.run.shape.is_sequential {
            while !self.is_planned && self.reads.has_room(SEGMENTS_MAX) {
                if self.lanes[self.turn].cursor.is_at_end() {
                    self.turn = (self.turn + 1) % self.lanes.len();
                }
                // Units of zeroes take no buffer, but they are bounded too.
                if self.lanes[self.turn].depth() >= self.run.shape.depth {
                    break;
                }
                self.plan_lane(self.turn)?;
            }
            return Ok(());
        }
        for depth in 0..self.run.shape.depth {
            for index in 0..self.lanes.len() {
                let lane = &self.lanes[index];
                let is_due = lane.depth() == depth && (depth == 0 || lane.is_deep);
                if is_due && !(self.is_planned && lane.cursor.is_at_end()) {
                    if !self.reads.has_room(SEGMENTS_MAX) {
                        return Ok(());
                    }
                    self.plan_lane(index)?;
                }
            }
        }
        Ok(())
    }

    fn is_at_end(&self) -> bool {
        self.is_planned && self.lanes.iter().all(|lane| lane.cursor.is_at_end())
    }

    fn plan_lane(&mut self, index: usize) -> Result<(), HashError> {
        let token = |name, nth| token(index, name, nth);
        if !self.lanes[index].plan_unit(self.run, &mut self.reads, token)? {
            self.is_planned = true;
        }
        Ok(())
    }

    /// Submits reads and takes in those that ended.
    fn take_in(&mut self, wait: bool) -> Result<(), HashError> {
        self.reads.turn(wait);
        while let Some(done) = self.reads.next_done() {
            let (index, name, nth) = parts(done.token, &self.lanes);
            self.lanes[index].land(self.run, &mut self.reads, (name, nth), done.result)?;
        }
        Ok(())
    }

    fn look(&mut self) -> Look {
        let mut look = Look::Done;
        for (lane, hasher) in self.lanes.iter_mut().zip(&mut self.hashers) {
            lane.settle(self.run, &mut self.reads, hasher);
            match lane.front() {
                Front::Waiting => look = Look::Waiting,
                Front::Ready(_) if matches!(look, Look::Done) => look = Look::Ready,
                Front::Ready(_) | Front::Empty => {}
            }
        }
        look
    }

    /// Hashes one step.
    fn hash(&mut self) {
        let mut slices: [&[u8]; LANES_MAX] = [&[]; LANES_MAX];
        let mut step = STEP_LEN;
        for (slice, lane) in slices.iter_mut().zip(&self.lanes) {
            if let Front::Ready(bytes) = lane.front() {
                *slice = bytes;
                step = step.min(bytes.len());
            }
        }
        let step = step.max(STEP_LEN_MIN);
        slices.iter_mut().for_each(|slice| *slice = &slice[..slice.len().min(step)]);
        update_lanes(&mut self.hashers, &slices[..self.lanes.len()]);
        let lens = slices.map(<[u8]>::len);
        for ((lane, hasher), len) in self.lanes.iter_mut().zip(&mut self.hashers).zip(lens) {
            if len > 0 {
                lane.advance(self.run, len, hasher);
            }
        }
        self.run.progress.add(lens.iter().sum::<usize>() as u64);
    }
}

const NTH_BITS: u32 = 8;
const NAME_BITS: u32 = 40;
const _: () = assert!(SEGMENTS_MAX <= 1 << NTH_BITS && LANES_MAX <= 1 << (64 - NTH_BITS - NAME_BITS));

/// Names a read on the ring: the lane, the unit's name (of which the low bits will do, since queues are
/// short) and the position in the unit.
fn token(lane: usize, name: u64, nth: usize) -> u64 {
    (lane as u64) << (NAME_BITS + NTH_BITS) | (name & ((1 << NAME_BITS) - 1)) << NTH_BITS | nth as u64
}

/// The other way.
fn parts(token: u64, lanes: &[Lane]) -> (usize, u64, usize) {
    let lane = (token >> (NAME_BITS + NTH_BITS)) as usize;
    let low = token >> NTH_BITS & ((1 << NAME_BITS) - 1);
    let nth = (token & ((1 << NTH_BITS) - 1)) as usize;
    // The latest name with these low bits.
    let newest = lanes[lane].next_name();
    let name = newest - (newest.wrapping_sub(low) & ((1 << NAME_BITS) - 1));
    (lane, name, nth)
}

//! Hands out the work of several plans to the workers of each device.
//!
//! Role: [`Batch`] is what `create` and `verify` start; a [`Run`] is the part of it that lies on one device.
//! Owner: the caller's thread. Invariant: chunks (runs of whole pieces) are handed out in the order of the
//! torrents, so that all the reads of a moment lie close together on the disk.
//!
//! Memory: a worker of a device that does not rotate has a buffer of [`UNIT_LEN`] for each of up to
//! [`LANES_MAX`] lanes times [`DEPTH`], 12 MiB at most, of which it uses less than one MiB while everything
//! is in the page cache. The one worker of a rotating device has [`SEQUENTIAL_LEN`].

use std::io;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Scope, ScopedJoinHandle};

use ccbt_storage::arena::PAGE;
use ccbt_storage::hash::algorithm::Sha1Algorithm;
use ccbt_storage::hash::{Backend, LANES_MAX};

use super::device::{DeviceId, device_of, is_rotating};
use super::plan::HashPlan;
use super::planner::{hash_of_zeroes, is_shortage};
use super::source::is_in_memory;
use super::worker::Worker;
use super::{Faults, HashError, HashOptions, Order, Progress, Reading, THREADS_MAX};

/// Shortest run of pieces that a lane takes at a time, in bytes.
const CHUNK_LEN: u64 = 1 << 20;
/// Longest read of a device that does not rotate, in bytes.
const UNIT_LEN: usize = 256 * 1024;
/// Units that are planned for each lane: one is hashed, the others are on their way.
const DEPTH: usize = 3;
/// Units of a worker at least, however few its lanes: what keeps a device busy.
const UNITS_MIN: usize = 16;
/// What the lanes of a worker read from the page cache together before they hash it, in bytes: what a usual
/// second-level cache holds. Measured with sixteen lanes on Zen 5: half of it costs 4 % in system calls.
const CACHED_LEN: usize = 1024 * 1024;
/// Longest read of a rotating device, in bytes.
const SEQUENTIAL_UNIT_LEN: usize = 1 << 20;
/// Buffers for a rotating device, in bytes.
const SEQUENTIAL_LEN: usize = 32 << 20;

const _: () = assert!(LANES_MAX * DEPTH * UNIT_LEN <= 12 << 20 && UNIT_LEN.is_multiple_of(PAGE));

/// Sizes that a worker is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Messages hashed at once.
    pub lanes: usize,
    /// Units planned for a lane at most.
    pub depth: usize,
    /// Buffers.
    pub buffers: usize,
    /// Bytes of a buffer, a multiple of the page size.
    pub unit_len: usize,
    /// Bytes that a lane reads from the page cache at a time.
    pub cached_len: usize,
    /// Chunks are read one after the other, not side by side.
    pub is_sequential: bool,
}

/// What tests vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuning {
    /// Messages hashed at once at most.
    pub lanes: usize,
    /// Whether reads may go through io_uring.
    pub has_ring: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { lanes: Backend::detect().lanes::<Sha1Algorithm>().min(LANES_MAX), has_ring: true }
    }
}

impl Shape {
    fn parallel(chunks: u64, threads: usize, lanes_max: usize) -> Self {
        // With few chunks, threads are worth more than lanes.
        let share = usize::try_from(chunks / threads as u64).unwrap_or(usize::MAX);
        let lanes = lanes_max.min(share).max(1);
        let depth = DEPTH.max(UNITS_MIN.div_ceil(lanes));
        let (unit_len, cached_len) = (UNIT_LEN, cached_len(lanes).min(UNIT_LEN));
        Self { lanes, depth, buffers: lanes * depth, unit_len, cached_len, is_sequential: false }
    }

    /// As many lanes as chunks fit into half of the memory: while they are hashed the next ones are read.
    fn sequential(chunk_len: u64, lanes_max: usize) -> Self {
        let fit = (SEQUENTIAL_LEN as u64 / 2 / chunk_len.max(1)) as usize;
        let lanes = lanes_max.min(fit).max(1);
        let unit_len = SEQUENTIAL_UNIT_LEN;
        let buffers = SEQUENTIAL_LEN / unit_len;
        Self { lanes, depth: buffers, buffers, unit_len, cached_len: unit_len, is_sequential: true }
    }
}

fn cached_len(lanes: usize) -> usize {
    (CACHED_LEN / lanes).next_multiple_of(PAGE)
}

/// A file of a batch that could not be read.
#[derive(Debug)]
pub(super) struct Fault {
    pub plan: usize,
    pub file: usize,
    pub error: io::Error,
}

/// Called with plan, piece and hash.
pub(super) type Report<'a> = &'a (dyn Fn(usize, u32, Option<[u8; 20]>) + Sync);

/// Several plans to be hashed at once.
pub(super) struct Batch<'a> {
    pub plans: &'a [HashPlan],
    pub options: HashOptions,
    pub faults: Faults,
    pub progress: &'a Progress,
    /// Whether a piece of a plan is to be hashed. The others count as done in `progress` from the start.
    pub is_wanted: &'a (dyn Fn(usize, u32) -> bool + Sync),
    /// Called once for each wanted piece, by any thread, in any order.
    pub report: Report<'a>,
    pub tuning: Tuning,
}

impl Batch<'_> {
    /// Returns when everything is reported, failed or cancelled: with [`Faults::Skip`], the first fault of
    /// each file that has one. Panics when a worker panicked.
    pub(super) fn run(&self) -> Result<Vec<Fault>, HashError> {
        let total = self.plans.iter().map(|plan| plan.geometry().total_len()).sum();
        self.progress.total.store(total, Ordering::Relaxed);
        let has_failed = AtomicBool::new(false);
        let runs: Vec<Run<'_>> =
            self.by_device().into_iter().map(|plans| self.run_of(plans, &has_failed)).collect();
        let parts = std::thread::scope(|scope| {
            let workers: Vec<_> = runs.iter().flat_map(|run| run.spawn(scope)).collect();
            // Fewer threads than asked for still do all the work of a device; none at all is an error.
            let mut parts = Vec::with_capacity(workers.len());
            let mut refused = None;
            for worker in workers {
                match worker.map(ScopedJoinHandle::join) {
                    Ok(Ok(part)) => parts.push(part),
                    Ok(Err(panic)) => std::panic::resume_unwind(panic),
                    Err(error) => refused = Some(error),
                }
            }
            match refused {
                Some(error) if runs.iter().any(|run| !run.is_handed_out()) => {
                    // An error of a worker says more than what was left because of it.
                    parts.into_iter().collect::<Result<Vec<_>, _>>().and(Err(HashError::Resources(error)))
                }
                _ => Ok(parts),
            }
        })?;
        parts.into_iter().collect::<Result<Vec<()>, HashError>>()?;
        let mut faults: Vec<Fault> = runs.into_iter().flat_map(Run::into_faults).collect();
        faults.sort_by_key(|fault| (fault.plan, fault.file));
        faults.dedup_by_key(|fault| (fault.plan, fault.file));
        Ok(faults)
    }

    /// The plans that lie on each device. One that lies on several counts for that of its first file.
    fn by_device(&self) -> Vec<(DeviceId, Vec<usize>)> {
        let mut devices: Vec<(DeviceId, Vec<usize>)> = Vec::new();
        for (index, plan) in self.plans.iter().enumerate() {
            let device = plan.files().iter().find(|file| !file.pad).map_or(0, |file| device_of(&file.path));
            match devices.iter_mut().find(|(known, _)| *known == device) {
                Some((_, plans)) => plans.push(index),
                None => devices.push((device, vec![index])),
            }
        }
        devices
    }

    fn run_of<'a>(&'a self, (device, plans): (DeviceId, Vec<usize>), has_failed: &'a AtomicBool) -> Run<'a> {
        let mut chunks = 0;
        let mut starts = Vec::with_capacity(plans.len());
        let mut chunk_len = 0;
        for &index in &plans {
            starts.push(chunks);
            let geometry = self.plans[index].geometry();
            let pieces = chunk_pieces(geometry.piece_len());
            chunks += u64::from(geometry.piece_count().div_ceil(pieces));
            chunk_len = chunk_len.max(u64::from(pieces) * u64::from(geometry.piece_len()));
        }
        let is_sequential = match self.options.order {
            Order::Sequential => true,
            Order::Parallel => false,
            Order::Auto => is_rotating(device) && !self.is_cached(&plans),
        };
        let threads = match is_sequential {
            true => 1,
            false => self.options.thread_count().min(usize::try_from(chunks).unwrap_or(THREADS_MAX)),
        };
        let lanes = self.tuning.lanes;
        let shape = match is_sequential {
            true => Shape::sequential(chunk_len, lanes),
            false => Shape::parallel(chunks, threads, lanes),
        };
        Run {
            plans: self.plans,
            is_wanted: self.is_wanted,
            report: self.report,
            faults: self.faults,
            reading: self.options.reading,
            is_idle: self.options.idle,
            progress: self.progress,
            shape,
            has_ring: self.tuning.has_ring,
            threads,
            members: plans,
            starts,
            chunks,
            next_chunk: AtomicU64::new(0),
            zero_hash: OnceLock::new(),
            found: std::sync::Mutex::default(),
            has_failed,
        }
    }

    /// Whether the plans seem to lie in the page cache: every one of a few places does.
    fn is_cached(&self, plans: &[usize]) -> bool {
        const PLACES: u64 = 16;
        if self.options.reading == Reading::Direct {
            return false;
        }
        let total: u64 = plans.iter().map(|&plan| self.plans[plan].geometry().total_len()).sum();
        (0..PLACES).all(|nth| {
            let mut at = total / PLACES * nth;
            for plan in plans.iter().map(|&plan| &self.plans[plan]) {
                let len = plan.geometry().total_len();
                if at < len {
                    let (index, offset) = plan.locate(at);
                    let file = &plan.files()[index];
                    return file.pad || offset >= file.present || is_in_memory(file, offset);
                }
                at -= len;
            }
            true
        })
    }
}

/// Pieces of a chunk.
fn chunk_pieces(piece_len: u32) -> u32 {
    (CHUNK_LEN / u64::from(piece_len)).max(1) as u32
}

/// A run of pieces of one plan, for one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub plan: usize,
    pub pieces: Range<u32>,
}

/// What the workers of one device share.
pub(super) struct Run<'a> {
    pub plans: &'a [HashPlan],
    pub is_wanted: &'a (dyn Fn(usize, u32) -> bool + Sync),
    report: Report<'a>,
    pub faults: Faults,
    pub reading: Reading,
    pub is_idle: bool,
    pub progress: &'a Progress,
    pub shape: Shape,
    pub has_ring: bool,
    threads: usize,
    /// The plans that lie on the device, and the number of each one's first chunk.
    members: Vec<usize>,
    starts: Vec<u64>,
    chunks: u64,
    next_chunk: AtomicU64,
    /// Length of the first piece of zeroes that was met, and its hash.
    zero_hash: OnceLock<(u64, [u8; 20])>,
    found: std::sync::Mutex<Vec<Fault>>,
    /// A worker of any device has an error: the others stop too.
    has_failed: &'a AtomicBool,
}

impl<'a> Run<'a> {
    fn spawn<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
    ) -> Vec<io::Result<ScopedJoinHandle<'scope, Result<(), HashError>>>> {
        let spawn = |_| {
            let thread = std::thread::Builder::new().name("ccbt-file-hash".into());
            thread.spawn_scoped(scope, || {
                let result = Worker::new(self).and_then(Worker::work);
                if result.is_err() {
                    self.has_failed.store(true, Ordering::Relaxed);
                }
                result
            })
        };
        (0..self.threads).map(spawn).collect()
    }

    /// The next pieces for a lane; `None` when all are handed out.
    pub(super) fn claim(&self) -> Option<Chunk> {
        let number = self.next_chunk.fetch_add(1, Ordering::Relaxed);
        if number >= self.chunks {
            return None;
        }
        let member = self.starts.partition_point(|&start| start <= number) - 1;
        let plan = self.members[member];
        let geometry = self.plans[plan].geometry();
        let pieces = chunk_pieces(geometry.piece_len());
        let first = (number - self.starts[member]) as u32 * pieces;
        Some(Chunk { plan, pieces: first..geometry.piece_count().min(first + pieces) })
    }

    fn is_handed_out(&self) -> bool {
        self.next_chunk.load(Ordering::Relaxed) >= self.chunks
    }

    /// Tells the outcome of a piece.
    pub(super) fn report(&self, plan: usize, piece: u32, hash: Option<[u8; 20]>) {
        (self.report)(plan, piece, hash);
    }

    /// Notes that a file cannot be read, or fails for it.
    pub(super) fn fault(&self, plan: usize, file: usize, error: io::Error) -> Result<(), HashError> {
        if is_shortage(&error) {
            return Err(HashError::Resources(error));
        }
        if self.faults == Faults::Stop {
            let path = self.plans[plan].files()[file].path.clone();
            return Err(HashError::Read { path, source: error });
        }
        let mut found = self.found.lock().expect("no holder panics");
        if found.iter().all(|fault| (fault.plan, fault.file) != (plan, file)) {
            found.push(Fault { plan, file, error });
        }
        Ok(())
    }

    fn into_faults(self) -> Vec<Fault> {
        self.found.into_inner().expect("no holder panics")
    }

    /// The hash of `len` zeroes, a whole piece of plan `plan`; computed once per length as a rule.
    pub(super) fn zero_hash(&self, plan: usize, len: u64) -> [u8; 20] {
        // The last piece of a torrent may be shorter, and another torrent's longer.
        let known = self.zero_hash.get_or_init(|| {
            let len = u64::from(self.plans[plan].geometry().piece_len());
            (len, hash_of_zeroes(len))
        });
        if known.0 == len { known.1 } else { hash_of_zeroes(len) }
    }

    /// Whether to give up: the run was cancelled, or another worker failed.
    pub(super) fn is_stopped(&self) -> bool {
        self.progress.is_cancelled() || self.has_failed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_keep_their_bounds() {
        for lanes in 1..=LANES_MAX {
            for threads in [1, 2, 16] {
                for chunks in [16, 17, 100, 1 << 40] {
                    let shape = Shape::parallel(chunks, threads, lanes);
                    assert!((1..=lanes).contains(&shape.lanes));
                    assert!(shape.buffers * shape.unit_len <= 12 << 20, "{shape:?}");
                    assert!(shape.buffers >= shape.lanes * shape.depth && shape.depth >= DEPTH);
                    assert!(shape.cached_len <= shape.unit_len && shape.cached_len.is_multiple_of(PAGE));
                }
            }
            for chunk_len in [CHUNK_LEN, 3 << 20, 64 << 20] {
                let shape = Shape::sequential(chunk_len, lanes);
                assert_eq!(shape.buffers * shape.unit_len, SEQUENTIAL_LEN);
                assert!(shape.lanes == 1 || shape.lanes as u64 * chunk_len <= SEQUENTIAL_LEN as u64 / 2);
            }
        }
    }
}

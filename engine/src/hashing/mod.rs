//! Files read and hashed by several threads: what `create` and `verify` are made of.
//!
//! Role: [`HashPlan`] is a list of files cut into pieces, [`HashPlan::run`] gives the SHA-1 of each piece (BEP 3).
//! Owner: the caller's thread; the workers live as long as `run`. Invariant: memory is bounded by threads, not by sizes
//! ([`Lane`](lane) buffers of 1 MiB, at most four per thread), and every piece is reported exactly once. Called by
//! [`create`] and [`verify`], which the command line calls.
//!
//! Every thread hashes up to four pieces at once, since that is how a core hashes fastest. Chunks are handed out in
//! order and are no longer than a piece or 1 MiB, so that all the reads of a moment lie close together on the disk.

pub mod create;
mod lane;
mod reader;
pub mod verify;

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;

use ccbt_protocol::geometry::{Geometry, GeometryError};
use ccbt_protocol::metainfo::escape_for_terminal;
use ccbt_storage::hash::{Backend, LANES_MAX, Sha1, update_lanes};

use lane::Lane;

/// Shortest run of pieces that a lane takes at a time, in bytes, and the length of its reads.
const CHUNK_LEN: u64 = 1 << 20;
/// Most threads of one run; the default is one per CPU.
pub const THREADS_MAX: usize = 256;

/// One file of a [`HashPlan`], in torrent order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanFile {
    /// Where it is; empty for padding.
    pub path: PathBuf,
    /// Bytes it has in the torrent.
    pub len: u64,
    /// Padding (BEP 47): hashed as zeroes, never read.
    pub pad: bool,
    /// Bytes that are there to be read, at most `len`; what follows is reported absent without a look.
    pub present: u64,
}

impl PlanFile {
    /// A file of which all bytes are there.
    pub fn stored(path: PathBuf, len: u64) -> Self {
        Self { path, len, pad: false, present: len }
    }

    /// `len` zeroes.
    pub fn padding(len: u64) -> Self {
        Self { path: PathBuf::new(), len, pad: true, present: len }
    }
}

/// How to run a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashOptions {
    /// Threads; 0 = as many as there are CPUs for this process. At most [`THREADS_MAX`].
    pub threads: usize,
    /// Read past the page cache (O_DIRECT) where the file system allows it. Turn it off for files that were just
    /// written and are still in the cache.
    pub direct: bool,
}

impl Default for HashOptions {
    fn default() -> Self {
        Self { threads: 0, direct: true }
    }
}

impl HashOptions {
    fn thread_count(self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
        .min(THREADS_MAX)
    }
}

/// What a run does with bytes that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// The run fails.
    Stop,
    /// Their pieces have no hash, and the first fault of each file is listed.
    Skip,
}

/// How far a run is, for another thread to look at; and that thread's way to end it.
#[derive(Default)]
pub struct Progress {
    total: AtomicU64,
    done: AtomicU64,
    is_cancelled: AtomicBool,
    watcher: Option<Box<dyn Fn(u64) + Send + Sync>>,
}

impl Progress {
    /// Calls `watcher` with the bytes done after every step (at most 4 MiB), from the worker threads: keep it short.
    pub fn watched(watcher: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self { watcher: Some(Box::new(watcher)), ..Self::default() }
    }

    /// Bytes to be done, padding and absent bytes included; 0 until that is known.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Bytes done, rising to [`Self::total`].
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends the run soon, with [`HashError::Cancelled`]. Not undone: use a new `Progress` for a new run.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether [`Self::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(watcher) = &self.watcher {
            watcher(done);
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.done(), self.total())
    }
}

/// Why a run gave no result.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// [`Progress::cancel`] was called.
    #[error("cancelled")]
    Cancelled,
    /// A file could not be read.
    #[error("cannot read {}: {source}; check the file and its permissions, then run this again", shown(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file ended early.
    #[error("{} became shorter while it was read; run this again when nothing writes to it", shown(path))]
    Shortened {
        /// The file.
        path: PathBuf,
    },
    /// No memory or no thread.
    #[error("cannot start hashing: {0}; use fewer threads or raise the limits (`ulimit -u`, `ulimit -v`)")]
    Resources(#[source] io::Error),
}

/// `path` for a message.
pub(crate) fn shown(path: &Path) -> String {
    escape_for_terminal(&path.to_string_lossy()).into_owned()
}

/// What a run found out.
#[derive(Debug)]
pub struct Hashes {
    /// SHA-1 of each piece in order; `None` where bytes are absent or could not be read.
    pub pieces: Vec<Option<[u8; 20]>>,
    /// With [`Faults::Skip`], the first fault of each file that has one, by index in the plan.
    pub faults: Vec<(usize, io::Error)>,
}

/// Files in torrent order, and the length of pieces.
#[derive(Clone, Debug)]
pub struct HashPlan {
    files: Vec<PlanFile>,
    /// First byte of each file within the torrent.
    offsets: Vec<u64>,
    geometry: Geometry,
}

impl HashPlan {
    /// A plan of `files` in pieces of `piece_len` bytes. Fails when they make no torrent; panics when the lengths add
    /// up to 2^64 or more, or a file has more bytes present than its length.
    pub fn new(files: Vec<PlanFile>, piece_len: u32) -> Result<Self, GeometryError> {
        let mut offsets = Vec::with_capacity(files.len());
        let mut total = 0u64;
        for file in &files {
            assert!(file.present <= file.len, "{} of {} bytes present", file.present, file.len);
            offsets.push(total);
            total = total.checked_add(file.len).expect("a torrent is shorter than 2^64 bytes");
        }
        let geometry = Geometry::new(total, u64::from(piece_len))?;
        Ok(Self { files, offsets, geometry })
    }

    /// The files, as given.
    pub fn files(&self) -> &[PlanFile] {
        &self.files
    }

    /// Sizes of the pieces.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The file that holds byte `at` of the torrent, and where in it.
    fn locate(&self, at: u64) -> (usize, u64) {
        assert!(at < self.geometry.total_len(), "byte {at} of {}", self.geometry.total_len());
        // Empty files share their offset with the file that follows: the last one that starts here holds the byte.
        let index = self.offsets.partition_point(|&offset| offset <= at) - 1;
        (index, at - self.offsets[index])
    }

    /// Reads and hashes everything, and returns when it is done, failed or cancelled. Panics when a worker panicked.
    pub fn run(
        &self,
        options: HashOptions,
        faults: Faults,
        progress: &Progress,
    ) -> Result<Hashes, HashError> {
        progress.total.store(self.geometry.total_len(), Ordering::Relaxed);
        let chunk_pieces = (CHUNK_LEN / u64::from(self.geometry.piece_len())).max(1) as u32;
        let chunks = self.geometry.piece_count().div_ceil(chunk_pieces) as usize;
        let threads = options.thread_count().min(chunks);
        let run = Run {
            plan: self,
            faults,
            direct: options.direct,
            progress,
            chunk_pieces,
            // With few chunks, threads are worth more than lanes.
            lanes: Backend::detect().lanes().min(chunks / threads),
            next_chunk: AtomicU32::new(0),
            has_failed: AtomicBool::new(false),
        };
        let parts = std::thread::scope(|scope| {
            let spawn = || {
                let thread = std::thread::Builder::new().name("ccbt-file-hash".into());
                thread.spawn_scoped(scope, || run.work())
            };
            let workers: Vec<io::Result<ScopedJoinHandle<_>>> = (0..threads).map(|_| spawn()).collect();
            // Fewer threads than asked for still do all the work; none at all is an error.
            let mut parts = Vec::with_capacity(threads);
            let mut refused = None;
            for worker in workers {
                match worker.map(ScopedJoinHandle::join) {
                    Ok(Ok(part)) => parts.push(part),
                    Ok(Err(panic)) => std::panic::resume_unwind(panic),
                    Err(error) => refused = Some(error),
                }
            }
            match refused {
                Some(error) if parts.is_empty() => Err(HashError::Resources(error)),
                _ => Ok(parts),
            }
        })?;
        self.merge(parts)
    }

    fn merge(&self, parts: Vec<Result<Part, HashError>>) -> Result<Hashes, HashError> {
        let mut pieces = vec![None; self.geometry.piece_count() as usize];
        let mut reported = 0;
        let mut faults: Vec<(usize, io::Error)> = Vec::new();
        for part in parts {
            let part = part?;
            reported += part.pieces.len();
            part.pieces.into_iter().for_each(|(piece, hash)| pieces[piece as usize] = hash);
            faults.extend(part.faults);
        }
        assert_eq!(reported, pieces.len(), "every piece is reported once");
        faults.sort_by_key(|(file, _)| *file);
        faults.dedup_by_key(|(file, _)| *file);
        Ok(Hashes { pieces, faults })
    }
}

/// What the workers of one run share.
struct Run<'a> {
    plan: &'a HashPlan,
    faults: Faults,
    direct: bool,
    progress: &'a Progress,
    chunk_pieces: u32,
    lanes: usize,
    next_chunk: AtomicU32,
    /// A worker has an error: the others stop too.
    has_failed: AtomicBool,
}

/// What one worker found out.
#[derive(Default)]
struct Part {
    pieces: Vec<(u32, Option<[u8; 20]>)>,
    faults: Vec<(usize, io::Error)>,
}

impl Run<'_> {
    /// Pieces for a lane; `None` when all are given out.
    fn next_pieces(&self) -> Option<Range<u32>> {
        let count = self.plan.geometry.piece_count();
        // At most one chunk too far per lane, and pieces are at most 2^26: no overflow.
        let chunk = self.next_chunk.fetch_add(1, Ordering::Relaxed);
        let first = chunk.saturating_mul(self.chunk_pieces);
        (first < count).then(|| first..count.min(first + self.chunk_pieces))
    }

    fn work(&self) -> Result<Part, HashError> {
        let result = self.hash_all();
        if result.is_err() {
            self.has_failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn hash_all(&self) -> Result<Part, HashError> {
        let mut lanes = Vec::with_capacity(self.lanes);
        for _ in 0..self.lanes {
            lanes.push(Lane::new(self).map_err(HashError::Resources)?);
        }
        let mut hashers = vec![Sha1::new(); self.lanes];
        let mut part = Part::default();
        loop {
            if self.progress.is_cancelled() {
                return Err(HashError::Cancelled);
            }
            if self.has_failed.load(Ordering::Relaxed) {
                return Ok(part);
            }
            for (lane, hasher) in lanes.iter_mut().zip(&mut hashers) {
                lane.prepare(self, hasher, &mut part)?;
            }
            let mut slices: [&[u8]; LANES_MAX] = [&[]; LANES_MAX];
            for (slice, lane) in slices.iter_mut().zip(&lanes) {
                *slice = lane.ready();
            }
            // Lanes that have run out of pieces have nothing ready, and stay so.
            let Some(step) = slices.iter().map(|slice| slice.len()).filter(|&len| len > 0).min() else {
                return Ok(part);
            };
            slices.iter_mut().for_each(|slice| *slice = &slice[..slice.len().min(step)]);
            update_lanes(&mut hashers, &slices[..self.lanes]);
            let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
            for (lane, hasher) in lanes.iter_mut().zip(&mut hashers) {
                lane.advance(self.plan, step, hasher, &mut part);
            }
            self.progress.add(bytes as u64);
        }
    }
}

#[cfg(test)]
mod tests;

//! Files read and hashed by several threads: what `create` and `verify` are made of.
//!
//! Role: a [`HashPlan`] is a list of files cut into pieces; a run gives the SHA-1 of each piece (BEP 3).
//! Owner: the caller's thread; the workers live as long as the run. Invariant: every piece is reported
//! exactly once, and memory is bounded by threads, not by sizes: at most 12 MiB of buffers per worker, and
//! 32 MiB for the only worker of a rotating device (see [`run`] for the sums). Called by [`create`] and
//! [`verify`], which the command line calls.
//!
//! From the inside out: a [`lane`] is one of up to sixteen messages that a core hashes at once and the reads
//! ahead of it; a [`worker`] is a thread with its lanes, its buffers and its io_uring ring; a [`source`] is
//! what a lane knows about the file it reads; [`run`] hands out work, in the order of the disk.

pub mod create;
mod device;
mod lane;
mod plan;
mod planner;
mod reads;
mod resume;
mod run;
mod source;
mod verdicts;
pub mod verify;
mod worker;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ccbt_protocol::metainfo::escape_for_terminal;

pub use plan::{HashPlan, Hashes, PlanFile};

/// Most threads of one run; the default is one per CPU.
pub const THREADS_MAX: usize = 256;

/// How to run a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HashOptions {
    /// Threads; 0 = as many as there are CPUs for this process. At most [`THREADS_MAX`].
    pub threads: usize,
    /// How files are read.
    pub reading: Reading,
    /// In which order the disk is read.
    pub order: Order,
    /// Run the threads at the lowest priorities of CPU and disk (`SCHED_IDLE`, idle I/O class), so that
    /// everything else on the machine goes first.
    pub idle: bool,
}

/// In which order the files of one device are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    /// [`Self::Sequential`] for what lies on a rotating device and not in the page cache, as the kernel says
    /// (virtual disks often say they rotate); else [`Self::Parallel`].
    #[default]
    Auto,
    /// One stream in rising order, on one thread.
    Sequential,
    /// Many pieces at once, on all threads.
    Parallel,
}

/// How files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Reading {
    /// [`Self::Direct`], but through the page cache for files that are in it where a lane first reads them.
    #[default]
    Auto,
    /// Past the page cache (O_DIRECT) where the file system allows it and the file is not short.
    Direct,
    /// Through the page cache.
    Buffered,
}

impl HashOptions {
    /// Threads for each device that does not rotate.
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
    /// Part of `done` that an earlier run did.
    resumed: AtomicU64,
    is_cancelled: AtomicBool,
    watcher: Option<Box<dyn Fn(u64) + Send + Sync>>,
}

impl Progress {
    /// Calls `watcher` with the bytes done after every step (about 1 MiB), from the worker threads: keep it
    /// short.
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

    /// Bytes of [`Self::done`] that an earlier run did, as the resume file says.
    pub fn resumed(&self) -> u64 {
        self.resumed.load(Ordering::Relaxed)
    }

    /// Ends the run soon, with [`HashError::Cancelled`]. Not undone: use a new `Progress` for a new run.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether [`Self::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }

    /// `bytes` were done by an earlier run.
    fn start_at(&self, bytes: u64) {
        self.resumed.store(bytes, Ordering::Relaxed);
        self.done.store(bytes, Ordering::Relaxed);
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
    /// No memory, no thread or no descriptor.
    #[error(
        "cannot start hashing: {0}; use fewer threads or raise the limits (`ulimit -n`, `ulimit -u`, `ulimit -v`)"
    )]
    Resources(#[source] io::Error),
}

/// `path` for a message.
pub(crate) fn shown(path: &Path) -> String {
    escape_for_terminal(&path.to_string_lossy()).into_owned()
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod tests;

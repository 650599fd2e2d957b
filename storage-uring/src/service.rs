//! Starts the storage thread and the hash pool, and hands out [`StorageClient`]s.
//!
//! Owner: the control thread has the [`StorageService`], each shard its [`StorageClient`]. Invariant: a
//! client's queues hold as much as it may have under way, so neither side ever waits for the other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::core::{Core, CoreConfig, NewClient};
use crate::doorbell::Doorbell;
use crate::hash::{HashPool, PoolJob};
use crate::messages::{HashJob, HashVerdict, StorageCmd, StorageDone};
use crate::relocate::thread::{Mover, MoverClient};
use crate::relocate::{RelocateDone, RelocateJob};
use crate::ring::{DiskRing, survive_file_size_limit};
use crate::schedule::tuner::Fixed;
use crate::stats::{HashCounters, ServiceCounters, StatsHandle, StorageStats, WorkerStats};

/// Clients that may wait to be taken in; more would wait for the storage thread's next turn.
const NEWCOMERS: usize = 16;

/// Where and how the storage thread and the hash pool run.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// CPU of the storage thread; `None` = not pinned.
    pub storage_cpu: Option<usize>,
    /// One hash thread per entry, pinned to that CPU when given.
    pub hash_cpus: Vec<Option<usize>>,
    /// Disk operations in flight per device at most (at least 1 is used); `None` = found out for each device
    /// at run time ([`crate::schedule::tuner`]).
    pub queue_depth: Option<u32>,
    /// Bytes per disk operation at most, brought into 128 KiB..=4 MiB; `None` = found out as above.
    pub write_bytes: Option<u32>,
    /// Files open at most; at least 1 is used, and one more for each device beyond the first when it is
    /// smaller than the number of devices.
    pub max_open_files: usize,
    /// What is to go wrong (tests only).
    #[cfg(any(test, feature = "testing"))]
    pub faults: crate::ring::fake::FaultPlan,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            storage_cpu: None,
            hash_cpus: vec![None],
            queue_depth: None,
            write_bytes: None,
            max_open_files: 512,
            #[cfg(any(test, feature = "testing"))]
            faults: crate::ring::fake::FaultPlan::default(),
        }
    }
}

/// Something a client asked for is done.
#[derive(Debug)]
pub enum Completion {
    /// From the storage thread.
    Storage(StorageDone),
    /// From the hash pool.
    Hash(HashVerdict),
    /// From the mover thread.
    Relocated(RelocateDone),
}

/// The running threads. Dropping it ends them as [`Self::stop`] does.
#[derive(Debug)]
pub struct StorageService {
    newcomers: Sender<NewClient>,
    bell: Arc<Doorbell>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    pool: Option<HashPool>,
    stats: Arc<ServiceCounters>,
    mover: Mover,
}

/// One shard's way to storage and hashing. Owned by the shard's thread.
#[derive(Debug)]
pub struct StorageClient {
    commands: Sender<StorageCmd>,
    answers: Receiver<StorageDone>,
    storage_bell: Arc<Doorbell>,
    jobs: Sender<PoolJob>,
    verdict_sender: Sender<HashVerdict>,
    verdicts: Receiver<HashVerdict>,
    bell: Arc<Doorbell>,
    mover: MoverClient,
    under_way: usize,
    max_jobs: usize,
    stats: Arc<ServiceCounters>,
    hash_stats: Arc<HashCounters>,
    /// Whose turn it is in [`Self::poll`].
    verdicts_first: bool,
}

impl StorageService {
    /// Starts the threads. Errors: io_uring (see [`crate::ring::probe`]), threads or descriptors not to be
    /// had.
    pub fn start(config: StorageConfig) -> io::Result<Self> {
        let bell = Doorbell::new()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (newcomers, arrivals) = bounded(NEWCOMERS);
        let (started, outcome) = bounded(1);
        // First, since it ends by itself when something else fails.
        let mover = Mover::start()?;
        let pool = HashPool::start(&config.hash_cpus)?;
        let stats = Arc::new(ServiceCounters::default());
        let thread = std::thread::Builder::new().name("ccbt-storage".into()).spawn({
            let (bell, stop, stats) = (Arc::clone(&bell), Arc::clone(&stop), Arc::clone(&stats));
            move || {
                if let Some(cpu) = config.storage_cpu
                    && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
                {
                    tracing::warn!(cpu, "the storage thread cannot be pinned to its CPU and runs anywhere");
                }
                survive_file_size_limit();
                // The ring belongs to the thread that makes it.
                #[cfg_attr(not(any(test, feature = "testing")), allow(unused_mut))]
                let mut ring = match DiskRing::new(Arc::clone(&bell)) {
                    Ok(ring) => ring,
                    Err(error) => return drop(started.send(Err(error))),
                };
                let _ = started.send(Ok(()));
                #[cfg_attr(not(any(test, feature = "testing")), allow(unused_mut))]
                let mut core = CoreConfig::new(&config, stats);
                #[cfg(any(test, feature = "testing"))]
                {
                    core.never_inline = config.faults.holds();
                    ring.plan_faults(config.faults);
                }
                Core::new(ring, bell, stop, arrivals, core).run();
            }
        });
        let result = thread.and_then(|thread| match outcome.recv() {
            Ok(Ok(())) => Ok(thread),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the storage thread died while starting")),
        });
        match result {
            Ok(thread) => {
                Ok(Self { newcomers, bell, stop, thread: Some(thread), pool: Some(pool), stats, mover })
            }
            Err(error) => {
                pool.stop();
                Err(error)
            }
        }
    }

    /// A client that is woken by `bell`. `max_jobs` (at least 1) bounds the commands and jobs it has under
    /// way.
    pub fn client(&self, bell: Arc<Doorbell>, max_jobs: usize) -> StorageClient {
        let max_jobs = max_jobs.max(1);
        let (commands, taken) = bounded(max_jobs);
        let (answer, answers) = bounded(max_jobs);
        let (verdict_sender, verdicts) = bounded(max_jobs);
        let newcomer = NewClient { commands: taken, answers: answer, bell: Arc::clone(&bell) };
        self.newcomers.send(newcomer).expect("the storage thread lives as long as the service");
        self.bell.ring();
        let pool = self.pool.as_ref().expect("the pool lives as long as the service");
        StorageClient {
            commands,
            answers,
            storage_bell: Arc::clone(&self.bell),
            jobs: pool.sender(),
            verdict_sender,
            verdicts,
            mover: self.mover.client(Arc::clone(&bell)),
            bell,
            under_way: 0,
            max_jobs,
            stats: Arc::clone(&self.stats),
            hash_stats: self.stats.add_client(),
            verdicts_first: false,
        }
    }

    /// What was done so far and how things stand. Cheap: a few hundred loads.
    pub fn stats(&self) -> StorageStats {
        self.stats.snapshot()
    }

    /// The counters, for other threads to look at.
    pub fn stats_handle(&self) -> StatsHandle {
        StatsHandle(Arc::clone(&self.stats))
    }

    /// io_uring's worker threads in this process. Reads a file of procfs per thread: not for every second.
    pub fn workers(&self) -> io::Result<WorkerStats> {
        self.stats.workers()
    }

    /// Ends the threads after all commands are answered. Clients must be gone or idle.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for StorageService {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring();
        let ended = self.thread.take().map(JoinHandle::join);
        if let Some(pool) = self.pool.take() {
            pool.stop();
        }
        if let Some(Err(panic)) = ended
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl StorageClient {
    /// Hands a command over. Panics when more than `max_jobs` are under way: a broken invariant of the shard.
    pub fn submit(&mut self, command: StorageCmd) {
        self.count_in();
        match self.commands.try_send(command) {
            Ok(()) => self.storage_bell.ring(),
            Err(TrySendError::Full(_)) => unreachable!("the queue holds all that may be under way"),
            Err(TrySendError::Disconnected(_)) => panic!("the storage thread is gone"),
        }
    }

    /// Hands a job over; as [`Self::submit`].
    pub fn hash(&mut self, job: HashJob) {
        self.count_in();
        self.hash_stats.handed_over();
        let job = PoolJob { job, reply: self.verdict_sender.clone(), bell: Arc::clone(&self.bell) };
        assert!(self.jobs.send(job).is_ok(), "the hash pool is gone");
    }

    /// Hands a job for whole files to the mover thread, or gives it back when too many wait there: try again later.
    /// The torrent must be closed until the answer, [`Completion::Relocated`], is there. Not counted in
    /// [`Self::under_way`].
    pub fn relocate(&mut self, job: RelocateJob) -> Result<(), RelocateJob> {
        self.mover.submit(job)
    }

    fn count_in(&mut self) {
        assert!(self.under_way < self.max_jobs, "more than {} commands and jobs under way", self.max_jobs);
        self.under_way += 1;
    }

    /// The next completion, without waiting.
    pub fn poll(&mut self) -> Option<Completion> {
        // Rare, so it comes first without keeping anything else waiting.
        if let Some(done) = self.mover.poll() {
            return Some(Completion::Relocated(done));
        }
        self.verdicts_first = !self.verdicts_first;
        let verdict = || self.verdicts.try_recv().ok().map(Completion::Hash);
        let answer = || self.answers.try_recv().ok().map(Completion::Storage);
        let next = if self.verdicts_first { verdict().or_else(answer) } else { answer().or_else(verdict) };
        if let Some(next) = &next {
            self.under_way -= 1;
            if let Completion::Hash(verdict) = next {
                self.hash_stats.taken_back(verdict.buf.len() as u64);
            }
        }
        next
    }

    /// Whether [`Self::poll`] has something.
    pub fn has_completions(&self) -> bool {
        !self.answers.is_empty() || !self.verdicts.is_empty() || self.mover.has_answers()
    }

    /// Commands and jobs handed over and not yet answered.
    pub fn under_way(&self) -> usize {
        self.under_way
    }
}

impl Drop for StorageClient {
    fn drop(&mut self) {
        self.stats.remove_client(&self.hash_stats);
    }
}

impl CoreConfig {
    fn new(config: &StorageConfig, stats: Arc<ServiceCounters>) -> Self {
        Self {
            fixed: Fixed { depth: config.queue_depth, batch_bytes: config.write_bytes },
            max_open_files: config.max_open_files,
            never_inline: false,
            stats,
        }
    }
}

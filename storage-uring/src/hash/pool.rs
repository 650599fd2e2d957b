//! The hash threads: complete pieces in, verdicts out.
//!
//! Role: checks pieces against their expected SHA-1 beside the shards. Owner: [`HashPool`] owns the threads;
//! a job's buffer belongs to the job, then to its verdict. Invariant: every job taken is answered exactly
//! once with its buffer, in no particular order, and the bell rings after the answer is in the queue. A
//! thread without work sleeps. Jobs are pushed by shards (through the storage client).
//!
//! A thread advances up to [`super::LANES_MAX`] jobs at once. It looks for more after every `TURN_BLOCKS` and
//! whenever a job ends, and answers each job when its own lane ends, so a short last piece does not wait for long
//! ones, and no lane for the longest. Jobs are shared evenly with idle threads first: lanes raise the throughput of
//! a busy core, and would only add latency while another core has nothing to do.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select};

use super::Lanes;
use super::algorithm::Sha1Algorithm;
use crate::doorbell::Doorbell;
use crate::messages::{HashJob, HashVerdict};

/// Jobs that may wait.
///
/// Every job holds a piece buffer of at least one page, so piece memory is what bounds them: 65,536 jobs hold
/// at least 256 MiB of slots, and 1 GiB with the shortest pieces in use (16 KiB). Clients keep fewer under
/// way (`max_jobs`), so a push does not block; if it ever did, hash threads never wait for shards and would
/// drain it. The queue itself is about 6 MiB.
pub const POOL_JOBS_MAX: usize = 65_536;

/// Blocks of each job between two looks at the queue: 16 KiB, which take 7 µs alone and 28 µs with 15 others. A
/// quarter of it costs 2 % of the throughput, four times as much gains nothing.
const TURN_BLOCKS: usize = 256;

/// CPU numbers are below this (the size of the kernel's default `cpu_set_t`).
const CPUS_MAX: usize = 1024;

/// A piece to check and where the answer goes.
#[derive(Debug)]
pub struct PoolJob {
    /// The piece.
    pub job: HashJob,
    /// Takes the verdict. It must have room for one verdict per job under way: finding it full is a panic.
    pub reply: Sender<HashVerdict>,
    /// Rung after the verdict is in `reply`.
    pub bell: Arc<Doorbell>,
}

/// Running hash threads. Dropping it stops them like [`HashPool::stop`].
#[derive(Debug)]
pub struct HashPool {
    jobs: Sender<PoolJob>,
    /// Dropped to end the threads: jobs may still have other senders.
    running: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl HashPool {
    /// Starts one thread per entry of `cpus`, pinned to that CPU when given. Fails without threads left
    /// running when `cpus` is empty, a thread cannot be made, or a CPU is not one that this process may use.
    pub fn start(cpus: &[Option<usize>]) -> io::Result<Self> {
        if cpus.is_empty() {
            let text = "no hash thread configured: give hash_cpus at least one entry";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let (jobs, waiting) = bounded(POOL_JOBS_MAX);
        let (running, stopped) = bounded(0);
        let idle = Arc::new(AtomicUsize::new(0));
        let mut pool = Self { jobs, running: Some(running), threads: Vec::with_capacity(cpus.len()) };
        let (pinned, pin_results) = bounded(cpus.len());
        for (nth, &cpu) in cpus.iter().enumerate() {
            let worker = Worker { jobs: waiting.clone(), stopped: stopped.clone(), idle: idle.clone() };
            let pinned = pinned.clone();
            // An early return drops `pool`, which ends the threads started so far.
            let thread = std::thread::Builder::new().name(format!("ccbt-hash-{nth}")).spawn(move || {
                let result = pin(cpu);
                let is_pinned = result.is_ok();
                // Nobody listens when another thread has failed to start: then there is nothing to run for.
                if pinned.send(result).is_ok() && is_pinned {
                    worker.run();
                }
            })?;
            pool.threads.push(thread);
        }
        for _ in cpus {
            pin_results.recv().map_err(|_| io::Error::other("a hash thread ended while it started"))??;
        }
        Ok(pool)
    }

    /// A way to hand over jobs. Sending fails once the pool is stopped.
    pub fn sender(&self) -> Sender<PoolJob> {
        self.jobs.clone()
    }

    /// Answers every job pushed before the call, then ends and joins the threads. Jobs pushed meanwhile may
    /// be lost with their buffers: clients must be gone or idle. Panics when a hash thread panicked.
    pub fn stop(mut self) {
        let results = self.end();
        if let Some(panic) = results.into_iter().find_map(Result::err) {
            std::panic::resume_unwind(panic);
        }
    }

    fn end(&mut self) -> Vec<std::thread::Result<()>> {
        self.running = None;
        self.threads.drain(..).map(JoinHandle::join).collect()
    }
}

impl Drop for HashPool {
    fn drop(&mut self) {
        self.end();
    }
}

fn pin(cpu: Option<usize>) -> io::Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    if cpu < CPUS_MAX && core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) {
        return Ok(());
    }
    let text = format!(
        "cannot pin a hash thread to CPU {cpu}: it is offline or outside this process's CPU set; \
         change hash_cpus (`taskset -cp $$` shows the set)"
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// One hash thread.
struct Worker {
    jobs: Receiver<PoolJob>,
    /// Disconnected when the pool stops.
    stopped: Receiver<()>,
    /// Threads asleep, or about to be.
    idle: Arc<AtomicUsize>,
}

impl Worker {
    fn run(self) {
        let mut lanes = Lanes::<Sha1Algorithm, Piece>::new();
        loop {
            if lanes.is_empty() {
                let Some(job) = self.next() else { return };
                lanes.push(Piece(job));
            }
            self.fill(&mut lanes);
            lanes.advance(TURN_BLOCKS, |piece, digest| answer(piece.0, digest));
        }
    }

    /// The next job, asleep until there is one; `None` when the pool stops and nothing waits.
    fn next(&self) -> Option<PoolJob> {
        if let Ok(job) = self.jobs.try_recv() {
            return Some(job);
        }
        // A hint for `fill` only: nothing is published through it.
        self.idle.fetch_add(1, Ordering::Relaxed);
        let job = select! {
            recv(self.jobs) -> job => job.ok(),
            recv(self.stopped) -> _ => self.jobs.try_recv().ok(),
        };
        self.idle.fetch_sub(1, Ordering::Relaxed);
        job
    }

    /// Takes jobs for free lanes.
    fn fill(&self, lanes: &mut Lanes<Sha1Algorithm, Piece>) {
        let share = share(lanes.len(), self.jobs.len(), self.idle.load(Ordering::Relaxed));
        for job in self.jobs.try_iter().take(share.min(lanes.room())) {
            lanes.push(Piece(job));
        }
    }
}

/// How many of `waiting` jobs a thread that has `running` should take when `idle` others have none: then none of
/// them gets fewer than it has.
fn share(running: usize, waiting: usize, idle: usize) -> usize {
    (running + waiting).div_ceil(idle + 1).saturating_sub(running)
}

/// A job in a lane.
struct Piece(PoolJob);

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.0.job.buf.as_slice()
    }
}

fn answer(job: PoolJob, digest: [u8; 20]) {
    let PoolJob { job: HashJob { torrent, piece, expected, buf }, reply, bell } = job;
    let verdict = HashVerdict { torrent, piece, ok: digest == expected, digest, buf };
    match reply.try_send(verdict) {
        Ok(()) => bell.ring(),
        // The client is gone: nobody waits for the verdict, and its memory goes with its partition.
        Err(TrySendError::Disconnected(_)) => {}
        Err(TrySendError::Full(_)) => {
            panic!("a verdict queue has less room than its client has jobs under way")
        }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;

//! What the storage thread did, for any thread to look at.
//!
//! Role: counters and their snapshots. Owner: the storage thread writes `DeviceCounters` and
//! `ServiceCounters`, each client its own `HashCounters`; `StorageService` reads. Invariant: a counter is
//! written by one thread only, with plain loads and stores (no locked instruction on the data path), all
//! `Relaxed`: a snapshot is not a point in time, but each number is right and never goes back. The lists of
//! devices and clients have locks, taken when one is new or gone and when a snapshot is made.
//!
//! # Punts
//!
//! io_uring hands an operation that would have to wait to a kernel thread (`iou-wrk-TID`), which costs two
//! context switches and, with many at once, threads that queue for the same lock. Linux (6.18) tells nobody:
//! not in the completion, not in the ring's fdinfo; the tracepoint `io_uring:io_uring_queue_async_work` needs
//! root. So the ring never leaves the decision to the kernel: each transfer is first started so that it fails
//! where it would be handed over (`RWF_NOWAIT`), and is then handed over on purpose (`IOSQE_ASYNC`).
//! [`DeviceStats::punts`] therefore is a count and no estimate: those, plus syncs and reservations, which
//! always go to a worker. It was compared with the tracepoint (`perf stat -e`): 4 of 4 for 2 GiB into
//! reserved blocks on ext4, 1027 of 1027 into a sparse file, where every write has to allocate. Two things
//! escape it: reads through the page cache where the file system cannot wait for them without a thread
//! (network and FUSE file systems; where it says so, they are counted), and splits in the block layer when
//! its request queue is full, which the queue depth keeps from happening. [`WorkerStats`] shows the threads
//! themselves, and what they cost.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::ring::{Direction, RingCounts};
use crate::schedule::tuner::{DeviceKind, DeviceTuner};

/// Buckets of a [`LatencyStats`]: bucket `n` counts latencies below 2^n microseconds; the last takes all more.
pub const LATENCY_BUCKETS: usize = 28;

/// Adds to a counter that only this thread writes.
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

/// Where so many microseconds are counted.
fn bucket(us: u64) -> usize {
    ((u64::BITS - us.leading_zeros()) as usize).min(LATENCY_BUCKETS - 1)
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[derive(Debug, Default)]
struct LatencyCounters {
    sum_us: AtomicU64,
    max_us: AtomicU64,
    buckets: [AtomicU64; LATENCY_BUCKETS],
}

impl LatencyCounters {
    fn record(&self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        bump(&self.sum_us, us);
        if us > get(&self.max_us) {
            self.max_us.store(us, Ordering::Relaxed);
        }
        bump(&self.buckets[bucket(us)], 1);
    }

    fn snapshot(&self) -> LatencyStats {
        LatencyStats {
            sum_us: get(&self.sum_us),
            max_us: get(&self.max_us),
            buckets: std::array::from_fn(|at| get(&self.buckets[at])),
        }
    }
}

#[derive(Debug, Default)]
struct WayCounters {
    operations: AtomicU64,
    bytes: AtomicU64,
    buffered_bytes: AtomicU64,
    latency: LatencyCounters,
}

/// Counters of one device, written by the storage thread.
#[derive(Debug)]
pub(crate) struct DeviceCounters {
    number: u64,
    kind: DeviceKind,
    depth: AtomicU64,
    batch_bytes: AtomicU64,
    in_flight: AtomicU64,
    waiting: AtomicU64,
    read: WayCounters,
    write: WayCounters,
    tasks: AtomicU64,
    errors: AtomicU64,
    retries: AtomicU64,
    punts: AtomicU64,
    blocked: AtomicU64,
}

impl DeviceCounters {
    pub(crate) fn new(number: u64, kind: DeviceKind) -> Self {
        Self {
            number,
            kind,
            depth: AtomicU64::new(0),
            batch_bytes: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            read: WayCounters::default(),
            write: WayCounters::default(),
            tasks: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            punts: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
        }
    }

    /// A transfer that moved bytes.
    pub(crate) fn moved(&self, direction: Direction, bytes: u32, direct: bool, latency: Duration) {
        let way = match direction {
            Direction::Read => &self.read,
            Direction::Write => &self.write,
        };
        bump(&way.operations, 1);
        bump(&way.bytes, u64::from(bytes));
        if !direct {
            bump(&way.buffered_bytes, u64::from(bytes));
        }
        way.latency.record(latency);
    }

    pub(crate) fn task(&self) {
        bump(&self.tasks, 1);
    }

    pub(crate) fn error(&self) {
        bump(&self.errors, 1);
    }

    pub(crate) fn retry(&self) {
        bump(&self.retries, 1);
    }

    pub(crate) fn punt(&self) {
        bump(&self.punts, 1);
    }

    pub(crate) fn blocked(&self) {
        bump(&self.blocked, 1);
    }

    /// The gauges.
    pub(crate) fn now(&self, tuner: &DeviceTuner, in_flight: u32, waiting: usize) {
        self.depth.store(tuner.depth().into(), Ordering::Relaxed);
        self.batch_bytes.store(tuner.batch_bytes().into(), Ordering::Relaxed);
        self.in_flight.store(in_flight.into(), Ordering::Relaxed);
        self.waiting.store(waiting as u64, Ordering::Relaxed);
    }

    fn snapshot(&self) -> DeviceStats {
        let way = |way: &WayCounters| WayStats {
            operations: get(&way.operations),
            bytes: get(&way.bytes),
            buffered_bytes: get(&way.buffered_bytes),
            latency: way.latency.snapshot(),
        };
        DeviceStats {
            number: self.number,
            kind: self.kind,
            depth_limit: get(&self.depth) as u32,
            batch_bytes: get(&self.batch_bytes) as u32,
            in_flight: get(&self.in_flight) as u32,
            waiting_parts: get(&self.waiting),
            read: way(&self.read),
            write: way(&self.write),
            tasks: get(&self.tasks),
            errors: get(&self.errors),
            retries: get(&self.retries),
            punts: get(&self.punts),
            would_block: get(&self.blocked),
        }
    }
}

/// Counters of the service as a whole.
#[derive(Debug, Default)]
pub(crate) struct ServiceCounters {
    enters: AtomicU64,
    submissions: AtomicU64,
    completions: AtomicU64,
    open_files: AtomicU64,
    devices: Mutex<Vec<Arc<DeviceCounters>>>,
    clients: Mutex<HashClients>,
    workers_peak: AtomicU64,
}

impl ServiceCounters {
    pub(crate) fn add_device(&self, device: Arc<DeviceCounters>) {
        self.devices.lock().expect("nobody panics with it").push(device);
    }

    /// The counters of a new client.
    pub(crate) fn add_client(&self) -> Arc<HashCounters> {
        let counters = Arc::<HashCounters>::default();
        self.clients.lock().expect("nobody panics with it").living.push(Arc::clone(&counters));
        counters
    }

    /// A client goes: what it did still counts, what it waits for does not.
    pub(crate) fn remove_client(&self, counters: &Arc<HashCounters>) {
        let mut clients = self.clients.lock().expect("nobody panics with it");
        clients.living.retain(|living| !Arc::ptr_eq(living, counters));
        clients.past.jobs_done += get(&counters.taken_back);
        clients.past.bytes += get(&counters.bytes);
    }

    /// What the storage thread counts itself.
    pub(crate) fn now(&self, ring: RingCounts, open_files: usize) {
        self.enters.store(ring.enters, Ordering::Relaxed);
        self.submissions.store(ring.submissions, Ordering::Relaxed);
        self.completions.store(ring.completions, Ordering::Relaxed);
        self.open_files.store(open_files as u64, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> StorageStats {
        let devices = self.devices.lock().expect("nobody panics with it");
        StorageStats {
            devices: devices.iter().map(|device| device.snapshot()).collect(),
            enters: get(&self.enters),
            submissions: get(&self.submissions),
            completions: get(&self.completions),
            open_files: get(&self.open_files),
            hash: self.clients.lock().expect("nobody panics with it").snapshot(),
        }
    }

    pub(crate) fn workers(&self) -> io::Result<WorkerStats> {
        let mut found = WorkerStats::default();
        for task in std::fs::read_dir("/proc/self/task")? {
            // A thread may end while it is looked at.
            let Ok(stat) = std::fs::read_to_string(task?.path().join("stat")) else { continue };
            if let Some(ticks) = worker_ticks(&stat) {
                found.now += 1;
                found.cpu_ticks += ticks;
            }
        }
        found.peak = found.now.max(self.workers_peak.fetch_max(found.now, Ordering::Relaxed));
        Ok(found)
    }
}

/// CPU ticks (user and system) from the `stat` line of an io_uring worker; `None` for other threads.
fn worker_ticks(stat: &str) -> Option<u64> {
    let (name, fields) = stat.split_once('(')?.1.rsplit_once(") ")?;
    if !name.starts_with("iou-wrk-") {
        return None;
    }
    let mut fields = fields.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// What clients do with the hash pool.
#[derive(Debug, Default)]
struct HashClients {
    living: Vec<Arc<HashCounters>>,
    /// Of those that are gone.
    past: HashStats,
}

impl HashClients {
    fn snapshot(&self) -> HashStats {
        self.living.iter().fold(self.past, |sum, client| {
            let done = get(&client.taken_back);
            HashStats {
                jobs_waiting: sum.jobs_waiting + get(&client.handed_over).saturating_sub(done),
                jobs_done: sum.jobs_done + done,
                bytes: sum.bytes + get(&client.bytes),
            }
        })
    }
}

/// What one client does with the hash pool, written by its thread. On a cache line of its own: shards on other cores
/// write theirs at the same time.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct HashCounters {
    handed_over: AtomicU64,
    taken_back: AtomicU64,
    bytes: AtomicU64,
}

impl HashCounters {
    pub(crate) fn handed_over(&self) {
        bump(&self.handed_over, 1);
    }

    /// A verdict over so many bytes was taken.
    pub(crate) fn taken_back(&self, bytes: u64) {
        bump(&self.taken_back, 1);
        bump(&self.bytes, bytes);
    }
}

/// A snapshot of everything. Counts are since the service started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageStats {
    /// One entry per device, in the order they were first used.
    pub devices: Vec<DeviceStats>,
    /// System calls that entered the ring.
    pub enters: u64,
    /// Entries handed to the kernel.
    pub submissions: u64,
    /// Completions taken.
    pub completions: u64,
    /// Descriptors of torrents' files open now.
    pub open_files: u64,
    /// The hash pool.
    pub hash: HashStats,
}

/// The counters of a service, which outlive it; cheap to clone.
#[derive(Clone, Debug)]
pub struct StatsHandle(pub(crate) Arc<ServiceCounters>);

impl StatsHandle {
    /// As [`crate::StorageService::stats`].
    pub fn stats(&self) -> StorageStats {
        self.0.snapshot()
    }
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceStats {
    /// Major number of `st_dev` in the upper 32 bits, minor in the lower.
    pub number: u64,
    /// What it was taken for at first sight.
    pub kind: DeviceKind,
    /// Operations it is given at a time at most, now.
    pub depth_limit: u32,
    /// Bytes per operation at most, now.
    pub batch_bytes: u32,
    /// Operations in flight.
    pub in_flight: u32,
    /// Parts of requests that wait for their operation.
    pub waiting_parts: u64,
    /// Reads.
    pub read: WayStats,
    /// Writes.
    pub write: WayStats,
    /// Syncs and reservations that ended.
    pub tasks: u64,
    /// Operations that failed for good.
    pub errors: u64,
    /// Operations started once more: interrupted, short, or joined with one that failed.
    pub retries: u64,
    /// Operations handed to a kernel worker. See the module.
    pub punts: u64,
    /// Attempts that ended because they would have had to wait.
    pub would_block: u64,
}

/// Transfers of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WayStats {
    /// Operations that moved bytes.
    pub operations: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Of these, through the page cache.
    pub buffered_bytes: u64,
    /// From the start of the operation to its end.
    pub latency: LatencyStats,
}

/// How long operations took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencyStats {
    /// All together, microseconds.
    pub sum_us: u64,
    /// The longest, microseconds.
    pub max_us: u64,
    /// Bucket `n` counts those below 2^`n` microseconds (and not in an earlier one), the last also all longer.
    pub buckets: [u64; LATENCY_BUCKETS],
}

impl LatencyStats {
    /// Counts one, for those who keep their own.
    pub fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.sum_us = self.sum_us.saturating_add(us);
        self.max_us = self.max_us.max(us);
        self.buckets[bucket(us)] += 1;
    }

    /// Counts all of `other`'s, too.
    pub fn merge(&mut self, other: &Self) {
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
        self.max_us = self.max_us.max(other.max_us);
        self.buckets.iter_mut().zip(other.buckets).for_each(|(sum, more)| *sum += more);
    }

    /// An upper bound of the latency that so many of a thousand operations do not exceed, microseconds; 0 for
    /// no operations.
    pub fn permille_us(&self, permille: u64) -> u64 {
        let count: u64 = self.buckets.iter().sum();
        let rank = (count * permille).div_ceil(1000);
        let mut seen = 0;
        for (bucket, in_it) in self.buckets.iter().enumerate() {
            seen += in_it;
            if count > 0 && seen >= rank {
                return (1u64 << bucket).min(self.max_us);
            }
        }
        0
    }
}

/// The hash pool, as its clients see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashStats {
    /// Jobs handed over whose verdict was not taken yet.
    pub jobs_waiting: u64,
    /// Verdicts taken.
    pub jobs_done: u64,
    /// Bytes of these.
    pub bytes: u64,
}

/// io_uring's worker threads in this process, of all its rings. Idle ones end after a few seconds, and their
/// CPU time leaves the sum with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Alive.
    pub now: u64,
    /// Most that were alive whenever somebody looked.
    pub peak: u64,
    /// CPU time of those alive, user and system, in clock ticks (`sysconf(_SC_CLK_TCK)`, 1/100 s).
    pub cpu_ticks: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_their_buckets() {
        let counters = LatencyCounters::default();
        for us in [0, 1, 2, 3, 1000, 1_000_000_000_000] {
            counters.record(Duration::from_micros(us));
        }
        let stats = counters.snapshot();
        let mut own = LatencyStats::default();
        for us in [0, 1, 2, 3, 1000, 1_000_000_000_000] {
            own.record(Duration::from_micros(us));
        }
        assert_eq!(own, stats);
        own.merge(&stats);
        assert_eq!((own.buckets[2], own.sum_us, own.max_us), (4, 2 * stats.sum_us, stats.max_us));
        assert_eq!((stats.buckets[0], stats.buckets[1], stats.buckets[2], stats.buckets[10]), (1, 1, 2, 1));
        assert_eq!((stats.buckets[LATENCY_BUCKETS - 1], stats.max_us), (1, 1_000_000_000_000));
        assert_eq!((stats.permille_us(500), stats.permille_us(800)), (4, 1024));
        assert_eq!(LatencyStats::default().permille_us(500), 0);
    }

    #[test]
    fn what_clients_hashed_outlives_them_and_what_they_wait_for_does_not() {
        let service = ServiceCounters::default();
        let (one, other) = (service.add_client(), service.add_client());
        for client in [&one, &one, &other] {
            client.handed_over();
        }
        one.taken_back(100);
        assert_eq!(service.snapshot().hash, HashStats { jobs_waiting: 2, jobs_done: 1, bytes: 100 });
        service.remove_client(&one);
        assert_eq!(service.snapshot().hash, HashStats { jobs_waiting: 1, jobs_done: 1, bytes: 100 });
    }

    #[test]
    fn workers_are_known_by_name() {
        let line = |name: &str| format!("17 ({name}) S 1 17 17 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 1");
        assert_eq!(worker_ticks(&line("iou-wrk-17")), Some(300));
        assert_eq!(worker_ticks(&line("ccbt) iou-wrk-1")), None);
        assert_eq!(worker_ticks("17"), None);
    }
}

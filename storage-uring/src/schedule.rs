//! Which disk operation comes next.
//!
//! Role: one [`DeviceQueue`] per device puts waiting parts into rising file order, joins neighbours into one
//! vectored operation, and shares the device between reads, writes and slow tasks. Pure: no descriptor, clock
//! or thread. Owner: the storage thread. Invariant: every part pushed comes out exactly once, in one
//! [`Batch`] (which comes out once more when it would have blocked); parts of a batch are contiguous in one
//! file and take one way; and no kind of work waits for ever while another goes on.
//!
//! # Operations that block
//!
//! A transfer past the page cache is first started so that it fails with `EAGAIN` where it would have to wait
//! (for blocks to be allocated, for a lock). Then [`DeviceQueue::would_block`] takes it back, and it comes out
//! again as [`Mode::Worker`], at most [`BLOCKING_MAX`] of a device at a time: each of these occupies a
//! kernel worker. So the number of workers a device can occupy is known
//! ([`WORKERS_PER_DEVICE_MAX`]), every device has its own, and a slow one takes none from the others. Where
//! nearly everything would block (sparse files on most file systems), the attempt is left out for a while.

//! # Devices and memory
//!
//! A device holds no more than its depth times the length of an operation in the kernel, and the tuner cuts
//! that to what the device moves in a fraction of a second. Pieces that wait here for a slow device hold their
//! memory too, though: a write that was handed over cannot be refused. What bounds that is the shard, which
//! asks peers for a piece only when it has memory for it; a torrent on a slow device can so come to hold all
//! piece memory of its shard, and then downloads of other torrents of that shard go at its pace. Reads have
//! memory of their own, and other shards theirs.
//!
//! Opening a file (not reading or writing it) happens on the storage thread and waits for the device that has
//! its directory.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use ccbt_protocol::ids::TorrentKey;

use crate::layout::Class;
use crate::ring::Direction;

pub mod tuner;

pub use tuner::BATCH_BYTES_MAX;

/// Parts joined into one operation at most; well under the kernel's `IOV_MAX` of 1024.
pub const BATCH_PARTS_MAX: usize = 256;
/// Buffered writes of one device in flight: they may block a kernel worker each, and a slow device must leave
/// workers to the others.
pub const SEAMS_MAX: u32 = 2;
/// Tasks (syncs, reservations) of one device in flight; each blocks a kernel worker. Some more, since file
/// systems make several syncs with one journal commit.
pub const TASKS_MAX: u32 = 4;
/// Transfers past the page cache of one device that may wait in a kernel worker. Enough to keep any device
/// busy that has to be used this way; more would only wait for the same locks.
pub const BLOCKING_MAX: u32 = 8;
/// Kernel workers that one device occupies at most.
pub const WORKERS_PER_DEVICE_MAX: u32 = SEAMS_MAX + TASKS_MAX + BLOCKING_MAX;
/// After so many transfers in a row that would have blocked…
const MISSES_MAX: u32 = 4;
/// …so many are not tried without blocking.
const STRAIGHT: u32 = 64;
/// Reads started in a row while writes wait.
const READ_STREAK_MAX: u32 = 4;

/// A contiguous range of one file and of one buffer, on its way to or from the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The request it belongs to (a number of the storage thread's choice).
    pub request: u32,
    /// The torrent.
    pub torrent: TorrentKey,
    /// Index of the file.
    pub file: u32,
    /// First byte in the file.
    pub offset: u64,
    /// First byte in the request's buffer.
    pub at: u32,
    /// Bytes.
    pub len: u32,
    /// Reading or writing.
    pub direction: Direction,
    /// Past or through the page cache.
    pub class: Class,
    /// Never joined with others: a joined operation with it has failed.
    pub solo: bool,
    /// How often the system asked to try again.
    pub retries: u8,
}

/// Parts to be moved by one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// At least one; contiguous, in rising order.
    pub parts: Vec<Part>,
    /// Bytes of all parts.
    pub len: u32,
    /// What is to happen where it has to wait.
    pub mode: Mode,
}

/// What an operation does where it has to wait for something else than the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Fails with `EAGAIN` (or `EOPNOTSUPP` when the file system cannot say), to be started again.
    Try,
    /// What the kernel finds best: for reads through the page cache, which wait without a worker.
    Plain,
    /// Goes to a kernel worker at once.
    Worker,
}

impl Batch {
    /// The first part, which names file, way and offset.
    pub fn head(&self) -> &Part {
        &self.parts[0]
    }

    fn lane(&self) -> Lane {
        lane_of(self.head())
    }
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// Start this transfer.
    Batch(Batch),
    /// Start this task.
    Task(T),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Read,
    Direct,
    Seam,
}

/// Parts of one lane by torrent, file and offset; the sequence number keeps equal ranges apart.
type Key = (TorrentKey, u32, Class, u64, u64);

#[derive(Debug)]
struct Sorted {
    parts: BTreeMap<Key, Part>,
    /// The last key served: the next comes after it, so the offsets rise and then start over.
    last: Option<Key>,
    in_flight: u32,
    in_flight_max: u32,
    /// Batches that would have blocked.
    blocked: VecDeque<Batch>,
    /// Attempts in a row that would have blocked.
    misses: u32,
    /// Batches still to be given out without an attempt.
    straight: u32,
    /// Whether attempts make sense at all.
    attempts: bool,
    /// Whether reads through the page cache are known to wait without a worker.
    plain: bool,
}

/// The waiting operations of one device. `T` is a task that moves no piece data: a sync or a reservation.
#[derive(Debug)]
pub struct DeviceQueue<T> {
    read: Sorted,
    direct: Sorted,
    seam: Sorted,
    tasks: VecDeque<T>,
    tasks_in_flight: u32,
    blocking_in_flight: u32,
    depth: u32,
    batch_bytes: u32,
    streak: u32,
    sequence: u64,
}

impl<T> DeviceQueue<T> {
    /// A queue for a device that is given up to `depth` (at least 1) operations at a time.
    pub fn new(depth: u32) -> Self {
        let mut this = Self {
            read: Sorted::new(),
            direct: Sorted::new(),
            seam: Sorted::new(),
            tasks: VecDeque::new(),
            tasks_in_flight: 0,
            blocking_in_flight: 0,
            depth: 1,
            batch_bytes: BATCH_BYTES_MAX,
            streak: 0,
            sequence: 0,
        };
        this.seam.in_flight_max = SEAMS_MAX;
        this.tune(depth, BATCH_BYTES_MAX);
        this
    }

    /// From now on gives out up to `depth` (at least 1) operations at a time and joins parts up to
    /// `batch_bytes`. A part that is longer by itself goes alone.
    pub fn tune(&mut self, depth: u32, batch_bytes: u32) {
        self.depth = depth.max(1);
        self.batch_bytes = batch_bytes;
        // A quarter of the depth is out of reach for each kind, so that the other always has a place.
        let share = self.depth - self.depth / 4;
        self.read.in_flight_max = share;
        self.direct.in_flight_max = share;
    }

    /// Bytes that parts are joined up to, and that longer ranges are to be cut into.
    pub fn batch_bytes(&self) -> u32 {
        self.batch_bytes
    }

    /// Adds a part.
    pub fn push(&mut self, part: Part) {
        self.sequence += 1;
        let key = (part.torrent, part.file, part.class, part.offset, self.sequence);
        self.lane(lane_of(&part)).parts.insert(key, part);
    }

    /// Adds a task.
    pub fn push_task(&mut self, task: T) {
        self.tasks.push_back(task);
    }

    /// What to start now; `None` when nothing waits or the device has enough to do.
    pub fn next_work(&mut self) -> Option<Next<T>> {
        if self.in_flight() >= self.depth {
            return None;
        }
        if self.tasks_in_flight < TASKS_MAX
            && let Some(task) = self.tasks.pop_front()
        {
            self.tasks_in_flight += 1;
            return Some(Next::Task(task));
        }
        let lane = self.choose()?;
        self.streak = if lane == Lane::Read { self.streak + 1 } else { 0 };
        let batch_bytes = self.batch_bytes;
        let sorted = self.lane(lane);
        sorted.in_flight += 1;
        let batch = sorted.take(batch_bytes);
        self.blocking_in_flight += u32::from(occupies(&batch));
        Some(Next::Batch(batch))
    }

    /// Whether [`Self::next_work`] would give something out.
    pub fn ready(&self) -> bool {
        let task = self.tasks_in_flight < TASKS_MAX && !self.tasks.is_empty();
        self.in_flight() < self.depth && (task || self.choose().is_some())
    }

    /// Reads first, but not for ever; then writes by whichever way has fewer in flight.
    fn choose(&self) -> Option<Lane> {
        let workers = self.blocking_in_flight < BLOCKING_MAX;
        let direct = self.direct.ready(workers);
        let seam = self.seam.ready(true);
        if self.read.ready(workers) && (self.streak < READ_STREAK_MAX || !(direct || seam)) {
            return Some(Lane::Read);
        }
        match (direct, seam) {
            (true, true) if self.seam.in_flight < self.direct.in_flight => Some(Lane::Seam),
            (true, _) => Some(Lane::Direct),
            (false, true) => Some(Lane::Seam),
            (false, false) => None,
        }
    }

    /// Reports the end of an operation that [`Self::next_work`] gave out, whatever came of it.
    pub fn ended(&mut self, batch: &Batch) {
        self.blocking_in_flight -= u32::from(occupies(batch));
        let lane = self.lane(batch.lane());
        lane.in_flight -= 1;
        if batch.mode == Mode::Try {
            lane.misses = 0;
        }
    }

    /// Takes a batch back that was started as [`Mode::Try`] and would have blocked; it comes out again and
    /// then may. With `supported` false the file system cannot tell, and is not asked again.
    pub fn would_block(&mut self, mut batch: Batch, supported: bool) {
        assert_eq!(batch.mode, Mode::Try, "only an attempt can fail that way");
        let cached = batch.head().direction == Direction::Read && batch.head().class == Class::Seam;
        let lane = self.lane(batch.lane());
        lane.in_flight -= 1;
        if !supported {
            lane.attempts = false;
        } else if cached {
            lane.plain = true;
        } else {
            lane.misses += 1;
            if lane.misses >= MISSES_MAX {
                (lane.misses, lane.straight) = (0, STRAIGHT);
            }
        }
        batch.mode = if supported && cached { Mode::Plain } else { Mode::Worker };
        lane.blocked.push_back(batch);
    }

    /// Whether parts wait: the device has as much as it is given.
    pub fn saturated(&self) -> bool {
        [&self.read, &self.direct, &self.seam].iter().any(|sorted| !sorted.is_empty())
    }

    /// Parts that wait.
    pub fn waiting(&self) -> usize {
        [&self.read, &self.direct, &self.seam].iter().map(|sorted| sorted.waiting()).sum()
    }

    /// Reports the end of a task.
    pub fn task_ended(&mut self) {
        self.tasks_in_flight -= 1;
    }

    /// Operations given out and not ended.
    pub fn in_flight(&self) -> u32 {
        self.read.in_flight + self.direct.in_flight + self.seam.in_flight + self.tasks_in_flight
    }

    /// Whether nothing waits and nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.in_flight() == 0
            && self.tasks.is_empty()
            && [&self.read, &self.direct, &self.seam].iter().all(|sorted| sorted.is_empty())
    }

    fn lane(&mut self, lane: Lane) -> &mut Sorted {
        match lane {
            Lane::Read => &mut self.read,
            Lane::Direct => &mut self.direct,
            Lane::Seam => &mut self.seam,
        }
    }
}

impl Sorted {
    fn new() -> Self {
        Self {
            parts: BTreeMap::new(),
            last: None,
            in_flight: 0,
            in_flight_max: 0,
            blocked: VecDeque::new(),
            misses: 0,
            straight: 0,
            attempts: true,
            plain: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.blocked.is_empty()
    }

    fn waiting(&self) -> usize {
        self.parts.len() + self.blocked.iter().map(|batch| batch.parts.len()).sum::<usize>()
    }

    /// Whether [`Self::take`] may be called; `workers`: whether there is one for what blocks.
    fn ready(&self, workers: bool) -> bool {
        let attempt = self.attempts && self.straight == 0 && self.blocked.is_empty();
        !self.is_empty() && self.in_flight < self.in_flight_max && (workers || attempt)
    }

    /// What blocked before, else the next parts that fit together. There is at least one.
    fn take(&mut self, batch_bytes: u32) -> Batch {
        if let Some(batch) = self.blocked.pop_front() {
            return batch;
        }
        let mut batch = self.join(batch_bytes);
        let head = batch.head();
        batch.mode = if !self.attempts {
            Mode::Worker
        } else if head.direction == Direction::Read && head.class == Class::Seam {
            if self.plain { Mode::Plain } else { Mode::Try }
        } else if self.straight > 0 {
            self.straight -= 1;
            Mode::Worker
        } else {
            Mode::Try
        };
        batch
    }

    fn join(&mut self, batch_bytes: u32) -> Batch {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let onward = self.parts.range((after, Bound::Unbounded)).next();
        let (&first, _) = onward.or_else(|| self.parts.first_key_value()).expect("a ready lane has parts");
        let head = self.parts.remove(&first).expect("a key just seen");
        self.last = Some(first);
        let mut batch = Batch { len: head.len, parts: vec![head], mode: Mode::Try };
        while batch.parts.len() < BATCH_PARTS_MAX && !head.solo {
            let from = (head.torrent, head.file, head.class, head.offset + u64::from(batch.len), 0);
            let Some((&key, &part)) = self.parts.range(from..).next() else { break };
            let follows = (key.0, key.1, key.2, key.3) == (from.0, from.1, from.2, from.3);
            if !follows || part.solo || part.len > batch_bytes.saturating_sub(batch.len) {
                break;
            }
            self.parts.remove(&key);
            self.last = Some(key);
            batch.len += part.len;
            batch.parts.push(part);
        }
        batch
    }
}

/// Whether a batch takes one of the [`BLOCKING_MAX`] workers; buffered writes have their own.
fn occupies(batch: &Batch) -> bool {
    batch.mode == Mode::Worker && batch.lane() != Lane::Seam
}

fn lane_of(part: &Part) -> Lane {
    match (part.direction, part.class) {
        (Direction::Read, _) => Lane::Read,
        (Direction::Write, Class::Direct) => Lane::Direct,
        (Direction::Write, Class::Seam) => Lane::Seam,
    }
}

#[cfg(test)]
mod tests;

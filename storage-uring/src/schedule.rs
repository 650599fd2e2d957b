//! Which disk operation comes next.
//!
//! Role: one [`DeviceQueue`] per device puts waiting parts into rising file order, joins neighbours into one
//! vectored operation, and shares the device between reads, writes and slow tasks. Pure: no descriptor, clock
//! or thread. Owner: the storage thread. Invariant: every part pushed comes out exactly once, in one
//! [`Batch`]; parts of a batch are contiguous in one file and take one way; and no kind of work waits for
//! ever while another goes on.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use ccbt_protocol::ids::TorrentKey;

use crate::layout::Class;
use crate::ring::Direction;

/// Bytes joined into one operation at most. Larger gains nothing on any device; smaller costs system calls.
pub const BATCH_BYTES_MAX: u32 = 4 << 20;
/// Parts joined into one operation at most; well under the kernel's `IOV_MAX` of 1024.
pub const BATCH_PARTS_MAX: usize = 256;
/// Buffered writes of one device in flight: they may block a kernel worker each, and a slow device must leave
/// workers to the others.
pub const SEAMS_MAX: u32 = 2;
/// Tasks (syncs, reservations) of one device in flight; each blocks a kernel worker. Some more, since file
/// systems make several syncs with one journal commit.
pub const TASKS_MAX: u32 = 4;
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
}

/// The waiting operations of one device. `T` is a task that moves no piece data: a sync or a reservation.
#[derive(Debug)]
pub struct DeviceQueue<T> {
    read: Sorted,
    direct: Sorted,
    seam: Sorted,
    tasks: VecDeque<T>,
    tasks_in_flight: u32,
    depth: u32,
    streak: u32,
    sequence: u64,
}

impl<T> DeviceQueue<T> {
    /// A queue for a device that is given up to `depth` (at least 1) operations at a time.
    pub fn new(depth: u32) -> Self {
        let depth = depth.max(1);
        // A quarter of the depth is out of reach for each kind, so that the other always has a place.
        let share = depth - depth / 4;
        let sorted =
            |in_flight_max| Sorted { parts: BTreeMap::new(), last: None, in_flight: 0, in_flight_max };
        Self {
            read: sorted(share),
            direct: sorted(share),
            seam: sorted(SEAMS_MAX),
            tasks: VecDeque::new(),
            tasks_in_flight: 0,
            depth,
            streak: 0,
            sequence: 0,
        }
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
        let sorted = self.lane(lane);
        sorted.in_flight += 1;
        Some(Next::Batch(sorted.take()))
    }

    /// Whether [`Self::next_work`] would give something out.
    pub fn ready(&self) -> bool {
        let task = self.tasks_in_flight < TASKS_MAX && !self.tasks.is_empty();
        self.in_flight() < self.depth && (task || self.choose().is_some())
    }

    /// Reads first, but not for ever; then writes by whichever way has fewer in flight.
    fn choose(&self) -> Option<Lane> {
        let direct = self.direct.ready();
        let seam = self.seam.ready();
        if self.read.ready() && (self.streak < READ_STREAK_MAX || !(direct || seam)) {
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
        self.lane(batch.lane()).in_flight -= 1;
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
            && [&self.read, &self.direct, &self.seam].iter().all(|sorted| sorted.parts.is_empty())
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
    fn ready(&self) -> bool {
        !self.parts.is_empty() && self.in_flight < self.in_flight_max
    }

    /// The next parts that fit together. There is at least one.
    fn take(&mut self) -> Batch {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let onward = self.parts.range((after, Bound::Unbounded)).next();
        let (&first, _) = onward.or_else(|| self.parts.first_key_value()).expect("a ready lane has parts");
        let head = self.parts.remove(&first).expect("a key just seen");
        self.last = Some(first);
        let mut batch = Batch { len: head.len, parts: vec![head] };
        while batch.parts.len() < BATCH_PARTS_MAX && !head.solo {
            let from = (head.torrent, head.file, head.class, head.offset + u64::from(batch.len), 0);
            let Some((&key, &part)) = self.parts.range(from..).next() else { break };
            let follows = (key.0, key.1, key.2, key.3) == (from.0, from.1, from.2, from.3);
            if !follows || part.solo || part.len > BATCH_BYTES_MAX.saturating_sub(batch.len) {
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

fn lane_of(part: &Part) -> Lane {
    match (part.direction, part.class) {
        (Direction::Read, _) => Lane::Read,
        (Direction::Write, Class::Direct) => Lane::Direct,
        (Direction::Write, Class::Seam) => Lane::Seam,
    }
}

#[cfg(test)]
mod tests;

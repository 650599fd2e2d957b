//! A disk that fails, falls short or hangs on command, for tests.
//!
//! # The fault model
//!
//! A [`FaultPlan`] is a list of [`Fault`]s. Each names operations (by file or device, by kind, by their number
//! among those that match) and what becomes of them:
//!
//! * [`Outcome::Errno`]: the operation does nothing and ends with this error.
//! * [`Outcome::Short`]: a transfer moves only so many bytes, truly and from its first on (on an `O_DIRECT`
//!   descriptor too, where real disks stop at a sector: any number is possible here).
//! * [`Outcome::Hold`]: the operation hangs until its [`Gate`] opens, and is carried out then. That is how a
//!   slow device is tested without a clock: as long as the gate is shut, its operations are in flight.
//!
//! A [`Journal`] is told of every write and sync when it begins and when it ends, so that a test can work out what a power
//! cut at any moment may leave: what was synced, and any part of what was not.
//!
//! The first fault that matches an operation and strikes decides; every fault that was looked at counts it.
//! Attempts that would have blocked ([`crate::schedule::Mode::Try`]) count as operations of their own. Not
//! covered: opening files, and reservations that are so small that they are made at once.
//!
//! Owner: the ring, which asks [`Faults`] about each operation it starts. Compiled only for tests and with the
//! feature `testing`; give the plan to `StorageConfig::faults`.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use io_uring::squeue;

use super::{Direction, DiskRing, Kind};
use crate::doorbell::Doorbell;

/// Which files a fault concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All.
    Any,
    /// Those below this path, or the file itself.
    Below(PathBuf),
    /// Those on the device with this `st_dev`, as [`std::os::unix::fs::MetadataExt::dev`] gives it.
    Device(u64),
}

/// Which operations a fault concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOp {
    /// All.
    Any,
    /// Transfers from the file.
    Read,
    /// Transfers to the file.
    Write,
    /// Syncs of files and folders.
    Sync,
    /// Reservations.
    Allocate,
}

/// Which of the operations that match are struck, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nth {
    /// This one.
    Only(u64),
    /// This one and all later.
    From(u64),
}

/// What becomes of an operation.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It fails with this number.
    Errno(i32),
    /// It moves at most so many bytes. Syncs and reservations are left alone.
    Short(u32),
    /// It hangs until the gate opens.
    Hold(Gate),
}

/// One planned fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Files.
    pub target: Target,
    /// Kind.
    pub op: FaultOp,
    /// Which of them.
    pub nth: Nth,
    /// What happens.
    pub outcome: Outcome,
}

/// What is to go wrong. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    faults: Vec<(Fault, Arc<Counts>)>,
    journal: Option<Journal>,
}

/// What was asked of disks, in order. Clones are the same journal.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<Vec<Recorded>>>);

/// An entry of a [`Journal`].
#[derive(Clone, Debug)]
pub enum Recorded {
    /// These bytes are being written.
    Write {
        /// The file.
        path: PathBuf,
        /// Where to, in bytes.
        offset: u64,
        /// All of them.
        bytes: Vec<u8>,
    },
    /// This file or folder is being synced.
    Sync(PathBuf),
    /// The entry with this index has ended well.
    Done(usize),
}

impl Journal {
    /// Entries so far.
    pub fn len(&self) -> usize {
        self.entries().len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of all.
    pub fn all(&self) -> Vec<Recorded> {
        self.entries().clone()
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Vec<Recorded>> {
        self.0.lock().expect("nobody panics with it")
    }

    fn push(&self, entry: Recorded) -> usize {
        let mut entries = self.entries();
        entries.push(entry);
        entries.len() - 1
    }
}

#[derive(Debug, Default)]
struct Counts {
    seen: AtomicU64,
    struck: AtomicU64,
}

impl FaultPlan {
    /// Adds a fault.
    pub fn with(mut self, fault: Fault) -> Self {
        self.faults.push((fault, Arc::default()));
        self
    }

    /// Records writes and syncs.
    pub fn recorded_by(mut self, journal: &Journal) -> Self {
        self.journal = Some(journal.clone());
        self
    }

    /// Operations that fault number `index` looked at so far.
    pub fn seen(&self, index: usize) -> u64 {
        self.faults[index].1.seen.load(Ordering::Acquire)
    }

    /// Operations that fault number `index` struck so far.
    pub fn struck(&self, index: usize) -> u64 {
        self.faults[index].1.struck.load(Ordering::Acquire)
    }

    /// Whether operations may hang, or are recorded: then none is carried out on the storage thread itself.
    pub(crate) fn holds(&self) -> bool {
        self.journal.is_some()
            || self.faults.iter().any(|(fault, _)| matches!(fault.outcome, Outcome::Hold(_)))
    }

    fn strike(&self, fd: &OwnedFd, kind: Kind) -> Option<Outcome> {
        let moves = matches!(kind, Kind::Transfer(..));
        self.faults.iter().find_map(|(fault, counts)| {
            if !fault.op.is(kind) || !fault.target.is(fd) {
                return None;
            }
            let number = counts.seen.fetch_add(1, Ordering::AcqRel);
            let hit = match fault.nth {
                Nth::Only(nth) => number == nth,
                Nth::From(nth) => number >= nth,
            };
            let hit = hit && (moves || !matches!(fault.outcome, Outcome::Short(_)));
            hit.then(|| {
                counts.struck.fetch_add(1, Ordering::AcqRel);
                fault.outcome.clone()
            })
        })
    }
}

impl FaultOp {
    fn is(self, kind: Kind) -> bool {
        match self {
            Self::Any => true,
            Self::Read => matches!(kind, Kind::Transfer(Direction::Read, _)),
            Self::Write => matches!(kind, Kind::Transfer(Direction::Write, _)),
            Self::Sync => kind == Kind::Sync,
            Self::Allocate => kind == Kind::Allocate,
        }
    }
}

impl Target {
    fn is(&self, fd: &OwnedFd) -> bool {
        match self {
            Self::Any => true,
            Self::Below(path) => std::fs::read_link(link_of(fd)).is_ok_and(|target| target.starts_with(path)),
            Self::Device(number) => rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_dev == *number),
        }
    }
}

fn link_of(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// Holds operations back until a test opens it. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    open: AtomicBool,
    held: AtomicU64,
    /// Of the ring that waits.
    bell: Mutex<Option<Arc<Doorbell>>>,
}

impl Gate {
    /// A shut one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets everything through, now and later.
    pub fn open(&self) {
        self.0.open.store(true, Ordering::SeqCst);
        if let Some(bell) = &*self.0.bell.lock().expect("nobody panics with it") {
            bell.ring();
        }
    }

    /// Operations that wait before it.
    pub fn held(&self) -> u64 {
        self.0.held.load(Ordering::Acquire)
    }

    fn is_open(&self) -> bool {
        self.0.open.load(Ordering::SeqCst)
    }
}

/// The ring's side: the plan and the operations that hang.
#[derive(Default)]
pub(super) struct Faults {
    plan: FaultPlan,
    held: Vec<(Gate, squeue::Entry)>,
    /// Entries of the journal by operation in flight.
    recorded: HashMap<usize, usize>,
}

impl Faults {
    /// For a transfer on this thread: cuts it short, or tells its error.
    pub(super) fn meddle_now(
        &self,
        fd: &OwnedFd,
        direction: Direction,
        iovecs: &mut Vec<libc::iovec>,
    ) -> Result<(), i32> {
        match self.plan.strike(fd, Kind::Transfer(direction, 0)) {
            Some(Outcome::Errno(errno)) => return Err(errno),
            Some(Outcome::Short(len)) => cut(iovecs, len),
            Some(Outcome::Hold(_)) => unreachable!("with such a plan nothing is done on this thread"),
            None => {}
        }
        Ok(())
    }
}

impl DiskRing {
    /// From now on operations go as planned.
    pub fn plan_faults(&mut self, plan: FaultPlan) {
        self.faults.plan = plan;
    }

    /// Lets the plan decide about an operation that starts; `None` when it is not for the kernel (yet).
    pub(super) fn meddle(&mut self, index: usize, entry: squeue::Entry, kind: Kind) -> Option<squeue::Entry> {
        self.record(index, kind);
        match self.faults.plan.strike(&self.ops[index].fd, kind) {
            None => Some(entry),
            Some(Outcome::Errno(errno)) => {
                self.end(index, -errno);
                None
            }
            Some(Outcome::Short(len)) => {
                let op = &mut self.ops[index];
                cut(&mut op.iovecs, len);
                let result = move_now(&op.fd, kind, &op.iovecs);
                self.end(index, result);
                None
            }
            Some(Outcome::Hold(gate)) => {
                *gate.0.bell.lock().expect("nobody panics with it") = Some(Arc::clone(&self.bell));
                if gate.is_open() {
                    return Some(entry);
                }
                gate.0.held.fetch_add(1, Ordering::AcqRel);
                self.faults.held.push((gate, entry));
                None
            }
        }
    }

    fn record(&mut self, index: usize, kind: Kind) {
        let Some(journal) = &self.faults.plan.journal else { return };
        let op = &self.ops[index];
        let path = || std::fs::read_link(link_of(&op.fd)).expect("an open descriptor");
        let entry = match kind {
            Kind::Sync => Recorded::Sync(path()),
            Kind::Transfer(Direction::Write, offset) => {
                let mut bytes = Vec::new();
                for iovec in &op.iovecs {
                    // SAFETY: the range lies in a buffer that the ring holds for this operation (`point_at`), and
                    // nobody writes to it before the operation ends.
                    bytes.extend_from_slice(unsafe {
                        std::slice::from_raw_parts(iovec.iov_base.cast::<u8>(), iovec.iov_len)
                    });
                }
                Recorded::Write { path: path(), offset, bytes }
            }
            _ => return,
        };
        let number = journal.push(entry);
        self.faults.recorded.insert(index, number);
    }

    pub(super) fn record_end(&mut self, index: usize, result: i32) {
        let Some(number) = self.faults.recorded.remove(&index) else { return };
        if let Some(journal) = self.faults.plan.journal.as_ref().filter(|_| result >= 0) {
            journal.push(Recorded::Done(number));
        }
    }

    /// Hands the kernel what no longer hangs, or, with `all`, everything.
    pub(super) fn let_go(&mut self, all: bool) {
        let held = std::mem::take(&mut self.faults.held);
        for (gate, entry) in held {
            if all || gate.is_open() {
                gate.0.held.fetch_sub(1, Ordering::AcqRel);
                self.push(entry);
            } else {
                self.faults.held.push((gate, entry));
            }
        }
    }
}

/// Shortens a vector to `len` bytes; an operation of none keeps one empty range.
fn cut(iovecs: &mut Vec<libc::iovec>, len: u32) {
    let mut left = len as usize;
    for iovec in iovecs.iter_mut() {
        iovec.iov_len = iovec.iov_len.min(left);
        left -= iovec.iov_len;
    }
    let used = iovecs.iter().filter(|iovec| iovec.iov_len > 0).count();
    iovecs.truncate(used.max(1));
}

/// Moves the bytes through a descriptor that takes any length.
fn move_now(fd: &OwnedFd, kind: Kind, iovecs: &[libc::iovec]) -> i32 {
    let Kind::Transfer(direction, offset) = kind else { unreachable!("only transfers are cut short") };
    let write = direction == Direction::Write;
    let file = match std::fs::OpenOptions::new().read(!write).write(write).open(link_of(fd)) {
        Ok(file) => file,
        Err(error) => return -error.raw_os_error().unwrap_or(libc::EIO),
    };
    let (file, count) = (file.as_raw_fd(), iovecs.len() as i32);
    // SAFETY: the iovecs lead into buffers that the ring holds for this operation, and the call is over before
    // it ends.
    let moved = unsafe {
        match direction {
            Direction::Read => libc::preadv(file, iovecs.as_ptr(), count, offset as i64),
            Direction::Write => libc::pwritev(file, iovecs.as_ptr(), count, offset as i64),
        }
    };
    i32::try_from(moved)
        .ok()
        .filter(|moved| *moved >= 0)
        .unwrap_or_else(|| -std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

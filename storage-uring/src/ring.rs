//! The storage thread's io_uring ring.
//!
//! Role: every read, write, sync and reservation of disk space. Owner: the storage thread, which made it (the
//! ring is `SINGLE_ISSUER`). Invariant: the kernel only ever gets pointers into [`PieceBuf`]s that live in
//! this module, and one is let go only when no operation that names it is in flight; descriptors are held the
//! same way. That makes the interface safe: callers name buffers by [`BufKey`] and never hand over a pointer.
//!
//! Tests give it a plan of faults (`fake`, with the feature `testing`): operations that fail, fall short or
//! hang.
//!
//! # What is not used, and why
//!
//! Registered buffers (`READ_FIXED`, `WRITE_FIXED`) save looking up the pages of every transfer. With pages of
//! 4 KiB that is worth having: fio on ext4, O_DIRECT, 16 in flight, medians of 5, CPU seconds per GiB without
//! and with: 64 KiB 0.136 → 0.115, 256 KiB 0.078 → 0.049, 1 MiB 0.050 → 0.025, 4 MiB 0.051 → 0.023. But piece
//! memory has huge pages ([`crate::arena`]), and there most of it is gone: reads of 1 MiB, 64 in flight, 0.009 →
//! 0.005, writes 0.040 → 0.031 with runs that differ by as much. The whole service takes 0.007 to 0.015 per
//! GiB. Against that stands that registered memory is pinned: all of the ceiling would be resident from the
//! start, however little is in use, and count against `ulimit -l`.
//!
//! Registered files save a reference count per operation: in the same runs 0.136 → 0.143, 0.078 → 0.077, 0.050
//! → 0.048, 0.051 → 0.048, which is less than what runs differ by.
//!
//! On tmpfs neither changes anything beyond noise (64 KiB 0.043 → 0.043 and 0.047, 4 MiB 0.014 → 0.015 and
//! 0.013): nothing is looked up, the bytes are copied.
#![allow(unsafe_code)]

pub mod features;
pub mod priority;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use slab::Slab;

use crate::arena::PieceBuf;
use crate::doorbell::Doorbell;
use crate::schedule::Mode;

#[cfg(any(test, feature = "testing"))]
pub mod fake;
mod probe;

pub use probe::{ProbeError, probe, survive_file_size_limit};

/// Submission entries. Never full for long: operations in flight are bounded by the queue depths of the
/// devices, and a full queue is submitted.
const ENTRIES: u32 = 256;

/// `user_data` of the poll on the doorbell; operations have small numbers.
const BELL: u64 = u64::MAX;

/// Names a buffer on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufKey(u32);

/// A range of a buffer on the ring. Units: bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The buffer.
    pub buf: BufKey,
    /// First byte.
    pub at: u32,
    /// Length.
    pub len: u32,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the file into the buffers.
    Read,
    /// From the buffers into the file.
    Write,
}

/// What an operation does, as far as faults are planned for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Bytes from or to the file, from this offset on.
    Transfer(Direction, u64),
    /// Makes it durable.
    Sync,
    /// Reserves blocks.
    Allocate,
}

/// An operation that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// As given when it was started.
    pub token: u64,
    /// Bytes moved (0 for operations that move none), or the error number.
    pub result: Result<u32, i32>,
}

#[derive(Debug)]
struct Held {
    buf: PieceBuf,
    /// Operations in flight that name it.
    users: u32,
}

/// An operation in flight and what the kernel may use until it ends.
#[derive(Debug)]
struct InFlight {
    token: u64,
    #[cfg_attr(not(any(test, feature = "testing")), allow(dead_code))]
    fd: Rc<OwnedFd>,
    iovecs: Vec<libc::iovec>,
    /// The buffers the iovecs lead into.
    keys: Vec<BufKey>,
}

/// The ring, the buffers lent to it and its operations.
pub struct DiskRing {
    ring: IoUring,
    bell: Arc<Doorbell>,
    bufs: Slab<Held>,
    ops: Slab<InFlight>,
    done: VecDeque<Done>,
    /// Operations and results just taken from the ring; empty between calls.
    ended: Vec<(usize, i32)>,
    /// Vectors of finished operations, to be used again.
    spare: Vec<(Vec<libc::iovec>, Vec<BufKey>)>,
    rearm: bool,
    rang: bool,
    counts: RingCounts,
    #[cfg(any(test, feature = "testing"))]
    faults: fake::Faults,
}

/// What went through a ring so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounts {
    /// System calls that entered it.
    pub enters: u64,
    /// Entries handed to the kernel.
    pub submissions: u64,
    /// Completions taken.
    pub completions: u64,
}

impl std::fmt::Debug for DiskRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskRing").field("in_flight", &self.ops.len()).finish_non_exhaustive()
    }
}

impl DiskRing {
    /// A ring on the calling thread, which is woken by `bell`. Errors: what `io_uring_setup` says; [`probe`]
    /// explains.
    pub fn new(bell: Arc<Doorbell>) -> io::Result<Self> {
        let ring = features::setup(features::features()?, ENTRIES, None)?;
        let mut this = Self {
            ring,
            bell,
            bufs: Slab::new(),
            ops: Slab::new(),
            done: VecDeque::new(),
            ended: Vec::new(),
            spare: Vec::new(),
            rearm: true,
            rang: false,
            counts: RingCounts::default(),
            #[cfg(any(test, feature = "testing"))]
            faults: fake::Faults::default(),
        };
        this.arm_bell();
        Ok(this)
    }

    /// Lets at most `workers` kernel threads wait for slow operations, where the kernel can.
    pub fn limit_workers(&self, workers: u32) {
        if !features::features().is_ok_and(|has| has.has(features::Feature::WorkerLimit)) {
            return;
        }
        if let Err(error) = self.ring.submitter().register_iowq_max_workers(&mut [workers, workers]) {
            tracing::debug!(%error, "io_uring workers stay unlimited");
        }
    }

    /// Takes a buffer, so that operations can name it.
    pub fn hold(&mut self, buf: PieceBuf) -> BufKey {
        BufKey(self.bufs.insert(Held { buf, users: 0 }) as u32)
    }

    /// Gives a buffer back. Panics while an operation names it: the kernel may still write to it.
    pub fn release(&mut self, key: BufKey) -> PieceBuf {
        // Checked before it leaves the slab: an unwinding drop must not free what the kernel uses.
        assert_eq!(self.bufs[key.0 as usize].users, 0, "a buffer taken away from an operation in flight");
        self.bufs.remove(key.0 as usize).buf
    }

    /// Fills `range` with zeros. Panics while an operation names the buffer.
    pub fn zero(&mut self, range: Range) {
        let held = &mut self.bufs[range.buf.0 as usize];
        assert_eq!(held.users, 0, "a buffer changed under an operation in flight");
        held.buf.as_mut_slice()[range.at as usize..][..range.len as usize].fill(0);
    }

    /// Starts moving `ranges`, one after the other, from or to `offset` of the file, waiting as `mode` says.
    /// Ends as a [`Done`] with `token`, possibly with fewer bytes. Panics when a range leaves its buffer or
    /// there is none.
    pub fn transfer(
        &mut self,
        (direction, mode): (Direction, Mode),
        fd: &Rc<OwnedFd>,
        offset: u64,
        ranges: impl Iterator<Item = Range>,
        token: u64,
    ) {
        let flags = if mode == Mode::Try { libc::RWF_NOWAIT } else { 0 };
        let (iovecs, keys) = self.point_at(ranges);
        for key in &keys {
            self.bufs[key.0 as usize].users += 1;
        }
        let file = types::Fd(fd.as_raw_fd());
        let entry = match (direction, &iovecs[..]) {
            (Direction::Read, [one]) => opcode::Read::new(file, one.iov_base.cast(), one.iov_len as u32)
                .offset(offset)
                .rw_flags(flags)
                .build(),
            (Direction::Write, [one]) => opcode::Write::new(file, one.iov_base.cast(), one.iov_len as u32)
                .offset(offset)
                .rw_flags(flags)
                .build(),
            (Direction::Read, many) => opcode::Readv::new(file, many.as_ptr(), many.len() as u32)
                .offset(offset)
                .rw_flags(flags)
                .build(),
            (Direction::Write, many) => opcode::Writev::new(file, many.as_ptr(), many.len() as u32)
                .offset(offset)
                .rw_flags(flags)
                .build(),
        };
        let entry = if mode == Mode::Worker { entry.flags(squeue::Flags::ASYNC) } else { entry };
        let op = InFlight { token, fd: Rc::clone(fd), iovecs, keys };
        self.start(entry, op, Kind::Transfer(direction, offset));
    }

    /// As [`Self::transfer`], but done when it returns, on this thread: for file systems that live in memory,
    /// where a worker would cost more than it hides. Signals are waited out.
    pub fn transfer_now(
        &mut self,
        direction: Direction,
        fd: &OwnedFd,
        offset: u64,
        ranges: impl Iterator<Item = Range>,
    ) -> Result<u32, i32> {
        let (mut iovecs, mut keys) = self.point_at(ranges);
        #[cfg(any(test, feature = "testing"))]
        self.faults.meddle_now(fd, direction, &mut iovecs)?;
        let (fd, count, offset) = (fd.as_raw_fd(), iovecs.len() as i32, offset as i64);
        let result = loop {
            // SAFETY: the iovecs lead into buffers that `self` owns and that nobody else looks at during the
            // call.
            let moved = unsafe {
                match direction {
                    Direction::Read => libc::preadv(fd, iovecs.as_ptr(), count, offset),
                    Direction::Write => libc::pwritev(fd, iovecs.as_ptr(), count, offset),
                }
            };
            match u32::try_from(moved) {
                Ok(moved) => break Ok(moved),
                Err(_) => match io::Error::last_os_error().raw_os_error() {
                    Some(libc::EINTR) => {}
                    errno => break Err(errno.unwrap_or(libc::EIO)),
                },
            }
        };
        iovecs.clear();
        keys.clear();
        self.spare.push((iovecs, keys));
        result
    }

    /// The ranges as the kernel takes them, and whose they are. Panics when a range leaves its buffer or
    /// there is none.
    fn point_at(&mut self, ranges: impl Iterator<Item = Range>) -> (Vec<libc::iovec>, Vec<BufKey>) {
        let (mut iovecs, mut keys) = self.spare.pop().unwrap_or_default();
        for range in ranges {
            let buf = &mut self.bufs[range.buf.0 as usize].buf;
            assert!(range.at as usize + range.len as usize <= buf.len(), "{range:?} leaves its buffer");
            // SAFETY: `at` lies in the buffer, checked above.
            let base = unsafe { buf.as_mut_ptr().add(range.at as usize) };
            iovecs.push(libc::iovec { iov_base: base.cast(), iov_len: range.len as usize });
            keys.push(range.buf);
        }
        assert!(!iovecs.is_empty(), "a transfer of nothing");
        (iovecs, keys)
    }

    /// Starts making the file's data durable (and, unless `data_only`, all its attributes).
    pub fn sync(&mut self, fd: &Rc<OwnedFd>, data_only: bool, token: u64) {
        let flags = if data_only { types::FsyncFlags::DATASYNC } else { types::FsyncFlags::empty() };
        let entry = opcode::Fsync::new(types::Fd(fd.as_raw_fd())).flags(flags).build();
        self.start(entry, InFlight::bare(token, fd), Kind::Sync);
    }

    /// Starts reserving the blocks of the file's first `len` bytes; the file becomes that long if it was
    /// shorter.
    pub fn allocate(&mut self, fd: &Rc<OwnedFd>, len: u64, token: u64) {
        let entry = opcode::Fallocate::new(types::Fd(fd.as_raw_fd()), len).build();
        self.start(entry, InFlight::bare(token, fd), Kind::Allocate);
    }

    #[cfg_attr(not(any(test, feature = "testing")), allow(unused_variables))]
    fn start(&mut self, entry: squeue::Entry, op: InFlight, kind: Kind) {
        let index = self.ops.insert(op);
        let entry = entry.user_data(index as u64);
        #[cfg(any(test, feature = "testing"))]
        let Some(entry) = self.meddle(index, entry, kind) else { return };
        self.push(entry);
    }

    fn arm_bell(&mut self) {
        self.rearm = false;
        let poll =
            opcode::PollAdd::new(types::Fd(self.bell.as_raw_fd()), libc::POLLIN as u32).multi(true).build();
        self.push(poll.user_data(BELL));
    }

    /// Queues `entry`, entering the kernel first when the submission queue is full.
    fn push(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: pointers in `entry` lead into iovecs owned by `self.ops` (heap memory that does not
            // move with its vector's owner) and buffers owned by `self.bufs`; both stay until the completion
            // was seen, or, in `drop`, for ever.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                self.counts.submissions += 1;
                return;
            }
            self.enter(0);
        }
    }

    fn enter(&mut self, want: usize) {
        self.counts.enters += 1;
        match self.ring.submit_and_wait(want) {
            Ok(_) => {}
            // A completion backlog is reaped below; a signal or a lack of memory means: try again.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EINTR | libc::EAGAIN)) => {}
            Err(error) => panic!("io_uring_enter of the storage ring: {error}"),
        }
        self.reap();
    }

    /// Submits what was started and takes in what ended. With `wait`, sleeps until an operation ends or the
    /// bell rings.
    pub fn turn(&mut self, wait: bool) {
        if self.rearm {
            self.arm_bell();
        }
        #[cfg(any(test, feature = "testing"))]
        self.let_go(false);
        let queue = self.ring.submission();
        let idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
        drop(queue);
        self.reap();
        let wait = wait && self.done.is_empty() && !self.rang;
        if wait || !idle {
            self.enter(usize::from(wait));
        }
        self.rang = false;
    }

    fn reap(&mut self) {
        // Taken out of the ring first: ending an operation needs the rest of `self`.
        let mut ended = std::mem::take(&mut self.ended);
        let mut queue = self.ring.completion();
        queue.sync();
        for entry in &mut queue {
            self.counts.completions += 1;
            if entry.user_data() == BELL {
                self.rang = true;
                self.rearm |= !cqueue::more(entry.flags());
                continue;
            }
            ended.push((entry.user_data() as usize, entry.result()));
        }
        drop(queue);
        for (index, result) in ended.drain(..) {
            self.end(index, result);
        }
        self.ended = ended;
    }

    /// Lets go of what an operation held and keeps its result to be told.
    fn end(&mut self, index: usize, result: i32) {
        #[cfg(any(test, feature = "testing"))]
        self.record_end(index, result);
        let mut op = self.ops.remove(index);
        for key in op.keys.drain(..) {
            self.bufs[key.0 as usize].users -= 1;
        }
        let result = u32::try_from(result).map_err(|_| -result);
        self.done.push_back(Done { token: op.token, result });
        if op.iovecs.capacity() > 0 && self.spare.len() < ENTRIES as usize {
            op.iovecs.clear();
            self.spare.push((op.iovecs, op.keys));
        }
    }

    /// The next operation that ended; `None` when all are told.
    pub fn next_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    /// Operations in flight.
    pub fn in_flight(&self) -> usize {
        self.ops.len()
    }

    /// What went through so far.
    pub fn counts(&self) -> RingCounts {
        self.counts
    }
}

impl InFlight {
    fn bare(token: u64, fd: &Rc<OwnedFd>) -> Self {
        Self { token, fd: Rc::clone(fd), iovecs: Vec::new(), keys: Vec::new() }
    }
}

impl Drop for DiskRing {
    /// Waits for operations in flight: their memory goes with `self`.
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The kernel still owns that memory: leaking it is the only sound thing left.
            std::mem::forget(std::mem::take(&mut self.bufs));
            std::mem::forget(std::mem::take(&mut self.ops));
            return;
        }
        #[cfg(any(test, feature = "testing"))]
        self.let_go(true);
        while !self.ops.is_empty() {
            self.enter(1);
        }
    }
}

#[cfg(test)]
mod tests;

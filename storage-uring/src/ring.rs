//! The storage thread's io_uring ring.
//!
//! Role: every read, write, sync and reservation of disk space. Owner: the storage thread, which made it (the
//! ring is `SINGLE_ISSUER`). Invariant: the kernel only ever gets pointers into [`PieceBuf`]s that live in
//! this module, and one is let go only when no operation that names it is in flight; descriptors are held the
//! same way. That makes the interface safe: callers name buffers by [`BufKey`] and never hand over a pointer.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};
use slab::Slab;

use crate::arena::PieceBuf;
use crate::doorbell::Doorbell;

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
    _fd: Rc<OwnedFd>,
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
    /// Vectors of finished operations, to be used again.
    spare: Vec<(Vec<libc::iovec>, Vec<BufKey>)>,
    rearm: bool,
    rang: bool,
    enters: u64,
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
        let ring = setup()?;
        let mut this = Self {
            ring,
            bell,
            bufs: Slab::new(),
            ops: Slab::new(),
            done: VecDeque::new(),
            spare: Vec::new(),
            rearm: true,
            rang: false,
            enters: 0,
        };
        this.arm_bell();
        Ok(this)
    }

    /// Lets at most `workers` kernel threads wait for slow operations. Kernels before 5.15 have no such
    /// limit: no harm.
    pub fn limit_workers(&self, workers: u32) {
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

    /// Starts moving `ranges`, one after the other, from or to `offset` of the file. Ends as a [`Done`] with
    /// `token`, possibly with fewer bytes. Panics when a range leaves its buffer or there is none.
    pub fn transfer(
        &mut self,
        direction: Direction,
        fd: &Rc<OwnedFd>,
        offset: u64,
        ranges: impl Iterator<Item = Range>,
        token: u64,
    ) {
        let (iovecs, keys) = self.point_at(ranges);
        for key in &keys {
            self.bufs[key.0 as usize].users += 1;
        }
        let file = types::Fd(fd.as_raw_fd());
        let entry = match (direction, &iovecs[..]) {
            (Direction::Read, [one]) => {
                opcode::Read::new(file, one.iov_base.cast(), one.iov_len as u32).offset(offset).build()
            }
            (Direction::Write, [one]) => {
                opcode::Write::new(file, one.iov_base.cast(), one.iov_len as u32).offset(offset).build()
            }
            (Direction::Read, many) => {
                opcode::Readv::new(file, many.as_ptr(), many.len() as u32).offset(offset).build()
            }
            (Direction::Write, many) => {
                opcode::Writev::new(file, many.as_ptr(), many.len() as u32).offset(offset).build()
            }
        };
        self.start(entry, InFlight { token, _fd: Rc::clone(fd), iovecs, keys });
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
        self.start(entry, InFlight::bare(token, fd));
    }

    /// Starts reserving the blocks of the file's first `len` bytes; the file becomes that long if it was
    /// shorter.
    pub fn allocate(&mut self, fd: &Rc<OwnedFd>, len: u64, token: u64) {
        let entry = opcode::Fallocate::new(types::Fd(fd.as_raw_fd()), len).build();
        self.start(entry, InFlight::bare(token, fd));
    }

    fn start(&mut self, entry: squeue::Entry, op: InFlight) {
        let index = self.ops.insert(op);
        self.push(entry.user_data(index as u64));
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
                return;
            }
            self.enter(0);
        }
    }

    fn enter(&mut self, want: usize) {
        self.enters += 1;
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
        let mut queue = self.ring.completion();
        queue.sync();
        for entry in &mut queue {
            if entry.user_data() == BELL {
                self.rang = true;
                self.rearm |= !cqueue::more(entry.flags());
                continue;
            }
            let mut op = self.ops.remove(entry.user_data() as usize);
            for key in op.keys.drain(..) {
                self.bufs[key.0 as usize].users -= 1;
            }
            let result = u32::try_from(entry.result()).map_err(|_| -entry.result());
            self.done.push_back(Done { token: op.token, result });
            if op.iovecs.capacity() > 0 && self.spare.len() < ENTRIES as usize {
                op.iovecs.clear();
                self.spare.push((op.iovecs, op.keys));
            }
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

    /// System calls that entered the ring so far.
    pub fn enters(&self) -> u64 {
        self.enters
    }
}

impl InFlight {
    fn bare(token: u64, fd: &Rc<OwnedFd>) -> Self {
        Self { token, _fd: Rc::clone(fd), iovecs: Vec::new(), keys: Vec::new() }
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
        while !self.ops.is_empty() {
            self.enter(1);
        }
    }
}

/// Lets a write beyond the process's file size limit (`ulimit -f`) fail with `EFBIG` on the calling thread,
/// instead of ending the process with `SIGXFSZ`.
pub fn survive_file_size_limit() {
    // SAFETY: `set` is initialised by `sigemptyset` before it is used, and the mask is the calling thread's
    // own.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGXFSZ);
        let result = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        assert_eq!(result, 0, "blocking one signal cannot fail");
    }
}

/// A ring with the best flags that this kernel takes: 6.1 has all, 5.19 the second set, older ones none.
fn setup() -> io::Result<IoUring> {
    let invalid = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
    let best =
        IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().build(ENTRIES);
    match best {
        Err(error) if invalid(&error) => {}
        other => return other,
    }
    match IoUring::builder().setup_coop_taskrun().setup_taskrun_flag().build(ENTRIES) {
        Err(error) if invalid(&error) => IoUring::new(ENTRIES),
        other => other,
    }
}

/// Why io_uring cannot be used here, and what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// `EPERM` or `EACCES`.
    #[error(
        "io_uring is not permitted: set `sysctl kernel.io_uring_disabled=0`, or allow io_uring_setup, \
         io_uring_enter and io_uring_register in the container's seccomp profile"
    )]
    Forbidden,
    /// `ENOSYS`.
    #[error(
        "this kernel offers no io_uring: Linux 5.13 or newer is needed, built with CONFIG_IO_URING and \
         not blocked by a seccomp profile"
    )]
    Missing,
    /// `ENOMEM`.
    #[error(
        "not enough locked memory for io_uring: raise it with `ulimit -l 65536` (LimitMEMLOCK= in systemd)"
    )]
    Memory,
    /// An operation the storage thread needs is unknown to the kernel.
    #[error("this kernel's io_uring lacks {0}: Linux 5.13 or newer is needed")]
    Opcode(&'static str),
    /// Anything else.
    #[error("io_uring cannot be set up ({})", io::Error::from_raw_os_error(*.0))]
    Other(i32),
}

impl From<io::Error> for ProbeError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden,
            Some(libc::ENOSYS) => Self::Missing,
            Some(libc::ENOMEM) => Self::Memory,
            other => Self::Other(other.unwrap_or(libc::EIO)),
        }
    }
}

/// Whether io_uring works here with all that the storage thread needs. Leaves nothing behind.
pub fn probe() -> Result<(), ProbeError> {
    let ring = setup()?;
    let mut known = Probe::new();
    ring.submitter().register_probe(&mut known)?;
    let needed = [
        (opcode::Read::CODE, "READ"),
        (opcode::Write::CODE, "WRITE"),
        (opcode::Readv::CODE, "READV"),
        (opcode::Writev::CODE, "WRITEV"),
        (opcode::Fsync::CODE, "FSYNC"),
        (opcode::Fallocate::CODE, "FALLOCATE"),
        (opcode::PollAdd::CODE, "POLL_ADD"),
    ];
    match needed.iter().find(|(code, _)| !known.is_supported(*code)) {
        Some((_, name)) => Err(ProbeError::Opcode(name)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;

//! A worker's buffers, and its io_uring ring.
//!
//! Owner: a worker. Invariant: a buffer is either free here, in a unit that is ready, or held by the ring;
//! there are never more than were allocated at the start, and the one that was given back last is used first,
//! since it is still in the caches. Without io_uring (not permitted, no memory) [`Reads::can_fly`] is false
//! and callers read on their own thread.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use ccbt_storage::arena::{Partition, PieceBuf};
use ccbt_storage::doorbell::Doorbell;
use ccbt_storage::ring::{BufKey, Direction, DiskRing, Done, Range};
use ccbt_storage::schedule::Mode;

/// Reads in flight at most, of one worker: what bounds its open files.
const FLIGHT_MAX: usize = 128;

/// A read of a file into a buffer.
#[derive(Debug)]
pub(super) struct Segment {
    pub fd: Rc<OwnedFd>,
    /// Index in the plan.
    pub file: usize,
    /// First byte of the file that is wanted.
    pub offset: u64,
    /// First byte of the torrent that is wanted.
    pub at: u64,
    /// Bytes wanted.
    pub len: u32,
    /// Where in the buffer the first wanted byte goes.
    pub place: u32,
    /// Bytes read before the first wanted one, because of alignment.
    pub before: u32,
    /// Bytes read in all; more than `before + len` because of alignment.
    pub whole: u32,
}

impl Segment {
    /// Reads it on this thread; false when it comes short or fails.
    pub(super) fn read_here(&self, buf: &mut PieceBuf) -> bool {
        let mut into = &mut buf.as_mut_slice()[(self.place - self.before) as usize..][..self.whole as usize];
        let mut offset = self.offset - u64::from(self.before);
        let mut left = u64::from(self.before + self.len);
        while left > 0 {
            let got = match rustix::io::pread(&*self.fd, &mut *into, offset) {
                Ok(0) => return false,
                Ok(got) => got,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return false,
            };
            left = left.saturating_sub(got as u64);
            offset += got as u64;
            into = &mut into[got..];
        }
        true
    }
}

enum Ring {
    NotYet,
    Made(Box<DiskRing>),
    Refused,
}

/// See the module.
pub(super) struct Reads {
    ring: Ring,
    free: Vec<PieceBuf>,
}

impl Reads {
    /// `count` buffers of `len` bytes each, a multiple of the page size. Memory is taken when they are used.
    /// Without `has_ring`, io_uring is not even tried.
    pub(super) fn new(count: usize, len: usize, has_ring: bool) -> io::Result<Self> {
        let mut partition = Partition::new(count * len)?;
        let buf = |_| partition.alloc(len as u32, 0).expect("the partition is as long as the buffers");
        let mut free: Vec<PieceBuf> = (0..count).map(buf).collect();
        free.reverse();
        Ok(Self { ring: if has_ring { Ring::NotYet } else { Ring::Refused }, free })
    }

    /// Whether a unit can be planned now: there is a buffer, and room for as many as `reads` in flight.
    pub(super) fn has_room(&self, reads: usize) -> bool {
        !self.free.is_empty() && self.in_flight() + reads <= FLIGHT_MAX
    }

    /// A free buffer. Panics when there is none: see [`Self::has_room`].
    pub(super) fn take(&mut self) -> PieceBuf {
        self.free.pop().expect("planned with room only")
    }

    /// Takes a buffer back.
    pub(super) fn give(&mut self, buf: PieceBuf) {
        self.free.push(buf);
    }

    /// Whether reads can be started here; the first call sets the ring up.
    pub(super) fn can_fly(&mut self) -> bool {
        if matches!(self.ring, Ring::NotYet) {
            self.ring = match Doorbell::new().and_then(DiskRing::new) {
                Ok(ring) => Ring::Made(Box::new(ring)),
                Err(error) => {
                    tracing::debug!(%error, "no io_uring: files are read on the hash threads");
                    Ring::Refused
                }
            };
        }
        matches!(self.ring, Ring::Made(_))
    }

    /// Starts reading `segments` into `buf`. Each ends as a [`Done`] with the token that `token` makes of its
    /// position.
    pub(super) fn start(
        &mut self,
        buf: PieceBuf,
        segments: &[Segment],
        token: impl Fn(usize) -> u64,
    ) -> BufKey {
        let Ring::Made(ring) = &mut self.ring else { panic!("reads are started without a ring") };
        let key = ring.hold(buf);
        for (nth, segment) in segments.iter().enumerate() {
            let range = Range { buf: key, at: segment.place - segment.before, len: segment.whole };
            let offset = segment.offset - u64::from(segment.before);
            let how = (Direction::Read, Mode::Plain);
            ring.transfer(how, &segment.fd, offset, std::iter::once(range), token(nth));
        }
        key
    }

    /// The buffer of reads that have all ended.
    pub(super) fn land(&mut self, key: BufKey) -> PieceBuf {
        let Ring::Made(ring) = &mut self.ring else { panic!("reads end without a ring") };
        ring.release(key)
    }

    /// Submits what was started and takes in what ended; with `wait`, until something did. Nothing happens
    /// while nothing is in flight.
    pub(super) fn turn(&mut self, wait: bool) {
        if let Ring::Made(ring) = &mut self.ring
            && ring.in_flight() > 0
        {
            ring.turn(wait);
        }
    }

    /// The next read that ended.
    pub(super) fn next_done(&mut self) -> Option<Done> {
        match &mut self.ring {
            Ring::Made(ring) => ring.next_done(),
            _ => None,
        }
    }

    fn in_flight(&self) -> usize {
        match &self.ring {
            Ring::Made(ring) => ring.in_flight(),
            _ => 0,
        }
    }
}

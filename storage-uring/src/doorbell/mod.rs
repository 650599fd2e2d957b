//! An eventfd that is written only when the other side sleeps.
//!
//! Role: wakes a thread that waits in its ring (or in a poll) for a queue to fill. Owner: the thread that sleeps; every
//! pusher holds an `Arc`. Invariant: a push that happens before [`Doorbell::ring`] is either seen by the owner's look
//! at its queues after [`Doorbell::announce_sleep`], or the eventfd becomes readable. Called by shards, the storage
//! thread and the hash pool.

mod announcement;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use announcement::{Announcement, Bed};
use rustix::event::{EventfdFlags, eventfd};

/// A wake-up for one sleeping thread. Any number of threads may ring it.
///
/// There are two descriptors, and the owner announces by which it sleeps: one to poll, one to read in blocking mode.
/// They must not be chained (an io_uring ring that polls one and is told to write the other): Linux 6.18 defers a
/// signal that is raised within the write of another eventfd, and after the first time loses it.
///
/// Order of calls for the owner: `announce_sleep` or `announce_park`, look at the queues once more, then block on the
/// descriptor (or call `awake` when there was something), and after waking `awake` and `drain`.
#[derive(Debug)]
pub struct Doorbell {
    eventfd: OwnedFd,
    /// In blocking mode, for owners that sleep in a read.
    park: OwnedFd,
    announcement: Announcement,
}

impl Doorbell {
    /// A new bell whose owner is awake. Fails when the process has no descriptor left (`EMFILE`, `ENFILE`).
    pub fn new() -> io::Result<Arc<Self>> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let park = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Arc::new(Self { eventfd, park, announcement: Announcement::awake() }))
    }

    /// Wakes the owner if it has announced that it sleeps; otherwise costs one fence. Call it after the push.
    pub fn ring(&self) {
        match self.announcement.claim() {
            Some(Bed::Poll) => write(&self.eventfd),
            Some(Bed::Read) => write(&self.park),
            None => {}
        }
    }

    /// The owner is about to block. It must look at its queues once more after this call, and only then block.
    pub fn announce_sleep(&self) {
        self.announcement.announce(Bed::Poll);
    }

    /// As [`Self::announce_sleep`], for an owner that will block in a read of [`Self::park_fd`].
    pub fn announce_park(&self) {
        self.announcement.announce(Bed::Read);
    }

    /// The eventfd in blocking mode, written when the owner has announced that it parks. A read empties it.
    pub fn park_fd(&self) -> BorrowedFd<'_> {
        self.park.as_fd()
    }

    /// The owner withdraws its announcement: later rings cost it nothing.
    pub fn awake(&self) {
        self.announcement.withdraw();
    }

    /// Takes all rings so far off the eventfd, without blocking.
    pub fn drain(&self) {
        let mut count = [0; 8];
        loop {
            match rustix::io::read(&self.eventfd, &mut count) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("eventfd of a doorbell cannot be read: {error}"),
            }
        }
    }

    /// The eventfd, readable (non-blocking, 8 bytes) once the bell was rung. It lives as long as `self`.
    pub fn as_raw_fd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }
}

fn write(eventfd: &OwnedFd) {
    loop {
        match rustix::io::write(eventfd, &1u64.to_ne_bytes()) {
            // EAGAIN: the counter is at its maximum, so the descriptor is readable anyway.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => return,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("eventfd of a doorbell cannot be written: {error}"),
        }
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn readable(bell: &Doorbell) -> bool {
        let mut fds = [PollFd::new(bell, PollFlags::IN)];
        poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn rings_only_for_a_sleeper_and_once() {
        let bell = Doorbell::new().unwrap();
        bell.ring();
        assert!(!readable(&bell), "an awake owner costs no system call");
        bell.announce_sleep();
        bell.ring();
        bell.ring();
        assert!(readable(&bell));
        bell.drain();
        assert!(!readable(&bell));
        bell.ring();
        assert!(!readable(&bell), "the first ring used the announcement up");
        bell.announce_sleep();
        bell.awake();
        bell.ring();
        assert!(!readable(&bell));
    }

    #[test]
    fn a_parked_owner_is_woken_by_the_other_descriptor() {
        let bell = Doorbell::new().unwrap();
        bell.announce_park();
        bell.ring();
        bell.ring();
        assert!(!readable(&bell), "nothing to poll");
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(bell.park_fd(), &mut count), Ok(8));
        assert_eq!(u64::from_ne_bytes(count), 1);
    }

    #[test]
    fn no_wake_up_is_lost() {
        const MESSAGES: u32 = 20_000;
        let bell = Doorbell::new().unwrap();
        let (sender, receiver) = crossbeam_channel::bounded(MESSAGES as usize);
        let pusher = std::thread::spawn({
            let bell = bell.clone();
            move || {
                for n in 0..MESSAGES {
                    sender.send(n).unwrap();
                    bell.ring();
                    if n % 64 == 0 {
                        std::thread::yield_now();
                    }
                }
            }
        });
        let mut next = 0;
        while next < MESSAGES {
            bell.announce_sleep();
            if receiver.is_empty() {
                let mut fds = [PollFd::new(&*bell, PollFlags::IN)];
                poll(&mut fds, None).unwrap();
            }
            bell.awake();
            bell.drain();
            for n in receiver.try_iter() {
                assert_eq!(n, next);
                next += 1;
            }
        }
        pusher.join().unwrap();
    }
}

//! Whether the owner of a doorbell sleeps, and where.
//!
//! Role: the part of a [`Doorbell`](super::Doorbell) that threads race for, without descriptors, so that a model checker
//! tries all interleavings of it. Owner: the doorbell. Invariant: of a pusher that rings and an owner that announces, at
//! least one sees what the other wrote before. Called by the doorbell.

use std::sync::atomic::{AtomicU8, Ordering, fence};

/// A byte that threads share: the standard library's, or the model checker's.
pub(super) trait Shared {
    fn load(&self, order: Ordering) -> u8;
    fn store(&self, value: u8, order: Ordering);
    fn swap(&self, value: u8, order: Ordering) -> u8;
    fn fence();
}

impl Shared for AtomicU8 {
    fn load(&self, order: Ordering) -> u8 {
        Self::load(self, order)
    }

    fn store(&self, value: u8, order: Ordering) {
        Self::store(self, value, order);
    }

    fn swap(&self, value: u8, order: Ordering) -> u8 {
        Self::swap(self, value, order)
    }

    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// Where an owner sleeps, and so which descriptor wakes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Bed {
    Poll = 1,
    Read = 2,
}

const AWAKE: u8 = 0;

/// See the module.
#[derive(Debug)]
pub(super) struct Announcement<S = AtomicU8>(S);

impl Announcement {
    pub(super) const fn awake() -> Self {
        Self(AtomicU8::new(AWAKE))
    }
}

impl<S: Shared> Announcement<S> {
    /// The owner is about to block in `bed`. It looks at its queues after this call, and only then blocks.
    pub(super) fn announce(&self, bed: Bed) {
        self.0.store(bed as u8, Ordering::SeqCst);
        S::fence();
    }

    /// The owner withdraws what it announced.
    pub(super) fn withdraw(&self) {
        self.0.store(AWAKE, Ordering::SeqCst);
    }

    /// After a push: where to wake the owner, if it sleeps and nobody else has woken it.
    pub(super) fn claim(&self) -> Option<Bed> {
        // Pairs with the fence of `announce`: of the two threads at least one sees what the other wrote before its
        // fence (the pushed message or the announcement), so no wake-up is lost.
        S::fence();
        if self.0.load(Ordering::Relaxed) == AWAKE {
            return None;
        }
        match self.0.swap(AWAKE, Ordering::AcqRel) {
            AWAKE => None,
            bed if bed == Bed::Poll as u8 => Some(Bed::Poll),
            _ => Some(Bed::Read),
        }
    }
}

#[cfg(test)]
mod tests {
    //! All interleavings that the memory model allows, by loom.

    use std::sync::atomic::Ordering;

    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU8, AtomicUsize};

    use super::{AWAKE, Announcement, Bed, Shared};

    impl Shared for AtomicU8 {
        fn load(&self, order: Ordering) -> u8 {
            Self::load(self, order)
        }

        fn store(&self, value: u8, order: Ordering) {
            Self::store(self, value, order);
        }

        fn swap(&self, value: u8, order: Ordering) -> u8 {
            Self::swap(self, value, order)
        }

        fn fence() {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }

    /// A queue that only counts, the announcement, and how often the owner's descriptor was written.
    struct Way {
        queue: AtomicUsize,
        announcement: Announcement<AtomicU8>,
        written: AtomicUsize,
    }

    /// `rounds` sleeps of an owner beside pushers of one message each: after a look that found less than everything the
    /// owner would sleep, so a write must be on its way.
    fn check(pushers: usize, rounds: usize) {
        loom::model(move || {
            let way = Arc::new(Way {
                queue: AtomicUsize::new(0),
                announcement: Announcement(AtomicU8::new(AWAKE)),
                written: AtomicUsize::new(0),
            });
            let threads: Vec<_> = (0..pushers)
                .map(|_| {
                    let way = way.clone();
                    loom::thread::spawn(move || {
                        // As weak as a queue may be: the fences alone have to do.
                        way.queue.fetch_add(1, Ordering::Relaxed);
                        if way.announcement.claim().is_some() {
                            way.written.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            let mut seen = 0;
            for round in 1..=rounds {
                way.announcement.announce(Bed::Poll);
                seen = way.queue.load(Ordering::Relaxed);
                // The last sleep is never ended by the owner itself.
                if round < rounds {
                    way.announcement.withdraw();
                }
            }
            for thread in threads {
                thread.join().unwrap();
            }
            let written = way.written.load(Ordering::Relaxed);
            assert!(seen == pushers || written > 0, "the owner saw {seen} of {pushers} and sleeps for ever");
        });
    }

    #[test]
    fn no_interleaving_loses_a_wake_up() {
        check(1, 1);
        check(2, 1);
        check(1, 2);
    }
}

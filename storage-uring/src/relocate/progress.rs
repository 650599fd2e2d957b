//! How far a move is, for another thread to look at, and that thread's way to stop it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::RelocateError;

/// Shared between the mover and those who watch. Units: bytes.
#[derive(Debug, Default)]
pub struct MoveProgress {
    total: AtomicU64,
    done: AtomicU64,
    is_cancelled: AtomicBool,
    #[cfg(test)]
    pub(super) crash: crash::Crash,
}

impl MoveProgress {
    /// Bytes of all files to be moved; 0 until they were looked at.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Bytes at their new place, rising to [`Self::total`]. A file that is renamed counts at once.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Asks for an end soon: what was done is undone, unless all that is left is to remove sources. Not taken back;
    /// use a new one for a new move.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether [`Self::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }

    pub(super) fn set_total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Fails when it is time to stop. Called between any two steps that could be undone.
    pub(super) fn check(&self) -> Result<(), RelocateError> {
        self.step();
        if self.is_cancelled() { Err(RelocateError::Cancelled) } else { Ok(()) }
    }

    /// A place where a crash must do no harm. Called between any two steps that change something.
    pub(super) fn step(&self) {
        #[cfg(test)]
        self.crash.step();
    }
}

/// Crashes on purpose.
#[cfg(test)]
pub(super) mod crash {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// What a simulated crash panics with.
    pub const CRASH: &str = "crash on purpose";

    type Act = Box<dyn Fn() + Send>;

    /// Counts steps, and panics or does something at the one that was asked for.
    #[derive(Default)]
    pub struct Crash {
        seen: AtomicUsize,
        at: AtomicUsize,
        act: Mutex<Option<(usize, Act)>>,
    }

    impl std::fmt::Debug for Crash {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "step {}", self.seen())
        }
    }

    impl Crash {
        /// Crashes at the `nth` step from 1; 0 = never.
        pub fn at(&self, nth: usize) {
            self.at.store(nth, Ordering::Relaxed);
        }

        /// Calls `act` at the `nth` step from 1, as somebody else who works in the same folders.
        pub fn interfere(&self, nth: usize, act: impl Fn() + Send + 'static) {
            *self.act.lock().unwrap() = Some((nth, Box::new(act)));
        }

        /// Steps so far.
        pub fn seen(&self) -> usize {
            self.seen.load(Ordering::Relaxed)
        }

        pub fn step(&self) {
            let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some((nth, act)) = &*self.act.lock().unwrap()
                && seen == *nth
            {
                act();
            }
            if seen == self.at.load(Ordering::Relaxed) {
                std::panic::panic_any(CRASH);
            }
        }
    }
}

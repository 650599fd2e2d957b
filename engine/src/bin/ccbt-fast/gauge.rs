//! Long hashing with a display beside it, and a way to stop it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ccbt_fast::hashing::Progress;
use ccbt_storage::relocate::MoveProgress;

use crate::console::Console;
use crate::failure::Failure;
use crate::signals::Signals;
use crate::units;

/// How often the display changes and signals are looked at.
const TICK: Duration = Duration::from_millis(50);

/// Something that takes long. Units: bytes.
pub trait Watched: Sync {
    /// Done so far.
    fn done(&self) -> u64;
    /// To be done; 0 until that is known.
    fn total(&self) -> u64;
    /// Part of [`Self::done`] that an earlier run did: it counts for no rate.
    fn resumed(&self) -> u64 {
        0
    }
    /// Ends it soon.
    fn cancel(&self);
}

impl<T: Watched + Send> Watched for Arc<T> {
    fn done(&self) -> u64 {
        T::done(self)
    }

    fn total(&self) -> u64 {
        T::total(self)
    }

    fn resumed(&self) -> u64 {
        T::resumed(self)
    }

    fn cancel(&self) {
        T::cancel(self);
    }
}

impl Watched for Progress {
    fn done(&self) -> u64 {
        Self::done(self)
    }

    fn total(&self) -> u64 {
        Self::total(self)
    }

    fn resumed(&self) -> u64 {
        Self::resumed(self)
    }

    fn cancel(&self) {
        Self::cancel(self);
    }
}

impl Watched for MoveProgress {
    fn done(&self) -> u64 {
        Self::done(self)
    }

    fn total(&self) -> u64 {
        Self::total(self)
    }

    fn cancel(&self) {
        Self::cancel(self);
    }
}

/// Runs `work` on another thread, shows how far `progress` is, and cancels it on a signal.
pub fn watch<T: Send>(
    what: &'static str,
    progress: &impl Watched,
    signals: &Signals,
    console: &mut Console,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Failure> {
    let started = Instant::now();
    let result = std::thread::scope(|scope| {
        let (hang_up, ended) = crossbeam_channel::bounded::<()>(0);
        let worker = scope.spawn(move || {
            let result = work();
            drop(hang_up);
            result
        });
        while ended.recv_timeout(TICK) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            if signals.received().is_some() {
                progress.cancel();
            }
            let (done, total) = (progress.done(), progress.total());
            if total > 0 {
                let text = words(what, (progress.resumed(), done, total), started.elapsed());
                console.gauge((done, total), what, &text);
            }
        }
        // What panics there has been printed; it goes on here.
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    console.finish();
    match signals.received() {
        // A signal that came too late to stop anything is forgotten.
        Some(signal) if progress.done() < progress.total() => Err(Failure::Interrupted(signal)),
        _ => Ok(result),
    }
}

/// `resumed` of the bytes done were done by an earlier run and count for no rate.
fn words(what: &str, (resumed, done, total): (u64, u64, u64), elapsed: Duration) -> String {
    let rate = ((done - resumed.min(done)) as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
    let eta = units::eta(total - done.min(total), rate).map_or_else(|| "-".to_owned(), units::duration);
    format!("{what}  {} of {}  {}  ETA {eta}", units::bytes(done), units::bytes(total), units::rate(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_rate_and_time_left() {
        let text = words("hashing", (0, 1 << 20, 3 << 20), Duration::from_secs(1));
        assert_eq!(text, "hashing  1.00 MiB of 3.00 MiB  1.00 MiB/s  ETA 2s");
        let text = words("hashing", (1 << 20, 2 << 20, 3 << 20), Duration::from_secs(1));
        assert_eq!(text, "hashing  2.00 MiB of 3.00 MiB  1.00 MiB/s  ETA 1s");
    }
}

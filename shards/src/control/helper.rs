//! Threads for what blocks: name look-ups and reading certificates.
//!
//! Owner: the process; a few threads, started with the first job. Invariant: jobs in the queue are bounded.
//! glommio's own `spawn_blocking` is not used: it has one thread per executor, so a name server that does not
//! answer would hold up every other look-up of the shard, and that thread panics (which ends the process)
//! when its executor has gone before the job is done. For the same reason no waker crosses threads here:
//! whoever waits looks again from time to time, and may stop waiting at any moment.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

/// Look-ups mostly wait for a name server, so a few slow ones must not stop all others.
const THREADS: usize = 4;
/// Jobs waiting: with 4 threads and 5 s for a look-up that fails, more could not be served within an
/// announce's time.
const QUEUE_MAX: usize = 256;
/// How often a waiter looks: first, and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(32));

type Job = Box<dyn FnOnce() + Send>;

/// The place of a job's result.
pub(super) type Slot<T> = Arc<OnceLock<T>>;

fn queue() -> &'static Sender<Job> {
    static QUEUE: OnceLock<Sender<Job>> = OnceLock::new();
    QUEUE.get_or_init(|| {
        let (sender, receiver) = bounded::<Job>(QUEUE_MAX);
        for index in 0..THREADS {
            let jobs = receiver.clone();
            let thread = std::thread::Builder::new().name(format!("ccbt-lookup-{index}"));
            // Should not one thread start, every job is refused: the channel has no receiver left.
            if let Err(error) = thread.spawn(move || jobs.iter().for_each(|job| job())) {
                tracing::error!(%error, "cannot start a thread for name look-ups");
            }
        }
        sender
    })
}

/// Hands `job` to a helper thread. `None` when too many jobs wait.
pub(super) fn start<T: Send + Sync + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Option<Slot<T>> {
    let slot = Slot::default();
    let result = slot.clone();
    let job = Box::new(move || {
        // The slot is this job's alone, so it is empty.
        let _ = result.set(job());
    });
    queue().try_send(job).ok().map(|()| slot)
}

/// Waits on the executor until the job is done.
pub(super) async fn wait<T>(slot: &OnceLock<T>) -> &T {
    let mut pause = LOOK.0;
    loop {
        if let Some(result) = slot.get() {
            return result;
        }
        glommio::timer::sleep(pause).await;
        pause = (pause * 2).min(LOOK.1);
    }
}

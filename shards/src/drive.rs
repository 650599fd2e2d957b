//! THE loop of a shard.
//!
//! Each turn takes in everything that has arrived (messages, disk and hash results, socket completions), lets torrents
//! and connections react, submits the sockets' next operations in one call, and gives glommio's tasks their slice.
//! With nothing to do it first waits in its own ring for a millisecond at a time, which is cheap and keeps control
//! tasks on time; only then it parks in the executor, where the ring's eventfd wakes it.

use std::time::{Duration, Instant};

use crate::executor::{SLICE, Sleeper};
use crate::shard::Shard;

/// Empty waits in the ring before the loop parks in the executor.
const SPINS: u32 = 4;
/// How long each of them lasts, and how often a full inbox is tried again.
const SPIN: Duration = Duration::from_millis(1);
/// The longest rest: nothing is due.
const REST: Duration = Duration::from_secs(3600);

/// Runs `shard` until it is told to stop and has nothing left to do.
pub async fn run(mut shard: Shard) {
    let sleeper = Sleeper::new(shard.bell.park_fd()).unwrap_or_else(|error| panic!("shard: {error}"));
    let mut slice = Instant::now();
    let mut idle = 0;
    while !shard.is_done() {
        let progress = shard.turn();
        if slice.elapsed() >= SLICE {
            sleeper.give_way().await.unwrap_or_else(|error| panic!("shard's eventfd: {error}"));
            slice = Instant::now();
        }
        if progress {
            idle = 0;
            continue;
        }
        let timeout = shard.next_deadline();
        if idle < SPINS {
            idle += 1;
            shard.bell.announce_sleep();
            if !shard.has_input() {
                shard.ring.wait(timeout.min(SPIN)).unwrap_or_else(|error| panic!("shard's ring: {error}"));
            }
        } else {
            shard.bell.announce_park();
            if !shard.has_input() {
                park(&mut shard, &sleeper, timeout).await;
                slice = Instant::now();
            }
        }
        shard.bell.awake();
    }
    shard.finish();
}

/// Sleeps in the executor until the ring completes something.
async fn park(shard: &mut Shard, sleeper: &Sleeper, timeout: Duration) {
    shard.ring.arm_timeout(timeout);
    shard.ring.set_parked(true);
    shard.flush();
    if !shard.ring.has_events() {
        sleeper.sleep().await.unwrap_or_else(|error| panic!("shard's eventfd: {error}"));
    }
    shard.ring.set_parked(false);
    shard.flush();
}

impl Shard {
    fn flush(&mut self) {
        self.ring.flush().unwrap_or_else(|error| panic!("shard's ring: {error}"));
    }

    /// Whether another thread or task has left something for us.
    fn has_input(&self) -> bool {
        !self.inbox.is_empty() || self.storage.has_completions() || !self.announced.is_empty()
    }

    /// One turn; returns whether anything happened.
    pub(crate) fn turn(&mut self) -> bool {
        self.now = Instant::now();
        let mut progress = self.take_messages();
        progress |= self.take_storage();
        progress |= self.take_announces();
        self.ring.run_utp_timers(self.now);
        self.start_races();
        self.flush();
        while let Some(event) = self.ring.next_event() {
            progress = true;
            self.on_ring_event(event);
        }
        let now = self.now;
        let is_due = |at: Instant| at <= now;
        if self.next_tick().is_some_and(is_due) {
            self.tick();
        }
        self.gather_due();
        if self.next_report().is_some_and(is_due) {
            self.send_statuses();
        }
        if self.behind_until.is_some_and(|until| until <= self.now) {
            self.end_backlog_waits(true);
        }
        progress |= self.settle();
        self.hash_gathered();
        progress
    }

    /// Lets torrents and connections react until none has anything left to do.
    fn settle(&mut self) -> bool {
        self.release_throttled();
        let mut progress = false;
        while !self.touched.is_empty() || !self.work.is_empty() {
            progress = true;
            for home in std::mem::take(&mut self.touched) {
                self.settle_home(home);
            }
            let mut work = std::mem::take(&mut self.work);
            for socket in work.drain(..) {
                self.serve(socket);
            }
            if self.work.is_empty() {
                self.work = work;
            }
        }
        progress
    }

    fn take_messages(&mut self) -> bool {
        let mut any = false;
        self.empty_outbox();
        while let Ok(message) = self.inbox.try_recv() {
            any = true;
            self.on_message(message);
        }
        any
    }

    /// When something must happen even if nothing arrives.
    fn next_deadline(&self) -> Duration {
        let due = [
            self.next_tick(),
            self.next_report(),
            self.timers.gathers.next(),
            self.timers.races.next(),
            self.ring.utp_deadline(),
            self.stopping,
            self.limits.due,
            self.gathered.due(),
            self.behind_until,
        ];
        let first = due.into_iter().flatten().min();
        let mut wait = first.map_or(REST, |at| at.saturating_duration_since(self.now));
        if self.has_outbox() {
            wait = wait.min(SPIN);
        }
        wait.max(Duration::from_micros(50))
    }

    /// Whether a shutdown is complete.
    fn is_done(&self) -> bool {
        self.stopping.is_some_and(|deadline| {
            self.homes.is_empty() && self.fetchers.is_empty() && !self.has_outbox() || self.now >= deadline
        })
    }

    fn finish(self) {
        let index = self.config.index;
        let control = self.control.clone();
        let _ = control.send(crate::messages::FromShard::Cache(index, self.cache.stats()));
        let _ = control.send(crate::messages::FromShard::Work(index, Box::new(self.stats_now())));
        self.ring.log_zero_copy();
        // The ring waits here for what is in flight; only then the memory goes.
        drop(self);
        let _ = control.send(crate::messages::FromShard::Stopped { shard: index });
    }
}

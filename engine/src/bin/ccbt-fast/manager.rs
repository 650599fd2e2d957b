//! Tells the service manager how the daemon does (sd_notify(3)).
//!
//! Owner: [`crate::daemon`], which calls [`Manager::turn`] ten times a second. Invariant: `WATCHDOG=1` is sent only after
//! every shard has answered since the last one, so a daemon with a shard that hangs is started anew. Without a service
//! manager nothing is sent and no shard is asked.

use std::time::{Duration, Instant};

use ccbt_fast::daemon::Daemon;
use crossbeam_channel::Receiver;
use sd_notify::NotifyState;

/// Between two looks at what there is to tell.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);

/// See the module.
pub struct Manager {
    watchdog: Option<Watchdog>,
    status: String,
    status_at: Instant,
}

fn tell(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}

impl Manager {
    /// As the environment says.
    pub fn new(now: Instant) -> Self {
        let watchdog = sd_notify::watchdog_enabled().map(|patience| Watchdog::new(patience, now));
        Self { watchdog, status: String::new(), status_at: now }
    }

    /// Clients are heard, or the configuration was read again.
    pub fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// The configuration is being read.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// It ends.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// What is due.
    pub fn turn(&mut self, now: Instant, daemon: &Daemon) {
        if now >= self.status_at {
            self.status_at = now + STATUS_INTERVAL;
            let status = format!("{} torrents, port {}", daemon.torrents(), daemon.port());
            if status != self.status {
                tell(&[NotifyState::Status(&status)]);
                self.status = status;
            }
        }
        if let Some(watchdog) = &mut self.watchdog
            && watchdog.turn(now, daemon.shards(), || daemon.ping())
        {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// When shards are asked, and whether all have answered. Pure but for the channel.
struct Watchdog {
    /// Between two questions: a third of the manager's patience.
    interval: Duration,
    due: Instant,
    /// Answers that come, and how many are missing.
    asked: Option<(Receiver<()>, usize)>,
}

impl Watchdog {
    fn new(patience: Duration, now: Instant) -> Self {
        Self { interval: patience / 3, due: now, asked: None }
    }

    /// Whether all shards have answered just now. Nobody is asked again before they have.
    fn turn(&mut self, now: Instant, shards: usize, ping: impl FnOnce() -> Receiver<()>) -> bool {
        if self.asked.is_none() && now >= self.due {
            self.due = now + self.interval;
            self.asked = Some((ping(), shards));
        }
        let Some((answers, missing)) = &mut self.asked else { return false };
        *missing = missing.saturating_sub(answers.try_iter().count());
        let all = *missing == 0;
        if all {
            self.asked = None;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    #[test]
    fn a_shard_that_hangs_silences_the_watchdog() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watchdog = Watchdog::new(Duration::from_secs(30), start);
        let never = || -> Receiver<()> { panic!("nobody is to be asked") };
        let (first, answers) = bounded(2);
        assert!(!watchdog.turn(at(0), 2, || answers), "asked, and not answered yet");
        first.send(()).expect("it is there");
        assert!(!watchdog.turn(at(1), 2, never), "one of two");
        first.send(()).expect("it is there");
        assert!(watchdog.turn(at(2), 2, never));
        assert!(!watchdog.turn(at(9), 2, never), "once for each question, and not before it is due");
        let (second, answers) = bounded(2);
        second.send(()).expect("it is there");
        assert!(!watchdog.turn(at(10), 2, || answers));
        for seconds in [20, 40, 1000] {
            assert!(!watchdog.turn(at(seconds), 2, never), "the other one hangs");
        }
        second.send(()).expect("it is there");
        assert!(watchdog.turn(at(1001), 2, never), "it goes on");
    }
}

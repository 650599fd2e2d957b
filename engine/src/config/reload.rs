//! Reads a configuration again while something runs with it.
//!
//! Role: says when files or the wall clock may have brought something new, for a download and for the daemon. Owner: the
//! loop that runs them, which asks a few times a second. Invariant: a configuration that is wrong is not given out.

use std::io;
use std::time::{Duration, Instant};

use jiff::Zoned;

use super::{Change, Config, ConfigError, Limits, Sources, Watcher, diff};

/// How often the schedule is looked at.
const SCHEDULE_EVERY: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Reload {
    sources: Sources,
    watcher: Option<Watcher>,
    scheduled: Instant,
}

impl Reload {
    /// Of a configuration that was read from `sources` while `watcher` was there. Without one, only who asks is told.
    pub fn new(sources: Sources, watcher: io::Result<Watcher>) -> Self {
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!("changed configuration files are noticed on SIGHUP only: {error}");
        });
        Self { sources, watcher: watcher.ok(), scheduled: Instant::now() }
    }

    /// The configuration in the place of `before`, and what is new in it: when a file has changed, or it was `asked` for.
    /// Errors: what is wrong with it.
    pub fn poll(
        &mut self,
        now: Instant,
        asked: bool,
        before: &Config,
    ) -> Option<Result<(Config, Vec<Change>), ConfigError>> {
        let changed = self.watcher.as_mut().is_some_and(|watcher| watcher.has_changed(now));
        let read = || self.sources.load().map(|config| (diff(before, &config), config));
        (asked || changed).then(read).map(|read| read.map(|(changes, config)| (config, changes)))
    }

    /// Whether it is time to look at the schedule of limits.
    pub fn is_schedule_due(&mut self, now: Instant) -> bool {
        let due = now.saturating_duration_since(self.scheduled) >= SCHEDULE_EVERY;
        if due {
            self.scheduled = now;
        }
        due
    }
}

impl Config {
    /// The limits of all torrents together at this moment, by the local wall clock.
    pub fn limits_now(&self) -> Limits {
        self.limits_at(Zoned::now().datetime())
    }
}

//! Takes a changed configuration while the daemon runs, and keeps the limits that the schedule wants.
//!
//! Owner: [`super::core`]. Invariant: a configuration that is wrong changes nothing, and every reason is told.

use std::io;
use std::time::{Duration, Instant};

use jiff::Zoned;
use tracing::level_filters::LevelFilter;

use super::core::Core;
use super::settings::DaemonSettings;
use super::torrent::Rules;
use super::watch::WatchFolder;
use crate::config::{Change, Config, Limits, Sources, Watcher, diff};

/// How often the schedule is looked at.
const SCHEDULE_EVERY: Duration = Duration::from_secs(1);

/// Something that whoever runs the daemon may tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A value of the configuration has changed.
    Changed(Change),
    /// The configuration is wrong, so that all stays as it was.
    Wrong(String),
    /// It was to be read again, and is the same.
    Same,
    /// So much is to be logged from now on.
    LogLevel(LevelFilter),
}

/// See the module.
pub(super) struct Reloader {
    sources: Sources,
    watcher: Option<Watcher>,
    daemon: DaemonSettings,
    /// What the session has.
    limits: Limits,
    scheduled: Instant,
}

impl Reloader {
    /// For a session that has the limits, and a configuration that was read from `sources` while `watcher` was there.
    pub fn new(
        sources: Sources,
        watcher: io::Result<Watcher>,
        daemon: DaemonSettings,
        limits: Limits,
    ) -> Self {
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!("changed configuration files are noticed on SIGHUP only: {error}");
        });
        Self { sources, watcher: watcher.ok(), daemon, limits, scheduled: Instant::now() }
    }

    /// The section `[daemon]` that counts.
    pub fn daemon(&self) -> &DaemonSettings {
        &self.daemon
    }

    /// The limits of all torrents together that count.
    pub fn limits(&self) -> Limits {
        self.limits
    }
}

/// The limits of all torrents together at this moment, by the local wall clock.
pub fn limits_now(config: &Config) -> Limits {
    config.limits_at(Zoned::now().datetime())
}

impl Core {
    /// Called a few times a second; `asked` by SIGHUP.
    pub fn reload(&mut self, asked: bool) -> Vec<Notice> {
        let now = Instant::now();
        let mut notices = Vec::new();
        let changed = self.reloader.watcher.as_mut().is_some_and(|watcher| watcher.has_changed(now));
        if asked || changed {
            notices = self.read_again(asked);
        }
        if now.saturating_duration_since(self.reloader.scheduled) >= SCHEDULE_EVERY {
            self.reloader.scheduled = now;
            self.apply_limits();
        }
        notices
    }

    fn read_again(&mut self, asked: bool) -> Vec<Notice> {
        let config = match self.reloader.sources.load() {
            Ok(config) => config,
            Err(error) => {
                return error.problems.iter().map(|problem| Notice::Wrong(problem.to_string())).collect();
            }
        };
        let changes = diff(&self.config, &config);
        let mut notices: Vec<Notice> = changes.iter().cloned().map(Notice::Changed).collect();
        if asked && changes.is_empty() {
            notices.push(Notice::Same);
        }
        self.config = config;
        let effect = self.config.effect(None);
        notices.push(Notice::LogLevel(effect.log_level));
        // What needs a restart is not used by then.
        self.reloader.daemon = effect.daemon;
        let watch_dir = self.reloader.daemon.watch_dir.as_deref();
        if self.watch.as_ref().map(WatchFolder::dir) != watch_dir {
            self.watch = watch_dir.map(WatchFolder::new);
        }
        for (hash, torrent) in &mut self.torrents {
            let effect = self.config.effect(Some((hash, &torrent.handle.metainfo().name)));
            torrent.rules = Rules::of(&effect);
            // A session that is gone is noticed by its end.
            let _ = torrent.handle.set_limits(torrent.rules.limits(&torrent.record.limits));
        }
        self.apply_limits();
        self.undecided = true;
        notices
    }

    /// Gives the session the limits that count now.
    pub fn apply_limits(&mut self) {
        let scheduled = limits_now(&self.config);
        let (down, up) = self.own_limits;
        let limits = Limits { down: down.unwrap_or(scheduled.down), up: up.unwrap_or(scheduled.up) };
        if limits != self.reloader.limits {
            tracing::info!("limits are now {} and {} bytes/s, 0 = none", limits.down, limits.up);
            self.session.set_limits(limits.down, limits.up);
            self.reloader.limits = limits;
        }
    }
}

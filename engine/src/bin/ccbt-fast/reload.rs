//! Takes a changed configuration while a session runs.
//!
//! Role: notices changed files and SIGHUP, tells what the session takes and what needs a restart, and keeps the limits that
//! the schedule wants. Owner: [`crate::transfer`], which asks at every turn of its loop. Invariant: a configuration that
//! is wrong changes nothing, and every reason is told.

use std::io;
use std::time::{Duration, Instant};

use ccbt_fast::config::{Applies, Config, Limits, Sources, Watcher, diff};
use ccbt_fast::{Session, TorrentHandle};
use jiff::Zoned;

use crate::console::Console;
use crate::lines::Line;
use crate::logging::Log;
use ccbt_fast::Goal;

/// How often the schedule is looked at.
const SCHEDULE_EVERY: Duration = Duration::from_secs(1);

/// See the module.
pub struct Reloader {
    sources: Sources,
    config: Config,
    watcher: Option<Watcher>,
    log: Log,
    torrent: TorrentHandle,
    /// What the session has.
    limits: Limits,
    scheduled: Instant,
}

impl Reloader {
    /// For a session that has the limits and runs the torrent, with `config`, which was read from `sources` while `watcher`
    /// was there.
    pub fn new(
        sources: Sources,
        watcher: io::Result<Watcher>,
        config: Config,
        (torrent, limits): (TorrentHandle, Limits),
        log: Log,
    ) -> Self {
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!("changed configuration files are noticed on SIGHUP only: {error}");
        });
        Self { sources, config, watcher: watcher.ok(), log, torrent, limits, scheduled: Instant::now() }
    }

    /// Called ten times a second; `asked` by SIGHUP. Gives the new goal of seeding when the configuration was read again.
    pub fn turn(
        &mut self,
        now: Instant,
        asked: bool,
        session: &Session,
        console: &mut Console,
    ) -> Option<Goal> {
        let has_changed = self.watcher.as_mut().is_some_and(|watcher| watcher.has_changed(now));
        let goal = if asked || has_changed { self.reload(asked, session, console) } else { None };
        if goal.is_some() || now.saturating_duration_since(self.scheduled) >= SCHEDULE_EVERY {
            self.scheduled = now;
            let limits = limits_now(&self.config);
            if limits != self.limits {
                tracing::info!("limits are now {} and {} bytes/s, 0 = none", limits.down, limits.up);
                session.set_limits(limits.down, limits.up);
                self.limits = limits;
            }
        }
        goal
    }

    fn reload(&mut self, asked: bool, session: &Session, console: &mut Console) -> Option<Goal> {
        let config = match self.sources.load() {
            Ok(config) => config,
            Err(error) => {
                for problem in &error.problems {
                    let message = problem.to_string();
                    tracing::info!("the configuration stays as it was: {message}");
                    console.line(&Line::ConfigError { message: &message });
                }
                return None;
            }
        };
        let changes = diff(&self.config, &config);
        for change in &changes {
            let needs_restart = change.applies == Applies::Restart;
            let (key, from, to) = (&change.key, &change.from, &change.to);
            console.line(&Line::Config { key, from, to, needs_restart });
        }
        if asked && changes.is_empty() {
            console.line(&Line::Note { message: "the configuration has not changed" });
        }
        self.config = config;
        let metainfo = self.torrent.metainfo();
        let effect = self.config.effect(Some((&metainfo.info_hash, &metainfo.name)));
        self.log.set_level(effect.log_level);
        session.set_checkpoints(effect.settings.checkpoints);
        if let Some(limits) = effect.torrent.limits {
            // A shard that is gone is noticed by its silence.
            let _ = self.torrent.set_limits(limits);
        }
        Some(Goal { time: effect.seed_time, ratio: effect.seed_ratio })
    }
}

/// The limits of all torrents together at this moment, by the local wall clock.
pub fn limits_now(config: &Config) -> Limits {
    config.limits_at(Zoned::now().datetime())
}

//! Takes a changed configuration while a session runs.
//!
//! Role: notices changed files and SIGHUP, tells what the session takes and what needs a restart, and keeps the limits that
//! the schedule wants. Owner: [`crate::transfer`], which asks at every turn of its loop. Invariant: a configuration that
//! is wrong changes nothing, and every reason is told.

use std::time::Instant;

use ccbt_fast::config::{Applies, Change, Config, Limits, Reload};
use ccbt_fast::ipfilter::{FilterKeeper, FilterSettings};
use ccbt_fast::mapping::MappingStatus;
use ccbt_fast::{Goal, Session, TorrentHandle};

use crate::console::Console;
use crate::lines::Line;
use crate::logging::Log;

/// See the module.
pub struct Reloader {
    reload: Reload,
    config: Config,
    log: Log,
    torrent: TorrentHandle,
    /// What the session has.
    limits: Limits,
    filter: FilterKeeper,
    filter_settings: FilterSettings,
    /// What was told of it.
    mapping: MappingStatus,
}

impl Reloader {
    /// For a session that has the limits and runs the torrent with `config`.
    pub fn new(
        reload: Reload,
        config: Config,
        (torrent, limits): (TorrentHandle, Limits),
        filter_settings: FilterSettings,
        log: Log,
    ) -> Self {
        let filter = FilterKeeper::new(filter_settings.clone());
        Self { reload, config, log, torrent, limits, filter, filter_settings, mapping: MappingStatus::Off }
    }

    /// Called ten times a second; `asked` by SIGHUP. Gives the new goal of seeding when the configuration was read again.
    pub fn turn(
        &mut self,
        now: Instant,
        asked: bool,
        session: &Session,
        console: &mut Console,
    ) -> Option<Goal> {
        let goal = match self.reload.poll(now, asked, &self.config) {
            None => None,
            Some(Ok((config, changes))) => Some(self.take(config, &changes, asked, session, console)),
            Some(Err(error)) => {
                for problem in &error.problems {
                    let message = problem.to_string();
                    tracing::info!("the configuration stays as it was: {message}");
                    console.line(&Line::ConfigError { message: &message });
                }
                None
            }
        };
        if asked {
            self.filter.reload();
        }
        let mapping = session.port_mapping();
        if mapping != self.mapping {
            console.line(&Line::Note { message: &mapping.to_string() });
            self.mapping = mapping;
        }
        match self.filter.poll(now, &self.filter_settings, session) {
            None => {}
            Some(Ok(Some(report))) => console.line(&Line::Note { message: &report.to_string() }),
            Some(Ok(None)) => console.line(&Line::Note { message: "there is no IP filter any more" }),
            Some(Err(error)) => console.line(&Line::ConfigError { message: &error.to_string() }),
        }
        if self.reload.is_schedule_due(now) || goal.is_some() {
            let limits = self.config.limits_now();
            if limits != self.limits {
                tracing::info!("limits are now {} and {} bytes/s, 0 = none", limits.down, limits.up);
                session.set_limits(limits.down, limits.up);
                self.limits = limits;
            }
        }
        goal
    }

    fn take(
        &mut self,
        config: Config,
        changes: &[Change],
        asked: bool,
        session: &Session,
        console: &mut Console,
    ) -> Goal {
        for change in changes {
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
        self.log.set(&effect.log);
        self.filter_settings = effect.ip_filter;
        session.set_checkpoints(effect.settings.checkpoints);
        if let Some(limits) = effect.torrent.limits {
            // A shard that is gone is noticed by its silence.
            let _ = self.torrent.set_limits(limits);
        }
        Goal { time: effect.seed_time, ratio: effect.seed_ratio }
    }
}

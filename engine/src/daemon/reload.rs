//! Takes a changed configuration while the daemon runs, and keeps the limits that the schedule wants.
//!
//! Owner: [`super::core`]. Invariant: a configuration that is wrong changes nothing, and every reason is told.

use std::time::Instant;

use super::core::Core;
use super::settings::DaemonSettings;
use super::torrent::Rules;
use super::watch::WatchFolder;
use crate::config::{Change, Config, Limits, LogSettings, Reload};

/// Something that whoever runs the daemon may tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A value of the configuration has changed.
    Changed(Change),
    /// The configuration is wrong, so that all stays as it was.
    Wrong(String),
    /// It was to be read again, and is the same.
    Same,
    /// Another IP filter counts, or none.
    Filter(String),
    /// This is to be logged from now on.
    Log(LogSettings),
}

/// See the module.
pub(super) struct Reloader {
    reload: Reload,
    daemon: DaemonSettings,
    /// What the session has.
    limits: Limits,
}

impl Reloader {
    /// For a session that has the limits.
    pub fn new(reload: Reload, daemon: DaemonSettings, limits: Limits) -> Self {
        Self { reload, daemon, limits }
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

impl Core {
    /// Called a few times a second; `asked` by SIGHUP.
    pub fn reload(&mut self, asked: bool) -> Vec<Notice> {
        let now = Instant::now();
        if asked {
            self.filtering.keeper.reload();
        }
        let mut notices = match self.reloader.reload.poll(now, asked, &self.config) {
            None => Vec::new(),
            Some(Ok((config, changes))) => self.take(config, changes, asked),
            Some(Err(error)) => {
                error.problems.iter().map(|problem| Notice::Wrong(problem.to_string())).collect()
            }
        };
        if self.reloader.reload.is_schedule_due(now) {
            self.apply_limits();
        }
        notices.append(&mut self.filtering.notices);
        notices
    }

    fn take(&mut self, config: Config, changes: Vec<Change>, asked: bool) -> Vec<Notice> {
        let same = asked && changes.is_empty();
        let mut notices: Vec<Notice> = changes.into_iter().map(Notice::Changed).collect();
        if same {
            notices.push(Notice::Same);
        }
        self.config = config;
        let effect = self.config.effect(None);
        notices.push(Notice::Log(effect.log));
        // What needs a restart is not used by then.
        self.filtering.settings = effect.ip_filter;
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
        let scheduled = self.config.limits_now();
        let (down, up) = self.own_limits;
        let limits = Limits { down: down.unwrap_or(scheduled.down), up: up.unwrap_or(scheduled.up) };
        if limits != self.reloader.limits {
            tracing::info!("limits are now {} and {} bytes/s, 0 = none", limits.down, limits.up);
            self.session.set_limits(limits.down, limits.up);
            self.reloader.limits = limits;
        }
    }
}

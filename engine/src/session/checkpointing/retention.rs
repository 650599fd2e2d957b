//! Removing checkpoints that nobody needs any more.
//!
//! Role: goes through the folder when the session has written its first checkpoint, and every six hours after that, a part
//! at a time so that checkpoints of running torrents are not late. Owner: the checkpoint thread. Invariant: nothing of
//! a torrent that runs is removed. Those of this session are known; others are told by their time, which a session renews
//! at each sweep, so one that rests for months is not old.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use ccbt_protocol::ids::InfoHash;

use super::Writer;
use crate::checkpoints::{CheckpointSettings, Retention};

/// Time between two sweeps: less than the shortest retention, which is a day.
const EVERY: Duration = Duration::from_secs(6 * 3600);
/// Torrents looked at in one part.
const PART: usize = 256;
/// Time between two parts.
const PAUSE: Duration = Duration::from_millis(250);

/// How far a sweep is.
#[derive(Debug, Default)]
pub(super) struct Cleaning {
    /// When the next part is due; `None`: nothing has been written yet.
    due: Option<Instant>,
    /// What the sweep has not looked at yet; `None`: the next part is the first one.
    left: Option<BTreeSet<InfoHash>>,
}

impl Cleaning {
    pub(super) fn due(&self) -> Instant {
        self.due.unwrap_or_else(|| Instant::now() + EVERY)
    }

    /// A checkpoint was written: the first sweep may begin.
    pub(super) fn begin(&mut self) {
        self.due.get_or_insert_with(Instant::now);
    }

    /// Sweeps anew soon, if ever it did.
    fn again(&mut self) {
        if self.due.is_some() {
            *self = Self { due: Some(Instant::now()), left: None };
        }
    }
}

impl Writer {
    pub(super) fn set(&mut self, settings: CheckpointSettings) {
        if retention(&settings) != retention(&self.settings) {
            self.cleaning.again();
        }
        self.settings = settings;
    }

    /// Does the next part of a sweep, if it is due.
    pub(super) fn clean(&mut self) {
        let now = Instant::now();
        if self.cleaning.due.is_none_or(|due| due > now) {
            return;
        }
        match self.clean_part() {
            Ok(true) => self.cleaning.due = Some(Instant::now() + PAUSE),
            Ok(false) => self.cleaning = Cleaning { due: Some(now + EVERY), left: None },
            Err(error) => {
                tracing::warn!("old checkpoints cannot be removed: {error}");
                self.cleaning = Cleaning { due: Some(now + EVERY), left: None };
            }
        }
    }

    /// Whether there is more to do.
    fn clean_part(&mut self) -> io::Result<bool> {
        let retention = retention(&self.settings);
        let running: BTreeSet<_> = self.torrents.values().map(|torrent| torrent.shared.info_hash()).collect();
        let mut left = match self.cleaning.left.take() {
            Some(left) => left,
            None => {
                for info_hash in &running {
                    // Where that fails, writing fails too, and is told.
                    let _ = self.store.touch(*info_hash);
                }
                if retention == Retention::default() { BTreeSet::new() } else { self.store.hashes()? }
            }
        };
        let part: BTreeSet<_> = (0..PART).map_while(|_| left.pop_first()).collect();
        for info_hash in self.store.clean_some(retention, part.difference(&running))? {
            tracing::info!("removed the old checkpoint of {info_hash}");
        }
        let has_more = !left.is_empty();
        self.cleaning.left = has_more.then_some(left);
        Ok(has_more)
    }
}

fn retention(settings: &CheckpointSettings) -> Retention {
    Retention { older_than: settings.keep, completed: !settings.keep_completed }
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;

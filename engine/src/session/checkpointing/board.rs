//! What the control thread tells the checkpoint thread.
//!
//! Role: notes what is new of each torrent. Owner: written by the control thread and the session's user, taken by the
//! checkpoint thread. Invariant: nobody waits to write, and there are a few entries per torrent at most.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ccbt_protocol::ids::TorrentKey;
use ccbt_shards::messages::{Event, Snapshot};
use ccbt_storage::layout::LayoutSpec;

use crate::checkpoints::{CheckpointSettings, Source, Totals};
use crate::session::torrent::Shared;

/// Where a torrent comes from, and what it was before this run.
#[derive(Debug)]
pub(super) struct Origin {
    pub source: Source,
    pub added_at: i64,
    pub totals: Totals,
    pub peers: Vec<SocketAddr>,
    pub seed_only: bool,
    /// Where its files are, as far as its paths can be used.
    pub spec: Option<LayoutSpec>,
}

#[derive(Debug, Default)]
pub(super) struct News {
    /// Torrents that were added.
    pub added: Vec<(Arc<Shared>, Origin)>,
    /// Torrents with a new status.
    pub changed: HashSet<TorrentKey>,
    /// Torrents to which something happened that is worth a checkpoint at once.
    pub urgent: HashSet<TorrentKey>,
    /// Torrents whose files are closed.
    pub closed: Vec<(TorrentKey, Box<Snapshot>)>,
    /// Torrents whose files were removed.
    pub deleted: Vec<TorrentKey>,
    /// Torrents that have left the session.
    pub removed: Vec<TorrentKey>,
    /// Other settings.
    pub settings: Option<CheckpointSettings>,
    pub ended: bool,
}

impl News {
    fn is_empty(&self) -> bool {
        let Self { added, changed, urgent, closed, deleted, removed, settings, ended } = self;
        let lists = added.is_empty() && closed.is_empty() && deleted.is_empty() && removed.is_empty();
        lists && changed.is_empty() && urgent.is_empty() && settings.is_none() && !ended
    }
}

/// What the control thread leaves for the checkpoint thread. Holds a few entries per torrent at most.
#[derive(Debug, Default)]
pub(in crate::session) struct Board {
    news: Mutex<News>,
    arrived: Condvar,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, News> {
        // Nothing between lock and unlock leaves the news half written.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, write: impl FnOnce(&mut News)) {
        write(&mut self.lock());
        self.arrived.notify_one();
    }

    /// A torrent has told a status.
    pub(in crate::session) fn changed(&self, key: TorrentKey) {
        let mut news = self.lock();
        // One that is awake, or about to be, looks by itself.
        let is_first = news.changed.is_empty();
        news.changed.insert(key);
        drop(news);
        if is_first {
            self.arrived.notify_one();
        }
    }

    /// Something happened to a torrent.
    pub(in crate::session) fn happened(&self, key: TorrentKey, event: &Event) {
        match event {
            Event::Finished | Event::Selected | Event::Moved { .. } | Event::Renamed { .. } => {
                self.put(|news| {
                    news.urgent.insert(key);
                });
            }
            Event::Deleted { .. } => self.put(|news| news.deleted.push(key)),
            Event::Removed => self.put(|news| news.removed.push(key)),
            _ => {}
        }
    }

    /// A torrent's files are closed.
    pub(in crate::session) fn closed(&self, key: TorrentKey, snapshot: Box<Snapshot>) {
        self.put(|news| news.closed.push((key, snapshot)));
    }

    /// Takes what is there; waits for it until `deadline` at most. With a `pause`, whatever is not pressing waits that long
    /// too: statuses come all the time.
    pub(super) fn wait(&self, pause: Option<Duration>, deadline: Instant) -> News {
        let until = pause.map_or(deadline, |pause| deadline.min(Instant::now() + pause));
        let mut news = self.lock();
        while !is_pressing(&news) && (pause.is_some() || news.is_empty()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.arrived.wait_timeout(news, left);
            news = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::take(&mut news)
    }
}

/// Whether somebody may wait for it.
fn is_pressing(news: &News) -> bool {
    news.ended
        || news.settings.is_some()
        || !news.urgent.is_empty()
        || !news.closed.is_empty()
        || !news.deleted.is_empty()
}

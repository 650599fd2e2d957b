//! The control thread: takes what shards tell, keeps the newest status of each torrent, and passes events on.
//!
//! Owner: [`super::Session`] starts it and waits for its end. Invariant: it never waits for anybody but the
//! shards, so the queue they tell into is emptied steadily; and when it ends, every torrent has an outcome
//! and every subscriber is closed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ccbt_protocol::ids::{InfoHash, TorrentKey};
use ccbt_protocol::magnet::Magnet;
use ccbt_protocol::metainfo::Metainfo;
use ccbt_protocol::torrent::Stats;
use ccbt_shards::messages::{CacheStats, Event, FromShard, ShardStats, TorrentStatus};
use crossbeam_channel::Receiver;

use super::checkpointing::Board;
use super::error::AddError;
use super::events::{Queue, SessionEvent};
use super::magnet::SharedMagnet;
use super::torrent::Shared;
use crate::metrics::Picture;

#[derive(Debug, Default)]
struct Inner {
    torrents: HashMap<TorrentKey, Arc<Shared>>,
    /// Those whose torrent was not added yet.
    magnets: HashMap<TorrentKey, Arc<SharedMagnet>>,
    by_hash: HashMap<InfoHash, TorrentKey>,
    subscribers: Vec<Weak<Queue>>,
    /// By number of shard.
    caches: BTreeMap<usize, CacheStats>,
    /// By number of shard.
    shards: BTreeMap<usize, ShardStats>,
    /// What removed torrents did.
    past: Stats,
    next_key: u32,
    stopping: bool,
    ended: bool,
}

impl Inner {
    fn new_key(&mut self) -> TorrentKey {
        let key = TorrentKey(self.next_key);
        self.next_key = self.next_key.checked_add(1).expect("fewer than 2^32 torrents in one process");
        key
    }
}

/// Torrents and subscribers of a session, shared by its thread and its user.
#[derive(Debug, Default)]
pub(super) struct Registry {
    inner: Mutex<Inner>,
    /// Where the checkpoint thread learns what happened; `None`: no checkpoints are kept.
    board: Option<Arc<Board>>,
}

impl Registry {
    /// One whose torrents are told to the checkpoint thread.
    pub(super) fn with_board(board: Option<Arc<Board>>) -> Self {
        Self { board, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a torrent its key. It counts as running from here on.
    pub(super) fn register(&self, metainfo: Arc<Metainfo>) -> Result<Arc<Shared>, AddError> {
        let mut inner = self.lock();
        if inner.ended || inner.stopping {
            return Err(AddError::Ended);
        }
        let hash = metainfo.info_hash;
        // A torrent goes on where its magnet is, unless that is on its way out.
        let key = match inner.by_hash.get(&hash).copied() {
            Some(key) if inner.magnets.get(&key).is_some_and(|magnet| !magnet.is_leaving()) => {
                let magnet = inner.magnets.remove(&key).expect("seen just now");
                magnet.end(Ok(Arc::clone(&metainfo)));
                key
            }
            Some(_) => return Err(AddError::Duplicate(hash)),
            None => inner.new_key(),
        };
        let shared = Arc::new(Shared::new(key, metainfo));
        inner.torrents.insert(key, Arc::clone(&shared));
        inner.by_hash.insert(hash, key);
        Ok(shared)
    }

    /// Gives a magnet its key, which is its torrent's, too.
    pub(super) fn register_magnet(&self, magnet: Magnet) -> Result<Arc<SharedMagnet>, AddError> {
        let mut inner = self.lock();
        if inner.ended || inner.stopping {
            return Err(AddError::Ended);
        }
        let hash = magnet.info_hash;
        if inner.by_hash.contains_key(&hash) {
            return Err(AddError::Duplicate(hash));
        }
        let key = inner.new_key();
        let shared = Arc::new(SharedMagnet::new(key, magnet));
        inner.magnets.insert(key, Arc::clone(&shared));
        inner.by_hash.insert(hash, key);
        Ok(shared)
    }

    /// Whether this is a magnet whose torrent was not added yet.
    pub(super) fn is_magnet(&self, key: TorrentKey) -> bool {
        self.lock().magnets.contains_key(&key)
    }

    fn magnet(&self, key: TorrentKey) -> Option<Arc<SharedMagnet>> {
        self.lock().magnets.get(&key).cloned()
    }

    pub(super) fn torrents(&self) -> Vec<Arc<Shared>> {
        self.lock().torrents.values().cloned().collect()
    }

    /// How the shards' read caches do, in the shards' order.
    pub(super) fn caches(&self) -> Vec<CacheStats> {
        self.lock().caches.values().copied().collect()
    }

    /// What the shards have done, in their order.
    pub(super) fn shards(&self) -> Vec<ShardStats> {
        self.lock().shards.values().copied().collect()
    }

    /// All that metrics need of it, as of one moment: no torrent is both removed and still there.
    pub(super) fn picture(&self) -> Picture {
        let inner = self.lock();
        let told = |shared: &Arc<Shared>| Some((Arc::clone(shared.metainfo()), shared.status()?));
        Picture {
            torrents: inner.torrents.values().filter_map(told).collect(),
            past: inner.past,
            shards: inner.shards.clone(),
            caches: inner.caches.clone(),
            ..Picture::default()
        }
    }

    /// A new subscriber; closed at once when the session has ended.
    pub(super) fn subscribe(&self) -> Arc<Queue> {
        let queue = Arc::new(Queue::default());
        let mut inner = self.lock();
        inner.subscribers.retain(|old| old.strong_count() > 0);
        if inner.ended {
            queue.close();
        } else {
            inner.subscribers.push(Arc::downgrade(&queue));
        }
        queue
    }

    /// Shards are asked to stop: their end is no surprise any more, and nothing is added.
    pub(super) fn set_stopping(&self) {
        self.lock().stopping = true;
    }

    fn subscribers(&self) -> Vec<Arc<Queue>> {
        self.lock().subscribers.iter().filter_map(Weak::upgrade).collect()
    }

    fn torrent(&self, key: TorrentKey) -> Option<Arc<Shared>> {
        self.lock().torrents.get(&key).cloned()
    }

    fn handle(&self, message: FromShard) {
        let event = match message {
            FromShard::Status(status) => {
                let status: Arc<TorrentStatus> = Arc::from(status);
                if let Some(torrent) = self.torrent(status.key) {
                    torrent.set_status(Arc::clone(&status));
                }
                if let Some(board) = &self.board {
                    board.changed(status.key);
                }
                SessionEvent::Status(status)
            }
            FromShard::Event(key, event) => {
                if let Some(torrent) = self.torrent(key) {
                    torrent.apply(&event);
                } else if let Some(magnet) = self.magnet(key) {
                    magnet.apply(&event);
                }
                if let Some(board) = &self.board {
                    board.happened(key, &event);
                }
                if event == Event::Removed {
                    self.forget(key);
                }
                SessionEvent::Torrent(key, event)
            }
            FromShard::Metadata(key, info) => match self.magnet(key) {
                // Parsing takes a millisecond, and for the largest of 32 MiB less than a second.
                Some(magnet) => SessionEvent::Torrent(key, magnet.complete(&info)),
                None => return,
            },
            FromShard::Cache(shard, stats) => {
                self.lock().caches.insert(shard, stats);
                return;
            }
            FromShard::Closed(key, snapshot) => {
                if let Some(board) = &self.board {
                    board.closed(key, snapshot);
                }
                return;
            }
            FromShard::Work(shard, stats) => {
                self.lock().shards.insert(shard, *stats);
                return;
            }
            FromShard::Stopped { .. } => return,
        };
        self.publish(&event);
    }

    /// Tells all subscribers.
    pub(super) fn publish(&self, event: &SessionEvent) {
        for queue in self.subscribers() {
            queue.push(event.clone());
        }
    }

    fn forget(&self, key: TorrentKey) {
        let mut inner = self.lock();
        if let Some(torrent) = inner.torrents.remove(&key) {
            inner.by_hash.remove(&torrent.info_hash());
            inner.past += torrent.status().map(|status| status.stats).unwrap_or_default();
        }
        if let Some(magnet) = inner.magnets.remove(&key) {
            inner.by_hash.remove(&magnet.info_hash());
        }
    }

    /// Nothing comes from the shards any more.
    fn end(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        let lost = !inner.stopping;
        inner.by_hash.clear();
        let torrents = std::mem::take(&mut inner.torrents);
        let magnets = std::mem::take(&mut inner.magnets);
        let subscribers = std::mem::take(&mut inner.subscribers);
        drop(inner);
        for torrent in torrents.into_values() {
            torrent.apply(&Event::Removed);
        }
        magnets.into_values().for_each(|magnet| magnet.apply(&Event::Removed));
        for queue in subscribers.iter().filter_map(Weak::upgrade) {
            if lost {
                queue.push(SessionEvent::EngineLost);
            }
            queue.close();
        }
    }
}

/// The thread's body: ends when all `shards` have stopped or are gone.
pub(super) fn run(registry: &Registry, from_shards: &Receiver<FromShard>, shards: usize) {
    let mut stopped = 0;
    while stopped < shards {
        // Gone without a word: the shards' threads are dead.
        let Ok(message) = from_shards.recv() else { break };
        stopped += usize::from(matches!(message, FromShard::Stopped { .. }));
        registry.handle(message);
    }
    registry.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::error::WaitError;
    use crate::session::events::Events;
    use crate::session::torrent::TorrentHandle;
    use crate::testing;

    fn registry_with_torrent() -> (Registry, TorrentHandle) {
        let registry = Registry::default();
        let shared = registry.register(Arc::new(testing::metainfo("t", 100, 16384))).expect("new");
        (registry, TorrentHandle { shared })
    }

    fn names(events: Events) -> Vec<String> {
        let name = |event| match event {
            SessionEvent::Status(status) => format!("status {}", status.pieces_done),
            SessionEvent::Torrent(_, event) => format!("{event:?}"),
            other => format!("{other:?}"),
        };
        events.map(name).collect()
    }

    #[test]
    fn events_reach_handles_and_subscribers_until_all_shards_stop() {
        let (registry, torrent) = registry_with_torrent();
        let events = Events { queue: registry.subscribe() };
        let (tell, told) = crossbeam_channel::bounded(16);
        tell.send(FromShard::Status(Box::new(testing::status(torrent.key(), 1)))).unwrap();
        tell.send(FromShard::Event(torrent.key(), Event::Finished)).unwrap();
        tell.send(FromShard::Stopped { shard: 0 }).unwrap();
        tell.send(FromShard::Event(torrent.key(), Event::Note("late".into()))).unwrap();
        tell.send(FromShard::Stopped { shard: 1 }).unwrap();
        registry.set_stopping();
        run(&registry, &told, 2);
        assert_eq!(names(events), ["status 1", "Finished", "Note(\"late\")"]);
        assert_eq!(torrent.wait_finished(None), Ok(()));
        assert_eq!(torrent.status().expect("told").pieces_done, 1);
        assert!(names(Events { queue: registry.subscribe() }).is_empty(), "closed from the start");
    }

    #[test]
    fn dead_shards_are_noticed() {
        let (registry, torrent) = registry_with_torrent();
        let events = Events { queue: registry.subscribe() };
        let (tell, told) = crossbeam_channel::bounded(16);
        drop(tell);
        run(&registry, &told, 2);
        assert_eq!(names(events), ["EngineLost"]);
        assert_eq!(torrent.wait_finished(None), Err(WaitError::Removed));
        let again = registry.register(Arc::new(testing::metainfo("u", 100, 16384)));
        assert!(matches!(again, Err(AddError::Ended)));
    }

    #[test]
    fn a_torrent_is_there_once_and_its_key_is_never_reused() {
        let (registry, torrent) = registry_with_torrent();
        let metainfo = Arc::clone(torrent.metainfo());
        assert!(matches!(registry.register(Arc::clone(&metainfo)), Err(AddError::Duplicate(_))));
        registry.handle(FromShard::Event(torrent.key(), Event::Removed));
        let again = TorrentHandle { shared: registry.register(metainfo).expect("it was removed") };
        assert_ne!(again.key(), torrent.key());
        assert_eq!(registry.torrents().len(), 1);
    }
}

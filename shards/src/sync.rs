//! When written pieces are made durable, and what a sync that fails takes back.
//!
//! Role: written → synced, by one of three policies. Owner: the shard. Invariants: `durable` holds a piece only after a
//! `Sync` that covers its bytes succeeded (or it was read back from a file that has not changed for long); one sync of
//! a torrent at a time; a piece whose sync failed is missing again, and no other; `Finished` is told only after a
//! sync that covers every piece, unless nothing is ever synced. Under [`SyncPolicy::Piece`] a piece is told to peers
//! after its sync, under the others after `Written`.

use std::time::{Duration, Instant};

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::picker::PieceState;
use ccbt_protocol::torrent::Torrent;
use ccbt_storage::error::StorageError;
use ccbt_storage::messages::StorageCmd;

use crate::messages::{Event, FromShard};
use crate::shard::Shard;

/// When `fsync` is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SyncPolicy {
    /// At the end, and whenever [`SyncConfig::interval`] has passed or [`SyncConfig::bytes`] were written since.
    #[default]
    Checkpoint,
    /// After each batch of pieces, before peers hear of them.
    Piece,
    /// Never: a power cut may lose what the kernel had not written yet.
    None,
}

/// How far a power cut can set a download back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncConfig {
    /// When.
    pub policy: SyncPolicy,
    /// Under [`SyncPolicy::Checkpoint`]: time between syncs while pieces arrive.
    pub interval: Duration,
    /// Under [`SyncPolicy::Checkpoint`]: bytes between syncs.
    pub bytes: u64,
}

impl Default for SyncConfig {
    fn default() -> Self {
        Self { policy: SyncPolicy::default(), interval: Duration::from_secs(60), bytes: 4 << 30 }
    }
}

/// Which pieces are written, and which of them durable.
#[derive(Debug)]
pub(crate) struct Durability {
    /// Covered by a sync that succeeded, or found in files that are old.
    pub durable: Bitfield,
    /// Written, and not covered by a sync that succeeded or is under way.
    pub unsynced: Vec<PieceIndex>,
    /// Bytes of `unsynced`.
    unsynced_bytes: u64,
    /// Since when `unsynced` is not empty.
    since: Option<Instant>,
    /// Covered by the sync under way.
    pub syncing: Option<Vec<PieceIndex>>,
    /// `Finished` is to be told once everything is durable.
    finish: bool,
    /// Syncs asked for, for metrics.
    pub syncs: u64,
}

impl Durability {
    /// For a torrent of `pieces`, of which none is there.
    pub fn new(pieces: u32) -> Self {
        Self {
            durable: Bitfield::empty(pieces),
            unsynced: Vec::new(),
            unsynced_bytes: 0,
            since: None,
            syncing: None,
            finish: false,
            syncs: 0,
        }
    }

    /// Starts anew with what a check has found: durable but for the pieces of `recent` files, which the next sync covers
    /// where anything is synced.
    pub fn found(&mut self, have: Bitfield, recent: Vec<PieceIndex>, is_synced: bool, now: Instant) {
        let syncs = self.syncs;
        *self = Self { durable: have, syncs, ..Self::new(0) };
        for piece in recent {
            if self.durable.has(piece) && self.durable.remove(piece) && is_synced {
                self.add(piece, 0, now);
            }
        }
    }

    pub fn add(&mut self, piece: PieceIndex, bytes: u64, now: Instant) {
        self.unsynced.push(piece);
        self.unsynced_bytes += bytes;
        self.since.get_or_insert(now);
    }

    /// When a checkpoint's sync is due, as far as time decides.
    pub fn due(&self, config: &SyncConfig) -> Option<Instant> {
        self.since.filter(|_| self.syncing.is_none()).map(|since| since + config.interval)
    }

    /// Whether a checkpoint's sync is due.
    fn is_due(&self, config: &SyncConfig, now: Instant) -> bool {
        let old = self.since.is_some_and(|since| now.saturating_duration_since(since) >= config.interval);
        old || self.unsynced_bytes >= config.bytes.max(1)
    }

    /// Takes what the next sync covers.
    fn begin(&mut self) {
        (self.unsynced_bytes, self.since) = (0, None);
        self.syncs += 1;
        let before = self.syncing.replace(std::mem::take(&mut self.unsynced));
        assert!(before.is_none(), "two syncs of one torrent");
    }
}

impl Shard {
    /// A piece has been written: tells peers, now or after its sync.
    pub(crate) fn take_written(&mut self, index: usize, piece: PieceIndex) {
        let (policy, now) = (self.config.sync.policy, self.now);
        let home = &mut self.homes[index];
        let bytes = u64::from(home.meta.geometry.piece_size(piece));
        home.partials.forget(piece);
        let torrent = home.torrent.as_mut().expect("written pieces belong to a running torrent");
        if policy != SyncPolicy::Piece {
            torrent.written(piece);
        }
        if home.part.is_satellite() {
            // Its home syncs.
            return;
        }
        if policy != SyncPolicy::None {
            home.durability.add(piece, bytes, now);
        }
        if policy == SyncPolicy::Piece && home.durability.syncing.is_none() {
            self.submit_sync(index);
        }
    }

    /// Starts a checkpoint's sync when its time has come.
    pub(crate) fn sync_if_due(&mut self, index: usize) {
        let (config, now) = (self.config.sync, self.now);
        let home = &self.homes[index];
        let durability = &home.durability;
        let wanted = config.policy == SyncPolicy::Checkpoint && home.is_running() && home.failure.is_none();
        if wanted && durability.syncing.is_none() && durability.is_due(&config, now) {
            self.submit_sync(index);
        }
    }

    /// Whether something is written that a sync would have to cover before the files are closed.
    pub(crate) fn wants_last_sync(&self, index: usize) -> bool {
        let home = &self.homes[index];
        let syncs = self.config.sync.policy != SyncPolicy::None;
        syncs && !home.durability.unsynced.is_empty() && home.failure.is_none()
    }

    /// Everything wanted is written: make it durable, then say so.
    pub(crate) fn on_finished(&mut self, index: usize) {
        let home = &mut self.homes[index];
        if home.part.is_satellite() {
            return;
        }
        let durability = &mut home.durability;
        durability.finish = true;
        if durability.syncing.is_none() {
            self.finish_when_durable(index);
        }
    }

    /// Tells `Finished` if it is due, after one more sync where that is needed.
    fn finish_when_durable(&mut self, index: usize) {
        let syncs = self.config.sync.policy != SyncPolicy::None;
        let home = &mut self.homes[index];
        let due = home.durability.finish && home.torrent.as_ref().is_some_and(Torrent::is_finished);
        match home.durability.unsynced.is_empty() || !syncs {
            _ if !due => {}
            true => {
                home.durability.finish = false;
                self.tell_finished(index);
            }
            false => self.submit_sync(index),
        }
    }

    /// Makes durable what was written; one at a time.
    pub(crate) fn submit_sync(&mut self, index: usize) {
        let home = &mut self.homes[index];
        home.busy += 1;
        home.durability.begin();
        let torrent = home.key;
        self.command(StorageCmd::Sync { torrent });
    }

    pub(crate) fn on_synced(&mut self, index: usize, result: Result<(), StorageError>) {
        let home = &mut self.homes[index];
        home.busy -= 1;
        let pieces = home.durability.syncing.take().expect("a sync that nobody asked for");
        match result {
            Ok(()) => {
                self.take_durable(index, pieces);
                self.recover(index);
                self.finish_when_durable(index);
                let home = &self.homes[index];
                let more = !home.durability.unsynced.is_empty() && home.durability.syncing.is_none();
                if self.config.sync.policy == SyncPolicy::Piece && more {
                    self.submit_sync(index);
                }
            }
            Err(error) => {
                // The kernel may have dropped what it could not write, and a later sync says nothing of it: these
                // pieces are not ours until they are fetched and written again.
                for piece in pieces {
                    self.lose_piece(index, piece);
                }
                self.fail(index, &error);
            }
        }
        self.touch(index);
    }

    fn take_durable(&mut self, index: usize, pieces: Vec<PieceIndex>) {
        let home = &mut self.homes[index];
        let Some(torrent) = &mut home.torrent else { return };
        for piece in pieces {
            if torrent.picker().state(piece) == PieceState::Writing {
                torrent.written(piece);
            }
            // Lost meanwhile, by a read that failed: then it is neither here nor durable.
            if torrent.picker().have().has(piece) {
                home.durability.durable.insert(piece);
            }
        }
    }

    /// A piece is not on disk as it should be: it is missing again, and not served from memory either. Returns whether
    /// it was ours.
    pub(crate) fn lose_piece(&mut self, index: usize, piece: PieceIndex) -> bool {
        let home = &mut self.homes[index];
        let Some(torrent) = &mut home.torrent else { return false };
        match torrent.picker().state(piece) {
            PieceState::Writing => torrent.write_failed(piece),
            PieceState::Have => {
                home.forgo(piece);
                let torrent = home.torrent.as_mut().expect("seen just now");
                torrent.lost_piece(piece);
            }
            _ => return false,
        }
        if home.durability.durable.has(piece) {
            home.durability.durable.remove(piece);
        }
        let key = home.key;
        self.cache.forget_piece(key, piece);
        self.touch(index);
        true
    }

    fn tell_finished(&mut self, index: usize) {
        let now = self.now;
        let home = &mut self.homes[index];
        let whole = home.torrent.as_ref().is_some_and(|torrent| torrent.picker().have().is_full());
        let fetched = whole && home.all_stats().downloaded > 0;
        let first = fetched && !std::mem::replace(&mut home.completed, true);
        if let (true, Some(announces)) = (first, &mut home.announces) {
            announces.completed(now);
        }
        let key = home.key;
        // At once: whoever hears `Finished` may stop us before the next tick.
        self.announce(index);
        self.tell(FromShard::Event(key, Event::Finished));
    }
}

#[cfg(test)]
mod tests;

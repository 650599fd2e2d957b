//! A torrent's complete pieces on their way to the disk, and what happens when the disk refuses.
//!
//! Role: complete → hashed → written → synced. Owner: the shard. Invariants: a piece's memory leaves
//! [`crate::torrents::Home::live`] only when no receive in flight may write to it; a piece is told to peers only after
//! storage said `Written`; `Finished` is told only after a `Sync` that covers every piece; a piece whose sync failed is
//! missing again; verified data that the disk did not take stays in memory until it does.

use std::time::{Duration, Instant};

use ccbt_protocol::geometry::Block;
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::torrent::Torrent;
use ccbt_storage::arena::PieceBuf;
use ccbt_storage::error::StorageError;
use ccbt_storage::messages::{HashJob, HashVerdict, StorageCmd};

use crate::messages::{Event, FromShard};
use crate::shard::Shard;
use crate::torrents::Phase;

/// Between two attempts to go on after the disk failed.
const RETRY: Duration = Duration::from_secs(5);

/// The disk refuses.
pub(crate) struct Failure {
    retry_at: Instant,
    /// The cause, told once.
    message: String,
}

/// Which pieces are written and not yet durable.
#[derive(Debug, Default)]
pub(crate) struct Durability {
    /// Written, and not covered by a sync that succeeded or is under way.
    pub unsynced: Vec<PieceIndex>,
    /// Covered by the sync under way.
    syncing: Option<Vec<PieceIndex>>,
    /// `Finished` is to be told once everything is durable.
    finish: bool,
}

impl Shard {
    /// Hands complete pieces to the hash pool as soon as no receive can write to them any more.
    pub(crate) fn hash_complete(&mut self, index: usize) {
        let home = &mut self.homes[index];
        let mut at = 0;
        while at < home.completing.len() {
            let piece = home.completing[at];
            let held = home.asides.iter().any(|aside| aside.block.piece == piece);
            let live = home.live.0.remove(&piece).expect("a complete piece has memory");
            let taken = if held { Err(live) } else { live.try_take() };
            match taken {
                Ok(buf) => {
                    home.completing.swap_remove(at);
                    home.busy += 1;
                    let expected = home.meta.piece_hash(piece);
                    let job = HashJob { torrent: home.key, piece, expected, buf };
                    self.storage.hash(job);
                }
                Err(live) => {
                    home.live.0.insert(piece, live);
                    at += 1;
                }
            }
        }
    }

    pub(crate) fn on_verdict(&mut self, verdict: HashVerdict) {
        let index = *self.by_key.get(&verdict.torrent).expect("a verdict for a torrent that is gone");
        if matches!(self.homes[index].phase, Phase::Checking(_)) || self.homes[index].torrent.is_none() {
            return self.on_check_verdict(index, verdict);
        }
        let home = &mut self.homes[index];
        home.busy -= 1;
        let geometry = home.meta.geometry;
        let (piece, buf) = (verdict.piece, verdict.buf);
        let digests = || {
            let block = |block: Block| {
                ccbt_storage::hash::sha1(
                    &buf.as_slice()[block.begin as usize..(block.begin + block.len) as usize],
                )
            };
            geometry.blocks(piece).map(block).collect()
        };
        let good = home.torrent.as_mut().expect("checked above").verdict(piece, verdict.ok, digests);
        if good {
            self.write(index, piece, buf);
        } else {
            self.free_piece(buf);
        }
        self.touch(index);
    }

    fn write(&mut self, index: usize, piece: PieceIndex, buf: PieceBuf) {
        let home = &mut self.homes[index];
        home.busy += 1;
        let torrent = home.key;
        self.storage.submit(StorageCmd::Write { torrent, piece, buf });
    }

    pub(crate) fn on_written(
        &mut self,
        index: usize,
        piece: PieceIndex,
        buf: PieceBuf,
        result: Result<(), StorageError>,
    ) {
        let home = &mut self.homes[index];
        home.busy -= 1;
        match result {
            Ok(()) => {
                home.torrent.as_mut().expect("written pieces belong to a running torrent").written(piece);
                // What a satellite wrote is its home's to sync.
                if !home.part.is_satellite() {
                    home.durability.unsynced.push(piece);
                }
                self.free_piece(buf);
                self.recover(index);
            }
            Err(error) => {
                // Verified data is not thrown away: it waits for the disk, and its memory is the back-pressure.
                home.unwritten.push((piece, buf));
                self.fail(index, &error);
            }
        }
        self.touch(index);
    }

    /// Takes a download buffer back and lets torrents that waited for memory go on.
    pub(crate) fn free_piece(&mut self, buf: PieceBuf) {
        self.partition.free(buf);
        self.pieces -= 1;
        for index in std::mem::take(&mut self.starved) {
            if let Some(home) = self.homes.get_mut(index) {
                home.starved = false;
                if let Some(torrent) = &mut home.torrent {
                    torrent.mark_hungry();
                }
                self.touch(index);
            }
        }
    }

    /// Some torrent found no memory: others give up what they cannot go on with.
    pub(crate) fn reclaim(&mut self) {
        if self.starved.is_empty() {
            return;
        }
        let mut freed = Vec::new();
        for (_, home) in &mut self.homes {
            let Some(torrent) = &mut home.torrent else { continue };
            let live = &home.live.0;
            let idle =
                torrent.picker().idle_active().find(|piece| live.get(piece).is_some_and(|l| l.pins() == 0));
            let Some(piece) = idle else { continue };
            if torrent.picker_mut().abandon(piece) {
                let buf = home.live.0.remove(&piece).expect("just seen").try_take();
                freed.push(buf.unwrap_or_else(|_| panic!("nobody receives into an idle piece")));
                home.asides.retain(|aside| aside.block.piece != piece);
            }
        }
        freed.into_iter().for_each(|buf| self.free_piece(buf));
    }

    /// Gives up all begun pieces of a torrent that nobody is asked for.
    pub(crate) fn abandon_idle(&mut self, index: usize) {
        let home = &mut self.homes[index];
        let Some(torrent) = &mut home.torrent else { return };
        let free = |piece: &PieceIndex| home.live.0.get(piece).is_some_and(|live| live.pins() == 0);
        let idle: Vec<PieceIndex> = torrent.picker().idle_active().filter(free).collect();
        let mut freed = Vec::new();
        for piece in idle {
            if torrent.picker_mut().abandon(piece) {
                let buf = home.live.0.remove(&piece).expect("just seen").try_take();
                freed.push(buf.unwrap_or_else(|_| panic!("nobody receives into an idle piece")));
                home.asides.retain(|aside| aside.block.piece != piece);
            }
        }
        freed.into_iter().for_each(|buf| self.free_piece(buf));
    }

    // ---- durability

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
        let home = &mut self.homes[index];
        let due = home.durability.finish && home.torrent.as_ref().is_some_and(Torrent::is_finished);
        match home.durability.unsynced.is_empty() {
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
        let pieces = std::mem::take(&mut home.durability.unsynced);
        let before = home.durability.syncing.replace(pieces);
        assert!(before.is_none(), "two syncs of one torrent");
        let torrent = home.key;
        self.command(StorageCmd::Sync { torrent });
    }

    pub(crate) fn on_synced(&mut self, index: usize, result: Result<(), StorageError>) {
        let home = &mut self.homes[index];
        home.busy -= 1;
        let pieces = home.durability.syncing.take().expect("a sync that nobody asked for");
        match result {
            Ok(()) => {
                self.recover(index);
                self.finish_when_durable(index);
            }
            Err(error) => {
                // The kernel may have dropped what it could not write, and a later sync says nothing of it: these
                // pieces are not ours until they are fetched and written again.
                if let Some(torrent) = &mut home.torrent {
                    for piece in pieces {
                        if torrent.picker().have().has(piece) {
                            torrent.lost_piece(piece);
                        }
                    }
                }
                self.fail(index, &error);
            }
        }
        self.touch(index);
    }

    fn tell_finished(&mut self, index: usize) {
        let now = self.now;
        let home = &mut self.homes[index];
        let fetched = home.stats().downloaded > 0;
        if let (true, Some(announces)) = (fetched, &mut home.announces) {
            announces.completed(now);
        }
        let key = home.key;
        // At once: whoever hears `Finished` may stop us before the next tick.
        self.announce(index);
        self.tell(FromShard::Event(key, Event::Finished));
    }

    /// The disk refused something: no new requests until it recovers.
    pub(crate) fn fail(&mut self, index: usize, error: &StorageError) {
        let now = self.now;
        let home = &mut self.homes[index];
        let message = error.to_string();
        let retry = error.is_temporary() || home.torrent.is_some();
        let told = home.failure.as_ref().is_some_and(|failure| failure.message == message);
        home.failure = Some(Failure { retry_at: now + RETRY, message: message.clone() });
        let key = home.key;
        if !told {
            self.tell(FromShard::Event(key, Event::Failed { message, retry }));
        }
    }

    /// Tries to go on after a failure.
    pub(crate) fn retry_failed(&mut self, index: usize) {
        let now = self.now;
        let home = &mut self.homes[index];
        let Some(failure) = &mut home.failure else { return };
        if failure.retry_at > now || home.busy > 0 {
            return;
        }
        failure.retry_at = now + RETRY;
        if matches!(home.phase, Phase::Opening) {
            self.open(index);
        } else if let Some((piece, buf)) = home.unwritten.pop() {
            self.write(index, piece, buf);
        } else if home.part.is_satellite() {
            self.recover(index);
        } else {
            // Nothing waits to be written: ask the disk whether it takes a sync again.
            self.submit_sync(index);
        }
    }

    fn recover(&mut self, index: usize) {
        let home = &mut self.homes[index];
        if home.failure.take().is_none() {
            return;
        }
        let waiting = std::mem::take(&mut home.unwritten);
        if let Some(torrent) = &mut home.torrent {
            torrent.mark_all();
        }
        let key = home.key;
        for (piece, buf) in waiting {
            self.write(index, piece, buf);
        }
        self.tell(FromShard::Event(key, Event::Recovered));
        self.touch(index);
    }
}

#[cfg(test)]
mod tests;

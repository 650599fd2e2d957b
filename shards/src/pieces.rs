//! A torrent's complete pieces on their way to the disk.
//!
//! Role: complete → hashed → written. Owner: the shard. What follows is in [`crate::sync`], what happens when the disk
//! refuses in [`crate::faults`]. Invariants: a piece's memory leaves [`crate::torrents::Home::live`] only when no receive
//! in flight may write to it; a piece is told to peers only after storage said `Written`; verified data that the disk
//! did not take stays in memory until it does, unless other torrents starve by that.

use ccbt_protocol::geometry::Block;
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::picker::Priority;
use ccbt_storage::arena::PieceBuf;
use ccbt_storage::error::{ErrorKind, StorageError};
use ccbt_storage::messages::{HashJob, HashVerdict, StorageCmd};

use crate::shard::Shard;
use crate::torrents::Phase;

/// Verified pieces that a disk does not take may hold one part in so many of the memory while others need it.
const UNWRITTEN_PART: usize = 4;

impl Shard {
    /// Hands complete pieces to the hash pool as soon as no receive can write to them any more.
    pub(crate) fn hash_complete(&mut self, index: usize) {
        let mut at = 0;
        while at < self.homes[index].completing.len() {
            let home = &mut self.homes[index];
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
                    self.gather(index, job);
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
        home.backlog.pieces -= 1;
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
        self.web_verdict(index, piece, verdict.ok);
        let home = &mut self.homes[index];
        let good = home.torrent.as_mut().expect("checked above").verdict(piece, verdict.ok, digests);
        if good {
            self.write(index, piece, buf);
        } else {
            home.partials.forget(piece);
            self.free_piece(buf);
        }
        self.touch(index);
    }

    pub(crate) fn write(&mut self, index: usize, piece: PieceIndex, buf: PieceBuf) {
        let home = &mut self.homes[index];
        if home.relocations.is_fenced() {
            // Its files are being moved; it waits as for a disk that is full.
            return home.unwritten.push((piece, buf));
        }
        home.busy += 1;
        home.backlog.pieces += 1;
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
        if self.homes[index].partials.is_writing(piece) {
            return self.on_kept(index, piece, buf, result);
        }
        let home = &mut self.homes[index];
        home.busy -= 1;
        home.backlog.pieces -= 1;
        match result {
            Ok(()) => {
                home.backlog.moved = Some(self.now);
                self.take_written(index, piece);
                self.admit_piece(index, piece, &buf);
                self.free_piece(buf);
                self.recover(index);
            }
            Err(error) => {
                // Verified data is not thrown away: it waits for the disk, and its memory is the back-pressure.
                home.unwritten.push((piece, buf));
                match error.kind() {
                    // Nothing is wrong: the file gets a copy of its own first.
                    ErrorKind::Shared if !self.homes[index].part.is_satellite() => {
                        self.want_unshared(index, &error)
                    }
                    _ => self.fail(index, &error),
                }
            }
        }
        self.touch(index);
    }

    /// Takes a download buffer back and lets torrents that waited for memory go on.
    pub(crate) fn free_piece(&mut self, buf: PieceBuf) {
        self.partition.free(buf);
        self.pieces -= 1;
        self.end_backlog_waits(false);
        for index in std::mem::take(&mut self.starved) {
            if let Some(home) = self.homes.get_mut(index) {
                home.starved = false;
                if let Some(torrent) = &mut home.torrent {
                    torrent.mark_hungry();
                }
                self.touch(index);
            }
        }
        self.wake_check();
    }

    /// Some torrent found no memory: others give up what they cannot go on with.
    pub(crate) fn reclaim(&mut self) {
        if self.starved.is_empty() && self.checks.is_empty() {
            return;
        }
        let mut freed = Vec::new();
        for (index, home) in &mut self.homes {
            let Some(torrent) = &mut home.torrent else { continue };
            let others = self.starved.iter().chain(&self.checks).any(|starved| *starved != index);
            torrent.make_way(self.now, others);
            // One that waits for its disk goes on with nothing; any other one will soon.
            let most = if home.failure.is_some() { usize::MAX } else { 1 };
            let live = &home.live.0;
            let idle = torrent
                .picker()
                .idle_active()
                .filter(|piece| live.get(piece).is_some_and(|live| live.pins() == 0))
                .take(most);
            for piece in idle.collect::<Vec<_>>() {
                if torrent.picker_mut().abandon(piece) {
                    let buf = home.live.0.remove(&piece).expect("just seen").try_take();
                    freed.push(buf.unwrap_or_else(|_| panic!("nobody receives into an idle piece")));
                    home.asides.retain(|aside| aside.block.piece != piece);
                }
            }
        }
        freed.into_iter().for_each(|buf| self.free_piece(buf));
        self.drop_unwritten();
    }

    /// Gives up all begun pieces of a torrent that nobody is asked for.
    pub(crate) fn abandon_idle(&mut self, index: usize) {
        self.abandon(index, |_| true);
    }

    /// The same for pieces that are not wanted any more.
    pub(crate) fn drop_unwanted(&mut self, index: usize) {
        self.abandon(index, |priority| priority == Priority::Skip);
    }

    fn abandon(&mut self, index: usize, which: impl Fn(Priority) -> bool) {
        let home = &mut self.homes[index];
        let Some(torrent) = &mut home.torrent else { return };
        let free = |piece: &PieceIndex| home.live.0.get(piece).is_some_and(|live| live.pins() == 0);
        let picker = torrent.picker();
        let idle: Vec<PieceIndex> =
            picker.idle_active().filter(|piece| which(picker.priority(*piece))).filter(free).collect();
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

    /// Torrents whose disk refuses keep verified pieces in memory. When others starve by that, they keep a share only:
    /// the rest is fetched again when the disk is back.
    fn drop_unwritten(&mut self) {
        let most = self.partition.capacity() / UNWRITTEN_PART;
        let failed: Vec<usize> =
            self.homes.iter().filter(|(_, home)| home.failure.is_some()).map(|(i, _)| i).collect();
        for index in failed {
            if self.starved.iter().chain(&self.checks).all(|starved| *starved == index) {
                continue;
            }
            let home = &mut self.homes[index];
            let mut held: usize = home.unwritten.iter().map(|(_, buf)| buf.capacity()).sum();
            let mut freed = Vec::new();
            while held > most
                && let Some((piece, buf)) = home.unwritten.pop()
            {
                held -= buf.capacity();
                if let Some(torrent) = &mut home.torrent {
                    torrent.write_failed(piece);
                }
                freed.push(buf);
            }
            freed.into_iter().for_each(|buf| self.free_piece(buf));
        }
    }
}

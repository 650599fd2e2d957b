//! Blocks of begun pieces that outlast their memory: written to their place in the files, and read back.
//!
//! Role: when a torrent rests or ends, the blocks that came of pieces which are not complete are written where they belong;
//! when it goes on, in this process or the next one, they are read into memory again and the picker goes on with those
//! pieces. Owner: the shard. Invariants: nothing is fetched while blocks are written or read, so no two writes of one
//! piece are under way; what is in the files counts for nothing before its piece was verified; blocks are written as a
//! whole piece with zeros between them, never with what the memory held before.
//!
//! Memory: what is written is what was held, and what is read back takes slots like every begun piece.

use std::time::Duration;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::picker::{PartialPiece, PieceState, Priority};
use ccbt_storage::arena::PieceBuf;
use ccbt_storage::error::StorageError;
use ccbt_storage::messages::StorageCmd;

use crate::ring::LivePiece;
use crate::shard::{PIECES_MAX, Shard};

/// A shutdown waits so long for the writes at least: below the ten seconds of a session's end.
const KEEPING: Duration = Duration::from_secs(6);

/// A torrent's blocks in the files.
#[derive(Debug, Default)]
pub(crate) struct Partials {
    on_disk: Vec<PartialPiece>,
    writing: Vec<PartialPiece>,
    reading: Vec<PartialPiece>,
}

impl Partials {
    /// As found when the files were looked at.
    pub fn found(on_disk: Vec<PartialPiece>) -> Self {
        Self { on_disk, ..Self::default() }
    }

    /// Whether blocks are being written or read.
    pub fn is_busy(&self) -> bool {
        !self.writing.is_empty() || !self.reading.is_empty()
    }

    pub fn is_writing(&self, piece: PieceIndex) -> bool {
        self.writing.iter().any(|partial| partial.piece == piece)
    }

    pub fn is_reading(&self, piece: PieceIndex) -> bool {
        self.reading.iter().any(|partial| partial.piece == piece)
    }

    /// Blocks in the files.
    pub fn blocks(&self) -> u32 {
        self.on_disk.iter().map(|partial| partial.blocks.count()).sum()
    }

    /// What is in the files of pieces that are not ours, rising.
    pub fn written(&self, have: &Bitfield) -> Vec<PartialPiece> {
        let missing = |partial: &&PartialPiece| !have.has(partial.piece);
        let mut written: Vec<PartialPiece> = self.on_disk.iter().filter(missing).cloned().collect();
        written.sort_by_key(|partial| partial.piece);
        written
    }

    /// The blocks are in the files, and no others of that piece.
    pub fn put(&mut self, partial: PartialPiece) {
        self.forget(partial.piece);
        self.on_disk.push(partial);
    }

    /// The piece was written as a whole, or its blocks are wrong.
    pub fn forget(&mut self, piece: PieceIndex) {
        self.on_disk.retain(|partial| partial.piece != piece);
    }

    fn blocks_of(&self, piece: PieceIndex) -> u32 {
        let known = self.on_disk.iter().find(|partial| partial.piece == piece);
        known.map_or(0, |partial| partial.blocks.count())
    }
}

fn take(from: &mut Vec<PartialPiece>, piece: PieceIndex) -> PartialPiece {
    let at = from.iter().position(|partial| partial.piece == piece).expect("noted when it was begun");
    from.swap_remove(at)
}

impl Shard {
    /// The torrent rests: once nothing is under way any more, its begun pieces go to the disk.
    pub(crate) fn continue_pause(&mut self, index: usize) {
        let home = &self.homes[index];
        let quiet = home.conns == 0 && home.busy == 0 && home.part.satellites().next().is_none();
        if home.paused && home.is_running() && quiet {
            self.keep_begun(index);
        }
    }

    /// Writes the blocks of begun pieces and gives their memory back. Nothing of the torrent is under way. Returns whether
    /// there was something to write.
    pub(crate) fn keep_begun(&mut self, index: usize) -> bool {
        let home = &mut self.homes[index];
        let Some(torrent) = &mut home.torrent else { return false };
        if home.failure.is_some() || home.seed_only || home.relocations.is_fenced() {
            return false;
        }
        let mut freed = Vec::new();
        let mut begun: Vec<PieceIndex> = home.live.0.keys().copied().collect();
        begun.sort_unstable();
        for piece in begun {
            let Some(partial) = torrent.picker().partial(piece) else { continue };
            let wanted = torrent.picker().priority(piece) != Priority::Skip;
            if !torrent.picker_mut().abandon(piece) {
                continue;
            }
            let live = home.live.0.remove(&piece).expect("just seen");
            let mut buf = live.try_take().unwrap_or_else(|_| panic!("a receive outlived its connection"));
            // What is there already may be more than what came since.
            if !wanted || partial.blocks.count() <= home.partials.blocks_of(piece) {
                freed.push(buf);
                continue;
            }
            for (nth, block) in home.meta.geometry.blocks(piece).enumerate() {
                if !partial.has(nth as u32) {
                    buf.as_mut_slice()[block.begin as usize..(block.begin + block.len) as usize].fill(0);
                }
            }
            home.partials.forget(piece);
            home.partials.writing.push(partial);
            home.busy += 1;
            self.storage.submit(StorageCmd::Write { torrent: home.key, piece, buf });
        }
        home.asides.clear();
        let writes = !home.partials.writing.is_empty();
        freed.into_iter().for_each(|buf| self.free_piece(buf));
        if let (true, Some(deadline)) = (writes, &mut self.stopping) {
            *deadline = (*deadline).max(self.now + KEEPING);
        }
        writes
    }

    pub(crate) fn on_kept(
        &mut self,
        index: usize,
        piece: PieceIndex,
        buf: PieceBuf,
        result: Result<(), StorageError>,
    ) {
        let home = &mut self.homes[index];
        home.busy -= 1;
        let partial = take(&mut home.partials.writing, piece);
        match result {
            Ok(()) => home.partials.put(partial),
            // Nothing that was promised is lost: they are fetched again.
            Err(error) => tracing::info!(%piece, %error, "the blocks of a begun piece cannot be kept"),
        }
        self.free_piece(buf);
        self.go_on_when_kept(index);
    }

    /// Reads back what is in the files of begun pieces, as far as there is memory. Most complete ones first.
    pub(crate) fn take_back(&mut self, index: usize) {
        let home = &mut self.homes[index];
        let alone = !home.part.is_satellite() && home.part.satellites().next().is_none();
        if home.partials.on_disk.is_empty() || home.paused || !alone || !home.may_fetch() {
            return;
        }
        let Some(torrent) = &home.torrent else { return };
        let missing = |partial: &&PartialPiece| torrent.picker().state(partial.piece) == PieceState::Missing;
        let mut todo: Vec<PartialPiece> = home.partials.on_disk.iter().filter(missing).cloned().collect();
        todo.sort_by_key(|partial| std::cmp::Reverse(partial.blocks.count()));
        for partial in todo {
            let home = &mut self.homes[index];
            let (geometry, piece) = (home.meta.geometry, partial.piece);
            let room = self.pieces < PIECES_MAX;
            let buf = room.then(|| self.partition.alloc(geometry.piece_size(piece), home.spec.phase(piece)));
            let Some(buf) = buf.flatten() else { break };
            self.pieces += 1;
            home.busy += 1;
            home.partials.reading.push(partial);
            let (torrent, tag, start) = (home.key, u64::from(piece.0), geometry.piece_start(piece));
            self.command(StorageCmd::Read { torrent, tag, start, buf });
        }
    }

    pub(crate) fn on_taken_back(
        &mut self,
        index: usize,
        piece: PieceIndex,
        buf: PieceBuf,
        result: Result<(), StorageError>,
    ) {
        let home = &mut self.homes[index];
        home.busy -= 1;
        let partial = take(&mut home.partials.reading, piece);
        let torrent = home.torrent.as_mut().expect("a torrent stays while reads are under way");
        if result.is_ok() && torrent.picker_mut().take_back(&partial) {
            home.live.0.insert(piece, LivePiece::new(buf));
        } else {
            if let Err(error) = result {
                tracing::info!(%piece, %error, "the blocks of a begun piece cannot be read back");
            }
            home.partials.forget(piece);
            self.free_piece(buf);
        }
        self.go_on_when_kept(index);
    }

    fn go_on_when_kept(&mut self, index: usize) {
        let home = &mut self.homes[index];
        if !home.partials.is_busy() {
            if let Some(torrent) = &mut home.torrent {
                torrent.mark_all();
            }
            self.spread(index);
        }
        self.touch(index);
    }
}

#[cfg(test)]
mod tests;

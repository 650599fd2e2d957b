//! What waits behind the receive: complete pieces gather for the hash pool, and a torrent starts no more pieces than
//! its hash threads and disk keep up with.
//!
//! Owner: the shard; called when pieces are complete, when memory is asked for and once per turn. Invariants: a piece
//! waits [`GATHER`] at most, and not at all when none came shortly before it; a torrent that was refused memory because
//! of its backlog is asked again when that has become shorter, and after [`STALL`] in any case.
//!
//! * Sixteen lanes hash five times as much per second as one, so pieces are handed over in groups. One at a time, a
//!   thread that is fast enough would take each alone.
//! * When peers send faster than pieces are written, all memory fills with pieces that wait, and every byte goes from
//!   the socket to memory, from there to the hash and from there to the disk. A short queue keeps them as busy and
//!   stays in the caches. A disk that stalls gets all memory: then the queue is what keeps peers sending.

use std::time::{Duration, Instant};

use ccbt_storage::hash::LANES_MAX;
use ccbt_storage::messages::HashJob;

use crate::home::Home;
use crate::shard::Shard;

/// How long a complete piece waits for others.
const GATHER: Duration = Duration::from_millis(10);
/// Bytes of complete pieces of a torrent that may wait for hash and disk while the disk writes.
const BACKLOG: usize = 16 << 20;
/// Bytes of complete pieces that are not kept waiting for more.
const GROUP: usize = 16 << 20;
/// Pieces that may do so, however long they are.
const BACKLOG_PIECES_MIN: usize = 4;
/// A disk that has work and has not written anything for so long is stalled.
const STALL: Duration = Duration::from_millis(100);

/// Complete pieces that wait for others.
#[derive(Default)]
pub(crate) struct Gathering {
    jobs: Vec<HashJob>,
    bytes: usize,
    /// When they are handed over, however few they are.
    due: Option<Instant>,
    /// When the last piece was complete.
    last: Option<Instant>,
}

impl Gathering {
    /// Adds a piece; `more`: others are on their way.
    fn push(&mut self, now: Instant, job: HashJob, more: bool) {
        let flows = self.last.is_some_and(|last| now < last + GATHER);
        self.last = Some(now);
        self.bytes += job.buf.len();
        self.jobs.push(job);
        let due = if flows && more { now + GATHER } else { now };
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    fn is_due(&self, now: Instant) -> bool {
        self.jobs.len() >= LANES_MAX || self.bytes >= GROUP || self.due.is_some_and(|due| due <= now)
    }

    /// When something has to be handed over.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }
}

/// Pieces of one torrent between their last block and the disk.
#[derive(Default)]
pub(crate) struct Backlog {
    /// Complete, and not yet refused or written.
    pub pieces: usize,
    /// When the last one was written, or the first came that nothing was before.
    pub moved: Option<Instant>,
    /// On the shard's list of torrents that wait for theirs.
    pub waits: bool,
}

impl Backlog {
    /// A piece is complete.
    pub fn add(&mut self, now: Instant) {
        if self.pieces == 0 {
            self.moved = Some(now);
        }
        self.pieces += 1;
    }

    fn is_long(&self, now: Instant, piece_len: usize, capacity: usize) -> bool {
        let most = (BACKLOG / piece_len).max(BACKLOG_PIECES_MIN).min(capacity / 2 / piece_len).max(1);
        self.pieces >= most && self.moved.is_some_and(|moved| now < moved + STALL)
    }
}

impl Home {
    /// Whether it should wait with further pieces, of a shard that has `capacity` bytes for them.
    pub(crate) fn is_behind(&self, now: Instant, capacity: usize) -> bool {
        self.backlog.is_long(now, self.meta.geometry.piece_len() as usize, capacity)
    }
}

impl Shard {
    /// A piece of the torrent is complete and nobody writes to it any more.
    pub(crate) fn gather(&mut self, index: usize, job: HashJob) {
        let home = &mut self.homes[index];
        home.backlog.add(self.now);
        let more = !home.live.0.is_empty();
        self.gathered.push(self.now, job, more);
    }

    /// Hands gathered pieces to the hash pool when it is time.
    pub(crate) fn hash_gathered(&mut self) {
        if !self.gathered.is_due(self.now) {
            return;
        }
        for job in self.gathered.jobs.drain(..) {
            self.storage.hash(job);
        }
        (self.gathered.bytes, self.gathered.due) = (0, None);
    }

    /// The torrent wanted memory and is too far behind.
    pub(crate) fn wait_for_backlog(&mut self, index: usize) {
        if !std::mem::replace(&mut self.homes[index].backlog.waits, true) {
            self.behind.push(index);
            self.behind_until.get_or_insert(self.now + STALL);
        }
    }

    /// Lets torrents ask again that are no longer too far behind; `all`: they have waited long enough.
    pub(crate) fn end_backlog_waits(&mut self, all: bool) {
        let capacity = self.partition.capacity();
        let mut behind = std::mem::take(&mut self.behind);
        behind.retain(|&index| {
            let Some(home) = self.homes.get_mut(index) else { return false };
            if !all && home.is_behind(self.now, capacity) {
                return true;
            }
            home.backlog.waits = false;
            if let Some(torrent) = &mut home.torrent {
                torrent.mark_hungry();
            }
            self.touch(index);
            false
        });
        if behind.is_empty() {
            self.behind_until = None;
        }
        self.behind = behind;
    }
}

#[cfg(test)]
mod tests {
    use ccbt_protocol::ids::{PieceIndex, TorrentKey};
    use ccbt_protocol::picker::Slots;
    use ccbt_storage::arena::Partition;

    use super::*;
    use crate::slots::SlotSource;
    use crate::testing::{PIECE, Rig};

    const MIB: usize = 1 << 20;

    fn job(part: &mut Partition, len: u32) -> HashJob {
        let buf = part.alloc(len, 0).unwrap();
        HashJob { torrent: TorrentKey(1), piece: PieceIndex(0), expected: [0; 20], buf }
    }

    #[test]
    fn a_single_piece_does_not_wait() {
        let (mut part, now) = (Partition::new(MIB).unwrap(), Instant::now());
        let mut gathering = Gathering::default();
        gathering.push(now, job(&mut part, 4096), true);
        assert!(gathering.is_due(now));
        gathering = Gathering { last: Some(now), ..Gathering::default() };
        gathering.push(now + GATHER, job(&mut part, 4096), true);
        assert!(gathering.is_due(now + GATHER), "the one before is too long ago");
    }

    #[test]
    fn pieces_in_a_row_wait_for_each_other_for_a_while() {
        let (mut part, now) = (Partition::new(MIB).unwrap(), Instant::now());
        let mut gathering = Gathering { last: Some(now), ..Gathering::default() };
        gathering.push(now, job(&mut part, 4096), true);
        assert!(!gathering.is_due(now));
        gathering.push(now + GATHER / 2, job(&mut part, 4096), true);
        assert_eq!(gathering.due(), Some(now + GATHER), "the first one's time counts");
        assert!(gathering.is_due(now + GATHER));
        for _ in gathering.jobs.len()..LANES_MAX {
            assert!(!gathering.is_due(now));
            gathering.push(now, job(&mut part, 4096), true);
        }
        assert!(gathering.is_due(now), "all lanes have one");
    }

    #[test]
    fn the_last_piece_and_large_ones_do_not_wait() {
        let (mut part, now) = (Partition::new(2 * GROUP).unwrap(), Instant::now());
        let mut gathering = Gathering { last: Some(now), ..Gathering::default() };
        gathering.push(now, job(&mut part, 4096), true);
        gathering.push(now, job(&mut part, 4096), false);
        assert!(gathering.is_due(now));
        gathering = Gathering { last: Some(now), ..Gathering::default() };
        gathering.push(now, job(&mut part, GROUP as u32 - 4096), true);
        assert!(!gathering.is_due(now));
        gathering.push(now, job(&mut part, 4096), true);
        assert!(gathering.is_due(now));
    }

    #[test]
    fn a_long_queue_stops_new_pieces_only_while_the_disk_writes() {
        let now = Instant::now();
        let backlog = |pieces| Backlog { pieces, moved: Some(now), waits: false };
        assert!(!backlog(15).is_long(now, MIB, 192 * MIB));
        assert!(backlog(16).is_long(now, MIB, 192 * MIB));
        assert!(!backlog(16).is_long(now + STALL, MIB, 192 * MIB), "stalled: all memory keeps peers sending");
        assert!(!backlog(3).is_long(now, 16 * MIB, 192 * MIB));
        assert!(backlog(4).is_long(now, 16 * MIB, 192 * MIB));
        assert!(backlog(2).is_long(now, 16 * MIB, 64 * MIB), "half of the memory");
        assert!(!backlog(0).is_long(now, 16 * MIB, 17 * MIB), "one piece may always be begun");
    }

    #[test]
    fn a_disk_that_has_written_nothing_yet_gets_its_time() {
        let now = Instant::now();
        let mut backlog = Backlog::default();
        for nth in 0..16 {
            assert!(!backlog.is_long(now, MIB, 192 * MIB));
            backlog.add(now + STALL * nth / 32);
        }
        assert!(backlog.is_long(now, MIB, 192 * MIB), "the first piece is not old");
        assert!(!backlog.is_long(now + STALL, MIB, 192 * MIB), "since the first piece");
        backlog.pieces = 0;
        backlog.add(now + STALL);
        assert_eq!(backlog.moved, Some(now + STALL), "an idle disk is not a stalled one");
    }

    #[test]
    fn a_torrent_that_is_behind_asks_again_when_its_queue_is_short() {
        let mut rig = Rig::finished();
        let shard = &mut rig.shard;
        let most = shard.partition.capacity() / 2 / PIECE;
        shard.homes[0].backlog = Backlog { pieces: most, moved: Some(shard.now), waits: false };
        shard.wait_for_backlog(0);
        shard.wait_for_backlog(0);
        assert_eq!((&shard.behind[..], shard.behind_until), (&[0][..], Some(shard.now + STALL)));
        shard.end_backlog_waits(false);
        assert_eq!(shard.behind, [0], "as long as ever");
        shard.homes[0].backlog.pieces -= 1;
        shard.end_backlog_waits(false);
        assert!(shard.behind.is_empty() && shard.behind_until.is_none() && shard.homes[0].touched);

        shard.homes[0].backlog.pieces = most;
        shard.wait_for_backlog(0);
        shard.end_backlog_waits(true);
        assert!(shard.behind.is_empty() && !shard.homes[0].backlog.waits, "it has waited long enough");
        shard.homes[0].backlog.pieces = 0;
    }

    #[test]
    fn no_piece_is_begun_behind_a_long_queue() {
        let mut rig = Rig::finished();
        let home = &mut rig.shard.homes[0];
        let mut slots = SlotSource {
            live: &mut home.live,
            partition: &mut rig.shard.partition,
            spec: &home.spec,
            padding: &home.meta.padding,
            geometry: home.meta.geometry,
            pieces: &mut rig.shard.pieces,
            behind: true,
            held_back: false,
            starved: false,
        };
        assert!(!slots.acquire(PieceIndex(0), PIECE as u32));
        assert!(slots.held_back && !slots.starved, "nobody has to give up memory for it");
        assert_eq!((slots.partition.used(), *slots.pieces), (0, 0));
    }
}

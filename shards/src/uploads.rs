//! Reading for others: a bounded cache of extents between the disk and the peers' sends.
//!
//! Role: finds the bytes of requested blocks, reads whole extents ahead of the requests, and fills send batches.
//! Owner: the shard. Invariants: an extent that a batch refers to is never evicted nor overwritten; upload memory is a
//! partition of its own, so uploads never starve downloads; an extent is read once however many peers wait for it.

use std::collections::HashMap;
use std::rc::Rc;

use ccbt_protocol::geometry::{Block, Geometry};
use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_protocol::picker::PeerKey;
use ccbt_protocol::wire::message::piece_header;
use ccbt_storage::arena::{Partition, PieceBuf};
use ccbt_storage::error::StorageError;
use ccbt_storage::messages::StorageCmd;

use crate::messages::{Event, FromShard};
use crate::ring::SocketKey;
use crate::shard::{READS_MAX, Shard};
use crate::transfer::message_len;

/// Bytes of an extent: what one disk read fetches. Large enough for a disk, small enough for hundreds to fit.
const EXTENT: u32 = 256 * 1024;
/// Extents wanted ahead of what is being sent to a peer.
const READ_AHEAD: usize = 4;
/// Queued requests of a peer that are looked at for reading ahead.
const LOOK_AHEAD: usize = 128;
/// Bytes of one send at most: what a socket buffer takes at once on a fast link.
const BATCH: usize = 512 * 1024;
/// The same while an upload limit is set, so that peers share the tokens evenly.
const LIMITED_BATCH: u64 = 64 * 1024;

/// A stretch of a piece, `EXTENT` bytes from a multiple of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ExtentKey {
    torrent: TorrentKey,
    piece: PieceIndex,
    nth: u32,
}

enum Extent {
    Reading,
    Ready { buf: Rc<PieceBuf>, used: u64 },
}

/// The extents in memory.
pub(crate) struct ReadCache {
    partition: Partition,
    extents: HashMap<ExtentKey, Extent>,
    /// Reads under way, by tag.
    reads: HashMap<u64, ExtentKey>,
    next_tag: u64,
    clock: u64,
    /// Connections that wait for an extent, or for memory for one.
    waiters: Vec<SocketKey>,
    /// Requests served from memory, for metrics.
    pub hits: u64,
    /// Requests that had to wait for a read, for metrics.
    pub misses: u64,
}

impl ReadCache {
    pub fn new(bytes: usize) -> std::io::Result<Self> {
        Ok(Self {
            partition: Partition::new(bytes)?,
            extents: HashMap::new(),
            reads: HashMap::new(),
            next_tag: 0,
            clock: 0,
            waiters: Vec::new(),
            hits: 0,
            misses: 0,
        })
    }

    fn ready(&mut self, key: ExtentKey) -> Option<Rc<PieceBuf>> {
        self.clock += 1;
        match self.extents.get_mut(&key)? {
            Extent::Reading => None,
            Extent::Ready { buf, used } => {
                *used = self.clock;
                Some(buf.clone())
            }
        }
    }

    /// Memory for another extent, if need be that of the one that was not used for the longest time.
    fn alloc(&mut self, len: u32, phase: u32) -> Option<PieceBuf> {
        loop {
            if let Some(buf) = self.partition.alloc(len, phase) {
                return Some(buf);
            }
            let idle = self.extents.iter().filter_map(|(key, extent)| match extent {
                Extent::Ready { buf, used } if Rc::strong_count(buf) == 1 => Some((*used, *key)),
                _ => None,
            });
            let (_, key) = idle.min_by_key(|(used, _)| *used)?;
            self.evict(key);
        }
    }

    fn evict(&mut self, key: ExtentKey) {
        if let Some(Extent::Ready { buf, .. }) = self.extents.remove(&key) {
            self.partition.free(Rc::try_unwrap(buf).expect("only idle extents are evicted"));
        }
    }

    /// Lets go of a torrent's extents; none may be in a batch or being read.
    pub fn drop_torrent(&mut self, torrent: TorrentKey) {
        let keys: Vec<ExtentKey> =
            self.extents.keys().filter(|key| key.torrent == torrent).copied().collect();
        keys.into_iter().for_each(|key| self.evict(key));
    }
}

/// The extents that hold `block`.
fn extents_of(torrent: TorrentKey, block: Block) -> impl Iterator<Item = ExtentKey> {
    (block.begin / EXTENT..=(block.begin + block.len - 1) / EXTENT).map(move |nth| ExtentKey {
        torrent,
        piece: block.piece,
        nth,
    })
}

/// First byte within the piece, and length.
fn range_of(geometry: &Geometry, key: ExtentKey) -> (u32, u32) {
    let begin = key.nth * EXTENT;
    (begin, EXTENT.min(geometry.piece_size(key.piece) - begin))
}

impl Shard {
    /// Fills the next send of a connection: messages first, then as many requested blocks as are in memory.
    pub(crate) fn fill_batch(&mut self, key: SocketKey, index: usize, peer: PeerKey) {
        let now = self.now;
        let torrent =
            self.homes[index].torrent.as_mut().expect("open connections belong to running torrents");
        let out = torrent.out(now, peer);
        if !out.is_empty() {
            self.ring.batch(key).bytes(out);
            out.clear();
        }
        let mut room = BATCH as u64;
        while room > 0 && !self.ring.batch(key).is_full() {
            let torrent = self.homes[index].torrent.as_mut().expect("checked above");
            let Some(block) = torrent.next_upload(peer) else { break };
            if !torrent.picker().have().has(block.piece) {
                torrent.refuse(peer, block);
                continue;
            }
            if !self.up.is_unlimited() {
                room = room.min(LIMITED_BATCH);
                if self.up.available(now) == 0 {
                    torrent.postpone(peer, block);
                    self.throttle_up(key);
                    break;
                }
            }
            if !self.append_block(key, index, block) {
                self.homes[index].torrent.as_mut().expect("checked above").postpone(peer, block);
                break;
            }
            self.up.consume(message_len(block));
            room = room.saturating_sub(message_len(block));
        }
        self.read_ahead(index, peer);
    }

    fn throttle_up(&mut self, key: SocketKey) {
        if let Some(conn) = self.conn(key)
            && !std::mem::replace(&mut conn.up_throttled, true)
        {
            self.up_throttled.push_back(key);
        }
    }

    /// Appends a PIECE message to the batch; `false` when its bytes are not in memory yet.
    fn append_block(&mut self, key: SocketKey, index: usize, block: Block) -> bool {
        let torrent = self.homes[index].key;
        let parts: Option<Vec<_>> =
            extents_of(torrent, block).map(|extent| Some((extent.nth, self.cache.ready(extent)?))).collect();
        let Some(parts) = parts else {
            self.cache.misses += 1;
            for extent in extents_of(torrent, block) {
                self.read_extent(index, extent);
            }
            self.cache.waiters.push(key);
            return false;
        };
        self.cache.hits += 1;
        let batch = self.ring.batch(key);
        batch.bytes(&piece_header(block));
        for (nth, buf) in parts {
            let start = block.begin.max(nth * EXTENT);
            let end = (block.begin + block.len).min(nth * EXTENT + buf.len() as u32);
            batch.slot(&buf, (start - nth * EXTENT) as usize, (end - start) as usize);
        }
        self.conn(key).expect("called for a connection that lives").sending.push(block);
        true
    }

    /// Starts reads for what the peer has asked for behind the blocks in the batch.
    fn read_ahead(&mut self, index: usize, peer: PeerKey) {
        let home = &self.homes[index];
        let torrent = home.torrent.as_ref().expect("open connections belong to running torrents");
        let mut wanted: [Option<ExtentKey>; READ_AHEAD] = [None; READ_AHEAD];
        let mut count = 0;
        let mut last = None;
        for block in torrent.upcoming_uploads(peer).take(LOOK_AHEAD) {
            let extent = extents_of(home.key, block).next();
            if extent == last || count == READ_AHEAD {
                continue;
            }
            last = extent;
            wanted[count] = extent;
            count += 1;
        }
        for extent in wanted.into_iter().flatten() {
            self.read_extent(index, extent);
        }
    }

    /// Starts reading an extent that is neither there nor on its way, if there is memory.
    fn read_extent(&mut self, index: usize, key: ExtentKey) {
        if self.cache.extents.contains_key(&key) || self.cache.reads.len() >= READS_MAX {
            return;
        }
        let home = &mut self.homes[index];
        let geometry = home.meta.geometry;
        let (begin, len) = range_of(&geometry, key);
        let start = geometry.piece_start(key.piece) + u64::from(begin);
        let Some(mut buf) = self.cache.alloc(len, home.spec.phase_at(start)) else { return };
        buf.set_len(len);
        let tag = self.cache.next_tag;
        self.cache.next_tag += 1;
        self.cache.reads.insert(tag, key);
        self.cache.extents.insert(key, Extent::Reading);
        home.busy += 1;
        self.storage.submit(StorageCmd::Read { torrent: key.torrent, tag, start, buf });
    }

    pub(crate) fn on_upload_read(
        &mut self,
        index: usize,
        tag: u64,
        buf: PieceBuf,
        result: Result<(), StorageError>,
    ) {
        let key = self.cache.reads.remove(&tag).expect("an answer to a read that nobody asked for");
        let home = &mut self.homes[index];
        home.busy -= 1;
        match result {
            Ok(()) => {
                self.cache.clock += 1;
                let ready = Extent::Ready { buf: Rc::new(buf), used: self.cache.clock };
                self.cache.extents.insert(key, ready);
            }
            Err(error) => {
                self.cache.extents.remove(&key);
                self.cache.partition.free(buf);
                // What cannot be read is not ours any more: requests for it are rejected, and it is fetched again.
                if let Some(torrent) = home.torrent.as_mut().filter(|t| t.picker().have().has(key.piece)) {
                    torrent.lost_piece(key.piece);
                    let note = format!("piece {} is missing again: {error}", key.piece);
                    let told = home.key;
                    self.tell(FromShard::Event(told, Event::Note(note)));
                }
            }
        }
        self.touch(index);
        self.wake_cache_waiters();
    }

    /// Lets connections look again that waited for the cache: something arrived, or a send let go of memory.
    pub(crate) fn wake_cache_waiters(&mut self) {
        let waiters = std::mem::take(&mut self.cache.waiters);
        waiters.into_iter().for_each(|key| self.queue(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_extents_line_up() {
        let torrent = TorrentKey(1);
        let block = |begin, len| Block { piece: PieceIndex(3), begin, len };
        let nths = |block| extents_of(torrent, block).map(|key| key.nth).collect::<Vec<_>>();
        assert_eq!(nths(block(0, 16384)), [0]);
        assert_eq!(nths(block(EXTENT - 16384, 16384)), [0]);
        assert_eq!(nths(block(EXTENT - 1, 2)), [0, 1]);
        let geometry = Geometry::new(4 * 300_000, 300_000).unwrap();
        assert_eq!(
            range_of(&geometry, ExtentKey { torrent, piece: PieceIndex(3), nth: 1 }),
            (EXTENT, 300_000 - EXTENT)
        );
    }

    #[test]
    fn evicts_the_oldest_that_nobody_sends() {
        let mut cache = ReadCache::new(4 * 65536).unwrap();
        let key = |nth| ExtentKey { torrent: TorrentKey(0), piece: PieceIndex(0), nth };
        for nth in 0..4 {
            let buf = cache.alloc(65536, 0).unwrap();
            cache.extents.insert(key(nth), Extent::Ready { buf: Rc::new(buf), used: u64::from(nth) });
        }
        cache.clock = 10;
        let sending = cache.ready(key(1)).unwrap();
        let _used = cache.ready(key(0)).map(drop);
        let fifth = cache.alloc(65536, 0).unwrap();
        assert!(!cache.extents.contains_key(&key(2)), "the oldest idle one went");
        let sixth = cache.alloc(65536, 0).unwrap();
        assert!(!cache.extents.contains_key(&key(3)));
        cache.alloc(65536, 0).unwrap();
        assert!(!cache.extents.contains_key(&key(0)));
        assert!(cache.alloc(65536, 0).is_none(), "what is being sent stays");
        drop(sending);
        assert!(cache.alloc(65536, 0).is_some());
        drop((fifth, sixth));
    }
}

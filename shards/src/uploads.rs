//! Reading for others: from a peer's requests to the bytes of its next send.
//!
//! Role: fills send batches from the read cache ([`crate::cache`]), reads what is not there, ahead of the requests where
//! a peer's course is foreseen. Owner: the shard. Invariant: whoever waits for bytes or memory is on exactly one list
//! that something under way will wake it from.

use ccbt_protocol::cache::WINDOW_MAX;
use ccbt_protocol::geometry::Block;
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::picker::PeerKey;
use ccbt_protocol::rate::Way;
use ccbt_protocol::wire::message::piece_header;
use ccbt_storage::arena::PieceBuf;
use ccbt_storage::error::{ErrorKind, StorageError};
use ccbt_storage::messages::StorageCmd;

use crate::cache::{EXTENT, ExtentKey, Found, Place, Why, extents_of, per_piece, range_of};
use crate::ring::SocketKey;
use crate::shard::{READS_MAX, Shard};
use crate::transfer::message_len;

/// Extents of a peer's queue that are read ahead of what is being sent to it, whatever its course.
const QUEUE_AHEAD: usize = 4;
/// The same of files in memory at most, where all peers together are bounded.
const QUEUE_AHEAD_IN_MEMORY: usize = 8;
/// Queued requests of a peer that are looked at for reading ahead.
const LOOK_AHEAD: usize = 128;
/// Bytes of one send at most: what a socket buffer takes at once on a fast link.
const BATCH: usize = 512 * 1024;

/// A piece just written is kept when it takes one part in so many of the cache at most.
const ADMITTED_PART: usize = 8;

impl Shard {
    /// Fills the next send of a connection: messages first, then as many requested blocks as are in memory.
    pub(crate) fn fill_batch(&mut self, key: SocketKey, index: usize, peer: PeerKey) {
        let now = self.now;
        let torrent =
            self.homes[index].torrent.as_mut().expect("open connections belong to running torrents");
        let out = torrent.out(now, peer);
        let messages = out.len() as u64;
        let traced = self.conns[key.index()].as_ref().is_some_and(|conn| conn.trace.is_some());
        if !out.is_empty() {
            if traced {
                let conn = self.conns[key.index()].as_mut().expect("called for a connection that lives");
                conn.trace.as_mut().expect("seen just now").sent(out);
            }
            self.ring.batch(key).bytes(out);
            out.clear();
        }
        let limited = self.is_limited(index, Way::Up);
        if limited && messages > 0 {
            self.count(key, index, Way::Up, messages);
        }
        let mut room = self.ring.batch_room(key, BATCH) as u64;
        // Tokens that this batch may spend, once it was asked.
        let mut tokens = None;
        while room > 0 && !self.ring.batch(key).is_full() && !(limited && self.is_held(key, Way::Up)) {
            let torrent = self.homes[index].torrent.as_mut().expect("checked above");
            let Some(block) = torrent.next_upload(peer) else { break };
            if !torrent.picker().have().has(block.piece) {
                torrent.refuse(peer, block);
                continue;
            }
            if limited {
                let cost = self.cost(key, message_len(block));
                let left = *tokens.get_or_insert_with(|| self.admit(key, index, Way::Up, cost));
                if left < cost {
                    self.homes[index].torrent.as_mut().expect("checked above").postpone(peer, block);
                    break;
                }
                tokens = Some(left - cost);
            }
            if !self.append_block(key, index, block) {
                self.homes[index].torrent.as_mut().expect("checked above").postpone(peer, block);
                break;
            }
            if limited {
                self.count(key, index, Way::Up, message_len(block));
            }
            room = room.saturating_sub(message_len(block));
        }
        if traced {
            let conn = self.conns[key.index()].as_mut().expect("called for a connection that lives");
            conn.trace.as_mut().expect("seen just now").sent_blocks(&conn.sending);
        }
        self.read_queue(key, index, peer);
        self.read_ahead(key, index, peer);
    }

    /// Appends a PIECE message to the batch; `false` when its bytes are not in memory yet.
    fn append_block(&mut self, key: SocketKey, index: usize, block: Block) -> bool {
        let torrent = self.homes[index].key;
        // A block spans two extents at most.
        let mut parts = [const { None }; 2];
        for (part, extent) in parts.iter_mut().zip(extents_of(torrent, block)) {
            match self.cache.find(extent) {
                Found::Ready(buf) => *part = Some((extent, buf)),
                found => {
                    self.wait_for(key, index, extent, matches!(found, Found::Reading));
                    return false;
                }
            }
        }
        self.ring.batch(key).bytes(&piece_header(block));
        for (extent, buf) in parts.into_iter().flatten() {
            self.visit(key, index, extent);
            let at = extent.nth * EXTENT;
            let (start, end) = (block.begin.max(at), (block.begin + block.len).min(at + buf.len() as u32));
            self.ring.batch(key).slot(&buf, (start - at) as usize, (end - start) as usize);
        }
        self.conn(key).expect("called for a connection that lives").sending.push(block);
        true
    }

    /// The connection has come to an extent that is in memory.
    fn visit(&mut self, key: SocketKey, index: usize, extent: ExtentKey) {
        let per_piece = per_piece(&self.homes[index].meta.geometry);
        let conn = self.conns[key.index()].as_mut().expect("called for a connection that lives");
        if conn.reader.visit(number_of(extent, per_piece), per_piece) {
            let waited = conn.waiting_for.take() == Some(extent);
            self.cache.stats.hits += u64::from(!waited);
            self.cache.used(extent);
        }
    }

    /// The connection waits for an extent; starts reading it if nobody does.
    fn wait_for(&mut self, key: SocketKey, index: usize, extent: ExtentKey, is_read: bool) {
        let conn = self.conns[key.index()].as_mut().expect("called for a connection that lives");
        let is_new = conn.waiting_for.replace(extent) != Some(extent);
        if !is_read && !self.read_extent(index, extent, Why::Asked) {
            let conn = self.conns[key.index()].as_mut().expect("called for a connection that lives");
            // It counts as new once it is found to be read.
            conn.waiting_for = None;
            if !std::mem::replace(&mut conn.hungry, true) {
                self.cache.wait_for_memory(key);
            }
            return;
        }
        if is_new {
            self.cache.stats.shared += u64::from(is_read);
            self.cache.stats.misses += u64::from(!is_read);
        }
        self.cache.wait_for(extent, key);
    }

    /// Starts reads for what the peer has asked for behind the blocks in the batch.
    fn read_queue(&mut self, key: SocketKey, index: usize, peer: PeerKey) {
        let conn = self.conns[key.index()].as_ref().expect("called for a connection that lives");
        let home = &self.homes[index];
        let in_memory = home.in_memory;
        let most =
            if in_memory { QUEUE_AHEAD_IN_MEMORY } else { QUEUE_AHEAD.max(conn.reader.window() as usize) };
        let torrent = home.torrent.as_ref().expect("open connections belong to running torrents");
        let mut wanted: [Option<ExtentKey>; WINDOW_MAX as usize] = [None; WINDOW_MAX as usize];
        let mut count = 0;
        let mut last = None;
        for block in torrent.upcoming_uploads(peer).take(LOOK_AHEAD) {
            let extent = extents_of(home.key, block).next();
            if extent == last || !torrent.picker().have().has(block.piece) {
                continue;
            }
            if count == most {
                break;
            }
            last = extent;
            wanted[count] = extent;
            count += 1;
        }
        for (nth, extent) in wanted.into_iter().flatten().enumerate() {
            if in_memory && nth > 0 && !self.cache.may_look_ahead() {
                return;
            }
            if !self.cache.contains(extent) && !self.read_extent(index, extent, Why::Asked) {
                return;
            }
        }
    }

    /// Starts reads for what the peer will probably ask for next, as far as there is memory for suspicions.
    fn read_ahead(&mut self, key: SocketKey, index: usize, peer: PeerKey) {
        let conn = self.conns[key.index()].as_ref().expect("called for a connection that lives");
        if conn.reader.window() == 0 {
            return;
        }
        let (geometry, in_memory) = (self.homes[index].meta.geometry, self.homes[index].in_memory);
        let (torrent_key, per_piece) = (self.homes[index].key, per_piece(&geometry));
        let total = u64::from(geometry.piece_count()) * u64::from(per_piece);
        for number in conn.reader.ahead(per_piece, total) {
            let extent = extent_of(torrent_key, number, per_piece);
            let torrent = self.homes[index].torrent.as_ref().expect("checked by the caller");
            let inside = extent.nth * EXTENT < geometry.piece_size(extent.piece);
            let has = torrent.picker().have().has(extent.piece) && !torrent.peer(peer).has(extent.piece);
            if !inside || !has || self.cache.contains(extent) {
                continue;
            }
            let len = range_of(&geometry, extent).1;
            if in_memory && !self.cache.may_look_ahead() {
                return;
            }
            if !self.cache.may_read_ahead(len) || !self.read_extent(index, extent, Why::Ahead(key)) {
                return;
            }
        }
    }

    /// Starts reading an extent that is neither there nor on its way. `false`: there is no room.
    fn read_extent(&mut self, index: usize, key: ExtentKey, why: Why) -> bool {
        if self.cache.reads() >= READS_MAX {
            return false;
        }
        let home = &self.homes[index];
        if home.relocations.is_fenced() {
            // Its files are being moved; those who wait are woken when they are there.
            return false;
        }
        let (begin, len) = range_of(&home.meta.geometry, key);
        let start = home.meta.geometry.piece_start(key.piece) + u64::from(begin);
        let place = Place { len, phase: home.spec.phase_at(start), in_memory: home.in_memory };
        let mut in_vain = Vec::new();
        let begun = self.cache.begin_read(key, place, why, &mut in_vain);
        self.note_waste(in_vain);
        let Some((tag, buf)) = begun else { return false };
        self.homes[index].busy += 1;
        self.storage.submit(StorageCmd::Read { torrent: key.torrent, tag, start, buf });
        true
    }

    pub(crate) fn on_upload_read(
        &mut self,
        index: usize,
        tag: u64,
        buf: PieceBuf,
        result: Result<(), StorageError>,
    ) {
        self.homes[index].busy -= 1;
        if let Some((key, waiters)) = self.cache.end_read(tag, buf, result.is_ok()) {
            match &result {
                Ok(()) => self.homes[index].reads.good(),
                // The data is there, but descriptors or kernel memory are not: again in a while, or the machine would
                // be asked all the time.
                Err(error) if error.kind() == ErrorKind::Exhausted => return self.wait_for_machine(waiters),
                Err(error) => self.read_failed(index, key.piece, error),
            }
            waiters.into_iter().for_each(|socket| self.queue(socket));
        }
        self.touch(index);
        self.wake_hungry();
    }

    /// Lets connections look again at the next tick, or when another read ends.
    fn wait_for_machine(&mut self, waiters: Vec<SocketKey>) {
        for socket in waiters {
            let Some(conn) = self.conn(socket) else { continue };
            if !std::mem::replace(&mut conn.hungry, true) {
                self.cache.wait_for_memory(socket);
            }
        }
    }

    /// Lets connections look again that found no memory: something let go of some.
    pub(crate) fn wake_hungry(&mut self) {
        for socket in self.cache.take_hungry() {
            if let Some(conn) = self.conn(socket) {
                conn.hungry = false;
            }
            self.queue(socket);
        }
    }

    /// Keeps a piece that was just written for the peers that will ask for it now, if there are any: a copy costs less than
    /// reading it back.
    pub(crate) fn admit_piece(&mut self, index: usize, piece: PieceIndex, buf: &PieceBuf) {
        let home = &self.homes[index];
        let geometry = home.meta.geometry;
        let is_awaited = home.torrent.as_ref().is_some_and(|torrent| torrent.is_awaited(piece));
        if !is_awaited || buf.len() > self.cache.capacity() / ADMITTED_PART {
            return;
        }
        let mut in_vain = Vec::new();
        for (nth, bytes) in buf.as_slice().chunks(EXTENT as usize).enumerate() {
            let extent = ExtentKey { torrent: home.key, piece, nth: nth as u32 };
            let start = geometry.piece_start(piece) + u64::from(range_of(&geometry, extent).0);
            if !self.cache.admit(extent, (home.spec.phase_at(start), home.in_memory), bytes, &mut in_vain) {
                break;
            }
        }
        self.note_waste(in_vain);
    }

    /// Extents were read for these connections and went unread.
    fn note_waste(&mut self, in_vain: Vec<SocketKey>) {
        for socket in in_vain {
            if let Some(conn) = self.conn(socket) {
                conn.reader.wasted();
            }
        }
    }
}

/// The number of an extent, counted through the torrent.
fn number_of(extent: ExtentKey, per_piece: u32) -> u64 {
    u64::from(extent.piece.0) * u64::from(per_piece) + u64::from(extent.nth)
}

fn extent_of(torrent: ccbt_protocol::ids::TorrentKey, number: u64, per_piece: u32) -> ExtentKey {
    let per_piece = u64::from(per_piece);
    ExtentKey { torrent, piece: PieceIndex((number / per_piece) as u32), nth: (number % per_piece) as u32 }
}

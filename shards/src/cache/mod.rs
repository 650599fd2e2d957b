//! Extents of files in memory, between the disk and the peers' sends.
//!
//! Role: holds the bytes and knows who waits for which; what stays is decided by [`ccbt_protocol::cache`]. Owner: the
//! shard, through [`crate::uploads`]. Invariants: an extent that a batch refers to is neither evicted nor overwritten;
//! its memory is a partition of its own, so uploads never starve downloads; an extent is read once however many peers
//! wait for it, and wakes only those; whoever found no memory is woken in turn as memory is let go of.
//!
//! For a disk all memory is used: reading twice costs more. For files in memory it is taken for a reason only: there is a
//! small share to begin with, and it grows by what readers need at once, and by what somebody comes back for that was let
//! go of for lack of it. Peers that read everything once, or follow each other closely, stay within a few MiB, which the
//! CPU caches hold; nothing is gained by touching more.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use ccbt_protocol::cache::Policy;
use ccbt_protocol::geometry::{Block, Geometry};
use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_storage::arena::{Partition, PieceBuf};

use crate::messages::CacheStats;
use crate::ring::SocketKey;

/// Bytes of an extent: what one disk read fetches. Large enough for a disk, small enough for hundreds to fit.
pub(crate) const EXTENT: u32 = 256 * 1024;
/// Names of evicted extents remembered: as many as extents of small pieces fit into the memory, within bounds.
const GHOST_BYTES: usize = 64 * 1024;
const GHOSTS_MIN: usize = 64;
const GHOSTS_MAX: usize = 65_536;
/// Memory used before there is a reason for more, with files in memory.
const SHARE_START: usize = 8 << 20;
/// Bytes by which the share grows for each byte that somebody came back for.
const SHARE_GROWTH: usize = 2;
/// Extents read on suspicion and not used yet may hold one part in so many of the memory.
const AHEAD_PART: usize = 4;
/// Bytes of files in memory that are read before somebody comes to them, if it is not the next thing he comes to. Enough
/// for the copies to be made while others are sent; what is more leaves the CPU caches before it is needed.
const AHEAD_IN_MEMORY: usize = 20 << 20;
/// Connections woken for each piece of memory let go of: a send frees about as many extents.
const WAKE: usize = 4;

/// A stretch of a piece, `EXTENT` bytes from a multiple of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ExtentKey {
    pub torrent: TorrentKey,
    pub piece: PieceIndex,
    pub nth: u32,
}

/// What memory an extent needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Bytes.
    pub len: u32,
    /// Their place on disk modulo the page.
    pub phase: u32,
    /// Its file is in memory: reading it again costs a copy and nothing else.
    pub in_memory: bool,
}

/// Why an extent is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// A peer has asked for it.
    Asked,
    /// This connection will probably ask for it.
    Ahead(SocketKey),
}

/// A read under way.
struct Read {
    key: ExtentKey,
    /// Its piece was lost meanwhile, and nobody wants the bytes.
    forgotten: bool,
    /// Bytes.
    len: usize,
    /// Bytes read on suspicion.
    ahead: usize,
}

enum Extent {
    Reading {
        waiters: Vec<SocketKey>,
        why: Why,
    },
    Ready {
        buf: Rc<PieceBuf>,
        /// Read on suspicion for this connection and not used so far.
        ahead: Option<SocketKey>,
        /// A reader has come to it.
        used: bool,
    },
}

/// What a look for an extent finds.
pub(crate) enum Found {
    Ready(Rc<PieceBuf>),
    Reading,
    Missing,
}

/// The extents in memory.
pub(crate) struct ReadCache {
    partition: Partition,
    /// Bytes of it that may be used, so far.
    share: usize,
    extents: HashMap<ExtentKey, Extent>,
    policy: Policy<ExtentKey>,
    /// Reads under way, by tag.
    reads: HashMap<u64, Read>,
    next_tag: u64,
    /// Memory of extents that were dropped while a batch still refers to them.
    orphans: Vec<Rc<PieceBuf>>,
    /// Connections that found no memory, each once.
    hungry: VecDeque<SocketKey>,
    /// Bytes read on suspicion, or being read, and not used yet.
    ahead_bytes: usize,
    /// Bytes in memory, or being read, that nobody has come to yet.
    unvisited: usize,
    pub stats: CacheStats,
}

impl ReadCache {
    pub fn new(bytes: usize) -> std::io::Result<Self> {
        let partition = Partition::new(bytes)?;
        let stats = CacheStats { capacity: partition.capacity() as u64, ..CacheStats::default() };
        Ok(Self {
            share: SHARE_START.min(partition.capacity()),
            partition,
            extents: HashMap::new(),
            policy: Policy::new((bytes / GHOST_BYTES).clamp(GHOSTS_MIN, GHOSTS_MAX)),
            reads: HashMap::new(),
            next_tag: 0,
            orphans: Vec::new(),
            hungry: VecDeque::new(),
            ahead_bytes: 0,
            unvisited: 0,
            stats,
        })
    }

    /// Bytes of memory.
    pub fn capacity(&self) -> usize {
        self.partition.capacity()
    }

    /// Reads under way.
    pub fn reads(&self) -> usize {
        self.reads.len()
    }

    pub fn find(&self, key: ExtentKey) -> Found {
        match self.extents.get(&key) {
            Some(Extent::Ready { buf, .. }) => Found::Ready(buf.clone()),
            Some(Extent::Reading { .. }) => Found::Reading,
            None => Found::Missing,
        }
    }

    pub fn contains(&self, key: ExtentKey) -> bool {
        self.extents.contains_key(&key)
    }

    /// A reader has come to this extent, which is ready.
    pub fn used(&mut self, key: ExtentKey) {
        self.policy.used(&key);
        let Some(Extent::Ready { buf, ahead, used }) = self.extents.get_mut(&key) else { return };
        if !std::mem::replace(used, true) {
            self.unvisited -= buf.len();
        }
        if ahead.take().is_some() {
            self.ahead_bytes -= buf.len();
            self.stats.ahead_used += 1;
        }
    }

    /// Wakes `socket` when the extent, which is being read, has come.
    pub fn wait_for(&mut self, key: ExtentKey, socket: SocketKey) {
        if let Some(Extent::Reading { waiters, .. }) = self.extents.get_mut(&key)
            && !waiters.contains(&socket)
        {
            waiters.push(socket);
        }
    }

    /// Wakes `socket` when there may be memory. To be called once until it is woken.
    pub fn wait_for_memory(&mut self, socket: SocketKey) {
        self.hungry.push_back(socket);
    }

    /// Whether so much more may be read on suspicion.
    pub fn may_read_ahead(&self, len: u32) -> bool {
        self.ahead_bytes + len as usize <= self.partition.capacity() / AHEAD_PART
    }

    /// Whether more of files in memory may be read before it is needed.
    pub fn may_look_ahead(&self) -> bool {
        self.unvisited < AHEAD_IN_MEMORY
    }

    /// Memory for an extent, if need be that of another one, and the connection for which that one was read in vain.
    fn alloc(&mut self, place: Place, in_vain: &mut Vec<SocketKey>) -> Option<PieceBuf> {
        let Place { len, phase, in_memory } = place;
        loop {
            let all = self.share >= self.partition.capacity();
            let fits = all || self.partition.used() + len as usize <= self.share;
            if fits && let Some(buf) = self.partition.alloc(len, phase) {
                return Some(buf);
            }
            if (fits || in_memory) && (self.reclaim_orphans() || self.evict(!fits, in_vain).is_some()) {
                continue;
            }
            if fits {
                return None;
            }
            // All of it is being read or sent, or somebody is on the way to it; or a disk would have to read it again.
            self.grow(len as usize);
        }
    }

    fn grow(&mut self, bytes: usize) {
        self.share = (self.share + bytes).min(self.partition.capacity());
    }

    /// Lets go of an extent that is not being sent; `only_used`: of one that a reader has come to.
    fn evict(&mut self, only_used: bool, in_vain: &mut Vec<SocketKey>) -> Option<()> {
        let extents = &self.extents;
        let idle = |key: &ExtentKey| match &extents[key] {
            Extent::Ready { buf, used, .. } => Rc::strong_count(buf) == 1 && (*used || !only_used),
            Extent::Reading { .. } => unreachable!("the policy knows what is ready only"),
        };
        let gone = self.policy.evict(idle)?;
        let Some(Extent::Ready { buf, ahead, used }) = self.extents.remove(&gone.key) else {
            unreachable!("the policy knows what is ready only")
        };
        self.stats.evictions += 1;
        self.unvisited -= if used { 0 } else { buf.len() };
        if let Some(socket) = ahead {
            self.ahead_bytes -= buf.len();
            self.stats.ahead_wasted += 1;
            in_vain.push(socket);
        }
        self.partition.free(Rc::try_unwrap(buf).expect("only idle extents are evicted"));
        Some(())
    }

    fn reclaim_orphans(&mut self) -> bool {
        let before = self.orphans.len();
        let mut at = 0;
        while at < self.orphans.len() {
            if Rc::strong_count(&self.orphans[at]) > 1 {
                at += 1;
                continue;
            }
            let buf = Rc::try_unwrap(self.orphans.swap_remove(at)).expect("counted just now");
            self.partition.free(buf);
        }
        self.orphans.len() < before
    }

    /// Starts reading an extent that is neither there nor on its way: the tag and the buffer of the read. `None`: there
    /// is no memory.
    pub fn begin_read(
        &mut self,
        key: ExtentKey,
        place: Place,
        why: Why,
        in_vain: &mut Vec<SocketKey>,
    ) -> Option<(u64, PieceBuf)> {
        let len = place.len;
        let mut buf = self.alloc(place, in_vain)?;
        buf.set_len(len);
        let tag = self.next_tag;
        self.next_tag += 1;
        let ahead = if why == Why::Asked { 0 } else { len as usize };
        self.reads.insert(tag, Read { key, forgotten: false, len: len as usize, ahead });
        self.unvisited += len as usize;
        self.ahead_bytes += ahead;
        self.stats.ahead_reads += u64::from(ahead > 0);
        let before = self.extents.insert(key, Extent::Reading { waiters: Vec::new(), why });
        assert!(before.is_none(), "an extent read twice");
        self.stats.reads += 1;
        self.stats.read_bytes += u64::from(len);
        Some((tag, buf))
    }

    /// A read has ended: what it was of, and who waited for it. `None`: nobody wants it any more.
    pub fn end_read(&mut self, tag: u64, buf: PieceBuf, ok: bool) -> Option<(ExtentKey, Vec<SocketKey>)> {
        let read = self.reads.remove(&tag).expect("an answer to a read that nobody asked for");
        if read.forgotten {
            self.ahead_bytes -= read.ahead;
            self.partition.free(buf);
            return None;
        }
        let key = read.key;
        let Some(Extent::Reading { waiters, why }) = self.extents.remove(&key) else {
            unreachable!("a read under way has its extent")
        };
        let ahead = match why {
            Why::Ahead(socket) if waiters.is_empty() && ok => Some(socket),
            Why::Ahead(_) => {
                // Somebody asked before it came, or it did not come.
                self.ahead_bytes -= read.ahead;
                self.stats.ahead_used += u64::from(ok);
                None
            }
            Why::Asked => None,
        };
        if ok {
            self.take_in(key, buf, ahead);
        } else {
            self.unvisited -= read.len;
            self.partition.free(buf);
        }
        Some((key, waiters))
    }

    /// Takes in a copy of bytes that are at hand, as if they had been read. Returns whether there was memory.
    pub fn admit(
        &mut self,
        key: ExtentKey,
        (phase, in_memory): (u32, bool),
        bytes: &[u8],
        in_vain: &mut Vec<SocketKey>,
    ) -> bool {
        if self.contains(key) {
            return true;
        }
        let place = Place { len: bytes.len() as u32, phase, in_memory };
        let Some(mut buf) = self.alloc(place, in_vain) else { return false };
        buf.as_mut_slice().copy_from_slice(bytes);
        self.unvisited += bytes.len();
        self.take_in(key, buf, None);
        self.stats.admitted += 1;
        true
    }

    fn take_in(&mut self, key: ExtentKey, buf: PieceBuf, ahead: Option<SocketKey>) {
        if self.policy.insert(key, buf.len() as u32) {
            self.grow(SHARE_GROWTH * buf.len());
        }
        self.extents.insert(key, Extent::Ready { buf: Rc::new(buf), ahead, used: false });
    }

    /// Lets go of a piece whose bytes on disk are not what they should be.
    pub fn forget_piece(&mut self, torrent: TorrentKey, piece: PieceIndex) {
        self.forget(|key| key.torrent == torrent && key.piece == piece);
    }

    /// Lets go of a torrent's extents.
    pub fn forget_torrent(&mut self, torrent: TorrentKey) {
        self.forget(|key| key.torrent == torrent);
    }

    fn forget(&mut self, which: impl Fn(&ExtentKey) -> bool) {
        let keys: Vec<ExtentKey> = self.extents.keys().filter(|key| which(key)).copied().collect();
        if keys.is_empty() {
            return;
        }
        self.policy.retain(|key| !which(key));
        for key in keys {
            match self.extents.remove(&key).expect("just seen") {
                Extent::Ready { buf, ahead, used } => {
                    self.unvisited -= if used { 0 } else { buf.len() };
                    self.ahead_bytes -= if ahead.is_some() { buf.len() } else { 0 };
                    match Rc::try_unwrap(buf) {
                        Ok(buf) => self.partition.free(buf),
                        Err(shared) => self.orphans.push(shared),
                    }
                }
                Extent::Reading { waiters, .. } => {
                    let read = self.reads.values_mut().find(|read| read.key == key && !read.forgotten);
                    let read = read.expect("a read under way has its tag");
                    read.forgotten = true;
                    self.unvisited -= read.len;
                    self.hungry.extend(waiters);
                }
            }
        }
    }

    /// The connections to wake now that memory may be had: some in turn, or all when no read is left to wake them later.
    pub fn take_hungry(&mut self) -> impl Iterator<Item = SocketKey> + use<> {
        let count = if self.reads.is_empty() { self.hungry.len() } else { WAKE.min(self.hungry.len()) };
        self.hungry.drain(..count).collect::<Vec<_>>().into_iter()
    }

    /// Whether somebody waits for memory.
    pub fn has_hungry(&self) -> bool {
        !self.hungry.is_empty()
    }

    /// The numbers so far.
    pub fn stats(&self) -> CacheStats {
        CacheStats { resident: self.policy.weight(), ..self.stats }
    }
}

/// The extents that hold `block`: one or two, since no block is longer than an extent.
pub(crate) fn extents_of(torrent: TorrentKey, block: Block) -> impl Iterator<Item = ExtentKey> {
    (block.begin / EXTENT..=(block.begin + block.len - 1) / EXTENT).map(move |nth| ExtentKey {
        torrent,
        piece: block.piece,
        nth,
    })
}

/// First byte within the piece, and length.
pub(crate) fn range_of(geometry: &Geometry, key: ExtentKey) -> (u32, u32) {
    let begin = key.nth * EXTENT;
    (begin, EXTENT.min(geometry.piece_size(key.piece) - begin))
}

/// Extents to a piece.
pub(crate) fn per_piece(geometry: &Geometry) -> u32 {
    geometry.piece_len().div_ceil(EXTENT)
}

#[cfg(test)]
mod tests;

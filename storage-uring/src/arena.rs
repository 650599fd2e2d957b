//! Page-aligned memory for pieces, under a hard ceiling.
//!
//! Role: one [`Partition`] per owner thread hands out [`PieceBuf`]s of any length; together the partitions are the
//! engine's memory ceiling. Owner: a partition belongs to one thread and takes no lock; buffers travel by value inside
//! messages and come back to the partition they were cut from. Invariant: no two live buffers share a page, and the
//! free extents plus the live ones tile the region. Called by shards (and the storage tests).
#![allow(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Bytes in an extent's unit; buffers start at any `phase` inside a page. Units: bytes.
pub const PAGE: usize = 4096;

/// How many free extents are looked at for the lowest address before the best fit is taken instead: keeps
/// [`Partition::alloc`] logarithmic however fragmented the region is.
const LOW_ADDRESS_PROBES: usize = 32;

static NEXT_REGION: AtomicU32 = AtomicU32::new(0);

/// One anonymous mapping, unmapped when the last holder goes.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    id: u32,
}

// SAFETY: the mapping is plain memory, owned by this value until drop; all access goes through `PieceBuf`s, which are
// disjoint ranges of it.
unsafe impl Send for Region {}
// SAFETY: `Region` itself reads and writes nothing through `base`.
unsafe impl Sync for Region {}

impl Region {
    /// Names the region within this process; never reused.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// First byte, page aligned.
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Bytes mapped, a multiple of [`PAGE`].
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a region has at least one page.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are those of our own mapping, and no `PieceBuf` (each holds an `Arc` of us) is left.
        unsafe { munmap(self.base.as_ptr().cast(), self.len) }.expect("unmapping our own region");
    }
}

/// One owner thread's share of the piece memory.
///
/// Memory is touched only when a buffer is written, so a large ceiling costs nothing until it is used.
#[derive(Debug)]
pub struct Partition {
    region: Arc<Region>,
    /// Free extents: first page → pages. Neighbours are always merged.
    by_start: BTreeMap<u32, u32>,
    /// The same extents as (pages, first page).
    by_size: BTreeSet<(u32, u32)>,
    used_pages: u32,
}

impl Partition {
    /// Reserves `bytes` (rounded down to pages, at least one page, at most 2^32 - 1 pages) of address space.
    /// Fails with `ENOMEM` when the address space or the overcommit limit does not allow it.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let pages = u32::try_from((bytes / PAGE).max(1)).map_err(|_| io::ErrorKind::InvalidInput)?;
        let len = pages as usize * PAGE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice overlaps nothing.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        // SAFETY: the range is the mapping made above. Huge pages are a wish, kernels without them refuse: no harm.
        let _ = unsafe { madvise(base, len, Advice::LinuxHugepage) };
        let base = NonNull::new(base.cast()).expect("mmap never maps address 0 unasked");
        let id = NEXT_REGION.fetch_add(1, Ordering::Relaxed);
        let region = Arc::new(Region { base, len, id });
        Ok(Self {
            region,
            by_start: BTreeMap::from([(0, pages)]),
            by_size: BTreeSet::from([(pages, 0)]),
            used_pages: 0,
        })
    }

    /// A buffer of `len` bytes whose address is `phase` modulo [`PAGE`], or `None` when no free extent is long enough.
    /// Low addresses first, so memory that is hot in the caches is reused. Panics when `len` is 0 or `phase` ≥ [`PAGE`].
    ///
    /// The bytes are those of an earlier user: overwrite all of them before showing them to anybody.
    pub fn alloc(&mut self, len: u32, phase: u32) -> Option<PieceBuf> {
        assert!(len > 0 && (phase as usize) < PAGE, "buffer of {len} bytes at phase {phase}");
        let pages = pages_for(len, phase);
        let lowest = self.by_start.iter().take(LOW_ADDRESS_PROBES).find(|(_, have)| **have >= pages);
        let (first, have) = match lowest {
            Some((&first, &have)) => (first, have),
            None => self.by_size.range((pages, 0)..).next().map(|&(have, first)| (first, have))?,
        };
        self.remove_extent(first, have);
        if have > pages {
            self.insert_extent(first + pages, have - pages);
        }
        self.used_pages += pages;
        let offset = first as usize * PAGE + phase as usize;
        Some(PieceBuf { region: self.region.clone(), offset, len, cap: len })
    }

    /// Takes a buffer back. Panics when it was cut from another partition.
    pub fn free(&mut self, buf: PieceBuf) {
        assert_eq!(buf.region.id, self.region.id, "a buffer returned to another partition");
        let mut first = (buf.offset / PAGE) as u32;
        let mut pages = pages_for(buf.cap, (buf.offset % PAGE) as u32);
        self.used_pages -= pages;
        if let Some((&before, &have)) = self.by_start.range(..first).next_back() {
            assert!(before + have <= first, "a page freed twice");
            if before + have == first {
                self.remove_extent(before, have);
                first = before;
                pages += have;
            }
        }
        if let Some((&after, &have)) = self.by_start.range(first..).next() {
            assert!(first + pages <= after, "a page freed twice");
            if first + pages == after {
                self.remove_extent(after, have);
                pages += have;
            }
        }
        self.insert_extent(first, pages);
    }

    /// The ceiling in bytes.
    pub fn capacity(&self) -> usize {
        self.region.len
    }

    /// Bytes of the pages that live buffers hold, alignment waste included.
    pub fn used(&self) -> usize {
        self.used_pages as usize * PAGE
    }

    /// The mapping behind this partition.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    fn insert_extent(&mut self, first: u32, pages: u32) {
        self.by_start.insert(first, pages);
        self.by_size.insert((pages, first));
    }

    fn remove_extent(&mut self, first: u32, pages: u32) {
        let known = self.by_start.remove(&first) == Some(pages) && self.by_size.remove(&(pages, first));
        assert!(known, "free extents are indexed twice");
    }
}

/// Pages that `len` bytes starting `phase` bytes into a page touch.
fn pages_for(len: u32, phase: u32) -> u32 {
    (phase as usize + len as usize).div_ceil(PAGE) as u32
}

/// A range of a [`Partition`] owned by whoever holds this value; it moves between threads with the messages.
///
/// Give it back with [`Partition::free`]. Dropping it instead leaks its extent until the whole partition and all its
/// other buffers are gone: that is safe, but the ceiling shrinks by it.
#[derive(Debug)]
pub struct PieceBuf {
    region: Arc<Region>,
    offset: usize,
    len: u32,
    cap: u32,
}

impl PieceBuf {
    /// Bytes in use.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no byte is in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that were asked for at [`Partition::alloc`].
    pub fn capacity(&self) -> usize {
        self.cap as usize
    }

    /// Changes the length in use. Panics beyond the capacity.
    pub fn set_len(&mut self, len: u32) {
        assert!(len <= self.cap, "length {len} of a buffer of {}", self.cap);
        self.len = len;
    }

    /// Cuts the buffer in two, the first with `at` bytes, to be given back one by one. Fails, giving it back whole, when
    /// the second would start within a page of the first, or the buffer is not longer than `at`.
    pub fn split(self, at: u32) -> Result<(Self, Self), Self> {
        let boundary = self.offset + at as usize;
        if !boundary.is_multiple_of(PAGE) || at == 0 || at >= self.len {
            return Err(self);
        }
        let rest =
            Self { region: self.region.clone(), offset: boundary, len: self.len - at, cap: self.cap - at };
        Ok((Self { len: at, cap: at, ..self }, rest))
    }

    /// Address of the first byte modulo [`PAGE`].
    pub fn phase(&self) -> u32 {
        (self.offset % PAGE) as u32
    }

    /// The bytes in use.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: offset + len lies in the region (checked by `alloc`), the range is ours alone, anonymous memory is
        // always initialised.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }

    /// The bytes in use, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` makes it the only borrow.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len()) }
    }

    /// First byte, valid for [`Self::capacity`] bytes while `self` lives, wherever `self` moves.
    pub fn as_ptr(&self) -> *const u8 {
        // SAFETY: `offset` lies in the region.
        unsafe { self.region.base.as_ptr().add(self.offset) }
    }

    /// First byte for writing, valid for [`Self::capacity`] bytes while `self` lives, wherever `self` moves.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.as_ptr().cast_mut()
    }

    /// The mapping it was cut from.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn low_addresses_are_reused() {
        let mut part = Partition::new(1 << 20).unwrap();
        let first = part.alloc(10_000, 0).unwrap();
        let second = part.alloc(10_000, 0).unwrap();
        let address = first.as_ptr();
        part.free(first);
        let third = part.alloc(5_000, 17).unwrap();
        assert_eq!(third.as_ptr().addr(), address.addr() + 17);
        assert_eq!(third.phase(), 17);
        part.free(second);
        part.free(third);
        assert_eq!(part.used(), 0);
    }

    #[test]
    fn the_ceiling_is_hard_and_whole() {
        let mut part = Partition::new(64 * 1024 + 5).unwrap();
        assert_eq!(part.capacity(), 64 * 1024);
        let whole = part.alloc(64 * 1024, 0).unwrap();
        assert!(part.alloc(1, 0).is_none());
        part.free(whole);
        assert!(part.alloc(64 * 1024, 1).is_none(), "the phase costs one page more");
        let dropped = part.alloc(4096, 0).unwrap();
        drop(dropped);
        assert_eq!(part.used(), 4096, "a dropped buffer stays charged");
    }

    #[test]
    fn buffers_outlive_their_partition() {
        let mut part = Partition::new(8192).unwrap();
        let mut buf = part.alloc(100, 5).unwrap();
        drop(part);
        buf.as_mut_slice().fill(7);
        buf.set_len(50);
        assert_eq!(buf.as_slice(), [7; 50]);
    }

    #[test]
    fn a_buffer_is_cut_between_pages_only() {
        let mut part = Partition::new(1 << 20).unwrap();
        let mut whole = part.alloc(20_000, 96).unwrap();
        whole.as_mut_slice().copy_from_slice(&(0..20_000).map(|at| (at / 79) as u8).collect::<Vec<_>>());
        let used = part.used();
        let whole = whole.split(8192).expect_err("the middle of a page");
        let whole = whole.split(32_768 - 96).expect_err("longer than it is");
        let (front, rest) = whole.split(8192 - 96).unwrap();
        assert_eq!((front.len(), front.phase(), rest.len(), rest.phase()), (8096, 96, 11_904, 0));
        assert_eq!((front.as_slice()[8095], rest.as_slice()[0]), ((8095 / 79) as u8, (8096 / 79) as u8));
        assert_eq!(part.used(), used);
        part.free(rest);
        assert_eq!(part.used(), 8192);
        part.free(front);
        assert_eq!(part.used(), 0);
        assert!(part.alloc(1 << 20, 0).is_some(), "all pages came back");
    }

    proptest! {
        #[test]
        fn live_buffers_never_overlap(steps in prop::collection::vec((1u32..60_000, 0u32..4096, any::<u16>()), 1..200)) {
            let mut part = Partition::new(1 << 20).unwrap();
            let mut live: Vec<(PieceBuf, u8)> = Vec::new();
            for (at, (len, phase, pick)) in steps.into_iter().enumerate() {
                if pick % 3 == 0 && !live.is_empty() {
                    let (buf, mark) = live.swap_remove(usize::from(pick) % live.len());
                    prop_assert!(buf.as_slice().iter().all(|byte| *byte == mark));
                    part.free(buf);
                } else if let Some(mut buf) = part.alloc(len, phase) {
                    prop_assert_eq!(buf.as_ptr().addr() % PAGE, phase as usize);
                    buf.as_mut_slice().fill(at as u8);
                    live.push((buf, at as u8));
                }
                let held: usize = live.iter().map(|(buf, _)| (buf.len() + buf.phase() as usize).div_ceil(PAGE) * PAGE).sum();
                prop_assert_eq!(part.used(), held);
            }
            for (buf, mark) in live {
                prop_assert!(buf.as_slice().iter().all(|byte| *byte == mark));
                part.free(buf);
            }
            prop_assert_eq!(part.used(), 0);
            prop_assert!(part.alloc(1 << 20, 0).is_some(), "all extents merged again");
        }
    }
}

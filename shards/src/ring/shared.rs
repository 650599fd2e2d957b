//! Receive buffers that the idle sockets of a ring share: the kernel takes one when bytes arrive, not before.
//!
//! Owner: the ring. Invariant: a buffer is the kernel's from [`SharedBuffers::give_back`] until a completion names it,
//! and its receiver's from then until it is given back. The memory outlives every receive that may use it. Provided
//! buffer rings are there since Linux 5.19.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use ccbt_storage::arena::{PAGE, Partition, PieceBuf};
use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// The group's number in the kernel.
pub const GROUP: u16 = 0;
/// Buffers: as many sockets can get bytes between two looks at the ring; others are served in the next turn. A power of
/// two, and the entries fill one page.
pub const COUNT: u16 = 256;
/// Bytes of one: small messages, and the start of a block that nobody expected.
pub const LEN: usize = 4096;

const ENTRIES_LEN: usize = COUNT as usize * size_of::<BufRingEntry>();

/// See the module.
pub struct SharedBuffers {
    /// The entries' page, then the buffers.
    memory: PieceBuf,
    tail: u16,
}

impl SharedBuffers {
    /// Registers buffers with `ring`. Fails where the kernel has no such rings.
    pub fn new(ring: &IoUring) -> io::Result<Self> {
        const { assert!(ENTRIES_LEN == PAGE && COUNT.is_power_of_two()) };
        let len = ENTRIES_LEN + usize::from(COUNT) * LEN;
        let memory = Partition::new(len)?.alloc(len as u32, 0).expect("all of the memory");
        let mut this = Self { memory, tail: 0 };
        // SAFETY: page-aligned memory of `COUNT` zeroed entries, which lives as long as `ring` has receives: the owner
        // lets go of it last, or never.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(this.entry(0).addr() as u64, COUNT, GROUP, 0)?
        };
        (0..COUNT).for_each(|id| this.give_back(id));
        Ok(this)
    }

    fn entry(&mut self, at: u16) -> *mut BufRingEntry {
        self.memory.as_mut_ptr().cast::<BufRingEntry>().wrapping_add(usize::from(at % COUNT))
    }

    /// Where buffer `id` starts in the memory.
    fn start(id: u16) -> usize {
        assert!(id < COUNT, "the kernel named buffer {id}");
        ENTRIES_LEN + usize::from(id) * LEN
    }

    /// The first `n` bytes of buffer `id`, which a completion named.
    pub fn bytes(&self, id: u16, n: usize) -> &[u8] {
        assert!(n <= LEN, "{n} bytes in a buffer of {LEN}");
        // SAFETY: in bounds and initialised (zero pages or earlier bytes); the kernel leaves the buffer alone until it is
        // given back, which takes `&mut self`. No slice covers the other buffers, which may be the kernel's.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(Self::start(id)), n) }
    }

    /// Lets the kernel use buffer `id` again.
    pub fn give_back(&mut self, id: u16) {
        let address = self.memory.as_ptr().addr() + Self::start(id);
        let entry = self.entry(self.tail);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the entry lies in our memory and behind the tail, where the kernel does not look; the buffer it names
        // is nobody's. The tail lies in the first entry, in a field that is not part of it, and is aligned.
        unsafe {
            (*entry).set_addr(address as u64);
            (*entry).set_len(LEN as u32);
            (*entry).set_bid(id);
            let tail = BufRingEntry::tail(self.entry(0)).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

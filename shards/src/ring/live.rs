//! A piece that the kernel may be writing into.
//!
//! Invariant: the buffer leaves a [`LivePiece`] only when no [`PiecePin`] is left, and each receive in flight holds a
//! pin for every piece it may write. Callers see to it that no two receives in flight, nor a receive and a
//! [`LivePiece::write`], cover the same bytes: a block is received in place for one peer only, and goes back to the
//! picker after that peer's receive has retired (see `torrents.rs`).

use std::cell::UnsafeCell;
use std::rc::Rc;

use ccbt_protocol::geometry::Block;
use ccbt_storage::arena::PieceBuf;

/// The buffer of a piece that is being downloaded.
pub struct LivePiece(Rc<UnsafeCell<PieceBuf>>);

/// Keeps a piece's memory in place while an operation is in flight.
pub struct PiecePin {
    _keep: Rc<UnsafeCell<PieceBuf>>,
}

impl LivePiece {
    /// Takes over `buf`, whose length is the piece's.
    pub fn new(buf: PieceBuf) -> Self {
        Self(Rc::new(UnsafeCell::new(buf)))
    }

    /// Length of the piece in bytes.
    pub fn len(&self) -> usize {
        // SAFETY: the length is fixed while the buffer lives here; nobody else forms a `&mut PieceBuf`.
        unsafe { &*self.0.get() }.len()
    }

    /// True for a piece without bytes, which no torrent has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn base(&self) -> *mut u8 {
        // SAFETY: only the pointer is read; the bytes behind it are not touched.
        unsafe { (*self.0.get()).as_mut_ptr() }
    }

    /// Copies `bytes` to offset `at`. Panics past the end.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len());
        // SAFETY: in bounds; `bytes` cannot overlap as `&mut self` excludes slices out of this piece, and no receive
        // in flight covers these bytes (module invariant).
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base().add(at), bytes.len()) }
    }

    /// What is at `at..at + len`. Panics past the end.
    pub fn read(&self, at: usize, len: usize) -> &[u8] {
        assert!(at + len <= self.len());
        // SAFETY: in bounds and initialised (the arena is zero pages or earlier data); `write` needs `&mut self`, and
        // no receive in flight covers these bytes (module invariant).
        unsafe { std::slice::from_raw_parts(self.base().add(at), len) }
    }

    /// A pin, and where a part of `block` lies.
    pub(super) fn place(&self, block: Block, offset: u32, len: u32) -> (PiecePin, *mut u8) {
        assert!(offset + len <= block.len && (block.begin + block.len) as usize <= self.len());
        // SAFETY: in bounds, checked above.
        (PiecePin { _keep: self.0.clone() }, unsafe { self.base().add((block.begin + offset) as usize) })
    }

    /// The buffer, when no receive in flight can write to it; else `self` again.
    pub fn try_take(self) -> Result<PieceBuf, Self> {
        Rc::try_unwrap(self.0).map(UnsafeCell::into_inner).map_err(Self)
    }

    /// Receives in flight that may still write into this piece.
    pub fn pins(&self) -> usize {
        Rc::strong_count(&self.0) - 1
    }
}

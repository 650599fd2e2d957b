//! The blocks a leeching generator still has to fetch.
//!
//! Role: hands out disjoint pieces to connections and takes back what a choke, reject or disconnect left undone.
//! Shared by the generator's threads behind one lock, taken once per piece and not per block.
//! Invariant: every block is handed out, returned or received; `received` counts each block once.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::payload::Payload;

/// Work left, for all connections of one run.
pub struct WorkPool {
    open: Mutex<VecDeque<Range<u64>>>,
    missing: AtomicU64,
}

impl WorkPool {
    /// All blocks of the payload, one range per piece.
    pub fn new(payload: &Payload) -> Self {
        let open = (0..payload.piece_count()).map(|piece| payload.blocks_of(piece)).collect();
        Self { open: Mutex::new(open), missing: AtomicU64::new(payload.block_count()) }
    }

    /// The next range of block numbers that nobody works on.
    pub fn take(&self) -> Option<Range<u64>> {
        self.lock().pop_front()
    }

    /// Gives back a range that was not received; empty ones vanish.
    pub fn give_back(&self, range: Range<u64>) {
        if !range.is_empty() {
            self.lock().push_front(range);
        }
    }

    /// Counts one block as received.
    pub fn received(&self) {
        self.missing.fetch_sub(1, Ordering::Relaxed);
    }

    /// Blocks not received yet.
    pub fn missing(&self) -> u64 {
        self.missing.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Range<u64>>> {
        self.open.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_once_and_returned_work_again() {
        let payload = Payload::new(1 << 20, 3 << 14).expect("valid sizes");
        let pool = WorkPool::new(&payload);
        let mut seen = Vec::new();
        let first = pool.take().expect("work");
        pool.give_back(first.start + 1..first.end);
        pool.give_back(5..5);
        seen.push(first.start);
        while let Some(range) = pool.take() {
            seen.extend(range);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..64).collect::<Vec<_>>());
        (0..64).for_each(|_| pool.received());
        assert_eq!(pool.missing(), 0);
    }
}

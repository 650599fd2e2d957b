//! Metadata for one peer: what it asked for, and how much more it may have.
//!
//! Owner: [`crate::peer::Peer`], from the first request on. Invariant: at most [`MAX_QUEUE`] requests wait, each four
//! bytes; a piece is copied only when the peer's earlier bytes have left, so one that does not read costs one piece.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Requests that wait at most; more are rejected.
const MAX_QUEUE: usize = 256;
/// Pieces that a peer may have at once: all of them twice, as after a bad whole, and some.
const BURST_ROUNDS: u32 = 2;
const BURST_EXTRA: u32 = 32;
/// Time after which one that has had all these may have another one: 16 KiB a second.
const REFILL: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Served {
    queue: VecDeque<u32>,
    credit: u32,
    full: u32,
    refilled: Instant,
}

impl Served {
    /// For metadata of `pieces` pieces.
    pub fn new(now: Instant, pieces: u32) -> Self {
        let full = pieces.saturating_mul(BURST_ROUNDS).saturating_add(BURST_EXTRA);
        Self { queue: VecDeque::new(), credit: full, full, refilled: now }
    }

    /// The peer asks for `piece`. False: it is to be rejected.
    pub fn request(&mut self, now: Instant, piece: u32) -> bool {
        let passed = now.saturating_duration_since(self.refilled).as_secs() / REFILL.as_secs();
        if passed > 0 {
            self.refilled = now;
            self.credit = self.credit.saturating_add(passed.min(u64::from(u32::MAX)) as u32).min(self.full);
        }
        if self.credit == 0 || self.queue.len() >= MAX_QUEUE {
            return false;
        }
        self.credit -= 1;
        self.queue.push_back(piece);
        true
    }

    /// The piece to send next.
    pub fn pop(&mut self) -> Option<u32> {
        self.queue.pop_front()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_twice_then_one_a_second() {
        let now = Instant::now();
        let mut served = Served::new(now, 10);
        let take = |served: &mut Served, now, pieces: u32| {
            (0..pieces).filter(|piece| served.request(now, *piece) && served.pop().is_some()).count()
        };
        assert_eq!(take(&mut served, now, 1000), 52);
        assert_eq!(take(&mut served, now + Duration::from_secs(3), 1000), 3);
        assert_eq!(take(&mut served, now + Duration::from_secs(9999), 1000), 52);
        assert!(served.is_empty());
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut served = Served::new(Instant::now(), 2000);
        let taken = (0..2000).filter(|piece| served.request(Instant::now(), *piece)).count();
        assert_eq!(taken, MAX_QUEUE);
        assert_eq!(served.pop(), Some(0));
    }
}

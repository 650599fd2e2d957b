//! Path MTU discovery (as RFC 8899): which packets pass the path whole, found by sending larger ones now and then.
//!
//! Packets that are known to pass and probes go out with DF. A probe is a packet with payload like any other; when it is
//! lost it is sent again in fragments, for a number keeps its bytes.

use super::{Micros, SECOND};

/// Packets that every path in practice passes (QUIC's choice as well): where the search begins.
const BASE: usize = 1200;
/// The search ends when it is as near as this.
const NEAR: usize = 16;
/// After this time it is done again: routes change.
const AGAIN: Micros = 600 * SECOND;
/// A probe is lost this often before it counts as too large.
const TRIES: u8 = 2;

/// The search. Units: bytes of a UDP payload, uTP header included.
#[derive(Debug)]
pub(super) struct MtuSearch {
    floor: usize,
    max: usize,
    /// Passes.
    current: usize,
    /// May pass.
    ceiling: usize,
    probing: bool,
    tries: u8,
    /// Of the next search, once this one has ended.
    again: Micros,
}

impl MtuSearch {
    /// `floor` passes everywhere, nothing above `max` is ever sent.
    pub fn new(floor: usize, max: usize) -> Self {
        let max = max.max(floor);
        Self { floor, max, current: BASE.clamp(floor, max), ceiling: max, probing: false, tries: 0, again: 0 }
    }

    /// Largest packet that may be sent.
    pub fn current(&self) -> usize {
        self.current
    }

    /// How large a probe would be of use now.
    pub fn wanted(&mut self, now: Micros) -> Option<usize> {
        if self.probing {
            return None;
        }
        if self.ceiling < self.current + NEAR && self.ceiling != self.max {
            if now < self.again {
                return None;
            }
            self.ceiling = self.max;
        }
        match self.ceiling - self.current {
            0 => None,
            // All that is allowed usually passes: that first.
            _ if self.ceiling == self.max => Some(self.max),
            gap => Some(self.current + gap.div_ceil(2)),
        }
    }

    pub fn sent(&mut self) {
        self.probing = true;
    }

    /// A probe was not sent after all.
    pub fn unsent(&mut self) {
        self.probing = false;
    }

    pub fn arrived(&mut self, size: usize) {
        self.probing = false;
        self.tries = 0;
        self.current = self.current.max(size.min(self.ceiling));
    }

    /// A probe was lost, or (`surely`) refused by our own host.
    pub fn lost(&mut self, now: Micros, size: usize, surely: bool) {
        self.probing = false;
        self.tries += 1;
        if surely || self.tries >= TRIES {
            self.tries = 0;
            self.ceiling = (size - 1).clamp(self.current, self.max);
            self.again = now + AGAIN;
        }
    }

    /// Packets that used to pass do not come back any more.
    pub fn black_hole(&mut self, now: Micros) {
        if self.current > self.floor {
            self.ceiling = self.current - 1;
            self.current = self.floor;
            (self.probing, self.tries) = (false, 0);
            self.again = now + AGAIN;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches on a path that passes `passes`; returns how many probes that took.
    fn search(mtu: &mut MtuSearch, passes: usize, now: Micros) -> usize {
        let mut probes = 0;
        while let Some(size) = mtu.wanted(now) {
            probes += 1;
            assert!(probes < 50 && size > mtu.current(), "{mtu:?}");
            mtu.sent();
            assert_eq!(mtu.wanted(now), None, "one at a time");
            if size <= passes { mtu.arrived(size) } else { mtu.lost(now, size, false) }
        }
        probes
    }

    #[test]
    fn finds_what_passes() {
        for passes in (1200..=1472).step_by(7) {
            let mut mtu = MtuSearch::new(548, 1472);
            let probes = search(&mut mtu, passes, 0);
            assert!(mtu.current() <= passes && mtu.current() + NEAR > passes, "{passes}: {mtu:?}");
            assert!(probes <= 14);
        }
        let mut mtu = MtuSearch::new(548, 1472);
        assert_eq!(search(&mut mtu, 1472, 0), 1, "the usual case takes one probe");
        assert_eq!(mtu.wanted(2 * AGAIN), None);
    }

    #[test]
    fn begins_anew_after_a_black_hole_and_after_a_while() {
        let mut mtu = MtuSearch::new(548, 1472);
        search(&mut mtu, 1472, 0);
        mtu.black_hole(0);
        assert_eq!(mtu.current(), 548);
        search(&mut mtu, 1000, 0);
        assert!((985..=1000).contains(&mtu.current()), "{mtu:?}");
        assert_eq!(mtu.wanted(AGAIN - 1), None);
        search(&mut mtu, 1472, AGAIN);
        assert_eq!(mtu.current(), 1472);
        let mut small = MtuSearch::new(548, 900);
        assert_eq!((small.current(), small.wanted(0)), (900, None));
        small.black_hole(0);
        assert_eq!(small.current(), 548);
    }
}

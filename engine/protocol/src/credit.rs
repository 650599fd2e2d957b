//! How often a stranger may do something: some at once, then one in each time.
//!
//! Owner: a value for each connection. Called for messages that cost more than they are worth ([`crate::pex`],
//! [`crate::holepunch`]). Invariant: in any time `t` at most `BURST + t / PACE_SECS` pass.

use std::time::{Duration, Instant};

/// `BURST` at once, and one more after each `PACE_SECS`.
#[derive(Clone, Copy, Debug)]
pub struct Credit<const BURST: u32, const PACE_SECS: u64> {
    left: u32,
    since: Instant,
}

impl<const BURST: u32, const PACE_SECS: u64> Credit<BURST, PACE_SECS> {
    /// Full.
    pub fn new(now: Instant) -> Self {
        Self { left: BURST, since: now }
    }

    /// Whether another one may pass; it counts.
    pub fn pass(&mut self, now: Instant) -> bool {
        let pace = Duration::from_secs(PACE_SECS);
        while self.left < BURST && now.saturating_duration_since(self.since) >= pace {
            self.left += 1;
            self.since += pace;
        }
        if self.left == BURST {
            self.since = now;
        }
        let passes = self.left > 0;
        self.left = self.left.saturating_sub(1);
        passes
    }
}

//! Rate meters and token buckets.

use std::time::{Duration, Instant};

/// Bytes per second over the last 20 s.
#[derive(Clone, Debug)]
pub struct RateMeter {}

#[allow(unused_variables, missing_docs)]
impl RateMeter {
    pub fn new(now: Instant) -> Self { todo!() }
    pub fn add(&mut self, now: Instant, bytes: u64) { todo!() }
    pub fn rate(&mut self, now: Instant) -> u64 { todo!() }
}

/// A rate limit; rate 0 = unlimited.
#[derive(Clone, Debug)]
pub struct TokenBucket {}

#[allow(unused_variables, missing_docs)]
impl TokenBucket {
    pub fn new(now: Instant, rate: u64, burst: u64) -> Self { todo!() }
    pub fn set_rate(&mut self, now: Instant, rate: u64, burst: u64) { todo!() }
    pub fn is_unlimited(&self) -> bool { todo!() }
    /// Bytes that may pass now; `u64::MAX` when unlimited, 0 while in debt.
    pub fn available(&mut self, now: Instant) -> u64 { todo!() }
    /// Counts bytes that have passed; may go into debt.
    pub fn consume(&mut self, bytes: u64) { todo!() }
    /// Time until `bytes` (at most the burst) may pass; zero when they may now.
    pub fn wait_for(&mut self, now: Instant, bytes: u64) -> Duration { todo!() }
}

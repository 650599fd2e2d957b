//! A limit that several shards share: one bucket, dealt out to those who ask.
//!
//! Role: a shard that wants tokens asks for them, and everything that comes in is split evenly over those that ask at
//! the time, except that nobody gets more than it asked for (max-min fairness). So a shard that needs little leaves the
//! rest to others at once, and no forecast of anybody's demand is needed. Owner: one shard, the keeper of the limit.
//! Invariants: what is dealt never exceeds what has come in; whoever asks is served before anybody is served twice.

use std::time::{Duration, Instant};

use super::{LEAST, TokenBucket, burst};

/// The tokens of a limit and those who wait for some.
#[derive(Clone, Debug)]
pub struct SharedBucket {
    bucket: TokenBucket,
    /// Shards with what they want.
    asking: Vec<(usize, u64)>,
    /// Of each shard, how many were served before it was served last: who waits longest is next. The order in which
    /// they ask does not tell, because all who were served ask again at the same time.
    served: Vec<u64>,
    /// How many were served.
    turns: u64,
}

impl SharedBucket {
    /// `rate` bytes per second, more than 0.
    pub fn new(now: Instant, rate: u64) -> Self {
        let bucket = TokenBucket::new(now, rate, burst(rate));
        Self { bucket, asking: Vec::new(), served: Vec::new(), turns: 0 }
    }

    /// Changes the limit; those who wait go on waiting.
    pub fn set_rate(&mut self, now: Instant, rate: u64) {
        self.bucket.set_rate(now, rate, burst(rate));
    }

    /// `shard` wants tokens; of two requests the later one holds.
    pub fn ask(&mut self, shard: usize, bytes: u64) {
        match self.asking.iter_mut().find(|(asking, _)| *asking == shard) {
            Some((_, wanted)) => *wanted = bytes,
            None => self.asking.push((shard, bytes)),
        }
        if self.served.len() <= shard {
            self.served.resize(shard + 1, 0);
        }
    }

    /// Whether anybody waits.
    pub fn is_asked(&self) -> bool {
        !self.asking.is_empty()
    }

    /// `shard` does not ask any more.
    pub fn forget(&mut self, shard: usize) {
        self.asking.retain(|(asking, _)| *asking != shard);
    }

    /// Deals out what has come in, once there is enough for it to be worth while: (shard, tokens) are appended to
    /// `grants`, and the requests of these shards are answered by that.
    pub fn deal(&mut self, now: Instant, grants: &mut Vec<(usize, u64)>) {
        let mut available = self.bucket.available(now);
        if self.asking.is_empty() || available < self.enough() {
            return;
        }
        // Crumbs for many would cost more than they are worth: those who waited longest get something, the others next
        // time.
        let count = (available / LEAST).clamp(1, self.asking.len() as u64) as usize;
        self.asking.sort_by_key(|(shard, _)| self.served[*shard]);
        for (shard, _) in &self.asking[..count] {
            self.turns += 1;
            self.served[*shard] = self.turns;
        }
        let first = grants.len();
        grants.extend(self.asking.drain(..count));
        // Whoever wants little leaves more to the others.
        grants[first..].sort_by_key(|(_, wanted)| *wanted);
        for (nth, (_, bytes)) in grants[first..].iter_mut().enumerate() {
            *bytes = (*bytes).min(available / (count - nth) as u64);
            available -= *bytes;
            self.bucket.consume(*bytes);
        }
    }

    /// Time until [`Self::deal`] has something to deal; `None` while nobody asks.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        if self.asking.is_empty() {
            return None;
        }
        let enough = self.enough();
        Some(self.bucket.wait_for(now, enough))
    }

    /// 5 ms' worth, or everything that is wanted.
    fn enough(&self) -> u64 {
        let wanted = self.asking.iter().fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        (self.bucket.rate() / 200).max(LEAST).min(wanted)
    }
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;

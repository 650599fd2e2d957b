//! A limit that several shards share: one bucket, dealt out to those who ask.
//!
//! Role: a shard that wants tokens asks for them, and everything that comes in is split evenly over those that ask, except
//! that nobody gets more than it asked for (max-min fairness). So a shard that needs little leaves the rest to others at
//! once, and no forecast of anybody's demand is needed. A shard that got less than it wanted has its part set aside until
//! its next request arrives, which is on its way: otherwise who asks while others' requests travel would get all there is,
//! again and again. Owner: one shard, the keeper of the limit. Invariants: what is dealt never exceeds what has come in;
//! nobody gets ahead of the others by more than a block.

use std::time::{Duration, Instant};

use super::{LEAST, TokenBucket, burst};

/// How long tokens are set aside for a shard that has not asked again.
const BACK_SOON: Duration = Duration::from_millis(20);

/// The tokens of a limit and those who wait for some.
#[derive(Clone, Debug)]
pub struct SharedBucket {
    bucket: TokenBucket,
    /// Shards with what they want.
    asking: Vec<(usize, u64)>,
    /// By shard.
    accounts: Vec<Account>,
    /// How many were served.
    turns: u64,
}

/// What a shard is due.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Its part of the tokens in the bucket; less than 0 when it was given more than its part.
    credit: i64,
    /// When it was given less than it wanted. It has not asked since.
    unmet: Option<Instant>,
    /// How many were served before it was served last: of equals, who waits longest is next.
    served: u64,
}

impl SharedBucket {
    /// `rate` bytes per second, more than 0.
    pub fn new(now: Instant, rate: u64) -> Self {
        let bucket = TokenBucket::new(now, rate, burst(rate));
        Self { bucket, asking: Vec::new(), accounts: Vec::new(), turns: 0 }
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
        if self.accounts.len() <= shard {
            self.accounts.resize(shard + 1, Account::default());
        }
        self.accounts[shard].unmet = None;
    }

    /// Whether anybody waits.
    pub fn is_asked(&self) -> bool {
        !self.asking.is_empty()
    }

    /// `shard` does not ask any more.
    pub fn forget(&mut self, shard: usize) {
        self.asking.retain(|(asking, _)| *asking != shard);
        if let Some(account) = self.accounts.get_mut(shard) {
            *account = Account::default();
        }
    }

    /// Deals out what has come in, once there is enough for it to be worth while: (shard, tokens) are appended to
    /// `grants`, and the requests of these shards are answered by that.
    pub fn deal(&mut self, now: Instant, grants: &mut Vec<(usize, u64)>) {
        self.expire(now);
        let mut available = self.bucket.available(now);
        if self.asking.is_empty() || available < self.enough() {
            return;
        }
        self.credit(available);
        let accounts = &self.accounts;
        self.asking.sort_by_key(|(shard, _)| (-accounts[*shard].credit, accounts[*shard].served));
        // Crumbs for many would cost more than they are worth: those who are due most get something, the others next time.
        let due = |(shard, wanted): &(usize, u64)| accounts[*shard].credit >= (*wanted).min(LEAST) as i64;
        let count = self.asking.iter().filter(|asking| due(asking)).count();
        let first = grants.len();
        match count {
            0 => grants.push((self.asking[0].0, LEAST.min(available))),
            _ => grants.extend(
                self.asking
                    .iter()
                    .filter(|asking| due(asking))
                    .map(|(shard, _)| (*shard, accounts[*shard].credit as u64)),
            ),
        }
        for (shard, bytes) in &mut grants[first..] {
            let nth = self.asking.iter().position(|(asking, _)| asking == shard).expect("taken from there");
            let (_, wanted) = self.asking.remove(nth);
            // After a limit was lowered there may be less than all are due.
            *bytes = wanted.min(*bytes).min(available);
            available -= *bytes;
            self.bucket.consume(*bytes);
            self.turns += 1;
            let account = &mut self.accounts[*shard];
            let is_met = *bytes == wanted;
            *account = Account {
                credit: if is_met { 0 } else { account.credit - *bytes as i64 },
                unmet: (!is_met).then_some(now),
                served: self.turns,
            };
        }
    }

    /// Gives back what was set aside for shards that did not come for it.
    fn expire(&mut self, now: Instant) {
        for account in &mut self.accounts {
            if account.unmet.is_some_and(|since| now.duration_since(since) >= BACK_SOON) {
                (account.credit, account.unmet) = (0, None);
            }
        }
    }

    /// Splits what has come in over those that ask, and those that will.
    fn credit(&mut self, available: u64) {
        let held: i64 = self.accounts.iter().map(|account| account.credit).sum();
        let mut new = available as i64 - held;
        let absent = self.accounts.iter().enumerate().filter(|(_, account)| account.unmet.is_some());
        let mut wants: Vec<(i64, usize)> = absent.map(|(shard, _)| (i64::MAX, shard)).collect();
        wants.extend(self.asking.iter().map(|(shard, wanted)| {
            let wanted = i64::try_from(*wanted).unwrap_or(i64::MAX);
            (wanted.saturating_sub(self.accounts[*shard].credit).max(0), *shard)
        }));
        // Whoever wants little leaves more to the others.
        wants.sort_unstable();
        let mut left = wants.len() as i64;
        for (want, shard) in wants {
            let part = want.min(new.max(0) / left);
            self.accounts[shard].credit += part;
            new -= part;
            left -= 1;
        }
    }

    /// Time until [`Self::deal`] has something to deal, or less is set aside; `None` while nobody asks.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        if self.asking.is_empty() {
            return None;
        }
        self.expire(now);
        let enough = self.enough();
        let wait = self.bucket.wait_for(now, enough);
        let absent = self.accounts.iter().filter_map(|account| account.unmet);
        Some(
            absent.map(|since| BACK_SOON.saturating_sub(now.duration_since(since))).fold(wait, Duration::min),
        )
    }

    /// 5 ms' worth, or everything that is wanted, beside what is set aside.
    fn enough(&self) -> u64 {
        let wanted = self.asking.iter().fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        let absent = self.accounts.iter().filter(|account| account.unmet.is_some());
        let aside: u64 = absent.map(|account| account.credit.max(0) as u64).sum();
        aside + (self.bucket.rate() / 200).max(LEAST).min(wanted)
    }
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;

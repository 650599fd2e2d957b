//! A shard's share of a limit: tokens that it may spend without asking anybody.
//!
//! Owner: a shard, one per limit and direction. Tokens come from the limit's [`super::SharedBucket`], which may be
//! another shard's. Invariant: at most one request for tokens is under way.

use super::LEAST;

/// Tokens at hand; everything may pass while there is no limit, which is how it begins.
#[derive(Clone, Debug, Default)]
pub struct Quota {
    rate: u64,
    tokens: i64,
    asked: bool,
}

impl Quota {
    /// The limit that this is a share of, in bytes per second; 0 = unlimited.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// The limit has changed. Tokens at hand stay as far as they fit; a limit that is new begins with none.
    pub fn set_rate(&mut self, rate: u64) {
        if self.rate == 0 || rate == 0 {
            *self = Self::default();
        }
        self.rate = rate;
        let most = self.capacity();
        self.tokens = self.tokens.clamp(-most, most);
    }

    /// Whether everything may pass.
    pub fn is_unlimited(&self) -> bool {
        self.rate == 0
    }

    /// Bytes that may pass now; `u64::MAX` when unlimited, 0 while in debt.
    pub fn available(&self) -> u64 {
        if self.is_unlimited() { u64::MAX } else { self.tokens.max(0) as u64 }
    }

    /// Tokens at hand; less than 0 while in debt.
    #[cfg(test)]
    pub(super) fn tokens(&self) -> i64 {
        self.tokens
    }

    /// Counts bytes that pass; may go into debt.
    pub fn consume(&mut self, bytes: u64) {
        if !self.is_unlimited() {
            self.tokens = self.tokens.saturating_sub_unsigned(bytes);
        }
    }

    /// Tokens that came, or that were counted for bytes which did not pass.
    pub fn give(&mut self, bytes: u64) {
        if !self.is_unlimited() {
            self.tokens = self.tokens.saturating_add_unsigned(bytes);
        }
    }

    /// Tokens to ask for now, when there is a limit, few are left and none were asked for: `need` are wanted at once.
    /// [`Self::answered`] ends the request.
    pub fn ask(&mut self, need: u64) -> Option<u64> {
        let need = i64::try_from(need).unwrap_or(i64::MAX);
        let most = self.capacity().max(need);
        if self.is_unlimited() || self.asked || self.tokens >= need.max(self.capacity() / 2) {
            return None;
        }
        self.asked = true;
        Some(most.abs_diff(self.tokens))
    }

    /// Tokens that were asked for have come.
    pub fn answered(&mut self, bytes: u64) {
        self.asked = false;
        self.give(bytes);
    }

    /// 20 ms' worth, and a block at least: what a shard may hold, and what it spends while its requests are on their
    /// way.
    fn capacity(&self) -> i64 {
        i64::try_from((self.rate / 50).max(LEAST)).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_once_and_before_it_is_empty() {
        let mut quota = Quota::default();
        assert_eq!((quota.available(), quota.ask(9)), (u64::MAX, None));
        quota.consume(1 << 40);
        quota.set_rate(50_000_000);
        assert_eq!((quota.available(), quota.ask(0), quota.ask(0)), (0, Some(1_000_000), None));
        quota.answered(600_000);
        assert_eq!((quota.available(), quota.ask(0)), (600_000, None));
        assert_eq!(quota.ask(700_000), Some(400_000), "more is needed than there is");
        quota.answered(0);
        quota.consume(200_000);
        assert_eq!(quota.ask(0), Some(600_000));
        quota.answered(600_000);
        quota.consume(1_500_000);
        assert_eq!((quota.available(), quota.ask(2_000_000)), (0, Some(2_500_000)), "debt is paid, too");
    }

    #[test]
    fn a_lower_limit_cuts_what_is_at_hand() {
        let mut quota = Quota::default();
        quota.set_rate(50_000_000);
        quota.give(1_000_000);
        quota.set_rate(5_000_000);
        assert_eq!(quota.available(), 100_000);
        quota.consume(1_000_000);
        quota.set_rate(500_000);
        quota.give(LEAST);
        assert_eq!(quota.available(), 0);
        quota.give(1);
        assert_eq!(quota.available(), 1);
        quota.set_rate(0);
        assert_eq!(quota.available(), u64::MAX);
        quota.set_rate(1);
        assert_eq!(quota.available(), 0);
    }
}

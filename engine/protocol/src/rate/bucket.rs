//! How much may pass.
//!
//! Owner: [`super::SharedBucket`], or one connection with a limit of its own. Invariant: the arithmetic is exact, so
//! that no rate drifts however often it is asked.

use std::time::{Duration, Instant};

use super::NANOS;

/// A rate limit; rate 0 = unlimited.
///
/// Tokens are bytes. They come at `rate` per second, up to `burst`; what has passed is taken off, into debt if need
/// be, because a receive's length is only known afterwards. The fraction of a byte that a refill leaves over is
/// carried into the next one.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate: u64,
    burst: i64,
    tokens: i64,
    /// Billionths of a byte, less than one byte.
    carry: u64,
    refilled: Instant,
}

impl TokenBucket {
    /// An empty bucket: `rate` bytes per second (0 = unlimited), at most `burst` bytes at once (0 counts as 1).
    pub fn new(now: Instant, rate: u64, burst: u64) -> Self {
        Self { rate, burst: burst_of(burst), tokens: 0, carry: 0, refilled: now }
    }

    /// Bytes per second; 0 = unlimited.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Changes the limit. Tokens and debt stay, as far as the new burst allows: a debt made at a high rate is not
    /// paid off at a low one for minutes. A bucket that was unlimited starts empty.
    pub fn set_rate(&mut self, now: Instant, rate: u64, burst: u64) {
        self.refill(now);
        let was_unlimited = self.is_unlimited();
        self.rate = rate;
        self.burst = burst_of(burst);
        self.tokens = if was_unlimited { 0 } else { self.tokens.clamp(-self.burst, self.burst) };
        self.carry = 0;
    }

    /// Whether everything may pass.
    pub fn is_unlimited(&self) -> bool {
        self.rate == 0
    }

    /// Bytes that may pass now; `u64::MAX` when unlimited, 0 while in debt.
    pub fn available(&mut self, now: Instant) -> u64 {
        if self.is_unlimited() {
            return u64::MAX;
        }
        self.refill(now);
        self.tokens.max(0) as u64
    }

    /// Counts bytes that have passed; may go into debt.
    pub fn consume(&mut self, bytes: u64) {
        if !self.is_unlimited() {
            self.tokens = self.tokens.saturating_sub_unsigned(bytes);
        }
    }

    /// Takes back bytes that were counted and did not pass.
    pub fn give_back(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_add_unsigned(bytes).min(self.burst);
    }

    /// Time until `bytes` (at most the burst) may pass; zero when they may now.
    pub fn wait_for(&mut self, now: Instant, bytes: u64) -> Duration {
        if self.is_unlimited() {
            return Duration::ZERO;
        }
        self.refill(now);
        let wanted = i64::try_from(bytes).unwrap_or(i64::MAX).min(self.burst);
        if wanted <= self.tokens {
            return Duration::ZERO;
        }
        let missing = (i128::from(wanted) - i128::from(self.tokens)) as u128;
        let nanos = (missing * u128::from(NANOS) - u128::from(self.carry)).div_ceil(u128::from(self.rate));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled);
        self.refilled = self.refilled.max(now);
        if self.is_unlimited() || elapsed.is_zero() {
            return;
        }
        let gained = u128::from(self.rate) * elapsed.as_nanos() + u128::from(self.carry);
        // 64-bit division does for all but the longest pauses.
        let (bytes, carry) = match u64::try_from(gained) {
            Ok(gained) => (gained / NANOS, gained % NANOS),
            Err(_) => (
                u64::try_from(gained / u128::from(NANOS)).unwrap_or(u64::MAX),
                (gained % u128::from(NANOS)) as u64,
            ),
        };
        self.tokens = self.tokens.saturating_add_unsigned(bytes);
        self.carry = carry;
        if self.tokens >= self.burst {
            self.tokens = self.burst;
            self.carry = 0;
        }
    }
}

fn burst_of(burst: u64) -> i64 {
    i64::try_from(burst).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whoever sends as the bucket says reaches the set rate, within 1 %, from 64 KiB/s to 2 GB/s.
        #[test]
        fn bucket_is_exact_over_time(rate in prop_oneof![65_536u64..1_000_000, 1_000_000u64..2_000_000_000],
                                     chunk in 1_000u64..300_000, lag_us in 0u64..3_000) {
            let start = Instant::now();
            // Room for what comes while nobody looks.
            let burst = 2 * chunk + rate / 50;
            let mut bucket = TokenBucket::new(start, rate, burst);
            let (mut now, mut sent, mut steps) = (start, 0u64, 0);
            let end = start + Duration::from_secs(60);
            while now < end && steps < 200_000 {
                steps += 1;
                let wait = bucket.wait_for(now, chunk);
                if wait.is_zero() {
                    // Receives are rarely as long as was asked: some go into debt.
                    let bytes = chunk + chunk / 3 * (steps % 2);
                    prop_assert!(bucket.available(now) >= chunk);
                    bucket.consume(bytes);
                    sent += bytes;
                } else {
                    now += wait;
                    prop_assert!(bucket.wait_for(now, chunk).is_zero());
                    now += Duration::from_micros(lag_us.min(wait.as_micros() as u64));
                }
            }
            let ideal = rate as f64 * now.duration_since(start).as_secs_f64();
            let slack = (2 * burst + 2 * chunk) as f64;
            prop_assert!((sent as f64 - ideal).abs() <= ideal / 100.0 + slack, "{} of {}", sent, ideal);
        }

        #[test]
        fn asking_often_changes_nothing(
            rate in 1u64..5_000_000_000,
            steps in prop::collection::vec(1u64..5_000_000, 1..200),
        ) {
            let start = Instant::now();
            let burst = rate.saturating_mul(10);
            let (mut often, mut once) = (TokenBucket::new(start, rate, burst), TokenBucket::new(start, rate, burst));
            let mut now = start;
            for step in steps {
                now += Duration::from_nanos(step);
                often.available(now);
            }
            prop_assert_eq!(often.available(now), once.available(now));
        }
    }

    #[test]
    fn bucket_bounds() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start - Duration::from_secs(1), 1000, 500);
        assert_eq!(bucket.available(start), 500);
        bucket.consume(1500);
        assert_eq!(bucket.available(start), 0);
        assert_eq!(bucket.wait_for(start, 1), Duration::from_millis(1001));
        // No more than the burst is ever asked for, so this ends.
        assert_eq!(bucket.wait_for(start, u64::MAX), Duration::from_millis(1500));
        assert_eq!(bucket.available(start + Duration::from_secs(1_000_000_000)), 500);
        let mut never_full = TokenBucket::new(start - Duration::from_secs(1), 7, 0);
        assert_eq!(never_full.available(start), 1);
        never_full.consume(u64::MAX);
        assert_eq!(never_full.available(start + Duration::from_secs(1)), 0);
    }

    #[test]
    fn a_limit_that_comes_back_starts_empty_and_nothing_fills_it_over_its_burst() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut bucket = TokenBucket::new(start, 100, 1000);
        assert_eq!(bucket.available(start + second * 5), 500);
        bucket.set_rate(start + second * 5, 0, 0);
        bucket.set_rate(start + second * 6, 100, 1000);
        assert_eq!(bucket.available(start + second * 6), 0, "what was saved up before counts no more");
        bucket.give_back(5000);
        assert_eq!(bucket.available(start + second * 6), 1000);
    }

    #[test]
    fn changing_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start, 0, 0);
        assert!(bucket.is_unlimited());
        bucket.consume(1 << 40);
        assert_eq!((bucket.available(start), bucket.wait_for(start, 9)), (u64::MAX, Duration::ZERO));
        let later = start + Duration::from_secs(5);
        bucket.set_rate(later, 100, 1000);
        assert_eq!(bucket.available(later), 0);
        bucket.consume(1 << 30);
        bucket.set_rate(later, 10, 50);
        assert_eq!(bucket.wait_for(later, 50), Duration::from_secs(10));
        bucket.set_rate(later + Duration::from_secs(7), 10, 30);
        assert_eq!(bucket.available(later + Duration::from_secs(7)), 20);
        bucket.set_rate(later + Duration::from_secs(7), 0, 0);
        assert_eq!(bucket.available(later), u64::MAX);
    }
}

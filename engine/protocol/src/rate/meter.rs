//! How much passed lately.
//!
//! Owner: a meter belongs to one peer or torrent and is fed once per block. Invariant: `total` is the sum of the
//! buckets.

use std::time::{Duration, Instant};

use super::NANOS;

/// One bucket per second of the window, the current one included.
const BUCKETS: usize = 20;

/// Bytes per second over the last 20 s.
#[derive(Clone, Debug)]
pub struct RateMeter {
    start: Instant,
    /// Whole seconds from `start` to the current bucket.
    second: u64,
    /// Position of the current bucket.
    at: usize,
    total: u64,
    /// From the first byte until the window is empty: most of the time most connections are silent.
    buckets: Option<Box<[u64; BUCKETS]>>,
}

impl RateMeter {
    /// A meter that has seen nothing; its time begins at `now`.
    pub fn new(now: Instant) -> Self {
        Self { start: now, second: 0, at: 0, total: 0, buckets: None }
    }

    /// Counts `bytes` that passed at `now`. Cheap enough to be called for every block.
    #[inline]
    pub fn add(&mut self, now: Instant, bytes: u64) {
        let second = now.saturating_duration_since(self.start).as_secs();
        if second > self.second {
            self.advance(second);
        }
        self.buckets.get_or_insert_with(|| Box::new([0; BUCKETS]))[self.at] += bytes;
        self.total += bytes;
    }

    /// Bytes per second over the last 19 to 20 s, or since the meter began if that is less; a meter younger than a
    /// second is taken to be one second old, so that a first burst does not look like a rate.
    pub fn rate(&mut self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.start);
        if elapsed.as_secs() > self.second {
            self.advance(elapsed.as_secs());
        }
        // All buckets but the current one are whole seconds of the past.
        let covered =
            Duration::from_secs(BUCKETS as u64 - 1) + Duration::from_nanos(elapsed.subsec_nanos().into());
        let nanos = elapsed.min(covered).max(Duration::from_secs(1)).as_nanos();
        u64::try_from(u128::from(self.total) * u128::from(NANOS) / nanos).unwrap_or(u64::MAX)
    }

    /// Moves on to the bucket of `second`, forgetting what is older than the window.
    #[cold]
    fn advance(&mut self, second: u64) {
        if let Some(buckets) = &mut self.buckets {
            for _ in 0..(second - self.second).min(BUCKETS as u64) {
                self.at = (self.at + 1) % BUCKETS;
                self.total -= std::mem::take(&mut buckets[self.at]);
            }
        }
        if self.total == 0 {
            self.buckets = None;
        }
        self.second = second;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn meter_in_its_first_seconds() {
        let start = Instant::now();
        let mut meter = RateMeter::new(start);
        assert_eq!(meter.rate(start), 0);
        meter.add(start + 100 * MS, 1000);
        assert_eq!(meter.rate(start + 200 * MS), 1000);
        assert_eq!(meter.rate(start + 2000 * MS), 500);
        meter.add(start + 3000 * MS, 2000);
        assert_eq!(meter.rate(start + 3000 * MS), 1000);
    }

    #[test]
    fn meter_forgets_and_survives_a_clock_that_runs_backwards() {
        let start = Instant::now() + Duration::from_secs(1000);
        let mut meter = RateMeter::new(start);
        meter.add(start, 19_000);
        assert_eq!(meter.rate(start + Duration::from_secs(19)), 1000);
        assert_eq!(meter.rate(start + Duration::from_secs(20)), 0);
        meter.add(start + Duration::from_secs(86_400), 1900);
        assert_eq!(meter.rate(start + Duration::from_secs(86_400)), 100);
        meter.add(start, 1900);
        assert_eq!(meter.rate(start - Duration::from_secs(10)), 3800);
        assert_eq!(meter.rate(start + Duration::from_secs(86_400)), 200);
    }

    proptest! {
        #[test]
        fn meter_agrees_with_a_list(steps in prop::collection::vec((0u64..3_000, 0u64..1_000_000), 1..100)) {
            let start = Instant::now();
            let (mut meter, mut list, mut now) = (RateMeter::new(start), Vec::new(), 0);
            for (ms, bytes) in steps {
                now += ms;
                meter.add(start + Duration::from_millis(now), bytes);
                list.push((now, bytes));
                let oldest = (now / 1000).saturating_sub(19);
                let sum: u64 = list.iter().filter(|(at, _)| at / 1000 >= oldest).map(|(_, bytes)| bytes).sum();
                let covered = now.min(19_000 + now % 1000).max(1000);
                prop_assert_eq!(meter.rate(start + Duration::from_millis(now)), sum * 1000 / covered);
            }
        }
    }
}

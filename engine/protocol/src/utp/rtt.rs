//! Round-trip time and the retransmission timeout that follows from it (RFC 6298, with BEP 29's minimum).

use super::{MS, Micros, SECOND};

/// Least timeout (BEP 29).
const RTO_MIN: Micros = 500 * MS;
/// Most timeout, however often it was doubled.
const RTO_MAX: Micros = 60 * SECOND;
/// Timeout while no packet was acknowledged yet.
const RTO_FIRST: Micros = SECOND;

#[derive(Debug)]
pub(super) struct Rtt {
    smoothed: Option<Micros>,
    variance: Micros,
    back_off: u32,
}

impl Rtt {
    pub fn new() -> Self {
        Self { smoothed: None, variance: 0, back_off: 0 }
    }

    /// A packet that was sent once was acknowledged after `sample`.
    pub fn sample(&mut self, sample: Micros) {
        match &mut self.smoothed {
            None => (self.smoothed, self.variance) = (Some(sample), sample / 2),
            Some(smoothed) => {
                self.variance = (3 * self.variance + smoothed.abs_diff(sample)) / 4;
                *smoothed = (7 * *smoothed + sample) / 8;
            }
        }
    }

    /// The peer has acknowledged something new.
    pub fn progress(&mut self) {
        self.back_off = 0;
    }

    pub fn timed_out(&mut self) {
        self.back_off += 1;
    }

    pub fn timeout(&self) -> Micros {
        let base = self.smoothed.map_or(RTO_FIRST, |smoothed| smoothed + 4 * self.variance).max(RTO_MIN);
        base.saturating_mul(1 << self.back_off.min(10)).min(RTO_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_follow_samples_and_double() {
        let mut rtt = Rtt::new();
        assert_eq!(rtt.timeout(), SECOND);
        rtt.sample(10 * MS);
        assert_eq!(rtt.timeout(), 500 * MS, "never less");
        for _ in 0..100 {
            rtt.sample(700 * MS);
        }
        assert!((700 * MS..750 * MS).contains(&rtt.timeout()), "{}", rtt.timeout());
        let before = rtt.timeout();
        rtt.timed_out();
        rtt.timed_out();
        assert_eq!(rtt.timeout(), 4 * before);
        (0..40).for_each(|_| rtt.timed_out());
        assert_eq!(rtt.timeout(), RTO_MAX);
        rtt.progress();
        assert_eq!(rtt.timeout(), before);
    }
}

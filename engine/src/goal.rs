//! When seeding ends.

use std::time::Duration;

/// What `--seed-time` and `--seed-ratio` ask for; the one reached first counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Goal {
    /// Time of seeding.
    pub time: Option<Duration>,
    /// Bytes sent, as a multiple of the torrent's size.
    pub ratio: Option<f64>,
}

impl Goal {
    /// Whether nothing was asked for.
    pub fn is_none(&self) -> bool {
        self.time.is_none() && self.ratio.is_none()
    }

    /// Whether it is reached after seeding for `seeded`, having sent `uploaded` bytes of a torrent of `size`
    /// bytes.
    pub fn is_reached(&self, seeded: Duration, uploaded: u64, size: u64) -> bool {
        let sent = uploaded as f64 / size.max(1) as f64;
        self.time.is_some_and(|time| seeded >= time) || self.ratio.is_some_and(|ratio| sent >= ratio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_ends_it() {
        let minute = Duration::from_secs(60);
        let both = Goal { time: Some(minute), ratio: Some(1.5) };
        assert!(!both.is_reached(Duration::ZERO, 149, 100));
        assert!(both.is_reached(Duration::ZERO, 150, 100));
        assert!(both.is_reached(minute, 0, 100));
        assert!(!Goal::default().is_reached(minute, u64::MAX, 1), "nothing asked for is never reached");
        assert!(Goal { time: Some(Duration::ZERO), ratio: None }.is_reached(Duration::ZERO, 0, 100));
        assert!(Goal::default().is_none() && !both.is_none());
    }
}

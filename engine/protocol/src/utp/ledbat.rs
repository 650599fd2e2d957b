//! LEDBAT (RFC 6817, BEP 29): a congestion window that aims at a queueing delay, and so gives way to TCP, which fills
//! queues until they overflow.

use super::{MS, Micros, WINDOW_MAX};

/// Queueing delay that is aimed at.
pub(super) const TARGET: Micros = 100 * MS;
/// Most that the window grows by in one round trip.
const GAIN: f64 = 3000.0;
/// Packets of the first window.
const FIRST: f64 = 4.0;

/// The congestion window. Units: bytes of payload.
#[derive(Debug)]
pub(super) struct Ledbat {
    window: f64,
    /// Where slow start ends.
    threshold: f64,
    slow_start: bool,
}

impl Ledbat {
    pub fn new(packet: usize) -> Self {
        Self { window: FIRST * packet as f64, threshold: f64::MAX, slow_start: true }
    }

    pub fn window(&self) -> usize {
        self.window as usize
    }

    /// `acked` bytes of the `in_flight` that were on their way were acknowledged. `limited`: the window was what held
    /// us back; otherwise it does not grow.
    pub fn acked(
        &mut self,
        acked: usize,
        in_flight: usize,
        delay: Option<Micros>,
        packet: usize,
        limited: bool,
    ) {
        let Some(delay) = delay.map(|delay| delay as f64) else { return };
        let target = TARGET as f64;
        if self.slow_start && delay > target * 0.75 {
            // The queue is there: half of the window is what fills the path without it.
            self.slow_start = false;
            self.threshold = self.window / 2.0;
        }
        let share = (acked as f64 / in_flight.max(acked).max(1) as f64).min(1.0);
        let off_target = ((target - delay) / target).max(-1.0);
        let mut gain = GAIN * share * off_target;
        if self.slow_start {
            if self.window + acked as f64 > self.threshold {
                self.slow_start = false;
            } else {
                gain = acked as f64;
            }
        }
        if gain < 0.0 || limited {
            self.window += gain;
        }
        self.window = self.window.clamp(packet as f64, WINDOW_MAX as f64);
    }

    /// Packets were lost: at most once per round trip.
    pub fn lost(&mut self, packet: usize) {
        self.slow_start = false;
        self.window = (self.window / 2.0).max(2.0 * packet as f64);
        self.threshold = self.window;
    }

    /// Nothing comes back any more.
    pub fn timed_out(&mut self, packet: usize) {
        self.threshold = (self.window / 2.0).max(2.0 * packet as f64);
        self.window = packet as f64;
        self.slow_start = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: usize = 1000;

    #[test]
    fn grows_below_the_target_and_shrinks_above() {
        let mut ledbat = Ledbat::new(PACKET);
        assert_eq!(ledbat.window(), 4000);
        ledbat.acked(4000, 4000, Some(0), PACKET, true);
        assert_eq!(ledbat.window(), 8000, "slow start doubles");
        ledbat.acked(8000, 8000, Some(0), PACKET, false);
        assert_eq!(ledbat.window(), 8000, "not what held us back");
        ledbat.acked(8000, 8000, Some(80 * MS), PACKET, true);
        assert_eq!(ledbat.window(), 8600, "slow start is over; a fifth of the gain");
        ledbat.acked(8600, 8600, Some(150 * MS), PACKET, true);
        assert_eq!(ledbat.window(), 7100);
        for _ in 0..100 {
            ledbat.acked(7000, 7000, Some(u64::from(u32::MAX)), PACKET, true);
        }
        assert_eq!(ledbat.window(), PACKET, "never below one packet");
    }

    #[test]
    fn loss_halves_and_a_timeout_starts_anew() {
        let mut ledbat = Ledbat::new(PACKET);
        for _ in 0..4 {
            ledbat.acked(ledbat.window(), ledbat.window(), Some(0), PACKET, true);
        }
        assert_eq!(ledbat.window(), 64_000);
        ledbat.lost(PACKET);
        assert_eq!(ledbat.window(), 32_000);
        ledbat.timed_out(PACKET);
        assert_eq!(ledbat.window(), PACKET);
        for _ in 0..4 {
            ledbat.acked(ledbat.window(), ledbat.window(), Some(0), PACKET, true);
        }
        assert_eq!(ledbat.window(), 16_000);
        ledbat.acked(16_000, 16_000, Some(0), PACKET, true);
        assert_eq!(ledbat.window(), 19_000, "slow start ends where half of the old window was");
    }
}

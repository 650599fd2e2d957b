//! One-way delays: how long packets queue, found from timestamps of two clocks that nobody has set.
//!
//! A difference of timestamps is the true delay plus an unknown, nearly constant offset. The least difference of the last
//! minutes stands for an empty queue; what is above it is queueing. Clocks drift apart: see [`DelayHistory::shift`].

use super::{Micros, SECOND};

/// Minutes of history: a route that became longer is believed after that time.
const MINUTES: usize = 13;
/// Samples of which the least counts: jitter is not a queue.
const RECENT: usize = 4;

/// How far `a` is above `b`, when both wrap around; negative below.
fn above(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}

fn least(values: impl IntoIterator<Item = u32>) -> Option<u32> {
    values.into_iter().reduce(|a, b| if above(a, b) < 0 { a } else { b })
}

/// Differences seen in one direction.
#[derive(Debug, Default)]
pub(super) struct DelayHistory {
    /// The least of each minute, the newest last.
    bases: Vec<u32>,
    /// When the newest minute ends.
    until: Micros,
    recent: Vec<u32>,
    next: usize,
}

impl DelayHistory {
    pub fn sample(&mut self, now: Micros, difference: u32) {
        if self.bases.is_empty() || now >= self.until {
            if self.bases.len() == MINUTES {
                self.bases.remove(0);
            }
            self.bases.push(difference);
            self.until = now + 60 * SECOND;
        } else if let Some(base) = self.bases.last_mut()
            && above(difference, *base) < 0
        {
            *base = difference;
        }
        if self.recent.len() < RECENT {
            self.recent.push(difference);
        } else {
            self.recent[self.next] = difference;
            self.next = (self.next + 1) % RECENT;
        }
    }

    /// The difference of an empty queue.
    pub fn base(&self) -> Option<u32> {
        least(self.bases.iter().copied())
    }

    /// Microseconds of queueing, by the latest samples.
    pub fn queueing(&self) -> Option<Micros> {
        let (recent, base) = (least(self.recent.iter().copied())?, self.base()?);
        Some(above(recent, base).max(0) as Micros)
    }

    /// The other clock runs faster than was thought: all bases move by `by` microseconds, or the drift would look like
    /// a queue that grows.
    pub fn shift(&mut self, by: u32) {
        self.bases.iter_mut().for_each(|base| *base = base.wrapping_add(by));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_is_the_base_and_old_minutes_are_forgotten() {
        let mut history = DelayHistory::default();
        assert_eq!(history.queueing(), None);
        // Offsets around zero wrap.
        let offset = u32::MAX - 10;
        let mut now = 0;
        for more in [500, 100, 300, 400, 450, 350] {
            history.sample(now, offset.wrapping_add(more));
            now += 1000;
        }
        assert_eq!(history.base(), Some(offset.wrapping_add(100)));
        assert_eq!(history.queueing(), Some(200), "the least of the last four, above the base");
        for _ in 0..MINUTES {
            now += 60 * SECOND;
            history.sample(now, offset.wrapping_add(900));
        }
        assert_eq!(history.base(), Some(offset.wrapping_add(900)));
        history.shift(50);
        assert_eq!(history.queueing(), Some(0), "never negative");
    }
}

//! How many requests to keep outstanding at a peer.
//!
//! Role: a window of 16 KiB requests large enough to keep the peer sending, and no larger, since every request holds
//! memory and goes to nobody else. Owner: one per [`crate::peer::Peer`], told of every block.
//!
//! The model is that of BBR, in blocks: `window = rate × (2 × round trip + 8 ms)`.
//!
//! * *rate* is the best delivery rate of a round in the last seconds. A round lasts until a block arrives that was
//!   asked for after the round began, and 10 ms at least, as receives bring many blocks at one instant.
//! * *round trip* is that of an empty queue. The mean of a round estimates it, when lower than what is known; a
//!   single quick answer out of a cache would make the window too small for ever. Since the window's own queue hides
//!   a path that became longer, the window shrinks to three quarters of the path's capacity for a moment every 10 s,
//!   and what is measured then is the new estimate.
//! * Twice the round trip, because then the rate doubles from round to round while the path is not full: that is the
//!   slow start, and the search for more bandwidth later on. Once it is full the rate, and so the window, stays.
//! * 8 ms more hide what varies at both ends: batches and schedulers (a disk's delays are part of the round trip). Slow
//!   peers have more by the floor: it is 20 ms at 12 MB/s. Of fast ones each ms more is memory, and memory that leaves
//!   the caches: 20 ms instead of 8 were 50 MiB for 20 peers at 50 MB/s each.
//!
//! Invariant: `1 ≤ size ≤ min(ceiling, peer limit)`.

use std::time::{Duration, Instant};

use crate::geometry::BLOCK_LEN;

/// See the module: hides what varies at both ends.
const QUEUE: Duration = Duration::from_millis(8);
/// Shortest round.
const ROUND_MIN: Duration = Duration::from_millis(10);
/// How long a rate counts at least; at most twice that.
const RATE_MEMORY: Duration = Duration::from_secs(2);
/// From one look at the bare round trip to the next.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// Smallest window during that look.
const PROBE_FLOOR: u64 = 2;

/// Bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowConfig {
    /// Requests that every peer may have, however slow it is, unless it said it takes fewer.
    pub floor: usize,
    /// Requests that no peer gets more of.
    pub ceiling: usize,
    /// A peer that owes blocks may be silent for as long as this at least.
    pub request_timeout_min: Duration,
    /// A peer that owes blocks may not be silent for longer than this.
    pub request_timeout_max: Duration,
}

impl Default for WindowConfig {
    fn default() -> Self {
        Self {
            floor: 16,
            ceiling: 4096,
            request_timeout_min: Duration::from_secs(10),
            request_timeout_max: Duration::from_secs(60),
        }
    }
}

/// What is summed over one round.
#[derive(Clone, Copy, Debug)]
struct Round {
    start: Instant,
    bytes: u64,
    blocks: u32,
    round_trips: Duration,
}

/// A look at the bare round trip.
#[derive(Clone, Copy, Debug)]
struct Probe {
    /// Blocks asked for from then on have found a short queue.
    start: Instant,
    /// When the first of them came: the look ends with a block that was asked for after that.
    first: Option<Instant>,
    blocks: u32,
    round_trips: Duration,
    size_before: usize,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct RequestWindow {
    config: WindowConfig,
    /// What the peer takes.
    limit: usize,
    size: usize,
    snubbed: bool,
    round: Option<Round>,
    /// Best rates, bytes per second, of the current and the previous [`RATE_MEMORY`].
    best: [u64; 2],
    best_since: Option<Instant>,
    round_trip: Option<Duration>,
    probe: Option<Probe>,
    probed: Option<Instant>,
    last_block: Option<Instant>,
    /// Mean wait for a block and its mean deviation; `None` before the first.
    wait: Option<(Duration, Duration)>,
}

impl RequestWindow {
    /// A window at its floor. A floor of 0 counts as 1, a ceiling below the floor as the floor.
    pub fn new(config: WindowConfig) -> Self {
        let mut this = Self {
            config,
            limit: usize::MAX,
            size: 1,
            snubbed: false,
            round: None,
            best: [0; 2],
            best_since: None,
            round_trip: None,
            probe: None,
            probed: None,
            last_block: None,
            wait: None,
        };
        this.size = this.bounded(0);
        this
    }

    /// Requests to keep outstanding, at least 1.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Requests for a peer of which nothing is known, at least 1.
    pub fn smallest(&self) -> usize {
        self.bounded(0)
    }

    /// The round trip of an empty queue, once it was measured.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// The peer said how many requests it queues (`reqq`, BEP 10); 0 counts as 1.
    pub fn set_peer_limit(&mut self, reqq: usize) {
        self.limit = reqq.max(1);
        self.size = if self.snubbed { 1 } else { self.bounded(self.size as u64) };
    }

    /// A block of `len` bytes came at `now`, `round_trip` after it was asked for.
    pub fn on_block(&mut self, now: Instant, len: u32, round_trip: Duration) {
        self.measure_wait(now, round_trip);
        if self.snubbed {
            // It is alive: begin anew, since what was measured is no longer true.
            self.snubbed = false;
            self.size = self.bounded(0);
        }
        let sent = now.checked_sub(round_trip).unwrap_or(now);
        self.probe_block(now, sent, round_trip);
        // What the first block took is not known to be bandwidth, so counting begins behind it.
        let Some(round) = &mut self.round else {
            self.round = Some(Round::at(now));
            return;
        };
        round.bytes += u64::from(len);
        round.blocks += 1;
        round.round_trips += round_trip;
        if sent >= round.start && now.saturating_duration_since(round.start) >= ROUND_MIN {
            self.end_round(now);
        }
    }

    /// The peer owes blocks for too long: it gets one request at a time until it sends something.
    pub fn on_snub(&mut self) {
        *self = Self {
            limit: self.limit,
            size: 1,
            snubbed: true,
            wait: self.wait,
            ..Self::new(self.config.clone())
        };
    }

    /// How long the peer may owe blocks without sending any: twice the mean wait for its blocks and four times what
    /// that varied by (after RFC 6298), within the configured bounds.
    pub fn request_timeout(&self) -> Duration {
        let (min, max) = (self.config.request_timeout_min, self.config.request_timeout_max);
        let wanted = self.wait.map_or(2 * min, |(mean, deviation)| 2 * mean + 4 * deviation);
        wanted.min(max).max(min)
    }

    fn bounded(&self, blocks: u64) -> usize {
        let floor = self.config.floor.max(1);
        let blocks = usize::try_from(blocks).unwrap_or(usize::MAX);
        blocks.max(floor).min(self.config.ceiling.max(floor)).min(self.limit)
    }

    fn measure_wait(&mut self, now: Instant, round_trip: Duration) {
        // A peer that nothing was asked of keeps nobody waiting.
        let since_last = self.last_block.map_or(round_trip, |last| now.saturating_duration_since(last));
        let wait = since_last.min(round_trip);
        self.last_block = Some(now);
        self.wait = Some(match self.wait {
            None => (wait, wait / 2),
            Some((mean, deviation)) => (mean * 7 / 8 + wait / 8, deviation * 3 / 4 + mean.abs_diff(wait) / 4),
        });
    }

    fn end_round(&mut self, now: Instant) {
        let round = self.round.replace(Round::at(now)).expect("a round is over");
        let nanos = now.saturating_duration_since(round.start).as_nanos().max(1);
        let rate = u128::from(round.bytes) * 1_000_000_000 / nanos;
        self.note_rate(now, u64::try_from(rate).unwrap_or(u64::MAX));
        let mean = round.round_trips / round.blocks.max(1);
        if self.round_trip.is_none_or(|known| mean < known) {
            self.round_trip = Some(mean);
        }
        let probed = *self.probed.get_or_insert(now);
        if self.probe.is_none() && now.saturating_duration_since(probed) >= PROBE_EVERY {
            let (blocks, round_trips) = (0, Duration::ZERO);
            self.probe = Some(Probe { start: now, first: None, blocks, round_trips, size_before: self.size });
        }
        self.resize();
    }

    fn note_rate(&mut self, now: Instant, rate: u64) {
        let since = *self.best_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= RATE_MEMORY {
            self.best = [0, self.best[0]];
            self.best_since = Some(now);
        }
        self.best[0] = self.best[0].max(rate);
    }

    fn resize(&mut self) {
        let (rate, round_trip) = (self.best[0].max(self.best[1]), self.round_trip.unwrap_or(Duration::ZERO));
        self.size = if self.probe.is_some() {
            let probing = (blocks(rate, round_trip) * 3 / 4).max(PROBE_FLOOR);
            self.size.min(usize::try_from(probing).unwrap_or(usize::MAX))
        } else {
            // A rate out of one lucky round doubles the window at most.
            let twice = self.size.saturating_mul(2).max(self.bounded(0));
            self.bounded(blocks(rate, 2 * round_trip + QUEUE)).min(twice)
        };
    }

    fn probe_block(&mut self, now: Instant, sent: Instant, round_trip: Duration) {
        let Some(probe) = &mut self.probe else { return };
        if sent < probe.start {
            return;
        }
        probe.blocks += 1;
        probe.round_trips += round_trip;
        let first = *probe.first.get_or_insert(now);
        if sent < first {
            return;
        }
        self.round_trip = Some(probe.round_trips / probe.blocks);
        self.size = probe.size_before;
        self.probe = None;
        self.probed = Some(now);
        // The rounds of the look tell nothing about the rate.
        self.round = Some(Round::at(now));
        self.resize();
    }
}

impl Round {
    fn at(start: Instant) -> Self {
        Self { start, bytes: 0, blocks: 0, round_trips: Duration::ZERO }
    }
}

/// Blocks that pass in `time` at `rate` bytes per second.
fn blocks(rate: u64, time: Duration) -> u64 {
    let blocks = u128::from(rate) * time.as_nanos() / (1_000_000_000 * u128::from(BLOCK_LEN));
    u64::try_from(blocks).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

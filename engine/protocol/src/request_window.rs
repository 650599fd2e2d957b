//! How many requests to keep outstanding at a peer.
//!
//! Role: a window of 16 KiB requests large enough to keep the peer sending, and no larger, since every request holds
//! memory and goes to nobody else. Owner: one per [`crate::peer::Peer`], told of every block.
//!
//! The model is that of BBR, in blocks: `window = rate × (2 × round trip + 20 ms)`.
//!
//! * *rate* is the best delivery rate of a round in the last seconds. A round lasts until a block arrives that was
//!   asked for after the round began, and 10 ms at least, as receives bring many blocks at one instant.
//! * *round trip* is that of an empty queue. The mean of a round estimates it, when lower than what is known; a
//!   single quick answer out of a cache would make the window too small for ever. Since the window's own queue hides
//!   a path that became longer, the window shrinks to three quarters of the path's capacity for a moment every 10 s,
//!   and what is measured then is the new estimate.
//! * Twice the round trip, because then the rate doubles from round to round while the path is not full: that is the
//!   slow start, and the search for more bandwidth later on. Once it is full the rate, and so the window, stays.
//! * 20 ms more hide what varies at both ends: disks, batches, schedulers. 20 peers on loopback at 50 MB/s each come
//!   to about 70 to 150 blocks, 1 to 2 MiB each.
//!
//! Invariant: `1 ≤ size ≤ min(ceiling, peer limit)`.

use std::time::{Duration, Instant};

use crate::geometry::BLOCK_LEN;

/// See the module: hides what varies at both ends.
const QUEUE: Duration = Duration::from_millis(20);
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const MIB: f64 = 1024.0 * 1024.0;

    /// A peer behind a link: `rate` bytes per second, `round_trip` when idle, answers in order.
    struct Link {
        rate: f64,
        round_trip: f64,
        free_at: f64,
        /// When asked, when the block arrives. Seconds.
        outstanding: VecDeque<(f64, f64)>,
    }

    impl Link {
        fn new(rate: f64, round_trip: f64) -> Self {
            Self { rate, round_trip, free_at: 0.0, outstanding: VecDeque::new() }
        }

        fn ask(&mut self, now: f64) {
            let start = self.free_at.max(now + self.round_trip / 2.0);
            self.free_at = start + f64::from(BLOCK_LEN) / self.rate;
            self.outstanding.push_back((now, self.free_at + self.round_trip / 2.0));
        }

        /// Keeps `window` full in batches as [`crate::torrent::Torrent`] does, until `end`. Receives take `batch`
        /// seconds of arrivals at once. Returns the bytes that came from `from` on.
        fn run(&mut self, window: &mut RequestWindow, zero: Instant, from: f64, end: f64, batch: f64) -> u64 {
            let mut now = from;
            let mut bytes = 0;
            loop {
                let room = window.size().saturating_sub(self.outstanding.len());
                if room > 0 && (room >= window.size() / 8 || self.outstanding.is_empty()) {
                    (0..room).for_each(|_| self.ask(now));
                }
                now = self.outstanding.front().expect("asked for").1.max(now + batch);
                if now > end {
                    return bytes;
                }
                while self.outstanding.front().is_some_and(|(_, arrives)| *arrives <= now) {
                    let (sent, _) = self.outstanding.pop_front().expect("just seen");
                    window.on_block(at(zero, now), BLOCK_LEN, Duration::from_secs_f64(now - sent));
                    bytes += u64::from(BLOCK_LEN);
                }
            }
        }

        fn capacity(&self, seconds: f64) -> f64 {
            self.rate * seconds / f64::from(BLOCK_LEN)
        }
    }

    fn at(zero: Instant, seconds: f64) -> Instant {
        zero + Duration::from_secs_f64(seconds)
    }

    fn window(ceiling: usize) -> RequestWindow {
        RequestWindow::new(WindowConfig { ceiling, ..WindowConfig::default() })
    }

    /// Runs 25 s, two looks at the bare round trip included, and returns utilisation and the largest window.
    fn settle(rate: f64, round_trip: f64, batch: f64) -> (f64, usize) {
        let (mut link, mut window, zero) = (Link::new(rate, round_trip), window(1 << 20), Instant::now());
        let start = (round_trip * 25.0).max(2.0);
        link.run(&mut window, zero, 0.0, start, batch);
        let (mut now, mut bytes, mut largest) = (start, 0, 0);
        while now < start + 25.0 {
            bytes += link.run(&mut window, zero, now, now + 0.5, batch);
            now += 0.5;
            largest = largest.max(window.size());
        }
        (bytes as f64 / (rate * (now - start)), largest)
    }

    #[test]
    fn fills_links_without_hoarding() {
        for (rate, round_trip) in [
            (0.1 * MIB, 0.05),
            (1.0 * MIB, 0.2),
            (10.0 * MIB, 0.01),
            (12.0 * MIB, 0.1),
            (100.0 * MIB, 0.03),
            (100.0 * MIB, 0.3),
            (50.0 * MIB, 0.001),
        ] {
            let (used, largest) = settle(rate, round_trip, 0.0002);
            let link = Link::new(rate, round_trip);
            let bound = 4.0 * link.capacity(round_trip.max(0.01)) + 16.0;
            println!("{} MiB/s {round_trip} s: {used:.3} {largest} of {bound:.0}", rate / MIB);
            assert!(used >= 0.95, "{rate} B/s, {round_trip} s: {used} used, window {largest}");
            assert!((largest as f64) <= bound, "{rate} B/s, {round_trip} s: {largest} of {bound}");
        }
    }

    #[test]
    fn loopback_peers_stay_busy_on_little_memory() {
        let (used, largest) = settle(50e6, 0.0005, 0.001);
        assert!(used >= 0.95, "{used}");
        assert!((32..=512).contains(&largest), "{largest}");
    }

    #[test]
    fn fast_far_links_get_thousands() {
        let (mut link, mut window, zero) = (Link::new(1.25e9, 0.1), window(4096), Instant::now());
        window.set_peer_limit(2000);
        link.run(&mut window, zero, 0.0, 2.0, 0.0005);
        assert_eq!(window.size(), 2000);
        window.set_peer_limit(usize::MAX);
        link.run(&mut window, zero, 2.0, 3.0, 0.0005);
        assert_eq!(window.size(), 4096);
    }

    #[test]
    fn follows_bandwidth_up_and_a_longer_path() {
        let (mut link, mut window, zero) = (Link::new(2.0 * MIB, 0.05), window(4096), Instant::now());
        link.run(&mut window, zero, 0.0, 5.0, 0.0);
        let small = window.size();
        link.rate = 40.0 * MIB;
        link.run(&mut window, zero, 5.0, 7.0, 0.0);
        assert!(window.size() as f64 >= link.capacity(0.05), "{} after {small}", window.size());
        link.round_trip = 0.4;
        link.run(&mut window, zero, 7.0, 40.0, 0.0);
        let bytes = link.run(&mut window, zero, 40.0, 50.0, 0.0);
        assert!(bytes as f64 >= 0.9 * link.rate * 10.0, "{bytes} with a window of {}", window.size());
    }

    #[test]
    fn snubs_and_limits() {
        let (mut link, mut window, zero) = (Link::new(10.0 * MIB, 0.05), window(4096), Instant::now());
        link.run(&mut window, zero, 0.0, 2.0, 0.0);
        assert!(window.size() > 32);
        window.on_snub();
        assert_eq!(window.size(), 1);
        window.set_peer_limit(500);
        assert_eq!(window.size(), 1);
        link.run(&mut window, zero, 2.0, 2.2, 0.0);
        assert!(window.size() >= 16);
        window.set_peer_limit(0);
        assert_eq!(window.size(), 1);
        link.run(&mut window, zero, 2.2, 4.0, 0.0);
        assert_eq!(window.size(), 1);
        let tiny = RequestWindow::new(WindowConfig { floor: 0, ceiling: 0, ..WindowConfig::default() });
        assert_eq!(tiny.size(), 1);
    }

    #[test]
    fn time_out_follows_what_blocks_take() {
        let mut window = window(64);
        assert_eq!(window.request_timeout(), Duration::from_secs(20));
        let zero = Instant::now();
        (0..50).for_each(|n| window.on_block(at(zero, f64::from(n)), BLOCK_LEN, Duration::from_millis(30)));
        assert_eq!(window.request_timeout(), Duration::from_secs(10));
        (0..20).for_each(|n| {
            window.on_block(at(zero, 60.0 + 12.0 * f64::from(n)), BLOCK_LEN, Duration::from_secs(99))
        });
        let slow = window.request_timeout();
        assert!((Duration::from_secs(20)..Duration::from_secs(40)).contains(&slow), "{slow:?}");
        (0..20).for_each(|n| {
            window.on_block(at(zero, 400.0 + 90.0 * f64::from(n)), BLOCK_LEN, Duration::from_secs(99))
        });
        assert_eq!(window.request_timeout(), Duration::from_secs(60));
    }

    proptest! {
        #[test]
        fn stays_in_bounds_whatever_comes(
            steps in prop::collection::vec((0u8..12, 0u64..100_000, 0u64..10_000_000, any::<u32>()), 1..300),
            floor in 0usize..40, ceiling in 0usize..300,
        ) {
            let config = WindowConfig { floor, ceiling, ..WindowConfig::default() };
            let mut window = RequestWindow::new(config);
            let (mut now, mut limit) = (Instant::now(), usize::MAX);
            for (kind, step, round_trip, len) in steps {
                now += Duration::from_micros(step);
                match kind {
                    0 => window.on_snub(),
                    1 => {
                        limit = (len as usize).max(1);
                        window.set_peer_limit(len as usize);
                    }
                    _ => window.on_block(now, len, Duration::from_micros(round_trip)),
                }
                prop_assert!((1..=ceiling.max(floor).max(1).min(limit)).contains(&window.size()));
                let timeout = window.request_timeout();
                prop_assert!((Duration::from_secs(10)..=Duration::from_secs(60)).contains(&timeout));
            }
        }
    }
}

//! The window against links with a virtual clock.

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
        let bound = 4.0 * link.capacity(round_trip.max(0.01)) + 20.0;
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

/// Twenty peers behind one link of 1 GB/s, as on loopback: together they fill it, nobody starves, and together their
/// windows pin a fraction of a memory of 192 MiB.
#[test]
fn peers_that_share_a_link_share_its_memory() {
    const PEERS: usize = 20;
    let (zero, round_trip, rate) = (Instant::now(), 0.001, 1e9);
    let mut windows = vec![window(4096); PEERS];
    let mut outstanding = [0; PEERS];
    let mut queue: VecDeque<(f64, f64, usize)> = VecDeque::new();
    let (mut now, mut free_at) = (0.0f64, 0.0f64);
    let (mut bytes, mut most, mut per_peer) = (0, 0, [0u64; PEERS]);
    while now < 12.0 {
        for peer in 0..PEERS {
            let room = windows[peer].size().saturating_sub(outstanding[peer]);
            if room > 0 && (room >= windows[peer].size() / 8 || outstanding[peer] == 0) {
                for _ in 0..room {
                    free_at = free_at.max(now + round_trip / 2.0) + f64::from(BLOCK_LEN) / rate;
                    queue.push_back((now, free_at + round_trip / 2.0, peer));
                }
                outstanding[peer] += room;
            }
        }
        now = queue.front().expect("asked for").1.max(now + 0.0005);
        while queue.front().is_some_and(|(_, arrives, _)| *arrives <= now) {
            let (sent, _, peer) = queue.pop_front().expect("just seen");
            outstanding[peer] -= 1;
            windows[peer].on_block(at(zero, now), BLOCK_LEN, Duration::from_secs_f64(now - sent));
            if now > 2.0 {
                bytes += u64::from(BLOCK_LEN);
                per_peer[peer] += u64::from(BLOCK_LEN);
            }
        }
        most = most.max(windows.iter().map(RequestWindow::size).sum::<usize>());
    }
    let least = per_peer.iter().min().expect("20");
    println!("{most} requests at most, {bytes} bytes, {least} for the slowest");
    assert!(bytes as f64 >= 0.95 * rate * 10.0, "{bytes} bytes");
    assert!(most <= 192 * 64 / 2, "{most} requests");
    assert!(*least as f64 >= 0.1 * rate * 10.0 / PEERS as f64, "{per_peer:?}");
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

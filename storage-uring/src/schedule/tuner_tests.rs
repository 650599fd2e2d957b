//! The tuner against simulated devices: event by event, on a virtual clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;

const FLASH: DeviceFacts = DeviceFacts { kind: DeviceKind::Flash, requests: None };
const ROTATING: DeviceFacts = DeviceFacts { kind: DeviceKind::Rotating, requests: None };
const FREE: Fixed = Fixed { depth: None, batch_bytes: None };

/// When an operation of `bytes` that starts at `now` ends, in seconds.
trait Model {
    fn ends(&mut self, now: f64, bytes: f64, in_flight: usize) -> f64;
}

/// Channels that work in parallel behind a bus.
struct Flash {
    channels: Vec<f64>,
    setup: f64,
    channel_rate: f64,
    bus_rate: f64,
    bus_free: f64,
}

impl Flash {
    fn new(bus_rate: f64) -> Self {
        Self { channels: vec![0.0; 16], setup: 80e-6, channel_rate: 300e6, bus_rate, bus_free: 0.0 }
    }
}

impl Model for Flash {
    fn ends(&mut self, now: f64, bytes: f64, _: usize) -> f64 {
        let channel = (0..self.channels.len()).min_by(|a, b| self.channels[*a].total_cmp(&self.channels[*b]));
        let channel = &mut self.channels[channel.expect("has channels")];
        let stored = channel.max(now) + self.setup + bytes / self.channel_rate;
        self.bus_free = self.bus_free.max(now) + bytes / self.bus_rate;
        *channel = stored;
        stored.max(self.bus_free)
    }
}

/// One arm: each operation costs a seek, shorter the more there are to choose from.
struct Disk {
    free: f64,
}

impl Model for Disk {
    fn ends(&mut self, now: f64, bytes: f64, in_flight: usize) -> f64 {
        let seek = 8e-3 / (1.0 + (in_flight as f64).log2() / 4.0);
        self.free = self.free.max(now) + seek + bytes / 180e6;
        self.free
    }
}

/// Bytes and operations per second are bought, latency is that of a network.
struct Cloud {
    rate: f64,
    operations: f64,
    free: f64,
}

impl Model for Cloud {
    fn ends(&mut self, now: f64, bytes: f64, _: usize) -> f64 {
        self.free = self.free.max(now) + (bytes / self.rate).max(1.0 / self.operations);
        self.free + 1e-3
    }
}

struct Outcome {
    rate: f64,
    mean_latency: f64,
}

struct Simulation<M> {
    device: M,
    tuner: DeviceTuner,
    now: f64,
    flying: BinaryHeap<(Reverse<u64>, u64, u32)>,
    random: u64,
    /// Latencies vary by up to this share.
    jitter: f64,
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

impl<M: Model> Simulation<M> {
    fn new(device: M, facts: DeviceFacts, fixed: Fixed) -> Self {
        let tuner = DeviceTuner::new(facts, fixed);
        Self { device, tuner, now: 0.0, flying: BinaryHeap::new(), random: 1, jitter: 0.0 }
    }

    /// Keeps the device as busy as the tuner allows for so many seconds.
    fn run(&mut self, seconds: f64) -> Outcome {
        let until = self.now + seconds;
        let (begin, mut bytes_moved, mut latencies, mut count) = (self.now, 0u64, 0.0, 0u64);
        while self.now < until {
            while self.flying.len() < self.tuner.depth() as usize {
                let bytes = self.tuner.batch_bytes();
                let end = self.device.ends(self.now, f64::from(bytes), self.flying.len() + 1);
                self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let chance = (self.random >> 40) as f64 / f64::from(1 << 24);
                let end = end + (end - self.now) * self.jitter * chance;
                self.flying.push((Reverse(nanos(end)), nanos(self.now), bytes));
            }
            let (Reverse(end), start, bytes) = self.flying.pop().expect("just filled");
            self.now = end as f64 / 1e9;
            let latency = Duration::from_nanos(end - start);
            bytes_moved += u64::from(bytes);
            latencies += latency.as_secs_f64();
            count += 1;
            self.tuner.ended(Ended { now: Duration::from_nanos(end), bytes, latency, saturated: true });
        }
        Outcome { rate: bytes_moved as f64 / (self.now - begin), mean_latency: latencies / count as f64 }
    }
}

/// The best rate of any fixed setting whose operations do not take too long.
fn best<M: Model>(device: impl Fn() -> M, facts: DeviceFacts) -> f64 {
    let mut best = 0.0f64;
    for depth in [1, 2, 4, 8, 16, 32, 64] {
        for shift in 17..=22 {
            let fixed = Fixed { depth: Some(depth), batch_bytes: Some(1 << shift) };
            let outcome = Simulation::new(device(), facts, fixed).run(3.0);
            if outcome.mean_latency <= LATENCY_MAX.as_secs_f64() {
                best = best.max(outcome.rate);
            }
        }
    }
    best
}

fn check<M: Model>(name: &str, device: impl Fn() -> M, facts: DeviceFacts, jitter: f64) -> DeviceTuner {
    let best = best(&device, facts);
    let mut simulation = Simulation::new(device(), facts, FREE);
    simulation.jitter = jitter;
    simulation.run(20.0);
    let outcome = simulation.run(20.0);
    assert!(
        outcome.rate >= 0.88 * best,
        "{name}: {:.0} of {:.0} MB/s with {:?}",
        outcome.rate / 1e6,
        best / 1e6,
        simulation.tuner
    );
    assert!(outcome.mean_latency < 1.2 * LATENCY_MAX.as_secs_f64(), "{name}: {}", outcome.mean_latency);
    simulation.tuner
}

#[test]
fn every_kind_of_device_comes_near_its_best() {
    for jitter in [0.0, 0.3] {
        for (kind, facts) in [("flash", FLASH), ("virtual", ROTATING)] {
            check(kind, || Flash::new(3e9), facts, jitter);
            let cloud = || Cloud { rate: 125e6, operations: 3000.0, free: 0.0 };
            let tuner = check("cloud", cloud, facts, jitter);
            assert!(tuner.depth() <= 40, "what the device cannot take is not given to it: {tuner:?}");
            let slow = || Cloud { rate: 10e6, operations: 500.0, free: 0.0 };
            let tuner = check("slow cloud", slow, facts, jitter);
            let held = f64::from(tuner.depth()) * f64::from(tuner.batch_bytes());
            assert!(held <= 10e6 * LATENCY_MAX.as_secs_f64() * 1.5, "holds {held} bytes: {tuner:?}");
        }
        let tuner = check("disk", || Disk { free: 0.0 }, ROTATING, jitter);
        assert!(tuner.batch_bytes() >= 2 << 20, "seeks are paid by long operations: {tuner:?}");
    }
}

#[test]
fn a_device_that_changes_is_followed_down_and_up_again() {
    let mut simulation = Simulation::new(Flash::new(3e9), FLASH, FREE);
    simulation.run(10.0);
    simulation.device.bus_rate = 20e6;
    simulation.run(10.0);
    assert!(simulation.run(5.0).mean_latency < 1.2 * LATENCY_MAX.as_secs_f64());
    simulation.device.bus_rate = 3e9;
    simulation.run(40.0);
    let rate = simulation.run(5.0).rate;
    assert!(rate > 2.4e9, "{:.0} MB/s with {:?}", rate / 1e6, simulation.tuner);
}

#[test]
fn memory_and_idle_devices_teach_nothing() {
    let op = |n: u64, saturated| Ended {
        now: Duration::from_millis(n),
        bytes: 1 << 20,
        latency: Duration::from_secs(1),
        saturated,
    };
    let memory = DeviceFacts { kind: DeviceKind::Memory, requests: None };
    let (mut memory, mut idle) = (DeviceTuner::new(memory, FREE), DeviceTuner::new(FLASH, FREE));
    for n in 0..10_000 {
        assert!(!memory.ended(op(n, true)) && !idle.ended(op(n, false)));
    }
}

#[test]
fn the_kernel_queue_is_not_overrun() {
    // 128 requests of 1280 KiB: an operation of 1 MiB is one, of 4 MiB four.
    let facts = DeviceFacts { kind: DeviceKind::Flash, requests: Some((32, 1280 << 10)) };
    let mut simulation = Simulation::new(Flash::new(3e9), facts, FREE);
    for _ in 0..100 {
        simulation.run(0.3);
        let tuner = &simulation.tuner;
        assert!(tuner.depth() * tuner.batch_bytes().div_ceil(1280 << 10) <= 24, "{tuner:?}");
    }
}

proptest! {
    #[test]
    fn limits_hold_whatever_is_seen(
        kind in prop::sample::select(vec![DeviceKind::Flash, DeviceKind::Rotating, DeviceKind::Memory]),
        requests in prop::option::of((0u32..300, 0u32..5_000_000)),
        depth in prop::option::of(0u32..200),
        batch_bytes in prop::option::of(0u32..20_000_000),
        ops in prop::collection::vec((0u64..400, 0u32..5_000_000, 0u64..3000, any::<bool>()), 0..400),
    ) {
        let mut tuner = DeviceTuner::new(DeviceFacts { kind, requests }, Fixed { depth, batch_bytes });
        let first = (tuner.depth(), tuner.batch_bytes());
        let mut now = Duration::ZERO;
        for (pause, bytes, latency, quiet) in ops {
            now += Duration::from_millis(pause);
            let before = (tuner.depth(), tuner.batch_bytes());
            let latency = Duration::from_millis(latency);
            let changed = tuner.ended(Ended { now, bytes, latency, saturated: !quiet });
            let after = (tuner.depth(), tuner.batch_bytes());
            prop_assert_eq!(changed, before != after);
            prop_assert!(after.0 >= 1 && (depth.is_some() || after.0 <= DEPTH_MAX));
            prop_assert!((BATCH_BYTES_MIN..=BATCH_BYTES_MAX).contains(&after.1));
            prop_assert_eq!(after.1 % 4096, 0);
            prop_assert!(depth.is_none() || after.0 == first.0);
            prop_assert!(batch_bytes.is_none() || after.1 == first.1);
        }
    }
}

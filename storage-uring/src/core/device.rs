//! A device as the storage thread knows it, and what the kernel says about it.
//!
//! Role: one [`Device`] per `st_dev`: its queue, its tuner, its counters. Owner: the storage thread.
//! Invariant: the queue always works with what the tuner says now.

use std::sync::Arc;
use std::time::Duration;

use super::Task;
use crate::ring::Direction;
use crate::schedule::tuner::{DeviceFacts, DeviceKind, DeviceTuner, Ended, Fixed};
use crate::schedule::{Batch, DeviceQueue};
use crate::stats::{DeviceCounters, ServiceCounters};

/// A file system's device and its queue.
#[derive(Debug)]
pub(super) struct Device {
    /// `st_dev`: major number in the upper half, minor in the lower.
    pub(super) number: u64,
    /// Its data lives in memory: operations are done on this thread at once.
    pub(super) in_memory: bool,
    /// Whether `O_DIRECT` works where the file system does not say; `None` = not tried.
    pub(super) direct_works: Option<bool>,
    pub(super) queue: DeviceQueue<Task>,
    tuner: DeviceTuner,
    pub(super) counters: Arc<DeviceCounters>,
}

impl Device {
    pub(super) fn new(number: u64, in_memory: bool, fixed: Fixed, stats: &ServiceCounters) -> Self {
        let facts =
            if in_memory { DeviceFacts { kind: DeviceKind::Memory, requests: None } } else { facts(number) };
        let tuner = DeviceTuner::new(facts, fixed);
        let mut queue = DeviceQueue::new(tuner.depth());
        queue.tune(tuner.depth(), tuner.batch_bytes());
        let counters = Arc::new(DeviceCounters::new(number, facts.kind));
        stats.add_device(Arc::clone(&counters));
        Self { number, in_memory, direct_works: None, queue, tuner, counters }
    }

    /// Takes in that a batch given out by the queue has moved `bytes`. `now` is any clock that does not go
    /// back, the latency counts from the start of the operation.
    pub(super) fn moved(&mut self, batch: &Batch, bytes: u32, now: Duration, latency: Duration) {
        let head = batch.head();
        let direct = head.class == crate::layout::Class::Direct;
        self.counters.moved(head.direction, bytes, direct, latency);
        // What went through the page cache says nothing about the device.
        if !direct && head.direction == Direction::Write {
            return;
        }
        let saturated = self.queue.saturated();
        if self.tuner.ended(Ended { now, bytes, latency, saturated }) {
            let (depth, bytes) = (self.tuner.depth(), self.tuner.batch_bytes());
            tracing::debug!(device = self.number, depth, bytes, "tuned");
            self.queue.tune(depth, bytes);
        }
    }

    /// Shows how it stands.
    pub(super) fn show(&self) {
        self.counters.now(&self.tuner, self.queue.in_flight(), self.queue.waiting());
    }
}

/// What sysfs says. File systems without a device of their own (btrfs, overlay, network) say nothing.
fn facts(number: u64) -> DeviceFacts {
    let base = format!("/sys/dev/block/{}:{}", number >> 32, number & 0xffff_ffff);
    let read = |name: &str| -> Option<u32> {
        // A partition's queue is that of the disk above it.
        ["queue", "../queue"].iter().find_map(|queue| {
            std::fs::read_to_string(format!("{base}/{queue}/{name}")).ok()?.trim().parse().ok()
        })
    };
    let rotating = read("rotational") == Some(1);
    let requests = read("nr_requests").zip(read("max_sectors_kb"));
    DeviceFacts {
        kind: if rotating { DeviceKind::Rotating } else { DeviceKind::Flash },
        requests: requests.map(|(requests, kib)| (requests, kib.saturating_mul(1024))),
    }
}

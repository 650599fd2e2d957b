//! How many operations a device gets at a time, and how long they are.
//!
//! Role: one [`DeviceTuner`] per device turns what its completions show (bytes, latency, whether more was
//! waiting) into a queue depth and a number of bytes per operation. Pure: the clock is passed in. Owner: the
//! device's entry in the storage thread. Invariant: depth and bytes stay within the limits of the device's
//! kind, a knob that the user fixed never moves, and nothing is concluded from a time in which the device
//! was not kept busy.
//!
//! The method is a hill climb on bytes per second, measured over *epochs* of at least [`EPOCH_MIN`]:
//!
//! 1. Start: the depth doubles for as long as each doubling gains [`GROWTH_MIN`].
//! 2. After that, now and then, one knob is moved for one epoch, then moved back for one (A-B-A: the mean of
//!    the epochs around it is what the trial is compared with, so that a device that gets faster or slower by
//!    itself misleads less). More depth or longer operations must gain [`GAIN_MIN`], or the noise seen
//!    between equal epochs if that is more. Less depth or shorter operations are tried only where operations
//!    take longer than [`LATENCY_SHORT`], and taken when they lose no more than [`LOSS_MAX`], twice in a row:
//!    the same rate with less in the queue means shorter waits for reads and less piece memory bound. Between
//!    the two lies the hysteresis. Trials that fail become rarer.
//! 3. Little's law as the brake: when operations take longer than [`LATENCY_MAX`] on average, the device has
//!    more in its queue than it moves in that time, and the depth (or, at its least, the length) is cut to
//!    what it does move. A throttled or dying device thus holds little, without a trial.

use std::time::Duration;

/// Bytes per operation at most. Larger gains nothing on any device; smaller costs system calls.
pub const BATCH_BYTES_MAX: u32 = 4 << 20;
/// Bytes per operation at least: below this the cost per operation shows on every device.
pub const BATCH_BYTES_MIN: u32 = 128 << 10;
/// Operations in flight per device at least: one being carried out, the next ones there when it ends, and a
/// place for the other direction.
pub const DEPTH_MIN: u32 = 4;
/// Operations in flight per device at most.
pub const DEPTH_MAX: u32 = 64;
/// Least time over which a rate is measured.
pub const EPOCH_MIN: Duration = Duration::from_millis(100);
/// Mean time an operation may take before the queue is cut.
pub const LATENCY_MAX: Duration = Duration::from_millis(300);
/// Where operations are faster than this on average, neither depth nor length is made less: nobody waits long
/// for them, short operations cost CPU time, and every move risks a mistake.
pub const LATENCY_SHORT: Duration = Duration::from_millis(50);
/// What doubling the depth must gain at the start.
pub const GROWTH_MIN: f64 = 0.12;
/// What more depth or longer operations must gain.
pub const GAIN_MIN: f64 = 0.08;
/// What less depth or shorter operations may lose.
pub const LOSS_MAX: f64 = 0.03;
/// What may be lost against the best rate of late, so that small losses do not add up.
const DRIFT_MAX: f64 = 0.06;
/// How fast the best rate is forgotten, per trial.
const PEAK_DECAY: f64 = 0.98;
/// Epochs between two trials: first, and at most.
const PAUSE_MIN: u32 = 2;
const PAUSE_MAX: u32 = 64;

/// What a device is, as far as that decides where to start and what to allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// Flash, or something that says it does not rotate, or says nothing.
    Flash,
    /// A device that says it rotates. Virtual disks say so too, whatever they are: a start, not a verdict.
    Rotating,
    /// A file system in memory: operations are done at once, there is no queue to tune.
    Memory,
}

/// What is known of a device before anything was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Where to start.
    pub kind: DeviceKind,
    /// Requests the kernel queues for it (`queue/nr_requests`) and the bytes of the longest
    /// (`queue/max_sectors_kb`). More in flight would block the thread that submits.
    pub requests: Option<(u32, u32)>,
}

/// What the user decided. `None` = found out at run time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// Operations in flight; at least 1 is used.
    pub depth: Option<u32>,
    /// Bytes per operation, brought into [`BATCH_BYTES_MIN`]..=[`BATCH_BYTES_MAX`] and to whole pages.
    pub batch_bytes: Option<u32>,
}

/// An operation that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When, on any clock that does not go back.
    pub now: Duration,
    /// Bytes moved.
    pub bytes: u32,
    /// From its start to `now`.
    pub latency: Duration,
    /// Whether parts wait because the device has as much as it is given: only then does the rate say
    /// something about the device.
    pub saturated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Setting {
    depth: u32,
    bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// The depth doubles; the rate and setting before the last doubling, if there was one.
    Grow { before: Option<(f64, Setting)> },
    /// Epochs left until the next trial.
    Steady { pause: u32 },
    /// A trial of one epoch.
    Trial { tried: usize, home: Setting, before: f64 },
    /// The epoch after it, back at home.
    Back { tried: usize, trial: Setting, before: f64, rate: f64 },
}

/// An epoch under measurement.
#[derive(Clone, Copy, Debug, Default)]
struct Epoch {
    start: Option<Duration>,
    bytes: u64,
    count: u32,
    latency: Duration,
    /// Completions still to ignore: their operations were started under an earlier setting.
    skip: u32,
}

/// Chooses depth and operation length of one device.
#[derive(Clone, Debug)]
pub struct DeviceTuner {
    facts: DeviceFacts,
    fixed: Fixed,
    now: Setting,
    phase: Phase,
    epoch: Epoch,
    /// Rate of the last epochs at home, smoothed; 0 = none yet.
    base: f64,
    /// Best of `base` of late.
    peak: f64,
    /// Relative difference between equal epochs, smoothed.
    noise: f64,
    /// Which trial is next.
    next_trial: usize,
    /// A trial of less that went well once, and is to do so once more.
    promising: Option<usize>,
    pause: u32,
}

/// The knobs, in the order they are tried: (the depth and not the length, more and not less).
const TRIALS: [(bool, bool); 4] = [(true, true), (false, true), (true, false), (false, false)];

impl DeviceTuner {
    /// For a device of which nothing was seen yet.
    pub fn new(facts: DeviceFacts, fixed: Fixed) -> Self {
        let (depth, bytes) = match facts.kind {
            DeviceKind::Flash => (16, 1 << 20),
            DeviceKind::Rotating => (8, 2 << 20),
            // Carried out one after the other on the storage thread.
            DeviceKind::Memory => (8, BATCH_BYTES_MAX),
        };
        let page = crate::arena::PAGE as u32;
        let bytes = fixed
            .batch_bytes
            .map_or(bytes, |bytes| bytes.clamp(BATCH_BYTES_MIN, BATCH_BYTES_MAX) / page * page);
        let mut this = Self {
            facts,
            fixed,
            now: Setting { depth, bytes },
            phase: Phase::Grow { before: None },
            epoch: Epoch::default(),
            base: 0.0,
            peak: 0.0,
            noise: 0.0,
            next_trial: 0,
            promising: None,
            pause: PAUSE_MIN,
        };
        this.now.depth = fixed.depth.map_or(depth, |depth| depth.max(1)).min(this.depth_max(bytes));
        this
    }

    /// Operations in flight at most, now.
    pub fn depth(&self) -> u32 {
        self.now.depth
    }

    /// Bytes per operation at most, now.
    pub fn batch_bytes(&self) -> u32 {
        self.now.bytes
    }

    /// What was known at the start.
    pub fn facts(&self) -> DeviceFacts {
        self.facts
    }

    /// The bounds of the depth with operations of `bytes`.
    fn depth_max(&self, bytes: u32) -> u32 {
        let limit = match self.fixed.depth {
            Some(depth) => return depth.max(1),
            None => DEPTH_MAX,
        };
        let Some((requests, longest)) = self.facts.requests else { return limit };
        // A quarter stays for others on the device.
        let room = (requests - requests / 4) / bytes.div_ceil(longest.max(1)).max(1);
        limit.min(room.max(self.depth_min()))
    }

    fn depth_min(&self) -> u32 {
        self.fixed.depth.map_or(DEPTH_MIN, |depth| depth.max(1))
    }

    /// Takes in an operation that ended. Whether depth or length changed.
    pub fn ended(&mut self, op: Ended) -> bool {
        if self.facts.kind == DeviceKind::Memory {
            return false;
        }
        if !op.saturated {
            self.epoch = Epoch { skip: self.epoch.skip.saturating_sub(1), ..Epoch::default() };
            return false;
        }
        let epoch = &mut self.epoch;
        if epoch.skip > 0 {
            epoch.skip -= 1;
            return false;
        }
        let Some(start) = epoch.start else {
            epoch.start = Some(op.now);
            return false;
        };
        epoch.bytes += u64::from(op.bytes);
        epoch.count += 1;
        epoch.latency += op.latency;
        let time = op.now.saturating_sub(start);
        if time < EPOCH_MIN || epoch.count < 2 * self.now.depth.min(16) {
            return false;
        }
        let rate = epoch.bytes as f64 / time.as_secs_f64();
        let latency = epoch.latency / epoch.count;
        let setting = self.now;
        self.epoch = Epoch::default();
        self.judge(rate, latency);
        let changed = setting != self.now;
        if changed {
            self.epoch.skip = setting.depth;
        }
        changed
    }

    /// An epoch is over.
    fn judge(&mut self, rate: f64, latency: Duration) {
        if self.brake(latency) {
            return;
        }
        match self.phase {
            Phase::Grow { before } => self.grow(before, rate, latency),
            Phase::Steady { pause } => {
                self.learn(rate);
                match pause {
                    0 => self.begin_trial(rate, latency),
                    _ => self.phase = Phase::Steady { pause: pause - 1 },
                }
            }
            Phase::Trial { tried, home, before } => {
                let trial = self.now;
                self.now = home;
                self.phase = Phase::Back { tried, trial, before, rate };
            }
            Phase::Back { tried, trial, before, rate: tried_rate } => {
                self.learn(rate);
                self.end_trial(tried, trial, (before + rate) / 2.0, tried_rate);
            }
        }
    }

    /// Cuts the queue of a device that takes too long. Whether it did.
    fn brake(&mut self, latency: Duration) -> bool {
        if latency <= LATENCY_MAX {
            return false;
        }
        let before = self.now;
        let share = LATENCY_MAX.as_secs_f64() / latency.as_secs_f64();
        if self.fixed.depth.is_none() && self.now.depth > self.depth_min() {
            self.now.depth = ((f64::from(self.now.depth) * share) as u32).max(self.depth_min());
        } else if self.fixed.batch_bytes.is_none() && self.now.bytes > BATCH_BYTES_MIN {
            self.now.bytes = (self.now.bytes / 2).max(BATCH_BYTES_MIN);
        }
        if self.now == before {
            return false;
        }
        // Another device than it was: what was learned of its rate is void.
        (self.base, self.peak) = (0.0, 0.0);
        self.phase = Phase::Steady { pause: self.pause };
        true
    }

    fn grow(&mut self, before: Option<(f64, Setting)>, rate: f64, latency: Duration) {
        if let Some((slower, setting)) = before
            && rate < slower * (1.0 + GROWTH_MIN)
        {
            self.now = setting;
            self.learn(slower);
            self.phase = Phase::Steady { pause: self.pause };
            return;
        }
        let depth = (self.now.depth * 2).min(self.depth_max(self.now.bytes));
        if depth == self.now.depth || latency * 2 > LATENCY_MAX {
            self.learn(rate);
            self.phase = Phase::Steady { pause: self.pause };
            return;
        }
        self.phase = Phase::Grow { before: Some((rate, self.now)) };
        self.now.depth = depth;
    }

    /// Takes in the rate of an epoch at home.
    fn learn(&mut self, rate: f64) {
        if self.base == 0.0 {
            self.base = rate;
        } else {
            let change = ((rate - self.base) / self.base).abs().min(1.0);
            self.noise += (change - self.noise) / 4.0;
            self.base += (rate - self.base) / 4.0;
        }
        self.peak = self.peak.max(self.base);
    }

    /// Moves the next knob that can be moved; with none, waits.
    fn begin_trial(&mut self, rate: f64, latency: Duration) {
        for step in 0..TRIALS.len() {
            let tried = (self.next_trial + step) % TRIALS.len();
            if let Some(setting) = self.moved(tried, latency) {
                self.next_trial = (tried + 1) % TRIALS.len();
                self.peak *= PEAK_DECAY;
                self.phase = Phase::Trial { tried, home: self.now, before: rate };
                self.now = setting;
                return;
            }
        }
        self.phase = Phase::Steady { pause: self.pause };
    }

    /// The setting with one knob moved, unless it is fixed, at its end, would make operations too slow, or
    /// would be less for nothing.
    fn moved(&self, tried: usize, latency: Duration) -> Option<Setting> {
        let (of_depth, more) = TRIALS[tried];
        let mut to = self.now;
        if of_depth {
            self.fixed.depth.is_none().then_some(())?;
            let depth = self.now.depth;
            to.depth = if more { depth + (depth / 2).max(1) } else { depth - (depth / 3).max(1) };
            to.depth = to.depth.clamp(self.depth_min(), self.depth_max(to.bytes));
        } else {
            self.fixed.batch_bytes.is_none().then_some(())?;
            to.bytes = if more { self.now.bytes * 2 } else { self.now.bytes / 2 };
            to.bytes = to.bytes.clamp(BATCH_BYTES_MIN, BATCH_BYTES_MAX);
            to.depth = to.depth.min(self.depth_max(to.bytes));
        }
        let slow = more && latency * 2 > LATENCY_MAX;
        let pointless = !more && latency < LATENCY_SHORT;
        (to != self.now && !slow && !pointless).then_some(to)
    }

    fn end_trial(&mut self, tried: usize, trial: Setting, base: f64, rate: f64) {
        let (_, more) = TRIALS[tried];
        let taken = if more {
            rate > base * (1.0 + GAIN_MIN.max(self.noise))
        } else {
            rate > base * (1.0 - LOSS_MAX) && rate > self.peak * (1.0 - DRIFT_MAX)
        };
        let promising = self.promising.take();
        if taken && !more && promising != Some(tried) {
            // A lucky epoch costs a setting that was good: twice in a row is less likely luck.
            self.promising = Some(tried);
            self.next_trial = tried;
            self.phase = Phase::Steady { pause: 0 };
            return;
        }
        if taken {
            self.now = trial;
            self.pause = PAUSE_MIN;
            // The same knob once more.
            self.next_trial = tried;
        } else {
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
        self.phase = Phase::Steady { pause: self.pause };
    }
}

#[cfg(test)]
#[path = "tuner_tests.rs"]
mod tests;

//! Which torrents run: a pure state machine. Time is passed in.
//!
//! Role: keeps the order of torrents and decides, from what each is and how fast it goes, which ones run. Owner: the
//! daemon, which tells it what it sees and does what it says.
//!
//! Rules, as libtorrent's for torrents that are managed: within their limits the first downloads of the order run, then the
//! first seeds. One that was slower than [`QueueLimits::slow_rate`] for [`QueueLimits::slow_after`] keeps running and does
//! not count, but for [`QueueLimits::active_limit`]. One that is forced runs and never counts.
//!
//! Invariant: the order holds each torrent once, and only torrents of the order run.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How many torrents run at a time; `None` = any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Downloads that are not slow.
    pub active_downloads: Option<u32>,
    /// Seeds that are not slow.
    pub active_seeds: Option<u32>,
    /// All that are not forced, slow ones too.
    pub active_limit: Option<u32>,
    /// Bytes per second below which a torrent is slow; 0: none ever is.
    pub slow_rate: u64,
    /// How long it must have been.
    pub slow_after: Duration,
}

/// What a torrent is at the moment of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// It may run: nobody has paused it and it has not failed for good.
    pub wanted: bool,
    /// It runs in any case.
    pub forced: bool,
    /// Nothing is left to fetch.
    pub complete: bool,
    /// It is opened, checked or moved: its rate says nothing.
    pub busy: bool,
    /// Bytes per second in the direction that counts: received by a download, sent by a seed.
    pub rate: u64,
}

/// Where a torrent goes in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Before the one before it.
    Up,
    /// Behind the one behind it.
    Down,
    /// Before all.
    Top,
    /// Behind all.
    Bottom,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    runs: bool,
    /// Since when it has been slow without a break; only while it runs.
    slow_since: Option<Instant>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Queue<K> {
    order: Vec<K>,
    entries: HashMap<K, Entry>,
}

/// A torrent that is to run from now on, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<K> {
    /// Which.
    pub key: K,
    /// Whether it runs.
    pub runs: bool,
}

impl<K: Copy + Eq + Hash> Queue<K> {
    /// An empty one.
    pub fn new() -> Self {
        Self { order: Vec::new(), entries: HashMap::new() }
    }

    /// Adds a torrent behind all others. It does not run before [`Self::decide`] says so.
    pub fn push(&mut self, key: K) {
        if self.entries.insert(key, Entry::default()).is_none() {
            self.order.push(key);
        }
    }

    /// Forgets a torrent.
    pub fn remove(&mut self, key: K) {
        if self.entries.remove(&key).is_some() {
            self.order.retain(|other| *other != key);
        }
    }

    /// The torrents in their order.
    pub fn order(&self) -> &[K] {
        &self.order
    }

    /// Place in the order, from 0.
    pub fn position(&self, key: K) -> Option<usize> {
        self.order.iter().position(|other| *other == key)
    }

    /// Whether the last decision has it running.
    pub fn runs(&self, key: K) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.runs)
    }

    /// Moves a torrent in the order; whether that changed anything.
    pub fn step(&mut self, key: K, step: Step) -> bool {
        let Some(from) = self.position(key) else { return false };
        let last = self.order.len() - 1;
        let to = match step {
            Step::Up => from.saturating_sub(1),
            Step::Down => (from + 1).min(last),
            Step::Top => 0,
            Step::Bottom => last,
        };
        let key = self.order.remove(from);
        self.order.insert(to, key);
        to != from
    }

    /// What changes, in the order: first those that stop, then those that start. `look` tells of each torrent.
    pub fn decide(
        &mut self,
        limits: &QueueLimits,
        now: Instant,
        look: impl Fn(K) -> Look,
    ) -> Vec<Decision<K>> {
        let looks: Vec<Look> = self.order.iter().map(|key| look(*key)).collect();
        let mut runs: Vec<bool> = looks.iter().map(|look| look.wanted && look.forced).collect();
        let mut total = 0;
        for complete in [false, true] {
            let limit = if complete { limits.active_seeds } else { limits.active_downloads };
            let mut counted = 0;
            for (at, look) in looks.iter().enumerate() {
                if look.forced {
                    self.entries.get_mut(&self.order[at]).expect("it is in the order").slow_since = None;
                }
                if look.complete != complete || look.forced || !look.wanted {
                    continue;
                }
                if limits.active_limit.is_some_and(|limit| total >= limit) {
                    break;
                }
                let is_slow = self.is_slow(self.order[at], look, limits, now);
                if is_slow || limit.is_none_or(|limit| counted < limit) {
                    runs[at] = true;
                    total += 1;
                    counted += u32::from(!is_slow);
                }
            }
        }
        let mut decisions = Vec::new();
        for (at, runs) in runs.into_iter().enumerate() {
            let entry = self.entries.get_mut(&self.order[at]).expect("the order has what entries have");
            if entry.runs != runs {
                decisions.push(Decision { key: self.order[at], runs });
                *entry = Entry { runs, slow_since: None };
            }
        }
        decisions.sort_by_key(|decision| decision.runs);
        decisions
    }

    /// Whether a torrent that runs has been slow for long enough; notes since when it is.
    fn is_slow(&mut self, key: K, look: &Look, limits: &QueueLimits, now: Instant) -> bool {
        let entry = self.entries.get_mut(&key).expect("the order has what entries have");
        if !entry.runs || look.busy || look.rate >= limits.slow_rate {
            entry.slow_since = None;
            return false;
        }
        let since = *entry.slow_since.get_or_insert(now);
        now.saturating_duration_since(since) >= limits.slow_after
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;

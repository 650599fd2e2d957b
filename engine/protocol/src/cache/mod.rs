//! Which extents of files stay in memory: S3-FIFO, a policy that a scan cannot empty.
//!
//! Role: remembers what is resident and names what goes when room is needed; the bytes are the caller's. Pure. Owner:
//! the read cache of a shard. Three queues (Yang et al., "FIFO queues are all you need for cache eviction", SOSP
//! 2023): what is new stands in a small one, a quarter of all weight; what was used again and again by the time it reaches
//! that queue's end moves to the main one, the rest goes and leaves a ghost, a key without bytes, for a while. Who comes
//! back while its ghost is there goes to the main queue at once. So whoever reads a torrent from end to end takes a
//! quarter of the memory at most. (The paper takes a tenth. Peers follow each other through a swarm's pieces at some
//! distance, and within a quarter the later ones still meet what the first one left.)
//!
//! Invariants: an entry is in exactly one queue; an entry that the caller holds is never named; at most `ghosts_max`
//! ghosts. Every operation but [`Policy::retain`] is O(1), [`Policy::evict`] amortised over insertions and uses.
//!
//! [`ReadAhead`] decides what one reader will want next.

mod read_ahead;

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

pub use read_ahead::{ReadAhead, WINDOW_MAX};

/// The small queue is kept at one part in so many of all weight.
const SMALL_PART: u64 = 4;
/// Uses that make an entry of the small queue stay: the one that it was read for, and two more. One more is no sign
/// yet: two peers a little apart would fill the main queue with what nobody else wants.
const USES_TO_STAY: u8 = 3;
/// Uses that are counted; each is worth one more round through the main queue.
const USES_MAX: u8 = 3;
/// Held entries that one eviction steps over in each queue, so that its time is bounded while many are held.
const HELD_MAX: usize = 64;

#[derive(Debug)]
struct Entry {
    weight: u32,
    uses: u8,
    in_main: bool,
}

/// An entry that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted<K> {
    /// Its name.
    pub key: K,
    /// Nobody has used it since it was inserted.
    pub unused: bool,
}

/// The policy. See the module.
#[derive(Debug)]
pub struct Policy<K> {
    entries: HashMap<K, Entry>,
    small: VecDeque<K>,
    main: VecDeque<K>,
    ghosts: Ghosts<K>,
    /// Sum of the weights in the small queue, and in both.
    small_weight: u64,
    weight: u64,
}

impl<K: Copy + Eq + Hash> Policy<K> {
    /// An empty one that remembers `ghosts_max` keys of what it let go.
    pub fn new(ghosts_max: usize) -> Self {
        Self {
            entries: HashMap::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: Ghosts { queue: VecDeque::new(), live: HashMap::new(), clock: 0, max: ghosts_max },
            small_weight: 0,
            weight: 0,
        }
    }

    /// Entries that are resident.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is resident.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sum of the weights of what is resident.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// Whether `key` is resident.
    pub fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    /// Takes in an entry of `weight` (bytes, say) that nobody has used yet, and returns whether it was let go of a while
    /// ago. Panics when it is resident.
    pub fn insert(&mut self, key: K, weight: u32) -> bool {
        let in_main = self.ghosts.take(&key);
        let before = self.entries.insert(key, Entry { weight, uses: 0, in_main });
        assert!(before.is_none(), "an entry inserted twice");
        self.weight += u64::from(weight);
        if in_main {
            self.main.push_back(key);
        } else {
            self.small_weight += u64::from(weight);
            self.small.push_back(key);
        }
        in_main
    }

    /// Notes a use; returns whether it is the first one. To be called once per reader that passes, not for each of
    /// the many small pieces it takes. Nothing happens when `key` is not resident.
    pub fn used(&mut self, key: &K) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        let first = entry.uses == 0 && !entry.in_main;
        entry.uses = (entry.uses + 1).min(USES_MAX);
        first
    }

    /// Names an entry that goes, and forgets it. `may_go` says whether an entry is free to go; when it keeps saying
    /// no there may be no answer although something could go: ask again when something was let go of.
    pub fn evict(&mut self, mut may_go: impl FnMut(&K) -> bool) -> Option<Evicted<K>> {
        if self.small_weight * SMALL_PART >= self.weight {
            self.evict_small(&mut may_go).or_else(|| self.evict_main(&mut may_go))
        } else {
            self.evict_main(&mut may_go).or_else(|| self.evict_small(&mut may_go))
        }
    }

    fn evict_small(&mut self, may_go: &mut impl FnMut(&K) -> bool) -> Option<Evicted<K>> {
        let mut held = 0;
        while held < HELD_MAX.min(self.small.len()) {
            let key = self.small.pop_front()?;
            let entry = self.entries.get_mut(&key).expect("a queue lists what is resident");
            if entry.uses >= USES_TO_STAY {
                self.small_weight -= u64::from(entry.weight);
                (entry.in_main, entry.uses) = (true, 0);
                self.main.push_back(key);
            } else if may_go(&key) {
                let unused = entry.uses == 0;
                self.small_weight -= u64::from(entry.weight);
                self.weight -= u64::from(entry.weight);
                self.entries.remove(&key);
                // What was read in vain is nothing that anybody will come back to.
                if !unused {
                    self.ghosts.add(key);
                }
                return Some(Evicted { key, unused });
            } else {
                self.small.push_back(key);
                held += 1;
            }
        }
        None
    }

    fn evict_main(&mut self, may_go: &mut impl FnMut(&K) -> bool) -> Option<Evicted<K>> {
        let mut held = 0;
        while held < HELD_MAX.min(self.main.len()) {
            let key = self.main.pop_front()?;
            let entry = self.entries.get_mut(&key).expect("a queue lists what is resident");
            if entry.uses > 0 {
                entry.uses -= 1;
                self.main.push_back(key);
            } else if may_go(&key) {
                self.weight -= u64::from(entry.weight);
                self.entries.remove(&key);
                return Some(Evicted { key, unused: false });
            } else {
                self.main.push_back(key);
                held += 1;
            }
        }
        None
    }

    /// Forgets every entry and ghost that `stays` does not want. O(n).
    pub fn retain(&mut self, mut stays: impl FnMut(&K) -> bool) {
        let (entries, mut gone, mut gone_small) = (&mut self.entries, 0, 0);
        let mut keep = |key: &K, is_small: bool| {
            if stays(key) {
                return true;
            }
            let weight = u64::from(entries.remove(key).expect("a queue lists what is resident").weight);
            gone += weight;
            gone_small += if is_small { weight } else { 0 };
            false
        };
        self.small.retain(|key| keep(key, true));
        self.main.retain(|key| keep(key, false));
        self.weight -= gone;
        self.small_weight -= gone_small;
        self.ghosts.live.retain(|key, _| stays(key));
    }

    /// Keys of what was let go that are remembered.
    pub fn ghosts(&self) -> usize {
        self.ghosts.live.len()
    }
}

/// The last keys let go, each with the time of that: one that is let go again is younger than its old place says.
#[derive(Debug)]
struct Ghosts<K> {
    queue: VecDeque<(K, u64)>,
    live: HashMap<K, u64>,
    clock: u64,
    max: usize,
}

impl<K: Copy + Eq + Hash> Ghosts<K> {
    fn add(&mut self, key: K) {
        self.clock += 1;
        self.queue.push_back((key, self.clock));
        self.live.insert(key, self.clock);
        while self.queue.len() > self.max {
            let (old, since) = self.queue.pop_front().expect("longer than its bound");
            if self.live.get(&old) == Some(&since) {
                self.live.remove(&old);
            }
        }
    }

    fn take(&mut self, key: &K) -> bool {
        self.live.remove(key).is_some()
    }
}

#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod tests;

//! Who has to be looked after when: one deadline per key, and only those that are due are touched.
//!
//! Role: lets a shard with many torrents, and a torrent with many connections, rest until something is due. Owner: the
//! shard (torrents, connections) and [`crate::torrent::Torrent`] (peers). Invariant: a key with a deadline is in the
//! order exactly once, with that deadline.

use std::collections::BTreeSet;
use std::time::Instant;

/// Deadlines of keys that are dense indices (of a slab, say). Setting and taking cost O(log n), asking O(1).
#[derive(Debug, Default)]
pub struct Deadlines {
    of: Vec<Option<Instant>>,
    order: BTreeSet<(Instant, u32)>,
}

impl Deadlines {
    /// Sets the deadline of `key`, or takes it away.
    pub fn set(&mut self, key: usize, at: Option<Instant>) {
        let name = u32::try_from(key).expect("indices of a slab are small");
        if key >= self.of.len() {
            if at.is_none() {
                return;
            }
            self.of.resize(key + 1, None);
        }
        let before = std::mem::replace(&mut self.of[key], at);
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.order.remove(&(before, name));
        }
        if let Some(at) = at {
            self.order.insert((at, name));
        }
    }

    /// As [`Self::set`], but never later than the deadline that there is.
    pub fn at_most(&mut self, key: usize, at: Instant) {
        if self.get(key).is_none_or(|before| at < before) {
            self.set(key, Some(at));
        }
    }

    /// The deadline of `key`.
    pub fn get(&self, key: usize) -> Option<Instant> {
        self.of.get(key).copied().flatten()
    }

    /// The earliest deadline of all.
    pub fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the key that has been due longest at `now`, with its deadline.
    pub fn pop(&mut self, now: Instant) -> Option<usize> {
        let (_, name) = *self.order.first().filter(|(at, _)| *at <= now)?;
        self.set(name as usize, None);
        Some(name as usize)
    }

    /// Takes all keys that are due at `now`, the earliest first: those that are set meanwhile wait for the next call.
    pub fn pop_all(&mut self, now: Instant) -> Vec<usize> {
        std::iter::from_fn(|| self.pop(now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Set(usize, Option<u64>),
        AtMost(usize, u64),
        Pop(u64),
        PopAll(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        let (key, time) = (0usize..12, 0u64..50);
        prop_oneof![
            (key.clone(), prop::option::of(time.clone())).prop_map(|(key, at)| Op::Set(key, at)),
            (key, time.clone()).prop_map(|(key, at)| Op::AtMost(key, at)),
            time.clone().prop_map(Op::Pop),
            time.prop_map(Op::PopAll),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_map(ops in prop::collection::vec(op(), 1..200)) {
            let zero = Instant::now();
            let at = |time: u64| zero + Duration::from_millis(time);
            let mut deadlines = Deadlines::default();
            let mut model = BTreeMap::<usize, u64>::new();
            let pop = |model: &mut BTreeMap<usize, u64>, now: u64| {
                let (time, key) = model.iter().map(|(key, time)| (*time, *key)).min()?;
                (time <= now).then(|| model.remove(&key).map(|_| key)).flatten()
            };
            for op in ops {
                match op {
                    Op::Set(key, time) => {
                        deadlines.set(key, time.map(at));
                        match time {
                            Some(time) => drop(model.insert(key, time)),
                            None => drop(model.remove(&key)),
                        }
                    }
                    Op::AtMost(key, time) => {
                        deadlines.at_most(key, at(time));
                        let entry = model.entry(key).or_insert(time);
                        *entry = time.min(*entry);
                    }
                    Op::Pop(now) => prop_assert_eq!(deadlines.pop(at(now)), pop(&mut model, now)),
                    Op::PopAll(now) => {
                        let all: Vec<usize> = std::iter::from_fn(|| pop(&mut model, now)).collect();
                        prop_assert_eq!(deadlines.pop_all(at(now)), all);
                    }
                }
                prop_assert_eq!(deadlines.next(), model.values().min().map(|time| at(*time)));
                for key in 0..14 {
                    prop_assert_eq!(deadlines.get(key), model.get(&key).map(|time| at(*time)));
                }
            }
        }
    }
}

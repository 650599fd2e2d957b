//! Who may read from a rotating device: one check at a time, or the heads would run between two.
//!
//! Role: a line per device, shared by all shards. Owner: the service makes it, shards hold it. Not on the data path: a
//! check asks once when it begins and once when it ends. Invariant: a device has one holder at most, and whoever
//! stands in a line is its next holder some time, unless it leaves.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ccbt_protocol::ids::TorrentKey;

/// A torrent and the shard it lives on.
pub(crate) type Place = (TorrentKey, usize);

#[derive(Debug)]
struct Line {
    holder: Place,
    waiting: VecDeque<Place>,
}

/// The lines. See the module.
#[derive(Debug, Default)]
pub struct DeviceLines(Mutex<HashMap<u64, Line>>);

impl DeviceLines {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Line>> {
        // Nothing between lock and unlock leaves a line half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the line of `device`. Returns whether it is one's turn at once; otherwise [`Self::leave`] of another tells.
    /// Asked again by one who stands there, says whether its turn has come.
    pub(crate) fn join(&self, device: u64, place: Place) -> bool {
        let mut lines = self.lock();
        let line = lines.entry(device).or_insert_with(|| Line { holder: place, waiting: VecDeque::new() });
        if line.holder != place && !line.waiting.contains(&place) {
            line.waiting.push_back(place);
        }
        line.holder == place
    }

    /// Leaves the line, whether holding the device or waiting. Returns whose turn it is now, if that has changed.
    pub(crate) fn leave(&self, device: u64, place: Place) -> Option<Place> {
        let mut lines = self.lock();
        let line = lines.get_mut(&device)?;
        if line.holder != place {
            line.waiting.retain(|waiting| *waiting != place);
            return None;
        }
        let Some(next) = line.waiting.pop_front() else {
            lines.remove(&device);
            return None;
        };
        line.holder = next;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(key: u32) -> Place {
        (TorrentKey(key), key as usize % 3)
    }

    #[test]
    fn one_holder_and_turns_in_order() {
        let lines = DeviceLines::default();
        assert!(lines.join(1, place(1)) && lines.join(2, place(2)), "each device has its own line");
        assert!(!lines.join(1, place(3)) && !lines.join(1, place(4)) && !lines.join(1, place(5)));
        assert!(!lines.join(1, place(3)) && lines.join(1, place(1)), "asking again changes nothing");
        assert_eq!(lines.leave(1, place(4)), None, "one that waits goes");
        assert_eq!(lines.leave(1, place(1)), Some(place(3)));
        assert!(lines.join(1, place(3)));
        assert_eq!(lines.leave(1, place(3)), Some(place(5)));
        assert_eq!(lines.leave(1, place(5)), None);
        assert_eq!(lines.leave(1, place(5)), None, "nobody is left");
        assert!(lines.join(1, place(9)));
    }
}

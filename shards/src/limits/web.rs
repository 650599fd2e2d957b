//! Limits and web seeds: a torrent's home takes tokens for what the web seed thread may receive.
//!
//! Invariant: what is allowed and has not come is bounded by a tenth of a second of the limit, so a server that stalls
//! keeps little from peers.

use std::time::{Duration, Instant};

use ccbt_protocol::rate::{Overhead, Way, quantum};

use crate::shard::Shard;

/// Tokens that may be unused at least.
const UNUSED_MIN: u64 = 64 * 1024;
/// How often a home looks again that got no tokens.
const AGAIN: Duration = Duration::from_millis(10);

/// Torrents whose web seeds wait for tokens.
#[derive(Default)]
pub(super) struct Waiting {
    torrents: Vec<usize>,
    /// When they look again.
    due: Option<Instant>,
}

impl Waiting {
    /// Nothing of a torrent waits any more.
    pub fn forget(&mut self, index: usize) {
        self.torrents.retain(|torrent| *torrent != index);
    }
}

impl Shard {
    /// Tokens for the web seeds of a torrent of which `unused` were given before; counted as spent. Those that wait for
    /// some are touched by [`Shard::let_webs_go`].
    pub(crate) fn admit_web(&mut self, index: usize, unused: u64) -> u64 {
        let at = Way::Down as usize;
        let mut torrent = self.homes[index].limits.as_deref_mut().map(|limits| &mut limits.gates[at]);
        let mut gates = [Some(&mut self.limits.gates[at]), torrent.take()];
        let limited = || gates.iter().flatten().filter(|gate| !gate.quota.is_unlimited());
        let Some(rate) = limited().map(|gate| gate.quota.rate()).min() else {
            // Only each peer is limited.
            return UNUSED_MIN.max(1 << 20).saturating_sub(unused);
        };
        let most = (rate / 10).max(UNUSED_MIN).saturating_sub(unused);
        // Peers that wait get the other half.
        let share = |available: u64, waits: bool| if waits { available / 2 } else { available };
        let available = limited().map(|gate| share(gate.quota.available(), !gate.waiting.is_empty())).min();
        let tokens = available.unwrap_or(0).min(most);
        let enough = tokens >= quantum(rate).min(most) && tokens > 0;
        if enough {
            gates.iter_mut().flatten().for_each(|gate| gate.quota.consume(tokens));
        }
        self.mark_busy(index);
        if !enough && most > 0 {
            let webs = &mut self.limits.webs;
            webs.forget(index);
            webs.torrents.push(index);
        }
        let overhead = if self.config.count_overhead { Overhead::V4 } else { Overhead::None };
        if enough { overhead.affordable(tokens) } else { 0 }
    }

    /// Lets web seeds look again that waited for tokens, once a turn.
    pub(super) fn let_webs_go(&mut self) {
        let webs = &mut self.limits.webs;
        if webs.torrents.is_empty() {
            return;
        }
        let due = *webs.due.get_or_insert(self.now + AGAIN);
        if self.now < due {
            self.limits.due = Some(self.limits.due.map_or(due, |before| before.min(due)));
            return;
        }
        webs.due = None;
        for index in std::mem::take(&mut webs.torrents) {
            self.touch(index);
        }
    }
}

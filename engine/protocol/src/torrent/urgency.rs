//! Urgent pieces: which peers are slow, and which requests are late.
//!
//! Time and rates for [`crate::picker::Picker::set_pressing`]. Looked at once a second while something is urgent.

use std::time::{Duration, Instant};

use super::{Torrent, peer_of};
use crate::geometry::Block;
use crate::ids::PieceIndex;
use crate::picker::PeerKey;

/// Pieces at the head of the list that slow peers are kept away from, and whose late blocks others are asked for.
const PRESSING: usize = 4;
/// A peer with less than one part in so many of the fastest one's rate is slow.
const SLOW_PART: u64 = 4;
/// A block that is needed next and was asked for so long ago is late.
const LATE: Duration = Duration::from_millis(1500);

impl Torrent {
    /// These pieces are needed first, in this order; none: nothing is played.
    pub fn set_urgent(&mut self, now: Instant, order: Vec<PieceIndex>) {
        if self.picker.urgent() == order {
            return;
        }
        self.picker.set_urgent(order);
        self.judge_urgency(now);
        self.wake_best_first(now);
    }

    /// Finds out who is slow and what is late.
    pub(super) fn judge_urgency(&mut self, now: Instant) {
        if self.picker.urgent().is_empty() {
            return;
        }
        let keys: Vec<PeerKey> = self.peer_keys().collect();
        let rates: Vec<u64> = keys.iter().map(|key| peer_of(&mut self.slots, *key).down.rate(now)).collect();
        let fastest = rates.iter().copied().max().unwrap_or(0);
        for (key, rate) in keys.iter().zip(&rates) {
            let peer = peer_of(&mut self.slots, *key);
            // One that was never asked may be the fastest.
            peer.slow = peer.snubbed || peer.unreliable || peer.downloaded > 0 && rate * SLOW_PART < fastest;
        }
        let pressing: Vec<PieceIndex> = self.picker.urgent().iter().take(PRESSING).copied().collect();
        let has_fast = |piece: &PieceIndex| {
            self.peer_keys()
                .map(|key| self.peer(key))
                .any(|peer| !peer.slow && !peer.peer_choking && peer.am_interested && peer.has(*piece))
        };
        let closed = pressing.iter().copied().filter(has_fast).collect();
        let is_late = |request: &&crate::peer::Outstanding| {
            pressing.contains(&request.block.piece) && now.saturating_duration_since(request.sent) >= LATE
        };
        let peers = self.peer_keys().map(|key| self.peer(key));
        let mut late: Vec<Block> = peers
            .flat_map(|peer| peer.outstanding.iter().filter(is_late).map(|request| request.block))
            .collect();
        // Those of the piece that is needed first come first.
        let place = |block: &Block| (pressing.iter().position(|piece| *piece == block.piece), block.begin);
        late.sort_by_key(place);
        late.dedup();
        self.picker.set_pressing(closed, late);
        if self.picker.has_late() {
            self.wake_best_first(now);
        }
    }

    /// As [`Torrent::wake_idle`], in the order of their quality ([`crate::score`]): what is needed first is asked of the
    /// best.
    fn wake_best_first(&mut self, now: Instant) {
        let mut keys = self.idle_keys();
        keys.sort_by_cached_key(|key| {
            let peer = peer_of(&mut self.slots, *key);
            (peer.slow, std::cmp::Reverse(peer.score(now).quality))
        });
        keys.into_iter().for_each(|key| self.mark(key));
    }
}

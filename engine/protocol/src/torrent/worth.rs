//! What connections are worth ([`crate::score`]): what was known before, and which make way for others.

use std::time::{Duration, Instant};

use super::{Torrent, peer_of};
use crate::picker::PeerKey;
use crate::score::Record;

impl Torrent {
    /// What was known of a peer before it connected.
    pub fn recall(&mut self, key: PeerKey, past: Record) {
        self.peer_mut(key).past = past;
    }

    /// Up to `most` connections that are to make way for others, the worst first: those of the lowest quality over which
    /// nothing goes, and which have had `patience` to show that they are of use.
    pub fn idlest(&mut self, now: Instant, patience: Duration, most: usize) -> Vec<PeerKey> {
        let keys: Vec<PeerKey> = self.peer_keys().collect();
        let mut idle: Vec<(u8, PeerKey)> = Vec::new();
        for key in keys {
            let peer = peer_of(&mut self.slots, key);
            let has_had_time = now.saturating_duration_since(peer.connected) >= patience;
            let is_still = peer.down.rate(now) + peer.up.rate(now) == 0 && !peer.held;
            let is_served = !peer.am_choking && peer.peer_interested;
            if has_had_time && is_still && !is_served {
                idle.push((peer.score(now).quality, key));
            }
        }
        idle.sort_unstable();
        idle.truncate(most);
        idle.into_iter().map(|(_, key)| key).collect()
    }
}

//! What connections are worth ([`crate::score`]): what was known before, and which make way for others.

use std::time::{Duration, Instant};

use super::{Torrent, peer_of};
use crate::picker::PeerKey;
use crate::score::{Record, UNRELIABLE};

impl Torrent {
    /// What was known of a peer before it connected.
    pub fn recall(&mut self, key: PeerKey, past: Record) {
        self.peer_mut(key).past = past;
        self.judge_peer(key);
    }

    /// Looks anew at how reliable a peer is. After what speaks against it, and at ticks: blocks are not judged one by one.
    pub(super) fn judge_peer(&mut self, key: PeerKey) {
        let peer = peer_of(&mut self.slots, key);
        let unreliable = peer.reliability() < UNRELIABLE;
        if std::mem::replace(&mut peer.unreliable, unreliable) != unreliable {
            self.picker.set_unreliable(key, unreliable);
        }
    }

    /// Bytes of payload that go over a connection now, both ways, per second.
    pub fn flow(&mut self, now: Instant, key: PeerKey) -> u64 {
        let peer = peer_of(&mut self.slots, key);
        peer.down.rate(now) + peer.up.rate(now)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::Record;
    use crate::torrent::tests::swarm::{FAST, Manner, Swarm};

    const MS: Duration = Duration::from_millis(1);
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn the_idlest_make_way_and_those_that_give_stay() {
        let mut swarm = Swarm::new(5, 40);
        let (snub, other, honest) = (swarm.seed(Manner::Snub), swarm.leech(), swarm.seed(Manner::Honest));
        let to = swarm.leech();
        let keys = [snub, other].map(|node| {
            let conn = swarm.connect(to, node, FAST);
            swarm.keys(conn)[0]
        });
        let now = swarm.now;
        assert!(swarm.nodes[to].torrent.idlest(now, PATIENCE, 9).is_empty(), "they have just come");
        swarm.run(100 * MS, 650, |_| false);
        let conn = swarm.connect(to, honest, FAST);
        let giver = swarm.keys(conn)[0];
        let gives = |swarm: &Swarm| swarm.nodes[to].torrent.peer(giver).record().blocks > 0;
        assert!(swarm.run(5 * MS, 200, gives), "it serves");
        let now = swarm.now;
        let torrent = &mut swarm.nodes[to].torrent;
        let record = torrent.peer(keys[0]).record();
        assert!(record.snubs >= 1 && record.timeouts >= 1 && record.blocks == 0, "{record:?}");
        assert_eq!(torrent.idlest(now, PATIENCE, 9), keys, "the one that owes blocks goes first");
        assert_eq!(torrent.idlest(now, PATIENCE, 1), [keys[0]]);
        assert_eq!(torrent.idlest(now, Duration::ZERO, 9), keys, "the one that gives stays");
    }

    #[test]
    fn the_unreliable_hold_little_until_they_deliver() {
        let mut swarm = Swarm::new(7, 40);
        let from = swarm.seed(Manner::Honest);
        let to = swarm.leech();
        let conn = swarm.connect(to, from, FAST);
        let key = swarm.keys(conn)[0];
        let torrent = &mut swarm.nodes[to].torrent;
        let usual = torrent.peer(key).depth();
        torrent.recall(key, Record { snubs: 2, ..Record::default() });
        let little = torrent.peer(key).depth();
        assert!(little >= 1 && little == usual / 4, "{little} of {usual}");
        let most = |swarm: &Swarm| swarm.nodes[to].torrent.peer(key).outstanding.len();
        let serves = |swarm: &Swarm| {
            let peer = swarm.nodes[to].torrent.peer(key);
            assert!(!peer.unreliable || most(swarm) <= little, "{} requests", most(swarm));
            peer.record().blocks >= 40
        };
        assert!(swarm.run(5 * MS, 2000, serves), "it serves nevertheless");
        swarm.run(100 * MS, 11, |_| false);
        let peer = swarm.nodes[to].torrent.peer(key);
        assert!(!peer.unreliable && peer.depth() >= usual, "what it does counts: {}", peer.depth());
    }

    #[test]
    fn what_was_known_before_counts() {
        let mut swarm = Swarm::new(6, 4);
        let from = swarm.seed(Manner::Honest);
        let to = swarm.leech();
        let conn = swarm.connect(to, from, FAST);
        let key = swarm.keys(conn)[0];
        let torrent = &mut swarm.nodes[to].torrent;
        assert_eq!(torrent.peer(key).reliability(), 50);
        torrent.recall(key, Record { snubs: 9, ..Record::default() });
        assert!(torrent.peer(key).reliability() < 10);
        assert_eq!(torrent.peer(key).record(), Record::default(), "of this connection nothing is bad");
    }
}

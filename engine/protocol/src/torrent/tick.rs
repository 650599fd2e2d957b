//! What time brings: choking rounds, keep-alives, time-outs.

use std::time::{Duration, Instant};

use rand::Rng;

use super::{KEY_INDEX_BITS, Torrent, key_index, peer_of};
use crate::choker::Candidate;
use crate::peer::{Peer, PeerFault};
use crate::picker::PeerKey;
use crate::wire::message::Message;

/// Regular choking round (BEP 3).
pub(super) const CHOKE_ROUND: Duration = Duration::from_secs(10);
/// We say something at least this often (BEP 3: two minutes at most).
const KEEP_ALIVE: Duration = Duration::from_secs(100);
/// Others must say something at least this often; a little grace for their timers.
const SILENCE: Duration = Duration::from_secs(150);

/// How often a peer is looked at with which something is going on.
const LOOK: Duration = Duration::from_secs(1);
/// How long a peer that snubs us rests when other shards wait for the pieces that it is asked for. Long enough for them
/// to be given up, lent, and fetched; short against the patience of a peer that has others to serve.
const REST: Duration = Duration::from_secs(10);

impl Torrent {
    /// When [`Torrent::tick`] has something to do even if nothing happens until then; `None`: it has nothing. May be in
    /// the past.
    pub fn next_tick(&self, now: Instant) -> Option<Instant> {
        if self.restless && self.live > 0 {
            return Some(now);
        }
        let round = (self.live > 0 && !self.choker_rests).then(|| self.choke_due.unwrap_or(now));
        self.due.next().into_iter().chain(round).min()
    }

    /// To be called when [`Torrent::next_tick`] says so, once a second at most. Looks at the peers that are due, and at
    /// all of them when what is wanted has changed.
    pub fn tick(&mut self, now: Instant, rng: &mut impl Rng) {
        let due = self.due.pop_all(now);
        let keys: Vec<PeerKey> = match std::mem::take(&mut self.restless) {
            true => self.peer_keys().collect(),
            false => due.into_iter().map(|at| self.key_at(at)).collect(),
        };
        for key in keys {
            self.tick_peer(now, key);
            let next = self.next_look(now, key);
            self.due.set(key_index(key), next);
        }
        self.judge_urgency(now);
        self.tick_super_seed(now);
        self.choke_round(now, rng);
    }

    fn key_at(&self, at: usize) -> PeerKey {
        PeerKey(self.slots[at].generation << KEY_INDEX_BITS | at as u32)
    }

    /// When time brings something for a peer of which nothing is heard until then; `None`: its connection is to end.
    fn next_look(&self, now: Instant, key: PeerKey) -> Option<Instant> {
        let peer = self.peer(key);
        if peer.held {
            return Some(now + LOOK);
        }
        if now.saturating_duration_since(peer.last_received) >= SILENCE {
            return None;
        }
        let offences = peer.strikes > 0 || peer.overflow > 0;
        // One that may be asked, and is not, waits for memory.
        let in_use = !peer.outstanding.is_empty() || peer.am_interested && !peer.peer_choking;
        if offences || in_use {
            return Some(now + LOOK);
        }
        let quiet = (peer.last_received + SILENCE).min(peer.last_sent + KEEP_ALIVE);
        Some(self.next_telling(now, peer).map_or(quiet, |at| at.min(quiet)).max(now + LOOK))
    }

    /// Something happened with a peer: the next tick looks at it.
    pub(super) fn stir(&mut self, now: Instant, key: PeerKey) {
        self.due.at_most(key_index(key), now);
    }

    /// Runs the choker when its round is due, or early when somebody became interested or left a place.
    pub fn choke_round(&mut self, now: Instant, rng: &mut impl Rng) {
        if !self.choker_rests && self.choke_due.is_none_or(|due| due <= now) {
            self.choke_due = Some(now + CHOKE_ROUND);
            self.run_choker(now, rng);
        }
    }

    /// Whether [`Torrent::choke_round`] should be called before the next tick.
    pub fn wants_choke_round(&self) -> bool {
        self.choke_due.is_none() && self.live > 0
    }

    /// Draws whom to serve now.
    fn run_choker(&mut self, now: Instant, rng: &mut impl Rng) {
        let seeding = self.picker.is_finished();
        let mut candidates = Vec::with_capacity(self.live);
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let Some(peer) = &mut slot.peer else { continue };
            let key = PeerKey(slot.generation << KEY_INDEX_BITS | at as u32);
            candidates.push(Candidate {
                key,
                interested: peer.peer_interested,
                unchoked: !peer.am_choking,
                down_rate: peer.down.rate(now),
                up_rate: peer.up.rate(now),
                uploaded: peer.uploaded,
                snubbed: peer.snubbed,
                upload_only: peer.upload_only || peer.is_seed(),
                connected_at: peer.connected,
            });
        }
        self.choker_rests = !candidates.iter().any(|peer| peer.interested || peer.unchoked);
        let decisions = self.choker.run(now, &candidates, seeding, rng).to_vec();
        for decision in decisions {
            let peer = peer_of(&mut self.slots, decision.key);
            if decision.unchoke != peer.am_choking {
                continue;
            }
            if decision.unchoke {
                peer.am_choking = false;
                peer.push(&Message::Unchoke);
            } else {
                peer.choke();
            }
            self.mark(decision.key);
        }
    }

    fn tick_peer(&mut self, now: Instant, key: PeerKey) {
        let peer = peer_of(&mut self.slots, key);
        if !peer.held && now.saturating_duration_since(peer.last_received) >= SILENCE {
            return self.fault(key, PeerFault::Silent);
        }
        peer.forgive(now);
        self.tell_peers(now, key);
        let peer = peer_of(&mut self.slots, key);
        // Not while something waits to be sent anyway, or a socket that is stuck would collect them.
        if peer.out.is_empty() && now.saturating_duration_since(peer.last_sent) >= KEEP_ALIVE {
            peer.push(&Message::KeepAlive);
            self.mark(key);
        }
        self.time_out_requests(now, key);
        self.judge_peer(key);
        let peer = peer_of(&mut self.slots, key);
        if peer.am_interested && peer.outstanding.is_empty() && !peer.peer_choking {
            // Perhaps there was no memory for another piece the last time it asked.
            self.mark(key);
        }
        self.update_interest(key);
    }

    /// A peer that owes blocks for too long is snubbing: others get its blocks, and it is asked for one at a time.
    fn time_out_requests(&mut self, now: Instant, key: PeerKey) {
        let peer = peer_of(&mut self.slots, key);
        let Some(owing) = peer.owing_for(now) else { return };
        if peer.held || owing < peer.window.request_timeout() {
            return;
        }
        peer.snubbed = true;
        peer.failures.snubs = peer.failures.snubs.saturating_add(1);
        let given_up = u32::try_from(peer.outstanding.len()).unwrap_or(u32::MAX);
        peer.failures.timeouts = peer.failures.timeouts.saturating_add(given_up);
        peer.window.on_snub();
        self.judge_peer(key);
        self.give_up_requests(now, key);
    }

    /// The peer has sent something that a limit of ours keeps in the socket: until [`Torrent::let_go`] it is not taken
    /// for silent.
    pub fn hold(&mut self, key: PeerKey) {
        peer_of(&mut self.slots, key).held = true;
    }

    /// What a peer sends is received again, after [`Torrent::hold`] or without it.
    pub fn let_go(&mut self, now: Instant, key: PeerKey) {
        let peer = peer_of(&mut self.slots, key);
        if std::mem::take(&mut peer.held) {
            (peer.last_received, peer.last_block) = (now, now);
        }
    }

    /// This shard gets nowhere while others have nothing to fetch: what peers that snub us or reject our requests are asked
    /// for is given up, and they rest. One request to each of them would hold its piece here for ever.
    pub fn rest_useless(&mut self, now: Instant) {
        let useless = |peer: &Peer| peer.sends_nothing() && !peer.rests(now);
        let keys: Vec<PeerKey> = self.peer_keys().filter(|key| useless(self.peer(*key))).collect();
        for key in keys {
            peer_of(&mut self.slots, key).rests_until = Some(now + REST);
            self.give_up_requests(now, key);
        }
    }

    /// Memory is short, once a second: peers that send nothing may hold it all, with one request each for ever. When
    /// nobody sends anything they rest, if somebody could go on with that memory: another torrent (`others`), or a peer
    /// of this one.
    pub fn make_way(&mut self, now: Instant, others: bool) {
        let peers = || self.peer_keys().map(|key| self.peer(key)).filter(|peer| !peer.sends_nothing());
        let sends = |peer: &Peer| {
            peer.downloaded > 0 && now.saturating_duration_since(peer.last_block) < crate::lease::STALLED
        };
        let could_go_on = |peer: &Peer| {
            peer.am_interested && !peer.peer_choking && peer.outstanding.is_empty() && !peer.rests(now)
        };
        if !peers().any(sends) && (others || peers().any(could_go_on)) {
            self.rest_useless(now);
        }
    }

    fn give_up_requests(&mut self, now: Instant, key: PeerKey) {
        let peer = peer_of(&mut self.slots, key);
        let given_up: Vec<_> = peer.outstanding.drain(..).map(|request| request.block).collect();
        peer.expect_late(given_up.len());
        peer.last_block = now;
        for block in &given_up {
            peer.push(&Message::Cancel(*block));
        }
        self.mark(key);
        for block in given_up {
            self.retract(key, block, true);
        }
    }
}

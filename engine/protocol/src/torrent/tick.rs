//! What time brings: choking rounds, keep-alives, time-outs.

use std::time::{Duration, Instant};

use rand::Rng;

use super::{Torrent, peer_of};
use crate::peer::PeerFault;
use crate::picker::PeerKey;
use crate::wire::message::Message;

/// Regular choking round (BEP 3).
pub(super) const CHOKE_ROUND: Duration = Duration::from_secs(10);
/// We say something at least this often (BEP 3: two minutes at most).
const KEEP_ALIVE: Duration = Duration::from_secs(100);
/// Others must say something at least this often; a little grace for their timers.
const SILENCE: Duration = Duration::from_secs(150);

impl Torrent {
    /// To be called about once a second.
    pub fn tick(&mut self, now: Instant, rng: &mut impl Rng) {
        let keys: Vec<PeerKey> = self.peer_keys().collect();
        for key in keys {
            self.tick_peer(now, key);
        }
        self.choke_round(now, rng);
    }

    /// Runs the choker when its round is due, or early when somebody became interested or left a place.
    pub fn choke_round(&mut self, now: Instant, rng: &mut impl Rng) {
        if self.choke_due.is_none_or(|due| due <= now) {
            self.choke_due = Some(now + CHOKE_ROUND);
            self.run_choker(now, rng);
        }
    }

    /// Whether [`Torrent::choke_round`] should be called before the next tick.
    pub fn wants_choke_round(&self) -> bool {
        self.choke_due.is_none() && self.live > 0
    }

    fn tick_peer(&mut self, now: Instant, key: PeerKey) {
        let peer = peer_of(&mut self.slots, key);
        if now.saturating_duration_since(peer.last_received) > SILENCE {
            return self.fault(key, PeerFault::Silent);
        }
        peer.forgive(now);
        // Not while something waits to be sent anyway, or a socket that is stuck would collect them.
        if peer.out.is_empty() && now.saturating_duration_since(peer.last_sent) > KEEP_ALIVE {
            peer.push(&Message::KeepAlive);
            self.mark(key);
        }
        self.time_out_requests(now, key);
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
        if owing < peer.window.request_timeout() {
            return;
        }
        peer.snubbed = true;
        peer.window.on_snub();
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

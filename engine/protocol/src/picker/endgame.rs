//! Endgame: the last blocks are asked of a second peer, so that one slow peer does not hold up the end.
//!
//! It begins when every block that can be had is here or asked for: no begun piece has a block left to ask
//! for, and none is left to begin that a connected peer has. Lack of memory is no endgame: blocks asked for
//! twice would be paid for with blocks not asked for at all. Nor is a shard that may still be lent
//! pieces. Who is unreliable ([`Picker::set_unreliable`]) takes nobody's place. Called by [`super::choose`].

use rand::{Rng, RngExt};

use super::begun::Mode;
use super::choose::Turn;
use super::{PeerKey, Picker, State};

/// Blocks a peer may be owing and still get duplicates: a slow peer must not take the second place at every
/// block, for then no fast peer could help.
const QUEUE: usize = 32;
/// Blocks looked at in one call, from a random place on.
const PROBES: usize = 1024;

impl Picker {
    /// Whether most of what this peer is asked for does not come ([`crate::score`]). Costs nothing while nobody is.
    pub fn set_unreliable(&mut self, peer: PeerKey, unreliable: bool) {
        if unreliable {
            self.unreliable.insert(peer);
        } else {
            self.unreliable.remove(&peer);
        }
    }

    /// Whether every block that can be had is here or asked for.
    pub(super) fn is_endgame(&self) -> bool {
        !self.more_elsewhere
            && self.config.endgame_duplicates > 1
            && self.begun.is_all_asked()
            && self.rarity.obtainable() == 0
    }

    /// Asks this peer for blocks that others were asked for. From a random block of a random piece on, so
    /// that different peers help with different blocks.
    pub(super) fn pick_duplicates(&mut self, turn: &mut Turn<'_>, rng: &mut impl Rng) {
        let key = turn.view.key;
        let owing = self.peers.requests(key) as usize;
        turn.room = turn.room.min(QUEUE.saturating_sub(owing));
        let begun = self.begun.len();
        if turn.room == 0 || begun == 0 || !self.is_endgame() {
            return;
        }
        let first = rng.random_range(0..begun);
        let mut probes = PROBES;
        for slot in (first..begun).chain(0..first) {
            let active = self.begun.get(slot as u32);
            let (piece, blocks) = (active.piece, active.len());
            probes = probes.saturating_sub(1);
            let fetching = matches!(self.states[piece.as_usize()], State::Active(_));
            if !fetching || self.mode(piece) != Mode::Open || !turn.view.offers(piece) {
                continue;
            }
            let start = rng.random_range(0..blocks);
            for nth in (start..blocks).chain(0..start) {
                if turn.room == 0 || probes == 0 {
                    return;
                }
                probes -= 1;
                self.steps.add(1);
                let limit = self.config.endgame_duplicates;
                if self.begun.get_mut(slot as u32).request_again(nth, key, limit, &self.unreliable) {
                    turn.out.push(self.geometry.block(piece, nth));
                    turn.room -= 1;
                    self.peers.asked(key, piece, 1);
                }
            }
        }
    }
}

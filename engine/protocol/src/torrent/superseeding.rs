//! Super-seeding (BEP 16) towards the peers of a torrent: [`crate::superseed`] decides, here it is said.
//!
//! A super-seed claims to have nothing and announces single pieces instead. Whatever is asked for beyond them is refused.

use std::time::Instant;

use rand::Rng;

use super::{Torrent, peer_of};
use crate::ids::PieceIndex;
use crate::picker::PeerKey;
use crate::wire::message::Message;

impl Torrent {
    /// Whether peers are shown single pieces instead of all we have.
    pub fn is_super_seeding(&self) -> bool {
        self.super_seed.is_some()
    }

    /// Whether [`Torrent::reveal`] has something to do.
    pub fn is_reveal_due(&self) -> bool {
        self.reveal_due
    }

    /// What peer `key` has is new to us; `piece`: just this one.
    pub(super) fn super_seed_heard(&mut self, key: PeerKey, piece: Option<PieceIndex>) {
        let Some(super_seed) = &mut self.super_seed else { return };
        let peer = self.slots[super::key_index(key)].peer.as_deref();
        let news: Vec<PieceIndex> = match piece {
            Some(piece) => vec![piece],
            None => super_seed
                .awaited()
                .into_iter()
                .filter(|piece| peer.is_some_and(|peer| peer.has(*piece)))
                .collect(),
        };
        for piece in news {
            super_seed.announced(key, piece);
        }
        if peer.is_some_and(|peer| peer.is_seed()) {
            super_seed.leave(key);
        } else {
            super_seed.join(key);
        }
        self.reveal_due = true;
    }

    /// Shows pieces to those who may be shown one. To be called in every turn in which something happened.
    pub fn reveal(&mut self, now: Instant, rng: &mut impl Rng) {
        if !std::mem::take(&mut self.reveal_due) {
            return;
        }
        let keys: Vec<PeerKey> = self.peer_keys().collect();
        for key in keys {
            let picker = &self.picker;
            let Some(super_seed) = &mut self.super_seed else { return };
            let peer = peer_of(&mut self.slots, key);
            let copies = |piece| picker.copies(piece);
            let mut any = false;
            while let Some(piece) = super_seed.next(now, key, |piece| peer.has(piece), copies, rng) {
                peer.push(&Message::Have(piece));
                any = true;
            }
            if any {
                self.mark(key);
            }
        }
    }

    /// Time passes: some peers have waited long enough.
    pub(super) fn tick_super_seed(&mut self, now: Instant) {
        let Some(super_seed) = &mut self.super_seed else { return };
        let slots = &self.slots;
        let has = |key: PeerKey, piece: PieceIndex| {
            slots[super::key_index(key)].peer.as_ref().is_some_and(|peer| peer.has(piece))
        };
        let geometry = self.geometry;
        let size = |piece: PieceIndex| geometry.piece_size(piece);
        self.reveal_due |= !super_seed.tick(now, size, has).is_empty();
        // Who has nothing need not say so (BEP 3).
        let silent: Vec<PeerKey> = self.peer_keys().filter(|key| !self.peer(*key).is_seed()).collect();
        let super_seed = self.super_seed.as_mut().expect("seen above");
        for key in silent {
            self.reveal_due |= super_seed.join(key);
        }
    }
}

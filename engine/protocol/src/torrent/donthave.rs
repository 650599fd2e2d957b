//! Pieces that are had no longer (BEP 54, lt_donthave), in both directions.
//!
//! A piece that we lose is told to every peer that understands it. What a peer says to have lost is asked of others: it
//! counts as given up, since a block of it may already be on the way.

use std::time::Instant;

use super::{Torrent, peer_of};
use crate::bitfield::Bitfield;
use crate::ids::PieceIndex;
use crate::peer::{Has, PeerFault};
use crate::picker::PeerKey;
use crate::wire::extension::LT_DONTHAVE_NAME;
use crate::wire::message::Message;

impl Torrent {
    /// Tells that `piece` is ours no longer.
    pub(super) fn disclaim(&mut self, piece: PieceIndex) {
        let keys: Vec<PeerKey> = self.peer_keys().collect();
        for key in keys {
            let peer = peer_of(&mut self.slots, key);
            let Some(hello) = &peer.extension else {
                if peer.info.reserved.extension() && !peer.disclaim_late.contains(&piece) {
                    peer.disclaim_late.push(piece);
                }
                continue;
            };
            let Some(id) = hello.id_of(LT_DONTHAVE_NAME) else { continue };
            peer.push(&Message::Extended { id, payload: &piece.0.to_be_bytes() });
            self.mark(key);
        }
    }

    /// The peer's handshake says by what number it understands lt_donthave: what was lost before it came is told now,
    /// unless it is ours again.
    pub(super) fn disclaim_earlier(&mut self, key: PeerKey) {
        let peer = peer_of(&mut self.slots, key);
        let late = std::mem::take(&mut peer.disclaim_late);
        let Some(id) = peer.extension.as_ref().and_then(|hello| hello.id_of(LT_DONTHAVE_NAME)) else {
            return;
        };
        for piece in late.into_iter().filter(|piece| !self.picker.have().has(*piece)) {
            peer.push(&Message::Extended { id, payload: &piece.0.to_be_bytes() });
        }
        self.mark(key);
    }

    /// The peer says that it has lost a piece. One that it never had is an offence, and so is the first one that a seed
    /// loses, which costs us a look at all pieces.
    pub(super) fn on_dont_have(
        &mut self,
        now: Instant,
        key: PeerKey,
        payload: &[u8],
    ) -> Result<(), PeerFault> {
        let peer = peer_of(&mut self.slots, key);
        let Ok(index) = payload.try_into().map(u32::from_be_bytes) else { return peer.strike() };
        let piece = PieceIndex(index);
        if !self.geometry.contains(piece) {
            return Err(PeerFault::NoSuchPiece(piece));
        }
        match &mut peer.has {
            Has::Some(field) if !field.has(piece) => return peer.strike(),
            Has::Some(field) => {
                field.remove(piece);
                self.picker.peer_lost(piece);
            }
            Has::All => {
                let mut field = Bitfield::full(self.geometry.piece_count());
                field.remove(piece);
                self.picker.seed_removed();
                self.picker.peer_bitfield_added(&field);
                peer.has = Has::Some(field);
                peer.strike()?;
            }
        }
        match &self.super_seed {
            // May be shown now.
            Some(_) => self.reveal_due = true,
            // While the peer had it, it was not told that we do.
            None if self.picker.have().has(piece) => peer.push(&Message::Have(piece)),
            None => {}
        }
        for hints in [&mut peer.suggested, &mut peer.allowed_in] {
            hints.retain(|hint| *hint != piece);
        }
        let (lost, kept): (Vec<_>, Vec<_>) =
            peer.outstanding.drain(..).partition(|request| request.block.piece == piece);
        peer.outstanding = kept.into();
        peer.expect_late(lost.len());
        for request in lost {
            self.retract(key, request.block, true);
        }
        self.update_interest(key);
        self.mark(key);
        self.stir(now, key);
        Ok(())
    }
}

//! Requests out, blocks in; requests in, blocks out.

use std::time::Instant;

use rand::Rng;

use super::{Torrent, TorrentEvent, mark, peer_of};
use crate::geometry::Block;
use crate::ids::PieceIndex;
use crate::peer::{Outstanding, PeerFault};
use crate::picker::{PeerKey, PeerView, Received, Slots};
use crate::wire::message::Message;

/// What to do with the payload of a PIECE message whose header has just been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockPlace {
    /// Asked of this peer alone: it belongs in its place.
    InPlace,
    /// Asked of others too: receive it beside, then decide.
    Aside,
    /// Nobody asked.
    Discard,
}

impl Torrent {
    /// Asks `key` for more blocks if its window has room. New pieces start as far as `slots` gives memory for them.
    pub fn fill_requests(&mut self, now: Instant, key: PeerKey, slots: &mut dyn Slots, rng: &mut impl Rng) {
        let peer = peer_of(&mut self.slots, key);
        let depth = peer.depth();
        let room = depth.saturating_sub(peer.outstanding.len());
        // In batches: picking for one block at a time would cost more than the block.
        if peer.rests(now) {
            return;
        }
        if !peer.am_interested || room == 0 || room < depth / 8 && !peer.outstanding.is_empty() {
            return;
        }
        if peer.peer_choking && (!peer.fast() || peer.allowed_in.is_empty()) {
            return;
        }
        let view = PeerView {
            key,
            has: peer.peer_has(),
            only: peer.peer_choking.then_some(&peer.allowed_in[..]),
            suggested: &peer.suggested,
            slow: peer.slow,
        };
        self.picked.clear();
        self.picker.pick(&view, room, slots, rng, &mut self.picked);
        for block in &self.picked {
            let in_place = self.picker.requesters(*block) <= 1;
            peer.outstanding.push_back(Outstanding { block: *block, sent: now, in_place });
            Message::Request(*block).encode(&mut peer.out);
        }
        if !self.picked.is_empty() {
            self.stir(now, key);
        }
    }

    /// The header of a PIECE message has arrived.
    pub fn begin_block(&mut self, key: PeerKey, block: Block) -> Result<BlockPlace, PeerFault> {
        if !self.geometry.allows(block) {
            return Err(PeerFault::NoSuchBlock(block));
        }
        let peer = peer_of(&mut self.slots, key);
        peer.may_bitfield = false;
        match peer.outstanding(block) {
            Some(request) if request.in_place => Ok(BlockPlace::InPlace),
            Some(_) => Ok(BlockPlace::Aside),
            None => {
                self.stats.wasted += u64::from(block.len);
                peer.wasted()?;
                Ok(BlockPlace::Discard)
            }
        }
    }

    /// The last byte of a block that was not discarded has arrived. Returns whether it counts: when `false`, somebody
    /// else was faster and its bytes must not be used.
    pub fn end_block(&mut self, now: Instant, key: PeerKey, block: Block) -> bool {
        let peer = peer_of(&mut self.slots, key);
        peer.last_received = now;
        let Some(request) = peer.take_outstanding(block) else {
            self.stats.wasted += u64::from(block.len);
            return false;
        };
        peer.last_block = now;
        (peer.snubbed, peer.rests_until) = (false, None);
        peer.rejects = 0;
        self.block_wait = now.saturating_duration_since(request.sent);
        peer.window.on_block(now, block.len, self.block_wait);
        peer.down.add(now, u64::from(block.len));
        peer.downloaded += u64::from(block.len);
        mark(&mut self.slots, &mut self.dirty, key);
        let received = self.picker.block_received(key, block, &mut self.cancels);
        self.cancel_others();
        match received {
            Received::Accepted => {}
            Received::PieceComplete => self.events.push_back(TorrentEvent::PieceComplete(block.piece)),
            Received::Duplicate | Received::Unwanted => {
                self.stats.wasted += u64::from(block.len);
                return false;
            }
        }
        self.down.add(now, u64::from(block.len));
        self.stats.downloaded += u64::from(block.len);
        true
    }

    /// Endgame: a block has come, so the others that were asked for it are told not to bother.
    fn cancel_others(&mut self) {
        while let Some((other, block)) = self.cancels.pop() {
            let peer = peer_of(&mut self.slots, other);
            if peer.take_outstanding(block).is_some() {
                peer.expect_late(1);
                peer.push(&Message::Cancel(block));
                mark(&mut self.slots, &mut self.dirty, other);
            }
            // Also when it was given up before and is not released yet: its receive may still write there.
            self.retract(other, block, false);
        }
    }

    /// The next block to send to `key`, oldest request first; the caller sends it or calls [`Torrent::refuse`].
    pub fn next_upload(&mut self, key: PeerKey) -> Option<Block> {
        self.peer_mut(key).uploads.pop_front()
    }

    /// Blocks that will be wanted next, to read ahead.
    pub fn upcoming_uploads(&self, key: PeerKey) -> impl Iterator<Item = Block> + '_ {
        self.peer(key).uploads.iter().copied()
    }

    /// Whether somebody whom we serve lacks `piece`, and so may ask for it soon.
    pub fn is_awaited(&self, piece: PieceIndex) -> bool {
        let awaits = |peer: &crate::peer::Peer| !peer.am_choking && peer.peer_interested && !peer.has(piece);
        self.slots.iter().filter_map(|slot| slot.peer.as_deref()).any(awaits)
    }

    /// Puts a block back that cannot be sent yet.
    pub fn postpone(&mut self, key: PeerKey, block: Block) {
        self.peer_mut(key).uploads.push_front(block);
    }

    /// A block of ours went out to `key`.
    pub fn sent_block(&mut self, now: Instant, key: PeerKey, block: Block) {
        let peer = peer_of(&mut self.slots, key);
        peer.up.add(now, u64::from(block.len));
        peer.uploaded += u64::from(block.len);
        peer.last_sent = now;
        self.up.add(now, u64::from(block.len));
        self.stats.uploaded += u64::from(block.len);
        if let Some(super_seed) = &mut self.super_seed {
            let size = self.geometry.piece_size(block.piece);
            self.reveal_due |= super_seed.sent(key, block.piece, block.len, size);
        }
    }

    /// A requested block cannot be read: the peer is told.
    pub fn refuse(&mut self, key: PeerKey, block: Block) {
        self.peer_mut(key).reject(block);
        self.mark(key);
    }

    /// Our data of `piece` turned out damaged: it is missing again.
    pub fn lost_piece(&mut self, piece: PieceIndex) {
        self.note_lost(piece);
        self.after_loss();
    }

    pub(super) fn after_loss(&mut self) {
        self.want_again();
        let keys: Vec<PeerKey> = self.peer_keys().collect();
        keys.into_iter().for_each(|key| self.update_interest(key));
    }
}

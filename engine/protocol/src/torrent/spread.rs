//! One torrent on several shards: the calls that [`crate::lease`] makes.
//!
//! Of such a torrent every shard has a [`Torrent`] with its own peers; each knows which pieces are ours, and fetches
//! only what its picker does not call Elsewhere.

use std::time::Instant;

use super::{Torrent, TorrentConfig, peer_of};
use crate::bitfield::Bitfield;
use crate::geometry::Geometry;
use crate::ids::{InfoHash, PeerId, PieceIndex};
use crate::lease::Reach;
use crate::peer::{Has, Peer};
use crate::picker::Picker;
use crate::wire::message::Message;

/// What other shards of a torrent have to hear.
#[derive(Debug, Default)]
pub(super) struct News {
    /// There are others.
    spread: bool,
    satellite: bool,
    fresh: Vec<PieceIndex>,
    lost: Vec<PieceIndex>,
}

impl Torrent {
    /// The part of a torrent on a satellite shard, which fetches only what is lent to it. `have` as in
    /// [`Torrent::new`].
    pub fn new_satellite(
        now: Instant,
        info_hash: InfoHash,
        our_id: PeerId,
        geometry: Geometry,
        config: TorrentConfig,
        have: Bitfield,
    ) -> Self {
        let picker = Picker::new_satellite(geometry, config.picker.clone(), have);
        let mut this = Self::with_picker(now, info_hash, our_id, geometry, config, picker);
        this.news = News { spread: true, satellite: true, ..News::default() };
        this
    }

    /// Whether other shards have to hear of pieces that come and go.
    pub(crate) fn set_spread(&mut self, spread: bool) {
        self.news.spread = spread;
    }

    /// Pieces written here since the last call.
    pub(crate) fn take_fresh(&mut self) -> Vec<PieceIndex> {
        std::mem::take(&mut self.news.fresh)
    }

    /// Pieces found damaged here since the last call.
    pub(crate) fn take_lost(&mut self) -> Vec<PieceIndex> {
        std::mem::take(&mut self.news.lost)
    }

    pub(super) fn note_fresh(&mut self, piece: PieceIndex) {
        if self.news.spread {
            self.news.fresh.push(piece);
        }
    }

    /// `piece` is damaged on disk; a satellite leaves it to the home.
    pub(super) fn note_lost(&mut self, piece: PieceIndex) {
        // Several readers may find the same damage.
        if !self.picker.have().has(piece) {
            return;
        }
        self.restless = true;
        self.disclaim(piece);
        if self.news.satellite {
            self.picker.lost_elsewhere(piece);
        } else {
            self.picker.invalidate(piece);
        }
        if self.news.spread {
            self.news.lost.push(piece);
        }
    }

    /// Another shard has fetched `piece`: it is ours, and our peers hear of it.
    pub fn fetched_elsewhere(&mut self, piece: PieceIndex) {
        if self.picker.fetched_elsewhere(piece) {
            self.restless = true;
            self.announce_piece(piece);
        }
    }

    /// Another shard found `piece` damaged.
    pub fn lost_elsewhere(&mut self, piece: PieceIndex) {
        self.restless = true;
        if self.picker.have().has(piece) {
            self.disclaim(piece);
        }
        self.picker.lost_elsewhere(piece);
        self.after_loss();
    }

    /// `piece` is ours to fetch now. Follow up with [`Torrent::mark_hungry`].
    pub fn admit(&mut self, piece: PieceIndex) {
        self.picker.admit(piece);
    }

    /// Tells everybody who lacks `piece` that it is ours.
    pub(super) fn announce_piece(&mut self, piece: PieceIndex) {
        let keys: Vec<_> = self.peer_keys().collect();
        for key in keys {
            let peer = peer_of(&mut self.slots, key);
            if !peer.has(piece) {
                peer.push(&Message::Have(piece));
                self.mark(key);
            }
        }
        self.check_finished();
        if self.picker.is_finished() {
            // Seeds have nothing more for us, and we nothing for them.
            let keys: Vec<_> = self.peer_keys().collect();
            keys.into_iter().for_each(|key| self.update_interest(key));
        }
    }

    fn live_peers(&self) -> impl Iterator<Item = &Peer> {
        self.slots.iter().filter_map(|slot| slot.peer.as_deref())
    }

    /// Whether some peer may be asked for more now.
    pub fn could_ask(&self, now: Instant) -> bool {
        let room = |peer: &Peer| peer.outstanding.len() < peer.depth() && !peer.rests(now);
        self.live_peers().any(|peer| peer.am_interested && !peer.peer_choking && room(peer))
    }

    /// Whether some peer may be asked and is not asked for anything.
    pub fn has_idle_peer(&self, now: Instant) -> bool {
        let idle = |peer: &Peer| peer.am_interested && !peer.peer_choking && peer.outstanding.is_empty();
        self.live_peers().any(|peer| idle(peer) && !peer.rests(now))
    }

    /// What the peers have together. O(pieces) unless a seed is among them.
    pub fn reach(&self) -> Reach {
        if self.live_peers().any(|peer| matches!(peer.has, Has::All)) {
            return Reach::All;
        }
        let mut field = Bitfield::empty(self.geometry.piece_count());
        for piece in self.geometry.pieces().filter(|piece| self.picker.copies(*piece) > 0) {
            field.insert(piece);
        }
        Reach::Some(field)
    }
}

//! Pieces that one peer alone is asked for, because the piece failed its hash and the liar is sought.
//!
//! Owner: [`super::Picker`]. Invariant: both maps say the same. Few at a time: at most the pieces that failed
//! since.

use std::collections::{BTreeMap, BTreeSet};

use super::PeerKey;
use crate::ids::PieceIndex;

/// How often other peers may go away empty-handed before a reservation whose peer does nothing is dropped.
/// The torrent asks again for idle peers about once a second; the peer may have choked us and may never come
/// back to it.
pub(super) const PATIENCE: u32 = 64;

#[derive(Debug)]
struct Holder {
    peer: PeerKey,
    waited: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    by_piece: BTreeMap<PieceIndex, Holder>,
    by_peer: BTreeSet<(PeerKey, PieceIndex)>,
}

impl Reserved {
    pub fn is_empty(&self) -> bool {
        self.by_piece.is_empty()
    }

    pub fn contains(&self, piece: PieceIndex) -> bool {
        !self.is_empty() && self.by_piece.contains_key(&piece)
    }

    /// The peer that `piece` is reserved for.
    pub fn holder(&self, piece: PieceIndex) -> Option<PeerKey> {
        if self.is_empty() { None } else { self.by_piece.get(&piece).map(|holder| holder.peer) }
    }

    pub fn insert(&mut self, piece: PieceIndex, peer: PeerKey) {
        self.remove(piece);
        self.by_piece.insert(piece, Holder { peer, waited: 0 });
        self.by_peer.insert((peer, piece));
    }

    /// Returns whether there was a reservation.
    pub fn remove(&mut self, piece: PieceIndex) -> bool {
        let Some(holder) = self.by_piece.remove(&piece) else { return false };
        self.by_peer.remove(&(holder.peer, piece))
    }

    /// The first piece behind `after` that is reserved for `peer`.
    pub fn next(&self, peer: PeerKey, after: Option<PieceIndex>) -> Option<PieceIndex> {
        use std::ops::Bound::{Excluded, Included};
        let from = after.map_or(Included((peer, PieceIndex(0))), |piece| Excluded((peer, piece)));
        let to = Included((peer, PieceIndex(u32::MAX)));
        self.by_peer.range((from, to)).next().map(|(_, piece)| *piece)
    }

    /// Somebody who could fetch those of the pieces that `idle` accepts has nothing to do. Returns a piece
    /// whose holder has been waited for long enough.
    pub fn wait(&mut self, idle: impl Fn(PieceIndex) -> bool) -> Option<PieceIndex> {
        let mut due = None;
        for (piece, holder) in self.by_piece.iter_mut().filter(|(piece, _)| idle(**piece)) {
            holder.waited += 1;
            if holder.waited > PATIENCE {
                due = Some(*piece);
            }
        }
        due
    }

    /// Asserts the invariant.
    pub fn check(&self) {
        let same = self.by_peer.iter().all(|(peer, piece)| self.holder(*piece) == Some(*peer));
        assert!(same && self.by_peer.len() == self.by_piece.len(), "reserved pieces");
    }
}

//! What the picker remembers of each peer: how much it is asked for and which piece it works at.
//!
//! Owner: [`super::Picker`]. Invariant: `requests` is the number of blocks whose requesters include the peer.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

use super::PeerKey;
use crate::ids::PieceIndex;

#[derive(Debug, Default)]
struct Work {
    requests: u32,
    piece: Option<PieceIndex>,
}

/// See the module. The hasher has no random key, so that the crate stays deterministic; the keys are our own.
#[derive(Debug, Default)]
pub(super) struct Peers {
    work: HashMap<PeerKey, Work, BuildHasherDefault<DefaultHasher>>,
}

impl Peers {
    /// Blocks that `peer` is counted as asked for.
    pub fn requests(&self, peer: PeerKey) -> u32 {
        self.work.get(&peer).map_or(0, |work| work.requests)
    }

    /// The piece that `peer` was asked for last.
    pub fn piece(&self, peer: PeerKey) -> Option<PieceIndex> {
        self.work.get(&peer)?.piece
    }

    /// `peer` was asked for `blocks` more of `piece`.
    pub fn asked(&mut self, peer: PeerKey, piece: PieceIndex, blocks: u32) {
        let work = self.work.entry(peer).or_default();
        work.requests += blocks;
        work.piece = Some(piece);
    }

    /// `blocks` of the requests are over.
    pub fn over(&mut self, peer: PeerKey, blocks: u32) {
        let work = self.work.get_mut(&peer).expect("a peer with requests is known");
        work.requests = work.requests.checked_sub(blocks).expect("requests that end were counted");
    }

    pub fn forget(&mut self, peer: PeerKey) {
        self.work.remove(&peer);
    }

    /// Asserts the invariant against a count of all requests.
    pub fn check(&self, requests: &HashMap<PeerKey, u32>) {
        let known = self.work.iter().filter(|(_, work)| work.requests > 0).count();
        assert_eq!(known, requests.len(), "peers with requests");
        for (peer, count) in requests {
            assert_eq!(self.requests(*peer), *count, "requests of {peer:?}");
        }
    }
}

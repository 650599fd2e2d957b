//! One begun piece: which of its blocks are missing, asked for, here.
//!
//! Owner: [`super::begun::Begun`]. Invariants: `missing` and `requested` count the blocks in that state; a
//! missing block is either in `returned` or not below `fresh`; `extra` names only requested blocks, and never
//! the peer that the block's state names. All operations are O(1) or logarithmic in what is shared or was
//! given back.

use std::collections::BTreeSet;

use super::PeerKey;
use super::begun::Filing;
use crate::ids::PieceIndex;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockState {
    Missing,
    /// This peer was asked first; `extra` has the others.
    Requested(PeerKey),
    /// From this peer.
    Received(PeerKey),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Active {
    pub piece: PieceIndex,
    /// Rises with every piece begun: the lowest is the oldest.
    pub rank: u64,
    /// In which list of [`super::begun::Begun`] it stands.
    pub filing: Filing,
    blocks: Vec<BlockState>,
    missing: u32,
    requested: u32,
    /// No block from here on was ever asked for.
    fresh: u32,
    /// Blocks that were asked for in vain.
    returned: BTreeSet<u32>,
    /// Second and further peers asked for a block (endgame).
    extra: BTreeSet<(u32, PeerKey)>,
}

impl Active {
    pub fn new(piece: PieceIndex, rank: u64, blocks: u32) -> Self {
        Self {
            piece,
            rank,
            filing: Filing::Nowhere,
            blocks: vec![BlockState::Missing; blocks as usize],
            missing: blocks,
            requested: 0,
            fresh: 0,
            returned: BTreeSet::new(),
            extra: BTreeSet::new(),
        }
    }

    /// Number of blocks.
    pub fn len(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Blocks that nobody is asked for.
    pub fn missing(&self) -> u32 {
        self.missing
    }

    /// Blocks that somebody is asked for.
    pub fn requested(&self) -> u32 {
        self.requested
    }

    /// Blocks that are here.
    pub fn received(&self) -> u32 {
        self.len() - self.missing - self.requested
    }

    /// Whether nobody works at it, or somebody failed to deliver: others should help at once.
    pub fn is_loose(&self) -> bool {
        self.requested == 0 || !self.returned.is_empty()
    }

    /// Counts `peer` as asked for the lowest missing block.
    pub fn request_next(&mut self, peer: PeerKey) -> Option<u32> {
        let nth = match self.returned.pop_first() {
            Some(nth) => nth,
            None => {
                while *self.blocks.get(self.fresh as usize)? != BlockState::Missing {
                    self.fresh += 1;
                }
                self.fresh += 1;
                self.fresh - 1
            }
        };
        self.blocks[nth as usize] = BlockState::Requested(peer);
        self.missing -= 1;
        self.requested += 1;
        Some(nth)
    }

    /// Counts `peer` as asked for `nth` too, if it is requested of others and a place is left.
    ///
    /// There are `limit` places, and the unreliable take none from others: one of them is asked as long as nobody else is,
    /// and whoever else comes finds the places that they hold free.
    pub fn request_again(
        &mut self,
        nth: u32,
        peer: PeerKey,
        limit: usize,
        unreliable: &BTreeSet<PeerKey>,
    ) -> bool {
        let BlockState::Requested(first) = self.blocks[nth as usize] else { return false };
        if first == peer {
            return false;
        }
        let asked = self.requesters(nth);
        let has_place = if unreliable.is_empty() {
            asked < limit
        } else {
            let others = self.extra.range(extras(nth)).map(|(_, peer)| peer).chain([&first]);
            let reliable = others.filter(|other| !unreliable.contains(*other)).count();
            match unreliable.contains(&peer) {
                true => reliable == 0 && asked < limit,
                false => reliable < limit && asked < 2 * limit,
            }
        };
        has_place && self.extra.insert((nth, peer))
    }

    /// Peers counted as asked for `nth`.
    pub fn requesters(&self, nth: u32) -> usize {
        match self.blocks[nth as usize] {
            BlockState::Requested(_) if self.extra.is_empty() => 1,
            BlockState::Requested(_) => 1 + self.extra.range(extras(nth)).count(),
            BlockState::Missing | BlockState::Received(_) => 0,
        }
    }

    /// `peer` will not deliver `nth`; returns whether it was counted.
    pub fn fail(&mut self, nth: u32, peer: PeerKey) -> bool {
        match self.blocks[nth as usize] {
            BlockState::Requested(first) if first == peer => {
                let heir = self.extra.range(extras(nth)).next().copied();
                if let Some((_, heir)) = heir {
                    self.extra.remove(&(nth, heir));
                    self.blocks[nth as usize] = BlockState::Requested(heir);
                } else {
                    self.blocks[nth as usize] = BlockState::Missing;
                    self.returned.insert(nth);
                    self.missing += 1;
                    self.requested -= 1;
                }
                true
            }
            BlockState::Requested(_) => self.extra.remove(&(nth, peer)),
            BlockState::Missing | BlockState::Received(_) => false,
        }
    }

    /// `nth` came from `peer`. Calls `uncounted` for everybody who was asked for it. Returns whether it is
    /// new.
    pub fn receive(&mut self, nth: u32, peer: PeerKey, mut uncounted: impl FnMut(PeerKey)) -> bool {
        match self.blocks[nth as usize] {
            BlockState::Received(_) => return false,
            BlockState::Missing => {
                self.missing -= 1;
                self.returned.remove(&nth);
            }
            BlockState::Requested(first) => {
                self.requested -= 1;
                uncounted(first);
                while let Some(&(_, other)) = self.extra.range(extras(nth)).next() {
                    self.extra.remove(&(nth, other));
                    uncounted(other);
                }
            }
        }
        self.blocks[nth as usize] = BlockState::Received(peer);
        true
    }

    /// Fails everything that `peer` is asked for. O(blocks).
    pub fn fail_all(&mut self, peer: PeerKey) -> u32 {
        (0..self.len()).map(|nth| u32::from(self.fail(nth, peer))).sum()
    }

    /// Who sent which block.
    pub fn senders(&self) -> impl Iterator<Item = (u32, PeerKey)> + '_ {
        self.blocks.iter().enumerate().filter_map(|(nth, block)| match block {
            BlockState::Received(peer) => Some((nth as u32, *peer)),
            _ => None,
        })
    }

    /// Who is asked for which block.
    pub fn requests(&self) -> impl Iterator<Item = (u32, PeerKey)> + '_ {
        let first = self.blocks.iter().enumerate().filter_map(|(nth, block)| match block {
            BlockState::Requested(peer) => Some((nth as u32, *peer)),
            _ => None,
        });
        first.chain(self.extra.iter().copied())
    }

    /// Asserts the invariants. O(blocks).
    pub fn check(&self) {
        let count =
            |test: fn(&BlockState) -> bool| self.blocks.iter().filter(|block| test(block)).count() as u32;
        assert_eq!(self.missing, count(|block| matches!(block, BlockState::Missing)), "missing blocks");
        assert_eq!(
            self.requested,
            count(|block| matches!(block, BlockState::Requested(_))),
            "requested blocks"
        );
        for (nth, block) in self.blocks.iter().enumerate() {
            let nth = nth as u32;
            let missing = *block == BlockState::Missing;
            assert!(!missing || nth >= self.fresh || self.returned.contains(&nth), "block {nth} is lost");
        }
        for nth in &self.returned {
            assert_eq!(self.blocks[*nth as usize], BlockState::Missing, "block {nth} was given back");
            assert!(*nth < self.fresh, "block {nth} was given back but never asked for");
        }
        for (nth, peer) in &self.extra {
            let BlockState::Requested(first) = self.blocks[*nth as usize] else {
                panic!("block {nth} is shared but not requested")
            };
            assert_ne!(first, *peer, "block {nth} asked of one peer twice");
        }
    }
}

/// The entries of `extra` about one block.
fn extras(nth: u32) -> std::ops::RangeInclusive<(u32, PeerKey)> {
    (nth, PeerKey(0))..=(nth, PeerKey(u32::MAX))
}

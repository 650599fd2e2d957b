//! The pieces that are being fetched, and those among them that still have blocks to ask for.
//!
//! Owner: [`super::Picker`]. Invariant: a piece stands in the list that its `filing` names, and in no other;
//! a piece without missing blocks stands in none, so a search meets only pieces that have something to give.
//! There are at most as many as there is memory for pieces; each list is in the order in which the pieces
//! were begun.

use std::collections::BTreeSet;

use super::active::Active;
use crate::ids::PieceIndex;

/// What may be done about the missing blocks of a begun piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filing {
    /// Nobody works at it, or blocks were given back: to be finished before anything else.
    Loose,
    /// Others are at work on it.
    Shared,
    /// It is not wanted any more.
    Resting,
    /// No missing block, or reserved for one peer.
    Nowhere,
}

/// How the picker regards a begun piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Anybody may help.
    Open,
    /// One peer alone.
    Reserved,
    /// Its priority is Skip.
    Resting,
}

/// Place of a piece in the lists.
pub(super) type Entry = (u64, PieceIndex);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Begun {
    slab: Vec<Active>,
    next_rank: u64,
    lists: [BTreeSet<Entry>; 3],
}

impl Begun {
    /// Begun pieces, those being hashed included.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    pub fn get(&self, slot: u32) -> &Active {
        &self.slab[slot as usize]
    }

    /// To change a piece; call [`Begun::refile`] afterwards.
    pub fn get_mut(&mut self, slot: u32) -> &mut Active {
        &mut self.slab[slot as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = &Active> {
        self.slab.iter()
    }

    /// Begins `piece`; returns its slot. It stands in no list before [`Begun::refile`].
    pub fn push(&mut self, piece: PieceIndex, blocks: u32) -> u32 {
        self.slab.push(Active::new(piece, self.next_rank, blocks));
        self.next_rank += 1;
        self.slab.len() as u32 - 1
    }

    /// Drops the piece in `slot`; returns the piece that now has this slot, if one was moved.
    pub fn remove(&mut self, slot: u32) -> Option<PieceIndex> {
        let gone = self.slab.swap_remove(slot as usize);
        self.unfile(gone.filing, (gone.rank, gone.piece));
        self.slab.get(slot as usize).map(|moved| moved.piece)
    }

    fn unfile(&mut self, filing: Filing, entry: Entry) {
        if let Some(list) = self.lists.get_mut(filing as usize) {
            assert!(list.remove(&entry), "piece {} in its list", entry.1);
        }
    }

    /// Puts the piece in `slot` into the list where it belongs now.
    pub fn refile(&mut self, slot: u32, mode: Mode) {
        let active = &mut self.slab[slot as usize];
        let filing = filing_of(active, mode);
        let before = std::mem::replace(&mut active.filing, filing);
        if filing == before {
            return;
        }
        let entry = (active.rank, active.piece);
        self.unfile(before, entry);
        if let Some(list) = self.lists.get_mut(filing as usize) {
            list.insert(entry);
        }
    }

    /// The oldest piece of a list behind `after`.
    pub fn next(&self, filing: Filing, after: Option<Entry>) -> Option<Entry> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.lists[filing as usize].range((from, Unbounded)).next().copied()
    }

    /// Whether no block is left that anybody may be asked for and nobody is.
    pub fn is_all_asked(&self) -> bool {
        self.lists[Filing::Loose as usize].is_empty() && self.lists[Filing::Shared as usize].is_empty()
    }

    /// Asserts the invariants. `mode` says how the piece in a slot is regarded.
    pub fn check(&self, mode: impl Fn(&Active) -> Mode) {
        let mut filed = 0;
        for active in &self.slab {
            active.check();
            assert_eq!(active.filing, filing_of(active, mode(active)), "filing of piece {}", active.piece);
            if let Some(list) = self.lists.get(active.filing as usize) {
                assert!(list.contains(&(active.rank, active.piece)), "piece {} in its list", active.piece);
                filed += 1;
            }
        }
        assert_eq!(filed, self.lists.iter().map(BTreeSet::len).sum::<usize>(), "pieces in lists");
    }
}

fn filing_of(active: &Active, mode: Mode) -> Filing {
    match mode {
        _ if active.missing() == 0 => Filing::Nowhere,
        Mode::Reserved => Filing::Nowhere,
        Mode::Resting => Filing::Resting,
        Mode::Open if active.is_loose() => Filing::Loose,
        Mode::Open => Filing::Shared,
    }
}

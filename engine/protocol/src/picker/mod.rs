//! Which piece and block next.
//!
//! Role: knows the state of every piece and block of a torrent and who is asked for what, and chooses what to
//! ask of a peer. Owner and only caller: [`crate::torrent::Torrent`]. It sends nothing and keeps no time.
//!
//! Invariant: every piece is in exactly one [`PieceState`], and moves only like this:
//!
//! ```text
//!              memory acquired        last block here        hash right         on disk
//!   Missing ─────────────────▶ Active ───────────────▶ Hashing ─────────▶ Writing ────▶ Have
//!    ▲  ▲ ▲◀── abandon, idle ────┘                        │                  │           │
//!    │  │ └───────────────────── hash wrong ──────────────┘                  │           │
//!    │  └─────────────────────── write failed ───────────────────────────────┘           │
//!    │◀───────────────────────── damaged on disk ────────────────────────────────────────┘
//!    └▶ Skipped: priority Skip, and neither begun nor ours
//! ```
//!
//! and, where several shards or web seeds fetch one torrent, between Missing and Elsewhere (see `lend`, `web`).
//!
//! A begun piece that becomes Skip rests: what is asked for may still complete it, but nothing more is asked,
//! unless memory for a wanted piece is lacking; then finishing it is a way to get some. The caller may
//! [`Picker::abandon`] it.
//!
//! Parts: `rarity` orders the pieces that may be begun, `begun` and `active` hold those being fetched, `partial` begins
//! one with blocks of an earlier run, `reserved` those that one peer alone is asked for, `urgent` those that are played,
//! `choose` and `endgame` pick.

mod active;
mod begun;
mod bits;
mod check;
mod choose;
mod endgame;
mod lend;
mod partial;
mod peers;
mod rarity;
mod reserved;
mod types;
mod urgent;
mod wanted;
mod web;

use std::collections::BTreeSet;

use begun::{Begun, Mode};
use bits::Bits;
pub use partial::{FROM_DISK, FROM_PADDING, PartialPiece};
use peers::Peers;
use rarity::Rarity;
use reserved::Reserved;
use types::Steps;
pub use types::{PeerHas, PeerKey, PeerView, PickerConfig, Priority, Received, Slots, Strategy};
pub use web::FROM_WEB;

use crate::bitfield::Bitfield;
use crate::geometry::{Block, Geometry};
use crate::ids::PieceIndex;

/// Where a piece is on its way to being ours. See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceState {
    /// Wanted and not begun.
    Missing,
    /// Not wanted and not begun.
    Skipped,
    /// Memory is held, blocks are on the way.
    Active,
    /// All blocks are here, the verdict is pending.
    Hashing,
    /// Verified, on the way to disk.
    Writing,
    /// Ours.
    Have,
    /// Not ours, and another shard's or a web seed's to fetch.
    Elsewhere,
}

/// A state with the place of a begun piece in [`Begun`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Missing,
    Skipped,
    Active(u32),
    Hashing(u32),
    Writing,
    Have,
    Elsewhere,
}

/// Piece and block states of one torrent, and the choice among them. See the module.
#[derive(Debug)]
pub struct Picker {
    geometry: Geometry,
    config: PickerConfig,
    have: Bitfield,
    states: Vec<State>,
    priorities: Vec<Priority>,
    /// Pieces neither skipped nor ours.
    wanted: Bits,
    rarity: Rarity,
    begun: Begun,
    peers: Peers,
    reserved: Reserved,
    /// Missing pieces whose data was lost or bad: begun again before others.
    again: BTreeSet<PieceIndex>,
    /// Behind the piece that was begun last.
    cursor: u32,
    /// Behind the run that a web seed was given last.
    run_end: u32,
    /// Another shard may still lend us pieces.
    more_elsewhere: bool,
    urgent: urgent::Urgent,
    /// Peers that take nobody's place at a block.
    unreliable: BTreeSet<PeerKey>,
    steps: Steps,
}

impl Picker {
    /// A torrent of which `have` is ours; everything else is wanted with [`Priority::Normal`].
    pub fn new(geometry: Geometry, config: PickerConfig, have: Bitfield) -> Self {
        let pieces = geometry.piece_count();
        assert_eq!(have.len(), pieces, "a bitfield of another torrent");
        let mut this = Self {
            geometry,
            config,
            states: vec![State::Have; pieces as usize],
            priorities: vec![Priority::Normal; pieces as usize],
            wanted: Bits::empty(pieces),
            rarity: Rarity::new(pieces),
            begun: Begun::default(),
            peers: Peers::default(),
            reserved: Reserved::default(),
            again: BTreeSet::new(),
            cursor: 0,
            run_end: 0,
            more_elsewhere: false,
            urgent: urgent::Urgent::default(),
            unreliable: BTreeSet::new(),
            steps: Steps::default(),
            have,
        };
        for piece in geometry.pieces() {
            if !this.have.has(piece) {
                this.wanted.insert(piece.0);
                this.becomes_missing(piece);
            }
        }
        this
    }

    // ---- getters

    /// The pieces that are ours: verified and on disk.
    pub fn have(&self) -> &Bitfield {
        &self.have
    }

    /// Whether every piece that is not skipped is ours. O(1).
    pub fn is_finished(&self) -> bool {
        self.wanted.count() == 0
    }

    /// How much `piece` is wanted.
    pub fn priority(&self, piece: PieceIndex) -> Priority {
        self.priorities[piece.as_usize()]
    }

    /// Where `piece` is on its way.
    pub fn state(&self, piece: PieceIndex) -> PieceState {
        match self.states[piece.as_usize()] {
            State::Missing => PieceState::Missing,
            State::Skipped => PieceState::Skipped,
            State::Active(_) => PieceState::Active,
            State::Hashing(_) => PieceState::Hashing,
            State::Writing => PieceState::Writing,
            State::Have => PieceState::Have,
            State::Elsewhere => PieceState::Elsewhere,
        }
    }

    /// Connected peers that have `piece`.
    pub fn copies(&self, piece: PieceIndex) -> u32 {
        self.rarity.copies(piece)
    }

    /// Peers that are counted as asked for `block` now.
    pub fn requesters(&self, block: Block) -> usize {
        match (self.geometry.block_number(block), self.active_slot(block.piece)) {
            (Some(nth), Some(slot)) => self.begun.get(slot).requesters(nth),
            _ => 0,
        }
    }

    /// Whether the peer has a piece that is neither skipped nor ours. A piece that waits for its verdict
    /// counts: it may fail. O(1) for a seed, else O(pieces / 64).
    pub fn is_interesting(&self, has: &PeerHas<'_>) -> bool {
        self.wanted.any_shared(has)
    }

    /// Who delivered which block of a piece that waits for its verdict; nothing for other pieces.
    pub fn senders(&self, piece: PieceIndex) -> impl Iterator<Item = (u32, PeerKey)> + '_ {
        let slot = match self.states[piece.as_usize()] {
            State::Hashing(slot) => Some(slot),
            _ => None,
        };
        slot.into_iter().flat_map(|slot| self.begun.get(slot).senders())
    }

    /// Pieces that are begun, those that are being hashed among them.
    pub fn begun(&self) -> usize {
        self.begun.len()
    }

    /// Begun pieces of which nothing is asked for now, those first whose loss costs least: skipped ones, then
    /// those that no connected peer has, then those with the fewest blocks.
    pub fn idle_active(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        let idle = |active: &&active::Active| active.requested() == 0 && active.missing() > 0;
        let mut idle: Vec<_> = self.begun.iter().filter(idle).collect();
        idle.sort_by_key(|active| {
            let wanted = self.priority(active.piece) != Priority::Skip;
            (wanted, self.copies(active.piece) > 0, active.received(), active.rank)
        });
        idle.into_iter().map(|active| active.piece)
    }

    fn active_slot(&self, piece: PieceIndex) -> Option<u32> {
        match self.states[piece.as_usize()] {
            State::Active(slot) => Some(slot),
            _ => None,
        }
    }

    // ---- who has what

    /// A peer with every piece came, or a peer became one; its bitfield is not added then.
    pub fn seed_added(&mut self) {
        self.rarity.add_seed();
    }

    /// A peer that was counted by [`Picker::seed_added`] is gone.
    pub fn seed_removed(&mut self) {
        self.rarity.remove_seed();
    }

    /// A peer has these pieces. O(pieces).
    pub fn peer_bitfield_added(&mut self, field: &Bitfield) {
        self.rarity.add_field(field);
    }

    /// A peer that had these pieces is gone. O(pieces).
    pub fn peer_bitfield_removed(&mut self, field: &Bitfield) {
        self.rarity.remove_field(field);
    }

    /// A peer, not a seed, got `piece`. O(1).
    pub fn peer_have(&mut self, piece: PieceIndex) {
        self.rarity.add(piece);
    }

    /// A peer, not a seed, has lost `piece`. O(1).
    pub fn peer_lost(&mut self, piece: PieceIndex) {
        self.rarity.subtract(piece);
    }

    /// `peer` is gone: what it alone was to be asked for is anybody's. Requests still counted for it, if any,
    /// end.
    pub fn peer_gone(&mut self, peer: PeerKey) {
        let mut left = self.peers.requests(peer);
        let mut slot = 0;
        while left > 0 {
            let failed = self.begun.get_mut(slot).fail_all(peer);
            if failed > 0 {
                self.refile(self.begun.get(slot).piece);
            }
            left -= failed;
            slot += 1;
        }
        self.peers.forget(peer);
        self.unreliable.remove(&peer);
        while let Some(piece) = self.reserved.next(peer, None) {
            self.lift(piece);
        }
    }

    // ---- blocks

    /// `peer` delivered `block`. Everybody else who was asked for it is put into `cancels`, and nobody is
    /// counted as asked for it any more.
    pub fn block_received(
        &mut self,
        peer: PeerKey,
        block: Block,
        cancels: &mut Vec<(PeerKey, Block)>,
    ) -> Received {
        let Some(nth) = self.geometry.block_number(block) else { return Received::Unwanted };
        let slot = match self.states[block.piece.as_usize()] {
            State::Active(slot) => slot,
            State::Missing | State::Skipped | State::Elsewhere => return Received::Unwanted,
            State::Hashing(_) | State::Writing | State::Have => return Received::Duplicate,
        };
        if self.reserved.holder(block.piece).is_some_and(|holder| holder != peer) {
            return Received::Unwanted;
        }
        let peers = &mut self.peers;
        let new = self.begun.get_mut(slot).receive(nth, peer, |asked| {
            peers.over(asked, 1);
            if asked != peer {
                cancels.push((asked, block));
            }
        });
        if !new {
            return Received::Duplicate;
        }
        let active = self.begun.get(slot);
        let complete = active.received() == active.len();
        self.refile(block.piece);
        if complete {
            self.states[block.piece.as_usize()] = State::Hashing(slot);
            return Received::PieceComplete;
        }
        Received::Accepted
    }

    /// `peer` will not deliver `block`: it may be asked of others. Nothing happens when it is not counted as
    /// asked.
    pub fn request_failed(&mut self, peer: PeerKey, block: Block) {
        let (Some(nth), Some(slot)) = (self.geometry.block_number(block), self.active_slot(block.piece))
        else {
            return;
        };
        if !self.begun.get_mut(slot).fail(nth, peer) {
            return;
        }
        self.peers.over(peer, 1);
        if self.reserved.holder(block.piece) == Some(peer) {
            self.lift(block.piece);
        } else {
            self.refile(block.piece);
        }
    }

    // ---- pieces

    /// The hash of `piece` is right: it is on its way to disk.
    pub fn piece_verified(&mut self, piece: PieceIndex) {
        self.end_hashing(piece);
        self.reserved.remove(piece);
        self.states[piece.as_usize()] = State::Writing;
    }

    /// `piece` is on disk.
    pub fn piece_written(&mut self, piece: PieceIndex) {
        self.end_writing(piece);
        self.states[piece.as_usize()] = State::Have;
        self.have.insert(piece);
        self.wanted.remove(piece.0);
    }

    /// The hash of `piece` is wrong and its memory is free: it is fetched again, soon, and from `only_from`
    /// alone when given, until that peer fails to deliver a block of it or is gone.
    pub fn piece_failed(&mut self, piece: PieceIndex, only_from: Option<PeerKey>) {
        self.end_hashing(piece);
        self.reserved.remove(piece);
        if let (Some(peer), true) = (only_from, self.priority(piece) != Priority::Skip) {
            self.reserved.insert(piece, peer);
        }
        self.becomes_missing(piece);
        self.fetch_soon(piece);
    }

    /// Writing `piece` failed and its memory is free: it is missing.
    pub fn write_failed(&mut self, piece: PieceIndex) {
        self.end_writing(piece);
        self.becomes_missing(piece);
    }

    /// `piece` turned out damaged on disk: it is missing. Nothing happens when it is not ours, for several
    /// readers may find the same damage.
    pub fn invalidate(&mut self, piece: PieceIndex) {
        if self.states[piece.as_usize()] != State::Have {
            return;
        }
        self.have.remove(piece);
        if self.priority(piece) != Priority::Skip {
            self.wanted.insert(piece.0);
        }
        self.becomes_missing(piece);
    }

    /// Gives up a begun piece if nothing of it is asked for; then returns `true`, its blocks are lost and its
    /// memory is the caller's to free.
    pub fn abandon(&mut self, piece: PieceIndex) -> bool {
        let Some(slot) = self.active_slot(piece) else { return false };
        if self.begun.get(slot).requested() > 0 {
            return false;
        }
        self.drop_begun(slot);
        self.becomes_missing(piece);
        true
    }

    fn end_hashing(&mut self, piece: PieceIndex) {
        let State::Hashing(slot) = self.states[piece.as_usize()] else {
            panic!("a verdict on piece {piece}, which is {:?}", self.state(piece))
        };
        self.drop_begun(slot);
    }

    fn end_writing(&self, piece: PieceIndex) {
        let state = self.state(piece);
        assert_eq!(state, PieceState::Writing, "a write of piece {piece} ended");
    }

    /// Frees a slot of [`Begun`]; the state of the piece that had it is the caller's to change.
    fn drop_begun(&mut self, slot: u32) {
        let Some(moved) = self.begun.remove(slot) else { return };
        match &mut self.states[moved.as_usize()] {
            State::Active(at) | State::Hashing(at) => *at = slot,
            state => panic!("piece {moved} is begun and {state:?}"),
        }
    }

    /// To Missing or Skipped, and into the order unless it is reserved.
    fn becomes_missing(&mut self, piece: PieceIndex) {
        let priority = self.priority(piece);
        if priority == Priority::Skip {
            self.states[piece.as_usize()] = State::Skipped;
            return;
        }
        self.states[piece.as_usize()] = State::Missing;
        if !self.reserved.contains(piece) {
            self.rarity.insert(piece, priority);
        }
    }

    /// `piece` may not be begun by anyone any more.
    fn leaves_order(&mut self, piece: PieceIndex) {
        if self.rarity.contains(piece) {
            self.rarity.remove(piece);
            self.again.remove(&piece);
        }
    }

    fn fetch_soon(&mut self, piece: PieceIndex) {
        if self.rarity.contains(piece) {
            self.again.insert(piece);
        }
    }

    /// Ends the reservation of `piece`, if any: anybody may be asked for it.
    fn lift(&mut self, piece: PieceIndex) {
        self.reserved.remove(piece);
        match self.states[piece.as_usize()] {
            State::Missing => {
                self.rarity.insert(piece, self.priority(piece));
                self.fetch_soon(piece);
            }
            State::Active(_) => self.refile(piece),
            _ => {}
        }
    }

    fn mode(&self, piece: PieceIndex) -> Mode {
        if self.priority(piece) == Priority::Skip {
            Mode::Resting
        } else if self.reserved.contains(piece) {
            Mode::Reserved
        } else {
            Mode::Open
        }
    }

    /// Blocks of a begun piece changed hands.
    fn refile(&mut self, piece: PieceIndex) {
        let slot = self.active_slot(piece).expect("a piece that is being fetched");
        self.begun.refile(slot, self.mode(piece));
    }
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

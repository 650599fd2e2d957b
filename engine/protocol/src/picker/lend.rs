//! Pieces that another shard fetches: how one torrent is spread over several cores.
//!
//! Role: moves whole pieces between the pickers of one torrent. The home shard's picker holds everything at
//! first; satellites' pickers ([`Picker::new_satellite`]) hold nothing until something is lent to them. A lease
//! is the list of pieces that [`Picker::lend`] returns: a value that travels in a message. Owner: the picker of
//! one shard. Invariant: over all pickers of a torrent, a piece that is not ours is anything but
//! [`PieceState::Elsewhere`] in at most one of them, so it is fetched by one shard alone; between the
//! message that lends it and its arrival it is `Elsewhere` in all.
//!
//! ```text
//!                lend, give_back                  fetched_elsewhere
//!   Missing ─────────────────────▶ Elsewhere ───────────────────────▶ Have
//!           ◀─────────────────────    ▲  lost_elsewhere                │
//!                 admit               └────────────────────────────────┘
//! ```

use rand::Rng;

use super::{PeerHas, PeerKey, PeerView, Picker, PickerConfig, PieceState, Priority, State};
use crate::bitfield::Bitfield;
use crate::geometry::Geometry;
use crate::ids::PieceIndex;

impl Picker {
    /// The picker of a shard that fetches only what is lent to it. Everything that is not ours is wanted with
    /// [`Priority::Normal`] and fetched elsewhere.
    pub fn new_satellite(geometry: Geometry, config: PickerConfig, have: Bitfield) -> Self {
        let mut this = Self::new(geometry, config, have);
        this.more_elsewhere = true;
        for piece in geometry.pieces() {
            if this.state(piece) == PieceState::Missing {
                this.leaves_order(piece);
                this.states[piece.as_usize()] = State::Elsewhere;
            }
        }
        this
    }

    /// Whether another shard may still lend us something: then no block is asked for twice (endgame), since
    /// there are others to ask for. A satellite starts with `true`, a home with `false`.
    pub fn set_more_elsewhere(&mut self, more: bool) {
        self.more_elsewhere = more;
    }

    /// Pieces that could be begun now, if memory and a peer were there. O(1).
    pub fn startable(&self) -> u32 {
        self.rarity.len()
    }

    /// Gives up to `max` pieces away that were not begun and that a peer with `has` could deliver, chosen like
    /// new pieces: failed ones first, then by priority and strategy. Appends them to `lease`. Costs per piece
    /// what beginning one costs.
    pub fn lend(&mut self, has: PeerHas<'_>, max: usize, rng: &mut impl Rng, lease: &mut Vec<PieceIndex>) {
        let nobody = PeerKey(u32::MAX);
        let view = PeerView { key: nobody, has, only: None, suggested: &[], slow: false };
        for _ in 0..max {
            let Some(piece) = self.choose_new(&view, rng) else { return };
            self.leaves_order(piece);
            self.states[piece.as_usize()] = State::Elsewhere;
            self.cursor = piece.0 + 1;
            lease.push(piece);
        }
    }

    /// Gives `piece` away if it was not begun here; then returns `true`. Unlike [`Picker::lend`] it also takes
    /// skipped pieces: a satellite returns what its home calls back.
    pub fn give_back(&mut self, piece: PieceIndex) -> bool {
        if !matches!(self.state(piece), PieceState::Missing | PieceState::Skipped) {
            return false;
        }
        self.leaves_order(piece);
        self.reserved.remove(piece);
        self.states[piece.as_usize()] = State::Elsewhere;
        true
    }

    /// `piece` is ours to fetch: it was lent to us, or it came back. Panics when it is not elsewhere.
    pub fn admit(&mut self, piece: PieceIndex) {
        self.end_elsewhere(piece);
        self.becomes_missing(piece);
    }

    /// Another shard has verified and written `piece`; returns whether that is news. Panics when it is ours to
    /// fetch.
    pub fn fetched_elsewhere(&mut self, piece: PieceIndex) -> bool {
        // Two shards may find the same damage, and the second one tell of it after the repair.
        if self.states[piece.as_usize()] == State::Have {
            return false;
        }
        self.end_elsewhere(piece);
        self.states[piece.as_usize()] = State::Have;
        self.have.insert(piece);
        self.wanted.remove(piece.0);
        true
    }

    /// `piece` turned out damaged on disk, and another shard takes care of it. Nothing happens when it is not
    /// ours.
    pub fn lost_elsewhere(&mut self, piece: PieceIndex) {
        if self.states[piece.as_usize()] != State::Have {
            return;
        }
        self.have.remove(piece);
        if self.priority(piece) != Priority::Skip {
            self.wanted.insert(piece.0);
        }
        self.states[piece.as_usize()] = State::Elsewhere;
    }

    pub(super) fn end_elsewhere(&self, piece: PieceIndex) {
        let state = self.state(piece);
        assert_eq!(state, PieceState::Elsewhere, "piece {piece} comes from elsewhere");
    }
}

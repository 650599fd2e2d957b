//! The choice: what to ask of a peer now.
//!
//! In this order, until the peer has enough:
//! 1. pieces reserved for this peer;
//!    then what is urgent ([`super::urgent`]), if anything is;
//! 2. the piece this peer works at: one peer gets consecutive blocks, which can be received straight to their
//!    places;
//! 3. begun pieces that nobody works at, or of which blocks were given back, oldest first;
//! 4. a new piece, if the peer keeps enough requests on the way to fetch a whole piece by itself;
//! 5. begun pieces that others work at, oldest first: slow peers gather at the oldest pieces and finish them;
//! 6. a new piece;
//! 7. if memory for it was lacking: begun pieces that are not wanted any more, since finishing them frees
//!    memory;
//! 8. endgame ([`super::endgame`]).
//!
//! So what is begun never starves: when no new piece can begin, 3 and 5 visit all that is begun.
//!
//! Which new piece: one that failed before; then by priority, and within a priority one that the peer
//! suggests (BEP 6), then by [`Strategy`].
//!
//! Cost of a call: for each block O(log blocks given back); for each new piece what [`super::rarity`] says;
//! and once, one step for each begun piece with missing blocks that this peer lacks: at most the memory for
//! pieces, whatever the size of the torrent and of the swarm.

use rand::{Rng, RngExt};

use super::begun::Filing;
use super::rarity::Rarity;
use super::{PeerView, Picker, Priority, Slots, State, Strategy};
use crate::geometry::Block;
use crate::ids::PieceIndex;

/// Failed pieces looked at when a new piece is to begin; there are rarely any.
const AGAIN_PROBES: usize = 16;

/// One call of [`Picker::pick`].
pub(super) struct Turn<'a> {
    pub view: &'a PeerView<'a>,
    /// Blocks that may still be asked for.
    pub room: usize,
    /// Whether memory for a new piece was refused.
    pub short: bool,
    pub slots: &'a mut dyn Slots,
    pub out: &'a mut Vec<Block>,
}

impl Picker {
    /// Appends up to `max` blocks to ask of a peer to `out` and counts them as requested. New pieces begin as
    /// far as `slots` gives memory. See the module for order and cost.
    pub fn pick(
        &mut self,
        view: &PeerView<'_>,
        max: usize,
        slots: &mut dyn Slots,
        rng: &mut impl Rng,
        out: &mut Vec<Block>,
    ) {
        let mut turn = Turn { view, room: max, short: false, slots, out };
        let turn = &mut turn;
        self.pick_reserved(turn);
        self.pick_urgent(turn);
        self.pick_own(turn);
        self.pick_begun(Filing::Loose, turn);
        // Requests on the way and to come: the size of the peer's window, near enough.
        let pace = self.peers.requests(view.key) as usize + turn.room;
        if pace >= self.geometry.block_count(PieceIndex(0)) as usize {
            self.pick_new(turn, rng);
        }
        self.pick_begun(Filing::Shared, turn);
        self.pick_new(turn, rng);
        if turn.short {
            self.pick_begun(Filing::Resting, turn);
        }
        if turn.room == max && max > 0 && self.lose_patience(view) {
            self.pick_begun(Filing::Loose, turn);
            self.pick_new(turn, rng);
        }
        self.pick_duplicates(turn, rng);
    }

    fn pick_reserved(&mut self, turn: &mut Turn<'_>) {
        let mut after = None;
        while turn.room > 0
            && let Some(piece) = self.reserved.next(turn.view.key, after)
        {
            self.steps.add(1);
            after = Some(piece);
            if !turn.view.offers(piece) {
                continue;
            }
            match self.states[piece.as_usize()] {
                State::Missing if !turn.short => self.begin(piece, turn),
                State::Active(slot) => self.take(slot, turn),
                _ => {}
            }
        }
    }

    fn pick_own(&mut self, turn: &mut Turn<'_>) {
        let Some(piece) = self.peers.piece(turn.view.key) else { return };
        let Some(slot) = self.active_slot(piece) else { return };
        let open = matches!(self.begun.get(slot).filing, Filing::Loose | Filing::Shared);
        if open && turn.view.offers(piece) {
            self.take(slot, turn);
        }
    }

    fn pick_begun(&mut self, filing: Filing, turn: &mut Turn<'_>) {
        let mut after = None;
        while turn.room > 0
            && let Some(entry) = self.begun.next(filing, after)
        {
            self.steps.add(1);
            after = Some(entry);
            if turn.view.offers(entry.1) {
                let slot = self.active_slot(entry.1).expect("a piece in a list is being fetched");
                self.take(slot, turn);
            }
        }
    }

    fn pick_new(&mut self, turn: &mut Turn<'_>, rng: &mut impl Rng) {
        while turn.room > 0
            && !turn.short
            && let Some(piece) = self.choose_new(turn.view, rng)
        {
            self.begin(piece, turn);
        }
    }

    /// Begins `piece` if there is memory, and asks for its first blocks.
    pub(super) fn begin(&mut self, piece: PieceIndex, turn: &mut Turn<'_>) {
        assert_eq!(self.states[piece.as_usize()], State::Missing, "piece {piece} begins");
        if !turn.slots.acquire(piece, self.geometry.piece_size(piece)) {
            turn.short = true;
            return;
        }
        self.leaves_order(piece);
        let slot = self.begun.push(piece, self.geometry.block_count(piece));
        self.states[piece.as_usize()] = State::Active(slot);
        self.fill_padding(slot);
        self.cursor = piece.0 + 1;
        self.take(slot, turn);
    }

    /// Asks for as many missing blocks of a begun piece as there is room for, lowest first.
    pub(super) fn take(&mut self, slot: u32, turn: &mut Turn<'_>) {
        let active = self.begun.get_mut(slot);
        let piece = active.piece;
        let before = turn.room;
        while turn.room > 0
            && let Some(nth) = active.request_next(turn.view.key)
        {
            turn.out.push(self.geometry.block(piece, nth));
            turn.room -= 1;
        }
        let taken = before - turn.room;
        self.steps.add(taken as u64);
        if taken > 0 {
            self.peers.asked(turn.view.key, piece, taken as u32);
        }
        self.refile(piece);
    }

    /// The next piece to begin for this peer.
    pub(super) fn choose_new(&self, view: &PeerView<'_>, rng: &mut impl Rng) -> Option<PieceIndex> {
        self.steps.add(1);
        let can_begin = |piece: &&PieceIndex| self.rarity.contains(**piece) && view.offers(**piece);
        if let Some(only) = view.only {
            return only.iter().filter(can_begin).max_by_key(|piece| self.priority(**piece)).copied();
        }
        if let Some(piece) = self.again.iter().take(AGAIN_PROBES).find(can_begin) {
            return Some(*piece);
        }
        for priority in Rarity::priorities() {
            let suggested = |piece: &&PieceIndex| can_begin(piece) && self.priority(**piece) == priority;
            let piece = view.suggested.iter().find(suggested).copied();
            if let Some(piece) = piece.or_else(|| self.choose_by_strategy(priority, view, rng)) {
                return Some(piece);
            }
        }
        None
    }

    fn choose_by_strategy(
        &self,
        priority: Priority,
        view: &PeerView<'_>,
        rng: &mut impl Rng,
    ) -> Option<PieceIndex> {
        let from = match self.config.strategy {
            Strategy::RarestFirst => {
                let started = u64::from(self.have.count()) + self.begun.len() as u64;
                if started >= u64::from(self.config.random_first) {
                    return self.rarity.rarest(priority, &view.has, rng, &self.steps);
                }
                rng.random_range(0..self.geometry.piece_count())
            }
            Strategy::Sequential => 0,
            Strategy::RoundRobin => self.cursor,
        };
        self.rarity.first_from(priority, &view.has, from, &self.steps)
    }

    /// The peer would go away empty-handed. Whether a reserved piece, whose holder does nothing about it,
    /// became anybody's for that.
    fn lose_patience(&mut self, view: &PeerView<'_>) -> bool {
        if self.reserved.is_empty() {
            return false;
        }
        let (states, begun) = (&self.states, &self.begun);
        let due = self.reserved.wait(|piece| {
            let at_work = match states[piece.as_usize()] {
                State::Active(slot) => begun.get(slot).requested() > 0,
                state => state != State::Missing,
            };
            !at_work && view.offers(piece)
        });
        due.inspect(|piece| self.lift(*piece)).is_some()
    }
}

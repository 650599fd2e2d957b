//! Pieces that somebody waits for, because a file is played while it is fetched.
//!
//! Role: what is urgent comes before everything else, in the order in which it is needed. Owner: [`super::Picker`]; the
//! list comes from [`crate::playback`], and what is late or closed to slow peers from the torrent, which keeps the time.
//! Invariant: being urgent changes who is asked for a piece and when, not which state it is in.
//!
//! Cost of a call: one step for each urgent piece, of which there are a few dozen, and for each late block.

use super::begun::Mode;
use super::choose::Turn;
use super::{Picker, State};
use crate::geometry::Block;
use crate::ids::PieceIndex;

/// Peers that are asked for a late block at most.
const LATE_COPIES: usize = 3;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Urgent {
    /// Those needed first come first.
    order: Vec<PieceIndex>,
    /// Not to be asked of slow peers.
    closed: Vec<PieceIndex>,
    /// Blocks that were asked for too long ago.
    late: Vec<Block>,
}

impl Urgent {
    /// The first urgent piece that `fits`.
    pub fn first(&self, fits: impl Fn(&PieceIndex) -> bool) -> Option<PieceIndex> {
        self.order.iter().copied().find(fits)
    }
}

impl Picker {
    /// These pieces come first, in this order.
    pub fn set_urgent(&mut self, order: Vec<PieceIndex>) {
        self.urgent = Urgent { order, ..Urgent::default() };
    }

    /// The pieces that come first.
    pub fn urgent(&self) -> &[PieceIndex] {
        &self.urgent.order
    }

    /// Of the urgent pieces, those that slow peers are not asked for, and blocks that others are asked for too.
    pub fn set_pressing(&mut self, closed: Vec<PieceIndex>, late: Vec<Block>) {
        (self.urgent.closed, self.urgent.late) = (closed, late);
    }

    /// Whether some block is asked for too long ago.
    pub fn has_late(&self) -> bool {
        !self.urgent.late.is_empty()
    }

    pub(super) fn pick_urgent(&mut self, turn: &mut Turn<'_>) {
        for at in 0..self.urgent.order.len() {
            if turn.room == 0 {
                return;
            }
            self.steps.add(1);
            let piece = self.urgent.order[at];
            let is_closed = turn.view.slow && self.urgent.closed.contains(&piece);
            if is_closed || !turn.view.offers(piece) {
                continue;
            }
            match self.states[piece.as_usize()] {
                State::Missing if !turn.short && self.rarity.contains(piece) => self.begin(piece, turn),
                State::Active(slot) if self.mode(piece) == Mode::Open => self.take(slot, turn),
                _ => {}
            }
        }
        if !turn.view.slow {
            self.pick_late(turn);
        }
    }

    fn pick_late(&mut self, turn: &mut Turn<'_>) {
        let key = turn.view.key;
        for at in 0..self.urgent.late.len() {
            if turn.room == 0 {
                return;
            }
            self.steps.add(1);
            let block = self.urgent.late[at];
            let (Some(nth), Some(slot)) = (self.geometry.block_number(block), self.active_slot(block.piece))
            else {
                continue;
            };
            if self.mode(block.piece) == Mode::Open
                && turn.view.offers(block.piece)
                && self.begun.get_mut(slot).request_again(nth, key, LATE_COPIES, &self.unreliable)
            {
                turn.out.push(block);
                turn.room -= 1;
                self.peers.asked(key, block.piece, 1);
            }
        }
    }
}

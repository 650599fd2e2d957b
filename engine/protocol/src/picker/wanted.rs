//! How much pieces are wanted, and how much of what is wanted is missing.

use super::{Picker, Priority, State};
use crate::ids::PieceIndex;

impl Picker {
    /// Bytes of the pieces that are wanted and not ours. O(1).
    pub fn bytes_left(&self) -> u64 {
        let last = PieceIndex(self.geometry.piece_count() - 1);
        let piece_len = u64::from(self.geometry.piece_len());
        let short = piece_len - u64::from(self.geometry.piece_size(last));
        u64::from(self.wanted.count()) * piece_len - if self.wanted.has(last.0) { short } else { 0 }
    }

    /// Sets how much `piece` is wanted; at any time. See the module for a begun piece that becomes Skip.
    pub fn set_priority(&mut self, piece: PieceIndex, priority: Priority) {
        let before = std::mem::replace(&mut self.priorities[piece.as_usize()], priority);
        if before == priority {
            return;
        }
        let state = self.states[piece.as_usize()];
        if state != State::Have {
            if priority == Priority::Skip {
                self.wanted.remove(piece.0);
            } else {
                self.wanted.insert(piece.0);
            }
        }
        match state {
            State::Missing if priority == Priority::Skip => {
                self.leaves_order(piece);
                self.reserved.remove(piece);
                self.states[piece.as_usize()] = State::Skipped;
            }
            State::Missing if self.rarity.contains(piece) => {
                self.rarity.remove(piece);
                self.rarity.insert(piece, priority);
            }
            State::Skipped => self.becomes_missing(piece),
            State::Active(_) => {
                if priority == Priority::Skip {
                    self.reserved.remove(piece);
                }
                self.refile(piece);
            }
            State::Missing | State::Hashing(_) | State::Writing | State::Have | State::Elsewhere => {}
        }
    }
}

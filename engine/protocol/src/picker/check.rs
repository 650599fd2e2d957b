//! The picker's invariants, spelled out. Called by tests, and by hand when something is odd.

use std::collections::HashMap;

use super::{PeerKey, Picker, PieceState, Priority, State};
use crate::ids::PieceIndex;

impl Picker {
    /// Asserts every invariant of the picker. O(pieces): for tests and debugging.
    pub fn check_invariants(&self) {
        for piece in self.geometry.pieces() {
            self.check_piece(piece);
        }
        self.check_sums();
    }

    fn check_piece(&self, piece: PieceIndex) {
        let state = self.state(piece);
        let skip = self.priority(piece) == Priority::Skip;
        let reserved = self.reserved.contains(piece);
        assert_eq!(self.have.has(piece), state == PieceState::Have, "have-bit of {piece}");
        assert_eq!(self.wanted.has(piece.0), !skip && state != PieceState::Have, "wanted-bit of {piece}");
        assert!(state != PieceState::Skipped || skip, "piece {piece} is wanted but skipped");
        assert!(state != PieceState::Missing || !skip, "piece {piece} is skipped but missing");
        let startable = state == PieceState::Missing && !reserved;
        assert_eq!(self.rarity.contains(piece), startable, "piece {piece} in the order");
        assert!(!self.again.contains(&piece) || startable, "piece {piece} cannot be begun again");
        let may_be_reserved = matches!(state, PieceState::Missing | PieceState::Active | PieceState::Hashing);
        assert!(!reserved || may_be_reserved, "piece {piece} is reserved");
        match self.states[piece.as_usize()] {
            State::Active(slot) => {
                let active = self.begun.get(slot);
                assert!(active.piece == piece && active.received() < active.len(), "active piece {piece}");
            }
            State::Hashing(slot) => {
                let active = self.begun.get(slot);
                assert!(active.piece == piece && active.received() == active.len(), "hashing {piece}");
            }
            _ => {}
        }
    }

    fn check_sums(&self) {
        let begun = |state: &&State| matches!(state, State::Active(_) | State::Hashing(_));
        assert_eq!(self.states.iter().filter(begun).count(), self.begun.len(), "begun pieces");
        let mut requests: HashMap<PeerKey, u32> = HashMap::new();
        for (_, peer) in self.begun.iter().flat_map(|active| active.requests()) {
            *requests.entry(peer).or_default() += 1;
        }
        self.peers.check(&requests);
        self.wanted.check();
        self.rarity.check();
        self.reserved.check();
        self.begun.check(|active| self.mode(active.piece));
    }
}

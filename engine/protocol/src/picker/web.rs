//! Runs of pieces for web seeds (BEP 19): what one HTTP request is for.
//!
//! Role: chooses contiguous pieces, which are Elsewhere until they arrive complete or are given back
//! ([`Picker::admit`]). Owner: the picker of a torrent's home. Invariant: who arrives was lent; all its blocks are of
//! [`FROM_WEB`], so the torrent's peers are not blamed for it.
//!
//! Which run: what is urgent first; else the highest priority, and there the longest gap near where the last run
//! ended, so that few requests fetch much and gaps between what peers bring are closed. With an order of its own the
//! torrent keeps that.

use rand::Rng;

use super::{PeerHas, PeerKey, PeerView, Picker, State, Strategy};
use crate::ids::PieceIndex;

/// In the place of a sender: the block came from a web seed. No peer has this key.
pub const FROM_WEB: PeerKey = PeerKey(u32::MAX - 1);

/// Pieces that are looked at to find a long gap.
const LOOK: u32 = 4096;

impl Picker {
    /// Gives up to `max` contiguous pieces away that were not begun, that `usable` accepts and for which `acquire`
    /// finds memory, in rising order. `lowest`: the first of the torrent that are missing, for a server that cannot
    /// begin in the middle. They are Elsewhere until [`Picker::arrived`] or [`Picker::admit`]. Costs [`LOOK`] steps at
    /// most, unless `usable` refuses much.
    pub fn lend_run(
        &mut self,
        max: u32,
        lowest: bool,
        rng: &mut impl Rng,
        usable: impl Fn(PieceIndex) -> bool,
        mut acquire: impl FnMut(PieceIndex) -> bool,
    ) -> Vec<PieceIndex> {
        let mut run = Vec::new();
        if max == 0 || self.startable() == 0 {
            return run;
        }
        let Some(start) = self.run_start(lowest, rng, &usable) else { return run };
        let priority = self.priority(start);
        for piece in (start.0..self.geometry.piece_count()).map(PieceIndex).take(max as usize) {
            let fits = self.rarity.contains(piece) && self.priority(piece) == priority && usable(piece);
            if !fits || !acquire(piece) {
                break;
            }
            self.leaves_order(piece);
            self.states[piece.as_usize()] = State::Elsewhere;
            run.push(piece);
        }
        self.run_end = run.last().map_or(self.run_end, |last| last.0 + 1);
        run
    }

    fn run_start(
        &self,
        lowest: bool,
        rng: &mut impl Rng,
        usable: &impl Fn(PieceIndex) -> bool,
    ) -> Option<PieceIndex> {
        let fits = |piece: &PieceIndex| self.rarity.contains(*piece) && usable(*piece);
        if let Some(urgent) = self.urgent.first(fits) {
            return Some(urgent);
        }
        let view = PeerView { key: FROM_WEB, has: PeerHas::All, only: None, suggested: &[], slow: false };
        let best = self.choose_new(&view, rng)?;
        let priority = self.priority(best);
        let fits = |piece: &PieceIndex| fits(piece) && self.priority(*piece) == priority;
        if lowest {
            return self.geometry.pieces().find(fits);
        }
        if self.config.strategy != Strategy::RarestFirst && fits(&best) {
            return Some(best);
        }
        self.longest_gap(fits).or_else(|| Some(best).filter(fits)).or_else(|| {
            // What is left may be of lower priority.
            self.geometry.pieces().find(|piece| self.rarity.contains(*piece) && usable(*piece))
        })
    }

    /// Where the longest of the gaps begins that are near the end of the last run. That run is gone on with while it
    /// can be.
    fn longest_gap(&self, fits: impl Fn(&PieceIndex) -> bool) -> Option<PieceIndex> {
        let count = self.geometry.piece_count();
        let from = if self.run_end < count { self.run_end } else { 0 };
        if fits(&PieceIndex(from)) {
            return Some(PieceIndex(from));
        }
        let (mut best, mut best_len) = (None, 0);
        let mut gap: Option<(u32, u32)> = None;
        for step in 0..count.min(LOOK) {
            let at = (from + step) % count;
            self.steps.add(1);
            let is_next = gap.is_some_and(|(start, len)| start + len == at);
            if !fits(&PieceIndex(at)) {
                gap = None;
                continue;
            }
            let (start, len) = if is_next { gap.expect("just seen") } else { (at, 0) };
            gap = Some((start, len + 1));
            if len + 1 > best_len {
                (best, best_len) = (Some(PieceIndex(start)), len + 1);
            }
        }
        best
    }

    /// All of `piece` has come from a web seed: it waits for its verdict. Panics when it is not Elsewhere.
    pub fn arrived(&mut self, piece: PieceIndex) {
        self.end_elsewhere(piece);
        let blocks = self.geometry.block_count(piece);
        let slot = self.begun.push(piece, blocks);
        self.states[piece.as_usize()] = State::Active(slot);
        for nth in 0..blocks {
            self.begun.get_mut(slot).receive(nth, FROM_WEB, |_| {});
        }
        self.refile(piece);
        self.states[piece.as_usize()] = State::Hashing(slot);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::super::{PickerConfig, PieceState, Priority};
    use super::*;
    use crate::bitfield::Bitfield;
    use crate::geometry::Geometry;

    fn picker(have: &[u32]) -> Picker {
        let mut field = Bitfield::empty(20);
        for piece in have {
            field.insert(PieceIndex(*piece));
        }
        Picker::new(Geometry::new(20 * 32_768, 32_768).expect("sizes"), PickerConfig::default(), field)
    }

    fn run(picker: &mut Picker, max: u32, lowest: bool) -> Vec<u32> {
        let mut rng = SmallRng::seed_from_u64(7);
        let run = picker.lend_run(max, lowest, &mut rng, |_| true, |_| true);
        picker.check_invariants();
        run.into_iter().map(|piece| piece.0).collect()
    }

    #[test]
    fn the_longest_gap_comes_first_and_runs_go_on() {
        let mut picker = picker(&[0, 3, 4, 11, 12]);
        assert_eq!(run(&mut picker, 3, false), [13, 14, 15]);
        assert_eq!(run(&mut picker, 9, false), [16, 17, 18, 19], "gone on with, to the end");
        assert_eq!(run(&mut picker, 2, true), [1, 2]);
        assert_eq!(run(&mut picker, 4, false), [5, 6, 7, 8]);
        assert_eq!(run(&mut picker, 4, false), [9, 10]);
        assert_eq!(run(&mut picker, 4, false), [0u32; 0]);
    }

    #[test]
    fn urgent_and_wanted_pieces_come_before_long_gaps() {
        let mut picker = picker(&[0]);
        picker.set_priority(PieceIndex(9), Priority::High);
        picker.set_priority(PieceIndex(5), Priority::Skip);
        assert_eq!(run(&mut picker, 5, false), [9]);
        picker.set_urgent(vec![PieceIndex(0), PieceIndex(3)]);
        assert_eq!(run(&mut picker, 5, false), [3, 4]);
    }

    #[test]
    fn what_arrives_is_hashed_and_may_fail_or_come_back() {
        let mut picker = picker(&[]);
        assert_eq!(run(&mut picker, 2, true), [0, 1]);
        picker.arrived(PieceIndex(0));
        picker.check_invariants();
        assert_eq!(picker.senders(PieceIndex(0)).collect::<Vec<_>>(), [(0, FROM_WEB), (1, FROM_WEB)]);
        picker.piece_failed(PieceIndex(0), None);
        picker.admit(PieceIndex(1));
        picker.check_invariants();
        assert_eq!(run(&mut picker, 1, true), [0]);
        picker.arrived(PieceIndex(0));
        picker.piece_verified(PieceIndex(0));
        picker.piece_written(PieceIndex(0));
        assert_eq!(picker.state(PieceIndex(0)), PieceState::Have);
    }

    #[test]
    fn memory_and_servers_that_lack_files_cut_runs() {
        let mut picker = picker(&[]);
        let mut rng = SmallRng::seed_from_u64(7);
        let mut room = 2;
        let acquire = |_| {
            room -= 1;
            room >= 0
        };
        assert_eq!(picker.lend_run(5, true, &mut rng, |_| true, acquire).len(), 2);
        let lent = picker.lend_run(5, false, &mut rng, |piece| piece.0 == 13, |_| true);
        assert_eq!(lent, [PieceIndex(13)]);
        picker.check_invariants();
    }
}

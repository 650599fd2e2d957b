//! Ban by block: finds which peer lied in a piece that failed its hash.
//!
//! Role: remembers who sent which bytes (as digests) of pieces that failed, until the piece is good; then whoever sent
//! other bytes lied. Owner: the torrent, which asks it at every verdict. To get there quickly, a piece that failed is
//! fetched whole from one peer: either it is good then, which convicts the liars, or that peer is the only sender and
//! convicted at once. So with `n` liars it takes at most `n + 1` failures that had one sender or a mixture.
//!
//! Invariants: nobody whose blocks were all good is ever accused. Memory is bounded: at most [`MAX_PIECES`] pieces and
//! [`MAX_BLOCKS`] blocks of evidence (about 2 MiB) besides the newest failure; the oldest are dropped, which lets a
//! liar go, for now.

use std::collections::{HashSet, VecDeque};

use crate::ids::PieceIndex;

/// Failed pieces that are remembered at once.
pub const MAX_PIECES: usize = 64;
/// Blocks of evidence that are remembered at once, over all pieces.
pub const MAX_BLOCKS: usize = 1 << 16;
/// Failures of one piece whose evidence is remembered.
const MAX_FAILURES: usize = 8;

/// Names a peer across reconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdent(pub u64);

type Evidence = (u32, PeerIdent, [u8; 20]);

/// A piece that failed and has not been good since.
#[derive(Debug)]
struct Suspect {
    piece: PieceIndex,
    /// Who sent what, a list per failure, oldest first.
    failures: VecDeque<Vec<Evidence>>,
    /// Who was to send all of it since, and how often.
    asked: Vec<(PeerIdent, u32)>,
    /// Who is convicted already.
    guilty: Vec<PeerIdent>,
}

impl Suspect {
    fn blocks(&self) -> usize {
        self.failures.iter().map(Vec::len).sum()
    }

    fn asked(&self, peer: PeerIdent) -> u32 {
        self.asked.iter().find(|(other, _)| *other == peer).map_or(0, |(_, times)| *times)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Blame {
    /// Oldest first.
    suspects: VecDeque<Suspect>,
}

impl Blame {
    /// Nobody is suspected.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether `piece` failed before and is not settled.
    pub fn suspects(&self, piece: PieceIndex) -> bool {
        self.position(piece).is_some()
    }

    fn position(&self, piece: PieceIndex) -> Option<usize> {
        self.suspects.iter().position(|suspect| suspect.piece == piece)
    }

    /// The piece failed; `blocks` are its block numbers, their senders, and the SHA-1 of what they sent, all of the
    /// piece. A single sender is guilty at once and returned, unless it was before.
    pub fn record_failure(
        &mut self,
        piece: PieceIndex,
        blocks: impl Iterator<Item = (u32, PeerIdent, [u8; 20])>,
    ) -> Option<PeerIdent> {
        let blocks: Vec<Evidence> = blocks.collect();
        let (_, sender, _) = *blocks.first()?;
        if blocks.iter().all(|(_, other, _)| *other == sender) {
            let Some(at) = self.position(piece) else { return Some(sender) };
            // The mixtures before it still wait for the good piece.
            let suspect = &mut self.suspects[at];
            let new = !suspect.guilty.contains(&sender);
            if new {
                suspect.guilty.push(sender);
            }
            return new.then_some(sender);
        }
        let mut suspect = match self.position(piece) {
            Some(at) => self.suspects.remove(at).expect("just found"),
            None => Suspect { piece, failures: VecDeque::new(), asked: Vec::new(), guilty: Vec::new() },
        };
        if suspect.failures.len() == MAX_FAILURES {
            suspect.failures.pop_front();
        }
        suspect.failures.push_back(blocks);
        self.suspects.push_back(suspect);
        self.forget();
        None
    }

    /// Drops the oldest evidence beyond the bounds; the newest failure always stays.
    fn forget(&mut self) {
        while self.suspects.len() > MAX_PIECES {
            self.suspects.pop_front();
        }
        let mut blocks: usize = self.suspects.iter().map(Suspect::blocks).sum();
        while blocks > MAX_BLOCKS {
            let oldest = self.suspects.front_mut().expect("blocks belong to somebody");
            let last = oldest.failures.len() == 1;
            if self.suspects.len() == 1 && last {
                break;
            }
            let oldest = self.suspects.front_mut().expect("just seen");
            blocks -= oldest.failures.pop_front().map_or(0, |failure| failure.len());
            if last {
                self.suspects.pop_front();
            }
        }
    }

    /// The piece is good now, `digests` are the SHA-1 of its blocks in order: whoever sent a block that differs, lied.
    /// Everybody is returned once, without those who were convicted before. The piece is settled.
    pub fn on_success(
        &mut self,
        piece: PieceIndex,
        digests: impl Iterator<Item = [u8; 20]>,
    ) -> Vec<PeerIdent> {
        let Some(at) = self.position(piece) else { return Vec::new() };
        let suspect = self.suspects.remove(at).expect("just found");
        let good: Vec<[u8; 20]> = digests.collect();
        let mut known: HashSet<PeerIdent> = suspect.guilty.into_iter().collect();
        let mut guilty = Vec::new();
        for (nth, sender, digest) in suspect.failures.into_iter().flatten() {
            let lied = good.get(nth as usize).is_some_and(|good| *good != digest);
            if lied && known.insert(sender) {
                guilty.push(sender);
            }
        }
        guilty
    }

    /// Whom to fetch the whole piece from next: of `candidates` the one that was asked least often, then the one that
    /// sent least of what failed, here and in other pieces. `None` without candidates or when the piece never failed.
    pub fn refetch_from(&mut self, piece: PieceIndex, candidates: &[PeerIdent]) -> Option<PeerIdent> {
        let at = self.position(piece)?;
        let sent = |suspect: &Suspect, peer| {
            suspect.failures.iter().flatten().filter(|(_, sender, _)| *sender == peer).count()
        };
        let suspect = &self.suspects[at];
        let chosen = *candidates.iter().min_by_key(|peer| {
            let elsewhere: usize = self.suspects.iter().map(|other| sent(other, **peer)).sum();
            (suspect.guilty.contains(*peer), suspect.asked(**peer), sent(suspect, **peer), elsewhere)
        })?;
        let asked = &mut self.suspects[at].asked;
        match asked.iter_mut().find(|(peer, _)| *peer == chosen) {
            Some((_, times)) => *times += 1,
            None => asked.push((chosen, 1)),
        }
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const PIECE: PieceIndex = PieceIndex(3);

    fn good(nth: u32) -> [u8; 20] {
        [nth as u8; 20]
    }

    fn bad(nth: u32, salt: u8) -> [u8; 20] {
        [nth as u8 ^ 0x80 ^ salt; 20]
    }

    fn peer(n: u64) -> PeerIdent {
        PeerIdent(n)
    }

    #[test]
    fn a_single_sender_is_guilty_at_once() {
        let mut blame = Blame::new();
        let blocks = (0..4).map(|nth| (nth, peer(7), good(nth)));
        assert_eq!(blame.record_failure(PIECE, blocks), Some(peer(7)));
        assert!(!blame.suspects(PIECE));
        assert_eq!(blame.record_failure(PIECE, std::iter::empty()), None);
        assert_eq!(blame.refetch_from(PIECE, &[peer(1)]), None);
    }

    #[test]
    fn the_good_piece_convicts_everybody_once() {
        let mut blame = Blame::new();
        let first =
            [(0, peer(1), good(0)), (1, peer(2), bad(1, 0)), (2, peer(2), bad(2, 0)), (3, peer(3), good(3))];
        assert_eq!(blame.record_failure(PIECE, first.into_iter()), None);
        assert!(blame.suspects(PIECE));
        assert_eq!(blame.refetch_from(PIECE, &[peer(1), peer(2), peer(4)]), Some(peer(4)));
        // The second mixture has another liar; then one is found because it sends all of the piece.
        let second = [
            (0, peer(4), good(0)),
            (1, peer(5), bad(1, 0)),
            (2, peer(2), bad(2, 1)),
            (3, peer(6), bad(3, 0)),
        ];
        assert_eq!(blame.record_failure(PIECE, second.into_iter()), None);
        assert_eq!(blame.record_failure(PIECE, (0..4).map(|n| (n, peer(5), bad(n, 2)))), Some(peer(5)));
        assert_eq!(blame.record_failure(PIECE, (0..4).map(|n| (n, peer(5), bad(n, 2)))), None);
        assert_eq!(blame.on_success(PIECE, (0..4).map(good)), [peer(2), peer(6)]);
        assert!(!blame.suspects(PIECE));
        assert!(blame.on_success(PIECE, (0..4).map(good)).is_empty());
    }

    #[test]
    fn refetching_goes_round() {
        let mut blame = Blame::new();
        let mixture = [(0, peer(1), good(0)), (1, peer(2), good(1)), (2, peer(2), good(2))];
        blame.record_failure(PIECE, mixture.into_iter());
        let all = [peer(1), peer(2), peer(3)];
        let order: Vec<_> = (0..4).map(|_| blame.refetch_from(PIECE, &all).unwrap().0).collect();
        assert_eq!(order, [3, 1, 2, 3]);
        assert_eq!(blame.refetch_from(PIECE, &[]), None);
        assert_eq!(blame.refetch_from(PIECE, &[peer(2)]), Some(peer(2)));
    }

    #[test]
    fn evidence_is_bounded() {
        let mut blame = Blame::new();
        let half = MAX_BLOCKS as u32 / 2 + 1;
        for piece in 0..3 {
            let blocks = (0..half).map(|nth| (nth, peer(u64::from(nth % 2)), good(nth)));
            blame.record_failure(PieceIndex(piece), blocks);
        }
        assert!(!blame.suspects(PieceIndex(1)) && blame.suspects(PieceIndex(2)));
        for piece in 10..10 + 2 * MAX_PIECES as u32 {
            let blocks = (0..2).map(|nth| (nth, peer(u64::from(nth)), good(nth)));
            blame.record_failure(PieceIndex(piece), blocks);
        }
        assert_eq!(blame.suspects.len(), MAX_PIECES);
        let huge = (0..2 * MAX_BLOCKS as u32).map(|nth| (nth, peer(u64::from(nth % 2)), good(nth)));
        blame.record_failure(PIECE, huge);
        assert!(blame.suspects(PIECE));
        for _ in 0..100 {
            blame.record_failure(PIECE, (0..2).map(|nth| (nth, peer(u64::from(nth)), good(nth))));
        }
        assert!(blame.suspects.iter().map(Suspect::blocks).sum::<usize>() <= MAX_BLOCKS);
        assert_eq!(blame.suspects.back().unwrap().failures.len(), MAX_FAILURES);
    }

    proptest! {
        /// Liars among honest peers, however the first blocks are spread: all that lied are found after a number of
        /// failures that is bounded by the number of liars, and nobody else.
        #[test]
        fn liars_are_found_and_nobody_else(
            peers in 2u64..8,
            liars in prop::collection::btree_set(0u64..8, 1..4),
            senders in prop::collection::vec(0u64..8, 1..20),
        ) {
            let liars: BTreeSet<u64> = liars.into_iter().map(|liar| liar % peers).collect();
            prop_assume!((liars.len() as u64) < peers);
            let digest = |nth: usize, sender: u64| match liars.contains(&sender) {
                true => bad(nth as u32, sender as u8),
                false => good(nth as u32),
            };
            let mut blame = Blame::new();
            let (mut banned, mut failures, mut only) = (BTreeSet::new(), 0, None);
            loop {
                let sent: Vec<u64> = senders.iter().map(|sender| only.unwrap_or(sender % peers)).collect();
                let blocks = || sent.iter().enumerate().map(|(nth, sender)| (nth, *sender));
                if blocks().all(|(_, sender)| !liars.contains(&sender)) {
                    let found = blame.on_success(PIECE, (0..senders.len() as u32).map(good));
                    banned.extend(found.iter().map(|ident| ident.0));
                    break;
                }
                failures += 1;
                prop_assert!(failures <= liars.len() + 1, "{} failures", failures);
                let evidence = blocks().map(|(nth, sender)| (nth as u32, PeerIdent(sender), digest(nth, sender)));
                let guilty = blame.record_failure(PIECE, evidence);
                banned.extend(guilty.map(|ident| ident.0));
                let left: Vec<PeerIdent> = (0..peers).filter(|n| !banned.contains(n)).map(PeerIdent).collect();
                only = blame.refetch_from(PIECE, &left).or(left.first().copied()).map(|ident| ident.0);
            }
            prop_assert!(banned.is_subset(&liars), "{:?} of {:?}", banned, liars);
            let lied = senders.iter().map(|sender| sender % peers).filter(|sender| liars.contains(sender));
            prop_assert!(lied.collect::<BTreeSet<_>>().is_subset(&banned), "somebody got away");
        }
    }
}

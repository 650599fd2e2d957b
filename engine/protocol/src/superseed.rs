//! Super-seeding (BEP 16): each peer is shown one piece after another, so that a first copy costs little more than once
//! its bytes.
//!
//! Role: decides which piece a peer is shown next. Pure. Owner: [`crate::torrent::Torrent`], while everything is ours and
//! [`crate::torrent::TorrentConfig::super_seeding`] is set. Invariants: a peer is never shown a piece that it has, nor one
//! twice; at most [`SHOWN_MAX`] of the pieces that a peer was shown wait to be seen elsewhere.
//!
//! A peer gets the next piece when another peer announces one that it was shown, for then it has passed it on. Alone with
//! us it could pass on nothing, so then it is enough that it has it, and so it is after [`PATIENCE`]: its neighbours may be out
//! of its reach.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use crate::ids::PieceIndex;
use crate::picker::PeerKey;

/// Pieces that a peer may be busy with: a second one keeps the line full while the first is passed on.
pub const SHOWN_MAX: usize = 2;
/// How long a peer has to pass a piece on before it is shown another one all the same.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A piece that a peer is to fetch and to pass on.
#[derive(Debug)]
struct Waiting {
    piece: PieceIndex,
    /// When it was shown.
    since: Instant,
    /// Bytes of it that the peer was sent.
    sent: u32,
}

#[derive(Debug, Default)]
struct Shown {
    /// Not seen elsewhere yet.
    waiting: Vec<Waiting>,
    /// All that it was shown.
    all: BTreeSet<PieceIndex>,
}

/// See the module.
#[derive(Debug)]
pub struct SuperSeed {
    peers: BTreeMap<PeerKey, Shown>,
    /// Peers that were shown a piece and are connected, by piece.
    shown_to: Vec<u32>,
}

impl SuperSeed {
    /// Nobody is connected.
    pub fn new(pieces: u32) -> Self {
        Self { peers: BTreeMap::new(), shown_to: vec![0; pieces as usize] }
    }

    /// A peer that is not a seed came; whether that is news.
    pub fn join(&mut self, peer: PeerKey) -> bool {
        let before = self.peers.len();
        self.peers.entry(peer).or_default();
        self.peers.len() > before
    }

    /// Pieces that were shown and not seen elsewhere yet.
    pub fn awaited(&self) -> BTreeSet<PieceIndex> {
        self.peers.values().flat_map(|shown| shown.waiting.iter().map(|waiting| waiting.piece)).collect()
    }

    /// A peer is gone, or has everything.
    pub fn leave(&mut self, peer: PeerKey) {
        let Some(shown) = self.peers.remove(&peer) else { return };
        for piece in shown.all {
            self.shown_to[piece.as_usize()] -= 1;
        }
    }

    /// Whether `peer` may be sent `piece`.
    pub fn is_shown(&self, peer: PeerKey, piece: PieceIndex) -> bool {
        self.peers.get(&peer).is_some_and(|shown| shown.all.contains(&piece))
    }

    /// `from` announces `piece`: those who were shown it and have room for another one by that.
    pub fn announced(&mut self, from: PeerKey, piece: PieceIndex) -> Vec<PeerKey> {
        let alone = self.peers.len() == 1;
        let mut free = Vec::new();
        for (peer, shown) in &mut self.peers {
            if *peer == from && !alone {
                continue;
            }
            let before = shown.waiting.len();
            shown.waiting.retain(|waiting| waiting.piece != piece);
            if shown.waiting.len() < before {
                free.push(*peer);
            }
        }
        free
    }

    /// `peer` was sent `bytes` more of a piece of `size` bytes; whether it may be shown another one by that. Many clients
    /// do not announce a piece to those who seem to have it.
    pub fn sent(&mut self, peer: PeerKey, piece: PieceIndex, bytes: u32, size: u32) -> bool {
        let alone = self.peers.len() == 1;
        let Some(shown) = self.peers.get_mut(&peer) else { return false };
        let Some(at) = shown.waiting.iter().position(|waiting| waiting.piece == piece) else { return false };
        let waiting = &mut shown.waiting[at];
        waiting.sent = waiting.sent.saturating_add(bytes);
        let is_free = alone && waiting.sent >= size;
        if is_free {
            shown.waiting.remove(at);
        }
        is_free
    }

    /// Those whose pieces went nowhere for too long and who have them: they were sent all of it (`size` bytes), or say so.
    pub fn tick(
        &mut self,
        now: Instant,
        size: impl Fn(PieceIndex) -> u32,
        has: impl Fn(PeerKey, PieceIndex) -> bool,
    ) -> Vec<PeerKey> {
        let mut free = Vec::new();
        for (peer, shown) in &mut self.peers {
            let before = shown.waiting.len();
            let is_over = |waiting: &Waiting| {
                let is_there = waiting.sent >= size(waiting.piece) || has(*peer, waiting.piece);
                is_there && now.saturating_duration_since(waiting.since) >= PATIENCE
            };
            shown.waiting.retain(|waiting| !is_over(waiting));
            if shown.waiting.len() < before {
                free.push(*peer);
            }
        }
        free
    }

    /// The next piece to show to `peer`, if it has room for one: of those that it lacks and was not shown, one with the
    /// fewest copies, and of these one that the fewest others were shown; ties at random. O(pieces).
    pub fn next(
        &mut self,
        now: Instant,
        peer: PeerKey,
        has: impl Fn(PieceIndex) -> bool,
        copies: impl Fn(PieceIndex) -> u32,
        rng: &mut impl Rng,
    ) -> Option<PieceIndex> {
        let shown = self.peers.get_mut(&peer).filter(|shown| shown.waiting.len() < SHOWN_MAX)?;
        let pieces = self.shown_to.len() as u32;
        let start = rng.random_range(0..pieces);
        let open = (start..pieces).chain(0..start).map(PieceIndex);
        let open = open.filter(|piece| !has(*piece) && !shown.all.contains(piece));
        // The first of equals: from a random place on.
        let piece = open.min_by_key(|piece| (copies(*piece), self.shown_to[piece.as_usize()]))?;
        shown.all.insert(piece);
        shown.waiting.push(Waiting { piece, since: now, sent: 0 });
        self.shown_to[piece.as_usize()] += 1;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus as TestRng;

    const NONE: fn(PieceIndex) -> bool = |_| false;

    fn next(seed: &mut SuperSeed, now: Instant, peer: u32, rng: &mut TestRng) -> Option<PieceIndex> {
        seed.next(now, PeerKey(peer), NONE, |_| 0, rng)
    }

    #[test]
    fn each_peer_gets_pieces_of_its_own_until_others_announce_them() {
        let (mut seed, mut rng, now) = (SuperSeed::new(10), TestRng::seed_from_u64(1), Instant::now());
        (0..3).for_each(|peer| assert!(seed.join(PeerKey(peer))));
        let mut first = Vec::new();
        for peer in 0..3 {
            first.extend([
                next(&mut seed, now, peer, &mut rng).unwrap(),
                next(&mut seed, now, peer, &mut rng).unwrap(),
            ]);
            assert_eq!(next(&mut seed, now, peer, &mut rng), None, "two at a time");
        }
        let distinct: BTreeSet<_> = first.iter().collect();
        assert_eq!(distinct.len(), 6, "nobody is shown what another one brings");
        assert!(seed.announced(PeerKey(0), first[0]).is_empty(), "it has it, and has passed nothing on");
        assert_eq!(next(&mut seed, now, 0, &mut rng), None);
        assert_eq!(seed.announced(PeerKey(1), first[0]), [PeerKey(0)]);
        let another = next(&mut seed, now, 0, &mut rng).unwrap();
        assert!(!first.contains(&another));
        assert!(seed.is_shown(PeerKey(0), another) && !seed.is_shown(PeerKey(1), another));
    }

    #[test]
    fn a_peer_alone_need_not_pass_anything_on() {
        let (mut seed, mut rng, now) = (SuperSeed::new(3), TestRng::seed_from_u64(1), Instant::now());
        seed.join(PeerKey(7));
        let pieces: Vec<_> = (0..2).map(|_| next(&mut seed, now, 7, &mut rng).unwrap()).collect();
        assert_eq!(seed.announced(PeerKey(7), pieces[1]), [PeerKey(7)]);
        let last = next(&mut seed, now, 7, &mut rng).unwrap();
        seed.announced(PeerKey(7), pieces[0]);
        seed.announced(PeerKey(7), last);
        assert_eq!(next(&mut seed, now, 7, &mut rng), None, "it was shown all there is");
    }

    #[test]
    fn patience_ends() {
        let (mut seed, mut rng, now) = (SuperSeed::new(9), TestRng::seed_from_u64(1), Instant::now());
        seed.join(PeerKey(0));
        seed.join(PeerKey(1));
        let got = next(&mut seed, now, 0, &mut rng).unwrap();
        let has = |peer: PeerKey, piece: PieceIndex| peer == PeerKey(0) && piece == got;
        let size = |_| 100;
        assert!(seed.tick(now + PATIENCE - Duration::from_secs(1), size, has).is_empty());
        assert!(seed.tick(now + PATIENCE, size, |_, _| false).is_empty(), "it is still fetching");
        assert_eq!(seed.tick(now + PATIENCE, size, has), [PeerKey(0)]);
        // One that says nothing of what it was sent.
        let got = next(&mut seed, now, 1, &mut rng).unwrap();
        assert!(!seed.sent(PeerKey(1), got, 99, 100));
        assert!(seed.tick(now + PATIENCE, size, |_, _| false).is_empty());
        assert!(!seed.sent(PeerKey(1), got, 1, 100), "there are others to pass it on to");
        assert_eq!(seed.tick(now + PATIENCE, size, |_, _| false), [PeerKey(1)]);
        seed.leave(PeerKey(0));
        let got = next(&mut seed, now, 1, &mut rng).unwrap();
        assert!(seed.sent(PeerKey(1), got, 100, 100), "now there are none");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Join(u32),
        Leave(u32),
        Show(u32),
        Announce(u32, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let peer = 0u32..5;
        prop_oneof![
            peer.clone().prop_map(Step::Join),
            peer.clone().prop_map(Step::Leave),
            peer.clone().prop_map(Step::Show),
            peer.clone().prop_map(Step::Show),
            (peer, 0u32..12).prop_map(|(peer, piece)| Step::Announce(peer, piece)),
        ]
    }

    proptest! {
        #[test]
        fn nothing_is_shown_twice_or_in_vain(steps in proptest::collection::vec(step(), 1..200), seed: u64) {
            let (mut state, mut rng, now) = (SuperSeed::new(12), TestRng::seed_from_u64(seed), Instant::now());
            let mut has: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
            let mut shown: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Join(peer) => {
                        state.join(PeerKey(peer));
                        has.entry(peer).or_default();
                        shown.entry(peer).or_default();
                    }
                    Step::Leave(peer) => {
                        state.leave(PeerKey(peer));
                        has.remove(&peer);
                        shown.remove(&peer);
                    }
                    Step::Announce(peer, piece) if has.contains_key(&peer) => {
                        has.get_mut(&peer).unwrap().insert(piece);
                        state.announced(PeerKey(peer), PieceIndex(piece));
                    }
                    Step::Announce(..) => {}
                    Step::Show(peer) => {
                        let holds = |piece: PieceIndex| has.get(&peer).is_some_and(|has| has.contains(&piece.0));
                        let copies =
                            |piece: PieceIndex| has.values().filter(|has| has.contains(&piece.0)).count() as u32;
                        let Some(piece) = state.next(now, PeerKey(peer), holds, copies, &mut rng) else { continue };
                        prop_assert!(!holds(piece));
                        prop_assert!(shown.get_mut(&peer).unwrap().insert(piece.0), "shown twice");
                        // No other piece that it may be shown is rarer.
                        let open = (0..12).map(PieceIndex).filter(|other| {
                            !holds(*other) && !shown[&peer].contains(&other.0)
                        });
                        prop_assert!(open.into_iter().all(|other| copies(other) >= copies(piece)));
                    }
                }
                for (peer, entry) in &state.peers {
                    prop_assert!(entry.waiting.len() <= SHOWN_MAX);
                    prop_assert_eq!(&entry.all.iter().map(|piece| piece.0).collect::<BTreeSet<_>>(), &shown[&peer.0]);
                }
                for piece in 0..12 {
                    let count = shown.values().filter(|shown| shown.contains(&piece)).count();
                    prop_assert_eq!(state.shown_to[piece as usize] as usize, count);
                }
            }
        }
    }
}

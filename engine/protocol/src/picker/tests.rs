//! Rules of the choice, one by one. Random sequences are in `model_tests.rs`.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::reserved::PATIENCE;
use super::*;
use crate::geometry::BLOCK_LEN;
use crate::padding::Padding;

struct Memory(usize);

impl Slots for Memory {
    fn acquire(&mut self, _piece: PieceIndex, _len: u32) -> bool {
        let some = self.0 > 0;
        self.0 -= usize::from(some);
        some
    }
}

/// A picker, memory and dice.
struct Setup {
    picker: Picker,
    memory: Memory,
    rng: SmallRng,
    blocks: u32,
}

fn no_random(strategy: Strategy) -> PickerConfig {
    PickerConfig { strategy, random_first: 0, ..PickerConfig::default() }
}

impl Setup {
    fn new(pieces: u32, blocks: u32, config: PickerConfig) -> Self {
        let piece_len = u64::from(blocks * BLOCK_LEN);
        let geometry = Geometry::new(u64::from(pieces) * piece_len, piece_len).unwrap();
        let picker = Picker::new(geometry, config, Bitfield::empty(pieces));
        Self { picker, memory: Memory(usize::MAX), rng: SmallRng::seed_from_u64(1), blocks }
    }

    fn pick_view(&mut self, view: &PeerView<'_>, max: usize) -> Vec<Block> {
        let mut out = Vec::new();
        self.picker.pick(view, max, &mut self.memory, &mut self.rng, &mut out);
        self.picker.check_invariants();
        out
    }

    /// Of a seed.
    fn pick(&mut self, key: u32, max: usize) -> Vec<Block> {
        self.pick_view(&seed(key), max)
    }

    fn pick_of(&mut self, key: u32, field: &Bitfield, max: usize) -> Vec<Block> {
        self.pick_view(&PeerView { has: PeerHas::Some(field), ..seed(key) }, max)
    }

    /// Pieces in the order in which a seed is asked for them, begun whole.
    fn order(&mut self, key: u32, pieces: usize) -> Vec<u32> {
        let blocks = self.pick(key, pieces * self.blocks as usize);
        pieces_of(&blocks)
    }

    fn receive(&mut self, key: u32, block: Block) -> (Received, Vec<PeerKey>) {
        let mut cancels = Vec::new();
        let received = self.picker.block_received(PeerKey(key), block, &mut cancels);
        self.picker.check_invariants();
        (received, cancels.into_iter().map(|(peer, _)| peer).collect())
    }

    /// `key` delivers all of `blocks`, which are whole pieces, and they are wrong.
    fn fail_hash(&mut self, key: u32, blocks: &[Block], only_from: Option<u32>) {
        for block in blocks {
            if self.receive(key, *block).0 == Received::PieceComplete {
                self.picker.piece_failed(block.piece, only_from.map(PeerKey));
            }
        }
        self.picker.check_invariants();
    }
}

fn seed(key: u32) -> PeerView<'static> {
    PeerView { key: PeerKey(key), has: PeerHas::All, only: None, suggested: &[], slow: false }
}

fn pieces_of(blocks: &[Block]) -> Vec<u32> {
    let mut pieces: Vec<u32> = blocks.iter().map(|block| block.piece.0).collect();
    pieces.dedup();
    pieces
}

fn field(pieces: u32, members: impl IntoIterator<Item = u32>) -> Bitfield {
    let mut field = Bitfield::empty(pieces);
    members.into_iter().for_each(|piece| _ = field.insert(PieceIndex(piece)));
    field
}

#[test]
fn rarest_first_in_order_of_copies() {
    let mut s = Setup::new(6, 2, no_random(Strategy::RarestFirst));
    s.picker.seed_added();
    // Copies besides the seed: 3, 1, 4, 0, 5, 2.
    for (piece, copies) in [3, 1, 4, 0, 5, 2].into_iter().enumerate() {
        (0..copies).for_each(|_| s.picker.peer_have(PieceIndex(piece as u32)));
    }
    assert_eq!(s.order(0, 6), [3, 1, 5, 0, 2, 4]);
}

#[test]
fn rarest_of_what_the_peer_has() {
    let mut s = Setup::new(4, 1, no_random(Strategy::RarestFirst));
    let theirs = field(4, [1, 2, 3]);
    s.picker.peer_bitfield_added(&theirs);
    s.picker.peer_bitfield_added(&field(4, [2, 3]));
    s.picker.peer_bitfield_added(&field(4, [0, 3]));
    assert_eq!(pieces_of(&s.pick_of(0, &theirs, 9)), [1, 2, 3]);
    assert_eq!(s.picker.copies(PieceIndex(3)), 3);
    s.picker.peer_bitfield_removed(&theirs);
    assert_eq!(s.picker.copies(PieceIndex(3)), 2);
}

#[test]
fn rarest_behind_many_that_the_peer_lacks() {
    // More rarer pieces than the ordered search looks at: the sampled search still finds the rarest of a few.
    let pieces = 5000;
    let mut s = Setup::new(pieces, 1, no_random(Strategy::RarestFirst));
    s.picker.peer_bitfield_added(&Bitfield::full(pieces));
    let theirs = field(pieces, [10, 2500, 4900]);
    (0..3).for_each(|_| s.picker.peer_bitfield_added(&theirs));
    s.picker.peer_have(PieceIndex(10));
    s.picker.peer_have(PieceIndex(4900));
    assert_eq!(pieces_of(&s.pick_of(0, &theirs, 1)), [2500]);
    assert_eq!(pieces_of(&s.pick_of(0, &field(pieces, []), 1)), [0; 0]);
}

#[test]
fn ties_are_broken_at_random() {
    let firsts: BTreeSet<u32> = (0..200)
        .map(|dice| {
            let mut s = Setup::new(8, 1, no_random(Strategy::RarestFirst));
            s.rng = SmallRng::seed_from_u64(dice);
            s.picker.peer_have(PieceIndex(7));
            s.pick(0, 1)[0].piece.0
        })
        .collect();
    assert_eq!(firsts, (0..7).collect());
}

#[test]
fn first_pieces_are_random_then_rarest() {
    let mut common = 0;
    for dice in 0..100 {
        let config = PickerConfig { random_first: 2, ..PickerConfig::default() };
        let mut s = Setup::new(20, 1, config);
        s.rng = SmallRng::seed_from_u64(dice);
        s.picker.seed_added();
        (10..20).for_each(|piece| s.picker.peer_have(PieceIndex(piece)));
        let order = s.order(0, 12);
        common += order[..2].iter().filter(|piece| **piece >= 10).count();
        assert!(order[2..10].iter().all(|piece| *piece < 10), "{order:?}");
    }
    assert!((50..150).contains(&common), "{common} of 200 are common");
}

#[test]
fn sequential_and_round_robin() {
    let mut s = Setup::new(5, 2, no_random(Strategy::Sequential));
    assert_eq!(pieces_of(&s.pick_of(0, &field(5, [3]), 2)), [3]);
    assert_eq!(s.order(1, 5), [0, 1, 2, 4, 3], "3 is a duplicate");
    let mut s = Setup::new(5, 2, no_random(Strategy::RoundRobin));
    assert_eq!(pieces_of(&s.pick_of(0, &field(5, [3]), 2)), [3]);
    assert_eq!(s.order(1, 4), [4, 0, 1, 2]);
}

#[test]
fn higher_priority_first_and_skip_never() {
    for strategy in [Strategy::RarestFirst, Strategy::Sequential, Strategy::RoundRobin] {
        let mut s = Setup::new(4, 1, no_random(strategy));
        s.picker.set_priority(PieceIndex(0), Priority::Skip);
        s.picker.set_priority(PieceIndex(1), Priority::Low);
        s.picker.set_priority(PieceIndex(3), Priority::High);
        s.picker.seed_added();
        (0..9).for_each(|_| s.picker.peer_have(PieceIndex(3)));
        assert_eq!(s.order(0, 4), [3, 2, 1]);
        assert!(!s.picker.is_finished());
    }
}

#[test]
fn suggested_pieces_come_first_within_their_priority() {
    let mut s = Setup::new(5, 1, no_random(Strategy::Sequential));
    s.picker.set_priority(PieceIndex(2), Priority::High);
    s.picker.set_priority(PieceIndex(4), Priority::Skip);
    let suggested = [PieceIndex(4), PieceIndex(3)];
    let view = PeerView { suggested: &suggested, ..seed(0) };
    assert_eq!(pieces_of(&s.pick_view(&view, 9)), [2, 3, 0, 1]);
}

#[test]
fn choked_peers_are_asked_for_allowed_pieces_only() {
    let mut s = Setup::new(5, 2, no_random(Strategy::Sequential));
    let theirs = field(5, [0, 3]);
    s.picker.peer_bitfield_added(&theirs);
    s.picker.peer_bitfield_added(&field(5, 0..5));
    s.pick(7, 1);
    let allowed = [PieceIndex(3), PieceIndex(4)];
    let view = PeerView { has: PeerHas::Some(&theirs), only: Some(&allowed), ..seed(0) };
    assert_eq!(pieces_of(&s.pick_view(&view, 9)), [3], "neither what it lacks nor the begun piece 0");
    let none = PeerView { only: Some(&[]), ..seed(1) };
    assert_eq!(s.pick_view(&none, 9), []);
}

#[test]
fn a_fast_peer_gets_whole_pieces_in_order_and_a_slow_one_helps() {
    let mut s = Setup::new(10, 4, no_random(Strategy::Sequential));
    let blocks = s.pick(0, 6);
    assert_eq!(blocks, (0..6).map(|n| s.picker.geometry.block(PieceIndex(n / 4), n % 4)).collect::<Vec<_>>());
    assert_eq!(pieces_of(&s.pick(1, 4)), [2], "keeps four requests: a piece of its own");
    assert_eq!(pieces_of(&s.pick(2, 1)), [1], "keeps one request: helps");
    assert_eq!(pieces_of(&s.pick(0, 3)), [1, 3], "continues, then a new one");
    assert_eq!(pieces_of(&s.pick(0, 1)), [3], "goes on with its own although another is open");
}

#[test]
fn given_back_blocks_come_before_everything_else() {
    let mut s = Setup::new(10, 4, no_random(Strategy::Sequential));
    let first = s.pick(0, 4);
    s.pick(1, 4);
    s.picker.request_failed(PeerKey(0), first[2]);
    s.picker.request_failed(PeerKey(0), first[1]);
    let next = s.pick(1, 5);
    assert_eq!(next[..2], [first[1], first[2]]);
    assert_eq!(pieces_of(&next[2..]), [2]);
}

#[test]
fn without_memory_what_is_begun_is_finished_oldest_first() {
    let mut s = Setup::new(10, 4, no_random(Strategy::Sequential));
    s.memory.0 = 2;
    s.picker.seed_added();
    let theirs = [field(10, [0]), field(10, [1])];
    theirs.iter().for_each(|field| s.picker.peer_bitfield_added(field));
    assert_eq!(s.pick_of(0, &theirs[0], 1).len(), 1);
    assert_eq!(s.pick_of(1, &theirs[1], 1).len(), 1);
    let all = s.pick(2, 100);
    assert_eq!(pieces_of(&all), [0, 1]);
    assert_eq!(all.len(), 6, "no duplicates: lack of memory is no endgame");
    assert_eq!(s.pick(3, 100), []);
    s.memory.0 = 1;
    assert_eq!(pieces_of(&s.pick(3, 100)), [2]);
}

#[test]
fn a_failed_piece_is_fetched_from_one_peer() {
    let mut s = Setup::new(3, 2, no_random(Strategy::Sequential));
    let blocks = s.pick(0, 2);
    s.fail_hash(0, &blocks, Some(1));
    assert_eq!(pieces_of(&s.pick(0, 2)), [1], "reserved for another");
    assert_eq!(s.pick(1, 1), blocks[..1], "before any other piece");
    assert_eq!(pieces_of(&s.pick(2, 9)), [2, 1], "no help, and in endgame no duplicates of it");
    assert_eq!(s.receive(2, blocks[1]).0, Received::Unwanted, "not from anybody else");
    assert_eq!(s.pick(1, 1), blocks[1..]);
    s.receive(1, blocks[0]);
    // A reject: anybody may help.
    s.picker.request_failed(PeerKey(1), blocks[1]);
    assert_eq!(s.pick(2, 1), blocks[1..]);
}

#[test]
fn a_reservation_ends_with_its_peer() {
    for begun in [false, true] {
        let mut s = Setup::new(3, 2, no_random(Strategy::Sequential));
        let blocks = s.pick(0, 2);
        s.fail_hash(0, &blocks, Some(1));
        if begun {
            s.pick(1, 1);
        }
        s.picker.peer_gone(PeerKey(1));
        s.picker.check_invariants();
        assert_eq!(s.pick(2, 2), blocks, "soon: before pieces 1 and 2");
    }
}

#[test]
fn a_reservation_ends_when_its_peer_does_nothing() {
    let mut s = Setup::new(1, 2, no_random(Strategy::Sequential));
    let blocks = s.pick(0, 2);
    s.fail_hash(0, &blocks, Some(1));
    for _ in 0..PATIENCE {
        assert_eq!(s.pick(2, 2), []);
    }
    assert_eq!(s.pick(2, 2), blocks);
}

#[test]
fn a_failed_piece_without_a_suspect_is_begun_again_first() {
    let mut s = Setup::new(4, 1, no_random(Strategy::Sequential));
    let blocks = s.pick(0, 3);
    s.fail_hash(0, &blocks[2..], None);
    s.picker.request_failed(PeerKey(0), blocks[0]);
    assert_eq!(pieces_of(&s.pick(1, 3)), [0, 2, 3]);
}

#[test]
fn endgame_asks_others_for_different_blocks_and_cancels_them() {
    let config = PickerConfig { endgame_duplicates: 3, ..no_random(Strategy::Sequential) };
    let mut s = Setup::new(2, 8, config);
    let all = s.pick(0, 16);
    assert_eq!(all.len(), 16);
    assert_eq!(s.pick(0, 16), [], "never twice of one peer");
    let helped: Vec<_> = (1..30).map(|key| s.pick(key, 1)[0]).collect();
    let mut counts: BTreeMap<Block, usize> = BTreeMap::new();
    helped.iter().for_each(|block| *counts.entry(*block).or_default() += 1);
    assert!(counts.values().all(|count| *count <= 2), "{counts:?}");
    assert!(counts.len() > 12, "spread over the blocks: {counts:?}");
    assert!(all.iter().all(|b| s.picker.requesters(*b) == 1 + counts.get(b).copied().unwrap_or(0)));
    let (block, others) = counts.iter().find(|(_, count)| **count == 2).unwrap();
    let key = 1 + helped.iter().position(|helped| helped == block).unwrap() as u32;
    let (received, cancels) = s.receive(key, *block);
    assert_eq!((received, cancels.len()), (Received::Accepted, *others));
    assert!(cancels.contains(&PeerKey(0)) && !cancels.contains(&PeerKey(key)));
    assert_eq!(s.picker.requesters(*block), 0);
    assert_eq!(s.receive(0, *block), (Received::Duplicate, vec![]));
    s.picker.request_failed(PeerKey(0), *block);
    assert_eq!(s.picker.requesters(*block), 0, "a late failure changes nothing");
}

#[test]
fn endgame_is_off_with_one_and_ignores_what_nobody_has() {
    let config = PickerConfig { endgame_duplicates: 1, ..no_random(Strategy::Sequential) };
    let mut s = Setup::new(1, 4, config);
    s.pick(0, 4);
    assert_eq!(s.pick(1, 4), []);
    let mut s = Setup::new(2, 4, no_random(Strategy::Sequential));
    let theirs = field(2, [0]);
    s.picker.peer_bitfield_added(&theirs);
    s.picker.peer_bitfield_added(&theirs);
    assert_eq!(s.pick_of(0, &theirs, 9).len(), 4);
    assert_eq!(s.pick_of(1, &theirs, 9).len(), 4, "piece 1 is not to be had");
    s.picker.peer_have(PieceIndex(1));
    assert_eq!(s.pick_of(2, &theirs, 9).len(), 0, "now it is");
}

#[test]
fn one_peer_fails_in_endgame_and_the_other_stays() {
    let mut s = Setup::new(1, 1, no_random(Strategy::Sequential));
    let block = s.pick(0, 1)[0];
    assert_eq!(s.pick(1, 1), [block]);
    s.picker.request_failed(PeerKey(0), block);
    s.picker.check_invariants();
    assert_eq!(s.picker.requesters(block), 1);
    assert_eq!(s.pick(0, 1), [block], "again, as the second");
    assert_eq!(s.receive(1, block), (Received::PieceComplete, vec![PeerKey(0)]));
    assert_eq!(s.picker.senders(PieceIndex(0)).collect::<Vec<_>>(), [(0, PeerKey(1))]);
}

#[test]
fn a_gone_peer_is_not_cancelled() {
    let mut s = Setup::new(1, 2, no_random(Strategy::Sequential));
    let blocks = s.pick(0, 2);
    assert_eq!(s.pick(1, 2).len(), 2);
    // Its requests were given up but not released when it left.
    s.picker.peer_gone(PeerKey(0));
    s.picker.check_invariants();
    assert_eq!(s.receive(1, blocks[0]), (Received::Accepted, vec![]));
    s.picker.request_failed(PeerKey(0), blocks[1]);
    assert_eq!(s.picker.requesters(blocks[1]), 1);
}

#[test]
fn a_skipped_piece_rests_and_helps_out_of_memory_shortage() {
    let mut s = Setup::new(2, 4, no_random(Strategy::Sequential));
    s.memory.0 = 1;
    let asked = s.pick(0, 1);
    s.picker.set_priority(PieceIndex(0), Priority::Skip);
    assert_eq!(pieces_of(&s.pick_of(1, &field(2, [0]), 4)), [0; 0], "not wanted");
    let rest = s.pick(0, 9);
    assert_eq!((pieces_of(&rest), rest.len()), (vec![0], 3), "the only way to memory for piece 1");
    for block in asked.iter().chain(&rest) {
        s.receive(0, *block);
    }
    s.picker.piece_verified(PieceIndex(0));
    s.picker.piece_written(PieceIndex(0));
    s.picker.check_invariants();
    assert!(s.picker.have().has(PieceIndex(0)) && !s.picker.is_finished());
    s.picker.set_priority(PieceIndex(1), Priority::Skip);
    assert!(s.picker.is_finished() && !s.picker.is_interesting(&PeerHas::All));
}

#[test]
fn only_idle_pieces_are_abandoned_the_useless_first() {
    let mut s = Setup::new(4, 2, no_random(Strategy::Sequential));
    let blocks = s.pick(0, 7);
    for key in [0, 2, 4, 6] {
        s.receive(0, blocks[key]);
        s.picker.request_failed(PeerKey(0), blocks[(key + 1).min(6)]);
    }
    let again = s.pick(1, 1);
    assert_eq!(again, [blocks[1]]);
    assert!(!s.picker.abandon(PieceIndex(0)), "asked for");
    s.picker.set_priority(PieceIndex(3), Priority::Skip);
    s.picker.seed_added();
    assert_eq!(s.picker.idle_active().map(|piece| piece.0).collect::<Vec<_>>(), [3, 1, 2]);
    assert!(s.picker.abandon(PieceIndex(3)) && s.picker.abandon(PieceIndex(1)));
    s.picker.check_invariants();
    assert_eq!(s.picker.state(PieceIndex(3)), PieceState::Skipped);
    assert_eq!(s.picker.state(PieceIndex(1)), PieceState::Missing);
    assert_eq!(s.receive(0, blocks[3]).0, Received::Unwanted);
}

#[test]
fn interest_lasts_until_the_piece_is_ours() {
    let mut s = Setup::new(70, 1, no_random(Strategy::Sequential));
    let theirs = field(70, [69]);
    let block = s.pick_of(0, &theirs, 1)[0];
    s.receive(0, block);
    s.picker.piece_verified(block.piece);
    assert!(s.picker.is_interesting(&PeerHas::Some(&theirs)));
    s.picker.piece_written(block.piece);
    assert!(!s.picker.is_interesting(&PeerHas::Some(&theirs)));
    assert!(s.picker.is_interesting(&PeerHas::All));
    s.picker.invalidate(block.piece);
    s.picker.invalidate(block.piece);
    s.picker.check_invariants();
    assert!(s.picker.is_interesting(&PeerHas::Some(&theirs)));
}

#[test]
#[should_panic(expected = "a verdict on piece 0")]
fn a_verdict_on_a_piece_that_is_not_hashed_is_our_bug() {
    Setup::new(1, 1, PickerConfig::default()).picker.piece_verified(PieceIndex(0));
}

/// Steps for each block while `peers` peers, one in ten a seed, fetch a torrent from its start.
fn steps_per_block(pieces: u32, peers: u32) -> u64 {
    let mut s = Setup::new(pieces, 16, no_random(Strategy::RarestFirst));
    let mut dice = SmallRng::seed_from_u64(3);
    let fields: Vec<Option<Bitfield>> = (0..peers)
        .map(|nth| (nth % 10 != 0).then(|| field(pieces, (0..pieces).filter(|_| dice.random_bool(0.1)))))
        .collect();
    for field in &fields {
        match field {
            None => s.picker.seed_added(),
            Some(field) => s.picker.peer_bitfield_added(field),
        }
    }
    s.memory.0 = 300;
    let before = s.picker.steps.count.get();
    let (mut blocks, mut out, mut cancels) = (0, Vec::new(), Vec::new());
    for turn in 0..6000 {
        let key = turn % peers;
        let has = fields[key as usize].as_ref().map_or(PeerHas::All, PeerHas::Some);
        out.clear();
        s.picker.pick(&PeerView { has, ..seed(key) }, 8, &mut s.memory, &mut s.rng, &mut out);
        blocks += out.len() as u64;
        for block in &out {
            if s.picker.block_received(PeerKey(key), *block, &mut cancels) == Received::PieceComplete {
                s.picker.piece_verified(block.piece);
                s.picker.piece_written(block.piece);
                s.memory.0 += 1;
            }
        }
    }
    s.picker.check_invariants();
    assert!(blocks > 10_000, "{blocks} blocks");
    (s.picker.steps.count.get() - before) / blocks
}

#[test]
fn work_for_a_block_grows_neither_with_the_torrent_nor_with_the_swarm() {
    let small = steps_per_block(2_000, 20);
    let large = steps_per_block(100_000, 100);
    assert!(small <= 12 && large <= 12, "{small} and {large} steps for a block");
}

#[test]
fn a_search_in_vain_is_bounded() {
    let pieces = 100_000;
    let mut s = Setup::new(pieces, 16, no_random(Strategy::RarestFirst));
    // Everything rarer than the one piece that this peer has.
    let theirs = field(pieces, [pieces - 1]);
    s.picker.peer_bitfield_added(&Bitfield::full(pieces));
    s.picker.peer_bitfield_added(&theirs);
    let before = s.picker.steps.count.get();
    assert_eq!(s.pick_of(0, &theirs, 1).len(), 1);
    let steps = s.picker.steps.count.get() - before;
    assert!(steps < 4 * u64::from(pieces / 64), "{steps} steps");
}

#[test]
fn what_is_urgent_is_picked_in_its_order_and_before_a_peers_own_piece() {
    let mut s = Setup::new(8, 2, no_random(Strategy::Sequential));
    s.picker.seed_added();
    assert_eq!(pieces_of(&s.pick(0, 1)), [0]);
    s.picker.set_urgent([6, 3, 7].map(PieceIndex).to_vec());
    assert_eq!(pieces_of(&s.pick(0, 6)), [6, 3, 7]);
    assert_eq!(
        pieces_of(&s.pick(0, 9)),
        [1, 2, 4, 5, 0],
        "then as ever: what it began itself is not its own piece now"
    );
    s.picker.check_invariants();
}

#[test]
fn a_slow_peer_is_kept_from_what_is_pressing_and_helps_with_nothing_late() {
    let mut s = Setup::new(4, 2, no_random(Strategy::Sequential));
    s.picker.seed_added();
    s.picker.set_urgent([2, 3].map(PieceIndex).to_vec());
    s.picker.set_pressing(vec![PieceIndex(2)], Vec::new());
    let slow = PeerView { slow: true, ..seed(0) };
    assert_eq!(pieces_of(&s.pick_view(&slow, 4)), [3, 0], "what is not pressing is open to it");
    let blocks = s.pick(1, 2);
    assert_eq!(pieces_of(&blocks), [2]);
    s.picker.set_pressing(vec![PieceIndex(2)], blocks.clone());
    assert_eq!(pieces_of(&s.pick_view(&slow, 2)), [1]);
    assert_eq!(s.pick(2, 2), blocks, "another fast one is asked for the same");
    assert_eq!(s.picker.requesters(blocks[0]), 2);
    let (received, cancelled) = s.receive(2, blocks[0]);
    assert_eq!((received, cancelled), (Received::Accepted, vec![PeerKey(1)]));
}

#[test]
fn skipped_pieces_stay_skipped_however_urgent() {
    let mut s = Setup::new(3, 1, no_random(Strategy::Sequential));
    s.picker.seed_added();
    s.picker.set_priority(PieceIndex(2), Priority::Skip);
    s.picker.set_urgent([2, 1].map(PieceIndex).to_vec());
    assert_eq!(pieces_of(&s.pick(0, 9)), [1, 0]);
}

#[test]
fn padding_is_there_from_the_start() {
    // Of piece 0 the blocks 5 to 7, of piece 1 all, of piece 2 the middle of one block only.
    let piece = u64::from(8 * BLOCK_LEN);
    let padding = Padding::new([5 * u64::from(BLOCK_LEN)..2 * piece, 2 * piece + 10..2 * piece + 20]);
    let config = PickerConfig { padding, ..no_random(Strategy::Sequential) };
    let mut setup = Setup::new(3, 8, config);
    let asked = setup.pick(1, 100);
    let of = |piece| asked.iter().filter(|block| block.piece == PieceIndex(piece)).count();
    assert_eq!((of(0), of(1), of(2)), (5, 1, 8));
    let mut done = 0;
    for block in asked {
        let received = setup.picker.block_received(PeerKey(1), block, &mut Vec::new());
        done += u32::from(received == Received::PieceComplete);
    }
    assert_eq!(done, 3);
    let padded = setup.picker.senders(PieceIndex(0)).filter(|(_, sender)| *sender == FROM_PADDING).count();
    assert_eq!(padded, 3);
    setup.picker.check_invariants();
}

#[test]
fn a_piece_goes_on_with_blocks_of_an_earlier_run() {
    let mut setup = Setup::new(4, 8, no_random(Strategy::Sequential));
    let mut blocks = Bitfield::empty(8);
    for nth in [0, 2, 3, 7] {
        blocks.insert(PieceIndex(nth));
    }
    let partial = PartialPiece { piece: PieceIndex(2), blocks };
    assert!(setup.picker.take_back(&partial));
    setup.picker.check_invariants();
    assert!(!setup.picker.take_back(&partial), "it is begun");
    assert_eq!(setup.picker.partial(PieceIndex(2)), Some(partial.clone()));
    // First of all, and only what is missing.
    let asked: Vec<_> =
        setup.pick(1, 5).iter().map(|block| (block.piece.0, block.begin / BLOCK_LEN)).collect();
    assert_eq!(asked, [(2, 1), (2, 4), (2, 5), (2, 6), (0, 0)]);
    let geometry = setup.picker.geometry;
    for nth in [1, 4, 5] {
        let block = geometry.block(PieceIndex(2), nth);
        let received = setup.picker.block_received(PeerKey(1), block, &mut Vec::new());
        assert_eq!(received, Received::Accepted);
    }
    let last = geometry.block(PieceIndex(2), 6);
    assert_eq!(setup.picker.block_received(PeerKey(1), last, &mut Vec::new()), Received::PieceComplete);
    let own = setup.picker.senders(PieceIndex(2)).filter(|(_, sender)| *sender == FROM_DISK).count();
    assert_eq!(own, 4);
    // Neither what is all there nor what is not wanted, and not what is of another torrent.
    let whole = PartialPiece { piece: PieceIndex(1), blocks: Bitfield::full(8) };
    let other = PartialPiece { piece: PieceIndex(1), blocks: partial.blocks.clone() };
    let longer = PartialPiece { piece: PieceIndex(1), blocks: field(9, [0]) };
    setup.picker.set_priority(PieceIndex(3), Priority::Skip);
    let skipped = PartialPiece { piece: PieceIndex(3), ..other.clone() };
    for bad in [whole, longer, skipped] {
        assert!(!setup.picker.take_back(&bad), "{bad:?}");
    }
    assert!(setup.picker.take_back(&other));
    assert!(setup.picker.abandon(PieceIndex(1)) && setup.picker.partial(PieceIndex(1)).is_none());
    setup.picker.check_invariants();
}

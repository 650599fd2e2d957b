//! Random operations against a plain model, then an honest swarm that has to complete.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::Strategy;
use super::reserved::PATIENCE;
use super::*;
use crate::geometry::BLOCK_LEN;

struct Memory {
    free: usize,
    taken: Vec<PieceIndex>,
}

impl Slots for Memory {
    fn acquire(&mut self, piece: PieceIndex, _len: u32) -> bool {
        let some = self.free > 0;
        if some {
            self.free -= 1;
            self.taken.push(piece);
        }
        some
    }
}

#[derive(Default)]
struct ModelPeer {
    /// `None`: a seed.
    field: Option<Bitfield>,
    asked: Vec<Block>,
    unreliable: bool,
}

impl ModelPeer {
    fn has(&self) -> PeerHas<'_> {
        self.field.as_ref().map_or(PeerHas::All, PeerHas::Some)
    }
}

/// What should be so, told in the simplest way.
struct Model {
    picker: Picker,
    geometry: Geometry,
    limit: usize,
    memory: Memory,
    peers: BTreeMap<PeerKey, ModelPeer>,
    next_key: u32,
    states: Vec<PieceState>,
    /// Who delivered what of pieces that are active or being hashed.
    here: BTreeMap<PieceIndex, BTreeMap<u32, PeerKey>>,
    /// Peer and picks since that found nothing.
    reserved: BTreeMap<PieceIndex, (PeerKey, u32)>,
    rng: SmallRng,
}

impl Model {
    fn new(pieces: u32, blocks: u32, memory: usize, config: PickerConfig, seed: u64) -> Self {
        // The last piece is shorter, and so is its last block.
        let len = u64::from(pieces * blocks * BLOCK_LEN - BLOCK_LEN / 2 - (blocks - 1) / 2 * BLOCK_LEN);
        let geometry = Geometry::new(len, u64::from(blocks * BLOCK_LEN)).unwrap();
        assert_eq!(geometry.piece_count(), pieces);
        let limit = config.endgame_duplicates.max(1);
        Self {
            picker: Picker::new(geometry, config, Bitfield::empty(pieces)),
            geometry,
            limit,
            memory: Memory { free: memory, taken: Vec::new() },
            peers: BTreeMap::new(),
            next_key: 0,
            states: vec![PieceState::Missing; pieces as usize],
            here: BTreeMap::new(),
            reserved: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    fn any_peer(&self, nth: u32) -> Option<PeerKey> {
        let count = self.peers.len().max(1);
        self.peers.keys().nth(nth as usize % count).copied()
    }

    fn piece(&self, nth: u32) -> PieceIndex {
        PieceIndex(nth % self.geometry.piece_count())
    }

    fn any_in(&self, state: PieceState, nth: u32) -> Option<PieceIndex> {
        let all: Vec<_> = self.geometry.pieces().filter(|piece| self.state(*piece) == state).collect();
        all.get(nth as usize % all.len().max(1)).copied()
    }

    fn state(&self, piece: PieceIndex) -> PieceState {
        self.states[piece.as_usize()]
    }

    fn set(&mut self, piece: PieceIndex, state: PieceState) {
        self.states[piece.as_usize()] = state;
    }

    fn requesters(&self, block: Block) -> usize {
        self.peers.values().filter(|peer| peer.asked.contains(&block)).count()
    }

    /// Of those that are asked for `block`, those that may be relied on.
    fn reliable(&self, block: Block) -> usize {
        self.peers.values().filter(|peer| !peer.unreliable && peer.asked.contains(&block)).count()
    }

    fn judge(&mut self, key: PeerKey, unreliable: bool) {
        self.picker.set_unreliable(key, unreliable);
        self.peers.get_mut(&key).unwrap().unreliable = unreliable;
    }

    fn lacks(&self, piece: PieceIndex) -> impl Iterator<Item = Block> + '_ {
        let here = self.here.get(&piece);
        self.geometry.blocks(piece).enumerate().filter_map(move |(nth, block)| {
            let here = here.is_some_and(|here| here.contains_key(&(nth as u32)));
            (!here && self.requesters(block) == 0).then_some(block)
        })
    }

    /// Whether a block that may be asked for is left, as far as others than holders of reservations are
    /// concerned.
    fn something_left(&self) -> bool {
        self.geometry.pieces().any(|piece| {
            let open = self.picker.priority(piece) != Priority::Skip && !self.reserved.contains_key(&piece);
            open && match self.state(piece) {
                PieceState::Missing => self.peers.values().any(|peer| peer.has().has(piece)),
                PieceState::Active => self.lacks(piece).next().is_some(),
                _ => false,
            }
        })
    }

    fn connect(&mut self, seed: bool, bits: u32) {
        let key = PeerKey(self.next_key);
        self.next_key += 1;
        let mut peer = ModelPeer::default();
        if seed {
            self.picker.seed_added();
        } else {
            let mut field = Bitfield::empty(self.geometry.piece_count());
            let members = self.geometry.pieces().filter(|piece| bits >> (piece.0 % 32) & 1 == 1);
            members.for_each(|piece| _ = field.insert(piece));
            self.picker.peer_bitfield_added(&field);
            peer.field = Some(field);
        }
        self.peers.insert(key, peer);
    }

    fn disconnect(&mut self, key: PeerKey, forget_requests: bool) {
        let peer = self.peers.remove(&key).unwrap();
        if !forget_requests {
            peer.asked.iter().for_each(|block| self.picker.request_failed(key, *block));
        }
        match &peer.field {
            None => self.picker.seed_removed(),
            Some(field) => self.picker.peer_bitfield_removed(field),
        }
        self.picker.peer_gone(key);
        self.reserved.retain(|_, (holder, _)| *holder != key);
    }

    fn have(&mut self, key: PeerKey, piece: PieceIndex) {
        if let Some(field) = &mut self.peers.get_mut(&key).unwrap().field
            && field.insert(piece)
        {
            self.picker.peer_have(piece);
        }
    }

    fn pick(&mut self, key: PeerKey, max: usize, only: Option<&[PieceIndex]>, suggested: &[PieceIndex]) {
        let free_before = self.memory.free;
        // Whatever is urgent, the rules are the same.
        if self.rng.random_bool(0.25) {
            let count = self.geometry.piece_count();
            let urgent =
                (0..self.rng.random_range(0..4)).map(|_| PieceIndex(self.rng.random_range(0..count)));
            let urgent = urgent.collect::<Vec<_>>();
            self.picker.set_urgent(urgent);
        }
        let peer = &self.peers[&key];
        let view = PeerView { key, has: peer.has(), only, suggested, slow: self.rng.random_bool(0.5) };
        let mut out = Vec::new();
        self.picker.pick(&view, max, &mut self.memory, &mut self.rng, &mut out);
        assert!(out.len() <= max);
        for piece in std::mem::take(&mut self.memory.taken) {
            assert_eq!(self.state(piece), PieceState::Missing);
            self.set(piece, PieceState::Active);
            self.here.insert(piece, BTreeMap::new());
        }
        // Duplicates come last, so each block is judged by what was known when it was picked.
        for block in &out {
            self.check_picked(key, *block, only);
            self.peers.get_mut(&key).unwrap().asked.push(*block);
        }
        if out.is_empty() && max > 0 {
            assert!(only.is_some() || !self.something_for(key, free_before), "a peer goes idle for nothing");
            self.reserved.values_mut().for_each(|(_, waited)| *waited += 1);
        }
    }

    /// Whether the peer could have been asked for something that nobody is asked for.
    fn something_for(&self, key: PeerKey, memory: usize) -> bool {
        self.geometry.pieces().filter(|piece| self.peers[&key].has().has(*piece)).any(|piece| {
            let mine = self.reserved.get(&piece).is_none_or(|(holder, _)| *holder == key);
            let wanted = self.picker.priority(piece) != Priority::Skip;
            mine && wanted
                && match self.state(piece) {
                    PieceState::Missing => memory > 0,
                    PieceState::Active => self.lacks(piece).next().is_some(),
                    _ => false,
                }
        })
    }

    fn check_picked(&mut self, key: PeerKey, block: Block, only: Option<&[PieceIndex]>) {
        let piece = block.piece;
        assert!(self.peers[&key].has().has(piece), "asked for what the peer lacks");
        assert!(only.is_none_or(|only| only.contains(&piece)), "asked for what it does not allow");
        assert_eq!(self.state(piece), PieceState::Active);
        let nth = self.geometry.block_number(block).unwrap();
        assert!(!self.here[&piece].contains_key(&nth), "asked for what is here");
        assert!(!self.peers[&key].asked.contains(&block), "asked for twice");
        if self.picker.priority(piece) == Priority::Skip {
            assert_eq!(self.memory.free, 0, "a skipped piece is fetched though there is memory");
        }
        if let Some((holder, waited)) = self.reserved.get(&piece).copied()
            && holder != key
        {
            assert!(waited >= PATIENCE, "asked for what is reserved for another");
            self.reserved.remove(&piece);
        }
        let (others, reliable) = (self.requesters(block), self.reliable(block));
        if self.peers[&key].unreliable {
            assert!(reliable == 0, "an unreliable peer takes the place of another");
            assert!(others < self.limit, "too many are asked for one block");
        } else {
            assert!(reliable < self.limit && others < 2 * self.limit, "too many are asked for one block");
        }
        assert!(others == 0 || !self.something_left(), "endgame too early");
    }

    fn deliver(&mut self, key: PeerKey, nth: u32) {
        let asked = &mut self.peers.get_mut(&key).unwrap().asked;
        if asked.is_empty() {
            return;
        }
        let block = asked.remove(nth as usize % asked.len());
        let mut cancels = Vec::new();
        let received = self.picker.block_received(key, block, &mut cancels);
        let others: BTreeSet<_> =
            self.peers.iter().filter(|(_, p)| p.asked.contains(&block)).map(|(k, _)| (*k, block)).collect();
        assert_eq!(cancels.iter().copied().collect::<BTreeSet<_>>(), others);
        assert_eq!(cancels.len(), others.len());
        self.peers.values_mut().for_each(|peer| peer.asked.retain(|asked| *asked != block));
        let here = self.here.get_mut(&block.piece).unwrap();
        here.insert(self.geometry.block_number(block).unwrap(), key);
        let complete = here.len() as u32 == self.geometry.block_count(block.piece);
        assert_eq!(received, if complete { Received::PieceComplete } else { Received::Accepted });
        assert_eq!(
            self.picker.block_received(key, block, &mut cancels),
            Received::Duplicate,
            "a second time"
        );
        if complete {
            self.set(block.piece, PieceState::Hashing);
        }
    }

    /// A block that nobody is asked for comes nevertheless: its request was given up too early.
    fn deliver_unasked(&mut self, key: PeerKey, piece: PieceIndex, nth: u32) {
        let lacking: Vec<Block> = self.lacks(piece).collect();
        let Some(block) = lacking.get(nth as usize % lacking.len().max(1)).copied() else { return };
        if matches!(self.state(piece), PieceState::Writing | PieceState::Have) {
            assert_eq!(self.picker.block_received(key, block, &mut Vec::new()), Received::Duplicate);
            return;
        }
        let fetching = self.state(piece) == PieceState::Active;
        if !fetching || self.reserved.get(&piece).is_some_and(|(holder, _)| *holder != key) {
            // The reservation may have lapsed unseen: then the block is accepted, so do not ask.
            if !fetching {
                assert_eq!(self.picker.block_received(key, block, &mut Vec::new()), Received::Unwanted);
            }
            return;
        }
        self.peers.get_mut(&key).unwrap().asked.push(block);
        self.deliver(key, self.peers[&key].asked.len() as u32 - 1);
    }

    fn fail(&mut self, key: PeerKey, nth: u32) {
        let asked = &mut self.peers.get_mut(&key).unwrap().asked;
        if asked.is_empty() {
            return;
        }
        let block = asked.remove(nth as usize % asked.len());
        self.picker.request_failed(key, block);
        self.picker.request_failed(key, block);
        if self.reserved.get(&block.piece).is_some_and(|(holder, _)| *holder == key) {
            self.reserved.remove(&block.piece);
        }
    }

    fn lost(&mut self, piece: PieceIndex) {
        let skip = self.picker.priority(piece) == Priority::Skip;
        self.set(piece, if skip { PieceState::Skipped } else { PieceState::Missing });
    }

    fn verdict(&mut self, piece: PieceIndex, ok: bool, only_from: Option<PeerKey>) {
        let senders: BTreeMap<_, _> = self.picker.senders(piece).collect();
        assert_eq!(senders, self.here.remove(&piece).unwrap());
        self.reserved.remove(&piece);
        if ok {
            self.picker.piece_verified(piece);
            self.set(piece, PieceState::Writing);
            return;
        }
        self.picker.piece_failed(piece, only_from);
        self.memory.free += 1;
        self.lost(piece);
        if let (Some(peer), PieceState::Missing) = (only_from, self.state(piece)) {
            self.reserved.insert(piece, (peer, 0));
        }
    }

    fn written(&mut self, piece: PieceIndex, ok: bool) {
        self.memory.free += 1;
        if ok {
            self.picker.piece_written(piece);
            self.set(piece, PieceState::Have);
        } else {
            self.picker.write_failed(piece);
            self.lost(piece);
        }
    }

    fn prioritise(&mut self, piece: PieceIndex, priority: Priority) {
        self.picker.set_priority(piece, priority);
        if matches!(self.state(piece), PieceState::Missing | PieceState::Skipped) {
            self.lost(piece);
        }
        if priority == Priority::Skip && self.state(piece) != PieceState::Hashing {
            self.reserved.remove(&piece);
        }
    }

    fn abandon(&mut self, piece: PieceIndex) {
        let active = self.state(piece) == PieceState::Active;
        let idle = active && self.geometry.blocks(piece).all(|block| self.requesters(block) == 0);
        assert_eq!(self.picker.idle_active().any(|idle| idle == piece), idle);
        assert_eq!(self.picker.abandon(piece), idle);
        if idle {
            self.here.remove(&piece);
            self.memory.free += 1;
            self.lost(piece);
        }
    }

    fn invalidate(&mut self, piece: PieceIndex) {
        self.picker.invalidate(piece);
        if self.state(piece) == PieceState::Have {
            self.lost(piece);
        }
    }

    fn lend(&mut self, peer: Option<PeerKey>, max: usize) {
        let has = peer.map_or(PeerHas::All, |peer| self.peers[&peer].has());
        let may = |piece: &PieceIndex| {
            self.state(*piece) == PieceState::Missing && !self.reserved.contains_key(piece) && has.has(*piece)
        };
        let could: BTreeSet<_> = self.geometry.pieces().filter(may).collect();
        let mut lease = Vec::new();
        self.picker.lend(has, max, &mut self.rng, &mut lease);
        // A reservation may have lapsed unseen: then more could be lent than the model knows.
        assert!(lease.len() >= max.min(could.len()) && lease.len() <= max, "{lease:?} of {could:?}");
        for piece in lease {
            assert_eq!(self.state(piece), PieceState::Missing);
            assert!(has.has(piece), "lent to one that cannot fetch it");
            self.reserved.remove(&piece);
            self.states[piece.as_usize()] = PieceState::Elsewhere;
        }
    }

    fn give_back(&mut self, piece: PieceIndex) {
        let idle = matches!(self.state(piece), PieceState::Missing | PieceState::Skipped);
        assert_eq!(self.picker.give_back(piece), idle);
        if idle {
            self.reserved.remove(&piece);
            self.set(piece, PieceState::Elsewhere);
        }
    }

    fn end_elsewhere(&mut self, nth: u32, fetched: bool) {
        let Some(piece) = self.any_in(PieceState::Elsewhere, nth) else { return };
        if fetched {
            assert!(self.picker.fetched_elsewhere(piece));
            assert!(!self.picker.fetched_elsewhere(piece), "a second time");
            self.set(piece, PieceState::Have);
        } else {
            self.picker.admit(piece);
            self.lost(piece);
        }
    }

    fn lost_elsewhere(&mut self, piece: PieceIndex) {
        self.picker.lost_elsewhere(piece);
        if self.state(piece) == PieceState::Have {
            self.set(piece, PieceState::Elsewhere);
        }
    }

    fn step(&mut self, op: u8, a: u32, b: u32) {
        let peer = self.any_peer(a);
        match (op, peer) {
            (0, _) if self.peers.len() < 6 => self.connect(a.is_multiple_of(4), b),
            (1, Some(peer)) if b.is_multiple_of(4) => self.disconnect(peer, b & 16 != 0),
            (2, Some(peer)) => self.have(peer, self.piece(b)),
            (3..=6, Some(peer)) => self.pick(peer, b as usize % 7, None, &[self.piece(b >> 8)]),
            (7, Some(peer)) => {
                let only = [self.piece(b), self.piece(b >> 8)];
                self.pick(peer, b as usize % 5, Some(&only), &[]);
            }
            (8..=13, Some(peer)) => self.deliver(peer, b),
            (14, Some(peer)) => self.fail(peer, b),
            (15, _) => {
                if let Some(piece) = self.any_in(PieceState::Hashing, a) {
                    let only_from = (b & 2 == 0).then(|| self.any_peer(b >> 2)).flatten();
                    self.verdict(piece, b & 1 == 0, only_from);
                }
            }
            (16, _) => {
                if let Some(piece) = self.any_in(PieceState::Writing, a) {
                    self.written(piece, !b.is_multiple_of(8));
                }
            }
            (17, _) => {
                let priorities = [Priority::Skip, Priority::Low, Priority::Normal, Priority::High];
                self.prioritise(self.piece(a), priorities[b as usize % 4]);
            }
            (18, _) => self.abandon(self.piece(a)),
            (19, _) if b.is_multiple_of(4) => self.invalidate(self.piece(a)),
            (20, Some(peer)) => self.deliver_unasked(peer, self.piece(b), b >> 8),
            (21, peer) => self.lend(peer.filter(|_| b & 1 == 0), b as usize >> 1 & 3),
            (22, _) => self.give_back(self.piece(a)),
            (23 | 24, _) => self.end_elsewhere(a, b & 1 == 0),
            (25, _) if b.is_multiple_of(4) => self.lost_elsewhere(self.piece(a)),
            (26, _) => self.picker.set_more_elsewhere(a & 1 == 0),
            (27, Some(peer)) => self.judge(peer, b & 1 == 0),
            _ => {}
        }
    }

    fn check(&self) {
        self.picker.check_invariants();
        for piece in self.geometry.pieces() {
            assert_eq!(self.picker.state(piece), self.state(piece), "state of {piece}");
            let holds = |peer: &&ModelPeer| peer.has().has(piece);
            assert_eq!(self.picker.copies(piece) as usize, self.peers.values().filter(holds).count());
            for block in self.geometry.blocks(piece) {
                assert_eq!(self.picker.requesters(block), self.requesters(block), "{block:?}");
            }
        }
        let open = |piece: &PieceIndex| {
            self.picker.priority(*piece) != Priority::Skip && self.state(*piece) != PieceState::Have
        };
        let wanted: Vec<_> = self.geometry.pieces().filter(open).collect();
        assert_eq!(self.picker.is_finished(), wanted.is_empty());
        for peer in self.peers.values() {
            let interesting = wanted.iter().any(|piece| peer.has().has(*piece));
            assert_eq!(self.picker.is_interesting(&peer.has()), interesting);
        }
    }

    /// Everybody honest, and one seed: every wanted piece has to become ours.
    fn complete(&mut self) {
        self.connect(true, 0);
        self.picker.set_more_elsewhere(false);
        while self.any_in(PieceState::Elsewhere, 0).is_some() {
            self.end_elsewhere(0, false);
        }
        for _ in 0..1000 {
            let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
            for key in &keys {
                self.pick(*key, self.next_key as usize % 5 + 1, None, &[]);
            }
            for key in &keys {
                while !self.peers[key].asked.is_empty() {
                    let nth = self.rng.random_range(0..100);
                    self.deliver(*key, nth);
                }
            }
            while let Some(piece) = self.any_in(PieceState::Hashing, 0) {
                self.verdict(piece, true, None);
            }
            while let Some(piece) = self.any_in(PieceState::Writing, 0) {
                self.written(piece, true);
            }
            self.check();
            if self.picker.is_finished() {
                return;
            }
        }
        panic!("an honest swarm does not complete");
    }
}

fn config() -> impl proptest::strategy::Strategy<Value = PickerConfig> {
    let strategy = prop_oneof![
        3 => Just(Strategy::RarestFirst),
        1 => Just(Strategy::Sequential),
        1 => Just(Strategy::RoundRobin)
    ];
    (strategy, 0usize..4, 0u32..5).prop_map(|(strategy, endgame_duplicates, random_first)| PickerConfig {
        strategy,
        endgame_duplicates,
        random_first,
        ..PickerConfig::default()
    })
}

#[test]
fn the_unreliable_take_nobodys_place_in_the_endgame() {
    let mut model = Model::new(1, 2, 4, PickerConfig::default(), 1);
    (0..6).for_each(|_| model.connect(true, 0));
    let mut asked = |key: u32, unreliable: &[u32]| {
        unreliable.iter().for_each(|key| model.judge(PeerKey(*key), true));
        model.pick(PeerKey(key), 2, None, &[]);
        model.check();
        model.peers[&PeerKey(key)].asked.len()
    };
    assert_eq!(asked(0, &[1]), 2);
    assert_eq!(asked(1, &[]), 0, "who has them does what it is asked for");
    // Now the holder is no better, so both places are open: to one like it, and to two others all the same.
    assert_eq!(asked(1, &[0, 2]), 2);
    assert_eq!(asked(2, &[]), 0, "two of them are enough");
    assert_eq!([asked(3, &[]), asked(4, &[]), asked(5, &[])], [2, 2, 0]);
    // Whoever is gone is forgotten: the next one with its key begins anew.
    model.disconnect(PeerKey(1), false);
    assert!(!model.picker.unreliable.contains(&PeerKey(1)));
    model.complete();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn agrees_with_the_model_and_completes(
        pieces in 1u32..9,
        blocks in 1u32..6,
        memory in 1usize..5,
        config in config(),
        seed in any::<u64>(),
        ops in prop::collection::vec((0u8..28, any::<u32>(), any::<u32>()), 0..600),
    ) {
        let mut model = Model::new(pieces, blocks, memory, config, seed);
        model.connect(false, u32::MAX >> 1);
        for (op, a, b) in ops {
            model.step(op, a, b);
            model.check();
        }
        model.complete();
    }
}

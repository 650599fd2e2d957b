//! How many peers have each piece, and which of the pieces that may be begun is the rarest.
//!
//! Owner: [`super::Picker`]. Invariants: a piece is in the order exactly when it may be begun by anyone; then
//! it stands in its priority's bucket for its number of copies, at the index `at` names. Seeds have every
//! piece alike, so they are one number and not in the copies.
//!
//! Costs: a HAVE moves one piece by a swap, O(1); a bitfield O(its pieces). A seed gets the rarest piece in
//! O(1). For another peer at most [`PROBES`] pieces are looked at from the rarest bucket up,
//! [`BUCKET_PROBES`] in each from a random place on; when all of these are pieces that it lacks, the rarest
//! of [`SAMPLES`] that it has, found 64 pieces at a step. So the choice is exact in small torrents and
//! bounded in large ones, whatever the peer claims to have.

use rand::{Rng, RngExt};

use super::bits::Bits;
use super::{PeerHas, Priority, Steps};
use crate::bitfield::Bitfield;
use crate::ids::PieceIndex;

/// Pieces looked at in rising number of copies.
const PROBES: usize = 256;
/// Pieces looked at in one bucket, so that one bucket full of what the peer lacks does not use up the search.
const BUCKET_PROBES: usize = 64;
/// Pieces compared when the ordered search found none.
const SAMPLES: usize = 256;
/// Priorities other than Skip.
const CLASSES: usize = 3;
/// Not in the order.
const OUT: u8 = u8::MAX;

/// See the module.
#[derive(Debug)]
pub(super) struct Rarity {
    seeds: u32,
    copies: Vec<u32>,
    /// Index into the bucket; meaningless when not in the order.
    at: Vec<u32>,
    /// Index into `classes`, or [`OUT`].
    class: Vec<u8>,
    classes: [Class; CLASSES],
}

/// The pieces of one priority that may be begun.
#[derive(Debug, Default)]
struct Class {
    members: Bits,
    /// By number of copies.
    buckets: Vec<Vec<u32>>,
    /// Which buckets are not empty.
    filled: Bits,
}

fn class_of(priority: Priority) -> usize {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
        Priority::Skip => unreachable!("a skipped piece is in no order"),
    }
}

impl Rarity {
    /// No copies, no piece in the order.
    pub fn new(pieces: u32) -> Self {
        Self {
            seeds: 0,
            copies: vec![0; pieces as usize],
            at: vec![0; pieces as usize],
            class: vec![OUT; pieces as usize],
            classes: std::array::from_fn(|_| Class { members: Bits::empty(pieces), ..Class::default() }),
        }
    }

    /// Whether `piece` may be begun by anyone.
    pub fn contains(&self, piece: PieceIndex) -> bool {
        self.class[piece.as_usize()] != OUT
    }

    /// Pieces in the order.
    pub fn len(&self) -> u32 {
        self.classes.iter().map(|class| class.members.count()).sum()
    }

    /// Pieces in the order that somebody has, as far as we know.
    pub fn obtainable(&self) -> usize {
        let unseen = |class: &Class| class.buckets.first().map_or(0, Vec::len);
        let members: usize = self.classes.iter().map(|class| class.members.count() as usize).sum();
        if self.seeds > 0 { members } else { members - self.classes.iter().map(unseen).sum::<usize>() }
    }

    /// Puts `piece` into the order.
    pub fn insert(&mut self, piece: PieceIndex, priority: Priority) {
        assert!(!self.contains(piece), "piece {piece} is in the order already");
        let class = class_of(priority);
        self.class[piece.as_usize()] = class as u8;
        self.classes[class].members.insert(piece.0);
        self.put(piece);
    }

    /// Takes `piece` out of the order.
    pub fn remove(&mut self, piece: PieceIndex) {
        self.take(piece);
        let class = usize::from(std::mem::replace(&mut self.class[piece.as_usize()], OUT));
        self.classes[class].members.remove(piece.0);
    }

    fn put(&mut self, piece: PieceIndex) {
        let class = &mut self.classes[usize::from(self.class[piece.as_usize()])];
        let copies = self.copies[piece.as_usize()];
        if class.buckets.len() <= copies as usize {
            class.buckets.resize_with(copies as usize + 1, Vec::new);
        }
        let bucket = &mut class.buckets[copies as usize];
        self.at[piece.as_usize()] = bucket.len() as u32;
        bucket.push(piece.0);
        class.filled.insert(copies);
    }

    fn take(&mut self, piece: PieceIndex) {
        let class = &mut self.classes[usize::from(self.class[piece.as_usize()])];
        let copies = self.copies[piece.as_usize()];
        let bucket = &mut class.buckets[copies as usize];
        let at = self.at[piece.as_usize()];
        let taken = bucket.swap_remove(at as usize);
        assert_eq!(taken, piece.0, "a piece's place in the order");
        if let Some(moved) = bucket.get(at as usize) {
            self.at[*moved as usize] = at;
        }
        // As peers come, all pieces wander through all buckets: without this each would keep room for all of
        // them.
        if bucket.capacity() > 4 * bucket.len() + 16 {
            bucket.shrink_to(2 * bucket.len());
        }
        if bucket.is_empty() {
            class.filled.remove(copies);
        }
    }

    fn set_copies(&mut self, piece: PieceIndex, change: impl Fn(u32) -> u32) {
        let within = self.contains(piece);
        if within {
            self.take(piece);
        }
        let copies = &mut self.copies[piece.as_usize()];
        *copies = change(*copies);
        if within {
            self.put(piece);
        }
    }

    /// One more peer has `piece`.
    pub fn add(&mut self, piece: PieceIndex) {
        self.set_copies(piece, |copies| copies + 1);
    }

    /// One peer fewer has `piece`.
    pub fn subtract(&mut self, piece: PieceIndex) {
        self.set_copies(piece, |copies| copies.checked_sub(1).expect("a copy is removed that was added"));
    }

    /// One more peer has these.
    pub fn add_field(&mut self, field: &Bitfield) {
        assert_eq!(field.len() as usize, self.copies.len(), "a bitfield of another torrent");
        field.iter().for_each(|piece| self.add(piece));
    }

    /// A peer that had these is gone.
    pub fn remove_field(&mut self, field: &Bitfield) {
        assert_eq!(field.len() as usize, self.copies.len(), "a bitfield of another torrent");
        field.iter().for_each(|piece| self.subtract(piece));
    }

    /// One more peer has everything.
    pub fn add_seed(&mut self) {
        self.seeds += 1;
    }

    /// A peer that had everything is gone.
    pub fn remove_seed(&mut self) {
        self.seeds = self.seeds.checked_sub(1).expect("a seed is removed that was added");
    }

    /// Peers that have `piece`.
    pub fn copies(&self, piece: PieceIndex) -> u32 {
        self.seeds + self.copies[piece.as_usize()]
    }

    /// Priorities from high to low.
    pub fn priorities() -> [Priority; CLASSES] {
        [Priority::High, Priority::Normal, Priority::Low]
    }

    /// A piece of `priority` that the peer has, the fewest copies first, ties at random. See the module for
    /// what it costs and where it is not exact.
    pub fn rarest(
        &self,
        priority: Priority,
        has: &PeerHas<'_>,
        rng: &mut impl Rng,
        steps: &Steps,
    ) -> Option<PieceIndex> {
        let class = &self.classes[class_of(priority)];
        if class.members.count() == 0 {
            return None;
        }
        let PeerHas::Some(field) = has else {
            let bucket = &class.buckets[class.filled.next(0, steps)? as usize];
            steps.add(1);
            return Some(PieceIndex(bucket[rng.random_range(0..bucket.len())]));
        };
        // Cheap way out for the many peers that have nothing for us.
        class.members.next_shared(has, 0, steps)?;
        let mut left = PROBES;
        // Bucket 0 holds pieces that no such peer has.
        let mut next = class.filled.next(1, steps);
        while let Some(copies) = next {
            let bucket = &class.buckets[copies as usize];
            let start = rng.random_range(0..bucket.len());
            let probes = bucket.len().min(BUCKET_PROBES).min(left);
            for offset in 0..probes {
                steps.add(1);
                let piece = PieceIndex(bucket[(start + offset) % bucket.len()]);
                if field.has(piece) {
                    return Some(piece);
                }
            }
            left -= probes;
            next = if left == 0 { None } else { class.filled.next(copies + 1, steps) };
        }
        self.rarest_of_some(class, has, rng, steps)
    }

    /// The rarest of some pieces that the peer has, from a random place on.
    fn rarest_of_some(
        &self,
        class: &Class,
        has: &PeerHas<'_>,
        rng: &mut impl Rng,
        steps: &Steps,
    ) -> Option<PieceIndex> {
        let start = rng.random_range(0..self.copies.len() as u32);
        let mut best: Option<PieceIndex> = None;
        let mut from = start;
        let mut wrapped = false;
        for _ in 0..SAMPLES {
            let mut found = class.members.next_shared(has, from, steps);
            if found.is_none() && !wrapped {
                wrapped = true;
                found = class.members.next_shared(has, 0, steps);
            }
            let Some(piece) = found.filter(|piece| !wrapped || *piece < start) else { break };
            if best.is_none_or(|best| self.copies[piece as usize] < self.copies[best.as_usize()]) {
                best = Some(PieceIndex(piece));
            }
            from = piece + 1;
        }
        best
    }

    /// The first piece of `priority` that the peer has, from `from` on and then from the start.
    pub fn first_from(
        &self,
        priority: Priority,
        has: &PeerHas<'_>,
        from: u32,
        steps: &Steps,
    ) -> Option<PieceIndex> {
        let members = &self.classes[class_of(priority)].members;
        if members.count() == 0 {
            return None;
        }
        members.next_shared(has, from, steps).or_else(|| members.next_shared(has, 0, steps)).map(PieceIndex)
    }

    /// Asserts the invariants. O(pieces).
    pub fn check(&self) {
        let mut members = 0;
        for class in &self.classes {
            class.members.check();
            class.filled.check();
            let listed: usize = class.buckets.iter().map(Vec::len).sum();
            assert_eq!(listed, class.members.count() as usize, "pieces in the buckets");
            members += listed;
            for (copies, bucket) in class.buckets.iter().enumerate() {
                assert_eq!(class.filled.has(copies as u32), !bucket.is_empty(), "filled buckets");
                assert!(bucket.capacity() <= 4 * bucket.len() + 16, "a bucket's memory");
            }
        }
        let listed = self.class.iter().filter(|class| **class != OUT).count();
        assert_eq!(listed, members, "pieces in the order");
        for (piece, class) in self.class.iter().enumerate().filter(|(_, class)| **class != OUT) {
            let class = &self.classes[usize::from(*class)];
            assert!(class.members.has(piece as u32), "piece {piece} in its class");
            let bucket = &class.buckets[self.copies[piece] as usize];
            assert_eq!(bucket[self.at[piece] as usize], piece as u32, "place of piece {piece}");
        }
    }
}

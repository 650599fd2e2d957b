//! Sets of small numbers, laid out so that a wire bitfield can be laid over them.
//!
//! Role: finding a member that a peer has costs one step per 64 pieces. Owner: the picker's parts. Invariant:
//! `count` is the number of set bits; bit 63 of word 0 is number 0, as in a BITFIELD message read 8 bytes at
//! a time.

use super::{PeerHas, Steps};

/// A set of numbers from 0. Grows when a larger number comes in.
#[derive(Clone, Debug, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
    count: u32,
}

impl Bits {
    /// No number; room for `len` of them.
    pub fn empty(len: u32) -> Self {
        Self { words: vec![0; (len as usize).div_ceil(64)], count: 0 }
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn has(&self, number: u32) -> bool {
        self.words.get(number as usize / 64).is_some_and(|word| word & mask(number) != 0)
    }

    /// Adds `number`; returns whether it was new.
    pub fn insert(&mut self, number: u32) -> bool {
        let at = number as usize / 64;
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        let new = self.words[at] & mask(number) == 0;
        self.words[at] |= mask(number);
        self.count += u32::from(new);
        new
    }

    /// Removes `number`; returns whether it was there.
    pub fn remove(&mut self, number: u32) -> bool {
        let was = self.has(number);
        if was {
            self.words[number as usize / 64] &= !mask(number);
            self.count -= 1;
        }
        was
    }

    /// The smallest member from `from` on that the peer has too.
    pub fn next_shared(&self, has: &PeerHas<'_>, from: u32, steps: &Steps) -> Option<u32> {
        let first = from as usize / 64;
        let mut keep = u64::MAX >> (from % 64);
        for (at, word) in self.words.iter().enumerate().skip(first) {
            steps.add(1);
            let both = word & keep & word_of(has, at);
            keep = u64::MAX;
            if both != 0 {
                return Some(at as u32 * 64 + both.leading_zeros());
            }
        }
        None
    }

    /// The smallest member from `from` on.
    pub fn next(&self, from: u32, steps: &Steps) -> Option<u32> {
        self.next_shared(&PeerHas::All, from, steps)
    }

    /// Whether the peer has a member. O(1) for a seed.
    pub fn any_shared(&self, has: &PeerHas<'_>) -> bool {
        match has {
            PeerHas::All => self.count > 0,
            PeerHas::Some(_) if self.count == 0 => false,
            PeerHas::Some(_) => {
                self.words.iter().enumerate().any(|(at, word)| *word != 0 && word & word_of(has, at) != 0)
            }
        }
    }

    /// Asserts the invariant.
    pub fn check(&self) {
        assert_eq!(
            self.count,
            self.words.iter().map(|word| word.count_ones()).sum::<u32>(),
            "count of a set"
        );
    }
}

fn mask(number: u32) -> u64 {
    1 << (63 - number % 64)
}

/// Pieces `at * 64..` of the peer, high bit first.
fn word_of(has: &PeerHas<'_>, at: usize) -> u64 {
    let PeerHas::Some(field) = has else { return u64::MAX };
    let rest = field.as_wire().get(at * 8..).unwrap_or_default();
    if let Some(eight) = rest.first_chunk() {
        return u64::from_be_bytes(*eight);
    }
    let mut padded = [0; 8];
    padded[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(padded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bitfield::Bitfield;
    use crate::ids::PieceIndex;

    proptest! {
        #[test]
        fn agrees_with_sets(
            len in 1u32..300,
            members in prop::collection::btree_set(0u32..300, 0..100),
            theirs in prop::collection::btree_set(0u32..300, 0..100),
            from in 0u32..310,
        ) {
            let mut bits = Bits::empty(3);
            let mut field = Bitfield::empty(len);
            members.iter().filter(|m| **m < len).for_each(|m| { bits.insert(*m); });
            theirs.iter().filter(|t| **t < len).for_each(|t| { field.insert(PieceIndex(*t)); });
            let both: Vec<u32> = members.intersection(&theirs).copied().filter(|m| *m < len).collect();
            let has = PeerHas::Some(&field);
            let steps = Steps::default();
            prop_assert_eq!(bits.any_shared(&has), !both.is_empty());
            prop_assert_eq!(bits.next_shared(&has, from, &steps), both.iter().copied().find(|m| *m >= from));
            let next = members.iter().copied().find(|m| *m >= from && *m < len);
            prop_assert_eq!(bits.next(from, &steps), next);
            for number in 0..len {
                prop_assert_eq!(bits.remove(number), members.contains(&number));
            }
            prop_assert_eq!(bits.count(), 0);
            bits.check();
        }
    }
}

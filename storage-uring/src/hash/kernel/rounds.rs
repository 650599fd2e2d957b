//! The rounds of SHA-1 and SHA-256 for kernels that keep a message in each 32-bit lane of a register.
//!
//! Role: macros that [`super::avx512`] and [`super::avx2`] expand where `Vector` and the operations on it mean
//! theirs, and the moves between states and lanes (FIPS 180-4, 6.1.2 and 6.2.2). Macros, because a generic function
//! is not compiled for the CPU features of its caller. Owner: stateless. Invariant: `w[t]` holds word `t` of
//! every lane's block; words are scheduled in place, and all indexes are constants.

use super::Block;

/// Rounds `16 * turn` to `16 * turn + 15` of SHA-1.
macro_rules! sha1_turn {
    ($turn:literal, $w:ident, $v:ident) => {
        sha1_turn!(@each $turn, $w, $v, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@each $turn:literal, $w:ident, $v:ident, $($t:literal)*) => {$(
        if $turn > 0 {
            let mixed = xor3($w[($t + 13) % 16], $w[($t + 8) % 16], $w[($t + 2) % 16]);
            $w[$t] = rotate_left::<1, 31>(xor(mixed, $w[$t]));
        }
        let [a, b, c, d, e] = $v;
        let (function, constant) = match (16 * $turn + $t) / 20 {
            0 => (choose(b, c, d), 0x5a82_7999),
            1 => (xor3(b, c, d), 0x6ed9_eba1),
            2 => (majority(b, c, d), 0x8f1b_bcdc),
            _ => (xor3(b, c, d), 0xca62_c1d6),
        };
        // What does not wait for the round before comes first.
        let early = add(add(e, splat(constant)), $w[$t]);
        let next = add(add(early, function), rotate_left::<5, 27>(a));
        $v = [next, a, rotate_left::<30, 2>(b), c, d];
    )*};
}

/// Rounds `16 * turn` to `16 * turn + 15` of SHA-256.
macro_rules! sha256_turn {
    ($turn:literal, $w:ident, $v:ident) => {
        sha256_turn!(@each $turn, $w, $v, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@each $turn:literal, $w:ident, $v:ident, $($t:literal)*) => {$(
        if $turn > 0 {
            let (w1, w14) = ($w[($t + 1) % 16], $w[($t + 14) % 16]);
            let s0 = xor3(rotate_right::<7, 25>(w1), rotate_right::<18, 14>(w1), shift_right::<3>(w1));
            let s1 = xor3(rotate_right::<17, 15>(w14), rotate_right::<19, 13>(w14), shift_right::<10>(w14));
            $w[$t] = add(add($w[$t], s0), add($w[($t + 9) % 16], s1));
        }
        let [a, b, c, d, e, f, g, h] = $v;
        let s1 = xor3(rotate_right::<6, 26>(e), rotate_right::<11, 21>(e), rotate_right::<25, 7>(e));
        let s0 = xor3(rotate_right::<2, 30>(a), rotate_right::<13, 19>(a), rotate_right::<22, 10>(a));
        let early = add(add(h, splat(super::constants::K256[16 * $turn + $t])), $w[$t]);
        let t1 = add(add(early, choose(e, f, g)), s1);
        $v = [add(t1, add(s0, majority(a, b, c))), a, b, c, add(d, t1), e, f, g];
    )*};
}

/// A kernel `name` for states of `words` words, compiled for CPUs with `features`.
macro_rules! compression {
    ($name:ident, $features:literal, $words:literal, $turn:ident: $($turns:literal)*) => {
        /// Takes the blocks of each of 1 to [`LANES`] messages into its state. Panics when there are more
        /// messages, or when not all have equally many blocks.
        #[target_feature(enable = $features)]
        pub fn $name(states: &mut [[u32; $words]], blocks: &[&[Block]]) {
            let lanes = super::rounds::fill_lanes::<LANES, $words>(states, blocks);
            let words = super::rounds::gather::<LANES, $words>(states);
            let mut v: [Vector; $words] = std::array::from_fn(|word| from_words(words[word]));
            for at in 0..lanes[0].len() {
                let before = v;
                let mut w = load(&lanes, at);
                $($turn!($turns, w, v);)*
                v = std::array::from_fn(|word| add(v[word], before[word]));
            }
            super::rounds::scatter(states, v.map(|word| to_words(word)));
        }
    };
}

/// The blocks of every lane. Lanes without a message repeat the first one; what they compute is thrown away.
pub(super) fn fill_lanes<'a, const LANES: usize, const WORDS: usize>(
    states: &[[u32; WORDS]],
    blocks: &[&'a [Block]],
) -> [&'a [Block]; LANES] {
    assert_eq!(states.len(), blocks.len(), "blocks for each lane");
    assert!((1..=LANES).contains(&blocks.len()), "{} messages in {LANES} lanes", blocks.len());
    let count = blocks[0].len();
    assert!(blocks.iter().all(|lane| lane.len() == count), "lanes of different lengths");
    std::array::from_fn(|lane| blocks.get(lane).copied().unwrap_or(blocks[0]))
}

/// For each word of a state, that word of every lane.
pub(super) fn gather<const LANES: usize, const WORDS: usize>(
    states: &[[u32; WORDS]],
) -> [[u32; LANES]; WORDS] {
    std::array::from_fn(|word| std::array::from_fn(|lane| states.get(lane).unwrap_or(&states[0])[word]))
}

/// Puts the words of every lane that has a message back into its state.
pub(super) fn scatter<const LANES: usize, const WORDS: usize>(
    states: &mut [[u32; WORDS]],
    words: [[u32; LANES]; WORDS],
) {
    for (lane, state) in states.iter_mut().enumerate() {
        *state = words.map(|word| word[lane]);
    }
}

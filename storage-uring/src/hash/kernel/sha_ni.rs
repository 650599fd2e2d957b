//! SHA-1 and SHA-256 with the x86 SHA extensions, one to four messages interleaved.
//!
//! Role: the instructions run four rounds of SHA-1 or two of SHA-256 each, and each waits for the one before: one
//! message is bound by their latency, not by their throughput. Interleaved messages fill the gaps. Owner: stateless.
//! Called by [`super`] on CPUs that have the extensions (and SSSE3 and SSE4.1, as all of those do) only.

use core::arch::x86_64::*;

use super::constants::K256;
use super::{Block, State1, State256};

/// Messages at once; a fifth finds no registers.
pub(super) const LANES: usize = 4;

/// A function over slices that calls `lanes::<N>` for the `N` messages there are.
macro_rules! by_count {
    ($name:ident, $lanes:ident, $state:ty) => {
        /// Takes the blocks of each of 1 to [`LANES`] messages into its state. Panics when there are more
        /// messages, or when not all have equally many blocks.
        #[target_feature(enable = "sha,ssse3,sse4.1")]
        pub fn $name(states: &mut [$state], blocks: &[&[Block]]) {
            assert_eq!(states.len(), blocks.len(), "blocks for each lane");
            let count = blocks.first().map_or(0, |lane| lane.len());
            assert!(blocks.iter().all(|lane| lane.len() == count), "lanes of different lengths");
            match (states, blocks) {
                ([a], &[k]) => $lanes([a], [k]),
                ([a, b], &[k, l]) => $lanes([a, b], [k, l]),
                ([a, b, c], &[k, l, m]) => $lanes([a, b, c], [k, l, m]),
                ([a, b, c, d], &[k, l, m, n]) => $lanes([a, b, c, d], [k, l, m, n]),
                (states, _) => panic!("{} messages in {LANES} lanes", states.len()),
            }
        }
    };
}

by_count!(sha1, sha1_lanes, State1);
by_count!(sha256, sha256_lanes, State256);

/// The quarters of a block, as big-endian words in the order that the instructions want.
#[inline]
#[target_feature(enable = "ssse3")]
fn load(block: &Block, order: __m128i) -> [__m128i; 4] {
    let mut words = [_mm_setzero_si128(); 4];
    for (words, quarter) in words.iter_mut().zip(block.as_chunks::<16>().0) {
        // SAFETY: 16 readable bytes; the load asks for no alignment.
        *words = _mm_shuffle_epi8(unsafe { _mm_loadu_si128(quarter.as_ptr().cast()) }, order);
    }
    words
}

/// FIPS 180-4, 6.1.2.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
#[expect(clippy::needless_range_loop, reason = "lanes go through several arrays in step")]
fn sha1_lanes<const N: usize>(states: [&mut State1; N], blocks: [&[Block]; N]) {
    let order = _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f);
    let mut abcd = [_mm_setzero_si128(); N];
    let mut e = [_mm_setzero_si128(); N];
    for lane in 0..N {
        let [a, b, c, d, last] = states[lane].map(|word| word as i32);
        abcd[lane] = _mm_set_epi32(a, b, c, d);
        e[lane] = _mm_set_epi32(last, 0, 0, 0);
    }
    for at in 0..blocks[0].len() {
        let mut w = [[_mm_setzero_si128(); 4]; N];
        for lane in 0..N {
            w[lane] = load(&blocks[lane][at], order);
        }
        // `before` is a..d as it was four rounds ago: the source of e.
        let mut now = abcd;
        let mut before = abcd;
        for lane in 0..N {
            let first = _mm_add_epi32(e[lane], w[lane][0]);
            now[lane] = _mm_sha1rnds4_epu32::<0>(now[lane], first);
        }
        // Rounds 4 * group to 4 * group + 3 with the given function; from 16 on words are scheduled in place.
        macro_rules! rounds {
            ($function:literal: $($group:literal)*) => {$(
                for lane in 0..N {
                    let w = &mut w[lane];
                    if $group >= 4 {
                        let mixed = _mm_sha1msg1_epu32(w[$group % 4], w[($group + 1) % 4]);
                        let mixed = _mm_xor_si128(mixed, w[($group + 2) % 4]);
                        w[$group % 4] = _mm_sha1msg2_epu32(mixed, w[($group + 3) % 4]);
                    }
                    let word = _mm_sha1nexte_epu32(before[lane], w[$group % 4]);
                    before[lane] = now[lane];
                    now[lane] = _mm_sha1rnds4_epu32::<$function>(now[lane], word);
                }
            )*};
        }
        rounds!(0: 1 2 3 4);
        rounds!(1: 5 6 7 8 9);
        rounds!(2: 10 11 12 13 14);
        rounds!(3: 15 16 17 18 19);
        for lane in 0..N {
            e[lane] = _mm_sha1nexte_epu32(before[lane], e[lane]);
            abcd[lane] = _mm_add_epi32(abcd[lane], now[lane]);
        }
    }
    for (lane, state) in states.into_iter().enumerate() {
        let [d, c, b, a] = words(abcd[lane]);
        let [.., last] = words(e[lane]);
        *state = [a, b, c, d, last];
    }
}

/// FIPS 180-4, 6.2.2.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
#[expect(clippy::needless_range_loop, reason = "lanes go through several arrays in step")]
fn sha256_lanes<const N: usize>(states: [&mut State256; N], blocks: [&[Block]; N]) {
    let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let mut abef = [_mm_setzero_si128(); N];
    let mut cdgh = [_mm_setzero_si128(); N];
    for lane in 0..N {
        let [a, b, c, d, e, f, g, h] = states[lane].map(|word| word as i32);
        abef[lane] = _mm_set_epi32(a, b, e, f);
        cdgh[lane] = _mm_set_epi32(c, d, g, h);
    }
    for at in 0..blocks[0].len() {
        let (abef_before, cdgh_before) = (abef, cdgh);
        let mut w = [[_mm_setzero_si128(); 4]; N];
        for lane in 0..N {
            w[lane] = load(&blocks[lane][at], order);
        }
        // Rounds 4 * group to 4 * group + 3; from 16 on words are scheduled in place.
        macro_rules! rounds {
            ($($group:literal)*) => {$(
                let [k0, k1, k2, k3] = K256.as_chunks::<4>().0[$group].map(|word| word as i32);
                let constants = _mm_set_epi32(k3, k2, k1, k0);
                for lane in 0..N {
                    let w = &mut w[lane];
                    if $group >= 4 {
                        let (w2, w3) = (w[($group + 2) % 4], w[($group + 3) % 4]);
                        let mixed = _mm_sha256msg1_epu32(w[$group % 4], w[($group + 1) % 4]);
                        let mixed = _mm_add_epi32(mixed, _mm_alignr_epi8::<4>(w3, w2));
                        w[$group % 4] = _mm_sha256msg2_epu32(mixed, w3);
                    }
                    let low = _mm_add_epi32(w[$group % 4], constants);
                    cdgh[lane] = _mm_sha256rnds2_epu32(cdgh[lane], abef[lane], low);
                    let high = _mm_shuffle_epi32::<0b11_10>(low);
                    abef[lane] = _mm_sha256rnds2_epu32(abef[lane], cdgh[lane], high);
                }
            )*};
        }
        rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        for lane in 0..N {
            abef[lane] = _mm_add_epi32(abef[lane], abef_before[lane]);
            cdgh[lane] = _mm_add_epi32(cdgh[lane], cdgh_before[lane]);
        }
    }
    for (lane, state) in states.into_iter().enumerate() {
        let ([f, e, b, a], [h, g, d, c]) = (words(abef[lane]), words(cdgh[lane]));
        *state = [a, b, c, d, e, f, g, h];
    }
}

/// The words of a register, lowest first.
#[inline]
#[target_feature(enable = "sse2")]
fn words(register: __m128i) -> [u32; 4] {
    let mut words = [0; 4];
    // SAFETY: 16 writable bytes; the store asks for no alignment.
    unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), register) };
    words
}

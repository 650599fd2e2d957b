//! The SHA-1 compression function for each kind of CPU.
//!
//! Role: whole 64-byte blocks into one chaining value, or into two at once. Owner: stateless; [`super::Sha1`] owns what
//! is changed. Invariant: a [`Backend`] that [`Backend::is_available`] is safe to call on this CPU, and all of them
//! compute the same function. Called by [`super`] only.
//!
//! SHA-NI runs four rounds per `sha1rnds4`, and each of them waits for the one before: one message is bound by that
//! instruction's latency, not by its throughput. The `sha1` crate is at that bound already, so one message goes there;
//! two messages go through [`x86::compress_lanes`], whose chains overlap. CPUs without SHA-NI take `sha1-asm`.
#![allow(unsafe_code)]

/// Bytes in a block.
pub(super) const BLOCK_LEN: usize = 64;
/// What the compression function takes at a time.
pub(super) type Block = [u8; BLOCK_LEN];

/// A way to compute SHA-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The x86 SHA extensions.
    ShaNi,
    /// No SHA instructions on x86: the assembly of `sha1-asm`. Elsewhere what the `sha1` crate finds best.
    Portable,
}

impl Backend {
    /// The fastest one of this CPU. Looked up once per process, then one relaxed load.
    pub fn detect() -> Self {
        if Self::ShaNi.is_available() { Self::ShaNi } else { Self::Portable }
    }

    /// Whether this CPU has it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::ShaNi => {
                is_x86_feature_detected!("sha")
                    && is_x86_feature_detected!("ssse3")
                    && is_x86_feature_detected!("sse4.1")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::ShaNi => false,
            Self::Portable => true,
        }
    }

    /// Takes `blocks` into `state`.
    pub(super) fn compress(self, state: &mut [u32; 5], blocks: &[Block]) {
        match self {
            // The crate looks at the same CPU features and takes its SHA-NI path.
            Self::ShaNi => sha1::block_api::compress(state, blocks),
            Self::Portable => portable(state, blocks),
        }
    }

    /// Takes as many blocks into two states. Panics when the numbers of blocks differ.
    pub(super) fn compress_pair(self, [a, b]: [&mut [u32; 5]; 2], [a_blocks, b_blocks]: [&[Block]; 2]) {
        assert_eq!(a_blocks.len(), b_blocks.len(), "lanes of different lengths");
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::ShaNi => {
                // SAFETY: `Sha1::with_backend` admits `ShaNi` only on CPUs that have these instructions.
                unsafe { x86::compress_lanes([a, b], [a_blocks, b_blocks]) }
            }
            _ => {
                self.compress(a, a_blocks);
                self.compress(b, b_blocks);
            }
        }
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
fn portable(state: &mut [u32; 5], blocks: &[Block]) {
    sha1_asm::compress(state, blocks);
}

/// Elsewhere `sha1-asm` needs crypto extensions that the CPU may lack; the `sha1` crate checks for them.
#[cfg(not(any(target_arch = "x86_64", target_arch = "x86")))]
fn portable(state: &mut [u32; 5], blocks: &[Block]) {
    sha1::block_api::compress(state, blocks);
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::Block;
    use core::arch::x86_64::*;

    /// Takes the blocks of each of `N` messages into its state, their instructions interleaved. All must have as many
    /// blocks as the first.
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    pub fn compress_lanes<const N: usize>(states: [&mut [u32; 5]; N], blocks: [&[Block]; N]) {
        let count = blocks[0].len();
        assert!(blocks.iter().all(|lane| lane.len() == count), "lanes of different lengths");
        let big_endian = _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f);
        let mut abcd = [_mm_setzero_si128(); N];
        let mut e = [_mm_setzero_si128(); N];
        for lane in 0..N {
            let [a, b, c, d, last] = states[lane].map(|word| word as i32);
            abcd[lane] = _mm_set_epi32(a, b, c, d);
            e[lane] = _mm_set_epi32(last, 0, 0, 0);
        }
        for at in 0..count {
            let mut w = [[_mm_setzero_si128(); 4]; N];
            for lane in 0..N {
                let quarters = &blocks[lane][at].as_chunks::<16>().0;
                for (word, quarter) in w[lane].iter_mut().zip(*quarters) {
                    // SAFETY: 16 readable bytes; the load asks for no alignment.
                    let raw = unsafe { _mm_loadu_si128(quarter.as_ptr().cast()) };
                    *word = _mm_shuffle_epi8(raw, big_endian);
                }
            }
            // `before` is a..d as it was four rounds ago: the source of e (FIPS 180-4, 6.1.2).
            let mut now = abcd;
            let mut before = abcd;
            for lane in 0..N {
                let first = _mm_add_epi32(e[lane], w[lane][0]);
                now[lane] = _mm_sha1rnds4_epu32::<0>(now[lane], first);
            }
            // Rounds 4 * group to 4 * group + 3 with the given round function; from 16 on words are scheduled in place.
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
            let abcd = abcd[lane];
            *state = [
                _mm_extract_epi32::<3>(abcd),
                _mm_extract_epi32::<2>(abcd),
                _mm_extract_epi32::<1>(abcd),
                _mm_extract_epi32::<0>(abcd),
                _mm_extract_epi32::<3>(e[lane]),
            ]
            .map(|word| word as u32);
        }
    }
}

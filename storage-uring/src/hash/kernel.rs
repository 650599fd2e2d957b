//! The SHA-1 compression function for each kind of CPU.
//!
//! Role: whole 64-byte blocks into one chaining value, or into up to [`LANES_MAX`] at once. Owner: stateless;
//! [`super::Sha1`] owns what is changed. Invariant: a [`Backend`] that [`Backend::is_available`] is safe to
//! call on this CPU, and all of them compute the same function. Called by [`super`] only.
//!
//! SHA-NI runs four rounds per `sha1rnds4`, and each of them waits for the one before: one message is bound
//! by that instruction's latency, not by its throughput. The `sha1` crate is at that bound already, so one
//! message goes there; several go through [`x86::compress_lanes`], whose chains overlap. Measured on Zen 5,
//! GB/s: one lane 2.1, two 3.6, three 4.8, four 5.7, five and six 5.9 (out of registers), eight 5.0. CPUs
//! without SHA-NI take `sha1-asm` (1.15).
#![allow(unsafe_code)]

/// Bytes in a block.
pub(super) const BLOCK_LEN: usize = 64;
/// What the compression function takes at a time.
pub(super) type Block = [u8; BLOCK_LEN];
/// The chaining value.
pub(super) type State = [u32; 5];
/// Messages that are worth hashing at once: see the measurement above.
pub const LANES_MAX: usize = 4;

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

    /// Messages that it hashes faster at once than one after the other.
    pub fn lanes(self) -> usize {
        match self {
            Self::ShaNi => LANES_MAX,
            Self::Portable => 1,
        }
    }

    /// Takes `blocks` into `state`.
    pub(super) fn compress(self, state: &mut State, blocks: &[Block]) {
        match self {
            // The crate looks at the same CPU features and takes its SHA-NI path.
            Self::ShaNi => sha1::block_api::compress(state, blocks),
            Self::Portable => portable(state, blocks),
        }
    }

    /// Takes as many blocks into each of several states. Panics when the numbers of blocks differ.
    pub(super) fn compress_lanes(self, states: &mut [State], blocks: &[&[Block]]) {
        assert_eq!(states.len(), blocks.len(), "blocks for each lane");
        #[cfg(target_arch = "x86_64")]
        if self == Self::ShaNi {
            // SAFETY: `Sha1::with_backend` admits `ShaNi` only on CPUs that have these instructions.
            let is_done = unsafe {
                x86::try_lanes::<2>(states, blocks)
                    || x86::try_lanes::<3>(states, blocks)
                    || x86::try_lanes::<4>(states, blocks)
            };
            if is_done {
                return;
            }
        }
        for (state, blocks) in states.iter_mut().zip(blocks) {
            self.compress(state, blocks);
        }
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
fn portable(state: &mut State, blocks: &[Block]) {
    sha1_asm::compress(state, blocks);
}

/// Elsewhere `sha1-asm` needs crypto extensions that the CPU may lack; the `sha1` crate checks for them.
#[cfg(not(any(target_arch = "x86_64", target_arch = "x86")))]
fn portable(state: &mut State, blocks: &[Block]) {
    sha1::block_api::compress(state, blocks);
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::{Block, State};
    use core::arch::x86_64::*;

    /// [`compress_lanes`] if there are `N` lanes; otherwise false, and nothing is done.
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    pub fn try_lanes<const N: usize>(states: &mut [State], blocks: &[&[Block]]) -> bool {
        match (states.try_into(), blocks.try_into()) {
            (Ok(states), Ok(blocks)) => {
                compress_lanes::<N>(states, blocks);
                true
            }
            _ => false,
        }
    }

    /// Takes the blocks of each of `N` messages into its state, their instructions interleaved. All must have
    /// as many blocks as the first.
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    #[expect(clippy::needless_range_loop, reason = "lanes go through several arrays in step")]
    pub fn compress_lanes<const N: usize>(states: &mut [State; N], blocks: &[&[Block]; N]) {
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
            // Rounds 4 * group to 4 * group + 3 with the given round function; from 16 on words are scheduled
            // in place.
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
        for (lane, state) in states.iter_mut().enumerate() {
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

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_lanes_is_what_sha1_asm_computes() {
        if !Backend::ShaNi.is_available() {
            return;
        }
        let bytes: Vec<u8> = (0..20 * BLOCK_LEN as u32).map(|at| (at * at / 7) as u8).collect();
        let all = bytes.as_chunks::<BLOCK_LEN>().0;
        let blocks = [&all[..10], &all[10..], &all[5..15], &all[3..13]];
        let start: [State; 4] = std::array::from_fn(|lane| [lane as u32, !0, 0, 1 << 31, 0x1234_5678]);
        let mut expected = start;
        for (state, blocks) in expected.iter_mut().zip(blocks) {
            sha1_asm::compress(state, blocks);
        }
        let mut one = [start[0]];
        // SAFETY: the instructions are there, as just checked.
        unsafe { x86::compress_lanes(&mut one, &[blocks[0]]) };
        assert_eq!(one, expected[..1]);
        for lanes in 0..=4 {
            let mut states = start;
            Backend::ShaNi.compress_lanes(&mut states[..lanes], &blocks[..lanes]);
            assert_eq!(states[..lanes], expected[..lanes], "{lanes} lanes");
            assert_eq!(states[lanes..], start[lanes..], "{lanes} lanes");
        }
    }
}

//! SHA-1 and SHA-256 of sixteen messages at once: AVX-512, a message in each 32-bit lane.
//!
//! Owner: stateless; see [`super::rounds`] for the invariant. Called by [`super`] on CPUs that have AVX-512F and
//! AVX-512BW only.

use core::arch::x86_64::*;

use super::{BLOCK_LEN, Block};

/// Messages at once.
pub(super) const LANES: usize = 16;
type Vector = __m512i;

/// How far ahead of the hash each lane's bytes are asked for, in blocks: by the first [`NEAR_LANES`] lanes into the
/// first-level cache, by the others into the second.
///
/// Sixteen streams are more than the CPU's own prefetchers follow: from memory (Zen 5) SHA-1 runs at 5.3 to 7.1 GB/s
/// without this and at 9.5 to 10.5 with it, SHA-256 at 3.6 to 4.4 and 5.0 to 5.4. Pieces mostly start at equal
/// offsets in a page. Then all lanes share a set of the first-level cache, which has 8 or 12 ways, and sixteen lines
/// of the next block throw each other out: all lanes three blocks ahead into the first level give 8.9 to 9.4.
const NEAR_AHEAD: usize = 2;
const FAR_AHEAD: usize = 5;
const NEAR_LANES: usize = 6;

compression!(sha1, "avx512f,avx512bw", 5, sha1_turn: 0 1 2 3 4);
compression!(sha256, "avx512f,avx512bw", 8, sha256_turn: 0 1 2 3);

#[inline]
#[target_feature(enable = "avx512f")]
fn add(a: Vector, b: Vector) -> Vector {
    _mm512_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn xor(a: Vector, b: Vector) -> Vector {
    _mm512_xor_si512(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn xor3(a: Vector, b: Vector, c: Vector) -> Vector {
    _mm512_ternarylogic_epi32::<0x96>(a, b, c)
}

/// Bits of `b` where `a` is set, of `c` elsewhere.
#[inline]
#[target_feature(enable = "avx512f")]
fn choose(a: Vector, b: Vector, c: Vector) -> Vector {
    _mm512_ternarylogic_epi32::<0xca>(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn majority(a: Vector, b: Vector, c: Vector) -> Vector {
    _mm512_ternarylogic_epi32::<0xe8>(a, b, c)
}

/// `RIGHT` is `32 - LEFT`, for CPUs that have shifts only.
#[inline]
#[target_feature(enable = "avx512f")]
fn rotate_left<const LEFT: i32, const RIGHT: i32>(a: Vector) -> Vector {
    _mm512_rol_epi32::<LEFT>(a)
}

/// `LEFT` is `32 - RIGHT`, for CPUs that have shifts only.
#[inline]
#[target_feature(enable = "avx512f")]
fn rotate_right<const RIGHT: i32, const LEFT: i32>(a: Vector) -> Vector {
    _mm512_ror_epi32::<RIGHT>(a)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn shift_right<const BITS: u32>(a: Vector) -> Vector {
    _mm512_srli_epi32::<BITS>(a)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn splat(word: u32) -> Vector {
    _mm512_set1_epi32(word as i32)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn from_words(words: [u32; LANES]) -> Vector {
    // SAFETY: 64 readable bytes; the load asks for no alignment.
    unsafe { _mm512_loadu_epi32(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn to_words(vector: Vector) -> [u32; LANES] {
    let mut words = [0; LANES];
    // SAFETY: 64 writable bytes; the store asks for no alignment.
    unsafe { _mm512_storeu_epi32(words.as_mut_ptr().cast(), vector) };
    words
}

/// Block `at` of every lane, transposed: vector `t` holds big-endian word `t` of each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load(lanes: &[&[Block]; LANES], at: usize) -> [Vector; 16] {
    let big_endian = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203));
    let mut rows = [_mm512_setzero_si512(); 16];
    for (lane, (row, blocks)) in rows.iter_mut().zip(lanes).enumerate() {
        let block = &blocks[at];
        // Hints that cannot fault: the address may be behind the message.
        if lane < NEAR_LANES {
            _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(NEAR_AHEAD * BLOCK_LEN).cast());
        } else {
            _mm_prefetch::<_MM_HINT_T1>(block.as_ptr().wrapping_add(FAR_AHEAD * BLOCK_LEN).cast());
        }
        // SAFETY: a block is 64 readable bytes; the load asks for no alignment.
        let raw = unsafe { _mm512_loadu_epi8(block.as_ptr().cast()) };
        *row = _mm512_shuffle_epi8(raw, big_endian);
    }
    // Within 128-bit quarters: `quads[4 * i + j]` holds word 4 * quarter + j of lanes 4 * i to 4 * i + 3.
    let mut quads = [_mm512_setzero_si512(); 16];
    for i in 0..4 {
        let row = &rows[4 * i..][..4];
        let (low01, low23) = (_mm512_unpacklo_epi32(row[0], row[1]), _mm512_unpacklo_epi32(row[2], row[3]));
        let (high01, high23) = (_mm512_unpackhi_epi32(row[0], row[1]), _mm512_unpackhi_epi32(row[2], row[3]));
        quads[4 * i] = _mm512_unpacklo_epi64(low01, low23);
        quads[4 * i + 1] = _mm512_unpackhi_epi64(low01, low23);
        quads[4 * i + 2] = _mm512_unpacklo_epi64(high01, high23);
        quads[4 * i + 3] = _mm512_unpackhi_epi64(high01, high23);
    }
    let mut w = [_mm512_setzero_si512(); 16];
    for j in 0..4 {
        let even01 = _mm512_shuffle_i32x4::<0b10_00_10_00>(quads[j], quads[4 + j]);
        let odd01 = _mm512_shuffle_i32x4::<0b11_01_11_01>(quads[j], quads[4 + j]);
        let even23 = _mm512_shuffle_i32x4::<0b10_00_10_00>(quads[8 + j], quads[12 + j]);
        let odd23 = _mm512_shuffle_i32x4::<0b11_01_11_01>(quads[8 + j], quads[12 + j]);
        w[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even01, even23);
        w[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even01, even23);
        w[4 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd01, odd23);
        w[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd01, odd23);
    }
    w
}

//! SHA-1 and SHA-256 of eight messages at once: AVX2, a message in each 32-bit lane.
//!
//! Owner: stateless; see [`super::rounds`] for the invariant. Called by [`super`] on CPUs that have AVX2 only.

use core::arch::x86_64::*;

use super::Block;

/// Messages at once.
pub(super) const LANES: usize = 8;
type Vector = __m256i;

compression!(sha1, "avx2", 5, sha1_turn: 0 1 2 3 4);
compression!(sha256, "avx2", 8, sha256_turn: 0 1 2 3);

#[inline]
#[target_feature(enable = "avx2")]
fn add(a: Vector, b: Vector) -> Vector {
    _mm256_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
fn xor(a: Vector, b: Vector) -> Vector {
    _mm256_xor_si256(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
fn xor3(a: Vector, b: Vector, c: Vector) -> Vector {
    xor(xor(a, b), c)
}

/// Bits of `b` where `a` is set, of `c` elsewhere.
#[inline]
#[target_feature(enable = "avx2")]
fn choose(a: Vector, b: Vector, c: Vector) -> Vector {
    xor(_mm256_and_si256(xor(b, c), a), c)
}

#[inline]
#[target_feature(enable = "avx2")]
fn majority(a: Vector, b: Vector, c: Vector) -> Vector {
    _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(_mm256_or_si256(a, b), c))
}

/// `RIGHT` is `32 - LEFT`.
#[inline]
#[target_feature(enable = "avx2")]
fn rotate_left<const LEFT: i32, const RIGHT: i32>(a: Vector) -> Vector {
    _mm256_or_si256(_mm256_slli_epi32::<LEFT>(a), _mm256_srli_epi32::<RIGHT>(a))
}

/// `LEFT` is `32 - RIGHT`.
#[inline]
#[target_feature(enable = "avx2")]
fn rotate_right<const RIGHT: i32, const LEFT: i32>(a: Vector) -> Vector {
    rotate_left::<LEFT, RIGHT>(a)
}

#[inline]
#[target_feature(enable = "avx2")]
fn shift_right<const BITS: i32>(a: Vector) -> Vector {
    _mm256_srli_epi32::<BITS>(a)
}

#[inline]
#[target_feature(enable = "avx2")]
fn splat(word: u32) -> Vector {
    _mm256_set1_epi32(word as i32)
}

#[inline]
#[target_feature(enable = "avx2")]
fn from_words(words: [u32; LANES]) -> Vector {
    // SAFETY: 32 readable bytes; the load asks for no alignment.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn to_words(vector: Vector) -> [u32; LANES] {
    let mut words = [0; LANES];
    // SAFETY: 32 writable bytes; the store asks for no alignment.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), vector) };
    words
}

/// Block `at` of every lane, transposed: vector `t` holds big-endian word `t` of each.
#[inline]
#[target_feature(enable = "avx2")]
fn load(lanes: &[&[Block]; LANES], at: usize) -> [Vector; 16] {
    let half = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let big_endian = _mm256_broadcastsi128_si256(half);
    let mut w = [_mm256_setzero_si256(); 16];
    for half in 0..2 {
        let mut rows = [_mm256_setzero_si256(); LANES];
        for (row, blocks) in rows.iter_mut().zip(lanes) {
            let part = &blocks[at].as_chunks::<32>().0[half];
            // SAFETY: 32 readable bytes; the load asks for no alignment.
            let raw = unsafe { _mm256_loadu_si256(part.as_ptr().cast()) };
            *row = _mm256_shuffle_epi8(raw, big_endian);
        }
        // Within 128-bit halves: `quads[4 * i + j]` holds words j and 4 + j of lanes 4 * i to 4 * i + 3.
        let mut quads = [_mm256_setzero_si256(); LANES];
        for i in 0..2 {
            let row = &rows[4 * i..][..4];
            let (low01, low23) =
                (_mm256_unpacklo_epi32(row[0], row[1]), _mm256_unpacklo_epi32(row[2], row[3]));
            let (high01, high23) =
                (_mm256_unpackhi_epi32(row[0], row[1]), _mm256_unpackhi_epi32(row[2], row[3]));
            quads[4 * i] = _mm256_unpacklo_epi64(low01, low23);
            quads[4 * i + 1] = _mm256_unpackhi_epi64(low01, low23);
            quads[4 * i + 2] = _mm256_unpacklo_epi64(high01, high23);
            quads[4 * i + 3] = _mm256_unpackhi_epi64(high01, high23);
        }
        for j in 0..4 {
            w[8 * half + j] = _mm256_permute2x128_si256::<0x20>(quads[j], quads[4 + j]);
            w[8 * half + 4 + j] = _mm256_permute2x128_si256::<0x31>(quads[j], quads[4 + j]);
        }
    }
    w
}

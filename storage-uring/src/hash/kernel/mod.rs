//! The compression functions of SHA-1 and SHA-256, once for each set of CPU instructions that wins somewhere.
//!
//! Role: whole 64-byte blocks into the chaining values of one or several messages. Owner: stateless;
//! [`super::Hasher`] and [`super::Lanes`] own what is changed. Invariant: all kernels compute the same function, and
//! none runs on a CPU that lacks its instructions ([`Kernel::compress`] looks before it calls). Which kernel takes how
//! many messages is decided by [`super::Backend`]. Called by it, and by `ccbt-bench hash` to compare kernels.
//!
//! One core of a Zen 5 server, GB/s from memory (`ccbt-bench hash`):
//!
//! | messages | 1 | 2 | 3 | 4 | 8 | 12 | 16 |
//! |---|---|---|---|---|---|---|---|
//! | SHA-1: SHA-NI | 2.1 | 3.8 | 4.8 | 5.7 | | | |
//! | AVX-512 | 0.7 | 1.4 | 2.0 | 2.7 | 5.3 | 7.9 | 10.1 |
//! | AVX2 | 0.5 | 1.0 | 1.4 | 1.9 | 3.7 | | |
//! | portable (`sha1-asm`) | 1.2 | | | | | | |
//! | SHA-256: SHA-NI | 2.0 | 2.9 | 3.2 | 3.3 | | | |
//! | AVX-512 | 0.3 | 0.7 | 1.0 | 1.3 | 2.7 | 3.9 | 5.1 |
//! | AVX2 | 0.2 | 0.5 | 0.7 | 1.0 | 1.9 | | |
//! | portable (`sha2` without SHA-NI) | 0.5 | | | | | | |
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
#[macro_use]
mod rounds;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod constants;
#[cfg(target_arch = "x86_64")]
mod sha_ni;

use super::algorithm::Algorithm;

/// Bytes in a block.
pub const BLOCK_LEN: usize = 64;
/// What a compression function takes at a time.
pub type Block = [u8; BLOCK_LEN];
/// Chaining value of SHA-1.
pub(super) type State1 = [u32; 5];
/// Chaining value of SHA-256.
pub(super) type State256 = [u32; 8];

/// An implementation of both compression functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kernel {
    /// One message at a time, on any CPU. SHA-1 on x86 is the assembly of `sha1-asm`, which uses no SHA
    /// instructions; the others are what the crates `sha1` and `sha2` find best at run time.
    Portable,
    /// Eight messages in AVX2 registers.
    Avx2,
    /// One to four messages with the x86 SHA extensions.
    ShaNi,
    /// Sixteen messages in AVX-512 registers.
    Avx512,
}

impl Kernel {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::ShaNi, Self::Avx512];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "AVX2",
            Self::ShaNi => "SHA-NI",
            Self::Avx512 => "AVX-512",
        }
    }

    /// Whether this CPU has its instructions.
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            Self::ShaNi => {
                is_x86_feature_detected!("sha")
                    && is_x86_feature_detected!("ssse3")
                    && is_x86_feature_detected!("sse4.1")
            }
            Self::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"),
        }
    }

    /// Whether this CPU has its instructions.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_available(self) -> bool {
        self == Self::Portable
    }

    /// Messages it takes at once.
    pub fn lanes(self) -> usize {
        match self {
            Self::Portable => 1,
            Self::Avx2 => 8,
            Self::ShaNi => 4,
            Self::Avx512 => 16,
        }
    }

    /// Takes `blocks[n]` into `states[n]`. Panics when there are none or more than [`Self::lanes`], when not all
    /// have equally many blocks, or when this CPU lacks the instructions.
    pub fn compress<A: Algorithm>(self, states: &mut [A::State], blocks: &[&[Block]]) {
        assert!(self.is_available(), "this CPU does not have {}", self.name());
        A::compress(KernelHere(self), states, blocks);
    }
}

/// A kernel whose instructions this CPU has: only [`Kernel::compress`] makes one, having looked.
#[derive(Clone, Copy)]
pub struct KernelHere(Kernel);

/// [`Algorithm::compress`] of SHA-1.
pub(super) fn sha1(kernel: KernelHere, states: &mut [State1], blocks: &[&[Block]]) {
    match kernel.0 {
        Kernel::Portable => one_by_one(states, blocks, sha1_portable),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `KernelHere` says that this CPU has the instructions of AVX2.
        Kernel::Avx2 => unsafe { avx2::sha1(states, blocks) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `KernelHere` says that this CPU has the SHA extensions, SSSE3 and SSE4.1.
        Kernel::ShaNi => unsafe { sha_ni::sha1(states, blocks) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `KernelHere` says that this CPU has AVX-512F and AVX-512BW.
        Kernel::Avx512 => unsafe { avx512::sha1(states, blocks) },
        #[cfg(not(target_arch = "x86_64"))]
        other => unreachable!("{} was admitted on another architecture", other.name()),
    }
}

/// [`Algorithm::compress`] of SHA-256.
pub(super) fn sha256(kernel: KernelHere, states: &mut [State256], blocks: &[&[Block]]) {
    match kernel.0 {
        Kernel::Portable => one_by_one(states, blocks, sha2::block_api::compress256),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `KernelHere` says that this CPU has the instructions of AVX2.
        Kernel::Avx2 => unsafe { avx2::sha256(states, blocks) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `KernelHere` says that this CPU has the SHA extensions, SSSE3 and SSE4.1.
        Kernel::ShaNi => unsafe { sha_ni::sha256(states, blocks) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `KernelHere` says that this CPU has AVX-512F and AVX-512BW.
        Kernel::Avx512 => unsafe { avx512::sha256(states, blocks) },
        #[cfg(not(target_arch = "x86_64"))]
        other => unreachable!("{} was admitted on another architecture", other.name()),
    }
}

/// For a kernel of one lane: the contract of [`Kernel::compress`].
fn one_by_one<S>(states: &mut [S], blocks: &[&[Block]], compress: impl Fn(&mut S, &[Block])) {
    match (states, blocks) {
        ([state], [blocks]) => compress(state, blocks),
        (states, blocks) => panic!("{} states, {} messages in one lane", states.len(), blocks.len()),
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
fn sha1_portable(state: &mut State1, blocks: &[Block]) {
    sha1_asm::compress(state, blocks);
}

/// Elsewhere `sha1-asm` needs crypto extensions that the CPU may lack; the `sha1` crate looks for them.
#[cfg(not(any(target_arch = "x86_64", target_arch = "x86")))]
fn sha1_portable(state: &mut State1, blocks: &[Block]) {
    sha1::block_api::compress(state, blocks);
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

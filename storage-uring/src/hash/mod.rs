//! SHA-1 (BEP 3 pieces) and SHA-256 (BEP 52): streaming, one or many messages at a time, and the hash threads.
//!
//! Role: [`sha1()`] and [`Sha1`] hash on the caller's thread; [`update_lanes`] advances several messages at once,
//! which hides the instruction latency that bounds one; [`Lanes`] and [`digest_all`] do so for whole messages of
//! unequal lengths; [`pool`] does it on threads of its own. Each exists for SHA-256 too. Owner: a [`Hasher`] belongs
//! to whoever hashes with it. Invariant: every path gives the same digest for the same bytes, however they are cut;
//! only the speed depends on the CPU ([`Backend`]). Called by shards, the storage thread, the pool, and the command
//! line's `create` and `verify`.

pub mod algorithm;
mod backend;
mod hasher;
mod kernel;
mod lanes;
pub mod plan;
pub mod pool;

pub use backend::{Backend, LANES_MAX};
pub use hasher::{Hasher, update_lanes};
pub use kernel::{BLOCK_LEN, Block, Kernel};
pub use lanes::{Lanes, digest_all};
pub use pool::{HashPool, PoolJob};

use algorithm::{Algorithm, Sha1Algorithm, Sha256Algorithm};

/// A SHA-1 computation under way.
pub type Sha1 = Hasher<Sha1Algorithm>;
/// A SHA-256 computation under way.
pub type Sha256 = Hasher<Sha256Algorithm>;

/// SHA-1 of `bytes`.
pub fn sha1(bytes: &[u8]) -> [u8; 20] {
    digest::<Sha1Algorithm>(bytes)
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::<Sha256Algorithm>(bytes)
}

/// SHA-1 of several messages; faster than one after the other.
pub fn sha1_lanes<const N: usize>(messages: [&[u8]; N]) -> [[u8; 20]; N] {
    digests::<Sha1Algorithm, N>(messages, [0; 20])
}

/// SHA-256 of several messages; faster than one after the other.
pub fn sha256_lanes<const N: usize>(messages: [&[u8]; N]) -> [[u8; 32]; N] {
    digests::<Sha256Algorithm, N>(messages, [0; 32])
}

fn digest<A: Algorithm>(bytes: &[u8]) -> A::Digest {
    let mut hasher = Hasher::<A>::new();
    hasher.update(bytes);
    hasher.finalize()
}

fn digests<A: Algorithm, const N: usize>(messages: [&[u8]; N], blank: A::Digest) -> [A::Digest; N] {
    let mut digests = [blank; N];
    digest_all::<A>(Backend::detect(), messages, |number, digest| digests[number] = digest);
    digests
}

#[cfg(test)]
mod tests;

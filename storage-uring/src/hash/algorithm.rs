//! What tells SHA-1 and SHA-256 apart.
//!
//! Role: [`Algorithm`] lets one [`super::Hasher`], one [`super::Lanes`] and one [`super::Backend`] serve both; they
//! share block length, padding and byte order (FIPS 180-4, 5.1.1). Owner: stateless. Sealed: the two here are all.

use std::fmt::Debug;
use std::sync::OnceLock;

use super::kernel::{self, Block, KernelHere, State1, State256};
use super::plan::{BACKENDS, Plans};

/// SHA-1 or SHA-256.
pub trait Algorithm: Copy + Debug + Send + Sync + 'static + sealed::Sealed {
    /// Chaining value.
    type State: Copy + Debug + Eq + Send + Sync;
    /// What comes out in the end.
    type Digest: Copy + Debug + Eq + AsRef<[u8]> + Send + Sync;
    /// For people.
    const NAME: &'static str;
    /// Chaining value of the empty message.
    const START: Self::State;
    /// The digest of a message that ends with this chaining value.
    fn digest(state: Self::State) -> Self::Digest;
    /// How each backend cuts batches of it, as measured on this machine.
    fn plans() -> &'static Plans;
    /// [`super::Kernel::compress`] once the kernel is known to be there.
    fn compress(kernel: KernelHere, states: &mut [Self::State], blocks: &[&[Block]]);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Sha1Algorithm {}
    impl Sealed for super::Sha256Algorithm {}
}

/// SHA-1: BEP 3 pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sha1Algorithm {}

impl Algorithm for Sha1Algorithm {
    type State = State1;
    type Digest = [u8; 20];
    const NAME: &'static str = "SHA-1";
    /// FIPS 180-4, 5.3.1.
    const START: State1 = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

    fn plans() -> &'static Plans {
        static PLANS: Plans = [const { OnceLock::new() }; BACKENDS];
        &PLANS
    }

    fn digest(state: State1) -> [u8; 20] {
        big_endian(state)
    }

    fn compress(kernel: KernelHere, states: &mut [State1], blocks: &[&[Block]]) {
        kernel::sha1(kernel, states, blocks);
    }
}

/// SHA-256: BEP 52 blocks and hash trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sha256Algorithm {}

impl Algorithm for Sha256Algorithm {
    type State = State256;
    type Digest = [u8; 32];
    const NAME: &'static str = "SHA-256";
    /// FIPS 180-4, 5.3.3.
    const START: State256 = [
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ];

    fn plans() -> &'static Plans {
        static PLANS: Plans = [const { OnceLock::new() }; BACKENDS];
        &PLANS
    }

    fn digest(state: State256) -> [u8; 32] {
        big_endian(state)
    }

    fn compress(kernel: KernelHere, states: &mut [State256], blocks: &[&[Block]]) {
        kernel::sha256(kernel, states, blocks);
    }
}

/// The words as bytes, one after the other.
fn big_endian<const WORDS: usize, const BYTES: usize>(words: [u32; WORDS]) -> [u8; BYTES] {
    const { assert!(4 * WORDS == BYTES) };
    let mut bytes = [0; BYTES];
    for (four, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *four = word.to_be_bytes();
    }
    bytes
}

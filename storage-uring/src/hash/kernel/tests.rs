//! Every kernel of this CPU, with every number of messages, against `sha1-asm` and `sha2`.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::algorithm::{Sha1Algorithm, Sha256Algorithm};
use super::*;

fn kernels() -> impl Iterator<Item = Kernel> {
    Kernel::ALL.into_iter().filter(|kernel| kernel.is_available())
}

/// Block `start` of 16 messages that begin at odd addresses.
fn messages(bytes: &[u8], blocks: usize) -> Vec<&[Block]> {
    (0..16).map(|lane| bytes[lane * 77 + 1..].as_chunks::<BLOCK_LEN>().0[..blocks].as_ref()).collect()
}

fn bytes() -> Vec<u8> {
    (0..4096u32).map(|at| (at * at / 7 + at) as u8).collect()
}

fn agrees<A: Algorithm>(start: [A::State; 16], oracle: impl Fn(&mut A::State, &[Block])) {
    let bytes = bytes();
    for blocks in [0, 1, 2, 3, 7, 16] {
        let messages = messages(&bytes, blocks);
        let mut expected = start;
        for (state, blocks) in expected.iter_mut().zip(&messages) {
            oracle(state, blocks);
        }
        for kernel in kernels() {
            for lanes in 1..=kernel.lanes() {
                let mut states = start;
                kernel.compress::<A>(&mut states[..lanes], &messages[..lanes]);
                let name = kernel.name();
                assert_eq!(states[..lanes], expected[..lanes], "{name}, {lanes} lanes, {blocks} blocks");
                assert_eq!(states[lanes..], start[lanes..], "{name}, {lanes} lanes, {blocks} blocks");
            }
        }
    }
}

#[test]
fn sha1_is_what_its_crate_and_sha1_asm_compute() {
    let start: [State1; 16] = std::array::from_fn(|lane| [lane as u32, !0, 0, 1 << 31, 0x1234_5678]);
    agrees::<Sha1Algorithm>(start, ::sha1::block_api::compress);
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    agrees::<Sha1Algorithm>(start, sha1_asm::compress);
}

#[test]
fn sha256_is_what_its_crate_computes() {
    let start: [State256; 16] =
        std::array::from_fn(|lane| [lane as u32, !0, 0, 1 << 31, 0x1234_5678, 5, !(lane as u32), 7]);
    agrees::<Sha256Algorithm>(start, sha2::block_api::compress256);
}

/// A batch that breaks the contract panics in every kernel, and never reads past a message.
fn refuses<A: Algorithm<State: Debug>>() {
    let bytes = bytes();
    let messages = messages(&bytes, 4);
    for kernel in kernels() {
        let refused = |states: usize, blocks: &[&[Block]]| {
            let mut states = vec![A::START; states];
            let call = AssertUnwindSafe(|| kernel.compress::<A>(&mut states, blocks));
            let name = kernel.name();
            assert!(catch_unwind(call).is_err(), "{name} took {} states, {blocks:?}", states.len());
        };
        let lanes = kernel.lanes();
        refused(0, &[]);
        refused(lanes, &messages[..lanes - 1]);
        refused(lanes + 1, &vec![messages[0]; lanes + 1]);
        if lanes > 1 {
            let mut uneven = messages[..lanes].to_vec();
            uneven[lanes - 1] = &messages[lanes - 1][..3];
            refused(lanes, &uneven);
        }
    }
}

#[test]
fn refuses_batches_that_do_not_fit() {
    refuses::<Sha1Algorithm>();
    refuses::<Sha256Algorithm>();
}

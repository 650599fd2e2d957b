//! Hashing bytes as they come: one message, or several in step.
//!
//! Role: [`Hasher`] is a computation under way whose bytes arrive in any cuts; [`update_lanes`] feeds several at
//! once. For messages that are whole in memory see [`super::Lanes`]. Owner: whoever hashes. Invariant: the bytes
//! that fill no block wait in `tail`, and never a whole block of them.

use super::algorithm::Algorithm;
use super::backend::{Backend, LANES_MAX};
use super::kernel::{BLOCK_LEN, Block};
use super::lanes::turn;

/// A computation under way: bytes arrive in any cuts.
#[derive(Clone, Debug)]
pub struct Hasher<A: Algorithm> {
    state: A::State,
    backend: Backend,
    /// Bytes so far; the last `len % 64` of them wait in `tail`.
    len: u64,
    tail: Block,
}

impl<A: Algorithm> Default for Hasher<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Algorithm> Hasher<A> {
    /// Of the empty message, with the fastest kernels this CPU has.
    pub fn new() -> Self {
        Self::with_backend(Backend::detect())
    }

    /// As [`Self::new`] with kernels of choice, for measurements and differential tests.
    pub fn with_backend(backend: Backend) -> Self {
        Self { state: A::START, backend, len: 0, tail: [0; BLOCK_LEN] }
    }

    /// Appends `bytes` to the message.
    pub fn update(&mut self, bytes: &[u8]) {
        let (blocks, rest) = self.complete_tail(bytes).as_chunks::<BLOCK_LEN>();
        self.compress(blocks);
        self.len += (blocks.len() * BLOCK_LEN) as u64;
        self.keep_tail(rest);
    }

    /// The digest of all bytes so far.
    pub fn finalize(mut self) -> A::Digest {
        let (blocks, count) = padding(self.len, &self.tail[..self.waiting()]);
        self.compress(&blocks[..count]);
        A::digest(self.state)
    }

    /// Bytes in `tail` that no block holds yet.
    fn waiting(&self) -> usize {
        (self.len % BLOCK_LEN as u64) as usize
    }

    /// Takes what completes a begun block, and returns what is left of `bytes`. Afterwards either nothing is
    /// left or nothing waits.
    fn complete_tail<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let waiting = self.waiting();
        if waiting == 0 {
            return bytes;
        }
        let (head, rest) = bytes.split_at(bytes.len().min(BLOCK_LEN - waiting));
        self.tail[waiting..waiting + head.len()].copy_from_slice(head);
        self.len += head.len() as u64;
        if waiting + head.len() == BLOCK_LEN {
            let tail = self.tail;
            self.compress(&[tail]);
        }
        rest
    }

    /// Keeps less than a block; only called while nothing waits, or with nothing.
    fn keep_tail(&mut self, rest: &[u8]) {
        debug_assert!(rest.is_empty() || self.waiting() == 0, "a tail behind a tail");
        self.tail[..rest.len()].copy_from_slice(rest);
        self.len += rest.len() as u64;
    }

    fn compress(&mut self, blocks: &[Block]) {
        if !blocks.is_empty() {
            self.backend.compress::<A>(std::slice::from_mut(&mut self.state), &[blocks]);
        }
    }
}

/// The last one or two blocks of a message of `len` bytes of which `tail` fill no block: marker, zeroes, length
/// in bits (FIPS 180-4, 5.1.1).
pub(super) fn padding(len: u64, tail: &[u8]) -> ([Block; 2], usize) {
    const LENGTH_LEN: usize = 8;
    let mut bytes = [0; 2 * BLOCK_LEN];
    bytes[..tail.len()].copy_from_slice(tail);
    bytes[tail.len()] = 0x80;
    let count = (tail.len() + 1 + LENGTH_LEN).div_ceil(BLOCK_LEN);
    let end = count * BLOCK_LEN;
    // Lengths of 2^61 bytes and more are cut as the standard's are at 2^64 bits.
    bytes[end - LENGTH_LEN..end].copy_from_slice(&len.wrapping_mul(8).to_be_bytes());
    let (blocks, _) = bytes.as_chunks::<BLOCK_LEN>();
    ([blocks[0], blocks[1]], count)
}

/// Appends `bytes[n]` to `hashers[n]`, as many at once as their backend likes. A lane whose bytes end is taken by
/// the next hasher. Panics when there are more of one than of the other, or when the backends differ.
pub fn update_lanes<A: Algorithm>(hashers: &mut [Hasher<A>], bytes: &[&[u8]]) {
    assert_eq!(hashers.len(), bytes.len(), "bytes for each hasher");
    let Some(backend) = hashers.first().map(|hasher| hasher.backend) else { return };
    assert!(hashers.iter().all(|hasher| hasher.backend == backend), "lanes of different backends");
    let mut states = [A::START; LANES_MAX];
    let mut left: [&[Block]; LANES_MAX] = [&[]; LANES_MAX];
    let mut owners = [0; LANES_MAX];
    let (mut active, mut next) = (0, 0);
    loop {
        while active < backend.lanes::<A>() && next < hashers.len() {
            let hasher = &mut hashers[next];
            let (blocks, rest) = hasher.complete_tail(bytes[next]).as_chunks::<BLOCK_LEN>();
            hasher.len += (blocks.len() * BLOCK_LEN) as u64;
            hasher.keep_tail(rest);
            if !blocks.is_empty() {
                (states[active], left[active], owners[active]) = (hasher.state, blocks, next);
                active += 1;
            }
            next += 1;
        }
        if active == 0 {
            return;
        }
        let done = turn::<A>(backend, &mut states[..active], &left[..active], usize::MAX);
        // From the back, so that what a removal moves has been looked at.
        for lane in (0..active).rev() {
            left[lane] = &left[lane][done..];
            if left[lane].is_empty() {
                hashers[owners[lane]].state = states[lane];
                active -= 1;
                (states[lane], left[lane], owners[lane]) = (states[active], left[active], owners[active]);
            }
        }
    }
}

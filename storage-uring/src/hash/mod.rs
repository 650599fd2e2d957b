//! SHA-1 (BEP 3 piece hashes): streaming, one or several messages at a time, and the pool of hash threads.
//!
//! Role: [`Sha1`] and [`sha1`] hash on the caller's thread; [`update_lanes`] advances several messages at
//! once, which hides the instruction latency that bounds one; [`pool`] does it on threads of its own. Owner:
//! a [`Sha1`] belongs to whoever hashes with it. Invariant: every path gives the same digest for the same
//! bytes, however they are cut; only the speed depends on the CPU. Called by shards, the storage thread, the
//! pool, and the command line's `create` and `verify`.

mod kernel;
pub mod pool;

pub use kernel::{Backend, LANES_MAX};
pub use pool::{HashPool, PoolJob};

use kernel::{BLOCK_LEN, Block, State};

/// Chaining value of the empty message (FIPS 180-4, 5.3.1).
const H0: State = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

/// SHA-1 of `bytes`.
pub fn sha1(bytes: &[u8]) -> [u8; 20] {
    let mut hasher = Sha1::new();
    hasher.update(bytes);
    hasher.finalize()
}

/// SHA-1 of several messages; faster than one after the other, the more so the closer their lengths.
pub fn sha1_lanes<const N: usize>(messages: [&[u8]; N]) -> [[u8; 20]; N] {
    let mut hashers = std::array::from_fn::<_, N, _>(|_| Sha1::new());
    update_lanes(&mut hashers, &messages);
    hashers.map(Sha1::finalize)
}

/// A SHA-1 computation under way: bytes arrive in any cuts.
#[derive(Clone, Debug)]
pub struct Sha1 {
    state: State,
    backend: Backend,
    /// Bytes so far; the last `len % 64` of them wait in `tail`.
    len: u64,
    tail: Block,
}

impl Default for Sha1 {
    fn default() -> Self {
        Self::new()
    }
}

impl Sha1 {
    /// Of the empty message, with the fastest backend this CPU has.
    pub fn new() -> Self {
        Self::with_backend(Backend::detect())
    }

    /// As [`Self::new`] with a backend of choice, for measurements and differential tests. Panics when the
    /// CPU lacks it.
    pub fn with_backend(backend: Backend) -> Self {
        assert!(backend.is_available(), "this CPU does not have {backend:?}");
        Self { state: H0, backend, len: 0, tail: [0; BLOCK_LEN] }
    }

    /// Appends `bytes` to the message.
    pub fn update(&mut self, bytes: &[u8]) {
        let (blocks, rest) = self.complete_tail(bytes).as_chunks::<BLOCK_LEN>();
        self.compress(blocks);
        self.keep_tail(rest);
    }

    /// The digest of all bytes so far.
    pub fn finalize(mut self) -> [u8; 20] {
        let bits = self.len.wrapping_mul(8);
        let waiting = self.waiting();
        self.tail[waiting] = 0x80;
        self.tail[waiting + 1..].fill(0);
        if waiting + 1 > BLOCK_LEN - 8 {
            // The length does not fit behind the marker: it goes into a block of its own.
            self.compress_tail();
            self.tail.fill(0);
        }
        self.tail[BLOCK_LEN - 8..].copy_from_slice(&bits.to_be_bytes());
        self.compress_tail();
        let mut digest = [0; 20];
        for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        digest
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
            self.compress_tail();
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
        self.backend.compress(&mut self.state, blocks);
        self.len += (blocks.len() * BLOCK_LEN) as u64;
    }

    fn compress_tail(&mut self) {
        let tail = self.tail;
        self.backend.compress(&mut self.state, &[tail]);
    }
}

/// Appends `bytes[n]` to `hashers[n]`, up to [`LANES_MAX`] of them at once. Panics when there are more of one
/// than of the other, or when the hashers have different backends.
pub fn update_lanes(hashers: &mut [Sha1], bytes: &[&[u8]]) {
    assert_eq!(hashers.len(), bytes.len(), "bytes for each hasher");
    for (hashers, bytes) in hashers.chunks_mut(LANES_MAX).zip(bytes.chunks(LANES_MAX)) {
        update_group(hashers, bytes);
    }
}

/// [`update_lanes`] for at most [`LANES_MAX`].
fn update_group(hashers: &mut [Sha1], bytes: &[&[u8]]) {
    let backend = hashers[0].backend;
    let mut left: [&[Block]; LANES_MAX] = [&[]; LANES_MAX];
    let mut rests: [&[u8]; LANES_MAX] = [&[]; LANES_MAX];
    for (lane, (hasher, bytes)) in hashers.iter_mut().zip(bytes).enumerate() {
        assert_eq!(hasher.backend, backend, "lanes of different backends");
        (left[lane], rests[lane]) = hasher.complete_tail(bytes).as_chunks::<BLOCK_LEN>();
    }
    // Each turn ends at least one lane; the others go on with one lane fewer.
    while let Some(common) = left.iter().map(|blocks| blocks.len()).filter(|&len| len > 0).min() {
        let mut states = [H0; LANES_MAX];
        let mut heads: [&[Block]; LANES_MAX] = [&[]; LANES_MAX];
        let mut lanes = [0; LANES_MAX];
        let mut active = 0;
        for (lane, blocks) in left.iter_mut().enumerate().filter(|(_, blocks)| !blocks.is_empty()) {
            (heads[active], *blocks) = blocks.split_at(common);
            states[active] = hashers[lane].state;
            lanes[active] = lane;
            active += 1;
        }
        backend.compress_lanes(&mut states[..active], &heads[..active]);
        for (state, &lane) in states.iter().zip(&lanes[..active]) {
            hashers[lane].state = *state;
            hashers[lane].len += (common * BLOCK_LEN) as u64;
        }
    }
    for (hasher, rest) in hashers.iter_mut().zip(rests) {
        hasher.keep_tail(rest);
    }
}

#[cfg(test)]
mod tests;

//! Hashing many whole messages, a new one in each lane as soon as the last one there has ended.
//!
//! Role: [`Lanes`] keeps the kernels fed however unequal the messages are: nobody waits for the longest of a batch.
//! Owner: the thread that hashes (a hash thread of [`super::pool`], or a caller of [`digest_all`]). Invariant: every
//! message pushed is given back exactly once, with its digest, by the turn in which its last block was hashed.
//!
//! A message is its whole blocks, which are hashed where they lie, and then one or two blocks of padding, which
//! belong to the lane. Both go through the kernel with the other lanes' blocks.

use super::algorithm::Algorithm;
use super::backend::{Backend, LANES_MAX};
use super::hasher::padding;
use super::kernel::{BLOCK_LEN, Block};

/// Messages under way. `T` owns or borrows the bytes of one and must give the same ones each time it is asked.
#[derive(Debug)]
pub struct Lanes<A: Algorithm, T> {
    backend: Backend,
    /// Chaining values of `messages`, in order; the others mean nothing.
    states: [A::State; LANES_MAX],
    messages: Vec<Message<T>>,
}

#[derive(Debug)]
struct Message<T> {
    bytes: T,
    /// Whole blocks of `bytes`.
    whole: usize,
    /// Blocks hashed, padding included.
    done: usize,
    padding: [Block; 2],
    /// One or two.
    padding_blocks: usize,
}

impl<T: AsRef<[u8]>> Message<T> {
    fn new(message: T) -> Self {
        let bytes = message.as_ref();
        let (blocks, tail) = bytes.as_chunks::<BLOCK_LEN>();
        let whole = blocks.len();
        let (padding, padding_blocks) = padding(bytes.len() as u64, tail);
        Self { bytes: message, whole, done: 0, padding, padding_blocks }
    }

    /// What can be hashed without a break; never empty before the message has ended.
    fn left(&self) -> &[Block] {
        if self.done < self.whole {
            &self.bytes.as_ref().as_chunks::<BLOCK_LEN>().0[self.done..self.whole]
        } else {
            &self.padding[self.done - self.whole..self.padding_blocks]
        }
    }

    fn has_ended(&self) -> bool {
        self.done == self.whole + self.padding_blocks
    }
}

impl<A: Algorithm, T: AsRef<[u8]>> Default for Lanes<A, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Algorithm, T: AsRef<[u8]>> Lanes<A, T> {
    /// No message yet, with the fastest kernels this CPU has.
    pub fn new() -> Self {
        Self::with_backend(Backend::detect())
    }

    /// As [`Self::new`] with kernels of choice, for measurements and differential tests.
    pub fn with_backend(backend: Backend) -> Self {
        Self { backend, states: [A::START; LANES_MAX], messages: Vec::with_capacity(LANES_MAX) }
    }

    /// Messages under way.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether no message is under way.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Messages that find a lane.
    pub fn room(&self) -> usize {
        self.backend.lanes::<A>() - self.messages.len()
    }

    /// Gives a lane to `message`. Panics when there is no [`Self::room`].
    pub fn push(&mut self, message: T) {
        assert!(self.room() > 0, "all {} lanes are taken", self.backend.lanes::<A>());
        self.states[self.messages.len()] = A::START;
        self.messages.push(Message::new(message));
    }

    /// Hashes at most `blocks_max` blocks of every message, and hands those that end to `done`. Ends sooner when
    /// a message does, so that its lane can be given to another. Does nothing without messages; panics when
    /// `blocks_max` is 0.
    pub fn advance(&mut self, blocks_max: usize, mut done: impl FnMut(T, A::Digest)) {
        let active = self.messages.len();
        let mut left: [&[Block]; LANES_MAX] = [&[]; LANES_MAX];
        for (left, message) in left.iter_mut().zip(&self.messages) {
            *left = message.left();
        }
        let count = turn::<A>(self.backend, &mut self.states[..active], &left[..active], blocks_max);
        // From the back, so that what a removal moves has been looked at.
        for lane in (0..active).rev() {
            self.messages[lane].done += count;
            if self.messages[lane].has_ended() {
                let state = self.states[lane];
                let message = self.messages.swap_remove(lane);
                self.states[lane] = self.states[self.messages.len()];
                done(message.bytes, A::digest(state));
            }
        }
    }
}

/// Takes equally many blocks of each message, as many as all have and at most `blocks_max`, and returns how many.
/// Panics when that is 0, unless there are no messages.
pub(super) fn turn<A: Algorithm>(
    backend: Backend,
    states: &mut [A::State],
    left: &[&[Block]],
    blocks_max: usize,
) -> usize {
    let Some(common) = left.iter().map(|blocks| blocks.len()).min() else { return 0 };
    let count = common.min(blocks_max);
    assert!(count > 0, "a turn of no blocks");
    let mut heads: [&[Block]; LANES_MAX] = [&[]; LANES_MAX];
    for (head, blocks) in heads.iter_mut().zip(left) {
        *head = &blocks[..count];
    }
    backend.compress::<A>(states, &heads[..left.len()]);
    count
}

/// Hashes all `messages`, in any order, and tells the digest of each with its number.
pub fn digest_all<'a, A: Algorithm>(
    backend: Backend,
    messages: impl IntoIterator<Item = &'a [u8]>,
    mut done: impl FnMut(usize, A::Digest),
) {
    let mut waiting = messages.into_iter().enumerate().map(|(number, bytes)| Numbered { number, bytes });
    let mut lanes = Lanes::<A, _>::with_backend(backend);
    loop {
        while lanes.room() > 0
            && let Some(message) = waiting.next()
        {
            lanes.push(message);
        }
        if lanes.is_empty() {
            return;
        }
        lanes.advance(usize::MAX, |message, digest| done(message.number, digest));
    }
}

struct Numbered<'a> {
    number: usize,
    bytes: &'a [u8],
}

impl AsRef<[u8]> for Numbered<'_> {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

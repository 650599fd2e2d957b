//! Scatter receive: block payloads go from the socket straight to their place, with no copy of ours.
//!
//! ```text
//! stream   …rest of block A │hdr B│ payload of B        │hdr C│ payload of C        │HAVE…
//! plan     Block A          │Scr. │ Block B             │Scr. │ Block C             │Scratch
//! ```
//!
//! [`Receiver::plan`] predicts the stream from what was asked of the peer, oldest first, and lays the next receive out
//! accordingly; [`Receiver::commit`] walks what arrived. While every header is the predicted one, it looks at 13 bytes
//! a block. At the first difference (a HAVE in between, another order, a reject, another length) all that is left of
//! the receive is copied out, in stream order, before anything is written, and parsed plainly.
//!
//! Invariants:
//! * Segments never overlap, but for scratch that only takes bytes nobody wants. `Scratch` and `Block` alternate
//!   otherwise, and a plan's segments are never empty.
//! * A scratch segment before the plan's last one is never longer than up to the end of a first PIECE header in it.
//!   So no payload is written while bytes in block places still wait to be copied out.
//! * Scratch stays at one address until [`Receiver::resize_scratch`], even if the receiver moves.
//!
//! What the shard, which owns a receiver per connection, has to keep:
//! * A receiver must outlive the receive that its plan was handed to; exactly one [`Receiver::commit`] follows each
//!   plan (0 bytes for a receive that failed or was cancelled).
//! * Every place in a plan may be overwritten with any bytes until the commit, whatever is retracted meanwhile. So a
//!   block's place must be in the plan of one connection only, and no other connection may complete that block in the
//!   same place while [`Receiver::is_planned`] is true: leave blocks that several peers were asked for (endgame) out
//!   of `expected`; they are then copied by [`Sink::write`].

use super::message::{PIECE_HEADER_LEN, piece_header};
use super::stream::{Ahead, Stream};
pub use super::stream::{Counters, Sink};
use crate::geometry::Block;

/// Smallest useful scratch, in bytes: a few headers and small messages.
pub const MIN_SCRATCH_LEN: usize = 64;

/// One stretch of memory that the next receive fills. Units: bytes; `len` is never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// `start..start + len` from [`Receiver::scratch_ptr`] on.
    Scratch {
        /// First byte.
        start: u32,
        /// Length.
        len: u32,
    },
    /// `offset..offset + len` within the place of `block`.
    Block {
        /// The block.
        block: Block,
        /// First byte within the block's place.
        offset: u32,
        /// Length.
        len: u32,
    },
}

impl Segment {
    /// Bytes that it takes.
    pub const fn len(&self) -> u32 {
        match *self {
            Self::Scratch { len, .. } | Self::Block { len, .. } => len,
        }
    }

    /// True when it takes nothing, which no segment of a plan does.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The receiving side of one connection, from the end of the handshake on.
#[derive(Debug)]
pub struct Receiver {
    /// A `Vec` and not a `Box`: moving a `Box` would end the validity of pointers into it.
    scratch: Vec<u8>,
    planned: Vec<Segment>,
    stream: Stream,
}

impl Receiver {
    /// A receiver with `scratch_len` bytes (4 to 32 KiB are sensible) that refuses messages other than PIECE whose
    /// body is longer than `max_message_len` bytes. Panics when `scratch_len` is below [`MIN_SCRATCH_LEN`].
    ///
    /// The longest message to expect is a BITFIELD (an eighth of the piece count) or an extension's (BEP 10).
    pub fn new(scratch_len: usize, max_message_len: u32) -> Self {
        let sane = MIN_SCRATCH_LEN..=u32::MAX as usize;
        assert!(sane.contains(&scratch_len), "{scratch_len} bytes of scratch");
        Self { scratch: vec![0; scratch_len], planned: Vec::new(), stream: Stream::new(max_message_len) }
    }

    /// From now on messages other than PIECE are refused whose body is longer; one that has begun is judged anew.
    pub fn set_max_message_len(&mut self, len: u32) {
        self.stream.set_max_message_len(len);
    }

    /// Where scratch segments count from. The address changes by [`Receiver::resize_scratch`] only.
    pub fn scratch_ptr(&mut self) -> *mut u8 {
        self.scratch.as_mut_ptr()
    }

    /// The first `len` bytes of scratch, after a receive that went there without a plan: a handshake.
    pub fn scratch(&self, len: usize) -> &[u8] {
        &self.scratch[..len]
    }

    /// Puts bytes where the kernel would: for receives that are played, in simulations and tests.
    pub fn write_scratch(&mut self, start: usize, bytes: &[u8]) {
        self.scratch[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Bytes of scratch.
    pub fn scratch_len(&self) -> usize {
        self.scratch.len()
    }

    /// Changes the bytes of scratch, and gives back what plans have taken: between a commit and the next plan only, for
    /// the address changes. What was received is in the stream, not in scratch.
    pub fn resize_scratch(&mut self, len: usize) {
        assert!(self.planned.is_empty(), "a plan waits for its commit");
        assert!(len >= MIN_SCRATCH_LEN, "{len} bytes of scratch");
        self.scratch = vec![0; len];
        self.planned = Vec::new();
    }

    /// What became of the payloads so far.
    pub fn counters(&self) -> Counters {
        self.stream.counters
    }

    /// The block whose payload is arriving, accepted or not.
    pub fn current(&self) -> Option<Block> {
        self.stream.current()
    }

    /// Whether the receive under way may write to the place of `block`.
    pub fn is_planned(&self, block: Block) -> bool {
        self.planned.iter().any(|segment| matches!(segment, Segment::Block { block: b, .. } if *b == block))
    }

    /// Whether a plan waits for its commit.
    pub fn in_flight(&self) -> bool {
        !self.planned.is_empty()
    }

    /// Plans the next receive: the memory to fill, in stream order, at least one byte and at most `max_segments`
    /// segments (2 or more, at most IOV_MAX).
    ///
    /// `expected` are the blocks that are outstanding at this peer, oldest first, each no longer than
    /// [`crate::geometry::MAX_REQUEST_LEN`], not empty, with a place of its own that may be overwritten until the
    /// commit. The block whose payload is arriving need not be among them. Only as many are taken as fit the plan.
    pub fn plan(&mut self, expected: impl IntoIterator<Item = Block>, max_segments: usize) -> &[Segment] {
        assert!(self.planned.is_empty(), "a plan waits for its commit");
        assert!(max_segments >= 2, "{max_segments} segments are too few");
        let Self { scratch, planned, stream } = self;
        let room = scratch.len() as u32;
        // `run` is the scratch stretch being laid out: it ends with the header before the next block.
        let (mut run_start, mut run_len, mut current, mut header_start) = (0, 0, None, &[][..]);
        match stream.ahead() {
            Ahead::Block { block, offset } => {
                current = Some(block);
                planned.push(Segment::Block { block, offset, len: block.len - offset });
            }
            Ahead::Aside { len } => {
                // Rare (endgame), and what follows is not predicted: no place is written before these bytes are read.
                planned.push(Segment::Scratch { start: 0, len: len.min(room) });
                return planned;
            }
            Ahead::Discard { mut len } => {
                // Nobody reads these bytes: the same stretch can take them again and again.
                while len > room / 2 && planned.len() + 1 < max_segments {
                    planned.push(Segment::Scratch { start: 0, len: room / 2 });
                    len -= room / 2;
                }
                run_len = len.min(room);
            }
            Ahead::Frame { len } => run_len = len.min(room),
            Ahead::Header { start } => header_start = start,
        }
        let header_len = PIECE_HEADER_LEN as u32;
        let mut tail_len = room - run_start;
        for block in expected.into_iter().filter(|block| Some(*block) != current) {
            debug_assert!(
                block.len > 0 && !planned.iter().any(|segment| overlaps(segment, block)),
                "{block:?}"
            );
            let header = piece_header(block);
            if run_len > room / 2 || !header.starts_with(header_start) {
                break;
            }
            run_len += header_len - header_start.len() as u32;
            header_start = &[];
            if planned.len() + 3 > max_segments || run_start + run_len + header_len > room {
                // More blocks follow than fit: the receive ends with a header, so their payload is not copied.
                tail_len = run_len;
                break;
            }
            planned.push(Segment::Scratch { start: run_start, len: run_len });
            planned.push(Segment::Block { block, offset: 0, len: block.len });
            (run_start, run_len) = (run_start + run_len, 0);
            tail_len = room - run_start;
        }
        planned.push(Segment::Scratch { start: run_start, len: tail_len });
        planned
    }

    /// Takes in the `n` bytes that arrived along the plan, and closes it.
    ///
    /// `spill` is any buffer, reused between calls to save allocations (one per shard will do): it is overwritten
    /// with as many of the `n` bytes as follow a misprediction. An error ends the connection: what is left of the
    /// bytes is lost, and the receiver is only good for dropping.
    ///
    /// Errors: what the sink returns, and [`super::WireError`] by way of [`Sink::Error`].
    pub fn commit<S: Sink>(&mut self, n: usize, spill: &mut Vec<u8>, sink: &mut S) -> Result<(), S::Error> {
        let room: usize = self.planned.iter().map(|segment| segment.len() as usize).sum();
        assert!(n <= room, "{n} bytes received into {room}");
        let result = self.walk(n, spill, sink);
        self.planned.clear();
        result
    }

    fn walk<S: Sink>(&mut self, n: usize, spill: &mut Vec<u8>, sink: &mut S) -> Result<(), S::Error> {
        let Self { scratch, planned, stream } = self;
        let mut left = n;
        for (at, segment) in planned.iter().enumerate() {
            let got = left.min(segment.len() as usize);
            if got == 0 {
                break;
            }
            match *segment {
                Segment::Scratch { start, .. } => {
                    let copied = stream.counters.copied;
                    stream.feed(&scratch[start as usize..start as usize + got], sink)?;
                    debug_assert!(
                        copied == stream.counters.copied || at + 1 == planned.len(),
                        "written too early"
                    );
                }
                Segment::Block { block, offset, .. } => {
                    if !stream.in_place(block, offset, got as u32, sink)? {
                        stream.counters.mispredictions += 1;
                        linearise(&planned[at..], left, scratch, sink, spill);
                        return stream.feed(spill, sink);
                    }
                }
            }
            left -= got;
        }
        Ok(())
    }

    /// Takes in bytes from a buffer of the caller's, such as what followed the handshake or was decrypted, in any
    /// fragments. Panics while a plan waits for its commit. Errors: as [`Receiver::commit`].
    pub fn feed<S: Sink>(&mut self, bytes: &[u8], sink: &mut S) -> Result<(), S::Error> {
        assert!(self.planned.is_empty(), "bytes overtake a receive under way");
        self.stream.feed(bytes, sink)
    }

    /// `block` is no longer wanted from this peer (cancelled, choked away, finished elsewhere): what is still to come
    /// of a payload that has begun is thrown away, and its [`Sink::end_block`] says so. A block that has not begun is
    /// the business of [`Sink::begin_block`].
    pub fn retract(&mut self, block: Block) {
        self.stream.retract(block);
    }
}

/// Whether `segment` may write to bytes of `block`.
fn overlaps(segment: &Segment, block: Block) -> bool {
    matches!(*segment, Segment::Block { block: other, .. } if other.piece == block.piece
        && u64::from(other.begin) < u64::from(block.begin) + u64::from(block.len)
        && u64::from(block.begin) < u64::from(other.begin) + u64::from(other.len))
}

/// Copies the first `left` bytes along `segments` to `spill`.
fn linearise<S: Sink>(segments: &[Segment], mut left: usize, scratch: &[u8], sink: &S, spill: &mut Vec<u8>) {
    spill.clear();
    for segment in segments {
        let got = left.min(segment.len() as usize);
        if got == 0 {
            break;
        }
        match *segment {
            Segment::Scratch { start, .. } => {
                spill.extend_from_slice(&scratch[start as usize..start as usize + got]);
            }
            Segment::Block { block, offset, .. } => {
                spill.extend_from_slice(sink.placed(block, offset, got as u32));
            }
        }
        left -= got;
    }
}

#[cfg(test)]
mod tests;

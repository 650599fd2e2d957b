//! The byte stream of one peer, parsed in order: frames to messages, PIECE payloads to their blocks.
//!
//! Invariant: `partial` holds the bytes of an unfinished frame from its length prefix on, and only while the state is
//! [`State::Frame`]; it never holds payload of a PIECE, and grows with the bytes that arrived, not with a length that
//! was announced. Owned by [`super::receiver::Receiver`], which decides where bytes land; this module does not care.

use super::message::{
    ID_PIECE, MAX_PIECE_BODY_LEN, Message, PIECE_HEADER_LEN, WireError, be32, check_len, is_known,
};
use crate::geometry::Block;
use crate::ids::PieceIndex;

/// Capacity of the frame buffer that an idle connection keeps, in bytes.
const KEPT_CAPACITY: usize = 256;

/// Where a connection's messages and payloads go; the shard's view of one peer.
pub trait Sink {
    /// Ends the connection. A peer's violation of the wire protocol becomes one, too.
    type Error: From<WireError>;

    /// The header of a PIECE message arrived (BEP 3). True: this block was asked for and has a place, which stays
    /// valid until [`Sink::end_block`]. False: its payload is to be thrown away.
    fn begin_block(&mut self, block: Block) -> Result<bool, Self::Error>;

    /// Whether the block that was just begun is gathered beside its place, by [`Sink::write`] alone, because another
    /// connection may be writing there. Such a block must not be among those that a plan expects.
    fn is_aside(&self, _block: Block) -> bool {
        false
    }

    /// Copies `bytes` to `offset` within the block's place. Only for the block that was begun last.
    fn write(&mut self, block: Block, offset: u32, bytes: &[u8]);

    /// The `len` bytes that the last receive put at `offset` within the block's place, for any block of its plan.
    fn placed(&self, block: Block, offset: u32, len: u32) -> &[u8];

    /// The payload of the block that was begun last is complete. `accepted`: all of it is in its place; otherwise
    /// [`Sink::begin_block`] said no, or the block was retracted meanwhile, and the bytes were wasted.
    fn end_block(&mut self, block: Block, accepted: bool) -> Result<(), Self::Error>;

    /// Any message but PIECE. A message of unknown id is announced before its body, which is skipped.
    fn message(&mut self, message: Message<'_>) -> Result<(), Self::Error>;
}

/// What became of a connection's PIECE payloads. Bytes, but for `mispredictions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Received straight into a block's place.
    pub in_place: u64,
    /// Copied to a block's place.
    pub copied: u64,
    /// Thrown away: not asked for, or retracted.
    pub discarded: u64,
    /// Receives whose rest had to be copied because the stream went another way than planned.
    pub mispredictions: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between frames, or within one that is gathered in `partial`.
    Frame,
    /// Within the payload of a PIECE; `done < block.len`.
    Payload { block: Block, done: u32, accepted: bool },
    /// Within the body of an unknown message; `left > 0`.
    Skip { left: u32 },
}

/// What the stream will bring next, as far as it is certain.
#[derive(Debug)]
pub(super) enum Ahead<'a> {
    /// The rest of an accepted block from `offset` on.
    Block { block: Block, offset: u32 },
    /// The rest of an accepted block that is gathered beside its place.
    Aside { len: u32 },
    /// Bytes that nobody wants.
    Discard { len: u32 },
    /// The rest of a frame that is no PIECE, then a frame boundary.
    Frame { len: u32 },
    /// A frame of which only these fewer than 13 bytes are known; it may be a PIECE.
    Header { start: &'a [u8] },
}

/// What the first bytes of a frame tell.
enum Head {
    /// Too little: this many bytes of the frame, prefix included, tell more.
    Short(usize),
    /// A PIECE header of 13 bytes.
    Piece(Block),
    /// Length prefix and id of an unknown message, which has this many bytes more.
    Unknown { id: u8, len: u32 },
    /// A whole frame of this many bytes, prefix included.
    Whole(usize),
}

/// Reads the start of a frame. Refuses it at the first byte that shows it is inadmissible.
fn head(frame: &[u8], max_message_len: u32) -> Result<Head, WireError> {
    if frame.len() < 4 {
        return Ok(Head::Short(4));
    }
    let len = be32(frame);
    let max = max_message_len.max(MAX_PIECE_BODY_LEN);
    if len > max {
        return Err(WireError::TooLong { len, max });
    }
    if len == 0 {
        return Ok(Head::Whole(4));
    }
    let Some(&id) = frame.get(4) else { return Ok(Head::Short(5)) };
    check_len(id, len)?;
    if id == ID_PIECE {
        if frame.len() < PIECE_HEADER_LEN {
            return Ok(Head::Short(PIECE_HEADER_LEN));
        }
        let (piece, begin) = (PieceIndex(be32(&frame[5..])), be32(&frame[9..]));
        return Ok(Head::Piece(Block { piece, begin, len: len - 9 }));
    }
    if len > max_message_len {
        return Err(WireError::TooLong { len, max: max_message_len });
    }
    if !is_known(id) {
        return Ok(Head::Unknown { id, len: len - 1 });
    }
    let whole = 4 + len as usize;
    Ok(if frame.len() < whole { Head::Short(whole) } else { Head::Whole(whole) })
}

#[derive(Debug)]
pub(super) struct Stream {
    state: State,
    partial: Vec<u8>,
    max_message_len: u32,
    /// The payload that is arriving is gathered beside its place.
    aside: bool,
    pub(super) counters: Counters,
}

impl Stream {
    pub(super) fn new(max_message_len: u32) -> Self {
        Self {
            state: State::Frame,
            partial: Vec::new(),
            max_message_len,
            aside: false,
            counters: Counters::default(),
        }
    }

    pub(super) fn set_max_message_len(&mut self, len: u32) {
        self.max_message_len = len;
    }

    /// Bytes of memory behind the unfinished frame.
    #[cfg(test)]
    pub(super) fn buffered_capacity(&self) -> usize {
        self.partial.capacity()
    }

    /// The block whose payload is arriving.
    pub(super) fn current(&self) -> Option<Block> {
        match self.state {
            State::Payload { block, .. } => Some(block),
            State::Frame | State::Skip { .. } => None,
        }
    }

    /// Gives up `block` if its payload is arriving.
    pub(super) fn retract(&mut self, retracted: Block) {
        if let State::Payload { block, accepted, .. } = &mut self.state
            && *block == retracted
        {
            *accepted = false;
        }
    }

    pub(super) fn ahead(&self) -> Ahead<'_> {
        match self.state {
            State::Payload { block, done, accepted: true } if self.aside => {
                Ahead::Aside { len: block.len - done }
            }
            State::Payload { block, done, accepted: true } => Ahead::Block { block, offset: done },
            State::Payload { block, done, accepted: false } => Ahead::Discard { len: block.len - done },
            State::Skip { left } => Ahead::Discard { len: left },
            State::Frame if self.partial.len() > 4 && self.partial[4] != ID_PIECE => {
                Ahead::Frame { len: 4 + be32(&self.partial) - self.partial.len() as u32 }
            }
            State::Frame => Ahead::Header { start: &self.partial },
        }
    }

    /// Parses the next bytes of the stream, which lie anywhere but in a block's place.
    pub(super) fn feed<S: Sink>(&mut self, mut bytes: &[u8], sink: &mut S) -> Result<(), S::Error> {
        while !bytes.is_empty() {
            let used = match self.state {
                State::Frame => self.frame(bytes, sink)?,
                State::Payload { block, done, accepted } => {
                    let len = bytes.len().min((block.len - done) as usize);
                    if accepted {
                        sink.write(block, done, &bytes[..len]);
                        self.counters.copied += len as u64;
                    } else {
                        self.counters.discarded += len as u64;
                    }
                    self.payload(block, done + len as u32, accepted, sink)?;
                    len
                }
                State::Skip { left } => {
                    let len = bytes.len().min(left as usize);
                    self.skip(left - len as u32);
                    len
                }
            };
            bytes = &bytes[used..];
        }
        Ok(())
    }

    /// The next `len` bytes of the stream lie at `offset` within the place of `block`. True when that is where they
    /// belong; false leaves everything as it was.
    pub(super) fn in_place<S: Sink>(
        &mut self,
        block: Block,
        offset: u32,
        len: u32,
        sink: &mut S,
    ) -> Result<bool, S::Error> {
        let accepted = match self.state {
            State::Payload { block: current, done, accepted } if current == block && done == offset => {
                accepted
            }
            _ => return Ok(false),
        };
        let counter = if accepted { &mut self.counters.in_place } else { &mut self.counters.discarded };
        *counter += u64::from(len);
        self.payload(block, offset + len, accepted, sink)?;
        Ok(true)
    }

    /// Parses at most one frame, or gathers it; returns how many bytes it used.
    fn frame<S: Sink>(&mut self, bytes: &[u8], sink: &mut S) -> Result<usize, S::Error> {
        if self.partial.is_empty() {
            return Ok(match head(bytes, self.max_message_len)? {
                Head::Short(_) => {
                    self.partial.extend_from_slice(bytes);
                    bytes.len()
                }
                complete => self.dispatch(complete, bytes, sink)?,
            });
        }
        let mut used = 0;
        loop {
            match head(&self.partial, self.max_message_len)? {
                Head::Short(want) => {
                    let rest = &bytes[used..];
                    let len = rest.len().min(want - self.partial.len());
                    if len == 0 {
                        return Ok(used);
                    }
                    self.partial.extend_from_slice(&rest[..len]);
                    used += len;
                }
                complete => {
                    let mut frame = std::mem::take(&mut self.partial);
                    self.dispatch(complete, &frame, sink)?;
                    if frame.capacity() <= KEPT_CAPACITY {
                        frame.clear();
                        self.partial = frame;
                    }
                    return Ok(used);
                }
            }
        }
    }

    /// Acts on a frame whose head is complete; returns how many bytes of it that covers.
    fn dispatch<S: Sink>(&mut self, head: Head, frame: &[u8], sink: &mut S) -> Result<usize, S::Error> {
        match head {
            Head::Short(_) => unreachable!("callers gather short frames"),
            Head::Piece(block) => {
                let accepted = sink.begin_block(block)?;
                self.aside = accepted && sink.is_aside(block);
                self.payload(block, 0, accepted, sink)?;
                Ok(PIECE_HEADER_LEN)
            }
            Head::Unknown { id, len } => {
                self.skip(len);
                sink.message(Message::Unknown { id, len })?;
                Ok(5)
            }
            Head::Whole(len) => {
                sink.message(Message::decode(&frame[4..len])?)?;
                Ok(len)
            }
        }
    }

    /// `done` bytes of the payload of `block` have arrived.
    fn payload<S: Sink>(
        &mut self,
        block: Block,
        done: u32,
        accepted: bool,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        if done < block.len {
            self.state = State::Payload { block, done, accepted };
            return Ok(());
        }
        self.state = State::Frame;
        sink.end_block(block, accepted)
    }

    /// `left` bytes of an unknown message are still to come.
    fn skip(&mut self, left: u32) {
        self.state = if left > 0 { State::Skip { left } } else { State::Frame };
    }
}

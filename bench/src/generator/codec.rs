//! Encoder and streaming decoder of the peer protocol (BEP 3, 6, 10), independent of the engine's.
//!
//! Role: turns received bytes into [`Frame`]s for both generators. Block payloads are never gathered: they pass
//! through as slices of the receive buffer with their offset.
//! Invariant: memory is bounded by [`MAX_BODY`], whatever the peer announces.

/// Reserved bit of the extension protocol (BEP 10): mask in byte 5 of the handshake's reserved field.
const RESERVED_EXTENDED: u8 = 0x10;
/// Reserved bit of the fast extension (BEP 6): mask in byte 7.
const RESERVED_FAST: u8 = 0x04;

/// Longest message body taken, block payloads apart: room for a bitfield of 2^23 pieces.
pub const MAX_BODY: usize = 1 << 20;
/// Bytes of a handshake (BEP 3).
pub const HANDSHAKE_LEN: usize = 68;
/// Bytes before a block: length, id, index, begin.
pub const PIECE_HEADER_LEN: usize = 13;

/// Message ids of BEP 3, 6 and 10 that the generators use.
pub mod id {
    /// BEP 3.
    pub const CHOKE: u8 = 0;
    /// BEP 3.
    pub const UNCHOKE: u8 = 1;
    /// BEP 3.
    pub const INTERESTED: u8 = 2;
    /// BEP 3.
    pub const BITFIELD: u8 = 5;
    /// BEP 3.
    pub const REQUEST: u8 = 6;
    /// BEP 3.
    pub const PIECE: u8 = 7;
    /// BEP 3.
    pub const CANCEL: u8 = 8;
    /// BEP 6.
    pub const HAVE_ALL: u8 = 14;
    /// BEP 6.
    pub const HAVE_NONE: u8 = 15;
    /// BEP 6.
    pub const REJECT: u8 = 16;
    /// BEP 10.
    pub const EXTENDED: u8 = 20;
}

/// The peer broke the protocol; its connection is closed and counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// First 20 bytes are not BEP 3's; an encrypted handshake ends here too, and clients then come back in plain.
    #[error("not a plain BitTorrent handshake")]
    NotBitTorrent,
    /// A message longer than [`MAX_BODY`] or a block longer than the largest we ask for.
    #[error("message of {0} bytes is too long")]
    TooLong(usize),
    /// A message shorter than its kind demands.
    #[error("message {0} is too short")]
    TooShort(u8),
}

/// What a peer says in its first 68 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// Speaks BEP 6.
    pub fast: bool,
    /// Speaks BEP 10.
    pub extended: bool,
    /// The torrent it wants.
    pub info_hash: [u8; 20],
    /// Its name.
    pub peer_id: [u8; 20],
}

/// One step of what a peer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Always the first.
    Handshake(Handshake),
    /// A message of length zero.
    KeepAlive,
    /// Any message but a block.
    Message {
        /// Its id.
        id: u8,
        /// What follows the id.
        body: &'a [u8],
    },
    /// A part of a block's payload, in order; the last part ends at `len`.
    Block {
        /// Piece index.
        piece: u32,
        /// Offset of the block in the piece.
        begin: u32,
        /// Bytes of the block.
        len: usize,
        /// Offset of `data` in the block.
        offset: usize,
        /// The bytes.
        data: &'a [u8],
    },
}

#[derive(Debug, Clone, Copy)]
enum State {
    Handshake,
    Length,
    Body { len: usize },
    Block { piece: u32, begin: u32, len: usize, offset: usize },
}

/// Incremental decoder of one connection's incoming bytes.
#[derive(Debug)]
pub struct FrameParser {
    state: State,
    gathered: Vec<u8>,
    /// `gathered` was lent out by the last frame.
    stale: bool,
    block_len_max: usize,
}

impl FrameParser {
    /// Expects a handshake first; refuses blocks longer than `block_len_max` bytes.
    pub fn new(block_len_max: usize) -> Self {
        Self { state: State::Handshake, gathered: Vec::with_capacity(128), stale: false, block_len_max }
    }

    /// Moves bytes from `input` until `want` are gathered; false if input ended before.
    fn gather(&mut self, input: &mut &[u8], want: usize) -> bool {
        let missing = want.saturating_sub(self.gathered.len()).min(input.len());
        let (now, later) = input.split_at(missing);
        self.gathered.extend_from_slice(now);
        *input = later;
        self.gathered.len() >= want
    }

    /// Takes the next frame off the front of `input`; `None` once all of it is consumed.
    ///
    /// Errors: see [`CodecError`]; the parser must not be used after one.
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Frame<'s>>, CodecError> {
        if self.stale {
            self.gathered.clear();
            self.stale = false;
        }
        loop {
            match self.state {
                State::Handshake => {
                    if !self.gather(input, HANDSHAKE_LEN) {
                        // Tell garbage early: an encrypted peer may wait for an answer before it sends 68 bytes.
                        let known = self.gathered.len().min(PROTOCOL.len());
                        if self.gathered[..known] != PROTOCOL[..known] {
                            return Err(CodecError::NotBitTorrent);
                        }
                        return Ok(None);
                    }
                    let handshake = parse_handshake(&self.gathered)?;
                    self.state = State::Length;
                    self.stale = true;
                    return Ok(Some(Frame::Handshake(handshake)));
                }
                State::Length => {
                    if !self.gather(input, 4) {
                        return Ok(None);
                    }
                    let len = be32(&self.gathered) as usize;
                    self.gathered.clear();
                    if len == 0 {
                        return Ok(Some(Frame::KeepAlive));
                    }
                    if len > MAX_BODY {
                        return Err(CodecError::TooLong(len));
                    }
                    self.state = State::Body { len };
                }
                State::Body { len } => {
                    if !self.gather(input, 1) {
                        return Ok(None);
                    }
                    let kind = self.gathered[0];
                    if kind == id::PIECE {
                        if len <= 9 {
                            return Err(CodecError::TooShort(kind));
                        }
                        if len - 9 > self.block_len_max {
                            return Err(CodecError::TooLong(len));
                        }
                        if !self.gather(input, 9) {
                            return Ok(None);
                        }
                        let (piece, begin) = (be32(&self.gathered[1..]), be32(&self.gathered[5..]));
                        self.gathered.clear();
                        self.state = State::Block { piece, begin, len: len - 9, offset: 0 };
                    } else {
                        if !self.gather(input, len) {
                            return Ok(None);
                        }
                        self.state = State::Length;
                        self.stale = true;
                        return Ok(Some(Frame::Message { id: kind, body: &self.gathered[1..] }));
                    }
                }
                State::Block { piece, begin, len, offset } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let (data, later) = input.split_at(input.len().min(len - offset));
                    *input = later;
                    let end = offset + data.len();
                    self.state = match end == len {
                        true => State::Length,
                        false => State::Block { piece, begin, len, offset: end },
                    };
                    return Ok(Some(Frame::Block { piece, begin, len, offset, data }));
                }
            }
        }
    }
}

const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";

/// First four bytes as a big-endian number; callers have checked the length.
fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn parse_handshake(bytes: &[u8]) -> Result<Handshake, CodecError> {
    if bytes[..20] != PROTOCOL[..] {
        return Err(CodecError::NotBitTorrent);
    }
    let twenty = |from: usize| -> [u8; 20] { std::array::from_fn(|i| bytes[from + i]) };
    Ok(Handshake {
        fast: bytes[27] & RESERVED_FAST != 0,
        extended: bytes[25] & RESERVED_EXTENDED != 0,
        info_hash: twenty(28),
        peer_id: twenty(48),
    })
}

/// The generator's handshake: BEP 3 with the bits of BEP 6 and BEP 10.
pub fn handshake(info_hash: [u8; 20], peer_id: [u8; 20]) -> [u8; HANDSHAKE_LEN] {
    let mut out = [0; HANDSHAKE_LEN];
    out[..20].copy_from_slice(PROTOCOL);
    out[25] = RESERVED_EXTENDED;
    out[27] = RESERVED_FAST;
    out[28..48].copy_from_slice(&info_hash);
    out[48..].copy_from_slice(&peer_id);
    out
}

/// Appends a message with its length prefix.
pub fn push_message(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    out.extend_from_slice(&(body.len() as u32 + 1).to_be_bytes());
    out.push(kind);
    out.extend_from_slice(body);
}

/// Appends the extension handshake (BEP 10) that announces a request queue of 2000.
pub fn push_extended_handshake(out: &mut Vec<u8>) {
    push_message(out, id::EXTENDED, b"\x00d1:mde4:reqqi2000e1:v10:ccbt-benche");
}

/// Appends a message of three numbers: REQUEST, CANCEL or REJECT.
pub fn push_block_message(out: &mut Vec<u8>, kind: u8, piece: u32, begin: u32, len: u32) {
    out.extend_from_slice(&13u32.to_be_bytes());
    out.push(kind);
    for number in [piece, begin, len] {
        out.extend_from_slice(&number.to_be_bytes());
    }
}

/// The 13 bytes in front of a block.
pub fn piece_header(piece: u32, begin: u32, len: u32) -> [u8; PIECE_HEADER_LEN] {
    let mut out = [0; PIECE_HEADER_LEN];
    out[..4].copy_from_slice(&(len + 9).to_be_bytes());
    out[4] = id::PIECE;
    out[5..9].copy_from_slice(&piece.to_be_bytes());
    out[9..].copy_from_slice(&begin.to_be_bytes());
    out
}

/// The three numbers of a REQUEST, CANCEL or REJECT body.
pub fn parse_block_message(kind: u8, body: &[u8]) -> Result<(u32, u32, u32), CodecError> {
    if body.len() < 12 {
        return Err(CodecError::TooShort(kind));
    }
    Ok((be32(body), be32(&body[4..]), be32(&body[8..])))
}

/// `reqq` of an extension handshake's body, if it names one; found by its key, without a full decoder.
pub fn parse_reqq(body: &[u8]) -> Option<usize> {
    let key = b"4:reqqi";
    let at = body.windows(key.len()).position(|window| window == key)? + key.len();
    let digits = body[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&body[at..at + digits]).ok()?.parse().ok()
}

/// Whether a bitfield has all of `pieces` set (BEP 3; spare bits at the end are ignored).
pub fn bitfield_is_full(bits: &[u8], pieces: u32) -> bool {
    (0..pieces as usize)
        .all(|piece| bits.get(piece / 8).is_some_and(|byte| byte & (0x80 >> (piece % 8)) != 0))
}

/// A bitfield with all of `pieces` set and zero spare bits.
pub fn full_bitfield(pieces: u32) -> Vec<u8> {
    let mut bits = vec![0; pieces.div_ceil(8) as usize];
    (0..pieces as usize).for_each(|piece| bits[piece / 8] |= 0x80 >> (piece % 8));
    bits
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;

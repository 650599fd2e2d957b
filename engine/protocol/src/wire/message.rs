//! One peer message: the bytes between two length prefixes.
//!
//! Invariant: [`Message::decode`] accepts a body only when its length is exactly the one its id asks for, and
//! `decode(encode(m)) == m`. Called by [`super::stream`] for every frame that is not a PIECE, and by whoever sends.

use std::net::Ipv4Addr;

use sha1::{Digest, Sha1};

use crate::geometry::{Block, MAX_REQUEST_LEN};
use crate::ids::{InfoHash, PieceIndex};

/// Bytes of a PIECE message before its payload: length prefix, id, piece, begin.
pub const PIECE_HEADER_LEN: usize = 13;
/// Longest body of a PIECE message that is accepted, in bytes.
pub const MAX_PIECE_BODY_LEN: u32 = 9 + MAX_REQUEST_LEN;

pub(super) const ID_PIECE: u8 = 7;

const ID_CHOKE: u8 = 0;
const ID_UNCHOKE: u8 = 1;
const ID_INTERESTED: u8 = 2;
const ID_NOT_INTERESTED: u8 = 3;
const ID_HAVE: u8 = 4;
const ID_BITFIELD: u8 = 5;
const ID_REQUEST: u8 = 6;
const ID_CANCEL: u8 = 8;
const ID_PORT: u8 = 9;
const ID_SUGGEST: u8 = 13;
const ID_HAVE_ALL: u8 = 14;
const ID_HAVE_NONE: u8 = 15;
const ID_REJECT: u8 = 16;
const ID_ALLOWED_FAST: u8 = 17;
const ID_EXTENDED: u8 = 20;

/// A message of the peer wire. Whether pieces and blocks exist in the torrent is for the caller to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Nothing, so that the connection stays open (BEP 3).
    KeepAlive,
    /// No request will be served (BEP 3).
    Choke,
    /// Requests are welcome (BEP 3).
    Unchoke,
    /// The sender wants pieces that the receiver has (BEP 3).
    Interested,
    /// The sender wants nothing (BEP 3).
    NotInterested,
    /// The sender now has this piece (BEP 3).
    Have(PieceIndex),
    /// What the sender has, as [`crate::bitfield::Bitfield::from_wire`] takes it (BEP 3).
    Bitfield(&'a [u8]),
    /// Asks for a block (BEP 3).
    Request(Block),
    /// A block's bytes (BEP 3).
    Piece {
        /// The piece.
        piece: PieceIndex,
        /// First byte within the piece.
        begin: u32,
        /// The bytes, at most [`MAX_REQUEST_LEN`].
        data: &'a [u8],
    },
    /// Takes a request back (BEP 3).
    Cancel(Block),
    /// UDP port of the sender's DHT node (BEP 5).
    Port(u16),
    /// A piece worth asking for (BEP 6).
    Suggest(PieceIndex),
    /// The sender has every piece (BEP 6).
    HaveAll,
    /// The sender has no piece (BEP 6).
    HaveNone,
    /// This request will not be served (BEP 6).
    Reject(Block),
    /// This piece is served even to a choked peer (BEP 6).
    AllowedFast(PieceIndex),
    /// A message of an extension (BEP 10).
    Extended {
        /// 0 is the extended handshake, others are what the receiver's handshake gave out.
        id: u8,
        /// What the extension defines.
        payload: &'a [u8],
    },
    /// A message of an id unknown to us, which BEP 3 clients ignore.
    Unknown {
        /// The id.
        id: u8,
        /// Bytes that follow the id.
        len: u32,
    },
}

/// What a peer got wrong on the wire. The connection cannot go on after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A length prefix announces more than any message of this connection may have.
    #[error("the peer announces a message of {len} bytes, at most {max} are accepted")]
    TooLong {
        /// Announced bytes.
        len: u32,
        /// The bound.
        max: u32,
    },
    /// A message of this id never has this length.
    #[error("the peer sent a message with id {id} of {len} bytes, which cannot be")]
    Length {
        /// The message id.
        id: u8,
        /// Announced body bytes, id included.
        len: u32,
    },
}

/// Refuses body lengths (id included) that messages of `id` never have. Unknown ids may have any.
pub(super) fn check_len(id: u8, len: u32) -> Result<(), WireError> {
    let fits = match id {
        ID_CHOKE | ID_UNCHOKE | ID_INTERESTED | ID_NOT_INTERESTED | ID_HAVE_ALL | ID_HAVE_NONE => len == 1,
        ID_HAVE | ID_SUGGEST | ID_ALLOWED_FAST => len == 5,
        ID_REQUEST | ID_CANCEL | ID_REJECT => len == 13,
        ID_PORT => len == 3,
        ID_EXTENDED => len >= 2,
        ID_PIECE if len > MAX_PIECE_BODY_LEN => {
            return Err(WireError::TooLong { len, max: MAX_PIECE_BODY_LEN });
        }
        ID_PIECE => len >= 9,
        _ => len >= 1,
    };
    if fits { Ok(()) } else { Err(WireError::Length { id, len }) }
}

/// Whether `id` names a message that we understand.
pub(super) fn is_known(id: u8) -> bool {
    matches!(id, ID_CHOKE..=ID_PORT | ID_SUGGEST..=ID_ALLOWED_FAST | ID_EXTENDED)
}

/// The big-endian number in the first four bytes of `bytes`, which has that many.
pub(super) fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

impl<'a> Message<'a> {
    /// Decodes one complete frame body: what follows the length prefix, empty for a keep-alive.
    ///
    /// Errors: [`WireError`] when the length is not one that the id allows.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let Some((&id, rest)) = body.split_first() else { return Ok(Self::KeepAlive) };
        check_len(id, u32::try_from(body.len()).unwrap_or(u32::MAX))?;
        let piece = || PieceIndex(be32(rest));
        let block = || Block { piece: piece(), begin: be32(&rest[4..]), len: be32(&rest[8..]) };
        Ok(match id {
            ID_CHOKE => Self::Choke,
            ID_UNCHOKE => Self::Unchoke,
            ID_INTERESTED => Self::Interested,
            ID_NOT_INTERESTED => Self::NotInterested,
            ID_HAVE => Self::Have(piece()),
            ID_BITFIELD => Self::Bitfield(rest),
            ID_REQUEST => Self::Request(block()),
            ID_PIECE => Self::Piece { piece: piece(), begin: be32(&rest[4..]), data: &rest[8..] },
            ID_CANCEL => Self::Cancel(block()),
            ID_PORT => Self::Port(u16::from_be_bytes([rest[0], rest[1]])),
            ID_SUGGEST => Self::Suggest(piece()),
            ID_HAVE_ALL => Self::HaveAll,
            ID_HAVE_NONE => Self::HaveNone,
            ID_REJECT => Self::Reject(block()),
            ID_ALLOWED_FAST => Self::AllowedFast(piece()),
            ID_EXTENDED => Self::Extended { id: rest[0], payload: &rest[1..] },
            _ => Self::Unknown { id, len: rest.len() as u32 },
        })
    }

    /// Appends the whole frame, length prefix included, to `out`.
    ///
    /// [`Message::Unknown`] is written with a body of zeros. A PIECE whose payload lies elsewhere is sent as
    /// [`piece_header`] and the payload, which saves the copy made here.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let piece_of = |piece: PieceIndex| piece.0.to_be_bytes();
        match *self {
            Self::KeepAlive => out.extend_from_slice(&[0; 4]),
            Self::Choke => frame(out, ID_CHOKE, &[]),
            Self::Unchoke => frame(out, ID_UNCHOKE, &[]),
            Self::Interested => frame(out, ID_INTERESTED, &[]),
            Self::NotInterested => frame(out, ID_NOT_INTERESTED, &[]),
            Self::Have(piece) => frame(out, ID_HAVE, &[&piece_of(piece)]),
            Self::Bitfield(bytes) => frame(out, ID_BITFIELD, &[bytes]),
            Self::Request(block) => frame(out, ID_REQUEST, &[&block_bytes(block)]),
            Self::Piece { piece, begin, data } => {
                frame(out, ID_PIECE, &[&piece_of(piece), &begin.to_be_bytes(), data]);
            }
            Self::Cancel(block) => frame(out, ID_CANCEL, &[&block_bytes(block)]),
            Self::Port(port) => frame(out, ID_PORT, &[&port.to_be_bytes()]),
            Self::Suggest(piece) => frame(out, ID_SUGGEST, &[&piece_of(piece)]),
            Self::HaveAll => frame(out, ID_HAVE_ALL, &[]),
            Self::HaveNone => frame(out, ID_HAVE_NONE, &[]),
            Self::Reject(block) => frame(out, ID_REJECT, &[&block_bytes(block)]),
            Self::AllowedFast(piece) => frame(out, ID_ALLOWED_FAST, &[&piece_of(piece)]),
            Self::Extended { id, payload } => frame(out, ID_EXTENDED, &[&[id], payload]),
            Self::Unknown { id, len } => frame(out, id, &[&vec![0; len as usize]]),
        }
    }
}

/// Appends length prefix, `id` and `parts`.
fn frame(out: &mut Vec<u8>, id: u8, parts: &[&[u8]]) {
    let len = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    out.extend_from_slice(
        &u32::try_from(len).expect("a message of ours is shorter than 4 GiB").to_be_bytes(),
    );
    out.push(id);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// A block as REQUEST, CANCEL and REJECT carry it.
fn block_bytes(block: Block) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&block.piece.0.to_be_bytes());
    bytes[4..8].copy_from_slice(&block.begin.to_be_bytes());
    bytes[8..].copy_from_slice(&block.len.to_be_bytes());
    bytes
}

/// What precedes the `block.len` bytes of payload in the PIECE message that carries `block` (BEP 3).
/// Panics when the block is longer than [`MAX_REQUEST_LEN`].
pub fn piece_header(block: Block) -> [u8; PIECE_HEADER_LEN] {
    assert!(block.len <= MAX_REQUEST_LEN, "a block of {} bytes", block.len);
    let mut header = [0; PIECE_HEADER_LEN];
    header[..4].copy_from_slice(&(9 + block.len).to_be_bytes());
    header[4] = ID_PIECE;
    header[5..9].copy_from_slice(&block.piece.0.to_be_bytes());
    header[9..].copy_from_slice(&block.begin.to_be_bytes());
    header
}

/// The pieces that a peer at `ip` may fetch while choked: the canonical set of BEP 6, in its order.
///
/// `count` pieces of the torrent's `piece_count`, or all of them when there are no more than that. `count` is meant
/// to be small (BEP 6 suggests 10): the cost is quadratic.
pub fn allowed_fast_set(ip: Ipv4Addr, info_hash: InfoHash, piece_count: u32, count: u32) -> Vec<PieceIndex> {
    if piece_count <= count {
        return (0..piece_count).map(PieceIndex).collect();
    }
    let mut seed = [0; 24];
    seed[..3].copy_from_slice(&ip.octets()[..3]);
    seed[4..].copy_from_slice(&info_hash.0);
    let mut hash: [u8; 20] = Sha1::digest(seed).into();
    let mut set = Vec::with_capacity(count as usize);
    while set.len() < count as usize {
        for word in hash.chunks_exact(4) {
            let piece = PieceIndex(be32(word) % piece_count);
            if set.len() < count as usize && !set.contains(&piece) {
                set.push(piece);
            }
        }
        hash = Sha1::digest(hash).into();
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_on_the_wire() {
        let block = Block { piece: PieceIndex(1), begin: 0x4000, len: 0x2000 };
        let cases: [(Message<'_>, &[u8]); 9] = [
            (Message::KeepAlive, &[0, 0, 0, 0]),
            (Message::Unchoke, &[0, 0, 0, 1, 1]),
            (Message::Have(PieceIndex(0x0102)), &[0, 0, 0, 5, 4, 0, 0, 1, 2]),
            (Message::Bitfield(&[0x80]), &[0, 0, 0, 2, 5, 0x80]),
            (Message::Request(block), &[0, 0, 0, 13, 6, 0, 0, 0, 1, 0, 0, 0x40, 0, 0, 0, 0x20, 0]),
            (Message::Port(6881), &[0, 0, 0, 3, 9, 0x1a, 0xe1]),
            (Message::HaveAll, &[0, 0, 0, 1, 14]),
            (Message::Reject(block), &[0, 0, 0, 13, 16, 0, 0, 0, 1, 0, 0, 0x40, 0, 0, 0, 0x20, 0]),
            (Message::Extended { id: 3, payload: b"x" }, &[0, 0, 0, 3, 20, 3, b'x']),
        ];
        for (message, bytes) in cases {
            let mut out = Vec::new();
            message.encode(&mut out);
            assert_eq!(out, bytes, "{message:?}");
        }
        let mut out = Vec::new();
        Message::Piece { piece: PieceIndex(1), begin: 0x4000, data: &[7; 0x2000] }.encode(&mut out);
        assert_eq!(out[..13], piece_header(block));
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for (id, len) in
            [(0, 2), (4, 4), (4, 6), (6, 12), (7, 8), (9, 2), (13, 1), (14, 5), (16, 14), (20, 1)]
        {
            let mut body = vec![0; len as usize];
            body[0] = id;
            assert_eq!(Message::decode(&body), Err(WireError::Length { id, len }));
        }
        let mut piece = vec![0; MAX_PIECE_BODY_LEN as usize + 1];
        piece[0] = ID_PIECE;
        assert!(matches!(Message::decode(&piece), Err(WireError::TooLong { .. })));
        assert!(matches!(Message::decode(&piece[..piece.len() - 1]), Ok(Message::Piece { .. })));
        assert_eq!(Message::decode(&[99, 1, 2]), Ok(Message::Unknown { id: 99, len: 2 }));
    }

    #[test]
    fn allowed_fast_matches_the_vectors_of_bep_6() {
        let set = |count| -> Vec<u32> {
            allowed_fast_set(Ipv4Addr::new(80, 4, 4, 200), InfoHash([0xaa; 20]), 1313, count)
                .iter()
                .map(|piece| piece.0)
                .collect()
        };
        assert_eq!(set(7), [1059, 431, 808, 1217, 287, 376, 1188]);
        assert_eq!(set(9), [1059, 431, 808, 1217, 287, 376, 1188, 353, 508]);
        let all = allowed_fast_set(Ipv4Addr::LOCALHOST, InfoHash([1; 20]), 3, 10);
        assert_eq!(all, [PieceIndex(0), PieceIndex(1), PieceIndex(2)]);
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(id in prop_oneof![0u8..24, any::<u8>()],
                                                  rest in prop::collection::vec(any::<u8>(), 0..40)) {
            let body: Vec<u8> = std::iter::once(id).chain(rest).collect();
            if let Ok(message) = Message::decode(&body) {
                let mut out = Vec::new();
                message.encode(&mut out);
                prop_assert_eq!(be32(&out) as usize, body.len());
                prop_assert_eq!(Message::decode(&out[4..]), Ok(message));
                prop_assert_eq!(matches!(message, Message::Unknown { .. }), !is_known(id));
                if is_known(id) {
                    prop_assert_eq!(&out[4..], &body[..]);
                }
            }
        }
    }
}

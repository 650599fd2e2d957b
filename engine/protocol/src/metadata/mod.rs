//! Metadata from peers (BEP 9, ut_metadata): the `info` dictionary of a magnet link, in pieces of 16 KiB.
//!
//! Role: the messages ([`MetadataMessage`]), the decisions of who fetches ([`Fetch`]), and the bound of who serves
//! ([`Served`]). Called by [`crate::torrent`], which serves, and by [`crate::fetching`]. Pure.
//!
//! Invariant: what is kept of a peer's words is bounded by [`MAX_METADATA_LEN`] and [`MAX_SIZES`], and bytes leave
//! [`Fetch`] only when their SHA-1 is the info-hash.

mod fetch;
mod serve;

pub use fetch::{Fetch, FetchEvent, FetchFault, FetchProgress, FetchTrouble, MAX_SIZES};
pub use serve::Served;

use crate::bencode::{Encoder, Limits, decode_prefix};

/// Name of the extension in the extended handshake's `m` (BEP 10).
pub const NAME: &str = "ut_metadata";
/// Bytes of a piece of metadata but for the last one (BEP 9).
pub const PIECE_LEN: u32 = 16 * 1024;
/// Largest `info` dictionary that is fetched, in bytes.
pub const MAX_METADATA_LEN: u32 = 32 << 20;
/// Bencode values in a message's dictionary: three keys and some for the future.
const MAX_TOKENS: usize = 64;

/// A ut_metadata message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataMessage<'a> {
    /// Asks for a piece.
    Request(u32),
    /// A piece.
    Data {
        /// Its index.
        piece: u32,
        /// Bytes of the whole dictionary, where the sender says so.
        total_size: Option<u32>,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// The piece will not come.
    Reject(u32),
    /// A type of message from the future, to be ignored (BEP 9).
    Unknown,
}

/// The payload is no ut_metadata message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ut_metadata message is malformed")]
pub struct MetadataError;

impl<'a> MetadataMessage<'a> {
    /// Reads the payload of an extension message.
    pub fn parse(payload: &'a [u8]) -> Result<Self, MetadataError> {
        let (document, len) =
            decode_prefix(payload, Limits { tokens: MAX_TOKENS }).map_err(|_| MetadataError)?;
        let dict = document.root().as_dict().ok_or(MetadataError)?;
        let kind = dict.get_int(b"msg_type").ok_or(MetadataError)?;
        if !(0..=2).contains(&kind) {
            return Ok(Self::Unknown);
        }
        let piece =
            dict.get_int(b"piece").and_then(|piece| u32::try_from(piece).ok()).ok_or(MetadataError)?;
        Ok(match kind {
            0 => Self::Request(piece),
            1 => {
                let total_size = dict.get_int(b"total_size").and_then(|size| u32::try_from(size).ok());
                Self::Data { piece, total_size, bytes: &payload[len..] }
            }
            _ => Self::Reject(piece),
        })
    }

    /// The payload to send. Panics for [`Self::Unknown`].
    pub fn encode(&self) -> Vec<u8> {
        let (kind, piece, total_size, bytes): (i64, u32, Option<u32>, &[u8]) = match *self {
            Self::Request(piece) => (0, piece, None, &[]),
            Self::Data { piece, total_size, bytes } => (1, piece, total_size, bytes),
            Self::Reject(piece) => (2, piece, None, &[]),
            Self::Unknown => panic!("nothing to say"),
        };
        let mut out = Encoder::new();
        out.begin_dict();
        out.key(b"msg_type").int(kind);
        out.key(b"piece").int(i64::from(piece));
        if let Some(size) = total_size {
            out.key(b"total_size").int(i64::from(size));
        }
        out.end();
        let mut payload = out.finish();
        payload.extend_from_slice(bytes);
        payload
    }
}

/// Pieces of metadata of `len` bytes.
pub const fn piece_count(len: u32) -> u32 {
    len.div_ceil(PIECE_LEN)
}

/// Bytes of `piece`; 0 past the end.
pub fn piece_len(len: u32, piece: u32) -> u32 {
    let start = u64::from(piece) * u64::from(PIECE_LEN);
    u64::from(len).saturating_sub(start).min(u64::from(PIECE_LEN)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_bep_9() {
        let parse = |text: &'static [u8]| MetadataMessage::parse(text);
        assert_eq!(parse(b"d8:msg_typei0e5:piecei0ee"), Ok(MetadataMessage::Request(0)));
        assert_eq!(parse(b"d8:msg_typei2e5:piecei7ee"), Ok(MetadataMessage::Reject(7)));
        let data = MetadataMessage::Data { piece: 0, total_size: Some(34256), bytes: b"xxxx" };
        let text = b"d8:msg_typei1e5:piecei0e10:total_sizei34256eexxxx";
        assert_eq!(parse(text), Ok(data));
        assert_eq!(data.encode(), text);
        assert_eq!(parse(b"d8:msg_typei9ee"), Ok(MetadataMessage::Unknown));
        for bad in [&b""[..], b"i0e", b"de", b"d8:msg_typei0ee", b"d8:msg_typei0e5:piecei-1ee"] {
            assert_eq!(MetadataMessage::parse(bad), Err(MetadataError));
        }
    }

    #[test]
    fn lengths_of_pieces() {
        assert_eq!([piece_count(1), piece_count(16384), piece_count(16385)], [1, 1, 2]);
        assert_eq!([piece_len(16385, 0), piece_len(16385, 1), piece_len(16385, 2)], [16384, 1, 0]);
        assert_eq!(piece_len(5, u32::MAX), 0);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(piece: u32, size: Option<u32>, bytes: Vec<u8>, kind in 0..3) {
            let message = match kind {
                0 => MetadataMessage::Request(piece),
                1 => MetadataMessage::Data { piece, total_size: size, bytes: &bytes },
                _ => MetadataMessage::Reject(piece),
            };
            let payload = message.encode();
            prop_assert_eq!(MetadataMessage::parse(&payload), Ok(message));
        }
    }
}

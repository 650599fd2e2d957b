//! Messages of one connection in words that a person can read.
//!
//! Role: a line for each message, either way, with its name and fields but no payload of blocks or metadata. Pure. Owner:
//! a connection that somebody looks at; others have none. Invariants: a line has [`LINE_CHARS`] characters at most,
//! whatever a peer sent, and none that could drive a terminal.

use std::fmt::Write;

use super::extension::{
    ExtensionHandshake, LT_DONTHAVE, LT_DONTHAVE_NAME, UT_HOLEPUNCH, UT_METADATA, UT_PEX,
};
use super::handshake::Handshake;
use super::message::Message;
use crate::bencode::{Limits, Value, decode_prefix};
use crate::geometry::Block;
use crate::holepunch::HolepunchMessage;
use crate::metainfo::escape_for_terminal;

/// Characters of a line at most.
pub const LINE_CHARS: usize = 512;
/// Bytes of a string that are shown; of a longer one or a binary one only the length is.
const STRING_BYTES: usize = 64;
/// Dictionaries and lists within each other that are shown.
const DEPTH: usize = 4;
/// Bencode values of a payload that is decoded to be shown.
const TOKENS: usize = 512;
/// Our ids of extension messages (BEP 10), which the peer's messages carry.
const OURS: [(&str, u8); 4] = [
    ("ut_pex", UT_PEX),
    ("ut_metadata", UT_METADATA),
    ("ut_holepunch", UT_HOLEPUNCH),
    (LT_DONTHAVE_NAME, LT_DONTHAVE),
];

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the peer.
    In,
    /// To the peer.
    Out,
}

/// What has to be known of a connection to name its messages.
#[derive(Clone, Debug, Default)]
pub struct WireTrace {
    /// The peer's ids of extension messages, which ours carry.
    theirs: Vec<(String, u8)>,
}

impl WireTrace {
    /// Of a connection whose extended handshake has perhaps been seen before.
    pub fn new(said: Option<&ExtensionHandshake>) -> Self {
        Self { theirs: said.map(|said| said.messages.clone()).unwrap_or_default() }
    }

    /// A handshake (BEP 3).
    pub fn handshake(handshake: &Handshake) -> String {
        let speaks = [
            (handshake.reserved.fast(), " fast"),
            (handshake.reserved.extension(), " extended"),
            (handshake.reserved.dht(), " dht"),
        ];
        let speaks: String = speaks.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
        let client = handshake.peer_id.client().map(|name| format!(" ({name})")).unwrap_or_default();
        let Handshake { info_hash, peer_id, .. } = handshake;
        line(format!("handshake info-hash {info_hash} peer-id {peer_id:?}{client} speaks:{speaks}"))
    }

    /// A block's message; its bytes are not looked at.
    pub fn block(block: Block) -> String {
        format!("piece {}", fields(block))
    }

    /// Any other message.
    pub fn message(&mut self, direction: Direction, message: &Message<'_>) -> String {
        line(match *message {
            Message::KeepAlive => "keep-alive".to_owned(),
            Message::Choke => "choke".to_owned(),
            Message::Unchoke => "unchoke".to_owned(),
            Message::Interested => "interested".to_owned(),
            Message::NotInterested => "not interested".to_owned(),
            Message::Have(piece) => format!("have index {piece}"),
            Message::Bitfield(bytes) => {
                let set: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
                format!("bitfield {set} pieces, {} bytes", bytes.len())
            }
            Message::Request(block) => format!("request {}", fields(block)),
            Message::Piece { piece, begin, data } => {
                Self::block(Block { piece, begin, len: data.len() as u32 })
            }
            Message::Cancel(block) => format!("cancel {}", fields(block)),
            Message::Port(port) => format!("port {port}"),
            Message::Suggest(piece) => format!("suggest piece index {piece}"),
            Message::HaveAll => "have all".to_owned(),
            Message::HaveNone => "have none".to_owned(),
            Message::Reject(block) => format!("reject request {}", fields(block)),
            Message::AllowedFast(piece) => format!("allowed fast index {piece}"),
            Message::Extended { id: 0, payload } => {
                if let (Direction::In, Ok(said)) = (direction, ExtensionHandshake::parse(payload)) {
                    self.theirs = said.messages;
                }
                format!("extended handshake {}", dictionary(payload))
            }
            Message::Extended { id, payload } => self.extension(direction, id, payload),
            Message::Unknown { id, len } => format!("unknown message id {id}, {len} bytes"),
        })
    }

    fn extension(&self, direction: Direction, id: u8, payload: &[u8]) -> String {
        let name = match direction {
            Direction::In => OURS.iter().find(|(_, known)| *known == id).map(|(name, _)| *name),
            Direction::Out => {
                self.theirs.iter().find(|(_, known)| *known == id).map(|(name, _)| name.as_str())
            }
        };
        let what = match name {
            Some(name) if name == LT_DONTHAVE_NAME && payload.len() == 4 => {
                format!("index {}", super::message::be32(payload))
            }
            Some("ut_holepunch") => match HolepunchMessage::parse(payload) {
                Ok(message) => format!("{message:?}"),
                Err(_) => format!("malformed, {} bytes", payload.len()),
            },
            Some(_) => dictionary(payload),
            None => format!("{} bytes", payload.len()),
        };
        format!("extended {} (id {id}) {what}", name.unwrap_or("unknown"))
    }
}

/// At most [`LINE_CHARS`], and safe to show.
fn line(text: String) -> String {
    let text = escape_for_terminal(&text);
    match text.char_indices().nth(LINE_CHARS) {
        None => text.into_owned(),
        Some((end, _)) => {
            let cut = text[..end].char_indices().next_back().map_or(0, |(last, _)| last);
            format!("{}…", &text[..cut])
        }
    }
}

fn fields(block: Block) -> String {
    format!("index {} begin {} length {}", block.piece, block.begin, block.len)
}

/// A bencoded dictionary, and how many bytes follow it.
fn dictionary(payload: &[u8]) -> String {
    let Ok((document, used)) = decode_prefix(payload, Limits { tokens: TOKENS }) else {
        return format!("{} bytes", payload.len());
    };
    let mut text = String::new();
    show(&document.root().value(), DEPTH, &mut text);
    if used < payload.len() {
        write!(text, " and {} bytes", payload.len() - used).expect("a String takes every write");
    }
    text
}

fn show(value: &Value<'_, '_>, depth: usize, out: &mut String) {
    if out.len() > 4 * LINE_CHARS {
        return;
    }
    match value {
        Value::Int(number) => write!(out, "{number}").expect("a String takes every write"),
        Value::Bytes(bytes) => string(bytes, out),
        _ if depth == 0 => out.push('…'),
        Value::List(list) => {
            out.push('[');
            for (at, node) in list.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                show(&node.value(), depth - 1, out);
            }
            out.push(']');
        }
        Value::Dict(dict) => {
            out.push('{');
            for (at, (key, node)) in dict.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                string(key, out);
                out.push_str(": ");
                show(&node.value(), depth - 1, out);
            }
            out.push('}');
        }
    }
}

fn string(bytes: &[u8], out: &mut String) {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= STRING_BYTES && !text.chars().any(char::is_control) => out.push_str(text),
        _ => write!(out, "<{} bytes>", bytes.len()).expect("a String takes every write"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{InfoHash, PeerId, PieceIndex};
    use crate::wire::handshake::Reserved;
    use proptest::prelude::*;

    const BLOCK: Block = Block { piece: PieceIndex(7), begin: 16384, len: 16384 };

    #[test]
    fn messages_are_named_with_their_fields() {
        let mut trace = WireTrace::default();
        let mut told = |message| trace.message(Direction::In, &message);
        assert_eq!(told(Message::Request(BLOCK)), "request index 7 begin 16384 length 16384");
        assert_eq!(told(Message::Bitfield(&[0xf0, 0x01])), "bitfield 5 pieces, 2 bytes");
        assert_eq!(told(Message::Have(PieceIndex(3))), "have index 3");
        let data = [b'x'; 40];
        let piece = Message::Piece { piece: PieceIndex(1), begin: 0, data: &data };
        assert_eq!(told(piece), "piece index 1 begin 0 length 40", "no payload");
        assert_eq!(told(Message::Unknown { id: 99, len: 5 }), "unknown message id 99, 5 bytes");
        let handshake = Handshake {
            reserved: Reserved::NONE.with_fast().with_extension(),
            info_hash: InfoHash([0xab; 20]),
            peer_id: PeerId(*b"-qB4530-\x1b[2Jaaaaaaaa"),
        };
        let shown = WireTrace::handshake(&handshake);
        assert!(
            shown.contains("speaks: fast extended") && shown.contains("(qBittorrent 4.5.3.0)"),
            "{shown}"
        );
        assert!(!shown.contains('\x1b'), "{shown}");
    }

    #[test]
    fn extensions_are_named_by_whoever_gave_the_id() {
        let mut trace = WireTrace::default();
        let hello = b"d1:md11:ut_metadatai3e6:ut_pexi9ee4:reqqi250e1:v11:\xce\xbcTorrent 3e";
        let shown = trace.message(Direction::In, &Message::Extended { id: 0, payload: hello });
        assert_eq!(shown, "extended handshake {m: {ut_metadata: 3, ut_pex: 9}, reqq: 250, v: μTorrent 3}");
        let data = b"d8:msg_typei1e5:piecei0e10:total_sizei40eeSECRETSECRET";
        let ours = trace.message(Direction::Out, &Message::Extended { id: 3, payload: data });
        assert_eq!(ours, "extended ut_metadata (id 3) {msg_type: 1, piece: 0, total_size: 40} and 12 bytes");
        let theirs = trace.message(
            Direction::In,
            &Message::Extended { id: UT_PEX, payload: b"d5:added6:\0\x01\x02\x03\x04\x05e" },
        );
        assert_eq!(theirs, "extended ut_pex (id 1) {added: <6 bytes>}");
        let lost =
            trace.message(Direction::In, &Message::Extended { id: LT_DONTHAVE, payload: &[0, 0, 0, 9] });
        assert_eq!(lost, "extended lt_donthave (id 7) index 9");
        let odd = trace.message(Direction::Out, &Message::Extended { id: 77, payload: b"de" });
        assert_eq!(odd, "extended unknown (id 77) 2 bytes");
    }

    #[test]
    fn what_strangers_write_cannot_drive_a_terminal() {
        let mut trace = WireTrace::default();
        for name in ["\x1b[2J", "\u{9b}31m", "a\nb", "gpj\u{202e}.exe", "\u{2066}x\u{2069}"] {
            let payload = format!("d1:v{}:{name}e", name.len());
            let shown =
                trace.message(Direction::In, &Message::Extended { id: 0, payload: payload.as_bytes() });
            assert!(!shown.chars().any(crate::metainfo::is_unsafe_to_show), "{shown:?}");
        }
        let shown =
            trace.message(Direction::In, &Message::Extended { id: 0, payload: b"d1:v3:\xff\xfe\xfde" });
        assert_eq!(shown, "extended handshake {v: <3 bytes>}");
    }

    proptest! {
        #[test]
        fn lines_are_bounded_and_safe(
            id in 0u8..30,
            out: bool,
            body in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..2000),
                prop::collection::vec(prop_oneof![Just(b'd'), Just(b'l'), Just(b'e'), Just(b'i'), Just(b'1'), Just(b':'),
                    Just(0x1b), Just(0xe2), Just(0x80), Just(0xae)], 0..2000),
            ],
        ) {
            let mut trace = WireTrace::default();
            let direction = if out { Direction::Out } else { Direction::In };
            for body in [[&[id][..], &body].concat(), [&[20, id][..], &body].concat()] {
                let Ok(message) = Message::decode(&body) else { continue };
                let shown = trace.message(direction, &message);
                prop_assert!(shown.chars().count() <= LINE_CHARS, "{}", shown.len());
                prop_assert!(!shown.chars().any(crate::metainfo::is_unsafe_to_show), "{:?}", shown);
            }
        }
    }
}

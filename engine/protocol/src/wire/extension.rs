//! The extended handshake (BEP 10, BEP 21).
//!
//! Role: the payload of the extended message with id 0, both ways. Called by [`crate::torrent`], once or more a
//! connection. Invariant: what comes out of [`ExtensionHandshake::parse`] is bounded and safe to show, whatever came in;
//! a key whose value is of the wrong kind or nonsense counts as absent, since clients in the wild send all of that.

use std::net::IpAddr;

use crate::bencode::{Dict, Encoder, Limits, decode_prefix};
use crate::metainfo::is_unsafe_to_show;

/// Longest payload that is looked at, in bytes.
pub const MAX_PAYLOAD_LEN: usize = 64 * 1024;
/// Longest client name kept, in characters.
pub const MAX_CLIENT_CHARS: usize = 64;
/// Most extension messages kept.
pub const MAX_MESSAGES: usize = 64;
/// Longest name of an extension message that is kept, in bytes.
pub const MAX_MESSAGE_NAME_LEN: usize = 64;
/// Our id of ut_pex messages (BEP 11).
pub const UT_PEX: u8 = 1;
/// Our id of ut_metadata messages (BEP 9).
pub const UT_METADATA: u8 = 2;
/// Our id of lt_donthave messages (BEP 54).
pub const LT_DONTHAVE: u8 = 7;
/// Name of these in the extended handshake.
pub const LT_DONTHAVE_NAME: &str = "lt_donthave";
/// Our id of ut_holepunch messages (BEP 55).
pub const UT_HOLEPUNCH: u8 = 4;
/// Bencode values in a payload: a dictionary this large is no handshake.
const MAX_TOKENS: usize = 4096;

/// What the extended handshake says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtensionHandshake {
    /// Name and version (`v`), at most [`MAX_CLIENT_CHARS`], without control or direction characters.
    pub client: Option<String>,
    /// Where the sender listens for TCP (`p`), never 0.
    pub port: Option<u16>,
    /// Requests that the sender queues before it drops some (`reqq`), never 0.
    pub reqq: Option<u32>,
    /// Bytes of the `info` dictionary (`metadata_size`, BEP 9), never 0.
    pub metadata_size: Option<u32>,
    /// The receiver's address as the sender sees it (`yourip`).
    pub your_ip: Option<IpAddr>,
    /// The sender downloads nothing (BEP 21).
    pub upload_only: bool,
    /// Extension messages that the sender understands and under which id (`m`), sorted by name. An id of 0, which
    /// disables an extension, is left out.
    pub messages: Vec<(String, u8)>,
}

/// The payload is no extended handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the extended handshake is malformed")]
pub struct ExtensionError;

impl ExtensionHandshake {
    /// The id under which the sender understands the messages of `name`.
    pub fn id_of(&self, name: &str) -> Option<u8> {
        let at = self.messages.binary_search_by(|(known, _)| known.as_str().cmp(name)).ok()?;
        Some(self.messages[at].1)
    }

    /// The payload to send as [`super::Message::Extended`] with id 0.
    pub fn encode(&self) -> Vec<u8> {
        let mut messages: Vec<_> = self.messages.iter().collect();
        messages.sort();
        messages.dedup_by(|a, b| a.0 == b.0);
        let mut out = Encoder::new();
        out.begin_dict();
        out.key(b"m").begin_dict();
        for (name, id) in messages {
            out.key(name.as_bytes()).int(i64::from(*id));
        }
        out.end();
        if let Some(size) = self.metadata_size {
            out.key(b"metadata_size").int(i64::from(size));
        }
        if let Some(port) = self.port {
            out.key(b"p").int(i64::from(port));
        }
        if let Some(reqq) = self.reqq {
            out.key(b"reqq").int(i64::from(reqq));
        }
        if self.upload_only {
            out.key(b"upload_only").int(1);
        }
        if let Some(client) = &self.client {
            out.key(b"v").bytes(client.as_bytes());
        }
        match self.your_ip {
            Some(IpAddr::V4(ip)) => drop(out.key(b"yourip").bytes(&ip.octets())),
            Some(IpAddr::V6(ip)) => drop(out.key(b"yourip").bytes(&ip.octets())),
            None => {}
        }
        out.end();
        out.finish()
    }

    /// Reads a payload. Bytes after the dictionary and unknown keys are ignored, `ipv4` and `ipv6` among them: an
    /// address that a peer gives as its own is not to be trusted.
    ///
    /// Errors: not a bencoded dictionary, or longer than [`MAX_PAYLOAD_LEN`].
    pub fn parse(payload: &[u8]) -> Result<Self, ExtensionError> {
        if payload.len() > MAX_PAYLOAD_LEN {
            return Err(ExtensionError);
        }
        let (document, _) =
            decode_prefix(payload, Limits { tokens: MAX_TOKENS }).map_err(|_| ExtensionError)?;
        let dict = document.root().as_dict().ok_or(ExtensionError)?;
        let positive = |key: &[u8]| dict.get_int(key).filter(|value| *value > 0);
        let small = |key: &[u8]| u32::try_from(positive(key)?).ok();
        Ok(Self {
            client: dict.get_bytes(b"v").map(clean).filter(|name| !name.is_empty()),
            port: positive(b"p").and_then(|port| u16::try_from(port).ok()),
            reqq: positive(b"reqq").map(|reqq| u32::try_from(reqq).unwrap_or(u32::MAX)),
            metadata_size: small(b"metadata_size"),
            your_ip: dict.get_bytes(b"yourip").and_then(address),
            upload_only: dict.get_int(b"upload_only").is_some_and(|value| value != 0),
            messages: dict.get_dict(b"m").map(messages).unwrap_or_default(),
        })
    }
}

/// A client's name, safe to show: readable characters only, cut to [`MAX_CLIENT_CHARS`].
fn clean(name: &[u8]) -> String {
    // Four bytes make a character at most, so nothing behind these can count.
    let text = String::from_utf8_lossy(&name[..name.len().min(16 * MAX_CLIENT_CHARS)]);
    let shown: String = text.chars().filter(|c| !is_unsafe(*c)).take(MAX_CLIENT_CHARS).collect();
    shown.trim().to_owned()
}

/// Characters that are unsafe to show, and those that hide.
fn is_unsafe(c: char) -> bool {
    is_unsafe_to_show(c)
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn messages(dict: Dict<'_, '_>) -> Vec<(String, u8)> {
    let usable = |(name, id): (&[u8], crate::bencode::Node<'_, '_>)| {
        let id = u8::try_from(id.as_int()?).ok().filter(|id| *id != 0)?;
        let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= MAX_MESSAGE_NAME_LEN)?;
        Some((name.to_owned(), id))
    };
    let mut messages: Vec<_> = dict.iter().filter_map(usable).take(MAX_MESSAGES).collect();
    messages.sort();
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn real_payloads() {
        let libtorrent =
            b"d12:complete_agoi3e1:md11:lt_donthavei7e10:share_modei8e11:upload_onlyi3e12:ut_holepunchi4e\
            11:ut_metadatai2e6:ut_pexi1ee13:metadata_sizei10233e1:pi6881e4:reqqi2000e11:upload_onlyi1e\
            1:v18:libtorrent/2.0.9.06:yourip4:\x7f\0\0\x01e";
        let hello = ExtensionHandshake::parse(libtorrent).unwrap();
        assert_eq!(hello.client.as_deref(), Some("libtorrent/2.0.9.0"));
        assert_eq!((hello.port, hello.reqq, hello.metadata_size), (Some(6881), Some(2000), Some(10233)));
        assert_eq!(hello.your_ip, Some(Ipv4Addr::LOCALHOST.into()));
        assert!(hello.upload_only);
        assert_eq!(hello.messages.len(), 6);
        assert!(hello.messages.contains(&("ut_metadata".into(), 2)));

        let transmission =
            b"d1:ei1e4:ipv616:aaaaaaaaaaaaaaaa1:md11:ut_metadatai3e6:ut_pexi0ee13:metadata_sizei0e\
            1:pi51413e4:reqqi512e11:upload_onlyi0e1:v17:Transmission 4.0.e";
        let hello = ExtensionHandshake::parse(transmission).unwrap();
        assert_eq!((hello.port, hello.reqq, hello.metadata_size), (Some(51413), Some(512), None));
        assert_eq!((hello.your_ip, hello.upload_only), (None, false));
        assert_eq!(hello.messages, [("ut_metadata".into(), 3)]);
        assert_eq!(ExtensionHandshake::parse(b"de"), Ok(ExtensionHandshake::default()));
    }

    #[test]
    fn hostile_payloads() {
        for malformed in [&b""[..], b"i1e", b"le", b"d", b"d1:m", b"\xff\xfe", &[b'l'; 60_000]] {
            assert_eq!(ExtensionHandshake::parse(malformed), Err(ExtensionError));
        }
        let mut long = b"d1:v70000:".to_vec();
        long.resize(70_010, b'x');
        long.push(b'e');
        assert_eq!(ExtensionHandshake::parse(&long), Err(ExtensionError));
        let wrong = b"d1:mi3e13:metadata_sizei-1e1:p1:a4:reqqi-5e11:upload_onlyle1:vi1e6:yourip3:abce";
        assert_eq!(ExtensionHandshake::parse(wrong), Ok(ExtensionHandshake::default()));
        let outside = b"d13:metadata_sizei4294967296e1:pi65536e4:reqqi9223372036854775807ee";
        let hello = ExtensionHandshake::parse(outside).unwrap();
        assert_eq!((hello.metadata_size, hello.port, hello.reqq), (None, None, Some(u32::MAX)));
        assert_eq!(ExtensionHandshake::parse(b"d4:reqqi0e1:pi0ee"), Ok(ExtensionHandshake::default()));
    }

    #[test]
    fn names_are_cleaned_and_cut() {
        let client = |name: &str| {
            let payload = format!("d1:v{}:{name}e", name.len());
            ExtensionHandshake::parse(payload.as_bytes()).unwrap().client
        };
        assert_eq!(client(" \x1b[31mevil\r\n\u{202e}c "), Some("[31mevilc".into()));
        assert_eq!(client("\x07"), None);
        assert_eq!(client(&"é".repeat(5000)), Some("é".repeat(MAX_CLIENT_CHARS)));
        assert!(ExtensionHandshake::parse(b"d1:v3:a\xffbe").unwrap().client.unwrap().starts_with('a'));
        let mut many = b"d1:md".to_vec();
        (0..1000).for_each(|n| many.extend_from_slice(format!("4:{n:04}i7e").as_bytes()));
        many.extend_from_slice(b"ee");
        assert_eq!(ExtensionHandshake::parse(&many).unwrap().messages.len(), MAX_MESSAGES);
    }

    fn any_handshake() -> impl Strategy<Value = ExtensionHandshake> {
        let address = prop_oneof![
            any::<[u8; 4]>().prop_map(|ip| IpAddr::from(Ipv4Addr::from(ip))),
            any::<[u8; 16]>().prop_map(|ip| IpAddr::from(Ipv6Addr::from(ip))),
        ];
        (
            prop::option::of("[!-~]([ -~]{0,20}[!-~])?"),
            prop::option::of(1u16..),
            prop::option::of(1u32..),
            prop::option::of(1u32..),
            prop::option::of(address),
            any::<bool>(),
            prop::collection::btree_map("[a-z_]{1,20}", 1u8.., 0..MAX_MESSAGES),
        )
            .prop_map(|(client, port, reqq, metadata_size, your_ip, upload_only, messages)| {
                let messages = messages.into_iter().collect();
                ExtensionHandshake { client, port, reqq, metadata_size, your_ip, upload_only, messages }
            })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(hello in any_handshake(), trailing in prop::collection::vec(any::<u8>(), 0..9)) {
            let mut payload = hello.encode();
            prop_assert_eq!(ExtensionHandshake::parse(&payload), Ok(hello.clone()));
            payload.extend(trailing);
            prop_assert_eq!(ExtensionHandshake::parse(&payload), Ok(hello));
        }

        #[test]
        fn what_is_read_can_be_written(hello in any_handshake(), at in any::<prop::sample::Index>(), byte: u8) {
            let mut payload = hello.encode();
            let at = at.index(payload.len());
            payload[at] = byte;
            if let Ok(read) = ExtensionHandshake::parse(&payload) {
                prop_assert_eq!(ExtensionHandshake::parse(&read.encode()), Ok(read));
            }
        }
    }
}

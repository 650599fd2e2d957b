//! Torrent files written by hand (BEP 3, 12, 27): good ones from a payload, and any bad one from a [`Value`].
//!
//! Owner: the test. Invariant: dictionaries are encoded with sorted keys, so the same spec gives the same bytes and the
//! same info-hash; nothing here checks its input, because bad torrents are the point of half the callers.

use std::collections::BTreeMap;

use sha1::{Digest, Sha1};

use crate::payload::Payload;

/// A bencoded value.
#[derive(Clone, Debug)]
pub enum Value {
    /// `i…e`, wide enough for numbers that no client accepts.
    Int(i128),
    /// A byte string.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Value>),
    /// A dictionary; keys come out sorted.
    Dict(BTreeMap<Vec<u8>, Value>),
}

impl Value {
    /// A byte string from text.
    pub fn text(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_vec())
    }

    /// A list of byte strings.
    pub fn texts(texts: &[&str]) -> Self {
        Self::List(texts.iter().map(|text| Self::text(text)).collect())
    }

    /// A dictionary from pairs.
    pub fn dict(entries: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        Self::Dict(entries.into_iter().map(|(key, value)| (key.as_bytes().to_vec(), value)).collect())
    }

    /// The bencoded bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Int(number) => out.extend(format!("i{number}e").bytes()),
            Self::Bytes(bytes) => encode_bytes(bytes, out),
            Self::List(items) => {
                out.push(b'l');
                items.iter().for_each(|item| item.encode_into(out));
                out.push(b'e');
            }
            Self::Dict(entries) => {
                out.push(b'd');
                for (key, value) in entries {
                    encode_bytes(key, out);
                    value.encode_into(out);
                }
                out.push(b'e');
            }
        }
    }
}

fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(format!("{}:", bytes.len()).bytes());
    out.extend_from_slice(bytes);
}

/// What a torrent says beyond its payload.
#[derive(Clone, Debug)]
pub struct TorrentSpec {
    /// Bytes per piece.
    pub piece_len: usize,
    /// The announce URL, if any.
    pub announce: Option<String>,
    /// Tiers of announce URLs (BEP 12); empty for none.
    pub tiers: Vec<Vec<String>>,
    /// BEP 27.
    pub private: bool,
    /// Bytes under a key of the info dictionary that means nothing: large metadata of a small payload.
    pub filler: usize,
}

impl TorrentSpec {
    /// A public torrent without a tracker.
    pub fn pieces_of(piece_len: usize) -> Self {
        Self { piece_len, announce: None, tiers: Vec::new(), private: false, filler: 0 }
    }

    /// The same with an announce URL.
    pub fn announce(mut self, url: String) -> Self {
        self.announce = Some(url);
        self
    }

    /// The same with metadata that is larger by `len` bytes.
    pub fn filler(mut self, len: usize) -> Self {
        self.filler = len;
        self
    }

    /// The same, for peers of its trackers only (BEP 27).
    pub fn private(mut self) -> Self {
        self.private = true;
        self
    }

    /// The same with one more tier of one tracker (BEP 12).
    pub fn tier(mut self, url: String) -> Self {
        self.tiers.push(vec![url]);
        self
    }
}

/// A torrent file and its info-hash.
pub struct Torrent {
    bytes: Vec<u8>,
    info_hash: [u8; 20],
    piece_len: usize,
    piece_count: usize,
}

impl Torrent {
    /// The torrent of `payload`.
    pub fn of(payload: &Payload, spec: &TorrentSpec) -> Self {
        let info = info_of(payload, spec);
        let info_hash = Sha1::digest(info.encode()).into();
        let mut top = BTreeMap::from([(b"info".to_vec(), info)]);
        if let Some(url) = &spec.announce {
            top.insert(b"announce".to_vec(), Value::text(url));
        }
        if !spec.tiers.is_empty() {
            let tier = |urls: &Vec<String>| Value::List(urls.iter().map(|url| Value::text(url)).collect());
            top.insert(b"announce-list".to_vec(), Value::List(spec.tiers.iter().map(tier).collect()));
        }
        let piece_count = payload.len().div_ceil(spec.piece_len);
        Self { bytes: Value::Dict(top).encode(), info_hash, piece_len: spec.piece_len, piece_count }
    }

    /// The `.torrent` file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-1 of the bencoded info dictionary.
    pub fn info_hash(&self) -> [u8; 20] {
        self.info_hash
    }

    /// The info-hash in lower-case hexadecimal.
    pub fn info_hash_hex(&self) -> String {
        self.info_hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Bytes per piece.
    pub fn piece_len(&self) -> usize {
        self.piece_len
    }

    /// Number of pieces.
    pub fn piece_count(&self) -> usize {
        self.piece_count
    }
}

/// The info dictionary of `payload` (BEP 3): `length` for one file, `files` for a tree.
pub fn info_of(payload: &Payload, spec: &TorrentSpec) -> Value {
    let data = payload.concatenated();
    let pieces =
        data.chunks(spec.piece_len).flat_map(|piece| <[u8; 20]>::from(Sha1::digest(piece))).collect();
    let mut info = BTreeMap::from([
        (b"name".to_vec(), Value::text(payload.name())),
        (b"piece length".to_vec(), int(spec.piece_len)),
        (b"pieces".to_vec(), Value::Bytes(pieces)),
    ]);
    if spec.filler > 0 {
        info.insert(b"x-filler".to_vec(), Value::Bytes(crate::payload::noise(7, spec.filler)));
    }
    if spec.private {
        info.insert(b"private".to_vec(), Value::Int(1));
    }
    if payload.is_single() {
        info.insert(b"length".to_vec(), int(data.len()));
    } else {
        let files = payload.files().map(|file| {
            let path = Value::List(file.path.iter().map(|part| Value::text(part)).collect());
            let mut entry = vec![("length", int(file.bytes.len())), ("path", path)];
            if file.pad {
                entry.push(("attr", Value::text("p")));
            }
            Value::dict(entry)
        });
        info.insert(b"files".to_vec(), Value::List(files.collect()));
    }
    Value::Dict(info)
}

fn int(number: usize) -> Value {
    Value::Int(i128::try_from(number).expect("a length fits"))
}

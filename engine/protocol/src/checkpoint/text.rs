//! How values that JSON does not know are written as text.
//!
//! Bitfields, of pieces and of a piece's blocks, as `LENGTH:HEX` in the order of the wire (BEP 3), info-hashes in
//! hexadecimal digits, paths as text or, when they are no UTF-8, as `{"hex": …}`.

use std::ffi::OsString;
use std::fmt::{self, Formatter};
use std::marker::PhantomData;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::PARTIAL_MAX;
use crate::bitfield::Bitfield;
use crate::ids::PieceIndex;
use crate::metainfo::MAX_FILES;
use crate::picker::{PartialPiece, Priority};
use crate::tracker::schedule::TRACKERS_MAX;

pub(super) fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16).filter(|_| !digit.is_ascii_uppercase());
    let pairs = text.as_bytes().chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| Some((value(pair[0])? << 4 | value(pair[1])?) as u8)).collect()
}

/// A list of which so many elements are kept at most: a few bytes of text may be many of memory.
pub(super) fn list<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Some<T, const MAX: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MAX: usize> de::Visitor<'de> for Some<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
            let mut kept = Vec::new();
            while kept.len() < MAX {
                match elements.next_element()? {
                    Option::Some(element) => kept.push(element),
                    None => return Ok(kept),
                }
            }
            while elements.next_element::<de::IgnoredAny>()?.is_some() {}
            Ok(kept)
        }
    }

    deserializer.deserialize_seq(Some::<T, MAX>(PhantomData))
}

/// Tiers of tracker URLs, as many of both as are ever asked.
pub(super) fn tiers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Tier(#[serde(deserialize_with = "list::<_, _, TRACKERS_MAX>")] Vec<String>);

    let tiers = list::<_, Tier, TRACKERS_MAX>(deserializer)?;
    Ok(tiers.into_iter().map(|tier| tier.0).collect())
}

/// Values with a text form of their own.
pub(super) mod shown {
    use super::*;
    use std::fmt::Display;
    use std::str::FromStr;

    pub fn serialize<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Sets of pieces.
pub(super) mod bitfield {
    use super::*;

    pub fn serialize<S: Serializer>(field: &Bitfield, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}:{}", field.len(), to_hex(field.as_wire())))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bitfield, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parse = || {
            let (len, hex) = text.split_once(':')?;
            Bitfield::from_wire(&from_hex(hex)?, len.parse().ok()?).ok()
        };
        parse().ok_or_else(|| de::Error::custom("not a set of pieces"))
    }
}

/// Pieces of which some blocks are there.
pub(super) mod partial {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Entry {
        piece: u32,
        #[serde(with = "bitfield")]
        blocks: Bitfield,
    }

    pub fn serialize<S: Serializer>(partial: &[PartialPiece], serializer: S) -> Result<S::Ok, S::Error> {
        let entry = |partial: &PartialPiece| Entry { piece: partial.piece.0, blocks: partial.blocks.clone() };
        serializer.collect_seq(partial.iter().map(entry))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PartialPiece>, D::Error> {
        let partial = |entry: Entry| PartialPiece { piece: PieceIndex(entry.piece), blocks: entry.blocks };
        Ok(list::<_, Entry, { PARTIAL_MAX + 1 }>(deserializer)?.into_iter().map(partial).collect())
    }
}

/// Priorities as words.
pub(super) mod priorities {
    use super::*;

    pub fn serialize<S: Serializer>(priorities: &[Priority], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(priorities.iter().map(|priority| priority.name()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Priority>, D::Error> {
        let read = |name: String| {
            Priority::from_name(&name).ok_or_else(|| de::Error::custom("not the name of a priority"))
        };
        list::<_, String, { MAX_FILES + 1 }>(deserializer)?.into_iter().map(read).collect()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PathText {
    Text(String),
    Bytes { hex: String },
}

impl From<&Path> for PathText {
    fn from(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes { hex: to_hex(path.as_os_str().as_bytes()) },
        }
    }
}

impl PathText {
    fn into_path<E: de::Error>(self) -> Result<PathBuf, E> {
        match self {
            Self::Text(text) => Ok(text.into()),
            Self::Bytes { hex } => {
                let bytes = from_hex(&hex).ok_or_else(|| E::custom("not a path in hexadecimal digits"))?;
                Ok(OsString::from_vec(bytes).into())
            }
        }
    }
}

/// Paths.
pub(super) mod path {
    use super::*;

    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        PathText::from(path).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        PathText::deserialize(deserializer)?.into_path()
    }
}

/// Paths that may be missing.
pub(super) mod optional_path {
    use super::*;

    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_deref().map(PathText::from).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Option::<PathText>::deserialize(deserializer)?.map(PathText::into_path).transpose()
    }
}

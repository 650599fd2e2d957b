//! A checkpoint as bytes: a binary form for every day, and JSON for people and other programs.
//!
//! ```text
//! binary  magic (8) | version u16 | flags u16, 0 | raw length u32 | packed length u32 | SHA-256 (32) | zstd frame
//! JSON    {"format":"ccbt-fast checkpoint","version":1,"sha256":"…","checkpoint":{…}}\n
//! ```
//!
//! Integers are little-endian. What is packed in the binary form is the JSON object behind `"checkpoint"`. SHA-256 covers
//! all other bytes of a binary file, and the object of a JSON file, whose other text has to be exactly as above. A CRC
//! would find single flips as surely; SHA-256 also finds what several bad sectors mix up, the crate is there anyway,
//! and a checkpoint is small.
//!
//! Invariant: nothing is parsed before its checksum is right, no more than [`RAW_LEN_MAX`] bytes are unpacked whatever
//! the frame says, and every changed bit and every missing byte of a file is an error.

use sha2::{Digest, Sha256};

use super::Checkpoint;

/// Version of both forms. A change that an older program would misread gets a new one.
pub const VERSION: u16 = 1;
/// Longest file that is read, in bytes: enough for 50 million pieces in a million files.
pub const FILE_LEN_MAX: u64 = 256 << 20;
/// Most bytes that a file unpacks to.
pub const RAW_LEN_MAX: usize = 256 << 20;

/// First bytes of the binary form: not text, and damaged by every conversion of line ends.
const MAGIC: &[u8; 8] = b"\x89CCBTCK\n";
const SUM_AT: usize = 20;
const HEADER_LEN: usize = SUM_AT + 32;
/// zstd level: beyond it sizes stay the same.
const LEVEL: i32 = 3;

const JSON_START: &str = "{\"format\":\"ccbt-fast checkpoint\",\"version\":";
const JSON_SUM: &str = ",\"sha256\":\"";
const JSON_BODY: &str = "\",\"checkpoint\":";
const JSON_END: &str = "}\n";

/// Form of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// Packed with zstd.
    #[default]
    Binary,
    /// Text.
    Json,
}

/// Why bytes are no checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They are something else.
    #[error("it is not a checkpoint of ccbt-fast")]
    Foreign,
    /// Another version of the program wrote them.
    #[error("it has version {0}, and this program reads version {VERSION}: use the program that wrote it")]
    Version(u64),
    /// They are fewer or more than were written.
    #[error("it is cut off or has bytes behind its end")]
    Length,
    /// They are not what was written.
    #[error("its checksum is wrong: it is damaged, or was edited")]
    Checksum,
    /// They would unpack to too much.
    #[error("it is larger than {} MiB", RAW_LEN_MAX >> 20)]
    TooLarge,
    /// The checksum is right, but what was written is nonsense.
    #[error("its content is wrong: {0}")]
    Content(String),
}

impl Checkpoint {
    /// As bytes.
    pub fn encode(&self, format: Format) -> Vec<u8> {
        let body = serde_json::to_string(self).expect("all of it has a text form");
        match format {
            Format::Binary => pack(body.as_bytes()),
            Format::Json => {
                let sum = hex_sum(body.as_bytes());
                format!("{JSON_START}{VERSION}{JSON_SUM}{sum}{JSON_BODY}{body}{JSON_END}").into_bytes()
            }
        }
    }

    /// From the bytes of either form.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() as u64 > FILE_LEN_MAX {
            return Err(DecodeError::TooLarge);
        }
        let unpacked;
        let body = match bytes.first() {
            Some(&first) if first == MAGIC[0] => {
                unpacked = unpack(bytes)?;
                &unpacked[..]
            }
            _ => json_body(bytes)?,
        };
        let this: Self =
            serde_json::from_slice(body).map_err(|error| DecodeError::Content(error.to_string()))?;
        match this.problem() {
            Some(problem) => Err(DecodeError::Content(problem.to_owned())),
            None => Ok(this),
        }
    }
}

fn pack(body: &[u8]) -> Vec<u8> {
    let packed = zstd::bulk::compress(body, LEVEL).expect("packing into memory fails only without memory");
    let mut bytes = Vec::with_capacity(HEADER_LEN + packed.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    for len in [body.len(), packed.len()] {
        bytes.extend_from_slice(&u32::try_from(len).expect("below the maximum").to_le_bytes());
    }
    let sum = sum(&bytes, &packed);
    bytes.extend_from_slice(&sum);
    bytes.extend_from_slice(&packed);
    bytes
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    if bytes.len() < MAGIC.len() || !bytes.starts_with(MAGIC) {
        return Err(DecodeError::Foreign);
    }
    let Some((header, packed)) = bytes.split_at_checked(HEADER_LEN) else { return Err(DecodeError::Length) };
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != VERSION {
        return Err(DecodeError::Version(version.into()));
    }
    let number = |at: usize| {
        let digits = header[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(digits) as usize
    };
    let (raw_len, packed_len) = (number(12), number(16));
    if packed.len() != packed_len {
        return Err(DecodeError::Length);
    }
    if sum(&header[..SUM_AT], packed) != header[SUM_AT..] {
        return Err(DecodeError::Checksum);
    }
    if raw_len > RAW_LEN_MAX {
        return Err(DecodeError::TooLarge);
    }
    // Never makes more than the capacity.
    let body = zstd::bulk::decompress(packed, raw_len)
        .map_err(|error| DecodeError::Content(format!("cannot be unpacked: {error}")))?;
    if body.len() != raw_len {
        return Err(DecodeError::Content("unpacks to another length".to_owned()));
    }
    Ok(body)
}

fn json_body(bytes: &[u8]) -> Result<&[u8], DecodeError> {
    let text = bytes.strip_prefix(JSON_START.as_bytes()).ok_or(DecodeError::Foreign)?;
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (version, text) = text.split_at(digits);
    let version = std::str::from_utf8(version).expect("digits");
    match version.parse::<u64>() {
        Ok(number) if number == u64::from(VERSION) && version.len() == 1 => {}
        Ok(number) => return Err(DecodeError::Version(number)),
        Err(_) => return Err(DecodeError::Foreign),
    }
    let text = text.strip_prefix(JSON_SUM.as_bytes()).ok_or(DecodeError::Foreign)?;
    let (sum, text) = text.split_at_checked(64).ok_or(DecodeError::Length)?;
    let text = text.strip_prefix(JSON_BODY.as_bytes()).ok_or(DecodeError::Foreign)?;
    let body = text.strip_suffix(JSON_END.as_bytes()).ok_or(DecodeError::Length)?;
    if hex_sum(body).as_bytes() != sum {
        return Err(DecodeError::Checksum);
    }
    Ok(body)
}

fn sum(header: &[u8], packed: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(header).chain_update(packed).finalize().into()
}

fn hex_sum(body: &[u8]) -> String {
    super::text::to_hex(&Sha256::digest(body))
}

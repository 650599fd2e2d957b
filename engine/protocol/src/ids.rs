//! Typed identifiers, so that a piece index is never mistaken for a block offset or a count.

use std::fmt;
use std::str::FromStr;

/// SHA-1 of a torrent's raw `info` dictionary: the name of a v1 swarm (BEP 3).
#[derive(Default, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InfoHash(pub [u8; 20]);

/// The 20 bytes a client names itself with in handshakes and announces (BEP 3, BEP 20).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub [u8; 20]);

/// Zero-based index of a piece within its torrent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PieceIndex(pub u32);

/// Names one torrent inside one process; never reused while the process lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TorrentKey(pub u32);

impl PieceIndex {
    /// The index as a slice index.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// Lower-case hexadecimal of 20 bytes.
fn write_hex(bytes: &[u8; 20], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

/// The text was not 40 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an info-hash is 40 hexadecimal digits")]
pub struct InfoHashParseError;

impl FromStr for InfoHash {
    type Err = InfoHashParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        if digits.len() != 40 {
            return Err(InfoHashParseError);
        }
        let mut hash = [0; 20];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |d: u8| char::from(d).to_digit(16).ok_or(InfoHashParseError);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(Self(hash))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Peer ids are chosen by strangers: escaped, they cannot drive a terminal.
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Display for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PeerId {
    /// Azureus-style prefix of this client (BEP 20), followed by 12 random bytes.
    pub const PREFIX: &'static [u8; 8] = b"-CF0100-";

    /// A fresh id: [`PeerId::PREFIX`] and 12 alphanumeric characters from `rng`.
    pub fn random(rng: &mut impl rand::Rng) -> Self {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-.";
        let mut id = [0; 20];
        rng.fill_bytes(&mut id);
        for byte in &mut id {
            *byte = ALPHABET[usize::from(*byte % 64)];
        }
        id[..8].copy_from_slice(Self::PREFIX);
        Self(id)
    }
}

/// Names of programs by the two letters of Azureus-style peer ids (BEP 20).
const CLIENTS: [(&[u8; 2], &str); 14] = [
    (b"A2", "aria2"),
    (b"AZ", "Vuze"),
    (b"BI", "BiglyBT"),
    (b"CF", "ccbt-fast"),
    (b"DE", "Deluge"),
    (b"KT", "KTorrent"),
    (b"LT", "libtorrent"),
    (b"TR", "Transmission"),
    (b"TX", "Tixati"),
    (b"UM", "µTorrent for Mac"),
    (b"UT", "µTorrent"),
    (b"lt", "rTorrent"),
    (b"qB", "qBittorrent"),
    (b"rQ", "rqbit"),
];

impl PeerId {
    /// Program and version by the customs of BEP 20 (`-qB4500-…`), safe to show; `None` when the id follows none of them.
    pub fn client(&self) -> Option<String> {
        let [b'-', a, b, version @ .., b'-'] = &self.0[..8] else { return None };
        if !a.is_ascii_alphanumeric() || !b.is_ascii_alphanumeric() {
            return None;
        }
        let name = CLIENTS.iter().find(|(letters, _)| **letters == [*a, *b]).map(|(_, name)| *name);
        let name = name.map_or_else(|| format!("{}{}", char::from(*a), char::from(*b)), str::to_owned);
        let numbers: Option<Vec<String>> =
            version.iter().map(|c| char::from(*c).to_digit(36).map(|digit| digit.to_string())).collect();
        Some(format!("{name} {}", numbers?.join(".")))
    }
}

/// CRC-32C (Castagnoli, reflected) of `bytes`, which BEP 40 and BEP 42 make of addresses. Bit by bit: 32 bytes at most.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_hash_text_round_trips() {
        let text = "0123456789abcdef0123456789ABCDEF01234567";
        let hash: InfoHash = text.parse().unwrap();
        assert_eq!(hash.to_string(), text.to_lowercase());
        assert!("xyz".parse::<InfoHash>().is_err());
        assert!("é123456789abcdef0123456789ABCDEF0123456".parse::<InfoHash>().is_err());
    }

    #[test]
    fn peer_ids_tell_programs() {
        assert_eq!(PeerId(*b"-qB4530-abcdefghijkl").client().as_deref(), Some("qBittorrent 4.5.3.0"));
        assert_eq!(PeerId(*b"-XX12A0-abcdefghijkl").client().as_deref(), Some("XX 1.2.10.0"));
        for odd in [b"M7-9-2--abcdefghijkl", b"-\x1b[1000-abcdefghijkl", b"-qB1\x1b00-abcdefghijkl"] {
            assert_eq!(PeerId(*odd).client(), None, "{odd:?}");
        }
    }

    #[test]
    fn hostile_peer_ids_print_escaped() {
        assert!(!format!("{:?}", PeerId(*b"\x1b[2Jaaaaaaaaaaaaaaaa")).contains('\x1b'));
    }
}

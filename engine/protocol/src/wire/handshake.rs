//! The handshake that opens a connection: 68 bytes each way (BEP 3).
//!
//! ```text
//! 0       1                     20          28           48           68
//! | 19    | BitTorrent protocol | reserved  | info-hash  | peer id    |
//! ```
//!
//! Invariant: a [`HandshakeReader`] never takes a byte that is not the handshake's, so what follows in the same
//! receive belongs to the messages; and it refuses a foreign protocol at the first byte that differs. Called by a
//! shard for every new connection, incoming (info-hash chooses the torrent) and outgoing.

use crate::ids::{InfoHash, PeerId};

/// Bytes of a handshake.
pub const HANDSHAKE_LEN: usize = 68;

const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";
const INFO_HASH_AT: usize = 28;
const PEER_ID_AT: usize = 48;

/// The eight bytes in which clients announce what they support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Reserved(pub [u8; 8]);

impl Reserved {
    /// Nothing but BEP 3.
    pub const NONE: Self = Self([0; 8]);

    /// With the bit of a DHT node, which will send PORT (BEP 5).
    pub const fn with_dht(mut self) -> Self {
        self.0[7] |= 0x01;
        self
    }

    /// With the bit of the fast extension (BEP 6).
    pub const fn with_fast(mut self) -> Self {
        self.0[7] |= 0x04;
        self
    }

    /// With the bit of the extension protocol (BEP 10).
    pub const fn with_extension(mut self) -> Self {
        self.0[5] |= 0x10;
        self
    }

    /// Whether the sender runs a DHT node (BEP 5).
    pub const fn dht(self) -> bool {
        self.0[7] & 0x01 != 0
    }

    /// Whether the sender speaks the fast extension (BEP 6).
    pub const fn fast(self) -> bool {
        self.0[7] & 0x04 != 0
    }

    /// Whether the sender speaks the extension protocol (BEP 10).
    pub const fn extension(self) -> bool {
        self.0[5] & 0x10 != 0
    }
}

/// A whole handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// What the sender supports.
    pub reserved: Reserved,
    /// The torrent it wants to talk about.
    pub info_hash: InfoHash,
    /// The sender's name.
    pub peer_id: PeerId,
}

/// Why bytes are no handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Another protocol, or an encrypted handshake (MSE), which looks like random bytes.
    #[error("the peer does not open with the BitTorrent handshake (byte {at} differs)")]
    Protocol {
        /// Position of the first byte that differs.
        at: usize,
    },
}

impl Handshake {
    /// The bytes to send.
    pub fn encode(&self) -> [u8; HANDSHAKE_LEN] {
        let mut bytes = [0; HANDSHAKE_LEN];
        bytes[..PROTOCOL.len()].copy_from_slice(PROTOCOL);
        bytes[PROTOCOL.len()..INFO_HASH_AT].copy_from_slice(&self.reserved.0);
        bytes[INFO_HASH_AT..PEER_ID_AT].copy_from_slice(&self.info_hash.0);
        bytes[PEER_ID_AT..].copy_from_slice(&self.peer_id.0);
        bytes
    }

    /// Reads a whole handshake.
    ///
    /// Errors: [`HandshakeError::Protocol`] when it is not BitTorrent's.
    pub fn parse(bytes: &[u8; HANDSHAKE_LEN]) -> Result<Self, HandshakeError> {
        check_protocol(bytes)?;
        let (mut reserved, mut info_hash, mut peer_id) = ([0; 8], [0; 20], [0; 20]);
        reserved.copy_from_slice(&bytes[PROTOCOL.len()..INFO_HASH_AT]);
        info_hash.copy_from_slice(&bytes[INFO_HASH_AT..PEER_ID_AT]);
        peer_id.copy_from_slice(&bytes[PEER_ID_AT..]);
        Ok(Self { reserved: Reserved(reserved), info_hash: InfoHash(info_hash), peer_id: PeerId(peer_id) })
    }
}

/// Compares as much of the protocol string as there is.
fn check_protocol(bytes: &[u8]) -> Result<(), HandshakeError> {
    match bytes.iter().zip(PROTOCOL).position(|(got, want)| got != want) {
        Some(at) => Err(HandshakeError::Protocol { at }),
        None => Ok(()),
    }
}

/// Gathers a handshake from any fragments.
#[derive(Clone, Debug)]
pub struct HandshakeReader {
    bytes: [u8; HANDSHAKE_LEN],
    len: usize,
}

impl Default for HandshakeReader {
    fn default() -> Self {
        Self { bytes: [0; HANDSHAKE_LEN], len: 0 }
    }
}

impl HandshakeReader {
    /// Takes what belongs to the handshake and returns how many bytes that was; the rest belongs to messages.
    ///
    /// Errors: [`HandshakeError::Protocol`] as soon as a byte shows that it is not BitTorrent's; the bytes up to it
    /// stay in [`HandshakeReader::as_bytes`] for whoever tries another protocol on them.
    pub fn push(&mut self, bytes: &[u8]) -> Result<usize, HandshakeError> {
        let taken = bytes.len().min(HANDSHAKE_LEN - self.len);
        self.bytes[self.len..self.len + taken].copy_from_slice(&bytes[..taken]);
        self.len += taken;
        check_protocol(self.as_bytes())?;
        Ok(taken)
    }

    /// The bytes taken so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Info-hash and feature bits once they have arrived: some clients wait for our half before they send their id.
    pub fn info_hash(&self) -> Option<(InfoHash, Reserved)> {
        let start = (self.len >= PEER_ID_AT).then(|| Handshake::parse(&self.bytes).ok())?;
        start.map(|handshake| (handshake.info_hash, handshake.reserved))
    }

    /// The handshake once it is complete.
    pub fn handshake(&self) -> Option<Handshake> {
        (self.len == HANDSHAKE_LEN).then(|| Handshake::parse(&self.bytes).ok())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Handshake {
        Handshake {
            reserved: Reserved::NONE.with_fast().with_extension(),
            info_hash: InfoHash([0xab; 20]),
            peer_id: PeerId(*b"-CF0100-abcdefghijkl"),
        }
    }

    #[test]
    fn layout_and_bits() {
        let bytes = sample().encode();
        assert_eq!(&bytes[..20], b"\x13BitTorrent protocol");
        assert_eq!(bytes[20..28], [0, 0, 0, 0, 0, 0x10, 0, 0x04]);
        assert_eq!(Handshake::parse(&bytes), Ok(sample()));
        let reserved = sample().reserved;
        assert!(reserved.fast() && reserved.extension() && !reserved.dht());
        assert!(reserved.with_dht().dht());
        assert_eq!(reserved.with_dht().0[7], 0x05);
    }

    #[test]
    fn foreign_protocols_fail_at_the_first_wrong_byte() {
        let mut reader = HandshakeReader::default();
        assert_eq!(reader.push(b"GET / HTTP/1.1\r\n"), Err(HandshakeError::Protocol { at: 0 }));
        assert_eq!(reader.as_bytes(), b"GET / HTTP/1.1\r\n");
        let mut reader = HandshakeReader::default();
        assert_eq!(reader.push(b"\x13BitT"), Ok(5));
        assert_eq!(reader.push(b"x"), Err(HandshakeError::Protocol { at: 5 }));
        assert_eq!(reader.info_hash(), None);
    }

    proptest! {
        #[test]
        fn any_fragmentation(cuts in prop::collection::vec(1usize..30, 1..80), extra in 0usize..50) {
            let mut stream = sample().encode().to_vec();
            stream.resize(HANDSHAKE_LEN + extra, 0x55);
            let mut reader = HandshakeReader::default();
            let mut taken = 0;
            let mut cuts = cuts.iter().cycle();
            while taken < HANDSHAKE_LEN {
                prop_assert_eq!(reader.handshake(), None);
                prop_assert_eq!(reader.info_hash().is_some(), taken >= 48);
                let end = stream.len().min(taken + cuts.next().unwrap());
                taken += reader.push(&stream[taken..end]).unwrap();
            }
            prop_assert_eq!(taken, HANDSHAKE_LEN);
            prop_assert_eq!(reader.push(&stream[taken..]), Ok(0));
            prop_assert_eq!(reader.handshake(), Some(sample()));
            prop_assert_eq!(reader.info_hash(), Some((sample().info_hash, sample().reserved)));
        }
    }
}

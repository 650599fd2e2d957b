//! A set of pieces, laid out as on the wire (BEP 3: high bit of the first byte is piece 0).
//!
//! Invariant: bits past `len` are zero, so counting and comparing never see them.

use crate::ids::PieceIndex;

/// Which pieces of a torrent someone has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitfield {
    bytes: Vec<u8>,
    len: u32,
    ones: u32,
}

/// Why bytes are no bitfield of this torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BitfieldError {
    /// The byte count does not fit the piece count.
    #[error("bitfield has {got} bytes, {want} expected")]
    Length {
        /// Bytes received.
        got: usize,
        /// Bytes that the torrent's piece count asks for.
        want: usize,
    },
    /// A bit past the last piece is set.
    #[error("bitfield sets bits past the last piece")]
    SpareBits,
}

impl Bitfield {
    /// No piece of `len`.
    pub fn empty(len: u32) -> Self {
        Self { bytes: vec![0; (len as usize).div_ceil(8)], len, ones: 0 }
    }

    /// Every piece of `len`.
    pub fn full(len: u32) -> Self {
        let mut bytes = vec![0xff; (len as usize).div_ceil(8)];
        if let Some(last) = bytes.last_mut().filter(|_| !len.is_multiple_of(8)) {
            *last = 0xff << (8 - len % 8);
        }
        Self { bytes, len, ones: len }
    }

    /// The payload of a BITFIELD message for a torrent of `len` pieces.
    pub fn from_wire(bytes: &[u8], len: u32) -> Result<Self, BitfieldError> {
        let want = (len as usize).div_ceil(8);
        if bytes.len() != want {
            return Err(BitfieldError::Length { got: bytes.len(), want });
        }
        if !len.is_multiple_of(8) && bytes[want - 1] << (len % 8) != 0 {
            return Err(BitfieldError::SpareBits);
        }
        let ones = bytes.iter().map(|b| b.count_ones()).sum();
        Ok(Self { bytes: bytes.to_vec(), len, ones })
    }

    /// The bytes as a BITFIELD message carries them.
    pub fn as_wire(&self) -> &[u8] {
        &self.bytes
    }

    /// Pieces in the torrent.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// True for a torrent without pieces.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Pieces in the set.
    pub fn count(&self) -> u32 {
        self.ones
    }

    /// True when every piece is in the set.
    pub fn is_full(&self) -> bool {
        self.ones == self.len
    }

    /// Whether `piece` is in the set; false when out of range.
    pub fn has(&self, piece: PieceIndex) -> bool {
        piece.0 < self.len && self.bytes[piece.as_usize() / 8] & (0x80 >> (piece.0 % 8)) != 0
    }

    /// Adds `piece`; returns whether it was new. Panics when out of range.
    pub fn insert(&mut self, piece: PieceIndex) -> bool {
        assert!(piece.0 < self.len, "piece {piece} of {}", self.len);
        let (byte, bit) = (&mut self.bytes[piece.as_usize() / 8], 0x80 >> (piece.0 % 8));
        let new = *byte & bit == 0;
        *byte |= bit;
        self.ones += u32::from(new);
        new
    }

    /// Removes `piece`; returns whether it was there. Panics when out of range.
    pub fn remove(&mut self, piece: PieceIndex) -> bool {
        assert!(piece.0 < self.len, "piece {piece} of {}", self.len);
        let (byte, bit) = (&mut self.bytes[piece.as_usize() / 8], 0x80 >> (piece.0 % 8));
        let was = *byte & bit != 0;
        *byte &= !bit;
        self.ones -= u32::from(was);
        was
    }

    /// The pieces in the set, rising.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.bytes.iter().enumerate().filter(|(_, byte)| **byte != 0).flat_map(|(at, byte)| {
            let byte = *byte;
            (0..8u32)
                .filter(move |bit| byte & (0x80 >> bit) != 0)
                .map(move |bit| PieceIndex(at as u32 * 8 + bit))
        })
    }

    /// Whether `self` has a piece that `other` lacks. Both must be of one torrent.
    pub fn has_any_not_in(&self, other: &Self) -> bool {
        assert_eq!(self.len, other.len, "bitfields of two torrents");
        self.bytes.iter().zip(&other.bytes).any(|(mine, theirs)| mine & !theirs != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wire_checks() {
        assert_eq!(Bitfield::from_wire(&[0xff], 9), Err(BitfieldError::Length { got: 1, want: 2 }));
        assert_eq!(Bitfield::from_wire(&[0xff, 0x40], 9), Err(BitfieldError::SpareBits));
        let all = Bitfield::from_wire(&[0xff, 0x80], 9).unwrap();
        assert!(all.is_full());
        assert_eq!(all, Bitfield::full(9));
        assert_eq!(Bitfield::full(0), Bitfield::empty(0));
        assert!(!all.has(PieceIndex(9)));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(len in 1u32..200, ops in prop::collection::vec((any::<bool>(), 0u32..200), 0..300)) {
            let mut field = Bitfield::empty(len);
            let mut set = std::collections::BTreeSet::new();
            for (add, piece) in ops {
                let piece = PieceIndex(piece % len);
                if add {
                    prop_assert_eq!(field.insert(piece), set.insert(piece));
                } else {
                    prop_assert_eq!(field.remove(piece), set.remove(&piece));
                }
            }
            prop_assert_eq!(field.count() as usize, set.len());
            prop_assert!(field.iter().eq(set.iter().copied()));
            let again = Bitfield::from_wire(field.as_wire(), len).unwrap();
            prop_assert_eq!(again, field.clone());
            prop_assert_eq!(Bitfield::full(len).has_any_not_in(&field), !field.is_full());
        }
    }
}

//! Packets: a header of 20 bytes, a chain of extensions, a payload.
//!
//! Decoding is strict and allocates nothing: a datagram that is not a packet of version 1 from its first to its last
//! byte is refused. Unknown extensions are skipped, as BEP 29 wants.

use super::Seq;

/// Bytes of a header without extensions.
pub const HEADER_LEN: usize = 20;
/// Most extensions of one packet: clients send one or two.
const EXTENSIONS_MAX: usize = 8;
const SELECTIVE_ACK: u8 = 1;
const VERSION: u8 = 1;
/// Bytes of a selective ack that we send at most: a bit for each packet that we keep ([`super::REORDER_PACKETS_MAX`]).
pub(super) const SELECTIVE_ACK_LEN_MAX: usize = 128;

/// Kind of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Payload.
    Data = 0,
    /// The end of the stream.
    Fin = 1,
    /// An acknowledgement alone.
    State = 2,
    /// The connection is over at once.
    Reset = 3,
    /// A new connection.
    Syn = 4,
}

/// Why a datagram is not a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a uTP packet of version 1")]
pub struct Malformed;

/// A packet, its extensions and payload borrowed from the datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Connection id, chosen by who gets it (but for SYN).
    pub id: u16,
    /// The sender's clock when it sent this, in microseconds.
    pub timestamp: u32,
    /// What the last packet took on its way to the sender, by the two clocks, in microseconds; 0 = not known yet.
    pub difference: u32,
    /// Bytes that the sender has room for.
    pub window: u32,
    /// Its number; of the next packet when it is a STATE.
    pub seq: Seq,
    /// The last packet that the sender has got in order.
    pub ack: Seq,
    /// Bit `n` (least significant first): packet `ack + 2 + n` has come, too. Not empty. BEP 29 wants a multiple of 4
    /// bytes, which we send; libtorrent sends as many as it needs.
    pub selective_ack: Option<&'a [u8]>,
    /// Payload, empty for all but DATA.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Decodes a datagram. Errors: it is malformed in any way.
    // Inlined, so that the fields stay in registers: read back from memory in one load they would wait for all stores
    // before them, which are the payload of the packet before (a quarter of a microsecond for each packet).
    #[inline(always)]
    pub fn decode(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let (head, rest) = datagram.split_first_chunk::<HEADER_LEN>().ok_or(Malformed)?;
        if head[0] & 0x0f != VERSION {
            return Err(Malformed);
        }
        let kind = match head[0] >> 4 {
            0 => Kind::Data,
            1 => Kind::Fin,
            2 => Kind::State,
            3 => Kind::Reset,
            4 => Kind::Syn,
            _ => return Err(Malformed),
        };
        let be16 = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let be32 = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (selective_ack, payload) = if head[1] == 0 { (None, rest) } else { extensions(head[1], rest)? };
        Ok(Self {
            kind,
            id: be16(2),
            timestamp: be32(4),
            difference: be32(8),
            window: be32(12),
            seq: Seq(be16(16)),
            ack: Seq(be16(18)),
            selective_ack,
            payload: if kind == Kind::Data { payload } else { &[] },
        })
    }

    /// Appends header and selective ack, not the payload. Panics when the selective ack has an impossible length.
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        let mut head = [0; HEADER_LEN];
        head[0] = (self.kind as u8) << 4 | VERSION;
        head[1] = if self.selective_ack.is_some() { SELECTIVE_ACK } else { 0 };
        head[2..4].copy_from_slice(&self.id.to_be_bytes());
        head[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        head[8..12].copy_from_slice(&self.difference.to_be_bytes());
        head[12..16].copy_from_slice(&self.window.to_be_bytes());
        head[16..18].copy_from_slice(&self.seq.0.to_be_bytes());
        head[18..20].copy_from_slice(&self.ack.0.to_be_bytes());
        out.extend_from_slice(&head);
        if let Some(bits) = self.selective_ack {
            let is_right = (4..256).contains(&bits.len()) && bits.len().is_multiple_of(4);
            assert!(is_right, "a selective ack of {} bytes", bits.len());
            out.extend_from_slice(&[0, bits.len() as u8]);
            out.extend_from_slice(bits);
        }
    }
}

/// Walks the chain of extensions that begins with one of kind `kind`.
fn extensions(mut kind: u8, mut rest: &[u8]) -> Result<(Option<&[u8]>, &[u8]), Malformed> {
    let mut selective_ack = None;
    for _ in 0..EXTENSIONS_MAX {
        let (&[next, len], after) = rest.split_first_chunk::<2>().ok_or(Malformed)?;
        let (body, after) = after.split_at_checked(usize::from(len)).ok_or(Malformed)?;
        if kind == SELECTIVE_ACK {
            if body.is_empty() || selective_ack.is_some() {
                return Err(Malformed);
            }
            selective_ack = Some(body);
        }
        (kind, rest) = (next, after);
        if kind == 0 {
            return Ok((selective_ack, rest));
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(bits: Option<&[u8]>) -> Packet<'_> {
        Packet {
            kind: Kind::Data,
            id: 0x1234,
            timestamp: 0xdead_beef,
            difference: 7,
            window: 1 << 20,
            seq: Seq(0xffff),
            ack: Seq(3),
            selective_ack: bits,
            payload: b"payload",
        }
    }

    fn encoded(packet: &Packet<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        packet.encode_head(&mut out);
        out.extend_from_slice(packet.payload);
        out
    }

    #[test]
    fn round_trips() {
        for bits in [None, Some(&[1u8, 2, 3, 4][..]), Some(&[9; 128])] {
            let packet = sample(bits);
            assert_eq!(Packet::decode(&encoded(&packet)), Ok(packet));
        }
        // As in BEP 29: type 0, version 1, no extension, and so on, byte by byte.
        let head = [1, 0, 0x12, 0x34, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 7, 0, 16, 0, 0, 0xff, 0xff, 0, 3];
        assert_eq!(encoded(&sample(None))[..20], head);
    }

    #[test]
    fn skips_unknown_extensions_and_payload_of_others() {
        let mut bytes = encoded(&Packet { kind: Kind::State, payload: &[], ..sample(None) });
        bytes[1] = 2;
        bytes.extend_from_slice(&[1, 3, 9, 9, 9, 0, 4, 1, 0, 0, 0, b'x']);
        let packet = Packet::decode(&bytes).unwrap();
        assert_eq!((packet.selective_ack, packet.payload), (Some(&[1, 0, 0, 0][..]), &[][..]));
    }

    /// libtorrent's bitmask has a byte for every eight packets and no padding.
    #[test]
    fn takes_a_selective_ack_of_any_length() {
        for len in 1..=255usize {
            let mut bytes = encoded(&Packet { kind: Kind::State, payload: &[], ..sample(None) });
            bytes[1] = 1;
            bytes.extend_from_slice(&[0, len as u8]);
            bytes.resize(bytes.len() + len, 0x81);
            assert_eq!(Packet::decode(&bytes).unwrap().selective_ack, Some(&vec![0x81; len][..]));
        }
    }

    #[test]
    fn refuses_what_is_not_a_packet() {
        let good = encoded(&sample(None));
        for len in 0..HEADER_LEN {
            assert_eq!(Packet::decode(&good[..len]), Err(Malformed));
        }
        let with = |at: usize, byte: u8, more: &[u8]| {
            let mut bytes = good[..HEADER_LEN].to_vec();
            bytes[at] = byte;
            bytes.extend_from_slice(more);
            Packet::decode(&bytes).map(drop)
        };
        assert_eq!(with(0, 0x00, &[]), Err(Malformed), "version 0");
        assert_eq!(with(0, 0x02, &[]), Err(Malformed), "version 2");
        assert_eq!(with(0, 0x51, &[]), Err(Malformed), "type 5");
        assert_eq!(with(1, 1, &[]), Err(Malformed), "no extension");
        assert_eq!(with(1, 1, &[0, 4, 0, 0, 0]), Err(Malformed), "cut short");
        assert_eq!(with(1, 1, &[0, 0]), Err(Malformed), "an empty selective ack");
        assert_eq!(with(1, 1, &[1, 4, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]), Err(Malformed), "two selective acks");
        assert_eq!(with(1, 2, &[2, 0].repeat(100)), Err(Malformed), "an endless chain");
        assert_eq!(with(1, 2, &[0, 0]), Ok(()));
    }
}

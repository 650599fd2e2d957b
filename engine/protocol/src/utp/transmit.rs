//! What goes out in one system call: packets of equal size, as UDP_SEGMENT wants them.

use std::ops::Range;

use super::HEADER_LEN;

/// Packets of one call at most (the kernel's UDP_MAX_SEGMENTS is 64 up to Linux 6.8).
pub const PACKETS_MAX: usize = 64;
/// Bytes of one call at most: what a UDP datagram before segmentation may have.
pub(super) const BYTES_MAX: usize = 65_000;

/// One packet of a [`Transmit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutPacket {
    /// Bytes of [`Transmit::heads`] that are its.
    pub head: usize,
    /// Which bytes of the stream follow them.
    pub payload: Range<u64>,
}

/// Packets to send to the peer in one call: all are as long as the first, but for the last, which may be shorter.
#[derive(Debug, Default)]
pub struct Transmit {
    /// Headers of all packets, one after the other.
    pub heads: Vec<u8>,
    /// The packets.
    pub packets: Vec<OutPacket>,
    /// They may be cut into fragments on their way: do not set DF.
    pub may_fragment: bool,
    /// Bytes of all packets.
    pub len: usize,
}

impl Transmit {
    /// Bytes of each packet but the last.
    pub fn segment_len(&self) -> usize {
        self.packets
            .first()
            .map_or(0, |packet| packet.head + (packet.payload.end - packet.payload.start) as usize)
    }

    pub(super) fn clear(&mut self) {
        self.heads.clear();
        self.packets.clear();
        (self.may_fragment, self.len) = (false, 0);
    }

    /// Whether a data packet of `payload` bytes may follow those that are there.
    pub(super) fn has_room(&self, payload: usize) -> bool {
        let segment = self.segment_len();
        self.packets.is_empty()
            || (self.packets.len() < PACKETS_MAX
                && self.len.is_multiple_of(segment)
                && HEADER_LEN + payload <= segment
                && self.len + HEADER_LEN + payload <= BYTES_MAX)
    }

    /// Adds the packet whose head was appended to `heads` from `start` on.
    pub(super) fn push(&mut self, start: usize, payload: Range<u64>) {
        let head = self.heads.len() - start;
        self.len += head + (payload.end - payload.start) as usize;
        self.packets.push(OutPacket { head, payload });
    }
}

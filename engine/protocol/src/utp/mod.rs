//! uTP (BEP 29): a byte stream over UDP that gives way to other traffic.
//!
//! Role: packets, congestion control and the state of one connection. Owner: the shard's ring, which gives datagrams and
//! the time in and sends what comes out. Invariant: memory is bounded by the constants below whatever a peer sends, and
//! every connection ends: each state has a deadline, or nothing of ours is on its way.
//!
//! Order of calls on a [`Connection`]: any number of [`Connection::handle`], [`Connection::write`],
//! [`Connection::consumed`], [`Connection::close`] and (once [`Connection::deadline`] has passed)
//! [`Connection::handle_timeout`]; then [`Connection::poll_transmit`] until it returns false; then look at the getters.
//!
//! The connection never sees a byte that is to be sent: it says which range of the stream goes into which packet, and
//! the owner keeps the bytes from [`Connection::acked`] on. What arrives is lent to the owner in order; only what
//! arrived too early is copied.

mod admission;
mod connection;
mod delay;
mod inbound;
mod ledbat;
mod mtu;
mod outbound;
mod packet;
mod rtt;
mod seq;
mod transmit;

pub use admission::Admission;
pub use connection::{Config, Connection, Failure};
pub use packet::{HEADER_LEN, Kind, Malformed, Packet};
pub use seq::Seq;
pub use transmit::{OutPacket, PACKETS_MAX, Transmit};

/// Microseconds since any moment of the caller's; never goes back. Its low 32 bits are what packets carry.
pub type Micros = u64;

/// One millisecond.
pub(crate) const MS: Micros = 1000;
/// One second.
pub(crate) const SECOND: Micros = 1_000_000;

/// Packets beyond the next expected one that are kept at most; a selective ack of 128 bytes describes them.
pub const REORDER_PACKETS_MAX: usize = 1024;
/// Packets on their way at most.
pub const SENT_PACKETS_MAX: usize = 4096;
/// Bytes on their way at most.
pub const WINDOW_MAX: usize = 4 << 20;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

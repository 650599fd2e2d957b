//! The peer wire: what two BitTorrent clients say to each other over one TCP stream.
//!
//! * [`handshake`]: the first 68 bytes (BEP 3) and their feature bits;
//! * [`message`]: one complete message, decoded and encoded (BEP 3, 6, 10);
//! * [`extension`]: the extended handshake (BEP 10, 21);
//! * [`mse`]: encryption, before all that;
//! * [`receiver`]: the byte stream turned into messages, with block payloads received straight into their place;
//!   it plans and repairs, `stream` parses;
//! * [`trace`]: messages in words, for a connection that somebody looks at.
//!
//! Nothing here owns a socket: a shard calls it with the bytes it received and sends the bytes it appends.
//! Whatever a peer sends ends in a value, never in a panic, and sizes no allocation before the bytes have arrived.

pub mod extension;
pub mod handshake;
pub mod message;
pub mod mse;
pub mod receiver;
mod stream;
pub mod trace;

pub use extension::{ExtensionError, ExtensionHandshake};
pub use handshake::{Handshake, HandshakeError, HandshakeReader, Reserved};
pub use message::{Message, WireError, allowed_fast_set, piece_header};
pub use receiver::{Counters, Receiver, Segment, Sink};

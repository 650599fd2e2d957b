//! Connections on their way to a shard.
//!
//! Role: the values only; part of [`crate::messages`].

use std::net::SocketAddr;

use ccbt_protocol::ids::TorrentKey;
use ccbt_protocol::score::Record;

use crate::encryption::Encrypted;
use crate::ring::Stream;

/// An accepted connection on its way to its torrent's home, or from there to the part that is to have it.
#[derive(Debug)]
pub struct HandOff {
    /// The connection.
    pub stream: Stream,
    /// The other end.
    pub addr: SocketAddr,
    /// It has come through a handshake of MSE.
    pub encrypted: Option<Encrypted>,
    /// What has been received of its handshake and behind it, decrypted.
    pub bytes: Vec<u8>,
    /// The home of this torrent has chosen the shard, so it is not handed on; with what it knows of the peer.
    pub placed: Option<(TorrentKey, Record)>,
}

/// A uTP connection that somebody has opened, not yet on any shard.
#[derive(Debug)]
pub struct Arrival {
    /// The connection.
    pub stream: Stream,
    /// The other end.
    pub addr: SocketAddr,
}

//! What is told of a connection to those who look at it.
//!
//! Role: a value, made by [`crate::torrent::Torrent::peer_statuses`] for the session's status. Invariant: text in it was
//! cleaned when it was read.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::ids::PeerId;
use crate::picker::PeerKey;
use crate::score::{Record, Score};

/// What a status display shows of a connection.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// The connection.
    pub key: PeerKey,
    /// The other end.
    pub addr: SocketAddr,
    /// What it calls itself.
    pub id: PeerId,
    /// Payload bytes per second from it.
    pub down_rate: u64,
    /// Payload bytes per second to it.
    pub up_rate: u64,
    /// Requests on the way.
    pub outstanding: usize,
    /// Requests we keep on the way at most.
    pub window: usize,
    /// Whether it has everything.
    pub seed: bool,
    /// Whether it connected to us.
    pub incoming: bool,
    /// Whether it stopped answering.
    pub snubbed: bool,
    /// Whether it serves nothing to us (BEP 3).
    pub peer_choking: bool,
    /// Whether it wants something of us.
    pub peer_interested: bool,
    /// Whether we serve nothing to it.
    pub am_choking: bool,
    /// Whether we want something of it.
    pub am_interested: bool,
    /// Pieces that it has (a count).
    pub pieces: u32,
    /// Payload bytes from it over this connection.
    pub downloaded: u64,
    /// Payload bytes to it over this connection.
    pub uploaded: u64,
    /// When its handshake was complete.
    pub connected: Instant,
    /// Whether it is connected over uTP.
    pub utp: bool,
    /// Its program as it says itself (`v`, BEP 10), without control or direction characters.
    pub client: Option<String>,
    /// From a request to its block while no others wait, once measured.
    pub round_trip: Option<Duration>,
    /// What it did over this connection of what was expected of it.
    pub record: Record,
    /// What it is worth.
    pub score: Score,
}

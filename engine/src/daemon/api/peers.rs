//! What is told of connections, and why a torrent does what it does.

use std::net::SocketAddr;

use ccbt_protocol::wire::trace::Direction;
use serde::{Deserialize, Serialize};

use crate::explain::Finding;

/// A connection to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The other end.
    pub addr: SocketAddr,
    /// Payload bytes per second from it.
    pub down_rate: u64,
    /// Payload bytes per second to it.
    pub up_rate: u64,
    /// Whether it has everything.
    pub seed: bool,
    /// Whether it connected to us.
    pub incoming: bool,
    /// Its program as it says itself, or as its peer id says; empty: it does not say.
    pub client: String,
    /// Whether it is connected over uTP.
    pub utp: bool,
    /// Pieces that it has.
    pub pieces: u32,
    /// Payload from it over this connection.
    pub downloaded: u64,
    /// Payload to it over this connection.
    pub uploaded: u64,
    /// Seconds since its handshake.
    pub connected_seconds: u64,
    /// Whether we want something of it.
    pub am_interested: bool,
    /// Whether it serves nothing to us.
    pub peer_choking: bool,
    /// Whether it wants something of us.
    pub peer_interested: bool,
    /// Whether we serve nothing to it.
    pub am_choking: bool,
    /// Whether it owes us blocks for too long.
    pub snubbed: bool,
    /// Requests on the way to it.
    pub outstanding: usize,
    /// From a request to its block while no others wait, in milliseconds; `null`: not measured yet.
    pub round_trip_ms: Option<u64>,
    /// How good the connection is, 0 to 100.
    pub quality: u8,
    /// How reliable the peer is over all its connections, 0 to 100; 50: nothing is known.
    pub reliability: u8,
    /// Times that it owed blocks for too long.
    pub snubs: u32,
    /// Requests that were given up then.
    pub timeouts: u32,
    /// Requests that it rejected although it served us.
    pub rejects: u32,
    /// Corrupt pieces that it and others have sent.
    pub suspicions: u32,
}

/// `GET /v1/torrents/{id}/explain`: why it is slow, stuck or not seeding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Which torrent.
    pub info_hash: String,
    /// Its name.
    pub name: String,
    /// What was found, the most important first; never empty.
    pub findings: Vec<Finding>,
}

/// A line of `GET /v1/torrents/{id}/trace?peer=…`: a message to or from a peer, or what became of the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traced {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// The other end.
    pub peer: SocketAddr,
    /// Which way it went; `null`: it is about the connection.
    pub direction: Option<Way>,
    /// In words, without payload.
    pub message: String,
    /// So many lines before it found no room.
    pub dropped: u64,
}

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// From the peer.
    In,
    /// To the peer.
    Out,
}

impl From<Direction> for Way {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::In => Self::In,
            Direction::Out => Self::Out,
        }
    }
}

/// The query of `GET /v1/torrents/{id}/trace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// `IP:PORT`, or `IP` for any port.
    pub peer: String,
}

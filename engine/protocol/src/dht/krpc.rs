//! KRPC: the messages of the DHT as values (BEP 5, 32, 33, 42, 43, 44, 51).
//!
//! Role: [`Message::decode`] and [`Message::encode`] in `krpc/`, nothing else. Invariant: `decode(encode(m)) == m`, and
//! whatever is decoded is within the bounds below. What a message means is decided in [`super::node`].

mod read;
mod write;

pub(crate) use read::endpoint as read_addr;
pub(crate) use write::compact as compact_addr;

use std::net::SocketAddr;

use super::bloom::Bloom;
use super::id::{Contact, NodeId};
use crate::ids::InfoHash;

/// Bytes of a datagram that is looked at; longer ones are nobody's.
pub const DATAGRAM_MAX: usize = 2048;
/// Bytes of a transaction id.
pub const TRANSACTION_MAX: usize = 16;
/// Bytes of a token.
pub const TOKEN_MAX: usize = 64;
/// Bytes of a bencoded value (BEP 44).
pub const VALUE_MAX: usize = 1000;
/// Bytes of a salt (BEP 44).
pub const SALT_MAX: usize = 64;
/// Nodes of each family that are taken from one answer.
pub const NODES_MAX: usize = 32;
/// Peers that are taken from one answer.
pub const VALUES_MAX: usize = 128;
/// Info-hashes that are taken from one answer (BEP 51).
pub const SAMPLES_MAX: usize = 64;
/// Bytes of an error's text.
pub const TEXT_MAX: usize = 128;

/// Codes of errors (BEP 5, BEP 44).
pub mod code {
    /// Malformed, invalid arguments, bad token.
    pub const PROTOCOL: i64 = 203;
    /// A query that we do not know.
    pub const METHOD_UNKNOWN: i64 = 204;
    /// The value is too long.
    pub const TOO_LONG: i64 = 205;
    /// The signature is wrong.
    pub const BAD_SIGNATURE: i64 = 206;
    /// The salt is too long.
    pub const SALT_TOO_LONG: i64 = 207;
    /// Somebody else has stored another value meanwhile.
    pub const CAS_MISMATCH: i64 = 301;
    /// What is stored is newer.
    pub const SEQ_TOO_LOW: i64 = 302;
}

/// Which nodes an answer shall name (BEP 32).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// `n4`.
    pub v4: bool,
    /// `n6`.
    pub v6: bool,
}

/// A value with its key (BEP 44).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Bencoded, at most [`VALUE_MAX`] bytes.
    pub value: Vec<u8>,
    /// Of a mutable item.
    pub signed: Option<Signed>,
}

/// What makes an item mutable (BEP 44).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// ed25519 public key.
    pub key: [u8; 32],
    /// At most [`SALT_MAX`] bytes; not told in answers.
    pub salt: Vec<u8>,
    /// Counts the changes.
    pub seq: i64,
    /// Of salt, sequence number and value.
    pub signature: [u8; 64],
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// Are you there (BEP 5)?
    Ping,
    /// Nodes near `target` (BEP 5).
    FindNode {
        /// The place.
        target: NodeId,
        /// Families of nodes.
        want: Want,
    },
    /// Peers of a torrent, and nodes near it (BEP 5).
    GetPeers {
        /// The torrent.
        info_hash: InfoHash,
        /// Families of nodes.
        want: Want,
        /// No seeds among the peers (BEP 33).
        no_seeds: bool,
        /// Blooms of all peers instead of peers (BEP 33).
        scrape: bool,
    },
    /// The asking node has this torrent (BEP 5).
    AnnouncePeer {
        /// The torrent.
        info_hash: InfoHash,
        /// Where it takes connections; `None`: at the port that the query comes from.
        port: Option<u16>,
        /// It has all of it (BEP 33).
        seed: bool,
        /// From an answer to a `get_peers`.
        token: Vec<u8>,
    },
    /// A value (BEP 44).
    Get {
        /// Its name.
        target: NodeId,
        /// Only if it is newer than this.
        seq: Option<i64>,
        /// Families of nodes.
        want: Want,
    },
    /// Store this value (BEP 44).
    Put {
        /// The value.
        item: Box<Item>,
        /// Only if this is the sequence number stored.
        cas: Option<i64>,
        /// From an answer to a `get`.
        token: Vec<u8>,
    },
    /// Some info-hashes that are stored (BEP 51).
    SampleInfohashes {
        /// Nodes near this place are told too.
        target: NodeId,
        /// Families of nodes.
        want: Want,
    },
}

/// What is answered; each query fills the fields that are its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// `nodes` and `nodes6`, at most [`NODES_MAX`] of each.
    pub nodes: Vec<Contact>,
    /// What an announce or put has to show.
    pub token: Option<Vec<u8>>,
    /// Peers, at most [`VALUES_MAX`].
    pub values: Vec<SocketAddr>,
    /// Blooms of seeds and of other peers (BEP 33).
    pub blooms: Option<Box<(Bloom, Bloom)>>,
    /// A value (BEP 44).
    pub item: Option<Box<Item>>,
    /// Sequence number of a value that was not asked for, as it is not newer (BEP 44).
    pub seq: Option<i64>,
    /// Info-hashes (BEP 51).
    pub samples: Option<Samples>,
}

/// A choice of stored info-hashes (BEP 51).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// At most [`SAMPLES_MAX`].
    pub hashes: Vec<InfoHash>,
    /// Of so many that are stored.
    pub total: u32,
    /// Seconds until there is another choice.
    pub interval: u32,
}

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Asks.
    Query {
        /// Who asks.
        id: NodeId,
        /// It answers no queries itself (BEP 43).
        read_only: bool,
        /// What.
        query: Query,
    },
    /// Answers.
    Answer {
        /// Who answers.
        id: NodeId,
        /// The address that it sees us at (BEP 42).
        ip: Option<SocketAddr>,
        /// What.
        answer: Box<Answer>,
    },
    /// Refuses.
    Error {
        /// See [`code`].
        code: i64,
        /// At most [`TEXT_MAX`] bytes, without control characters.
        text: String,
    },
}

/// A datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Chosen by who asks, returned by who answers; 1 to [`TRANSACTION_MAX`] bytes.
    pub transaction: Vec<u8>,
    /// The rest.
    pub body: Body,
}

/// Why a datagram is none of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// There is nobody to tell: not bencode, no usable transaction id, or not a query.
    Silent,
    /// A query that deserves an error.
    Query {
        /// To be returned.
        transaction: Vec<u8>,
        /// See [`code`].
        code: i64,
        /// For a person.
        text: &'static str,
    },
}

#[cfg(test)]
#[path = "krpc_tests.rs"]
mod tests;

//! What goes into a node and comes out of it, datagrams aside.

use std::net::{IpAddr, SocketAddr};

use crate::dht::id::{Contact, NodeId};
use crate::dht::krpc::{Item, Samples};
use crate::dht::saved::Saved;
use crate::ids::InfoHash;

/// What a node is built with.
#[derive(Clone, Debug)]
pub struct DhtConfig {
    /// Whether there is a socket for each family, IPv4 first.
    pub families: [bool; 2],
    /// It asks and does not answer (BEP 43).
    pub read_only: bool,
    /// From the last run.
    pub saved: Saved,
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Names a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SearchId(pub u64);

/// What we announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce {
    /// Where we take connections; `None`: at the port that our datagrams come from.
    pub port: Option<u16>,
    /// We have all of it (BEP 33).
    pub seed: bool,
}

/// What a search is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The nodes nearest to a place.
    Nodes(NodeId),
    /// Peers of a torrent (BEP 5).
    Peers {
        /// The torrent.
        info_hash: InfoHash,
        /// Also told to the nodes nearest to it.
        announce: Option<Announce>,
    },
    /// How many seeds and other peers a torrent has (BEP 33).
    Scrape(InfoHash),
    /// A value (BEP 44).
    Get {
        /// Its name.
        target: NodeId,
        /// Of a mutable one.
        salt: Vec<u8>,
    },
    /// Store a value (BEP 44).
    Put {
        /// The value.
        item: Box<Item>,
        /// Only where this is the sequence number stored.
        cas: Option<i64>,
    },
    /// Info-hashes that nodes on the way to a place store (BEP 51).
    Sample(NodeId),
}

/// What a node tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Peers, perhaps told before.
    Peers(SearchId, Vec<SocketAddr>),
    /// Seeds and other peers, as estimated; at the end of the search.
    Scraped(SearchId, f64, f64),
    /// The newest value that was found; at the end of the search.
    Found(SearchId, Box<Item>),
    /// What one node stores.
    Samples(SearchId, Contact, Samples),
    /// A search is over.
    Done {
        /// The search.
        search: SearchId,
        /// Nodes that answered, of the nearest.
        nodes: usize,
        /// Nodes that stored what was to be stored.
        stored: usize,
    },
    /// Others see us at this address.
    External(IpAddr),
}

/// Counts since the start, and sizes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DhtStats {
    /// Nodes in both tables.
    pub nodes: [usize; 2],
    /// Searches that run.
    pub searches: usize,
    /// Info-hashes, peers and values that others store with us.
    pub stored: [usize; 3],
    /// Queries sent.
    pub queries_out: u64,
    /// Of these, the ones that were answered.
    pub answers_in: u64,
    /// Queries received.
    pub queries_in: u64,
    /// Of these, the ones that were answered, also by an error.
    pub answers_out: u64,
    /// Datagrams that are no message, or an answer that nobody waits for.
    pub refused: u64,
}

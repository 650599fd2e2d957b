//! What a magnet link is begun with. Role: the value only; part of [`crate::messages`].

use std::net::SocketAddr;

use ccbt_protocol::ids::{InfoHash, TorrentKey};

use crate::binding::Binding;

/// A magnet link: a torrent whose metadata is to be fetched from peers (BEP 9). Answered by
/// [`crate::messages::FromShard::Metadata`]; a [`crate::messages::ToShard::Add`] with the same key goes on with its peers.
#[derive(Debug)]
pub struct AddMagnet {
    /// Its name in all later messages; its torrent's, too.
    pub key: TorrentKey,
    /// What is looked for.
    pub info_hash: InfoHash,
    /// Addresses that the user names.
    pub peers: Vec<SocketAddr>,
    /// Addresses that the link names (`x.pe`).
    pub named: Vec<SocketAddr>,
    /// Tiers of trackers to ask (BEP 12); empty: none.
    pub trackers: Vec<Vec<String>>,
    /// Connections at most.
    pub max_peers: usize,
    /// Connect to nobody until [`crate::messages::ToShard::Resume`].
    pub paused: bool,
    /// Take addresses from peers (BEP 11).
    pub pex: bool,
    /// Look for peers in the DHT (BEP 5).
    pub dht: bool,
    /// Look for peers in the local network (BEP 14).
    pub lsd: bool,
    /// Where it is bound to, other than the session.
    pub bind: Option<Binding>,
}

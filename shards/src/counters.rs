//! What a shard has done, in numbers: how evenly shards share the work, and what they say to each other for it.
//!
//! Role: plain counters. Owner: the shard; told to the control thread with [`crate::messages::FromShard::Work`].

/// What a shard did since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Bytes received from peers: payload, messages and handshakes.
    pub received: u64,
    /// Bytes sent to peers.
    pub sent: u64,
    /// Connections of peers that this shard accepted (a count).
    pub accepted: u64,
    /// Of these, the ones that it handed to another shard, and those of others that it passed on (a count).
    pub handed_over: u64,
    /// Connections that got through their handshake here (a count).
    pub peers: u64,
    /// Messages to other shards, hand-offs included (a count).
    pub messages: u64,
    /// Of these, the ones about pieces: leases, requests for them, and news of what was fetched or lost (a count).
    pub lease_messages: u64,
}

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
    /// Connections that the IP filter did not let begin, or ended (a count).
    pub filtered: u64,
    /// Of the accepted ones, those that it handed to another shard, and those of others that it passed on (a count).
    pub handed_over: u64,
    /// Connections that got through their handshake here (a count).
    pub peers: u64,
    /// Messages to other shards, hand-offs included (a count).
    pub messages: u64,
    /// Of these, the ones about pieces: leases, requests for them, and news of what was fetched or lost (a count).
    pub lease_messages: u64,
    /// Bytes of memory for pieces being fetched that are in use now.
    pub memory_used: u64,
    /// Bytes of that memory.
    pub memory: u64,
    /// Pieces that hold some of it now (a count).
    pub pieces: u64,
}

/// How a shard's read cache does. Counts since the start, unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Extents that a peer came to and found in memory.
    pub hits: u64,
    /// Extents that a peer came to while they were being read for somebody else, or on suspicion.
    pub shared: u64,
    /// Extents that a peer came to and that had to be read for it.
    pub misses: u64,
    /// Extents read from disk.
    pub reads: u64,
    /// Bytes read from disk.
    pub read_bytes: u64,
    /// Extents that went to make room.
    pub evictions: u64,
    /// Extents read before anybody asked, because a peer's course was foreseen.
    pub ahead_reads: u64,
    /// Of these, the ones that somebody used.
    pub ahead_used: u64,
    /// Of these, the ones that went unused.
    pub ahead_wasted: u64,
    /// Extents kept from pieces just written.
    pub admitted: u64,
    /// Bytes in memory now.
    pub resident: u64,
    /// Bytes of memory.
    pub capacity: u64,
}

impl std::ops::Add for CacheStats {
    type Output = Self;

    /// Of two shards together.
    fn add(self, other: Self) -> Self {
        Self {
            hits: self.hits + other.hits,
            shared: self.shared + other.shared,
            misses: self.misses + other.misses,
            reads: self.reads + other.reads,
            read_bytes: self.read_bytes + other.read_bytes,
            evictions: self.evictions + other.evictions,
            ahead_reads: self.ahead_reads + other.ahead_reads,
            ahead_used: self.ahead_used + other.ahead_used,
            ahead_wasted: self.ahead_wasted + other.ahead_wasted,
            admitted: self.admitted + other.admitted,
            resident: self.resident + other.resident,
            capacity: self.capacity + other.capacity,
        }
    }
}

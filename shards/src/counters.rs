//! What a shard has done, in numbers: how evenly shards share the work, what they say to each other for it, and how much
//! of their rings, queues and memory they use.
//!
//! Role: plain counters. Owner: the shard; told to the control thread with [`crate::messages::FromShard::Work`].

use ccbt_storage::stats::LatencyStats;

use crate::shard::Shard;

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
    /// Entries that its ring for sockets was given (a count).
    pub submissions: u64,
    /// Completions that came of them (a count); a multishot entry has many.
    pub completions: u64,
    /// System calls that entered the ring (a count).
    pub enters: u64,
    /// From the request of a block to its last byte.
    pub block_wait: LatencyStats,
    /// How full it was when it told of it.
    pub load: ShardLoad,
}

/// What a shard's ring did since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SocketCounts {
    /// Entries handed to the kernel.
    pub submissions: u64,
    /// Completions of any kind.
    pub completions: u64,
    /// System calls that entered it.
    pub enters: u64,
}

/// How full a shard is at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardLoad {
    /// Sockets of peers, half-open and closing ones included.
    pub connections: u64,
    /// Pieces that hold download memory.
    pub pieces: u64,
    /// Bytes of download memory in use.
    pub download_used: u64,
    /// Bytes of download memory.
    pub download_capacity: u64,
    /// Torrents that found no memory for another piece.
    pub starved: u64,
    /// Commands and hash jobs at the storage service and the hash pool.
    pub storage_jobs: u64,
    /// Commands that wait for room there.
    pub storage_backlog: u64,
    /// Messages that wait to be read.
    pub inbox: u64,
    /// Messages that wait for room at another shard.
    pub outbox: u64,
}

impl Shard {
    /// What it did until now.
    pub(crate) fn stats_now(&self) -> ShardStats {
        let ring = self.ring.counts();
        ShardStats {
            submissions: ring.submissions,
            completions: ring.completions,
            enters: ring.enters,
            load: ShardLoad {
                connections: self.ring.len() as u64,
                pieces: self.pieces as u64,
                download_used: self.partition.used() as u64,
                download_capacity: self.partition.capacity() as u64,
                starved: self.starved.len() as u64,
                storage_jobs: self.storage.under_way() as u64,
                storage_backlog: self.backlog.len() as u64,
                inbox: self.inbox.len() as u64,
                outbox: self.outbox_len() as u64,
            },
            ..self.stats
        }
    }
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

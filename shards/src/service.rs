//! Starts and stops the shards and the storage service behind them.
//!
//! Owner: the control thread (the engine's session). Nothing here is on a hot path.

use std::net::{IpAddr, SocketAddr};

use ccbt_protocol::choker::ChokerConfig;
use ccbt_protocol::ids::{PeerId, TorrentKey};
use ccbt_protocol::request_window::WindowConfig;
use ccbt_storage::StorageConfig;
use crossbeam_channel::Receiver;

use crate::control::TrackerClientConfig;
use crate::messages::{AddTorrent, FromShard};

/// What the engine is built with.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// One shard per entry, pinned to that CPU when given. At least one.
    pub shard_cpus: Vec<Option<usize>>,
    /// Storage thread and hash pool.
    pub storage: StorageConfig,
    /// Ceiling of piece memory of all shards together, in bytes: three quarters for downloads, the rest for uploads.
    pub memory_bytes: usize,
    /// Addresses to listen on, all with the same port; port 0 lets the system choose. Empty: no listening.
    pub listen: Vec<SocketAddr>,
    /// Outgoing connections leave from here.
    pub bind: Option<IpAddr>,
    /// What we call ourselves.
    pub peer_id: PeerId,
    /// Connections of all shards together.
    pub max_connections: usize,
    /// Whom to serve.
    pub choker: ChokerConfig,
    /// Requests on the way.
    pub window: WindowConfig,
    /// How trackers are asked.
    pub tracker: TrackerClientConfig,
    /// Bytes per second for all torrents together; 0 = unlimited.
    pub down_limit: u64,
    /// As `down_limit`, for sending.
    pub up_limit: u64,
}

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StartError {
    /// io_uring cannot be used.
    #[error("io_uring cannot be used: {0}")]
    IoUring(#[source] std::io::Error),
    /// Memory or descriptors are not to be had.
    #[error("cannot get the memory or descriptors that are needed: {0}; raise `ulimit -l` and `ulimit -n`, or lower the memory ceiling")]
    Resources(#[source] std::io::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {source}; choose another --port or --bind")]
    Listen { addr: SocketAddr, #[source] source: std::io::Error },
}

/// The running engine: shards, storage thread, hash pool.
pub struct Service {}

#[allow(unused_variables, missing_docs)]
impl Service {
    /// Starts everything.
    pub fn start(config: ServiceConfig) -> Result<Self, StartError> { todo!() }
    /// The port listened on; 0 = none.
    pub fn port(&self) -> u16 { todo!() }
    pub fn shards(&self) -> usize { todo!() }
    /// Gives the torrent to its home shard. Its key must be new.
    pub fn add(&self, torrent: AddTorrent) { todo!() }
    /// Answered by [`crate::messages::Event::Removed`].
    pub fn remove(&self, key: TorrentKey) { todo!() }
    pub fn add_peers(&self, key: TorrentKey, peers: Vec<SocketAddr>) { todo!() }
    /// Bytes per second for all torrents together; 0 = unlimited.
    pub fn set_limits(&self, down: u64, up: u64) { todo!() }
    /// What shards tell. Must be emptied steadily.
    pub fn events(&self) -> &Receiver<FromShard> { todo!() }
    /// Asks all shards to stop: trackers hear `stopped`, writes end, files are synced. [`FromShard::Stopped`] follows from
    /// each within about 3 s.
    pub fn shutdown(&self) { todo!() }
    /// Waits for the threads, after [`Self::shutdown`] and all [`FromShard::Stopped`].
    pub fn join(self) { todo!() }
}

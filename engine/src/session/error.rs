//! Why the library refuses something. One enum per operation; every message says what to do next.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ccbt_protocol::checkpoint::Mismatch;
use ccbt_protocol::ids::InfoHash;
use ccbt_protocol::metainfo::MetainfoError;

pub use ccbt_shards::service::StartError as ServiceError;

/// Why a session does not start. Nothing runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// io_uring cannot be used; the message names the sysctl or limit to change.
    #[error(transparent)]
    IoUring(#[from] ccbt_storage::ring::ProbeError),
    /// None of the CPUs that were asked for may be used.
    #[error("none of the CPUs {asked:?} may be used: allowed are {allowed:?}; change engine.cpus")]
    Cpus {
        /// What was asked for.
        asked: Vec<usize>,
        /// The affinity mask of this process.
        allowed: Vec<usize>,
    },
    /// Peers cannot be reached in any way.
    #[error("neither TCP nor uTP is enabled; set network.enable_tcp or network.enable_utp")]
    NoTransport,
    /// Nobody can read the metrics.
    #[error(
        "cannot serve metrics at {address}: {source}; change observability.metrics_port, or set enable_metrics = false"
    )]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Memory, descriptors, threads or the address to listen on are not to be had.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Why a torrent cannot be read. Nothing was created.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The torrent file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The bytes are no torrent; the message names the field.
    #[error("{origin} is not a usable torrent: {source}")]
    Metainfo {
        /// Where the bytes come from, for people.
        origin: String,
        /// What is wrong.
        #[source]
        source: MetainfoError,
    },
}

/// Why a torrent is not added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// It cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The session runs it already.
    #[error("the torrent {0} is in this session already; remove it first")]
    Duplicate(InfoHash),
    /// The session is shutting down or its threads are gone.
    #[error("the session has ended; start another one")]
    Ended,
}

/// Why a torrent does not go on from a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// Neither the file it was read from nor a copy is there.
    #[error("the torrent file of {0} is gone: give another copy of it")]
    NoTorrent(InfoHash),
    /// The torrent file is another torrent's.
    #[error("the checkpoint does not fit the torrent: {0}")]
    Mismatch(#[from] Mismatch),
    /// The torrent file cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The torrent cannot be added.
    #[error(transparent)]
    Add(#[from] AddError),
}

/// Why a magnet link leads to no torrent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MagnetError {
    /// Nobody gave the metadata yet.
    #[error("no metadata after {0:?}; is anybody there who has it?")]
    TimedOut(Duration),
    /// It was found, and cannot be used; the message names the field.
    #[error("the metadata is there, but is not a usable torrent: {0}")]
    Unusable(#[source] MetainfoError),
    /// It was removed, or the session ended.
    #[error("the magnet link was removed before its metadata was there")]
    Removed,
}

/// Why waiting for a torrent ended without success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// Not finished yet.
    #[error("not finished after {0:?}")]
    TimedOut(Duration),
    /// It cannot go on by itself.
    #[error("{0}")]
    Failed(String),
    /// It was removed, or the session ended.
    #[error("the torrent was removed before it was finished")]
    Removed,
}

/// The torrent was removed, or its session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the torrent is not running any more; add it again")]
pub struct GoneError;

/// The engine's threads did not stop in time: a disk or a tracker hangs. What was verified and synced is
/// safe; the threads end with the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine did not stop within {0:?}; data that was verified and synced is safe")]
pub struct ShutdownError(pub Duration);

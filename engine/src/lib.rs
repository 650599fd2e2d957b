//! A BitTorrent engine for Linux: thread-per-core, io_uring, no locks on the data path.
//!
//! This crate is what a program embeds: a [`Session`] runs torrents, a [`TorrentHandle`] is one of them,
//! [`Events`] tell what happens, either to a thread that waits or as a [`Stream`](EventStream) for any async
//! runtime. The engine's own threads (shards, storage, hashing) are started by [`Session::start`] and laid
//! out over the CPUs by [`layout`].
//!
//! ```no_run
//! use ccbt_fast::{AddOptions, Session, Settings};
//! use std::path::Path;
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let session = Session::start(&Settings { down_limit: 10 << 20, ..Settings::default() })?;
//! let torrent = session.add_torrent(Path::new("debian.torrent"), AddOptions::new("/srv/isos"))?;
//! while let Err(error) = torrent.wait_finished(Some(Duration::from_secs(1))) {
//!     if !matches!(error, ccbt_fast::WaitError::TimedOut(_)) {
//!         return Err(error.into());
//!     }
//!     if let Some(status) = torrent.status() {
//!         println!("{} of {} bytes", status.bytes_done, status.bytes_total);
//!     }
//! }
//! session.shutdown(Duration::from_secs(5))?;
//! # Ok(())
//! # }
//! ```
//!
//! With events instead of polling: `for event in session.events() { … }`, or `session.events().into_stream()`
//! where something polls it.

pub mod checkpoints;
pub mod choosing;
pub mod config;
pub mod daemon;
pub mod dht;
pub mod doctor;
pub mod explain;
mod goal;
pub mod hashing;
pub mod ipfilter;
pub mod layout;
pub mod linking;
pub mod mapping;
pub mod metrics;
pub mod sandbox;
mod session;
pub mod streaming;
#[cfg(test)]
mod testing;
pub mod tuning;

pub use ccbt_protocol::dht::DhtStats;
pub use ccbt_protocol::ids::{InfoHash, TorrentKey};
pub use ccbt_protocol::magnet::{Magnet, MagnetError as MagnetLinkError};
pub use ccbt_protocol::metainfo::Metainfo;
pub use ccbt_protocol::picker::{PickerConfig, Priority, Strategy};
pub use ccbt_protocol::proxy::{Credentials as ProxyCredentials, ProxyKind};
pub use ccbt_protocol::rate::TorrentLimits;
pub use ccbt_protocol::tracker::udp::ScrapeEntry;
pub use ccbt_protocol::wire::trace::Direction;
pub use ccbt_shards::binding::{Binding, Place};
pub use ccbt_shards::control::TrackerError;
pub use ccbt_shards::dialling::{Transport, Transports};
pub use ccbt_shards::discovery::{DhtSettings, DiscoveryStats};
pub use ccbt_shards::encryption::{Encryption, EncryptionPolicy};
pub use ccbt_shards::messages::{
    CacheStats, Event as TorrentEvent, FileMark, Known, ShardStats, Snapshot, State, TorrentStatus,
};
pub use ccbt_shards::proxying::Proxy;
pub use ccbt_shards::sync::{SyncConfig, SyncPolicy};
pub use ccbt_shards::tapping::{PeerAddress, TapLine, WireTap};
pub use ccbt_shards::trackers::{Scraped, TrackerStats};
pub use ccbt_shards::zero_copy::ZeroCopySend;
pub use ccbt_storage::messages::Preallocate;
pub use ccbt_storage::relocate::MoveOptions;
pub use ccbt_storage::stats::{DeviceStats, StorageStats, WorkerStats};
pub use goal::Goal;
pub use session::{
    AddError, AddOptions, CacheHandle, EventStream, Events, FileReader, GoneError, LoadError, MagnetError,
    MagnetHandle, MagnetOptions, MagnetStatus, Received, RemoveOptions, ResumeError, ServiceError, Session,
    SessionEvent, Settings, ShutdownError, StartError, TorrentHandle, TorrentSource, TrackerSchemes,
    WaitError,
};

//! The session: everything that one process runs.
//!
//! Role: starts shards and storage behind them ([`ccbt_shards::service`]), hands torrents over, and gives
//! their state and events to the user. Owner: the user of the library. Invariant: a torrent is in the session
//! at most once, and its key is never reused.

mod checkpointing;
mod control;
mod error;
mod events;
mod explaining;
mod magnet;
mod reader;
mod relocate;
mod resuming;
mod settings;
mod source;
mod tapping;
mod torrent;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ccbt_protocol::ids::{InfoHash, PeerId};
use ccbt_protocol::rate::TorrentLimits;
use ccbt_shards::discovery::{Discovery, DiscoveryStats};
use ccbt_shards::messages::{CacheStats, ShardStats, TorrentStatus};
use ccbt_shards::service::Service;
use ccbt_shards::sync::SyncPolicy;
use ccbt_shards::trackers::{Scraped, TrackerStats};
use ccbt_storage::stats::{StorageStats, WorkerStats};

use crate::checkpoints::{CheckpointSettings, Store};
use crate::ipfilter::IpFilter;
use crate::mapping::{Mapped, Mapper, MappingStatus};
use crate::metrics::{Collector, MetricsServer, MetricsSettings, Picture};
use crossbeam_channel::{Receiver, bounded};

pub use error::{
    AddError, GoneError, LoadError, MagnetError, ResumeError, ServiceError, ShutdownError, StartError,
    WaitError,
};
pub use events::{EventStream, Events, Received, SessionEvent};
pub(crate) use explaining::Looking;
pub use magnet::{MagnetHandle, MagnetOptions, MagnetStatus};
pub use reader::FileReader;
pub use relocate::RemoveOptions;
pub use settings::{AddOptions, Settings, TrackerSchemes};
pub use source::TorrentSource;
pub(crate) use source::read_torrent;
pub use torrent::TorrentHandle;

use checkpointing::Checkpointer;
use control::Registry;

/// Time that dropping a session gives its threads: the 3 s for trackers, and some for the disk.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);
/// Time of an orderly stop for those who do not say.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A running engine. See the crate's documentation for an example.
///
/// [`Session::shutdown`] stops it; dropping does the same and ignores the outcome.
pub struct Session {
    /// `None` once it is stopped.
    service: Option<Service>,
    registry: Arc<Registry>,
    /// Keeps checkpoints, where that is wanted.
    checkpointer: Option<Checkpointer>,
    /// Hangs up when the control thread has ended.
    ended: Receiver<()>,
    port: u16,
    /// Of torrents that bring none.
    torrent_limits: TorrentLimits,
    /// Serves metrics, where that is wanted.
    metrics: Option<MetricsServer>,
    started: Instant,
    /// Has a router forward our ports, where that is wanted.
    mapper: Option<Mapper>,
    /// For those who ask; each thread has its own.
    filter: FilterNow,
}

/// The filter that counts.
type FilterNow = Arc<Mutex<Option<Arc<IpFilter>>>>;

impl Session {
    /// As [`Session::start`], with the settings by value.
    pub fn new(settings: Settings) -> Result<Self, StartError> {
        Self::start(&settings)
    }

    /// Starts the engine's threads and listens.
    ///
    /// Errors: io_uring is not to be had, too little memory may be locked, or the address is taken; the
    /// message says what to change.
    pub fn start(settings: &Settings) -> Result<Self, StartError> {
        settings.check()?;
        // First: without io_uring the shards' executors would panic instead of saying what to change.
        ccbt_storage::ring::probe()?;
        let peer_id = PeerId::random(&mut rand::rng());
        let settings = &fitted(settings);
        let service =
            start_on_free_port(settings, |port| Service::start(settings.service_config(peer_id, port)))?;
        // There is no torrent yet that anybody could ask for.
        service.set_filter(settings.ip_filter.clone(), settings.ip_filter_trackers);
        let filter: FilterNow = Arc::new(Mutex::new(settings.ip_filter.clone()));
        let board = settings.checkpoints.dir.is_some().then(Arc::default);
        let registry = Arc::new(Registry::with_board(board.clone()));
        let (hang_up, ended) = bounded::<()>(0);
        let (from_shards, shards) = (service.events().clone(), service.shards());
        let registry_of_thread = Arc::clone(&registry);
        let spawned = std::thread::Builder::new().name("ccbt-control".to_owned()).spawn(move || {
            control::run(&registry_of_thread, &from_shards, shards);
            drop(hang_up);
        });
        if let Err(error) = spawned {
            // Nobody empties the queue: the shards stop, and are not waited for.
            service.shutdown();
            return Err(ServiceError::Resources(error).into());
        }
        let metrics =
            settings.metrics.enabled.then(|| metrics_of(&settings.metrics, &service, &registry, &filter));
        let metrics = metrics.transpose().inspect_err(|_| service.shutdown())?;
        let is_synced = settings.sync.policy != SyncPolicy::None;
        let start =
            |board| Checkpointer::start(&settings.checkpoints, is_synced, board, Arc::clone(&registry));
        let checkpointer = board.map(start).transpose().map_err(|error| {
            service.shutdown();
            ServiceError::Resources(error)
        })?;
        let mapper = map_ports(settings, &service).inspect_err(|_| service.shutdown())?;
        let (port, torrent_limits) = (service.port(), settings.torrent_limits);
        let this = Self {
            port,
            service: Some(service),
            registry,
            checkpointer,
            ended,
            torrent_limits,
            metrics,
            mapper,
            filter,
            started: Instant::now(),
        };
        if let Some(peer) = settings.trace_peer {
            this.log_peer(peer);
        }
        Ok(this)
    }

    /// The port listened on; 0 when there is none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where metrics can be read; `None`: nowhere.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(MetricsServer::address)
    }

    /// Threads that serve peers.
    pub fn shards(&self) -> usize {
        self.service().shards()
    }

    /// Reads a torrent and runs it. Files are created by the engine's threads, after this returns.
    pub fn add_torrent(
        &self,
        source: impl Into<TorrentSource>,
        mut options: AddOptions,
    ) -> Result<TorrentHandle, AddError> {
        let metainfo = source.into().load()?;
        let shared = self.registry.register(Arc::clone(&metainfo))?;
        let handle = TorrentHandle { shared };
        if let Some(checkpointer) = &self.checkpointer
            && options.auto_resume
            && options.resume.is_none()
        {
            let loaded = checkpointer.store().load(metainfo.info_hash);
            options.resume = loaded.ok().map(|loaded| Box::new(loaded.checkpoint));
        }
        handle.shared.set_priorities(options.priorities_for(&metainfo));
        options.limits.get_or_insert(self.torrent_limits);
        let from = (options.source.take(), options.magnet.take());
        let before = options.resume.clone();
        let add = options.into_message(handle.key(), metainfo);
        if let Some(checkpointer) = &self.checkpointer {
            checkpointer.watch(&handle.shared, from, before.as_deref(), &add);
        }
        let home = self.service().add(add);
        handle.shared.set_home(home);
        Ok(handle)
    }

    /// Tells a torrent of addresses to connect to.
    pub fn add_peers(&self, torrent: &TorrentHandle, peers: Vec<SocketAddr>) {
        self.service().add_peers(torrent.key(), peers);
    }

    /// Changes the limits of all torrents together, in bytes per second; 0 = unlimited. Connections stay. Those of one
    /// torrent: [`TorrentHandle::set_limits`].
    pub fn set_limits(&self, down: u64, up: u64) {
        self.service().set_limits(down, up);
    }

    /// Has nothing to do with addresses that `filter` has from now on: connections end and none begins, whoever tells of
    /// them, and web seeds there are not asked; with `trackers`, trackers neither. `None`: no filter.
    pub fn set_ip_filter(&self, filter: Option<Arc<IpFilter>>, trackers: bool) {
        let mut now = self.filter.lock().unwrap_or_else(PoisonError::into_inner);
        now.clone_from(&filter);
        self.service().set_filter(filter, trackers);
    }

    /// Whether a router forwards our ports.
    pub fn port_mapping(&self) -> MappingStatus {
        self.mapper.as_ref().map(Mapper::status).unwrap_or_default()
    }

    /// The filter that counts.
    pub fn ip_filter(&self) -> Option<Arc<IpFilter>> {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All torrents, in the order they were added.
    pub fn torrents(&self) -> Vec<TorrentHandle> {
        let mut all: Vec<TorrentHandle> =
            self.registry.torrents().into_iter().map(|shared| TorrentHandle { shared }).collect();
        all.sort_unstable_by_key(TorrentHandle::key);
        all
    }

    /// The newest status of every torrent that has told one.
    pub fn status(&self) -> Vec<Arc<TorrentStatus>> {
        self.torrents().iter().filter_map(TorrentHandle::status).collect()
    }

    /// How reading for others does.
    pub fn caches(&self) -> CacheHandle {
        CacheHandle { registry: Arc::clone(&self.registry) }
    }

    /// UDP port at which our DHT node answers; 0 when there is none.
    pub fn dht_port(&self) -> u16 {
        self.service().discovery().map_or(0, Discovery::dht_port)
    }

    /// How finding peers without trackers does; `None` where neither DHT nor local discovery is used.
    pub fn discovery_stats(&self) -> Option<DiscoveryStats> {
        self.service().discovery().map(Discovery::stats)
    }

    /// How asking trackers does.
    pub fn tracker_stats(&self) -> TrackerStats {
        self.service().trackers().stats()
    }

    /// Asks the tracker with the announce URL `url` how many peers it knows of each torrent of `hashes` (BEP 48; 10,000 at
    /// most), over the connections and within the limits of announces. The answer comes by the channel, in the order of
    /// `hashes`, `None` for those that the tracker does not tell of; the channel hangs up when too many requests wait. It
    /// takes as long as an announce: a tracker that is silent is given up after 30 s, over UDP after 105 s.
    pub fn scrape(&self, url: &str, hashes: Vec<InfoHash>) -> Receiver<Scraped> {
        self.service().trackers().scrape(url, hashes)
    }

    /// What disks and hash threads have done so far, and how their queues stand. Cheap.
    pub fn storage_stats(&self) -> StorageStats {
        self.service().storage().stats()
    }

    /// The kernel's threads for disk operations that have to wait. Reads procfs: not for every second.
    pub fn storage_workers(&self) -> io::Result<WorkerStats> {
        self.service().storage().workers()
    }

    /// Asks every shard for a sign of life: each sends one by the channel. A shard that hangs does not, and may keep this
    /// call waiting.
    pub fn ping(&self) -> Receiver<()> {
        self.service().ping()
    }

    /// Changes when checkpoints are written, in which form, and which ones are removed. Their folder stays.
    pub fn set_checkpoints(&self, settings: CheckpointSettings) {
        if let Some(checkpointer) = &self.checkpointer {
            checkpointer.set(settings);
        }
    }

    /// The folder of checkpoints, where any are kept.
    pub fn checkpoints(&self) -> Option<Store> {
        self.checkpointer.as_ref().map(|checkpointer| checkpointer.store().clone())
    }

    /// What happens from now on. Every call makes a subscriber of its own; subscribe before adding torrents
    /// to miss nothing.
    pub fn events(&self) -> Events {
        Events { queue: self.registry.subscribe() }
    }

    /// As [`Session::shutdown`], with as much time as trackers and a slow disk may need (ten seconds).
    pub fn stop(self) -> Result<(), ShutdownError> {
        self.shutdown(STOP_TIMEOUT)
    }

    /// Stops orderly: trackers hear `stopped` (for at most 3 s), writes end, files are synced, threads end.
    /// Waits for `timeout` at most; after an error the threads are left to end with the process.
    pub fn shutdown(mut self, timeout: Duration) -> Result<(), ShutdownError> {
        self.end(timeout)
    }

    fn service(&self) -> &Service {
        self.service.as_ref().expect("only shutdown and drop take the service")
    }

    fn end(&mut self, timeout: Duration) -> Result<(), ShutdownError> {
        let Some(service) = self.service.take() else { return Ok(()) };
        self.registry.set_stopping();
        // While trackers are told.
        self.mapper.iter_mut().for_each(Mapper::stop);
        service.shutdown();
        // Nothing is ever sent: what ends the wait is the thread hanging up.
        if self.ended.recv_timeout(timeout) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            // Joining would wait for what hangs.
            let _left_running = std::mem::ManuallyDrop::new(service);
            return Err(ShutdownError(timeout));
        }
        service.join();
        drop(self.mapper.take());
        if let Some(checkpointer) = self.checkpointer.take() {
            // Every torrent has said its last words.
            checkpointer.finish();
        }
        Ok(())
    }
}

/// The read caches and counters of a session's shards. Outlives the session, then as a record of the last numbers.
#[derive(Clone, Debug)]
pub struct CacheHandle {
    registry: Arc<Registry>,
}

impl CacheHandle {
    /// Of each shard, in their order, as told a moment ago.
    pub fn stats(&self) -> Vec<CacheStats> {
        self.registry.caches()
    }

    /// What each shard has done, in their order, as told a moment ago.
    pub fn shards(&self) -> Vec<ShardStats> {
        self.registry.shards()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.end(DROP_TIMEOUT) {
            tracing::warn!("{error}");
        }
    }
}

/// Has a router forward our ports, and tells all who tell of them.
fn map_ports(settings: &Settings, service: &Service) -> Result<Option<Mapper>, StartError> {
    let dht = service.discovery().map_or(0, Discovery::dht_port);
    let wanted = settings.wanted_mapping(service.port(), dht);
    if !wanted.is_needed() {
        return Ok(None);
    }
    let reach = service.reach();
    let tell = move |mapped: &Mapped| {
        mapped.tcp.into_iter().for_each(|port| reach.set_port(port));
        mapped.ip.into_iter().for_each(|ip| reach.set_ip(ip));
    };
    Mapper::start(wanted, tell).map(Some).map_err(|error| ServiceError::Resources(error).into())
}

/// Serves what the service and its torrents do.
fn metrics_of(
    settings: &MetricsSettings,
    service: &Service,
    registry: &Arc<Registry>,
    filter: &FilterNow,
) -> Result<MetricsServer, StartError> {
    let filter = Arc::clone(filter);
    let (registry, storage) = (Arc::clone(registry), service.storage().stats_handle());
    let (trackers, discovery) = (service.trackers().clone(), service.discovery().cloned());
    let look = move || Picture {
        storage: storage.stats(),
        trackers: trackers.stats(),
        hosts: trackers.hosts(),
        discovery: discovery.as_ref().map(Discovery::stats),
        filter_ranges: filter.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |f| f.len()),
        ..registry.picture()
    };
    let address = SocketAddr::new(settings.address, settings.port);
    MetricsServer::start(address, Collector::new(settings.torrents, look))
        .map_err(|source| StartError::Metrics { address, source })
}

/// The settings with no more connections than there are descriptors for.
fn fitted(settings: &Settings) -> Settings {
    use rustix::process::{Resource, getrlimit};
    let descriptors = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| most as usize);
    let max_connections = settings.connections_within(descriptors);
    if max_connections < settings.max_connections {
        tracing::warn!(
            "this process may open {descriptors} files and sockets: room for {max_connections} connections, not for {}; \
             raise the limit (ulimit -n, LimitNOFILE=) or ask for fewer",
            settings.max_connections
        );
    }
    Settings { max_connections, ..settings.clone() }
}

/// Starts on the first of the settings' ports that is free.
fn start_on_free_port<T>(
    settings: &Settings,
    mut start: impl FnMut(u16) -> Result<T, ServiceError>,
) -> Result<T, ServiceError> {
    let ports = settings.ports();
    let (last, others) = ports.split_last().expect("there is always a port to try");
    for port in others {
        match start(*port) {
            Err(ServiceError::Listen { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {}
            other => return other,
        }
    }
    start(*last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(port: u16) -> ServiceError {
        let door = SocketAddr::from(([127, 0, 0, 1], port)).into();
        ServiceError::Listen { door, source: io::ErrorKind::AddrInUse.into() }
    }

    #[test]
    fn the_first_free_default_port_is_taken() {
        let settings = Settings::default();
        let started =
            start_on_free_port(&settings, |port| if port < 6884 { Err(taken(port)) } else { Ok(port) });
        assert_eq!(started.expect("one is free"), 6884);
        let started =
            start_on_free_port(&settings, |port| if port > 0 { Err(taken(port)) } else { Ok(port) });
        assert_eq!(started.expect("the system finds one"), 0);
    }

    #[test]
    fn other_errors_and_chosen_ports_are_not_retried() {
        let mut calls = 0;
        let no_ring = |_| {
            calls += 1;
            Err::<(), _>(ServiceError::IoUring(io::ErrorKind::PermissionDenied.into()))
        };
        assert!(matches!(start_on_free_port(&Settings::default(), no_ring), Err(ServiceError::IoUring(_))));
        assert_eq!(calls, 1);
        let chosen = Settings { port: Some(9), ..Settings::default() };
        assert!(start_on_free_port(&chosen, |port| Err::<(), _>(taken(port))).is_err());
    }
}

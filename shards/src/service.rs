//! Starts and stops the shards and the storage service behind them.
//!
//! Owner: the control thread (the engine's session). Nothing here is on a hot path.

pub(crate) mod parts;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use ccbt_protocol::candidates::Source;
use ccbt_protocol::choker::ChokerConfig;
use ccbt_protocol::ids::{InfoHash, PeerId, TorrentKey};
use ccbt_protocol::ipfilter;
use ccbt_protocol::picker::PickerConfig;
use ccbt_protocol::request_window::WindowConfig;
use ccbt_protocol::torrent::TorrentConfig;
use ccbt_storage::doorbell::Doorbell;
use ccbt_storage::{StorageConfig, StorageService};
use crossbeam_channel::{Receiver, bounded};
use socket2::{Domain, Protocol, Socket, Type};

use crate::binding::{Binding, Door};
use crate::checking::line::DeviceLines;
use crate::diagnosis::ShardLook;
use crate::dialling::Transports;
use crate::discovery::{Discovery, DiscoveryConfig, DiscoveryThread, Strays};
use crate::encryption::EncryptionPolicy;
use crate::inbox::Inbox;
use crate::messages::{AddMagnet, AddTorrent, FromShard, ToShard};
use crate::network::{Entrances, Listener, NetworkThread};
use crate::proxying::{Proxy, for_peers};
use crate::reaching::Reach;
use crate::ring::utp::UtpEnds;
use crate::shard::{Links, Shard, ShardConfig};
use crate::sync::SyncConfig;
use crate::tapping::TapRequest;
use crate::trackers::{Trackers, TrackersConfig, TrackersThread};
use crate::utp_acceptor::{self, Strangers, UtpAcceptor, UtpDoor};
use crate::webseeds::{WebSeedConfig, WebSeedThread};
use crate::zero_copy::ZeroCopySend;
use crate::{drive, executor};
use parts::{listen, listen_utp, shard_config, shares_port, start_discovery, start_shard, start_webseeds};

/// Events and statuses waiting for the control thread at most; it empties them at once.
const EVENTS_MAX: usize = 65_536;
/// Connections the kernel accepts ahead of us.
const BACKLOG: i32 = 1024;
/// Time a connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Torrents per shard up to which a new one is spread over all shards.
const SPREAD_TORRENTS: usize = 4;

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
    pub listen: Vec<Door>,
    /// Outgoing connections leave from here.
    pub bind: Option<Binding>,
    /// How peers are found without trackers; its addresses are filled in from `listen` and `bind`.
    pub discovery: DiscoveryConfig,
    /// What we call ourselves.
    pub peer_id: PeerId,
    /// Connections of all shards together.
    pub max_connections: usize,
    /// Whom to serve.
    pub choker: ChokerConfig,
    /// Requests on the way.
    pub window: WindowConfig,
    /// How trackers are asked.
    pub trackers: TrackersConfig,
    /// Bytes per second for all torrents together; 0 = unlimited.
    pub down_limit: u64,
    /// As `down_limit`, for sending.
    pub up_limit: u64,
    /// Limits count the headers of IP and TCP and acknowledgements, too, as far as they can be guessed.
    pub count_overhead: bool,
    /// When written pieces are made durable.
    pub sync: SyncConfig,
    /// When payload is sent without a copy in the kernel.
    pub zero_copy_send: ZeroCopySend,
    /// How peers are reached.
    pub transports: Transports,
    /// Which connections are encrypted.
    pub encryption: EncryptionPolicy,
    /// What connections go through; with it nothing else leaves.
    pub proxy: Option<Proxy>,
    /// Torrents' web seeds may be at local addresses.
    pub web_seed_local: bool,
}

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StartError {
    /// The storage thread cannot run: io_uring cannot be used.
    #[error("cannot start the storage thread: {0}; is io_uring allowed (sysctl kernel.io_uring_disabled=0)?")]
    IoUring(#[source] std::io::Error),
    /// Memory or descriptors are not to be had.
    #[error(
        "cannot get the memory or descriptors that are needed: {0}; \
         raise `ulimit -l` and `ulimit -n`, or lower the memory ceiling"
    )]
    Resources(#[source] std::io::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {door}: {source}; choose another --port or --bind")]
    Listen {
        door: Door,
        #[source]
        source: std::io::Error,
    },
}

/// The running engine: shards, storage thread, hash pool.
pub struct Service {
    acceptor: Option<UtpAcceptor>,
    /// The listening sockets, which keep the port ours also when nothing is accepted over TCP.
    _port: Vec<Arc<Listener>>,
    /// Looks after interfaces that the session is bound to.
    network: Option<NetworkThread>,
    shards: Vec<Running>,
    storage: Arc<StorageService>,
    events: Receiver<FromShard>,
    homes: Mutex<HashMap<TorrentKey, usize>>,
    hashes: Mutex<HashMap<TorrentKey, InfoHash>>,
    next_home: AtomicUsize,
    /// Held while all shards are told of limits or filters, so that they hear of changes in the same order.
    changing_limits: Mutex<()>,
    port: u16,
    /// `None`: neither DHT nor local discovery is wanted.
    discovery: Option<DiscoveryThread>,
    trackers: TrackersThread,
    webseeds: WebSeedThread,
}

struct Running {
    inbox: Inbox,
    thread: JoinHandle<()>,
}

impl Service {
    /// Starts everything.
    pub fn start(mut config: ServiceConfig) -> Result<Self, StartError> {
        if let Some(proxy) = config.proxy.clone() {
            proxy.confine(&mut config);
            config.trackers.client.proxy = Some(proxy).filter(|proxy| proxy.trackers);
        }
        let count = config.shard_cpus.len().max(1);
        let (listeners, port) = listen(&config.listen, config.transports.tcp)?;
        let shares = shares_port(&config, port);
        let utp_sockets = if shares { Vec::new() } else { listen_utp(&config, port) };
        let storage = Arc::new(StorageService::start(config.storage.clone()).map_err(StartError::IoUring)?);
        let (control, events) = bounded(EVENTS_MAX);
        let mut bells = Vec::new();
        let mut inboxes = Vec::new();
        let mut receivers = Vec::new();
        for _ in 0..count {
            let bell = Doorbell::new().map_err(StartError::Resources)?;
            let (inbox, receiver) = Inbox::new(bell.clone());
            bells.push(bell);
            inboxes.push(inbox);
            receivers.push(receiver);
        }
        let mut shards = Vec::new();
        let lines = Arc::new(DeviceLines::default());
        let connections = Arc::new(AtomicUsize::new(0));
        let connections_max = config.max_connections.max(1);
        let accepts = shares || !utp_sockets.is_empty();
        let utp_ends = UtpEnds::new(if accepts { port } else { 0 });
        let strangers =
            Strangers::new(utp_ends.clone(), inboxes.clone(), connections.clone(), connections_max);
        let (to_discovery, to_acceptor) =
            if shares { (Some(strangers), None) } else { (None, Some(strangers)) };
        let strays = to_discovery.map(|strangers| Box::new(strangers) as Box<dyn Strays>);
        let discovery = start_discovery(&config, port, strays)?;
        let trackers = TrackersThread::start(config.trackers.clone()).map_err(StartError::Resources)?;
        let webseeds = start_webseeds(&config)?;
        for (index, (bell, inbox)) in bells.into_iter().zip(receivers).enumerate() {
            let links = Links {
                bell,
                inbox,
                others: inboxes.clone(),
                control: control.clone(),
                lines: lines.clone(),
                connections: connections.clone(),
                discovery: discovery.as_ref().map(|thread| thread.handle().clone()),
                utp_ends: utp_ends.clone(),
                trackers: trackers.handle().clone(),
                webseeds: Some(webseeds.handle().clone()),
            };
            let mut own = Vec::new();
            for listener in listeners.iter().filter(|_| config.transports.tcp) {
                own.push(listener.socket.try_clone().map_err(StartError::Resources)?);
            }
            let shard = shard_config(&config, index, count, own, port);
            let cpu = config.shard_cpus.get(index).copied().flatten();
            let thread = start_shard(shard, cpu, links, storage.clone())?;
            shards.push(Running { inbox: inboxes[index].clone(), thread });
        }
        let acceptor = match to_acceptor {
            Some(strangers) if !utp_sockets.is_empty() => {
                Some(UtpAcceptor::start(utp_sockets, strangers).map_err(StartError::Resources)?)
            }
            _ => None,
        };
        let entrances = config.bind.as_ref().filter(|bind| bind.may_go()).map(|bind| Entrances {
            binding: bind.clone(),
            port,
            has_ipv6: config.listen.iter().any(|door| door.addr.is_ipv6()),
            accepts: config.transports.tcp,
            listeners: listeners.clone(),
            shards: inboxes.clone(),
            discovery: discovery.as_ref().map(|thread| thread.handle().clone()),
            trackers: trackers.handle().clone(),
            utp: acceptor.as_ref().map(UtpAcceptor::renewer),
            seen: HashMap::new(),
        });
        let network = entrances.map(NetworkThread::start).transpose().map_err(StartError::Resources)?;
        let this = Self {
            acceptor,
            _port: listeners,
            network,
            shards,
            storage,
            events,
            homes: Mutex::default(),
            hashes: Mutex::default(),
            next_home: AtomicUsize::new(0),
            changing_limits: Mutex::default(),
            port,
            discovery,
            trackers,
            webseeds,
        };
        this.set_limits(config.down_limit, config.up_limit);
        Ok(this)
    }

    /// The port listened on; 0 = none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where peers are found without trackers.
    pub fn discovery(&self) -> Option<&Discovery> {
        self.discovery.as_ref().map(DiscoveryThread::handle)
    }

    /// The way to the tracker thread.
    pub fn trackers(&self) -> &Trackers {
        self.trackers.handle()
    }

    /// To say where the world reaches us.
    pub fn reach(&self) -> Reach {
        let shards = self.shards.iter().map(|shard| shard.inbox.clone()).collect();
        Reach { shards, discovery: self.discovery().cloned() }
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Gives the torrent to its home shard; homes go round. Its key must be new, and its info-hash must not be running.
    /// Returns the way to its home.
    pub fn add(&self, torrent: AddTorrent) -> Inbox {
        let (home, running) = self.place(torrent.key, torrent.metainfo.info_hash);
        // Many torrents use all cores anyway, each at its home.
        let spread = self.shards.len() > 1 && running <= SPREAD_TORRENTS * self.shards.len();
        let inbox = &self.shards[home].inbox;
        inbox.send(ToShard::Add { torrent: Box::new(torrent), spread });
        inbox.clone()
    }

    /// Gives a magnet to the shard that will be its torrent's home; as [`Self::add`] otherwise.
    pub fn add_magnet(&self, magnet: AddMagnet) -> Inbox {
        let (home, _) = self.place(magnet.key, magnet.info_hash);
        let inbox = &self.shards[home].inbox;
        inbox.send(ToShard::AddMagnet(Box::new(magnet)));
        inbox.clone()
    }

    /// The home of a torrent, which is its magnet's where it has one, and how many torrents there are. All shards hear of
    /// it.
    fn place(&self, key: TorrentKey, info_hash: InfoHash) -> (usize, usize) {
        let (home, running) = {
            let mut homes = self.homes.lock().expect("no holder panics");
            let next = || self.next_home.fetch_add(1, Ordering::Relaxed) % self.shards.len();
            let home = *homes.entry(key).or_insert_with(next);
            (home, homes.len())
        };
        self.hashes.lock().expect("no holder panics").insert(key, info_hash);
        for shard in &self.shards {
            shard.inbox.send(ToShard::Route(info_hash, Some(home)));
        }
        (home, running)
    }

    /// Stops a torrent and closes its files; with `delete_data` they are removed too. Answered by
    /// [`crate::messages::Event::Removed`].
    pub fn remove(&self, key: TorrentKey, delete_data: bool) {
        let home = self.homes.lock().expect("no holder panics").remove(&key);
        if let Some(info_hash) = self.hashes.lock().expect("no holder panics").remove(&key) {
            for shard in &self.shards {
                shard.inbox.send(ToShard::Route(info_hash, None));
            }
        }
        self.shards[home.unwrap_or(0)].inbox.send(ToShard::Remove { key, delete_data });
    }

    /// Addresses that the user names.
    pub fn add_peers(&self, key: TorrentKey, peers: Vec<SocketAddr>) {
        self.tell_home(key, ToShard::AddPeers(key, peers, Source::User));
    }

    /// Says something to the shard that runs a torrent; nothing when none does.
    pub fn tell_home(&self, key: TorrentKey, message: ToShard) {
        let home = self.homes.lock().expect("no holder panics").get(&key).copied();
        if let Some(home) = home {
            self.shards[home].inbox.send(message);
        }
    }

    /// Asks all shards what they know of why a torrent does what it does. The channel hangs up when all have answered.
    pub fn diagnose(&self, key: TorrentKey) -> Receiver<ShardLook> {
        let (reply, looks) = bounded(self.shards.len());
        for shard in &self.shards {
            shard.inbox.send(ToShard::Diagnose(key, reply.clone()));
        }
        looks
    }

    /// Shows what is said with a peer, until nobody looks any more.
    pub fn tap(&self, request: &TapRequest) {
        for shard in &self.shards {
            shard.inbox.send(ToShard::Tap(request.clone()));
        }
    }

    /// Bytes per second for all torrents together; 0 = unlimited.
    pub fn set_limits(&self, down: u64, up: u64) {
        let _changing = self.changing_limits.lock().expect("no holder panics");
        for shard in &self.shards {
            shard.inbox.send(ToShard::Limits { down, up });
        }
    }

    /// Asks every shard for a sign of life: each sends one, by the channel, when it next reads its messages.
    pub fn ping(&self) -> Receiver<()> {
        let (reply, answers) = bounded(self.shards.len());
        for shard in &self.shards {
            shard.inbox.send(ToShard::Ping(reply.clone()));
        }
        answers
    }

    /// Has nothing to do with addresses that `filter` has from now on: connections end, none begins, and web seeds and,
    /// with `trackers`, trackers there are not asked.
    pub fn set_filter(&self, filter: ipfilter::Shared, trackers: bool) {
        let _changing = self.changing_limits.lock().expect("no holder panics");
        for shard in &self.shards {
            shard.inbox.send(ToShard::Filter(filter.clone()));
        }
        self.trackers.handle().set_filter(filter.clone().filter(|_| trackers));
        self.webseeds.handle().set_filter(filter);
    }

    /// The storage thread and the hash pool, to look at.
    pub fn storage(&self) -> &StorageService {
        &self.storage
    }

    /// What shards tell. Must be emptied steadily.
    pub fn events(&self) -> &Receiver<FromShard> {
        &self.events
    }

    /// Asks all shards to stop: trackers hear `stopped`, writes end, files are synced. [`FromShard::Stopped`] follows
    /// from each within about 3 s.
    pub fn shutdown(&self) {
        self.trackers.handle().closing();
        for shard in &self.shards {
            shard.inbox.send(ToShard::Shutdown);
        }
    }

    /// Waits for the threads, after [`Self::shutdown`] and all [`FromShard::Stopped`].
    pub fn join(self) {
        drop(self.network);
        drop(self.acceptor);
        for shard in self.shards {
            drop(shard.inbox);
            if shard.thread.join().is_err() {
                tracing::error!("a shard panicked");
            }
        }
        self.trackers.stop();
        self.webseeds.stop();
        if let Some(discovery) = self.discovery {
            discovery.stop();
        }
        if let Ok(storage) = Arc::try_unwrap(self.storage) {
            storage.stop();
        }
    }
}

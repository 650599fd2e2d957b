//! What a session and a torrent are started with.
//!
//! Role: the user's words on one side, [`ServiceConfig`] and [`AddTorrent`] on the other. Invariant: every
//! field ends up in one of these two; nothing is kept and ignored.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use ccbt_protocol::choker::ChokerConfig;
use ccbt_protocol::ids::{PeerId, TorrentKey};
use ccbt_protocol::metainfo::Metainfo;
use ccbt_protocol::picker::{PickerConfig, Priority};
use ccbt_protocol::rate::TorrentLimits;
use ccbt_protocol::request_window::WindowConfig;
use ccbt_protocol::selection::Selection;
use ccbt_protocol::tracker::dispatch::DispatchPlan;
use ccbt_shards::binding::Binding;
use ccbt_shards::control::TrackerClientConfig;
use ccbt_shards::dialling::Transports;
use ccbt_shards::discovery::{DhtSettings, DiscoveryConfig};
use ccbt_shards::encryption::{Encryption, EncryptionPolicy};
use ccbt_shards::messages::{AddTorrent, Known};
use ccbt_shards::proxying::Proxy;
use ccbt_shards::service::ServiceConfig;
use ccbt_shards::sync::SyncConfig;
use ccbt_shards::tapping::PeerAddress;
use ccbt_shards::trackers::TrackersConfig;
use ccbt_shards::webseeds::Site;
use ccbt_shards::zero_copy::ZeroCopySend;
use ccbt_storage::StorageConfig;
use ccbt_storage::messages::Preallocate;

use super::error::StartError;
use crate::checkpoints::{self, Checkpoint, CheckpointSettings};
use crate::ipfilter::IpFilter;
use crate::layout::{Overrides, allowed_cpus, layout};
use crate::mapping::{PortMapping, Wanted};
use crate::metrics::MetricsSettings;

/// Ports tried in turn when none is asked for; after them the system chooses.
const DEFAULT_PORTS: std::ops::RangeInclusive<u16> = 6881..=6889;

/// Descriptors for rings, bells, listeners and a crowd of trackers.
const OWN_DESCRIPTORS: usize = 128;

/// File in the folder of checkpoints that nodes of the DHT are kept in.
const DHT_STATE: &str = "dht.state";

/// How a session runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which CPU does what, where [`layout`] is to be overruled.
    pub layout: Overrides,
    /// Port to listen on; `Some(0)`: the system chooses; `None`: the first free one of 6881–6889, else as
    /// with 0.
    pub port: Option<u16>,
    /// Listen on these addresses and interfaces only, and let all that is sent leave from them: peers, trackers, the DHT,
    /// local discovery. By an interface or not at all: when it goes, connections fail until it is back. `None`: anywhere.
    /// Names are looked up by the system, which may ask a name server elsewhere.
    pub bind: Option<Binding>,
    /// Ceiling of the memory for pieces, in bytes.
    pub memory_bytes: usize,
    /// Connections of all torrents together, half-open ones included. Fewer when this process may not open that many
    /// descriptors (a warning says so).
    pub max_connections: usize,
    /// Files open at a time.
    pub max_open_files: usize,
    /// Disk operations in flight per device; `None`: found out for each device while it works.
    pub disk_queue_depth: Option<u32>,
    /// Bytes per disk operation at most, brought into 128 KiB..=4 MiB; `None`: found out as above.
    pub disk_write_bytes: Option<u32>,
    /// Bytes per second received by all torrents together; 0 = unlimited.
    pub down_limit: u64,
    /// As `down_limit`, for sending.
    pub up_limit: u64,
    /// Limits of each torrent that is added without limits of its own ([`AddOptions::limits`]).
    pub torrent_limits: TorrentLimits,
    /// What limits count. `false`: the bytes of the TCP streams, blocks and all other messages, from the end of the
    /// handshake on. `true`: also the headers of IP and TCP and acknowledgements, as estimated from packets of 1500 bytes.
    /// No address is exempt, loopback and local networks neither.
    pub count_overhead: bool,
    /// Whom to serve.
    pub choker: ChokerConfig,
    /// How many requests are kept on the way.
    pub window: WindowConfig,
    /// When `fsync` is called, and so how far a power cut can set downloads back.
    pub sync: SyncConfig,
    /// Where and when checkpoints are kept; by default nowhere.
    pub checkpoints: CheckpointSettings,
    /// Certificate authorities to trust for HTTPS trackers besides the system's: contents of PEM files.
    pub tracker_roots_pem: Vec<Vec<u8>>,
    /// What connections go through; with it nothing else leaves.
    pub proxy: Option<Proxy>,
    /// Requests to one tracker host at a time, at least 1; others wait for their turn.
    pub tracker_connections: usize,
    /// When payload is sent without a copy in the kernel.
    pub zero_copy_send: ZeroCopySend,
    /// Whether peers are reached over TCP, uTP or both; at least one.
    pub transports: Transports,
    /// Which connections are encrypted (MSE).
    pub encryption: EncryptionPolicy,
    /// Find peers in the DHT (BEP 5), for torrents that want it ([`AddOptions::use_dht`]). A session that is bound to a
    /// loopback address asks nobody outside.
    pub enable_dht: bool,
    /// How. Where no state file is named, it is `dht.state` beside the checkpoints, if any are kept.
    pub dht: DhtSettings,
    /// Web seeds that torrents name, and redirects, may lead to loopback, private and link-local addresses.
    pub web_seed_local: bool,
    /// How a router is asked to forward our ports. Not done past a proxy, nor where the session is bound to loopback.
    pub port_mapping: PortMapping,
    /// Addresses that the session has nothing to do with: see [`super::Session::set_ip_filter`].
    pub ip_filter: Option<Arc<IpFilter>>,
    /// Nor with trackers there.
    pub ip_filter_trackers: bool,
    /// Find peers in the local network (BEP 14), for torrents that want it ([`AddOptions::use_lsd`]). Not where the session
    /// is bound to a loopback address.
    pub enable_lsd: bool,
    /// What Prometheus may read.
    pub metrics: MetricsSettings,
    /// Every message to and from this peer is logged, without payload.
    pub trace_peer: Option<PeerAddress>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            layout: Overrides::default(),
            port: None,
            bind: None,
            memory_bytes: 256 << 20,
            max_connections: 500,
            max_open_files: StorageConfig::default().max_open_files,
            disk_queue_depth: None,
            disk_write_bytes: None,
            down_limit: 0,
            up_limit: 0,
            torrent_limits: TorrentLimits::default(),
            count_overhead: false,
            choker: ChokerConfig::default(),
            window: WindowConfig::default(),
            sync: SyncConfig::default(),
            checkpoints: CheckpointSettings::default(),
            tracker_roots_pem: Vec::new(),
            proxy: None,
            tracker_connections: DispatchPlan::default().per_host,
            zero_copy_send: ZeroCopySend::default(),
            transports: Transports::default(),
            encryption: EncryptionPolicy { incoming: Encryption::Prefer, ..EncryptionPolicy::default() },
            enable_dht: true,
            dht: DhtSettings::default(),
            web_seed_local: false,
            port_mapping: PortMapping::Off,
            ip_filter: None,
            ip_filter_trackers: false,
            enable_lsd: true,
            metrics: MetricsSettings::default(),
            trace_peer: None,
        }
    }
}

impl Settings {
    /// Errors: none of the CPUs that were asked for may be used, or no transport.
    pub(super) fn check(&self) -> Result<(), StartError> {
        if !self.transports.tcp && !self.transports.utp {
            return Err(StartError::NoTransport);
        }
        let allowed = allowed_cpus();
        match &self.layout.cpus {
            Some(asked) if !allowed.is_empty() && self.layout.usable(&allowed).is_empty() => {
                Err(StartError::Cpus { asked: asked.clone(), allowed })
            }
            _ => Ok(()),
        }
    }

    /// The ports to try, in this order.
    pub(super) fn ports(&self) -> Vec<u16> {
        match self.port {
            Some(port) => vec![port],
            None => DEFAULT_PORTS.chain([0]).collect(),
        }
    }

    /// As many connections as `descriptors` leave room for beside files and what the engine itself needs.
    pub(super) fn connections_within(&self, descriptors: usize) -> usize {
        let own = OWN_DESCRIPTORS.min(descriptors / 4);
        let room = descriptors.saturating_sub(self.max_open_files.min(descriptors / 4) + own);
        self.max_connections.min(room.max(1))
    }

    /// What a router is to forward when we listen on `tcp`, and the DHT on `dht` (0: nowhere).
    pub(super) fn wanted_mapping(&self, tcp: u16, dht: u16) -> Wanted {
        let utp = if self.transports.utp { tcp } else { 0 };
        let mut udp: Vec<u16> = [utp, dht].into_iter().filter(|port| *port != 0).collect();
        udp.dedup();
        // Nothing goes past a proxy.
        let how = if self.proxy.is_some() { PortMapping::Off } else { self.port_mapping };
        Wanted { how, tcp: if self.transports.tcp { tcp } else { 0 }, udp, bind: self.bind.clone() }
    }

    fn discovery(&self) -> DiscoveryConfig {
        let beside = || self.checkpoints.dir.as_ref().map(|dir| dir.join(DHT_STATE));
        let state_file = self.dht.state_file.clone().or_else(beside);
        let dht = self.enable_dht.then(|| DhtSettings { state_file, ..self.dht.clone() });
        DiscoveryConfig { dht, lsd: self.enable_lsd, ..DiscoveryConfig::default() }
    }

    /// What the engine is built with when it listens on `port`.
    pub(super) fn service_config(&self, peer_id: PeerId, port: u16) -> ServiceConfig {
        let layout = layout(&self.layout.usable(&allowed_cpus()), &self.layout);
        ServiceConfig {
            shard_cpus: layout.shards,
            storage: StorageConfig {
                storage_cpu: layout.storage,
                hash_cpus: layout.hash,
                max_open_files: self.max_open_files,
                queue_depth: self.disk_queue_depth,
                write_bytes: self.disk_write_bytes,
                ..StorageConfig::default()
            },
            memory_bytes: self.memory_bytes,
            listen: Binding::doors(self.bind.as_ref(), port, has_ipv6()),
            bind: self.bind.clone(),
            discovery: self.discovery(),
            peer_id,
            max_connections: self.max_connections,
            choker: self.choker.clone(),
            window: self.window.clone(),
            trackers: TrackersConfig {
                client: TrackerClientConfig {
                    bind: self.bind.clone(),
                    extra_roots_pem: self.tracker_roots_pem.clone(),
                    ..TrackerClientConfig::default()
                },
                plan: DispatchPlan { per_host: self.tracker_connections.max(1), ..DispatchPlan::default() },
            },
            down_limit: self.down_limit,
            up_limit: self.up_limit,
            count_overhead: self.count_overhead,
            sync: self.sync,
            zero_copy_send: self.zero_copy_send,
            transports: self.transports,
            encryption: self.encryption,
            proxy: self.proxy.clone(),
            web_seed_local: self.web_seed_local,
        }
    }
}

/// Whether this machine has IPv6 at all; kernels without it refuse the socket.
fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// How one torrent runs.
#[derive(Clone, Debug)]
pub struct AddOptions {
    /// Folder that the torrent's file or folder lies in.
    pub output: PathBuf,
    /// Files that lie elsewhere below `output` than the torrent says, as (index in [`Metainfo::files`], path). Paths that
    /// leave the folder or get in each other's way make the torrent fail.
    pub renames: Vec<(u32, PathBuf)>,
    /// Begin at rest, as after [`super::TorrentHandle::pause`].
    pub paused: bool,
    /// How files get their length.
    pub preallocate: Preallocate,
    /// Order of pieces and endgame.
    pub picker: PickerConfig,
    /// Addresses to connect to besides what trackers tell.
    pub peers: Vec<SocketAddr>,
    /// Whether trackers are asked.
    pub use_trackers: bool,
    /// Which of them.
    pub tracker_schemes: TrackerSchemes,
    /// Whether web seeds (BEP 19) of the torrent are asked.
    pub use_web_seeds: bool,
    /// Further web seeds, which the user trusts: they may be at local addresses.
    pub web_seeds: Vec<String>,
    /// Tell peers of each other, and take addresses from them (BEP 11); never for a private torrent.
    pub use_pex: bool,
    /// Whether it is looked for and announced in the DHT; never if it is private (BEP 27).
    pub use_dht: bool,
    /// As `use_dht`, in the local network.
    pub use_lsd: bool,
    /// Its peers and trackers are reached from here only, in place of [`Settings::bind`], and nobody else is accepted. To be
    /// reached there, the session has to listen there, too. It is in neither the DHT nor the local network then: both tell
    /// where the session is. `None`: as the session.
    pub bind_to: Option<Binding>,
    /// Serve what is there; nothing is written and nothing missing is fetched.
    pub seed_only: bool,
    /// Connections of this torrent at most.
    pub max_peers: usize,
    /// Rate limits of the torrent and of each of its peers, below those of all torrents together. `None`: those of
    /// [`Settings::torrent_limits`].
    pub limits: Option<TorrentLimits>,
    /// How much each file is wanted, by index in [`Metainfo::files`]; files behind the last entry are
    /// [`Priority::Normal`]. `None`: as `resume` says, else all alike. Of no meaning with `seed_only`. See
    /// [`crate::TorrentHandle::set_file_priorities`] for what it means on disk.
    pub file_priorities: Option<Vec<Priority>>,
    /// Fetch what is needed to play the largest wanted file while it comes: its first and last pieces, then in order from
    /// its first gap. Readers ([`crate::TorrentHandle::reader`]) come before that. The torrent stays on one shard.
    pub streaming: bool,
    /// Show each peer single pieces instead of all there is (BEP 16), if everything is there when the torrent starts: a
    /// first copy then costs little more upload than its bytes once. The torrent stays on one shard.
    pub super_seeding: bool,
    /// What an earlier run has found out about the files ([`crate::TorrentHandle::snapshot`], or
    /// [`crate::linking::LinkReport::known`]): only what is doubtful, or
    /// has changed since, is hashed again. `None`: everything is.
    pub known: Option<Known>,
    /// Torrent file that it was read from, kept in checkpoints for [`crate::checkpoints`].
    pub source: Option<PathBuf>,
    /// The magnet link that it came from, kept in checkpoints; then the torrent file is kept beside them.
    pub magnet: Option<String>,
    /// Go on from this checkpoint if it is of this torrent: what it knows of the files (where `known` says nothing), other
    /// paths (where `renames` says nothing), peers and sums. Its output folder is not used: `output` counts.
    pub resume: Option<Box<Checkpoint>>,
    /// Where `resume` says nothing, go on from the checkpoint that the session's folder ([`Settings::checkpoints`]) has
    /// of the torrent, if there is one.
    pub auto_resume: bool,
}

/// Which trackers are asked, by the scheme of their URLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackerSchemes {
    /// `http://` and `https://` (BEP 3).
    pub http: bool,
    /// `udp://` (BEP 15).
    pub udp: bool,
}

impl Default for TrackerSchemes {
    /// All.
    fn default() -> Self {
        Self { http: true, udp: true }
    }
}

impl TrackerSchemes {
    /// Takes all others out.
    pub(super) fn sift(self, tiers: &mut Vec<Vec<String>>) {
        tiers.iter_mut().for_each(|tier| tier.retain(|url| self.include(url)));
        tiers.retain(|tier| !tier.is_empty());
    }

    /// Whether the tracker at `url` is one of them.
    fn include(self, url: &str) -> bool {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        let is = |name: &str| scheme.eq_ignore_ascii_case(name);
        if is("udp") {
            self.udp
        } else if is("http") || is("https") {
            self.http
        } else {
            true
        }
    }
}

/// Whether somebody could listen there; a checkpoint may be anybody's.
fn can_be_reached(peer: &SocketAddr) -> bool {
    peer.port() != 0 && !peer.ip().is_unspecified() && !peer.ip().is_multicast()
}

impl AddOptions {
    /// The defaults, with files below `output`.
    pub fn new(output: impl Into<PathBuf>) -> Self {
        Self {
            output: output.into(),
            renames: Vec::new(),
            paused: false,
            preallocate: Preallocate::default(),
            picker: PickerConfig::default(),
            peers: Vec::new(),
            use_trackers: true,
            tracker_schemes: TrackerSchemes::default(),
            use_web_seeds: true,
            web_seeds: Vec::new(),
            use_pex: true,
            use_dht: true,
            use_lsd: true,
            bind_to: None,
            seed_only: false,
            max_peers: 100,
            limits: None,
            file_priorities: None,
            streaming: false,
            super_seeding: false,
            known: None,
            source: None,
            magnet: None,
            resume: None,
            auto_resume: true,
        }
    }

    /// How much each file is wanted.
    pub(super) fn priorities_for(&self, metainfo: &Metainfo) -> Vec<Priority> {
        let kept = self.resume.as_ref().filter(|checkpoint| checkpoint.fits(metainfo).is_ok());
        let kept = || kept.map(|checkpoint| checkpoint.file_priorities.clone());
        self.file_priorities.clone().or_else(kept).unwrap_or_default()
    }

    /// The user's web seeds and the torrent's.
    fn sites(&self, metainfo: &Metainfo) -> Vec<Arc<Site>> {
        let own = self.web_seeds.iter().map(|url| (url, true));
        let named =
            metainfo.web_seeds.iter().filter(|url| self.use_web_seeds && !self.web_seeds.contains(url));
        let all: Vec<_> = own.chain(named.map(|url| (url, false))).collect();
        if all.is_empty() || self.seed_only {
            return Vec::new();
        }
        let paths = Arc::new(ccbt_protocol::webseed::urls::paths(metainfo));
        let site = |(url, trusted): (&String, bool)| {
            let (url, paths) = (url.clone(), Arc::clone(&paths));
            let bind = self.bind_to.clone();
            Arc::new(Site { url, trusted, is_multi_file: metainfo.is_multi_file, bind, paths })
        };
        all.into_iter().map(site).collect()
    }

    pub(super) fn into_message(mut self, key: TorrentKey, metainfo: Arc<Metainfo>) -> AddTorrent {
        if let Some(checkpoint) = self.resume.take().filter(|checkpoint| checkpoint.fits(&metainfo).is_ok()) {
            self.known.get_or_insert_with(|| checkpoints::known(&checkpoint));
            if self.renames.is_empty() {
                self.renames =
                    checkpoint.renames.into_iter().map(|rename| (rename.file, rename.path)).collect();
            }
            self.peers.extend(checkpoint.peers.iter().filter(|peer| can_be_reached(peer)));
            self.file_priorities.get_or_insert(checkpoint.file_priorities);
        }
        let mut trackers = if self.use_trackers { metainfo.trackers.clone() } else { Vec::new() };
        self.tracker_schemes.sift(&mut trackers);
        let web_seeds = self.sites(&metainfo);
        AddTorrent {
            key,
            metainfo,
            web_seeds,
            root: self.output,
            renames: self.renames,
            paused: self.paused,
            prealloc: self.preallocate,
            picker: self.picker,
            peers: self.peers,
            trackers,
            use_dht: self.use_dht,
            use_lsd: self.use_lsd,
            seed_only: self.seed_only,
            max_peers: self.max_peers,
            limits: self.limits.unwrap_or_default(),
            streaming: self.streaming,
            super_seeding: self.super_seeding,
            pex: self.use_pex,
            selection: Selection::new(self.file_priorities.unwrap_or_default()),
            known: self.known,
            bind: self.bind_to,
        }
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;

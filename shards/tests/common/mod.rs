//! Services on loopback, and torrents of noise for them.
#![allow(dead_code)] // Each test binary uses its own part.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ccbt_protocol::choker::ChokerConfig;
use ccbt_protocol::ids::{PeerId, TorrentKey};
use ccbt_protocol::metainfo::Metainfo;
use ccbt_protocol::metainfo::build::{Builder, InputFile};
use ccbt_protocol::picker::PickerConfig;
use ccbt_protocol::rate::TorrentLimits;
use ccbt_protocol::request_window::WindowConfig;
use ccbt_protocol::selection::Selection;
use ccbt_shards::discovery::DiscoveryConfig;
use ccbt_shards::messages::{AddTorrent, Event, FromShard};
use ccbt_shards::service::{Service, ServiceConfig};
use ccbt_shards::sync::SyncConfig;
use ccbt_shards::trackers::TrackersConfig;
use ccbt_shards::zero_copy::ZeroCopySend;
use ccbt_storage::StorageConfig;
use ccbt_storage::messages::Preallocate;

/// Bounds a hang; never a measure of speed.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const KEY: TorrentKey = TorrentKey(7);

pub fn service(shards: usize, memory_mib: usize) -> Service {
    service_with(shards, memory_mib, |_| {})
}

pub fn service_with(shards: usize, memory_mib: usize, change: impl FnOnce(&mut ServiceConfig)) -> Service {
    let mut config = ServiceConfig {
        shard_cpus: vec![None; shards],
        storage: StorageConfig::default(),
        memory_bytes: memory_mib << 20,
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        bind: None,
        discovery: DiscoveryConfig::default(),
        peer_id: PeerId::random(&mut rand::rng()),
        max_connections: 100,
        choker: ChokerConfig::default(),
        window: WindowConfig::default(),
        trackers: TrackersConfig::default(),
        down_limit: 0,
        up_limit: 0,
        count_overhead: false,
        sync: SyncConfig::default(),
        zero_copy_send: ZeroCopySend::default(),
        transports: Default::default(),
        encryption: Default::default(),
    };
    change(&mut config);
    Service::start(config).unwrap()
}

pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Files `f0`, `f1`… of these sizes in a folder `t`, written below `dir`, and their torrent.
pub fn publish(dir: &Path, sizes: &[usize], piece_len: u32) -> Arc<Metainfo> {
    let mut all = Vec::new();
    std::fs::create_dir_all(dir.join("t/sub")).unwrap();
    let mut files = Vec::new();
    for (at, size) in sizes.iter().enumerate() {
        let bytes = noise(*size, at as u64 + 3);
        let path = if at % 2 == 0 { vec![format!("f{at}")] } else { vec!["sub".into(), format!("f{at}")] };
        std::fs::write(dir.join("t").join(path.join("/")), &bytes).unwrap();
        files.push(InputFile { path, len: *size as u64, ..InputFile::default() });
        all.extend(bytes);
    }
    let plan = Builder::multi_file("t", files).piece_len(piece_len).plan().unwrap();
    let hashes: Vec<_> = all.chunks(piece_len as usize).map(ccbt_storage::hash::sha1).collect();
    Arc::new(Metainfo::parse(&plan.finish(&hashes)).unwrap())
}

pub fn add(service: &Service, meta: &Arc<Metainfo>, root: &Path, peers: Vec<SocketAddr>, seed_only: bool) {
    add_with(service, meta, root, peers, |add| add.seed_only = seed_only);
}

pub fn add_with(
    service: &Service,
    meta: &Arc<Metainfo>,
    root: &Path,
    peers: Vec<SocketAddr>,
    change: impl FnOnce(&mut AddTorrent),
) {
    let mut add = AddTorrent {
        key: KEY,
        metainfo: meta.clone(),
        root: root.to_owned(),
        prealloc: Preallocate::Sparse,
        picker: PickerConfig::default(),
        peers,
        trackers: Vec::new(),
        use_dht: true,
        use_lsd: true,
        seed_only: false,
        max_peers: 50,
        limits: TorrentLimits::default(),
        selection: Selection::default(),
        streaming: false,
        super_seeding: false,
        // Peers know whom a test names, and nobody else.
        pex: false,
        known: None,
        renames: Vec::new(),
        paused: false,
    };
    change(&mut add);
    service.add(add);
}

pub fn wait<T>(service: &Service, what: &str, mut wanted: impl FnMut(&FromShard) -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let message =
            service.events().recv_timeout(left).unwrap_or_else(|_| panic!("no {what}; there were {seen:#?}"));
        if let Some(found) = wanted(&message) {
            return found;
        }
        seen.push(message);
        if seen.len() > 20 {
            seen.remove(0);
        }
    }
}

pub fn wait_event(service: &Service, event: &Event) {
    wait(service, &format!("{event:?}"), |message| {
        matches!(message, FromShard::Event(KEY, told) if told == event).then_some(())
    });
}

pub fn stop(service: Service) {
    service.shutdown();
    for _ in 0..service.shards() {
        wait(&service, "stop", |message| matches!(message, FromShard::Stopped { .. }).then_some(()));
    }
    service.join();
}

pub fn address(service: &Service) -> SocketAddr {
    SocketAddr::new("127.0.0.1".parse().unwrap(), service.port())
}

pub fn assert_same(meta: &Metainfo, one: &Path, other: &Path) {
    for file in &meta.files {
        let path = file.path.join("/");
        let (left, right) =
            (std::fs::read(one.join(&path)).unwrap(), std::fs::read(other.join(&path)).unwrap());
        assert!(left == right, "{path} differs");
    }
}

//! Whole services against each other over loopback: what one seeds the other fetches, whatever the shapes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ccbt_protocol::choker::ChokerConfig;
use ccbt_protocol::ids::{PeerId, TorrentKey};
use ccbt_protocol::metainfo::Metainfo;
use ccbt_protocol::metainfo::build::{Builder, InputFile};
use ccbt_protocol::picker::PickerConfig;
use ccbt_protocol::request_window::WindowConfig;
use ccbt_shards::control::TrackerClientConfig;
use ccbt_shards::messages::{AddTorrent, Event, FromShard, State};
use ccbt_shards::service::{Service, ServiceConfig};
use ccbt_shards::sync::SyncConfig;
use ccbt_storage::StorageConfig;
use ccbt_storage::messages::Preallocate;

/// Bounds a hang; never a measure of speed.
const PATIENCE: Duration = Duration::from_secs(60);
const KEY: TorrentKey = TorrentKey(7);

fn service(shards: usize, memory_mib: usize) -> Service {
    let config = ServiceConfig {
        shard_cpus: vec![None; shards],
        storage: StorageConfig::default(),
        memory_bytes: memory_mib << 20,
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        bind: None,
        peer_id: PeerId::random(&mut rand::rng()),
        max_connections: 100,
        choker: ChokerConfig::default(),
        window: WindowConfig::default(),
        tracker: TrackerClientConfig::default(),
        down_limit: 0,
        up_limit: 0,
        sync: SyncConfig::default(),
    };
    Service::start(config).unwrap()
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
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
fn publish(dir: &Path, sizes: &[usize], piece_len: u32) -> Arc<Metainfo> {
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

fn add(service: &Service, meta: &Arc<Metainfo>, root: &Path, peers: Vec<SocketAddr>, seed_only: bool) {
    service.add(AddTorrent {
        key: KEY,
        metainfo: meta.clone(),
        root: root.to_owned(),
        prealloc: Preallocate::Sparse,
        picker: PickerConfig::default(),
        peers,
        use_trackers: false,
        seed_only,
        max_peers: 50,
        known: None,
    });
}

fn wait<T>(service: &Service, what: &str, mut wanted: impl FnMut(&FromShard) -> Option<T>) -> T {
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

fn wait_event(service: &Service, event: &Event) {
    wait(service, &format!("{event:?}"), |message| {
        matches!(message, FromShard::Event(KEY, told) if told == event).then_some(())
    });
}

fn stop(service: Service) {
    service.shutdown();
    for _ in 0..service.shards() {
        wait(&service, "stop", |message| matches!(message, FromShard::Stopped { .. }).then_some(()));
    }
    service.join();
}

fn address(service: &Service) -> SocketAddr {
    SocketAddr::new("127.0.0.1".parse().unwrap(), service.port())
}

fn assert_same(meta: &Metainfo, one: &Path, other: &Path) {
    for file in &meta.files {
        let path = file.path.join("/");
        let (left, right) =
            (std::fs::read(one.join(&path)).unwrap(), std::fs::read(other.join(&path)).unwrap());
        assert!(left == right, "{path} differs");
    }
}

fn round_trip(sizes: &[usize], piece_len: u32, shards: usize) {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let meta = publish(from.path(), sizes, piece_len);
    let (seed, leech) = (service(shards, 64), service(shards, 64));
    add(&seed, &meta, from.path(), Vec::new(), true);
    let good = meta.geometry.piece_count();
    wait_event(&seed, &Event::Checked { good, total: good });
    add(&leech, &meta, to.path(), vec![address(&seed)], false);
    wait_event(&leech, &Event::Finished);
    assert_same(&meta, from.path(), to.path());
    stop(leech);
    stop(seed);
}

#[test]
fn many_small_files_and_pieces() {
    round_trip(&[1, 0, 40_000, 16_384, 3, 100_001, 0, 50_000], 16_384, 1);
}

#[test]
fn one_byte() {
    round_trip(&[1], 16_384, 1);
}

#[test]
fn large_pieces_over_two_shards() {
    // Two shards: connections are accepted by either and handed to the torrent's home.
    round_trip(&[9_000_000, 5_000_000, 11_000_000], 4 << 20, 2);
}

#[test]
fn many_pieces_through_little_memory() {
    round_trip(&[40_000_000], 256 << 10, 1);
}

#[test]
fn a_swarm_shares_and_remove_gives_the_files_back() {
    let from = tempfile::tempdir().unwrap();
    let meta = publish(from.path(), &[20_000_000], 128 << 10);
    let seed = service(1, 32);
    add(&seed, &meta, from.path(), Vec::new(), true);
    wait_event(&seed, &Event::Finished);
    let folders: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let leeches: Vec<_> = folders.iter().map(|_| service(1, 32)).collect();
    for (at, leech) in leeches.iter().enumerate() {
        let others = leeches[..at].iter().map(address);
        add(leech, &meta, folders[at].path(), others.chain([address(&seed)]).collect(), false);
    }
    for (leech, folder) in leeches.iter().zip(&folders) {
        wait_event(leech, &Event::Finished);
        assert_same(&meta, from.path(), folder.path());
    }
    seed.remove(KEY);
    wait_event(&seed, &Event::Removed);
    leeches.into_iter().for_each(stop);
    stop(seed);
}

#[test]
fn damaged_and_missing_pieces_are_fetched_again() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let meta = publish(from.path(), &[3_000_000, 70_000], 65_536);
    std::fs::create_dir_all(to.path().join("t")).unwrap();
    let mut bytes = std::fs::read(from.path().join("t/f0")).unwrap();
    bytes[200_000] ^= 1;
    std::fs::write(to.path().join("t/f0"), &bytes).unwrap();
    let (seed, leech) = (service(1, 32), service(1, 32));
    add(&seed, &meta, from.path(), Vec::new(), true);
    wait_event(&seed, &Event::Finished);
    add(&leech, &meta, to.path(), vec![address(&seed)], false);
    // Of 47 pieces one is damaged; the last of the first file ends in the second, which is not there; so is the rest.
    wait_event(&leech, &Event::Checked { good: 44, total: 47 });
    wait_event(&leech, &Event::Finished);
    assert_same(&meta, from.path(), to.path());
    let downloaded = wait(&leech, "seeding", |message| match message {
        FromShard::Status(status) if status.state == State::Seeding => Some(status.stats.downloaded),
        _ => None,
    });
    assert!(downloaded <= 3 * 65_536, "only what was missing: {downloaded}");
    stop(leech);
    stop(seed);
}

#[test]
fn seeding_writes_nothing_and_serves_what_is_there() {
    let from = tempfile::tempdir().unwrap();
    let meta = publish(from.path(), &[500_000, 300_000], 32_768);
    std::fs::remove_file(from.path().join("t/sub/f1")).unwrap();
    let seed = service(1, 32);
    add(&seed, &meta, from.path(), Vec::new(), true);
    wait_event(&seed, &Event::Checked { good: 15, total: 25 });
    wait_event(&seed, &Event::Finished);
    assert!(!from.path().join("t/sub/f1").exists());
    stop(seed);
}

#[test]
fn a_taken_port_is_an_error_that_names_it() {
    let first = service(1, 16);
    let listen = vec![address(&first)];
    let config = ServiceConfig {
        shard_cpus: vec![None],
        storage: StorageConfig::default(),
        memory_bytes: 16 << 20,
        listen,
        bind: None,
        peer_id: PeerId([1; 20]),
        max_connections: 10,
        choker: ChokerConfig::default(),
        window: WindowConfig::default(),
        tracker: TrackerClientConfig::default(),
        down_limit: 0,
        up_limit: 0,
        sync: SyncConfig::default(),
    };
    let error = Service::start(config).err().expect("the port is taken").to_string();
    assert!(error.contains(&first.port().to_string()) && error.contains("--port"), "{error}");
    stop(first);
}

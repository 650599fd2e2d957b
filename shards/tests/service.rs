//! Whole services against each other over loopback: what one seeds the other fetches, whatever the shapes.

mod common;

use ccbt_protocol::choker::ChokerConfig;
use ccbt_protocol::ids::PeerId;
use ccbt_protocol::request_window::WindowConfig;
use ccbt_shards::messages::{Event, FromShard, State};
use ccbt_shards::service::{Service, ServiceConfig};
use ccbt_shards::sync::SyncConfig;
use ccbt_shards::trackers::TrackersConfig;
use ccbt_shards::zero_copy::ZeroCopySend;
use ccbt_storage::StorageConfig;
use common::*;

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
    seed.remove(KEY, false);
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
        discovery: Default::default(),
        peer_id: PeerId([1; 20]),
        max_connections: 10,
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
    let error = Service::start(config).err().expect("the port is taken").to_string();
    assert!(error.contains(&first.port().to_string()) && error.contains("--port"), "{error}");
    stop(first);
}

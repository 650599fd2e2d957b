//! What services do at the disk: how often it is read for many peers, and when it is synced.

mod common;

use ccbt_protocol::picker::Strategy;
use ccbt_shards::messages::{CacheStats, Event, FromShard, State, TorrentStatus};
use ccbt_shards::service::Service;
use ccbt_shards::sync::{SyncConfig, SyncPolicy};
use common::*;

/// Shuts the service down; the last numbers of its read cache, of one shard.
fn stop_and_count(service: Service) -> CacheStats {
    service.shutdown();
    let mut last = CacheStats::default();
    wait(&service, "stop", |message| match message {
        FromShard::Cache(_, stats) => {
            last = *stats;
            None
        }
        FromShard::Stopped { .. } => Some(()),
        _ => None,
    });
    service.join();
    last
}

fn wait_status(service: &Service, what: &str, wanted: impl Fn(&TorrentStatus) -> bool) -> TorrentStatus {
    wait(service, what, |message| match message {
        FromShard::Status(status) if wanted(status) => Some((**status).clone()),
        _ => None,
    })
}

/// Lets `leeches` fetch 16 MB from one seed of `memory_mib`, each for itself.
fn serve(leeches: usize, memory_mib: usize, window: usize) -> CacheStats {
    let from = tempfile::tempdir().unwrap();
    let meta = publish(from.path(), &[16_000_000], 1 << 20);
    let seed = service(1, memory_mib);
    add(&seed, &meta, from.path(), Vec::new(), true);
    wait_event(&seed, &Event::Finished);
    let folders: Vec<_> = (0..leeches).map(|_| tempfile::tempdir().unwrap()).collect();
    let leeches: Vec<_> = folders
        .iter()
        .map(|folder| {
            let leech = service_with(1, 32, |config| {
                (config.window.floor, config.window.ceiling) = (window.min(4), window);
                // Nobody finds them, so they share nothing.
                config.listen = Vec::new();
            });
            add_with(&leech, &meta, folder.path(), vec![address(&seed)], |add| {
                add.picker.strategy = Strategy::Sequential;
            });
            leech
        })
        .collect();
    for (leech, folder) in leeches.iter().zip(&folders) {
        wait_event(leech, &Event::Finished);
        assert_same(&meta, from.path(), folder.path());
    }
    leeches.into_iter().for_each(stop);
    stop_and_count(seed)
}

#[test]
fn the_disk_is_read_once_for_many_peers() {
    // The cache holds a quarter of the memory: all of the torrent.
    let stats = serve(4, 128, 4096);
    assert_eq!(stats.read_bytes, 16_000_000, "{stats:?}");
    assert_eq!(stats.reads, 16_000_000u64.div_ceil(256 * 1024));
    assert!(stats.hits + stats.shared > 2 * stats.misses, "{stats:?}");
    assert_eq!((stats.evictions, stats.resident), (0, 0), "what a torrent held is let go of with it");
}

#[test]
fn peers_with_few_requests_are_foreseen() {
    let stats = serve(1, 128, 4);
    assert!(stats.ahead_used > stats.reads / 2, "64 KiB of requests show less than an extent: {stats:?}");
    assert_eq!(stats.ahead_wasted, 0, "{stats:?}");
    assert!(stats.hits > 2 * (stats.shared + stats.misses), "{stats:?}");
}

#[test]
fn more_peers_than_the_cache_has_room_for() {
    // 4 MiB for sending: 16 extents, of which each of six peers wants four and more. Everybody gets everything.
    let stats = serve(6, 16, 4096);
    assert!(stats.evictions > 0 && stats.read_bytes >= 16_000_000, "{stats:?}");
    assert!(stats.resident <= stats.capacity);
}

#[test]
fn what_was_just_written_is_passed_on_without_a_read() {
    let (from, middle, to) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let meta = publish(from.path(), &[16_000_000], 256 << 10);
    let seed = service_with(1, 32, |config| config.up_limit = 8 << 20);
    let relay = service(1, 128);
    let last = service(1, 32);
    add(&relay, &meta, middle.path(), Vec::new(), false);
    add(&last, &meta, to.path(), vec![address(&relay)], false);
    wait_status(&relay, "a peer of the relay", |status| status.peer_count > 0);
    add(&seed, &meta, from.path(), vec![address(&relay)], true);
    wait_event(&last, &Event::Finished);
    assert_same(&meta, from.path(), to.path());
    stop(last);
    stop(seed);
    let stats = stop_and_count(relay);
    assert!(stats.admitted > 0, "{stats:?}");
    assert!(stats.read_bytes + stats.admitted * 256 * 1024 >= 16_000_000, "{stats:?}");
    assert!(stats.read_bytes < 16_000_000 / 2, "most of it never came from the disk: {stats:?}");
}

/// Downloads 10 MB in 40 pieces under `sync`; the status at the end.
fn download(sync: SyncConfig) -> TorrentStatus {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let meta = publish(from.path(), &[10_000_000], 256 << 10);
    let (seed, leech) = (service(1, 32), service_with(1, 32, |config| config.sync = sync));
    add(&seed, &meta, from.path(), Vec::new(), true);
    add(&leech, &meta, to.path(), vec![address(&seed)], false);
    let status = wait_status(&leech, "the end", |status| {
        let all = status.pieces_durable == status.pieces_total || sync.policy == SyncPolicy::None;
        status.state == State::Seeding && all
    });
    assert_same(&meta, from.path(), to.path());
    stop(leech);
    stop(seed);
    status
}

#[test]
fn the_policies_sync_as_often_as_they_say() {
    let sync = |policy| SyncConfig { policy, ..SyncConfig::default() };
    assert_eq!(download(sync(SyncPolicy::Checkpoint)).syncs, 1, "before Finished");
    let piece = download(sync(SyncPolicy::Piece)).syncs;
    assert!((2..=39).contains(&piece), "in batches, but not in one: {piece}");
    let none = download(sync(SyncPolicy::None));
    assert_eq!((none.syncs, none.pieces_durable), (0, 0));
}

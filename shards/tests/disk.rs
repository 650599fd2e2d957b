//! What services do at the disk: how often it is read for many peers, and when it is synced.

mod common;

use std::time::{Duration, Instant};

use ccbt_protocol::ids::TorrentKey;
use ccbt_protocol::picker::Strategy;
use ccbt_shards::messages::{CacheStats, Event, FromShard, State, ToShard, TorrentStatus};
use ccbt_shards::service::Service;
use ccbt_shards::sync::{SyncConfig, SyncPolicy};
use ccbt_storage::messages::Preallocate;
use ccbt_storage::ring::fake::{Fault, FaultOp, FaultPlan, Gate, Nth, Outcome, Target};
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

// ---- a disk that fails at one operation, or hangs

/// Files of a small torrent: in one folder and below, with odd sizes.
const SMALL: [usize; 3] = [150_001, 90_000, 70_007];
/// More operations of any kind than a download of it can have: its ten pieces lie in twelve parts of three files, and
/// each file is opened and reserved, each part written and, where the disk is slow, synced by itself. Machines differ in
/// how many syncs are one.
const OPERATIONS_MAX: usize = 64;

/// A download for each operation: its `nth` operation of the kind fails with `errno`, for every n. Each completes, with a
/// pause and its reason where a write or the opening failed.
fn sweep(op: FaultOp, errno: i32, prealloc: Preallocate) {
    let folders: Vec<_> =
        (0..OPERATIONS_MAX).map(|_| (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap())).collect();
    let mut faults = FaultPlan::default();
    for (nth, (_, to)) in folders.iter().enumerate() {
        faults = faults.with(Fault {
            target: Target::Below(to.path().to_owned()),
            op,
            nth: Nth::Only(nth as u64),
            outcome: Outcome::Errno(errno),
        });
    }
    let plan = faults.clone();
    let seed = service(1, 64);
    let leech = service_with(1, 64, |config| {
        config.storage.faults = faults;
        config.sync = SyncConfig { policy: SyncPolicy::Piece, ..config.sync };
    });
    let key = |nth: usize| TorrentKey(nth as u32 + 1);
    let mut metas = Vec::new();
    for (nth, (from, to)) in folders.iter().enumerate() {
        // Another last byte makes another torrent.
        let meta = publish(from.path(), &[SMALL[0], SMALL[1], SMALL[2] + nth], 32 << 10);
        add_with(&seed, &meta, from.path(), Vec::new(), |add| {
            (add.key, add.seed_only) = (key(nth), true);
        });
        add_with(&leech, &meta, to.path(), vec![address(&seed)], |add| {
            (add.key, add.prealloc) = (key(nth), prealloc);
        });
        metas.push(meta);
    }
    let (mut failed, mut finished) = (vec![0; OPERATIONS_MAX], 0);
    wait(&leech, "the end of all", |message| {
        match message {
            FromShard::Event(key, Event::Finished) => {
                let (nth, meta) = (key.0 as usize - 1, &metas[key.0 as usize - 1]);
                // Claimed the moment it is said.
                assert_same(meta, folders[nth].0.path(), folders[nth].1.path());
                finished += 1;
            }
            FromShard::Event(key, Event::Failed { message, retry }) => {
                let nth = key.0 as usize - 1;
                assert!(
                    message.contains(&*folders[nth].1.path().to_string_lossy()),
                    "it names the file: {message}"
                );
                failed[nth] += 1;
                if !retry {
                    leech.tell_home(*key, ToShard::Resume(*key));
                }
            }
            _ => {}
        }
        (finished == OPERATIONS_MAX).then_some(())
    });
    let struck: Vec<bool> = (0..OPERATIONS_MAX).map(|nth| plan.struck(nth) > 0).collect();
    let hits = struck.iter().filter(|hit| **hit).count();
    assert!(hits > 0 && !struck[OPERATIONS_MAX - 1], "{op:?}: every operation had its turn: {struck:?}");
    for (nth, times) in failed.iter().enumerate() {
        assert!(
            *times <= i32::from(struck[nth]),
            "{op:?} {nth}: told {times} times, struck: {}",
            struck[nth]
        );
    }
    println!("{op:?} {errno}: {hits} operations failed, {} pauses", failed.iter().sum::<i32>());
    stop(leech);
    stop(seed);
}

#[test]
fn an_error_at_any_operation_of_a_download_costs_a_pause_at_most() {
    sweep(FaultOp::Write, libc::ENOSPC, Preallocate::Sparse);
    sweep(FaultOp::Write, libc::EIO, Preallocate::None);
    sweep(FaultOp::Sync, libc::EIO, Preallocate::Sparse);
    sweep(FaultOp::Any, libc::ENOMEM, Preallocate::Full);
}

#[test]
fn a_disk_that_takes_nothing_stops_peers_and_memory_stays_as_it_is() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let meta = publish(from.path(), &[60_000_000], 256 << 10);
    let gate = Gate::new();
    let faults = FaultPlan::default().with(Fault {
        target: Target::Below(to.path().to_owned()),
        op: FaultOp::Write,
        nth: Nth::From(0),
        outcome: Outcome::Hold(gate.clone()),
    });
    let seed = service(1, 64);
    // Three quarters of it are for downloads.
    let leech = service_with(1, 16, |config| config.storage.faults = faults);
    add(&seed, &meta, from.path(), Vec::new(), true);
    wait_event(&seed, &Event::Finished);
    add(&leech, &meta, to.path(), vec![address(&seed)], false);
    // All of it would have come by then, were there room.
    let (end, mut stuck) = (Instant::now() + Duration::from_secs(2), 0);
    while let Ok(message) = leech.events().recv_deadline(end) {
        if let FromShard::Status(status) = message {
            stuck = status.stats.downloaded.max(stuck);
        }
    }
    // Opened before anything is looked at: a service whose disk hangs could not end.
    let held = gate.held();
    gate.open();
    assert!(stuck <= 12 << 20, "{stuck} bytes were taken with 12 MiB for them");
    assert!(held > 0 && stuck > 1 << 20, "{stuck}");
    wait_event(&leech, &Event::Finished);
    assert_same(&meta, from.path(), to.path());
    stop(leech);
    stop(seed);
}

//! The numbers are those of what was done.

mod common;

use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_storage::messages::{HashJob, OpenMode, Preallocate};
use ccbt_storage::schedule::tuner::DeviceKind;
use ccbt_storage::stats::StorageStats;
use ccbt_storage::{Completion, StorageConfig};
use common::*;

const PIECE: u32 = 256 << 10;

/// The numbers once they are as they should be.
fn settled(rig: &Rig, good: impl Fn(&StorageStats) -> bool) -> StorageStats {
    loop {
        let stats = rig.service.stats();
        if good(&stats) {
            return stats;
        }
        std::thread::yield_now();
    }
}

#[test]
fn bytes_operations_and_punts_add_up() {
    for parent in ["/var/tmp", "/dev/shm"] {
        let Ok(folder) = tempfile::tempdir_in(parent) else { continue };
        // The last page is ragged: one operation goes through the page cache.
        let len = 16 * u64::from(PIECE) + 100;
        let spec = layout(folder.path(), vec![file("a", len)], PIECE);
        let mut rig = Rig::new(StorageConfig {
            queue_depth: Some(7),
            write_bytes: Some(300_000),
            ..StorageConfig::default()
        });
        let report = rig.open(1, &spec, Preallocate::Full, OpenMode::ReadWrite).unwrap();
        let all: Vec<u32> = (0..piece_count(&spec)).collect();
        assert!(rig.write_all(1, &spec, &all).is_empty());
        rig.sync(1).unwrap();
        for &piece in &all {
            let start = spec.piece_start(PieceIndex(piece));
            rig.read(1, &spec, start, spec.piece_size(PieceIndex(piece))).unwrap();
        }
        // What is in flight is shown once per turn of the storage thread.
        let stats = settled(&rig, |stats| stats.devices.iter().all(|device| device.in_flight == 0));
        let [device] = &stats.devices[..] else { panic!("{stats:?}") };
        assert_eq!((device.write.bytes, device.read.bytes), (len, len));
        let buffered = if report.direct { 100 } else { len };
        assert_eq!((device.write.buffered_bytes, device.read.buffered_bytes), (buffered, buffered));
        for way in [&device.write, &device.read] {
            assert_eq!(way.latency.buckets.iter().sum::<u64>(), way.operations);
            assert!(way.operations >= 16 && way.latency.max_us <= way.latency.sum_us);
        }
        assert_eq!(
            (device.errors, device.in_flight, device.waiting_parts, stats.open_files > 0),
            (0, 0, 0, true)
        );
        if device.kind == DeviceKind::Memory {
            // The last piece is short enough to be written together with the one before it, if both wait.
            let together = device.write.operations + device.read.operations;
            assert!((33..=34).contains(&together), "{device:?}");
        } else {
            // Rounded down to whole pages.
            assert_eq!((device.depth_limit, device.batch_bytes), (7, 300_000 / 4096 * 4096));
            assert!(device.punts >= device.tasks, "{device:?}");
            assert!(stats.submissions >= device.write.operations + device.read.operations);
            assert!(stats.completions > 0 && stats.enters > 0 && stats.enters <= stats.submissions + 1000);
            let workers = rig.service.workers().unwrap();
            assert!(workers.peak >= workers.now, "{workers:?}");
        }
        // The reservation, the file's sync, and those of its folders.
        assert!(device.tasks >= 2, "{device:?}");
        rig.close(1);
        settled(&rig, |stats| stats.open_files == 0);
        rig.service.stop();
    }
}

#[test]
fn hash_jobs_are_counted_from_hand_over_to_verdict() {
    let mut rig = Rig::new(StorageConfig::default());
    for piece in 0..10 {
        let buf = rig.memory.alloc(1000, 0).unwrap();
        let expected = [0; 20];
        rig.client.hash(HashJob { torrent: TorrentKey(1), piece: PieceIndex(piece), expected, buf });
    }
    assert_eq!(rig.service.stats().hash.jobs_waiting, 10);
    for done in 1..=9 {
        let verdict = loop {
            match rig.client.poll() {
                Some(Completion::Hash(verdict)) => break verdict,
                _ => std::thread::yield_now(),
            }
        };
        rig.memory.free(verdict.buf);
        let hash = rig.service.stats().hash;
        assert_eq!((hash.jobs_waiting, hash.jobs_done, hash.bytes), (10 - done, done, done * 1000));
    }
    let Rig { client, service, .. } = rig;
    drop(client);
    assert_eq!(service.stats().hash.jobs_waiting, 0, "nobody waits for the last one any more");
    service.stop();
}

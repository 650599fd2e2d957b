//! What waits for what, and that many torrents share one thread and few descriptors.

mod common;

use std::collections::HashSet;
use std::sync::Arc;

use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_storage::messages::{OpenMode, Preallocate, StorageCmd, StorageDone};
use ccbt_storage::{Completion, StorageConfig};
use common::*;

const KEY: TorrentKey = TorrentKey(1);

#[test]
fn a_sync_is_answered_after_all_earlier_writes_and_a_close_after_everything() {
    for parent in ["/tmp", "/dev/shm"] {
        let Ok(folder) = tempfile::tempdir_in(parent) else { continue };
        let spec = layout(folder.path(), vec![file("a", 3_000_001), file("b", 2_000_000)], 16_384);
        let mut rig = Rig::new(StorageConfig { queue_depth: Some(2), ..StorageConfig::default() });
        rig.open(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
        let pieces = piece_count(&spec);
        for piece in 0..pieces {
            assert!(rig.submit_write(1, &spec, piece, None));
            if piece % 10 == 9 {
                rig.client.submit(StorageCmd::Sync { torrent: KEY });
            }
        }
        rig.submit_read(1, &spec, 0, 1000, 5);
        rig.client.submit(StorageCmd::Close { torrent: KEY });
        // Comes after the close: a new life of the torrent, on the same files.
        let (mode, prealloc) = (OpenMode::ReadWrite, Preallocate::Sparse);
        rig.client.submit(StorageCmd::Open {
            torrent: KEY,
            spec: Arc::clone(&spec),
            prealloc,
            mode,
            later: Vec::new(),
        });
        let mut written = HashSet::new();
        let (mut syncs, mut read, mut closed) = (0, false, false);
        loop {
            match rig.wait() {
                StorageDone::Written { piece, buf, result, .. } => {
                    assert!(!closed);
                    result.unwrap();
                    written.insert(piece.0);
                    rig.memory.free(buf);
                }
                StorageDone::Synced { result, .. } => {
                    result.unwrap();
                    syncs += 1;
                    assert!(
                        (0..syncs * 10).all(|piece| written.contains(&piece)),
                        "sync {syncs} came too early"
                    );
                }
                StorageDone::ReadDone { buf, result, .. } => {
                    result.unwrap();
                    read = true;
                    rig.memory.free(buf);
                }
                StorageDone::Closed { .. } => {
                    assert!(read && syncs == pieces / 10 && written.len() == pieces as usize);
                    closed = true;
                }
                StorageDone::Opened { result, .. } => {
                    assert!(closed, "opened before it was closed");
                    assert!(result.unwrap().files.iter().all(|file| file.existed));
                    break;
                }
                StorageDone::Looked { .. } => panic!("nobody asked for a look"),
            }
        }
        rig.close(1);
        check_files(1, &spec);
        rig.service.stop();
    }
}

#[test]
fn commands_sent_while_a_torrent_opens_wait_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let files = (0..500).map(|at| file(&format!("d{}/f{at}", at / 100), 700)).collect();
    let spec = layout(folder.path(), files, 16_384);
    let mut rig = Rig::new(StorageConfig { max_open_files: 8, ..StorageConfig::default() });
    let (mode, prealloc) = (OpenMode::ReadWrite, Preallocate::Full);
    rig.client.submit(StorageCmd::Open {
        torrent: KEY,
        spec: Arc::clone(&spec),
        prealloc,
        mode,
        later: Vec::new(),
    });
    for piece in 0..piece_count(&spec) {
        assert!(rig.submit_write(1, &spec, piece, None));
    }
    rig.client.submit(StorageCmd::Close { torrent: KEY });
    let mut answers = Vec::new();
    while rig.client.under_way() > 0 {
        answers.push(match rig.wait() {
            StorageDone::Opened { result, .. } => result.map(|_| 'o').unwrap(),
            StorageDone::Written { result, .. } => result.map(|()| 'w').unwrap(),
            StorageDone::Closed { .. } => 'c',
            other => panic!("{other:?}"),
        });
    }
    assert_eq!((answers[0], answers[answers.len() - 1]), ('o', 'c'));
    check_files(1, &spec);
    rig.service.stop();
}

#[test]
fn many_torrents_use_few_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(StorageConfig { max_open_files: 10, ..StorageConfig::default() });
    // Of this test alone: others run in the same process.
    let open_files = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let ours = |link: &std::path::PathBuf| link.starts_with(folder.path());
        links.filter_map(|entry| std::fs::read_link(entry.path()).ok()).filter(ours).count()
    };
    let specs: Vec<_> = (0..60)
        .map(|key| {
            let files = (0..5).map(|at| file(&format!("f{at}"), 20_000)).collect();
            layout(&folder.path().join(key.to_string()), files, 16_384)
        })
        .collect();
    for (key, spec) in specs.iter().enumerate() {
        rig.open(key as u32, spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
    }
    assert!(open_files() <= 10, "nothing stays open that is not used");
    let mut most = 0;
    for piece in 0..piece_count(&specs[0]) {
        for (key, spec) in specs.iter().enumerate() {
            assert!(rig.submit_write(key as u32, spec, piece, None));
        }
    }
    while rig.client.under_way() > 0 {
        match rig.wait() {
            StorageDone::Written { buf, result, .. } => {
                result.unwrap();
                rig.memory.free(buf);
            }
            other => panic!("{other:?}"),
        }
        most = most.max(open_files());
    }
    // Files in use are not closed to stay below the limit; one for each of the 300 files would be far above.
    assert!(most <= 10 + 80, "{most} descriptors");
    for (key, spec) in specs.iter().enumerate() {
        rig.sync(key as u32).unwrap();
        rig.close(key as u32);
        check_files(key as u32, spec);
    }
    rig.service.stop();
}

#[test]
fn two_clients_share_a_torrent_and_each_gets_its_own_answers() {
    let folder = tempfile::tempdir().unwrap();
    let spec = layout(folder.path(), vec![file("a", 1_000_000)], 16_384);
    let mut rig = Rig::new(StorageConfig::default());
    rig.open(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
    let all: Vec<u32> = (0..piece_count(&spec)).collect();
    assert_eq!(rig.write_all(1, &spec, &all), Default::default());
    let bell = ccbt_storage::doorbell::Doorbell::new().unwrap();
    let mut memory = ccbt_storage::arena::Partition::new(1 << 20).unwrap();
    let mut other = rig.service.client(bell, 4);
    let buf = memory.alloc(16_384, 0).unwrap();
    other.submit(StorageCmd::Read { torrent: KEY, tag: 77, start: 0, buf });
    rig.submit_read(1, &spec, 16_384, 100, 78);
    assert!(matches!(rig.wait(), StorageDone::ReadDone { tag: 78, result: Ok(()), .. }));
    let done = loop {
        match other.poll() {
            Some(Completion::Storage(done)) => break done,
            _ => std::thread::yield_now(),
        }
    };
    match done {
        StorageDone::ReadDone { tag: 77, buf, result: Ok(()), .. } => {
            assert!(buf.as_slice() == expected(1, &spec, 0, 16_384));
            memory.free(buf);
        }
        done => panic!("{done:?}"),
    }
    // A client that goes away with work under way harms nobody.
    let buf = memory.alloc(16_384, 0).unwrap();
    other.submit(StorageCmd::Read { torrent: KEY, tag: 79, start: 0, buf });
    drop(other);
    rig.close(1);
    rig.service.stop();
}

#[test]
fn stopping_answers_what_is_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let spec = layout(folder.path(), vec![file("a", 4_000_000)], 16_384);
    let mut rig = Rig::new(StorageConfig { queue_depth: Some(1), ..StorageConfig::default() });
    rig.open(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
    for piece in 0..piece_count(&spec) {
        assert!(rig.submit_write(1, &spec, piece, None));
    }
    rig.client.submit(StorageCmd::Sync { torrent: KEY });
    rig.service.stop();
    let answers: Vec<Completion> = std::iter::from_fn(|| rig.client.poll()).collect();
    assert_eq!(answers.len(), piece_count(&spec) as usize + 1);
    assert!(matches!(answers.last(), Some(Completion::Storage(StorageDone::Synced { result: Ok(()), .. }))));
    assert_eq!(rig.client.under_way(), 0);
    check_files(1, &spec);
}

#[test]
fn hash_jobs_come_back_through_the_same_client() {
    let folder = tempfile::tempdir().unwrap();
    let spec = layout(folder.path(), vec![file("a", 1000)], 1000);
    let mut rig = Rig::new(StorageConfig::default());
    rig.open(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
    let mut buf = rig.memory.alloc(3, 0).unwrap();
    buf.as_mut_slice().copy_from_slice(b"abc");
    let expected = [
        0xa9, 0x99, 0x3e, 0x36, 0x47, 0x06, 0x81, 0x6a, 0xba, 0x3e, 0x25, 0x71, 0x78, 0x50, 0xc2, 0x6c, 0x9c,
        0xd0, 0xd8, 0x9d,
    ];
    rig.client.hash(ccbt_storage::messages::HashJob { torrent: KEY, piece: PieceIndex(0), expected, buf });
    rig.client.submit(StorageCmd::Sync { torrent: KEY });
    assert_eq!(rig.client.under_way(), 2);
    let mut seen = (false, false);
    while rig.client.under_way() > 0 {
        match rig.client.poll() {
            Some(Completion::Hash(verdict)) => {
                assert!(verdict.ok);
                seen.0 = true;
            }
            Some(Completion::Storage(StorageDone::Synced { result: Ok(()), .. })) => seen.1 = true,
            Some(other) => panic!("{other:?}"),
            None => std::thread::yield_now(),
        }
    }
    assert_eq!(seen, (true, true));
    rig.service.stop();
}

#[test]
#[should_panic(expected = "under way")]
fn more_than_max_jobs_is_a_broken_invariant() {
    let rig = Rig::new(StorageConfig::default());
    let bell = ccbt_storage::doorbell::Doorbell::new().unwrap();
    let mut client = rig.service.client(bell, 1);
    client.submit(StorageCmd::Sync { torrent: KEY });
    client.submit(StorageCmd::Sync { torrent: KEY });
}

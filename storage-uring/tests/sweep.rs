//! Something goes wrong at the n-th operation, for every n: what is claimed is on the disk.

mod common;

use std::collections::HashMap;
use std::path::Path;

use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_storage::StorageConfig;
use ccbt_storage::layout::LayoutSpec;
use ccbt_storage::messages::{ErrorKind, OpenMode, Preallocate, StorageCmd, StorageDone, StorageError};
use ccbt_storage::ring::fake::{Fault, FaultOp, FaultPlan, Journal, Nth, Outcome, Recorded, Target};
use common::*;

const KEY: u32 = 1;
/// Pieces of 48 KiB and odd bytes: whole pages, shared pages, pieces in two files, padding.
const PIECE: u32 = 50_000;

fn files() -> Vec<ccbt_storage::layout::FileSpec> {
    vec![file("a", 130_001), file("d/b", 300), pad(1234), file("d/c", 400_000)]
}

/// What came of a download with the given fault.
struct Outcomes {
    failed: HashMap<u32, StorageError>,
    synced: bool,
    reads_failed: u32,
    /// The files could not be opened at first.
    refused: bool,
}

/// Reads what is on the disk, past our own code; bytes that are not there count as zeros.
fn on_disk(spec: &LayoutSpec, piece: u32) -> Vec<u8> {
    let index = PieceIndex(piece);
    let mut bytes = vec![0; spec.piece_size(index) as usize];
    for extent in spec.extents(spec.piece_start(index), spec.piece_size(index)) {
        if !spec.files()[extent.file as usize].pad {
            let file = std::fs::read(spec.file_path(extent.file)).unwrap_or_default();
            let (from, to) = (extent.offset as usize, extent.offset as usize + extent.len as usize);
            let there = file.get(from..to.min(file.len())).unwrap_or_default();
            bytes[extent.at as usize..][..there.len()].copy_from_slice(there);
        }
    }
    bytes
}

/// Writes, syncs, reads and closes, with everything checked that holds whatever goes wrong.
fn download(folder: &Path, faults: FaultPlan, config: &StorageConfig) -> Outcomes {
    let spec = layout(folder, files(), PIECE);
    let mut rig = Rig::new(StorageConfig { faults, ..config.clone() });
    let all: Vec<u32> = (0..piece_count(&spec)).collect();
    let opened = rig.open(KEY, &spec, Preallocate::Full, OpenMode::ReadWrite);
    let refused = opened.is_err();
    if let Err(error) = opened {
        // The fault hit a reservation: with the next try everything is as if nothing had been.
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        rig.open(KEY, &spec, Preallocate::Full, OpenMode::ReadWrite).unwrap();
    }
    let failed = rig.write_all(KEY, &spec, &all);
    assert_eq!(rig.memory.used(), 0, "every buffer came back");
    let synced = rig.sync(KEY).is_ok();
    let mut reads_failed = 0;
    for &piece in &all {
        let start = spec.piece_start(PieceIndex(piece));
        let right = expected(KEY, &spec, start, spec.piece_size(PieceIndex(piece)));
        if !failed.contains_key(&piece) {
            assert!(on_disk(&spec, piece) == right, "piece {piece} is claimed and not there");
        }
        // A read may be hit itself, but never gives wrong bytes for a piece that is there.
        match rig.read(KEY, &spec, start, right.len() as u32) {
            Ok(bytes) => assert!(failed.contains_key(&piece) || bytes == right, "piece {piece} read wrongly"),
            Err(_) => reads_failed += 1,
        }
    }
    // The service goes on: what failed can be fetched again, and is then there.
    let again: Vec<u32> = failed.keys().copied().collect();
    assert_eq!(rig.write_all(KEY, &spec, &again), HashMap::new());
    rig.sync(KEY).unwrap();
    rig.close(KEY);
    check_files(KEY, &spec);
    assert_eq!(rig.memory.used(), 0);
    rig.service.stop();
    Outcomes { failed, synced, reads_failed, refused }
}

fn folders() -> Vec<tempfile::TempDir> {
    let mut folders = vec![tempfile::tempdir().unwrap()];
    folders.extend(tempfile::tempdir_in("/dev/shm"));
    folders
}

fn sweep(op: FaultOp, outcome: Outcome, check: impl Fn(&Outcomes, bool)) {
    // Long operations that several pieces share, and short ones alone.
    let joined = StorageConfig { queue_depth: Some(1), ..StorageConfig::default() };
    let many = StorageConfig { queue_depth: Some(16), ..StorageConfig::default() };
    for (place, folder) in folders().iter().enumerate() {
        for config in [&joined, &many] {
            let mut hits = 0;
            for nth in 0.. {
                let folder = folder.path().join(format!("{nth}"));
                let plan = FaultPlan::default().with(Fault {
                    target: Target::Below(folder.clone()),
                    op,
                    nth: Nth::Only(nth),
                    outcome: outcome.clone(),
                });
                let outcomes = download(&folder, plan.clone(), config);
                std::fs::remove_dir_all(&folder).unwrap();
                let hit = plan.struck(0) > 0;
                check(&outcomes, hit);
                if !hit {
                    assert!(plan.seen(0) <= nth);
                    break;
                }
                hits += 1;
                assert!(hits < 500, "a download has fewer operations");
            }
            assert!(hits > 0 || place > 0, "{op:?}: nothing was hit");
        }
    }
}

#[test]
fn an_error_at_any_write_costs_at_most_the_pieces_it_was_of() {
    for errno in [libc::EIO, libc::ENOSPC] {
        sweep(FaultOp::Write, Outcome::Errno(errno), |outcomes, _| {
            // Joined with others, each is tried once more on its own; alone, it fails.
            assert!(outcomes.failed.len() <= 1, "{:?}", outcomes.failed);
            assert!(outcomes.failed.values().all(|error| error.errno() == Some(errno)));
            assert!(outcomes.synced);
        });
    }
}

#[test]
fn being_interrupted_or_asked_to_wait_costs_nothing() {
    for errno in [libc::EINTR, libc::EAGAIN] {
        sweep(FaultOp::Any, Outcome::Errno(errno), |outcomes, _| {
            assert!(outcomes.failed.is_empty() && outcomes.synced, "{:?}", outcomes.failed);
        });
    }
}

#[test]
fn short_transfers_go_on_where_they_ended() {
    for len in [1, 4096, 40_000] {
        for op in [FaultOp::Write, FaultOp::Read] {
            sweep(op, Outcome::Short(len), |outcomes, _| {
                assert!(outcomes.failed.is_empty() && outcomes.synced, "{:?}", outcomes.failed);
                assert_eq!(outcomes.reads_failed, 0);
            });
        }
    }
}

#[test]
fn an_error_at_any_read_fails_that_read_alone() {
    sweep(FaultOp::Read, Outcome::Errno(libc::EIO), |outcomes, hit| {
        assert!(outcomes.failed.is_empty() && outcomes.synced);
        assert!(outcomes.reads_failed <= u32::from(hit));
    });
}

#[test]
fn a_failed_sync_is_never_called_done() {
    sweep(FaultOp::Sync, Outcome::Errno(libc::EIO), |outcomes, hit| {
        // Folders are synced too; the second sync of the download is hit when the first was not.
        assert!(outcomes.failed.is_empty());
        assert!(!hit || !outcomes.synced);
    });
}

#[test]
fn an_error_at_any_reservation_fails_the_opening_and_not_the_next() {
    sweep(FaultOp::Allocate, Outcome::Errno(libc::ENOSPC), |outcomes, hit| {
        assert!(outcomes.failed.is_empty() && outcomes.synced);
        assert_eq!(outcomes.refused, hit, "what cannot be reserved is told before anything is fetched");
    });
}

#[test]
fn a_disk_that_fails_for_good_fails_every_piece_and_nothing_else() {
    for folder in folders() {
        let spec = layout(folder.path(), files(), PIECE);
        let faults = FaultPlan::default().with(Fault {
            target: Target::Below(folder.path().to_owned()),
            op: FaultOp::Write,
            nth: Nth::From(3),
            outcome: Outcome::Errno(libc::EIO),
        });
        // Short writes: two that succeed must not be everything.
        let write_bytes = Some(PIECE);
        let mut rig = Rig::new(StorageConfig { faults, write_bytes, ..StorageConfig::default() });
        rig.open(KEY, &spec, Preallocate::None, OpenMode::ReadWrite).unwrap();
        let all: Vec<u32> = (0..piece_count(&spec)).collect();
        let failed = rig.write_all(KEY, &spec, &all);
        assert!(!failed.is_empty());
        for piece in all.iter().filter(|piece| !failed.contains_key(piece)) {
            let index = PieceIndex(*piece);
            let right = expected(KEY, &spec, spec.piece_start(index), spec.piece_size(index));
            assert!(on_disk(&spec, *piece) == right, "piece {piece} is claimed and not there");
        }
        assert!(failed.values().all(|error| error.kind() == ErrorKind::Io && error.is_temporary()));
        let stats = rig.service.stats();
        assert!(stats.devices.iter().map(|device| device.errors).sum::<u64>() >= failed.len() as u64);
        rig.sync(KEY).unwrap();
        rig.close(KEY);
        assert_eq!(rig.memory.used(), 0);
        rig.service.stop();
    }
}

// ---- power cuts

/// Sectors that a disk writes as a whole, in bytes.
const SECTOR: usize = 4096;

/// The files as a power cut after `until` entries may leave them: what was synced, and of other writes that had begun any
/// sector or none.
fn after_a_cut(
    entries: &[Recorded],
    until: usize,
    random: &mut impl FnMut() -> bool,
) -> HashMap<std::path::PathBuf, Vec<u8>> {
    let ends: HashMap<usize, usize> = (entries.iter().take(until).enumerate())
        .filter_map(|(at, entry)| if let Recorded::Done(of) = entry { Some((*of, at)) } else { None })
        .collect();
    let mut files: HashMap<std::path::PathBuf, Vec<u8>> = HashMap::new();
    for (number, entry) in entries.iter().take(until).enumerate() {
        let Recorded::Write { path, offset, bytes } = entry else { continue };
        // A sync covers what had ended when it began.
        let is_synced = ends.get(&number).is_some_and(|end| {
            entries.iter().enumerate().any(|(at, sync)| {
                matches!(sync, Recorded::Sync(synced) if synced == path)
                    && at > *end
                    && ends.contains_key(&at)
            })
        });
        let file = files.entry(path.clone()).or_default();
        for (at, byte) in bytes.chunks(SECTOR).enumerate() {
            let from = *offset as usize + at * SECTOR;
            if is_synced || random() {
                file.resize(file.len().max(from + byte.len()), 0);
                file[from..from + byte.len()].copy_from_slice(byte);
            }
        }
    }
    files
}

#[test]
fn a_power_cut_at_any_moment_takes_nothing_that_a_sync_had_answered_for() {
    let folder = tempfile::tempdir().unwrap();
    let spec = layout(&folder.path().canonicalize().unwrap(), files(), PIECE);
    let journal = Journal::default();
    let faults = FaultPlan::default().recorded_by(&journal);
    let mut rig = Rig::new(StorageConfig { faults, queue_depth: Some(8), ..StorageConfig::default() });
    rig.open(KEY, &spec, Preallocate::None, OpenMode::ReadWrite).unwrap();
    let all: Vec<u32> = (0..piece_count(&spec)).collect();
    // Syncs are asked for while writes are under way, and writes while syncs are.
    let (mut asked, mut syncs) = (Vec::new(), std::collections::VecDeque::new());
    for some in all.chunks(3) {
        for piece in some {
            assert!(rig.submit_write(KEY, &spec, *piece, None));
            asked.push(*piece);
        }
        rig.client.submit(StorageCmd::Sync { torrent: TorrentKey(KEY) });
        syncs.push_back(asked.clone());
    }
    let mut claims = Vec::new();
    let mut left = all.len() + syncs.len();
    while left > 0 {
        left -= 1;
        match rig.wait() {
            StorageDone::Written { buf, result, .. } => {
                result.unwrap();
                rig.memory.free(buf);
            }
            StorageDone::Synced { result, .. } => {
                result.unwrap();
                claims.push((journal.len(), syncs.pop_front().unwrap()));
            }
            other => panic!("{other:?}"),
        }
    }
    rig.close(KEY);
    rig.service.stop();
    let entries = journal.all();
    assert!(claims.len() > 2 && entries.len() > all.len(), "{} entries", entries.len());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state & 1 == 0
    };
    for until in 0..=entries.len() {
        let left = after_a_cut(&entries, until, &mut random);
        let claimed = claims.iter().filter(|(from, _)| *from <= until).flat_map(|(_, pieces)| pieces);
        for piece in claimed {
            let index = PieceIndex(*piece);
            let (start, len) = (spec.piece_start(index), spec.piece_size(index));
            let right = expected(KEY, &spec, start, len);
            for extent in spec.extents(start, len) {
                if spec.files()[extent.file as usize].pad {
                    continue;
                }
                let file = left.get(&spec.file_path(extent.file)).map_or(&[][..], |file| &file[..]);
                let (from, to) = (extent.offset as usize, (extent.offset + u64::from(extent.len)) as usize);
                let wanted = &right[extent.at as usize..][..extent.len as usize];
                assert!(file.get(from..to) == Some(wanted), "piece {piece} is gone after entry {until}");
            }
        }
    }
}

//! Storage on ext4, xfs, btrfs and tmpfs, on sectors of 512 and 4096 bytes, with every way of preallocation.
//!
//! Needs root and loop devices; where they are missing each test prints why and ends.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use ccbt_protocol::ids::PieceIndex;
use ccbt_storage::StorageConfig;
use ccbt_storage::layout::{FileSpec, LayoutSpec};
use ccbt_storage::messages::{OpenMode, Preallocate};
use ccbt_tests::lab::Lab;
use ccbt_tests::loopfs::{FsKind, FsSpec, LoopFs};
use common::*;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt as _, SeedableRng};

const PREALLOCATIONS: [Preallocate; 3] = [Preallocate::Full, Preallocate::Sparse, Preallocate::None];
/// Smaller files may lie inside metadata, where blocks are not counted as elsewhere.
const COUNTED_LEN_MIN: u64 = 64 << 10;

/// Sizes around sectors and pages, file starts at odd offsets, padding, empty files, two large ones.
fn awkward_files() -> Vec<FileSpec> {
    vec![
        file("t/one", 1),
        file("t/d/sector-less", 511),
        file("t/empty", 0),
        file("t/sector", 512),
        file("t/page-less", 4095),
        file("t/page", 4096),
        file("t/d/page-more", 4097),
        file("t/large", 1_300_000),
        pad(1_048_576 - (1 + 511 + 512 + 4095 + 4096 + 4097 + 1_300_000) % 1_048_576),
        file("t/aligned", 2 << 20),
        file("t/odd", 300_001),
        file("t/last", 0),
    ]
}

/// Files and lengths right after opening: what is reserved, what only has its length, what is not there yet.
fn check_opened(spec: &LayoutSpec, prealloc: Preallocate, label: &str) {
    for (index, file) in spec.files().iter().enumerate().filter(|(_, file)| !file.pad) {
        let facts = fs::metadata(spec.file_path(index as u32)).unwrap();
        let (len, taken) = (facts.len(), facts.blocks() * 512);
        let name = file.path.display();
        match prealloc {
            Preallocate::None => assert_eq!(len, 0, "{label}: {name} has not grown"),
            _ => assert_eq!(len, file.len, "{label}: {name} has its length"),
        }
        if prealloc == Preallocate::Full && file.len >= COUNTED_LEN_MIN {
            assert!(taken >= file.len, "{label}: {taken} bytes are reserved for {name} of {len}");
        } else {
            assert!(
                taken < COUNTED_LEN_MIN.max(4096),
                "{label}: {name} takes {taken} bytes before any write"
            );
        }
    }
}

/// Writes all pieces in a random order with random reads of those that are there between, and compares.
fn round_trip(root: &Path, key: u32, piece_len: u32, prealloc: Preallocate, direct: bool, label: &str) {
    let spec = layout(root, awkward_files(), piece_len);
    let label = format!("{label} {prealloc:?} pieces of {piece_len}");
    let mut rng = SmallRng::seed_from_u64(u64::from(key));
    let mut order: Vec<u32> = (0..piece_count(&spec)).collect();
    order.shuffle(&mut rng);
    let mut rig = Rig::new(StorageConfig::default());
    let report = rig.open(key, &spec, prealloc, OpenMode::ReadWrite).unwrap();
    assert_eq!(report.direct, direct, "{label}: {:?}", report.notes);
    check_opened(&spec, prealloc, &label);
    let (first, rest) = order.split_at(order.len() / 2);
    assert_eq!(rig.write_all(key, &spec, first), Default::default(), "{label}");
    for _ in 0..8 {
        let piece = PieceIndex(first[rng.random_range(0..first.len())]);
        let size = spec.piece_size(piece);
        let skip = rng.random_range(0..size);
        let (start, len) = (spec.piece_start(piece) + u64::from(skip), rng.random_range(1..=size - skip));
        let got = rig.read(key, &spec, start, len).unwrap();
        assert!(got == expected(key, &spec, start, len), "{label}: {len} bytes at {start}");
    }
    rig.sync(key).unwrap();
    assert_eq!(rig.write_all(key, &spec, rest), Default::default(), "{label}");
    rig.sync(key).unwrap();
    let len = u32::try_from(spec.total_len()).unwrap();
    assert!(rig.read(key, &spec, 0, len).unwrap() == expected(key, &spec, 0, len), "{label}: all at once");
    rig.close(key);
    check_files(key, &spec);
    assert_eq!(rig.memory.used(), 0, "{label}: every buffer came back");
    rig.service.stop();
}

fn every_way(mounted: &LoopFs, direct: bool, label: &str) {
    for (key, prealloc) in (1..).zip(PREALLOCATIONS) {
        for piece_len in [16 << 10, 1 << 20] {
            let root = mounted.dir(&format!("{key}-{piece_len}"));
            round_trip(&root, key, piece_len, prealloc, direct, label);
            fs::remove_dir_all(&root).unwrap();
        }
    }
}

fn on_loop(kind: FsKind, options: &[&str]) {
    for sector in [512, 4096] {
        let lab = Lab::open();
        let spec = options.iter().fold(FsSpec::new(kind, sector), |spec, option| spec.option(option));
        let label = format!("{} {options:?}", spec.label());
        let Some(mounted) = LoopFs::mount(&lab, spec) else { return };
        every_way(&mounted, true, &label);
    }
}

#[test]
fn ext4() {
    on_loop(FsKind::Ext4, &[]);
}

#[test]
fn xfs() {
    on_loop(FsKind::Xfs, &[]);
}

#[test]
fn btrfs() {
    on_loop(FsKind::Btrfs, &[]);
}

#[test]
fn btrfs_that_compresses() {
    on_loop(FsKind::Btrfs, &["compress-force=zstd"]);
}

#[test]
fn btrfs_that_writes_in_place() {
    on_loop(FsKind::Btrfs, &["nodatacow"]);
}

#[test]
fn tmpfs() {
    let lab = Lab::open();
    let Some(mounted) = LoopFs::mount(&lab, FsSpec::new(FsKind::Tmpfs, 0)) else { return };
    every_way(&mounted, false, "tmpfs");
}

/// Bytes of the file in the page cache; `None` where `fincore` is missing.
fn cached_bytes(path: &Path) -> Option<u64> {
    let output =
        Command::new("fincore").args(["--bytes", "--noheadings", "--output", "RES"]).arg(path).output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: the page cache cannot be looked at: fincore: {error}");
            return None;
        }
    };
    assert!(output.status.success(), "fincore: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).trim().parse().unwrap())
}

/// A write the device finds misaligned would fall back to the page cache, and nobody would notice but this.
#[test]
fn direct_writes_and_reads_leave_nothing_in_the_page_cache() {
    // Btrfs takes direct writes of files with checksums through the page cache by itself.
    let kinds = [(FsKind::Ext4, None), (FsKind::Xfs, None), (FsKind::Btrfs, Some("nodatacow"))];
    for ((kind, option), sector) in kinds.into_iter().flat_map(|kind| [(kind, 512), (kind, 4096)]) {
        let lab = Lab::open();
        let spec = option.into_iter().fold(FsSpec::new(kind, sector), FsSpec::option);
        let label = spec.label();
        let Some(mounted) = LoopFs::mount(&lab, spec) else { continue };
        let len = (8 << 20) + 1000;
        let spec = layout(&mounted.dir("direct"), vec![file("whole", len)], 1 << 20);
        let mut rig = Rig::new(StorageConfig::default());
        assert!(rig.open(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap().direct, "{label}");
        let order: Vec<u32> = (0..piece_count(&spec)).rev().collect();
        assert_eq!(rig.write_all(1, &spec, &order), Default::default(), "{label}");
        rig.sync(1).unwrap();
        for piece in (0..piece_count(&spec)).map(PieceIndex) {
            let (start, len) = (spec.piece_start(piece), spec.piece_size(piece));
            assert!(rig.read(1, &spec, start, len).unwrap() == expected(1, &spec, start, len), "{label}");
        }
        let Some(cached) = cached_bytes(&spec.file_path(0)) else { return };
        // The ragged end.
        assert!(cached <= 4096, "{label}: {cached} of {len} bytes went through the page cache");
        rig.close(1);
        check_files(1, &spec);
        // The check itself reads through the page cache: the look at it sees what is there.
        assert!(cached_bytes(&spec.file_path(0)) >= Some(len), "{label}: fincore sees cached pages");
        rig.service.stop();
    }
}

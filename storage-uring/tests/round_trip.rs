//! What is written is what is read and what lies on disk, on a disk and in memory.

mod common;

use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_storage::StorageConfig;
use ccbt_storage::layout::{FileSpec, LayoutSpec};
use ccbt_storage::messages::{OpenMode, Preallocate, StorageCmd, StorageDone};
use common::*;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use std::path::Path;
use tempfile::TempDir;

/// A folder on the disk that holds temporary files, and one in memory where there is such a file system.
fn folders() -> Vec<TempDir> {
    let mut folders = vec![tempfile::tempdir().unwrap()];
    if Path::new("/dev/shm").is_dir() {
        folders.push(tempfile::tempdir_in("/dev/shm").unwrap());
    } else {
        eprintln!("no /dev/shm: file systems in memory are not tested");
    }
    folders
}

fn odd_files() -> Vec<FileSpec> {
    vec![
        file("t/first", 100_000),
        file("t/empty", 0),
        file("t/one", 1),
        pad(28_575),
        file("t/deep/er/page-less", 4095),
        file("t/deep/er/page", 4096),
        file("t/deep/page-more", 4097),
        pad(0),
        FileSpec { executable: true, ..file("t/large", 3_000_000) },
        file("t/end", 0),
        file("t/tail", 77_777),
    ]
}

fn shuffled(spec: &LayoutSpec, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..piece_count(spec)).collect();
    order.shuffle(&mut SmallRng::seed_from_u64(seed));
    order
}

#[test]
fn pieces_over_many_files_in_any_order() {
    for folder in folders() {
        for (key, prealloc) in [(1, Preallocate::Full), (2, Preallocate::Sparse), (3, Preallocate::None)] {
            for piece_len in [16_384, 65_536 + 512, 1 << 20] {
                let root = folder.path().join(format!("{key}-{piece_len}"));
                let spec = layout(&root, odd_files(), piece_len);
                let mut rig = Rig::new(StorageConfig::default());
                let report = rig.open(key, &spec, prealloc, OpenMode::ReadWrite).unwrap();
                assert_eq!(report.files.len(), spec.files().len());
                assert_eq!(report.files.iter().filter(|file| file.existed).count(), 2, "the padding only");
                assert_eq!(rig.write_all(key, &spec, &shuffled(&spec, 7)), Default::default());
                rig.sync(key).unwrap();
                for piece in 0..piece_count(&spec) {
                    let (start, len) =
                        (spec.piece_start(PieceIndex(piece)), spec.piece_size(PieceIndex(piece)));
                    assert!(
                        rig.read(key, &spec, start, len).unwrap() == expected(key, &spec, start, len),
                        "{piece}"
                    );
                }
                rig.close(key);
                check_files(key, &spec);
                use std::os::unix::fs::PermissionsExt as _;
                let mode =
                    |index| std::fs::metadata(spec.file_path(index)).unwrap().permissions().mode() & 0o111;
                assert!(mode(8) != 0 && mode(0) == 0, "only the executable file is");
                rig.service.stop();
            }
        }
    }
}

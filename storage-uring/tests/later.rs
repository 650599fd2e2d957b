//! Files that are made only when a piece is written to them.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ccbt_storage::StorageConfig;
use ccbt_storage::layout::FileSpec;
use ccbt_storage::messages::{ErrorKind, OpenMode, Preallocate};
use common::*;

const PIECE: u32 = 65_536;

/// Pieces: 0 a, 1 a and b, 2 b, 3 b and c, 4 c and d, 5 d.
fn files() -> Vec<FileSpec> {
    let len = |pieces: f64| (pieces * f64::from(PIECE)) as u64;
    vec![
        file("t/a", len(1.5)),
        file("t/deep/b", len(2.0)),
        file("t/c", len(1.0)),
        FileSpec { executable: true, ..file("t/deep/er/d", len(1.5)) },
    ]
}

fn there(root: &Path) -> Vec<bool> {
    ["t/a", "t/deep/b", "t/c", "t/deep/er/d"].iter().map(|name| root.join(name).exists()).collect()
}

#[test]
fn a_file_that_is_not_wanted_appears_with_the_first_piece_that_touches_it() {
    for folder in [tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap()] {
        for (key, prealloc) in [(1, Preallocate::Full), (2, Preallocate::Sparse), (3, Preallocate::None)] {
            let root = folder.path().join(key.to_string());
            let spec = layout(&root, files(), PIECE);
            let mut rig = Rig::new(StorageConfig::default());
            let report = rig.open_some(key, &spec, prealloc, OpenMode::ReadWrite, vec![1, 3]).unwrap();
            assert!(report.files.iter().all(|file| !file.existed));
            assert_eq!(there(&root), [true, false, true, false]);
            assert!(!root.join("t/deep").exists(), "nor is its folder");
            rig.write(key, &spec, 0).unwrap();
            rig.sync(key).unwrap();
            assert_eq!(there(&root), [true, false, true, false]);
            rig.write(key, &spec, 1).unwrap();
            rig.sync(key).unwrap();
            assert_eq!(there(&root), [true, true, true, false]);
            let found = fs::metadata(root.join("t/deep/b")).unwrap();
            let full =
                if prealloc == Preallocate::None { u64::from(PIECE) / 2 } else { 2 * u64::from(PIECE) };
            assert_eq!(found.len(), full);
            assert!(found.blocks() * 512 <= u64::from(PIECE), "nothing is reserved for what is not wanted");
            for piece in [4, 5, 2, 3] {
                rig.write(key, &spec, piece).unwrap();
            }
            rig.sync(key).unwrap();
            assert_eq!(fs::metadata(root.join("t/deep/er/d")).unwrap().mode() & 0o100, 0o100);
            check_files(key, &spec);
            rig.close(key);
        }
    }
}

#[test]
fn one_that_is_there_is_left_as_it_is_until_then() {
    let folder = tempfile::tempdir().unwrap();
    let spec = layout(folder.path(), files(), PIECE);
    let path = folder.path().join("t/deep/b");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, b"short").unwrap();
    let mut rig = Rig::new(StorageConfig::default());
    let report = rig.open_some(1, &spec, Preallocate::Full, OpenMode::ReadWrite, vec![1]).unwrap();
    assert!(report.files[1].existed);
    rig.write(1, &spec, 0).unwrap();
    // The file is young, so this sync covers it too: it is shorter than it may become, and nobody has cut it.
    rig.sync(1).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"short");
    rig.write(1, &spec, 2).unwrap();
    rig.sync(1).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 2 * u64::from(PIECE));
    assert_eq!(&fs::read(&path).unwrap()[..5], b"short");
    rig.close(1);
}

#[test]
fn another_name_of_a_shared_file_is_not_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let spec = layout(folder.path(), files(), PIECE);
    let mut rig = Rig::new(StorageConfig::default());
    rig.open_some(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite, vec![1]).unwrap();
    let (path, theirs) = (folder.path().join("t/deep/b"), folder.path().join("theirs"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&theirs, b"theirs").unwrap();
    fs::hard_link(&theirs, &path).unwrap();
    assert_eq!(rig.write(1, &spec, 2).unwrap_err().kind(), ErrorKind::Shared);
    assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
    rig.close(1);
}

#[test]
fn a_folder_that_went_is_not_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("mounted");
    let spec = layout(&root, files(), PIECE);
    let mut rig = Rig::new(StorageConfig::default());
    rig.open_some(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite, vec![1]).unwrap();
    fs::remove_dir_all(&root).unwrap();
    assert_eq!(rig.write(1, &spec, 2).unwrap_err().kind(), ErrorKind::Missing);
    assert!(!root.exists());
    rig.close(1);
}

//! What opening reports of files, and what becomes of files that change while they are open.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ccbt_protocol::ids::TorrentKey;
use ccbt_storage::StorageConfig;
use ccbt_storage::layout::{FileSpec, LayoutSpec};
use ccbt_storage::messages::{ErrorKind, FileMark, Hole, OpenMode, Preallocate, StorageCmd, StorageDone};
use common::*;

const MIB: u64 = 1 << 20;

fn spec(root: &Path, files: &[(&str, u64)], piece_len: u32) -> Arc<LayoutSpec> {
    let file = |(path, len): &(&str, u64)| FileSpec { path: path.into(), len: *len, ..FileSpec::default() };
    layout(root, files.iter().map(file).collect(), piece_len)
}

fn rig() -> Rig {
    Rig::new(StorageConfig::default())
}

fn sync(rig: &mut Rig) -> Result<(), ErrorKind> {
    rig.client.submit(StorageCmd::Sync { torrent: TorrentKey(0) });
    match rig.wait() {
        StorageDone::Synced { result, .. } => result.map_err(|error| error.kind()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn lengths_times_and_holes_are_reported() {
    let temp = tempfile::tempdir().unwrap();
    let spec = spec(temp.path(), &[("whole", 2 * MIB), ("sparse", 8 * MIB), ("absent", MIB)], MIB as u32);
    fs::write(temp.path().join("whole"), vec![1; 2 * MIB as usize]).unwrap();
    let sparse = File::create(temp.path().join("sparse")).unwrap();
    sparse.set_len(8 * MIB).unwrap();
    sparse.write_all_at(&vec![1; MIB as usize], 3 * MIB).unwrap();
    sparse.sync_all().unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(5, 7);
    sparse.set_modified(old).unwrap();
    let mut rig = rig();
    let report = rig.open(0, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
    assert_eq!(report.files[1].mark(), FileMark { len: 8 * MIB, mtime_ns: 5_000_000_007 });
    let recent: Vec<_> = report.files.iter().map(|file| (file.existed, file.recent)).collect();
    assert_eq!(recent, [(true, true), (true, false), (false, false)][..]);
    if report.holes.is_empty() {
        eprintln!("skipped: the file system of {} tells of no holes", temp.path().display());
        return;
    }
    let hole = |range| Hole { file: 1, range };
    assert_eq!(report.holes, [hole(0..3 * MIB), hole(4 * MIB..8 * MIB)]);
}

#[test]
fn a_file_of_many_holes_is_reported_in_part() {
    let temp = tempfile::tempdir().unwrap();
    let spec = spec(temp.path(), &[("comb", 64 * MIB)], MIB as u32);
    let comb = File::create(temp.path().join("comb")).unwrap();
    comb.set_len(64 * MIB).unwrap();
    for tooth in 0..512 {
        comb.write_all_at(&[1; 4096], tooth * 128 * 1024).unwrap();
    }
    comb.sync_all().unwrap();
    let report = rig().open(0, &spec, Preallocate::None, OpenMode::ReadOnly).unwrap();
    assert!(report.holes.len() <= 256, "{}", report.holes.len());
}

#[test]
fn a_sync_of_a_file_that_was_removed_or_replaced_fails() {
    for replaced in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let spec = spec(temp.path(), &[("file", 4 * MIB)], MIB as u32);
        let mut rig = rig();
        rig.open(0, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
        rig.write(0, &spec, 1).unwrap();
        assert_eq!(sync(&mut rig), Ok(()));
        rig.write(0, &spec, 2).unwrap();
        fs::remove_file(temp.path().join("file")).unwrap();
        if replaced {
            fs::write(temp.path().join("file"), vec![0; 4 * MIB as usize]).unwrap();
        }
        assert_eq!(sync(&mut rig), Err(ErrorKind::Missing), "replaced: {replaced}");
    }
}

#[test]
fn a_sync_of_a_file_that_was_cut_fails_unless_files_grow_as_they_are_written() {
    for (prealloc, expected) in [
        (Preallocate::Sparse, Err(ErrorKind::ShortRead)),
        (Preallocate::Full, Err(ErrorKind::ShortRead)),
        (Preallocate::None, Ok(())),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let spec = spec(temp.path(), &[("file", 4 * MIB)], MIB as u32);
        let mut rig = rig();
        rig.open(0, &spec, prealloc, OpenMode::ReadWrite).unwrap();
        rig.write(0, &spec, 0).unwrap();
        rig.write(0, &spec, 1).unwrap();
        File::options().write(true).open(temp.path().join("file")).unwrap().set_len(2 * MIB).unwrap();
        assert_eq!(sync(&mut rig), expected, "{prealloc:?}");
    }
}

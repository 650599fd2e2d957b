//! What the disk and other programs can do to us: every fault is an error of the one command it concerns.

mod common;

use std::path::Path;

use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_storage::StorageConfig;
use ccbt_storage::messages::{ErrorKind, OpenMode, Preallocate, StorageCmd, StorageDone};
use ccbt_tests::lab::Lab;
use ccbt_tests::loopfs::{FsKind, FsSpec, LoopFs};
use common::*;

fn rig() -> Rig {
    Rig::new(StorageConfig::default())
}

/// A small file system of its own; `None`, with the reason printed, where mounting is not allowed. The lab, in whose
/// folder it is mounted, has to outlive it.
fn small(kind: FsKind, mib: u64) -> Option<(LoopFs, Lab)> {
    let lab = Lab::open();
    let mounted = LoopFs::mount(&lab, FsSpec::new(kind, 512).size(mib << 20))?;
    Some((mounted, lab))
}

#[test]
fn a_full_disk_stops_only_what_does_not_fit_and_goes_on_when_there_is_space() {
    for (kind, mib) in [(FsKind::Tmpfs, 16), (FsKind::Ext4, 32)] {
        let Some((mount, _lab)) = small(kind, mib) else { continue };
        let mut rig = rig();
        let ballast = mount.path().join("ballast");
        std::fs::write(&ballast, vec![1; 10 << 20]).unwrap();
        let spec = layout(&mount.path().join("t"), vec![file("a", 1 << 20), file("b", 12 << 20)], 65_536);
        let all: Vec<u32> = (0..piece_count(&spec)).collect();
        let prealloc = Preallocate::Sparse;
        rig.open(1, &spec, prealloc, OpenMode::ReadWrite).unwrap();
        // On the larger file system more has to be in the way.
        let free = rustix::fs::statvfs(mount.path()).unwrap();
        let spare = free.f_bavail * free.f_frsize;
        if spare > 8 << 20 {
            std::fs::write(mount.path().join("ballast2"), vec![1; (spare - (6 << 20)) as usize]).unwrap();
        }
        let failed = rig.write_all(1, &spec, &all);
        assert!(!failed.is_empty() && failed.len() < all.len(), "{} of {}", failed.len(), all.len());
        for error in failed.values() {
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
            assert!(error.path().starts_with(mount.path()), "{error}");
        }
        for piece in all.iter().filter(|piece| !failed.contains_key(piece)) {
            let (start, len) = (spec.piece_start(PieceIndex(*piece)), spec.piece_size(PieceIndex(*piece)));
            assert!(
                rig.read(1, &spec, start, len).unwrap() == expected(1, &spec, start, len),
                "kept: {piece}"
            );
        }
        std::fs::remove_file(&ballast).unwrap();
        let mut again: Vec<u32> = failed.into_keys().collect();
        again.sort_unstable();
        assert_eq!(rig.write_all(1, &spec, &again), Default::default());
        rig.sync(1).unwrap();
        rig.close(1);
        check_files(1, &spec);
        rig.service.stop();
    }
}

#[test]
fn full_preallocation_shows_a_full_disk_at_once_and_gives_the_space_back() {
    for (kind, mib) in [(FsKind::Tmpfs, 16), (FsKind::Ext4, 32)] {
        let Some((mount, _lab)) = small(kind, mib) else { continue };
        let mut rig = rig();
        let spec = layout(&mount.path().join("t"), vec![file("a", 1 << 20), file("b", 64 << 20)], 65_536);
        let error = rig.open(1, &spec, Preallocate::Full, OpenMode::ReadWrite).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        assert_eq!(error.path(), spec.file_path(1));
        assert_eq!(std::fs::metadata(spec.file_path(1)).unwrap().len(), 0);
        assert_eq!(rig.sync(1).unwrap_err().kind(), ErrorKind::NotOpen);
        // The space is there for others, and the same torrent opens sparse.
        rig.open(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
        rig.write(1, &spec, 17).unwrap();
        rig.close(1);
        rig.service.stop();
    }
}

#[test]
fn what_is_no_regular_file_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("x"), b"precious").unwrap();
    std::fs::create_dir_all(root.join("dir")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_bits_truncate(0o666),
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    std::fs::write(root.join("file"), b"").unwrap();
    std::os::unix::fs::symlink(outside.path().join("x"), root.join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("dangling")).unwrap();
    std::os::unix::fs::symlink(outside.path(), root.join("away")).unwrap();
    std::os::unix::fs::symlink("dir", root.join("inside")).unwrap();
    let table = [
        ("dir", ErrorKind::NotAFile),
        ("fifo", ErrorKind::NotAFile),
        ("socket", ErrorKind::NotAFile),
        ("file/below", ErrorKind::NotAFile),
        ("link", ErrorKind::OutsideRoot),
        ("dangling", ErrorKind::OutsideRoot),
        ("away/x", ErrorKind::OutsideRoot),
        ("away/new/x", ErrorKind::OutsideRoot),
        ("inside/x", ErrorKind::OutsideRoot),
    ];
    let mut rig = rig();
    for mode in [OpenMode::ReadWrite, OpenMode::ReadOnly] {
        for (path, kind) in table {
            let spec = layout(root, vec![file("ok", 10), file(path, 100)], 64);
            let error = rig.open(1, &spec, Preallocate::Full, mode).unwrap_err();
            assert_eq!(error.kind(), kind, "{path}: {error}");
            assert!(error.path().starts_with(root), "{path}: {error}");
        }
    }
    assert_eq!(std::fs::read(outside.path().join("x")).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    // The root itself may be a link.
    let linked = root.join("inside");
    let spec = layout(&linked, vec![file("fine", 100)], 64);
    rig.open(2, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
    assert_eq!(rig.write_all(2, &spec, &[0, 1]), Default::default());
    check_files(2, &spec);
    rig.service.stop();
}

#[test]
fn a_file_cut_or_gone_behind_our_back_is_noticed() {
    for direct_sized in [1 << 20, 5000] {
        let folder = tempfile::tempdir().unwrap();
        let spec = layout(folder.path(), vec![file("a", 2 * direct_sized), file("b", 100)], 1 << 20);
        // One descriptor: reading b closes a.
        let mut rig = Rig::new(StorageConfig { max_open_files: 1, ..StorageConfig::default() });
        rig.open(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
        let all: Vec<u32> = (0..piece_count(&spec)).collect();
        assert_eq!(rig.write_all(1, &spec, &all), Default::default());
        rig.sync(1).unwrap();
        let cut = direct_sized + 10;
        std::fs::OpenOptions::new().write(true).open(spec.file_path(0)).unwrap().set_len(cut).unwrap();
        let error = rig.read(1, &spec, 0, 2 * direct_sized as u32).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ShortRead, "{error}");
        assert!(
            rig.read(1, &spec, 0, cut as u32).unwrap() == expected(1, &spec, 0, cut as u32),
            "what is left"
        );
        std::fs::remove_file(spec.file_path(0)).unwrap();
        rig.read(1, &spec, 2 * direct_sized, 100).unwrap();
        let error = rig.read(1, &spec, 0, 100).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        assert_eq!(
            rig.write(1, &spec, 0).unwrap_err().kind(),
            ErrorKind::Missing,
            "never made again unasked"
        );
        assert!(!spec.file_path(0).exists());
        rig.close(1);
        rig.service.stop();
    }
}

#[test]
fn read_only_makes_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("not/there");
    let spec = layout(&root, vec![file("a", 100), pad(28), file("d/b", 100_000)], 1024);
    let mut rig = rig();
    let report = rig.open(1, &spec, Preallocate::Full, OpenMode::ReadOnly).unwrap();
    assert_eq!(report.files.iter().map(|file| file.existed).collect::<Vec<_>>(), [false, true, false]);
    assert!(!folder.path().join("not").exists());
    assert_eq!(rig.read(1, &spec, 0, 10).unwrap_err().kind(), ErrorKind::Missing);
    rig.close(1);

    rig.open(2, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
    let all: Vec<u32> = (0..piece_count(&spec)).collect();
    assert_eq!(rig.write_all(2, &spec, &all), Default::default());
    rig.close(2);
    std::fs::remove_file(spec.file_path(0)).unwrap();
    let report = rig.open(3, &spec, Preallocate::Full, OpenMode::ReadOnly).unwrap();
    assert_eq!(
        report.files.iter().map(|file| (file.existed, file.len)).collect::<Vec<_>>()[..],
        [(false, 0), (true, 28), (true, 100_000)]
    );
    assert_eq!(rig.write(3, &spec, 0).unwrap_err().kind(), ErrorKind::NotOpen);
    assert!(rig.read(3, &spec, 100, 5000).unwrap() == expected(2, &spec, 100, 5000));
    rig.sync(3).unwrap();
    rig.close(3);
    assert!(!spec.file_path(0).exists());
    rig.service.stop();
}

#[test]
fn shorter_files_are_made_longer_and_longer_ones_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let spec = layout(folder.path(), vec![file("short", 10_000), file("long", 10), file("right", 5)], 1024);
    for (key, prealloc, len) in
        [(1, Preallocate::None, 3), (2, Preallocate::Sparse, 10_000), (3, Preallocate::Full, 10_000)]
    {
        std::fs::write(spec.file_path(0), b"abc").unwrap();
        std::fs::write(spec.file_path(1), b"longer than ten").unwrap();
        std::fs::write(spec.file_path(2), b"right").unwrap();
        let mut rig = rig();
        let report = rig.open(key, &spec, prealloc, OpenMode::ReadWrite).unwrap();
        assert_eq!(report.files.iter().map(|file| file.len).collect::<Vec<_>>(), [3, 15, 5]);
        assert!(
            report.notes.iter().any(|note| note.contains("long is 5 bytes longer")),
            "{:?}",
            report.notes
        );
        assert_eq!(std::fs::metadata(spec.file_path(0)).unwrap().len(), len);
        assert_eq!(std::fs::read(spec.file_path(1)).unwrap(), b"longer than ten");
        use std::os::unix::fs::MetadataExt as _;
        let blocks = std::fs::metadata(spec.file_path(0)).unwrap().blocks();
        assert_eq!(blocks * 512 >= 10_000, prealloc == Preallocate::Full, "{prealloc:?}: {blocks} blocks");
        rig.close(key);
        rig.service.stop();
    }
}

#[test]
fn impossible_commands_are_answered_with_their_buffers() {
    let folder = tempfile::tempdir().unwrap();
    let spec = layout(folder.path(), vec![file("a", 1000)], 600);
    let mut rig = rig();
    assert_eq!(rig.write(9, &spec, 0).unwrap_err().kind(), ErrorKind::NotOpen);
    assert_eq!(rig.read(9, &spec, 0, 5).unwrap_err().kind(), ErrorKind::NotOpen);
    assert_eq!(rig.sync(9).unwrap_err().kind(), ErrorKind::NotOpen);
    rig.close(9);
    rig.open(9, &spec, Preallocate::None, OpenMode::ReadWrite).unwrap();
    assert_eq!(rig.read(9, &spec, 999, 2).unwrap_err().kind(), ErrorKind::BadLayout);
    assert_eq!(rig.read(9, &spec, u64::MAX, 2).unwrap_err().kind(), ErrorKind::BadLayout);
    let buf = rig.memory.alloc(600, 0).unwrap();
    rig.client.submit(StorageCmd::Write { torrent: TorrentKey(9), piece: PieceIndex(1), buf });
    match rig.wait() {
        StorageDone::Written { buf, result, .. } => {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::BadLayout, "the last piece is shorter");
            rig.memory.free(buf);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.memory.used(), 0);
    rig.service.stop();
}

#[test]
fn a_folder_we_may_not_use_is_named() {
    // Root passes every permission check, so the read-only file system stands for both.
    let Some((mount, _lab)) = small(FsKind::Tmpfs, 1) else { return };
    std::fs::write(mount.path().join("old"), b"12345").unwrap();
    mount.set_read_only(true).unwrap();
    let mut rig = rig();
    for path in ["old", "new", "d/new"] {
        let spec = layout(mount.path(), vec![file(path, 5)], 64);
        let error = rig.open(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnly, "{path}: {error}");
        assert!(error.path().starts_with(mount.path()), "{error}");
    }
    let spec = layout(mount.path(), vec![file("old", 5)], 64);
    rig.open(1, &spec, Preallocate::Sparse, OpenMode::ReadOnly).unwrap();
    assert_eq!(rig.read(1, &spec, 0, 5).unwrap(), b"12345");
    rig.close(1);
    rig.service.stop();
}

/// Writes the first half of a file, lets `meddle` at it, writes the rest and syncs: the kinds of errors, in order.
fn meddled(root: &Path, prealloc: Preallocate, meddle: impl FnOnce(&Path)) -> Result<(), ErrorKind> {
    let mut rig = rig();
    let spec = layout(root, vec![file("d/a", 100_000), file("d/b", 900_000)], 65_536);
    rig.open(1, &spec, prealloc, OpenMode::ReadWrite).unwrap();
    let all: Vec<u32> = (0..piece_count(&spec)).collect();
    let (first, rest) = all.split_at(all.len() / 2);
    rig.write_all(1, &spec, first);
    rig.sync(1).expect("nobody has been there yet");
    meddle(&spec.file_path(1));
    rig.write_all(1, &spec, rest);
    let result = rig.sync(1).map_err(|error| {
        assert_eq!(error.path(), spec.file_path(1), "{error}");
        error.kind()
    });
    rig.close(1);
    rig.service.stop();
    result
}

#[test]
fn a_sync_tells_of_files_that_others_changed() {
    use Preallocate::{Full, None, Sparse};
    for base in [std::env::temp_dir(), "/dev/shm".into()].iter().filter(|path| path.is_dir()) {
        let folder = tempfile::tempdir_in(base).unwrap();
        for (number, prealloc) in [Full, Sparse, None].into_iter().enumerate() {
            let root = |name: &str| folder.path().join(format!("{name}{number}"));
            assert_eq!(meddled(&root("alone"), prealloc, |_| ()), Ok(()));
            let gone = meddled(&root("gone"), prealloc, |path| std::fs::remove_file(path).unwrap());
            assert_eq!(gone, Err(ErrorKind::Missing), "{prealloc:?}");
            let other = meddled(&root("other"), prealloc, |path| {
                let other = path.with_file_name("other");
                std::fs::write(&other, vec![1; 900_000]).unwrap();
                std::fs::rename(&other, path).unwrap();
            });
            assert_eq!(other, Err(ErrorKind::Missing), "{prealloc:?}");
            let moved = meddled(&root("moved"), prealloc, |path| {
                let folder = path.parent().unwrap();
                std::fs::rename(folder, folder.with_file_name("elsewhere")).unwrap();
            });
            assert_eq!(moved, Err(ErrorKind::Missing), "{prealloc:?}");
            // What is written afterwards makes the file as long as it was, with a hole.
            let cut = meddled(&root("cut"), prealloc, |path| {
                std::fs::File::options().write(true).open(path).unwrap().set_len(50_000).unwrap();
            });
            assert_eq!(cut, Err(ErrorKind::ShortRead), "{prealloc:?} {base:?}");
        }
    }
}

#[test]
fn another_file_at_the_path_is_not_read_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    // One descriptor: reading one file closes the other.
    let config = StorageConfig { max_open_files: 1, ..StorageConfig::default() };
    let spec = layout(folder.path(), vec![file("a", 65_536), file("b", 65_536)], 65_536);
    let mut rig = Rig::new(config);
    rig.open(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
    assert_eq!(rig.write_all(1, &spec, &[0, 1]), Default::default());
    rig.sync(1).unwrap();
    rig.read(1, &spec, 65_536, 4096).unwrap();
    let other = folder.path().join("other");
    std::fs::write(&other, vec![1; 65_536]).unwrap();
    std::fs::rename(&other, folder.path().join("a")).unwrap();
    let error = rig.read(1, &spec, 0, 4096).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Missing, &*folder.path().join("a")));
    assert_eq!(rig.read(1, &spec, 65_536, 4096).unwrap(), expected(1, &spec, 65_536, 4096));
    rig.close(1);
    rig.open(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
    assert_eq!(rig.read(1, &spec, 0, 4096).unwrap(), [1; 4096], "opened again, it is what is there now");
    rig.service.stop();
}

#[test]
fn a_folder_that_becomes_a_link_leads_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    // One descriptor: reading one file closes the other.
    let config = StorageConfig { max_open_files: 1, ..StorageConfig::default() };
    let spec = layout(folder.path(), vec![file("d/a", 65_536), file("b", 65_536)], 65_536);
    let mut rig = Rig::new(config);
    rig.open(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
    assert_eq!(rig.write_all(1, &spec, &[0, 1]), Default::default());
    rig.read(1, &spec, 65_536, 4096).unwrap();
    // The same file by another way: what is refused is the link, not another inode.
    std::fs::rename(folder.path().join("d/a"), outside.path().join("a")).unwrap();
    std::fs::remove_dir(folder.path().join("d")).unwrap();
    std::os::unix::fs::symlink(outside.path(), folder.path().join("d")).unwrap();
    let error = rig.read(1, &spec, 0, 4096).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutsideRoot, "{error}");
    rig.read(1, &spec, 65_536, 4096).unwrap();
    assert_eq!(rig.write(1, &spec, 0).unwrap_err().kind(), ErrorKind::OutsideRoot);
    rig.close(1);
    rig.service.stop();
}

#[test]
fn one_process_writes_and_others_read() {
    let folder = tempfile::tempdir().unwrap();
    let spec = layout(folder.path(), vec![file("empty", 0), file("a", 65_536)], 65_536);
    // Each has descriptors of its own, as processes have.
    let (mut first, mut second) = (rig(), rig());
    first.open(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
    first.write(1, &spec, 0).unwrap();
    let error = second.open(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::InUse, &*spec.file_path(1)));
    assert!(error.to_string().contains("another process"), "{error}");
    second.open(1, &spec, Preallocate::Sparse, OpenMode::ReadOnly).unwrap();
    assert!(second.read(1, &spec, 0, 65_536).unwrap() == expected(1, &spec, 0, 65_536));
    second.close(1);
    // Another torrent of the same process may have the same file.
    first.open(2, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
    first.close(1);
    assert!(second.open(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite).is_err(), "one holds it still");
    first.close(2);
    second.open(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
    first.service.stop();
    second.service.stop();
}

#[test]
fn a_file_system_without_reservations_is_written_to_all_the_same() {
    use ccbt_storage::ring::fake::{Fault, FaultOp, FaultPlan, Nth, Outcome, Target};
    for errno in [libc::EOPNOTSUPP, libc::ENOSYS] {
        let folder = tempfile::tempdir().unwrap();
        let faults = FaultPlan::default().with(Fault {
            target: Target::Below(folder.path().to_owned()),
            op: FaultOp::Allocate,
            nth: Nth::From(0),
            outcome: Outcome::Errno(errno),
        });
        let spec = layout(folder.path(), vec![file("a", 1 << 20), file("b", 1 << 20)], 65_536);
        let mut rig = Rig::new(StorageConfig { faults: faults.clone(), ..StorageConfig::default() });
        let report = rig.open(1, &spec, Preallocate::Full, OpenMode::ReadWrite).unwrap();
        assert!(faults.struck(0) >= 1);
        let said =
            report.notes.iter().filter(|note| note.contains("cannot reserve") || note.contains("sparse"));
        assert_eq!(said.count(), 1, "{:?}", report.notes);
        let all: Vec<u32> = (0..piece_count(&spec)).collect();
        assert_eq!(rig.write_all(1, &spec, &all), Default::default());
        rig.close(1);
        check_files(1, &spec);
        rig.service.stop();
    }
}

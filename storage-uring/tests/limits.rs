//! Limits of the process. They hold for all its threads, so this is a program with one test.

mod common;

use ccbt_storage::StorageConfig;
use ccbt_storage::messages::{ErrorKind, OpenMode, Preallocate};
use common::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn with_limit<R>(resource: Resource, current: u64, run: impl FnOnce() -> R) -> R {
    let before = getrlimit(resource);
    setrlimit(resource, Rlimit { current: Some(current), maximum: before.maximum }).unwrap();
    let result = run();
    setrlimit(resource, before).unwrap();
    result
}

#[test]
fn file_size_and_descriptor_limits_are_errors_and_no_end() {
    for parent in ["/tmp", "/dev/shm"] {
        let Ok(folder) = tempfile::tempdir_in(parent) else { continue };
        let spec = layout(&folder.path().join("t"), vec![file("a", 100_000), file("b", 1_000_000)], 16_384);
        let all: Vec<u32> = (0..piece_count(&spec)).collect();
        let mut rig = Rig::new(StorageConfig::default());
        let failed = with_limit(Resource::Fsize, 300_000, || {
            let error = rig.open(1, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap_err();
            assert_eq!((error.kind(), error.path().to_path_buf()), (ErrorKind::TooLarge, spec.file_path(1)));
            let error = rig.open(1, &spec, Preallocate::Full, OpenMode::ReadWrite).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
            rig.open(1, &spec, Preallocate::None, OpenMode::ReadWrite).unwrap();
            rig.write_all(1, &spec, &all)
        });
        // Bytes 0..300,000 of b end at byte 400,000 of the torrent.
        let first = 400_000 / 16_384;
        assert_eq!(failed.keys().min(), Some(&first), "{failed:?}");
        assert!(failed.len() as u32 == piece_count(&spec) - first);
        assert!(failed.values().all(|error| error.kind() == ErrorKind::TooLarge));
        assert_eq!(rig.write_all(1, &spec, &failed.into_keys().collect::<Vec<_>>()), Default::default());
        rig.close(1);
        check_files(1, &spec);

        // Descriptors run out: idle ones make room, so everything still works with very few.
        let files = (0..60).map(|at| file(&format!("{at}"), 5000)).collect();
        let spec = layout(&folder.path().join("u"), files, 16_384);
        let all: Vec<u32> = (0..piece_count(&spec)).collect();
        rig.open(2, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
        let used = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        let failed = with_limit(Resource::Nofile, used + 20, || rig.write_all(2, &spec, &all));
        assert_eq!(failed, Default::default());
        rig.close(2);
        check_files(2, &spec);
        // None at all: an error that says so.
        rig.open(3, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
        let failed = with_limit(Resource::Nofile, 3, || rig.write_all(3, &spec, &all));
        assert!(
            failed.len() == all.len() && failed.values().all(|error| error.kind() == ErrorKind::Exhausted)
        );
        assert_eq!(rig.write_all(3, &spec, &all), Default::default());
        rig.close(3);
        rig.service.stop();
    }
}

//! What is written is what is read and what lies on disk, on a disk and in memory.

mod common;

use ccbt_protocol::ids::PieceIndex;
use ccbt_storage::StorageConfig;
use ccbt_storage::layout::{FileSpec, LayoutSpec};
use ccbt_storage::messages::{OpenMode, Preallocate, StorageDone};
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

/// Random files, piece length, order of pieces, preallocation, limits, and where reads and syncs come in
/// between.
#[derive(Debug, Clone)]
struct Story {
    files: Vec<(u64, bool)>,
    piece_len: u32,
    seed: u64,
    prealloc: Preallocate,
    queue_depth: u32,
    max_open_files: usize,
    between: Vec<u8>,
}

fn stories() -> impl Strategy<Value = Story> {
    let len = prop_oneof![Just(0u64), Just(1), Just(4095), Just(4096), Just(4097), 0u64..300_000];
    let prealloc = prop::sample::select(vec![Preallocate::Full, Preallocate::Sparse, Preallocate::None]);
    let piece_len = prop_oneof![1000u32..20_000, Just(16_384), Just(65_536), Just(262_144)];
    (
        prop::collection::vec((len, prop::bool::weighted(0.15)), 1..10),
        piece_len,
        any::<u64>(),
        prealloc,
        1u32..6,
        1usize..6,
        prop::collection::vec(any::<u8>(), 1..40),
    )
        .prop_map(|(files, piece_len, seed, prealloc, queue_depth, max_open_files, between)| Story {
            files,
            piece_len,
            seed,
            prealloc,
            queue_depth,
            max_open_files,
            between,
        })
}

/// Takes one answer; a write's piece becomes readable.
fn take(rig: &mut Rig, spec: &LayoutSpec, written: &mut Vec<u32>) {
    match rig.wait() {
        StorageDone::Written { piece, buf, result, .. } => {
            result.unwrap();
            rig.memory.free(buf);
            written.push(piece.0);
        }
        StorageDone::ReadDone { tag, buf, result, .. } => {
            result.unwrap();
            assert!(buf.as_slice() == expected(1, spec, tag, buf.len() as u32), "read at {tag}");
            rig.memory.free(buf);
        }
        StorageDone::Synced { result, .. } => result.unwrap(),
        other => panic!("{other:?}"),
    }
}

fn tell(story: &Story, root: &Path) {
    let files = story.files.iter().enumerate();
    let files = files
        .map(|(at, &(len, is_pad))| if is_pad { pad(len) } else { file(&format!("d{}/f{at}", at % 3), len) });
    let spec = layout(root, files.collect(), story.piece_len);
    let config = StorageConfig {
        queue_depth: Some(story.queue_depth),
        max_open_files: story.max_open_files,
        ..StorageConfig::default()
    };
    let mut rig = Rig::new(config);
    rig.open(1, &spec, story.prealloc, OpenMode::ReadWrite).unwrap();
    let mut written = Vec::new();
    for (step, piece) in shuffled(&spec, story.seed).into_iter().enumerate() {
        let chance = story.between[step % story.between.len()];
        // Now and then a buffer at a phase that does not fit: slower, and just as right.
        let phase = chance.is_multiple_of(5).then_some(u32::from(chance) * 7);
        assert!(rig.submit_write(1, &spec, piece, phase));
        if chance.is_multiple_of(3) {
            take(&mut rig, &spec, &mut written);
        }
        if let Some(&done) = written.last()
            && chance.is_multiple_of(2)
        {
            let start = spec.piece_start(PieceIndex(done));
            let len = spec.piece_size(PieceIndex(done));
            let skip = u32::from(chance).min(len - 1);
            let tag = start + u64::from(skip);
            rig.submit_read(1, &spec, tag, len - skip, tag);
        }
        if chance.is_multiple_of(11) {
            let torrent = ccbt_protocol::ids::TorrentKey(1);
            rig.client.submit(ccbt_storage::messages::StorageCmd::Sync { torrent });
        }
    }
    while rig.client.under_way() > 0 {
        take(&mut rig, &spec, &mut written);
    }
    if spec.total_len() > 0 {
        let len = spec.total_len() as u32;
        assert!(rig.read(1, &spec, 0, len).unwrap() == expected(1, &spec, 0, len), "all at once");
    }
    rig.close(1);
    check_files(1, &spec);
    assert_eq!(rig.memory.used(), 0, "every buffer came back");
    rig.service.stop();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_order_any_limits_any_sizes(story in stories()) {
        for folder in folders() {
            tell(&story, folder.path());
        }
    }
}

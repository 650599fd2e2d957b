//! Whatever the files, the threads, the lanes and the way of reading: the same hashes, or the right findings.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use ccbt_storage::hash::{LANES_MAX, sha1};
use proptest::prelude::*;
use tempfile::TempDir;

use super::run::{Batch, Tuning};
use super::tests::noise;
use super::*;

type Found = HashMap<(usize, u32), Option<[u8; 20]>>;

/// Runs `plans` and returns every piece's outcome, each of which came once.
fn outcome(
    plans: &[HashPlan],
    options: HashOptions,
    tuning: Tuning,
    faults: Faults,
    is_wanted: &(dyn Fn(usize, u32) -> bool + Sync),
) -> Result<Found, HashError> {
    let found = Mutex::new(Found::new());
    let report = |plan, piece, hash| {
        let before = found.lock().unwrap().insert((plan, piece), hash);
        assert_eq!(before, None, "piece {piece} of plan {plan} was reported twice");
    };
    let progress = Progress::default();
    let report = &report;
    let batch = Batch { plans, options, faults, progress: &progress, is_wanted, report, tuning };
    batch.run()?;
    let skipped: u64 = plans
        .iter()
        .enumerate()
        .flat_map(|(index, plan)| plan.geometry().pieces().map(move |piece| (index, plan, piece)))
        .filter(|(index, _, piece)| !is_wanted(*index, piece.0))
        .map(|(_, plan, piece)| u64::from(plan.geometry().piece_size(piece)))
        .sum();
    assert_eq!(progress.done() + skipped, progress.total(), "all bytes count as done");
    Ok(found.into_inner().unwrap())
}

fn beside() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

/// Where to put files: on a disk as a rule, and in memory.
fn places() -> Vec<TempDir> {
    [beside(), "/dev/shm".into()].iter().filter_map(|parent| TempDir::new_in(parent).ok()).collect()
}

#[derive(Clone, Debug)]
enum Made {
    Data(usize),
    /// Data of some length, a hole, and data again.
    Sparse(usize, u64, usize),
    Pad(u64),
    /// Some of its bytes are not there.
    Absent(u64, u64),
}

impl Made {
    fn write(&self, path: PathBuf, seed: u64) -> PlanFile {
        match *self {
            Self::Pad(len) => PlanFile::padding(len),
            Self::Data(len) => {
                fs::write(&path, noise(len, seed)).unwrap();
                PlanFile::stored(path, len as u64)
            }
            Self::Sparse(before, hole, after) => {
                let file = File::create(&path).unwrap();
                file.write_all_at(&noise(before, seed), 0).unwrap();
                file.write_all_at(&noise(after, seed + 1), before as u64 + hole).unwrap();
                let len = (before + after) as u64 + hole;
                file.set_len(len).unwrap();
                PlanFile::stored(path, len)
            }
            Self::Absent(present, len) => {
                fs::write(&path, noise(present as usize, seed)).unwrap();
                PlanFile { present, ..PlanFile::stored(path, len) }
            }
        }
    }
}

fn made() -> impl Strategy<Value = Made> {
    let len =
        prop_oneof![Just(0usize), 1..5usize, 4090..4100usize, 1..70_000usize, 1_000_000..2_200_000usize];
    prop_oneof![
        6 => len.clone().prop_map(Made::Data),
        2 => (0..40_000usize, 1..1_500_000u64, 0..40_000usize).prop_map(|(a, b, c)| Made::Sparse(a, b, c)),
        2 => (1..200_000u64).prop_map(Made::Pad),
        1 => (0..50_000u64, 1..50_000u64).prop_map(|(present, more)| Made::Absent(present, present + more)),
    ]
}

/// What the obvious way finds: everything in memory.
fn expected(plan: &HashPlan) -> Vec<Option<[u8; 20]>> {
    let (mut bytes, mut absent) = (Vec::new(), Vec::new());
    for file in plan.files() {
        let start = bytes.len();
        if !file.pad {
            bytes.extend_from_slice(&fs::read(&file.path).unwrap()[..file.present as usize]);
            if file.present < file.len {
                absent.push(bytes.len()..start + file.len as usize);
            }
        }
        bytes.resize(start + file.len as usize, 0);
    }
    let piece_len = plan.geometry().piece_len() as usize;
    let hash = |(nth, piece): (usize, &[u8])| {
        let range = nth * piece_len..nth * piece_len + piece.len();
        let is_hit = absent.iter().any(|gone| gone.start < range.end && range.start < gone.end);
        (!is_hit).then(|| sha1(piece))
    };
    bytes.chunks(piece_len).enumerate().map(hash).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn any_way_gives_the_same(
        torrents in prop::collection::vec((prop::collection::vec(made(), 1..8), 0..9u32, 0..3u32), 1..3),
        threads in 1..5usize,
        lanes in 1..=LANES_MAX,
        reading in prop_oneof![Just(Reading::Auto), Just(Reading::Direct), Just(Reading::Buffered)],
        order in prop_oneof![Just(Order::Auto), Just(Order::Sequential), Just(Order::Parallel)],
        has_ring in any::<bool>(),
        in_memory in any::<bool>(),
        modulus in 1..5u32,
    ) {
        let parent = if in_memory { "/dev/shm".into() } else { beside() };
        let dir = TempDir::new_in(parent).unwrap();
        let mut plans = Vec::new();
        for (torrent, (files, power, odd)) in torrents.iter().enumerate() {
            let mut files: Vec<PlanFile> = files
                .iter()
                .enumerate()
                .map(|(nth, made)| made.write(dir.path().join(format!("{torrent}-{nth}")), nth as u64 * 2 + 1))
                .collect();
            files.push(Made::Data(1).write(dir.path().join(format!("{torrent}-last")), 99));
            // Odd lengths of pieces are rare, but allowed.
            plans.push(HashPlan::new(files, (16_384 << power) + odd * 12_345).unwrap());
        }
        let options = HashOptions { threads, reading, order, idle: false };
        let tuning = Tuning { lanes, has_ring };
        let is_wanted = |plan: usize, piece: u32| !(piece + plan as u32).is_multiple_of(modulus) || modulus == 1;
        let found = outcome(&plans, options, tuning, Faults::Skip, &is_wanted).unwrap();
        let mut count = 0;
        for (index, plan) in plans.iter().enumerate() {
            for (piece, hash) in expected(plan).into_iter().enumerate() {
                let wanted = is_wanted(index, piece as u32);
                count += usize::from(wanted);
                prop_assert_eq!(found.get(&(index, piece as u32)), wanted.then_some(&hash), "piece {}", piece);
            }
        }
        prop_assert_eq!(found.len(), count);
    }
}

fn all(plan: HashPlan, options: HashOptions) -> Vec<Option<[u8; 20]>> {
    let pieces = plan.geometry().piece_count();
    let found = outcome(&[plan], options, Tuning::default(), Faults::Skip, &|_, _| true).unwrap();
    (0..pieces).map(|piece| found[&(0, piece)]).collect()
}

#[test]
fn thousands_of_files_of_one_byte() {
    for dir in places() {
        let file = |nth: u32| {
            let path = dir.path().join(nth.to_string());
            fs::write(&path, [nth as u8]).unwrap();
            PlanFile::stored(path, 1)
        };
        let files: Vec<PlanFile> = (0..5000).map(file).collect();
        let bytes: Vec<u8> = (0..5000u32).map(|nth| nth as u8).collect();
        let plan = HashPlan::new(files, 1000).unwrap();
        let hashes = all(plan, HashOptions::default());
        let expected: Vec<_> = bytes.chunks(1000).map(|piece| Some(sha1(piece))).collect();
        assert_eq!(hashes, expected);
    }
}

#[test]
fn pieces_of_every_size_over_holes_that_are_not_read() {
    let gib = 1u64 << 30;
    for dir in places() {
        let path = dir.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.set_len(3 * gib).unwrap();
        file.write_all_at(b"x", 2 * gib + 5).unwrap();
        for piece_len in [16_384u32, 1 << 20, 64 << 20] {
            let plan = HashPlan::new(vec![PlanFile::stored(path.clone(), 3 * gib)], piece_len).unwrap();
            let mut with_x = vec![0; piece_len as usize];
            let zeroes = sha1(&with_x);
            with_x[5] = b'x';
            let special = (2 * gib / u64::from(piece_len)) as usize;
            for (piece, hash) in all(plan, HashOptions::default()).into_iter().enumerate() {
                let expected = if piece == special { sha1(&with_x) } else { zeroes };
                assert_eq!(hash, Some(expected), "piece {piece} of {piece_len} bytes");
            }
        }
    }
}

/// More than any worker reads ahead.
const LONG: usize = 40 << 20;

/// A run over a file that `change` is done to once the first bytes are hashed.
fn changed_meanwhile(
    dir: &TempDir,
    options: HashOptions,
    faults: Faults,
    change: impl Fn(&File) + Send + Sync + 'static,
) -> Result<Hashes, HashError> {
    let path = dir.path().join("file");
    fs::write(&path, noise(LONG, 3)).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.sync_all().unwrap();
    let has_changed = AtomicBool::new(false);
    let progress = Progress::watched(move |_| {
        if !has_changed.swap(true, Ordering::Relaxed) {
            change(&file);
        }
    });
    let plan = HashPlan::new(vec![PlanFile::stored(path, LONG as u64)], 1 << 18).unwrap();
    plan.run(options, faults, &progress)
}

#[test]
fn a_file_that_is_cut_meanwhile_has_no_pieces_behind_its_end() {
    let original = noise(LONG, 3);
    for dir in places() {
        for reading in [Reading::Auto, Reading::Direct, Reading::Buffered] {
            for order in [Order::Parallel, Order::Sequential] {
                let options = HashOptions { threads: 2, reading, order, idle: false };
                let cut = |file: &File| file.set_len((12 << 20) + 100).unwrap();
                let hashes = changed_meanwhile(&dir, options, Faults::Skip, cut).unwrap();
                for (piece, hash) in hashes.pieces.iter().enumerate() {
                    // What was read before the cut may still be right; nothing is ever wrong.
                    let right = sha1(&original[piece << 18..(piece + 1) << 18]);
                    assert!(hash.is_none_or(|hash| hash == right), "piece {piece}");
                    assert!(hash.is_some() || piece >= 48, "piece {piece} is there");
                }
                assert_eq!(hashes.pieces.last(), Some(&None), "the last piece is gone");
                let stopped = changed_meanwhile(&dir, options, Faults::Stop, cut).unwrap_err();
                assert!(matches!(stopped, HashError::Shortened { .. }), "{stopped}");
            }
        }
    }
}

#[test]
fn a_file_that_is_deleted_or_replaced_by_a_folder_is_a_fault() {
    let dir = TempDir::new_in(beside()).unwrap();
    let good = dir.path().join("good");
    fs::write(&good, noise(50_000, 1)).unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    for (name, wanted) in [("none", "No such file"), ("folder", "not a regular file")] {
        let files = vec![
            PlanFile::stored(good.clone(), 50_000),
            PlanFile::stored(dir.path().join(name), 200_000),
            PlanFile::stored(good.clone(), 50_000),
        ];
        let plan = HashPlan::new(files, 16_384).unwrap();
        for threads in [1, 3] {
            let options = HashOptions { threads, ..HashOptions::default() };
            let hashes = plan.run(options, Faults::Skip, &Progress::default()).unwrap();
            let there = |piece: usize| (piece + 1) * 16_384 <= 50_000 || piece * 16_384 >= 250_000;
            for (piece, hash) in hashes.pieces.iter().enumerate() {
                assert_eq!(hash.is_some(), there(piece), "piece {piece}");
            }
            assert_eq!(hashes.faults.len(), 1);
            assert_eq!(hashes.faults[0].0, 1);
            assert!(hashes.faults[0].1.to_string().contains(wanted), "{:?}", hashes.faults[0].1);
        }
        let error = plan.run(HashOptions::default(), Faults::Stop, &Progress::default()).unwrap_err();
        assert!(matches!(&error, HashError::Read { path, .. } if path.ends_with(name)), "{error}");
    }
}

#[test]
fn a_file_that_may_not_be_read_is_a_fault() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new_in(beside()).unwrap();
    let path = dir.path().join("secret");
    fs::write(&path, noise(40_000, 1)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if File::open(&path).is_ok() {
        eprintln!("skipped: this user may read everything");
        return;
    }
    let plan = HashPlan::new(vec![PlanFile::stored(path, 40_000)], 16_384).unwrap();
    let hashes = plan.run(HashOptions::default(), Faults::Skip, &Progress::default()).unwrap();
    assert!(hashes.pieces.iter().all(Option::is_none));
    assert_eq!(hashes.faults[0].1.kind(), std::io::ErrorKind::PermissionDenied);
}

#[test]
fn plans_on_several_devices_run_at_once() {
    let places = places();
    let plan = |(nth, dir): (usize, &TempDir)| {
        let path = dir.path().join("f");
        fs::write(&path, noise(3_000_000, nth as u64 + 1)).unwrap();
        HashPlan::new(vec![PlanFile::stored(path, 3_000_000)], 65_536).unwrap()
    };
    // One more on each device, and one that is nowhere.
    let mut plans: Vec<HashPlan> = places.iter().chain(&places).enumerate().map(plan).collect();
    let gone = PlanFile { present: 0, ..PlanFile::stored("/no/such/place".into(), 10) };
    plans.push(HashPlan::new(vec![gone], 16_384).unwrap());
    for order in [Order::Auto, Order::Sequential, Order::Parallel] {
        let options = HashOptions { order, idle: true, ..HashOptions::default() };
        let found = outcome(&plans, options, Tuning::default(), Faults::Skip, &|_, _| true).unwrap();
        for (index, plan) in plans.iter().enumerate().take(plans.len() - 1) {
            let hashes: Vec<_> =
                (0..plan.geometry().piece_count()).map(|piece| found[&(index, piece)]).collect();
            assert_eq!(hashes, expected(plan));
        }
        assert_eq!(found[&(plans.len() - 1, 0)], None);
    }
}

#[test]
fn devices_are_found_for_paths_that_are_not_there() {
    assert_ne!(device::device_of(Path::new("/dev/shm/no/such")), 0);
}

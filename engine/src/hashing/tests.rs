//! Torrents made of real files and checked again: every kind of damage is found where it is and nowhere else.

use super::create::{CreateError, CreateOptions, Created, create_torrent};
use super::verify::{FileState, PieceState, VerifyError, VerifyOptions, VerifyReport, verify};
use super::*;
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::metainfo::Metainfo;
use std::fs;
use std::sync::Arc;
use tempfile::TempDir;

const KIB: usize = 1024;

/// Bytes without a short period, different for each seed.
pub(super) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// A folder `t` with these files, beside the test program: on a disk as a rule, so that direct reads are used
/// too.
pub(super) fn folder(files: &[(&str, usize)]) -> TempDir {
    let beside = std::env::current_exe().unwrap();
    let dir = tempfile::tempdir_in(beside.parent().unwrap()).unwrap();
    for (seed, (path, len)) in files.iter().enumerate() {
        let path = dir.path().join("t").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, noise(*len, seed as u64 + 1)).unwrap();
    }
    dir
}

pub(super) fn options(dir: &TempDir) -> CreateOptions {
    CreateOptions::new(dir.path().join("t"))
}

fn check(meta: &Metainfo, dir: &TempDir) -> VerifyReport {
    verify(meta, dir.path(), &VerifyOptions::default()).unwrap()
}

fn states(report: &VerifyReport) -> Vec<FileState> {
    report.files.iter().map(|file| file.state.clone()).collect()
}

/// Hashes of the pieces by the obvious way: all files, one after the other, in memory.
fn expected_hashes(meta: &Metainfo, dir: &TempDir) -> Vec<[u8; 20]> {
    let mut all = Vec::new();
    for file in meta.files.iter().filter(|file| file.symlink.is_none()) {
        match file.pad {
            true => all.resize(all.len() + file.len as usize, 0),
            false => all.extend(fs::read(dir.path().join(file.path.join("/"))).unwrap()),
        }
    }
    all.chunks(meta.geometry.piece_len() as usize).map(ccbt_storage::hash::sha1).collect()
}

fn assert_right(created: &Created, dir: &TempDir) {
    let meta = &created.metainfo;
    let hashes: Vec<[u8; 20]> = meta.geometry.pieces().map(|piece| meta.piece_hash(piece)).collect();
    assert_eq!(hashes, expected_hashes(meta, dir));
    let report = check(meta, dir);
    assert!(report.is_complete(), "{:?}", states(&report));
    assert_eq!(report.count(PieceState::Ok), meta.geometry.piece_count());
}

/// Nested, odd sizes, empty and hidden files, one of several pieces and reads.
const TREE: &[(&str, usize)] = &[
    ("b/deep/er/one", 1),
    ("b/deep/empty", 0),
    ("a.txt", 4095),
    ("a/x", 4097),
    (".hidden", 70_001),
    ("big", 3 * 1024 * KIB + 12_345),
    ("z", 16 * KIB),
];

#[test]
fn what_is_created_verifies() {
    let dir = folder(TREE);
    for piece_len in [None, Some(16 * KIB as u32), Some(1 << 18), Some(1 << 20), Some(1 << 24)] {
        for align in [false, true] {
            for (threads, reading) in [(1, Reading::Direct), (2, Reading::Buffered), (5, Reading::Auto)] {
                let hash = HashOptions { threads, reading, ..HashOptions::default() };
                let created =
                    create_torrent(CreateOptions { piece_len, align, hash, ..options(&dir) }).unwrap();
                assert_right(&created, &dir);
                assert!(created.notes.is_empty());
                let names: Vec<String> =
                    created.metainfo.files.iter().filter(|f| !f.pad).map(|f| f.path[1..].join("/")).collect();
                assert_eq!(names, [".hidden", "a.txt", "a/x", "b/deep/empty", "b/deep/er/one", "big", "z"]);
                assert_eq!(created.metainfo.files.iter().any(|file| file.pad), align);
            }
        }
    }
}

#[test]
fn output_is_reproducible_and_takes_every_option() {
    let dir = folder(TREE);
    let plain = create_torrent(options(&dir)).unwrap().bytes;
    let hash = HashOptions { threads: 3, reading: Reading::Buffered, ..HashOptions::default() };
    assert_eq!(create_torrent(CreateOptions { hash, ..options(&dir) }).unwrap().bytes, plain);
    let script = dir.path().join("t/z");
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(create_torrent(options(&dir)).unwrap().bytes, plain, "modes do not matter unless asked for");

    let meta = create_torrent(CreateOptions {
        name: Some("other".into()),
        private: true,
        trackers: vec![vec!["http://a/".into(), "udp://b:1".into()], vec!["https://c/".into()]],
        web_seeds: vec!["https://w/".into()],
        comment: Some("text".into()),
        created_by: Some("me".into()),
        creation_date: Some(1_700_000_000),
        source: Some("tag".into()),
        keep_executable: true,
        ..options(&dir)
    })
    .unwrap()
    .metainfo;
    assert_eq!((meta.name.as_str(), meta.private, meta.trackers.len()), ("other", true, 2));
    assert_eq!((meta.web_seeds.len(), meta.comment.as_deref()), (1, Some("text")));
    assert_eq!((meta.created_by.as_deref(), meta.creation_date), (Some("me"), Some(1_700_000_000)));
    assert_eq!(meta.source.as_deref(), Some("tag"));
    let executable: Vec<&str> =
        meta.files.iter().filter(|file| file.executable).map(|file| file.path[1].as_str()).collect();
    assert_eq!(executable, ["z"]);
}

#[test]
fn single_files_of_awkward_lengths() {
    for len in [1, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, (1 << 20) + 4095, (2 << 20) + 1] {
        let dir = folder(&[]);
        fs::write(dir.path().join("t"), noise(len, 9)).unwrap();
        let created = create_torrent(options(&dir)).unwrap();
        assert!(!created.metainfo.is_multi_file);
        assert_eq!(created.metainfo.geometry.total_len(), len as u64);
        assert_right(&created, &dir);
    }
}

/// Damages `t`'s tree with pieces of 16 KiB, and returns the torrent and the report.
fn damaged(damage: impl Fn(&std::path::Path)) -> (Metainfo, VerifyReport) {
    let dir = folder(TREE);
    let piece_len = Some(16 * KIB as u32);
    let meta = create_torrent(CreateOptions { piece_len, ..options(&dir) }).unwrap().metainfo;
    damage(&dir.path().join("t"));
    let report = check(&meta, &dir);
    assert!(!report.is_complete());
    (meta, report)
}

pub(super) fn not_ok(report: &VerifyReport) -> Vec<(u32, PieceState)> {
    let states = report.pieces.iter().enumerate().map(|(piece, state)| (piece as u32, *state));
    let not_ok: Vec<_> = states.filter(|(_, state)| *state != PieceState::Ok).collect();
    assert_eq!(not_ok.len() as u32, report.pieces.len() as u32 - report.bitfield.count());
    assert!(not_ok.iter().all(|(piece, _)| !report.bitfield.has(PieceIndex(*piece))));
    not_ok
}

/// Position of the file whose path ends in `name` among the reports.
fn file<'a>(report: &'a VerifyReport, name: &str) -> &'a verify::FileReport {
    report.files.iter().find(|file| file.path.ends_with(name)).unwrap()
}

#[test]
fn one_wrong_byte_spoils_exactly_its_piece() {
    for at in [0, 100_000, (1 << 20) - 1, 3 * 1024 * KIB + 12_344] {
        let (meta, report) = damaged(|root| {
            let mut bytes = fs::read(root.join("big")).unwrap();
            bytes[at] ^= 1;
            fs::write(root.join("big"), bytes).unwrap();
        });
        let entry = meta.files.iter().find(|file| file.path[1] == "big").unwrap();
        let piece = ((entry.offset + at as u64) / (16 * KIB as u64)) as u32;
        assert_eq!(not_ok(&report), [(piece, PieceState::Bad)]);
        assert_eq!(file(&report, "big").state, FileState::Damaged);
        assert_eq!(file(&report, "big").pieces_not_ok, 1);
        assert_eq!(file(&report, "b/deep/empty").state, FileState::Complete);
    }
}

/// All pieces that hold bytes `from..` of the file called `name`.
fn pieces_from(meta: &Metainfo, name: &str, from: u64) -> Vec<(u32, PieceState)> {
    let entry = meta.files.iter().find(|file| file.path.last().unwrap() == name).unwrap();
    let pieces = meta.geometry.pieces_of_range(entry.offset + from, entry.len - from);
    pieces.map(|piece| (piece, PieceState::Missing)).collect()
}

#[test]
fn missing_and_short_files_are_findings() {
    let (meta, report) = damaged(|root| fs::remove_file(root.join("big")).unwrap());
    assert_eq!(not_ok(&report), pieces_from(&meta, "big", 0));
    assert_eq!(file(&report, "big").state, FileState::Missing);
    assert_eq!(file(&report, "big").pieces_not_ok, file(&report, "big").pieces);
    assert_eq!(file(&report, "z").state, FileState::Damaged, "it shares a piece with the missing file");
    assert_eq!(file(&report, ".hidden").pieces_not_ok, 1);

    for found in [0, 1, 50_000, 2 << 20] {
        let (meta, report) = damaged(|root| {
            fs::File::options().write(true).open(root.join("big")).unwrap().set_len(found).unwrap();
        });
        assert_eq!(not_ok(&report), pieces_from(&meta, "big", found), "{found} bytes left");
        assert_eq!(file(&report, "big").state, FileState::WrongSize { found });
    }

    let (_, report) = damaged(|root| fs::remove_file(root.join("b/deep/empty")).unwrap());
    assert!(report.bitfield.is_full(), "an empty file has no piece");
    assert_eq!(file(&report, "b/deep/empty").state, FileState::Missing);
}

#[test]
fn longer_and_foreign_files_are_findings() {
    let (_, report) =
        damaged(|root| fs::write(root.join("z"), [noise(16 * KIB, 7), vec![0]].concat()).unwrap());
    assert!(report.bitfield.is_full(), "the bytes of the torrent are right");
    assert_eq!(file(&report, "z").state, FileState::WrongSize { found: 16 * KIB as u64 + 1 });

    let (meta, report) = damaged(|root| {
        fs::remove_file(root.join("a.txt")).unwrap();
        fs::create_dir(root.join("a.txt")).unwrap();
        fs::remove_dir_all(root.join("b")).unwrap();
        fs::write(root.join("b"), "in the way").unwrap();
    });
    assert!(
        matches!(&file(&report, "a.txt").state, FileState::Unreadable(why) if why.contains("regular file"))
    );
    assert_eq!(file(&report, "one").state, FileState::Missing);
    let mut expected = [pieces_from(&meta, "a.txt", 0), pieces_from(&meta, "one", 0)].concat();
    expected.dedup();
    assert_eq!(not_ok(&report), expected);
}

#[test]
fn a_root_that_is_not_there_is_an_error() {
    let dir = folder(TREE);
    let meta = create_torrent(options(&dir)).unwrap().metainfo;
    let error = verify(&meta, &dir.path().join("no"), &VerifyOptions::default()).unwrap_err();
    assert!(matches!(error, VerifyError::Root { .. }) && error.to_string().contains("\"t\""), "{error}");
    let nothing = TempDir::new().unwrap();
    let report = check(&meta, &nothing);
    assert_eq!(report.bitfield.count(), 0);
    assert!(states(&report).iter().all(|state| *state == FileState::Missing));
}

#[test]
fn links_pipes_and_empty_folders_are_never_left_out_silently() {
    let dir = folder(TREE);
    let root = dir.path().join("t");
    fs::create_dir_all(root.join("hollow")).unwrap();
    std::os::unix::fs::symlink("big", root.join("li\nnk")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let error = create_torrent(options(&dir)).unwrap_err();
    assert!(matches!(error, CreateError::Special { .. }), "{error}");

    let created = create_torrent(CreateOptions { skip_special: true, ..options(&dir) }).unwrap();
    assert_right(&created, &dir);
    let notes = created.notes.join("|");
    assert_eq!(created.notes.len(), 3, "{notes}");
    assert!(notes.contains("hollow: empty folder left out"), "{notes}");
    assert!(notes.contains("li\\nnk: symbolic link left out"), "{notes}");
    assert!(notes.contains("pipe: pipe left out"), "{notes}");

    fs::create_dir_all(root.join("deep")).unwrap();
    for (text, name) in
        [("../big", "deep/up"), ("/etc/passwd", "abs"), ("../../out", "deep/out"), ("deep/../big", "odd")]
    {
        std::os::unix::fs::symlink(text, root.join(name)).unwrap();
    }
    fs::remove_file(root.join("li\nnk")).unwrap();
    let kept = CreateOptions { skip_special: true, keep_symlinks: true, ..options(&dir) };
    let created = create_torrent(kept).unwrap();
    let links = created
        .metainfo
        .files
        .iter()
        .filter_map(|file| Some((file.path.join("/"), file.symlink.as_ref()?.join("/"))));
    assert_eq!(links.collect::<Vec<_>>(), [("t/deep/up".to_owned(), "t/big".to_owned())]);
    let notes = created.notes.join("|");
    assert!(
        ["abs", "out", "odd"].iter().all(|name| notes.contains(&format!("{name}: symbolic link left out"))),
        "{notes}"
    );
    assert_right(&created, &dir);

    let linked = dir.path().join("linked");
    std::os::unix::fs::symlink(&root, &linked).unwrap();
    let by_link = CreateOptions { skip_special: true, path: linked, ..options(&dir) };
    assert_eq!(create_torrent(by_link).unwrap().metainfo.name, "linked", "the root may be a link");
}

#[test]
fn refusals_say_what_to_do() {
    let dir = folder(&[("only-empty", 0)]);
    let text = |options: CreateOptions| create_torrent(options).unwrap_err().to_string();
    assert!(text(options(&dir)).contains("the torrent is empty"));
    fs::remove_file(dir.path().join("t/only-empty")).unwrap();
    assert!(text(options(&dir)).contains("holds no files"));
    assert!(text(CreateOptions::new(dir.path().join("none"))).contains("cannot read"));
    assert!(text(CreateOptions::new("/dev/null")).contains("is a device"));
    assert!(text(CreateOptions::new("/")).contains("no name of its own"), "and the disk is not walked first");
    let file = dir.path().join("t/f");
    fs::write(&file, "x").unwrap();
    assert!(text(CreateOptions { align: true, ..CreateOptions::new(&file) }).contains("needs a folder"));
    assert!(text(CreateOptions { keep_executable: true, ..CreateOptions::new(&file) }).contains("a folder"));
    assert!(text(CreateOptions { piece_len: Some(1000), ..options(&dir) }).contains("power of two"));
    let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff");
    fs::write(dir.path().join("t").join(odd), "x").unwrap();
    assert!(text(options(&dir)).contains("not valid UTF-8"));
}

#[test]
fn names_come_from_the_real_folder() {
    let dir = folder(&[("sub/f", 5)]);
    let dotted = CreateOptions::new(dir.path().join("t/sub/.."));
    assert_eq!(create_torrent(dotted).unwrap().metainfo.name, "t");
    let slash = CreateOptions::new(dir.path().join("t/sub/"));
    assert_eq!(create_torrent(slash).unwrap().metainfo.name, "sub");
}

#[test]
fn files_that_change_meanwhile_are_an_error() {
    for (change, len) in [("same length", 3 << 20), ("shorter", 1 << 20), ("longer", 4 << 20)] {
        let dir = folder(&[("a", 3 << 20), ("b", 3 << 20)]);
        let path = dir.path().join("t/b");
        // From within the run, before the last file is read to its end.
        let writes = std::sync::Once::new();
        let target = path.clone();
        let progress = Progress::watched(move |_| {
            writes.call_once(|| {
                // A later time stamp than that of the first write, however coarse the clock.
                let later = std::time::SystemTime::now() + std::time::Duration::from_secs(10);
                let file = fs::File::options().write(true).open(&target).unwrap();
                file.set_len(len).unwrap();
                file.set_modified(later).unwrap();
            });
        });
        let hash = HashOptions { threads: 1, reading: Reading::Buffered, ..HashOptions::default() };
        let error = create_torrent(CreateOptions { hash, progress: Arc::new(progress), ..options(&dir) })
            .unwrap_err();
        assert!(
            matches!(&error, CreateError::Changed { path: named } if *named == path),
            "{change}: {error}"
        );
    }
}

#[test]
fn progress_reaches_the_total_and_cancelling_ends_the_run() {
    let (seen, dir) = (Arc::new(AtomicU64::new(0)), folder(TREE));
    let watched = seen.clone();
    let progress = Arc::new(Progress::watched(move |done| {
        watched.fetch_max(done, Ordering::Relaxed);
    }));
    let created = create_torrent(CreateOptions { progress: progress.clone(), ..options(&dir) }).unwrap();
    let total = created.metainfo.geometry.total_len();
    assert_eq!((progress.done(), progress.total(), seen.load(Ordering::Relaxed)), (total, total, total));

    // Absent bytes count as done too.
    fs::remove_file(dir.path().join("t/big")).unwrap();
    let verifying = VerifyOptions::default();
    verify(&created.metainfo, dir.path(), &verifying).unwrap();
    assert_eq!((verifying.progress.done(), verifying.progress.total()), (total, total));

    let cancelled = Arc::new(Progress::default());
    cancelled.cancel();
    let error = create_torrent(CreateOptions { progress: cancelled.clone(), ..options(&dir) }).unwrap_err();
    assert!(matches!(error, CreateError::Hash(HashError::Cancelled)), "{error}");
    let verifying = VerifyOptions { progress: cancelled, ..VerifyOptions::default() };
    let error = verify(&created.metainfo, dir.path(), &verifying).unwrap_err();
    assert!(matches!(error, VerifyError::Hash(HashError::Cancelled)), "{error}");
}

#[test]
fn plans_agree_with_the_obvious_way_for_any_sizes() {
    // Sizes around pages, pieces, chunks and reads; a fixed walk through them instead of chance.
    let sizes =
        [0, 1, 63, 64, 4095, 4096, 4097, 16_384, 65_535, 262_144, 262_145, 1_048_576, 1_048_577, 1_060_000];
    for round in 0..24usize {
        let files: Vec<(String, usize)> = (0..1 + round % 7)
            .map(|nth| (format!("{nth}"), sizes[(round * 5 + nth * (1 + round % 5)) % sizes.len()]))
            .chain([("last".to_owned(), 1)])
            .collect();
        let files: Vec<(&str, usize)> = files.iter().map(|(name, len)| (name.as_str(), *len)).collect();
        let dir = folder(&files);
        let piece_len = Some(16_384u32 << (round % 8));
        let hash = HashOptions {
            threads: 1 + round % 4,
            reading: if round % 2 == 0 { Reading::Direct } else { Reading::Auto },
            ..HashOptions::default()
        };
        let align = round % 3 == 0;
        assert_right(
            &create_torrent(CreateOptions { piece_len, hash, align, ..options(&dir) }).unwrap(),
            &dir,
        );
    }
}

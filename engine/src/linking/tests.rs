use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use ccbt_protocol::metainfo::build::{Builder, InputFile};
use tempfile::TempDir;

use super::*;

const PIECE: u32 = 16384;

/// A torrent `t` of files, given as path and bytes; with `pad`, each begins at a piece (BEP 47).
fn torrent(files: &[(&str, &[u8])], pad: bool) -> Metainfo {
    let input = files.iter().map(|(path, bytes)| InputFile {
        path: path.split('/').map(str::to_owned).collect(),
        len: bytes.len() as u64,
        ..InputFile::default()
    });
    let plan = Builder::multi_file("t", input.collect()).piece_len(PIECE).align(pad).plan().unwrap();
    let mut data = Vec::new();
    let mut contents = files.iter();
    for file in plan.files() {
        match file.pad {
            true => data.resize(data.len() + file.len as usize, 0),
            false => data.extend_from_slice(contents.next().unwrap().1),
        }
    }
    let hashes: Vec<_> = data.chunks(PIECE as usize).map(ccbt_storage::hash::sha1).collect();
    Metainfo::parse(&plan.finish(&hashes)).unwrap()
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + (at >> 8) * 7) as u8 ^ seed).collect()
}

fn put(dir: &Path, path: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

struct Setup {
    dir: TempDir,
    pool: PathBuf,
    output: PathBuf,
}

impl Setup {
    /// In the temporary folder.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (pool, output) = (dir.path().join("pool"), dir.path().join("out"));
        fs::create_dir(&pool).unwrap();
        Self { dir, pool, output }
    }

    fn link(&self, metainfo: &Metainfo, mode: LinkMode) -> LinkReport {
        let options = LinkOptions { folders: vec![self.pool.clone()], mode, ..LinkOptions::default() };
        link(metainfo, &self.output, &[], &options).unwrap()
    }

    fn assert_there(&self, files: &[(&str, &[u8])]) {
        for (path, bytes) in files {
            assert!(fs::read(self.output.join("t").join(path)).unwrap() == *bytes, "{path}");
        }
    }

    /// The file's name and nothing else is in its folder.
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.output.join(folder)).into_iter().flatten();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn is_linked(report: &LinkReport, index: usize) -> bool {
    report.files.iter().any(|(at, outcome)| *at == index && matches!(outcome, Outcome::Linked { .. }))
}

fn outcome(report: &LinkReport, index: usize) -> &Outcome {
    &report.files.iter().find(|(at, _)| *at == index).unwrap().1
}

#[test]
fn other_names_and_folders_are_found_and_everything_is_verified() {
    let setup = Setup::new();
    let (big, small, tail) = (bytes(1, 100_000), bytes(2, 700), bytes(3, 40_001));
    let files: [(&str, &[u8]); 4] = [("a/big", &big), ("small", &small), ("void", b""), ("z/tail", &tail)];
    let metainfo = torrent(&files, false);
    let found = put(&setup.pool, "renamed/folder/BIG.bin", &big);
    put(&setup.pool, "small", &small);
    put(&setup.pool, "deep/er/z/tail", &tail);
    let report = setup.link(&metainfo, LinkMode::Auto);
    setup.assert_there(&files);
    assert_eq!(report.linked(&metainfo), (3, 140_701));
    assert_eq!(*outcome(&report, 2), Outcome::Created);
    assert!(report.verified.is_full() && report.notes.is_empty());
    let Outcome::Linked { from, how } = outcome(&report, 0) else { panic!("{:?}", report.files) };
    assert_eq!(*from, found);
    let shared = fs::metadata(setup.output.join("t/a/big")).unwrap().nlink() == 2;
    assert_eq!(shared, *how == How::HardLinked, "a hard link where blocks cannot be shared");

    let again = setup.link(&metainfo, LinkMode::Auto);
    assert!(again.files.iter().all(|(_, outcome)| *outcome == Outcome::AlreadyThere));
    assert_eq!(again.verified.count(), 0, "nothing was hashed");
}

#[test]
fn only_the_right_one_of_several_files_of_a_length_is_taken() {
    let setup = Setup::new();
    let big = bytes(1, 20 * PIECE as usize + 100);
    let metainfo = torrent(&[("big", &big)], false);
    // The likeliest by name is wrong in the middle, where no sample is taken; another one everywhere.
    let mut wrong = big.clone();
    wrong[5 * PIECE as usize + 9] ^= 1;
    put(&setup.pool, "t/big", &wrong);
    put(&setup.pool, "big", &bytes(9, big.len()));
    put(&setup.pool, "good", &big);
    let report = setup.link(&metainfo, LinkMode::Copy);
    setup.assert_there(&[("big", &big)]);
    assert!(report.verified.is_full());

    fs::remove_file(setup.pool.join("good")).unwrap();
    fs::remove_dir_all(&setup.output).unwrap();
    let report = setup.link(&metainfo, LinkMode::Copy);
    assert_eq!(*outcome(&report, 0), Outcome::Differs(2));
    assert!(!setup.output.join("t").exists() && report.verified.count() == 0);
}

#[test]
fn small_files_are_told_apart_by_the_pieces_they_share() {
    let setup = Setup::new();
    let contents: Vec<Vec<u8>> = (0..5).map(|nth| bytes(nth * 3, 1000)).collect();
    let names = ["a", "b", "c", "d", "e"];
    let files: Vec<(&str, &[u8])> = names.iter().zip(&contents).map(|(n, c)| (*n, c.as_slice())).collect();
    let metainfo = torrent(&files, false);
    // The right ones under names that say the opposite, each twice, and strangers of the same length.
    for (nth, content) in contents.iter().enumerate() {
        put(&setup.pool, &format!("x/{}", names[4 - nth]), content);
        put(&setup.pool, &format!("copy/{nth}"), content);
    }
    put(&setup.pool, "stranger", &bytes(77, 1000));
    let report = setup.link(&metainfo, LinkMode::Auto);
    // Six contents for five files are more combinations than are tried: what is taken must be right all the same.
    for index in 0..5 {
        if is_linked(&report, index) {
            setup.assert_there(&files[index..=index]);
        }
    }
    let two = torrent(&files[..2], false);
    let report = link(
        &two,
        &setup.dir.path().join("two"),
        &[],
        &LinkOptions { folders: vec![setup.pool.clone()], ..LinkOptions::default() },
    )
    .unwrap();
    assert_eq!(report.linked(&two).0, 2, "{:?}", report.files);
    assert!(report.verified.is_full());
    assert_eq!(fs::read(setup.dir.path().join("two/t/b")).unwrap(), contents[1]);
}

#[test]
fn a_missing_neighbour_allows_copies_but_no_hard_link() {
    let setup = Setup::new();
    let (big, lost) = (bytes(1, 5 * PIECE as usize + 50), bytes(2, 3000));
    let metainfo = torrent(&[("big", &big), ("lost", &lost)], false);
    put(&setup.pool, "big", &big);
    let report = setup.link(&metainfo, LinkMode::HardLink);
    let Outcome::Refused { reason, .. } = outcome(&report, 0) else { panic!("{:?}", report.files) };
    assert!(reason.contains("--link-mode copy"), "{reason}");
    assert_eq!(*outcome(&report, 1), Outcome::NotFound);
    assert_eq!(report.verified.count(), 0);
    let report = setup.link(&metainfo, LinkMode::Copy);
    assert!(is_linked(&report, 0));
    assert_eq!(report.verified.count(), 5, "the piece with the missing file is not");
    assert_eq!(setup.names("t"), ["big"]);
}

#[test]
fn padding_counts_as_known() {
    let setup = Setup::new();
    let (one, two) = (bytes(1, 3000), bytes(2, PIECE as usize + 1));
    let metainfo = torrent(&[("one", &one), ("two", &two)], true);
    assert!(metainfo.files.iter().any(|file| file.pad));
    put(&setup.pool, "whatever", &one);
    let report = setup.link(&metainfo, LinkMode::HardLink);
    assert!(is_linked(&report, 0), "aligned files need no neighbour: {:?}", report.files);
    assert_eq!(report.verified.count(), 1);
}

#[test]
fn what_is_there_stays_and_links_are_not_followed() {
    let setup = Setup::new();
    let big = bytes(1, 50_000);
    let metainfo = torrent(&[("big", &big)], false);
    let outside = put(setup.dir.path(), "outside/big", &big);
    symlink(&outside, setup.pool.join("big")).unwrap();
    symlink(setup.dir.path().join("outside"), setup.pool.join("folder")).unwrap();
    let report = setup.link(&metainfo, LinkMode::Auto);
    assert_eq!(*outcome(&report, 0), Outcome::NotFound);

    put(&setup.pool, "real", &big);
    put(&setup.output, "t/big", b"mine");
    let report = setup.link(&metainfo, LinkMode::Auto);
    assert_eq!(*outcome(&report, 0), Outcome::AlreadyThere);
    assert_eq!(fs::read(setup.output.join("t/big")).unwrap(), b"mine");

    fs::remove_dir_all(setup.output.join("t")).unwrap();
    symlink(setup.dir.path().join("outside"), setup.output.join("t")).unwrap();
    let options = LinkOptions { folders: vec![setup.pool.clone()], ..LinkOptions::default() };
    let error = link(&metainfo, &setup.output, &[], &options).unwrap_err();
    assert!(error.to_string().contains("symbolic link"), "{error}");
}

#[test]
fn another_file_system_is_reported_for_hard_links_and_copied_when_asked() {
    let setup = Setup::new();
    let Ok(there) = tempfile::tempdir_in("/dev/shm") else { return };
    if there.path().metadata().unwrap().dev() == setup.dir.path().metadata().unwrap().dev() {
        eprintln!("skipped: /dev/shm is no other file system than the temporary folder");
        return;
    }
    let big = bytes(1, 50_000);
    let metainfo = torrent(&[("big", &big)], false);
    put(there.path(), "big", &big);
    let run = |mode| {
        let options = LinkOptions { folders: vec![there.path().to_owned()], mode, ..LinkOptions::default() };
        link(&metainfo, &setup.output, &[(0, "t/groß".into())], &options).unwrap()
    };
    for mode in [LinkMode::Auto, LinkMode::HardLink, LinkMode::Reflink] {
        let report = run(mode);
        let Outcome::Refused { reason, .. } = outcome(&report, 0) else { panic!("{:?}", report.files) };
        assert!(reason.contains("file system"), "{reason}");
        assert!(setup.names("t").is_empty(), "nothing half is left");
        assert_eq!(report.verified.count(), 0);
    }
    let report = run(LinkMode::Copy);
    assert!(matches!(outcome(&report, 0), Outcome::Linked { how: How::Copied, .. }));
    assert_eq!(setup.names("t"), ["groß"]);
    assert!(report.verified.is_full());
}

#[test]
fn folders_that_cannot_be_searched_are_an_error_at_the_top() {
    let setup = Setup::new();
    let metainfo = torrent(&[("big", &bytes(1, 50_000))], false);
    let options = LinkOptions { folders: vec!["/nonexistent/x".into()], ..LinkOptions::default() };
    let error = link(&metainfo, &setup.output, &[], &options).unwrap_err();
    assert!(error.to_string().starts_with("cannot search /nonexistent/x: "), "{error}");
    let options = LinkOptions { folders: vec![setup.pool.clone()], ..LinkOptions::default() };
    options.progress.cancel();
    put(&setup.pool, "x", b"x");
    assert!(matches!(
        link(&metainfo, &setup.output, &[], &options),
        Err(LinkError::Hash(HashError::Cancelled))
    ));
}

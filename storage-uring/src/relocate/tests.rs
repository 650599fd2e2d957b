use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::error::ErrorKind;
use crate::layout::FileSpec;

/// Name and length of the test torrent's files; `None` = padding.
const FILES: [(Option<&str>, u64); 6] = [
    (Some("t/a/one"), 70_001),
    (None, 5),
    (Some("t/a/b/two"), 3 << 20),
    (Some("t/empty"), 0),
    (Some("t/c/three"), 12),
    (Some("t/last"), 4096),
];

pub(super) fn spec(root: &Path) -> LayoutSpec {
    let file = |(path, len): (Option<&str>, u64)| FileSpec {
        path: path.unwrap_or_default().into(),
        len,
        pad: path.is_none(),
        ..FileSpec::default()
    };
    LayoutSpec::new(root.to_owned(), FILES.map(file).into(), 16384).unwrap()
}

pub(super) fn content(index: usize, len: u64) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + (at >> 9) + index as u64 * 7) as u8).collect()
}

pub(super) fn fill(spec: &LayoutSpec) {
    for (index, file) in spec.files().iter().enumerate().filter(|(_, file)| !file.pad) {
        let path = spec.file_path(index as u32);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content(index, file.len)).unwrap();
    }
}

/// Every name below `dir`, folders with a slash behind.
pub(super) fn names(dir: &Path) -> Vec<String> {
    fn collect(dir: &Path, base: &Path, into: &mut Vec<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
            let name = entry.path().strip_prefix(base).unwrap().to_str().unwrap().to_owned();
            if entry.file_type().unwrap().is_dir() {
                into.push(format!("{name}/"));
                collect(&entry.path(), base, into);
            } else {
                into.push(name);
            }
        }
    }
    let mut names = Vec::new();
    collect(dir, dir, &mut names);
    names.sort();
    names
}

/// All files have their content, and below the root there is nothing else.
pub(super) fn assert_complete(spec: &LayoutSpec) {
    for (index, file) in spec.files().iter().enumerate().filter(|(_, file)| !file.pad) {
        let path = spec.file_path(index as u32);
        assert!(fs::read(&path).unwrap() == content(index, file.len), "{}", path.display());
    }
    let files = names(spec.root()).into_iter().filter(|name| !name.ends_with('/')).count();
    assert_eq!(files, spec.files().iter().filter(|file| !file.pad).count(), "{:?}", names(spec.root()));
}

/// A folder in the temporary folder, and one in another file system, if this machine has one.
pub(super) fn two_file_systems() -> Option<(TempDir, TempDir)> {
    let here = tempfile::tempdir().unwrap();
    let there = tempfile::tempdir_in("/dev/shm").ok()?;
    let device = |dir: &TempDir| dir.path().metadata().unwrap().dev();
    if device(&here) == device(&there) {
        eprintln!("skipped: /dev/shm is no other file system than the temporary folder");
        return None;
    }
    Some((here, there))
}

fn run(from: &LayoutSpec, to: &LayoutSpec) -> Result<MoveReport, RelocateError> {
    relocate(from, to, MoveOptions::default(), &MoveProgress::default())
}

#[test]
fn one_file_system_renames() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (spec(&dir.path().join("from")), spec(&dir.path().join("new/to")));
    fill(&from);
    let inode = fs::metadata(from.file_path(2)).unwrap().ino();
    fs::write(from.root().join("t/a/stranger"), b"mine").unwrap();
    let progress = MoveProgress::default();
    let report = relocate(&from, &to, MoveOptions::default(), &progress).unwrap();
    assert_eq!((report.renamed, report.copied, report.left.len()), (5, 0, 0));
    assert_eq!((progress.done(), progress.total()), (report.bytes, report.bytes));
    assert_eq!(report.bytes, from.files().iter().filter(|file| !file.pad).map(|file| file.len).sum::<u64>());
    assert_complete(&to);
    assert_eq!(fs::metadata(to.file_path(2)).unwrap().ino(), inode);
    assert_eq!(names(from.root()), ["t/", "t/a/", "t/a/stranger"], "what is not the torrent's stays");
    let again = run(&from, &to).unwrap();
    assert_eq!((again.done_before, again.bytes), (5, 0));
    assert_complete(&to);
}

#[test]
fn another_file_system_gets_copies_with_holes_times_and_permissions() {
    let Some((here, there)) = two_file_systems() else { return };
    let (from, to) = (spec(here.path()), spec(&there.path().join("deep/to")));
    fill(&from);
    // The middle of the second file is a hole; it is longer than it should be.
    let path = from.file_path(2);
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(0).unwrap();
    file.set_len(8 << 20).unwrap();
    use std::os::unix::fs::FileExt;
    file.write_all_at(b"tail", (8 << 20) - 4).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567_890, 5_000);
    file.set_modified(time).unwrap();
    let before = fs::metadata(&path).unwrap();
    assert!(before.blocks() < 1024, "the file is sparse");

    let progress = MoveProgress::default();
    let report = relocate(&from, &to, MoveOptions::default(), &progress).unwrap();
    assert_eq!((report.renamed, report.copied), (0, 5));
    assert_eq!((progress.done(), progress.total()), (report.bytes, report.bytes), "holes count too");
    let after = fs::metadata(to.file_path(2)).unwrap();
    assert_eq!((after.len(), after.mode() & 0o7777), (8 << 20, 0o640));
    assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
    assert!(after.blocks() < 1024, "holes stay holes: {} blocks", after.blocks());
    assert!(fs::read(to.file_path(2)).unwrap().ends_with(b"\0tail"));
    assert!(names(from.root()).is_empty(), "folders of the torrent go, the root stays");
    assert!(names(to.root()).iter().all(|name| !name.ends_with(TEMPORARY)));
}

#[test]
fn what_is_the_same_is_adopted_and_what_differs_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (spec(&dir.path().join("from")), spec(&dir.path().join("to")));
    fill(&from);
    fs::create_dir_all(to.root().join("t/c")).unwrap();
    fs::write(to.file_path(4), content(4, 12)).unwrap();
    fs::write(to.file_path(5), content(99, 4096)).unwrap();
    let before = names(to.root());
    let error = run(&from, &to).unwrap_err();
    assert!(matches!(&error, RelocateError::Conflict { there, .. } if *there == to.file_path(5)), "{error}");
    assert!(error.to_string().contains("t/last") && error.to_string().contains("overwritten"), "{error}");
    assert_complete(&from);
    assert_eq!(names(to.root()), before, "what was done is undone");

    let report = relocate(&from, &to, MoveOptions { overwrite: true }, &MoveProgress::default()).unwrap();
    assert_eq!((report.renamed, report.adopted), (4, 1));
    assert_complete(&to);
    assert!(names(from.root()).is_empty());
}

#[test]
fn a_hard_link_is_adopted_and_one_folder_under_two_names_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let from = spec(&dir.path().join("from"));
    fill(&from);
    symlink("from", dir.path().join("alias")).unwrap();
    let alias = spec(&dir.path().join("alias"));
    let report = run(&from, &alias).unwrap();
    assert_eq!((report.renamed, report.adopted, report.bytes), (0, 0, 0));
    assert_complete(&from);

    // The torrent's own folder is shared, the roots are not.
    let to = spec(&dir.path().join("to"));
    fs::create_dir_all(to.root().join("t")).unwrap();
    fs::hard_link(from.file_path(5), to.file_path(5)).unwrap();
    let report = run(&from, &to).unwrap();
    assert_eq!((report.renamed, report.adopted), (4, 1));
    assert_complete(&to);
    assert_eq!(fs::metadata(to.file_path(5)).unwrap().nlink(), 1);
}

#[test]
fn links_on_the_way_are_refused_and_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (spec(&dir.path().join("from")), spec(&dir.path().join("to")));
    fill(&from);
    let outside = dir.path().join("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::create_dir_all(to.root().join("t")).unwrap();
    symlink(&outside, to.root().join("t/c")).unwrap();
    let error = run(&from, &to).unwrap_err();
    assert!(matches!(&error, RelocateError::Storage(e) if e.kind() == ErrorKind::OutsideRoot), "{error}");
    assert_complete(&from);
    assert!(names(&outside).is_empty());

    fs::write(outside.join("three"), b"precious").unwrap();
    fs::remove_dir_all(from.root().join("t/c")).unwrap();
    symlink(&outside, from.root().join("t/c")).unwrap();
    let report = delete(&from).unwrap();
    assert_eq!((report.files, report.left.len()), (4, 1));
    assert!(report.left[0].path.ends_with("t/c/three"), "{:?}", report.left);
    assert_eq!(fs::read(outside.join("three")).unwrap(), b"precious");
}

#[test]
fn only_blocks_count_as_space_that_is_needed() {
    let Some((here, there)) = two_file_systems() else { return };
    let (from, to) = (spec(here.path()), spec(&there.path().join("to")));
    fill(&from);
    let room = rustix::fs::statvfs(there.path()).unwrap();
    let file = fs::File::options().write(true).open(from.file_path(2)).unwrap();
    let free = room.f_bavail * room.f_frsize;
    // Sparse: no space is taken, and none would be at the other end.
    file.set_len(free + (1 << 30)).unwrap();
    let report = run(&from, &to).unwrap();
    assert_eq!(report.copied, 5, "only blocks count");
    assert_eq!(fs::metadata(to.file_path(2)).unwrap().len(), free + (1 << 30));
}

#[test]
fn a_file_gets_another_name_and_its_folders_follow() {
    let dir = tempfile::tempdir().unwrap();
    let from = spec(dir.path());
    fill(&from);
    let to = from.with_renames(&[(4, "t/x/y/drei".into())]).unwrap();
    let report = run(&from, &to).unwrap();
    assert_eq!((report.renamed, report.done_before), (1, 0));
    assert_complete(&to);
    assert!(!dir.path().join("t/c").exists(), "the old folder is empty and goes");
    let taken = to.with_renames(&[(4, "t/x/y/vier".into())]).unwrap();
    fs::write(dir.path().join("t/x/y/vier"), b"somebody's").unwrap();
    assert!(matches!(run(&to, &taken), Err(RelocateError::Conflict { .. })));
    fs::remove_file(dir.path().join("t/x/y/vier")).unwrap();
    assert_complete(&to);
}

#[test]
fn deleting_takes_the_torrent_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let own = spec(&dir.path().join("downloads"));
    fill(&own);
    fs::write(own.root().join("t/c/other"), b"mine").unwrap();
    fs::write(own.root().join(format!("t/last{TEMPORARY}")), b"half").unwrap();
    let report = delete(&own).unwrap();
    assert_eq!((report.files, report.left), (5, vec![]));
    assert_eq!(names(own.root()), ["t/", "t/c/", "t/c/other"]);
    fs::remove_file(own.root().join("t/c/other")).unwrap();
    assert_eq!(delete(&own).unwrap().files, 0, "missing files are no failure");
    assert_eq!(names(dir.path()), ["downloads/"], "the download folder itself stays");
    fs::create_dir_all(own.root().join("t/last")).unwrap();
    let report = delete(&own).unwrap();
    assert_eq!(report.left.len(), 1, "a folder where a file should be is not ours");
    assert!(own.root().join("t/last").is_dir());
}

#[test]
fn shared_files_get_a_copy_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let own = spec(&dir.path().join("own"));
    fill(&own);
    let library = dir.path().join("library");
    fs::hard_link(own.file_path(0), &library).unwrap();
    let inode = fs::metadata(&library).unwrap().ino();
    let copied = unshare(&own, &[0, 1, 2, 3], &MoveProgress::default()).unwrap();
    assert_eq!(copied, 1);
    assert_complete(&own);
    let (ours, theirs) = (fs::metadata(own.file_path(0)).unwrap(), fs::metadata(&library).unwrap());
    assert_eq!((theirs.ino(), theirs.nlink()), (inode, 1), "the other name keeps the file");
    assert!(ours.ino() != inode && ours.nlink() == 1);
    assert_eq!(ours.mtime_nsec(), theirs.mtime_nsec());
}

#[test]
fn long_names_have_distinct_temporary_names() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap().unwrap();
    let name = |last: &str| PathBuf::from("n".repeat(254) + last);
    let temporary = |file: &Path| root.place(file).unwrap().unwrap().temporary().unwrap().path().to_owned();
    let (one, other) = (temporary(&name("1")), temporary(&name("2")));
    assert_ne!(one, other);
    assert_eq!(one, temporary(&name("1")));
    assert!(one.file_name().unwrap().len() <= 255);
    assert!(one.to_str().unwrap().ends_with(TEMPORARY));
}

#[test]
fn the_thread_answers_every_job() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (Arc::new(spec(&dir.path().join("from"))), Arc::new(spec(&dir.path().join("to"))));
    fill(&from);
    let mover = thread::Mover::start().unwrap();
    let bell = crate::doorbell::Doorbell::new().unwrap();
    let mut client = mover.client(bell);
    let job = |key, kind| RelocateJob { torrent: TorrentKey(key), kind, progress: Arc::default() };
    let options = MoveOptions::default();
    let moving = RelocateKind::Move { from: from.clone(), to: to.clone(), options };
    client.submit(job(1, moving)).unwrap();
    client.submit(job(2, RelocateKind::Delete { spec: from })).unwrap();
    client.submit(job(3, RelocateKind::Delete { spec: to.clone() })).unwrap();
    let mut answers = Vec::new();
    while answers.len() < 3 {
        match client.poll() {
            Some(done) => answers.push((done.torrent.0, done.result.unwrap())),
            None => std::thread::yield_now(),
        }
    }
    assert_eq!(client.under_way(), 0);
    assert!(matches!(&answers[0], (1, RelocateReport::Moved(report)) if report.renamed == 5));
    assert!(matches!(&answers[1], (2, RelocateReport::Deleted(report)) if report.files == 0));
    assert!(matches!(&answers[2], (3, RelocateReport::Deleted(report)) if report.files == 5));
    assert!(names(to.root()).is_empty());
}

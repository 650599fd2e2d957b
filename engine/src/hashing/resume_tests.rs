//! Verifications that are stopped and go on, and resume files that are of no use.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ccbt_protocol::metainfo::Metainfo;
use tempfile::TempDir;

use super::create::{CreateOptions, create_torrent};
use super::resume::{self, Kept, Loaded};
use super::tests::{folder, options};
use super::verify::{
    PieceState, ResumeError, Target, VerifyError, VerifyOptions, VerifyReport, verify, verify_all,
};
use super::*;

const MIB: usize = 1 << 20;

fn torrent() -> (TempDir, Metainfo, PathBuf) {
    let dir = folder(&[("a", 8 * MIB), ("b", 8 * MIB), ("c", 8 * MIB)]);
    let made =
        create_torrent(CreateOptions { piece_len: Some(1 << 18), align: true, ..options(&dir) }).unwrap();
    let state = dir.path().join("state");
    (dir, made.metainfo, state)
}

/// Verifies on one thread and stops once `bytes` are done in this run; `u64::MAX` for never. Returns how many
/// bytes were looked at, and the report.
fn run(meta: &Metainfo, dir: &Path, state: &Path, bytes: u64) -> (u64, Result<VerifyReport, VerifyError>) {
    let last = Arc::new(AtomicU64::new(0));
    let cell: Arc<Mutex<Option<Arc<Progress>>>> = Arc::default();
    let (seen, to_cancel) = (last.clone(), cell.clone());
    let progress = Arc::new(Progress::watched(move |done| {
        seen.fetch_max(done, Ordering::Relaxed);
        let progress = to_cancel.lock().unwrap().clone().expect("set before the run");
        if done - progress.resumed() >= bytes {
            progress.cancel();
        }
    }));
    *cell.lock().unwrap() = Some(progress.clone());
    let options = VerifyOptions {
        hash: HashOptions { threads: 1, order: Order::Sequential, ..HashOptions::default() },
        progress: progress.clone(),
        resume: Some(state.to_owned()),
        notify: None,
    };
    let report = verify(meta, dir, &options);
    *cell.lock().unwrap() = None;
    (last.load(Ordering::Relaxed).saturating_sub(progress.resumed()), report)
}

/// Makes what was kept look as if it had been found out long after the files were written.
fn age(state: &Path) -> Vec<Kept> {
    let Loaded::Kept(mut kept) = resume::load(state).unwrap() else { panic!("a resume file was left") };
    kept.iter_mut().for_each(|kept| kept.looked += 1000);
    resume::save(state, &kept).unwrap();
    kept
}

fn stopped(meta: &Metainfo, dir: &Path, state: &Path) {
    let (_, report) = run(meta, dir, state, 12 * MIB as u64);
    assert!(matches!(report, Err(VerifyError::Hash(HashError::Cancelled))), "{report:?}");
}

#[test]
fn a_stopped_verification_goes_on_where_it_was() {
    let (dir, meta, state) = torrent();
    stopped(&meta, dir.path(), &state);
    let kept = age(&state);
    let known = kept[0].pieces.bytes().filter(|letter| *letter == b'+').count();
    assert!((40..=96).contains(&known), "{known} pieces are known");
    let (looked_at, report) = run(&meta, dir.path(), &state, u64::MAX);
    let report = report.unwrap();
    assert!(report.is_complete());
    assert_eq!(looked_at, ((96 - known) << 18) as u64, "nothing is hashed twice");
    assert!(!state.exists(), "removed at the end");
}

#[test]
fn bad_pieces_are_kept_and_missing_ones_looked_at_again() {
    let (dir, meta, state) = torrent();
    let a = fs::File::options().write(true).open(dir.path().join("t/a")).unwrap();
    a.write_all_at(b"bad", 0).unwrap();
    stopped(&meta, dir.path(), &state);
    let kept = age(&state);
    assert!(kept[0].pieces.starts_with("-+"), "{}", kept[0].pieces);
    assert!(!kept[0].pieces.contains('?'));
    let report = run(&meta, dir.path(), &state, u64::MAX).1.unwrap();
    assert_eq!((report.count(PieceState::Bad), report.count(PieceState::Ok)), (1, 95));
}

#[test]
fn changed_doubtful_and_replaced_files_are_looked_at_again() {
    let (dir, meta, state) = torrent();
    // Without ageing: the files were written so shortly before that they might have changed since.
    stopped(&meta, dir.path(), &state);
    assert_eq!(run(&meta, dir.path(), &state, u64::MAX).0, 24 * MIB as u64);

    stopped(&meta, dir.path(), &state);
    age(&state);
    let a = dir.path().join("t/a");
    let before = a.metadata().unwrap();
    let file = fs::File::options().write(true).open(&a).unwrap();
    file.write_all_at(b"changed", 5 * MIB as u64).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    assert_eq!(a.metadata().unwrap().modified().unwrap(), before.modified().unwrap(), "it hides the change");
    let report = run(&meta, dir.path(), &state, u64::MAX).1.unwrap();
    assert_eq!(report.count(PieceState::Bad), 1);

    stopped(&meta, dir.path(), &state);
    age(&state);
    fs::remove_file(&a).unwrap();
    let report = run(&meta, dir.path(), &state, u64::MAX).1.unwrap();
    assert_eq!((report.count(PieceState::Missing), report.count(PieceState::Ok)), (32, 64));
}

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn say(text: &str) {
    SAID.lock().unwrap().push(text.to_owned());
}

#[test]
fn useless_resume_files_are_told_and_other_files_never_touched() {
    let (dir, meta, state) = torrent();
    let options =
        VerifyOptions { resume: Some(state.clone()), notify: Some(say), ..VerifyOptions::default() };
    stopped(&meta, dir.path(), &state);
    let good = fs::read(&state).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    fs::write(&state, &bad).unwrap();
    assert!(verify(&meta, dir.path(), &options).unwrap().is_complete());
    assert!(SAID.lock().unwrap().pop().unwrap().contains("is damaged: starting over"));

    let other = folder(&[("x", 100)]);
    let other_meta = create_torrent(super::tests::options(&other)).unwrap().metainfo;
    fs::write(&state, &good).unwrap();
    assert!(verify(&other_meta, other.path(), &options).unwrap().is_complete());
    assert!(SAID.lock().unwrap().pop().unwrap().contains("is of other torrents: starting over"));

    fs::write(&state, "my diary").unwrap();
    let error = verify(&meta, dir.path(), &options).unwrap_err();
    assert!(matches!(&error, VerifyError::Resume { source: ResumeError::NotOurs, .. }), "{error}");
    assert_eq!(fs::read(&state).unwrap(), b"my diary");
    let nowhere = VerifyOptions { resume: Some(dir.path().join("no/where")), ..VerifyOptions::default() };
    let error = verify(&meta, dir.path(), &nowhere).unwrap_err();
    assert!(matches!(&error, VerifyError::Resume { source: ResumeError::Io(_), .. }), "{error}");
    assert!(SAID.lock().unwrap().is_empty());
}

/// Right checksum, wrong contents: lengths that do not fit the torrent are not used.
#[test]
fn states_that_do_not_fit_are_not_used() {
    let (dir, meta, state) = torrent();
    stopped(&meta, dir.path(), &state);
    let kept = age(&state);
    for change in [
        (|kept: &mut Kept| kept.pieces.push('+')) as fn(&mut Kept),
        |kept| kept.pieces = "\u{e9}".repeat(48),
        |kept| kept.stamps.clear(),
    ] {
        let mut kept = kept.clone();
        change(&mut kept[0]);
        resume::save(&state, &kept).unwrap();
        let (_, report) = run(&meta, dir.path(), &state, u64::MAX);
        assert!(report.unwrap().is_complete());
    }
}

#[test]
fn several_torrents_share_a_resume_file() {
    let (one, one_meta, state) = torrent();
    let (two, two_meta, _) = torrent();
    let targets = [(&one_meta, &one), (&two_meta, &two)].map(|(metainfo, dir)| Target {
        metainfo,
        root: dir.path(),
        renames: &[],
    });
    assert_eq!(one_meta.info_hash, two_meta.info_hash, "the same content, in two places");
    fs::write(two.path().join("t/c"), "short").unwrap();
    let options = VerifyOptions { resume: Some(state.clone()), ..VerifyOptions::default() };
    let reports = verify_all(&targets, &options).unwrap();
    assert!(reports[0].is_complete() && !reports[1].is_complete());
    assert_eq!(reports[1].count(PieceState::Missing), 32);
    assert!(!state.exists());
}

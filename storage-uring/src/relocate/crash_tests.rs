//! A move that ends at every possible step, by a crash or by being cancelled.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;

use super::progress::crash::CRASH;
use super::tests::{assert_complete, content, fill, names, spec, two_file_systems};
use super::*;

/// Panics on purpose print nothing.
fn quiet_crashes() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&CRASH) {
                usual(info);
            }
        }));
    });
}

/// Moves and crashes at step `nth`; whether it came that far.
fn crashes_at(nth: usize, from: &LayoutSpec, to: &LayoutSpec) -> bool {
    quiet_crashes();
    let progress = MoveProgress::default();
    progress.crash.at(nth);
    let call = || relocate(from, to, MoveOptions::default(), &progress);
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => {
            result.expect("nothing is in the way");
            false
        }
        Err(payload) => {
            assert_eq!(payload.downcast_ref::<&str>(), Some(&CRASH), "no other panic");
            true
        }
    }
}

/// Every file is whole at one of its two places at least, whatever was being done.
fn assert_nothing_lost(from: &LayoutSpec, to: &LayoutSpec) {
    for (index, file) in from.files().iter().enumerate().filter(|(_, file)| !file.pad) {
        let whole = |spec: &LayoutSpec| {
            fs::read(spec.file_path(index as u32)).is_ok_and(|bytes| bytes == content(index, file.len))
        };
        assert!(whole(from) || whole(to), "file {index} is lost");
        let there = to.file_path(index as u32);
        assert!(whole(to) || !there.exists(), "{} is half a file under its real name", there.display());
    }
}

fn every_crash_is_survived(here: &Path, there: &Path) {
    for nth in 1.. {
        let (from, to) = (spec(&here.join(format!("from{nth}"))), spec(&there.join(format!("to{nth}"))));
        fill(&from);
        let crashed = crashes_at(nth, &from, &to);
        assert_nothing_lost(&from, &to);
        // A second crash in the same place, then one run to the end.
        crashes_at(nth, &from, &to);
        assert_nothing_lost(&from, &to);
        relocate(&from, &to, MoveOptions::default(), &MoveProgress::default()).expect("it goes on");
        assert_complete(&to);
        assert!(names(from.root()).is_empty(), "step {nth}: {:?}", names(from.root()));
        if !crashed {
            assert!(nth > 10, "there are steps to crash at");
            return;
        }
    }
}

#[test]
fn crashes_between_file_systems() {
    let Some((here, there)) = two_file_systems() else { return };
    every_crash_is_survived(here.path(), there.path());
}

#[test]
fn crashes_within_a_file_system() {
    let dir = tempfile::tempdir().unwrap();
    every_crash_is_survived(dir.path(), dir.path());
}

#[test]
fn cancelling_undoes_everything() {
    let Some((here, there)) = two_file_systems() else { return };
    for other in [here.path(), there.path()] {
        let (from, to) = (spec(&here.path().join("from")), spec(&other.join("new/to")));
        fill(&from);
        let progress = MoveProgress::default();
        progress.cancel();
        let error = relocate(&from, &to, MoveOptions::default(), &progress).unwrap_err();
        assert_eq!(error, RelocateError::Cancelled);
        assert_complete(&from);
        assert!(!other.join("new").exists(), "folders that were made go");
    }
}

/// The last file cannot be placed: those before it come back.
#[test]
fn a_failure_undoes_everything() {
    let Some((here, there)) = two_file_systems() else { return };
    for other in [here.path(), there.path()] {
        let (from, to) = (spec(&here.path().join("from")), spec(&other.join("to")));
        fill(&from);
        fs::create_dir_all(to.root().join("t/last")).unwrap();
        let error = relocate(&from, &to, MoveOptions::default(), &MoveProgress::default()).unwrap_err();
        assert!(error.to_string().contains("t/last"), "{error}");
        assert_complete(&from);
        assert_eq!(names(to.root()), ["t/", "t/last/"]);
        fs::remove_dir_all(from.root()).unwrap();
        fs::remove_dir_all(to.root()).unwrap();
    }
}

/// A source that changes while it is copied is never removed.
#[test]
fn a_source_that_changes_stays() {
    let Some((here, there)) = two_file_systems() else { return };
    let (from, to) = (spec(&here.path().join("from")), spec(&there.path().join("to")));
    fill(&from);
    // An earlier run stopped before sources were removed.
    let steps = {
        let (from, to) = (spec(&here.path().join("probe")), spec(&there.path().join("probe")));
        fill(&from);
        let progress = MoveProgress::default();
        relocate(&from, &to, MoveOptions::default(), &progress).unwrap();
        progress.crash.seen()
    };
    assert!(crashes_at(steps - 5, &from, &to), "before the sources go");
    fs::write(from.file_path(4), b"changed here").unwrap();
    let error = relocate(&from, &to, MoveOptions::default(), &MoveProgress::default()).unwrap_err();
    assert!(matches!(error, RelocateError::Conflict { .. }), "{error}");
    assert_eq!(fs::read(from.file_path(4)).unwrap(), b"changed here");
}

/// Somebody takes the old place of a file that was moved, and then the move fails: the error says that files are in two
/// places, and the same move completes it once nothing is in the way.
#[test]
fn a_failure_that_cannot_be_undone_is_told_and_completed_later() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (spec(&dir.path().join("from")), spec(&dir.path().join("to")));
    fill(&from);
    let progress = MoveProgress::default();
    let (old, new) = (from.file_path(0), to.file_path(5));
    let (foreign, obstacle) = (old.clone(), new.clone());
    // Step 1 looks at the first file, step 2 has renamed it.
    progress.crash.interfere(2, move || {
        fs::write(&foreign, b"foreign").unwrap();
        fs::create_dir_all(&obstacle).unwrap();
    });
    let error = relocate(&from, &to, MoveOptions::default(), &progress).unwrap_err();
    assert!(matches!(&error, RelocateError::Split { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("t/last") && text.contains("some in") && text.contains("move again"), "{text}");
    assert_eq!(fs::read(&old).unwrap(), b"foreign", "it is not overwritten");

    fs::remove_file(&old).unwrap();
    fs::remove_dir(&new).unwrap();
    assert_nothing_lost(&from, &to);
    relocate(&from, &to, MoveOptions::default(), &MoveProgress::default()).unwrap();
    assert_complete(&to);
}

/// What changes between the copy and the end is noticed, and the source stays.
#[test]
fn a_source_written_to_behind_its_copy_fails_the_move() {
    let Some((here, there)) = two_file_systems() else { return };
    let (from, to) = (spec(&here.path().join("from")), spec(&there.path().join("to")));
    fill(&from);
    let steps = {
        let (from, to) = (spec(&here.path().join("probe")), spec(&there.path().join("probe")));
        fill(&from);
        let progress = MoveProgress::default();
        relocate(&from, &to, MoveOptions::default(), &progress).unwrap();
        progress.crash.seen()
    };
    let progress = MoveProgress::default();
    let path = from.file_path(0);
    let written = path.clone();
    // All are copied, and folders are being synced: the last look, five sources and their folders are still to come.
    progress.crash.interfere(steps - 8, move || fs::write(&written, b"new").unwrap());
    let error = relocate(&from, &to, MoveOptions::default(), &progress).unwrap_err();
    assert_eq!(error, RelocateError::Changed(path.clone()));
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert!(names(to.root()).is_empty(), "{:?}", names(to.root()));
}

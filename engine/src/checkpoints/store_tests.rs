use std::os::unix::fs::PermissionsExt;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::ids::PieceIndex;

use super::*;
use crate::checkpoints::{Source, Totals};

const HASH: InfoHash = InfoHash([0xab; 20]);

/// One of ten pieces of which the first `have` are there.
fn checkpoint(have: u32) -> Checkpoint {
    let mut field = Bitfield::empty(10);
    for piece in 0..have {
        field.insert(PieceIndex(piece));
    }
    Checkpoint {
        info_hash: HASH,
        name: "t".into(),
        saved_at: 1,
        added_at: 1,
        source: Source::default(),
        output: "/srv".into(),
        renames: Vec::new(),
        piece_len: 16_384,
        total_len: 163_840,
        have: field,
        looked: Bitfield::full(10),
        partial: Vec::new(),
        files: vec![None],
        totals: Totals::default(),
        file_priorities: Vec::new(),
        trackers: Vec::new(),
        peers: Vec::new(),
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::new(folder.path().join("a/b"));
    (folder, store)
}

fn have(store: &Store) -> Option<(u32, bool)> {
    let loaded = store.load(HASH).ok()?;
    Some((loaded.checkpoint.have.count(), loaded.fell_back.is_some()))
}

const STEPS: [Step; 7] =
    [Step::Folder, Step::Create, Step::Write, Step::SyncFile, Step::Backup, Step::Replace, Step::SyncFolder];

#[test]
fn the_newest_is_loaded_and_the_one_before_is_kept() {
    let (_folder, store) = store();
    assert!(matches!(store.load(HASH), Err(LoadError::Missing(HASH))));
    assert!(store.list().expect("no folder, no entries").is_empty());
    for pieces in 1..=3 {
        store.save(&checkpoint(pieces), Format::Binary).unwrap();
        assert_eq!(have(&store), Some((pieces, false)));
    }
    fs::remove_file(store.path(HASH)).unwrap();
    assert_eq!(have(&store), Some((2, true)));
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(store.dir()), 0o700);
    assert_eq!(mode(&store.backup_path(HASH)), 0o600);
}

#[test]
fn forms_may_change_from_one_to_the_next() {
    let (_folder, store) = store();
    store.save(&checkpoint(1), Format::Json).unwrap();
    store.save(&checkpoint(2), Format::Binary).unwrap();
    assert_eq!(have(&store), Some((2, false)));
    fs::write(store.path(HASH), b"").unwrap();
    assert_eq!(have(&store), Some((1, true)));
}

/// A process that dies, or a disk that fails, before any step leaves the old or the new one.
#[test]
fn a_fault_at_any_step_leaves_one_to_load() {
    for fault in STEPS {
        let (_folder, store) = store();
        for pieces in [1, 2] {
            store.save(&checkpoint(pieces), Format::Binary).unwrap();
        }
        let mut steps = Vec::new();
        let saved = store.save_with(&checkpoint(3), Format::Binary, &mut |step| {
            steps.push(step);
            if step == fault { Err(io::Error::other("fault")) } else { Ok(()) }
        });
        assert!(saved.is_err(), "{fault:?}");
        assert_eq!(steps.last(), Some(&fault));
        let expected = match fault {
            // Its place is empty for a moment.
            Step::Replace => (2, true),
            Step::SyncFolder => (3, false),
            _ => (2, false),
        };
        assert_eq!(have(&store), Some(expected), "{fault:?}");
        // And the next one is not hindered by what is left.
        store.save(&checkpoint(4), Format::Binary).unwrap();
        assert_eq!(have(&store), Some((4, false)), "{fault:?}");
        fs::write(store.path(HASH), b"damaged").unwrap();
        let (before, fell_back) = have(&store).expect("one is left");
        assert!(before >= 2 && fell_back, "{fault:?}: {before}");
    }
}

/// A power cut may keep a name and lose what stands behind it, at any length.
#[test]
fn whatever_is_cut_or_flipped_the_one_before_is_found() {
    let (_folder, store) = store();
    store.save(&checkpoint(1), Format::Binary).unwrap();
    store.save(&checkpoint(2), Format::Binary).unwrap();
    let good = fs::read(store.path(HASH)).unwrap();
    for at in 0..good.len() {
        fs::write(store.path(HASH), &good[..at]).unwrap();
        assert_eq!(have(&store), Some((1, true)), "{at} bytes left");
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(store.path(HASH), flipped).unwrap();
        assert_eq!(have(&store), Some((1, true)), "byte {at}");
    }
}

#[test]
fn a_damaged_one_never_replaces_the_good_one_before_it() {
    let (_folder, store) = store();
    store.save(&checkpoint(1), Format::Binary).unwrap();
    store.save(&checkpoint(2), Format::Binary).unwrap();
    fs::write(store.path(HASH), b"damaged").unwrap();
    store.save(&checkpoint(3), Format::Binary).unwrap();
    fs::write(store.path(HASH), b"damaged again").unwrap();
    assert_eq!(have(&store), Some((1, true)));
    fs::write(store.backup_path(HASH), b"both").unwrap();
    let error = store.load(HASH).expect_err("none is good").to_string();
    assert!(error.contains("the one before it: it is not a checkpoint"), "{error}");
}

#[test]
fn another_torrents_checkpoint_is_not_taken() {
    let (_folder, store) = store();
    store.save(&checkpoint(2), Format::Binary).unwrap();
    let other = InfoHash([1; 20]);
    fs::copy(store.path(HASH), store.path(other)).unwrap();
    let error = store.load(other).expect_err("it is of another torrent").to_string();
    assert!(error.contains(&HASH.to_string()), "{error}");
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let (_folder, store) = store();
    fs::create_dir_all(store.path(HASH)).unwrap();
    assert!(matches!(store.load(HASH), Err(LoadError::Unusable { .. })));
    // Opening a pipe would wait for somebody who writes.
    fs::remove_dir(store.path(HASH)).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, store.path(HASH), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(matches!(store.load(HASH), Err(LoadError::Unusable { .. }))));
    assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(true), "it waits");
}

#[test]
fn cleaning_takes_the_old_and_the_complete_and_spares_the_rest() {
    let (_folder, store) = store();
    let day = Duration::from_secs(86_400);
    let put = |number: u8, pieces: u32, age: Duration| {
        let info_hash = InfoHash([number; 20]);
        store.save(&Checkpoint { info_hash, ..checkpoint(pieces) }, Format::Binary).unwrap();
        store.save_torrent(info_hash, b"d4:infodee").unwrap();
        let then = SystemTime::now() - age;
        for path in [store.path(info_hash), store.torrent_path(info_hash)] {
            File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
        }
        info_hash
    };
    let (old, new) = (put(1, 3, day * 9), put(2, 3, day));
    let (done, used) = (put(3, 10, day), put(4, 10, day * 9));
    fs::write(store.dir().join("note.txt"), b"not ours").unwrap();
    let keep = BTreeSet::from([used]);
    let week = Retention { older_than: Some(day * 7), completed: false };
    assert_eq!(store.clean(week, &keep).unwrap(), [old]);
    assert!(!store.torrent_path(old).exists());
    assert_eq!(store.clean(Retention { completed: true, ..Retention::default() }, &keep).unwrap(), [done]);
    let left: Vec<_> = store.list().unwrap().iter().map(|entry| entry.info_hash).collect();
    assert_eq!(left, [new, used]);
    assert!(store.delete(new).unwrap() && !store.delete(new).unwrap());
    assert!(store.dir().join("note.txt").exists());
}

/// Somebody may have put a link where the next one is written.
#[test]
fn what_lies_in_the_way_is_replaced_and_not_followed() {
    let (folder, store) = store();
    store.save(&checkpoint(1), Format::Binary).unwrap();
    let victim = folder.path().join("victim");
    fs::write(&victim, b"of value").unwrap();
    std::os::unix::fs::symlink(&victim, new_path(&store.path(HASH))).unwrap();
    store.save(&checkpoint(2), Format::Binary).unwrap();
    assert_eq!(fs::read(&victim).unwrap(), b"of value");
    assert_eq!(have(&store), Some((2, false)));
    assert!(store.path(HASH).symlink_metadata().unwrap().is_file());
}

/// Two processes with the same torrent: each save is whole, whoever comes last.
#[test]
fn writers_wait_for_each_other() {
    let (_folder, store) = store();
    store.save(&checkpoint(1), Format::Binary).unwrap();
    let (other, (tell, told)) = (store.clone(), std::sync::mpsc::channel());
    let mut thread = None;
    store
        .save_with(&checkpoint(2), Format::Binary, &mut |step| {
            if step == Step::SyncFile {
                let (other, tell) = (other.clone(), tell.clone());
                thread = Some(std::thread::spawn(move || {
                    other.save(&checkpoint(3), Format::Binary).unwrap();
                    tell.send(()).unwrap();
                }));
                // It would be through by then.
                assert!(told.recv_timeout(Duration::from_millis(200)).is_err(), "it waits");
            }
            Ok(())
        })
        .unwrap();
    thread.expect("started").join().unwrap();
    assert_eq!(have(&store), Some((3, false)));
    fs::remove_file(store.path(HASH)).unwrap();
    assert_eq!(have(&store), Some((2, true)));
}

#[test]
fn a_checkpoint_that_is_touched_is_not_old() {
    let (_folder, store) = store();
    store.touch(HASH).expect("none is there, and none comes");
    assert!(!store.path(HASH).exists());
    let day = Duration::from_secs(86_400);
    store.save(&checkpoint(1), Format::Binary).unwrap();
    let file = File::options().write(true).open(store.path(HASH)).unwrap();
    file.set_modified(SystemTime::now() - day * 9).unwrap();
    let week = Retention { older_than: Some(day * 7), completed: false };
    assert!(store.goes(HASH, week));
    store.touch(HASH).unwrap();
    assert!(!store.goes(HASH, week));
    assert_eq!(have(&store), Some((1, false)));
}

#[test]
fn a_full_disk_is_an_error_and_leaves_the_old_one() {
    let (_folder, store) = store();
    store.save(&checkpoint(1), Format::Binary).unwrap();
    let error = store.save_with(&checkpoint(2), Format::Binary, &mut |step| match step {
        Step::SyncFile => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    });
    assert_eq!(error.expect_err("it is full").kind(), io::ErrorKind::StorageFull);
    assert!(!new_path(&store.path(HASH)).exists(), "what was written takes no room");
    assert_eq!(have(&store), Some((1, false)));
    store.save(&checkpoint(3), Format::Binary).expect("there is room again");
    assert_eq!(have(&store), Some((3, false)));
}

#[test]
fn a_torrent_file_that_is_another_ones_by_now_is_not_taken() {
    let (folder, store) = store();
    let write = |name: &str, len: u64| {
        let plan = ccbt_protocol::metainfo::build::Builder::single_file(name, len).piece_len(16_384);
        let plan = plan.plan().expect("sensible sizes");
        let bytes = plan.finish(&[[7; 20]; 10]);
        let metainfo = ccbt_protocol::metainfo::Metainfo::parse(&bytes).expect("it is one");
        (bytes, metainfo.info_hash)
    };
    let ((bytes, info_hash), (other, _)) = (write("t", 163_840), write("u", 163_840));
    let path = folder.path().join("t.torrent");
    fs::write(&path, &bytes).unwrap();
    let source = Source { torrent: Some(path.clone()), magnet: None };
    let checkpoint = Checkpoint { info_hash, source, ..checkpoint(1) };
    assert_eq!(store.torrent_of(&checkpoint), Some(path.clone()));
    fs::write(&path, &other).unwrap();
    assert_eq!(store.torrent_of(&checkpoint), None);
    store.save_torrent(info_hash, &bytes).unwrap();
    assert_eq!(store.torrent_of(&checkpoint), Some(store.torrent_path(info_hash)), "the copy is good still");
}

//! Checkpoints by the library's own API.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ccbt_fast::checkpoints::{Checkpoint, CheckpointSettings, Format, Loaded, Store, Totals};
use ccbt_fast::hashing::create::{CreateOptions, create_torrent};
use ccbt_fast::{
    AddOptions, Events, InfoHash, Metainfo, Priority, Received, RemoveOptions, Session, SessionEvent,
    Settings, State, TorrentEvent, TorrentLimits,
};
use tempfile::TempDir;

/// Bounds a hang; never a measure of speed.
const PATIENCE: Duration = Duration::from_secs(30);
const PIECE: u32 = 32 * 1024;

/// A folder with one file, its torrent, and a folder for checkpoints.
struct Place {
    folder: TempDir,
    metainfo: Metainfo,
}

impl Place {
    fn new() -> Self {
        Self::of_pieces(PIECE)
    }

    /// Ten pieces of so many bytes, and a bit.
    fn of_pieces(piece_len: u32) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bytes: Vec<u8> = (0..10 * piece_len + 5).map(|at| (at / 3 + at / 70_001) as u8).collect();
        fs::create_dir(folder.path().join("data")).expect("made");
        fs::write(folder.path().join("data/file"), bytes).expect("written");
        let options = CreateOptions {
            piece_len: Some(piece_len),
            ..CreateOptions::new(folder.path().join("data/file"))
        };
        let metainfo = create_torrent(options).expect("a torrent").metainfo;
        Self { folder, metainfo }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn settings(&self) -> CheckpointSettings {
        CheckpointSettings { dir: Some(self.folder.path().join("state")), ..CheckpointSettings::default() }
    }

    fn load(&self) -> Option<Loaded> {
        Store::new(self.folder.path().join("state")).load(self.metainfo.info_hash).ok()
    }

    fn options(&self) -> AddOptions {
        let resume = self.load().map(|loaded| Box::new(loaded.checkpoint));
        AddOptions { use_trackers: false, resume, ..AddOptions::new(self.data()) }
    }
}

fn session(checkpoints: CheckpointSettings) -> Session {
    let settings = Settings {
        port: Some(0),
        bind: Some([127, 0, 0, 1].into()),
        memory_bytes: 32 << 20,
        checkpoints,
        ..Settings::default()
    };
    Session::start(&settings).expect("io_uring is there")
}

/// Waits for an event; says whether files were looked at before.
fn wait(events: &Events, wanted: impl Fn(&TorrentEvent) -> bool) -> bool {
    let mut looked = false;
    loop {
        match events.recv_timeout(PATIENCE) {
            Received::Event(SessionEvent::Torrent(_, event)) => {
                looked |= matches!(event, TorrentEvent::Checked { .. });
                if wanted(&event) {
                    return looked;
                }
            }
            Received::Event(_) => {}
            other => panic!("it does not come: {other:?}"),
        }
    }
}

fn run_to_the_end(place: &Place, settings: CheckpointSettings) -> bool {
    let session = session(settings);
    let events = session.events();
    session.add_torrent(place.metainfo.clone(), place.options()).expect("added");
    let looked = wait(&events, |event| *event == TorrentEvent::Finished);
    session.shutdown(PATIENCE).expect("it stops");
    looked
}

#[test]
fn what_was_looked_at_is_known_to_the_next_session() {
    for format in [Format::Binary, Format::Json] {
        let place = Place::new();
        let settings = || CheckpointSettings { format, ..place.settings() };
        assert!(run_to_the_end(&place, settings()), "nothing is known yet");
        assert!(place.load().expect("written").checkpoint.is_complete());
        assert!(!run_to_the_end(&place, settings()), "and now all is");
        let file = fs::File::options().write(true).open(place.data().join("file")).expect("there");
        file.set_modified(std::time::SystemTime::now()).expect("touched");
        assert!(run_to_the_end(&place, settings()), "the file has another time");
    }
}

#[test]
fn complete_torrents_need_no_checkpoint_where_none_is_wanted() {
    let place = Place::new();
    run_to_the_end(&place, place.settings());
    assert!(place.load().is_some());
    run_to_the_end(&place, CheckpointSettings { keep_completed: false, ..place.settings() });
    assert!(place.load().is_none());
    run_to_the_end(&place, CheckpointSettings { dir: None, ..place.settings() });
    assert!(place.load().is_none());
}

#[test]
fn a_torrent_goes_on_from_the_checkpoint_of_the_sessions_folder_unless_told_not_to() {
    let place = Place::new();
    run_to_the_end(&place, place.settings());
    for (auto_resume, looks) in [(true, false), (false, true)] {
        let session = session(place.settings());
        let events = session.events();
        let options = AddOptions { resume: None, auto_resume, ..place.options() };
        session.add_torrent(place.metainfo.clone(), options).expect("added");
        assert_eq!(wait(&events, |event| *event == TorrentEvent::Finished), looks);
        session.shutdown(PATIENCE).expect("it stops");
    }
}

#[test]
fn a_seed_keeps_what_it_has_looked_at() {
    let place = Place::new();
    let run = || {
        let session = session(place.settings());
        let events = session.events();
        let options = AddOptions { seed_only: true, ..place.options() };
        session.add_torrent(place.metainfo.clone(), options).expect("added");
        let looked = wait(&events, |event| *event == TorrentEvent::Finished);
        session.shutdown(PATIENCE).expect("it stops");
        looked
    };
    let now = std::time::SystemTime::now();
    let file = fs::File::options().write(true).open(place.data().join("file")).expect("there");
    assert!(run(), "nothing is known yet");
    assert!(run(), "a file just written may not have reached the disk");
    file.set_modified(now - Duration::from_secs(400)).expect("touched");
    assert!(run(), "the file has another time");
    assert!(!run(), "and now all is known");
    file.set_modified(now - Duration::from_secs(500)).expect("touched");
    assert!(run(), "the file has another time");
}

#[test]
fn a_running_session_takes_other_checkpoint_settings() {
    let place = Place::new();
    let rarely = CheckpointSettings { interval: Duration::from_secs(10_000), ..place.settings() };
    let session = session(rarely.clone());
    let events = session.events();
    let torrent = session.add_torrent(place.metainfo.clone(), place.options()).expect("added");
    wait(&events, |event| *event == TorrentEvent::Finished);
    wait_for("checkpoint", || place.load());
    session.set_checkpoints(CheckpointSettings { format: Format::Json, dir: None, ..rarely.clone() });
    torrent.pause().expect("it runs");
    let path = Store::new(place.folder.path().join("state")).path(place.metainfo.info_hash);
    let is_json = || fs::read(&path).is_ok_and(|bytes| bytes.starts_with(b"{")).then_some(());
    wait_for("checkpoint in the other form, at the same place", is_json);
    session.set_checkpoints(CheckpointSettings { keep_completed: false, ..rarely });
    torrent.rename_file(0, "other").expect("it runs");
    wait_for("end of the checkpoint", || place.load().is_none().then_some(()));
    session.shutdown(PATIENCE).expect("it stops");
}

fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = std::time::Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "no {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A torrent at rest keeps no memory: what came of its begun pieces is in the files, and it goes on from there.
#[test]
fn begun_pieces_of_a_resting_torrent_are_on_the_disk() {
    let place = Place::of_pieces(256 * 1024);
    let seeding = session(CheckpointSettings { dir: None, ..place.settings() });
    let seed = seeding.add_torrent(place.metainfo.clone(), place.options()).expect("added");
    let listen: SocketAddr = ([127, 0, 0, 1], seeding.port()).into();
    let interval = Duration::from_secs(10_000);
    let leeching = session(CheckpointSettings { interval, ..place.settings() });
    let events = leeching.events();
    let copy = place.folder.path().join("copy");
    let options = AddOptions { output: copy.clone(), resume: None, peers: vec![listen], ..place.options() };
    // Half a second for a piece.
    let limits = TorrentLimits { down: 512 * 1024, ..TorrentLimits::default() };
    let torrent = leeching
        .add_torrent(place.metainfo.clone(), AddOptions { limits: Some(limits), ..options })
        .expect("added");
    let status = || torrent.status().expect("it runs");
    for round in 1..=3 {
        wait_for("blocks", || {
            torrent.status().filter(|status| status.stats.downloaded >= round * (600 << 10))
        });
        torrent.pause().expect("it runs");
        // All that came of begun pieces is in the files, and the checkpoint says so.
        wait_for("checkpoint with the blocks", || {
            let status = status();
            let begun = status.stats.downloaded.checked_sub(status.bytes_done)?;
            let rests = status.state == State::Paused && status.peer_count == 0;
            (rests && place.load()?.checkpoint.bytes_partial() == begun).then_some(())
        });
        torrent.resume().expect("it rests");
    }
    wait(&events, |event| *event == TorrentEvent::Finished);
    assert_eq!(fs::read(copy.join("file")).unwrap(), fs::read(place.data().join("file")).unwrap());
    let total = place.metainfo.geometry.total_len();
    let stats = wait_for("last status", || Some(status().stats).filter(|stats| stats.downloaded >= total));
    let asked_twice = stats.downloaded - total;
    assert!(asked_twice <= 3 * 64 * 16_384, "{asked_twice} bytes were fetched twice");
    assert_eq!((stats.hash_failures, stats.banned), (0, 0));
    leeching.shutdown(PATIENCE).expect("it stops");
    drop(seed);
    seeding.shutdown(PATIENCE).expect("it stops");
}

#[test]
fn names_folders_and_removal_are_followed_at_once() {
    let place = Place::new();
    // By time alone there would be none before the end.
    let session = session(CheckpointSettings { interval: Duration::from_secs(10_000), ..place.settings() });
    let events = session.events();
    let torrent = session.add_torrent(place.metainfo.clone(), place.options()).expect("added");
    wait(&events, |event| *event == TorrentEvent::Finished);
    torrent.rename_file(0, "other/name").expect("it runs");
    let renamed = wait_for("checkpoint with the name", || {
        let checkpoint = place.load()?.checkpoint;
        checkpoint.renames.first().map(|rename| rename.path.clone())
    });
    assert_eq!(renamed, Path::new("other/name"));
    let moved = place.folder.path().join("moved");
    torrent.move_storage(&moved, ccbt_fast::MoveOptions::default()).expect("it runs");
    wait_for("checkpoint with the folder", || (place.load()?.checkpoint.output == moved).then_some(()));
    assert!(session.checkpoints().expect("they are kept").dir().ends_with("state"));
    session.remove(&torrent, RemoveOptions::default());
    wait(&events, |event| *event == TorrentEvent::Removed);
    // Its files are there, and so is its checkpoint; the last one, written after they were closed, marks all of them.
    let is_last = |loaded: Loaded| loaded.checkpoint.files.iter().all(Option::is_some).then_some(());
    wait_for("last checkpoint", || place.load().and_then(is_last));
    let options = AddOptions { output: moved.clone(), ..place.options() };
    assert_eq!(options.resume.as_ref().expect("loaded").renames.len(), 1);
    let torrent = session.add_torrent(place.metainfo.clone(), options).expect("added again");
    assert!(!wait(&events, |event| *event == TorrentEvent::Finished), "under its name it is known");
    session.remove(&torrent, RemoveOptions { delete_data: true });
    wait(&events, |event| *event == TorrentEvent::Removed);
    wait_for("end of the checkpoint", || place.load().is_none().then_some(()));
    session.shutdown(PATIENCE).expect("it stops");
    assert!(place.load().is_none(), "and none is written afterwards");
}

#[test]
fn a_folder_that_cannot_be_made_is_told_once() {
    let place = Place::new();
    let dir = Some(place.data().join("file/below a file"));
    let settings = CheckpointSettings { dir, interval: Duration::from_millis(10), ..place.settings() };
    let session = session(settings);
    let events = session.events();
    session.add_torrent(place.metainfo.clone(), place.options()).expect("added");
    let is_told = |event: &TorrentEvent| matches!(event, TorrentEvent::Note(text) if text.contains("no checkpoint can"));
    wait(&events, is_told);
    session.shutdown(PATIENCE).expect("it stops");
    let again = std::iter::from_fn(|| events.recv());
    let more = again.filter(|event| matches!(event, SessionEvent::Torrent(_, event) if is_told(event)));
    assert_eq!(more.count(), 0);
}

/// A checkpoint of another torrent says nothing of this one: neither pieces nor sums nor peers.
#[test]
fn another_torrents_checkpoint_gives_nothing() {
    let place = Place::new();
    run_to_the_end(&place, place.settings());
    let own = place.load().expect("written").checkpoint;
    let other = Checkpoint {
        info_hash: InfoHash([7; 20]),
        totals: Totals { downloaded: 11, uploaded: 13 },
        added_at: 5,
        peers: vec!["192.0.2.1:7".parse().expect("an address")],
        ..own.clone()
    };
    for (resume, totals, added_at) in
        [(other, Totals::default(), None), (own.clone(), own.totals, Some(own.added_at))]
    {
        let session = session(place.settings());
        let events = session.events();
        let looks = added_at.is_none();
        let options = AddOptions { resume: Some(Box::new(resume)), ..place.options() };
        session.add_torrent(place.metainfo.clone(), options).expect("added");
        assert_eq!(wait(&events, |event| *event == TorrentEvent::Finished), looks);
        session.shutdown(PATIENCE).expect("it stops");
        let kept = place.load().expect("written").checkpoint;
        assert_eq!((kept.totals, kept.peers.len()), (totals, 0));
        assert!(kept.added_at >= own.added_at && added_at.is_none_or(|at| kept.added_at == at));
    }
}

/// Which files are wanted stays known, however the checkpoint was found.
#[test]
fn what_is_wanted_is_kept_from_run_to_run() {
    let place = Place::new();
    let run = |options: AddOptions| {
        let session = session(place.settings());
        let events = session.events();
        let torrent = session.add_torrent(place.metainfo.clone(), options).expect("added");
        wait(&events, |event| *event == TorrentEvent::Finished);
        let wanted = torrent.file_priorities();
        session.shutdown(PATIENCE).expect("it stops");
        assert_eq!(place.load().expect("written").checkpoint.file_priorities, wanted);
        wanted
    };
    let high = Some(vec![Priority::High]);
    assert_eq!(run(AddOptions { file_priorities: high, ..place.options() }), [Priority::High]);
    assert_eq!(run(AddOptions { resume: None, ..place.options() }), [Priority::High], "found by itself");
    assert_eq!(run(place.options()), [Priority::High]);
}

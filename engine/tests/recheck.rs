//! Looking again, going on after failures, and what is known of files: by the library's own API.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use ccbt_fast::hashing::create::{CreateOptions, create_torrent};
use ccbt_fast::{
    AddOptions, Events, Known, Metainfo, Received, RemoveOptions, Session, SessionEvent, Settings, State,
    TorrentEvent, TorrentHandle, WaitError,
};
use tempfile::TempDir;

/// Bounds a hang; never a measure of speed.
const PATIENCE: Duration = Duration::from_secs(30);
const PIECE: u32 = 32 * 1024;
/// Of the file in [`Data`].
const LEN: usize = 40 * PIECE as usize + 5;

/// A folder with one file, and its torrent.
struct Data {
    folder: TempDir,
    metainfo: Metainfo,
    bytes: Vec<u8>,
}

impl Data {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bytes: Vec<u8> = (0..LEN).map(|at| (at / 3 + at / 70_001) as u8).collect();
        fs::write(folder.path().join("file"), &bytes).expect("written");
        let options =
            CreateOptions { piece_len: Some(PIECE), ..CreateOptions::new(folder.path().join("file")) };
        let metainfo = create_torrent(options).expect("a torrent").metainfo;
        Self { folder, metainfo, bytes }
    }

    fn damage(&self, piece: u64) {
        let file = File::options().write(true).open(self.folder.path().join("file")).expect("there");
        let at = piece * u64::from(PIECE);
        file.write_all_at(&[self.bytes[at as usize] ^ 1], at).expect("written");
    }
}

fn session() -> Session {
    let settings = Settings {
        port: Some(0),
        bind: Some([127, 0, 0, 1].into()),
        memory_bytes: 32 << 20,
        ..Settings::default()
    };
    Session::start(&settings).expect("io_uring is there")
}

fn options(folder: &Path, known: Option<Known>) -> AddOptions {
    AddOptions { use_trackers: false, known, ..AddOptions::new(folder) }
}

/// Waits for an event that `wanted` makes something of.
fn wait<T>(events: &Events, what: &str, wanted: impl Fn(&TorrentEvent) -> Option<T>) -> T {
    loop {
        match events.recv_timeout(PATIENCE) {
            Received::Event(SessionEvent::Torrent(_, event)) => {
                if let Some(found) = wanted(&event) {
                    return found;
                }
            }
            Received::Event(_) => {}
            other => panic!("no {what}: {other:?}"),
        }
    }
}

fn wait_checked(events: &Events) -> (u32, u32) {
    wait(events, "check", |event| match event {
        TorrentEvent::Checked { good, total } => Some((*good, *total)),
        _ => None,
    })
}

fn wait_for(events: &Events, expected: &TorrentEvent) {
    wait(events, &format!("{expected:?}"), |event| (event == expected).then_some(()));
}

fn wait_state(torrent: &TorrentHandle, state: State) {
    let end = std::time::Instant::now() + PATIENCE;
    while torrent.status().is_none_or(|status| status.state != state) {
        assert!(std::time::Instant::now() < end, "not {state:?}: {:?}", torrent.status());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn damage_is_found_on_demand_and_mended_from_a_peer() {
    let (good, bad) = (Data::new(), Data::new());
    let (seed, ours) = (session(), session());
    let events = ours.events();
    seed.add_torrent(good.metainfo.clone(), options(good.folder.path(), None)).expect("new");
    let torrent = ours.add_torrent(bad.metainfo.clone(), options(bad.folder.path(), None)).expect("new");
    assert_eq!(wait_checked(&events), (41, 41));
    wait_for(&events, &TorrentEvent::Finished);
    bad.damage(7);
    bad.damage(40);
    torrent.recheck().expect("it runs");
    assert_eq!(wait_checked(&events), (39, 41));
    let snapshot = torrent.snapshot().expect("it runs");
    assert_eq!((snapshot.have.count(), snapshot.looked.count()), (39, 41));
    wait_state(&torrent, State::Downloading);
    ours.add_peers(&torrent, vec![([127, 0, 0, 1], seed.port()).into()]);
    wait_for(&events, &TorrentEvent::Finished);
    let caches = seed.caches();
    seed.shutdown(PATIENCE).expect("in time");
    assert_eq!(caches.stats().iter().map(|stats| stats.read_bytes).sum::<u64>(), u64::from(PIECE) + 5);
    assert!(fs::read(bad.folder.path().join("file")).expect("there") == bad.bytes);
    let snapshot = torrent.snapshot().expect("it runs");
    assert!(snapshot.have.is_full() && snapshot.durable.is_full());
    ours.shutdown(PATIENCE).expect("in time");
    assert!(torrent.snapshot().is_err() && torrent.recheck().is_err() && torrent.resume().is_err());
}

#[test]
fn what_one_session_knows_saves_the_next_one_the_work() {
    let data = Data::new();
    let known = {
        let session = session();
        let torrent =
            session.add_torrent(data.metainfo.clone(), options(data.folder.path(), None)).expect("new");
        torrent.wait_finished(Some(PATIENCE)).expect("all is there");
        torrent.snapshot().expect("it runs").known_durable()
    };
    // Damaged without a trace in length or time: only who looks can find it.
    let path = data.folder.path().join("file");
    let modified = path.metadata().and_then(|stat| stat.modified()).expect("there");
    data.damage(3);
    let file = File::options().write(true).open(&path).expect("there");
    file.set_modified(modified).expect("ours");
    let session = session();
    let events = session.events();
    let torrent = session
        .add_torrent(data.metainfo.clone(), options(data.folder.path(), Some(known.clone())))
        .expect("new");
    torrent.wait_finished(Some(PATIENCE)).expect("nobody looks");
    assert!(torrent.snapshot().expect("it runs").have.is_full());
    session.remove(&torrent, RemoveOptions::default());
    wait_for(&events, &TorrentEvent::Removed);
    file.set_modified(modified + Duration::from_nanos(1_000_000)).expect("ours");
    session.add_torrent(data.metainfo.clone(), options(data.folder.path(), Some(known))).expect("removed");
    assert_eq!(wait_checked(&events), (40, 41), "a file with another time is looked at");
}

#[test]
fn a_torrent_that_cannot_be_opened_goes_on_when_told_to() {
    let data = Data::new();
    let root = data.folder.path().join("root");
    fs::write(&root, b"in the way").expect("written");
    let session = session();
    let events = session.events();
    let torrent = session.add_torrent(data.metainfo.clone(), options(&root, None)).expect("new");
    let failed = torrent.wait_finished(Some(PATIENCE));
    assert!(matches!(&failed, Err(WaitError::Failed(message)) if message.contains("root")), "{failed:?}");
    wait_state(&torrent, State::Paused);
    fs::remove_file(&root).expect("ours");
    fs::create_dir(&root).expect("ours");
    fs::rename(data.folder.path().join("file"), root.join("file")).expect("ours");
    torrent.resume().expect("it is there");
    wait_for(&events, &TorrentEvent::Recovered);
    torrent.wait_finished(Some(PATIENCE)).expect("all is there");
}

#[test]
fn a_sparse_file_is_looked_at_where_it_has_data() {
    let data = Data::new();
    let path = data.folder.path().join("file");
    // Pieces 8 to 15 are data, all else is a hole.
    let (from, to) = (8 * PIECE as usize, 16 * PIECE as usize);
    let file = File::create(&path).expect("ours");
    file.set_len(LEN as u64).expect("ours");
    file.write_all_at(&data.bytes[from..to], from as u64).expect("written");
    file.sync_all().expect("written");
    let session = session();
    let events = session.events();
    let torrent = session.add_torrent(data.metainfo.clone(), options(data.folder.path(), None)).expect("new");
    assert_eq!(wait_checked(&events), (8, 41));
    assert_eq!(torrent.snapshot().expect("it runs").have.count(), 8);
}

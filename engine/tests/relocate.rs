//! Files moved, renamed, unshared and deleted under running torrents, by the library's own calls.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ccbt_fast::layout::Overrides;
use ccbt_fast::{
    AddOptions, Events, Metainfo, MoveOptions, Received, RemoveOptions, Session, SessionEvent, Settings,
    State, TorrentEvent, TorrentHandle,
};
use ccbt_protocol::metainfo::build::{Builder, InputFile};
use tempfile::TempDir;

const PIECE: u32 = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(60);
const FILES: [(&str, usize); 4] =
    [("one", 900_001), ("sub/two", 5 << 20), ("empty", 0), ("sub/deep/three", 70_000)];

fn content(index: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + (at >> 8) * 7 + (at >> 16) * 3 + index * 91) as u8).collect()
}

fn torrent() -> Arc<Metainfo> {
    let input = FILES.map(|(path, len)| InputFile {
        path: path.split('/').map(str::to_owned).collect(),
        len: len as u64,
        ..InputFile::default()
    });
    let plan = Builder::multi_file("t", input.into()).piece_len(PIECE).plan().expect("sensible sizes");
    let data: Vec<u8> = contents().concat();
    let hashes: Vec<_> = data.chunks(PIECE as usize).map(ccbt_storage::hash::sha1).collect();
    Arc::new(Metainfo::parse(&plan.finish(&hashes)).expect("what was built is read"))
}

/// The files' bytes in the torrent's order, which is the builder's.
fn contents() -> Vec<Vec<u8>> {
    let input = FILES.map(|(path, len)| InputFile {
        path: path.split('/').map(str::to_owned).collect(),
        len: len as u64,
        ..InputFile::default()
    });
    let plan = Builder::multi_file("t", input.into()).piece_len(PIECE).plan().expect("sensible sizes");
    let index = |path: &[String]| {
        FILES.iter().position(|(name, _)| *name == path[1..].join("/")).expect("a file of ours")
    };
    plan.files().iter().map(|file| index(&file.path)).map(|at| content(at, FILES[at].1)).collect()
}

fn write(metainfo: &Metainfo, dir: &Path) {
    for (file, bytes) in metainfo.files.iter().zip(contents()) {
        let path = dir.join(file.path.join("/"));
        fs::create_dir_all(path.parent().expect("it has one")).expect("writable");
        fs::write(path, bytes).expect("writable");
    }
}

fn assert_there(metainfo: &Metainfo, dir: &Path, renames: &[(u32, &str)]) {
    for (index, (file, bytes)) in metainfo.files.iter().zip(contents()).enumerate() {
        let renamed = renames.iter().find(|(at, _)| *at as usize == index);
        let path = dir.join(renamed.map_or(file.path.join("/"), |(_, path)| (*path).to_owned()));
        assert!(fs::read(&path).expect("it is there") == bytes, "{}", path.display());
    }
}

fn names(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().map(|entry| entry.expect("readable").path()).collect()
}

fn session(up_limit: u64) -> Session {
    let settings = Settings {
        layout: Overrides { shards: Some(1), ..Overrides::default() },
        port: Some(0),
        bind: Some([127, 0, 0, 1].into()),
        memory_bytes: 32 << 20,
        up_limit,
        ..Settings::default()
    };
    Session::start(&settings).expect("the engine starts here")
}

fn address(session: &Session) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, session.port()))
}

fn options(dir: &Path) -> AddOptions {
    AddOptions { use_trackers: false, ..AddOptions::new(dir) }
}

/// The next event for which `wanted` gives something, and all that came before.
fn wait<T>(events: &Events, mut wanted: impl FnMut(&TorrentEvent) -> Option<T>) -> (T, Vec<TorrentEvent>) {
    let until = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while Instant::now() < until {
        match events.recv_timeout(Duration::from_millis(50)) {
            Received::Event(SessionEvent::Torrent(_, event)) => {
                if let Some(found) = wanted(&event) {
                    return (found, seen);
                }
                seen.push(event);
            }
            Received::Event(_) | Received::TimedOut => {}
            Received::Ended => break,
        }
    }
    panic!("it did not come; seen: {seen:?}");
}

fn wait_for(events: &Events, wanted: &TorrentEvent) -> Vec<TorrentEvent> {
    wait(events, |event| (event == wanted).then_some(())).1
}

fn wait_status(torrent: &TorrentHandle, what: &str, wanted: impl Fn(State, u32, usize) -> bool) {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(status) = torrent.status()
            && wanted(status.state, status.pieces_done, status.peer_count)
        {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("no {what}; it is {:?}", torrent.status());
}

/// What a move that failed says.
fn failure(event: &TorrentEvent) -> Option<String> {
    match event {
        TorrentEvent::MoveFailed { message } => Some(message.clone()),
        _ => None,
    }
}

fn moved(dir: &Path) -> TorrentEvent {
    TorrentEvent::Moved { root: dir.to_owned(), left: Vec::new() }
}

/// Two folders, in two file systems where the machine has them.
fn two_folders() -> (TempDir, TempDir) {
    let here = tempfile::tempdir().expect("a temporary folder");
    let there = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("another one");
    (here, there)
}

fn stop(session: Session) {
    session.shutdown(Duration::from_secs(20)).expect("it stops in time");
}

#[test]
fn a_seed_moves_while_it_serves() {
    let (here, there) = two_folders();
    let metainfo = torrent();
    let (old, new, copy) = (here.path().join("old"), there.path().join("new"), here.path().join("copy"));
    write(&metainfo, &old);
    let (seed, leech) = (session(6 << 20), session(0));
    let events = seed.events();
    let seeding = seed.add_torrent(Arc::clone(&metainfo), options(&old)).expect("new");
    wait_for(&events, &TorrentEvent::Finished);
    let peers = vec![address(&seed)];
    let fetching =
        leech.add_torrent(Arc::clone(&metainfo), AddOptions { peers, ..options(&copy) }).expect("new");
    wait_status(&fetching, "first pieces", |_, pieces, _| pieces > 3);
    seeding.move_storage(&new, MoveOptions::default()).expect("it runs");
    let before = wait_for(&events, &moved(&new));
    assert!(before.iter().all(|event| !matches!(event, TorrentEvent::Checked { .. })), "{before:?}");
    assert_there(&metainfo, &new, &[]);
    assert!(names(&old).is_empty());
    fetching.wait_finished(Some(PATIENCE)).expect("served from the new place");
    assert_there(&metainfo, &copy, &[]);
    assert_eq!(seeding.status().expect("told").state, State::Seeding);
    stop(leech);
    stop(seed);
    assert_there(&metainfo, &new, &[]);
}

#[test]
fn a_download_moves_and_renames_on_its_way() {
    let (here, there) = two_folders();
    let metainfo = torrent();
    let (data, first, second) = (here.path().join("data"), here.path().join("first"), there.path().join("b"));
    write(&metainfo, &data);
    let (seed, leech) = (session(5 << 20), session(0));
    let _seeding = seed.add_torrent(Arc::clone(&metainfo), options(&data)).expect("new");
    let events = leech.events();
    let peers = vec![address(&seed)];
    let fetching =
        leech.add_torrent(Arc::clone(&metainfo), AddOptions { peers, ..options(&first) }).expect("new");
    wait_status(&fetching, "first pieces", |_, pieces, _| pieces > 3);
    fetching.move_storage(&second, MoveOptions::default()).expect("it runs");
    fetching.rename_file(1, "t/other/name").expect("it runs");
    fetching.rename_file(1, "../outside").expect("it runs");
    wait_for(&events, &moved(&second));
    wait_for(&events, &TorrentEvent::Renamed { file: 1, path: "t/other/name".into() });
    let message = wait(&events, failure).0;
    assert!(message.contains("outside"), "{message}");
    wait_status(&fetching, "more pieces", |_, pieces, _| pieces > 10);
    let third = here.path().join("third");
    fetching.move_storage(&third, MoveOptions::default()).expect("it runs");
    let before = wait_for(&events, &moved(&third));
    assert!(before.iter().all(|event| !matches!(event, TorrentEvent::Failed { .. })), "{before:?}");
    fetching.wait_finished(Some(PATIENCE)).expect("it goes on at the new place");
    assert_there(&metainfo, &third, &[(1, "t/other/name")]);
    assert!(names(&first).is_empty() && names(&second).is_empty());
    stop(leech);
    // The next time with the name it was given: everything is found.
    let renames = vec![(1, "t/other/name".into())];
    let leech = session(0);
    let again =
        leech.add_torrent(Arc::clone(&metainfo), AddOptions { renames, ..options(&third) }).expect("new");
    again.wait_finished(Some(PATIENCE)).expect("nothing is missing");
    stop(leech);
    stop(seed);
}

#[test]
fn a_move_that_fails_leaves_the_torrent_where_it_was() {
    let (here, there) = two_folders();
    let metainfo = torrent();
    write(&metainfo, here.path());
    let taken = there.path().join(metainfo.files[1].path.join("/"));
    fs::create_dir_all(taken.parent().expect("it has one")).expect("writable");
    fs::write(&taken, b"somebody's").expect("writable");
    let seed = session(0);
    let events = seed.events();
    let seeding = seed.add_torrent(Arc::clone(&metainfo), options(here.path())).expect("new");
    wait_for(&events, &TorrentEvent::Finished);
    seeding.move_storage(there.path(), MoveOptions::default()).expect("it runs");
    let message = wait(&events, failure).0;
    assert!(message.contains(taken.to_str().expect("plain")), "{message}");
    assert_there(&metainfo, here.path(), &[]);
    assert_eq!(fs::read(&taken).expect("it stays"), b"somebody's");
    wait_status(&seeding, "seeding again", |state, pieces, _| {
        state == State::Seeding && pieces == metainfo.geometry.piece_count()
    });
    seeding.move_storage(there.path(), MoveOptions { overwrite: true }).expect("it runs");
    wait_for(&events, &moved(there.path()));
    assert_there(&metainfo, there.path(), &[]);
    stop(seed);
}

/// A piece of a hard-linked file is damaged: it is fetched again into a file of our own.
#[test]
fn a_hard_linked_file_is_never_written_to() {
    let (here, _there) = two_folders();
    let metainfo = torrent();
    let (data, library, copy) =
        (here.path().join("data"), here.path().join("library"), here.path().join("copy"));
    write(&metainfo, &data);
    write(&metainfo, &copy);
    let biggest = metainfo.files.iter().position(|file| file.len == 5 << 20).expect("there is one");
    let ours = copy.join(metainfo.files[biggest].path.join("/"));
    let mut bytes = fs::read(&ours).expect("written");
    for at in [1 << 20, 2 << 20, 3 << 20] {
        bytes[at] ^= 1;
    }
    fs::write(&ours, &bytes).expect("writable");
    fs::hard_link(&ours, &library).expect("one file system");
    let (inode, changed) =
        fs::metadata(&library).map(|found| (found.ino(), found.mtime_nsec())).expect("there");

    let (seed, leech) = (session(0), session(0));
    let _seeding = seed.add_torrent(Arc::clone(&metainfo), options(&data)).expect("new");
    let peers = vec![address(&seed)];
    let fetching =
        leech.add_torrent(Arc::clone(&metainfo), AddOptions { peers, ..options(&copy) }).expect("new");
    fetching.wait_finished(Some(PATIENCE)).expect("it fetches what is damaged");
    stop(leech);
    stop(seed);
    assert_there(&metainfo, &copy, &[]);
    assert!(fs::read(&library).expect("it stays") == bytes, "the other name keeps its bytes");
    let library = fs::metadata(&library).expect("there");
    assert_eq!((library.ino(), library.mtime_nsec(), library.nlink()), (inode, changed, 1));
    assert_ne!(fs::metadata(&ours).expect("there").ino(), inode);
}

#[test]
fn removing_takes_the_data_along_when_asked_to() {
    let (here, there) = two_folders();
    let metainfo = torrent();
    let seed = session(0);
    let events = seed.events();
    for (delete_data, moves) in [(false, false), (true, false), (true, true)] {
        write(&metainfo, here.path());
        fs::write(here.path().join("stranger"), b"mine").expect("writable");
        let torrent =
            seed.add_torrent(Arc::clone(&metainfo), options(here.path())).expect("not there any more");
        wait_for(&events, &TorrentEvent::Finished);
        if moves {
            // Undone or completed, and then deleted wherever it is.
            torrent.move_storage(there.path(), MoveOptions::default()).expect("it runs");
        }
        seed.remove(&torrent, RemoveOptions { delete_data });
        let before = wait_for(&events, &TorrentEvent::Removed);
        let deleted = before.iter().find_map(|event| match event {
            TorrentEvent::Deleted { files, left, .. } => Some((*files, left.len())),
            _ => None,
        });
        assert_eq!(deleted, delete_data.then_some((4, 0)), "{before:?}");
        if delete_data {
            assert_eq!(names(here.path()), [here.path().join("stranger")]);
            assert!(names(there.path()).is_empty());
        } else {
            assert_there(&metainfo, here.path(), &[]);
        }
    }
    stop(seed);
}

#[test]
fn a_paused_torrent_rests_until_it_is_resumed() {
    let (here, there) = two_folders();
    let metainfo = torrent();
    write(&metainfo, here.path());
    let (seed, leech) = (session(4 << 20), session(0));
    let _seeding = seed.add_torrent(Arc::clone(&metainfo), options(here.path())).expect("new");
    let peers = vec![address(&seed)];
    let options = AddOptions { peers, paused: true, ..options(there.path()) };
    let fetching = leech.add_torrent(Arc::clone(&metainfo), options).expect("new");
    wait_status(&fetching, "rest from the start", |state, pieces, _| state == State::Paused && pieces == 0);
    fetching.resume().expect("it runs");
    wait_status(&fetching, "first pieces", |_, pieces, _| pieces > 3);
    fetching.pause().expect("it runs");
    wait_status(&fetching, "rest", |state, _, peers| state == State::Paused && peers == 0);
    assert!(fetching.status().expect("told").pieces_done < metainfo.geometry.piece_count());
    // It moves as well as any other.
    let new = here.path().join("new");
    let events = leech.events();
    fetching.move_storage(&new, MoveOptions::default()).expect("it runs");
    wait_for(&events, &moved(&new));
    leech.add_peers(&fetching, vec![address(&seed)]);
    fetching.resume().expect("it runs");
    fetching.wait_finished(Some(PATIENCE)).expect("it goes on");
    assert_there(&metainfo, &new, &[]);
    stop(leech);
    stop(seed);
}

//! Many torrents in one process, many connections on one torrent: nothing leaks, and limits hold.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ccbt_fast::hashing::create::{CreateOptions, create_torrent};
use ccbt_fast::layout::Overrides;
use ccbt_fast::{
    AddOptions, Metainfo, Received, Session, SessionEvent, Settings, State, TorrentEvent, TorrentHandle,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

/// Bounds a hang; never a measure of speed.
const PATIENCE: Duration = Duration::from_secs(30);

/// One at a time: descriptors are counted for the whole process.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })
        .expect("a limit can be raised to its maximum");
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// With a shard per core unless said otherwise.
fn session(max_connections: usize, shards: Option<usize>) -> Session {
    let settings = Settings {
        port: Some(0),
        bind: Some([127, 0, 0, 1].into()),
        memory_bytes: 32 << 20,
        max_connections,
        layout: Overrides { shards, ..Overrides::default() },
        ..Settings::default()
    };
    Session::start(&settings).expect("io_uring is there")
}

fn seed(folder: &Path, max_peers: usize) -> AddOptions {
    AddOptions { use_trackers: false, seed_only: true, max_peers, ..AddOptions::new(folder) }
}

/// A file of its own for each number.
fn publish(folder: &Path, nth: usize) -> (Metainfo, Vec<u8>) {
    let bytes: Vec<u8> = (0..20_000 + nth).map(|at| (at / 3 + nth * 7 + at * nth) as u8).collect();
    let path = folder.join(format!("file-{nth}"));
    fs::write(&path, &bytes).expect("written");
    let options = CreateOptions { piece_len: Some(16 * 1024), ..CreateOptions::new(path) };
    (create_torrent(options).expect("a torrent").metainfo, bytes)
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn wait_seeding(torrent: &TorrentHandle) {
    let seeds = || torrent.status().is_some_and(|status| status.state == State::Seeding);
    wait_until("seeding", seeds);
}

#[test]
fn one_of_three_hundred_torrents_is_downloaded() {
    const TORRENTS: usize = 300;
    const WANTED: usize = 217;
    let _turn = turn();
    let folder = TempDir::new().expect("a temporary folder");
    let all: Vec<_> = (0..TORRENTS).map(|nth| publish(folder.path(), nth)).collect();
    let seeder = session(100, None);
    let events = seeder.events();
    for (metainfo, _) in &all {
        seeder.add_torrent(metainfo.clone(), seed(folder.path(), 10)).expect("new");
    }
    let mut finished = 0;
    while finished < TORRENTS {
        match events.recv_timeout(PATIENCE) {
            Received::Event(SessionEvent::Torrent(_, TorrentEvent::Finished)) => finished += 1,
            Received::Event(SessionEvent::Torrent(_, TorrentEvent::Failed { message, .. })) => {
                panic!("{message}")
            }
            Received::Event(_) => {}
            other => panic!("{finished} of {TORRENTS} seed: {other:?}"),
        }
    }
    assert_eq!(seeder.torrents().len(), TORRENTS);
    let leecher = session(100, None);
    let target = TempDir::new().expect("a temporary folder");
    let (metainfo, bytes) = &all[WANTED];
    let peers = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, seeder.port()))];
    let options = AddOptions { use_trackers: false, peers, ..AddOptions::new(target.path()) };
    let torrent = leecher.add_torrent(metainfo.clone(), options).expect("new");
    torrent.wait_finished(Some(PATIENCE)).expect("downloaded");
    assert_eq!(&fs::read(target.path().join(format!("file-{WANTED}"))).expect("there"), bytes);
    // All others rest; the one that was served says so although nobody asks it to.
    let key = seeder.torrents()[WANTED].key();
    wait_until("the upload in the status", || {
        seeder.status().iter().any(|status| status.key == key && status.stats.uploaded >= bytes.len() as u64)
    });
}

/// A connection through its handshake with `torrent` on `port`; `None` when it is closed instead.
fn connect(port: u16, torrent: &TorrentHandle, nth: usize) -> Option<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut hello = [&b"\x13BitTorrent protocol"[..], &[0; 8], &torrent.info_hash().0].concat();
    hello.extend(format!("-XX0001-{nth:012}").bytes());
    stream.write_all(&hello).ok()?;
    let mut answer = [0; 68];
    stream.read_exact(&mut answer).ok()?;
    assert_eq!(answer[28..48], torrent.info_hash().0);
    Some(stream)
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("procfs").count()
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    const CONNECTIONS: usize = 1000;
    let _turn = turn();
    let folder = TempDir::new().expect("a temporary folder");
    let (metainfo, _) = publish(folder.path(), 1);
    let session = session(CONNECTIONS, None);
    let torrent = session.add_torrent(metainfo, seed(folder.path(), 2 * CONNECTIONS)).expect("new");
    wait_seeding(&torrent);
    let peers = || torrent.status().map_or(0, |status| status.peer_count);
    let before = descriptors();
    // The second round finds no room if the first has left anything.
    for round in 0..2 {
        let all: Vec<TcpStream> = (0..CONNECTIONS)
            .map(|nth| connect(session.port(), &torrent, nth).expect("there is room"))
            .collect();
        wait_until("all peers in the status", || peers() == CONNECTIONS);
        assert!(descriptors() >= before + 2 * CONNECTIONS, "round {round}");
        assert!(connect(session.port(), &torrent, CONNECTIONS).is_none(), "all shards together have no room");
        drop(all);
        wait_until("no peer in the status", || peers() == 0);
    }
    wait_until("all descriptors closed", || descriptors() <= before);
}

#[test]
fn the_sessions_and_the_torrents_limits_hold() {
    let _turn = turn();
    let folder = TempDir::new().expect("a temporary folder");
    let (first, second) = (publish(folder.path(), 1).0, publish(folder.path(), 2).0);
    let session = session(5, Some(1));
    let few = session.add_torrent(first, seed(folder.path(), 2)).expect("new");
    let many = session.add_torrent(second, seed(folder.path(), 100)).expect("new");
    wait_seeding(&few);
    wait_seeding(&many);
    let connect = |torrent, nth| connect(session.port(), torrent, nth);
    let mut open: Vec<TcpStream> = (0..2).map(|nth| connect(&few, nth).expect("there is room")).collect();
    assert!(connect(&few, 2).is_none(), "two are the torrent's limit");
    // A refused connection counts until it is closed on both sides.
    for nth in 0..3 {
        let mut found = None;
        wait_until("room", || {
            found = connect(&many, nth);
            found.is_some()
        });
        open.extend(found);
    }
    // Shards that accept at the same moment may exceed the limit by one each; nobody connects at the same moment here.
    assert!(connect(&many, 3).is_none(), "five are the session's limit");
    open.pop();
    wait_until("room again", || connect(&many, 4).is_some());
}

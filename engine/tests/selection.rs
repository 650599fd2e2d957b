//! Files that are wanted or not, by the library's own calls.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ccbt_fast::checkpoints::{CheckpointSettings, Store};
use ccbt_fast::layout::Overrides;
use ccbt_fast::{
    AddOptions, Events, Metainfo, Priority, Received, Session, SessionEvent, Settings, TorrentEvent,
    TorrentHandle, TorrentStatus,
};
use ccbt_protocol::metainfo::build::{Builder, InputFile};
use tempfile::TempDir;

const PIECE: u32 = 64 << 10;
/// Bounds a hang; never a measure of speed.
const PATIENCE: Duration = Duration::from_secs(60);
/// `a` and `b` share a piece, and so do `b` and `c`; `d` shares one with `c` alone.
const FILES: [(&str, usize); 5] =
    [("a", 900_001), ("b", 2_000_000), ("c", 3_000_003), ("d", 700_000), ("empty", 0)];
use Priority::{High, Normal, Skip};

fn content(index: usize) -> Vec<u8> {
    (0..FILES[index].1).map(|at| (at * 31 + (at >> 8) * 7 + (at >> 16) * 3 + index * 91) as u8).collect()
}

struct Place {
    folder: TempDir,
    meta: Arc<Metainfo>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let input = FILES.map(|(path, len)| InputFile {
            path: vec![path.to_owned()],
            len: len as u64,
            ..InputFile::default()
        });
        let plan = Builder::multi_file("t", input.into()).piece_len(PIECE).plan().expect("sensible sizes");
        fs::create_dir_all(folder.path().join("data/t")).expect("made");
        let mut all = Vec::new();
        for (index, (name, _)) in FILES.iter().enumerate() {
            fs::write(folder.path().join("data/t").join(name), content(index)).expect("written");
            all.extend(content(index));
        }
        let hashes: Vec<_> = all.chunks(PIECE as usize).map(ccbt_storage::hash::sha1).collect();
        let meta = Metainfo::parse(&plan.finish(&hashes)).expect("what was built is read");
        assert!(meta.files.iter().map(|file| file.path[1].as_str()).eq(FILES.map(|(name, _)| name)));
        Self { folder, meta: Arc::new(meta) }
    }

    fn seed(&self) -> (Session, SocketAddr) {
        let session = start(1, None);
        let seed = AddOptions {
            seed_only: true,
            use_trackers: false,
            ..AddOptions::new(self.folder.path().join("data"))
        };
        session.add_torrent(self.meta.clone(), seed).expect("added");
        let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), session.port());
        (session, addr)
    }

    fn options(&self, peer: SocketAddr, files: Option<Vec<Priority>>) -> AddOptions {
        let peers = vec![peer];
        let output = self.folder.path().join("copy");
        AddOptions { use_trackers: false, peers, file_priorities: files, ..AddOptions::new(output) }
    }

    /// Which files are there as they should be; others must be there in part or not at all.
    fn whole(&self) -> Vec<bool> {
        let read = |name: &str| fs::read(self.folder.path().join("copy/t").join(name)).ok();
        FILES.iter().enumerate().map(|(at, (name, _))| read(name) == Some(content(at))).collect()
    }

    fn exists(&self, name: &str) -> bool {
        self.folder.path().join("copy/t").join(name).exists()
    }
}

fn start(shards: usize, state: Option<&Path>) -> Session {
    let dir = state.map(Path::to_owned);
    let settings = Settings {
        port: Some(0),
        bind: Some(Ipv4Addr::LOCALHOST.into()),
        memory_bytes: 32 << 20,
        layout: Overrides { shards: Some(shards), ..Overrides::default() },
        checkpoints: CheckpointSettings { dir, ..CheckpointSettings::default() },
        ..Settings::default()
    };
    Session::start(&settings).expect("io_uring is there")
}

fn wait(events: &Events, wanted: &TorrentEvent) {
    loop {
        match events.recv_timeout(PATIENCE) {
            Received::Event(SessionEvent::Torrent(_, event)) if event == *wanted => return,
            Received::Event(_) => {}
            other => panic!("no {wanted:?}: {other:?}"),
        }
    }
}

/// The status once it says that nothing is left, and that so many bytes have come.
fn settled(torrent: &TorrentHandle, downloaded: u64) -> Arc<TorrentStatus> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = torrent.status()
            && status.bytes_left == 0
            && status.stats.downloaded >= downloaded
        {
            return status;
        }
        assert!(Instant::now() < end, "{:?}", torrent.status());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Several shards too: satellites hear what is wanted.
#[test]
fn only_what_is_wanted_is_fetched_and_more_on_demand() {
    for shards in [1, 3] {
        let place = Place::new();
        let (seed, addr) = place.seed();
        let session = start(shards, None);
        let events = session.events();
        let options = place.options(addr, Some(vec![Skip, Normal, Skip, Skip]));
        let torrent = session.add_torrent(place.meta.clone(), options).expect("added");
        torrent.wait_finished(Some(PATIENCE)).expect("b is there");
        wait(&events, &TorrentEvent::Finished);
        assert_eq!(place.whole(), [false, true, false, false, true], "{shards} shards");
        assert!(place.exists("a") && place.exists("c"), "a piece of b reaches into them");
        assert!(!place.exists("d"), "nothing of it was ever needed");
        let b_pieces = 2_900_001_u64.div_ceil(PIECE.into()) - 900_001 / u64::from(PIECE);
        let status = settled(&torrent, b_pieces * u64::from(PIECE));
        assert_eq!(status.bytes_wanted, b_pieces * u64::from(PIECE));
        assert_eq!(status.bytes_total, place.meta.geometry.total_len());

        torrent.set_file_priorities(vec![Skip, Skip, Skip, High]).expect("it lives");
        torrent.wait_finished(Some(PATIENCE)).expect("d is there");
        assert_eq!(place.whole(), [false, true, false, true, true]);
        assert_eq!(torrent.file_priorities(), [Skip, Skip, Skip, High]);

        torrent.set_file_priorities(Vec::new()).expect("it lives");
        torrent.wait_finished(Some(PATIENCE)).expect("all is there");
        assert_eq!(place.whole(), [true; 5]);
        let total = place.meta.geometry.total_len();
        let status = settled(&torrent, total);
        assert_eq!(status.stats.downloaded, total, "and nothing was fetched twice");
        session.shutdown(PATIENCE).expect("it stops");
        seed.shutdown(PATIENCE).expect("it stops");
    }
}

#[test]
fn what_is_deselected_finishes_a_download_that_waits_for_it() {
    let place = Place::new();
    let session = start(1, None);
    let events = session.events();
    // Nobody has anything.
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let torrent = session.add_torrent(place.meta.clone(), place.options(nobody, None)).expect("added");
    torrent.set_file_priorities(vec![Skip; 4]).expect("it lives");
    wait(&events, &TorrentEvent::Selected);
    wait(&events, &TorrentEvent::Finished);
    torrent.set_file_priorities(vec![Skip; 4]).expect("it lives");
    torrent.wait_finished(Some(PATIENCE)).expect("still");
    torrent.set_file_priorities(vec![Normal; 4]).expect("it lives");
    wait(&events, &TorrentEvent::Selected);
    assert!(torrent.wait_finished(Some(Duration::ZERO)).is_err(), "files are missing again");
    session.shutdown(PATIENCE).expect("it stops");
}

#[test]
fn a_checkpoint_keeps_what_is_wanted_and_another_choice_goes_on() {
    let place = Place::new();
    let (seed, addr) = place.seed();
    let state = place.folder.path().join("state");
    let run = |files: Option<Vec<Priority>>| {
        let session = start(1, Some(&state));
        let resume = Store::new(state.clone()).load(place.meta.info_hash).ok();
        let resume = resume.map(|loaded| Box::new(loaded.checkpoint));
        let options = AddOptions { resume, ..place.options(addr, files) };
        let torrent = session.add_torrent(place.meta.clone(), options).expect("added");
        torrent.wait_finished(Some(PATIENCE)).expect("finished");
        let downloaded = settled(&torrent, 0).stats.downloaded;
        session.shutdown(PATIENCE).expect("it stops");
        downloaded
    };
    let first = run(Some(vec![Normal, Skip, Skip, Skip]));
    assert_eq!(place.whole(), [true, false, false, false, true]);
    let kept = Store::new(state.clone()).load(place.meta.info_hash).expect("written").checkpoint;
    assert_eq!(kept.file_priorities, [Normal, Skip, Skip, Skip]);
    assert!(!kept.is_complete());
    assert_eq!(run(None), 0, "the same is wanted, and it is there");
    assert_eq!(place.whole(), [true, false, false, false, true]);
    let second = run(Some(vec![Skip, Skip, High, Normal]));
    assert_eq!(place.whole(), [true, false, true, true, true]);
    let third = run(Some(Vec::new()));
    assert_eq!(place.whole(), [true; 5]);
    assert_eq!(first + second + third, place.meta.geometry.total_len(), "no byte came twice");
    seed.shutdown(PATIENCE).expect("it stops");
}

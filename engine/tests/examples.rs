//! Every example does what it says, with a seed of this process on the loopback interface.

use std::fs;
use std::io::Cursor;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ccbt_fast::checkpoints::{CheckpointSettings, Store};
use ccbt_fast::hashing::create::{CreateOptions, create_torrent};
use ccbt_fast::{AddOptions, InfoHash, Session, Settings, Strategy};
use tempfile::TempDir;

// Of each example all but `main` is called here: hence the lints about `main`.
#[path = "../examples/advanced_configuration.rs"]
#[allow(dead_code)]
mod advanced_configuration;
#[path = "../examples/basic_download.rs"]
#[allow(dead_code)]
mod basic_download;
#[path = "../examples/checkpoint_management.rs"]
#[allow(dead_code)]
mod checkpoint_management;
#[path = "../examples/interactive_resume.rs"]
#[allow(dead_code)]
mod interactive_resume;
#[path = "../examples/resume.rs"]
#[allow(dead_code)]
mod resume;

/// Bounds a hang; never a measure of speed.
const PATIENCE: Duration = Duration::from_secs(30);
const PIECE: usize = 32 * 1024;

fn settings() -> Settings {
    Settings {
        port: Some(0),
        bind: Some([127, 0, 0, 1].into()),
        memory_bytes: 32 << 20,
        ..Settings::default()
    }
}

/// Two files `a` and `b`, their torrents, and a session that seeds both.
struct Place {
    folder: TempDir,
    seed: Session,
    hashes: [InfoHash; 2],
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let seed = Session::start(&settings()).expect("io_uring is there");
        let hashes = ["a", "b"].map(|name| {
            let data = folder.path().join(name);
            let bytes: Vec<u8> = (0..10 * PIECE)
                .map(|at| (at / 5 + at / 70_001 + name.len()) as u8 ^ name.as_bytes()[0])
                .collect();
            fs::write(&data, bytes).expect("written");
            let options = CreateOptions { piece_len: Some(PIECE as u32), ..CreateOptions::new(data) };
            let made = create_torrent(options).expect("a torrent");
            fs::write(folder.path().join(format!("{name}.torrent")), &made.bytes).expect("written");
            let options = AddOptions { seed_only: true, ..AddOptions::new(folder.path()) };
            let torrent = seed.add_torrent(made.metainfo, options).expect("added");
            torrent.wait_finished(Some(PATIENCE)).expect("it is all there");
            torrent.info_hash()
        });
        Self { folder, seed, hashes }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn peers(&self) -> Vec<SocketAddr> {
        vec![SocketAddr::from(([127, 0, 0, 1], self.seed.port()))]
    }

    fn assert_copied(&self, name: &str) {
        let (copy, data) = (self.path("copy").join(name), self.path(name));
        assert!(fs::read(copy).expect("downloaded") == fs::read(data).expect("there"), "{name} differs");
    }

    /// A checkpoint of `a`, of which nothing is there yet.
    fn begin_a(&self) {
        let checkpoints =
            CheckpointSettings { dir: Some(self.path("state")), ..CheckpointSettings::default() };
        let session = Session::new(Settings { checkpoints, ..settings() }).expect("io_uring is there");
        let source = Some(self.path("a.torrent"));
        let options = AddOptions { source, ..AddOptions::new(self.path("copy")) };
        session.add_torrent(self.path("a.torrent"), options).expect("added");
        let started = std::time::Instant::now();
        while self.store().load(self.hashes[0]).is_err() {
            assert!(started.elapsed() < PATIENCE, "no checkpoint");
            std::thread::sleep(Duration::from_millis(10));
        }
        session.stop().expect("it stops");
    }

    fn store(&self) -> Store {
        Store::new(self.path("state"))
    }
}

#[test]
fn basic_download_downloads() {
    let place = Place::new();
    basic_download::run(settings(), &place.path("a.torrent"), &place.path("copy"), place.peers())
        .expect("it runs");
    place.assert_copied("a");
}

#[test]
fn advanced_configuration_sets_by_hand_what_a_file_sets() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let text = "[network]\nmax_global_peers = 100\npipeline_depth_min = 32\n\
                [strategy]\npiece_selection = \"rarest_first\"\nendgame_duplicates = 3\n";
    fs::write(file.path(), text).expect("written");
    let ways = [
        advanced_configuration::by_hand(),
        advanced_configuration::from_file(file.path()).expect("it is well-formed"),
    ];
    for (settings, options) in ways {
        assert_eq!((settings.max_connections, settings.window.floor), (100, 32));
        assert_eq!((options.picker.strategy, options.picker.endgame_duplicates), (Strategy::RarestFirst, 3));
    }
    assert!(advanced_configuration::from_file(Path::new("/nonexistent")).is_err());
}

#[test]
fn resume_goes_on_and_adds_another() {
    let place = Place::new();
    place.begin_a();
    let run = || {
        resume::run(
            settings(),
            &place.path("state"),
            &place.path("b.torrent"),
            &place.path("copy"),
            place.peers(),
        )
    };
    assert_eq!(run().expect("it runs"), Some(place.hashes[0]));
    place.assert_copied("a");
    place.assert_copied("b");
    for hash in place.hashes {
        assert!(place.store().load(hash).expect("kept").checkpoint.is_complete());
    }
}

#[test]
fn interactive_resume_goes_on_with_the_chosen_one() {
    let place = Place::new();
    let run = |answer: &str| {
        let mut answers = Cursor::new(answer.to_owned());
        interactive_resume::run(settings(), &place.path("state"), place.peers(), &mut answers)
    };
    assert_eq!(run("1\n").expect("there is nothing to ask"), None);
    place.begin_a();
    assert!(run("2\n").is_err(), "there is one only");
    assert_eq!(run("1\n").expect("it runs"), Some(place.hashes[0]));
    place.assert_copied("a");
}

#[test]
fn checkpoint_management_cleans_and_deletes() {
    let place = Place::new();
    place.begin_a();
    let store = place.store();
    // As if of another torrent, long ago.
    let old = InfoHash([9; 20]);
    fs::copy(store.path(place.hashes[0]), store.path(old)).expect("copied");
    let file = fs::File::options().write(true).open(store.path(old)).expect("there");
    file.set_modified(SystemTime::now() - Duration::from_secs(8 * 86_400)).expect("set");
    assert_eq!(checkpoint_management::run(&place.path("state")).expect("it runs"), (1, 1));
    assert!(store.list().expect("listed").is_empty());
}

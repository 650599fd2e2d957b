//! Checkpoints of seeds, of renamed files, and as keys of the configuration say.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use ccbt_tests::ccbt::{Ccbt, CcbtCommand, ccbt};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::Payload;
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A lab with a torrent and its data, a folder for a copy, and one for checkpoints.
struct Place {
    made: Published,
    copy: PathBuf,
    store: PathBuf,
    lab: Lab,
}

impl Place {
    fn new(payload: Payload) -> Self {
        let lab = Lab::open_on_disk();
        let made = lab.publish(payload, TorrentSpec::pieces_of(64 * KIB));
        let (copy, store) = (lab.dir("copy"), lab.dir("state").join("checkpoints"));
        Self { made, copy, store, lab }
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.store.join(format!("{}.{ending}", self.made.torrent.info_hash_hex()))
    }
}

fn seeder(last: u8, made: &Published) -> RawSeeder {
    RawSeeder::start(Ipv4Addr::new(127, 0, 32, last), made, Manner::default())
}

/// Bytes that a run has read from disks.
fn read_bytes(ours: &Ccbt) -> u64 {
    let stopped = ours.events("stopped").pop().expect("the last event");
    let disks = stopped["disks"].as_array().expect("a list").clone();
    disks.iter().map(|disk| disk["read_bytes"].as_u64().expect("a number of bytes")).sum()
}

#[test]
fn a_seed_hashes_at_its_first_start_only() {
    let place = Place::new(Payload::straddling("tree", 6 * MIB));
    for file in 0..place.made.payload.files().count() {
        let file = File::options().write(true).open(place.made.payload.path_of(file, &place.made.data));
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(1000);
        file.expect("it is there").set_modified(long_ago).expect("it is ours");
    }
    let seed =
        || CcbtCommand::seed(&place.made.torrent_path, &place.made.data).checkpoints(&place.store).start();
    let mut first = seed();
    first.wait_event("seeding");
    first.stop();
    assert!(read_bytes(&first) > 0 && first.events("resumed").is_empty());
    let mut second = seed();
    second.wait_event("resumed");
    second.wait_event("seeding");
    // And what it says is true.
    let copy = CcbtCommand::download(&place.made.torrent_path, &place.copy).peer(second.address());
    copy.start().wait_done();
    place.made.payload.assert_equal_in(&place.copy);
    second.stop();
    assert!(second.events("checked").is_empty(), "nothing was looked at");
    // A checkpoint of files elsewhere is left alone.
    let before = fs::read(place.file("ckpt")).expect("it is there");
    let elsewhere = CcbtCommand::seed(&place.made.torrent_path, &place.copy).checkpoints(&place.store);
    let mut other = elsewhere.start();
    other.wait_event("checked");
    other.wait_event("seeding");
    other.stop();
    assert!(other.events("resumed").is_empty());
    assert_eq!(fs::read(place.file("ckpt")).expect("it is there"), before);
}

#[test]
fn verify_knows_the_names_that_a_checkpoint_remembers() {
    let place = Place::new(Payload::straddling("tree", 6 * MIB));
    let seeder = seeder(12, &place.made);
    CcbtCommand::download(&place.made.torrent_path, &place.copy)
        .peer(seeder.address())
        .checkpoints(&place.store)
        .option("--rename", "0=elsewhere/first.bin")
        .start()
        .wait_done();
    let verify = |more: &[&str]| {
        let torrent = place.made.torrent_path.to_str().expect("plain");
        let copy = place.copy.to_str().expect("plain");
        ccbt([&["verify", torrent, "--output", copy, "--json"], more].concat())
    };
    let store = place.store.to_str().expect("plain");
    let (code, report, _) = verify(&["--checkpoint-dir", store]);
    assert!(code == 0 && report.contains("elsewhere/first.bin"), "{code}: {report}");
    let nowhere = place.copy.to_str().expect("plain");
    let (code, report, _) = verify(&["--checkpoint-dir", nowhere]);
    assert!(code == 1 && report.contains("\"missing\""), "{code}: {report}");
    let by_hand = ["--checkpoint-dir", nowhere, "--rename", "0=elsewhere/first.bin"];
    assert_eq!(verify(&by_hand).0, 0);
    let (code, _, stderr) = verify(&["--rename", "0=../x"]);
    assert!(code == 2 && stderr.contains("../x"), "{code}: {stderr}");
    // Names of files in another folder say nothing about this one.
    let other = place.lab.dir("other");
    fs::rename(place.copy.join("elsewhere/first.bin"), place.made.payload.path_of(0, &place.copy)).unwrap();
    fs::rename(&place.copy, other.join("moved")).unwrap();
    let (torrent, moved) = (place.made.torrent_path.to_str().unwrap(), other.join("moved"));
    let moved = moved.to_str().expect("plain");
    assert_eq!(ccbt(["verify", torrent, "--output", moved, "--checkpoint-dir", store]).0, 0);
}

#[test]
fn keys_of_a_file_say_where_and_how_checkpoints_are_kept() {
    let place = Place::new(Payload::single("a.bin", 2 * MIB));
    let seeder = seeder(13, &place.made);
    let file = place.lab.dir("config").join("ccbt.toml");
    let run = |text: &str, more: &[&str]| {
        fs::write(&file, format!("[disk]\ncheckpoint_dir = {:?}\n{text}", place.store)).expect("writable");
        let [torrent, copy] =
            [&place.made.torrent_path, &place.copy].map(|path| path.to_str().expect("plain"));
        let (peer, file) = (seeder.address().to_string(), file.to_str().expect("plain"));
        let own = ["--config", file, "--no-tracker", "--bind", "127.0.0.1", "--port", "0", "--json"];
        let args = [&["download", torrent, "--output", copy, "--peer", &peer], &own[..], more].concat();
        let (code, stdout, stderr) = ccbt(args);
        assert_eq!(code, 0, "{stderr}");
        stdout
    };
    let first = run("checkpoint_format = \"json\"\n", &[]);
    assert!(!first.contains("\"resumed\""), "{first}");
    assert!(fs::read(place.file("ckpt")).expect("written").starts_with(b"{"));
    assert!(run("", &[]).contains("\"resumed\""));
    let asked_not_to = run("auto_resume = false\n", &[]);
    assert!(!asked_not_to.contains("\"resumed\"") && asked_not_to.contains("auto_resume"), "{asked_not_to}");
    assert!(run("auto_resume = false\n", &["--resume"]).contains("\"resumed\""), "an option counts more");
    let list = ["checkpoints", "list", "--json", "--config", file.to_str().expect("plain")];
    let hash = place.made.torrent.info_hash_hex();
    assert!(ccbt(list).1.contains(&hash));
    assert!(ccbt(["checkpoints", "--config", list[4], "list", "--json"]).1.contains(&hash));
    let off = run("checkpoint_enabled = false\n", &[]);
    assert!(!off.contains("\"resumed\""), "{off}");
    run("auto_delete_checkpoint_on_complete = true\n", &[]);
    assert!(!place.file("ckpt").exists());
}

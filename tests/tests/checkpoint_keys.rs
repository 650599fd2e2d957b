//! Checkpoints of seeds, of renamed files, and as keys of the configuration say.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::time::Duration;

use ccbt_tests::ccbt::{CcbtCommand, ccbt};
use ccbt_tests::lab::Published;
use ccbt_tests::payload::Payload;
use ccbt_tests::place::{Place, read_bytes};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn seeder(last: u8, made: &Published) -> RawSeeder {
    RawSeeder::start(Ipv4Addr::new(127, 0, 32, last), made, Manner::default())
}

#[test]
fn a_seed_hashes_at_its_first_start_only() {
    let place = Place::published(Payload::straddling("tree", 6 * MIB), 64 * KIB);
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
    let place = Place::published(Payload::straddling("tree", 6 * MIB), 64 * KIB);
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
    let place = Place::published(Payload::single("a.bin", 2 * MIB), 64 * KIB);
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

#[test]
fn move_and_delete_know_the_names_that_a_checkpoint_remembers() {
    let place = Place::published(Payload::straddling("tree", 6 * MIB), 64 * KIB);
    let seeder = seeder(14, &place.made);
    let download = place.download(&seeder).option("--rename", "0=elsewhere/first.bin");
    download.start().wait_done();
    let plain = |path: &std::path::Path| path.to_str().expect("plain").to_owned();
    let (torrent, copy, store) = (plain(&place.made.torrent_path), plain(&place.copy), plain(&place.store));
    let moved = place.lab.path().join("moved");
    let there = plain(&moved);
    let args = ["move", &torrent, "--from", &copy, "--to", &there, "--checkpoint-dir", &store, "--json"];
    let (code, report, stderr) = ccbt(args);
    assert!(code == 0 && report.contains("\"missing\":0"), "{report}{stderr}");
    assert!(moved.join("elsewhere/first.bin").exists());
    // The checkpoint has gone with them: nothing is hashed.
    let hash = place.made.torrent.info_hash_hex();
    assert_eq!(place.checkpoints(&["show", &hash]).1["output"], there);
    let mut again = CcbtCommand::resume(&hash, &place.store).peer(seeder.address()).start();
    again.wait_done();
    assert_eq!((again.events("checked").len(), read_bytes(&again)), (0, 0));
    let delete = ["delete", &torrent, "--dir", &there, "--checkpoint-dir", &store, "--yes", "--json"];
    let (code, report, stderr) = ccbt(delete);
    assert_eq!(code, 0, "{report}{stderr}");
    assert!(!moved.join("elsewhere").exists(), "also what has another name");
    let (code, _, stderr) = ccbt(["move", &hash, "--to", &there, "--checkpoint-dir", &store]);
    assert!(code == 2 && stderr.contains("--from"), "{code}: {stderr}");
}

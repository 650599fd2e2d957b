//! `--files` and `--file-priority` of `download` and of the daemon: what is fetched, what lies on disk, and what is said
//! about mistakes.

use std::fs;
use std::net::Ipv4Addr;

use ccbt_tests::PATIENCE;
use ccbt_tests::ccbt::{CcbtCommand, ccbt};
use ccbt_tests::daemon::{Daemon, DaemonCommand, base64};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::{Payload, files_below};
use ccbt_tests::process::wait_until;
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;
use serde_json::{Value, json};

const MIB: usize = 1 << 20;
const PIECE: usize = 32 << 10;
const FILES: [(&str, usize); 4] = [
    ("one.bin", 10 * PIECE),
    ("two.txt", 5 * PIECE + 1),
    ("sub/three.bin", 3 * PIECE),
    ("sub/four.txt", PIECE),
];

fn lab() -> (Lab, Published, RawSeeder) {
    let lab = Lab::open();
    let made = lab.publish(Payload::tree("tree", &FILES), TorrentSpec::pieces_of(PIECE));
    let seeder = RawSeeder::start(Ipv4Addr::new(127, 0, 77, 1), &made, Manner::default());
    (lab, made, seeder)
}

#[test]
fn only_the_named_files_are_fetched() {
    let (lab, made, seeder) = lab();
    let copy = lab.dir("copy");
    let command = || CcbtCommand::download(&made.torrent_path, &copy).peer(seeder.address());
    command().option("--files", "0").start().wait_done();
    assert_eq!(fs::read(copy.join("tree/one.bin")).unwrap(), *made.payload.files().next().unwrap().bytes);
    assert_eq!(files_below(&copy).len(), 1, "no piece of it reaches into another file");
    assert_eq!(seeder.blocks(), 10 * PIECE / (16 << 10));

    command().option("--files", "*.txt").option("--file-priority", "four.txt=high").start().wait_done();
    let read = |name: &str| fs::read(copy.join("tree").join(name)).unwrap();
    for (index, name) in [(1, "two.txt"), (3, "sub/four.txt")] {
        assert_eq!(read(name), *made.payload.files().nth(index).unwrap().bytes, "{name}");
    }
    assert!(copy.join("tree/sub/three.bin").exists(), "it shares a piece with both");
    command().start().wait_done();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn mistakes_are_told_before_anything_is_made() {
    let (lab, made, _seeder) = lab();
    let copy = lab.path().join("copy");
    for (option, value, said) in [
        ("--files", "on.bin", "tree/one.bin"),
        ("--files", "4", "0 to 3"),
        ("--files", "2-1", "0,2-5"),
        ("--file-priority", "0=urgent", "skip, low, normal and high"),
        ("--file-priority", "*=skip", "nothing is left to fetch"),
    ] {
        let torrent = made.torrent_path.to_str().unwrap();
        let (code, _, stderr) =
            ccbt(["download", torrent, "--output", copy.to_str().unwrap(), "--no-checkpoint", option, value]);
        assert_eq!(code, 2, "{option} {value}: {stderr}");
        assert!(stderr.contains(said), "{option} {value}: {stderr}");
        assert!(!copy.exists());
    }
}

/// Which files are wanted is kept with the torrent, and by torrent in the configuration.
#[test]
fn only_the_files_that_were_asked_for_are_fetched() {
    let lab = Lab::open();
    let sizes = [("a.bin", MIB), ("b.nfo", 64 << 10), ("c.bin", MIB)];
    let made = lab.announce(Payload::tree("tree", &sizes), TorrentSpec::pieces_of(64 << 10));
    let seeder = RawSeeder::start(Ipv4Addr::new(127, 0, 77, 2), &made, Manner::default());
    let (peer, hash) = (seeder.address().to_string(), made.torrent.info_hash_hex());
    let out = lab.dir("out");
    let names = |daemon: &Daemon| {
        let shown = daemon.show(&made);
        let files = shown["files"].as_array().expect("a list").clone();
        files
            .into_iter()
            .map(|file| file["priority"].as_str().expect("a word").to_owned())
            .collect::<Vec<_>>()
    };
    let daemon = DaemonCommand::new(&lab).start();
    let torrent_path = made.torrent_path.to_str().expect("plain");
    let add = |daemon: &Daemon, more: &[&str]| {
        daemon.ask(&[&["add", torrent_path, "--peer", &peer], more].concat());
    };
    // Complete, and what follows that was begun.
    let complete = |daemon: &Daemon| {
        daemon.wait_for(&made, "state", "seeding");
        wait_until(PATIENCE, "its date", || Some(daemon.show(&made)).filter(|it| it["completed_at"].is_i64()))
    };
    let (code, _, error) = daemon.run(&["add", torrent_path, "--files", "*.mkv"]);
    assert!(code == 2 && error.contains("a.bin"), "{code}: {error}");
    let torrent = base64(made.torrent.bytes());
    for (field, value, word) in [
        ("files", json!(["9"]), "no_such_file"),
        ("file_priorities", json!(["*=skip"]), "no_such_file"),
        ("file_priorities", json!(["0"]), "bad_value"),
    ] {
        let (status, body) =
            daemon.http("POST", "/v1/torrents", &json!({ "torrent": torrent, field: value }).to_string());
        assert_eq!((status, &body["code"]), (400, &json!(word)), "{body}");
    }
    assert_eq!(daemon.list().len(), 0, "what was refused leaves nothing behind");
    add(&daemon, &["--files", "*.bin", "--file-priority", "c.bin=high", "--paused"]);
    assert_eq!(names(&daemon), ["normal", "skip", "high"]);
    daemon.kill();
    let daemon = DaemonCommand::new(&lab).start();
    assert_eq!(names(&daemon), ["normal", "skip", "high"], "a crash does not lose it");
    daemon.ask(&["resume", &hash]);
    let (status, _) = daemon.http(
        "POST",
        &format!("/v1/torrents/{}/peers", hash),
        &json!({ "peers": [&peer] }).to_string(),
    );
    assert_eq!(status, 200);
    let done = complete(&daemon);
    assert_eq!((&done["bytes_done"], &done["eta_seconds"]), (&json!(2 * MIB), &Value::Null));
    assert!(out.join("tree/a.bin").exists() && !out.join("tree/b.nfo").exists());
    daemon.ask(&["remove", &hash, "--delete-data"]);
    daemon.stop();
    // The same by the configuration, for this torrent only.
    let file = lab.file(
        "ccbt.toml",
        b"[torrent.\"tre*\"]\nfiles = [\"0\", \"*.flac\"]\nfile_priority = \"a.bin=low\"\n",
    );
    let config = ["--config", file.to_str().expect("plain")];
    let daemon = DaemonCommand::new(&lab).args(config).start();
    add(&daemon, &[]);
    assert_eq!(names(&daemon), ["low", "skip", "skip"]);
    assert_eq!(complete(&daemon)["bytes_done"], json!(MIB));
    let copy = lab.dir("copy");
    let own = CcbtCommand::download(&made.torrent_path, &copy).peer(seeder.address());
    own.option("--config", config[1]).start().wait_done();
    assert!(copy.join("tree/a.bin").exists() && !copy.join("tree/c.bin").exists());
    let other = lab.dir("other");
    let own = CcbtCommand::download(&made.torrent_path, &other).peer(seeder.address());
    own.option("--config", config[1]).option("--files", "c.bin").start().wait_done();
    assert!(!other.join("tree/a.bin").exists() && other.join("tree/c.bin").exists(), "an option says more");
}

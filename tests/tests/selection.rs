//! `download --files` and `--file-priority`: what is fetched, what lies on disk, and what is said about mistakes.

use std::fs;
use std::net::Ipv4Addr;

use ccbt_tests::ccbt::{CcbtCommand, ccbt};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::{Payload, files_below};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;

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

//! The harness itself, without our client: real clients exchange payloads through it, and its checks do fail.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use ccbt_tests::aria2::Aria2Peer;
use ccbt_tests::lab::Lab;
use ccbt_tests::libtorrent::{LibtorrentPeer, libtorrent_info};
use ccbt_tests::payload::{Payload, noise};
use ccbt_tests::process::{Process, run};
use ccbt_tests::raw_peer::{RawPeer, full_bitfield, id};
use ccbt_tests::raw_seeder::{Manner, Quirk, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::tracker::Tracker;
use ccbt_tests::transmission::TransmissionPeer;
use ccbt_tests::{PATIENCE, SOON};

const KIB: usize = 1024;

#[test]
fn libtorrent_seeds_to_aria2() {
    let (lab, tracker) = (Lab::open(), Tracker::start());
    let spec = TorrentSpec::pieces_of(256 * KIB).announce(tracker.url());
    let made = lab.publish(Payload::straddling("tree", 3 << 20), spec);
    let seed = LibtorrentPeer::start(&made.torrent_path, &made.data);
    tracker.add_peer(made.torrent.info_hash(), seed.address());
    let copy = lab.dir("copy");
    let mut leech = Aria2Peer::leech(&lab, &made.torrent_path, &copy);
    leech.wait_finished();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn libtorrent_seeds_to_transmission() {
    let lab = Lab::open();
    let made = lab.publish(Payload::straddling("tree", 3 << 20), TorrentSpec::pieces_of(16 * KIB));
    let mut seed = LibtorrentPeer::start(&made.torrent_path, &made.data);
    let copy = lab.dir("copy");
    let mut leech = TransmissionPeer::leech(&lab, &made.torrent_path, &copy);
    seed.connect(leech.address());
    leech.wait_finished();
    made.payload.assert_equal_but_for_empty_files_in(&copy);
    assert!(seed.uploaded() >= made.payload.len() as u64, "the bytes came from the seeder");
}

#[test]
fn aria2_seeds_to_libtorrent() {
    let (lab, tracker) = (Lab::open(), Tracker::start());
    let spec = TorrentSpec::pieces_of(16 << 20).announce(tracker.url());
    let made = lab.publish(Payload::single("one file.bin", (33 << 20) + 1), spec);
    let seed = Aria2Peer::seed(&lab, &made.torrent_path, &made.data, &tracker);
    let copy = lab.dir("copy");
    let mut leech = LibtorrentPeer::start(&made.torrent_path, &copy);
    leech.connect(seed.address());
    leech.wait_finished();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn transmission_seeds_to_libtorrent() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("byte", 1), TorrentSpec::pieces_of(16 * KIB));
    let seed = TransmissionPeer::seed(&lab, &made.torrent_path, &made.data);
    let copy = lab.dir("copy");
    let mut leech = LibtorrentPeer::start(&made.torrent_path, &copy);
    leech.connect(seed.address());
    leech.wait_finished();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn libtorrent_reads_our_handmade_torrents_alike() {
    let lab = Lab::open();
    let spec = TorrentSpec { private: true, ..TorrentSpec::pieces_of(64 * KIB) };
    let made = lab.publish(Payload::straddling("tree", 1 << 20), spec);
    let info = libtorrent_info(&made.torrent_path);
    assert_eq!(info["info_hash"], made.torrent.info_hash_hex());
    assert_eq!(info["private"], true);
    assert_eq!(info["pieces"], made.torrent.piece_count());
}

#[test]
fn libtorrent_survives_a_liar_among_our_raw_seeders() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("truth", 1 << 20), TorrentSpec::pieces_of(64 * KIB));
    let honest = RawSeeder::start(Ipv4Addr::new(127, 0, 0, 71), &made, Manner::default());
    let liar = RawSeeder::start(Ipv4Addr::new(127, 0, 0, 72), &made, Manner::of(Quirk::Lies));
    let copy = lab.dir("copy");
    let mut leech = LibtorrentPeer::start(&made.torrent_path, &copy);
    leech.connect(liar.address());
    leech.connect(honest.address());
    leech.wait_finished();
    made.payload.assert_equal_in(&copy);
    assert!(
        honest.blocks() >= made.payload.len().div_ceil(16 * KIB),
        "every good block came from the honest one"
    );
}

#[test]
fn a_raw_peer_downloads_a_block_from_libtorrent() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("block", 100_000), TorrentSpec::pieces_of(32 * KIB));
    let seed = LibtorrentPeer::start(&made.torrent_path, &made.data);
    let mut peer = RawPeer::connect(seed.address());
    peer.handshake(made.torrent.info_hash());
    peer.send(id::INTERESTED, &[]);
    peer.wait_message(id::UNCHOKE).expect("libtorrent unchokes");
    peer.send_words(id::REQUEST, &[3, 0, 1696], &[]);
    let block = peer.wait_message(id::PIECE).expect("libtorrent answers");
    assert_eq!(block.payload[8..], made.payload.concatenated()[98_304..]);
    peer.send_bytes(&[0xff; 100]);
    peer.wait_closed(SOON);
}

#[test]
fn a_flipped_byte_a_missing_file_and_a_stranger_are_noticed() {
    let lab = Lab::open();
    let payload = Payload::straddling("tree", 50_000);
    let differs = |prepare: &dyn Fn(&std::path::Path)| {
        let dir = tempfile_in(&lab);
        payload.write_to(&dir);
        prepare(&dir.join("tree"));
        std::panic::catch_unwind(|| payload.assert_equal_in(&dir)).is_err()
    };
    assert!(!differs(&|_| {}));
    assert!(differs(&|tree| fs::remove_file(tree.join("empty.dat")).expect("it is there")));
    assert!(differs(&|tree| fs::write(tree.join("new"), b"x").expect("the folder is writable")));
    assert!(differs(&|tree| {
        let path = tree.join("last/tail.bin");
        let mut bytes = fs::read(&path).expect("it is there");
        bytes[70_000] ^= 1;
        fs::write(&path, bytes).expect("the folder is writable");
    }));
}

#[test]
fn a_dropped_process_is_gone_and_a_silent_one_is_given_up() {
    let mut process = Process::start("sleep", Command::new("sleep").arg("1000"));
    assert!(process.try_exit().is_none());
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        process.wait_line(Duration::from_millis(50), "word", |_| Some(()))
    }));
    assert!(waited.is_err(), "a wait without an answer fails");
    drop(process);
    let (code, stdout, stderr) =
        run("sh", Command::new("sh").args(["-c", "echo out; echo err >&2; exit 7"]), PATIENCE);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (7, "out\n", "err\n"));
}

#[test]
fn bitfields_and_noise_are_as_documented() {
    assert_eq!(full_bitfield(8), [0xff]);
    assert_eq!(full_bitfield(9), [0xff, 0x80]);
    assert_eq!(full_bitfield(1), [0x80]);
    assert_eq!(noise(7, 100)[..50], noise(7, 50)[..]);
    assert_ne!(noise(7, 100), noise(8, 100));
}

fn tempfile_in(lab: &Lab) -> std::path::PathBuf {
    let count = fs::read_dir(lab.path()).expect("the lab can be listed").count();
    lab.dir(&format!("copy{count}"))
}

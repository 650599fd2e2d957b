//! The harness's hand-made peers and trackers, without our client: libtorrent gets along with what is odd but
//! legal about them, so that a test that fails because of them has found something in our client.

use std::net::Ipv4Addr;
use std::process::Command;

use ccbt_tests::confine::Confinement;
use ccbt_tests::lab::Lab;
use ccbt_tests::libtorrent::{LibtorrentPeer, libtorrent_create, libtorrent_info};
use ccbt_tests::payload::Payload;
use ccbt_tests::process::{repository, run};
use ccbt_tests::raw_seeder::{Manner, Quirk, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::udp_tracker::UdpTracker;
use ccbt_tests::{PATIENCE, SOON};

const KIB: usize = 1024;

#[test]
fn libtorrent_downloads_from_seeders_with_legal_quirks() {
    let quirks = [
        Quirk::None,
        Quirk::Backwards,
        Quirk::Haves,
        Quirk::Fragments(1000),
        Quirk::Flickers,
        Quirk::ChokesOnce,
    ];
    for (last, quirk) in (1..).zip(quirks) {
        eprintln!("quirk: {quirk:?}");
        let lab = Lab::open();
        let made = lab.announce(Payload::straddling("tree", 500_000), TorrentSpec::pieces_of(64 * KIB));
        let seeder = RawSeeder::start(Ipv4Addr::new(127, 0, 14, last), &made, Manner::of(quirk));
        let copy = lab.dir("copy");
        let mut leech = LibtorrentPeer::start(&made.torrent_path, &copy);
        // Half of them are dialled, half of them dial.
        if last % 2 == 0 {
            leech.connect(seeder.address());
        } else {
            seeder.dial(leech.address());
        }
        leech.wait_finished();
        made.payload.assert_equal_in(&copy);
    }
}

#[test]
fn libtorrent_finds_its_peer_through_the_udp_tracker() {
    let lab = Lab::open();
    let first = lab.publish(Payload::straddling("tree", 500_000), TorrentSpec::pieces_of(64 * KIB));
    let seed = LibtorrentPeer::start(&first.torrent_path, &first.data);
    let tracker = UdpTracker::start(&[seed.address()]);
    let spec = TorrentSpec::pieces_of(64 * KIB).announce(tracker.url());
    let made = lab.publish(Payload::straddling("tree", 500_000), spec);
    let copy = lab.dir("copy");
    let mut leech = LibtorrentPeer::start(&made.torrent_path, &copy);
    leech.wait_finished();
    made.payload.assert_equal_in(&copy);
    let started = tracker.wait_announce("started", |announce| announce.event == 2);
    assert_eq!(started.left, made.payload.len() as u64);
    assert_eq!(started.info_hash, made.torrent.info_hash());
    assert_eq!(started.port, leech.address().port());
}

#[test]
fn libtorrent_reads_and_seeds_padded_torrents() {
    let lab = Lab::open();
    let payload = Payload::straddling("tree", 500_000).padded(64 * KIB);
    let made = lab.publish(payload, TorrentSpec::pieces_of(64 * KIB));
    let info = libtorrent_info(&made.torrent_path);
    assert_eq!(info["info_hash"], made.torrent.info_hash_hex());
    assert!(info["files"].to_string().contains(".pad"));
    let seed = LibtorrentPeer::start(&made.torrent_path, &made.data);
    let copy = lab.dir("copy");
    let mut leech = LibtorrentPeer::start(&made.torrent_path, &copy);
    leech.connect(seed.address());
    leech.wait_finished();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn libtorrent_makes_plain_and_hybrid_torrents() {
    let lab = Lab::open();
    let made = lab.publish(Payload::straddling("tree", 100_000), TorrentSpec::pieces_of(16 * KIB));
    for v1_only in [true, false] {
        let torrent = lab.path().join("made.torrent");
        libtorrent_create(&made.data.join("tree"), &torrent, 16 * KIB, v1_only);
        let info = libtorrent_info(&torrent);
        assert_eq!(info["name"], "tree");
        assert_eq!(info["files"].to_string().contains(".pad"), !v1_only);
    }
}

#[test]
fn a_confined_program_lacks_what_was_taken_and_nothing_else() {
    let python = repository().join(".cache/venv/bin/python");
    let probe = "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.syscall(425, 1, 0), ctypes.get_errno())";
    for errno in [1, 38] {
        let mut command = Confinement::NoIoUring(errno).command(&python);
        let (code, stdout, stderr) = run("probe", command.args(["-c", probe]), SOON);
        assert_eq!((code, stdout.trim()), (0, format!("-1 {errno}").as_str()), "{stderr}");
    }
    let shell = std::path::Path::new("/bin/sh");
    let mut command: Command = Confinement::Memlock(65_536).command(shell);
    let (_, stdout, stderr) = run("probe", command.args(["-c", "ulimit -l"]), PATIENCE);
    assert_eq!(stdout.trim(), "64", "{stderr}");
    let mut command: Command = Confinement::OpenFiles(100).command(shell);
    let (_, stdout, stderr) = run("probe", command.args(["-c", "ulimit -n"]), PATIENCE);
    assert_eq!(stdout.trim(), "100", "{stderr}");
}

//! Seeding with zero-copy sends: every client gets the right bytes, and `auto` learns where the kernel copies after
//! all.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use ccbt_tests::aria2::Aria2Peer;
use ccbt_tests::binary::ccbt_fast;
use ccbt_tests::ccbt::{Ccbt, CcbtCommand};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::libtorrent::LibtorrentPeer;
use ccbt_tests::payload::Payload;
use ccbt_tests::process::{Process, run};
use ccbt_tests::raw_peer::{RawPeer, id};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::tracker::Tracker;
use ccbt_tests::veth::{FAR, NEAR, Veth};
use ccbt_tests::{PATIENCE, SOON};
use rustix::process::Signal;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn seed(made: &Published, mode: &str) -> Ccbt {
    let command = CcbtCommand::seed(&made.torrent_path, &made.data).option("--zero-copy-send", mode);
    let mut seed = command.option("--shards", "1").start();
    seed.wait_ready();
    seed
}

/// What the seeder's log says of its zero-copy sends at its end: (sends, copied).
fn sends(log: &str) -> (u64, u64) {
    let line = log.lines().find(|line| line.contains("zero-copy sends of this shard"));
    let line = line.unwrap_or_else(|| panic!("nothing said of zero-copy sends: {log}"));
    let number = |name: &str| {
        let from = line.find(name).unwrap_or_else(|| panic!("{line}")) + name.len();
        let digits: String = line[from..].chars().skip_while(|c| !c.is_ascii_digit()).collect();
        digits
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|digits| digits.parse().ok())
            .expect("a number")
    };
    (number(" sends="), number(" copied="))
}

fn stop(mut seed: Ccbt) -> (u64, u64) {
    seed.stop();
    sends(&seed.words())
}

#[test]
fn we_get_it_whole() {
    for (mode, is_used) in [("on", true), ("off", false), ("auto", false)] {
        let lab = Lab::open();
        let made = lab.publish(Payload::straddling("tree", 9 * MIB), TorrentSpec::pieces_of(64 * KIB));
        let seed = seed(&made, mode);
        let copy = lab.dir("copy");
        CcbtCommand::download(&made.torrent_path, &copy).peer(seed.address()).start().wait_done();
        made.payload.assert_equal_in(&copy);
        let (sends, copied) = stop(seed);
        assert_eq!(sends > 0, is_used, "{mode}: {sends} sends, and loopback needs none with auto");
        assert!(copied <= sends);
    }
}

#[test]
fn libtorrent_gets_it_whole() {
    let lab = Lab::open();
    let made = lab.publish(Payload::straddling("tree", 9 * MIB), TorrentSpec::pieces_of(256 * KIB));
    let seed = seed(&made, "on");
    let copy = lab.dir("theirs");
    let mut leech = LibtorrentPeer::start(&made.torrent_path, &copy);
    leech.connect(seed.address());
    leech.wait_finished();
    made.payload.assert_equal_in(&copy);
    assert!(stop(seed).0 > 0);
}

#[test]
fn aria2_gets_it_whole() {
    let (lab, tracker) = (Lab::open(), Tracker::start());
    let spec = TorrentSpec::pieces_of(256 * KIB).announce(tracker.url());
    let made = lab.publish(Payload::single("one file.bin", 9 * MIB + 1), spec);
    let seed = seed(&made, "on");
    tracker.add_peer(made.torrent.info_hash(), seed.address());
    let copy = lab.dir("theirs");
    Aria2Peer::leech(&lab, &made.torrent_path, &copy).wait_finished();
    made.payload.assert_equal_in(&copy);
    assert!(stop(seed).0 > 0);
}

/// Peers that ask and never read keep memory in the kernel's hands: others are served all the same, and the end comes.
#[test]
fn peers_that_read_nothing_stop_neither_others_nor_the_end() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("file", 48 * MIB), TorrentSpec::pieces_of(MIB));
    let command = CcbtCommand::seed(&made.torrent_path, &made.data).option("--zero-copy-send", "on");
    let mut seed = command.option("--shards", "1").option("--memory", "16").start();
    seed.wait_ready();
    let stalled: Vec<RawPeer> = (0..4)
        .map(|piece| {
            let from = Ipv4Addr::new(127, 0, 77, 1 + piece as u8);
            let mut peer = RawPeer::try_connect_from(from, seed.address()).expect("it listens");
            peer.handshake(made.torrent.info_hash());
            assert!(peer.become_unchoked());
            for nth in 0..64 {
                peer.send_words(id::REQUEST, &[piece, nth * 16384, 16384], &[]);
            }
            peer
        })
        .collect();
    let copy = lab.dir("copy");
    CcbtCommand::download(&made.torrent_path, &copy).peer(seed.address()).start().wait_done();
    made.payload.assert_equal_in(&copy);
    seed.assert_alive();
    assert!(stop(seed).0 > 0);
    drop(stalled);
}

#[test]
fn auto_tries_another_machine_and_gives_up_where_the_kernel_copies() {
    let veth = match Veth::new() {
        Ok(veth) => veth,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let lab = Lab::open();
    let made = lab.publish(Payload::single("file", 64 * MIB), TorrentSpec::pieces_of(256 * KIB));
    // The namespace is ours: every port is free.
    let port = "7011";
    let program = ccbt_fast().to_str().expect("a path of ours");
    let mut command = Command::new(program);
    command.arg("seed").arg(&made.torrent_path).arg("--output").arg(&made.data);
    command.args([
        "--no-checkpoint",
        "--json",
        "--no-tracker",
        "--log-level",
        "debug",
        "--shards",
        "1",
        "--port",
        port,
    ]);
    let mut seed = Process::start("seeder", command.args(["--bind", &NEAR.to_string()]));
    seed.wait_line(PATIENCE, "seeding", |line| line.contains("\"seeding\"").then_some(()));
    let copy = lab.dir("copy");
    let mut command = veth.over_there(program);
    command.arg("download").arg(&made.torrent_path).arg("--output").arg(&copy).arg("--no-checkpoint");
    command.args(["--no-tracker", "--bind", &FAR.to_string(), "--peer", &format!("{NEAR}:{port}")]);
    let (code, _, stderr) = run("ccbt-fast", &mut command, PATIENCE + Duration::from_secs(30));
    assert_eq!(code, 0, "{stderr}");
    made.payload.assert_equal_in(&copy);
    seed.signal(Signal::TERM);
    seed.wait_exit(SOON);
    let log = seed.stderr() + &seed.stdout();
    let (sends, copied) = sends(&log);
    // A veth pair hands packets to the far end's stack, which copies them.
    assert!(sends >= 4 && copied >= 4, "{sends} {copied}");
    assert!(sends < 100, "it goes on with copies: {sends} of about 128 batches");
    assert!(log.contains("copied by the kernel on this route"), "{log}");
}

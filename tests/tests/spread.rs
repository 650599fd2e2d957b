//! One torrent on several shards: every part fetches and serves, and nothing is lost between them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ccbt_protocol::holepunch::{HolepunchError, HolepunchMessage};
use ccbt_protocol::wire::extension::UT_HOLEPUNCH;
use ccbt_tests::PATIENCE;
use ccbt_tests::aria2::Aria2Peer;
use ccbt_tests::ccbt::CcbtCommand;
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::libtorrent::LibtorrentPeer;
use ccbt_tests::payload::Payload;
use ccbt_tests::process::wait_until;
use ccbt_tests::raw_peer::{RawPeer, id};
use ccbt_tests::raw_seeder::{Manner, Quirk, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::tracker::Tracker;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn seeders(made: &Published, from: u8, count: u8, manner: Manner) -> Vec<RawSeeder> {
    (from..from + count).map(|n| RawSeeder::start(Ipv4Addr::new(127, 0, 19, n), made, manner)).collect()
}

fn download(lab: &Lab, made: &Published, peers: &[RawSeeder], shards: &str) -> CcbtCommand {
    let command = CcbtCommand::download(&made.torrent_path, &lab.dir("copy")).option("--shards", shards);
    peers.iter().fold(command, |command, peer| command.peer(peer.address()))
}

#[test]
fn six_seeders_are_shared_out_among_four_shards() {
    let lab = Lab::open();
    let made = lab.announce(Payload::straddling("tree", 12 * MIB), TorrentSpec::pieces_of(64 * KIB));
    let peers = seeders(&made, 1, 6, Manner::slow(Duration::from_millis(1)));
    download(&lab, &made, &peers, "4").start().wait_done();
    made.payload.assert_equal_in(&lab.dir("copy"));
    let blocks: Vec<usize> = peers.iter().map(RawSeeder::blocks).collect();
    assert!(blocks.iter().all(|blocks| *blocks > 0), "every seeder is asked: {blocks:?}");
    // Each block once, but for what the endgame asks twice.
    let (sent, needed) = (blocks.iter().sum::<usize>(), made.payload.len().div_ceil(16 * KIB));
    assert!(sent < needed + needed / 4, "{sent} blocks for {needed}");
}

#[test]
fn one_seeder_is_enough_wherever_it_lands() {
    for shards in ["2", "3", "7"] {
        let lab = Lab::open();
        let made = lab.announce(Payload::single("one", 3 * MIB + 1), TorrentSpec::pieces_of(16 * KIB));
        let peers = seeders(&made, 20, 1, Manner::default());
        download(&lab, &made, &peers, shards).start().wait_done();
        made.payload.assert_equal_in(&lab.dir("copy"));
    }
}

#[test]
fn a_liar_on_one_shard_is_banned_on_all() {
    let lab = Lab::open();
    let made = lab.announce(Payload::single("truth", 8 * MIB), TorrentSpec::pieces_of(128 * KIB));
    let mut peers = seeders(&made, 30, 1, Manner::of(Quirk::Lies));
    peers.extend(seeders(&made, 31, 4, Manner::default()));
    let mut ours = download(&lab, &made, &peers, "3").start();
    ours.wait_done();
    made.payload.assert_equal_in(&lab.dir("copy"));
}

#[test]
fn seeders_that_vanish_leave_their_pieces_to_other_shards() {
    let lab = Lab::open();
    let made = lab.announce(Payload::single("left", 8 * MIB), TorrentSpec::pieces_of(128 * KIB));
    let mut peers = seeders(&made, 40, 3, Manner::slow(Duration::from_millis(8)));
    let mut ours = download(&lab, &made, &peers, "3").start();
    wait_until(PATIENCE, "some blocks from each", || {
        peers.iter().all(|peer| peer.blocks() > 2).then_some(())
    });
    // Two of three shards lose their only peer in the middle of a piece.
    peers.truncate(1);
    ours.wait_done();
    made.payload.assert_equal_in(&lab.dir("copy"));
}

#[test]
fn stopped_in_the_middle_what_all_shards_wrote_is_kept() {
    let lab = Lab::open();
    let made = lab.announce(Payload::single("again", 16 * MIB), TorrentSpec::pieces_of(64 * KIB));
    let peers = seeders(&made, 50, 4, Manner::slow(Duration::from_millis(2)));
    let mut ours = download(&lab, &made, &peers, "4").start();
    let asked = || peers.iter().map(RawSeeder::blocks).sum::<usize>();
    wait_until(PATIENCE, "a third of it", || (asked() > 16 * MIB / (48 * KIB)).then_some(()));
    ours.stop();
    let first = asked();
    download(&lab, &made, &peers, "2").start().wait_done();
    made.payload.assert_equal_in(&lab.dir("copy"));
    let needed = made.payload.len() / (16 * KIB);
    assert!(asked() - first < needed * 9 / 10, "{first} blocks, then {} of {needed}", asked() - first);
}

#[test]
fn a_seed_on_three_shards_serves_everybody() {
    let (lab, tracker) = (Lab::open(), Tracker::start());
    let spec = TorrentSpec::pieces_of(128 * KIB).announce(tracker.url());
    let made = lab.publish(Payload::straddling("tree", 8 * MIB), spec);
    let mut seed = CcbtCommand::seed(&made.torrent_path, &made.data).option("--shards", "3").start();
    seed.wait_ready();
    tracker.add_peer(made.torrent.info_hash(), seed.address());
    let folders = ["libtorrent", "aria2", "ours", "ours2"].map(|name| lab.dir(name));
    let mut libtorrent = LibtorrentPeer::start(&made.torrent_path, &folders[0]);
    libtorrent.connect(seed.address());
    let mut aria2 = Aria2Peer::leech(&lab, &made.torrent_path, &folders[1]);
    let ours = |folder, shards| {
        CcbtCommand::download(&made.torrent_path, folder)
            .option("--shards", shards)
            .peer(seed.address())
            .start()
    };
    let (mut one, mut two) = (ours(&folders[2], "2"), ours(&folders[3], "1"));
    libtorrent.wait_finished();
    aria2.wait_finished();
    one.wait_done();
    two.wait_done();
    for folder in &folders {
        made.payload.assert_equal_but_for_empty_files_in(folder);
    }
    seed.stop();
}

/// The number by which [`punching`] peers know ut_holepunch messages.
const PUNCH_ID: u8 = 55;

/// A peer that speaks ut_holepunch (BEP 55) and says that it listens at `port`; connected to the torrent's home, which
/// gives it to the part with the fewest.
fn punching(made: &Published, ours: SocketAddr, port: u16) -> RawPeer {
    let mut peer = RawPeer::connect(ours);
    // BEP 10.
    peer.send_handshake_with(made.torrent.info_hash(), [0, 0, 0, 0, 0, 0x10, 0, 0]);
    peer.read_handshake().expect("the torrent runs");
    let hello = format!("d1:md12:ut_holepunchi{PUNCH_ID}ee1:pi{port}ee");
    peer.send(id::EXTENDED, &[&[0], hello.as_bytes()].concat());
    peer
}

fn rendezvous(peer: &mut RawPeer, target: SocketAddr) {
    let message = HolepunchMessage::Rendezvous(target).encode();
    peer.send(id::EXTENDED, &[&[UT_HOLEPUNCH], &*message].concat());
}

fn punch_message(peer: &mut RawPeer) -> HolepunchMessage {
    loop {
        let message = peer.wait_message(id::EXTENDED).expect("we stay connected");
        if message.payload[0] == PUNCH_ID {
            return HolepunchMessage::parse(&message.payload[1..]).expect("well-formed");
        }
    }
}

#[test]
fn a_relay_brings_peers_of_different_shards_together() {
    let lab = Lab::open();
    let made = lab.announce(Payload::single("met", MIB), TorrentSpec::pieces_of(64 * KIB));
    let mut ours = download(&lab, &made, &[], "3").flag("--utp").start();
    ours.wait_ready();
    // One for each part.
    let listens = [1001, 1002, 1003].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let mut peers = listens.map(|addr| punching(&made, ours.address(), addr.port()));
    wait_until(PATIENCE, "three peers", || (ours.events("progress").last()?["peers"] == 3).then_some(()));
    for (one, other) in [(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)] {
        rendezvous(&mut peers[one], listens[other]);
        assert_eq!(punch_message(&mut peers[one]), HolepunchMessage::Connect(listens[other]));
        assert_eq!(punch_message(&mut peers[other]), HolepunchMessage::Connect(listens[one]));
    }
    let stranger = SocketAddr::from((Ipv4Addr::LOCALHOST, 1004));
    for (peer, addr) in peers.iter_mut().zip(listens) {
        for (target, error) in [(stranger, HolepunchError::NotConnected), (addr, HolepunchError::NoSelf)] {
            rendezvous(peer, target);
            assert_eq!(punch_message(peer), HolepunchMessage::Error(target, error));
        }
    }
    ours.stop();
    let stopped = ours.events("stopped").pop().expect("it says how it was");
    let shards: Vec<u64> = stopped["shards"]
        .as_array()
        .expect("three")
        .iter()
        .filter_map(|shard| shard["peers"].as_u64())
        .collect();
    assert_eq!(shards, [1, 1, 1], "each part had one");
}

#[test]
fn a_spread_torrent_is_moved_and_its_parts_come_back() {
    let lab = Lab::open();
    let made = lab.announce(Payload::straddling("tree", 6 * MIB), TorrentSpec::pieces_of(64 * KIB));
    let peers = seeders(&made, 60, 4, Manner::default());
    let archive = lab.dir("archive");
    let mut ours = download(&lab, &made, &peers, "3")
        .option("--move-completed", &archive)
        .option("--seed-time", "30")
        .start();
    ours.wait_event("moved");
    made.payload.assert_equal_in(&archive);
    // Whichever shard accepts it, it is served from the new place.
    for name in ["one", "two", "three"] {
        let copy = lab.dir(name);
        CcbtCommand::download(&made.torrent_path, &copy).peer(ours.address()).start().wait_done();
        made.payload.assert_equal_in(&copy);
    }
    ours.stop();
}

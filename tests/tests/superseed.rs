//! `seed --super-seeding` (BEP 16) towards other clients, alone and several at once.

use std::net::SocketAddr;

use ccbt_tests::aria2::Aria2Peer;
use ccbt_tests::ccbt::{Ccbt, CcbtCommand};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::libtorrent::LibtorrentPeer;
use ccbt_tests::payload::Payload;
use ccbt_tests::raw_peer::{RawPeer, id};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::tracker::Tracker;
use ccbt_tests::transmission::TransmissionPeer;

const MIB: usize = 1 << 20;

fn payload() -> Payload {
    Payload::straddling("tree", 4 * MIB)
}

fn super_seed(made: &Published) -> CcbtCommand {
    CcbtCommand::seed(&made.torrent_path, &made.data).flag("--super-seeding")
}

fn start(made: &Published) -> Ccbt {
    let mut seed = super_seed(made).start();
    seed.wait_ready();
    seed
}

#[test]
fn libtorrent_alone_gets_everything() {
    let lab = Lab::open();
    let made = lab.publish(payload(), TorrentSpec::pieces_of(64 << 10));
    let seed = start(&made);
    let copy = lab.dir("theirs");
    let mut leech = LibtorrentPeer::start(&made.torrent_path, &copy);
    leech.connect(seed.address());
    leech.wait_finished();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn aria2_alone_gets_everything() {
    let (lab, tracker) = (Lab::open(), Tracker::start());
    let made = lab.publish(payload(), TorrentSpec::pieces_of(64 << 10).announce(tracker.url()));
    let seed = start(&made);
    tracker.add_peer(made.torrent.info_hash(), seed.address());
    let copy = lab.dir("theirs");
    Aria2Peer::leech(&lab, &made.torrent_path, &copy).wait_finished();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn transmission_alone_gets_everything() {
    let lab = Lab::open();
    let made = lab.publish(payload(), TorrentSpec::pieces_of(64 << 10));
    let copy = lab.dir("theirs");
    let mut leech = TransmissionPeer::leech(&lab, &made.torrent_path, &copy);
    let mut seed = super_seed(&made).peer(leech.address()).start();
    leech.wait_finished();
    seed.assert_alive();
    made.payload.assert_equal_but_for_empty_files_in(&copy);
}

/// Two that know each other: they get from one another what each was shown.
#[test]
fn two_clients_pass_on_what_each_was_shown() {
    let lab = Lab::open();
    let made = lab.publish(payload(), TorrentSpec::pieces_of(64 << 10));
    let mut seed = start(&made);
    let copies = [lab.dir("one"), lab.dir("two")];
    let mut leeches = copies.each_ref().map(|copy| LibtorrentPeer::start(&made.torrent_path, copy));
    let other: SocketAddr = leeches[1].address();
    leeches[0].connect(other);
    leeches.iter_mut().for_each(|leech| leech.connect(seed.address()));
    leeches.iter_mut().for_each(LibtorrentPeer::wait_finished);
    copies.iter().for_each(|copy| made.payload.assert_equal_in(copy));
    let passed_on: u64 = leeches.iter_mut().map(LibtorrentPeer::uploaded).sum();
    assert!(passed_on > 0, "they had something for each other");
    seed.assert_alive();
    seed.stop();
}

/// What a stranger sees: a peer that seems to have nothing, and announces two pieces. More is not served.
#[test]
fn a_stranger_is_shown_two_pieces() {
    let lab = Lab::open();
    let made = lab.publish(payload(), TorrentSpec::pieces_of(64 << 10));
    let seed = start(&made);
    let mut raw = RawPeer::connect(seed.address());
    raw.handshake(made.torrent.info_hash());
    let mut shown = Vec::new();
    while shown.len() < 2 {
        let message = raw.recv().expect("it stays");
        assert_ne!(message.id, id::BITFIELD, "all it has is not told");
        if message.id == id::HAVE {
            shown.push(message.word(0).expect("a piece"));
        }
    }
    assert!(raw.become_unchoked(), "it serves");
    let hidden = (0..).find(|piece| !shown.contains(piece)).expect("there are more");
    assert_eq!(raw.fetch(shown[0], 0, 16_384).map(|block| block.len()), Some(16_384));
    assert_eq!(raw.fetch(hidden, 0, 16_384), None, "who asks for what it was not shown is let go");
}

//! What other clients do when they are asked for more than 16 KiB at once: why `network.block_size_kib` is not there.
//!
//! They are asked over a connection without extensions for 32 KiB, and then for 16 KiB.

use std::net::SocketAddr;

use ccbt_tests::aria2::Aria2Peer;
use ccbt_tests::ccbt::CcbtCommand;
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::libtorrent::LibtorrentPeer;
use ccbt_tests::payload::Payload;
use ccbt_tests::raw_peer::{RawPeer, id};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::tracker::Tracker;
use ccbt_tests::transmission::TransmissionPeer;

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Served,
    /// The request had no answer, the next one had.
    Ignored,
    Closed,
}

fn ask_for_more(peer: SocketAddr, made: &Published) -> Outcome {
    let mut raw = RawPeer::connect(peer);
    raw.handshake(made.torrent.info_hash());
    assert!(raw.become_unchoked(), "it serves");
    raw.send_words(id::REQUEST, &[1, 0, 32 << 10], &[]);
    raw.send_words(id::REQUEST, &[2, 0, 16 << 10], &[]);
    match raw.wait_message(id::PIECE) {
        None => Outcome::Closed,
        Some(block) if block.word(0) == Some(1) => {
            assert_eq!(block.payload.len(), 8 + (32 << 10));
            Outcome::Served
        }
        Some(_) => Outcome::Ignored,
    }
}

fn publish(lab: &Lab, tracker: &Tracker) -> Published {
    let spec = TorrentSpec::pieces_of(64 << 10).announce(tracker.url());
    lab.publish(Payload::single("blocks.bin", 1 << 20), spec)
}

#[test]
fn who_is_asked_for_more_than_16_kib() {
    let (lab, tracker) = (Lab::open(), Tracker::start());
    let made = publish(&lab, &tracker);
    let mut ours = CcbtCommand::seed(&made.torrent_path, &made.data).start();
    ours.wait_ready();
    assert_eq!(ask_for_more(ours.address(), &made), Outcome::Served);
    let libtorrent = LibtorrentPeer::start(&made.torrent_path, &made.data);
    assert_ne!(ask_for_more(libtorrent.address(), &made), Outcome::Served);
    let transmission = TransmissionPeer::seed(&lab, &made.torrent_path, &made.data);
    assert_ne!(ask_for_more(transmission.address(), &made), Outcome::Served);
    let aria2 = Aria2Peer::seed(&lab, &made.torrent_path, &made.data, &tracker);
    println!("aria2: {:?}", ask_for_more(aria2.address(), &made));
}

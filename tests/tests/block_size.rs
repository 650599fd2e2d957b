//! What libtorrent, and so qBittorrent, does when it is asked for more than 16 KiB at once: why there is no
//! `network.block_size_kib`.
//!
//! It is asked over a connection without extensions for 32 KiB, and then for 16 KiB.

use std::net::SocketAddr;

use ccbt_tests::ccbt::CcbtCommand;
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::libtorrent::LibtorrentPeer;
use ccbt_tests::payload::Payload;
use ccbt_tests::raw_peer::{RawPeer, id};
use ccbt_tests::torrent::TorrentSpec;

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

#[test]
fn libtorrent_does_not_serve_more_than_16_kib_at_once_and_we_do() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("blocks.bin", 1 << 20), TorrentSpec::pieces_of(64 << 10));
    let mut ours = CcbtCommand::seed(&made.torrent_path, &made.data).start();
    ours.wait_ready();
    assert_eq!(ask_for_more(ours.address(), &made), Outcome::Served);
    let libtorrent = LibtorrentPeer::start(&made.torrent_path, &made.data);
    assert_ne!(ask_for_more(libtorrent.address(), &made), Outcome::Served);
}

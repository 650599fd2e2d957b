//! Swarms: many of ours exchange pieces among themselves, and ours side by side with everybody else's.

use std::path::PathBuf;

use ccbt_tests::aria2::Aria2Peer;
use ccbt_tests::ccbt::{Ccbt, CcbtCommand};
use ccbt_tests::lab::Lab;
use ccbt_tests::libtorrent::LibtorrentPeer;
use ccbt_tests::payload::Payload;
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::tracker::Tracker;
use ccbt_tests::transmission::TransmissionPeer;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const LEECHERS: usize = 8;

/// Stops `client` and returns the bytes that it says it has sent; its last report comes with the stop.
fn uploaded(client: &mut Ccbt) -> u64 {
    client.stop();
    let reports = client.events("progress");
    reports.last().and_then(|report| report["uploaded"].as_u64()).expect("progress counts what was sent")
}

#[test]
fn eight_leechers_feed_each_other() {
    let (lab, tracker) = (Lab::open(), Tracker::start());
    let spec = TorrentSpec::pieces_of(64 * KIB).announce(tracker.url());
    let made = lab.publish(Payload::straddling("tree", 12 * MIB), spec);
    let total = made.payload.len() as u64;
    // The seed alone is slow: whoever wants the pieces sooner takes them from the others.
    let mut seed = CcbtCommand::seed(&made.torrent_path, &made.data)
        .trackers()
        .option("--memory", "64")
        .option("--up-limit", "8192")
        .start();
    seed.wait_ready();
    tracker.wait_announce(seed.address().port(), |announce| announce.left == 0);
    let copies: Vec<_> = (0..LEECHERS).map(|n| lab.dir(&format!("copy{n}"))).collect();
    let leech = |copy: &PathBuf| {
        let command = CcbtCommand::download(&made.torrent_path, copy).trackers();
        command.option("--seed-time", "30").option("--memory", "64").option("--shards", "1").start()
    };
    let mut leechers: Vec<Ccbt> = copies.iter().map(leech).collect();
    for leecher in &mut leechers {
        leecher.wait_event("finished");
    }
    let sent: Vec<u64> = leechers.iter_mut().map(uploaded).collect();
    copies.iter().for_each(|copy| made.payload.assert_equal_in(copy));
    let by_seed = uploaded(&mut seed);
    eprintln!("sent by the seed: {by_seed}, by the leechers: {sent:?}, size: {total}");
    assert!(by_seed < LEECHERS as u64 * total, "the leechers took everything from the seed");
    assert!(sent.iter().filter(|bytes| **bytes > 0).count() >= 2, "leechers serve each other: {sent:?}");
}

#[test]
fn everybody_downloads_from_us_at_once() {
    let (lab, tracker) = (Lab::open(), Tracker::start());
    let spec = TorrentSpec::pieces_of(128 * KIB).announce(tracker.url());
    let made = lab.publish(Payload::straddling("tree", 8 * MIB), spec);
    let folders = ["libtorrent", "aria2", "transmission", "ours"].map(|name| lab.dir(name));
    let mut transmission = TransmissionPeer::leech(&lab, &made.torrent_path, &folders[2]);
    let mut seed = CcbtCommand::seed(&made.torrent_path, &made.data).peer(transmission.address()).start();
    seed.wait_ready();
    tracker.add_peer(made.torrent.info_hash(), seed.address());
    let mut libtorrent = LibtorrentPeer::start(&made.torrent_path, &folders[0]);
    libtorrent.connect(seed.address());
    let mut aria2 = Aria2Peer::leech(&lab, &made.torrent_path, &folders[1]);
    let mut ours = CcbtCommand::download(&made.torrent_path, &folders[3]).peer(seed.address()).start();
    libtorrent.wait_finished();
    aria2.wait_finished();
    ours.wait_done();
    transmission.wait_finished();
    for folder in &folders {
        made.payload.assert_equal_but_for_empty_files_in(folder);
    }
    seed.stop();
}

#[test]
fn we_download_from_everybody_at_once() {
    let (lab, tracker) = (Lab::open(), Tracker::start());
    let spec = TorrentSpec::pieces_of(128 * KIB).announce(tracker.url());
    let made = lab.publish(Payload::single("popular", 24 * MIB + 3), spec);
    let libtorrent = LibtorrentPeer::start(&made.torrent_path, &made.data);
    let aria2 = Aria2Peer::seed(&lab, &made.torrent_path, &made.data, &tracker);
    let transmission = TransmissionPeer::seed(&lab, &made.torrent_path, &made.data);
    let copy = lab.dir("copy");
    CcbtCommand::download(&made.torrent_path, &copy)
        .peer(libtorrent.address())
        .peer(aria2.address())
        .peer(transmission.address())
        .start()
        .wait_done();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn a_leecher_with_half_and_one_with_the_other_half_complete_each_other() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("halves", 8 * MIB), TorrentSpec::pieces_of(256 * KIB));
    let whole = made.payload.concatenated();
    let (left, right) = (lab.dir("left"), lab.dir("right"));
    let half = whole.len() / 2;
    let mut bytes = vec![0; whole.len()];
    bytes[..half].copy_from_slice(&whole[..half]);
    std::fs::write(left.join("halves"), &bytes).expect("the lab is writable");
    bytes[..half].fill(0);
    bytes[half..].copy_from_slice(&whole[half..]);
    std::fs::write(right.join("halves"), &bytes).expect("the lab is writable");
    let start = |dir| CcbtCommand::download(&made.torrent_path, dir).option("--seed-time", "30");
    let mut first = start(&left).start();
    first.wait_ready();
    let mut second = start(&right).peer(first.address()).start();
    first.wait_event("finished");
    second.wait_event("finished");
    made.payload.assert_equal_in(&left);
    made.payload.assert_equal_in(&right);
}

#[test]
fn two_downloads_meet_one_after_the_other_and_the_first_goes_on_seeding() {
    let lab = Lab::open();
    let made = lab.publish(Payload::straddling("tree", 3 * MIB), TorrentSpec::pieces_of(32 * KIB));
    let seed = LibtorrentPeer::start(&made.torrent_path, &made.data);
    let (one, two) = (lab.dir("one"), lab.dir("two"));
    let mut first = CcbtCommand::download(&made.torrent_path, &one)
        .peer(seed.address())
        .option("--seed-time", "30")
        .start();
    first.wait_event("finished");
    drop(seed);
    CcbtCommand::download(&made.torrent_path, &two).peer(first.address()).start().wait_done();
    made.payload.assert_equal_in(&two);
    first.stop();
}

//! Round trips with libtorrent, aria2 and Transmission in both directions, over every shape of payload.
//!
//! Every transfer is checked by the SHA-256 of each file against bytes that this crate made.

use std::net::SocketAddr;
use std::path::Path;

use ccbt_tests::PATIENCE;
use ccbt_tests::aria2::Aria2Peer;
use ccbt_tests::ccbt::{Ccbt, CcbtCommand, ccbt};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::libtorrent::{
    LibtorrentPeer, libtorrent_create, libtorrent_create_with_links, libtorrent_info,
};
use ccbt_tests::payload::Payload;
use ccbt_tests::process::wait_until;
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::tracker::Tracker;
use ccbt_tests::transmission::TransmissionPeer;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn tree() -> Payload {
    Payload::straddling("tree", 5 * MIB)
}

fn single() -> Payload {
    Payload::single("one file.bin", 9 * MIB + 1)
}

/// Downloads `torrent` from `peer` with our client and compares.
fn we_fetch(lab: &Lab, made: &Published, peer: SocketAddr, more: &[(&str, &str)]) {
    let copy = lab.dir("ours");
    let mut command = CcbtCommand::download(&made.torrent_path, &copy).peer(peer);
    for (name, value) in more {
        command = command.option(name, value);
    }
    command.start().wait_done();
    made.payload.assert_equal_in(&copy);
}

/// Our client as a seeder that listens.
fn we_seed(torrent: &Path, dir: &Path) -> Ccbt {
    let mut seed = CcbtCommand::seed(torrent, dir).start();
    seed.wait_ready();
    seed
}

/// Returns what libtorrent sent, in bytes.
fn from_libtorrent(payload: Payload, spec: TorrentSpec, more: &[(&str, &str)]) -> u64 {
    let lab = Lab::open();
    let made = lab.publish(payload, spec);
    let mut seed = LibtorrentPeer::start(&made.torrent_path, &made.data);
    we_fetch(&lab, &made, seed.address(), more);
    seed.uploaded()
}

fn to_libtorrent(payload: Payload, spec: TorrentSpec) {
    let lab = Lab::open();
    let made = lab.publish(payload, spec);
    let seed = we_seed(&made.torrent_path, &made.data);
    let copy = lab.dir("theirs");
    let mut leech = LibtorrentPeer::start(&made.torrent_path, &copy);
    leech.connect(seed.address());
    leech.wait_finished();
    made.payload.assert_equal_in(&copy);
}

fn from_aria2(payload: Payload) {
    let (lab, tracker) = (Lab::open(), Tracker::start());
    let made = lab.publish(payload, TorrentSpec::pieces_of(256 * KIB).announce(tracker.url()));
    let seed = Aria2Peer::seed(&lab, &made.torrent_path, &made.data, &tracker);
    we_fetch(&lab, &made, seed.address(), &[]);
}

fn to_aria2(payload: Payload) {
    let (lab, tracker) = (Lab::open(), Tracker::start());
    let made = lab.publish(payload, TorrentSpec::pieces_of(256 * KIB).announce(tracker.url()));
    let seed = we_seed(&made.torrent_path, &made.data);
    tracker.add_peer(made.torrent.info_hash(), seed.address());
    let copy = lab.dir("theirs");
    Aria2Peer::leech(&lab, &made.torrent_path, &copy).wait_finished();
    made.payload.assert_equal_in(&copy);
}

fn from_transmission(payload: Payload) {
    let lab = Lab::open();
    let made = lab.publish(payload, TorrentSpec::pieces_of(256 * KIB));
    let seed = TransmissionPeer::seed(&lab, &made.torrent_path, &made.data);
    we_fetch(&lab, &made, seed.address(), &[]);
}

fn to_transmission(payload: Payload) {
    let lab = Lab::open();
    let made = lab.publish(payload, TorrentSpec::pieces_of(256 * KIB));
    let copy = lab.dir("theirs");
    let mut leech = TransmissionPeer::leech(&lab, &made.torrent_path, &copy);
    let mut seed = CcbtCommand::seed(&made.torrent_path, &made.data).peer(leech.address()).start();
    leech.wait_finished();
    seed.assert_alive();
    made.payload.assert_equal_but_for_empty_files_in(&copy);
}

/// A seed whose file was cut tells which pieces are gone (BEP 54): they are asked of others, and not of it again.
#[test]
fn libtorrent_tells_of_pieces_that_it_has_lost() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("cut.bin", 2 * MIB), TorrentSpec::pieces_of(64 * KIB));
    let rest = lab.dir("whole");
    made.payload.write_to(&rest);
    let cut = LibtorrentPeer::start(&made.torrent_path, &made.data);
    let file = std::fs::File::options().write(true).open(made.data.join("cut.bin")).expect("it is there");
    file.set_len(MIB as u64).expect("a file can be cut");
    let copy = lab.dir("ours");
    let mut ours = CcbtCommand::download(&made.torrent_path, &copy)
        .peer(cut.address())
        .option("--log", "error,ccbt_fast::wire=debug")
        .option("--trace-peer", cut.address().to_string())
        .option("--seed-time", "30")
        .start();
    let half = ours.wait_progress("pieces_done", 16);
    assert_eq!(half["pieces_done"], 16, "there is no more");
    wait_until(PATIENCE, "word of all that is gone", || {
        let words = ours.words();
        (16..32)
            .all(|piece| words.contains(&format!("<- extended lt_donthave (id 7) index {piece}\n")))
            .then_some(())
    });
    let mut whole = LibtorrentPeer::start(&made.torrent_path, &rest);
    whole.connect(ours.address());
    ours.wait_event("finished");
    made.payload.assert_equal_in(&copy);
    assert_eq!(whole.uploaded(), MIB as u64, "what was lost, and no more");
    // Four blocks each, and once more from where nothing had been heard of it yet.
    let words = ours.words();
    let asked = |piece: u32| words.matches(&format!("-> request index {piece} ")).count();
    let often: Vec<usize> = (16..32).map(asked).collect();
    assert!(often.iter().all(|times| *times <= 8), "{often:?}");
    ours.stop();
}

#[test]
fn libtorrent_seeds_one_file_to_us() {
    from_libtorrent(single(), TorrentSpec::pieces_of(256 * KIB), &[]);
}

#[test]
fn libtorrent_seeds_a_tree_to_us() {
    from_libtorrent(tree(), TorrentSpec::pieces_of(64 * KIB), &[]);
}

#[test]
fn we_seed_one_file_to_libtorrent() {
    to_libtorrent(single(), TorrentSpec::pieces_of(256 * KIB));
}

#[test]
fn we_seed_a_tree_to_libtorrent() {
    to_libtorrent(tree(), TorrentSpec::pieces_of(64 * KIB));
}

#[test]
fn aria2_seeds_one_file_to_us() {
    from_aria2(single());
}

#[test]
fn aria2_seeds_a_tree_to_us() {
    from_aria2(tree());
}

#[test]
fn we_seed_one_file_to_aria2() {
    to_aria2(single());
}

#[test]
fn we_seed_a_tree_to_aria2() {
    to_aria2(tree());
}

#[test]
fn transmission_seeds_one_file_to_us() {
    from_transmission(single());
}

#[test]
fn transmission_seeds_a_tree_to_us() {
    from_transmission(tree());
}

#[test]
fn we_seed_one_file_to_transmission() {
    to_transmission(single());
}

#[test]
fn we_seed_a_tree_to_transmission() {
    to_transmission(tree());
}

/// Piece lengths with totals that leave an odd last piece, once shorter than a block and once longer.
const PIECE_SIZES: [(usize, usize); 6] = [
    (16 * KIB, 3 * MIB + 5),
    (32 * KIB, 3 * MIB + 16_385),
    (256 * KIB, 5 * MIB + 1),
    (MIB, 5 * MIB + 300_001),
    (4 * MIB, 13 * MIB + 7),
    (16 * MIB, 40 * MIB + 1),
];

#[test]
fn we_fetch_every_piece_size() {
    for (piece_len, len) in PIECE_SIZES {
        from_libtorrent(Payload::single("odd.bin", len), TorrentSpec::pieces_of(piece_len), &[]);
    }
}

#[test]
fn we_seed_every_piece_size() {
    for (piece_len, len) in PIECE_SIZES {
        to_libtorrent(Payload::single("odd.bin", len), TorrentSpec::pieces_of(piece_len));
    }
}

#[test]
fn whole_pieces_and_tiny_torrents() {
    for len in [1, 2, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 64 * KIB] {
        from_libtorrent(Payload::single("tiny", len), TorrentSpec::pieces_of(16 * KIB), &[]);
    }
    to_libtorrent(Payload::single("byte", 1), TorrentSpec::pieces_of(16 * KIB));
    // One piece that is far longer than the payload.
    to_libtorrent(Payload::single("short", 4097), TorrentSpec::pieces_of(16 * MIB));
}

#[test]
fn every_piece_order_preallocation_and_shard_count_gives_the_same_bytes() {
    let rows: [&[(&str, &str)]; 6] = [
        &[("--piece-selection", "sequential"), ("--preallocate", "full")],
        &[("--piece-selection", "round_robin"), ("--preallocate", "sparse")],
        &[("--piece-selection", "rarest_first"), ("--preallocate", "none")],
        &[("--shards", "1")],
        &[("--shards", "2")],
        &[("--memory", "16")],
    ];
    for row in rows {
        eprintln!("options: {row:?}");
        from_libtorrent(tree(), TorrentSpec::pieces_of(128 * KIB), row);
    }
}

/// Files of a few bytes each: pieces that hold dozens of them, pages shared by several.
fn crumbs() -> Payload {
    let names: Vec<String> = (0..300).map(|n| format!("d{}/e{}/f{n}", n % 7, n % 3)).collect();
    let lens = (0..300).map(|n: usize| (n * 7919) % 4099 * usize::from(!n.is_multiple_of(11)));
    let files: Vec<(&str, usize)> = names.iter().map(String::as_str).zip(lens).collect();
    Payload::tree("crumbs", &files)
}

#[test]
fn hundreds_of_tiny_and_empty_files_both_ways() {
    from_libtorrent(crumbs(), TorrentSpec::pieces_of(64 * KIB), &[]);
    to_libtorrent(crumbs(), TorrentSpec::pieces_of(16 * KIB));
}

#[test]
fn file_sizes_around_the_page_size() {
    let shape = [("p0", 4095), ("p1", 4096), ("p2", 4097), ("p3", 1), ("p4", 8191), ("p5", 511), ("p6", 512)];
    from_libtorrent(Payload::tree("pages", &shape), TorrentSpec::pieces_of(16 * KIB), &[]);
}

#[test]
fn padding_files_are_neither_asked_of_anybody_nor_written() {
    let padded =
        || Payload::tree("padded", &[("a", 10), ("b", 3 * MIB), ("c", 70 * KIB), ("d", 1)]).padded(MIB);
    let sent = from_libtorrent(padded(), TorrentSpec::pieces_of(MIB), &[]);
    // Each file's last block may reach into the padding; without the padding's own blocks this is all.
    let most = 3 * MIB + 96 * KIB + 3 * 16 * KIB;
    assert!(sent <= most as u64, "libtorrent sent {sent} bytes");
    to_libtorrent(padded(), TorrentSpec::pieces_of(MIB));
}

#[test]
fn torrents_made_by_libtorrent_work_the_hybrid_ones_by_their_v1_side() {
    for v1_only in [true, false] {
        let lab = Lab::open();
        let made = lab.publish(tree(), TorrentSpec::pieces_of(64 * KIB));
        let torrent = lab.path().join("theirs.torrent");
        libtorrent_create(&made.data.join("tree"), &torrent, 64 * KIB, v1_only);
        let padded = libtorrent_info(&torrent)["files"].to_string().contains(".pad");
        assert_eq!(padded, !v1_only, "libtorrent pads hybrid torrents");
        let seed = we_seed(&torrent, &made.data);
        let copy = lab.dir("ours");
        CcbtCommand::download(&torrent, &copy).peer(seed.address()).start().wait_done();
        made.payload.assert_equal_in(&copy);
        let copy = lab.dir("theirs");
        let mut leech = LibtorrentPeer::start(&torrent, &copy);
        leech.connect(seed.address());
        leech.wait_finished();
        made.payload.assert_equal_in(&copy);
    }
}

/// BEP 47. Torrents of libtorrent's and of our own.
#[test]
fn symbolic_links_come_as_links() {
    const LINKS: [(&str, &str); 2] = [("tree/deep/up", "../one"), ("tree/folder", "deep")];
    let lab = Lab::open();
    let made = lab.publish(tree(), TorrentSpec::pieces_of(64 * KIB));
    std::fs::create_dir_all(made.data.join("tree/deep")).expect("a folder");
    for (path, text) in LINKS {
        std::os::unix::fs::symlink(text, made.data.join(path)).expect("a link");
    }
    let [theirs, ours] = ["theirs", "ours"].map(|name| lab.path().join(format!("{name}.torrent")));
    let root = made.data.join("tree");
    libtorrent_create_with_links(&root, &theirs, 64 * KIB);
    let words = [root.as_os_str(), "--output".as_ref(), ours.as_os_str(), "--keep-symlinks".as_ref()];
    let (code, _, stderr) = ccbt(["create".as_ref()].into_iter().chain(words));
    assert_eq!(code, 0, "{stderr}");
    for (name, torrent) in [("from theirs", &theirs), ("from ours", &ours)] {
        let (seed, copy) = (LibtorrentPeer::start(torrent, &made.data), lab.dir(name));
        CcbtCommand::download(torrent, &copy).peer(seed.address()).start().wait_done();
        let (code, stdout, _) =
            ccbt(["verify".as_ref(), torrent.as_os_str(), "--output".as_ref(), copy.as_ref()]);
        assert_eq!(code, 0, "{stdout}");
        for (path, text) in LINKS {
            let found = std::fs::read_link(copy.join(path)).expect("a link");
            assert_eq!(found, Path::new(text), "{path}");
        }
        let (code, _, stderr) =
            ccbt(["delete".as_ref(), torrent.as_os_str(), "--dir".as_ref(), copy.as_ref(), "--yes".as_ref()]);
        assert_eq!((code, copy.join("tree").exists()), (0, false), "{stderr}");
    }
}

#[test]
fn what_we_fetched_we_can_seed_without_a_recheck_error() {
    let lab = Lab::open_on_disk();
    let made = lab.publish(tree(), TorrentSpec::pieces_of(32 * KIB));
    let seed = LibtorrentPeer::start(&made.torrent_path, &made.data);
    we_fetch(&lab, &made, seed.address(), &[]);
    drop(seed);
    let ours = we_seed(&made.torrent_path, &lab.dir("ours"));
    let copy = lab.dir("theirs");
    CcbtCommand::download(&made.torrent_path, &copy).peer(ours.address()).start().wait_done();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn others_connect_to_our_download() {
    let lab = Lab::open();
    let made = lab.publish(single(), TorrentSpec::pieces_of(256 * KIB));
    let copy = lab.dir("ours");
    let mut ours = CcbtCommand::download(&made.torrent_path, &copy).start();
    ours.wait_ready();
    let mut seed = LibtorrentPeer::start(&made.torrent_path, &made.data);
    seed.connect(ours.address());
    ours.wait_done();
    made.payload.assert_equal_in(&copy);
    assert!(seed.uploaded() >= made.payload.len() as u64, "the bytes came from the seeder");
}

//! Files that another program cuts, replaces or deletes while they are downloaded or seeded.
//!
//! Nothing wrong is served, and no download ends as finished whose bytes are not there.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use ccbt_tests::PATIENCE;
use ccbt_tests::ccbt::CcbtCommand;
use ccbt_tests::confine::Confinement;
use ccbt_tests::lab::Lab;
use ccbt_tests::payload::Payload;
use ccbt_tests::process::wait_until;
use ccbt_tests::raw_peer::{RawPeer, id};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const PIECE: usize = 128 * KIB;

/// Downloads and lets `meddle` at the one large file when a third has arrived. What follows may be an end with the right
/// bytes, or a stop with a reason that names the file; then starting again ends with the right bytes.
fn meddled(octet: u8, meddle: impl FnOnce(&Path)) {
    let lab = Lab::open_on_disk();
    let made = lab.announce(Payload::straddling("sick", 12 * MIB), TorrentSpec::pieces_of(PIECE));
    let manner = Manner::slow(Duration::from_micros(500));
    let seeder = RawSeeder::start(Ipv4Addr::new(127, 0, 27, octet), &made, manner);
    let copy = lab.dir("copy");
    let start = || CcbtCommand::download(&made.torrent_path, &copy).peer(seeder.address()).start();
    let mut ours = start();
    wait_until(PATIENCE, "a third of the blocks", || (seeder.blocks() >= 256).then_some(()));
    meddle(&copy.join("sick/bulk/ballast.bin"));
    let mut stopped = false;
    wait_until(PATIENCE, "end or error", || {
        stopped = !ours.events("error").is_empty();
        (stopped || !ours.events("finished").is_empty()).then_some(())
    });
    if stopped {
        let message = ours.events("error").pop().expect("just seen")["message"].to_string();
        assert!(message.contains("ballast.bin"), "the file is named: {message}");
        ours.stop();
        start().wait_done();
    } else {
        ours.wait_exit(PATIENCE);
    }
    made.payload.assert_equal_in(&copy);
}

#[test]
fn a_file_cut_while_it_is_downloaded() {
    meddled(30, |path| {
        let file = fs::File::options().write(true).open(path).expect("it is there");
        file.set_len(100_000).expect("a file can be cut");
    });
}

#[test]
fn a_file_deleted_while_it_is_downloaded() {
    meddled(31, |path| fs::remove_file(path).expect("it is there"));
}

#[test]
fn a_file_replaced_while_it_is_downloaded() {
    meddled(32, |path| {
        let other = path.with_file_name("other");
        fs::write(&other, vec![7; 12 * MIB + 4097]).expect("there is space");
        fs::rename(&other, path).expect("one folder");
    });
}

#[test]
fn a_file_replaced_under_a_seed_is_never_served_wrong() {
    let lab = Lab::open_on_disk();
    let made = lab.publish(Payload::single("sick", 64 * PIECE), TorrentSpec::pieces_of(PIECE));
    let mut ours = CcbtCommand::seed(&made.torrent_path, &made.data).start();
    ours.wait_ready();
    let other = made.data.join("other");
    fs::write(&other, vec![7; 64 * PIECE]).expect("there is space");
    fs::rename(&other, made.data.join("sick")).expect("one folder");
    let whole = made.payload.concatenated();
    let mut peer = RawPeer::connect(ours.address());
    peer.handshake(made.torrent.info_hash());
    assert!(peer.become_unchoked());
    for piece in [0_usize, 63, 31] {
        // Nothing at all is as good as the truth.
        let Some(block) = peer.fetch(u32::try_from(piece).expect("small"), 0, 16_384) else { break };
        assert!(block == whole[piece * PIECE..][..16_384], "piece {piece} is as the torrent says");
    }
    ours.assert_alive();
    ours.stop();
}

/// With few descriptors each file is opened again when it is asked for, and may be another one by then.
#[test]
fn files_replaced_under_a_seed_with_few_descriptors_are_never_served_wrong() {
    let lab = Lab::open_on_disk();
    let names: Vec<String> = (0..100).map(|n| format!("d{}/f{n}", n % 7)).collect();
    let files: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), PIECE)).collect();
    let made = lab.publish(Payload::tree("many", &files), TorrentSpec::pieces_of(PIECE));
    let confinement = Confinement::OpenFiles(100);
    let mut ours = CcbtCommand::confined_seed(confinement, &made.torrent_path, &made.data).start();
    ours.wait_ready();
    for index in (0..100).step_by(2) {
        let path = made.payload.path_of(index, &made.data);
        let other = path.with_file_name("other");
        fs::write(&other, vec![7; PIECE]).expect("there is space");
        fs::rename(&other, &path).expect("one folder");
    }
    let whole = made.payload.concatenated();
    let mut peer = RawPeer::connect(ours.address());
    peer.handshake(made.torrent.info_hash());
    assert!(peer.become_unchoked());
    // Ends early when it hangs up.
    let asked = (0..100_u32).take_while(|piece| peer.send_words(id::REQUEST, &[*piece, 0, 16_384], &[]));
    assert!(asked.count() > 0, "it took requests");
    let is_right = |piece: usize, block: &[u8]| {
        assert!(block == &whole[piece * PIECE..][..16_384], "piece {piece} is as the torrent says");
    };
    while let Some(message) = peer.wait_message(id::PIECE) {
        let piece = usize::try_from(message.word(0).expect("a PIECE names one")).expect("u32 fits");
        is_right(piece, &message.payload[8..]);
        if piece == 99 {
            break;
        }
    }
    // It may have hung up to look at all files again. What was left alone is served then.
    wait_until(PATIENCE, "a piece that was left alone", || {
        let mut peer = RawPeer::try_connect_from(Ipv4Addr::new(127, 0, 27, 40), ours.address()).ok()?;
        peer.send_handshake(made.torrent.info_hash());
        peer.read_handshake()?;
        let block = peer.become_unchoked().then(|| peer.fetch(1, 0, 16_384))??;
        is_right(1, &block);
        Some(())
    });
    ours.assert_alive();
    ours.stop();
}

//! What is already there: only the rest is fetched, damage is found, and a kill at any moment costs nothing verified.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use ccbt_tests::PATIENCE;
use ccbt_tests::ccbt::{CcbtCommand, ccbt};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::Payload;
use ccbt_tests::process::wait_until;
use ccbt_tests::raw_peer::{RawPeer, id};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;
use rustix::process::Signal;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const BLOCK: usize = 16 * KIB;

fn honest(ip: u8, made: &Published) -> RawSeeder {
    RawSeeder::start(Ipv4Addr::new(127, 0, 1, ip), made, Manner::default())
}

/// Flips one byte of a file.
fn damage(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("the file is there");
    bytes[at] ^= 0x40;
    fs::write(path, bytes).expect("the file is writable");
}

#[test]
fn only_the_missing_pieces_are_fetched() {
    let lab = Lab::open();
    let piece = 64 * KIB;
    let made = lab.publish(Payload::single("some.bin", 40 * piece), TorrentSpec::pieces_of(piece));
    let copy = lab.dir("copy");
    // Pieces 0 to 9 and 20 to 39 are there, in between are zeros.
    let mut bytes = made.payload.concatenated().to_vec();
    bytes[10 * piece..20 * piece].fill(0);
    fs::write(copy.join("some.bin"), bytes).expect("the lab is writable");
    let seeder = honest(1, &made);
    let mut ours = CcbtCommand::download(&made.torrent_path, &copy).peer(seeder.address()).start();
    let checked = ours.wait_event("checked");
    assert_eq!((checked["good"].as_u64(), checked["total"].as_u64()), (Some(30), Some(40)));
    ours.wait_done();
    made.payload.assert_equal_in(&copy);
    assert_eq!(seeder.blocks(), 10 * piece / BLOCK, "nothing is fetched twice, nothing for what was there");
}

#[test]
fn a_missing_and_a_short_file_of_a_tree_are_completed() {
    let lab = Lab::open();
    let made = lab.publish(Payload::straddling("tree", MIB), TorrentSpec::pieces_of(32 * KIB));
    let copy = lab.dir("copy");
    made.payload.write_to(&copy);
    fs::remove_file(copy.join("tree/one")).expect("it is there");
    let ballast = copy.join("tree/bulk/ballast.bin");
    let file = fs::File::options().write(true).open(&ballast).expect("it is there");
    file.set_len(500_000).expect("a file can be cut");
    let seeder = honest(2, &made);
    CcbtCommand::download(&made.torrent_path, &copy).peer(seeder.address()).start().wait_done();
    made.payload.assert_equal_in(&copy);
    assert!(seeder.blocks() < made.payload.len() / BLOCK, "what was there is kept");
}

/// What stands behind the torrent's bytes is not ours to delete: it stays, and we say so.
#[test]
fn a_file_that_is_too_long_keeps_its_tail() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("long.bin", 300_001), TorrentSpec::pieces_of(32 * KIB));
    let copy = lab.dir("copy");
    let mut bytes = made.payload.concatenated().to_vec();
    bytes[0] ^= 1;
    bytes.extend_from_slice(&[7; 10_000]);
    fs::write(copy.join("long.bin"), bytes).expect("the lab is writable");
    let seeder = honest(3, &made);
    let mut ours = CcbtCommand::download(&made.torrent_path, &copy).peer(seeder.address()).start();
    ours.wait_done();
    let got = fs::read(copy.join("long.bin")).expect("the file is there");
    assert!(got[..300_001] == *made.payload.concatenated(), "the torrent's bytes are right");
    assert!(got[300_001..] == [7; 10_000], "and what follows them is as it was");
    assert!(ours.said(|line| line.contains("long.bin") && line.contains("longer")), "the user is told");
}

#[test]
fn complete_data_needs_no_peer() {
    let lab = Lab::open();
    let made = lab.publish(Payload::straddling("tree", 2 * MIB), TorrentSpec::pieces_of(64 * KIB));
    let mut ours = CcbtCommand::download(&made.torrent_path, &made.data).start();
    let checked = ours.wait_event("checked");
    assert_eq!(checked["good"], checked["total"]);
    ours.wait_done();
    made.payload.assert_equal_in(&made.data);
}

#[test]
fn a_seed_does_not_offer_a_damaged_piece_and_serves_the_rest() {
    let lab = Lab::open();
    let piece = 32 * KIB;
    let made = lab.publish(Payload::single("hurt.bin", 20 * piece + 5), TorrentSpec::pieces_of(piece));
    damage(&made.data.join("hurt.bin"), 7 * piece + 1000);
    let mut ours = CcbtCommand::seed(&made.torrent_path, &made.data).start();
    ours.wait_listening();
    let checked = ours.wait_event("checked");
    assert_eq!((checked["good"].as_u64(), checked["total"].as_u64()), (Some(20), Some(21)));
    let mut peer = RawPeer::connect(ours.address());
    peer.handshake(made.torrent.info_hash());
    let field = peer.wait_message(id::BITFIELD).expect("a partial seed sends its bitfield");
    assert_eq!(field.payload, [0xfe, 0xff, 0xf8], "every piece but number 7");
    assert!(peer.become_unchoked(), "it serves");
    let whole = made.payload.concatenated();
    for number in (0..20).filter(|number| *number != 7) {
        let block = peer.fetch(u32::try_from(number).expect("small"), 16_384, 16_384);
        let at = number * piece + 16_384;
        assert_eq!(block.as_deref(), Some(&whole[at..at + 16_384]), "piece {number}");
    }
    ours.assert_alive();
    ours.stop();
    let last = ours.events("stopped").pop().expect("the last event");
    let cache = last["cache"].clone();
    let read = cache["read_bytes"].as_u64().expect("a number of bytes");
    // Everything was read for the check, and then what was sent.
    let disk = &last["disks"][0];
    assert_eq!(disk["read_bytes"].as_u64(), Some(whole.len() as u64 + read), "{disk}");
    assert_eq!((disk["writes"].as_u64(), disk["errors"].as_u64()), (Some(0), Some(0)), "{disk}");
    // The last piece of 5 bytes may have been foreseen.
    assert!((19 * piece..=19 * piece + 5).contains(&(read as usize)), "each piece was read once: {cache}");
}

#[test]
fn verify_tells_good_from_damaged() {
    let lab = Lab::open();
    let made = lab.publish(Payload::straddling("tree", MIB), TorrentSpec::pieces_of(64 * KIB));
    let verify = || {
        let mut args = vec!["verify".into(), made.torrent_path.clone().into_os_string()];
        args.extend(["--output".into(), made.data.clone().into_os_string()]);
        ccbt(args)
    };
    let (code, stdout, stderr) = verify();
    assert_eq!(code, 0, "{stdout}{stderr}");
    damage(&made.data.join("tree/bulk/ballast.bin"), 400_000);
    let (code, stdout, stderr) = verify();
    assert_eq!(code, 1, "damage is a failure: {stdout}{stderr}");
}

/// Kills a download once it has reported `bytes`, starts it again and compares; what was reported as done is kept.
fn survives_kill(lab: &Lab, made: &Published, bytes: u64, preallocate: &str, sync: &str) {
    let copy = lab.dir(&format!("copy-{preallocate}-{bytes}"));
    let seeder = RawSeeder::start(
        Ipv4Addr::new(127, 0, 1, 9),
        made,
        // Slow enough that the kill meets a transfer under way.
        Manner::slow(Duration::from_micros(2500)),
    );
    let command = || {
        let command = CcbtCommand::download(&made.torrent_path, &copy).peer(seeder.address());
        command.option("--preallocate", preallocate).option("--sync", sync)
    };
    let mut first = command().start();
    let report = first.wait_progress("bytes_done", bytes);
    first.signal(Signal::KILL);
    first.wait_exit(PATIENCE);
    let last = first.events("progress").pop().unwrap_or(report);
    let done = last["pieces_done"].as_u64().expect("progress counts pieces");
    let durable = last["pieces_durable"].as_u64().expect("progress counts durable pieces");
    match sync {
        "piece" => assert_eq!(durable, done, "nothing is claimed before its sync"),
        "none" => assert_eq!((durable, &last["syncs"]), (0, &0.into()), "nothing is synced"),
        _ => assert!(durable <= done),
    }
    let mut second = command().start();
    let checked = second.wait_event("checked");
    let good = checked["good"].as_u64().expect("checked counts pieces");
    assert!(good >= done, "{done} pieces were reported as done, {good} are still good");
    second.wait_done();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn a_killed_download_goes_on_where_it_was() {
    let lab = Lab::open_on_disk();
    let made = lab.announce(Payload::straddling("tree", 12 * MIB), TorrentSpec::pieces_of(128 * KIB));
    for (bytes, preallocate, sync) in [
        (1, "full", "checkpoint"),
        (2_000_000, "sparse", "piece"),
        (3_000_000, "sparse", "checkpoint"),
        (4_000_000, "full", "none"),
        (6_000_000, "none", "piece"),
    ] {
        survives_kill(&lab, &made, bytes, preallocate, sync);
    }
}

#[test]
fn killed_again_and_again_it_still_ends_with_the_right_bytes() {
    let lab = Lab::open();
    let made = lab.announce(Payload::single("cat.bin", 6 * MIB + 9), TorrentSpec::pieces_of(64 * KIB));
    let copy = lab.dir("copy");
    let seeder =
        RawSeeder::start(Ipv4Addr::new(127, 0, 1, 10), &made, Manner::slow(Duration::from_micros(2500)));
    let command = || CcbtCommand::download(&made.torrent_path, &copy).peer(seeder.address());
    let blocks = made.payload.len() / BLOCK;
    for life in 1..=6 {
        let mut ours = command().start();
        // Also in the middle of checking, opening and the first pieces: only the number of blocks sent decides.
        let until = seeder.blocks() + life * 8;
        wait_until(PATIENCE, "blocks before the next kill", || (seeder.blocks() >= until).then_some(()));
        ours.signal(Signal::KILL);
        ours.wait_exit(PATIENCE);
        assert!(seeder.blocks() < 2 * blocks, "earlier lives count");
    }
    command().start().wait_done();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn a_stopped_download_goes_on_without_fetching_twice() {
    let lab = Lab::open();
    let made = lab.announce(Payload::single("stop.bin", 8 * MIB), TorrentSpec::pieces_of(64 * KIB));
    let copy = lab.dir("copy");
    let seeder =
        RawSeeder::start(Ipv4Addr::new(127, 0, 1, 11), &made, Manner::slow(Duration::from_micros(2500)));
    let command = || CcbtCommand::download(&made.torrent_path, &copy).peer(seeder.address());
    let mut first = command().start();
    first.wait_progress("bytes_done", 2 << 20);
    first.stop();
    let mut second = command().start();
    let checked = second.wait_event("checked");
    assert!(checked["good"].as_u64() >= Some(32), "2 MiB were done: {checked}");
    second.wait_done();
    made.payload.assert_equal_in(&copy);
}

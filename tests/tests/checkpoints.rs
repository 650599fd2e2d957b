//! Checkpoints: a download goes on where it was, nothing is claimed that is not there, and nothing is lost that is.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use ccbt_tests::binary::ccbt_fast;
use ccbt_tests::ccbt::{Ccbt, CcbtCommand, ccbt};
use ccbt_tests::lab::Published;
use ccbt_tests::libtorrent::libtorrent_resume;
use ccbt_tests::loopfs::{FsKind, FsSpec, LoopFs};
use ccbt_tests::payload::{Payload, noise};
use ccbt_tests::place::{Place, read_bytes};
use ccbt_tests::process::{Process, wait_until};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::transmission::TransmissionPeer;
use ccbt_tests::{PATIENCE, SOON};
use rustix::process::Signal;
use serde_json::Value;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const BLOCK: usize = 16 * KIB;

/// A seeder at an address of its own that sends a block every 2.5 ms at most.
fn slow(last: u8, made: &Published) -> RawSeeder {
    RawSeeder::start(Ipv4Addr::new(127, 0, 31, last), made, Manner::slow(Duration::from_micros(2500)))
}

fn quick(last: u8, made: &Published) -> RawSeeder {
    RawSeeder::start(Ipv4Addr::new(127, 0, 31, last), made, Manner::default())
}

fn damage(path: &Path, at: u64) {
    let mut file = File::options().read(true).write(true).open(path).expect("the file is there");
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, at).expect("it is long enough");
    file.seek(SeekFrom::Start(at)).expect("files can be sought in");
    file.write_all(&[byte[0] ^ 0x40]).expect("it is writable");
}

#[test]
fn a_stopped_download_goes_on_without_hashing() {
    let place = Place::announced(Payload::single("a.bin", 8 * MIB), 64 * KIB);
    let seeder = slow(1, &place.made);
    place.download_some(&seeder, 2 << 20);
    let begun = partial_pieces(&place) * 64 * KIB as u64;
    let mut ours = place.download(&seeder).start();
    let resumed = ours.wait_event("resumed");
    let pieces = resumed["pieces"].as_u64().expect("a count");
    assert!(pieces >= 32, "2 MiB were there: {resumed}");
    ours.wait_done();
    assert_eq!(ours.events("checked").len(), 0, "nothing was looked at");
    assert!(read_bytes(&ours) <= begun, "begun pieces are read back, and no others");
    place.made.payload.assert_equal_in(&place.copy);
    let wasted = seeder.blocks() - place.made.payload.len() / BLOCK;
    assert!(wasted <= 64, "{wasted} blocks were fetched twice: more than pieces under way");
    // And a finished one is known to be finished.
    let blocks = seeder.blocks();
    let mut again = place.download(&seeder).start();
    again.wait_done();
    assert_eq!((read_bytes(&again), seeder.blocks()), (0, blocks));
}

/// Begun pieces that the checkpoint names.
fn partials(place: &Place) -> Vec<Value> {
    let hash = place.made.torrent.info_hash_hex();
    let (_, shown) = place.checkpoints(&["show", &hash]);
    shown["partial"].as_array().cloned().unwrap_or_default()
}

fn partial_pieces(place: &Place) -> u64 {
    partials(place).len() as u64
}

/// Blocks of begun pieces that the checkpoint names.
fn partial_blocks(place: &Place) -> u64 {
    let partial = partials(place);
    let ones = |blocks: &str| {
        let (_, hex) = blocks.split_once(':').expect("length and digits");
        hex.chars().map(|digit| u64::from(digit.to_digit(16).expect("hexadecimal").count_ones())).sum::<u64>()
    };
    partial.iter().map(|one| ones(one["blocks"].as_str().expect("a set"))).sum()
}

/// Stops a download with large pieces from a slow peer while nothing is complete.
fn stop_within_a_piece(place: &Place, seeder: &RawSeeder, bytes: u64) -> u64 {
    let mut ours = place.download(seeder).start();
    let progress = ours.wait_progress("downloaded", bytes);
    assert_eq!(progress["bytes_done"], 0, "no piece is complete");
    ours.stop();
    partial_blocks(place)
}

#[test]
fn blocks_of_begun_pieces_are_not_fetched_twice() {
    let place = Place::announced(Payload::straddling("tree", 7 * MIB), 4 * MIB);
    // So slow that nothing is complete before the kill, however busy the machine is.
    let address = Ipv4Addr::new(127, 0, 31, 16);
    let seeder = RawSeeder::start(address, &place.made, Manner::slow(Duration::from_millis(10)));
    let kept = stop_within_a_piece(&place, &seeder, 1 << 20);
    assert!(kept >= 64, "1 MiB came: {kept} blocks are kept");
    // Killed within the same piece: nothing has been written since, so the same blocks are there.
    // A file written to a moment ago would get no mark.
    thread::sleep(Duration::from_millis(2100));
    let before = seeder.blocks();
    let mut second = place.download(&seeder).start();
    second.wait_progress("downloaded", 256 << 10);
    second.signal(Signal::KILL);
    second.wait_exit(SOON);
    let lost = seeder.blocks() - before;
    assert_eq!(partial_blocks(&place), kept);
    let mut third = place.download(&seeder).start();
    third.wait_event("resumed");
    third.wait_done();
    place.made.payload.assert_equal_in(&place.copy);
    let twice = seeder.blocks() - place.made.payload.len().div_ceil(BLOCK);
    assert!(twice <= lost + 64, "{twice} blocks were fetched twice, {lost} of them lost in the kill");
    assert_eq!(partial_blocks(&place), 0);
}

/// The checkpoint knows length and time of a file, but not what is in it.
#[test]
fn a_wrong_block_of_an_earlier_run_is_fetched_again_and_nobody_is_banned() {
    let place = Place::announced(Payload::single("a.bin", 6 * MIB), 3 * MIB);
    let seeder = slow(17, &place.made);
    let command = || place.download(&seeder).option("--piece-selection", "sequential");
    let mut first = command().start();
    first.wait_progress("downloaded", 1 << 20);
    first.stop();
    assert!(partial_blocks(&place) >= 64);
    let file = place.copy.join("a.bin");
    let time = fs::metadata(&file).and_then(|found| found.modified()).expect("it is there");
    damage(&file, 5 * BLOCK as u64 + 3);
    File::options().write(true).open(&file).and_then(|file| file.set_modified(time)).expect("it is ours");
    let before = seeder.blocks();
    let mut ours = command().start();
    ours.wait_done();
    place.made.payload.assert_equal_in(&place.copy);
    let last = ours.events("progress").pop().expect("some");
    assert_eq!((last["hash_failures"].as_u64(), last["banned"].as_u64()), (Some(1), Some(0)), "{last}");
    assert!(seeder.blocks() - before <= (6 + 3) * MIB / BLOCK, "the piece is fetched once more at most");
    // Another time, and nothing is taken from it.
    fs::remove_file(&file).expect("it is there");
    stop_within_a_piece(&place, &seeder, 1 << 20);
    damage(&file, 5 * BLOCK as u64 + 3);
    let mut ours = command().start();
    ours.wait_done();
    place.made.payload.assert_equal_in(&place.copy);
    let last = ours.events("progress").pop().expect("some");
    assert_eq!(last["hash_failures"].as_u64(), Some(0), "{last}");
}

#[test]
fn resume_needs_an_info_hash_and_nothing_else() {
    let place = Place::announced(Payload::straddling("tree", 6 * MIB), 64 * KIB);
    let seeder = slow(2, &place.made);
    let mut first = place.download(&seeder).option("--rename", "0=elsewhere/first.bin").start();
    first.wait_progress("bytes_done", 1 << 20);
    first.stop();
    let begun = partial_pieces(&place) * 64 * KIB as u64;
    fs::remove_file(&place.made.torrent_path).expect("it is there");
    let hash = place.made.torrent.info_hash_hex();
    let mut ours = CcbtCommand::resume(&hash[..8], &place.store).peer(seeder.address()).start();
    ours.wait_event("resumed");
    ours.wait_done();
    assert!(read_bytes(&ours) <= begun, "begun pieces are read back, and no others");
    let moved = place.copy.join("elsewhere/first.bin");
    assert_eq!(fs::read(&moved).expect("it has its other name still").len(), 300_001);
    fs::rename(moved, place.made.payload.path_of(0, &place.copy)).expect("both are in the copy");
    place.made.payload.assert_equal_in(&place.copy);
    let (code, _, stderr) = ccbt([
        "resume",
        "0123456789012345678901234567890123456789",
        "--checkpoint-dir",
        place.store.to_str().expect("plain"),
    ]);
    assert!(code == 2 && stderr.contains("checkpoints list"), "{code}: {stderr}");
}

#[test]
fn only_what_has_changed_is_hashed() {
    let sizes = [("a", MIB), ("b", MIB), ("c", MIB), ("d", 6 * MIB)];
    let place = Place::announced(Payload::tree("t", &sizes), 64 * KIB);
    let seeder = slow(3, &place.made);
    let mut first = place.download(&seeder).option("--piece-selection", "sequential").start();
    first.wait_progress("bytes_done", 4 << 20);
    first.stop();
    let before = seeder.blocks();
    let begun = partial_pieces(&place) * 64 * KIB as u64;
    damage(&place.copy.join("t/b"), 70_000);
    let mut ours = place.download(&seeder).start();
    ours.wait_event("resumed");
    ours.wait_done();
    let read = read_bytes(&ours);
    assert!(
        (MIB as u64..=MIB as u64 + begun).contains(&read),
        "{read}: the changed file is read, and begun pieces"
    );
    place.made.payload.assert_equal_in(&place.copy);
    let sent = seeder.blocks() - before;
    assert!(sent <= (5 * MIB + 64 * KIB) / BLOCK + 64, "one piece more than what was missing: {sent}");
}

#[test]
fn a_damaged_checkpoint_costs_a_look_and_nothing_else() {
    let place = Place::announced(Payload::single("a.bin", 8 * MIB), 64 * KIB);
    let seeder = slow(4, &place.made);
    let command = || place.download(&seeder).option("--checkpoint-interval", "0.2");
    let mut first = command().start();
    first.wait_progress("bytes_done", 2 << 20);
    first.stop();
    assert!(place.file("ckpt.bak").exists(), "several were written");
    // The one before is taken: its file has changed since, so it is hashed.
    damage(&place.file("ckpt"), 60);
    let mut second = command().start();
    second.wait_event("resumed");
    let checked = second.wait_event("checked");
    assert!(checked["good"].as_u64() >= Some(32), "{checked}");
    assert!(second.said(|line| line.contains("the one before it")), "the user is told");
    second.stop();
    // None is left.
    for ending in ["ckpt", "ckpt.bak"] {
        fs::write(place.file(ending), b"nonsense").expect("writable");
    }
    let mut third = command().start();
    let checked = third.wait_event("checked");
    assert!(checked["good"].as_u64() >= Some(32), "{checked}");
    third.wait_done();
    assert!(third.events("resumed").is_empty());
    place.made.payload.assert_equal_in(&place.copy);
    let wasted = seeder.blocks() - place.made.payload.len() / BLOCK;
    assert!(wasted <= 2 * 64, "{wasted} blocks were fetched twice");
}

#[test]
fn another_torrents_checkpoint_is_not_taken() {
    let place = Place::announced(Payload::single("a.bin", 2 * MIB), 64 * KIB);
    let seeder = quick(5, &place.made);
    place.download(&seeder).start().wait_done();
    let other = place.lab.dir("other");
    let payload = Payload::single("b.bin", 2 * MIB);
    let made = place.lab.announce(payload, TorrentSpec::pieces_of(64 * KIB));
    let hash = made.torrent.info_hash_hex();
    fs::copy(place.file("ckpt"), place.store.join(format!("{hash}.ckpt"))).expect("copied");
    let seeder = quick(6, &made);
    let command = CcbtCommand::download(&made.torrent_path, &other).peer(seeder.address());
    let mut ours = command.checkpoints(&place.store).start();
    ours.wait_done();
    assert!(ours.events("resumed").is_empty());
    made.payload.assert_equal_in(&other);
}

#[test]
fn without_checkpoints_nothing_is_kept() {
    let place = Place::announced(Payload::single("a.bin", MIB), 64 * KIB);
    let seeder = quick(7, &place.made);
    CcbtCommand::download(&place.made.torrent_path, &place.copy).peer(seeder.address()).start().wait_done();
    assert!(!place.store.exists());
}

#[test]
fn a_full_disk_of_checkpoints_does_not_stop_a_download() {
    let place = Place::announced(Payload::single("a.bin", 8 * MIB), 64 * KIB);
    let Some(disk) = LoopFs::mount(&place.lab, FsSpec::new(FsKind::Tmpfs, 0).size(MIB as u64)) else {
        return;
    };
    let ballast = disk.fill(0);
    let seeder = slow(8, &place.made);
    let command = CcbtCommand::download(&place.made.torrent_path, &place.copy).peer(seeder.address());
    let command = command.option("--checkpoint-interval", "0.1").checkpoints(disk.path());
    let mut ours = command.start();
    ours.wait_progress("bytes_done", 2 << 20);
    let notes = |ours: &Ccbt, part: &str| {
        let notes = ours.events("note");
        notes.iter().filter(|note| note["message"].as_str().is_some_and(|text| text.contains(part))).count()
    };
    assert_eq!(notes(&ours, "no checkpoint can be written"), 1, "it is told once");
    fs::remove_file(ballast).expect("it is there");
    wait_until(PATIENCE, "word that they are written again", || {
        (notes(&ours, "checkpoints are written again") == 1).then_some(())
    });
    ours.wait_done();
    place.made.payload.assert_equal_in(&place.copy);
}

#[test]
fn commands_list_compare_and_carry_checkpoints() {
    let place = Place::announced(Payload::single("a.bin", 4 * MIB), 64 * KIB);
    let seeder = slow(9, &place.made);
    let hash = place.made.torrent.info_hash_hex();
    assert_eq!(place.checkpoints(&["list"]).1["checkpoints"], Value::Array(Vec::new()));
    place.download_some(&seeder, 1 << 20);
    let (_, listed) = place.checkpoints(&["list"]);
    assert_eq!(listed["checkpoints"][0]["info_hash"], *hash);
    assert!(listed["checkpoints"][0]["bytes_done"].as_u64() >= Some(1 << 20), "{listed}");
    let (_, shown) = place.checkpoints(&["show", &hash]);
    assert_eq!(shown["output"], place.copy.to_str().expect("plain"));
    assert_eq!(shown["peers"][0], seeder.address().to_string(), "peers are kept");
    let (code, verified) = place.checkpoints(&["verify"]);
    assert_eq!((code, verified["checkpoints"][0]["doubtful"].as_u64()), (0, Some(0)), "{verified}");
    let file = place.lab.path().join("exported.json");
    place.checkpoints(&["export", &hash, file.to_str().expect("plain")]);
    damage(&place.copy.join("a.bin"), 5);
    let (code, verified) = place.checkpoints(&["verify", &hash[..6]]);
    assert!(code == 1 && verified["checkpoints"][0]["doubtful"].as_u64() >= Some(16), "{verified}");
    assert_eq!(place.checkpoints(&["clean", "--days", "1"]).1["removed"], Value::Array(Vec::new()));
    assert_eq!(place.checkpoints(&["delete", &hash]).1["removed"][0], *hash);
    assert!(!place.file("ckpt").exists() && !place.file("torrent").exists());
    let (code, imported) = place.checkpoints(&["import", file.to_str().expect("plain")]);
    assert_eq!((code, &imported["imported"][0]["info_hash"]), (0, &Value::from(hash.as_str())));
    assert_eq!(place.checkpoints(&["clean", "--days", "0"]).1["removed"][0], *hash);
}

#[test]
fn a_terminal_is_asked() {
    let place = Place::announced(Payload::single("a.bin", 4 * MIB), 64 * KIB);
    let seeder = slow(10, &place.made);
    place.download_some(&seeder, 1 << 20);
    for (answer, hashes) in [("n", true), ("y", false)] {
        // `script` runs it on a terminal of its own.
        let line = format!(
            "{} download {} --output {} --checkpoint-dir {} --no-tracker --bind 127.0.0.1 --port 0 --seed-time 0",
            ccbt_fast().display(),
            place.made.torrent_path.display(),
            place.copy.display(),
            place.store.display(),
        );
        let mut terminal =
            Process::start("script", Command::new("script").args(["-qec", &line, "/dev/null"]));
        // The question itself has no end of line.
        wait_until(SOON, "question", || terminal.stdout().contains("a checkpoint of a.bin").then_some(()));
        terminal.tell(answer);
        let word = if hashes { "pieces are good" } else { "going on from the checkpoint" };
        wait_until(SOON, word, || terminal.stdout().contains(word).then_some(()));
        assert_eq!(terminal.stdout().contains("going on from the checkpoint"), !hashes);
        // Ctrl-C.
        terminal.tell("\x03");
        terminal.wait_exit(SOON);
    }
}

// ---- kill -9

/// Blocks that a kill may cost: pieces that were on the way, or verified and not written yet.
const UNDER_WAY: usize = 64;
const KILLS: usize = 110;

/// Kills a download of many small pieces at random moments, again and again, also while a checkpoint is written, and
/// now and then changes a byte while nobody looks.
#[test]
fn killed_at_any_moment_nothing_is_lost_and_nothing_claimed() {
    killed(KILLS, 11, 0x6b69_6c6c);
}

/// The same with more kills, at other moments.
#[test]
#[ignore = "takes minutes: make crash"]
fn crash_two_hundred_kills() {
    killed(200, 15, 0x6b69_6c6d);
}

fn killed(kills_in_all: usize, last: u8, seed: u64) {
    let place =
        Place::announced(Payload::tree("t", &[("a", 5 * MIB + 77), ("b", 9), ("c", 3 * MIB)]), 32 * KIB);
    let pause = Manner::slow(Duration::from_micros(600));
    let seeder = RawSeeder::start(Ipv4Addr::new(127, 0, 31, last), &place.made, pause);
    let command = || {
        let command = place.download(&seeder).option("--checkpoint-interval", "0.02");
        command.option("--checkpoint-pieces", "1")
    };
    let total = place.made.payload.len().div_ceil(BLOCK);
    let mut random = noise(seed, 8 * kills_in_all).into_iter();
    let (mut before, mut kills, mut tampered, mut resumed) = (0, 0, 0, 0);
    for round in 0..kills_in_all {
        let mut next = || usize::from(random.next().expect("enough of them"));
        let mut ours = command().start();
        thread::sleep(Duration::from_millis((next() * 2) as u64));
        ours.signal(Signal::KILL);
        ours.wait_exit(SOON);
        (kills, resumed) = (kills + 1, resumed + ours.events("resumed").len());
        let file = place.copy.join("t/a");
        if round % 7 == 6 && fs::metadata(&file).is_ok_and(|found| found.len() > 2 << 20) {
            damage(&file, (next() << 12) as u64);
            tampered += 1;
        }
        let finished = ours.events("finished").len() == 1;
        if round % 25 == 24 || finished {
            command().start().wait_done();
            place.made.payload.assert_equal_in(&place.copy);
            let sent = seeder.blocks() - before;
            let spare = sent - total.min(sent);
            // A changed byte costs its piece.
            let allowed = kills * UNDER_WAY + tampered * 2;
            assert!(sent >= total && spare <= allowed, "{spare} blocks fetched twice after {kills} kills");
            println!("{kills} kills, {tampered} changes: {spare} blocks of {total} fetched twice");
            (before, kills, tampered) = (seeder.blocks(), 0, 0);
            fs::remove_dir_all(&place.copy).expect("it can be removed");
            fs::create_dir(&place.copy).expect("it can be made");
        }
    }
    assert!(resumed > kills_in_all / 2, "most lives began with a checkpoint: {resumed}");
}

/// A power cut takes what was not synced, and checkpoints lie on another disk that keeps all.
#[test]
fn a_power_cut_leaves_nothing_claimed_that_is_gone() {
    let place = Place::announced(Payload::straddling("tree", 8 * MIB), 32 * KIB);
    let Some(mut disk) = LoopFs::mount(&place.lab, FsSpec::new(FsKind::Ext4, 512)) else { return };
    let seeder = slow(12, &place.made);
    for bytes in [1 << 20, 3 << 20, 5 << 20] {
        let copy = disk.dir("copy");
        let command = CcbtCommand::download(&place.made.torrent_path, &copy).peer(seeder.address());
        let command = command.option("--checkpoint-interval", "0.1").checkpoints(&place.store);
        let mut ours = command.start();
        ours.wait_progress("bytes_done", bytes);
        disk.cut_power();
        ours.signal(Signal::KILL);
        ours.wait_exit(SOON);
        drop(ours);
        disk.remount_afresh();
    }
    let copy = disk.dir("copy");
    let command = CcbtCommand::download(&place.made.torrent_path, &copy).peer(seeder.address());
    command.checkpoints(&place.store).start().wait_done();
    place.made.payload.assert_equal_in(&copy);
}

// ---- other clients

/// A copy of which the first half is there, and a hole in the place of the rest.
fn half(place: &Place) {
    let bytes = place.made.payload.concatenated();
    let mut file = File::create(place.copy.join("a.bin")).expect("the lab is writable");
    file.write_all(&bytes[..bytes.len() / 2]).expect("the lab is writable");
    file.set_len(bytes.len() as u64).expect("files can grow");
}

/// Imports and completes: what the other client had is neither hashed nor fetched.
fn goes_on_from(place: &Place, resume: &Path, last: u8) {
    let (code, imported) = place.checkpoints(&["import", resume.to_str().expect("plain")]);
    let one = &imported["imported"][0];
    assert_eq!(code, 0, "{imported}");
    assert_eq!((one["pieces_done"].as_u64(), one["doubtful"].as_u64()), (Some(32), Some(0)), "{imported}");
    assert_eq!(one["output"], place.copy.to_str().expect("plain"));
    let seeder = quick(last, &place.made);
    let hash = place.made.torrent.info_hash_hex();
    let mut ours = CcbtCommand::resume(&hash, &place.store).peer(seeder.address()).start();
    ours.wait_done();
    assert_eq!((ours.events("checked").len(), read_bytes(&ours)), (0, 0), "nothing was hashed");
    assert_eq!(seeder.blocks(), 2 * MIB / BLOCK, "and only what was missing fetched");
    assert_eq!(fs::read(place.copy.join("a.bin")).expect("there"), *place.made.payload.concatenated());
}

#[test]
fn libtorrents_resume_data_is_taken_over() {
    let place = Place::announced(Payload::single("a.bin", 4 * MIB), 64 * KIB);
    half(&place);
    let backup = place.lab.dir("BT_backup");
    let hash = place.made.torrent.info_hash_hex();
    fs::copy(&place.made.torrent_path, backup.join(format!("{hash}.torrent"))).expect("copied");
    libtorrent_resume(&place.made.torrent_path, &place.copy, &backup.join(format!("{hash}.fastresume")));
    goes_on_from(&place, &backup, 13);
}

#[test]
fn transmissions_resume_file_is_taken_over() {
    let place = Place::announced(Payload::single("a.bin", 4 * MIB), 64 * KIB);
    half(&place);
    let peer = TransmissionPeer::leech(&place.lab, &place.made.torrent_path, &place.copy);
    let config = peer.stop_when_checked();
    // Incomplete files get an ending.
    let partial = place.copy.join("a.bin.part");
    if partial.exists() {
        fs::rename(partial, place.copy.join("a.bin")).expect("both are in the copy");
    }
    goes_on_from(&place, &config.join("resume"), 14);
}

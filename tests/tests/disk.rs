//! Disks that are full, read-only or strewn with obstacles, and files that change under a seed.
//!
//! The tests that mount a RAM file system need root and print why when they cannot run.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use ccbt_tests::PATIENCE;
use ccbt_tests::ccbt::CcbtCommand;
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::loopfs::{FsKind, FsSpec, LoopFs};
use ccbt_tests::payload::{Payload, files_below};
use ccbt_tests::raw_peer::{RawPeer, id};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;
use rustix::fs::{CWD, FileType, Mode, mknodat};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A RAM file system of limited size; says why and gives `None` where mounting is not allowed.
fn ram_disk(lab: &Lab, bytes: usize) -> Option<LoopFs> {
    LoopFs::mount(lab, FsSpec::new(FsKind::Tmpfs, 0).size(bytes as u64))
}

fn seeder(last: u8, made: &Published) -> RawSeeder {
    RawSeeder::start(Ipv4Addr::new(127, 0, 12, last), made, Manner::default())
}

/// Downloads 12 MiB to a disk of 6 MiB: it pauses, keeps what it has, and goes on when there is space.
fn pauses_when_full(last: u8, preallocate: &str) {
    let lab = Lab::open();
    let Some(disk) = ram_disk(&lab, 6 * MIB) else { return };
    let made = lab.announce(Payload::straddling("tree", 12 * MIB), TorrentSpec::pieces_of(128 * KIB));
    let seeder = seeder(last, &made);
    let mut ours = CcbtCommand::download(&made.torrent_path, disk.path())
        .peer(seeder.address())
        .option("--preallocate", preallocate)
        .start();
    let error = ours.wait_event("error");
    let message = error["message"].as_str().expect("the message is text");
    assert!(message.contains("space"), "the cause is named: {message}");
    assert!(message.contains("tree"), "the file is named: {message}");
    assert_eq!(error["retry"], true, "it will go on by itself");
    ours.assert_alive();
    disk.resize(64 << 20);
    ours.wait_done();
    made.payload.assert_equal_in(disk.path());
    let blocks = made.payload.len().div_ceil(16 * KIB);
    let sent = seeder.blocks();
    // Pieces in flight when the disk filled up may be fetched again, what was written may not.
    assert!(sent < blocks + blocks / 2, "{sent} blocks were sent for {blocks}");
}

#[test]
fn a_full_disk_pauses_a_sparse_download() {
    pauses_when_full(1, "sparse");
}

#[test]
fn a_full_disk_pauses_a_download_without_preallocation() {
    pauses_when_full(2, "none");
}

#[test]
fn a_full_disk_is_noticed_by_the_preallocation() {
    pauses_when_full(3, "full");
}

#[test]
fn what_was_verified_before_the_disk_was_full_survives_a_restart() {
    let lab = Lab::open();
    let Some(disk) = ram_disk(&lab, 6 * MIB) else { return };
    let made = lab.announce(Payload::single("file.bin", 12 * MIB), TorrentSpec::pieces_of(128 * KIB));
    let seeder = seeder(4, &made);
    let command = || {
        let command = CcbtCommand::download(&made.torrent_path, disk.path()).peer(seeder.address());
        command.option("--preallocate", "none")
    };
    let mut first = command().start();
    first.wait_event("error");
    first.stop();
    disk.resize(64 << 20);
    let mut second = command().start();
    let good = second.wait_event("checked")["good"].as_u64().expect("checked counts pieces");
    assert!(good >= 24, "3 MiB of the 6 at least were written and verified, but {good} pieces are good");
    second.wait_done();
    made.payload.assert_equal_in(disk.path());
}

#[test]
fn a_read_only_disk_is_refused_by_name() {
    let lab = Lab::open();
    let Some(disk) = ram_disk(&lab, 64 * MIB) else { return };
    disk.set_read_only(true).expect("nothing is open");
    refused(&lab, disk.path(), &["ead-only", "mount-0"]);
}

/// Downloads into `output` (with something in the way) and demands an end with a failure, or an error event of a
/// download that waits; what it says contains all of `names`.
fn refused(lab: &Lab, output: &Path, names: &[&str]) {
    let made = lab.announce(Payload::straddling("tree", MIB), TorrentSpec::pieces_of(64 * KIB));
    let seeder = seeder(100, &made);
    let mut ours = CcbtCommand::download(&made.torrent_path, output).peer(seeder.address()).start();
    let code = ours.wait_end_or_error();
    assert!(matches!(code, None | Some(1 | 2)), "a failure of the run or of its arguments, not {code:?}");
    let words = ours.words();
    for name in names {
        assert!(words.contains(name), "it names {name:?}");
    }
    assert!(!words.contains("panicked"), "no panic");
    assert!(ours.events("finished").is_empty(), "it is not finished");
}

#[test]
fn an_output_folder_that_is_a_file() {
    let lab = Lab::open();
    let output = lab.file("taken", b"precious");
    refused(&lab, &output, &["taken"]);
    assert_eq!(fs::read(&output).expect("it is still there"), b"precious");
}

#[test]
fn an_output_folder_below_a_file() {
    let lab = Lab::open();
    let file = lab.file("taken", b"precious");
    refused(&lab, &file.join("below"), &["taken"]);
}

#[test]
fn a_folder_where_a_file_belongs() {
    let lab = Lab::open();
    let output = lab.dir("copy");
    fs::create_dir_all(output.join("tree/last/tail.bin")).expect("the lab is writable");
    refused(&lab, &output, &["tail.bin"]);
}

#[test]
fn a_file_where_a_folder_belongs() {
    let lab = Lab::open();
    let output = lab.dir("copy");
    fs::create_dir(output.join("tree")).expect("the lab is writable");
    fs::write(output.join("tree/bulk"), b"precious").expect("the lab is writable");
    refused(&lab, &output, &["bulk"]);
    assert_eq!(fs::read(output.join("tree/bulk")).expect("it is still there"), b"precious");
}

#[test]
fn a_fifo_where_a_file_belongs_hangs_nobody() {
    let lab = Lab::open();
    let output = lab.dir("copy");
    fs::create_dir(output.join("tree")).expect("the lab is writable");
    mknodat(CWD, output.join("tree/one"), FileType::Fifo, Mode::from(0o600), 0)
        .expect("a fifo needs no privilege");
    refused(&lab, &output, &["one"]);
}

#[test]
fn symbolic_links_that_lead_outside_are_not_followed() {
    for (link, is_folder) in [("tree", true), ("tree/bulk", true), ("tree/last/tail.bin", false)] {
        let lab = Lab::open();
        let (output, outside) = (lab.dir("copy"), lab.dir("outside"));
        let victim = outside.join("victim");
        fs::write(&victim, b"precious").expect("the lab is writable");
        let at = output.join(link);
        fs::create_dir_all(at.parent().expect("it has one")).expect("the lab is writable");
        symlink(if is_folder { &outside } else { &victim }, &at).expect("links need no privilege");
        let name = at.file_name().and_then(|name| name.to_str()).expect("it has a plain name");
        refused(&lab, &output, &[name]);
        assert_eq!(
            files_below(&outside),
            std::slice::from_ref(&victim),
            "nothing is made behind the link {link}"
        );
        assert_eq!(fs::read(&victim).expect("it is still there"), b"precious", "link {link}");
    }
}

#[test]
fn a_dangling_link_creates_nothing_at_its_target() {
    let lab = Lab::open();
    let (output, outside) = (lab.dir("copy"), lab.dir("outside"));
    fs::create_dir(output.join("tree")).expect("the lab is writable");
    symlink(outside.join("new"), output.join("tree/one")).expect("links need no privilege");
    refused(&lab, &output, &["one"]);
    assert!(files_below(&outside).is_empty(), "nothing is made behind the link");
}

#[test]
fn an_output_folder_reached_by_a_link_is_the_users_choice() {
    let lab = Lab::open();
    let made = lab.announce(Payload::straddling("tree", MIB), TorrentSpec::pieces_of(64 * KIB));
    let seeder = seeder(5, &made);
    let (real, link) = (lab.dir("real"), lab.path().join("link"));
    symlink(&real, &link).expect("links need no privilege");
    CcbtCommand::download(&made.torrent_path, &link).peer(seeder.address()).start().wait_done();
    made.payload.assert_equal_in(&real);
}

#[test]
fn a_file_cut_short_under_a_seed_is_never_served_wrong() {
    let lab = Lab::open();
    let piece = 64 * KIB;
    let made = lab.publish(Payload::single("cut.bin", 64 * piece), TorrentSpec::pieces_of(piece));
    let mut ours = CcbtCommand::seed(&made.torrent_path, &made.data).start();
    ours.wait_ready();
    let whole = made.payload.concatenated();
    let mut peer = RawPeer::connect(ours.address());
    peer.handshake(made.torrent.info_hash());
    assert!(peer.become_unchoked());
    assert_eq!(peer.fetch(0, 0, 16_384).as_deref(), Some(&whole[..16_384]));
    let path = made.data.join("cut.bin");
    let file = fs::File::options().write(true).open(&path).expect("it is there");
    file.set_len(40 * piece as u64).expect("a file can be cut");
    // Far from what was read before, and so in no cache; then one that is whole.
    peer.send_words(id::REQUEST, &[63, 0, 16_384], &[]);
    peer.send_words(id::REQUEST, &[30, 0, 16_384], &[]);
    loop {
        let Some(message) = peer.wait_message(id::PIECE) else {
            // Closed: then a second connection gets what is whole.
            let mut second = RawPeer::connect(ours.address());
            second.handshake(made.torrent.info_hash());
            assert!(second.become_unchoked());
            let at = 30 * piece;
            assert_eq!(second.fetch(30, 0, 16_384).as_deref(), Some(&whole[at..at + 16_384]));
            break;
        };
        let number = message.word(0).expect("a PIECE names one");
        let at = usize::try_from(number).expect("u32 fits") * piece;
        assert_eq!(message.payload[8..], whole[at..at + 16_384], "piece {number}");
        if number == 30 {
            break;
        }
    }
    // The file was looked at again: what is behind the cut is not offered any more.
    ours.wait_json("second check", |event| {
        (event["event"] == "checked" && event["good"] == 40 && event["total"] == 64).then_some(())
    });
    ours.assert_alive();
}

/// Lets a download get half way, does something to its file, and demands the right bytes in the end.
fn recovers_from(last: u8, change: impl FnOnce(&Path)) {
    let lab = Lab::open();
    let made = lab.announce(Payload::single("file.bin", 6 * MIB), TorrentSpec::pieces_of(64 * KIB));
    let seeder =
        RawSeeder::start(Ipv4Addr::new(127, 0, 12, last), &made, Manner::slow(Duration::from_millis(2)));
    let copy = lab.dir("copy");
    let mut ours = CcbtCommand::download(&made.torrent_path, &copy)
        .peer(seeder.address())
        .option("--sync", "piece")
        .start();
    ours.wait_progress("pieces_durable", 32);
    change(&copy.join("file.bin"));
    let error = ours.wait_event("error");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("file.bin")), "{error}");
    assert_eq!(error["retry"], true);
    ours.wait_event("recovered");
    ours.wait_done();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn a_file_deleted_under_a_download_is_fetched_again() {
    recovers_from(9, |path| fs::remove_file(path).expect("it is there"));
}

#[test]
fn a_file_replaced_under_a_download_is_fetched_again() {
    recovers_from(10, |path| {
        fs::remove_file(path).expect("it is there");
        fs::write(path, b"something else").expect("the lab is writable");
    });
}

#[test]
fn a_file_cut_under_a_download_is_fetched_again_behind_the_cut() {
    recovers_from(11, |path| {
        let file = fs::File::options().write(true).open(path).expect("it is there");
        file.set_len(100_000).expect("a file can be cut");
    });
}

#[test]
fn a_file_that_may_not_be_written_is_refused_by_name() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root may write every file");
        return;
    }
    let lab = Lab::open();
    let output = lab.dir("copy");
    let path = output.join("tree/one");
    fs::create_dir(output.join("tree")).expect("the lab is writable");
    fs::write(&path, b"1").expect("the lab is writable");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).expect("it is ours");
    refused(&lab, &output, &["one", "permission"]);
}

#[test]
fn a_sparse_file_is_completed() {
    let lab = Lab::open_on_disk();
    let piece = 64 * KIB;
    let made = lab.announce(Payload::single("file.bin", 40 * piece + 5), TorrentSpec::pieces_of(piece));
    let copy = lab.dir("copy");
    let file = fs::File::create(copy.join("file.bin")).expect("the lab is writable");
    file.set_len(made.payload.len() as u64).expect("it can be made longer");
    let whole = made.payload.concatenated();
    file.write_all_at(&whole[5 * piece..12 * piece], 5 * piece as u64).expect("the lab is writable");
    let seeder = seeder(12, &made);
    let mut ours = CcbtCommand::download(&made.torrent_path, &copy).peer(seeder.address()).start();
    let checked = ours.wait_event("checked");
    assert_eq!((checked["good"].as_u64(), checked["total"].as_u64()), (Some(7), Some(41)));
    ours.wait_done();
    made.payload.assert_equal_in(&copy);
    assert_eq!(seeder.blocks(), (33 * piece + 5).div_ceil(16 * KIB), "nothing is fetched twice");
}

#[test]
fn deleted_files_end_a_seed_in_no_crash() {
    let lab = Lab::open();
    let made = lab.publish(Payload::straddling("tree", 4 * MIB), TorrentSpec::pieces_of(64 * KIB));
    let mut ours = CcbtCommand::seed(&made.torrent_path, &made.data).start();
    ours.wait_ready();
    fs::remove_dir_all(made.data.join("tree")).expect("the lab is writable");
    let mut peer = RawPeer::connect(ours.address());
    peer.handshake(made.torrent.info_hash());
    assert!(peer.become_unchoked());
    peer.send_words(id::REQUEST, &[20, 0, 16_384], &[]);
    drop(peer);
    ours.assert_alive();
    ours.stop();
}

#[test]
fn nothing_is_left_behind_but_the_payload() {
    let lab = Lab::open();
    let made = lab.announce(Payload::straddling("tree", MIB), TorrentSpec::pieces_of(64 * KIB));
    for (last, preallocate) in [(6, "full"), (7, "sparse"), (8, "none")] {
        let seeder = seeder(last, &made);
        let copy = lab.dir(preallocate);
        let command = CcbtCommand::download(&made.torrent_path, &copy).peer(seeder.address());
        let mut ours = command.option("--preallocate", preallocate).start();
        ours.wait_exit(PATIENCE);
        // Lengths and contents of every file, and no stranger among them.
        made.payload.assert_equal_in(&copy);
    }
}

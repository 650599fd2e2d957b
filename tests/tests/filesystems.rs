//! The whole way (download, verify, seed) on ext4, xfs, btrfs and tmpfs, on sectors of 512 and 4096 bytes; and kills.
//!
//! Needs root and loop devices; where they are missing each test prints why and ends.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ccbt_tests::PATIENCE;
use ccbt_tests::ccbt::{CcbtCommand, verified};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::libtorrent::LibtorrentPeer;
use ccbt_tests::loopfs::{FsKind, FsSpec, LoopFs};
use ccbt_tests::payload::{Payload, noise};
use ccbt_tests::process::{Process, wait_until};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;
use rustix::process::Signal;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const PREALLOCATIONS: [&str; 3] = ["full", "sparse", "none"];
/// Smaller files may lie inside metadata, where blocks are not counted as elsewhere.
const COUNTED_LEN_MIN: u64 = 64 << 10;

/// Sizes around sectors and pages, so that nearly every file starts at an odd offset of the torrent.
fn awkward() -> Payload {
    Payload::tree(
        "tree",
        &[
            ("one", 1),
            ("d/sector less", 511),
            ("d/empty", 0),
            ("page less", 4095),
            ("d/e/page more", 4097),
            ("large", 1_400_001),
            ("page", 4096),
            ("d/larger", 2 * MIB),
            ("last", 0),
        ],
    )
}

/// The torrents every file system gets, by the name of their folder.
fn shapes(lab: &Lab) -> Vec<(&'static str, Published)> {
    let announce = |payload, piece| lab.announce(payload, TorrentSpec::pieces_of(piece));
    // Each `announce` writes over the lab's torrent file: so each gets a folder of its own.
    let keep = |name: &'static str, mut made: Published| {
        let path = lab.path().join(format!("{name}.torrent"));
        fs::rename(&made.torrent_path, &path).expect("the lab is writable");
        made.torrent_path = path;
        (name, made)
    };
    vec![
        keep("unaligned", announce(awkward(), 16 * KIB)),
        keep("padded", announce(awkward().padded(MIB), MIB)),
    ]
}

/// What the files look like before the first byte has arrived.
fn check_reserved(made: &Published, copy: &Path, preallocate: &str) {
    for (index, file) in made.payload.files().enumerate().filter(|(_, file)| !file.pad) {
        let path = made.payload.path_of(index, copy);
        let facts = fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (want, taken) = (file.bytes.len() as u64, facts.blocks() * 512);
        let shown = path.display();
        assert_eq!(facts.len(), if preallocate == "none" { 0 } else { want }, "length of {shown}");
        if preallocate == "full" && want >= COUNTED_LEN_MIN {
            assert!(taken >= want, "{taken} bytes are reserved for {shown}");
        } else {
            assert!(taken < COUNTED_LEN_MIN, "{shown} takes {taken} bytes before any has arrived");
        }
    }
}

/// Downloads to the file system, verifies, and seeds from it.
fn there_and_back(
    lab: &Lab,
    mounted: &LoopFs,
    shape: &str,
    made: &Published,
    preallocate: &str,
    ip: Ipv4Addr,
) {
    let seeder = RawSeeder::start(ip, made, Manner::default());
    let copy = mounted.dir(&format!("{shape}-{preallocate}"));
    let command = CcbtCommand::download(&made.torrent_path, &copy);
    let mut ours = command.option("--preallocate", preallocate).start();
    ours.wait_ready();
    check_reserved(made, &copy, preallocate);
    seeder.dial(ours.address());
    ours.wait_done();
    made.payload.assert_equal_in(&copy);
    assert_eq!(verified(&made.torrent_path, &copy)["complete"], true, "verify agrees");
    let mut ours = CcbtCommand::seed(&made.torrent_path, &copy).start();
    ours.wait_ready();
    let back = lab.dir(&format!("back-{shape}-{preallocate}"));
    if preallocate == "sparse" {
        let mut theirs = LibtorrentPeer::start(&made.torrent_path, &back);
        theirs.connect(ours.address());
        // It has verified every piece; its files may follow later.
        theirs.wait_finished();
    } else {
        let command = CcbtCommand::download(&made.torrent_path, &back);
        command.peer(ours.address()).start().wait_done();
        made.payload.assert_equal_in(&back);
    }
    ours.stop();
    fs::remove_dir_all(&back).expect("the lab is writable");
}

fn matrix(kind: FsKind, sector: u32, octet: u8) {
    let lab = Lab::open();
    let Some(mounted) = LoopFs::mount(&lab, FsSpec::new(kind, sector)) else { return };
    for (shape, made) in shapes(&lab) {
        for preallocate in PREALLOCATIONS {
            there_and_back(&lab, &mounted, shape, &made, preallocate, Ipv4Addr::new(127, 0, 20, octet));
        }
    }
}

#[test]
fn ext4_with_sectors_of_512() {
    matrix(FsKind::Ext4, 512, 1);
}

#[test]
fn ext4_with_sectors_of_4096() {
    matrix(FsKind::Ext4, 4096, 2);
}

#[test]
fn xfs_with_sectors_of_512() {
    matrix(FsKind::Xfs, 512, 3);
}

#[test]
fn xfs_with_sectors_of_4096() {
    matrix(FsKind::Xfs, 4096, 4);
}

#[test]
fn btrfs_with_sectors_of_512() {
    matrix(FsKind::Btrfs, 512, 5);
}

#[test]
fn btrfs_with_sectors_of_4096() {
    matrix(FsKind::Btrfs, 4096, 6);
}

#[test]
fn tmpfs() {
    matrix(FsKind::Tmpfs, 0, 7);
}

const HOLDER: &str = "holds_a_mount_until_it_is_killed";

/// Run by [`nothing_outlives_a_killed_test`] in a process of its own.
#[test]
#[ignore = "ends only by being killed"]
fn holds_a_mount_until_it_is_killed() {
    let lab = Lab::open();
    let Some(mounted) = LoopFs::mount(&lab, FsSpec::new(FsKind::Ext4, 512)) else {
        return println!("lab {} device none", lab.path().display());
    };
    fs::write(mounted.path().join("file"), [7; 10_000]).expect("it is writable");
    println!("lab {} device {}", lab.path().display(), mounted.device_number());
    std::thread::sleep(10 * PATIENCE);
}

#[test]
fn nothing_outlives_a_killed_test() {
    let mut command = Command::new(std::env::current_exe().expect("a test knows its program"));
    command.args(["--exact", HOLDER, "--ignored", "--nocapture"]);
    let mut holder = Process::start("holder", &mut command);
    let (lab, device) = holder.wait_line(PATIENCE, "device", |line| {
        // The test runner may have begun the line.
        let words: Vec<&str> = line.split("lab ").nth(1)?.split(' ').collect();
        Some((words[0].to_owned(), words[2].to_owned()))
    });
    if device == "none" {
        return eprintln!("skipped: {}", holder.stderr());
    }
    assert!(!Path::new(&lab).join("mount-0/file").exists(), "its mounts are its own");
    let backing = PathBuf::from(format!("/sys/dev/block/{device}/loop/backing_file"));
    assert!(fs::read_to_string(&backing).is_ok_and(|name| name.contains(&lab)), "it has a loop device");
    holder.signal(Signal::KILL);
    holder.wait_exit(PATIENCE);
    wait_until(PATIENCE, "free loop device", || {
        // Another test may have it by now.
        (!fs::read_to_string(&backing).is_ok_and(|name| name.contains(&lab))).then_some(())
    });
    assert!(!Path::new(&lab).join("image-0").exists(), "the image has no name");
    fs::remove_dir_all(&lab).expect("what a killed test leaves is an empty lab");
}

/// Kills a download ten times after a random number of blocks each, then lets it end. What it had reported is always
/// still there, and the bytes are right.
fn killed_at_random(kind: FsKind, sector: u32, octet: u8) {
    let lab = Lab::open();
    let Some(mounted) = LoopFs::mount(&lab, FsSpec::new(kind, sector)) else { return };
    let made = lab.announce(Payload::straddling("tree", 24 * MIB), TorrentSpec::pieces_of(64 * KIB));
    let seeder =
        RawSeeder::start(Ipv4Addr::new(127, 0, 20, octet), &made, Manner::slow(Duration::from_micros(700)));
    let copy = mounted.dir("copy");
    let command = || CcbtCommand::download(&made.torrent_path, &copy).peer(seeder.address());
    let mut had = 0;
    for (life, chance) in noise(u64::from(octet), 10).into_iter().enumerate() {
        let mut ours = command().option("--preallocate", PREALLOCATIONS[life % 3]).start();
        let until = seeder.blocks() + 8 + usize::from(chance) % 120;
        wait_until(PATIENCE, "blocks before the kill", || (seeder.blocks() >= until).then_some(()));
        ours.signal(Signal::KILL);
        ours.wait_exit(PATIENCE);
        let good = ours.events("checked").last().map_or(0, |event| event["good"].as_u64().expect("a count"));
        assert!(good >= had, "life {life}: {had} pieces were reported, {good} were good after the kill");
        let moving = |event: &serde_json::Value| event["state"] == "downloading";
        let reports = ours.events("progress").into_iter().filter(moving);
        had =
            reports.map(|event| event["pieces_done"].as_u64().expect("a count")).max().unwrap_or(0).max(good);
        let found = verified(&made.torrent_path, &copy)["pieces_ok"].as_u64().expect("a count");
        assert!(found >= had, "life {life}: {had} pieces were reported, {found} are on disk");
    }
    assert!(had > 0, "ten lives got somewhere");
    command().start().wait_done();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn kills_on_ext4() {
    killed_at_random(FsKind::Ext4, 4096, 11);
}

#[test]
fn kills_on_xfs() {
    killed_at_random(FsKind::Xfs, 512, 12);
}

#[test]
fn kills_on_btrfs() {
    killed_at_random(FsKind::Btrfs, 4096, 13);
}

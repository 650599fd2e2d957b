//! Files moved and deleted by the command line and the daemon: between file systems, killed at any moment, onto full and
//! read-only disks.
//!
//! The tests that mount a RAM file system need root and print why when they cannot run.

use std::ffi::CString;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ccbt_tests::PATIENCE;
use ccbt_tests::binary::ccbt_fast;
use ccbt_tests::ccbt::{CcbtCommand, ccbt};
use ccbt_tests::daemon::{DaemonCommand, base64, torrent};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::{Payload, files_below};
use ccbt_tests::process::{Process, task_values, wait_until};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use rustix::process::Signal;
use serde_json::{Value, json};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A RAM file system that is unmounted on drop.
struct RamDisk {
    path: PathBuf,
}

impl RamDisk {
    fn mount(lab: &Lab, options: &str) -> Option<Self> {
        let path = lab.dir("ramdisk");
        let options = CString::new(options).expect("no NUL in it");
        match mount("ccbt-tests", &path, "tmpfs", MountFlags::empty(), options.as_c_str()) {
            Ok(()) => Some(Self { path }),
            Err(error) => {
                eprintln!("skipped: mounting a tmpfs needs root (CAP_SYS_ADMIN): {error}");
                None
            }
        }
    }
}

impl Drop for RamDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

fn arguments(made: &Published, from: &Path, to: &Path) -> Vec<std::ffi::OsString> {
    let mut arguments: Vec<std::ffi::OsString> = vec!["move".into(), made.torrent_path.clone().into()];
    arguments.extend(["--from".into(), from.into(), "--to".into(), to.into(), "--json".into()]);
    arguments
}

/// Runs `move` to its end: exit code, its object, and what it said on standard error.
fn relocate(made: &Published, from: &Path, to: &Path) -> (i32, Value, String) {
    let (code, stdout, stderr) = ccbt(arguments(made, from, to));
    let value = stdout.lines().last().and_then(|line| serde_json::from_str(line).ok());
    (code, value.unwrap_or_default(), stderr)
}

/// A move that must fail, name `names`, and leave everything where it was.
fn refused(made: &Published, to: &Path, names: &[&str]) {
    let before = files_below(to);
    let (code, _, stderr) = relocate(made, &made.data, to);
    assert_eq!(code, 1, "{stderr}");
    for name in names {
        assert!(stderr.contains(name), "it names {name:?}: {stderr}");
    }
    made.payload.assert_equal_in(&made.data);
    assert_eq!(files_below(to), before, "nothing half is left");
}

#[test]
fn between_file_systems_and_back_under_other_names() {
    let lab = Lab::open_on_disk();
    let Some(disk) = RamDisk::mount(&lab, "size=64m") else { return };
    let made =
        lab.publish(Payload::straddling("tree", 2 * MIB).padded(64 * KIB), TorrentSpec::pieces_of(64 * KIB));
    let there = disk.path.join("new/place");
    let (code, report, stderr) = relocate(&made, &made.data, &there);
    assert_eq!(
        (code, report["copied"].as_u64(), report["renamed"].as_u64()),
        (0, Some(8), Some(0)),
        "{stderr}"
    );
    made.payload.assert_equal_in(&there);
    assert!(
        !made.data.join("tree").exists() && made.data.is_dir(),
        "the torrent's folder goes, the root stays"
    );
    let (code, report, _) = relocate(&made, &made.data, &there);
    assert_eq!((code, report["done_before"].as_u64()), (0, Some(8)), "once more is no harm");
    let (code, report, _) = relocate(&made, &there, &there.join("../other"));
    assert_eq!((code, report["renamed"].as_u64()), (0, Some(8)), "within a file system nothing is copied");
    made.payload.assert_equal_in(&disk.path.join("new/other"));
    let (code, _, stderr) = relocate(&made, &lab.dir("nothing"), &there);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("--from"), "{stderr}");
}

#[test]
fn a_kill_at_any_moment_is_completed_by_the_next_run() {
    let lab = Lab::open_on_disk();
    let Some(disk) = RamDisk::mount(&lab, "size=512m") else { return };
    let sizes: Vec<(String, usize)> =
        (0..24).map(|nth| (format!("d{}/f{nth}", nth % 5), (nth + 1) * 400 * KIB)).collect();
    let files: Vec<(&str, usize)> = sizes.iter().map(|(name, len)| (name.as_str(), *len)).collect();
    let made = lab.publish(Payload::tree("tree", &files), TorrentSpec::pieces_of(MIB));
    // There and back: one way is slow since what is copied is synced to a disk.
    let (mut from, mut to) = (made.data.clone(), disk.path.join("to"));
    let mut interrupted = 0;
    for nth in 0..14u64 {
        let mut process =
            Process::start("ccbt-fast", Command::new(ccbt_fast()).args(arguments(&made, &from, &to)));
        std::thread::sleep(Duration::from_millis(3 + nth * nth * 2));
        process.signal(Signal::KILL);
        interrupted += u32::from(!process.wait_exit(PATIENCE).success());
        for file in files_below(&to).iter().filter(|path| path.to_string_lossy().ends_with(".ccbt-move")) {
            assert!(!file.to_string_lossy().contains(".ccbt-move."), "one temporary name per file");
        }
        let (code, _, stderr) = relocate(&made, &from, &to);
        assert_eq!(code, 0, "{stderr}");
        made.payload.assert_equal_in(&to);
        assert!(files_below(&from).is_empty(), "exactly once: {:?}", files_below(&from));
        std::mem::swap(&mut from, &mut to);
    }
    assert!(interrupted >= 3, "only {interrupted} of 14 runs were killed before they had ended");
}

#[test]
fn a_signal_undoes_it() {
    let lab = Lab::open_on_disk();
    let Some(disk) = RamDisk::mount(&lab, "size=512m") else { return };
    let made = lab.publish(Payload::single("big.bin", 200 * MIB), TorrentSpec::pieces_of(MIB));
    let to = disk.path.join("to");
    let arguments = arguments(&made, &made.data, &to);
    let mut process = Process::start("ccbt-fast", Command::new(ccbt_fast()).args(arguments));
    ccbt_tests::process::wait_until(PATIENCE, "beginning or end", || {
        (!files_below(&to).is_empty() || process.try_exit().is_some()).then_some(())
    });
    process.signal(Signal::TERM);
    let code = process.wait_exit(PATIENCE).code();
    if code == Some(143) {
        made.payload.assert_equal_in(&made.data);
        assert!(files_below(&disk.path).is_empty() && !to.exists(), "{:?}", files_below(&disk.path));
    } else {
        // It came too late.
        assert_eq!(code, Some(0));
        made.payload.assert_equal_in(&to);
    }
}

#[test]
fn a_disk_that_is_too_small_is_noticed_first() {
    let lab = Lab::open_on_disk();
    let Some(disk) = RamDisk::mount(&lab, "size=6m") else { return };
    let made = lab.publish(Payload::straddling("tree", 12 * MIB), TorrentSpec::pieces_of(128 * KIB));
    refused(&made, &disk.path.join("to"), &["not enough space", "ramdisk"]);
    assert!(!disk.path.join("to").exists());
}

/// Space for the bytes, but not for the names: it fails in the middle.
#[test]
fn a_disk_that_fills_up_in_the_middle_gives_everything_back() {
    let lab = Lab::open_on_disk();
    let Some(disk) = RamDisk::mount(&lab, "size=64m,nr_inodes=9") else { return };
    let made = lab.publish(Payload::straddling("tree", MIB), TorrentSpec::pieces_of(128 * KIB));
    refused(&made, &disk.path.join("to"), &["no space left", "tree"]);
    assert!(fs::read_dir(&disk.path).expect("listable").next().is_none(), "folders that were made go too");
}

#[test]
fn a_read_only_disk_gets_nothing() {
    let lab = Lab::open_on_disk();
    let Some(disk) = RamDisk::mount(&lab, "size=64m") else { return };
    let made = lab.publish(Payload::straddling("tree", MIB), TorrentSpec::pieces_of(128 * KIB));
    mount_remount(&disk.path, MountFlags::RDONLY, "size=64m").expect("whoever may mount may mount again");
    refused(&made, &disk.path.join("to"), &["read-only", "ramdisk"]);
}

#[test]
fn something_in_the_way_is_named_and_replaced_when_asked() {
    let lab = Lab::open();
    let made = lab.publish(Payload::straddling("tree", MIB), TorrentSpec::pieces_of(128 * KIB));
    let to = lab.dir("to");
    fs::create_dir_all(to.join("tree/last")).expect("writable");
    fs::write(to.join("tree/last/tail.bin"), b"somebody's").expect("writable");
    refused(&made, &to, &["tree/last/tail.bin", "overwrit"]);
    let mut arguments = arguments(&made, &made.data, &to);
    arguments.push("--overwrite".into());
    assert_eq!(ccbt(arguments).0, 0);
    made.payload.assert_equal_in(&to);
}

#[test]
fn delete_asks_and_takes_only_what_is_the_torrents() {
    let lab = Lab::open();
    let made = lab.publish(Payload::straddling("tree", MIB), TorrentSpec::pieces_of(128 * KIB));
    fs::write(made.data.join("tree/a/mine"), b"mine").expect("writable");
    let torrent = made.torrent_path.as_os_str();
    let command = |more: &[&str]| {
        let mut arguments =
            vec!["delete".into(), torrent.to_owned(), "--dir".into(), made.data.clone().into()];
        arguments.extend(more.iter().map(Into::into));
        ccbt(arguments)
    };
    let (code, _, stderr) = command(&[]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("--yes"), "{stderr}");
    assert!(files_below(&made.data).len() > 8, "nothing went");
    let (code, stdout, stderr) = command(&["--yes", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    let report: Value = serde_json::from_str(&stdout).expect("one object");
    assert_eq!(
        (report["files"].as_u64(), report["bytes"].as_u64()),
        (Some(8), Some(made.payload.len() as u64))
    );
    assert_eq!(files_below(&made.data), [made.data.join("tree/a/mine")]);
    assert!(made.torrent_path.exists(), "the torrent file stays");
}

#[test]
fn a_finished_download_moves_and_is_found_there_the_next_time() {
    let lab = Lab::open_on_disk();
    let made = lab.announce(Payload::straddling("tree", 2 * MIB), TorrentSpec::pieces_of(64 * KIB));
    let seeder = RawSeeder::start(Ipv4Addr::new(127, 0, 14, 1), &made, Manner::default());
    let there = RamDisk::mount(&lab, "size=64m");
    let done = there.as_ref().map_or(lab.dir("done"), |disk| disk.path.join("done"));
    let incomplete = lab.dir("incomplete");
    let command = || {
        let command = CcbtCommand::download(&made.torrent_path, &incomplete).peer(seeder.address());
        command.option("--move-completed", &done)
    };
    let mut first = command().start();
    first.wait_done();
    let moved = first.events("moved");
    assert_eq!(moved.len(), 1);
    assert_eq!(moved[0]["dir"].as_str(), done.to_str());
    made.payload.assert_equal_in(&done);
    assert!(files_below(&incomplete).is_empty());
    let sent = seeder.blocks();
    command().start().wait_done();
    assert_eq!(seeder.blocks(), sent, "nothing is fetched again");
    // Interrupted in the middle of the move: some files are in either folder.
    fs::create_dir_all(incomplete.join("tree/bulk")).expect("writable");
    fs::copy(done.join("tree/bulk/ballast.bin"), incomplete.join("tree/bulk/ballast.bin")).expect("copied");
    fs::remove_file(done.join("tree/bulk/ballast.bin")).expect("there");
    command().start().wait_done();
    assert_eq!(seeder.blocks(), sent, "nothing is fetched again");
    made.payload.assert_equal_in(&done);
    assert!(files_below(&incomplete).is_empty());
}

#[test]
fn renamed_files_are_downloaded_seeded_moved_and_deleted_by_their_names() {
    let lab = Lab::open();
    let made = lab.announce(
        Payload::tree("tree", &[("one", 200_000), ("sub/two", 70_001)]),
        TorrentSpec::pieces_of(32 * KIB),
    );
    let seeder = RawSeeder::start(Ipv4Addr::new(127, 0, 14, 2), &made, Manner::default());
    let (copy, to) = (lab.dir("copy"), lab.dir("to"));
    let command = CcbtCommand::download(&made.torrent_path, &copy).peer(seeder.address());
    command.option("--rename", "1=elsewhere/zwei").start().wait_done();
    assert_eq!(files_below(&copy), [copy.join("elsewhere/zwei"), copy.join("tree/one")]);
    assert_eq!(fs::metadata(copy.join("elsewhere/zwei")).expect("there").size(), 70_001);
    let mut seed =
        CcbtCommand::seed(&made.torrent_path, &copy).option("--rename", "1=elsewhere/zwei").start();
    let checked = seed.wait_event("checked");
    assert_eq!(checked["good"], checked["total"]);
    seed.stop();
    let mut arguments = arguments(&made, &copy, &to);
    arguments.extend(["--rename".into(), "1=elsewhere/zwei".into()]);
    assert_eq!(ccbt(arguments).0, 0);
    assert_eq!(files_below(&to), [to.join("elsewhere/zwei"), to.join("tree/one")]);
    for bad in ["1=../zwei", "9=x", "1=tree/one"] {
        let (code, _, stderr) = ccbt([
            "delete".into(),
            made.torrent_path.clone().into_os_string(),
            "--dir".into(),
            to.clone().into(),
            "--yes".into(),
            "--rename".into(),
            bad.into(),
        ]);
        assert_eq!(code, 2, "{bad}: {stderr}");
    }
    assert_eq!(files_below(&to).len(), 2);
}

/// Files on their way from one file system to another one are copied: a removal finds the move anywhere.
#[test]
fn torrents_removed_while_they_move_leave_nothing() {
    let (lab, disk) = (Lab::open(), tempfile::tempdir().expect("a folder"));
    let made = torrent(&lab, "moving.bin", 6 << 20, false);
    let daemon = DaemonCommand::new(&lab).start();
    let path = format!("/v1/torrents/{}", made.torrent.info_hash_hex());
    let target = disk.path();
    let left =
        |folder: &Path| fs::read_dir(folder).expect("there").flatten().next().map(|entry| entry.path());
    let cycle = |nth: u64| {
        made.payload.write_to(&made.data);
        let body = json!({ "torrent": base64(made.torrent.bytes()), "output": made.data });
        assert_eq!(daemon.http("POST", "/v1/torrents", &body.to_string()).0, 201);
        daemon.wait_for(&made, "state", "seeding");
        let (status, answer) =
            daemon.http("POST", &format!("{path}/move"), &json!({ "to": target }).to_string());
        assert_eq!(status, 202, "{answer}");
        std::thread::sleep(Duration::from_millis(2 * nth));
        assert_eq!(daemon.http("DELETE", &format!("{path}?delete_data=true"), "").0, 200);
        wait_until(PATIENCE, "an empty list", || (daemon.stat("torrents") == 0).then_some(()));
        for folder in [target, &made.data, &lab.dir("state/daemon/torrents")] {
            assert_eq!(left(folder), None, "after {} ms", 2 * nth);
        }
    };
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs").count();
    cycle(0);
    let before = (descriptors(), task_values(daemon.pid(), "Name:").len());
    (0..4).for_each(cycle);
    wait_until(PATIENCE, "descriptors and threads as before", || {
        let now = (descriptors(), task_values(daemon.pid(), "Name:").len());
        (now.0 <= before.0 && now.1 <= before.1 + 1).then_some(())
    });
    daemon.stop();
}

//! Machines that misbehave: system calls that fail, a clock that jumps, threads that end, two processes on one
//! folder. What the engine asks of the machine in return: the sandbox and the modes of its files.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ccbt_tests::binary::ccbt_fast;
use ccbt_tests::ccbt::{Ccbt, CcbtCommand};
use ccbt_tests::confine::Confinement;
use ccbt_tests::daemon::{Daemon, DaemonCommand, torrent};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::{Payload, files_below};
use ccbt_tests::place::Place;
use ccbt_tests::process::{task_values, wait_until};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::tracker::Tracker;
use ccbt_tests::{PATIENCE, SOON};
use rustix::process::Signal;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const BLOCK: usize = 16 * KIB;
const UNAVAILABLE: i32 = 3;
const EBADF: u8 = 9;
const ENOMEM: u8 = 12;
const EINVAL: u8 = 22;
const EMFILE: u8 = 24;
const ENOSYS: u8 = 38;
/// Calls that make a descriptor.
const DESCRIPTORS: &str =
    "open,openat,openat2,socket,accept4,eventfd2,epoll_create1,pipe2,inotify_init1,io_uring_setup";
/// Calls that take kernel memory.
const KERNEL_MEMORY: &str = "openat2,mkdirat,socket,io_uring_setup,io_uring_register";

fn seeder(last: u8, made: &Published) -> RawSeeder {
    RawSeeder::start(Ipv4Addr::new(127, 0, 44, last), made, Manner::default())
}

fn slow(last: u8, made: &Published) -> RawSeeder {
    RawSeeder::start(Ipv4Addr::new(127, 0, 44, last), made, Manner::slow(Duration::from_millis(10)))
}

fn small(lab: &Lab) -> Published {
    lab.announce(Payload::straddling("tree", 256 * KIB), TorrentSpec::pieces_of(32 * KIB))
}

// ---- system calls that fail

/// A download of which the `nth` of `calls` fails: it completes, or ends with a reason; then a second one completes.
/// Its exit code and words; `None`: there were fewer calls.
fn fails_at(
    lab: &Lab,
    errno: u8,
    nth: usize,
    calls: &str,
    made: &Published,
    peer: &RawSeeder,
) -> Option<(Option<i32>, String)> {
    let here = lab.dir(&format!("{errno}-{nth}"));
    let (copy, struck) = (here.join("copy"), here.join("struck"));
    let confinement = Confinement::Nth { errno, nth, calls, struck: &struck };
    let command = |command: CcbtCommand| command.peer(peer.address()).checkpoints(&here.join("state"));
    let mut ours = command(CcbtCommand::confined_download(confinement, &made.torrent_path, &copy)).start();
    let status = ours.wait_status_or_error();
    let code = match status {
        Some(status) => status.code(),
        None => {
            ours.signal(Signal::TERM);
            ours.wait_exit(PATIENCE);
            Some(1)
        }
    };
    let (words, label) = (ours.words(), format!("errno {errno} at call {nth} of {calls}"));
    match code {
        Some(0) => made.payload.assert_equal_in(&copy),
        Some(1 | UNAVAILABLE) => {
            assert!(!words.contains("panicked") && !words.is_empty(), "{label}: {words}")
        }
        other => panic!("{label}: {other:?} {words}"),
    }
    if code != Some(0) {
        command(CcbtCommand::download(&made.torrent_path, &copy)).start().wait_done();
        made.payload.assert_equal_in(&copy);
    }
    let was_struck = struck.exists();
    fs::remove_dir_all(&here).expect("nothing runs there");
    was_struck.then_some((code, words))
}

/// Every `step`-th call from `first` on, until there are no more.
fn sweep(errno: u8, calls: &str, first: usize, step: usize, last: u8) {
    const CALLS_MAX: usize = 2000;
    let lab = Lab::open();
    let made = small(&lab);
    let peer = seeder(last, &made);
    let (next, hits) = (AtomicUsize::new(first), AtomicUsize::new(0));
    let run = || {
        loop {
            let nth = next.fetch_add(step, Ordering::Relaxed);
            assert!(nth < CALLS_MAX, "a small download has fewer calls");
            if fails_at(&lab, errno, nth, calls, &made, &peer).is_none() {
                return;
            }
            hits.fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        scope.spawn(run);
        run();
    });
    let hits = hits.into_inner();
    println!("errno {errno}: {hits} calls of {calls} failed");
    assert!(hits > 2, "calls were hit: {hits}");
}

#[test]
fn descriptors_and_kernel_memory_that_are_refused_now_and_then() {
    sweep(EMFILE, DESCRIPTORS, 3, 23, 1);
    sweep(ENOMEM, KERNEL_MEMORY, 2, 11, 2);
}

/// glommio panics when its first ring cannot be made.
#[test]
fn a_ring_that_the_runtime_is_refused_is_advice_and_no_panic() {
    let lab = Lab::open();
    let made = small(&lab);
    let peer = seeder(16, &made);
    let mut nth = 0;
    let is_it = |(code, words): &(Option<i32>, String)| {
        let is_it = words.contains("a ring of the runtime");
        assert!(!is_it || *code == Some(UNAVAILABLE) && words.contains("ulimit -n"), "{code:?} {words}");
        is_it
    };
    loop {
        let end = fails_at(&lab, EMFILE, nth, "io_uring_setup", &made, &peer);
        if is_it(&end.expect("one of the rings is glommio's first")) {
            return;
        }
        nth += 1;
    }
}

#[test]
#[ignore = "takes minutes: make crash"]
fn crash_every_call_that_makes_a_descriptor() {
    sweep(EMFILE, DESCRIPTORS, 0, 1, 3);
}

#[test]
#[ignore = "takes minutes: make crash"]
fn crash_every_call_that_takes_kernel_memory() {
    sweep(ENOMEM, KERNEL_MEMORY, 0, 1, 4);
}

#[test]
fn a_ring_that_older_kernels_refuse_is_made_with_fewer_flags() {
    // What an unknown flag of io_uring_setup ends with. The first ring is the one that everything is probed with.
    let lab = Lab::open();
    let made = small(&lab);
    let peer = seeder(5, &made);
    let (copy, struck) = (lab.dir("copy"), lab.path().join("struck"));
    let confinement = Confinement::Nth { errno: EINVAL, nth: 0, calls: "io_uring_setup", struck: &struck };
    let command = CcbtCommand::confined_download(confinement, &made.torrent_path, &copy);
    command.peer(peer.address()).start().wait_done();
    assert!(struck.exists());
    made.payload.assert_equal_in(&copy);
}

#[test]
fn a_thread_that_panics_ends_the_program() {
    let place = Place::announced(Payload::straddling("tree", 4 * MIB), 64 * KIB);
    let peer = slow(6, &place.made);
    let struck = place.lab.path().join("struck");
    // A ring that cannot be entered is a broken invariant of whoever owns it.
    let confinement = Confinement::Nth { errno: EBADF, nth: 400, calls: "io_uring_enter", struck: &struck };
    let command = CcbtCommand::confined_download(confinement, &place.made.torrent_path, &place.copy);
    let mut ours = command.peer(peer.address()).checkpoints(&place.store).start();
    let status = ours.wait_exit(PATIENCE);
    assert!(struck.exists(), "it went on for so long");
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "at once, whichever thread it was: {status:?}");
    assert!(ours.said(|line| line.contains("panicked at")), "the reason is told");
    place.download(&peer).start().wait_done();
    place.made.payload.assert_equal_in(&place.copy);
}

// ---- clocks

/// Puts itself before the C library's clock: as many seconds are added to the time of day as a file says.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static volatile long *ahead;
__attribute__((constructor)) static void begin(void) {
    int fd = open(getenv("CCBT_TEST_CLOCK"), O_RDONLY);
    ahead = mmap(0, 8, PROT_READ, MAP_SHARED, fd, 0);
}
int clock_gettime(clockid_t id, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, id, time);
    if (result == 0 && id == CLOCK_REALTIME && ahead) time->tv_sec += *ahead;
    return result;
}
"#;

#[test]
fn a_clock_that_jumps_by_hours_changes_nothing() {
    const HOURS: i64 = 3600;
    let lab = Lab::open_on_disk();
    let tracker = Tracker::start();
    let spec = TorrentSpec::pieces_of(64 * KIB).announce(tracker.url());
    let made = lab.announce(Payload::single("a.bin", 6 * MIB), spec);
    let peer = slow(8, &made);
    let (shim, offset) = (lab.path().join("clock.so"), lab.file("offset", &[0; 8]));
    let source = lab.file("clock.c", CLOCK.as_bytes());
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(&source).status();
    assert!(built.expect("Rust links with cc").success());
    let set = |hours: i64| {
        let file = File::options().write(true).open(&offset).expect("there");
        file.write_all_at(&(hours * HOURS).to_ne_bytes(), 0).expect("written");
    };
    let mut command = Command::new(ccbt_fast());
    command.env("LD_PRELOAD", &shim).env("CCBT_TEST_CLOCK", &offset);
    let (copy, store) = (lab.dir("copy"), lab.dir("store"));
    let command = CcbtCommand::build(command, "download", &made.torrent_path, &copy).trackers();
    let command = command.checkpoints(&store).option("--checkpoint-interval", "0.05");
    let mut ours = command.peer(peer.address()).start();
    for (bytes, hours) in [(1 << 20, 9), (2 << 20, -9), (3 << 20, 48), (4 << 20, 0)] {
        ours.wait_progress("bytes_done", bytes);
        set(hours);
    }
    ours.wait_done();
    made.payload.assert_equal_in(&copy);
    assert_eq!(peer.blocks(), 6 * MIB / BLOCK, "nothing was asked for twice");
    let port = ours.address().port();
    let told: Vec<String> =
        tracker.announces().into_iter().filter(|one| one.peer.port() == port).map(|one| one.event).collect();
    assert_eq!(told, ["started", "completed", "stopped"], "no announce came early, none was left out");
    let seen = fs::read_dir(&store).expect("there").filter_map(|entry| {
        let name = entry.expect("listed").file_name();
        name.to_string_lossy().ends_with(".ckpt").then_some(name)
    });
    assert_eq!(seen.count(), 1, "checkpoints were written");
}

// ---- two processes, and a reader that is gone

#[test]
fn a_second_process_on_the_same_files_is_refused_and_a_reader_is_not() {
    let lab = Lab::open();
    let made = lab.announce(Payload::straddling("tree", 4 * MIB), TorrentSpec::pieces_of(64 * KIB));
    let peer = slow(9, &made);
    let copy = lab.dir("copy");
    let download = || CcbtCommand::download(&made.torrent_path, &copy).peer(peer.address());
    let mut first = download().start();
    first.wait_progress("bytes_done", 1 << 20);
    let mut second = download().start();
    let code = second.wait_end_or_error();
    assert_ne!(code, Some(0), "{}", second.words());
    assert!(second.said(|line| line.contains("another process")), "{}", second.words());
    let mut reader = CcbtCommand::seed(&made.torrent_path, &copy).start();
    reader.wait_ready();
    first.wait_done();
    reader.stop();
    drop(second);
    made.payload.assert_equal_in(&copy);
    // The lock is gone with its process.
    download().start().wait_done();
}

#[test]
fn a_reader_of_its_output_that_goes_ends_nothing() {
    let lab = Lab::open();
    let made = small(&lab);
    let peer = seeder(10, &made);
    let copy = lab.dir("copy");
    let mut command = Command::new("sh");
    command.args(["-c", "\"$@\" | head -n 1", "sh"]).arg(ccbt_fast());
    let command =
        CcbtCommand::build(command, "download", &made.torrent_path, &copy).option("--seed-time", "0");
    let mut ours: Ccbt = command.peer(peer.address()).start();
    ours.wait_exit(PATIENCE);
    made.payload.assert_equal_in(&copy);
}

// ---- what the engine may do

#[test]
fn what_it_keeps_is_closed_to_others() {
    let lab = Lab::open();
    let made = torrent(&lab, "one.bin", MIB, false);
    let peer = seeder(11, &made);
    let state = lab.path().join("fresh");
    let log = lab.path().join("logs.txt");
    let daemon = DaemonCommand::with_socket(&lab, &lab.path().join("d.sock"), &state).dht("none");
    let daemon = daemon.args(["--set", "daemon.listen=127.0.0.1:0", "--log-file"]).args([&log]).start();
    add(&daemon, &made, Some(&peer), None);
    daemon.wait_for(&made, "state", "seeding");
    daemon.stop();
    let files = files_below(&state);
    assert!(files.len() >= 6, "{files:?}");
    for file in &files {
        for path in file.ancestors().take_while(|path| path.starts_with(&state)) {
            let mode = path.metadata().expect("it is there").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
        }
    }
    assert_eq!(log.metadata().expect("it is there").permissions().mode() & 0o027, 0);
}

fn add(daemon: &Daemon, made: &Published, peer: Option<&RawSeeder>, output: Option<&Path>) -> (i32, String) {
    let peer = peer.map(|peer| peer.address().to_string());
    let mut args = vec!["add", made.torrent_path.to_str().expect("plain")];
    args.extend(peer.iter().flat_map(|peer| ["--peer", peer.as_str()]));
    args.extend(output.iter().flat_map(|dir| ["--output", dir.to_str().expect("plain")]));
    let (code, _, error) = daemon.run(&args);
    (code, error)
}

fn has_landlock() -> bool {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("a", BLOCK), TorrentSpec::pieces_of(BLOCK));
    let command = CcbtCommand::download(&made.torrent_path, &made.data);
    let mut ours = command.option("--set", "security.sandbox=strict").start();
    let is_there = ours.wait_exit(PATIENCE).code() != Some(UNAVAILABLE);
    if !is_there {
        eprintln!("skipped: {}", ours.words());
    }
    is_there
}

#[test]
fn the_sandbox_keeps_a_daemon_to_its_folders() {
    if !has_landlock() {
        return;
    }
    let lab = Lab::open();
    let (one, two) = (torrent(&lab, "one.bin", MIB, false), torrent(&lab, "two.bin", MIB, false));
    let (a, b) = (seeder(12, &one), seeder(13, &two));
    let (out, outside) = (lab.dir("out"), lab.dir("outside"));
    let script =
        format!("touch {0}/hook; touch {1}/hook; cat /etc/hostname", out.display(), outside.display());
    let hook = format!("daemon.on_complete=[\"/bin/sh\", \"-c\", \"{script}\"]");
    let command = DaemonCommand::new(&lab).args(["--set", "security.sandbox=strict", "--set", &hook]);
    let mut daemon = command.start();
    for field in ["Seccomp:", "NoNewPrivs:"] {
        let wanted = if field == "Seccomp:" { "2" } else { "1" };
        let values = task_values(daemon.pid(), field);
        assert!(values.len() > 5 && values.iter().all(|value| value == wanted), "{field} {values:?}");
    }
    // What is named outside is refused with what to change; what is inside works, and so does the program.
    let (code, error) = add(&daemon, &one, Some(&a), Some(&outside));
    assert!(code == 2 && error.contains("security.sandbox_paths"), "{code} {error}");
    assert_eq!(add(&daemon, &one, Some(&a), None).0, 0);
    daemon.wait_for(&one, "state", "seeding");
    one.payload.assert_equal_in(&out);
    wait_until(PATIENCE, "the program", || out.join("hook").exists().then_some(()));
    assert!(!outside.join("hook").exists(), "it is kept to the same folders");
    let hash = one.torrent.info_hash_hex();
    let (code, _, error) = daemon.run(&["move", &hash, "--to", outside.to_str().expect("plain")]);
    assert!(code == 2 && error.contains("security.sandbox_paths"), "{code} {error}");
    // A folder that becomes a way out behind its back is closed by the kernel.
    let inside = out.join("sub");
    assert_eq!(add(&daemon, &two, None, Some(&inside)).0, 0);
    daemon.ask(&["pause", &two.torrent.info_hash_hex()]);
    daemon.wait_for(&two, "state", "paused");
    wait_until(PATIENCE, "removed folder", || fs::remove_dir_all(&inside).is_ok().then_some(()));
    symlink(&outside, &inside).expect("linked");
    daemon.ask(&["resume", &two.torrent.info_hash_hex()]);
    daemon.ask(&["recheck", &two.torrent.info_hash_hex()]);
    let shown = wait_until(PATIENCE, "its error", || {
        let shown = daemon.show(&two);
        shown["error"].is_string().then_some(shown)
    });
    assert!(shown["error"].as_str().expect("a text").contains("ermission denied"), "{shown}");
    assert_eq!(fs::read_dir(&outside).expect("listed").count(), 0);
    drop(b);
    daemon.signal(Signal::TERM);
    assert!(daemon.wait_exit().success());
}

#[test]
fn a_kernel_without_landlock_is_named_or_done_without() {
    let lab = Lab::open();
    let made = small(&lab);
    let peer = seeder(14, &made);
    let run = |mode: &str, name: &str| {
        let copy = lab.dir(name);
        let confinement = Confinement::NoLandlock(ENOSYS);
        let command = CcbtCommand::confined_download(confinement, &made.torrent_path, &copy);
        let command = command.option("--set", format!("security.sandbox={mode}")).option("--seed-time", "0");
        let mut ours = command.peer(peer.address()).start();
        (ours.wait_exit(PATIENCE).code(), ours, copy)
    };
    let (code, ours, _) = run("strict", "strict");
    assert!(code == Some(UNAVAILABLE) && ours.words().contains("Landlock"), "{code:?} {}", ours.words());
    let (code, ours, copy) = run("auto", "auto");
    assert_eq!(code, Some(0), "{}", ours.words());
    assert!(ours.said(|line| line.contains("files are not restricted")), "{}", ours.words());
    made.payload.assert_equal_in(&copy);
}

#[test]
fn a_download_in_the_sandbox_completes_moves_and_goes_on() {
    if !has_landlock() {
        return;
    }
    let place = Place::announced(Payload::straddling("tree", 2 * MIB), 64 * KIB);
    let peer = slow(15, &place.made);
    let done: PathBuf = place.lab.path().join("done");
    let command = || place.download(&peer).option("--set", "security.sandbox=strict");
    let mut ours = command().start();
    ours.wait_progress("bytes_done", 1 << 20);
    ours.signal(Signal::KILL);
    ours.wait_exit(SOON);
    let mut ours = command().option("--move-completed", &done).option("--seed-time", "0").start();
    assert_eq!(ours.wait_exit(PATIENCE).code(), Some(0), "{}", ours.words());
    place.made.payload.assert_equal_in(&done);
}

//! Machines that withhold something: io_uring or parts of it, lockable memory, CPUs from the start or later, a port that is
//! taken.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ccbt_tests::PATIENCE;
use ccbt_tests::binary::ccbt_fast;
use ccbt_tests::ccbt::{Ccbt, CcbtCommand};
use ccbt_tests::cgroup::Cpuset;
use ccbt_tests::confine::Confinement;
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::Payload;
use ccbt_tests::process::{run, task_values, wait_until};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// The machine lacks what the engine stands on.
const UNAVAILABLE: i32 = 3;
const EPERM: u8 = 1;
const ENOSYS: u8 = 38;

/// Ends with 3 and a message that contains one of `names`.
fn assert_unavailable(mut ours: Ccbt, names: &[&str]) {
    let status = ours.wait_exit(PATIENCE);
    let words = ours.words();
    assert_eq!(status.code(), Some(UNAVAILABLE), "{words}");
    assert!(words.contains("io_uring"), "it says what is missing: {words}");
    assert!(
        names.iter().any(|name| words.contains(name)),
        "it says what to change, one of {names:?}: {words}"
    );
    assert!(!words.contains("panicked"), "no panic: {words}");
}

#[test]
fn without_io_uring_it_says_what_to_change() {
    let lab = Lab::open();
    let made = lab.announce(Payload::single("file", MIB), TorrentSpec::pieces_of(MIB / 8));
    let copy = lab.dir("copy");
    let start = |errno| {
        let confinement = Confinement::NoIoUring(errno);
        CcbtCommand::confined_download(confinement, &made.torrent_path, &copy).start()
    };
    assert_unavailable(start(EPERM), &["kernel.io_uring_disabled", "seccomp"]);
    assert_unavailable(start(ENOSYS), &["kernel"]);
}

#[test]
fn with_little_lockable_memory_it_works_or_names_the_ulimit() {
    let lab = Lab::open();
    let made = lab.announce(Payload::straddling("tree", 2 * MIB), TorrentSpec::pieces_of(MIB / 8));
    let seeder = RawSeeder::start(Ipv4Addr::new(127, 0, 13, 1), &made, Manner::default());
    for bytes in [0, 64 << 10, 1 << 20] {
        let copy = lab.dir(&format!("copy{bytes}"));
        let confinement = Confinement::Memlock(bytes);
        let command = CcbtCommand::confined_download(confinement, &made.torrent_path, &copy);
        let mut ours = command.peer(seeder.address()).start();
        let status = ours.wait_exit(PATIENCE);
        let words = ours.words();
        match status.code() {
            Some(0) => made.payload.assert_equal_in(&copy),
            Some(UNAVAILABLE) => {
                let named = ["memlock", "ulimit", "RLIMIT_MEMLOCK"].iter().any(|name| words.contains(name));
                assert!(named, "it names the limit: {words}");
            }
            other => panic!("with {bytes} lockable bytes it ended with {other:?}: {words}"),
        }
        assert!(!words.contains("panicked"), "no panic: {words}");
    }
}

#[test]
fn with_few_file_descriptors_a_torrent_of_many_files_still_completes() {
    let lab = Lab::open();
    let names: Vec<String> = (0..200).map(|n| format!("d{}/f{n}", n % 9)).collect();
    let files: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 9_000)).collect();
    let made = lab.announce(Payload::tree("many", &files), TorrentSpec::pieces_of(MIB / 16));
    let seeder = RawSeeder::start(Ipv4Addr::new(127, 0, 13, 2), &made, Manner::default());
    let copy = lab.dir("copy");
    let confinement = Confinement::OpenFiles(128);
    let command = CcbtCommand::confined_download(confinement, &made.torrent_path, &copy);
    command.peer(seeder.address()).start().wait_done();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn a_port_that_is_taken_is_a_clear_error() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("file", MIB), TorrentSpec::pieces_of(MIB / 8));
    let squatter = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let port = squatter.local_addr().expect("a bound socket has an address").port();
    let mut ours = CcbtCommand::seed(&made.torrent_path, &made.data).listen_at(port).start();
    assert_eq!(ours.wait_exit(PATIENCE).code(), Some(1));
    let words = ours.words();
    assert!(words.contains(&port.to_string()), "the port is named: {words}");
    assert!(words.contains("use"), "the cause is named: {words}");
}

/// All that is done without on older kernels, one after the other and together, on both sides. What that means for a ring
/// is tested there (`shards/src/ring`): here the program completes, and says so.
#[test]
fn every_optional_feature_of_io_uring_is_done_without() {
    const VARIABLE: &str = "CCBT_RING_WITHOUT";
    const ALL: [&str; 6] =
        ["defer-taskrun", "coop-taskrun", "accept-multi", "poll-first", "sendmsg-zc", "worker-limit"];
    let lab = Lab::open();
    let made = lab.publish(Payload::straddling("tree", MIB), TorrentSpec::pieces_of(64 * KIB));
    let program = |command: &str, dir: &Path, without: &str| {
        let mut program = Command::new(ccbt_fast());
        program.env(VARIABLE, without);
        let command = CcbtCommand::build(program, command, &made.torrent_path, dir);
        command.option("--set", "network.zero_copy_send=on").option("--memory", "32")
    };
    for without in ALL.into_iter().chain(["all"]) {
        let mut doctor = Command::new(ccbt_fast());
        let doctor = doctor.args(["doctor", "--json"]).env(VARIABLE, without).current_dir(lab.path());
        let (_, text, _) = run("doctor", doctor, PATIENCE);
        let report: serde_json::Value = serde_json::from_str(&text).expect("one object");
        let findings = report["findings"].as_array().expect("a list");
        let found = findings.iter().find(|finding| finding["check"] == "io_uring-features");
        let found = found.expect("rings can be made here")["found"].as_str().expect("a text");
        let (used, off) = found.split_once("; ").unwrap_or((found, ""));
        for name in ALL {
            let is_off = without == name || without == "all";
            assert!(off.contains(name) || is_off != used.contains(name), "{name} without {without}: {found}");
        }
        let mut seed = program("seed", &made.data, without).start();
        seed.wait_ready();
        let copy = lab.dir(without);
        let mut ours = program("download", &copy, without).peer(seed.address()).start();
        ours.wait_done();
        made.payload.assert_equal_in(&copy);
        seed.stop();
    }
}

// ---- CPUs

/// One test at a time takes CPUs away or counts them.
static CPUS: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    CPUS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn slow(last: u8, made: &Published) -> RawSeeder {
    RawSeeder::start(Ipv4Addr::new(127, 0, 44, last), made, Manner::slow(Duration::from_millis(10)))
}

#[test]
fn on_one_cpu_it_runs_there_and_nowhere_else() {
    let _alone = alone();
    let lab = Lab::open();
    let made = lab.announce(Payload::straddling("tree", 4 * MIB), TorrentSpec::pieces_of(64 * KIB));
    let peer = slow(7, &made);
    let copy = lab.dir("copy");
    let may = task_values(std::process::id(), "Cpus_allowed_list:").remove(0);
    let cpu: u32 = may.split(['-', ',']).next().expect("one at least").parse().expect("a number");
    let command = CcbtCommand::confined_download(Confinement::Cpu(cpu), &made.torrent_path, &copy);
    let mut ours = command.peer(peer.address()).start();
    ours.wait_progress("bytes_done", 1 << 20);
    let allowed = task_values(ours.pid(), "Cpus_allowed_list:");
    assert!(allowed.len() > 3 && allowed.iter().all(|cpus| *cpus == cpu.to_string()), "{allowed:?}");
    ours.wait_done();
    made.payload.assert_equal_in(&copy);
}

/// What the kernel does with threads that were pinned to a CPU which goes: they may run on all that are left, and stay so
/// (v1), or go back to their own when it is there again (v2).
#[test]
fn in_a_cpuset_of_one_it_runs_there_and_one_that_shrinks_does_not_stop_it() {
    let _alone = alone();
    let may = task_values(std::process::id(), "Cpus_allowed_list:").remove(0);
    let numbers: Vec<u32> = may.split(['-', ',']).map(|cpu| cpu.parse().expect("a number")).collect();
    let (first, last) = (numbers[0].to_string(), numbers[numbers.len() - 1].to_string());
    let Some(group) = Cpuset::open(&first) else { return };
    let lab = Lab::open();
    let made = lab.announce(Payload::straddling("tree", 4 * MIB), TorrentSpec::pieces_of(64 * KIB));
    let peer = slow(17, &made);
    let start = |name: &str| {
        let confinement = Confinement::Cpuset(&group);
        let command = CcbtCommand::confined_download(confinement, &made.torrent_path, &lab.dir(name));
        let mut ours = command.peer(peer.address()).start();
        ours.wait_progress("bytes_done", 1 << 20);
        ours
    };
    let all_on = |ours: &Ccbt, cpus: &str| {
        let allowed = task_values(ours.pid(), "Cpus_allowed_list:");
        allowed.len() > 3 && allowed.iter().all(|list| list == cpus)
    };
    let mut ours = start("one");
    assert!(all_on(&ours, &first), "the layout follows the group");
    ours.wait_done();
    made.payload.assert_equal_in(&lab.dir("one"));
    if first == last {
        return eprintln!("skipped: one CPU is all there is");
    }
    // Each shard is pinned to a CPU of its own; one of these goes.
    group.set(&may);
    let mut ours = start("fewer");
    group.set(&first);
    assert!(all_on(&ours, &first), "{:?}", task_values(ours.pid(), "Cpus_allowed_list:"));
    ours.wait_done();
    made.payload.assert_equal_in(&lab.dir("fewer"));
}

/// A CPU that is off the line until this is gone.
struct Offline(PathBuf);

impl Offline {
    fn take(cpu: u32) -> Option<Self> {
        let switch = PathBuf::from(format!("/sys/devices/system/cpu/cpu{cpu}/online"));
        let offline = fs::read_to_string(&switch).and_then(|_| fs::write(&switch, "0"));
        match offline {
            Ok(()) => Some(Self(switch)),
            Err(error) => {
                eprintln!("skipped: CPU {cpu} cannot be taken offline: {error}");
                None
            }
        }
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        fs::write(&self.0, "1").unwrap_or_else(|error| eprintln!("{}: {error}", self.0.display()));
    }
}

#[test]
fn a_cpu_that_goes_offline_does_not_stop_it() {
    let _alone = alone();
    let may = task_values(std::process::id(), "Cpus_allowed_list:").remove(0);
    let Some(last) = may.rsplit(['-', ',']).next().filter(|last| *last != may) else {
        return eprintln!("skipped: one CPU is all there is");
    };
    let lab = Lab::open();
    let made = lab.announce(Payload::straddling("tree", 4 * MIB), TorrentSpec::pieces_of(64 * KIB));
    let peer = slow(18, &made);
    let copy = lab.dir("copy");
    let command = CcbtCommand::download(&made.torrent_path, &copy).option("--shards", "2");
    let mut ours = command.peer(peer.address()).start();
    ours.wait_progress("bytes_done", 1 << 20);
    // Only the program's own: kernel threads that work for it stay where they sleep.
    let pinned = |ours: &Ccbt| task_values(ours.pid(), "Cpus_allowed_list:").iter().any(|list| list == last);
    assert!(pinned(&ours), "something is pinned to the CPU that goes");
    let Some(offline) = Offline::take(last.parse().expect("a number")) else { return };
    // A thread that sleeps is moved when it wakes.
    wait_until(PATIENCE, "threads on other CPUs", || (!pinned(&ours)).then_some(()));
    ours.wait_progress("bytes_done", 3 << 20);
    drop(offline);
    ours.wait_done();
    made.payload.assert_equal_in(&copy);
}

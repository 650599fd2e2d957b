//! A configuration file that changes under a running download.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ccbt_tests::binary::ccbt_fast;
use ccbt_tests::ccbt::{Ccbt, CcbtCommand};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::Payload;
use ccbt_tests::process::{Process, wait_until};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::{PATIENCE, SOON};
use rustix::process::{Pid, Signal, kill_process};

const MIB: usize = 1 << 20;
/// At [`SLOW`] this takes half an hour, which no test waits for: whatever finishes had its limit changed.
const PAYLOAD: usize = 32 * MIB;
/// KiB/s.
const SLOW: &str = "[limits]\nglobal_down_kib = 16\n";

struct Running {
    ours: Ccbt,
    made: Published,
    file: PathBuf,
    copy: PathBuf,
    _seeder: RawSeeder,
    _lab: Lab,
}

/// A download that reads `text` as its configuration and has begun.
fn start(last: u8, text: &str) -> Running {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("file", PAYLOAD), TorrentSpec::pieces_of(MIB / 4));
    let seeder = RawSeeder::start(Ipv4Addr::new(127, 0, 21, last), &made, Manner::default());
    let file = lab.dir("etc").join("ccbt.toml");
    fs::create_dir_all(lab.dir("etc")).expect("made");
    fs::write(&file, text).expect("written");
    let copy = lab.dir("copy");
    let command = CcbtCommand::download(&made.torrent_path, &copy).peer(seeder.address());
    let mut ours = command.option("--config", &file).start();
    ours.wait_ready();
    Running { ours, made, file, copy, _seeder: seeder, _lab: lab }
}

impl Running {
    fn finishes(mut self) {
        self.ours.wait_done();
        self.made.payload.assert_equal_in(&self.copy);
    }
}

/// As most editors do it.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).expect("written");
    fs::rename(&new, file).expect("renamed");
}

#[test]
fn a_limit_that_is_rewritten_counts_at_once() {
    let mut running = start(1, SLOW);
    fs::write(&running.file, "[limits]\nglobal_down_kib = 0\n").expect("written");
    let event = running.ours.wait_event("config");
    assert_eq!((&event["key"], &event["needs_restart"]), (&"limits.global_down_kib".into(), &false.into()));
    assert_eq!((&event["from"], &event["to"]), (&"\"16KiB/s\"".into(), &"0".into()));
    running.finishes();
}

#[test]
fn a_wrong_file_changes_nothing_and_a_renamed_one_counts() {
    let mut running = start(2, SLOW);
    replace(&running.file, "[limits]\nglobal_down_kib = 0\nglobal_upp_kib = 7\n");
    let event = running.ours.wait_event("config_error");
    let message = event["message"].as_str().expect("a text");
    let place = format!("{}:3: ", running.file.display());
    assert!(message.starts_with(&place) && message.contains("did you mean global_up_kib?"), "{message}");
    assert!(running.ours.events("config").is_empty(), "nothing of it counts");
    replace(&running.file, "[network]\nmax_peers_per_torrent = 5\n");
    let event = running.ours.wait_event("config");
    assert_eq!(
        (&event["key"], &event["needs_restart"]),
        (&"network.max_peers_per_torrent".into(), &true.into())
    );
    let event = running.ours.wait_event("config");
    assert_eq!(event["key"], "limits.global_down_kib", "what is not there any more is the default");
    running.finishes();
}

#[test]
fn a_schedule_limits_and_its_removal_frees() {
    let all_day = "[[limits.schedule]]\nfrom = \"00:00\"\nto = \"24:00\"\ndown_kib = 16\n";
    let mut running = start(3, all_day);
    running.ours.wait_progress("downloaded", 1);
    fs::remove_file(&running.file).expect("removed");
    let event = running.ours.wait_event("config_error");
    assert!(event["message"].as_str().expect("a text").contains("cannot be read"), "{event}");
    replace(&running.file, "");
    assert_eq!(running.ours.wait_event("config")["key"], "limits.schedule");
    running.finishes();
}

#[test]
fn sighup_reads_again_and_does_not_stop() {
    let mut running = start(4, SLOW);
    running.ours.signal(Signal::HUP);
    let event = running.ours.wait_event("note");
    assert_eq!(event["message"], "the configuration has not changed");
    replace(&running.file, "[observability]\nlog_level = \"error\"\n");
    running.ours.wait_event("config");
    running.ours.signal(Signal::HUP);
    running.finishes();
}

/// A process that is no child of ours; gone with this at the latest.
struct Stray(Pid);

impl Stray {
    fn has_ended(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.as_raw_nonzero())).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

#[test]
fn a_terminal_that_goes_stops_what_sighup_alone_does_not() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("file", MIB), TorrentSpec::pieces_of(MIB / 4));
    let pid_file = lab.path().join("pid");
    let line = format!(
        "echo $$ > {}; exec {} seed {} --output {} --json --no-config --bind 127.0.0.1 --port 0 --no-tracker",
        pid_file.display(),
        ccbt_fast().display(),
        made.torrent_path.display(),
        made.data.display()
    );
    // `script` gives the command a terminal of its own.
    let mut command = Command::new("script");
    command.args(["--quiet", "--flush", "--command", &line, "/dev/null"]);
    let mut terminal = Process::start("script", &mut command);
    terminal.wait_line(PATIENCE, "seeding", |line| line.contains("\"seeding\"").then_some(()));
    let pid = fs::read_to_string(&pid_file).expect("written").trim().parse().expect("a number");
    let ours = Stray(Pid::from_raw(pid).expect("a process"));
    kill_process(ours.0, Signal::HUP).expect("it runs");
    terminal.wait_line(PATIENCE, "reloading", |line| line.contains("has not changed").then_some(()));
    assert!(!ours.has_ended());
    terminal.signal(Signal::KILL);
    wait_until(SOON, "its end without a terminal", || ours.has_ended().then_some(()));
}

#[test]
fn the_goal_of_seeding_changes_at_once() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("file", MIB), TorrentSpec::pieces_of(MIB / 4));
    let file = lab.dir("etc").join("ccbt.toml");
    fs::create_dir_all(lab.dir("etc")).expect("made");
    let for_file = |pattern: &str, time: &str| format!("[torrent.\"{pattern}\"]\nseed_time = \"{time}\"\n");
    fs::write(&file, for_file("fi*", "5d")).expect("written");
    let mut ours = CcbtCommand::seed(&made.torrent_path, &made.data).option("--config", &file).start();
    ours.wait_ready();
    replace(&file, &for_file("other*", "10ms"));
    ours.wait_event("config");
    std::thread::sleep(Duration::from_millis(300));
    ours.assert_alive();
    replace(&file, &for_file("fi*", "10ms"));
    assert_eq!(ours.wait_exit(SOON).code(), Some(0));
}

#[test]
fn a_log_level_changes_at_once_and_the_log_goes_to_its_file() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("file", MIB), TorrentSpec::pieces_of(MIB / 4));
    let (file, log) = (lab.dir("etc").join("ccbt.toml"), lab.dir("etc").join("log"));
    fs::create_dir_all(lab.dir("etc")).expect("made");
    fs::write(&file, "").expect("written");
    let command = CcbtCommand::seed(&made.torrent_path, &made.data).option("--config", &file);
    let mut ours = command.option("--set", "observability.log_level=info").option("--log-file", &log).start();
    ours.wait_ready();
    // The harness asks for `--log-level debug`, which wins over --set.
    replace(&file, "[limits]\nglobal_down_kib = -1\n");
    let logged = || fs::read_to_string(&log).unwrap_or_default();
    wait_until(PATIENCE, "a message in the log", || logged().contains("stays as it was").then_some(()));
    assert!(!ours.said(|line| line.contains("INFO")), "and not on standard error");
    ours.stop();
}

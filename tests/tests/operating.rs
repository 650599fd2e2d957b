//! Running it: `top` on a terminal, the service manager, and what packages are made of.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ccbt_tests::binary::ccbt_fast;
use ccbt_tests::ccbt::ccbt;
use ccbt_tests::daemon::{Daemon, DaemonCommand, torrent};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::process::{repository, wait_until};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::terminal::Terminal;
use ccbt_tests::{PATIENCE, SOON};
use rustix::process::Signal;

const MIB: usize = 1 << 20;
const ESC: &str = "\x1b";

fn top(daemon: &Daemon) -> Terminal {
    let mut command = Command::new(ccbt_fast());
    command.arg("top").arg("--socket").arg(daemon.socket());
    Terminal::start(&command, 80, 24)
}

fn add(daemon: &Daemon, made: &Published, more: &[&str]) {
    daemon.ask(&[&["add", made.torrent_path.to_str().expect("plain")], more].concat());
}

#[test]
fn keys_do_what_they_say() {
    let lab = Lab::open();
    let (one, other) = (torrent(&lab, "one.bin", MIB, false), torrent(&lab, "other\x1b[2J.bin", MIB, false));
    let seeder =
        RawSeeder::start(Ipv4Addr::new(127, 0, 61, 1), &one, Manner::slow(Duration::from_millis(20)));
    let daemon = DaemonCommand::new(&lab).start();
    add(&daemon, &one, &["--peer", &seeder.address().to_string()]);
    add(&daemon, &other, &["--paused"]);
    let mut top = top(&daemon);
    // The escape sequence in its name would have cleared the screen.
    let screen =
        top.wait_until("both torrents", |screen| screen.contains("one.bin") && screen.contains("other"));
    assert!(screen.contains("NAME 2/2 by queue") && screen.contains("? help"), "{screen}");
    top.keys("\r");
    let address = seeder.address().to_string();
    let screen =
        top.wait_until("peer and pieces", |screen| screen.contains(&address) && screen.contains("in /"));
    assert!(screen.contains(&one.torrent.info_hash_hex()), "{screen}");
    top.keys("2");
    top.wait("of 64 pieces of 16.0 KiB");
    top.keys("4");
    top.wait("TRACKER");
    top.keys("e");
    top.wait_until("shards and disks", |screen| screen.contains("SLOTS") && screen.contains("RUNNING"));
    top.keys(ESC);
    top.wait("NAME 2/2");
    // Each key, and what the daemon makes of it.
    top.keys("d3MiB/s\r");
    daemon.wait_for(&one, "down_limit", 3 << 20);
    top.wait("changed: one.bin");
    top.keys("U7\r");
    wait_until(SOON, "the limit of all", || (daemon.stat("up_limit") == 7 << 10).then_some(()));
    top.keys("p");
    daemon.wait_for(&one, "paused", true);
    top.wait("paused: one.bin");
    // The list has to say so before the key means the opposite.
    top.wait_until("a torrent at rest", |screen| {
        screen.lines().any(|line| line.starts_with("one.bin") && line.contains("paused"))
    });
    top.keys("p");
    daemon.wait_for(&one, "paused", false);
    daemon.wait_for(&one, "state", "seeding");
    top.keys("cy");
    top.wait("is being checked: one.bin");
    // A filter, another size, and a removal that is thought better of.
    top.keys("/one\r");
    top.wait("NAME 1/2");
    top.resize(39, 24);
    top.wait("Too small");
    top.resize(120, 30);
    top.wait("RATIO");
    top.keys("xn");
    top.keys("xD");
    top.wait("removed: one.bin, 1 files of it");
    wait_until(PATIENCE, "its end", || (daemon.list().len() == 1).then_some(()));
    assert!(!lab.dir("out").join("one.bin").exists());
    top.keys("q");
    assert_eq!(top.wait_exit().code(), Some(0));
    assert!(top.is_given_back());
    daemon.stop();
}

#[test]
fn the_terminal_is_given_back_and_nothing_is_done_in_vain() {
    let lab = Lab::open();
    let mut daemon = DaemonCommand::new(&lab).start();
    for signal in [Signal::TERM, Signal::HUP] {
        let mut top = top(&daemon);
        top.wait("No torrents");
        assert!(!top.is_given_back(), "it is in use");
        top.signal(signal);
        assert_eq!(top.wait_exit().code(), Some(0));
        assert!(top.is_given_back());
    }
    let mut watched = top(&daemon);
    watched.wait("No torrents");
    let before = watched.cpu_ticks();
    std::thread::sleep(Duration::from_secs(2));
    // A loop that does not wait takes 200.
    let ticks = watched.cpu_ticks() - before;
    assert!(ticks < 60, "{ticks} ticks of CPU time in two seconds");
    // A daemon that goes is told of, and one that comes back is seen.
    daemon.signal(Signal::TERM);
    daemon.wait_exit();
    watched.wait("trying again");
    let daemon = DaemonCommand::new(&lab).start();
    watched.wait_until("the new one", |screen| !screen.contains("trying again"));
    watched.keys("\x03");
    assert_eq!(watched.wait_exit().code(), Some(0));
    assert!(watched.is_given_back());
    let (code, _, error) = daemon.run(&["top"]);
    assert!(code == 2 && error.contains("top needs a terminal"), "{error}");
    daemon.stop();
    let (code, _, error) = ccbt(["top", "--socket", "/nonexistent/d.sock"]);
    assert!(code != 0 && !error.is_empty(), "{error}");
}

#[test]
fn the_service_manager_is_told() {
    let lab = Lab::open();
    let path = lab.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bound");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
    let command = DaemonCommand::new(&lab).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
    let mut daemon = command.start();
    let mut said = Vec::new();
    let mut wait = |what: &str| {
        let until = Instant::now() + SOON;
        while !said.iter().any(|line: &String| line.starts_with(what)) {
            assert!(Instant::now() < until, "no {what} in {said:?}");
            let mut block = [0; 4096];
            if let Ok(count) = socket.recv(&mut block) {
                said.extend(String::from_utf8_lossy(&block[..count]).lines().map(str::to_owned));
            }
        }
        let at = said.iter().position(|line| line.starts_with(what)).expect("it is there");
        said.drain(..=at).next_back().expect("one line at least")
    };
    wait("READY=1");
    assert!(wait("STATUS=").starts_with("STATUS=0 torrents, port"));
    wait("WATCHDOG=1");
    wait("WATCHDOG=1");
    daemon.signal(Signal::HUP);
    wait("RELOADING=1");
    wait("MONOTONIC_USEC=");
    wait("READY=1");
    daemon.signal(Signal::TERM);
    wait("STOPPING=1");
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn pages_and_completions_are_what_the_program_has() {
    let lab = Lab::open();
    let dir = lab.path().join("man");
    let (code, _, error) = ccbt(["man", dir.to_str().expect("plain")]);
    assert_eq!(code, 0, "{error}");
    assert!(fs::read_to_string(dir.join("ccbt-fast.1")).expect("written").contains(".TH"));
    assert!(dir.join("ccbt-fast-top.1").exists() && dir.join("ccbt-fast-daemon.1").exists());
    let (code, script, _) = ccbt(["completions", "bash"]);
    assert!(code == 0 && script.contains("complete -F _ccbt__fast"), "{code}");
    let script = lab.file("ccbt-fast.bash", script.as_bytes());
    // What a shell makes of it.
    let words = "source \"$1\"; COMP_WORDS=(ccbt-fast che); COMP_CWORD=1; _ccbt__fast ccbt-fast che ccbt-fast; \
                 echo \"${COMPREPLY[@]}\"";
    let output =
        Command::new("bash").args(["-c", words, "bash"]).arg(&script).output().expect("bash is there");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "checkpoints");
}

#[test]
fn what_the_package_lists_is_there() {
    let manifest = fs::read_to_string(repository().join("engine/Cargo.toml")).expect("read");
    let list = manifest.split_once("[package.metadata.deb]").expect("there is metadata").1;
    let assets =
        list.split_once("assets = [").expect("it lists files").1.split_once("\n]").expect("it ends").0;
    let mut seen = 0;
    for line in assets.lines().filter(|line| line.contains('"')) {
        let path = line.split('"').nth(1).expect("a path");
        // Made by `make deb`.
        if !path.contains("target/") {
            assert!(repository().join("engine").join(path).exists(), "{path}");
            seen += 1;
        }
    }
    assert!(seen >= 4, "{assets}");
    let packaging = repository().join("engine/packaging");
    let config = packaging.join("daemon.toml");
    let (code, _, error) = ccbt(["config", "check", config.to_str().expect("plain")]);
    assert_eq!(code, 0, "{error}");
    let unit = fs::read_to_string(packaging.join("ccbt-fast.service")).expect("read");
    for line in ["Type=notify", "DynamicUser=yes", "ProtectSystem=strict", "WatchdogSec=", "LimitMEMLOCK="] {
        assert!(unit.lines().any(|each| each.starts_with(line)), "{line}");
    }
    verify_unit(&unit);
    let profile = fs::read_to_string(packaging.join("seccomp.json")).expect("read");
    let profile: serde_json::Value = serde_json::from_str(&profile).expect("JSON");
    for call in [
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "clone3",
        "landlock_restrict_self",
        "seccomp",
    ] {
        let allowed = profile["syscalls"][0]["names"].as_array().expect("names");
        assert!(allowed.iter().any(|name| name == call), "{call}");
    }
}

/// Where systemd is: nothing in the unit is unknown to it.
fn verify_unit(unit: &str) {
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        println!("skipped: there is no systemd-analyze");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    // The program is not installed here.
    let unit = unit.replace("/usr/bin/ccbt-fast", "/bin/true");
    fs::write(dir.path().join("ccbt-fast.service"), unit).expect("written");
    let path = dir.path().join("ccbt-fast.service");
    let output =
        Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&path).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("ccbt-fast")).collect();
    assert!(ours.is_empty(), "{said}");
}

//! `create` and `verify` as a user runs them on hard ground: little memory, few descriptors, signals.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ccbt-fast");
const MIB: u64 = 1 << 20;

/// Runs the program to its end: exit code, and the most memory it was seen to use in KiB (`VmHWM`).
fn watched(dir: &Path, args: &[&str]) -> (Option<i32>, u64) {
    let mut child = Command::new(PROGRAM)
        .current_dir(dir)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the program can be started");
    let mut peak = 0;
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok());
        peak = peak.max(kib.unwrap_or(0));
        if let Some(status) = child.try_wait().expect("it is our child") {
            return (status.code(), peak);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs a shell command line in which `$PROGRAM` is the program: exit code, output and errors.
fn shell(dir: &Path, line: &str) -> (Option<i32>, String, String) {
    let output = Command::new("sh")
        .current_dir(dir)
        .env("PROGRAM", PROGRAM)
        .args(["-c", line])
        .stdin(Stdio::null())
        .output()
        .expect("there is a shell");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A folder on a disk as a rule: beside the program.
fn disk() -> tempfile::TempDir {
    tempfile::tempdir_in(Path::new(PROGRAM).parent().expect("it lies in a folder")).expect("writable")
}

#[test]
fn memory_is_bounded_by_threads_not_by_sizes() {
    let dir = disk();
    let file = File::create(dir.path().join("f")).expect("created");
    let len = 6 << 30;
    file.set_len(len).expect("sparse files");
    // Data in between, so that there is something to be read ahead.
    for at in (0..len).step_by(256 << 20) {
        file.write_all_at(&vec![at.to_le_bytes()[4] | 1; 8 << 20], at + 5 * MIB).expect("written");
    }
    for order in ["parallel", "sequential"] {
        for piece in ["16K", "64M"] {
            let create = ["create", "f", "-o", "t", "--force", "--piece-size", piece];
            let how = ["--threads", "2", "--read-order", order];
            let (code, created) = watched(dir.path(), &[&create[..], &how[..]].concat());
            let (verify_code, verified) = watched(dir.path(), &[&["verify", "t"], &how[..]].concat());
            assert_eq!((code, verify_code), (Some(0), Some(0)));
            // Twice 12 MiB of buffers or once 32, the hashes of 393,216 pieces in a few copies, the program.
            let most = 32 * 1024 + if piece == "16K" { 48 * 1024 } else { 0 } + 24 * 1024;
            assert!(created.max(verified) <= most, "{created} and {verified} KiB, at most {most}");
        }
    }
}

#[test]
fn too_few_descriptors_are_an_error_of_the_process_not_of_the_files() {
    let dir = disk();
    fs::write(dir.path().join("f"), vec![1; 5 << 20]).expect("written");
    assert_eq!(shell(dir.path(), "$PROGRAM create f -o t").0, Some(0));
    // One more than the standard ones: every lane wants to have the file open.
    let (code, out, error) = shell(dir.path(), "ulimit -n 4; exec $PROGRAM verify t --threads 1 --json");
    assert!(!out.contains("unreadable"), "{out}");
    if code == Some(0) {
        eprintln!("skipped: this CPU hashes one message at a time and needs one descriptor");
        return;
    }
    assert_eq!(code, Some(1), "{out} {error}");
    assert!(error.contains("ulimit"), "{error}");
}

#[test]
fn several_torrents_are_one_valid_object() {
    let dir = disk();
    for name in ["one", "two"] {
        fs::write(dir.path().join(name), vec![name.as_bytes()[0]; 100_000]).expect("written");
        assert_eq!(shell(dir.path(), &format!("$PROGRAM create {name} -o {name}.torrent --idle")).0, Some(0));
    }
    let all = "$PROGRAM verify one.torrent two.torrent --idle --resume-file state";
    let (code, out, _) = shell(dir.path(), &format!("{all} --json"));
    let report: Value = serde_json::from_str(&out).expect("one object");
    assert_eq!((code, &report["complete"]), (Some(0), &true.into()));
    assert_eq!(report["torrents"][1]["torrent"], "two.torrent");
    assert_eq!(report["torrents"][1]["pieces_ok"], report["torrents"][1]["pieces_total"]);
    assert_eq!(report["torrents"][0]["info_hash"].as_str().map(str::len), Some(40));
    fs::write(dir.path().join("two"), "short").expect("written");
    let (code, out, error) = shell(dir.path(), all);
    assert_eq!(code, Some(1));
    assert!(out.contains("two.torrent (two):") && out.contains("two: has 5 bytes"), "{out}");
    assert!(error.contains("pieces are ok"), "{error}");
    assert!(!dir.path().join("state").exists(), "removed at the end");
}

#[test]
fn a_signal_leaves_a_resume_file_and_the_next_run_takes_it() {
    let dir = disk();
    let file = File::create(dir.path().join("f")).expect("created");
    // 64 MiB per piece, so that the first verdicts take a while.
    for at in 0..512 {
        file.write_all_at(&vec![at as u8 | 1; MIB as usize], at * MIB).expect("written");
    }
    assert_eq!(shell(dir.path(), "$PROGRAM create f -o t --piece-size 1M").0, Some(0));
    let verify = "$PROGRAM verify t --threads 1 --resume-file state";
    // The program is asked to stop as soon as its resume file is there.
    let line = format!("{verify} & while ! test -s state; do :; done; kill -TERM $!; wait $!");
    let (code, out, error) = shell(dir.path(), &line);
    if code == Some(0) {
        eprintln!("skipped: it was finished before the signal came: {out}");
        return;
    }
    assert_eq!(code, Some(143), "{error}");
    let state = fs::read_to_string(dir.path().join("state")).expect("left behind");
    assert!(state.starts_with("ccbt-fast verify state 1\n"));
    assert_eq!(shell(dir.path(), verify).0, Some(0));
    assert!(!dir.path().join("state").exists());
    fs::write(dir.path().join("state"), "not yours").expect("written");
    let (code, _, error) = shell(dir.path(), verify);
    assert!(code == Some(2) && error.contains("is left alone"), "{error}");
}

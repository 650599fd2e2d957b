//! The program as a user runs it: output and exit codes of the commands that need no network.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

fn ccbt_fast<S: AsRef<OsStr>>(dir: &Path, args: impl IntoIterator<Item = S>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ccbt-fast"))
        .current_dir(dir)
        .env("CCBT_NO_CONFIG", "1")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program can be started")
}

/// Runs a command line without spaces in its words; returns exit code, standard output and standard error.
fn run(dir: &Path, line: &str) -> (i32, String, String) {
    let output = ccbt_fast(dir, line.split_whitespace());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    (output.status.code().expect("it is not killed"), text(output.stdout), text(output.stderr))
}

fn run_json(dir: &Path, line: &str) -> (i32, Value) {
    let (code, stdout, stderr) = run(dir, line);
    let value = serde_json::from_str(&stdout);
    (code, value.unwrap_or_else(|error| panic!("{line}: {error} in {stdout:?}; {stderr}")))
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A folder `data` with two files and an empty one.
fn sample(dir: &Path) {
    fs::create_dir_all(dir.join("data/sub")).expect("created");
    fs::write(dir.join("data/big"), vec![b'a'; 100_000]).expect("written");
    fs::write(dir.join("data/sub/small"), "small").expect("written");
    fs::write(dir.join("data/empty"), "").expect("written");
}

/// Names in `dir`, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("readable");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[test]
fn create_info_and_verify_agree() {
    let dir = folder();
    let dir = dir.path();
    sample(dir);
    let create = "create data --piece-size 32K --private -t http://t.example/a,http://t.example/b \
                  -t udp://u.example:7 -w http://w.example/ -c hello --source tag --json";
    let (code, created) = run_json(dir, create);
    assert_eq!((code, created["torrent"].as_str()), (0, Some("data.torrent")));
    let (code, info) = run_json(dir, "info data.torrent --json");
    assert_eq!(code, 0);
    for (field, value) in info.as_object().expect("an object") {
        assert_eq!(&created[field], value, "{field}");
    }
    assert_eq!((&info["name"], &info["piece_length"]), (&"data".into(), &32768.into()));
    assert_eq!((&info["length"], &info["piece_count"]), (&100_005.into(), &4.into()));
    assert_eq!(info["trackers"].as_array().map(Vec::len), Some(2));
    assert_eq!((&info["private"], &info["creation_date"]), (&true.into(), &Value::Null));

    let (code, page, _) = run(dir, "info data.torrent");
    assert!(
        code == 0 && page.contains("data/sub/small") && page.contains(info["info_hash"].as_str().unwrap())
    );

    let (code, report) = run_json(dir, "verify data.torrent --json");
    assert_eq!((code, &report["complete"], &report["pieces_ok"]), (0, &true.into(), &4.into()));
    let (code, words, _) = run(dir, "verify data.torrent");
    assert_eq!((code, words.lines().last()), (0, Some("4 of 4 pieces ok, 0 bad, 0 missing")));
}

#[test]
fn torrents_are_reproducible() {
    let dir = folder();
    sample(dir.path());
    for out in ["one", "two"] {
        assert_eq!(run(dir.path(), &format!("create data -o {out} --threads 3")).0, 0);
    }
    let read = |name| fs::read(dir.path().join(name)).expect("written");
    assert_eq!(read("one"), read("two"));
    assert_eq!(run(dir.path(), "create data -o dated --date 1700000000").0, 0);
    let (_, info) = run_json(dir.path(), "info dated --json");
    assert_eq!(info["creation_date"], 1_700_000_000);
}

#[test]
fn verify_finds_what_is_wrong() {
    let dir = folder();
    let dir = dir.path();
    sample(dir);
    assert_eq!(run(dir, "create data -o t --piece-size 16K").0, 0);
    let mut bytes = fs::read(dir.join("data/big")).expect("read");
    bytes[40_000] ^= 1;
    fs::write(dir.join("data/big"), bytes).expect("written");
    fs::remove_file(dir.join("data/empty")).expect("removed");
    let (code, report) = run_json(dir, "verify t --json");
    assert_eq!((code, &report["pieces_bad"], &report["complete"]), (1, &1.into(), &false.into()));
    let (code, words, error) = run(dir, "verify t");
    assert!(code == 1 && words.contains("data/big: damaged; 1 of 7 pieces are not ok"), "{words}");
    assert!(words.contains("data/empty: missing") && !words.contains("small"), "{words}");
    assert!(error.contains("6 of 7 pieces are ok"), "{error}");
    assert_eq!(run(dir, "verify t --output nowhere").0, 2);
}

#[test]
fn create_refuses_what_makes_no_torrent_and_never_overwrites() {
    let dir = folder();
    let dir = dir.path();
    sample(dir);
    fs::write(dir.join("data.torrent"), "mine").expect("written");
    for line in ["create data", "create data -o data.torrent"] {
        let (code, _, error) = run(dir, line);
        assert!(code == 2 && error.contains("--force"), "{line}: {code} {error}");
    }
    assert_eq!(fs::read(dir.join("data.torrent")).expect("read"), b"mine");
    assert_eq!(run(dir, "create data --force").0, 0);
    assert_eq!(run(dir, "info data.torrent").0, 0);
    symlink("big", dir.join("data/link")).expect("linked");
    for (line, cause) in [
        ("create nowhere -o t", "nowhere"),
        ("create data -o t", "symbolic link"),
        ("create data -o t --skip-special --piece-size 20000", "power of two"),
        ("create data -o t --skip-special -t ftp://x", "tracker"),
        ("create data/big -o t --align", "folder"),
    ] {
        let (code, stdout, error) = run(dir, line);
        assert!(code == 2 && stdout.is_empty() && error.contains(cause), "{line}: {code} {error}");
    }
    assert_eq!(names(dir), ["data", "data.torrent"], "nothing half-written stays");
    let (code, stdout, _) = run(dir, "create data -o t --skip-special");
    assert!(code == 0 && stdout.contains("link"), "what was left out is told: {stdout}");
}

/// Torrents that must be refused, and the field that the message names.
fn bad_torrents() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let info = |fields: &str| format!("d4:infod{fields}ee").into_bytes();
    let hash = "6:pieces20:aaaaaaaaaaaaaaaaaaaa";
    let single = |name: &str, length: &str| {
        info(&format!("6:length{length}4:name{}:{name}12:piece lengthi16384e{hash}", name.len()))
    };
    let multi = |files: &str| info(&format!("5:filesl{files}e4:name1:n12:piece lengthi16384e{hash}"));
    let file = |path: &str| format!("d6:lengthi1e4:pathl{path}ee");
    vec![
        ("not bencode", b"hello".to_vec(), "torrent"),
        ("cut", b"d4:infod6:lengthi5".to_vec(), "torrent"),
        ("no info", b"d3:fooi1ee".to_vec(), "info"),
        ("absolute name", single("/etc/x", "i5e"), "info.name"),
        ("parent name", single("..", "i5e"), "info.name"),
        ("NUL in a name", single("a\0b", "i5e"), "info.name"),
        ("parent in a path", multi(&file("2:..1:x")), "info.files[0].path"),
        ("absolute path", multi(&file("4:/etc1:x")), "info.files[0].path"),
        ("duplicate files", multi(&[file("1:a"), file("1:a")].concat()), "info.files"),
        ("negative size", single("a", "i-5e"), "info.length"),
        ("huge size", single("a", "i9223372036854775807e"), "info"),
        ("too few hashes", single("a", "i99999e"), "info.pieces"),
    ]
}

#[test]
fn bad_torrents_are_refused_and_nothing_is_created() {
    let dir = folder();
    let dir = dir.path();
    for (what, bytes, field) in bad_torrents() {
        fs::write(dir.join("bad"), bytes).expect("written");
        for line in
            ["bad --output out", "download bad --output out --json", "seed bad", "verify bad", "info bad"]
        {
            let (code, stdout, stderr) = run(dir, line);
            assert_eq!(code, 2, "{what}, {line}: {stderr}");
            assert!(stderr.contains(field), "{what}, {line}: {stderr}");
            if line.ends_with("--json") {
                let event: Value = serde_json::from_str(&stdout).expect("one object");
                assert_eq!((&event["event"], &event["retry"]), (&"error".into(), &false.into()));
            } else {
                assert!(stdout.is_empty(), "{what}, {line}: {stdout}");
            }
            assert_eq!(names(dir), ["bad"], "{what}, {line}: nothing is created");
        }
    }
}

#[test]
fn bad_paths_and_options_are_usage_errors() {
    let dir = folder();
    let dir = dir.path();
    sample(dir);
    assert_eq!(run(dir, "create data -o t").0, 0);
    for (line, cause) in [
        ("nowhere.torrent", "nowhere.torrent"),
        ("info data", "directory"),
        ("t --output t", "not a folder"),
        ("t --output t/below", "--output"),
        ("seed t --output nowhere", "--output"),
        ("seed t --output t", "not a folder"),
        ("t --peer here", "IP:PORT"),
        ("t --unknown", "--unknown"),
        ("demo --dir nowhere", "--dir"),
    ] {
        let (code, stdout, stderr) = run(dir, line);
        assert!(code == 2 && stdout.is_empty() && stderr.contains(cause), "{line}: {code} {stdout} {stderr}");
    }
    assert_eq!(names(dir), ["data", "t"]);
}

#[test]
fn names_from_strangers_are_escaped() {
    let dir = folder();
    let dir = dir.path();
    fs::write(dir.join("data"), "x").expect("written");
    let args = ["create", "data", "-o", "t", "-c", "a\x1b[2Jb\u{202e}c"];
    assert!(ccbt_fast(dir, args).status.success());
    for line in ["info t", "info t --json"] {
        let (code, stdout, _) = run(dir, line);
        assert!(code == 0 && !stdout.contains(['\x1b', '\u{202e}']), "{line}: {stdout:?}");
    }
    let (_, info) = run_json(dir, "info t --json");
    assert_eq!(info["comment"], "a\x1b[2Jb\u{202e}c", "and mean the same to programs");
}

#[test]
fn help_and_version_exit_with_0() {
    let dir = folder();
    let (code, stdout, _) = run(dir.path(), "--version");
    assert_eq!((code, stdout.trim()), (0, concat!("ccbt-fast ", env!("CARGO_PKG_VERSION"))));
    for line in ["--help", "help", "download --help", "seed --help", "demo --help"] {
        let (code, stdout, _) = run(dir.path(), line);
        assert!(code == 0 && stdout.contains("Usage:"), "{line}");
    }
    assert_eq!(run(dir.path(), "").0, 2, "no command is wrong usage");
}

#[test]
fn doctor_judges_folders_and_ports_and_changes_nothing() {
    let dir = folder();
    let dir = dir.path();
    let (code, report) = run_json(dir, "doctor --json");
    assert_eq!(code, 0, "{report}");
    let of = |report: &Value, check: &str| {
        let all = report["findings"].as_array().expect("a list").clone();
        all.into_iter()
            .find(|finding| finding["check"] == check)
            .unwrap_or_else(|| panic!("no {check}: {report}"))
    };
    for check in [
        "kernel",
        "io_uring",
        "memlock",
        "descriptors",
        "cpus",
        "hashing",
        "folder",
        "direct-writes",
        "port-ipv4",
    ] {
        of(&report, check);
    }
    assert_eq!(
        (of(&report, "io_uring")["verdict"].as_str(), of(&report, "folder")["verdict"].as_str()),
        (Some("ok"), Some("ok"))
    );
    for finding in report["findings"].as_array().expect("a list") {
        assert_eq!(finding["verdict"] == "ok", finding["advice"].is_null(), "{finding}");
    }
    assert!(names(dir).is_empty(), "{:?}", names(dir));
    let (code, words, stderr) = run(dir, "doctor --folder missing");
    assert_eq!(code, 3, "{words}{stderr}");
    assert!(words.contains("FAIL  folder") && words.contains("mkdir -p 'missing'"), "{words}");
    assert!(stderr.contains("1 checks failed"), "{stderr}");
}

#[test]
fn tune_shows_the_difference_and_applies_it_below_a_root() {
    let dir = folder();
    let dir = dir.path();
    fs::create_dir_all(dir.join("image/proc/sys/net/core")).expect("created");
    fs::write(dir.join("image/proc/sys/net/core/somaxconn"), "128\n").expect("written");
    let (code, words, _) = run(dir, "tune --profile seedbox-10g --root image");
    assert_eq!(code, 0, "{words}");
    assert!(
        words.contains("net.core.somaxconn: 128 -> 8192") && words.contains("nothing was changed"),
        "{words}"
    );
    assert_eq!(names(&dir.join("image")), ["proc"]);
    let (code, words, stderr) = run(dir, "tune --profile seedbox-10g --root image --apply");
    assert_eq!(code, 0, "{words}{stderr}");
    assert_eq!(fs::read_to_string(dir.join("image/proc/sys/net/core/somaxconn")).expect("there"), "8192");
    let (code, words, stderr) = run(dir, "config check image/etc/ccbt/ccbt.toml");
    assert_eq!(code, 0, "{words}{stderr}");
    fs::write(dir.join("image/etc/ccbt/ccbt.toml"), "[engine]\n").expect("written");
    let (code, _, stderr) = run(dir, "tune --profile hdd --root image --apply");
    assert!(code == 1 && stderr.contains("was not written by"), "{stderr}");
    let (code, _, stderr) = run(dir, "tune --profile seedbox");
    assert!(code == 2 && stderr.contains("bulk-25g+"), "{stderr}");
}

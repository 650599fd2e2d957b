//! Torrent files that must be refused: exit code 2, a message that names what is wrong, and nothing created.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ccbt_tests::ccbt::ccbt;
use ccbt_tests::lab::Lab;
use ccbt_tests::payload::Payload;
use ccbt_tests::torrent::{Torrent, TorrentSpec, Value, info_of};

const KIB: usize = 1 << 10;

/// The info dictionary of three pieces in one file.
fn single_info() -> BTreeMap<Vec<u8>, Value> {
    dict_of(info_of(&Payload::single("file.bin", 100_000), &TorrentSpec::pieces_of(48 * KIB)))
}

fn dict_of(value: Value) -> BTreeMap<Vec<u8>, Value> {
    let Value::Dict(entries) = value else { panic!("an info dictionary is a dictionary") };
    entries
}

/// A torrent whose info has `key` set to `value`, or removed.
fn with(mut info: BTreeMap<Vec<u8>, Value>, key: &str, value: Option<Value>) -> Vec<u8> {
    match value {
        Some(value) => info.insert(key.as_bytes().to_vec(), value),
        None => info.remove(key.as_bytes()),
    };
    Value::dict([("info", Value::Dict(info))]).encode()
}

/// A torrent of one piece with these files.
fn with_files(files: Vec<Value>) -> Vec<u8> {
    let mut info = single_info();
    info.remove(b"length".as_slice());
    info.insert(b"pieces".to_vec(), Value::Bytes(vec![7; 20]));
    with(info, "files", Some(Value::List(files)))
}

fn file(len: i128, path: &[&str]) -> Value {
    Value::dict([("length", Value::Int(len)), ("path", Value::texts(path))])
}

/// Runs `download` on `torrent` and demands the refusal; `names` is what the message must contain.
fn refused(lab: &Lab, what: &str, torrent: &[u8], names: &str) {
    let path = lab.file("bad.torrent", torrent);
    for subcommand in ["download", "seed", "verify", "info"] {
        let output = lab.path().join(format!("out-{subcommand}"));
        let mut args = vec![subcommand.to_owned(), path.display().to_string()];
        if subcommand != "info" {
            args.extend(["--output".to_owned(), output.display().to_string()]);
        }
        if matches!(subcommand, "download" | "seed") {
            args.extend(["--no-tracker", "--bind", "127.0.0.1", "--port", "0"].map(str::to_owned));
        }
        let (code, stdout, stderr) = ccbt(args);
        assert_eq!(code, 2, "{subcommand} of {what}: {stdout}{stderr}");
        assert!(stderr.contains(names), "{subcommand} of {what} names {names:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{subcommand} of {what}: {stderr}");
        assert!(is_empty(&output), "{subcommand} of {what} created something in {}", output.display());
    }
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

#[test]
fn not_bencode_at_all() {
    let lab = Lab::open();
    let good = Torrent::of(&Payload::single("file.bin", 100_000), &TorrentSpec::pieces_of(48 * KIB));
    let good = good.bytes();
    refused(&lab, "an empty file", b"", "");
    refused(&lab, "a truncated torrent", &good[..good.len() - 10], "byte");
    refused(&lab, "a torrent cut in half", &good[..good.len() / 2], "byte");
    refused(&lab, "text", b"<html><body>404 not found</body></html>", "byte");
    refused(&lab, "a string beyond the end", b"d4:info99999999999:xe", "byte");
    refused(&lab, "deep lists", &[vec![b'l'; 100_000], vec![b'e'; 100_000]].concat(), "");
    refused(&lab, "an integer without end", b"d4:infoi123", "");
}

#[test]
fn not_a_dictionary_and_no_info() {
    let lab = Lab::open();
    refused(&lab, "a list", b"le", "dictionary");
    refused(&lab, "an integer", b"i1e", "dictionary");
    refused(&lab, "a string", b"4:spam", "dictionary");
    refused(&lab, "an empty dictionary", b"de", "info");
    refused(&lab, "info as a string", b"d4:info4:spame", "info");
    refused(&lab, "info as a list", b"d4:infolee", "info");
}

#[test]
fn wrong_sizes() {
    let lab = Lab::open();
    let huge = i128::from(i64::MAX);
    let rows: [(&str, Option<Value>, &str); 14] = [
        ("length", Some(Value::Int(-1)), "info.length"),
        // As many pieces as no `pieces` string can hold.
        ("length", Some(Value::Int(huge)), "info.pieces"),
        ("length", Some(Value::Int(huge + 1)), "byte"),
        ("length", Some(Value::Int(0)), "info.length"),
        ("length", Some(Value::text("100000")), "info.length"),
        ("length", None, "info.length"),
        ("piece length", Some(Value::Int(0)), "info.piece length"),
        ("piece length", Some(Value::Int(-16_384)), "info.piece length"),
        ("piece length", Some(Value::Int(1 << 40)), "info.piece length"),
        ("piece length", None, "info.piece length"),
        ("pieces", Some(Value::Bytes(vec![7; 59])), "info.pieces"),
        ("pieces", Some(Value::Int(60)), "info.pieces"),
        ("pieces", None, "info.pieces"),
        ("name", None, "info.name"),
    ];
    for (key, value, names) in rows {
        refused(&lab, &format!("{key} = {value:?}"), &with(single_info(), key, value), names);
    }
}

#[test]
fn more_or_fewer_hashes_than_pieces() {
    let lab = Lab::open();
    for count in [0, 1, 2, 4, 1000] {
        let pieces = Value::Bytes(vec![7; count * 20]);
        refused(
            &lab,
            &format!("{count} hashes"),
            &with(single_info(), "pieces", Some(pieces)),
            "info.pieces",
        );
    }
}

#[test]
fn names_that_lead_outside() {
    let lab = Lab::open();
    for name in ["..", "/etc/passwd", "a/../../b", "nul\0byte", "", "."] {
        let torrent = with(single_info(), "name", Some(Value::text(name)));
        refused(&lab, &format!("name {name:?}"), &torrent, "info.name");
    }
}

#[test]
fn paths_that_lead_outside() {
    let lab = Lab::open();
    let paths: [&[&str]; 9] = [
        &["..", "evil"],
        &["a", "..", "..", "evil"],
        &["/etc", "passwd"],
        &["/"],
        &["a/b"],
        &["nul\0byte"],
        &[],
        &[""],
        &["."],
    ];
    for path in paths {
        let torrent = with_files(vec![file(10, &["fine"]), file(10, path)]);
        refused(&lab, &format!("path {path:?}"), &torrent, "info.files[1].path");
    }
    assert!(!lab.path().join("evil").exists() && !lab.path().join("out-download/evil").exists());
}

#[test]
fn file_lists_that_contradict_themselves() {
    let lab = Lab::open();
    let twice = vec![file(10, &["a", "b"]), file(10, &["a", "b"])];
    refused(&lab, "two files with one path", &with_files(twice), "info.files");
    let both = vec![file(10, &["a"]), file(10, &["a", "b"])];
    refused(&lab, "a file that is a folder too", &with_files(both), "info.files");
    refused(&lab, "no files", &with_files(vec![]), "info.files");
    refused(&lab, "a file that is a number", &with_files(vec![Value::Int(1)]), "info.files[0]");
    refused(&lab, "a negative length", &with_files(vec![file(-5, &["a"])]), "info.files[0].length");
    let big = i128::from(i64::MAX);
    refused(&lab, "an overflow", &with_files(vec![file(big, &["a"]), file(big, &["b"])]), "info.files");
    let path = Value::dict([("length", Value::Int(1)), ("path", Value::text("a"))]);
    refused(&lab, "a path that is a string", &with_files(vec![path]), "info.files[0].path");
    let number = Value::dict([("length", Value::Int(1)), ("path", Value::List(vec![Value::Int(1)]))]);
    refused(&lab, "a path of numbers", &with_files(vec![number]), "info.files[0].path");
    let mut info = single_info();
    info.insert(b"files".to_vec(), Value::List(vec![file(100_000, &["a"])]));
    refused(&lab, "length and files", &Value::dict([("info", Value::Dict(info))]).encode(), "info");
}

#[test]
fn symbolic_links_that_escape() {
    let lab = Lab::open();
    let link = |target: &[&str]| {
        Value::dict([
            ("attr", Value::text("l")),
            ("length", Value::Int(0)),
            ("path", Value::texts(&["link"])),
            ("symlink path", Value::texts(target)),
        ])
    };
    let targets: [&[&str]; 3] = [&["..", "..", "etc", "passwd"], &["/etc", "passwd"], &["link"]];
    for target in targets {
        let torrent = with_files(vec![file(10, &["fine"]), link(target)]);
        refused(&lab, &format!("a link to {target:?}"), &torrent, "info.files");
    }
}

#[test]
fn every_truncation_and_many_bit_flips_end_in_an_orderly_way() {
    let lab = Lab::open();
    let payload = Payload::tree("tree", &[("a/b", 30_000), ("c", 1)]);
    let good =
        Torrent::of(&payload, &TorrentSpec::pieces_of(16 * KIB).announce("http://127.0.0.1:9/a".into()));
    let good = good.bytes();
    let info = |bytes: &[u8], what: &str| {
        let path = lab.file("bad.torrent", bytes);
        let (code, _, stderr) = ccbt(["info".as_ref(), path.as_os_str()]);
        assert!(matches!(code, 0 | 2), "{what}: exit {code}: {stderr}");
        code
    };
    for len in (0..good.len()).step_by(7) {
        assert_eq!(info(&good[..len], &format!("{len} bytes")), 2, "{len} of {} bytes", good.len());
    }
    for at in (0..good.len()).step_by(5) {
        let mut bytes = good.to_vec();
        bytes[at] ^= 1 << (at % 8);
        info(&bytes, &format!("bit flip at {at}"));
    }
}

#[test]
fn missing_torrents_and_wrong_options() {
    let lab = Lab::open();
    let absent = lab.path().join("absent.torrent").display().to_string();
    let (code, _, stderr) = ccbt(["info", &absent]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("absent.torrent"), "the path is named: {stderr}");
    let good = Torrent::of(&Payload::single("file.bin", 1), &TorrentSpec::pieces_of(16 * KIB));
    let good = lab.file("good.torrent", good.bytes()).display().to_string();
    let output = lab.dir("out").display().to_string();
    let rows: [&[&str]; 7] = [
        &["--port", "65536"],
        &["--peer", "nonsense"],
        &["--down-limit", "much"],
        &["--piece-selection", "best"],
        &["--preallocate", "maybe"],
        &["--shards", "many"],
        &["--no-such-option"],
    ];
    for row in rows {
        let args = [&["download", &good, "--output", &output], row].concat();
        let (code, stdout, stderr) = ccbt(args);
        assert_eq!(code, 2, "{row:?}: {stdout}{stderr}");
        assert!(stderr.contains(row[0]), "the option is named: {stderr}");
    }
    assert_eq!(ccbt(["no-such-command"]).0, 2);
    assert_eq!(ccbt(["--help"]).0, 0);
    assert_eq!(ccbt(["--version"]).0, 0);
    assert!(is_empty(Path::new(&output)), "nothing is created");
}

#[test]
fn hostile_text_is_shown_escaped() {
    let lab = Lab::open();
    let hostile = "evil\x1b[31m\u{202e}gpj.exe";
    let torrent = with(single_info(), "name", Some(Value::text(hostile)));
    let path = lab.file("text.torrent", &torrent);
    for args in [["info"].as_slice(), &["info", "--json"]] {
        let (code, stdout, stderr) = ccbt(args.iter().map(AsRef::as_ref).chain([path.as_os_str()]));
        assert_eq!(code, 0, "an awkward name is repaired, not refused: {stderr}");
        for bad in ["\x1b", "\u{202e}"] {
            assert!(!stdout.contains(bad) && !stderr.contains(bad), "{args:?} shows {bad:?} raw: {stdout:?}");
        }
    }
}

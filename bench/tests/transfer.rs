//! The whole way of `ccbt-bench transfer`, small: our own program, two numbers of connections, both directions, memory
//! and a disk if there is one; then `report` and `compare` on what it wrote.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use ccbt_bench::machine::file_system;
use serde_json::Value;
use tempfile::TempDir;

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ccbt-bench")).args(args).output().expect("the program starts")
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).expect("the file was written")
}

#[test]
fn a_tiny_matrix_is_measured_and_published() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let ccbt = ccbt_tests::binary::ccbt_fast().to_string_lossy().into_owned();
    let memory = TempDir::with_prefix_in("ccbt-bench-test-", "/dev/shm").expect("Linux has it");
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("temporary folder");
    // With a target folder in memory there is nothing to compare with.
    let has_disk = file_system(memory.path()) != file_system(disk.path());
    let marks = "<!-- bench: made by `ccbt-bench`, not edited by hand -->\n<!-- /bench -->\n";
    fs::write(path("README.md"), format!("before\n{marks}after\n")).expect("written");
    let mut options = vec![
        "transfer".to_owned(),
        "--clients=ccbt".to_owned(),
        "--size-mib=8".to_owned(),
        "--piece-kib=256".to_owned(),
        "--connections=3,1".to_owned(),
        "--runs=2".to_owned(),
        "--budget-s=100".to_owned(),
        "--verify=full".to_owned(),
        format!("--ccbt={ccbt}"),
        format!("--dir={}", memory.path().display()),
        format!("--report={}", path("results")),
        format!("--readme={}", path("README.md")),
    ];
    if has_disk {
        options.push(format!("--disk={}", disk.path().display()));
    }
    let output = bench(&options.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let json: Value =
        serde_json::from_str(&text(&dir.path().join("results/transfer.json"))).expect("valid JSON");
    let rows = json["summary"].as_array().expect("a list");
    let names: Vec<_> = rows.iter().map(|row| format!("{} {}", row["mode"], row["connections"])).collect();
    let mut expected = vec!["\"download\" 1", "\"download\" 3", "\"seed\" 1", "\"seed\" 3"];
    // The middle number, the lower of two.
    expected.extend(has_disk.then_some("\"download\" 1"));
    assert_eq!(names, expected);
    for row in rows {
        assert_eq!((row["runs"].as_u64(), row["failed"].as_u64()), (Some(2), Some(0)), "{row}");
        assert!(row["medians"]["mb_per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{row}");
        assert!(row["medians"]["peak_rss_mib"].as_f64().is_some_and(|mib| mib > 1.0), "{row}");
    }
    let readme = text(&dir.path().join("README.md"));
    assert!(
        readme.starts_with("before\n") && readme.ends_with("after\n") && readme.contains("ccbt-fast "),
        "{readme}"
    );
    for folder in [memory.path(), disk.path()] {
        assert_eq!(
            fs::read_dir(folder).expect("still there").count(),
            0,
            "{} is left as it was",
            folder.display()
        );
    }

    let page = text(&dir.path().join("results/transfer.md"));
    fs::remove_file(dir.path().join("results/transfer.md")).expect("removed");
    assert!(bench(&["report", &path("results/transfer.json")]).status.success());
    assert_eq!(text(&dir.path().join("results/transfer.md")), page);
    let same = bench(&["compare", &path("results/transfer.json"), &path("results/transfer.json")]);
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
}

#[test]
fn a_box_is_judged_and_left_as_it_was() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("temporary folder");
    let folder = format!("--dir={}", dir.path().display());
    let ccbt = format!("--ccbt={}", ccbt_tests::binary::ccbt_fast().display());
    let output = bench(&["box", "--size-mib=64", "--json", &folder, &ccbt]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).expect("valid JSON");
    let is_more_than_nothing = |at: &str| {
        let value = found.pointer(at).and_then(Value::as_f64);
        assert!(value.is_some_and(|value| value > 0.0), "{at}: {found}");
    };
    for at in [
        "/disk/write_synced",
        "/disk/read",
        "/disk/sync_ms",
        "/hashing/sha1",
        "/hashing/sha1_all",
        "/hashing/sha256",
        "/network/rate",
        "/network/send_cpu_s",
        "/network/receive_cpu_s",
        "/measures/download/measured",
        "/measures/download/shards_cpu_s",
        "/measures/download/hash_cpu_s",
        "/measures/upload/shards_cpu_s",
        "/judgement/download/rate",
        "/judgement/upload/rate",
    ] {
        is_more_than_nothing(at);
    }
    assert_eq!(found["disk"]["depths"].as_array().map(Vec::len), Some(4), "{found}");
    assert!(found["judgement"]["profile"].is_string(), "{found}");
    assert_eq!(fs::read_dir(dir.path()).expect("still there").count(), 0, "it is left as it was");
    let nowhere = bench(&["box", "--dir=/no/such/folder"]);
    assert_eq!(nowhere.status.code(), Some(2), "{nowhere:?}");
}

#[test]
fn useless_calls_say_why() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let folder = format!("--dir={}", dir.path().display());
    let twice = bench(&["transfer", "--clients=ccbt", &folder, &folder.replace("--dir", "--disk")]);
    let unknown = bench(&["transfer", "--clients=nobody", &folder]);
    for (output, word) in [(twice, "--disk"), (unknown, "nobody")] {
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(word), "{output:?}");
    }
}

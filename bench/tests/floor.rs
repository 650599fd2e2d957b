//! `ccbt-bench floor`, small: every loop moves all bytes and ends.

use std::process::Command;

use serde_json::Value;

#[test]
fn all_loops_are_measured_and_nothing_is_left() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let json = dir.path().join("floor.json");
    let work = dir.path().join("work");
    std::fs::create_dir(&work).expect("made");
    let output = Command::new(env!("CARGO_BIN_EXE_ccbt-bench"))
        .args(["floor", "--size-mib", "20", "--connections", "1,3", "--runs", "2"])
        .arg("--dir")
        .arg(&work)
        .arg("--json")
        .arg(&json)
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text.lines().count(), 2 + 8, "{text}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json).expect("written")).expect("JSON");
    let rows = report["rows"].as_array().expect("a list");
    assert_eq!(rows.len(), 8);
    for row in rows {
        assert_eq!(row["runs"], 2, "{row}");
        assert!(row["cpu_s_per_gib"].as_f64() > Some(0.0) && row["mb_per_s"].as_f64() > Some(0.0), "{row}");
    }
    assert_eq!(std::fs::read_dir(&work).expect("it is there").count(), 0);
}

//! The `ccbt-fast` program under test: where it lies, and that it is the one of this source tree.
//!
//! Owner: [`crate::ccbt`]. Cargo builds another package's program only on request and names it to nobody, so it is looked
//! for beside the test program and always brought up to date by `cargo build` (a no-op of a fraction of a second) with
//! the same profile and target folder, once per test process, or once per run under nextest.
//!
//! `CCBT_FAST_BIN` names a program to test instead, built elsewhere.

use std::env;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::process::repository;

/// The program's path.
///
/// Panics with cargo's messages when it cannot be built.
pub fn ccbt_fast() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| match env::var_os("CCBT_FAST_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

fn build() -> PathBuf {
    let test = env::current_exe().expect("a test program knows its own path");
    // <target>/<profile>/deps/<test program>
    let profile_dir =
        test.parent().and_then(Path::parent).expect("test programs lie in <target>/<profile>/deps");
    let target_dir = profile_dir.parent().expect("the profile's folder lies in the target folder");
    let path = profile_dir.join("ccbt-fast");
    let mut lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(profile_dir.join(".ccbt-tests-build"))
        .expect("the target folder is writable");
    lock.lock().expect("files in the target folder can be locked");
    // Under nextest every test is a process of its own: the first of a run builds for all.
    let run = env::var("NEXTEST_RUN_ID").unwrap_or_default();
    let mut built_by = String::new();
    lock.read_to_string(&mut built_by).expect("the lock file is text");
    if !run.is_empty() && built_by == run && path.exists() {
        return path;
    }
    cargo_build(profile_dir, target_dir);
    assert!(path.exists(), "cargo build left no {}", path.display());
    lock.set_len(0).expect("the lock file can be cut");
    lock.rewind().expect("the lock file can be rewound");
    lock.write_all(run.as_bytes()).expect("the lock file can be written");
    path
}

fn cargo_build(profile_dir: &Path, target_dir: &Path) {
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    // The whole workspace's features, as in `cargo test --workspace`: nothing is compiled twice.
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo told this test about its own package would be another environment for build scripts, and half the tree
    // would be compiled again, here and in the next `cargo test`.
    let of_package =
        |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| name.starts_with(start));
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(of_package) {
            command.env_remove(name);
        }
    }
    let output = command
        .current_dir(repository())
        .args(["build", "--quiet", "--workspace", "--bin", "ccbt-fast", "--profile", profile, "--target-dir"])
        .arg(target_dir)
        .output()
        .expect("cargo can be started");
    assert!(
        output.status.success(),
        "cargo build of ccbt-fast failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

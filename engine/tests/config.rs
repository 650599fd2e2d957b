//! `ccbt-fast config`, and what a configuration does to commands that need no network.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Runs in the folder `here` of `dir`, where `home` is the home folder, with these variables and no others of ours.
fn run(dir: &Path, line: &str, variables: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ccbt-fast"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CCBT_") {
            command.env_remove(name);
        }
    }
    let command =
        command.current_dir(dir.join("here")).env_remove("XDG_CONFIG_HOME").env("HOME", dir.join("home"));
    let command = command.envs(variables.iter().copied()).args(line.split_whitespace()).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().expect("the program can be started");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    (status.code().expect("it ends by itself"), text(stdout), text(stderr))
}

fn folders() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for folder in ["here", "home/.config/ccbt"] {
        fs::create_dir_all(dir.path().join(folder)).expect("made");
    }
    dir
}

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).expect("written");
}

#[test]
fn show_tells_values_and_where_they_come_from() {
    let dir = folders();
    let dir = dir.path();
    write(dir, "home/.config/ccbt/ccbt.toml", "[network]\nlisten_port = 7001\n[disk]\nsync = \"none\"\n");
    write(dir, "here/ccbt.toml", "[disk]\nsync = \"piece\"\n[torrent.\"a*\"]\nseed_ratio = 3\n");
    let line = "config show --origin --set engine.memory=64MiB";
    let (code, text, error) = run(dir, line, &[("CCBT_MAX_PEERS", "77")]);
    assert_eq!(code, 0, "{error}");
    let user = dir.join("home/.config/ccbt/ccbt.toml");
    for expected in [
        format!("listen_port = 7001  # {}:2", user.display()),
        "sync = \"piece\"  # ./ccbt.toml:2".to_owned(),
        "max_global_peers = 77  # CCBT_MAX_PEERS".to_owned(),
        "memory = \"64MiB\"  # --set engine.memory".to_owned(),
        "queue_depth = \"auto\"  # default".to_owned(),
        "[torrent.\"a*\"]\nseed_ratio = 3.0  # ./ccbt.toml:4".to_owned(),
    ] {
        assert!(text.contains(&expected), "{expected}: {text}");
    }
    let (code, text, _) = run(dir, &format!("{line} --json"), &[("CCBT_NETWORK__MAX_GLOBAL_PEERS", "78")]);
    assert_eq!(code, 0);
    let json: Value = serde_json::from_str(&text).expect("one object");
    assert_eq!(json["network"]["max_global_peers"]["value"], 78);
    assert_eq!(json["network"]["max_global_peers"]["origin"], "CCBT_NETWORK__MAX_GLOBAL_PEERS");
    assert_eq!(
        (&json["disk"]["sync"]["value"], &json["engine"]["memory"]["value"]),
        (&"piece".into(), &(64 << 20).into())
    );
    assert_eq!(json["torrent"]["a*"]["seed_ratio"]["value"], 3.0);
    for (line, variables) in
        [("config show --no-config", &[][..]), ("config show", &[("CCBT_NO_CONFIG", "1")])]
    {
        let (_, text, _) = run(dir, line, variables);
        assert!(
            text.contains("listen_port = \"auto\"\n") && text.contains("sync = \"checkpoint\"\n"),
            "{text}"
        );
    }
    let (_, text, _) = run(dir, "config show", &[("XDG_CONFIG_HOME", "/nowhere")]);
    assert!(text.contains("listen_port = \"auto\"\n"), "{text}");
}

#[test]
fn what_show_prints_is_a_configuration_again() {
    let dir = folders();
    let dir = dir.path();
    let rule = "[[limits.schedule]]\ndays = [\"weekend\"]\nfrom = \"8:00\"\nto = \"9:00\"\nup_kib = 3\n";
    write(dir, "here/a.toml", &format!("{rule}[torrent.\"x\"]\nseed_time = 5\n[engine]\ncpus = [0]\n"));
    let (code, first, error) = run(dir, "config show --config a.toml", &[]);
    assert_eq!(code, 0, "{error}");
    write(dir, "here/b.toml", &first);
    let (code, second, error) = run(dir, "config show --no-config --config b.toml", &[]);
    assert_eq!((code, second), (0, first.clone()), "{error}");
    assert!(
        first.contains("[torrent.\"x\"]\nseed_time = \"5m\"") && first.contains("schedule = [{"),
        "{first}"
    );
}

#[test]
fn the_values_of_one_torrent_are_shown() {
    let dir = folders();
    let dir = dir.path();
    write(dir, "here/data", "some data");
    assert_eq!(run(dir, "create data -o t", &[]).0, 0);
    write(
        dir,
        "here/ccbt.toml",
        "[torrent.\"da?a\"]\nendgame_duplicates = 7\n[torrent.\"e*\"]\nseed_ratio = 1\n",
    );
    let (code, text, error) = run(dir, "config show --torrent t --origin", &[]);
    assert!(code == 0 && text.contains("endgame_duplicates = 7  # ./ccbt.toml:2"), "{text}{error}");
    assert!(text.contains("seed_ratio = \"off\"") && !text.contains("[torrent."), "{text}");
}

#[test]
fn check_names_everything_that_is_wrong() {
    let dir = folders();
    let dir = dir.path();
    write(dir, "here/good", "[disk]\noutput = \"~/x\"\n");
    let (code, text, _) = run(dir, "config check good", &[]);
    assert!(code == 0 && text.contains("nothing is wrong"), "{text}");
    write(dir, "here/bad", "[disk]\nsnyc = \"none\"\n[limits]\nglobal_down_kib = \"fast\"\n");
    let (code, text, error) = run(dir, "config check bad", &[]);
    assert!(code == 2 && text.is_empty(), "{text}");
    assert!(error.contains("bad:2: disk.snyc: unknown key; did you mean sync?"), "{error}");
    assert!(error.contains("bad:4: limits.global_down_kib: must be a rate up to 4TiB/s"), "{error}");
    assert_eq!(run(dir, "config check nowhere", &[]).0, 2);
}

#[test]
fn the_default_file_is_printed_and_changes_nothing() {
    let dir = folders();
    let dir = dir.path();
    let (code, text, _) = run(dir, "config default", &[]);
    assert_eq!((code, text.as_str()), (0, ccbt_fast::config::default_file().as_str()));
    let (_, before, _) = run(dir, "config show", &[]);
    write(dir, "here/ccbt.toml", &text);
    assert_eq!(run(dir, "config show", &[]), (0, before, String::new()));
}

/// A configuration of an earlier release with every key it had. When this fails, take the old spelling, too.
#[test]
fn the_configuration_of_every_release_is_taken() {
    let dir = folders();
    let dir = dir.path();
    let golden = include_str!("golden/config-0.1.toml");
    write(dir, "here/golden.toml", golden);
    let (code, text, error) = run(dir, "config check golden.toml", &[]);
    assert!(code == 0 && text.contains("nothing is wrong"), "{text}{error}");
    let (code, text, error) = run(dir, "config show --no-config --config golden.toml", &[]);
    assert_eq!((code, error.as_str()), (0, ""));
    let missing: Vec<_> = golden.lines().filter(|line| !text.contains(line)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_wrong_configuration_stops_a_download_before_anything_is_made() {
    let dir = folders();
    let dir = dir.path();
    write(dir, "here/data", "some data");
    assert_eq!(run(dir, "create data -o t", &[]).0, 0);
    for (text, variables, expected) in [
        ("[disk]\noutput = \"/tmp/elsewhere\"\n", &[][..], "./ccbt.toml:2: disk.output: is not taken"),
        ("[network]\nport = 1\n", &[], "./ccbt.toml:2: network.port: unknown key"),
        ("", &[("CCBT_LISTEN_PORT", "x")], "CCBT_LISTEN_PORT: network.listen_port: must be"),
        ("", &[("CCBT_NETWORK__PORT", "1")], "CCBT_NETWORK__PORT: "),
    ] {
        write(dir, "here/ccbt.toml", text);
        for line in ["t --output out --json", "download t --output out", "seed t"] {
            let (code, stdout, error) = run(dir, line, variables);
            assert!(code == 2 && error.contains(expected), "{line}: {code} {error}");
            assert_eq!(stdout.contains("\"event\":\"error\""), line.ends_with("--json"), "{stdout}");
        }
    }
    assert!(!dir.join("here/out").exists());
    write(dir, "here/ccbt.toml", "[network]\nport = 1\n");
    let (code, _, error) = run(dir, "seed t --no-config --output nowhere", &[]);
    assert!(code == 2 && error.contains("--output"), "{error}");
}

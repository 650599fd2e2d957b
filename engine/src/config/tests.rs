use super::*;
use std::fs;
use std::path::Path;

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("it has a folder")).expect("made");
    fs::write(path, text).expect("written");
}

struct Folders {
    dir: tempfile::TempDir,
}

impl Folders {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn places(&self) -> Places {
        let place = |name| Some(self.path(name));
        Places { system: place("etc"), user: place("home"), current: place("here") }
    }

    fn write(&self, name: &str, text: &str) {
        write(&self.path(name), text);
    }
}

fn variables(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn setting(path: &str, text: &str) -> Setting {
    let key = &KEYS[find_path(path).expect("a key")];
    Setting { key, value: key.read(text).expect("good"), flag: "--flag".into() }
}

fn told(error: &ConfigError) -> Vec<String> {
    error.problems.iter().map(ToString::to_string).collect()
}

fn port(config: &Config) -> (String, String) {
    let entry = &config.entries[find_path("network.listen_port").expect("a key")];
    (entry.value.to_text(), entry.origin.to_string())
}

#[test]
fn a_higher_layer_wins_key_by_key() {
    let folders = Folders::new();
    let named = folders.path("named.toml");
    let load = |named: Option<&Path>, environment: &[(&str, &str)], settings: Vec<Setting>| {
        let sources = Sources::new(Some(&folders.places()), named);
        sources.variables(variables(environment)).settings(settings).load().expect("good")
    };
    let file = |port: u16| format!("[network]\nlisten_port = {port}\n");
    assert_eq!(port(&load(None, &[], vec![])), ("auto".into(), "default".into()));
    folders.write("etc/ccbt.toml", &(file(1) + "[limits]\nglobal_up_kib = 3\n"));
    assert_eq!(port(&load(None, &[], vec![])).0, "1");
    folders.write("home/ccbt.toml", &file(2));
    assert_eq!(port(&load(None, &[], vec![])).0, "2");
    folders.write("here/ccbt.toml", &("\n".to_owned() + &file(3)));
    let config = load(None, &[], vec![]);
    assert_eq!(port(&config), ("3".into(), format!("{}:3", folders.path("here/ccbt.toml").display())));
    assert_eq!(config.effect(None).settings.up_limit, 3 << 10, "what a higher layer does not set stays");
    fs::write(&named, file(4)).expect("written");
    assert_eq!(port(&load(Some(&named), &[], vec![])).0, "4");
    let short = [("CCBT_LISTEN_PORT", "5")];
    assert_eq!(port(&load(Some(&named), &short, vec![])), ("5".into(), "CCBT_LISTEN_PORT".into()));
    let both = [("CCBT_LISTEN_PORT", "5"), ("CCBT_NETWORK__LISTEN_PORT", "6"), ("CCBT_DOWN_LIMIT", "")];
    assert_eq!(port(&load(Some(&named), &both, vec![])), ("6".into(), "CCBT_NETWORK__LISTEN_PORT".into()));
    let config = load(Some(&named), &both, vec![setting("network.listen_port", "7")]);
    assert_eq!(port(&config), ("7".into(), "--flag".into()));
    let sources = Sources::new(None, Some(&named)).load().expect("good");
    assert_eq!(port(&sources).0, "4", "only the file that was named");
    assert_eq!(port(&Sources::new(None, None).load().expect("good")).0, "auto");
}

#[test]
fn values_for_a_torrent_win_over_everything_and_hashes_over_names() {
    let folders = Folders::new();
    let hash = InfoHash([0xab; 20]);
    let text = format!(
        "[torrent.\"{hash}\"]\npreallocate = \"full\"\n[torrent.\"deb*\"]\npreallocate = \"none\"\n\
         max_peers_per_torrent = 3\n[torrent.\"debian\"]\nmax_peers_per_torrent = 4\n"
    );
    folders.write("home/ccbt.toml", &text);
    folders.write("here/ccbt.toml", "[torrent.\"d*\"]\nendgame_duplicates = 9\nmax_peers_per_torrent = 5\n");
    let sources = Sources::new(Some(&folders.places()), None);
    let config = sources.settings([setting("network.max_peers_per_torrent", "77")]).load().expect("good");
    let options = |hash: InfoHash, name: &str| config.effect(Some((&hash, name))).torrent;
    let debian = options(hash, "debian");
    assert_eq!(debian.preallocate, crate::Preallocate::Full, "the info-hash counts more than a name");
    assert_eq!((debian.max_peers, debian.picker.endgame_duplicates), (5, 9), "the last file counts");
    let other = options(InfoHash([1; 20]), "deb");
    assert_eq!(other.preallocate, crate::Preallocate::None);
    let ubuntu = options(InfoHash([1; 20]), "ubuntu");
    assert_eq!((ubuntu.max_peers, ubuntu.preallocate), (77, crate::Preallocate::Sparse));
    assert_eq!(config.effect(None).torrent.max_peers, 77);
}

#[test]
fn problems_of_all_layers_are_told_at_once_and_nothing_counts() {
    let folders = Folders::new();
    folders.write("etc/ccbt.toml", "[network]\nlisten_port = -1\n");
    folders.write("here/ccbt.toml", "[disk]\noutput = \"/etc\"\n");
    fs::create_dir_all(folders.path("home/ccbt.toml")).expect("made");
    let missing = folders.path("missing.toml");
    let environment = variables(&[
        ("CCBT_MAX_PEERS", "many"),
        ("CCBT_NETWORK__LISTEN_PROT", "1"),
        ("CCBT_UPLIMIT", "1"),
        ("CCBT_OBSERVABILITY__STRUCTURED_LOGGING", "true"),
        ("CCBT_FAST_BIN", "/bin/x"),
        ("CCBT_NO_CONFIG", "0"),
        ("OTHER", "x"),
    ]);
    let sources = Sources::new(Some(&folders.places()), Some(&missing)).variables(environment);
    let told = told(&sources.load().expect_err("wrong"));
    for part in [
        "etc/ccbt.toml:2: network.listen_port: must be",
        "home/ccbt.toml: is not a file",
        "here/ccbt.toml:2: disk.output: is not taken",
        "missing.toml: cannot be read",
        "CCBT_MAX_PEERS: network.max_global_peers: must be a whole number from 1 to 65000",
        "CCBT_NETWORK__LISTEN_PROT: unknown variable; did you mean CCBT_NETWORK__LISTEN_PORT?",
        "CCBT_UPLIMIT: unknown variable; did you mean CCBT_UP_LIMIT?",
        "CCBT_OBSERVABILITY__STRUCTURED_LOGGING: log_format",
    ] {
        assert!(told.iter().any(|text| text.contains(part)), "{part}: {told:#?}");
    }
    assert_eq!(told.len(), 8, "{told:#?}");
}

#[test]
fn values_that_contradict_each_other_are_refused_where_the_last_one_was_set() {
    let folders = Folders::new();
    folders.write("etc/ccbt.toml", "[network]\npipeline_depth_max = 20\n");
    let sources = || Sources::new(Some(&folders.places()), None);
    assert!(sources().load().is_ok());
    let error = sources().settings([setting("network.pipeline_depth_min", "30")]).load().expect_err("wrong");
    let told = told(&error);
    assert_eq!(told.len(), 1);
    assert!(
        told[0]
            .starts_with("--flag: network.pipeline_depth_min: must be at most pipeline_depth_max (20, from ")
    );
    folders.write("etc/ccbt.toml", "[network]\npipeline_depth_max = 10\n");
    let error = sources().load().expect_err("less than the default of the other").to_string();
    assert!(
        error.contains("pipeline_depth_max: must be at least pipeline_depth_min (16, from default)"),
        "{error}"
    );
}

#[test]
fn odd_files_are_no_surprise() {
    let folders = Folders::new();
    let load = |bytes: &[u8]| {
        let path = folders.path("x.toml");
        fs::write(&path, bytes).expect("written");
        Sources::new(None, Some(&path)).load().map_err(|error| error.to_string())
    };
    assert!(load(b"").is_ok());
    assert!(load(b"# a\n# \xff\n").expect_err("not text").contains("not UTF-8 text in line 2"));
    assert!(load(&vec![b'#'; (1 << 20) + 1]).expect_err("long").contains("1 MiB"));
    let fifo = folders.path("here/ccbt.toml");
    fs::create_dir_all(folders.path("here")).expect("made");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
    let error = Sources::new(Some(&folders.places()), None).load().expect_err("a fifo");
    assert!(error.to_string().contains("is not a file"), "{error}");
}

#[test]
fn the_file_of_the_user_is_trusted_in_its_own_folder_too() {
    let folders = Folders::new();
    folders.write("home/ccbt.toml", "[disk]\noutput = \"/srv\"\n");
    let places = Places { current: Some(folders.path("home")), ..folders.places() };
    assert!(Sources::new(Some(&places), None).load().is_ok());
    folders.write("here/ccbt.toml", "[disk]\noutput = \"/srv\"\n");
    let named = folders.path("here/ccbt.toml");
    assert!(Sources::new(Some(&folders.places()), None).load().is_err());
    assert!(Sources::new(Some(&folders.places()), Some(&named)).load().is_ok(), "whoever names it means it");
}

/// The file at the top of the repository.
fn shipped() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ccbt.toml");
    fs::read_to_string(path).expect("the repository has a ccbt.toml")
}

#[test]
fn the_shipped_file_is_what_the_table_says() {
    let text = default_file();
    assert!(text == shipped(), "ccbt.toml differs from the table: ccbt-fast config default > ccbt.toml");
    assert!(text.lines().all(|line| line.chars().count() <= 120));
    let (file, problems) = parse(&text, Path::new("f"), Trust::Folder);
    assert!(problems.is_empty() && file.entries.is_empty() && file.overrides.is_empty());
}

/// A commented line that would be a key.
fn is_key_line(line: &str) -> bool {
    line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase() || c == '[')
}

#[test]
fn the_shipped_file_without_its_comment_signs_is_the_defaults() {
    let text = shipped();
    let active: Vec<&str> =
        text.lines().map(|line| if is_key_line(line) { &line[1..] } else { line }).collect();
    let (file, problems) = parse(&active.join("\n"), Path::new("f"), Trust::Full);
    assert!(problems.is_empty(), "{problems:#?}");
    assert_eq!(file.entries.len(), KEYS.len(), "every key is there");
    for (key, entry) in file.entries {
        assert_eq!(entry.value, KEYS[key].default_value(), "{}", KEYS[key].path());
    }
    assert_eq!(file.overrides.len(), KEYS.iter().filter(|key| key.per_torrent).count());
    assert_eq!(file.schedule.expect("the example").0.len(), 1);
}

#[test]
fn changes_are_told_with_what_they_need() {
    let load = |text: &str| {
        let (file, problems) = parse(text, Path::new("f"), Trust::Full);
        assert!(problems.is_empty(), "{problems:?}");
        let mut config = Config::default();
        config.add(1, file);
        config
    };
    let shown = |old: &str, new: &str| -> Vec<String> {
        let changes = diff(&load(old), &load(new));
        changes.iter().map(|c| format!("{}: {} -> {} {:?}", c.key, c.from, c.to, c.applies)).collect()
    };
    let old = "[limits]\nglobal_down_kib = 5\n[torrent.\"a\"]\nseed_time = 5\npreallocate = \"full\"\n";
    let new = "[network]\nlisten_port = 7\n[limits]\nglobal_down_kib = 6\n[[limits.schedule]]\nfrom = \"1:00\"\n\
               to = \"2:00\"\nup_kib = 1\n[torrent.\"a\"]\nseed_time = 6\n[torrent.\"b\"]\nendgame_duplicates = 3\n";
    assert_eq!(
        shown(old, new),
        [
            "network.listen_port: \"auto\" -> 7 Restart",
            "limits.global_down_kib: \"5KiB/s\" -> \"6KiB/s\" AtOnce",
            "limits.schedule:  -> [{ days = [\"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\", \"sun\"], \
             from = \"01:00\", to = \"02:00\", up_kib = \"1KiB/s\" }] AtOnce",
            "torrent.\"a\".preallocate: \"full\" ->  Restart",
            "torrent.\"a\".seed_time: \"5m\" -> \"6m\" AtOnce",
            "torrent.\"b\".endgame_duplicates:  -> 3 Restart",
        ]
    );
    assert_eq!(shown(new, new), [""; 0]);
    assert_eq!(
        shown("", "\n\n[limits]\nglobal_down_kib = 0\n"),
        [""; 0],
        "where it comes from does not count"
    );
    let at_once: Vec<String> =
        KEYS.iter().filter(|key| key.applies == Applies::AtOnce).map(Key::path).collect();
    let expected = [
        "disk.checkpoint_interval",
        "disk.checkpoint_pieces",
        "disk.checkpoint_format",
        "disk.checkpoint_retention_days",
        "disk.auto_delete_checkpoint_on_complete",
        "limits.global_down_kib",
        "limits.global_up_kib",
        "limits.per_torrent_down_kib",
        "limits.per_torrent_up_kib",
        "limits.per_peer_down_kib",
        "limits.per_peer_up_kib",
        "limits.seed_time",
        "limits.seed_ratio",
        "observability.log_level",
        "observability.log_filter",
        "observability.enable_peer_tracing",
        "security.ip_filter",
        "security.ip_filter_trackers",
        "daemon.active_downloads",
        "daemon.active_seeds",
        "daemon.active_limit",
        "daemon.slow_rate",
        "daemon.slow_after",
        "daemon.seed_action",
        "daemon.watch_dir",
        "daemon.allowed_folders",
        "daemon.on_complete",
    ];
    assert_eq!(
        at_once, expected,
        "what the command line applies to a running session (bin/ccbt-fast/reload.rs, daemon/reload.rs)"
    );
}

//! Every key has its effect on the engine's settings, and no other key has it.

use super::*;
use crate::checkpoints::CheckpointSettings;

/// A value other than the default for each key, and what it must lead to: part of the debug text of [`Effect`], which holds
/// nothing but what the engine and the command line are given.
const EFFECTS: &[(&str, &str, &str)] = &[
    ("network.listen_port", "7000", "port: Some(7000)"),
    ("network.port_mapping", "nat-pmp", "port_mapping: NatPmp"),
    ("network.bind_address", "eth0, ::1", "bind: Some(eth0,::1)"),
    ("network.bind_to", "[\"10.0.0.2\"]", "bind_to: Some(10.0.0.2)"),
    ("network.max_global_peers", "7", "max_connections: 7"),
    ("network.max_peers_per_torrent", "8", "max_peers: 8"),
    ("network.pipeline_depth_min", "9", "floor: 9"),
    ("network.pipeline_depth_max", "99", "ceiling: 99"),
    ("network.request_timeout_min", "11s", "request_timeout_min: 11s"),
    ("network.request_timeout_max", "77s", "request_timeout_max: 77s"),
    ("network.zero_copy_send", "on", "zero_copy_send: On"),
    ("network.enable_tcp", "false", "tcp: false"),
    ("network.enable_utp", "true", "utp: true"),
    ("network.prefer_transport", "utp", "preferred: Utp"),
    ("network.encryption_in", "require", "incoming: Require"),
    ("network.encryption_out", "prefer", "outgoing: Prefer"),
    ("disk.output", "/srv/out", "output: \"/srv/out\""),
    ("disk.move_completed", "/srv/done", "move_completed: Some(\"/srv/done\")"),
    ("disk.preallocate", "full", "preallocate: Full"),
    ("disk.write_batch_kib", "256", "disk_write_bytes: Some(262144)"),
    ("disk.queue_depth", "12", "disk_queue_depth: Some(12)"),
    ("disk.hash_workers", "3", "hash_threads: Some(3)"),
    ("disk.sync", "piece", "policy: Piece"),
    ("disk.sync_interval", "13s", "interval: 13s"),
    ("disk.sync_bytes", "14", "bytes: 14680064"),
    ("disk.max_open_files", "15", "max_open_files: 15"),
    ("disk.checkpoint_enabled", "false", "checkpoint_enabled: false"),
    ("disk.checkpoint_dir", "/srv/state", "checkpoints: CheckpointSettings { dir: Some(\"/srv/state\")"),
    ("disk.checkpoint_interval", "31", "interval: 31s"),
    ("disk.checkpoint_pieces", "32", "pieces: 32"),
    ("disk.checkpoint_format", "json", "format: Json"),
    ("disk.checkpoint_retention_days", "2", "keep: Some(172800s)"),
    ("disk.auto_delete_checkpoint_on_complete", "true", "keep_completed: false"),
    ("disk.auto_resume", "false", "auto_resume: Never"),
    ("strategy.piece_selection", "sequential", "strategy: Sequential"),
    ("strategy.endgame_duplicates", "5", "endgame_duplicates: 5"),
    ("strategy.random_first_pieces", "6", "random_first: 6"),
    ("strategy.files", "[\"*.mkv\", \"0,3-4\"]", "only: [\"*.mkv\", \"0,3-4\"]"),
    ("strategy.file_priority", "*.nfo=skip", "priorities: [(\"*.nfo\", Skip)]"),
    ("strategy.streaming_mode", "true", "streaming: true"),
    ("strategy.super_seeding", "true", "super_seeding: true"),
    ("strategy.upload_slots", "17", "slots: 17"),
    ("strategy.optimistic_slots", "3", "optimistic: 3"),
    ("strategy.optimistic_interval", "19s", "optimistic_interval: 19s"),
    ("network.web_seeds", "false", "use_web_seeds: false"),
    ("network.web_seed_local", "true", "web_seed_local: true"),
    ("discovery.enable_trackers", "false", "use_trackers: false"),
    ("discovery.enable_http_trackers", "false", "http: false"),
    ("discovery.enable_udp_trackers", "false", "udp: false"),
    ("discovery.tracker_connections", "3", "tracker_connections: 3"),
    ("discovery.enable_pex", "false", "use_pex: false"),
    ("discovery.enable_dht", "false", "enable_dht: false"),
    ("discovery.dht_port", "7001", "dht: DhtSettings { port: Some(7001)"),
    ("discovery.dht_bootstrap", "a.example:1, [::1]:2", "bootstrap: [\"a.example:1\", \"[::1]:2\"]"),
    ("discovery.dht_read_only", "true", "read_only: true"),
    ("discovery.enable_lsd", "false", "use_lsd: false"),
    ("proxy.type", "socks5", "kind: Some(Socks5)"),
    ("proxy.address", "p.example:1", "address: [\"p.example:1\"]"),
    ("proxy.credentials_file", "/etc/proxy", "credentials_file: Some(\"/etc/proxy\")"),
    ("proxy.peers", "false", "peers: false"),
    ("proxy.trackers", "false", "peers: true, trackers: false"),
    ("proxy.hostnames", "false", "hostnames: false"),
    ("limits.global_down_kib", "20", "down_limit: 20480"),
    ("limits.global_up_kib", "1MiB/s", "up_limit: 1048576"),
    ("limits.per_torrent_down_kib", "21", "limits: Some(TorrentLimits { down: 21504"),
    ("limits.per_torrent_up_kib", "22", "up: 22528"),
    ("limits.per_peer_down_kib", "23", "peer_down: 23552"),
    ("limits.per_peer_up_kib", "24", "peer_up: 24576"),
    ("limits.count_overhead", "true", "count_overhead: true"),
    ("limits.seed_time", "2", "seed_time: Some(120s)"),
    ("limits.seed_ratio", "1.5", "seed_ratio: Some(1.5)"),
    ("observability.log_level", "DEBUG", "level: LevelFilter::DEBUG"),
    ("observability.log_filter", "info,a=debug", "filter: Some(\"info,a=debug\")"),
    ("observability.log_format", "json", "json: true"),
    ("observability.log_file_size", "unlimited", "file_bytes: None"),
    ("observability.log_files", "36", "files: 36"),
    ("observability.enable_peer_tracing", "true", "peer_tracing: true"),
    (
        "observability.trace_peer",
        "10.0.0.9:7",
        "trace_peer: Some(PeerAddress { ip: 10.0.0.9, port: Some(7) })",
    ),
    ("observability.log_file", "/var/log/x", "file: Some(\"/var/log/x\")"),
    ("observability.enable_metrics", "true", "metrics: MetricsSettings { enabled: true"),
    ("observability.metrics_port", "9091", "port: 9091"),
    ("observability.metrics_address", "::1", "address: ::1"),
    ("observability.metrics_torrents", "35", "torrents: 35"),
    ("engine.shards", "2", "shards: Some(2)"),
    ("engine.cpus", "0-2", "cpus: Some([0, 1, 2])"),
    ("engine.storage_cpu", "1", "storage_cpu: Some(1)"),
    ("engine.hash_cpus", "2,3", "hash_cpus: Some([2, 3])"),
    ("engine.memory", "32", "memory_bytes: 33554432"),
    ("security.tracker_ca_file", "/etc/ca.pem", "tracker_ca_file: Some(\"/etc/ca.pem\")"),
    ("security.ip_filter", "/etc/list", "ip_filter: FilterSettings { path: Some(\"/etc/list\")"),
    ("security.ip_filter_trackers", "true", "path: None, trackers: true }"),
    ("security.sandbox", "strict", "sandbox: SandboxSettings { mode: Strict"),
    ("security.sandbox_paths", "[\"/srv/a\", \"/srv/b c\"]", "paths: [\"/srv/a\", \"/srv/b c\"]"),
    ("daemon.socket", "/run/x", "socket: Some(\"/run/x\")"),
    ("daemon.listen", "[::1]:7", "listen: Some([::1]:7)"),
    ("daemon.token_file", "/etc/token", "token_file: Some(\"/etc/token\")"),
    ("daemon.state_dir", "/var/lib/ccbt", "state_dir: Some(\"/var/lib/ccbt\")"),
    ("daemon.active_downloads", "unlimited", "active_downloads: None"),
    ("daemon.active_seeds", "31", "active_seeds: Some(31)"),
    ("daemon.active_limit", "32", "active_limit: Some(32)"),
    ("daemon.slow_rate", "33", "slow_rate: 33792"),
    ("daemon.slow_after", "34", "slow_after: 34s"),
    ("daemon.seed_action", "remove", "seed_action: Remove"),
    ("daemon.watch_dir", "/srv/watch", "watch_dir: Some(\"/srv/watch\")"),
    ("daemon.allowed_folders", "[\"/srv/mine\"]", "allowed_folders: [\"/srv/mine\"]"),
    ("daemon.on_complete", "[\"/bin/x\", \"a b\", \"\"]", "on_complete: Some([\"/bin/x\", \"a b\", \"\"])"),
];

fn shown(effect: &Effect) -> String {
    format!("{effect:#?}")
}

fn with_setting(path: &str, text: &str) -> Config {
    let key = &KEYS[find_path(path).unwrap_or_else(|| panic!("{path} is a key"))];
    let value = key.read(text).unwrap_or_else(|message| panic!("{path} {message}"));
    let setting = Setting { key, value, flag: "--set".into() };
    Sources::default().settings([setting]).load().expect("it is well-formed")
}

#[test]
fn every_key_has_its_effect_and_no_other() {
    let flat = |effect: &Effect| format!("{effect:?}");
    let defaults = flat(&Config::default().effect(None));
    for key in KEYS {
        let path = key.path();
        let found = EFFECTS.iter().find(|(known, ..)| *known == path);
        let (_, text, expected) = found.unwrap_or_else(|| panic!("{path} has no line in EFFECTS"));
        let effect = with_setting(&path, text).effect(None);
        assert!(!defaults.contains(expected), "{path}: {expected} is the default");
        assert!(flat(&effect).contains(expected), "{path} = {text}: no {expected} in {effect:#?}");
        for (other, _, theirs) in EFFECTS.iter().filter(|(other, ..)| *other != path) {
            assert!(!flat(&effect).contains(theirs), "{path} changes what {other} is for: {effect:#?}");
        }
    }
    assert_eq!(EFFECTS.len(), KEYS.len());
}

#[test]
fn without_a_configuration_the_library_has_its_own_defaults() {
    assert_eq!(shown(&Config::default().effect(None)), shown(&Effect::default().finish()));
    let mut settings = crate::Settings::default();
    assert_eq!(settings.checkpoints.dir, None, "the library writes nowhere that nobody has named");
    settings.checkpoints.dir = CheckpointSettings::default_dir();
    assert_eq!(format!("{:#?}", Config::default().effect(None).settings), format!("{settings:#?}"));
    // Limits are those of the configuration, so that none of the session's are put in their place.
    let options = crate::AddOptions { limits: Some(Default::default()), ..crate::AddOptions::new(".") };
    assert_eq!(format!("{:#?}", Config::default().effect(None).torrent), format!("{options:#?}"));
}

#[test]
fn checkpoints_are_kept_unless_they_are_switched_off() {
    let effect = |path, text| with_setting(path, text).effect(None);
    assert_eq!(effect("disk.checkpoint_enabled", "false").settings.checkpoints.dir, None);
    assert_eq!(
        effect("disk.checkpoint_enabled", "false").checkpoint_folder(),
        CheckpointSettings::default_dir()
    );
    assert_eq!(effect("disk.checkpoint_retention_days", "never").settings.checkpoints.keep, None);
    for (text, is_used) in [("ask", true), ("true", true), ("false", false)] {
        assert_eq!(effect("disk.auto_resume", text).torrent.auto_resume, is_used, "{text}");
    }
    assert_eq!(effect("disk.auto_resume", "true").auto_resume, AutoResume::Always);
}

#[test]
fn many_connections_of_a_torrent_raise_the_ceiling_of_all() {
    let connections = |config: Config| config.effect(None).settings.max_connections;
    assert_eq!(connections(with_setting("network.max_peers_per_torrent", "400")), 500);
    assert_eq!(connections(with_setting("network.max_peers_per_torrent", "1000")), 1064);
}

#[test]
fn every_value_is_written_and_read_back() {
    for (path, text, _) in EFFECTS {
        let key = &KEYS[find_path(path).expect("a key")];
        for value in [key.read(text).expect("good"), key.default_value()] {
            assert_eq!(key.read(&value.to_text()).as_ref(), Ok(&value), "{path}");
            let file = format!("[{}]\n{} = {}\n", key.section, key.name, value.to_toml());
            let (file, problems) = parse(&file, std::path::Path::new("f"), Trust::Full);
            assert!(problems.is_empty(), "{path}: {problems:?}");
            assert_eq!(file.entries[0].1.value, value, "{path}");
        }
    }
}

#[test]
fn names_are_told_apart() {
    let mut flags: Vec<_> = KEYS.iter().filter_map(|key| key.flag.map(|flag| flag.long)).collect();
    let mut paths: Vec<_> = KEYS.iter().map(Key::path).collect();
    let mut per_torrent: Vec<_> = KEYS.iter().filter(|key| key.per_torrent).map(|key| key.name).collect();
    let mut variables: Vec<String> =
        KEYS.iter().flat_map(|key| key.short_env.map(str::to_owned).into_iter().chain([key.env()])).collect();
    let counts = [flags.len(), paths.len(), per_torrent.len(), variables.len()];
    flags.sort_unstable();
    flags.dedup();
    paths.sort_unstable();
    paths.dedup();
    per_torrent.sort_unstable();
    per_torrent.dedup();
    variables.sort_unstable();
    variables.dedup();
    assert_eq!([flags.len(), paths.len(), per_torrent.len(), variables.len()], counts);
    for key in KEYS {
        assert!(keys::SECTIONS.iter().any(|(section, _)| *section == key.section), "{}", key.path());
        let _ = key.default_value();
    }
    for (path, _) in ELSEWHERE {
        assert!(find_path(path).is_none(), "{path} is a key by now");
    }
}

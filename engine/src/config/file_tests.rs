use super::*;
use crate::config::kind::Kind;

fn told(text: &str, trust: Trust) -> Vec<String> {
    parse(text, Path::new("f"), trust).1.iter().map(ToString::to_string).collect()
}

#[test]
fn a_file_of_all_kinds_is_read() {
    let text = "\u{feff}[network]\r\nlisten_port = 6_882\r\nbind_address = \"::1\"\r\n\
                max_peers_per_torrent = 0x10\n\
                [disk]\noutput = \"/srv\"\nwrite_batch_kib = \"1MiB\"\nsync_interval = 1.5\n\
                [discovery]\nenable_trackers = false\n\
                [engine]\ncpus = [0, 2]\nhash_cpus = \"4-5\"\nshards = \"auto\"\n\
                [limits]\nseed_ratio = 2\nglobal_up_kib = 10\n\
                [torrent.\"deb*\"]\npreallocate = \"full\"\nseed_time = \"2h\"\n";
    let (file, problems) = parse(text, Path::new("f"), Trust::Full);
    assert!(problems.is_empty(), "{problems:?}");
    let shown: Vec<String> = file
        .entries
        .iter()
        .map(|(key, entry)| format!("{} = {} ({})", KEYS[*key].path(), entry.value.to_toml(), entry.origin))
        .collect();
    let expected = [
        "network.listen_port = 6882 (f:2)",
        "network.bind_address = \"::1\" (f:3)",
        "network.max_peers_per_torrent = 16 (f:4)",
        "disk.output = \"/srv\" (f:6)",
        "disk.write_batch_kib = \"1MiB\" (f:7)",
        "disk.sync_interval = \"1s500ms\" (f:8)",
        "discovery.enable_trackers = false (f:10)",
        "engine.cpus = [0, 2] (f:12)",
        "engine.hash_cpus = [4, 5] (f:13)",
        "engine.shards = \"auto\" (f:14)",
        "limits.seed_ratio = 2.0 (f:16)",
        "limits.global_up_kib = \"10KiB/s\" (f:17)",
    ];
    let mut sorted = shown.clone();
    sorted.sort();
    let mut wanted = expected.map(str::to_owned).to_vec();
    wanted.sort();
    assert_eq!(sorted, wanted);
    let overrides: Vec<String> = file
        .overrides
        .iter()
        .map(|o| format!("{} {} {}", o.pattern, KEYS[o.key].name, o.entry.value.to_toml()))
        .collect();
    assert_eq!(overrides, ["deb* preallocate \"full\"", "deb* seed_time \"2h\""]);
}

#[test]
fn every_mistake_is_told_at_once_with_line_key_bounds_and_the_right_name() {
    let text = "listen_port = 1\n\
                [netwrk]\n\
                [network]\n\
                listen_prot = 1\n\
                listen_port = 70000\n\
                piece_selection = \"sequential\"\n\
                max_peers_per_torrent = [1]\n\
                [disk]\n\
                preallocate = \"ful\"\n\
                output = \"relative\"\n\
                write_batch_kib = { a = 1 }\n\
                [strategy]\n\
                endgame = 2\n\
                upload_slots = -1\n\
                [torrent]\n\
                a = 1\n\
                [torrent.\"x\"]\n\
                listen_port = 5\n\
                preallocat = \"full\"\n\
                [engine]\n\
                cpus = [0, \"x\"]\n\
                [limits]\n\
                seed_ratio = nan\n\
                zzzzzz = 1\n\
                [nothing.like.it]\n";
    let told = told(text, Trust::Full);
    for (line, part) in [
        (1, "listen_port: keys stand below a section; listen_port belongs into [network]"),
        (2, "netwrk: unknown section; did you mean [network]?"),
        (4, "network.listen_prot: unknown key; did you mean listen_port?"),
        (5, "network.listen_port: must be a whole number from 0 to 65535, or \"auto\", not \"70000\""),
        (6, "network.piece_selection: unknown key; piece_selection belongs into [strategy]"),
        (7, "must be a whole number from 1 to 65000"),
        (9, "must be one of \"full\", \"sparse\", \"none\", not \"ful\""),
        (10, "must be an absolute path"),
        (11, "must be a size from 128KiB to 4MiB"),
        (13, "unknown key; "),
        (14, "not \"-1\""),
        (16, "torrent.\"a\": must be a section"),
        (18, "listen_port is for all torrents; move it to [network]"),
        (19, "did you mean preallocate?"),
        (21, "must be numbers of CPUs"),
        (23, "must be a number from 0 on, or \"off\", not \"nan\""),
        (24, "unknown key; [limits] has global_down_kib"),
        (25, "unknown section; there are \"network\""),
    ] {
        let found = told.iter().any(|text| text.starts_with(&format!("f:{line}: ")) && text.contains(part));
        assert!(found, "line {line}: {part}: {told:#?}");
    }
    assert_eq!(told.len(), 18, "{told:#?}");
}

#[test]
fn broken_syntax_is_told_with_its_line_and_the_rest_is_still_read() {
    let told = told(
        "[network]\nlisten_port = \n[disk]\nqueue_dept = 3\nsync = \"x\n[engine]\nmemory = 1\n",
        Trust::Full,
    );
    assert!(told.iter().any(|text| text.starts_with("f:2: ")), "{told:#?}");
    assert!(told.iter().any(|text| text.contains("did you mean queue_depth")), "{told:#?}");
    assert!(told.iter().any(|text| text.starts_with("f:5: ")), "{told:#?}");
    let twice = self::told("[disk]\nsync = \"none\"\nsync = \"piece\"\n", Trust::Full);
    assert_eq!(twice.len(), 1, "{twice:#?}");
    assert!(twice[0].starts_with("f:3: "), "{twice:#?}");
}

#[test]
fn a_file_of_the_current_folder_cannot_set_what_could_harm() {
    let trusted: Vec<&Key> = KEYS.iter().filter(|key| key.trusted_only).collect();
    let needed = [
        "bind_address",
        "output",
        "move_completed",
        "checkpoint_dir",
        "log_file",
        "tracker_ca_file",
        "ip_filter",
    ];
    assert!(needed.iter().all(|name| trusted.iter().any(|key| key.name == *name)));
    for key in trusted {
        let value = match key.kind {
            _ if key.name == "listen" => "127.0.0.1:1",
            _ if key.path() == "proxy.type" => "socks5",
            _ if matches!(key.name, "port_mapping" | "sandbox") => "auto",
            _ if key.path() == "proxy.address" => "127.0.0.1:1",
            Kind::Address | Kind::Places => "127.0.0.1",
            Kind::Hosts => "a.example:1",
            Kind::Bool => "true",
            Kind::Int { .. } => "3",
            Kind::Size { .. } => "1MiB",
            _ => "/tmp/x",
        };
        let plain = format!("[{}]\n{} = {value:?}\n", key.section, key.name);
        let of_torrent = format!("[torrent.\"*\"]\n{} = {value:?}\n", key.name);
        for text in [plain, of_torrent].iter().take(1 + usize::from(key.per_torrent)) {
            assert_eq!(told(text, Trust::Full), [""; 0], "{text}");
            let refused = told(text, Trust::Folder);
            assert_eq!(refused.len(), 1, "{text}");
            assert!(refused[0].contains("current folder") && refused[0].contains("--config"), "{refused:?}");
            assert!(parse(text, Path::new("f"), Trust::Folder).0.entries.is_empty());
            assert!(parse(text, Path::new("f"), Trust::Folder).0.overrides.is_empty());
        }
    }
    assert_eq!(told("[limits]\nglobal_up_kib = 1\n", Trust::Folder), [""; 0]);
}

#[test]
fn keys_of_the_python_client_say_what_became_of_them() {
    let text = "[network]\npipeline_depth = 16\nblock_size_kib = 16\nenable_encryption = true\n[disk]\nuse_mmap = true\n\
                [observability]\nstructured_logging = true\n";
    let told = told(text, Trust::Full);
    for (line, part) in
        [(2, "pipeline_depth_min"), (3, "16 KiB"), (4, "encryption_out"), (6, "O_DIRECT"), (8, "log_format")]
    {
        assert!(
            told.iter().any(|text| text.starts_with(&format!("f:{line}: ")) && text.contains(part)),
            "{told:#?}"
        );
    }
}

#[test]
fn messages_cannot_drive_a_terminal() {
    let told =
        told("[network]\n\"a\\u001b[2J\" = 1\nlisten_port = \"\\u001b[2J\"\n[\"\\u202e\"]\n", Trust::Full);
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(told.iter().all(|text| !text.contains(['\x1b', '\u{202e}'])), "{told:#?}");
}

#[test]
fn messages_with_values_cannot_drive_a_terminal() {
    let text = "[disk]\nsync = \"\\u001b[2J\"\n\"\\u001b]0;x\" = 1\n\
                [\"\\u001b[31m\"]\n[network]\nlisten_port = \"\\u0007\"\n";
    let told = told(text, Trust::Full);
    assert!(told.len() >= 3, "{told:?}");
    assert!(told.iter().all(|line| !line.contains(|c: char| c.is_control())), "{told:?}");
}

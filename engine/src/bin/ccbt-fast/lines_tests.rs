use super::*;

fn progress() -> Progress {
    Progress {
        state: StateName::Downloading,
        pieces_done: 5,
        pieces_total: 10,
        pieces_durable: 4,
        blocks_partial: 2,
        syncs: 1,
        bytes_done: 5 << 20,
        bytes_total: 10 << 20,
        bytes_wanted: 10 << 20,
        bytes_left: 5 << 20,
        downloaded: 5 << 20,
        web_downloaded: 0,
        uploaded: 3,
        wasted: 0,
        hash_failures: 0,
        banned: 0,
        down_rate: 1 << 20,
        up_rate: 0,
        peers: 1,
        candidates: 4,
        web_seeds: 0,
        web_seeds_active: 0,
        web_seeds_banned: 0,
    }
}

#[test]
fn json_events_keep_their_names_and_fields() {
    let json = |line: &Line<'_>| serde_json::to_value(line).expect("serialises");
    let listening = Line::Listening { port: 5, info_hash: "ab".into(), name: "n" };
    assert_eq!(json(&listening)["event"], "listening");
    assert_eq!(json(&listening)["port"], 5);
    let value = json(&Line::Progress(progress()));
    assert_eq!(value["event"], "progress");
    let fields = [
        ("pieces_done", 5),
        ("pieces_total", 10),
        ("pieces_durable", 4),
        ("blocks_partial", 2),
        ("syncs", 1),
        ("bytes_done", 5 << 20),
        ("bytes_total", 10 << 20),
        ("downloaded", 5 << 20),
        ("uploaded", 3),
        ("wasted", 0),
        ("down_rate", 1 << 20),
        ("up_rate", 0),
        ("peers", 1),
    ];
    for (field, number) in fields {
        assert_eq!(value[field].as_u64(), Some(number), "{field}");
    }
    assert_eq!(value["state"], "downloading");
    let expected = r#"{"event":"peer_fault","addr":"[::1]:5","fault":"x"}"#;
    let fault = Line::PeerFault { addr: "[::1]:5".parse().unwrap(), fault: "x" };
    assert_eq!(crate::json::to_line(&fault), expected);
    assert_eq!(crate::json::to_line(&Line::Finished), r#"{"event":"finished"}"#);
    let cache = CacheStats { hits: 7, ..CacheStats::default() }.into();
    let shards = vec![ShardStats { messages: 9, ..ShardStats::default() }.into()];
    let stopped = json(&Line::Stopped { cache, disks: Vec::new(), shards });
    assert_eq!(stopped["event"], "stopped");
    let numbers =
        [&stopped["cache"]["hits"], &stopped["shards"][0]["messages"]].map(serde_json::Value::as_u64);
    assert_eq!(numbers, [Some(7), Some(9)]);
    let error = Line::Error { message: "full", retry: true };
    assert_eq!(crate::json::to_line(&error), r#"{"event":"error","message":"full","retry":true}"#);
}

#[test]
fn every_event_has_its_line() {
    let ip: IpAddr = "192.0.2.1".parse().unwrap();
    let named = [
        (TorrentEvent::Note("x".into()), "note"),
        (TorrentEvent::Checked { good: 1, total: 2 }, "checked"),
        (TorrentEvent::Metadata { received: 1, total: 2, peers: 3, candidates: 4 }, "fetching"),
        (TorrentEvent::Finished, "finished"),
        (TorrentEvent::Failed { message: "m".into(), retry: false }, "error"),
        (TorrentEvent::Recovered, "recovered"),
        (TorrentEvent::MoveProgress { done: 1, total: 2 }, "move_progress"),
        (TorrentEvent::Moved { root: "d".into(), left: vec![] }, "moved"),
        (TorrentEvent::MoveFailed { message: "m".into() }, "error"),
        (TorrentEvent::Banned(ip), "banned"),
        (TorrentEvent::PeerFault { addr: SocketAddr::new(ip, 1), fault: "f".into() }, "peer_fault"),
        (TorrentEvent::Tracker { url: "u".into(), reason: "r".into() }, "tracker"),
        (TorrentEvent::WebSeed { url: "u".into(), reason: "r".into() }, "web_seed"),
    ];
    for (event, name) in named {
        let line = Line::of(&event).expect("told");
        assert_eq!(serde_json::to_value(line).unwrap()["event"], name);
    }
    assert!(Line::of(&TorrentEvent::Removed).is_none());
}

#[test]
fn a_changed_configuration_in_words() {
    let line = |to, needs_restart| Line::Config { key: "a.b", from: "1", to, needs_restart }.words();
    assert_eq!(line("2", false).unwrap(), "a.b is 2 now");
    assert_eq!(line("", false).unwrap(), "a.b is not set any more");
    assert!(line("2", true).unwrap().contains("next start"));
    let error = Line::ConfigError { message: "f:1: wrong" };
    assert_eq!(crate::json::to_line(&error), r#"{"event":"config_error","message":"f:1: wrong"}"#);
    assert!(error.words().unwrap().ends_with("f:1: wrong"));
}

#[test]
fn words_cannot_drive_a_terminal() {
    let line = Line::Tracker { url: "http://x/\x1b[2J", reason: "no\r\u{202e}" };
    assert_eq!(line.words().unwrap(), "tracker http://x/\\u{1b}[2J: no\\r\\u{202e}");
}

#[test]
fn progress_in_words() {
    assert_eq!(
        progress().words(),
        "downloading  50.0 %  5.00 MiB of 10.0 MiB  pieces 5/10  down 1.00 MiB/s  up 0 B/s  1 peer  \
         ETA 5s"
    );
    let nearly =
        Progress { pieces_done: 99_999, pieces_total: 100_000, down_rate: 0, peers: 2, ..progress() };
    assert!(nearly.words().contains("99.9 %") && nearly.words().ends_with("2 peers  ETA -"));
    let seeding = Progress { state: StateName::Seeding, ..progress() };
    assert_eq!(seeding.words(), "seeding  up 0 B/s  sent 3 B  1 peer");
}

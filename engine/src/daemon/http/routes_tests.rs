use std::collections::BTreeSet;

use ccbt_protocol::tracker::schedule::TrackerStatus;
use serde_json::Value;

use super::*;
use crate::daemon::{SeedAction, Step};

fn openapi() -> Value {
    serde_json::from_str(OPENAPI).expect("openapi.json is JSON")
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default()
}

#[test]
fn the_description_has_the_routes_and_no_others() {
    let document = openapi();
    let mut described = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for method in keys(operations).into_iter().filter(|key| key != "parameters") {
            let operation = &operations[&method];
            assert!(operation["summary"].is_string(), "{method} {path}");
            let is_success = |code: &String| code.starts_with('2');
            assert_eq!(
                keys(&operation["responses"]).iter().filter(|code| is_success(code)).count(),
                1,
                "{path}"
            );
            assert!(operation["responses"]["default"].is_object(), "{method} {path} may fail");
            assert_eq!(path.contains("{id}"), operations["parameters"].is_array(), "{path}");
            described.insert((method, path.clone()));
        }
    }
    let routes: BTreeSet<_> =
        table().into_iter().map(|(method, path, _)| (method.to_owned(), path.to_owned())).collect();
    assert_eq!(described, routes);
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(value: &Value, document: &Value, found: &mut usize) {
        match value {
            Value::Object(object) => {
                if let Some(reference) = object.get("$ref") {
                    let pointer =
                        reference.as_str().expect("text").strip_prefix('#').expect("within the document");
                    assert!(document.pointer(pointer).is_some(), "{pointer}");
                    *found += 1;
                }
                object.values().for_each(|value| walk(value, document, found));
            }
            Value::Array(array) => array.iter().for_each(|value| walk(value, document, found)),
            _ => {}
        }
    }
    let (document, mut found) = (openapi(), 0);
    walk(&document, &document, &mut found);
    assert!(found > 20, "{found}");
}

/// The properties of a schema are the fields of `value`.
fn assert_described(name: &str, value: &impl Serialize) {
    let document = openapi();
    let schema = &document["components"]["schemas"][name];
    let fields = keys(&serde_json::to_value(value).expect("JSON"));
    let mut properties = keys(&schema["properties"]);
    for part in schema["allOf"].as_array().into_iter().flatten() {
        let reference = part["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
        let part = reference.map_or(part, |pointer| document.pointer(pointer).expect("it leads somewhere"));
        properties.extend(keys(&part["properties"]));
    }
    assert_eq!(properties, fields, "{name}");
}

fn row() -> api::Torrent {
    api::Torrent {
        info_hash: String::new(),
        name: String::new(),
        state: api::Activity::Queued,
        position: 1,
        paused: false,
        forced: false,
        bytes_total: 0,
        bytes_done: 0,
        downloaded: 0,
        uploaded: 0,
        ratio: 0.0,
        down_rate: 0,
        up_rate: 0,
        peers: 0,
        eta_seconds: None,
        seeded_seconds: 0,
        added_at: 0,
        completed_at: None,
        output: String::new(),
        error: None,
    }
}

#[test]
fn answers_and_questions_are_described_field_by_field() {
    let file = api::FileDetail { path: String::new(), len: 0, priority: String::new() };
    let connection = api::Connection {
        addr: "127.0.0.1:1".parse().expect("an address"),
        down_rate: 0,
        up_rate: 0,
        seed: false,
        incoming: false,
        client: String::new(),
        utp: false,
        pieces: 0,
        downloaded: 0,
        uploaded: 0,
        connected_seconds: 0,
        am_interested: false,
        peer_choking: true,
        peer_interested: false,
        am_choking: true,
        snubbed: false,
        outstanding: 0,
        round_trip_ms: None,
        quality: 0,
        reliability: 50,
        snubs: 0,
        timeouts: 0,
        rejects: 0,
        suspicions: 0,
    };
    let finding = crate::explain::Finding {
        cause: crate::explain::Cause::Nothing,
        severity: crate::explain::Severity::Fine,
        text: String::new(),
        advice: String::new(),
        evidence: Default::default(),
    };
    let explanation =
        api::Explanation { info_hash: String::new(), name: String::new(), findings: Vec::new() };
    let traced =
        api::Traced { at_ms: 0, peer: connection.addr, direction: None, message: String::new(), dropped: 0 };
    let detail = api::TorrentDetail {
        torrent: row(),
        pieces_done: 0,
        pieces_total: 0,
        piece_len: 0,
        wasted: 0,
        hash_failures: 0,
        candidates: 0,
        down_limit: 0,
        up_limit: 0,
        peer_down_limit: 0,
        peer_up_limit: 0,
        seed_ratio: None,
        seed_seconds: None,
        seed_action: SeedAction::Pause,
        move_to: None,
        move_done: None,
        trackers: Vec::new(),
        files: Vec::new(),
        connections: Vec::new(),
    };
    let change = api::Change {
        down_limit: Some(None),
        up_limit: Some(Some(1)),
        peer_down_limit: Some(None),
        peer_up_limit: Some(None),
        seed_ratio: Some(Some(api::GoalValue(None))),
        seed_seconds: Some(None),
        seed_action: Some(None),
        forced: Some(true),
    };
    let stats = api::Stats {
        version: String::new(),
        pid: 0,
        uptime_seconds: 0,
        port: 0,
        torrents: 0,
        downloading: 0,
        seeding: 0,
        queued: 0,
        paused: 0,
        failed: 0,
        peers: 0,
        down_rate: 0,
        up_rate: 0,
        downloaded: 0,
        uploaded: 0,
        down_limit: 0,
        up_limit: 0,
        dht_port: 0,
        dht_nodes: 0,
        dht_lookups: 0,
        dht_announced: 0,
        dht_stored: 0,
        lsd_heard: 0,
        tracker_hosts: 0,
        tracker_hosts_down: 0,
        tracker_waiting: 0,
        tracker_running: 0,
        tracker_answered: 0,
        tracker_failed: 0,
        port_mapping: crate::mapping::MappingStatus::Off.into(),
        ip_filter_ranges: 0,
        filtered_connections: 0,
    };
    let scrape = scraped("udp://t".to_owned(), Ok(Ok(vec![None])));
    assert_described("Scrape", &scrape);
    assert_described("Scrapes", &api::Scrapes { info_hash: String::new(), trackers: Vec::new() });
    assert_described("Torrent", &row());
    assert_described("TorrentDetail", &detail);
    assert_described("File", &file);
    assert_described("Connection", &connection);
    assert_described("Finding", &finding);
    assert_described("Explanation", &explanation);
    assert_described("Traced", &traced);
    assert_described("Stats", &stats);
    let filter = api::IpFilter { ranges: 0, memory_bytes: 0, bad_lines: 0, first_bad: Vec::new() };
    assert_described("PortMapping", &stats.port_mapping);
    assert_described("IpFilter", &filter);
    assert_described("Removed", &api::Removed::default());
    assert_described("Add", &api::Add::default());
    assert_described("Change", &change);
    assert_described("Move", &api::Move { to: "/".into(), overwrite: false });
    assert_described("QueueStep", &api::QueueStep { step: Step::Up });
    assert_described("Peers", &api::Peers { peers: Vec::new() });
    assert_described("Limits", &LimitsNow { down_limit: 0, up_limit: 0 });
    assert_described("Error", &ApiError::new(400, "code", "message"));
    let causes = openapi()["components"]["schemas"]["Finding"]["properties"]["cause"]["enum"].clone();
    let causes: Vec<crate::explain::Cause> = serde_json::from_value(causes).expect("all are causes");
    assert_eq!(causes.last(), Some(&crate::explain::Cause::Nothing), "the last one too");
    let tracker = TrackerStatus {
        url: String::new(),
        tier: 0,
        failures: 0,
        announcing: false,
        answered: None,
        error: None,
        warning: None,
        seeders: None,
        leechers: None,
    };
    let trackers = api::Trackers::new(InfoHash([0; 20]), vec![tracker]);
    assert_described("Tracker", &trackers.trackers[0]);
    assert_described("Trackers", &trackers);
    assert_described("Pieces", &api::Pieces::default());
    assert_described("Engine", &api::Engine::default());
    assert_described("Shard", &api::Shard::default());
    assert_described("Device", &api::Device::default());
    let states = openapi()["components"]["schemas"]["Torrent"]["properties"]["state"]["enum"].clone();
    let states: Vec<api::Activity> = serde_json::from_value(states).expect("all are states");
    assert_eq!(states.len(), 10);
}

#[test]
fn changes_tell_left_out_from_null() {
    let change = |text: &str| serde_json::from_str::<api::Change>(text);
    assert_eq!(change("{}").expect("good"), api::Change::default());
    let some = change(r#"{"down_limit":null,"up_limit":5,"seed_ratio":"off","seed_action":"remove"}"#);
    let some = some.expect("good");
    assert_eq!((some.down_limit, some.up_limit, some.peer_up_limit), (Some(None), Some(Some(5)), None));
    assert_eq!(some.seed_ratio, Some(Some(api::GoalValue(None))));
    assert_eq!(some.seed_action, Some(Some(SeedAction::Remove)));
    let written = serde_json::to_string(&some).expect("JSON");
    assert_eq!(change(&written).expect("good"), some);
    for (text, part) in [
        (r#"{"dwon_limit":1}"#, "unknown field `dwon_limit`, expected one of `down_limit`"),
        (r#"{"down_limit":-1}"#, "invalid value"),
        (r#"{"seed_ratio":"on"}"#, "a goal must be a number from 0 on, or \"off\""),
        (r#"{"seed_action":"delete"}"#, "unknown variant `delete`, expected `pause` or `remove`"),
    ] {
        let error = change(text).expect_err("wrong").to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

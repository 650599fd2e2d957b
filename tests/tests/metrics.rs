//! What Prometheus reads of a daemon, and whether alerts and dashboard ask for what there is.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ccbt_tests::PATIENCE;
use ccbt_tests::daemon::{Daemon, DaemonCommand};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::Payload;
use ccbt_tests::ports::{free_port, local};
use ccbt_tests::process::{Process, repository, run, wait_until};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::tracker::Tracker;
use serde_json::Value;

const MIB: usize = 1 << 20;

/// A daemon that has downloaded a torrent with a tracker, and where its metrics are.
struct Scene {
    daemon: Daemon,
    made: Published,
    metrics: SocketAddr,
    tracker: Tracker,
    _seeder: RawSeeder,
}

impl Scene {
    fn new(lab: &Lab) -> Self {
        let tracker = Tracker::start();
        let spec = TorrentSpec::pieces_of(32 << 10).announce(tracker.url());
        let made = lab.announce(Payload::single("a \"name\".bin", MIB), spec);
        let seeder = RawSeeder::start(Ipv4Addr::new(127, 0, 43, 1), &made, Manner::default());
        let metrics = local(free_port());
        let port = metrics.port().to_string();
        let args = ["--metrics", "--metrics-port", &port, "--set", "observability.metrics_torrents=5"];
        let daemon = DaemonCommand::new(lab).args(args).trackers().dht("none").start();
        let path = made.torrent_path.to_str().expect("plain");
        daemon.ask(&["add", path, "--peer", &seeder.address().to_string()]);
        daemon.wait_for(&made, "state", "seeding");
        tracker.wait_announce(daemon.address().port(), |announce| announce.left == 0);
        Self { daemon, made, metrics, tracker, _seeder: seeder }
    }

    /// The text once everything that was done is told.
    fn text(&self) -> String {
        let pieces = self.made.torrent.piece_count() as f64;
        let host = self.host("answered");
        wait_until(PATIENCE, "all that was done", || {
            let text = get(self.metrics, "/metrics").1;
            let all = series(&text, "ccbt_pieces_completed") == pieces
                && try_series(&text, &host).is_some_and(|count| count >= 2.0);
            all.then_some(text)
        })
    }

    fn host(&self, result: &str) -> String {
        let url = self.tracker.url();
        let host = url.trim_start_matches("http://").split('/').next().expect("a host");
        format!("ccbt_tracker_host_requests_total{{host=\"{host}\",result=\"{result}\"}}")
    }
}

/// Head and body.
fn get(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("connected");
    // HTTP/1.0: the answer is not in chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
    (head.to_owned(), body.to_owned())
}

fn try_series(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

fn series(text: &str, name: &str) -> f64 {
    try_series(text, name).unwrap_or_else(|| panic!("no {name} in:\n{text}"))
}

/// Whether `program` is there; tells when it is not.
fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("skipped: {program} is not installed (.ci/setup.sh installs Debian's package prometheus)");
    }
    there
}

fn monitoring(file: &str) -> PathBuf {
    repository().join("engine/monitoring").join(file)
}

#[test]
fn metrics_tell_of_torrents_shards_disks_and_trackers() {
    let lab = Lab::open();
    let scene = Scene::new(&lab);
    let text = scene.text();
    let pieces = scene.made.torrent.piece_count() as f64;
    for (name, value) in [
        ("ccbt_downloaded_bytes_total", MIB as f64),
        ("ccbt_torrents{state=\"seeding\"}", 1.0),
        ("ccbt_hash_queue_depth", 0.0),
        ("ccbt_disk_queue_depth", 0.0),
        ("ccbt_hashed_pieces_total", pieces),
        ("ccbt_block_latency_seconds_count", 64.0),
        ("ccbt_block_latency_seconds_bucket{le=\"+Inf\"}", 64.0),
        (&scene.host("refused"), 0.0),
    ] {
        assert_eq!(series(&text, name), value, "{name}\n{text}");
    }
    for name in
        ["ccbt_download_rate_bytes_per_second", "ccbt_upload_rate_bytes_per_second", "ccbt_connected_peers"]
    {
        series(&text, name);
    }
    for name in [
        "ccbt_shard_received_bytes_total{shard=\"0\"}",
        "ccbt_shard_ring_submissions_total{shard=\"0\"}",
        "ccbt_shard_ring_completions_total{shard=\"0\"}",
        "ccbt_shard_piece_memory_capacity_bytes{shard=\"0\"}",
        "ccbt_storage_ring_enters_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ] {
        assert!(series(&text, name) > 0.0, "{name}\n{text}");
    }
    series(&text, "ccbt_thread_cpu_seconds_total{thread=\"ccbt-shard-0\"}");
    let of_torrent = format!(
        "ccbt_torrent_pieces_completed{{info_hash=\"{}\",name=\"a \\\"name\\\".bin\"}}",
        scene.made.torrent.info_hash_hex()
    );
    assert_eq!(series(&text, &of_torrent), pieces);
    check_text(&lab, &text);
    let queries = queries();
    names_exist(&queries, &text);
    answers_of_prometheus(&lab, &scene, &queries);
    // What a removed torrent did still counts, and its own series are gone.
    scene.daemon.ask(&["remove", &scene.made.torrent.info_hash_hex()]);
    let text = wait_until(PATIENCE, "no torrent", || {
        let text = get(scene.metrics, "/metrics").1;
        (series(&text, "ccbt_torrents{state=\"seeding\"}") == 0.0).then_some(text)
    });
    assert_eq!(series(&text, "ccbt_downloaded_bytes_total"), MIB as f64);
    assert!(!text.contains(&of_torrent), "{text}");
}

/// promtool finds nothing to complain of: format, units, help, names.
fn check_text(lab: &Lab, text: &str) {
    if !has("promtool") {
        return;
    }
    let file = lab.file("metrics.txt", text.as_bytes());
    let mut command = Command::new("sh");
    command.args(["-c", "promtool check metrics < \"$0\""]).arg(file);
    let (code, stdout, stderr) = run("promtool", &mut command, PATIENCE);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}\n{text}");
}

/// Every query of the dashboard and of the alerts, and where it is.
fn queries() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(monitoring("grafana-dashboard.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let mut queries = Vec::new();
    let mut taken: Vec<(Value, [u64; 4])> = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        assert!(taken.iter().all(|(id, _)| *id != panel["id"]), "{title}: its id is taken");
        let place = ["x", "y", "w", "h"].map(|at| panel["gridPos"][at].as_u64().expect("a place"));
        let [x, y, w, h] = place;
        assert!(w > 0 && h > 0 && x + w <= 24, "{title}: {place:?}");
        let overlaps = |[ox, oy, ow, oh]: [u64; 4]| x < ox + ow && ox < x + w && y < oy + oh && oy < y + h;
        assert!(!taken.iter().any(|(_, other)| overlaps(*other)), "{title} covers another panel");
        taken.push((panel["id"].clone(), place));
        let kind = panel["type"].as_str().expect("a type");
        assert!(["row", "stat", "timeseries", "heatmap", "table"].contains(&kind), "{title}: {kind}");
        if kind == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{title} shows nothing");
        let refs: BTreeSet<&str> = targets.iter().filter_map(|target| target["refId"].as_str()).collect();
        assert_eq!(refs.len(), targets.len(), "{title}: names of its queries");
        for target in targets {
            let query = target["expr"].as_str().expect("a query");
            queries.push((
                format!("panel {title}"),
                query.replace("$__rate_interval", "1m").replace("$instance", ".*"),
            ));
        }
    }
    assert_eq!(dashboard["templating"]["list"][0]["name"], "datasource");
    assert_eq!(dashboard["templating"]["list"][1]["name"], "instance");
    let alerts = std::fs::read_to_string(monitoring("alerts.yml")).expect("the alerts");
    queries.push(("alerts".to_owned(), alerts));
    queries
}

/// Names of metrics in a query or a file of rules.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("ccbt_") || word.starts_with("process_"))
}

fn names_exist(queries: &[(String, String)], text: &str) {
    let known: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    for (place, query) in queries {
        for name in names(query) {
            assert!(known.contains(name), "{place} asks for {name}, which the daemon does not tell");
        }
    }
    let asked: BTreeSet<&str> = queries.iter().flat_map(|(_, query)| names(query)).collect();
    assert!(asked.len() > 50, "so few are asked for: {asked:?}");
}

/// Prometheus scrapes the daemon, and has an answer to every query of the dashboard.
fn answers_of_prometheus(lab: &Lab, scene: &Scene, queries: &[(String, String)]) {
    if !has("prometheus") {
        return;
    }
    let config = format!(
        "global: {{scrape_interval: 500ms, evaluation_interval: 1s}}\nrule_files: [\"{}\"]\nscrape_configs:\n- job_name: \
         ccbt\n  static_configs: [{{targets: [\"{}\"]}}]\n",
        monitoring("alerts.yml").display(),
        scene.metrics
    );
    let config = lab.file("prometheus.yml", config.as_bytes());
    let address = local(free_port());
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", lab.dir("prometheus").display()));
    command.arg(format!("--web.listen-address={address}"));
    let process = Process::start("prometheus", &mut command);
    let ask = |query: &str| -> Option<Vec<Value>> {
        TcpStream::connect(address).ok()?;
        let (head, body) = get(address, &format!("/api/v1/query?query={}", percent(query)));
        assert!(head.starts_with("HTTP/1.0 200") || head.contains(" 503"), "{query}: {head} {body}");
        let answer: Value = serde_json::from_str(&body).ok()?;
        (answer["status"] == "success")
            .then(|| answer["data"]["result"].as_array().expect("a vector").clone())
    };
    wait_until(PATIENCE, "three scrapes", || {
        let scraped = ask("count_over_time(up{job=\"ccbt\"}[1m]) >= 3 and up{job=\"ccbt\"} == 1")?;
        (!scraped.is_empty()).then_some(())
    });
    for (place, query) in queries.iter().filter(|(place, _)| place != "alerts") {
        let found = ask(query).unwrap_or_else(|| panic!("no answer for {place}: {query}"));
        assert!(!found.is_empty(), "{place} stays empty: {query}");
    }
    let rules = wait_until(PATIENCE, "evaluated rules", || {
        let rules: Value = serde_json::from_str(&get(address, "/api/v1/rules").1).ok()?;
        let rules = rules["data"]["groups"][0]["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    });
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_eq!(rule["state"], "inactive", "a daemon that is well raises {rule}");
    }
    drop(process);
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn alerts_fire_when_they_should() {
    if !has("promtool") {
        return;
    }
    let promtool = |args: &[&str], file: &Path| {
        let mut command = Command::new("promtool");
        command.args(args).arg(file);
        let (code, stdout, stderr) = run("promtool", &mut command, Duration::from_secs(60));
        assert_eq!(code, 0, "{args:?}: {stdout}{stderr}");
    };
    promtool(&["check", "rules"], &monitoring("alerts.yml"));
    promtool(&["test", "rules"], &monitoring("alerts_test.yml"));
    promtool(&["check", "config"], &monitoring("prometheus.yml"));
    let tests = std::fs::read_to_string(monitoring("alerts_test.yml")).expect("the tests");
    let rules = std::fs::read_to_string(monitoring("alerts.yml")).expect("the rules");
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let fires = format!("- alertname: {alert}\n");
        assert!(tests.contains(&fires), "no test makes {alert} fire");
    }
}

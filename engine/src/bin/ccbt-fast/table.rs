//! Torrents of a daemon in words. Pure.

use std::fmt::Write;
use std::time::Duration;

use ccbt_fast::daemon::SeedAction;
use ccbt_fast::daemon::api::{Activity, Scrape, Scrapes, Stats, Torrent, TorrentDetail};
use ccbt_protocol::metainfo::escape_for_terminal;

use crate::units;

/// Digits of an info-hash in a list.
const DIGITS: usize = 8;

fn state(state: Activity) -> &'static str {
    match state {
        Activity::FetchingMetadata => "fetching metadata",
        Activity::Opening => "opening",
        Activity::Checking => "checking",
        Activity::Downloading => "downloading",
        Activity::Seeding => "seeding",
        Activity::Moving => "moving",
        Activity::Queued => "queued",
        Activity::Paused => "paused",
        Activity::Error => "error",
        Activity::Removing => "removing",
    }
}

/// What is done, never 100 before everything is.
fn percent(torrent: &Torrent) -> f64 {
    let percent = torrent.bytes_done as f64 * 100.0 / torrent.bytes_total.max(1) as f64;
    if torrent.bytes_done < torrent.bytes_total { percent.min(99.9) } else { 100.0 }
}

/// A line per torrent.
pub fn list(torrents: &[Torrent]) -> String {
    if torrents.is_empty() {
        return "no torrents".to_owned();
    }
    let mut text = format!(
        "{:>4}  {:DIGITS$}  {:11}  {:>7}  {:>10}  {:>12}  {:>12}  {:>5}  {:>5}  NAME",
        "#", "HASH", "STATE", "DONE", "SIZE", "DOWN", "UP", "RATIO", "PEERS"
    );
    for torrent in torrents {
        write!(
            text,
            "\n{:>4}  {}  {:11}  {:>5.1} %  {:>10}  {:>12}  {:>12}  {:>5.2}  {:>5}  {}",
            torrent.position,
            &torrent.info_hash[..DIGITS.min(torrent.info_hash.len())],
            state(torrent.state),
            percent(torrent),
            units::bytes(torrent.bytes_total),
            units::rate(torrent.down_rate),
            units::rate(torrent.up_rate),
            torrent.ratio,
            torrent.peers,
            escape_for_terminal(&torrent.name),
        )
        .expect("a String takes every write");
        if let Some(error) = &torrent.error {
            write!(text, "\n      {}", escape_for_terminal(error)).expect("a String takes every write");
        }
    }
    text
}

/// All that is known of a torrent.
pub fn detail(detail: &TorrentDetail) -> String {
    let torrent = &detail.torrent;
    let limit = |bytes: u64| if bytes == 0 { "none".to_owned() } else { units::rate(bytes) };
    let date = |seconds: Option<i64>| seconds.map_or_else(|| "-".to_owned(), units::date);
    let time = |seconds: u64| units::duration(Duration::from_secs(seconds));
    let goal = match (detail.seed_ratio, detail.seed_seconds) {
        (None, None) => "none".to_owned(),
        (ratio, seconds) => {
            let ratio = ratio.map(|ratio| format!("ratio {ratio:.2}"));
            let parts: Vec<String> = ratio.into_iter().chain(seconds.map(time)).collect();
            let then = if detail.seed_action == SeedAction::Remove { "remove" } else { "pause" };
            format!("{}, then {then}", parts.join(" or "))
        }
    };
    let mut rows = vec![
        ("name", torrent.name.clone()),
        ("info-hash", torrent.info_hash.clone()),
        ("state", format!("{}{}", state(torrent.state), if torrent.forced { ", forced" } else { "" })),
        ("queue", torrent.position.to_string()),
        (
            "done",
            format!(
                "{:.1} %, {} of {}",
                percent(torrent),
                units::bytes(torrent.bytes_done),
                units::bytes(torrent.bytes_total)
            ),
        ),
        ("pieces", format!("{} of {}", detail.pieces_done, detail.pieces_total)),
        ("received", format!("{} ({})", units::bytes(torrent.downloaded), units::rate(torrent.down_rate))),
        ("sent", format!("{} ({})", units::bytes(torrent.uploaded), units::rate(torrent.up_rate))),
        ("ratio", format!("{:.3}", torrent.ratio)),
        ("seeded", time(torrent.seeded_seconds)),
        ("goal", goal),
        (
            "limits",
            format!(
                "down {}, up {}; of each peer: down {}, up {}",
                limit(detail.down_limit),
                limit(detail.up_limit),
                limit(detail.peer_down_limit),
                limit(detail.peer_up_limit)
            ),
        ),
        ("folder", torrent.output.clone()),
        ("added", date(Some(torrent.added_at))),
        ("complete", date(torrent.completed_at)),
        ("peers", format!("{} of {} addresses", torrent.peers, detail.candidates)),
    ];
    rows.extend(torrent.eta_seconds.map(|seconds| ("left", time(seconds))));
    rows.extend(
        detail
            .move_to
            .as_ref()
            .map(|to| ("moving", format!("to {to}, {} done", units::bytes(detail.move_done.unwrap_or(0))))),
    );
    rows.extend(torrent.error.as_ref().map(|error| ("error", error.clone())));
    rows.extend(detail.trackers.iter().flatten().map(|url| ("tracker", url.clone())));
    rows.extend(detail.files.iter().map(|file| {
        let priority = if file.priority == "normal" { String::new() } else { format!(", {}", file.priority) };
        ("file", format!("{}  {}{priority}", units::bytes(file.len), file.path))
    }));
    rows.extend(detail.connections.iter().map(|peer| {
        let seed = if peer.seed { ", has all" } else { "" };
        let (down, up) = (units::rate(peer.down_rate), units::rate(peer.up_rate));
        ("peer", format!("{}  down {down}, up {up}{seed}", peer.addr))
    }));
    let rows: Vec<String> =
        rows.iter().map(|(what, text)| format!("{what:10} {}", escape_for_terminal(text))).collect();
    rows.join("\n")
}

/// Limits of all torrents together.
pub fn limits(down: u64, up: u64) -> String {
    let limit = |bytes: u64| if bytes == 0 { "none".to_owned() } else { units::rate(bytes) };
    format!("limits of all torrents: down {}, up {}", limit(down), limit(up))
}

/// What trackers know of a torrent.
pub fn scrapes(scrapes: &Scrapes) -> String {
    let row = |scrape: &Scrape| {
        let count = |count: Option<u32>| count.map_or("?".to_owned(), |count| count.to_string());
        let told = match &scrape.error {
            Some(error) => error.clone(),
            None => format!(
                "{} seeders, {} leechers, completed {} times",
                count(scrape.seeders),
                count(scrape.leechers),
                count(scrape.completed)
            ),
        };
        format!("{}  {}", escape_for_terminal(&scrape.url), escape_for_terminal(&told))
    };
    match scrapes.trackers.is_empty() {
        true => format!("{} has no trackers", scrapes.info_hash),
        false => scrapes.trackers.iter().map(row).collect::<Vec<_>>().join("\n"),
    }
}

/// The daemon as a whole.
pub fn stats(stats: &Stats) -> String {
    format!(
        "ccbt-fast {} (process {}), up for {}, port {}\n\
         {} torrents: {} downloading, {} seeding, {} queued, {} paused, {} failed\n\
         {} peers, receiving {}, sending {}\n\
         received {}, sent {}\n\
         DHT: {} nodes, {} look-ups, {} announced\n\
         trackers: {} hosts ({} silent), {} requests wait, {} under way, {} answered, {} not\n\
         IP filter: {} ranges, {} connections ended or refused\n{}\n{}",
        escape_for_terminal(&stats.version),
        stats.pid,
        units::duration(Duration::from_secs(stats.uptime_seconds)),
        stats.port,
        stats.torrents,
        stats.downloading,
        stats.seeding,
        stats.queued,
        stats.paused,
        stats.failed,
        stats.peers,
        units::rate(stats.down_rate),
        units::rate(stats.up_rate),
        units::bytes(stats.downloaded),
        units::bytes(stats.uploaded),
        stats.dht_nodes,
        stats.dht_lookups,
        stats.dht_announced,
        stats.tracker_hosts,
        stats.tracker_hosts_down,
        stats.tracker_waiting,
        stats.tracker_running,
        stats.tracker_answered,
        stats.tracker_failed,
        stats.ip_filter_ranges,
        stats.filtered_connections,
        escape_for_terminal(&stats.port_mapping.text),
        limits(stats.down_limit, stats.up_limit)
    )
}

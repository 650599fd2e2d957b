use ccbt_storage::stats::{LATENCY_BUCKETS, WayStats};

use super::*;

fn device() -> DeviceStats {
    let mut latency = LatencyStats { sum_us: 0, max_us: 900, buckets: [0; LATENCY_BUCKETS] };
    latency.buckets[4] = 3;
    latency.buckets[10] = 1;
    let write = WayStats { operations: 4, bytes: 4096, buffered_bytes: 0, latency };
    DeviceStats {
        number: 254 << 32 | 7,
        kind: ccbt_storage::schedule::tuner::DeviceKind::Flash,
        depth_limit: 8,
        batch_bytes: 1 << 20,
        in_flight: 2,
        waiting_parts: 5,
        read: WayStats::default(),
        write,
        tasks: 0,
        errors: 0,
        retries: 0,
        punts: 0,
        would_block: 0,
    }
}

fn line<'a>(text: &'a str, series: &str) -> &'a str {
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {series} in:\n{text}"))
}

#[test]
fn the_python_clients_names_are_there() {
    let mut picture = Picture::default();
    picture.storage.devices.push(device());
    picture.storage.hash.jobs_waiting = 9;
    let text = picture.text(&ProcessStats::default(), 0);
    for name in [
        "ccbt_download_rate_bytes_per_second",
        "ccbt_upload_rate_bytes_per_second",
        "ccbt_connected_peers",
        "ccbt_pieces_completed",
    ] {
        assert_eq!(line(&text, name), "0");
        assert!(text.contains(&format!("# TYPE {name} gauge\n")), "{text}");
    }
    assert_eq!(line(&text, "ccbt_disk_queue_depth"), "7");
    assert_eq!(line(&text, "ccbt_hash_queue_depth"), "9");
    assert_eq!(line(&text, "ccbt_torrents{state=\"seeding\"}"), "0");
    assert_eq!(line(&text, "ccbt_disk_bytes_total{device=\"254:7\",direction=\"write\"}"), "4096");
}

#[test]
fn latencies_of_shards_and_disks_are_histograms() {
    let mut picture = Picture::default();
    picture.storage.devices.push(device());
    for number in [0, 1] {
        let mut shard = ShardStats::default();
        shard.block_wait.buckets[4] = 5;
        shard.block_wait.sum_us = 50;
        picture.shards.insert(number, shard);
    }
    let collector = Collector::new(0, move || Picture {
        storage: picture.storage.clone(),
        shards: picture.shards.clone(),
        ..Picture::default()
    });
    let text = collector.text();
    let series = |le: &str| {
        format!("ccbt_disk_latency_seconds_bucket{{device=\"254:7\",direction=\"write\",le=\"{le}\"}}")
    };
    assert_eq!(line(&text, &series("0.000016")), "3", "below 16 µs");
    assert_eq!((line(&text, &series("0.000512")), line(&text, &series("0.001024"))), ("3", "4"));
    assert_eq!(line(&text, &series("+Inf")), "4");
    assert_eq!(line(&text, "ccbt_block_latency_seconds_count"), "10", "both shards together");
    assert_eq!(line(&text, "ccbt_block_latency_seconds_sum"), "0.0001");
}

#[test]
fn sums_do_not_go_back_when_a_torrent_is_removed() {
    let past = Stats { downloaded: 700, banned: 2, ..Stats::default() };
    let text = Picture { past, ..Picture::default() }.text(&ProcessStats::default(), 0);
    assert_eq!(line(&text, "ccbt_downloaded_bytes_total"), "700");
    assert_eq!(line(&text, "ccbt_banned_peers_total"), "2");
}

#[test]
fn hosts_of_trackers_have_their_results() {
    let mut picture = Picture::default();
    let took = std::time::Duration::from_millis(2500);
    let stats = HostStats { answered: 5, refused: 2, failed: 1, unsent: 0, answer_time: took };
    picture.hosts.push(("t.example:80".to_owned(), stats));
    let text = picture.text(&ProcessStats::default(), 0);
    for (result, count) in [("answered", "3"), ("refused", "2"), ("failed", "1"), ("unsent", "0")] {
        let series = format!("ccbt_tracker_host_requests_total{{host=\"t.example:80\",result=\"{result}\"}}");
        assert_eq!(line(&text, &series), count);
    }
    assert_eq!(line(&text, "ccbt_tracker_host_answer_seconds_total{host=\"t.example:80\"}"), "2.5");
}

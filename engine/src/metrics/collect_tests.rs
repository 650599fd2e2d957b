use ccbt_storage::stats::WayStats;

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
    let text = picture.text(0);
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
fn latencies_add_up_over_several_looks() {
    let shown = Arc::new(Mutex::new(device()));
    let seen = Arc::clone(&shown);
    let collector = Collector::new(0, move || {
        let mut picture = Picture::default();
        picture.storage.devices.push(seen.lock().unwrap().clone());
        picture
    });
    let series =
        |le: &str| format!("{DISK_LATENCY}_bucket{{device=\"254:7\",direction=\"write\",le=\"{le}\"}}");
    for _ in 0..2 {
        let text = collector.text();
        assert_eq!(line(&text, &series("0.000016")), "3", "below 16 µs");
        assert_eq!((line(&text, &series("0.000512")), line(&text, &series("0.001024"))), ("3", "4"));
        assert_eq!(line(&text, &series("+Inf")), "4");
    }
    shown.lock().unwrap().write.latency.buckets[4] += 10;
    assert_eq!(line(&collector.text(), &series("0.000016")), "13");
}

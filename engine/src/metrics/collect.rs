//! From counters to text: what each part of the engine says becomes lines of a [`Sheet`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ccbt_protocol::metainfo::Metainfo;
use ccbt_protocol::torrent::Stats;
use ccbt_shards::discovery::DiscoveryStats;
use ccbt_shards::messages::{CacheStats, ShardStats, State, TorrentStatus};
use ccbt_shards::trackers::{HostStats, TrackerStats};
use ccbt_storage::stats::{DeviceStats, LatencyStats, StorageStats};

use super::TORRENTS_MAX;
use super::process::ProcessStats;
use super::sheet::Sheet;

/// What there is to tell, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    /// Torrents that have told how they do.
    pub torrents: Vec<(Arc<Metainfo>, Arc<TorrentStatus>)>,
    /// What those did that were removed: sums must not go back.
    pub past: Stats,
    /// By number.
    pub shards: BTreeMap<usize, ShardStats>,
    /// By number of the shard.
    pub caches: BTreeMap<usize, CacheStats>,
    pub storage: StorageStats,
    pub trackers: TrackerStats,
    /// By name of the host.
    pub hosts: Vec<(String, HostStats)>,
    pub discovery: Option<DiscoveryStats>,
    pub filter_ranges: usize,
}

/// Makes the text. See the module.
pub(crate) struct Collector {
    look: Box<dyn Fn() -> Picture + Send + Sync>,
    /// Torrents with series of their own.
    torrents: usize,
}

impl Collector {
    /// `look` takes a picture.
    pub fn new(torrents: usize, look: impl Fn() -> Picture + Send + Sync + 'static) -> Self {
        Self { look: Box::new(look), torrents: torrents.min(TORRENTS_MAX) }
    }

    /// The text of Prometheus, format 0.0.4.
    pub fn text(&self) -> String {
        (self.look)().text(&ProcessStats::now(), self.torrents)
    }
}

/// A device as the kernel writes it: `major:minor`.
fn name_of(number: u64) -> String {
    format!("{}:{}", number >> 32, number & 0xffff_ffff)
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Opening => "opening",
        State::Checking => "checking",
        State::Downloading => "downloading",
        State::Seeding => "seeding",
        State::Moving => "moving",
        State::Paused => "paused",
    }
}

impl Picture {
    fn text(&self, process: &ProcessStats, series: usize) -> String {
        let mut sheet = Sheet::new();
        self.sums(&sheet);
        self.each_torrent(&sheet, series);
        let mut block_wait = LatencyStats::default();
        for (number, shard) in &self.shards {
            shard_lines(&sheet, &number.to_string(), shard);
            block_wait.merge(&shard.block_wait);
        }
        sheet.latency("ccbt_block_latency_seconds", &[], &block_wait);
        for (number, cache) in &self.caches {
            cache_lines(&sheet, &number.to_string(), cache);
        }
        self.storage.devices.iter().for_each(|device| device_lines(&mut sheet, device));
        self.storage_lines(&sheet);
        self.tracker_lines(&mut sheet);
        if let Some(discovery) = &self.discovery {
            discovery_lines(&sheet, discovery);
        }
        process_lines(&mut sheet, process);
        sheet.text()
    }

    /// The names of the Python client, and sums beside them.
    fn sums(&self, sheet: &Sheet) {
        let sum = |of: &dyn Fn(&TorrentStatus) -> u64| {
            self.torrents.iter().map(|(_, status)| of(status)).sum::<u64>()
        };
        let waiting = self.storage.devices.iter().map(|d| u64::from(d.in_flight) + d.waiting_parts).sum();
        for (name, value) in [
            ("ccbt_download_rate_bytes_per_second", sum(&|s| s.down_rate)),
            ("ccbt_upload_rate_bytes_per_second", sum(&|s| s.up_rate)),
            ("ccbt_connected_peers", sum(&|s| s.peer_count as u64)),
            ("ccbt_known_addresses", sum(&|s| s.candidates as u64)),
            ("ccbt_pieces_completed", sum(&|s| u64::from(s.pieces_done))),
            ("ccbt_pieces", sum(&|s| u64::from(s.pieces_total))),
            ("ccbt_bytes_left", sum(&|s| s.bytes_left)),
            ("ccbt_disk_queue_depth", waiting),
            ("ccbt_hash_queue_depth", self.storage.hash.jobs_waiting),
            ("ccbt_ip_filter_ranges", self.filter_ranges as u64),
        ] {
            sheet.gauge(name, &[], value as f64);
        }
        let mut all = self.past;
        self.torrents.iter().for_each(|(_, status)| all += status.stats);
        for (name, value) in [
            ("ccbt_downloaded_bytes_total", all.downloaded),
            ("ccbt_web_downloaded_bytes_total", all.web_downloaded),
            ("ccbt_uploaded_bytes_total", all.uploaded),
            ("ccbt_wasted_bytes_total", all.wasted),
            ("ccbt_hash_failures_total", all.hash_failures),
            ("ccbt_banned_peers_total", all.banned),
        ] {
            sheet.counter(name, &[], value);
        }
        let mut states: HashMap<&str, u32> = HashMap::new();
        for (_, status) in &self.torrents {
            *states.entry(state_name(status.state)).or_default() += 1;
        }
        for state in ["opening", "checking", "downloading", "seeding", "moving", "paused"] {
            let count = states.get(state).copied().unwrap_or(0);
            sheet.gauge("ccbt_torrents", &[("state", state)], count.into());
        }
    }

    /// Those that move the most.
    fn each_torrent(&self, sheet: &Sheet, series: usize) {
        let mut all: Vec<_> = self.torrents.iter().collect();
        all.sort_by_key(|(metainfo, status)| {
            (std::cmp::Reverse(status.down_rate + status.up_rate), metainfo.info_hash)
        });
        for (metainfo, status) in all.into_iter().take(series) {
            let hash = metainfo.info_hash.to_string();
            let labels = [("info_hash", hash.as_str()), ("name", metainfo.name.as_str())];
            sheet.gauge("ccbt_torrent_download_rate_bytes_per_second", &labels, status.down_rate as f64);
            sheet.gauge("ccbt_torrent_upload_rate_bytes_per_second", &labels, status.up_rate as f64);
            sheet.gauge("ccbt_torrent_connected_peers", &labels, status.peer_count as f64);
            sheet.gauge("ccbt_torrent_pieces_completed", &labels, status.pieces_done.into());
            sheet.gauge("ccbt_torrent_pieces", &labels, status.pieces_total.into());
            sheet.counter("ccbt_torrent_uploaded_bytes_total", &labels, status.stats.uploaded);
            sheet.counter("ccbt_torrent_downloaded_bytes_total", &labels, status.stats.downloaded);
            sheet.gauge("ccbt_torrent_known_addresses", &labels, status.candidates as f64);
            sheet.gauge("ccbt_torrent_bytes_left", &labels, status.bytes_left as f64);
            sheet.counter("ccbt_torrent_wasted_bytes_total", &labels, status.stats.wasted);
            sheet.counter("ccbt_torrent_hash_failures_total", &labels, status.stats.hash_failures);
            sheet.counter("ccbt_torrent_banned_peers_total", &labels, status.stats.banned);
        }
    }

    fn storage_lines(&self, sheet: &Sheet) {
        let storage = &self.storage;
        sheet.counter("ccbt_storage_ring_enters_total", &[], storage.enters);
        sheet.counter("ccbt_storage_ring_submissions_total", &[], storage.submissions);
        sheet.counter("ccbt_storage_ring_completions_total", &[], storage.completions);
        sheet.gauge("ccbt_storage_open_files", &[], storage.open_files as f64);
        sheet.counter("ccbt_hashed_pieces_total", &[], storage.hash.jobs_done);
        sheet.counter("ccbt_hashed_bytes_total", &[], storage.hash.bytes);
    }

    fn tracker_lines(&self, sheet: &mut Sheet) {
        let trackers = &self.trackers;
        for (result, value) in
            [("answered", trackers.answered), ("failed", trackers.failed), ("unsent", trackers.unsent)]
        {
            sheet.counter("ccbt_tracker_requests_total", &[("result", result)], value);
        }
        sheet.gauge("ccbt_tracker_hosts", &[("state", "all")], trackers.hosts as f64);
        sheet.gauge("ccbt_tracker_hosts", &[("state", "down")], trackers.hosts_down as f64);
        sheet.gauge("ccbt_tracker_requests", &[("state", "waiting")], trackers.waiting as f64);
        sheet.gauge("ccbt_tracker_requests", &[("state", "running")], trackers.running as f64);
        sheet.gauge("ccbt_tracker_idle_connections", &[], trackers.idle_connections as f64);
        for (host, stats) in &self.hosts {
            for (result, value) in [
                ("answered", stats.answered - stats.refused),
                ("refused", stats.refused),
                ("failed", stats.failed),
                ("unsent", stats.unsent),
            ] {
                let labels = [("host", host.as_str()), ("result", result)];
                sheet.counter("ccbt_tracker_host_requests_total", &labels, value);
            }
            let took = stats.answer_time.as_secs_f64();
            sheet.seconds("ccbt_tracker_host_answer_seconds_total", &[("host", host)], took);
        }
    }
}

fn shard_lines(sheet: &Sheet, number: &str, shard: &ShardStats) {
    let labels = [("shard", number)];
    sheet.counter("ccbt_shard_received_bytes_total", &labels, shard.received);
    sheet.counter("ccbt_shard_sent_bytes_total", &labels, shard.sent);
    sheet.counter("ccbt_shard_accepted_connections_total", &labels, shard.accepted);
    sheet.counter("ccbt_shard_filtered_connections_total", &labels, shard.filtered);
    sheet.counter("ccbt_shard_handed_over_connections_total", &labels, shard.handed_over);
    sheet.counter("ccbt_shard_peers_total", &labels, shard.peers);
    sheet.counter("ccbt_shard_messages_total", &labels, shard.messages);
    sheet.counter("ccbt_shard_lease_messages_total", &labels, shard.lease_messages);
    sheet.counter("ccbt_shard_ring_submissions_total", &labels, shard.submissions);
    sheet.counter("ccbt_shard_ring_completions_total", &labels, shard.completions);
    sheet.counter("ccbt_shard_ring_enters_total", &labels, shard.enters);
    let load = &shard.load;
    sheet.gauge("ccbt_shard_connections", &labels, load.connections as f64);
    sheet.gauge("ccbt_shard_pieces", &labels, load.pieces as f64);
    sheet.gauge("ccbt_shard_piece_memory_bytes", &labels, load.download_used as f64);
    sheet.gauge("ccbt_shard_piece_memory_capacity_bytes", &labels, load.download_capacity as f64);
    sheet.gauge("ccbt_shard_starved_torrents", &labels, load.starved as f64);
    for (queue, depth) in [
        ("inbox", load.inbox),
        ("outbox", load.outbox),
        ("storage", load.storage_jobs),
        ("storage_backlog", load.storage_backlog),
    ] {
        sheet.gauge("ccbt_shard_queue_depth", &[("shard", number), ("queue", queue)], depth as f64);
    }
}

fn cache_lines(sheet: &Sheet, number: &str, cache: &CacheStats) {
    let labels = [("shard", number)];
    sheet.gauge("ccbt_cache_resident_bytes", &labels, cache.resident as f64);
    sheet.gauge("ccbt_cache_capacity_bytes", &labels, cache.capacity as f64);
    let looked = [("hit", cache.hits), ("shared", cache.shared), ("miss", cache.misses)];
    for (result, value) in looked {
        sheet.counter("ccbt_cache_lookups_total", &[("shard", number), ("result", result)], value);
    }
    sheet.counter("ccbt_cache_read_bytes_total", &labels, cache.read_bytes);
    sheet.counter("ccbt_cache_evictions_total", &labels, cache.evictions);
    for (result, value) in [("used", cache.ahead_used), ("wasted", cache.ahead_wasted)] {
        sheet.counter("ccbt_cache_read_ahead_total", &[("shard", number), ("result", result)], value);
    }
}

fn device_lines(sheet: &mut Sheet, device: &DeviceStats) {
    let name = name_of(device.number);
    let labels = [("device", name.as_str())];
    sheet.gauge("ccbt_disk_depth_limit", &labels, device.depth_limit.into());
    sheet.gauge("ccbt_disk_batch_bytes", &labels, device.batch_bytes.into());
    sheet.gauge("ccbt_disk_in_flight", &labels, device.in_flight.into());
    sheet.gauge("ccbt_disk_waiting", &labels, device.waiting_parts as f64);
    for (way, stats) in [("read", &device.read), ("write", &device.write)] {
        let labels = [("device", name.as_str()), ("direction", way)];
        sheet.counter("ccbt_disk_operations_total", &labels, stats.operations);
        sheet.counter("ccbt_disk_bytes_total", &labels, stats.bytes);
        sheet.counter("ccbt_disk_page_cache_bytes_total", &labels, stats.buffered_bytes);
        sheet.latency("ccbt_disk_latency_seconds", &labels, &stats.latency);
    }
    sheet.counter("ccbt_disk_syncs_total", &labels, device.tasks);
    sheet.counter("ccbt_disk_errors_total", &labels, device.errors);
    sheet.counter("ccbt_disk_retries_total", &labels, device.retries);
    sheet.counter("ccbt_disk_punts_total", &labels, device.punts);
}

fn discovery_lines(sheet: &Sheet, stats: &DiscoveryStats) {
    for (family, nodes) in ["ipv4", "ipv6"].into_iter().zip(stats.dht.nodes) {
        sheet.gauge("ccbt_dht_nodes", &[("family", family)], nodes as f64);
    }
    sheet.gauge("ccbt_dht_searches", &[], stats.dht.searches as f64);
    sheet.counter("ccbt_dht_queries_sent_total", &[], stats.dht.queries_out);
    sheet.counter("ccbt_dht_answers_received_total", &[], stats.dht.answers_in);
    sheet.counter("ccbt_dht_queries_received_total", &[], stats.dht.queries_in);
    sheet.counter("ccbt_dht_answers_sent_total", &[], stats.dht.answers_out);
    sheet.counter("ccbt_dht_peers_found_total", &[], stats.dht_peers);
    sheet.counter("ccbt_lsd_announces_sent_total", &[], stats.lsd_out);
    sheet.counter("ccbt_lsd_announces_received_total", &[], stats.lsd_in);
}

fn process_lines(sheet: &mut Sheet, stats: &ProcessStats) {
    sheet.gauge("ccbt_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    sheet.gauge("ccbt_io_workers", &[], stats.workers as f64);
    for (thread, cpu_s) in &stats.threads {
        sheet.seconds("ccbt_thread_cpu_seconds_total", &[("thread", thread)], *cpu_s);
    }
    sheet.seconds("process_cpu_seconds_total", &[], stats.cpu_s);
    sheet.gauge("process_resident_memory_bytes", &[], stats.resident as f64);
    sheet.gauge("process_open_fds", &[], stats.open_fds as f64);
    if let Some(most) = stats.max_fds {
        sheet.gauge("process_max_fds", &[], most as f64);
    }
    sheet.gauge("process_start_time_seconds", &[], stats.started);
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;

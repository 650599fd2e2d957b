//! From counters to text.
//!
//! A recorder is made for each answer: what is gone (torrents, devices) leaves no series behind. Latencies are the
//! exception: Prometheus wants them as a histogram, so a lasting recorder is told what each bucket gained.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ccbt_protocol::metainfo::Metainfo;
use ccbt_shards::discovery::DiscoveryStats;
use ccbt_shards::messages::{CacheStats, ShardStats, State, TorrentStatus};
use ccbt_shards::trackers::TrackerStats;
use ccbt_storage::stats::{DeviceStats, LATENCY_BUCKETS, LatencyStats, StorageStats};
use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::TORRENTS_MAX;

const DISK_LATENCY: &str = "ccbt_disk_latency_seconds";
const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// What there is to tell, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    /// Torrents that have told how they do.
    pub torrents: Vec<(Arc<Metainfo>, Arc<TorrentStatus>)>,
    /// In their order.
    pub shards: Vec<ShardStats>,
    /// In the order of the shards.
    pub caches: Vec<CacheStats>,
    pub storage: StorageStats,
    pub trackers: TrackerStats,
    pub discovery: Option<DiscoveryStats>,
    pub filter_ranges: usize,
}

/// Makes the text. See the module.
pub(crate) struct Collector {
    look: Box<dyn Fn() -> Picture + Send + Sync>,
    /// Torrents with series of their own.
    torrents: usize,
    latencies: Mutex<Latencies>,
}

struct Latencies {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// By device and direction: the buckets that are told already.
    told: HashMap<(u64, &'static str), [u64; LATENCY_BUCKETS]>,
}

impl Collector {
    /// `look` takes a picture.
    pub fn new(torrents: usize, look: impl Fn() -> Picture + Send + Sync + 'static) -> Self {
        // Bucket n holds what took less than 2^n µs.
        let bounds: Vec<f64> = (0..LATENCY_BUCKETS - 1).map(|n| (1u64 << n) as f64 / 1e6).collect();
        let builder =
            PrometheusBuilder::new().set_buckets_for_metric(Matcher::Full(DISK_LATENCY.into()), &bounds);
        let recorder = builder.expect("there are bounds").build_recorder();
        let handle = recorder.handle();
        let torrents = torrents.min(TORRENTS_MAX);
        Self {
            look: Box::new(look),
            torrents,
            latencies: Mutex::new(Latencies { recorder, handle, told: HashMap::new() }),
        }
    }

    /// The text of Prometheus, format 0.0.4.
    pub fn text(&self) -> String {
        let picture = (self.look)();
        let mut text = picture.text(self.torrents);
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        text += &latencies.text(&picture.storage);
        text
    }
}

impl Latencies {
    fn text(&mut self, storage: &StorageStats) -> String {
        for device in &storage.devices {
            for (way, stats) in [("read", &device.read.latency), ("write", &device.write.latency)] {
                self.gain(device.number, way, stats);
            }
        }
        self.handle.run_upkeep();
        self.handle.render()
    }

    fn gain(&mut self, number: u64, way: &'static str, stats: &LatencyStats) {
        let told = self.told.entry((number, way)).or_insert([0; LATENCY_BUCKETS]);
        let labels = vec![Label::new("device", name_of(number)), Label::new("direction", way)];
        let histogram = self.recorder.register_histogram(&Key::from_parts(DISK_LATENCY, labels), &METADATA);
        for (bucket, (now, told)) in stats.buckets.iter().zip(told).enumerate() {
            let gained = now.saturating_sub(std::mem::replace(told, *now));
            // The middle of its bucket: the sum is as exact as the buckets are.
            histogram.record_many(0.75 * (1u64 << bucket) as f64 / 1e6, gained as usize);
        }
    }
}

/// A device as the kernel writes it: `major:minor`.
fn name_of(number: u64) -> String {
    format!("{}:{}", number >> 32, number & 0xffff_ffff)
}

/// Registers and sets.
struct Sheet {
    recorder: PrometheusRecorder,
}

impl Sheet {
    fn describe(&self, name: &'static str, text: &'static str, is_counter: bool) {
        if is_counter {
            self.recorder.describe_counter(name.into(), None, text.into());
        } else {
            self.recorder.describe_gauge(name.into(), None, text.into());
        }
    }

    fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
        let labels: Vec<Label> =
            labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
        self.recorder.register_gauge(&Key::from_parts(name, labels), &METADATA).set(value);
    }

    fn counter(&self, name: &'static str, labels: &[(&'static str, &str)], value: u64) {
        let labels: Vec<Label> =
            labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
        self.recorder.register_counter(&Key::from_parts(name, labels), &METADATA).absolute(value);
    }
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
    fn text(&self, series: usize) -> String {
        let sheet = Sheet { recorder: PrometheusBuilder::new().build_recorder() };
        self.sums(&sheet);
        self.each_torrent(&sheet, series);
        for (number, shard) in self.shards.iter().enumerate() {
            let number = number.to_string();
            shard_lines(&sheet, &number, shard);
        }
        for (number, cache) in self.caches.iter().enumerate() {
            cache_lines(&sheet, &number.to_string(), cache);
        }
        self.storage.devices.iter().for_each(|device| device_lines(&sheet, device));
        self.storage_lines(&sheet);
        self.tracker_lines(&sheet);
        if let Some(discovery) = &self.discovery {
            discovery_lines(&sheet, discovery);
        }
        sheet.recorder.handle().render()
    }

    /// The names of the Python client, and sums beside them.
    fn sums(&self, sheet: &Sheet) {
        let sum = |of: &dyn Fn(&TorrentStatus) -> u64| {
            self.torrents.iter().map(|(_, status)| of(status)).sum::<u64>()
        };
        let gauges: [(&str, &str, u64); 10] = [
            (
                "ccbt_download_rate_bytes_per_second",
                "Payload received by all torrents",
                sum(&|s| s.down_rate),
            ),
            ("ccbt_upload_rate_bytes_per_second", "Payload sent by all torrents", sum(&|s| s.up_rate)),
            ("ccbt_connected_peers", "Connections through their handshake", sum(&|s| s.peer_count as u64)),
            ("ccbt_known_addresses", "Addresses of peers", sum(&|s| s.candidates as u64)),
            ("ccbt_pieces_completed", "Pieces verified and written", sum(&|s| u64::from(s.pieces_done))),
            ("ccbt_pieces_total", "Pieces of all torrents", sum(&|s| u64::from(s.pieces_total))),
            ("ccbt_bytes_left", "Wanted bytes that are not verified and written", sum(&|s| s.bytes_left)),
            (
                "ccbt_disk_queue_depth",
                "Disk operations in flight, and parts that wait for theirs",
                self.storage.devices.iter().map(|d| u64::from(d.in_flight) + d.waiting_parts).sum(),
            ),
            ("ccbt_hash_queue_depth", "Pieces that wait for their hash", self.storage.hash.jobs_waiting),
            ("ccbt_ip_filter_ranges", "Ranges of the IP filter", self.filter_ranges as u64),
        ];
        for (name, text, value) in gauges {
            sheet.describe(name, text, false);
            sheet.gauge(name, &[], value as f64);
        }
        let counters: [(&str, &str, u64); 5] = [
            ("ccbt_downloaded_bytes_total", "Payload accepted", sum(&|s| s.stats.downloaded)),
            ("ccbt_uploaded_bytes_total", "Payload sent", sum(&|s| s.stats.uploaded)),
            ("ccbt_wasted_bytes_total", "Payload received and thrown away", sum(&|s| s.stats.wasted)),
            ("ccbt_hash_failures_total", "Pieces that failed their hash", sum(&|s| s.stats.hash_failures)),
            ("ccbt_banned_peers_total", "Addresses banned for corrupt data", sum(&|s| s.stats.banned)),
        ];
        for (name, text, value) in counters {
            sheet.describe(name, text, true);
            sheet.counter(name, &[], value);
        }
        sheet.describe("ccbt_torrents", "Torrents by what they do", false);
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
            sheet.gauge("ccbt_torrent_pieces_total", &labels, status.pieces_total.into());
            sheet.counter("ccbt_torrent_uploaded_bytes_total", &labels, status.stats.uploaded);
            sheet.counter("ccbt_torrent_downloaded_bytes_total", &labels, status.stats.downloaded);
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

    fn tracker_lines(&self, sheet: &Sheet) {
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

fn device_lines(sheet: &Sheet, device: &DeviceStats) {
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
    }
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

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;

//! Every metric that there is, with its kind and what it means.
//!
//! Role: the text of `# HELP` and `# TYPE`, and what the dashboard and the alert rules of `engine/monitoring` are checked
//! against. Owner: read by [`super::sheet::Sheet`]. Invariant: nothing is exported that is not listed here.

use Kind::{Counter, Gauge, Histogram, Seconds};

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Goes up and down.
    Gauge,
    /// Whole numbers that never go back while the process runs.
    Counter,
    /// The same of seconds with fractions.
    Seconds,
    /// Of seconds: `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// (name, kind, meaning).
pub(super) const METRICS: &[(&str, Kind, &str)] = &[
    // The names of the Python client.
    ("ccbt_download_rate_bytes_per_second", Gauge, "Payload received by all torrents"),
    ("ccbt_upload_rate_bytes_per_second", Gauge, "Payload sent by all torrents"),
    ("ccbt_connected_peers", Gauge, "Connections through their handshake"),
    ("ccbt_pieces_completed", Gauge, "Pieces verified and written"),
    ("ccbt_disk_queue_depth", Gauge, "Disk operations in flight, and parts that wait for theirs"),
    ("ccbt_hash_queue_depth", Gauge, "Pieces that wait for their hash"),
    ("ccbt_ip_filter_ranges", Gauge, "Ranges of the IP filter"),
    // Sums of all torrents.
    ("ccbt_known_addresses", Gauge, "Addresses of peers that are known"),
    ("ccbt_pieces", Gauge, "Pieces of all torrents"),
    ("ccbt_bytes_left", Gauge, "Wanted bytes that are not verified and written"),
    ("ccbt_torrents", Gauge, "Torrents by what they do"),
    ("ccbt_downloaded_bytes_total", Counter, "Payload accepted"),
    ("ccbt_web_downloaded_bytes_total", Counter, "Of it, what came from web seeds"),
    ("ccbt_uploaded_bytes_total", Counter, "Payload sent"),
    ("ccbt_wasted_bytes_total", Counter, "Payload received and thrown away"),
    ("ccbt_hash_failures_total", Counter, "Pieces that failed their hash"),
    ("ccbt_banned_peers_total", Counter, "Addresses banned for corrupt data"),
    // The torrents that move the most: observability.metrics_torrents.
    ("ccbt_torrent_download_rate_bytes_per_second", Gauge, "Payload received by a torrent"),
    ("ccbt_torrent_upload_rate_bytes_per_second", Gauge, "Payload sent by a torrent"),
    ("ccbt_torrent_connected_peers", Gauge, "Its connections through their handshake"),
    ("ccbt_torrent_known_addresses", Gauge, "Addresses of its peers"),
    ("ccbt_torrent_pieces_completed", Gauge, "Its pieces verified and written"),
    ("ccbt_torrent_pieces", Gauge, "Its pieces"),
    ("ccbt_torrent_bytes_left", Gauge, "Its wanted bytes that are not verified and written"),
    ("ccbt_torrent_downloaded_bytes_total", Counter, "Its payload accepted"),
    ("ccbt_torrent_uploaded_bytes_total", Counter, "Its payload sent"),
    ("ccbt_torrent_wasted_bytes_total", Counter, "Its payload received and thrown away"),
    ("ccbt_torrent_hash_failures_total", Counter, "Its pieces that failed their hash"),
    ("ccbt_torrent_banned_peers_total", Counter, "Addresses banned for its corrupt data"),
    // Shards.
    ("ccbt_block_latency_seconds", Histogram, "From the request of a block to its last byte, all shards"),
    ("ccbt_shard_received_bytes_total", Counter, "Bytes received from peers: payload, messages, handshakes"),
    ("ccbt_shard_sent_bytes_total", Counter, "Bytes sent to peers"),
    ("ccbt_shard_accepted_connections_total", Counter, "Connections that the shard accepted"),
    (
        "ccbt_shard_filtered_connections_total",
        Counter,
        "Connections and addresses that the IP filter refused",
    ),
    ("ccbt_shard_handed_over_connections_total", Counter, "Connections handed to another shard"),
    ("ccbt_shard_peers_total", Counter, "Connections that got through their handshake"),
    ("ccbt_shard_messages_total", Counter, "Messages to other shards"),
    ("ccbt_shard_lease_messages_total", Counter, "Of these, the ones about pieces"),
    ("ccbt_shard_ring_submissions_total", Counter, "Entries handed to the kernel"),
    ("ccbt_shard_ring_completions_total", Counter, "Completions taken"),
    ("ccbt_shard_ring_enters_total", Counter, "System calls that entered the ring"),
    ("ccbt_shard_connections", Gauge, "Sockets of peers, half-open and closing ones included"),
    ("ccbt_shard_pieces", Gauge, "Pieces that hold download memory"),
    ("ccbt_shard_piece_memory_bytes", Gauge, "Download memory in use"),
    ("ccbt_shard_piece_memory_capacity_bytes", Gauge, "Download memory (engine.memory)"),
    ("ccbt_shard_starved_torrents", Gauge, "Torrents that found no memory for another piece"),
    ("ccbt_shard_queue_depth", Gauge, "Messages and commands that wait, or are at storage and hash threads"),
    // Reading for others.
    ("ccbt_cache_resident_bytes", Gauge, "Read cache in memory"),
    ("ccbt_cache_capacity_bytes", Gauge, "Memory of the read cache"),
    (
        "ccbt_cache_lookups_total",
        Counter,
        "Extents that a peer came to: in memory, on their way, or to be read",
    ),
    ("ccbt_cache_read_bytes_total", Counter, "Bytes read from disk for peers"),
    ("ccbt_cache_evictions_total", Counter, "Extents that went to make room"),
    ("ccbt_cache_read_ahead_total", Counter, "Extents read before anybody asked, by what became of them"),
    // Disks.
    ("ccbt_disk_latency_seconds", Histogram, "From the start of a disk operation to its end"),
    ("ccbt_disk_depth_limit", Gauge, "Operations that the device is given at a time at most, now"),
    ("ccbt_disk_batch_bytes", Gauge, "Bytes per operation at most, now"),
    ("ccbt_disk_in_flight", Gauge, "Operations in flight"),
    ("ccbt_disk_waiting", Gauge, "Parts of requests that wait for their operation"),
    ("ccbt_disk_operations_total", Counter, "Operations that moved bytes"),
    ("ccbt_disk_bytes_total", Counter, "Bytes read or written"),
    ("ccbt_disk_page_cache_bytes_total", Counter, "Of these, through the page cache"),
    ("ccbt_disk_syncs_total", Counter, "Syncs and reservations that ended"),
    ("ccbt_disk_errors_total", Counter, "Operations that failed for good"),
    ("ccbt_disk_retries_total", Counter, "Operations started once more"),
    ("ccbt_disk_punts_total", Counter, "Operations handed to a kernel worker (io-wq)"),
    ("ccbt_storage_ring_enters_total", Counter, "System calls of the storage thread that entered its ring"),
    ("ccbt_storage_ring_submissions_total", Counter, "Entries that it handed to the kernel"),
    ("ccbt_storage_ring_completions_total", Counter, "Completions that it took"),
    ("ccbt_storage_open_files", Gauge, "Files of torrents that are open"),
    ("ccbt_io_workers", Gauge, "Kernel workers (io-wq) of this process"),
    // Hashing.
    ("ccbt_hashed_pieces_total", Counter, "Pieces hashed"),
    ("ccbt_hashed_bytes_total", Counter, "Bytes hashed"),
    // Finding peers.
    ("ccbt_tracker_requests_total", Counter, "Requests to trackers by how they ended"),
    ("ccbt_tracker_requests", Gauge, "Requests to trackers that wait or run"),
    ("ccbt_tracker_hosts", Gauge, "Tracker hosts, and those that do not answer"),
    ("ccbt_tracker_idle_connections", Gauge, "Connections kept for the next request"),
    ("ccbt_tracker_host_requests_total", Counter, "Requests by tracker host and how they ended"),
    (
        "ccbt_tracker_host_answer_seconds_total",
        Seconds,
        "How long answered and refused requests took together",
    ),
    ("ccbt_dht_nodes", Gauge, "Nodes of the DHT that are known to be good"),
    ("ccbt_dht_searches", Gauge, "Searches under way"),
    ("ccbt_dht_queries_sent_total", Counter, "Queries sent"),
    ("ccbt_dht_answers_received_total", Counter, "Answers received"),
    ("ccbt_dht_queries_received_total", Counter, "Queries received"),
    ("ccbt_dht_answers_sent_total", Counter, "Answers sent"),
    ("ccbt_dht_peers_found_total", Counter, "Addresses found in the DHT"),
    ("ccbt_lsd_announces_sent_total", Counter, "Announces to the local network"),
    ("ccbt_lsd_announces_received_total", Counter, "Announces of others there"),
    // The process; standard names where there are some.
    ("ccbt_build_info", Gauge, "1, with the version"),
    ("ccbt_thread_cpu_seconds_total", Seconds, "CPU time of a thread; others together"),
    ("process_cpu_seconds_total", Seconds, "CPU time of the process, user and system"),
    ("process_resident_memory_bytes", Gauge, "Resident memory"),
    ("process_open_fds", Gauge, "Descriptors in use"),
    ("process_max_fds", Gauge, "Descriptors that the process may use"),
    ("process_start_time_seconds", Gauge, "When the process started, since 1970"),
];

/// The entry of a name.
pub(super) fn find(name: &str) -> Option<(Kind, &'static str)> {
    METRICS.iter().find(|(known, ..)| *known == name).map(|(_, kind, text)| (*kind, *text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_say_what_they_are() {
        for (at, (name, kind, text)) in METRICS.iter().enumerate() {
            assert!(METRICS[..at].iter().all(|(other, ..)| other != name), "{name} twice");
            let counts = matches!(kind, Kind::Counter | Kind::Seconds);
            let ends = name.ends_with("_total");
            assert_eq!(counts, ends, "{name}");
            assert!(!text.is_empty() && !text.contains('\n'), "{name}");
        }
    }
}

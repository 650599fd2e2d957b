//! Torrents and answers of a daemon for unit tests.

use ccbt_fast::daemon::SeedAction;
use ccbt_fast::daemon::api::{
    Activity, Connection, FileDetail, Pieces, PortMapping, Stats, Torrent, TorrentDetail, Tracker,
};

use crate::top::watch::Detail;

/// One that downloads, at this place of the queue.
pub fn torrent(name: &str, position: usize) -> Torrent {
    Torrent {
        info_hash: format!("{position:040x}"),
        name: name.to_owned(),
        state: Activity::Downloading,
        position,
        paused: false,
        forced: false,
        bytes_total: 4 << 30,
        bytes_done: 1 << 30,
        downloaded: 1 << 30,
        uploaded: 1 << 29,
        ratio: 0.125,
        down_rate: 3 << 20,
        up_rate: 0,
        peers: 12,
        eta_seconds: Some(1024),
        seeded_seconds: 0,
        added_at: 0,
        completed_at: None,
        output: "/data".to_owned(),
        error: None,
    }
}

pub fn stats() -> Stats {
    Stats {
        version: "0.1.0".to_owned(),
        pid: 1,
        uptime_seconds: 3720,
        port: 6881,
        torrents: 3,
        downloading: 2,
        seeding: 1,
        queued: 0,
        paused: 0,
        failed: 0,
        peers: 24,
        down_rate: 6 << 20,
        up_rate: 1 << 20,
        downloaded: 0,
        uploaded: 0,
        down_limit: 10 << 20,
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
        port_mapping: PortMapping {
            state: "off".to_owned(),
            text: String::new(),
            method: None,
            external_ip: None,
            external_port: None,
        },
        ip_filter_ranges: 0,
        filtered_connections: 0,
    }
}

/// A torrent with two peers, two files and two trackers.
pub fn detail(pieces: Pieces) -> Detail {
    let peer = |last: u8, seed| Connection {
        addr: format!("192.0.2.{last}:6881").parse().expect("an address"),
        down_rate: u64::from(last) << 20,
        up_rate: 0,
        seed,
        incoming: !seed,
        client: "Some client 1.0".to_owned(),
        utp: false,
        pieces: 3,
        downloaded: 0,
        uploaded: 0,
        connected_seconds: 60,
        am_interested: true,
        peer_choking: false,
        peer_interested: false,
        am_choking: true,
        snubbed: false,
        outstanding: 0,
        round_trip_ms: None,
        quality: 50,
        reliability: 50,
        snubs: 0,
        timeouts: 0,
        rejects: 0,
        suspicions: 0,
    };
    let file = |path: &str| FileDetail { path: path.to_owned(), len: 2 << 30, priority: "normal".to_owned() };
    let good = Tracker {
        url: "http://one.example/announce".to_owned(),
        answered_seconds: Some(65),
        seeders: Some(7),
        ..Tracker::default()
    };
    let bad = Tracker {
        url: "udp://two.example:80".to_owned(),
        tier: 1,
        error: Some("it does not\x1b[2J answer".to_owned()),
        ..Tracker::default()
    };
    let torrent = TorrentDetail {
        torrent: torrent("some.iso", 1),
        pieces_done: pieces.pieces_done,
        pieces_total: pieces.pieces_total,
        piece_len: 1 << 20,
        wasted: 0,
        hash_failures: 2,
        candidates: 99,
        down_limit: 0,
        up_limit: 1 << 20,
        peer_down_limit: 0,
        peer_up_limit: 0,
        seed_ratio: None,
        seed_seconds: None,
        seed_action: SeedAction::Pause,
        move_to: None,
        move_done: None,
        trackers: Vec::new(),
        files: vec![file("some.iso"), file("evil\x1b]0;x\x07name")],
        connections: vec![peer(1, true), peer(2, false)],
    };
    Detail { torrent, pieces, trackers: vec![good, bad] }
}

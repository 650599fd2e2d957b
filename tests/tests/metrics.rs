//! What Prometheus reads of a daemon.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use ccbt_tests::PATIENCE;
use ccbt_tests::daemon::{DaemonCommand, torrent};
use ccbt_tests::lab::Lab;
use ccbt_tests::ports::free_port;
use ccbt_tests::process::wait_until;
use ccbt_tests::raw_seeder::{Manner, RawSeeder};

const MIB: usize = 1 << 20;

#[test]
fn metrics_tell_of_torrents_shards_and_disks() {
    let lab = Lab::open();
    let made = torrent(&lab, "a \"name\".bin", MIB, false);
    let seeder = RawSeeder::start(Ipv4Addr::new(127, 0, 43, 1), &made, Manner::default());
    let port = free_port().to_string();
    let args = ["--metrics", "--metrics-port", &port, "--set", "observability.metrics_torrents=5"];
    let daemon = DaemonCommand::new(&lab).args(args).start();
    let path = made.torrent_path.to_str().expect("plain");
    daemon.ask(&["add", path, "--peer", &seeder.address().to_string()]);
    daemon.wait_for(&made, "state", "seeding");
    let series = |text: &str, name: &str| {
        let found =
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok());
        found.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
    };
    let read = || {
        let mut stream =
            TcpStream::connect(("127.0.0.1", port.parse::<u16>().expect("a port"))).expect("connected");
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n").expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("text");
        text
    };
    let pieces = made.torrent.piece_count() as f64;
    let text = wait_until(PATIENCE, "all pieces", || {
        let text = read();
        (series(&text, "ccbt_pieces_completed") == pieces).then_some(text)
    });
    for (name, value) in [
        ("ccbt_downloaded_bytes_total", MIB as f64),
        ("ccbt_torrents{state=\"seeding\"}", 1.0),
        ("ccbt_hash_queue_depth", 0.0),
        ("ccbt_disk_queue_depth", 0.0),
        ("ccbt_hashed_pieces_total", pieces),
    ] {
        assert_eq!(series(&text, name), value, "{name}\n{text}");
    }
    for name in [
        "ccbt_download_rate_bytes_per_second",
        "ccbt_upload_rate_bytes_per_second",
        "ccbt_connected_peers",
        "ccbt_shard_received_bytes_total{shard=\"0\"}",
        "ccbt_storage_ring_enters_total",
    ] {
        series(&text, name);
    }
    let of_torrent = format!(
        "ccbt_torrent_pieces_completed{{info_hash=\"{}\",name=\"a \\\"name\\\".bin\"}}",
        made.torrent.info_hash_hex()
    );
    assert_eq!(series(&text, &of_torrent), pieces);
}

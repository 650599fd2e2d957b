//! Torrents without a tracker and without an address: found through the DHT alone, and through the local network alone,
//! by us and by libtorrent. Private ones are not.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ccbt_tests::PATIENCE;
use ccbt_tests::binary::ccbt_fast;
use ccbt_tests::ccbt::CcbtCommand;
use ccbt_tests::daemon::{Daemon, DaemonCommand};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::libtorrent::{LibtorrentPeer, python};
use ccbt_tests::payload::Payload;
use ccbt_tests::process::wait_until;
use ccbt_tests::raw_peer::{RawPeer, id};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::veth::{FAR, NEAR, Veth};
use serde_json::json;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn publish(lab: &Lab) -> Published {
    lab.publish(Payload::single("file", 2 * MIB + 1), TorrentSpec::pieces_of(64 * KIB))
}

/// A node of ours without torrents.
fn our_hub(lab: &Lab) -> Daemon {
    DaemonCommand::new(lab).dht("none").start()
}

#[test]
fn libtorrent_announces_to_our_node_and_we_find_it() {
    let lab = Lab::open();
    let made = publish(&lab);
    let hub = our_hub(&lab);
    assert_eq!(hub.stat("dht_port"), u64::from(hub.address().port()), "the number of the TCP port");
    let settings = LibtorrentPeer::dht_settings(Some(hub.address()));
    let _seed = LibtorrentPeer::start_with(&made.torrent_path, &made.data, settings);
    wait_until(PATIENCE, "an announce of libtorrent's", || (hub.stat("dht_stored") > 0).then_some(()));
    let copy = lab.dir("ours");
    let mut ours = CcbtCommand::download(&made.torrent_path, &copy).dht(hub.address()).start();
    ours.wait_done();
    made.payload.assert_equal_in(&copy);
    let told = ours.events("discovery").pop().expect("what was found is told");
    assert!(told["dht_nodes"].as_u64() > Some(0), "{told}");
    // By its name alone.
    let (copy, link) = (lab.dir("magnet"), format!("magnet:?xt=urn:btih:{}", made.torrent.info_hash_hex()));
    CcbtCommand::magnet(&link, &copy).dht(hub.address()).start().wait_done();
    made.payload.assert_equal_in(&copy);
    hub.stop();
}

#[test]
fn we_announce_to_libtorrents_node_and_both_find_us() {
    let (lab, other) = (Lab::open(), tempfile::tempdir().expect("a folder"));
    let made = publish(&lab);
    let unrelated = Payload::single("unrelated", 64 * KIB);
    unrelated.write_to(other.path());
    let torrent = ccbt_tests::torrent::Torrent::of(&unrelated, &TorrentSpec::pieces_of(16 * KIB));
    let path = other.path().join("unrelated.torrent");
    std::fs::write(&path, torrent.bytes()).expect("written");
    let hub = LibtorrentPeer::start_with(&path, other.path(), LibtorrentPeer::dht_settings(None));
    let mut seed = CcbtCommand::seed(&made.torrent_path, &made.data).dht(hub.address()).start();
    seed.wait_ready();
    let copy = lab.dir("ours");
    CcbtCommand::download(&made.torrent_path, &copy).dht(hub.address()).start().wait_done();
    made.payload.assert_equal_in(&copy);
    let copy = lab.dir("theirs");
    let settings = LibtorrentPeer::dht_settings(Some(hub.address()));
    let mut leech = LibtorrentPeer::start_with(&made.torrent_path, &copy, settings);
    leech.wait_finished();
    made.payload.assert_equal_in(&copy);
    seed.stop();
}

/// BEP 32, in both directions: nobody here has an IPv4 address that another one knows.
#[test]
fn over_ipv6_too() {
    let (lab, ip) = (Lab::open(), Ipv6Addr::LOCALHOST);
    let made = publish(&lab);
    let hub = DaemonCommand::new(&lab).bind(ip).dht("none").start();
    let first = hub.address();
    let theirs = |dir: &Path| {
        let settings = LibtorrentPeer::dht_settings(Some(first));
        LibtorrentPeer::start_by(Command::new(python()), ip, &made.torrent_path, dir, settings)
    };
    let seed = theirs(&made.data);
    wait_until(PATIENCE, "an announce of libtorrent's", || (hub.stat("dht_stored") > 0).then_some(()));
    let copy = lab.dir("ours");
    CcbtCommand::download(&made.torrent_path, &copy).bind(ip).dht(first).start().wait_done();
    made.payload.assert_equal_in(&copy);
    drop(seed);
    let mut ours = CcbtCommand::seed(&made.torrent_path, &made.data).bind(ip).dht(first).start();
    ours.wait_ready();
    let copy = lab.dir("theirs");
    theirs(&copy).wait_finished();
    made.payload.assert_equal_in(&copy);
    ours.stop();
    hub.stop();
}

/// Whether `part` is in `bytes`.
fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The bits of the handshake that a daemon answers a peer with a DHT node, and the port that it then tells.
fn meet(daemon: &Daemon, made: &Published) -> (u8, Option<u16>) {
    let mut peer = RawPeer::connect(daemon.address());
    peer.send_handshake_with(made.torrent.info_hash(), [0, 0, 0, 0, 0, 0, 0, 1]);
    let theirs = peer.read_handshake().expect("an answer");
    peer.send(id::PORT, &99u16.to_be_bytes());
    // What it says unasked comes before what it answers.
    peer.send(id::INTERESTED, &[]);
    let mut port = None;
    loop {
        let message = peer.recv().expect("it goes on");
        match message.id {
            id::PORT => port = Some(u16::from_be_bytes([message.payload[0], message.payload[1]])),
            id::UNCHOKE => return (theirs[27] & 1, port),
            _ => {}
        }
    }
}

#[test]
fn private_torrents_are_neither_looked_for_nor_told_of_and_public_ones_are() {
    let (lab, other) = (Lab::open(), Lab::open());
    let public = publish(&lab);
    let payload = Payload::single("secret", MIB);
    let private = other.publish(payload, TorrentSpec::pieces_of(64 * KIB).private());
    // Everything that the daemon's node says goes here.
    let node = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
    node.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
    let at: SocketAddr = node.local_addr().expect("bound");
    let daemon = DaemonCommand::new(&lab).dht(&at.to_string()).start();
    for made in [&private, &public] {
        let path = made.torrent_path.to_str().expect("labs have plain names");
        daemon.ask(&["add", path, "--output", made.data.to_str().expect("labs have plain names")]);
        daemon.wait_for(made, "state", "seeding");
    }
    let (mut said, mut bytes) = (Vec::new(), [0; 2048]);
    let end = Instant::now() + PATIENCE;
    while !holds(&said, &public.torrent.info_hash()) {
        assert!(Instant::now() < end, "the public one is not looked for");
        if let Ok(len) = node.recv(&mut bytes) {
            said.extend_from_slice(&bytes[..len]);
        }
    }
    assert_eq!(meet(&daemon, &public), (1, Some(daemon.address().port())));
    assert_eq!(meet(&daemon, &private), (0, None));
    while let Ok(len) = node.recv(&mut bytes) {
        said.extend_from_slice(&bytes[..len]);
    }
    assert!(!holds(&said, &private.torrent.info_hash()));
    // A peer of a public torrent has told of a node: port 99 of 127.0.0.1, where nobody answers.
    daemon.stop();
}

#[test]
fn found_in_the_local_network_alone_by_us_and_by_libtorrent() {
    let veth = match Veth::new() {
        Ok(veth) => veth,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let lab = Lab::open();
    let made = publish(&lab);
    let program = ccbt_fast().to_str().expect("a path of ours");
    let seed = |bind| CcbtCommand::seed(&made.torrent_path, &made.data).bind(bind).start();
    // Ours from ours, over there.
    let mut ours = seed(NEAR);
    ours.wait_ready();
    let copy = lab.dir("ours");
    let far = CcbtCommand::build(veth.over_there(program), "download", &made.torrent_path, &copy);
    far.bind(FAR).start().wait_done();
    made.payload.assert_equal_in(&copy);
    // libtorrent from ours, by its name alone; and ours from libtorrent.
    let link = format!("magnet:?xt=urn:btih:{}", made.torrent.info_hash_hex());
    let lsd = json!({ "enable_lsd": true, "local_service_announce_interval": 5 });
    let python = python().to_str().expect("a path of ours").to_owned();
    let copy = lab.dir("theirs");
    let by = |python: &str| veth.over_there(python);
    let mut leech = LibtorrentPeer::start_by(by(&python), FAR, Path::new(&link), &copy, lsd.clone());
    leech.wait_finished();
    made.payload.assert_equal_in(&copy);
    ours.stop();
    drop(leech);
    let _seed = LibtorrentPeer::start_by(Command::new(&python), NEAR, &made.torrent_path, &made.data, lsd);
    let copy = lab.dir("ours again");
    let far = CcbtCommand::build(veth.over_there(program), "magnet", Path::new(&link), &copy);
    far.bind(FAR).start().wait_done();
    made.payload.assert_equal_in(&copy);
}

/// What `ccbt-fast dht` prints, which has found what it was to find.
fn ask_dht(node: SocketAddr, args: &[&str]) -> serde_json::Value {
    let node = node.to_string();
    let common = ["--no-config", "--json", "--timeout", "20", "--node", &node];
    let output = Command::new(ccbt_fast()).arg("dht").args(common).args(args).output().expect("it runs");
    let (said, problem) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}: {said} {problem}");
    serde_json::from_str(&said).expect("one object")
}

#[test]
fn the_command_reads_and_stores_at_our_node_and_libtorrents() {
    let lab = Lab::open();
    let made = publish(&lab);
    let hub = our_hub(&lab);
    let settings = LibtorrentPeer::dht_settings(Some(hub.address()));
    let theirs = LibtorrentPeer::start_with(&made.torrent_path, &made.data, settings);
    wait_until(PATIENCE, "an announce of libtorrent's", || (hub.stat("dht_stored") > 0).then_some(()));
    for (nth, node) in [hub.address(), theirs.address()].into_iter().enumerate() {
        let ping = ask_dht(node, &["ping", &node.to_string()]);
        assert_eq!(ping["id"].as_str().map(str::len), Some(40), "{ping}");
        // An immutable value, then a mutable one that is replaced.
        let put = ask_dht(node, &["put", "grüße"]);
        let target = put["target"].as_str().expect("its name");
        assert_eq!(ask_dht(node, &["get", target])["text"], "grüße");
        let key = lab.path().join(format!("key{nth}"));
        let key = key.to_str().expect("plain");
        for (seq, text) in [("7", "first"), ("8", "second")] {
            let put = ask_dht(node, &["put", text, "--key", key, "--salt", "s", "--seq", seq]);
            let public = put["key"].as_str().expect("a public key");
            let got = ask_dht(node, &["get", public, "--salt", "s"]);
            assert_eq!((&got["text"], got["seq"].as_i64()), (&json!(text), seq.parse().ok()), "{got}");
        }
    }
    let hash = made.torrent.info_hash_hex();
    let found = ask_dht(hub.address(), &["lookup", &hash]);
    assert_eq!(found["peers"], json!([theirs.address().to_string()]));
    let scraped = ask_dht(hub.address(), &["scrape", &hash]);
    assert_eq!((scraped["seeds"].as_f64(), scraped["peers"].as_f64()), (Some(1.0), Some(0.0)), "{scraped}");
    let sampled = ask_dht(hub.address(), &["sample"]);
    let nodes = sampled["samples"].as_array().expect("a list");
    assert!(nodes.iter().any(|node| node["info_hashes"] == json!([hash])), "{sampled}");
    // Nobody is there: it ends in its time, and says so.
    let args = ["dht", "--no-config", "--timeout", "1", "--node", "127.0.0.1:1", "lookup", &hash];
    let output = Command::new(ccbt_fast()).args(args).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    hub.stop();
}

//! Looking closely at a torrent: why it does what it does, what its peers are worth, what one of them says, and the log.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};

use ccbt_tests::PATIENCE;
use ccbt_tests::ccbt::CcbtCommand;
use ccbt_tests::daemon::{Daemon, DaemonCommand, torrent};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::Payload;
use ccbt_tests::process::wait_until;
use ccbt_tests::raw_peer::{RawPeer, id};
use ccbt_tests::raw_seeder::{Manner, Quirk, RawSeeder};
use ccbt_tests::torrent::{Torrent, TorrentSpec};
use ccbt_tests::tracker::{Reply, Tracker};
use serde_json::Value;

const MIB: usize = 1 << 20;
/// All torrents run.
const QUEUE_OFF: [&str; 4] =
    ["--set", "daemon.active_downloads=unlimited", "--set", "daemon.active_limit=unlimited"];
/// BEP 10 alone.
const EXTENDED: [u8; 8] = [0, 0, 0, 0, 0, 0x10, 0, 0];
/// What a hostile peer calls itself.
const EVIL: &str = "\x1b[2Jevil\u{9b}31m\u{202e}gpj\n";

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 83, last)
}

fn add(daemon: &Daemon, made: &Published, peers: &[String], more: &[&str]) {
    let mut args = vec!["add", made.torrent_path.to_str().expect("plain")];
    args.extend(peers.iter().flat_map(|peer| ["--peer", peer.as_str()]));
    args.extend(more);
    daemon.ask(&args);
}

/// Waits until the first finding about the torrent is `cause`.
fn wait_cause(daemon: &Daemon, made: &Published, cause: &str) -> Value {
    let hash = made.torrent.info_hash_hex();
    let mut last = Value::Null;
    wait_until(PATIENCE, cause, || {
        last = daemon.ask(&["explain", &hash]).remove(0);
        let first = &last["findings"][0];
        (first["cause"] == cause).then(|| first.clone())
    })
}

#[test]
fn causes_are_found_in_a_real_daemon() {
    let lab = Lab::open();
    let made = |name: &str| torrent(&lab, name, 4 * MIB, false);
    let daemon = DaemonCommand::new(&lab).trackers().args(QUEUE_OFF).start();
    // A tracker that refuses, and nobody else to ask.
    let tracker = Tracker::with_reply(Reply::Failure("not registered\x1b[2J here"));
    let payload = Payload::single("refused.bin", MIB);
    let spec = TorrentSpec::pieces_of(16 << 10).announce(tracker.url());
    let refused = Torrent::of(&payload, &spec);
    let torrent_path = lab.file("refused.torrent", refused.bytes());
    let refused = Published { data: lab.dir("data"), torrent_path, torrent: refused, payload };
    add(&daemon, &refused, &[], &[]);
    // All peers choke.
    let choked = made("choked.bin");
    let choker = RawSeeder::start(ip(1), &choked, Manner::of(Quirk::Chokes));
    add(&daemon, &choked, &[choker.address().to_string()], &[]);
    // A limit of its own.
    let limited = made("limited.bin");
    let seeder = RawSeeder::start(ip(2), &limited, Manner::default());
    add(&daemon, &limited, &[seeder.address().to_string()], &["--down", "64KiB/s"]);
    // Nobody has some pieces.
    let rare = made("rare.bin");
    let listener = TcpListener::bind((ip(3), 0)).expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    add(&daemon, &rare, &[address], &[]);
    let mut has_nothing = RawPeer::accept(&listener);
    has_nothing.handshake(rare.torrent.info_hash());
    // Somebody has paused it.
    let paused = made("paused.bin");
    add(&daemon, &paused, &[], &["--paused"]);
    // Its address leads nowhere.
    let lonely = made("lonely.bin");
    let nowhere = TcpListener::bind((ip(4), 0)).and_then(|listener| listener.local_addr());
    add(&daemon, &lonely, &[nowhere.expect("it was bound").to_string()], &[]);

    let tracker_said = wait_until(PATIENCE, "the tracker's words", || {
        let found = daemon.ask(&["explain", &refused.torrent.info_hash_hex()]).remove(0);
        let findings = found["findings"].as_array().expect("a list").clone();
        findings.into_iter().find(|finding| finding["cause"] == "tracker_error")
    });
    assert!(
        tracker_said["text"].as_str().is_some_and(|text| text.contains("not registered")),
        "{tracker_said}"
    );
    assert!(tracker_said["evidence"]["failures"].as_u64() >= Some(1), "{tracker_said}");
    wait_cause(&daemon, &refused, "no_addresses");
    let found = wait_cause(&daemon, &choked, "all_choked");
    assert_eq!(found["evidence"]["choking_peers"], 1, "{found}");
    let found = wait_cause(&daemon, &limited, "torrent_limit");
    assert_eq!((&found["evidence"]["limit"], &found["severity"]), (&(64 << 10).into(), &"slows".into()));
    let found = wait_cause(&daemon, &rare, "pieces_missing");
    assert_eq!(found["evidence"]["unavailable"], 256, "{found}");
    let found = wait_cause(&daemon, &paused, "paused");
    assert_eq!(found["severity"], "stops");
    let found = wait_cause(&daemon, &lonely, "no_peers");
    assert!(found["evidence"]["unreachable"].as_u64() >= Some(1), "{found}");
    // The same in words, and what a stranger wrote drives no terminal.
    let (code, text, _) = daemon.run(&["explain", &refused.torrent.info_hash_hex()]);
    assert!(code == 0 && text.contains("not registered") && !text.contains('\x1b'), "{text:?}");
    // The limit of all together.
    daemon.ask(&["limit", "--down", "32KiB/s"]);
    daemon.ask(&["limit", &limited.torrent.info_hash_hex(), "--down", "0"]);
    wait_cause(&daemon, &limited, "global_limit");
    // What a peer is worth is shown where it is listed.
    let peers = daemon.ask(&["peers", &limited.torrent.info_hash_hex()]).remove(0);
    let peer = &peers[0];
    assert!(peer["reliability"].as_u64() > Some(50) && peer["quality"].as_u64() > Some(25), "{peer}");
    assert_eq!((&peer["pieces"], &peer["client"]), (&256.into(), &"RW 0.0.0.1".into()), "{peer}");
    daemon.stop();
}

/// Speaks BEP 10 with a name that drives terminals, has everything, and serves what is asked for.
fn serve_evil(made: Published, listener: TcpListener) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut peer = RawPeer::accept(&listener);
        peer.send_handshake_with(made.torrent.info_hash(), EXTENDED);
        peer.read_handshake().expect("it is greeted");
        let hello = format!("\0d1:md6:ut_pexi3ee1:v{}:{EVIL}e", EVIL.len());
        peer.send(id::EXTENDED, hello.as_bytes());
        peer.send(id::BITFIELD, &ccbt_tests::raw_peer::full_bitfield(made.torrent.piece_count()));
        peer.send_words(id::UNCHOKE, &[], &[]);
        let data = made.payload.concatenated();
        while let Some(message) = peer.wait_message(id::REQUEST) {
            let word = |at| message.word(at).expect("a request has three") as usize;
            let start = word(0) * made.torrent.piece_len() + word(1);
            let block = &data[start..start + word(2)];
            if !peer.send_words(id::PIECE, &[word(0) as u32, word(1) as u32], block) {
                return;
            }
        }
    })
}

fn is_safe(text: &str) -> bool {
    let unsafe_one = |c: char| {
        c != '\n' && (c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
    };
    !text.chars().any(unsafe_one)
}

#[test]
fn one_peer_can_be_listened_to() {
    let lab = Lab::open();
    let made = torrent(&lab, "heard.bin", 64 << 10, false);
    let daemon = DaemonCommand::new(&lab).start();
    let listener = TcpListener::bind((ip(11), 0)).expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let hash = made.torrent.info_hash_hex();
    add(&daemon, &made, &[], &["--paused"]);
    let (code, _, error) = daemon.run(&["trace", &hash, "nobody"]);
    assert!(code == 2 && error.contains("nobody"), "{error}");
    let mut reader = Command::new(ccbt_tests::binary::ccbt_fast())
        .args(["trace", &hash, &address.ip().to_string(), "--lines", "16", "--socket"])
        .arg(daemon.socket())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut said = String::new();
    BufReader::new(reader.stderr.take().expect("piped")).read_line(&mut said).expect("it says something");
    assert!(said.starts_with("waiting for messages"), "{said}");
    let server = serve_evil(torrent(&lab, "heard.bin", 64 << 10, false), listener);
    daemon.ask(&["resume", &hash]);
    let (status, body) =
        daemon.http("POST", &format!("/v1/torrents/{hash}/peers"), &format!("{{\"peers\":[\"{address}\"]}}"));
    assert_eq!(status, 200, "{body}");
    let done = reader.wait_with_output().expect("it ends by itself");
    assert!(done.status.success());
    let text = String::from_utf8(done.stdout).expect("UTF-8");
    for part in [
        "-- connected over TCP",
        "-> handshake info-hash",
        "<- handshake info-hash",
        "speaks: extended",
        "-> extended handshake {m: {",
        "<- extended handshake {m: {ut_pex: 3}, v: <",
        "<- bitfield 4 pieces, 1 bytes",
        "<- unchoke",
        "-> interested",
        "-> request index ",
        " begin 0 length 16384",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(is_safe(&text), "{text:?}");
    assert_eq!(text.lines().count(), 16, "{text}");
    daemon.wait_for(&made, "state", "seeding");
    let shown = daemon.run(&["show", &hash]).1 + &daemon.run(&["peers", &hash]).1;
    assert!(is_safe(&shown), "{shown:?}");
    daemon.stop();
    server.join().expect("no panic");
}

#[test]
fn the_log_is_bounded_filtered_and_safe() {
    let lab = Lab::open();
    let made = torrent(&lab, "logged.bin", 12 * MIB, false);
    let listener = TcpListener::bind((ip(21), 0)).expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let server = serve_evil(torrent(&lab, "logged.bin", 12 * MIB, false), listener);
    let log = lab.path().join("log");
    let copy = lab.dir("copy");
    let mut ours = CcbtCommand::download(&made.torrent_path, &copy)
        .peer(address)
        .option("--log-file", &log)
        .option("--log-format", "json")
        .option("--log", "error,ccbt_shards::peers=debug")
        .option("--trace-peer", address.ip().to_string())
        .option("--set", "observability.log_file_size=64KiB")
        .option("--set", "observability.log_files=3")
        .start();
    ours.wait_done();
    server.join().expect("no panic");
    let files: Vec<_> = ["log", "log.1", "log.2", "log.3"].map(|name| lab.path().join(name)).into();
    assert!(files[1].exists() && files[2].exists() && !files[3].exists(), "three files are kept");
    let mut text = String::new();
    for file in files[..3].iter().rev() {
        let part = fs::read_to_string(file).expect("it is UTF-8");
        assert!(part.len() <= 64 << 10, "{} bytes", part.len());
        text += &part;
    }
    assert!(is_safe(&text), "nothing drives a terminal");
    let records: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    let told = |target: &str| records.iter().filter(|record| record["target"] == target).count();
    assert!(told("ccbt_fast::wire") > 100, "{} lines", told("ccbt_fast::wire"));
    assert!(told("ccbt_shards::peers") > 0, "it has gone");
    assert_eq!(
        told("ccbt_fast::wire") + told("ccbt_shards::peers"),
        records.len(),
        "nothing else was asked for"
    );
    assert!(text.contains("<- piece index ") && text.contains("length 16384"));
}

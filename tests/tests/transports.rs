//! uTP (BEP 29) and encryption (MSE): with libtorrent both ways, between two of us, over a bad path, and as second choices.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ccbt_tests::binary::ccbt_fast;
use ccbt_tests::ccbt::CcbtCommand;
use ccbt_tests::lab::Lab;
use ccbt_tests::libtorrent::LibtorrentPeer;
use ccbt_tests::nat::Nats;
use ccbt_tests::payload::Payload;
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::udp_relay::{Path, UdpRelay};
use serde_json::{Value, json};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A transatlantic path on a bad day.
const BAD: Path = Path { delay: Duration::from_millis(50), jitter: Duration::from_millis(10), lost: 20 };

/// libtorrent over uTP alone.
fn utp_alone() -> [(&'static str, Value); 4] {
    [
        ("enable_outgoing_utp", json!(true)),
        ("enable_incoming_utp", json!(true)),
        ("enable_outgoing_tcp", json!(false)),
        ("enable_incoming_tcp", json!(false)),
    ]
}

fn settings(of: &[(&str, Value)]) -> Value {
    of.iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// We over uTP alone.
fn over_utp(command: CcbtCommand) -> CcbtCommand {
    command.flag("--utp").flag("--no-tcp")
}

fn payload(len: usize) -> Payload {
    Payload::single("one file.bin", len + 1)
}

/// libtorrent seeds, we fetch, over a path if there is one.
fn from_libtorrent(len: usize, path: Option<Path>) {
    let lab = Lab::open();
    let made = lab.publish(payload(len), TorrentSpec::pieces_of(256 * KIB));
    let seed = LibtorrentPeer::start_with(&made.torrent_path, &made.data, settings(&utp_alone()));
    let relay = path.map(|path| UdpRelay::start(seed.address(), path));
    let peer = relay.as_ref().map_or(seed.address(), UdpRelay::address);
    let copy = lab.dir("ours");
    over_utp(CcbtCommand::download(&made.torrent_path, &copy)).peer(peer).start().wait_done();
    made.payload.assert_equal_in(&copy);
    assert_lossy(relay);
}

/// We seed, libtorrent fetches.
fn to_libtorrent(len: usize, path: Option<Path>) {
    let lab = Lab::open();
    let made = lab.publish(payload(len), TorrentSpec::pieces_of(256 * KIB));
    let mut seed = over_utp(CcbtCommand::seed(&made.torrent_path, &made.data)).start();
    seed.wait_ready();
    let relay = path.map(|path| UdpRelay::start(seed.address(), path));
    let copy = lab.dir("theirs");
    let mut leech = LibtorrentPeer::start_with(&made.torrent_path, &copy, settings(&utp_alone()));
    leech.connect(relay.as_ref().map_or(seed.address(), UdpRelay::address));
    leech.wait_finished();
    made.payload.assert_equal_in(&copy);
    assert_lossy(relay);
}

fn assert_lossy(relay: Option<UdpRelay>) {
    if let Some((passed, lost)) = relay.map(|relay| relay.counts()) {
        assert!(passed > 1000 && lost > 20, "{passed} datagrams passed, {lost} were lost: no test");
    }
}

#[test]
fn libtorrent_seeds_to_us() {
    from_libtorrent(24 * MIB, None);
}

#[test]
fn we_seed_to_libtorrent() {
    to_libtorrent(24 * MIB, None);
}

#[test]
fn libtorrent_seeds_to_us_over_a_bad_path() {
    from_libtorrent(2 * MIB, Some(BAD));
}

#[test]
fn we_seed_to_libtorrent_over_a_bad_path() {
    to_libtorrent(2 * MIB, Some(BAD));
}

#[test]
fn two_of_us_and_what_tcp_does_not_reach_utp_does() {
    let lab = Lab::open();
    let made = lab.publish(payload(64 * MIB), TorrentSpec::pieces_of(256 * KIB));
    let mut seed =
        over_utp(CcbtCommand::seed(&made.torrent_path, &made.data)).option("--shards", "2").start();
    seed.wait_ready();
    // Nobody listens there over TCP: its refusal starts uTP.
    let copy = lab.dir("both");
    CcbtCommand::download(&made.torrent_path, &copy).flag("--utp").peer(seed.address()).start().wait_done();
    made.payload.assert_equal_in(&copy);
    seed.assert_alive();
}

/// Neither NAT lets the other's host in. Both hosts know a public peer that sends nearly nothing; the seed was told of
/// another peer just before the leech came, so for a minute it does not hear of the leech by PEX.
#[test]
fn peers_behind_nats_meet_with_the_help_of_a_relay() {
    let nats = match Nats::new() {
        Ok(nats) => nats,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let lab = Lab::open();
    let made = lab.publish(payload(4 * MIB), TorrentSpec::pieces_of(64 * KIB));
    let program = ccbt_fast().to_str().expect("a path of ours");
    let relay_at = |n: usize| SocketAddr::new(Nats::public(n).into(), 7000);
    let public = |dir: &str, port: u16| {
        let command = CcbtCommand::download(&made.torrent_path, &lab.dir(dir)).bind(Ipv4Addr::UNSPECIFIED);
        over_utp(command).listen_at(port).option("--up-limit", "4").option("--down-limit", "4")
    };
    let mut relay = public("relay", 7000).start();
    relay.wait_listening();
    let command = CcbtCommand::build(nats.on_host(2, program), "seed", &made.torrent_path, &made.data);
    let mut seed = over_utp(command).bind(Nats::inside(2)).listen_at(7002).peer(relay_at(2)).start();
    seed.wait_ready();
    let knows_one = |line: &Value| (line["peers"].as_u64() >= Some(1)).then_some(());
    relay.wait_json("the seed at the relay", knows_one);
    let _third = public("third", 7003).peer(relay_at(2)).start();
    relay.wait_json("another peer at the relay", |line| (line["peers"].as_u64() >= Some(2)).then_some(()));
    seed.wait_json("the seed dials it", |line| (line["peers"].as_u64() >= Some(2)).then_some(()));
    let copy = lab.dir("leech");
    let command = CcbtCommand::build(nats.on_host(1, program), "download", &made.torrent_path, &copy);
    let mut leech = over_utp(command).bind(Nats::inside(1)).listen_at(7001).peer(relay_at(1)).start();
    leech.wait_done();
    made.payload.assert_equal_in(&copy);
    assert!(
        leech.said(|line| line.contains("asking the peer that told of it")),
        "it was reached without a relay"
    );
    assert!(seed.said(|line| line.contains("a relay says that it dials us")), "no relay said anything");
}

/// How libtorrent encrypts: policy 0 forced, 2 off; level 1 handshake only, 2 RC4, 3 either.
fn encrypted(policy: u8, level: u8) -> [(&'static str, Value); 3] {
    [("in_enc_policy", json!(policy)), ("out_enc_policy", json!(policy)), ("allowed_enc_level", json!(level))]
}

fn fetch_encrypted(libtorrent: &[(&str, Value)], ours: &[&str]) {
    let lab = Lab::open();
    let made = lab.publish(payload(6 * MIB), TorrentSpec::pieces_of(256 * KIB));
    let seed = LibtorrentPeer::start_with(&made.torrent_path, &made.data, settings(libtorrent));
    let copy = lab.dir("ours");
    let mut command = CcbtCommand::download(&made.torrent_path, &copy).peer(seed.address());
    for flag in ours {
        command = command.flag(flag);
    }
    command.start().wait_done();
    made.payload.assert_equal_in(&copy);
}

fn serve_encrypted(libtorrent: &[(&str, Value)], ours: &[&str]) {
    let lab = Lab::open();
    let made = lab.publish(payload(6 * MIB), TorrentSpec::pieces_of(256 * KIB));
    let mut command = CcbtCommand::seed(&made.torrent_path, &made.data).option("--shards", "2");
    for flag in ours {
        command = command.flag(flag);
    }
    let mut seed = command.start();
    seed.wait_ready();
    let copy = lab.dir("theirs");
    let mut leech = LibtorrentPeer::start_with(&made.torrent_path, &copy, settings(libtorrent));
    leech.connect(seed.address());
    leech.wait_finished();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn libtorrent_that_insists_on_rc4_or_on_a_hidden_handshake_seeds_to_us() {
    fetch_encrypted(&encrypted(0, 2), &["--encryption-out=prefer"]);
    fetch_encrypted(&encrypted(0, 1), &["--encryption-out=prefer"]);
    fetch_encrypted(&encrypted(1, 3), &["--encryption-out=require"]);
}

#[test]
fn a_peer_without_encryption_is_asked_plainly() {
    fetch_encrypted(&encrypted(2, 3), &["--encryption-out=prefer"]);
}

#[test]
fn we_seed_to_a_libtorrent_that_insists_on_encryption() {
    serve_encrypted(&encrypted(0, 2), &["--encryption-in=prefer"]);
    serve_encrypted(&encrypted(0, 3), &["--encryption-in=require"]);
    serve_encrypted(&encrypted(0, 1), &["--encryption-in=prefer"]);
}

#[test]
fn rc4_over_utp() {
    let mut settings = encrypted(0, 2).to_vec();
    settings.extend(utp_alone());
    fetch_encrypted(&settings, &["--utp", "--no-tcp", "--encryption-out=require"]);
}

#[test]
fn we_seed_over_utp_in_rc4() {
    let mut settings = encrypted(0, 2).to_vec();
    settings.extend(utp_alone());
    serve_encrypted(&settings, &["--utp", "--no-tcp"]);
}

//! Trackers: what we tell them, what we learn from them, and what happens when they misbehave.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use ccbt_tests::PATIENCE;
use ccbt_tests::ccbt::CcbtCommand;
use ccbt_tests::daemon::DaemonCommand;
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::libtorrent::LibtorrentPeer;
use ccbt_tests::payload::Payload;
use ccbt_tests::ports::free_port;
use ccbt_tests::process::{Process, wait_until};
use ccbt_tests::torrent::{Torrent, TorrentSpec};
use ccbt_tests::tracker::{Reply, Tracker};
use ccbt_tests::udp_tracker::UdpTracker;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const COMPLETED: u32 = 1;
const STARTED: u32 = 2;
const STOPPED: u32 = 3;

fn publish(lab: &Lab, spec: impl FnOnce(TorrentSpec) -> TorrentSpec) -> Published {
    lab.publish(Payload::straddling("tree", 3 * MIB), spec(TorrentSpec::pieces_of(64 * KIB)))
}

#[test]
fn an_http_tracker_hears_the_whole_story_and_gives_the_only_peer() {
    let (lab, tracker) = (Lab::open(), Tracker::start());
    let made = publish(&lab, |spec| spec.announce(tracker.url()));
    let total = made.payload.len() as u64;
    let seed = LibtorrentPeer::start(&made.torrent_path, &made.data);
    tracker.add_peer(made.torrent.info_hash(), seed.address());
    let copy = lab.dir("copy");
    let mut ours = CcbtCommand::download(&made.torrent_path, &copy).trackers().start();
    let port = ours.address().port();
    ours.wait_done();
    made.payload.assert_equal_in(&copy);
    let started = tracker.wait_announce(port, |announce| announce.event == "started");
    assert_eq!((started.left, started.downloaded, started.uploaded), (total, 0, 0));
    assert_eq!(started.info_hash, made.torrent.info_hash());
    let completed = tracker.wait_announce(port, |announce| announce.event == "completed");
    assert_eq!(completed.left, 0);
    assert!(completed.downloaded >= total, "it has received at least the payload: {completed:?}");
    tracker.wait_announce(port, |announce| announce.event == "stopped");
    let events = tracker.announces().into_iter().filter(|a| a.peer.port() == port);
    let events: Vec<String> = events.map(|a| a.event).filter(|event| !event.is_empty()).collect();
    assert_eq!(events, ["started", "completed", "stopped"]);
}

#[test]
fn a_seed_announces_itself_as_complete_and_never_says_completed() {
    let (lab, tracker) = (Lab::open(), Tracker::start());
    let made = publish(&lab, |spec| spec.announce(tracker.url()));
    let mut seed = CcbtCommand::seed(&made.torrent_path, &made.data).trackers().start();
    let port = seed.address().port();
    tracker.wait_announce(port, |announce| announce.event == "started" && announce.left == 0);
    seed.stop();
    tracker.wait_announce(port, |announce| announce.event == "stopped");
    assert!(tracker.announces().iter().all(|announce| announce.event != "completed"));
}

#[test]
fn a_udp_tracker_hears_the_whole_story_and_a_spoofed_answer_is_ignored() {
    let lab = Lab::open();
    let payload = || Payload::straddling("tree", 3 * MIB);
    let first = lab.publish(payload(), TorrentSpec::pieces_of(64 * KIB));
    let seed = LibtorrentPeer::start(&first.torrent_path, &first.data);
    let tracker = UdpTracker::start(&[seed.address()]);
    // The announce URL is not part of the info dictionary: both torrent files name one swarm.
    let made = publish(&lab, |spec| spec.announce(tracker.url()));
    let copy = lab.dir("copy");
    let mut ours = CcbtCommand::download(&made.torrent_path, &copy).trackers().start();
    let port = ours.address().port();
    ours.wait_done();
    made.payload.assert_equal_in(&copy);
    let started = tracker.wait_announce("started", |announce| announce.event == STARTED);
    assert_eq!((started.left, started.port), (made.payload.len() as u64, port));
    assert_eq!(started.info_hash, made.torrent.info_hash());
    let completed = tracker.wait_announce("completed", |announce| announce.event == COMPLETED);
    assert_eq!(completed.left, 0);
    tracker.wait_announce("stopped", |announce| announce.event == STOPPED);
}

/// A tracker that misbehaves, then a good one in the next tier: the good one is reached, the bad one's reason is told.
fn survives(bad: &str, reason: &str) {
    let (lab, good) = (Lab::open(), Tracker::start());
    let made = publish(&lab, |spec| spec.announce(bad.to_owned()).tier(bad.to_owned()).tier(good.url()));
    let seed = LibtorrentPeer::start(&made.torrent_path, &made.data);
    good.add_peer(made.torrent.info_hash(), seed.address());
    let copy = lab.dir("copy");
    let mut ours = CcbtCommand::download(&made.torrent_path, &copy).trackers().start();
    let told = ours.wait_event("tracker");
    assert_eq!(told["url"], bad, "the tracker that failed is named");
    let text = told["reason"].as_str().expect("the reason is text");
    assert!(!text.is_empty() && text.contains(reason), "the reason is told: {text:?}");
    ours.wait_done();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn a_tracker_that_refuses_is_passed_over_and_its_reason_is_shown() {
    let bad = Tracker::with_reply(Reply::Failure("unregistered torrent"));
    survives(&bad.url(), "unregistered torrent");
}

#[test]
fn a_tracker_that_answers_500_is_passed_over() {
    let bad = Tracker::with_reply(Reply::Status(500));
    survives(&bad.url(), "500");
}

#[test]
fn a_tracker_that_answers_garbage_is_passed_over() {
    let bad = Tracker::with_reply(Reply::Body(b"<html>not bencode at all</html>"));
    survives(&bad.url(), "");
}

#[test]
fn a_tracker_that_is_down_is_passed_over() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    drop(listener);
    survives(&format!("http://127.0.0.1:{port}/announce"), "");
}

#[test]
fn peers_that_do_not_exist_do_not_keep_the_real_one_away() {
    let (lab, tracker) = (Lab::open(), Tracker::start());
    let made = publish(&lab, |spec| spec.announce(tracker.url()));
    for host in 1..=60 {
        // Nobody listens at these: the connection is refused at once.
        tracker.add_peer(made.torrent.info_hash(), ([127, 0, 3, host], 9).into());
    }
    let seed = LibtorrentPeer::start(&made.torrent_path, &made.data);
    tracker.add_peer(made.torrent.info_hash(), seed.address());
    let copy = lab.dir("copy");
    CcbtCommand::download(&made.torrent_path, &copy).trackers().start().wait_done();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn a_tracker_that_never_answers_does_not_hold_up_the_end() {
    let (lab, silent) = (Lab::open(), Tracker::with_reply(Reply::Silence));
    let made = publish(&lab, |spec| spec.announce(silent.url()));
    let mut seed = CcbtCommand::seed(&made.torrent_path, &made.data).trackers().start();
    seed.wait_ready();
    silent.wait_announce(seed.address().port(), |announce| announce.event == "started");
    seed.stop();
}

/// Torrents of the test with opentracker: half of them by HTTP, half by UDP.
const MANY: usize = 300;

/// What opentracker answers to this path.
fn ask_opentracker(port: u16, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("opentracker runs");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).expect("it listens");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// Whether opentracker knows so many incomplete peers of each torrent.
fn has_leechers(port: u16, made: &[Published], count: usize) -> bool {
    let wanted = format!("10:incompletei{count}e");
    made.iter().all(|made| {
        let escaped: String = made.torrent.info_hash().iter().map(|byte| format!("%{byte:02x}")).collect();
        let answer = ask_opentracker(port, &format!("/scrape?info_hash={escaped}"));
        let known = answer.windows(wanted.len()).any(|window| window == wanted.as_bytes());
        // It forgets torrents without peers.
        known || (count == 0 && !answer.windows(9).any(|window| window == b"10:incomp"))
    })
}

/// Hundreds of torrents announce, are scraped, and say goodbye within the time that there is.
#[test]
fn hundreds_of_torrents_at_opentracker() {
    let lab = Lab::open();
    let port = free_port();
    let made: Vec<Published> = (0..MANY)
        .map(|nth| {
            let scheme = if nth % 2 == 0 { "http" } else { "udp" };
            let spec =
                TorrentSpec::pieces_of(16 * KIB).announce(format!("{scheme}://127.0.0.1:{port}/announce"));
            let payload = Payload::single(&format!("{nth}.bin"), 16 * KIB);
            let torrent = Torrent::of(&payload, &spec);
            let torrent_path = lab.file(&format!("{nth}.torrent"), torrent.bytes());
            Published { data: lab.dir("data"), torrent_path, torrent, payload }
        })
        .collect();
    let hashes: String = made.iter().map(|made| made.torrent.info_hash_hex() + "\n").collect();
    std::fs::write(lab.dir("opentracker").join("hashes"), hashes).expect("the lab is writable");
    let mut command = Command::new("opentracker");
    command.args(["-i", "127.0.0.1", "-p", &port.to_string(), "-P", &port.to_string()]);
    // Started by root it changes its root and becomes another user, who must be able to read the list.
    command.args(["-w", "hashes", "-d"]).arg(lab.dir("opentracker"));
    let _opentracker = Process::start("opentracker", &mut command);
    wait_until(PATIENCE, "opentracker", || TcpStream::connect(("127.0.0.1", port)).ok());
    let adds = made.iter().flat_map(|made| ["--add".into(), made.torrent_path.clone().into_os_string()]);
    let unlimited =
        ["--set", "daemon.active_downloads=unlimited", "--set", "discovery.tracker_connections=4"];
    let daemon = DaemonCommand::new(&lab).trackers().args(unlimited).args(adds).start();
    wait_until(PATIENCE, "answers for all", || {
        (daemon.stat("tracker_answered") >= MANY as u64).then_some(())
    });
    assert_eq!((daemon.stat("tracker_failed"), daemon.stat("tracker_hosts")), (0, 2));
    assert!(has_leechers(port, &made, 1));
    for made in &made[..2] {
        let scrape = daemon.ask(&["scrape", &made.torrent.info_hash_hex()]).remove(0);
        let tracker = &scrape["trackers"][0];
        assert_eq!((&tracker["seeders"], &tracker["leechers"]), (&0.into(), &1.into()), "{scrape}");
    }
    daemon.stop();
    assert!(has_leechers(port, &made, 0), "some have not said goodbye");
}

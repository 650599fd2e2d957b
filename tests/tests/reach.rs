//! What a session is bound to: in network namespaces with two ways out, one of which nothing may take. And how it is
//! reached behind a router that maps ports.
//!
//! Needs root; prints why when it cannot run.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ccbt_tests::binary::ccbt_fast;
use ccbt_tests::ccbt::CcbtCommand;
use ccbt_tests::daemon::DaemonCommand;
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::Payload;
use ccbt_tests::ports::free_port;
use ccbt_tests::process::{run, wait_until};
use ccbt_tests::raw_peer::{RawPeer, id};
use ccbt_tests::router::{INSIDE, OUTSIDE, PUBLIC, Router};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::tracker::{Announce, Tracker};
use ccbt_tests::veth::{FAR, FAR_SIDE, NEAR, NEAR_SIDE, Veth};
use ccbt_tests::{PATIENCE, SOON};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn far_side(port: u16) -> SocketAddr {
    (FAR_SIDE, port).into()
}

fn by_side_alone(command: CcbtCommand) -> CcbtCommand {
    // Nobody answers there; all that is sent is one packet too many.
    let elsewhere = SocketAddr::from((Ipv4Addr::new(198, 51, 100, 1), 7));
    command.peer(far_side(9)).peer(elsewhere).trackers().dht(far_side(7)).flag("--utp")
}

fn publish(lab: &Lab) -> Published {
    let trackers = ["http://10.78.0.2:3/announce", "udp://10.78.0.2:4"].map(str::to_owned);
    let spec =
        TorrentSpec { tiers: trackers.map(|url| vec![url]).to_vec(), ..TorrentSpec::pieces_of(64 * KIB) };
    lab.publish(Payload::single("file", 2 * MIB + 1), spec)
}

fn there(veth: &Veth) -> std::process::Command {
    veth.over_there(ccbt_fast().to_str().expect("a path of ours"))
}

#[test]
fn what_is_bound_to_an_interface_leaves_by_no_other() {
    let veth = match Veth::new() {
        Ok(veth) => veth,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    veth.add_side();
    let lab = Lab::open();
    let made = publish(&lab);
    let mut seed = CcbtCommand::build(there(&veth), "seed", &made.torrent_path, &made.data).bind(FAR).start();
    seed.wait_ready();
    let seeder = SocketAddr::from((FAR, seed.address().port()));
    assert_eq!(veth.left_by_side(), 0);
    // The session is bound, then the torrent alone.
    for (places, own) in [("near", None), ("10.77.0.1", None), ("side,near", Some("near"))] {
        let (copy, before) = (lab.dir(&format!("copy {places}")), veth.left_by_side());
        let mut ours = by_side_alone(CcbtCommand::download(&made.torrent_path, &copy).peer(seeder));
        if let Some(own) = own {
            // The session's own traffic may leave by the other interface: here it has none.
            ours = ours.option("--bind-to", own).option("--set", "discovery.enable_dht=false");
        }
        ours.bound(places, NEAR).start().wait_done();
        made.payload.assert_equal_in(&copy);
        // An address says where packets come from; where they go is a matter of routes.
        assert!(places == "10.77.0.1" || veth.left_by_side() == before, "bound to {places}");
    }
    // The same where nothing is bound shows that this would be seen.
    let before = veth.left_by_side();
    let copy = lab.dir("copy of all");
    by_side_alone(CcbtCommand::download(&made.torrent_path, &copy).peer(seeder))
        .bound("0.0.0.0", NEAR)
        .start()
        .wait_done();
    assert!(veth.left_by_side() > before + 2);
    seed.stop();
}

#[test]
fn an_interface_that_goes_is_missed_and_taken_again_when_it_is_back() {
    let veth = match Veth::new() {
        Ok(veth) => veth,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    veth.add_side();
    let lab = Lab::open();
    let made = publish(&lab);
    let seed = by_side_alone(CcbtCommand::seed(&made.torrent_path, &made.data)).bound("near", NEAR);
    let mut seed = seed.start();
    seed.wait_ready();
    let leech = |name: &str| {
        let copy = lab.dir(name);
        let far = CcbtCommand::build(there(&veth), "download", &made.torrent_path, &copy);
        far.bind(FAR).peer(seed.address()).start().wait_done();
        made.payload.assert_equal_in(&copy);
    };
    leech("before");
    veth.remove_near();
    wait_until(PATIENCE, "words about it", || seed.words().contains("is not there").then_some(()));
    veth.make_near();
    wait_until(PATIENCE, "words about it", || seed.words().contains("is back").then_some(()));
    leech("after");
    assert_eq!(veth.left_by_side(), 0);
    seed.stop();
    // One that is not there yet is waited for.
    veth.remove_near();
    let mut early =
        CcbtCommand::seed(&made.torrent_path, &made.data).bound("near", NEAR).flag("--utp").start();
    early.wait_ready();
    wait_until(PATIENCE, "words about it", || early.words().contains("is not there").then_some(()));
    veth.make_near();
    let copy = lab.dir("late");
    let far = CcbtCommand::build(there(&veth), "download", &made.torrent_path, &copy);
    far.bind(FAR).peer(early.address()).start().wait_done();
    made.payload.assert_equal_in(&copy);
    assert_eq!((veth.left_by_side(), NEAR_SIDE.is_private()), (0, true));
    early.stop();
}

#[test]
fn an_address_that_goes_is_missed_and_trackers_hear_of_it_when_it_is_back() {
    let veth = match Veth::new() {
        Ok(veth) => veth,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let (lab, tracker) = (Lab::open(), Tracker::start());
    let spec = || TorrentSpec::pieces_of(64 * KIB).announce(tracker.url());
    let made = lab.publish(Payload::single("file", 2 * MIB + 1), spec());
    let there = || veth.over_there(ccbt_fast().to_str().expect("a path of ours"));
    let mut far = CcbtCommand::build(there(), "seed", &made.torrent_path, &made.data).bind(FAR).start();
    far.wait_ready();
    let daemon = DaemonCommand::new(&lab).bind(NEAR).trackers().start();
    veth.remove_address();
    daemon.wait_said("the address is not there");
    // Its announce and its peer fail; the next attempts are a while off.
    let seeder = SocketAddr::from((FAR, far.address().port())).to_string();
    let torrent = made.torrent_path.to_str().expect("plain");
    daemon.ask(&["add", torrent, "--peer", &seeder]);
    let hash = made.torrent.info_hash_hex();
    wait_until(PATIENCE, "three failures of its tracker", || {
        let (_, trackers) = daemon.http("GET", &format!("/v1/torrents/{hash}/trackers"), "");
        (trackers["trackers"][0]["failures"].as_u64()? >= 3).then_some(())
    });
    assert!(tracker.announces().is_empty());
    veth.restore_address();
    daemon.wait_said("the address is back");
    // Without having been told, it would ask again after twenty seconds.
    const AT_ONCE: Duration = Duration::from_secs(15);
    let started = |announce: &Announce| announce.event == "started";
    wait_until(AT_ONCE, "its announce", || tracker.announces().iter().any(started).then_some(()));
    daemon.wait_for(&made, "state", "seeding");
    made.payload.assert_equal_in(&lab.dir("out"));
    // And who connects to it is heard.
    let copy = lab.dir("copy");
    let leech = CcbtCommand::build(there(), "download", &made.torrent_path, &copy).bind(FAR);
    far.stop();
    leech.peer(daemon.address()).start().wait_done();
    made.payload.assert_equal_in(&copy);
    daemon.stop();
}

/// A peer in the public network that greets the client at `at`: the port that it tells of (BEP 10).
fn told_port(at: SocketAddr, info_hash: [u8; 20]) -> String {
    let mut peer = RawPeer::try_connect_from(PUBLIC, at).expect("the router forwards it");
    peer.send_handshake_with(info_hash, [0, 0, 0, 0, 0, 0x10, 0, 0]);
    peer.read_handshake().expect("it is our seed");
    let hello = peer.wait_message(id::EXTENDED).expect("a hello").payload;
    let text = String::from_utf8_lossy(&hello).into_owned();
    let port =
        text.split_once("1:pi").and_then(|(_, rest)| rest.split_once('e')).map(|(port, _)| port.to_owned());
    port.unwrap_or_else(|| panic!("no port in {text}"))
}

#[test]
fn a_router_forwards_our_ports_by_each_protocol_and_gets_them_back() {
    let lab = Lab::open();
    let taken = free_port();
    let router = match Router::new(lab.path(), taken) {
        Ok(router) => router,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let made = lab.publish(Payload::single("file", MIB + 1), TorrentSpec::pieces_of(64 * KIB));
    let hash = made.torrent.info_hash();
    let seed = |how: &str, port: u16| {
        let host = router.on_host(ccbt_fast().to_str().expect("a path of ours"));
        let seed =
            CcbtCommand::build(host, "seed", &made.torrent_path, &made.data).bind(INSIDE).listen_at(port);
        let mut seed = seed.option("--port-mapping", how).flag("--utp").start();
        seed.wait_ready();
        seed
    };
    for (how, name) in [("auto", "PCP"), ("nat-pmp", "NAT-PMP"), ("upnp", "UPnP")] {
        let port = free_port();
        let mut seed = seed(how, port);
        wait_until(PATIENCE, "a mapping", || {
            seed.words()
                .contains(&format!("the router forwards our ports ({name}), at {OUTSIDE}, TCP {port}"))
                .then_some(())
        });
        assert_eq!(router.mappings_of(port), 2, "TCP and UDP by {name}");
        let copy = lab.dir(name);
        let leech = CcbtCommand::download(&made.torrent_path, &copy).bind(PUBLIC);
        leech.peer((OUTSIDE, port).into()).start().wait_done();
        made.payload.assert_equal_in(&copy);
        seed.stop();
        assert_eq!(router.mappings_of(port), 0, "taken back by {name}");
    }
    // The router is asked what it would do, and does nothing.
    let mut doctor = router.on_host(ccbt_fast().to_str().expect("a path of ours"));
    let port = free_port();
    let (_, text, _) = run(
        "doctor",
        doctor.args(["doctor", "--router", "--port", &port.to_string()]).current_dir(lab.path()),
        SOON,
    );
    for part in [
        format!("packets leave through 192.168.1.1, from {INSIDE}"),
        format!("the router speaks PCP, NAT-PMP, UPnP; its address is {OUTSIDE}"),
        format!("packets to UDP port {port} arrive"),
    ] {
        assert!(text.contains(&part), "no {part:?} in {text}");
    }
    assert_eq!(router.mappings_of(port), 0);
    // A port that is not to be had: another one is mapped, and told to peers.
    let mut moved = seed("nat-pmp", taken);
    let external = wait_until(PATIENCE, "a mapping", || {
        let words = moved.words();
        let port = words
            .split_once(", TCP ")
            .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
        port?.parse::<u16>().ok()
    });
    assert!(external != taken && router.mappings_of(taken) == 2);
    wait_until(PATIENCE, "the mapped port in a hello", || {
        (told_port((OUTSIDE, external).into(), hash) == external.to_string()).then_some(())
    });
    moved.stop();
    // Off, nothing is asked.
    let mut quiet = seed("off", free_port());
    assert!(!quiet.words().contains("the router"));
    quiet.stop();
}

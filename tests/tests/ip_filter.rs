//! IP filters end to end: whom a list has is neither dialled nor accepted, nor served when a list comes that has it.
//!
//! Loopback has addresses for everybody: the session is at 127.0.0.1, others at 127.0.0.2 and up.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use ccbt_tests::ccbt::CcbtCommand;
use ccbt_tests::daemon::{DaemonCommand, torrent};
use ccbt_tests::lab::Lab;
use ccbt_tests::payload::Payload;
use ccbt_tests::process::wait_until;
use ccbt_tests::raw_peer::RawPeer;
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::web_server::{Answer, WebServer};
use ccbt_tests::{PATIENCE, SOON};
use serde_json::json;

const KIB: usize = 1 << 10;

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, last)
}

/// Whether somebody at 127.0.0.`last` gets a handshake back.
fn is_welcome(peer: &mut RawPeer, info_hash: [u8; 20]) -> bool {
    peer.send_handshake(info_hash);
    peer.read_handshake().is_some()
}

fn knock(last: u8, at: SocketAddr, info_hash: [u8; 20]) -> Option<RawPeer> {
    let mut peer = RawPeer::try_connect_from(ip(last), at).ok()?;
    is_welcome(&mut peer, info_hash).then_some(peer)
}

/// Nobody has connected so far.
fn is_lonely(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).expect("a listener can be non-blocking");
    listener.accept().is_err()
}

#[test]
fn whom_a_list_has_is_neither_dialled_nor_accepted() {
    let lab = Lab::open();
    let list = lab.file("list", b"# a comment\nSome: organisation:127.0.0.2-127.0.0.9\n");
    let made = torrent(&lab, "filtered", 64 * KIB, false);
    let hash = made.torrent.info_hash();
    let mut command = DaemonCommand::new(&lab).args(["--utp", "--ip-filter"]);
    command = command.args([&list]);
    let daemon = command.start();
    daemon.ask(&["add", made.torrent_path.to_str().expect("plain")]);
    daemon.wait_for(&made, "state", "downloading");
    // Two that the user names: only the one that is not in the list is dialled.
    let (filtered, free) = (TcpListener::bind((ip(3), 0)).unwrap(), TcpListener::bind((ip(30), 0)).unwrap());
    let addrs = [&filtered, &free].map(|listener| listener.local_addr().unwrap().to_string());
    let path = format!("/v1/torrents/{}/peers", made.torrent.info_hash_hex());
    assert_eq!(daemon.http("POST", &path, &json!({ "peers": addrs }).to_string()).0, 200);
    let mut dialled = RawPeer::accept(&free);
    dialled.handshake(hash);
    // Two that come: only the one that is not in the list is answered.
    assert!(knock(2, daemon.address(), hash).is_none());
    let mut welcome = knock(20, daemon.address(), hash).expect("the list does not have it");
    // Over uTP (BEP 29) not even the SYN is answered.
    let syn = [0x41, 0, 9, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 16, 0, 0, 0, 1, 0, 0];
    let [quiet, heard] = [4, 40].map(|last| {
        let socket = UdpSocket::bind((ip(last), 0)).unwrap();
        socket.send_to(&syn, daemon.address()).unwrap();
        socket
    });
    heard.set_read_timeout(Some(SOON)).unwrap();
    heard.recv(&mut [0; 64]).expect("an answer to one that the list does not have");
    quiet.set_nonblocking(true).unwrap();
    assert!(quiet.recv(&mut [0; 64]).is_err(), "an answer to one that the list has");
    assert!(is_lonely(&filtered));
    assert_eq!(daemon.stat("ip_filter_ranges"), 1);
    wait_until(SOON, "counted connections", || (daemon.stat("filtered_connections") >= 2).then_some(()));
    // Another list, which is noticed: connections end, others may begin.
    let other = lab.file("other", b"127.0.0.10 - 127.0.0.39 , 100 , x\n127.0.0.2 - 127.0.0.9 , 200 , ok\n");
    std::fs::rename(&other, &list).unwrap();
    dialled.wait_closed(SOON);
    welcome.wait_closed(SOON);
    let mut before = RawPeer::accept(&filtered);
    before.handshake(hash);
    assert!(knock(20, daemon.address(), hash).is_none());
    assert!(knock(2, daemon.address(), hash).is_some());
    // One that is no list changes nothing, and the reason is told.
    std::fs::write(&list, "nonsense\n").unwrap();
    let (code, stdout, stderr) = daemon.run(&["reload-filter"]);
    assert!(code != 0 && stderr.contains("has no range"), "{stdout}{stderr}");
    assert!(knock(20, daemon.address(), hash).is_none());
    std::fs::write(&list, "127.0.0.3\n127.0.0.99/32\nnonsense\n").unwrap();
    let told = daemon.ask(&["reload-filter"]).remove(0);
    assert_eq!((&told["ranges"], &told["bad_lines"]), (&json!(2), &json!(1)));
    before.wait_closed(SOON);
    assert!(knock(20, daemon.address(), hash).is_some());
    daemon.stop();
    let (code, _, stderr) = ccbt_tests::ccbt::ccbt([
        "seed",
        made.torrent_path.to_str().unwrap(),
        "--no-config",
        "--ip-filter",
        lab.path().join("not there").to_str().unwrap(),
    ]);
    assert!(code != 0 && stderr.contains("IP filter"), "a filter that cannot be read: {stderr}");
}

#[test]
fn web_seeds_of_a_list_are_not_asked_before_it_changes() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("file", 300 * KIB), TorrentSpec::pieces_of(64 * KIB));
    let server = WebServer::start(&made.data, Answer::Ranges);
    let list = lab.file("list", b"127.0.0.0/8\n");
    let copy = lab.dir("copy");
    let mut ours = CcbtCommand::download(&made.torrent_path, &copy)
        .option("--web-seed", server.url())
        .option("--ip-filter", &list)
        .start();
    let reason = ours.wait_event("web_seed")["reason"].to_string();
    assert!(reason.contains("IP filter"), "{reason}");
    assert_eq!(server.connections(), 0);
    let other = lab.file("other", b"203.0.113.0/24\n");
    std::fs::rename(&other, &list).unwrap();
    ours.wait_done();
    made.payload.assert_equal_in(&copy);
    wait_until(PATIENCE, "a note", || ours.words().contains("1 ranges from 1 files").then_some(()));
}

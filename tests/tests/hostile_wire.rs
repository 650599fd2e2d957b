//! Peers that break the wire protocol, towards a seed: they are closed or borne, and the next honest peer is served.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};

use ccbt_tests::PATIENCE;
use ccbt_tests::ccbt::{Ccbt, CcbtCommand};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::Payload;
use ccbt_tests::process::wait_until;
use ccbt_tests::raw_peer::{RawPeer, full_bitfield, handshake_bytes, id};
use ccbt_tests::raw_utp::RawUtp;
use ccbt_tests::torrent::TorrentSpec;

const KIB: usize = 1 << 10;
const PIECE: usize = 64 * KIB;
/// Not a multiple of 8, so that a bitfield has spare bits.
const PIECES: usize = 21;

/// A seed under attack.
struct Target {
    // Dropped in this order: the client before its files.
    seed: Ccbt,
    made: Published,
    _lab: Lab,
}

impl Target {
    fn new() -> Self {
        let lab = Lab::open();
        let made =
            lab.publish(Payload::single("target", (PIECES - 1) * PIECE + 77), TorrentSpec::pieces_of(PIECE));
        let mut seed = CcbtCommand::seed(&made.torrent_path, &made.data).start();
        seed.wait_ready();
        Self { seed, made, _lab: lab }
    }

    /// A bare connection from 127.0.4.`last`.
    fn call(&self, last: u8) -> RawPeer {
        RawPeer::try_connect_from(Ipv4Addr::new(127, 0, 4, last), self.seed.address())
            .expect("the seed listens")
    }

    /// A connection through its handshake.
    fn meet(&self, last: u8) -> RawPeer {
        let mut peer = self.call(last);
        peer.handshake(self.made.torrent.info_hash());
        peer
    }

    fn handshake(&self, reserved: [u8; 8], peer_id: &[u8; 20]) -> Vec<u8> {
        handshake_bytes(self.made.torrent.info_hash(), reserved, *peer_id)
    }

    /// Like [`Target::meet`] for a seed whose places are taken: honest peers come again.
    fn meet_at_last(&self, last: u8) -> RawPeer {
        wait_until(PATIENCE, "place for an honest peer", || {
            let mut peer = self.call(last);
            peer.send_handshake(self.made.torrent.info_hash());
            peer.read_handshake().map(|_| peer)
        })
    }

    /// An honest peer is unchoked and gets the right bytes: of the first piece, a middle one and the short last one.
    fn assert_serves(&mut self, last: u8) {
        self.seed.assert_alive();
        let mut peer = self.meet_at_last(last);
        assert!(peer.become_unchoked(), "an honest peer is unchoked");
        let whole = self.made.payload.concatenated();
        for (piece, begin, len) in [(0, 0, 16_384), (9, 32_768, 16_384), (20, 0, 77), (3, 5, 1000)] {
            let at = piece * PIECE + begin;
            let [piece, begin, size] =
                [piece, begin, len].map(|number| u32::try_from(number).expect("small"));
            let block = peer.fetch(piece, begin, size).expect("an honest peer is served");
            assert_eq!(block, whole[at..at + len], "piece {piece} from {begin}");
        }
    }

    /// Each row is sent on a connection of its own after the handshake, which must then close; all others live.
    fn assert_each_closed(&mut self, rows: &[(&str, Vec<u8>)]) {
        for (number, (what, bytes)) in rows.iter().enumerate() {
            eprintln!("sending: {what}");
            let mut peer = self.meet(u8::try_from(number + 10).expect("few rows"));
            peer.send_bytes(bytes);
            peer.wait_closed(PATIENCE);
            self.seed.assert_alive();
        }
        self.assert_serves(1);
    }
}

/// One frame.
fn frame(id: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len() + 1).expect("short").to_be_bytes().to_vec();
    bytes.push(id);
    bytes.extend_from_slice(payload);
    bytes
}

fn words(id: u8, numbers: &[u32]) -> Vec<u8> {
    frame(id, &numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>())
}

#[test]
fn handshakes_that_are_none() {
    let mut target = Target::new();
    let good = target.handshake([0; 8], b"-XX0001-abcdefghijkl");
    let mut protocol = good.clone();
    protocol[5] = b'x';
    let mut length = good.clone();
    length[0] = 18;
    let mut swarm = good.clone();
    swarm[30] ^= 1;
    let rows: [(&str, Vec<u8>); 6] = [
        ("noise", ccbt_tests::payload::noise(1, 500)),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".repeat(4)),
        ("zeros", vec![0; 200]),
        ("another protocol", protocol),
        ("a wrong length byte", length),
        ("another info-hash", swarm),
    ];
    for (number, (what, bytes)) in rows.iter().enumerate() {
        eprintln!("sending: {what}");
        let mut peer = target.call(u8::try_from(number + 10).expect("few rows"));
        peer.send_bytes(bytes);
        peer.wait_closed(PATIENCE);
    }
    target.assert_serves(1);
}

#[test]
fn our_own_peer_id_and_one_that_is_taken() {
    let mut target = Target::new();
    let mut first = target.call(10);
    first.send_bytes(&target.handshake([0; 8], b"-XX0001-the same one"));
    let theirs = first.read_handshake().expect("the seed answers");
    let own: [u8; 20] = theirs[48..68].try_into().expect("20 bytes");
    let mut mirror = target.call(11);
    mirror.send_bytes(&target.handshake([0; 8], &own));
    mirror.wait_closed(PATIENCE);
    let mut twin = target.call(12);
    twin.send_bytes(&target.handshake([0; 8], b"-XX0001-the same one"));
    twin.wait_closed(PATIENCE);
    assert!(first.become_unchoked(), "the first of the twins stays");
    target.assert_serves(1);
}

#[test]
fn one_peer_over_both_families_has_one_connection() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("both", 5 * PIECE), TorrentSpec::pieces_of(PIECE));
    let command = CcbtCommand::seed(&made.torrent_path, &made.data);
    let mut seed = command.bound("127.0.0.1,::1", Ipv4Addr::LOCALHOST).start();
    seed.wait_ready();
    let port = seed.address().port();
    let dial = |host: &str| RawPeer::new(TcpStream::connect((host, port)).expect("the seed listens"));
    for (first, second) in [("::1", "127.0.0.1"), ("127.0.0.1", "::1")] {
        let peer_id = if first == "::1" { *b"-XX0001-the same one" } else { *b"-XX0001-the same two" };
        let hello = handshake_bytes(made.torrent.info_hash(), [0; 8], peer_id);
        let mut one = dial(first);
        one.send_bytes(&hello);
        one.read_handshake().expect("the seed answers");
        let mut other = dial(second);
        other.send_bytes(&hello);
        other.wait_closed(PATIENCE);
        assert!(one.become_unchoked(), "the first one stays");
        assert!(one.fetch(1, 0, 16_384).is_some());
        drop(one);
        // Its place is free once the seed has noticed.
        wait_until(PATIENCE, "the same peer again", || {
            let mut again = dial(second);
            again.send_bytes(&hello);
            (again.read_handshake().is_some() && again.become_unchoked()).then_some(())
        });
    }
}

#[test]
fn one_peer_over_tcp_and_utp_has_one_connection() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("both", 5 * PIECE), TorrentSpec::pieces_of(PIECE));
    let mut seed = CcbtCommand::seed(&made.torrent_path, &made.data).flag("--utp").start();
    seed.wait_ready();
    let hello = |nth: usize| {
        let peer_id = format!("-XX0001-the same {nth:03}");
        handshake_bytes(made.torrent.info_hash(), [0; 8], peer_id.as_bytes().try_into().expect("20 bytes"))
    };
    let from = |last: u8| Ipv4Addr::new(127, 0, 45, last);
    let tcp = || RawPeer::try_connect_from(from(1), seed.address()).expect("the seed listens");
    let utp = || RawUtp::connect(from(2), seed.address());
    let greeted = |utp: &mut RawUtp| utp.read(68).is_some();
    // One that has another name is welcome beside it.
    let (mut one, mut other) = (tcp(), utp());
    one.send_bytes(&hello(1));
    other.send_bytes(&hello(2));
    assert!(one.read_handshake().is_some() && one.become_unchoked());
    assert!(greeted(&mut other) && other.become_unchoked());
    // The first one stays, whichever that is.
    let mut twin = utp();
    twin.send_bytes(&hello(1));
    assert!(!(greeted(&mut twin) && twin.become_unchoked()), "over uTP while there is one over TCP");
    assert!(one.fetch(1, 0, 16_384).is_some());
    let mut twin = tcp();
    twin.send_bytes(&hello(2));
    twin.wait_closed(PATIENCE);
    let block = other.fetch(1, 0, 16_384).expect("what is over uTP goes on");
    assert!(block == made.payload.concatenated()[PIECE..][..16_384]);
    drop((one, other));
    // Both at once: one of them stays.
    for nth in 10..20 {
        let (mut one, mut other) = (tcp(), utp());
        if nth % 2 == 0 {
            one.send_bytes(&hello(nth));
            other.send_bytes(&hello(nth));
        } else {
            other.send_bytes(&hello(nth));
            one.send_bytes(&hello(nth));
        }
        let over_utp = greeted(&mut other) && other.become_unchoked();
        let over_tcp = one.read_handshake().is_some() && one.become_unchoked();
        assert!(over_tcp != over_utp, "over TCP {over_tcp}, over uTP {over_utp}");
    }
    seed.stop();
}

#[test]
fn handshakes_cut_at_every_byte() {
    let mut target = Target::new();
    let good = target.handshake([0xff; 8], b"-XX0001-abcdefghijkl");
    for len in 0..good.len() {
        let mut peer = target.call(10);
        peer.send_bytes(&good[..len]);
    }
    // And in two halves with everything after it in one go: the bitfield behind the handshake is not lost.
    let mut peer = target.call(12);
    peer.send_bytes(&good[..48]);
    let mut rest = target.handshake([0; 8], b"-XX0001-abcdefghijkl")[48..].to_vec();
    rest.extend(frame(id::HAVE, &3u32.to_be_bytes()));
    rest.extend(frame(id::INTERESTED, &[]));
    peer.send_bytes(&rest);
    peer.read_handshake().expect("the seed answers");
    assert!(peer.wait_message(id::UNCHOKE).is_some(), "what came with the handshake is heard");
    target.assert_serves(1);
}

#[test]
fn half_open_connections_are_closed_and_keep_nobody_out() {
    let mut target = Target::new();
    let start = [0x13, b'B', b'i', b't'];
    let mut crowd: Vec<RawPeer> = Vec::new();
    for number in 0..240 {
        let Ok(mut peer) =
            RawPeer::try_connect_from(Ipv4Addr::new(127, 0, 5, number % 120 + 1), target.seed.address())
        else {
            continue;
        };
        peer.send_bytes(&start[..usize::from(number % 5)]);
        crowd.push(peer);
    }
    assert!(!crowd.is_empty(), "the seed takes connections");
    target.assert_serves(1);
    crowd.iter_mut().for_each(|peer| peer.wait_closed(PATIENCE));
    target.assert_serves(2);
}

#[test]
fn frames_that_are_too_long_or_do_not_fit_their_id() {
    let rows = [
        ("a frame of 2^32-1 bytes", vec![0xff; 4]),
        ("a frame of 2^32-1 bytes and some of it", vec![0xff; 4000]),
        ("an extension message of 10 MB", [&10_000_000u32.to_be_bytes()[..], &[id::EXTENDED, 0]].concat()),
        ("a block of 1 MiB", [&((1 << 20) + 9u32).to_be_bytes()[..], &[id::PIECE]].concat()),
        ("a PIECE too short for its header", frame(id::PIECE, &[0; 7])),
        ("CHOKE with a payload", frame(id::CHOKE, &[1])),
        ("HAVE of 3 bytes", frame(id::HAVE, &[0; 3])),
        ("HAVE of 5 bytes", frame(id::HAVE, &[0; 5])),
        ("REQUEST of 11 bytes", frame(id::REQUEST, &[0; 11])),
        ("CANCEL of 13 bytes", frame(id::CANCEL, &[0; 13])),
    ];
    Target::new().assert_each_closed(&rows);
}

#[test]
fn bitfields_that_do_not_fit() {
    let full = full_bitfield(PIECES);
    let mut spare = full.clone();
    spare[2] |= 1;
    let late = [words(id::HAVE, &[1]), frame(id::BITFIELD, &[0; 3])].concat();
    let twice = [frame(id::BITFIELD, &full), frame(id::BITFIELD, &[0; 3])].concat();
    let rows = [
        ("a bitfield that is too short", frame(id::BITFIELD, &full[..2])),
        ("a bitfield that is too long", frame(id::BITFIELD, &[0; 4])),
        ("an empty bitfield", frame(id::BITFIELD, &[])),
        ("spare bits", frame(id::BITFIELD, &spare)),
        ("a late bitfield that takes a piece back", late),
        ("a second bitfield that takes everything back", twice),
        ("HAVE ALL without BEP 6", frame(id::HAVE_ALL, &[])),
    ];
    Target::new().assert_each_closed(&rows);
}

#[test]
fn numbers_out_of_range() {
    let rows = [
        ("HAVE of the piece after the last", words(id::HAVE, &[21])),
        ("HAVE of piece 2^32-1", words(id::HAVE, &[u32::MAX])),
        ("a request for the piece after the last", words(id::REQUEST, &[21, 0, 16_384])),
        ("a request for piece 2^32-1", words(id::REQUEST, &[u32::MAX, 0, 16_384])),
        ("a request from beyond the piece", words(id::REQUEST, &[0, 65_536, 16_384])),
        ("a request across the piece's end", words(id::REQUEST, &[0, 65_535, 2])),
        ("a request across the payload's end", words(id::REQUEST, &[20, 0, 78])),
        ("a request that overflows", words(id::REQUEST, &[0, u32::MAX, u32::MAX])),
        ("a request for nothing", words(id::REQUEST, &[0, 0, 0])),
        ("a request for more than 128 KiB", words(id::REQUEST, &[0, 0, (128 << 10) + 1])),
        ("a cancel out of range", words(id::CANCEL, &[21, 0, 16_384])),
        ("a reject without BEP 6", words(id::REJECT, &[0, 0, 16_384])),
    ];
    Target::new().assert_each_closed(&rows);
}

#[test]
fn a_protocol_fault_is_reported() {
    let mut target = Target::new();
    let mut peer = target.meet(10);
    peer.send_bytes(&[0xff; 4]);
    peer.wait_closed(PATIENCE);
    let fault = target.seed.wait_event("peer_fault");
    let addr = fault["addr"].as_str().expect("the address is text");
    assert!(addr.starts_with("127.0.4.10"), "the peer is named: {fault}");
    assert!(fault["fault"].as_str().is_some_and(|text| !text.is_empty()), "the fault is told: {fault}");
}

#[test]
fn floods_of_keep_alives_unknown_messages_and_repeated_haves() {
    let mut target = Target::new();
    let floods = [
        vec![0; 4 * 200_000],
        frame(99, b"whatever").repeat(20_000),
        words(id::HAVE, &[1]).repeat(20_000),
        frame(id::INTERESTED, &[]).repeat(20_000),
        [frame(id::INTERESTED, &[]), frame(id::NOT_INTERESTED, &[])].concat().repeat(10_000),
        words(id::CANCEL, &[1, 0, 16_384]).repeat(20_000),
    ];
    let mut crowd = Vec::new();
    for (number, flood) in floods.iter().enumerate() {
        let mut peer = target.meet(u8::try_from(number + 10).expect("few rows"));
        // Borne or closed: either is right, as long as others are served meanwhile.
        peer.send_bytes(flood);
        crowd.push(peer);
        target.assert_serves(1);
    }
}

#[test]
fn a_request_flood_that_never_reads_its_socket() {
    let mut target = Target::new();
    let mut peer = target.meet(10);
    assert!(peer.become_unchoked());
    let socket = peer.socket().expect("a socket can be cloned");
    socket.set_nonblocking(true).expect("a socket can be non-blocking");
    let requests = words(id::REQUEST, &[0, 0, 16_384]).repeat(1000);
    // 100 times that is 100,000 requests and 1.6 GB of answers; the seed may stop reading, or hang up.
    for _ in 0..100 {
        if (&socket).write_all(&requests).is_err() {
            break;
        }
    }
    target.assert_serves(1);
    let peak = target.seed.peak_memory_bytes().expect("the seed runs");
    assert!(peak < 1 << 30, "the answers are not piled up in memory: {peak} bytes");
}

#[test]
fn extension_handshakes_with_anything_in_them() {
    let mut target = Target::new();
    let deep = [vec![b'd'], b"1:m".to_vec(), vec![b'l'; 5000], vec![b'e'; 5000], vec![b'e']].concat();
    let bodies: [&[u8]; 9] = [
        b"",
        b"not bencode",
        b"i5e",
        b"d4:reqqi0ee",
        b"d4:reqqi-1ee",
        b"d4:reqqi99999999999999999999ee",
        b"d1:md11:ut_metadatai-7e6:ut_pexi999eee",
        b"d1:mi1e1:p5:aaaaa6:yourip3:abc1:vli1eee",
        &deep,
    ];
    for (number, body) in bodies.iter().enumerate() {
        let mut peer = target.call(u8::try_from(number + 10).expect("few rows"));
        let peer_id = format!("-XX0001-{number:012}");
        let peer_id = peer_id.as_bytes().try_into().expect("20 bytes");
        peer.send_bytes(&target.handshake([0, 0, 0, 0, 0, 0x10, 0, 0], peer_id));
        peer.read_handshake().expect("the seed answers");
        peer.send(id::EXTENDED, &[&[0], *body].concat());
        peer.send(id::EXTENDED, &[&[7], *body].concat());
    }
    target.assert_serves(1);
}

#[test]
fn connections_that_end_at_every_byte_of_a_conversation() {
    let mut target = Target::new();
    let talk = [
        target.handshake([0; 8], b"-XX0001-abcdefghijkl"),
        frame(id::BITFIELD, &[0; 3]),
        frame(id::INTERESTED, &[]),
        words(id::REQUEST, &[2, 0, 16_384]),
        words(id::REQUEST, &[20, 0, 77]),
        words(id::CANCEL, &[2, 0, 16_384]),
    ]
    .concat();
    for len in 68..=talk.len() {
        let mut peer = target.call(10);
        peer.send_bytes(&talk[..len]);
        if len % 2 == 0 {
            // Half of them with a reset: unread bytes are in the socket when it closes.
            peer.read_handshake();
        }
    }
    target.assert_serves(1);
}

#[test]
fn hundreds_of_connections_from_one_address_and_from_many() {
    let mut target = Target::new();
    let mut held = Vec::new();
    for number in 0..300u16 {
        let low = u8::try_from(number % 250 + 1).expect("it is at most 250");
        for from in [Ipv4Addr::new(127, 0, 6, 1), Ipv4Addr::new(127, 0, 7, low)] {
            // Refusing some of them is right.
            if let Ok(mut peer) = RawPeer::try_connect_from(from, target.seed.address()) {
                peer.send_handshake(target.made.torrent.info_hash());
                held.push(peer);
            }
        }
    }
    target.seed.assert_alive();
    held.clear();
    target.assert_serves(1);
}

#[test]
fn a_connection_reset_right_after_the_accept() {
    let mut target = Target::new();
    for _ in 0..300 {
        drop(TcpStream::connect(target.seed.address()));
    }
    target.assert_serves(1);
}

//! Metadata for others, and peers from peers (BEP 9, 11, 27).

use std::net::SocketAddr;
use std::sync::Arc;

use super::*;
use crate::metadata::{self, MetadataMessage};
use crate::pex::{self, Flags, PexMessage};
use crate::wire::extension::{ExtensionHandshake, UT_METADATA, UT_PEX};

const PEX_ID: u8 = 33;
const METADATA_ID: u8 = 44;

fn torrent(now: Instant, metadata: Option<&[u8]>, private: bool) -> Torrent {
    with_pieces(now, metadata, private, Bitfield::empty(4))
}

fn with_pieces(now: Instant, metadata: Option<&[u8]>, private: bool, have: Bitfield) -> Torrent {
    let geometry = Geometry::new(1 << 20, 1 << 18).expect("sane sizes");
    let config = TorrentConfig { metadata: metadata.map(Arc::from), pex: !private, ..swarm::config() };
    Torrent::new(now, InfoHash([1; 20]), PeerId([9; 20]), geometry, config, have)
}

fn addr(n: u8) -> SocketAddr {
    SocketAddr::new([8, 8, 8, n].into(), 1000 + u16::from(n))
}

fn join(torrent: &mut Torrent, now: Instant, n: u8, incoming: bool) -> PeerKey {
    let info = PeerInfo { addr: addr(n), id: PeerId([n; 20]), reserved: swarm::FAST, incoming };
    torrent.connected(now, info)
}

fn hello(torrent: &mut Torrent, now: Instant, key: PeerKey, port: Option<u16>) {
    let messages = vec![(metadata::NAME.to_owned(), METADATA_ID), (pex::NAME.to_owned(), PEX_ID)];
    let hello = ExtensionHandshake { port, messages, ..ExtensionHandshake::default() }.encode();
    torrent.message(now, key, Message::Extended { id: 0, payload: &hello }).expect("a good handshake");
}

/// The extension messages among what waits to be sent: id and payload.
fn said(torrent: &mut Torrent, now: Instant, key: PeerKey) -> Vec<(u8, Vec<u8>)> {
    let bytes = std::mem::take(torrent.out(now, key));
    let mut rest = &bytes[..];
    let mut found = Vec::new();
    while let [a, b, c, d, tail @ ..] = rest {
        let (body, after) = tail.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        if let [20, id, payload @ ..] = body {
            found.push((*id, payload.to_vec()));
        }
        rest = after;
    }
    found
}

fn told(said: &[(u8, Vec<u8>)]) -> Option<PexMessage> {
    let (_, payload) = said.iter().find(|(id, _)| *id == PEX_ID)?;
    Some(PexMessage::parse(payload).expect("our own"))
}

#[test]
fn metadata_is_told_and_served_within_bounds() {
    let (now, info) = (Instant::now(), vec![7; 40_000]);
    let mut torrent = torrent(now, Some(&info), false);
    let key = join(&mut torrent, now, 1, false);
    let first = said(&mut torrent, now, key);
    let ours = ExtensionHandshake::parse(&first[0].1).expect("our own");
    assert_eq!(ours.metadata_size, Some(40_000));
    assert_eq!((ours.id_of(metadata::NAME), ours.id_of(pex::NAME)), (Some(UT_METADATA), Some(UT_PEX)));
    let ask = |torrent: &mut Torrent, piece| {
        let payload = MetadataMessage::Request(piece).encode();
        torrent.message(now, key, Message::Extended { id: UT_METADATA, payload: &payload })
    };
    ask(&mut torrent, 0).expect("odd: it has named no id, so it is told nothing");
    assert_eq!(said(&mut torrent, now, key), []);
    hello(&mut torrent, now, key, None);
    for piece in [2, 0, 3] {
        ask(&mut torrent, piece).expect("tolerable");
    }
    // What is past the end is rejected at once; pieces come one for each send.
    let rejected = said(&mut torrent, now, key);
    assert_eq!(rejected, [(METADATA_ID, MetadataMessage::Reject(3).encode())]);
    for piece in [2, 0] {
        let bytes = &info[..metadata::piece_len(40_000, piece) as usize];
        let data = MetadataMessage::Data { piece, total_size: Some(40_000), bytes };
        assert_eq!(said(&mut torrent, now, key), [(METADATA_ID, data.encode())]);
    }
    // Endless requests are rejected, and then end the connection.
    let faults = (0..1000).filter(|_| ask(&mut torrent, 0).is_err()).count();
    assert!(faults > 0);
    let mut pieces = 0;
    while !said(&mut torrent, now, key).is_empty() {
        pieces += 1;
    }
    assert!(pieces < 50, "{pieces} pieces for a flood");
}

#[test]
fn peers_hear_of_each_other_once_a_minute() {
    let mut now = Instant::now();
    let mut rng = TestRng::seed_from_u64(1);
    let mut torrent = torrent(now, None, false);
    let one = join(&mut torrent, now, 1, false);
    hello(&mut torrent, now, one, None);
    torrent.tick(now, &mut rng);
    assert_eq!(told(&said(&mut torrent, now, one)), None, "nobody else is there");
    let two = join(&mut torrent, now, 2, true);
    assert!(torrent.next_tick(now).is_some_and(|at| at <= now));
    torrent.tick(now, &mut rng);
    assert_eq!(told(&said(&mut torrent, now, one)), None, "nobody knows where it listens");
    hello(&mut torrent, now, two, Some(77));
    torrent.tick(now, &mut rng);
    let of_two = SocketAddr::new(addr(2).ip(), 77);
    let heard = told(&said(&mut torrent, now, one)).expect("at once");
    assert_eq!(heard.added, [(of_two, Flags::default())]);
    let heard = told(&said(&mut torrent, now, two)).expect("at once");
    assert_eq!(heard.added, [(addr(1), Flags::REACHABLE)]);
    let three = join(&mut torrent, now, 3, false);
    torrent.gone(two);
    for _ in 0..59 {
        now += Duration::from_secs(1);
        torrent.tick(now, &mut rng);
        assert_eq!(told(&said(&mut torrent, now, one)), None);
        torrent.message(now, three, Message::KeepAlive).expect("alive");
    }
    now += Duration::from_secs(1);
    assert!(torrent.next_tick(now).is_some_and(|at| at <= now), "it is due by itself");
    torrent.tick(now, &mut rng);
    let heard = told(&said(&mut torrent, now, one)).expect("a minute is over");
    assert_eq!((heard.added, heard.dropped), (vec![(addr(3), Flags::REACHABLE)], vec![of_two]));
}

#[test]
fn what_peers_tell_is_passed_on_and_private_torrents_neither_tell_nor_listen() {
    let now = Instant::now();
    let payload = PexMessage { added: vec![(addr(9), Flags::SEED)], dropped: Vec::new() }.encode();
    let message = Message::Extended { id: UT_PEX, payload: &payload };
    for private in [false, true] {
        let mut torrent = torrent(now, Some(&[1; 10]), private);
        let (one, two) = (join(&mut torrent, now, 1, false), join(&mut torrent, now, 2, false));
        for key in [one, two] {
            let first = said(&mut torrent, now, key);
            let ours = ExtensionHandshake::parse(&first[0].1).expect("our own");
            assert_eq!(ours.id_of(pex::NAME).is_some(), !private);
            assert!(ours.id_of(metadata::NAME).is_some());
            hello(&mut torrent, now, key, None);
        }
        torrent.message(now, one, message).expect("harmless");
        torrent.tick(now, &mut TestRng::seed_from_u64(1));
        assert_eq!(told(&said(&mut torrent, now, one)).is_some(), !private);
        let events: Vec<_> = std::iter::from_fn(|| torrent.poll_event()).collect();
        let expected = if private { vec![] } else { vec![TorrentEvent::Peers(vec![addr(9)])] };
        assert_eq!(events, expected);
    }
}

#[test]
fn a_connection_that_fetched_metadata_is_told_pieces_one_by_one() {
    let now = Instant::now();
    let mut some = Bitfield::empty(4);
    some.insert(PieceIndex(2));
    let mut torrent = with_pieces(now, Some(&[1; 10]), false, some);
    let info = PeerInfo { addr: addr(1), id: PeerId([1; 20]), reserved: swarm::FAST, incoming: false };
    let key = torrent.adopted(now, info);
    let mut have = Vec::new();
    Message::Have(PieceIndex(2)).encode(&mut have);
    assert!(torrent.out(now, key).starts_with(&have), "no bitfield: its turn is over");
}

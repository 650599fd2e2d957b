//! Super-seeding in a swarm, and what it saves.

use super::*;
use crate::ids::PieceIndex;

const LEECHES: usize = 8;
const PIECES: u32 = 60;

fn new_swarm(seed: u64, super_seeding: bool) -> (Swarm, usize) {
    let mut swarm = Swarm::new(seed, PIECES);
    let from = swarm.node(TorrentConfig { super_seeding, ..config() }, Manner::Honest, |_| true);
    (0..LEECHES).for_each(|_| _ = swarm.leech());
    swarm.uploads = 1;
    swarm.mesh(FAST);
    (swarm, from)
}

/// Whether the leeches together have everything.
fn has_copy(swarm: &Swarm) -> bool {
    let has = |piece: PieceIndex| swarm.nodes[1..].iter().any(|node| node.torrent.picker().have().has(piece));
    swarm.geometry.pieces().all(has)
}

/// Bytes that the seed has sent until a first copy lay in the swarm, in percent of the torrent.
fn cost_of_a_copy(seed: u64, super_seeding: bool) -> u64 {
    let (mut swarm, from) = new_swarm(seed, super_seeding);
    assert!(swarm.run(20 * MS, 20_000, has_copy), "a copy (seed {seed})");
    let cost = swarm.nodes[from].torrent.stats().uploaded * 100 / swarm.geometry.total_len();
    assert!(
        swarm.run(20 * MS, 20_000, |swarm| swarm.nodes[1..].iter().all(|node| node.torrent.is_finished()))
    );
    (1..=LEECHES).for_each(|node| swarm.assert_complete(node));
    cost
}

#[test]
fn a_first_copy_costs_little_more_than_its_bytes() {
    let median = |super_seeding: bool| {
        let mut costs: Vec<u64> = (1..=5).map(|seed| cost_of_a_copy(seed, super_seeding)).collect();
        costs.sort_unstable();
        costs[2]
    };
    let (normal, super_seeding) = (median(false), median(true));
    println!("bytes sent until a first copy is there: {normal} % normal, {super_seeding} % super-seeding");
    assert!(super_seeding <= 115, "{super_seeding} %");
    assert!(super_seeding < normal, "{super_seeding} % and {normal} %");
}

#[test]
fn peers_without_extensions_and_a_peer_alone_get_everything() {
    for (reserved, leeches) in [(crate::wire::Reserved::NONE, 3), (FAST, 1), (crate::wire::Reserved::NONE, 1)]
    {
        let mut swarm = Swarm::new(9, 20);
        let from = swarm.node(TorrentConfig { super_seeding: true, ..config() }, Manner::Honest, |_| true);
        (0..leeches).for_each(|_| _ = swarm.leech());
        swarm.mesh(reserved);
        let done = |swarm: &Swarm| swarm.nodes[1..].iter().all(|node| node.torrent.is_finished());
        assert!(swarm.run(20 * MS, 20_000, done), "{leeches}");
        assert!(swarm.faults_of(from).iter().all(|fault| *fault == PeerFault::Done), "{:?}", swarm.faults);
    }
}

/// Neighbours that do not know each other: nobody can pass anything on, and patience has to end.
#[test]
fn peers_out_of_each_others_reach_are_served_in_the_end() {
    let mut swarm = Swarm::new(4, 6);
    let from = swarm.node(TorrentConfig { super_seeding: true, ..config() }, Manner::Honest, |_| true);
    for _ in 0..2 {
        let to = swarm.leech();
        swarm.connect(to, from, FAST);
    }
    let done = |swarm: &Swarm| swarm.nodes[1..].iter().all(|node| node.torrent.is_finished());
    assert!(swarm.run(500 * MS, 2000, done));
}

#[test]
fn what_was_not_shown_is_not_served() {
    let now = Instant::now();
    let mut rng = TestRng::seed_from_u64(1);
    let geometry = Geometry::new(10 * 16_384, 16_384).unwrap();
    let config = TorrentConfig { super_seeding: true, ..config() };
    let mut torrent =
        Torrent::new(now, InfoHash([1; 20]), PeerId([2; 20]), geometry, config, Bitfield::full(10));
    assert!(torrent.is_super_seeding());
    let info = PeerInfo {
        addr: "192.0.2.1:5".parse().unwrap(),
        id: PeerId([3; 20]),
        reserved: FAST,
        incoming: true,
    };
    let key = torrent.connected(now, info);
    torrent.message(now, key, Message::HaveNone).unwrap();
    torrent.reveal(now, &mut rng);
    torrent.message(now, key, Message::Interested).unwrap();
    torrent.choke_round(now, &mut rng);
    let shown = geometry.pieces().filter(|piece| torrent.super_seed.as_ref().unwrap().is_shown(key, *piece));
    let shown: Vec<PieceIndex> = shown.collect();
    assert_eq!(shown.len(), crate::superseed::SHOWN_MAX);
    let hidden = geometry.pieces().find(|piece| !shown.contains(piece)).unwrap();
    torrent.message(now, key, Message::Request(geometry.block(hidden, 0))).unwrap();
    assert_eq!(torrent.next_upload(key), None);
    torrent.message(now, key, Message::Request(geometry.block(shown[0], 0))).unwrap();
    assert_eq!(torrent.next_upload(key), Some(geometry.block(shown[0], 0)));
    // One that lacks something is no seed that could hide it.
    let mut have = Bitfield::full(10);
    have.remove(PieceIndex(4));
    let config = TorrentConfig { super_seeding: true, ..swarm::config() };
    let partial = Torrent::new(now, InfoHash([1; 20]), PeerId([2; 20]), geometry, config, have);
    assert!(!partial.is_super_seeding());
}

//! Urgent pieces in a swarm: they come first, slow peers do not hold them up, and everything still arrives.

use super::*;
use crate::ids::PieceIndex;
use crate::picker::Priority;

#[test]
fn what_is_urgent_comes_before_the_rest() {
    let mut swarm = Swarm::new(5, 40);
    let from = swarm.seed(Manner::Honest);
    let to = swarm.leech();
    swarm.connect(to, from, FAST);
    let urgent: Vec<PieceIndex> = [30, 39, 31, 32, 33].map(PieceIndex).to_vec();
    let now = swarm.now;
    swarm.nodes[to].torrent.set_urgent(now, urgent.clone());
    let has_urgent =
        |swarm: &Swarm| urgent.iter().all(|piece| swarm.nodes[1].torrent.picker().have().has(*piece));
    assert!(swarm.run(10 * MS, 2000, has_urgent));
    let have = swarm.nodes[to].torrent.picker().have().count();
    // Those that were begun beside them: there is memory for eight.
    assert!(have <= 5 + 8, "{have} pieces are there");
    assert!(swarm.run(10 * MS, 4000, |swarm| swarm.nodes[1].torrent.is_finished()));
    swarm.assert_complete(to);
}

/// The order in which connections are filled decides who is asked for what is needed first.
#[test]
fn the_best_peers_are_asked_first_for_what_is_urgent() {
    let mut swarm = Swarm::new(9, 40);
    let seeds = [(); 3].map(|()| swarm.seed(Manner::Honest));
    let to = swarm.leech();
    let keys = seeds.map(|seed| {
        let conn = swarm.connect(to, seed, FAST);
        swarm.keys(conn)[0]
    });
    let wants = |swarm: &Swarm| keys.iter().all(|key| swarm.nodes[to].torrent.peer(*key).am_interested);
    assert!(swarm.run(MS, 1000, wants));
    let now = swarm.now;
    let torrent = &mut swarm.nodes[to].torrent;
    for (key, blocks, connect_failures) in [(keys[0], 0, 1), (keys[1], 9, 0), (keys[2], 900, 0)] {
        torrent.recall(key, crate::score::Record { blocks, connect_failures, ..Default::default() });
    }
    let mut order = Vec::new();
    torrent.take_dirty(&mut order);
    order.clear();
    torrent.set_urgent(now, vec![PieceIndex(7)]);
    torrent.take_dirty(&mut order);
    assert_eq!(order, [keys[2], keys[1], keys[0]]);
}

/// A peer takes requests for what is needed next and never answers: others are asked for the same long before its
/// requests time out.
#[test]
fn a_late_block_is_asked_of_another_peer_too() {
    let mut swarm = Swarm::new(6, 12);
    let snub = swarm.seed(Manner::Snub);
    let honest = swarm.seed(Manner::Honest);
    let to = swarm.leech();
    swarm.connect(to, snub, FAST);
    let now = swarm.now;
    swarm.nodes[to].torrent.set_urgent(now, vec![PieceIndex(3)]);
    // The snub alone is connected at first, and so it is asked for piece 3.
    let is_asked = |swarm: &Swarm| {
        let torrent = &swarm.nodes[2].torrent;
        torrent.picker().requesters(torrent.geometry().block(PieceIndex(3), 0)) == 1
    };
    assert!(swarm.run(20 * MS, 500, is_asked));
    swarm.connect(to, honest, FAST);
    let start = swarm.now;
    let is_there = |swarm: &Swarm| swarm.nodes[2].torrent.picker().have().has(PieceIndex(3));
    assert!(swarm.run(20 * MS, 2000, is_there));
    let took = swarm.now - start;
    assert!(took < Duration::from_secs(5), "{took:?} of the swarm's own clock");
}

#[test]
fn windows_that_jump_about_lose_nothing() {
    for seed in 0..8 {
        let mut swarm = Swarm::new(seed, 30);
        for manner in [Manner::Honest, Manner::Honest, Manner::Snub] {
            swarm.seed(manner);
        }
        let to = swarm.leech();
        swarm.leech();
        swarm.mesh(FAST);
        for _ in 0..200 {
            let first = swarm.roll(30);
            let (now, window) = (swarm.now, (first..(first + 5).min(30)).map(PieceIndex).collect());
            swarm.nodes[to].torrent.set_urgent(now, window);
            swarm.step(30 * MS);
        }
        let now = swarm.now;
        swarm.nodes[to].torrent.set_urgent(now, Vec::new());
        assert!(swarm.run(100 * MS, 5000, |swarm| swarm.nodes[3].torrent.is_finished()), "seed {seed}");
        swarm.assert_complete(to);
    }
}

/// One that wanted nothing has told its peers so (BEP 21); when it wants something after all, they hear of that too.
#[test]
fn one_that_wants_something_after_all_is_served() {
    let mut swarm = Swarm::new(8, 10);
    let from = swarm.seed(Manner::Honest);
    let to = swarm.leech();
    let geometry = swarm.geometry;
    let set = |swarm: &mut Swarm, priority| {
        let torrent = &mut swarm.nodes[to].torrent;
        geometry.pieces().for_each(|piece| torrent.picker_mut().set_priority(piece, priority));
        torrent.priorities_changed();
    };
    set(&mut swarm, Priority::Skip);
    swarm.connect(to, from, FAST);
    assert!(!swarm.run(100 * MS, 300, |swarm| swarm.nodes[1].torrent.picker().have().count() > 0));
    assert!(swarm.nodes[to].torrent.is_finished());
    swarm.nodes[to].finished = false;
    set(&mut swarm, Priority::Normal);
    assert!(swarm.run(100 * MS, 1000, |swarm| swarm.nodes[1].torrent.is_finished()));
    swarm.assert_complete(to);
}

//! A torrent that is spread over several shards, in a swarm of the torrent tests: every shard is a node there.

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::picker::PieceState;
use crate::torrent::Torrent;
use crate::torrent::tests::swarm::{FAST, Manner, Swarm, config};

const MS: Duration = Duration::from_millis(1);

struct Spread {
    swarm: Swarm,
    home: usize,
    lender: Lender,
    /// Node and state of each satellite; its index is its shard's number.
    satellites: Vec<Option<(usize, Borrower)>>,
    down: Vec<VecDeque<ToSatellite>>,
    up: Vec<VecDeque<FromSatellite>>,
    messages: u64,
    steps: u64,
    parts: usize,
}

impl Spread {
    fn new(seed: u64, pieces: u32, satellites: usize) -> Self {
        let mut swarm = Swarm::new(seed, pieces);
        let home = swarm.leech();
        let mut this = Self {
            lender: Lender::new(swarm.now),
            swarm,
            home,
            satellites: Vec::new(),
            down: Vec::new(),
            up: Vec::new(),
            messages: 0,
            steps: 0,
            parts: satellites + 1,
        };
        (0..satellites).for_each(|_| this.join());
        this
    }

    fn home(&mut self) -> (&mut Lender, &mut Torrent) {
        (&mut self.lender, &mut self.swarm.nodes[self.home].torrent)
    }

    fn join(&mut self) {
        let shard = self.satellites.len();
        let (lender, torrent) = self.home();
        lender.join(torrent, shard);
        let have = torrent.picker().have().clone();
        let node = self.swarm.leech();
        let geometry = self.swarm.geometry;
        let (now, hash) = (self.swarm.now, self.swarm.nodes[self.home].torrent.info_hash());
        let id = crate::ids::PeerId([node as u8; 20]);
        let torrent = Torrent::new_satellite(now, hash, id, geometry, config(), have);
        self.swarm.nodes[node].torrent = torrent;
        let disk = self.swarm.nodes[self.home].disk.clone();
        self.swarm.nodes[node].disk = disk;
        self.satellites.push(Some((node, Borrower::new(now, self.parts))));
        self.down.push(VecDeque::new());
        self.up.push(VecDeque::new());
    }

    /// The satellite stops at once, whatever it is doing; its connections are gone already.
    fn leave(&mut self, shard: usize) {
        let Some((node, mut borrower)) = self.satellites[shard].take() else { return };
        let now = self.swarm.now;
        let last: Vec<_> = borrower.close(now, &mut self.swarm.nodes[node].torrent).collect();
        self.up[shard].extend(last);
        while let Some(message) = self.up[shard].pop_front() {
            let (lender, torrent) = self.home();
            lender.receive(torrent, shard, message);
        }
        self.down[shard].clear();
        let (lender, torrent) = self.home();
        lender.leave(torrent, shard);
        self.share_disks();
    }

    fn nodes(&self) -> Vec<usize> {
        let satellites = self.satellites.iter().flatten().map(|(node, _)| *node);
        std::iter::once(self.home).chain(satellites).collect()
    }

    /// All shards write to the same files.
    fn share_disks(&mut self) {
        for to in self.nodes() {
            let pieces = self.swarm.nodes[to].torrent.picker().have().clone();
            for piece in pieces
                .iter()
                .filter(|piece| !self.swarm.nodes[to].disk.contains_key(piece))
                .collect::<Vec<_>>()
            {
                let bytes = self.swarm.nodes.iter().find_map(|node| node.disk.get(&piece)).cloned();
                self.swarm.nodes[to].disk.insert(piece, bytes.expect("what is ours is on disk"));
            }
        }
    }

    /// Messages travel for a while, in order.
    fn step(&mut self) {
        self.share_disks();
        self.swarm.step(10 * MS);
        let now = self.swarm.now;
        self.steps += 1;
        let second = self.steps.is_multiple_of(100);
        for shard in 0..self.satellites.len() {
            for _ in 0..self.swarm.roll(4) {
                if let Some(message) = self.up[shard].pop_front() {
                    let (lender, torrent) = self.home();
                    lender.receive(torrent, shard, message);
                }
            }
            let Some((node, borrower)) = &mut self.satellites[shard] else { continue };
            let node = &mut self.swarm.nodes[*node];
            for message in self.down[shard].drain(..) {
                borrower.receive(now, &mut node.torrent, message);
            }
            if second {
                if borrower.is_stalled(now) {
                    node.abandon_idle();
                    node.torrent.rest_useless(now);
                }
                borrower.tick(now, &mut node.torrent);
            }
            borrower.settle(now, &mut node.torrent);
            let out: Vec<_> = borrower.outgoing().collect();
            self.messages += out.len() as u64;
            self.up[shard].extend(out);
        }
        if second && self.lender.is_home_in_the_way(now, &self.swarm.nodes[self.home].torrent) {
            self.swarm.nodes[self.home].abandon_idle();
            self.swarm.nodes[self.home].torrent.rest_useless(now);
        }
        let torrent = &mut self.swarm.nodes[self.home].torrent;
        self.lender.settle(now, torrent, &mut self.swarm.rng);
        let out: Vec<_> = self.lender.outgoing().collect();
        self.messages += out.len() as u64;
        out.into_iter().for_each(|(shard, message)| self.down[shard].push_back(message));
        self.check();
    }

    fn check(&self) {
        self.lender.check(&self.swarm.nodes[self.home].torrent);
        for piece in self.swarm.geometry.pieces() {
            let fetching = |node: &usize| {
                let state = self.swarm.nodes[*node].torrent.picker().state(piece);
                !matches!(state, PieceState::Elsewhere | PieceState::Have)
            };
            assert!(
                self.nodes().iter().filter(|node| fetching(node)).count() <= 1,
                "{piece} is fetched twice"
            );
        }
    }

    fn is_finished(&self) -> bool {
        self.nodes().iter().all(|node| self.swarm.nodes[*node].torrent.is_finished())
    }

    fn run(&mut self, steps: usize) -> bool {
        let finished = (0..steps).any(|_| {
            self.step();
            self.is_finished()
        });
        // Events of the last step are taken in.
        self.step();
        finished
    }

    fn downloaded(&self) -> u64 {
        self.swarm.nodes.iter().map(|node| node.torrent.stats().downloaded).sum()
    }
}

#[test]
fn every_shard_fetches_its_part_once() {
    let mut spread = Spread::new(1, 120, 2);
    for node in spread.nodes() {
        let seed = spread.swarm.seed(Manner::Honest);
        spread.swarm.connect(node, seed, FAST);
    }
    assert!(spread.run(4000));
    assert_eq!(spread.downloaded(), spread.swarm.geometry.total_len());
    for node in spread.nodes() {
        let part = spread.swarm.nodes[node].torrent.stats().downloaded;
        assert!(part * 6 > spread.swarm.geometry.total_len(), "shard {node} fetched {part}");
        spread.swarm.assert_complete(node);
    }
}

#[test]
fn a_fast_download_takes_fewer_messages_than_pieces() {
    let mut spread = Spread::new(5, 600, 2);
    spread.swarm.uploads = 40;
    spread.swarm.mtu = 1 << 20;
    for node in spread.nodes() {
        spread.swarm.nodes[node].memory_max = 64;
        let seed = spread.swarm.seed(Manner::Honest);
        spread.swarm.connect(node, seed, FAST);
    }
    assert!(spread.run(4000));
    assert!(spread.messages < 600 / 2, "{} messages", spread.messages);
}

#[test]
fn one_shard_has_all_the_peers() {
    for peers_at_home in [true, false] {
        let mut spread = Spread::new(2, 40, 2);
        let node = spread.nodes()[if peers_at_home { 0 } else { 2 }];
        let seed = spread.swarm.seed(Manner::Honest);
        spread.swarm.connect(node, seed, FAST);
        assert!(spread.run(4000), "peers at home: {peers_at_home}");
        spread.nodes().into_iter().for_each(|node| spread.swarm.assert_complete(node));
    }
}

#[test]
fn what_a_stalled_satellite_holds_comes_back() {
    let mut spread = Spread::new(3, 60, 1);
    let [home, satellite] = spread.nodes()[..] else { unreachable!() };
    let (good, mute) = (spread.swarm.seed(Manner::Honest), spread.swarm.seed(Manner::Snub));
    // Borrows, and never gets a block of it.
    let conn = spread.swarm.connect(satellite, mute, FAST);
    (0..50).for_each(|_| spread.step());
    assert!(spread.lender.leased() > 0);
    spread.swarm.connect(home, good, FAST);
    spread.swarm.disconnect(conn);
    assert!(spread.run(2000));
    spread.swarm.assert_complete(home);
    spread.leave(0);
    assert!(spread.lender.is_empty());
}

#[test]
fn a_peer_that_sends_nothing_keeps_no_piece_on_its_shard() {
    for manner in [Manner::Snub, Manner::Refuses] {
        for (bad_at, good_at) in [(0, 1), (1, 0), (1, 2)] {
            let mut spread = Spread::new(6, 60, 2);
            let nodes = spread.nodes();
            nodes.iter().for_each(|node| spread.swarm.nodes[*node].memory_max = 1);
            let (good, bad) = (spread.swarm.seed(Manner::Honest), spread.swarm.seed(manner));
            spread.swarm.connect(nodes[bad_at], bad, FAST);
            (0..50).for_each(|_| spread.step());
            spread.swarm.connect(nodes[good_at], good, FAST);
            assert!(spread.run(20_000), "{manner:?} at {bad_at}, good at {good_at}");
            spread.swarm.assert_complete(spread.home);
        }
    }
}

#[test]
fn parts_that_get_nowhere_do_not_keep_pieces_among_themselves() {
    for seed in 0..20 {
        let mut spread = Spread::new(seed, 5, 3);
        let nodes = spread.nodes();
        nodes.iter().for_each(|node| spread.swarm.nodes[*node].memory_max = 1);
        for bad_at in [1, 2] {
            let bad = spread.swarm.seed(Manner::Refuses);
            spread.swarm.connect(nodes[bad_at], bad, FAST);
        }
        (0..50).for_each(|_| spread.step());
        let good = spread.swarm.seed(Manner::Honest);
        spread.swarm.connect(nodes[3], good, FAST);
        assert!(spread.run(20_000), "seed {seed}");
    }
}

#[test]
fn damage_is_repaired_and_everybody_hears_of_it() {
    let mut spread = Spread::new(4, 30, 2);
    for node in spread.nodes() {
        let seed = spread.swarm.seed(Manner::Honest);
        spread.swarm.connect(node, seed, FAST);
    }
    let piece = |nth: u32| PieceIndex(nth);
    for round in 0..200u32 {
        spread.step();
        let node = spread.nodes()[round as usize % 3];
        // Some of these are not ours yet, some are found damaged by two shards at once.
        for node in [node, spread.home] {
            if round % 9 == 0 {
                let lost = piece(round % 30);
                spread.swarm.nodes[node].torrent.lost_piece(lost);
                spread.swarm.nodes[node].finished = false;
            }
        }
        for node in spread.nodes() {
            if !spread.swarm.nodes[node].torrent.is_finished() {
                spread.swarm.nodes[node].finished = false;
            }
        }
    }
    // The seeds were let go when everything was there for a moment.
    for node in spread.nodes() {
        let seed = spread.swarm.seed(Manner::Honest);
        spread.swarm.connect(node, seed, FAST);
    }
    assert!(spread.run(4000));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_comes_and_goes_it_completes(
        seed in any::<u64>(),
        pieces in 1u32..40,
        satellites in 0usize..4,
        memory in 1usize..9,
        ops in prop::collection::vec((0u8..6, any::<u32>(), 1usize..20), 0..30),
    ) {
        let mut spread = Spread::new(seed, pieces, satellites);
        let mut conns = Vec::new();
        for (op, a, steps) in ops {
            let nodes = spread.nodes();
            nodes.iter().for_each(|node| spread.swarm.nodes[*node].memory_max = memory);
            let node = nodes[a as usize % nodes.len()];
            match op {
                0 => {
                    let some = spread.swarm.node(config(), Manner::Honest, |piece| a >> (piece.0 % 32) & 1 == 1);
                    conns.push((node, spread.swarm.connect(node, some, FAST)));
                }
                1 => {
                    let manner = if a % 3 == 0 { Manner::Refuses } else { Manner::Snub };
                    let bad = spread.swarm.seed(manner);
                    conns.push((node, spread.swarm.connect(node, bad, FAST)));
                }
                2 if !conns.is_empty() => {
                    let (_, conn) = conns.swap_remove(a as usize % conns.len());
                    spread.swarm.disconnect(conn);
                }
                3 if spread.satellites.len() < 5 => spread.join(),
                4 if !spread.satellites.is_empty() => {
                    let shard = a as usize % spread.satellites.len();
                    if let Some((node, _)) = &spread.satellites[shard] {
                        let gone = *node;
                        conns.iter().filter(|(node, _)| *node == gone).for_each(|(_, conn)| spread.swarm.disconnect(*conn));
                        conns.retain(|(node, _)| *node != gone);
                        spread.leave(shard);
                    }
                }
                _ => {}
            }
            (0..steps).for_each(|_| spread.step());
        }
        // One honest seed is enough, whichever part it meets, and whoever else stays and sends nothing.
        let nodes = spread.nodes();
        let good = spread.swarm.seed(Manner::Honest);
        spread.swarm.connect(nodes[seed as usize % nodes.len()], good, FAST);
        prop_assert!(spread.run(20_000), "a swarm with honest seeds does not complete");
    }
}

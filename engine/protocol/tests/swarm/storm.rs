//! Swarms in which everything goes wrong for a while.

use std::time::Duration;

use ccbt_protocol::candidates::Source;
use ccbt_protocol::choker::ChokerConfig;
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::picker::Strategy;
use rand::RngExt;

use crate::net::NetConfig;
use crate::node::{Manner, Plan};
use crate::world::{SECOND, World};

/// Once nothing goes wrong any more, everybody has this long to finish.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Fifty peers, a tenth of them hostile, with everything that a network and its hosts can do for two minutes. Returns the
/// run's trace.
pub fn fifty(seed: u64) -> u64 {
    let mut world = World::new(seed, 80, NetConfig::BAD);
    let plan = plan_of(&mut world);
    world.seed(Plan { manner: Manner::Honest, magnet: false, ..plan });
    for nth in 1..50 {
        let mut plan = plan_of(&mut world);
        plan.manner = match nth {
            10 | 20 => Manner::Liar,
            30 => Manner::Snub,
            40 => Manner::Refuses,
            _ => Manner::Honest,
        };
        let is_seed = plan.manner.is_hostile() || nth == 45;
        world.add(plan, |_| is_seed);
    }
    let joined: Vec<usize> = (1..30).collect();
    joined.into_iter().for_each(|node| world.start(node));
    world.run(5 * SECOND);
    weather(&mut world, 120);
    clear(&mut world)
}

/// A swarm of any size and kind.
pub fn any(seed: u64) -> u64 {
    let mut world = World::new(seed, 1, NetConfig::BAD);
    let pieces = world.rng.random_range(1..120);
    world = World::new(seed ^ 0x5eed, pieces, NetConfig::BAD);
    world.tracker = world.rng.random_bool(0.7);
    let mut plan = plan_of(&mut world);
    if world.chance(0.2) {
        // What is shown to whom is known at one place only.
        (plan.torrent.super_seeding, plan.shards) = (true, 1);
    }
    world.seed(Plan { manner: Manner::Honest, magnet: false, ..plan });
    for _ in 0..world.rng.random_range(1..16) {
        let mut plan = plan_of(&mut world);
        plan.manner = match world.roll(20) {
            0 => Manner::Liar,
            1 => Manner::Snub,
            2 => Manner::Refuses,
            _ => Manner::Honest,
        };
        let density = if world.rng.random_bool(0.3) { world.rng.random_range(0.0..=1.0) } else { 0.0 };
        let has: Vec<bool> = (0..pieces).map(|_| world.chance(density)).collect();
        let magnet = plan.magnet && density == 0.0;
        let node = world.add(Plan { magnet, ..plan }, |piece| has[piece.as_usize()]);
        if world.rng.random_bool(0.7) {
            world.start(node);
            friends(&mut world, node);
        }
    }
    let seconds = world.rng.random_range(5..90);
    weather(&mut world, seconds);
    clear(&mut world)
}

fn plan_of(world: &mut World) -> Plan {
    let mut plan = Plan::new();
    let rng = &mut world.rng;
    plan.up = rng.random_range(30..400) << 10;
    plan.down = plan.up * rng.random_range(1..8);
    plan.peers_max = rng.random_range(6..24);
    plan.memory_max = rng.random_range(1..16);
    plan.shards = [1, 1, 1, 2, 3][rng.random_range(0..5)];
    plan.magnet = rng.random_bool(0.3);
    plan.fast = rng.random_bool(0.8);
    plan.disk_faults = [0.0, 0.0, 0.02][rng.random_range(0..3)];
    let slots = rng.random_range(2..12);
    plan.torrent.choker = ChokerConfig { slots, optimistic: 1, ..ChokerConfig::default() };
    plan.torrent.picker.strategy = match rng.random_range(0..6) {
        0 => Strategy::Sequential,
        1 => Strategy::RoundRobin,
        _ => Strategy::RarestFirst,
    };
    plan
}

/// Whom the user knows, for swarms without a tracker.
fn friends(world: &mut World, node: usize) {
    let origin = world.nodes[0].addr;
    world.tell(node, origin, Source::User);
    let friend = world.roll(world.nodes.len());
    let addr = world.nodes[friend].addr;
    world.tell(node, addr, Source::User);
}

/// One thing a second goes wrong. Node 0 stays, and keeps its pieces.
fn weather(world: &mut World, seconds: u32) {
    for _ in 0..seconds {
        world.run(SECOND);
        let node = 1 + world.roll(world.nodes.len() - 1);
        let online = world.nodes[node].online;
        match world.roll(10) {
            0..=4 if !online => {
                world.start(node);
                friends(world, node);
            }
            0 if online => world.leave(node),
            1 if online => world.crash(node),
            2 if online && !world.nodes[node].plan.manner.is_hostile() => {
                let piece = world.roll(world.geometry.piece_count() as usize);
                world.damage(node, PieceIndex(piece as u32));
            }
            3 => {
                let open: Vec<usize> =
                    (0..world.links.len()).filter(|link| world.links[*link].is_some()).collect();
                if !open.is_empty() {
                    let link = open[world.roll(open.len())];
                    let end = world.roll(2);
                    let at = world.links[link].as_ref().expect("it is open").ends[end].node;
                    world.close(link, end, true);
                    world.pump(at);
                }
            }
            _ => {}
        }
    }
}

/// Everything is well again: all who are there finish.
fn clear(world: &mut World) -> u64 {
    world.net = NetConfig::GOOD;
    for at in 0..world.nodes.len() {
        world.nodes[at].plan.disk_faults = 0.0;
        if !world.nodes[at].online && !world.nodes[at].plan.manner.is_hostile() {
            world.start(at);
            friends(world, at);
        }
    }
    // A super-seed waits a minute for a peer that passes nothing on, for each pair of pieces.
    let pieces = world.geometry.piece_count();
    let shows = world.nodes[0].plan.torrent.super_seeding;
    world.finish(PATIENCE + u32::from(shows) * pieces * 30 * SECOND);
    // What is on the way arrives.
    world.run(5 * SECOND);
    let good: Vec<usize> = (0..world.nodes.len()).filter(|at| world.nodes[*at].is_good()).collect();
    for at in good {
        if world.nodes[at].is_finished() {
            world.assert_complete(at);
        }
    }
    world.trace
}

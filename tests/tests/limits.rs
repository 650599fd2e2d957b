//! Rate limits. A limit gives a least duration and never a most one, so only that side is looked at.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ccbt_tests::ccbt::CcbtCommand;
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::Payload;
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;

const MIB: usize = 1 << 20;
/// The limit under test, in KiB/s.
const LIMIT_KIB: usize = 2048;
/// Six seconds' worth, so that a burst of a second at the start still leaves 0.8 of the time.
const PAYLOAD: usize = 6 * LIMIT_KIB * 1024;

fn publish(lab: &Lab) -> Published {
    lab.publish(Payload::single("limited", PAYLOAD), TorrentSpec::pieces_of(MIB / 4))
}

/// Demands that the payload took 0.8 of what the limit allows, at least.
fn assert_slow(took: Duration) {
    let ideal = Duration::from_secs_f64(PAYLOAD as f64 / (LIMIT_KIB * 1024) as f64);
    assert!(took >= ideal.mul_f64(0.8), "{PAYLOAD} bytes in {took:?} at {LIMIT_KIB} KiB/s");
}

#[test]
fn a_download_limit_holds_over_several_seeders() {
    let lab = Lab::open();
    let made = publish(&lab);
    let seeders = [1, 2, 3].map(|n| RawSeeder::start(Ipv4Addr::new(127, 0, 8, n), &made, Manner::default()));
    let copy = lab.dir("copy");
    let mut command = CcbtCommand::download(&made.torrent_path, &copy);
    for seeder in &seeders {
        command = command.peer(seeder.address());
    }
    let begin = Instant::now();
    command.option("--down-limit", LIMIT_KIB.to_string()).start().wait_done();
    assert_slow(begin.elapsed());
    made.payload.assert_equal_in(&copy);
}

#[test]
fn an_upload_limit_holds_over_several_leechers() {
    let lab = Lab::open();
    let made = publish(&lab);
    let limit = LIMIT_KIB.to_string();
    let mut seed = CcbtCommand::seed(&made.torrent_path, &made.data).option("--up-limit", limit).start();
    seed.wait_ready();
    let copies = [lab.dir("one"), lab.dir("two")];
    let begin = Instant::now();
    // Neither gives anything back, so that each takes the whole payload, at half the limit, from the seed.
    let mut leechers = copies.each_ref().map(|copy| {
        CcbtCommand::download(&made.torrent_path, copy).peer(seed.address()).option("--shards", "1").start()
    });
    leechers.iter_mut().for_each(|leecher| leecher.wait_done());
    assert_slow(begin.elapsed());
    copies.iter().for_each(|copy| made.payload.assert_equal_in(copy));
}

#[test]
fn a_limit_of_zero_is_none_and_a_small_one_still_moves() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("small", 200_000), TorrentSpec::pieces_of(MIB / 16));
    for limit in ["0", "64"] {
        let seeder = RawSeeder::start(Ipv4Addr::new(127, 0, 8, 9), &made, Manner::default());
        let copy = lab.dir(limit);
        let command = CcbtCommand::download(&made.torrent_path, &copy).peer(seeder.address());
        command.option("--down-limit", limit).start().wait_done();
        made.payload.assert_equal_in(&copy);
    }
}

#[test]
fn no_more_connections_than_allowed() {
    let lab = Lab::open();
    let made = publish(&lab);
    let pause = Duration::from_millis(2);
    let seeders: Vec<RawSeeder> =
        (20..40).map(|n| RawSeeder::start(Ipv4Addr::new(127, 0, 8, n), &made, Manner::slow(pause))).collect();
    let copy = lab.dir("copy");
    let mut command = CcbtCommand::download(&made.torrent_path, &copy).option("--max-peers", "3");
    for seeder in &seeders {
        command = command.peer(seeder.address());
    }
    let mut ours = command.start();
    ours.wait_done();
    let most = ours.events("progress").iter().filter_map(|report| report["peers"].as_u64()).max();
    assert!(most.is_some_and(|most| most <= 3), "at most 3 peers, but {most:?} were reported");
    made.payload.assert_equal_in(&copy);
}

//! Rate limits of a session, a torrent and its peers, on one shard and several, set at the start and changed on the
//! way.
//!
//! What is demanded holds on any machine: a limit of X lets no more than X·T and a burst through in T seconds, however
//! fast or slow anything runs; and what is limited arrives in the end.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ccbt_fast::layout::Overrides;
use ccbt_fast::{AddOptions, Session, Settings, TorrentHandle, TorrentLimits, WaitError};
use ccbt_tests::PATIENCE;
use ccbt_tests::ccbt::CcbtCommand;
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::Payload;
use ccbt_tests::process::wait_until;
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::{Torrent, TorrentSpec};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// The limit under test, in bytes per second.
const LIMIT: u64 = 4 << 20;

fn publish(lab: &Lab, name: &str, len: usize) -> Published {
    lab.publish(Payload::single(name, len), TorrentSpec::pieces_of(128 * KIB))
}

fn seeders(made: &Published, first: u8, count: u8) -> Vec<RawSeeder> {
    let at = |n| Ipv4Addr::new(127, 0, 23, n);
    (first..first + count).map(|n| RawSeeder::start(at(n), made, Manner::default())).collect()
}

fn session(shards: usize, change: impl FnOnce(&mut Settings)) -> Session {
    let mut settings = Settings {
        layout: Overrides { shards: Some(shards), ..Overrides::default() },
        port: Some(0),
        bind: Some(Ipv4Addr::LOCALHOST.into()),
        memory_bytes: 64 << 20,
        ..Settings::default()
    };
    change(&mut settings);
    Session::start(&settings).expect("the session starts")
}

fn options(folder: &Path, peers: &[RawSeeder]) -> AddOptions {
    let peers: Vec<SocketAddr> = peers.iter().map(RawSeeder::address).collect();
    AddOptions { use_trackers: false, peers, ..AddOptions::new(folder) }
}

/// What may pass at once beside X·T: what the engine's documentation says, and a block per connection and shard.
fn burst(limit: u64, shards: usize) -> u64 {
    limit / 20 + shards as u64 * limit / 50 + 64 * 1024 * shards as u64
}

/// What may have passed by now.
struct Allowance {
    limit: u64,
    since: Instant,
    before: f64,
}

impl Allowance {
    /// From now on, `limit` and once `burst`.
    fn new(limit: u64, burst: u64) -> Self {
        Self { limit, since: Instant::now(), before: burst as f64 }
    }

    /// A higher limit holds from now on, or from a little later.
    fn raise(&mut self, limit: u64, burst: u64) {
        assert!(limit >= self.limit);
        self.before = self.now() + burst as f64;
        (self.limit, self.since) = (limit, Instant::now());
    }

    fn now(&self) -> f64 {
        self.limit as f64 * self.since.elapsed().as_secs_f64() + self.before
    }

    /// Watches a counter until `done`: at no moment may it be beyond the allowance.
    fn hold(&self, mut counter: impl FnMut() -> u64, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Read first: what was counted by then has had at least the time that is measured afterwards.
            let (done, passed) = (done(), counter());
            let most = self.now();
            assert!(passed as f64 <= most, "{passed} bytes where {most} may have passed");
            if done {
                return;
            }
            assert!(Instant::now() < deadline, "{passed} bytes, and it does not end");
            thread::sleep(Duration::from_millis(3));
        }
    }
}

fn downloaded(torrent: &TorrentHandle) -> u64 {
    torrent.status().map_or(0, |status| status.stats.downloaded)
}

fn uploaded(torrent: &TorrentHandle) -> u64 {
    torrent.status().map_or(0, |status| status.stats.uploaded)
}

fn is_finished(torrent: &TorrentHandle) -> bool {
    match torrent.wait_finished(Some(Duration::ZERO)) {
        Ok(()) => true,
        Err(WaitError::TimedOut(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

fn finish(session: Session) {
    session.shutdown(PATIENCE).expect("an orderly end");
}

#[test]
fn all_torrents_together_receive_no_more_than_the_limit() {
    for shards in [1, 3] {
        let lab = Lab::open();
        let one = publish(&lab, "one", 6 * MIB);
        let two = {
            let (payload, spec) = (Payload::single("two", 2 * MIB), TorrentSpec::pieces_of(64 * KIB));
            let torrent = Torrent::of(&payload, &spec);
            let torrent_path = lab.file("two.torrent", torrent.bytes());
            Published { data: lab.dir("data"), torrent_path, torrent, payload }
        };
        let (of_one, of_two) = (seeders(&one, 1, 4), seeders(&two, 10, 2));
        let copy = lab.dir("copy");
        let allowance = Allowance::new(LIMIT, burst(LIMIT, shards));
        let session = session(shards, |settings| settings.down_limit = LIMIT);
        let first = session.add_torrent(&*one.torrent_path, options(&copy, &of_one)).unwrap();
        let second = session.add_torrent(&*two.torrent_path, options(&copy, &of_two)).unwrap();
        let passed = || downloaded(&first) + downloaded(&second);
        allowance.hold(passed, || is_finished(&first) && is_finished(&second));
        finish(session);
        let blocks: Vec<usize> = of_one.iter().chain(&of_two).map(RawSeeder::blocks).collect();
        assert!(blocks.iter().all(|blocks| *blocks >= 8), "nobody starves: {blocks:?}");
        assert!(std::fs::read(copy.join("one")).unwrap() == *one.payload.concatenated());
        assert!(std::fs::read(copy.join("two")).unwrap() == *two.payload.concatenated());
    }
}

#[test]
fn all_leechers_together_are_sent_no_more_than_the_limit() {
    for shards in [1, 3] {
        let lab = Lab::open();
        let made = publish(&lab, "seed", 5 * MIB);
        let allowance = Allowance::new(LIMIT, burst(LIMIT, shards));
        let session = session(shards, |settings| settings.up_limit = LIMIT);
        let options = AddOptions { seed_only: true, ..options(&made.data, &[]) };
        let seed = session.add_torrent(&*made.torrent_path, options).unwrap();
        let copies = ["a", "b", "c"].map(|name| lab.dir(name));
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, session.port()));
        let mut leechers = copies.each_ref().map(|copy| {
            // From the seed alone: they know nobody else.
            CcbtCommand::download(&made.torrent_path, copy).peer(at).option("--shards", "1").start()
        });
        let waiting = thread::spawn(move || leechers.iter_mut().for_each(|leecher| leecher.wait_done()));
        allowance.hold(|| uploaded(&seed), || waiting.is_finished());
        waiting.join().expect("they get everything");
        finish(session);
        copies.iter().for_each(|copy| made.payload.assert_equal_in(copy));
    }
}

#[test]
fn a_torrents_own_limit_holds_on_one_shard_and_when_it_is_spread() {
    for shards in [1, 3] {
        let lab = Lab::open();
        let made = publish(&lab, "own", 6 * MIB);
        let peers = seeders(&made, 20, 4);
        // The session's limit is no obstacle, the torrent's is.
        let session = session(shards, |settings| settings.down_limit = 1 << 30);
        let limits = TorrentLimits { down: LIMIT, ..TorrentLimits::default() };
        let allowance = Allowance::new(LIMIT, burst(LIMIT, shards));
        let options = AddOptions { limits: Some(limits), ..options(&lab.dir("copy"), &peers) };
        let torrent = session.add_torrent(&*made.torrent_path, options).unwrap();
        allowance.hold(|| downloaded(&torrent), || is_finished(&torrent));
        finish(session);
        made.payload.assert_equal_in(&lab.dir("copy"));
    }
}

#[test]
fn each_peer_has_its_limit() {
    for shards in [1, 3] {
        let lab = Lab::open();
        let made = publish(&lab, "peers", 6 * MIB);
        let peers = seeders(&made, 30, 3);
        let limits = TorrentLimits { peer_down: LIMIT / 2, ..TorrentLimits::default() };
        // A torrent without limits of its own gets those of the settings.
        let session = session(shards, |settings| settings.torrent_limits = limits);
        let allowance = Allowance::new(3 * LIMIT / 2, 3 * burst(LIMIT / 2, 1));
        let torrent = session.add_torrent(&*made.torrent_path, options(&lab.dir("copy"), &peers)).unwrap();
        allowance.hold(|| downloaded(&torrent), || is_finished(&torrent));
        finish(session);
        made.payload.assert_equal_in(&lab.dir("copy"));
    }
}

#[test]
fn limits_change_while_connections_stay() {
    for shards in [1, 3] {
        let lab = Lab::open();
        let made = publish(&lab, "live", 16 * MIB);
        let peers = seeders(&made, 40, 3);
        let slow = 512 << 10;
        let session = session(shards, |_| {});
        let mut allowance = Allowance::new(slow, burst(slow, shards));
        let limits = TorrentLimits { down: slow, ..TorrentLimits::default() };
        let options = AddOptions { limits: Some(limits), ..options(&lab.dir("copy"), &peers) };
        let torrent = session.add_torrent(&*made.torrent_path, options).unwrap();
        let passed = || downloaded(&torrent);
        allowance.hold(passed, || passed() >= 400_000);
        allowance.raise(LIMIT * 3 / 4, 3 * burst(LIMIT / 4, 1));
        torrent.set_limits(TorrentLimits { peer_down: LIMIT / 4, ..TorrentLimits::default() }).unwrap();
        allowance.hold(passed, || passed() >= 3 << 20);
        allowance.raise(LIMIT, burst(LIMIT, shards));
        session.set_limits(LIMIT, 0);
        torrent.set_limits(TorrentLimits::default()).unwrap();
        allowance.hold(passed, || passed() >= 8 << 20);
        // Once it is finished, seeds part.
        for peer in &peers {
            assert_eq!((peer.connections(), peer.closed()), (1, 0), "no change costs a connection");
        }
        session.set_limits(0, 0);
        wait_until(PATIENCE, "the rest", || is_finished(&torrent).then_some(()));
        assert!(peers.iter().all(|peer| peer.connections() == 1), "nor does the end of all limits");
        finish(session);
        made.payload.assert_equal_in(&lab.dir("copy"));
    }
}

#[test]
fn a_limit_of_each_peer_from_the_command_line() {
    let lab = Lab::open();
    let made = publish(&lab, "line", 6 * MIB);
    let peers = seeders(&made, 50, 1);
    let limit_kib = 2048;
    let allowance = Allowance::new(limit_kib << 10, burst(limit_kib << 10, 1));
    let command = CcbtCommand::download(&made.torrent_path, &lab.dir("copy")).peer(peers[0].address());
    let command = command.option("--shards", "1").flag("--count-overhead");
    command.option("--peer-down-limit", limit_kib.to_string()).start().wait_done();
    let (passed, most) = (made.payload.len(), allowance.now());
    assert!(passed as f64 <= most, "{passed} bytes where {most} may have passed");
    made.payload.assert_equal_in(&lab.dir("copy"));
}

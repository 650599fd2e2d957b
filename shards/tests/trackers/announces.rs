//! The announces of a torrent, from `started` to `stopped`.

use std::sync::Arc;
use std::time::Instant;

use ccbt_protocol::ids::TorrentKey;
use ccbt_shards::announce::{Announces, DoneQueue, Identity, Outcome, Totals};
use ccbt_shards::trackers::{TrackerStats, TrackersConfig, TrackersThread};
use ccbt_storage::doorbell::Doorbell;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

const LEFT: Totals = Totals { uploaded: 10, downloaded: 20, left: 30 };
const SEED: Totals = Totals { uploaded: 11, downloaded: 50, left: 0 };

/// What a shard does with a torrent's announces.
struct Home {
    announces: Announces,
    thread: TrackersThread,
    done: DoneQueue,
    /// Virtual: so that back-offs pass at once.
    now: Instant,
}

impl Home {
    fn new(tiers: &[Vec<String>]) -> Self {
        Self::with(tiers, TrackerClientConfig::default(), Doorbell::new().unwrap())
    }

    fn with(tiers: &[Vec<String>], config: TrackerClientConfig, bell: Arc<Doorbell>) -> Self {
        let peer_id = PeerId(*b"-CF0001-abcdefghijkl");
        let identity = Identity { torrent: TorrentKey(5), info_hash: InfoHash([1; 20]), peer_id, port: 6881 };
        let now = Instant::now();
        Self {
            announces: Announces::new(identity, tiers, now, &mut SmallRng::seed_from_u64(7)),
            thread: TrackersThread::start(TrackersConfig { client: config, ..TrackersConfig::default() })
                .unwrap(),
            done: DoneQueue::new(bell),
            now,
        }
    }

    fn poll(&mut self, totals: Totals) {
        self.announces.poll(self.now, totals, self.thread.handle(), &self.done);
    }

    /// Sends what is due at the next wake-up and waits for one result.
    async fn step(&mut self, totals: Totals) -> Outcome {
        self.now = self.announces.next_wakeup(self.now).expect("something is due");
        self.poll(totals);
        self.result().await
    }

    async fn result(&mut self) -> Outcome {
        loop {
            if let Some(done) = self.done.pop() {
                assert_eq!(done.torrent, TorrentKey(5));
                return self.announces.on_done(self.now, done);
            }
            glommio::timer::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn parameter(head: &str, name: &str) -> Option<String> {
    let target = head.split(' ').nth(1)?;
    let mut pairs = target.split(['?', '&']).filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

fn told(server: &WebServer) -> (Option<String>, Option<String>) {
    let head = server.head();
    (parameter(&head, "event"), parameter(&head, "left"))
}

fn event(name: &str, left: &str) -> (Option<String>, Option<String>) {
    (Some(name.to_owned()), Some(left.to_owned()))
}

#[test]
fn started_completed_stopped() {
    let server = WebServer::start(|_, stream| respond(stream, "200 OK", "", COMPACT));
    let url = server.url();
    run(move || async move {
        let mut home = Home::new(&[vec![url]]);
        let outcome = home.step(LEFT).await;
        assert_eq!((outcome.peers, outcome.problem), (compact_peers(), None));
        assert_eq!(home.announces.statuses()[0].seeders, Some(7));
        let regular = home.announces.next_wakeup(home.now).unwrap();
        assert!((1800..=1980).contains(&(regular - home.now).as_secs()));
        home.announces.completed(home.now);
        home.announces.completed(home.now);
        home.step(SEED).await;
        home.announces.stop(home.now);
        assert!(!home.announces.is_idle(), "a `stopped` is owed");
        let outcome = home.step(SEED).await;
        assert!(outcome.peers.is_empty());
        assert!(home.announces.is_idle());
        assert_eq!(home.announces.next_wakeup(home.now), None);
    });
    assert_eq!(told(&server), event("started", "30"));
    assert_eq!(told(&server), event("completed", "0"));
    assert_eq!(told(&server), event("stopped", "0"));
    assert!(server.heads.try_recv().is_err());
}

#[test]
fn requests_tell_who_we_are() {
    let server = WebServer::start(|_, stream| respond(stream, "200 OK", "", b"d10:tracker id3:a&be"));
    let url = server.url();
    run(move || async move {
        let mut home = Home::new(&[vec![url]]);
        home.step(LEFT).await;
        home.step(LEFT).await;
    });
    let (first, second) = (server.head(), server.head());
    for (name, value) in [
        ("info_hash", "%01".repeat(20)),
        ("peer_id", "-CF0001-abcdefghijkl".to_owned()),
        ("port", "6881".to_owned()),
        ("uploaded", "10".to_owned()),
        ("downloaded", "20".to_owned()),
        ("left", "30".to_owned()),
        ("numwant", "100".to_owned()),
    ] {
        assert_eq!(parameter(&first, name), Some(value.clone()));
        assert_eq!(parameter(&second, name), Some(value));
    }
    assert_eq!(parameter(&first, "key"), parameter(&second, "key"));
    assert_eq!((parameter(&first, "event").as_deref(), parameter(&second, "event")), (Some("started"), None));
    assert_eq!(
        (parameter(&first, "trackerid"), parameter(&second, "trackerid")),
        (None, Some("a%26b".into()))
    );
}

#[test]
fn next_tracker_takes_over_from_a_dead_one() {
    let good = WebServer::start(|_, stream| respond(stream, "200 OK", "", COMPACT));
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dead = format!("http://{dead}/announce");
    let tier = vec![dead.clone(), good.url()];
    run(move || async move {
        let mut home = Home::new(&[tier]);
        let mut problems = Vec::new();
        let peers = loop {
            let outcome = home.step(LEFT).await;
            problems.extend(outcome.problem);
            if !outcome.peers.is_empty() {
                break outcome.peers;
            }
        };
        assert_eq!(peers, compact_peers());
        // The tier is shuffled, so the dead one need not have been first.
        for (url, text) in problems {
            assert_eq!(url, dead);
            assert!(text.contains("refused"), "{text}");
        }
    });
}

#[test]
fn each_tier_has_its_own_tracker() {
    let servers: Vec<_> =
        (0..2).map(|_| WebServer::start(|_, stream| respond(stream, "200 OK", "", COMPACT))).collect();
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tiers = vec![vec![format!("http://{dead}/announce")], vec![servers[0].url()], vec![servers[1].url()]];
    run(move || async move {
        let mut home = Home::new(&tiers);
        home.poll(LEFT);
        let mut failures = 0;
        for _ in 0..3 {
            failures += usize::from(home.result().await.problem.is_some());
        }
        assert_eq!(failures, 1);
        home.announces.stop(home.now);
        home.poll(LEFT);
        // The dead one never knew us, so it hears no `stopped`.
        home.result().await;
        home.result().await;
        assert!(home.announces.is_idle());
    });
    for server in servers {
        assert_eq!(told(&server), event("started", "30"));
        assert_eq!(told(&server), event("stopped", "30"));
    }
}

#[test]
fn refusals_and_warnings_are_told_and_retry_in_is_kept() {
    let server = WebServer::start(|head, stream| {
        let never = b"d14:failure reason4:gone8:retry in5:nevere".as_slice();
        let body = if head.contains("/never") { never } else { b"d15:warning message5:hello5:peers0:e" };
        respond(stream, "200 OK", "", body);
    });
    let addr = server.addr;
    run(move || async move {
        let never = format!("http://{addr}/never\u{202e}");
        let mut home = Home::new(&[vec![never]]);
        let problem = home.step(LEFT).await.problem;
        let text = "the tracker refused the announce: gone".to_owned();
        assert_eq!(problem, Some((format!("http://{addr}/never\\u{{202e}}"), text)));
        assert_eq!(home.announces.next_wakeup(home.now), None, "never means never");
        let warning = format!("http://{addr}/warning");
        let mut home = Home::new(&[vec![warning.clone()]]);
        assert_eq!(home.step(LEFT).await.problem, Some((warning, "hello".to_owned())));
    });
}

#[test]
fn stop_gives_up_what_is_under_way() {
    // The second announce is answered only after the third has come.
    let server = WebServer::start(|_, stream| respond(stream, "200 OK", "", COMPACT));
    let url = server.url();
    run(move || async move {
        let mut home = Home::new(&[vec![url]]);
        home.step(LEFT).await;
        home.now = home.announces.next_wakeup(home.now).unwrap();
        home.poll(LEFT);
        home.announces.stop(home.now);
        home.announces.stop(home.now);
        home.poll(LEFT);
        let (first, second) = (home.result().await, home.result().await);
        assert!(first.peers.is_empty() && second.peers.is_empty(), "peers are of no use any more");
        assert!(home.announces.is_idle());
    });
}

#[test]
fn late_started_is_followed_by_stopped() {
    let server = WebServer::start(|_, stream| respond(stream, "200 OK", "", COMPACT));
    let url = server.url();
    run(move || async move {
        let mut home = Home::new(&[vec![url]]);
        home.poll(LEFT);
        let begun = |stats: TrackerStats| stats.running > 0 || stats.answered > 0;
        while !begun(home.thread.handle().stats()) {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
        home.announces.stop(home.now);
        assert!(!home.announces.is_idle(), "the tracker may know us by now");
        assert_eq!(home.announces.next_wakeup(home.now), Some(home.now + Duration::from_secs(3)));
        home.result().await;
        assert!(!home.announces.is_idle(), "it does, so a `stopped` is owed");
        home.step(LEFT).await;
        assert!(home.announces.is_idle());
    });
    assert_eq!(told(&server), event("started", "30"));
    assert_eq!(told(&server), event("stopped", "30"));
}

#[test]
fn a_restart_begins_a_new_session() {
    let server = WebServer::start(|_, stream| respond(stream, "200 OK", "", COMPACT));
    let url = server.url();
    run(move || async move {
        let mut home = Home::new(&[vec![url]]);
        home.step(LEFT).await;
        home.announces.stop(home.now);
        home.poll(LEFT);
        home.announces.restart(home.now);
        home.poll(SEED);
        // One of the two is the late answer to `stopped`, which means nothing any more.
        let (one, other) = (home.result().await, home.result().await);
        assert_eq!(one.peers.len() + other.peers.len(), 2);
        assert!(home.announces.is_idle());
    });
    let mut told = [told(&server), told(&server), told(&server)];
    told[1..].sort();
    assert_eq!(told, [event("started", "30"), event("started", "0"), event("stopped", "30")]);
}

#[test]
fn a_dead_tracker_does_not_hold_up_the_goodbye() {
    // Accepts at the backlog's mercy, but never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/announce", listener.local_addr().unwrap());
    run(move || async move {
        let mut home = Home::new(&[vec![url]]);
        home.poll(LEFT);
        home.announces.stop(home.now);
        home.poll(LEFT);
        assert!(!home.announces.is_idle());
        home.now = home.announces.next_wakeup(home.now).unwrap();
        home.poll(LEFT);
        assert!(home.announces.is_idle());
        assert_eq!(home.announces.next_wakeup(home.now), None);
    });
}

#[test]
fn a_torrent_without_trackers_is_idle() {
    run(|| async {
        let mut home = Home::new(&[vec!["wss://tracker.example".to_owned()]]);
        assert_eq!(home.announces.next_wakeup(home.now), None);
        home.poll(LEFT);
        home.announces.stop(home.now);
        assert!(home.announces.is_idle());
    });
}

/// A sleeping shard hears of a result.
#[test]
fn results_ring_the_bell() {
    let server = WebServer::start(|_, stream| respond(stream, "200 OK", "", COMPACT));
    let url = server.url();
    let bell = Doorbell::new().unwrap();
    let ringing = bell.clone();
    run(move || async move {
        let mut home = Home::with(&[vec![url]], TrackerClientConfig::default(), bell.clone());
        bell.announce_sleep();
        home.step(LEFT).await;
    });
    let mut fds = [rustix::event::PollFd::new(&*ringing, rustix::event::PollFlags::IN)];
    let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&at_once)).unwrap(), 1);
}

//! The tracker thread under many requests: as many connections as allowed, dead hosts apart, a bounded goodbye.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ccbt_protocol::ids::TorrentKey;
use ccbt_protocol::tracker::dispatch::DispatchPlan;
use ccbt_shards::announce::{AnnounceDone, Announces, DoneQueue, Identity, Totals};
use ccbt_shards::trackers::{TrackersConfig, TrackersThread};
use ccbt_storage::doorbell::Doorbell;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::time::Instant;

use super::*;

/// A tracker that serves each connection in a thread of its own, for as long as it lasts.
struct Tracker {
    url: String,
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
    silent: Arc<AtomicBool>,
}

impl Tracker {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let this = Self {
            url: format!("http://{}/announce", listener.local_addr().unwrap()),
            open: Arc::default(),
            most: Arc::default(),
            accepted: Arc::default(),
            answered: Arc::default(),
            silent: Arc::default(),
        };
        let (open, most, accepted) = (this.open.clone(), this.most.clone(), this.accepted.clone());
        let (answered, silent) = (this.answered.clone(), this.silent.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                accepted.fetch_add(1, Ordering::SeqCst);
                most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let (open, answered, silent) = (open.clone(), answered.clone(), silent.clone());
                std::thread::spawn(move || {
                    while !read_head(&mut stream).is_empty() {
                        if !silent.load(Ordering::SeqCst) {
                            answered.fetch_add(1, Ordering::SeqCst);
                            respond(&mut stream, "200 OK", "", COMPACT);
                        }
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        this
    }
}

struct Torrents {
    thread: TrackersThread,
    done: DoneQueue,
    torrents: Vec<Announces>,
    now: Instant,
}

impl Torrents {
    fn new(count: u32, tiers: &[Vec<String>], client: TrackerClientConfig) -> Self {
        let now = Instant::now();
        let mut rng = SmallRng::seed_from_u64(1);
        let torrent = |number: u32| {
            let peer_id = PeerId(*b"-CF0001-abcdefghijkl");
            let info_hash = InfoHash([number as u8; 20]);
            let identity = Identity { torrent: TorrentKey(number), info_hash, peer_id, port: 6881 };
            Announces::new(identity, tiers, now, &mut rng)
        };
        let plan = DispatchPlan { per_host: 4, ..DispatchPlan::default() };
        Self {
            thread: TrackersThread::start(TrackersConfig { client, plan }).unwrap(),
            done: DoneQueue::new(Doorbell::new().unwrap()),
            torrents: (0..count).map(torrent).collect(),
            now,
        }
    }

    fn poll(&mut self) {
        for torrent in &mut self.torrents {
            torrent.poll(self.now, Totals::default(), self.thread.handle(), &self.done);
        }
    }

    /// The next result, given to its torrent.
    fn result(&mut self) -> Option<String> {
        let done: AnnounceDone = self.done.pop()?;
        let index = done.torrent.0 as usize;
        let error = done.result.as_ref().err().map(ToString::to_string);
        self.torrents[index].on_done(self.now, done);
        Some(error.unwrap_or_default())
    }

    fn wait(&mut self) -> String {
        for _ in 0..HANG.as_millis() {
            if let Some(error) = self.result() {
                return error;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no result comes");
    }
}

#[test]
fn hundreds_of_torrents_share_a_few_connections() {
    let tracker = Tracker::start();
    let mut torrents = Torrents::new(400, &[vec![tracker.url.clone()]], TrackerClientConfig::default());
    torrents.poll();
    for _ in 0..400 {
        assert_eq!(torrents.wait(), "");
    }
    assert_eq!(tracker.answered.load(Ordering::SeqCst), 400);
    assert!(tracker.most.load(Ordering::SeqCst) <= 4);
    assert!(tracker.accepted.load(Ordering::SeqCst) <= 4, "connections are kept");
    let stats = torrents.thread.handle().stats();
    assert_eq!((stats.answered, stats.waiting), (400, 0));
    torrents.thread.stop();
    for _ in 0..HANG.as_millis() {
        if tracker.open.load(Ordering::SeqCst) == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("connections outlive the thread");
}

/// One silent tracker in front of a good one: one connection to it, and everybody goes on to the other at once.
#[test]
fn a_silent_host_costs_one_request_and_holds_nobody() {
    let (silent, good) = (Tracker::start(), Tracker::start());
    silent.silent.store(true, Ordering::SeqCst);
    let client = TrackerClientConfig { http_timeout: Duration::from_millis(500), ..Default::default() };
    // Two tiers: each is announced to.
    let tiers = [vec![silent.url.clone()], vec![good.url.clone()]];
    let mut torrents = Torrents::new(200, &tiers, client);
    torrents.poll();
    let results: Vec<String> = (0..400).map(|_| torrents.wait()).collect();
    assert_eq!(results.iter().filter(|error| error.is_empty()).count(), 200);
    assert_eq!(results.iter().filter(|error| error.contains("did not answer within")).count(), 200);
    let down = results.iter().filter(|error| error.contains("host does not answer: ")).count();
    assert_eq!(down, 199, "the others are told without asking");
    assert_eq!(silent.accepted.load(Ordering::SeqCst), 1);
    torrents.thread.stop();
}

/// What waits when the session ends is not sent, and goodbyes that find no answer end in time.
#[test]
fn goodbyes_are_bounded_and_nothing_else_is_sent_after_closing() {
    let tracker = Tracker::start();
    let client = TrackerClientConfig {
        http_timeout: Duration::from_secs(40),
        stop_timeout: Duration::from_millis(500),
        ..Default::default()
    };
    let mut torrents = Torrents::new(100, &[vec![tracker.url.clone()]], client);
    torrents.poll();
    for _ in 0..100 {
        torrents.wait();
    }
    tracker.silent.store(true, Ordering::SeqCst);
    let now = torrents.now;
    let late = Torrents::new(50, &[vec![tracker.url.clone()]], TrackerClientConfig::default()).torrents;
    torrents.torrents.extend(late);
    for torrent in &mut torrents.torrents[100..] {
        torrent.poll(now, Totals::default(), torrents.thread.handle(), &torrents.done);
    }
    torrents.thread.handle().closing();
    for torrent in &mut torrents.torrents[..100] {
        torrent.stop(now);
    }
    torrents.poll();
    let mut ended = Vec::new();
    while !torrents.torrents[..100].iter().all(Announces::is_idle) {
        ended.push(torrents.wait());
    }
    assert!(ended.iter().any(|error| error.contains("did not answer")), "{ended:?}");
    assert_eq!(tracker.answered.load(Ordering::SeqCst), 100);
    // 32 at a time; a tracker that is slow sees those given up beside the next.
    let most = tracker.most.load(Ordering::SeqCst);
    assert!(most <= 64, "{most} of 100");
    torrents.thread.stop();
}

#[test]
fn a_stop_takes_back_what_waits() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/announce", listener.local_addr().unwrap());
    let mut torrents = Torrents::new(2, &[vec![url]], TrackerClientConfig::default());
    torrents.poll();
    // A host that has not answered yet is asked by one.
    let mut first = listener.accept().unwrap().0;
    let head = read_head(&mut first);
    let second = usize::from(head.contains("info_hash=%00"));
    torrents.torrents[second].stop(torrents.now);
    respond(&mut first, "200 OK", "", COMPACT);
    for _ in 0..2 {
        torrents.wait();
    }
    assert!(torrents.torrents[second].is_idle());
    assert_eq!(torrents.torrents[second].statuses()[0].failures, 0);
    assert_eq!(torrents.thread.handle().stats().unsent, 1);
    torrents.thread.stop();
    assert_eq!(read_head(&mut first), "", "nothing more was asked");
}

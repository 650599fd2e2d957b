use super::*;
use crate::tracker::schedule::tests::TestRng;
use crate::tracker::schedule::{Announce, Announcer, SchedulePlan};
use crate::tracker::{AnnounceResponse, Event};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};

fn plan(per_host: usize, running_max: usize) -> DispatchPlan {
    DispatchPlan { per_host, goodbyes_per_host: 2 * per_host, running_max, ..DispatchPlan::default() }
}

fn started<J>(dispatcher: &mut Dispatcher<J>, now: Instant) -> Vec<J> {
    let start = |step| match step {
        Step::Start(job) => job,
        Step::Expired(_) | Step::Down(..) => panic!("nothing is given back here"),
    };
    std::iter::from_fn(|| dispatcher.poll(now)).map(start).collect()
}

fn add(
    dispatcher: &mut Dispatcher<u32>,
    now: Instant,
    host: &str,
    urgency: Urgency,
    jobs: std::ops::Range<u32>,
) {
    for job in jobs {
        dispatcher.submit(now, host, urgency, None, job).unwrap();
    }
}

#[test]
fn one_at_a_time_until_the_first_answer_then_as_many_as_allowed() {
    let now = Instant::now();
    let mut dispatcher = Dispatcher::new(plan(3, 10));
    add(&mut dispatcher, now, "a", Urgency::Seed, 0..10);
    assert_eq!(started(&mut dispatcher, now), [0]);
    dispatcher.on_answer("a");
    assert_eq!(started(&mut dispatcher, now), [1, 2, 3]);
    dispatcher.on_other("a");
    assert_eq!(started(&mut dispatcher, now), [4]);
    assert_eq!((dispatcher.running(), dispatcher.waiting()), (3, 5));
}

#[test]
fn goodbyes_and_downloads_go_first_and_goodbyes_are_more_at_once() {
    let now = Instant::now();
    let mut dispatcher = Dispatcher::new(plan(2, 10));
    add(&mut dispatcher, now, "a", Urgency::Seed, 0..2);
    add(&mut dispatcher, now, "a", Urgency::Download, 10..12);
    assert_eq!(started(&mut dispatcher, now), [10]);
    dispatcher.on_answer("a");
    assert_eq!(started(&mut dispatcher, now), [11, 0]);
    add(&mut dispatcher, now, "a", Urgency::Goodbye, 20..24);
    assert_eq!(started(&mut dispatcher, now), [20, 21]);
}

#[test]
fn hosts_that_went_down_for_want_of_a_network_are_asked_at_once() {
    let now = Instant::now();
    let mut dispatcher = Dispatcher::new(plan(3, 10));
    add(&mut dispatcher, now, "a", Urgency::Seed, 0..2);
    assert_eq!(started(&mut dispatcher, now), [0]);
    assert!(dispatcher.on_failure(now, "a", &mut TestRng(1)));
    assert!(matches!(dispatcher.poll(now), Some(Step::Down(1, _))));
    dispatcher.forgive();
    add(&mut dispatcher, now, "a", Urgency::Seed, 2..4);
    assert_eq!((started(&mut dispatcher, now), dispatcher.hosts(now)), (vec![2], (1, 0)));
}

#[test]
fn a_dead_host_is_asked_by_one_and_holds_no_other() {
    let mut now = Instant::now();
    let mut dispatcher = Dispatcher::new(plan(4, 8));
    for dead in 0..20 {
        add(&mut dispatcher, now, &format!("dead{dead}"), Urgency::Seed, 0..50);
    }
    assert_eq!(started(&mut dispatcher, now).len(), 4, "half of the places");
    add(&mut dispatcher, now, "alive", Urgency::Seed, 1000..1100);
    // It has not answered yet, so it stands behind the others once.
    let mut rng = TestRng(1);
    let mut turns = 0;
    while !started(&mut dispatcher, now).contains(&1000) {
        assert!(dispatcher.on_failure(now, &format!("dead{turns}"), &mut rng));
        let down = std::iter::from_fn(|| match dispatcher.returned.pop_front() {
            Some(Step::Down(_, wait)) => Some(wait),
            _ => None,
        });
        assert!(down.take(49).all(|wait| wait >= Duration::from_secs(5)));
        dispatcher.waiting -= 49;
        turns += 1;
    }
    dispatcher.on_answer("alive");
    for _ in 1..100 {
        assert!(!started(&mut dispatcher, now).is_empty() || dispatcher.waiting() > 0);
        dispatcher.on_answer("alive");
    }
    // What is asked of a dead one meanwhile comes back at once; later one may try.
    dispatcher.submit(now, "dead0", Urgency::Seed, None, 7).unwrap();
    assert!(matches!(dispatcher.poll(now), Some(Step::Down(7, _))));
    now += Duration::from_secs(7);
    while dispatcher.running() > 0 {
        let name = dispatcher.hosts.iter().find(|(_, host)| host.running > 0).unwrap().0.clone();
        dispatcher.on_failure(now, &name, &mut rng);
        std::iter::from_fn(|| dispatcher.poll(now)).for_each(drop);
    }
    add(&mut dispatcher, now, "dead0", Urgency::Seed, 0..5);
    assert_eq!(started(&mut dispatcher, now), [0]);
    assert!(dispatcher.on_failure(now, "dead0", &mut rng));
    let Some(Step::Down(1, wait)) = dispatcher.poll(now) else { panic!("all the others come back") };
    assert!(wait >= Duration::from_secs(10), "doubled: {wait:?}");
}

#[test]
fn one_lost_answer_of_a_good_host_is_no_outage() {
    let now = Instant::now();
    let mut dispatcher = Dispatcher::new(plan(3, 10));
    add(&mut dispatcher, now, "a", Urgency::Seed, 0..20);
    started(&mut dispatcher, now);
    dispatcher.on_answer("a");
    let mut rng = TestRng(1);
    for _ in 0..2 {
        started(&mut dispatcher, now);
        assert!(!dispatcher.on_failure(now, "a", &mut rng));
    }
    started(&mut dispatcher, now);
    dispatcher.on_answer("a");
    for failure in 0..3 {
        started(&mut dispatcher, now);
        assert_eq!(dispatcher.on_failure(now, "a", &mut rng), failure == 2);
    }
    assert_eq!(dispatcher.hosts(now), (1, 1));
    // Those under way fail too: that is the same outage.
    let before = dispatcher.hosts["a"].down_until;
    dispatcher.on_failure(now, "a", &mut rng);
    assert_eq!(dispatcher.hosts["a"].down_until, before);
}

#[test]
fn what_waits_too_long_or_is_useless_comes_back() {
    let now = Instant::now();
    let mut dispatcher = Dispatcher::new(plan(1, 4));
    for job in 0..4 {
        let until = (job > 0).then(|| now + Duration::from_secs(2));
        dispatcher.submit(now, "a", Urgency::Goodbye, until, job).unwrap();
    }
    assert_eq!(started(&mut dispatcher, now), [0]);
    dispatcher.give_up(|job| *job == 2);
    assert_eq!(dispatcher.poll(now), Some(Step::Expired(2)));
    assert_eq!(dispatcher.poll(now), None);
    let at = dispatcher.next_wakeup().unwrap();
    assert_eq!(at, now + Duration::from_secs(2));
    let left: Vec<_> = std::iter::from_fn(|| dispatcher.poll(at)).collect();
    assert_eq!(left, [Step::Expired(1), Step::Expired(3)]);
    assert_eq!((dispatcher.next_wakeup(), dispatcher.waiting()), (None, 0));
}

#[test]
fn the_queue_and_the_memory_of_hosts_are_bounded() {
    let now = Instant::now();
    let mut dispatcher = Dispatcher::new(DispatchPlan { queue_max: 3, ..plan(1, 4) });
    add(&mut dispatcher, now, "a", Urgency::Seed, 0..3);
    assert_eq!(dispatcher.submit(now, "b", Urgency::Goodbye, None, 9), Err(9));
    let mut dispatcher = Dispatcher::new(plan(1, 4));
    for host in 0..3 * HOSTS_MAX as u32 {
        dispatcher.submit(now, &host.to_string(), Urgency::Seed, None, host).unwrap();
        assert_eq!(started(&mut dispatcher, now), [host]);
        dispatcher.on_failure(now, &host.to_string(), &mut TestRng(3));
    }
    assert!(dispatcher.hosts.len() <= HOSTS_MAX);
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Submit(u8, u8, Option<u8>),
    Answer(usize),
    Fail(usize),
    Other(usize),
    GiveUp(u8),
    Wait(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0u8..6, 0u8..3, proptest::option::weighted(0.2, 0u8..20)).prop_map(|(h, u, t)| Op::Submit(h, u, t)),
        4 => any::<usize>().prop_map(Op::Answer),
        3 => any::<usize>().prop_map(Op::Fail),
        1 => any::<usize>().prop_map(Op::Other),
        1 => (0u8..16).prop_map(Op::GiveUp),
        2 => (0u8..30).prop_map(Op::Wait),
    ]
}

proptest! {
    /// Each request ends exactly once, the caps hold, and what may start has started.
    #[test]
    fn caps_hold_under_any_sequence(ops in proptest::collection::vec(op(), 0..300), seed: u64) {
        let (mut now, mut rng) = (Instant::now(), TestRng(seed));
        let plan = DispatchPlan { queue_max: 40, ..plan(2, 6) };
        let mut dispatcher = Dispatcher::new(plan);
        let (mut running, mut pending) = (Vec::<(u32, String)>::new(), BTreeMap::new());
        let mut answered = HashSet::new();
        for (number, op) in (0u32..).zip(ops) {
            let mut take = |n: usize| (!running.is_empty()).then(|| running.swap_remove(n % running.len()).1);
            match op {
                Op::Submit(host, urgency, until) => {
                    let host = host.to_string();
                    let urgency = [Urgency::Goodbye, Urgency::Download, Urgency::Seed][usize::from(urgency)];
                    let until = until.map(|seconds| now + Duration::from_secs(seconds.into()));
                    let full = dispatcher.waiting() >= plan.queue_max;
                    prop_assert_eq!(dispatcher.submit(now, &host, urgency, until, number).is_err(), full);
                    if !full {
                        pending.insert(number, host);
                    }
                }
                Op::Answer(n) => if let Some(host) = take(n) {
                    dispatcher.on_answer(&host);
                    answered.insert(host);
                },
                Op::Fail(n) => if let Some(host) = take(n)
                    && dispatcher.on_failure(now, &host, &mut rng)
                {
                    answered.remove(&host);
                },
                Op::Other(n) => if let Some(host) = take(n) {
                    dispatcher.on_other(&host);
                },
                Op::GiveUp(part) => dispatcher.give_up(|job| job % 16 == u32::from(part)),
                Op::Wait(seconds) => now += Duration::from_secs(seconds.into()),
            }
            while let Some(step) = dispatcher.poll(now) {
                let (Step::Start(job) | Step::Expired(job) | Step::Down(job, _)) = step;
                let host = pending.remove(&job);
                prop_assert!(host.is_some(), "a request ends once");
                if let (Step::Start(_), Some(host)) = (step, host) {
                    if !answered.contains(&host) {
                        prop_assert!(running.iter().all(|(_, other)| *other != host || answered.contains(other)));
                    }
                    running.push((job, host));
                }
            }
            prop_assert_eq!((dispatcher.running(), dispatcher.waiting()), (running.len(), pending.len()));
            prop_assert!(running.len() <= plan.running_max);
            let unproven: usize = dispatcher.hosts.values().filter(|host| !host.proven).map(|host| host.running).sum();
            prop_assert_eq!(dispatcher.running_unproven, unproven);
            for host in dispatcher.hosts.values() {
                prop_assert!(host.running <= plan.goodbyes_per_host);
                let room = running.len() < plan.running_max && (host.proven || unproven < plan.running_max / 2);
                prop_assert!(!room || !host.may_start(&plan), "what may start has started");
            }
        }
    }
}

/// Torrents of one seedbox, and trackers that answer after a tenth of a second, or never (a time-out of 30 s).
struct Swarm {
    now: Instant,
    torrents: Vec<Announcer>,
    dispatcher: Dispatcher<(usize, Announce)>,
    /// By time: torrent, announce, whether it is answered.
    under_way: BTreeMap<(Instant, u64), (usize, Announce, bool)>,
    due: BTreeMap<(Instant, usize), ()>,
    rng: TestRng,
    response: AnnounceResponse,
    /// When which torrent's announce was sent to a tracker that answers.
    sent: Vec<(Instant, usize, Event)>,
    most: BTreeMap<String, usize>,
}

impl Swarm {
    fn new(urls: &[Vec<String>], torrents: usize, response: AnnounceResponse) -> Self {
        let (now, mut rng) = (Instant::now(), TestRng(9));
        let plan = SchedulePlan::default();
        Self {
            now,
            torrents: (0..torrents).map(|_| Announcer::new(plan, urls, now, &mut rng)).collect(),
            dispatcher: Dispatcher::new(DispatchPlan::default()),
            under_way: BTreeMap::new(),
            due: (0..torrents).map(|torrent| ((now, torrent), ())).collect(),
            rng,
            response,
            sent: Vec::new(),
            most: BTreeMap::new(),
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            while self.due.first_key_value().is_some_and(|((at, _), ())| *at <= self.now) {
                let ((_, torrent), ()) = self.due.pop_first().unwrap();
                self.poll(torrent);
            }
            while self.under_way.first_key_value().is_some_and(|((at, _), _)| *at <= self.now) {
                let (_, (torrent, announce, good)) = self.under_way.pop_first().unwrap();
                self.ended(torrent, &announce, good);
            }
            self.dispatch();
            let next = self.due.keys().map(|(at, _)| *at).next();
            let next = next.into_iter().chain(self.under_way.keys().map(|(at, _)| *at).next()).min();
            self.now = next.unwrap_or(end).max(self.now);
        }
    }

    fn poll(&mut self, torrent: usize) {
        while let Some(announce) = self.torrents[torrent].poll(self.now) {
            let host = announce.url.clone();
            self.dispatcher.submit(self.now, &host, Urgency::Seed, None, (torrent, announce)).unwrap();
        }
        if let Some(at) = self.torrents[torrent].next_wakeup(self.now) {
            self.due.insert((at, torrent), ());
        }
    }

    fn dispatch(&mut self) {
        while let Some(step) = self.dispatcher.poll(self.now) {
            match step {
                Step::Start((torrent, announce)) => {
                    let good = !announce.url.contains("dead");
                    let time = Duration::from_millis(if good { 100 } else { 30_000 });
                    if good {
                        self.sent.push((self.now, torrent, announce.event));
                    }
                    let running = self.dispatcher.hosts[&announce.url].running;
                    let most = self.most.entry(announce.url.clone()).or_default();
                    *most = (*most).max(running);
                    let serial = self.rng.random();
                    self.under_way.insert((self.now + time, serial), (torrent, announce, good));
                }
                Step::Down((torrent, announce), wait) => {
                    let retry = Some(crate::tracker::RetryIn::Down(wait));
                    self.torrents[torrent].on_failure(self.now, announce.token, "down", retry, &mut self.rng);
                    self.poll(torrent);
                }
                Step::Expired(_) => unreachable!("nothing expires here"),
            }
        }
    }

    fn ended(&mut self, torrent: usize, announce: &Announce, good: bool) {
        if good {
            self.dispatcher.on_answer(&announce.url);
            self.torrents[torrent].on_response(self.now, announce.token, &self.response, &mut self.rng);
        } else {
            self.dispatcher.on_failure(self.now, &announce.url, &mut self.rng);
            self.torrents[torrent].on_failure(self.now, announce.token, "silence", None, &mut self.rng);
        }
        self.poll(torrent);
    }
}

#[test]
fn ten_thousand_torrents_spread_over_the_interval_behind_a_dead_first_tracker() {
    let interval = Duration::from_secs(1800);
    let urls = vec![vec!["udp://dead:1/".to_owned()], vec!["http://good:1/".to_owned()]];
    let response =
        AnnounceResponse { interval, min_interval: Some(interval / 2), ..AnnounceResponse::default() };
    let mut swarm = Swarm::new(&urls, 10_000, response);
    let begin = swarm.now;
    swarm.run(interval * 4);
    assert!(swarm.most["http://good:1/"] <= 8 && swarm.most["udp://dead:1/"] == 1, "{:?}", swarm.most);
    let first: HashSet<_> =
        swarm.sent.iter().filter(|sent| sent.2 == Event::Started).map(|sent| sent.1).collect();
    assert_eq!(first.len(), 10_000);
    let last = swarm.sent.iter().filter(|sent| sent.2 == Event::Started).map(|sent| sent.0).max().unwrap();
    assert!(last - begin < Duration::from_secs(140), "8 at a time and 0.1 s each: {:?}", last - begin);
    // In minutes of the last two intervals: even, not all at once.
    let mut minutes = vec![0usize; 60];
    for (at, ..) in swarm.sent.iter().filter(|sent| sent.0 >= begin + interval * 2) {
        minutes[((*at - begin - interval * 2).as_secs() / 60).min(59) as usize] += 1;
    }
    let mean = minutes.iter().sum::<usize>() / minutes.len();
    assert!(minutes.iter().all(|count| *count < 3 * mean), "{mean}: {minutes:?}");
    // Each keeps to its tracker's times.
    let mut before = BTreeMap::new();
    for (at, torrent, _) in &swarm.sent {
        if let Some(before) = before.insert(*torrent, *at) {
            let wait = *at - before;
            assert!(wait >= interval / 2 && wait <= interval + Duration::from_secs(5), "{wait:?}");
        }
    }
}

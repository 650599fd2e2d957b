use super::*;
use crate::tracker::INTERVAL_DEFAULT;
use proptest::prelude::*;
use std::collections::HashMap;

/// Deterministic stand-in for a random source (splitmix64).
pub(in crate::tracker) struct TestRng(pub u64);

impl rand::TryRng for TestRng {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(self.try_next_u64()? as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(z ^ (z >> 31))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.try_next_u64()?.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

fn tiers(sizes: &[usize]) -> Vec<Vec<String>> {
    let url = |tier, n| format!("udp://t{tier}-{n}.example:1/announce");
    sizes.iter().enumerate().map(|(tier, size)| (0..*size).map(|n| url(tier, n)).collect()).collect()
}

fn announcer(sizes: &[usize], all_tiers: bool, now: Instant) -> Announcer {
    let plan = SchedulePlan { announce_to_all_tiers: all_tiers, ..SchedulePlan::default() };
    Announcer::new(plan, &tiers(sizes), now, &mut TestRng(7))
}

fn drain(announcer: &mut Announcer, now: Instant) -> Vec<Announce> {
    std::iter::from_fn(|| announcer.poll(now)).collect()
}

fn ok() -> AnnounceResponse {
    AnnounceResponse::default()
}

fn fail(announcer: &mut Announcer, now: Instant, announce: &Announce) {
    announcer.on_failure(now, announce.token, "no answer", None, &mut TestRng(3));
}

#[test]
fn one_tracker_per_tier_or_one_overall() {
    let now = Instant::now();
    assert_eq!(drain(&mut announcer(&[2, 3], true, now), now).len(), 2);
    assert_eq!(drain(&mut announcer(&[2, 3], false, now), now).len(), 1);
    let mut none = announcer(&[], true, now);
    assert_eq!((none.poll(now), none.next_wakeup(now)), (None, None));
}

#[test]
fn odd_urls_are_left_out() {
    let urls =
        ["wss://a/b", "http://a/", "HTTPS://a/", "http://a/", "nonsense", ""].map(str::to_owned).to_vec();
    let now = Instant::now();
    let announcer = Announcer::new(SchedulePlan::default(), &[urls], now, &mut TestRng(1));
    let kept: Vec<_> = announcer.statuses().map(|status| status.url.as_str()).collect();
    assert_eq!(kept, ["http://a/", "HTTPS://a/"]);
    let many = Announcer::new(SchedulePlan::default(), &tiers(&[2 * TRACKERS_MAX]), now, &mut TestRng(1));
    assert_eq!(many.statuses().len(), TRACKERS_MAX);
}

#[test]
fn tiers_are_shuffled_but_never_mixed() {
    let now = Instant::now();
    let mut firsts = HashSet::new();
    for seed in 0..50 {
        let mut announcer = Announcer::new(SchedulePlan::default(), &tiers(&[3, 1]), now, &mut TestRng(seed));
        let sent = drain(&mut announcer, now);
        firsts.insert(sent[0].token.tracker.0);
        assert_eq!(sent[1].token.tracker.0, 3);
    }
    assert_eq!(firsts, HashSet::from([0, 1, 2]));
}

#[test]
fn failure_goes_to_the_next_tracker_and_success_moves_it_to_the_front() {
    let t0 = Instant::now();
    let mut announcer = announcer(&[3, 1], false, t0);
    let first = announcer.poll(t0).unwrap();
    fail(&mut announcer, t0, &first);
    let second = announcer.poll(t0).unwrap();
    assert_ne!(first.token.tracker, second.token.tracker);
    assert_eq!(second.event, Event::Started);
    announcer.on_response(t0, second.token, &ok(), &mut TestRng(5));
    let next = announcer.next_wakeup(t0).unwrap();
    assert!((t0 + INTERVAL_DEFAULT..=t0 + INTERVAL_DEFAULT + INTERVAL_DEFAULT / 10).contains(&next));
    let again = announcer.poll(next).unwrap();
    assert_eq!((again.token.tracker, again.event), (second.token.tracker, Event::None));
    // All of the first tier comes before the second one.
    let mut order = vec![again.token.tracker.0];
    fail(&mut announcer, next, &again);
    for _ in 0..3 {
        let announce = announcer.poll(next).unwrap();
        order.push(announce.token.tracker.0);
        fail(&mut announcer, next, &announce);
    }
    assert_eq!(order[3], 3);
    assert_eq!(announcer.poll(next), None, "all are backing off");
}

#[test]
fn backoff_doubles_up_to_its_limit() {
    let mut now = Instant::now();
    let mut announcer = announcer(&[1], true, now);
    let mut waits = Vec::new();
    for _ in 0..15 {
        let announce = announcer.poll(now).unwrap();
        fail(&mut announcer, now, &announce);
        let next = announcer.next_wakeup(now).unwrap();
        waits.push((next - now).as_secs_f64());
        assert_eq!(announcer.poll(next - Duration::from_millis(1)), None);
        now = next;
    }
    for (n, wait) in waits.iter().enumerate() {
        let least = (5.0 * 2f64.powi(n as i32)).min(1800.0);
        assert!((least..=(least * 1.25).min(1800.0)).contains(wait), "{n}: {wait}");
    }
}

#[test]
fn the_trackers_own_retry_time_counts() {
    let now = Instant::now();
    let mut announcer = announcer(&[2], true, now);
    let first = announcer.poll(now).unwrap();
    announcer.on_failure(now, first.token, "closed", Some(RetryIn::Never), &mut TestRng(1));
    let second = announcer.poll(now).unwrap();
    let hour = Duration::from_secs(3600);
    announcer.on_failure(now, second.token, "busy", Some(RetryIn::After(hour)), &mut TestRng(1));
    assert_eq!(announcer.next_wakeup(now), Some(now + hour));
    assert_eq!(announcer.poll(now + hour).unwrap().token.tracker, second.token.tracker);
}

#[test]
fn started_completed_stopped_reach_who_shall_know() {
    let t0 = Instant::now();
    let mut announcer = announcer(&[1, 1, 1], true, t0);
    let sent = drain(&mut announcer, t0);
    let answer = AnnounceResponse { tracker_id: Some(b"id".to_vec()), ..ok() };
    announcer.on_response(t0, sent[0].token, &answer, &mut TestRng(5));
    fail(&mut announcer, t0, &sent[1]);
    // The third one is still under way when the download ends.
    announcer.on_completed(t0);
    let completed = announcer.poll(t0).unwrap();
    assert_eq!((completed.token.tracker, completed.event), (sent[0].token.tracker, Event::Completed));
    assert_eq!(completed.tracker_id.as_deref(), Some(&b"id"[..]));
    announcer.on_response(t0, completed.token, &ok(), &mut TestRng(5));
    announcer.on_response(t0, sent[2].token, &ok(), &mut TestRng(5));
    let third = announcer.poll(t0).unwrap();
    assert_eq!((third.token.tracker, third.event), (sent[2].token.tracker, Event::Completed));
    fail(&mut announcer, t0, &third);
    let later = t0 + Duration::from_secs(60);
    let events: Vec<_> =
        drain(&mut announcer, later).into_iter().map(|a| (a.token.tracker.0, a.event)).collect();
    assert_eq!(events, [(1, Event::Started), (2, Event::Completed)]);
    let stopped = announcer.stop(later);
    let told: Vec<_> = stopped.iter().map(|a| (a.token.tracker.0, a.event)).collect();
    // The third one is told when it has answered the `completed` that is under way.
    assert_eq!(told, [(0, Event::Stopped)]);
    assert_eq!(stopped[0].tracker_id.as_deref(), Some(&b"id"[..]));
    fail(&mut announcer, later, &stopped[0]);
    assert_eq!(announcer.next_wakeup(later), None);
}

#[test]
fn a_started_answered_after_stop_is_undone() {
    let now = Instant::now();
    let mut announcer = announcer(&[1], true, now);
    let started = announcer.poll(now).unwrap();
    assert_eq!(announcer.stop(now), []);
    assert_eq!(announcer.next_wakeup(now), None);
    announcer.on_response(now, started.token, &ok(), &mut TestRng(5));
    assert_eq!(announcer.next_wakeup(now), Some(now));
    assert_eq!(announcer.poll(now).unwrap().event, Event::Stopped);
    announcer.restart(now);
    assert_eq!(announcer.poll(now).unwrap().event, Event::Started);
}

#[test]
fn forced_announces_respect_the_min_interval() {
    let t0 = Instant::now();
    let mut announcer = announcer(&[2], true, t0);
    let announce = announcer.poll(t0).unwrap();
    let min = Duration::from_secs(300);
    announcer.on_response(
        t0,
        announce.token,
        &AnnounceResponse { min_interval: Some(min), ..ok() },
        &mut TestRng(5),
    );
    announcer.announce_now(t0);
    assert_eq!(announcer.poll(t0), None);
    assert_eq!(announcer.next_wakeup(t0), Some(t0 + min));
    assert_eq!(announcer.poll(t0 + min).unwrap().token.tracker, announce.token.tracker);
    announcer.on_response(t0, announce.token, &ok(), &mut TestRng(5));
    assert_eq!(announcer.next_wakeup(t0 + min), None, "an old token answers nothing");
}

#[test]
fn a_network_that_is_back_ends_back_offs_and_no_refusals() {
    let t0 = Instant::now();
    let later = RetryIn::After(Duration::from_secs(60));
    let down = RetryIn::Down(Duration::from_secs(60));
    for (refusal, again) in
        [(None, true), (Some(down), true), (Some(later), false), (Some(RetryIn::Never), false)]
    {
        let mut announcer = announcer(&[1], true, t0);
        let announce = announcer.poll(t0).unwrap();
        announcer.on_failure(t0, announce.token, "no route", refusal, &mut TestRng(5));
        assert_eq!(announcer.poll(t0), None);
        announcer.forgive(t0);
        assert_eq!(announcer.poll(t0).map(|announce| announce.event), again.then_some(Event::Started));
        assert_eq!(announcer.statuses().next().unwrap().failures, u32::from(!again));
    }
}

/// Times of the announces after `started`, as shares of the interval.
fn waits(min_interval: Option<Duration>, seed: u64) -> Vec<f64> {
    let mut now = Instant::now();
    let mut announcer = announcer(&[1], true, now);
    let mut rng = TestRng(seed);
    let response = AnnounceResponse { min_interval, ..ok() };
    let mut waits = Vec::new();
    for _ in 0..4 {
        let announce = announcer.poll(now).unwrap();
        announcer.on_response(now, announce.token, &response, &mut rng);
        let next = announcer.next_wakeup(now).unwrap();
        waits.push((next - now).div_duration_f64(INTERVAL_DEFAULT));
        now = next;
    }
    waits
}

#[test]
fn torrents_drift_apart_and_keep_to_both_intervals() {
    let mut seconds = Vec::new();
    for seed in 0..200 {
        for wait in waits(None, seed) {
            assert!((1.0..=1.1).contains(&wait), "never sooner where nothing allows it: {wait}");
        }
        let allowed = waits(Some(INTERVAL_DEFAULT / 3), seed);
        assert!((0.5..=1.0).contains(&allowed[0]), "{allowed:?}");
        assert!(allowed[1..].iter().all(|wait| (0.9..=1.0).contains(wait)), "{allowed:?}");
        seconds.push(allowed[0]);
        let narrow = waits(Some(INTERVAL_DEFAULT * 19 / 20), seed);
        assert!(narrow.iter().all(|wait| (0.95..=1.0).contains(wait)), "{narrow:?}");
    }
    for quarter in 0..4 {
        let from = 0.5 + 0.125 * f64::from(quarter);
        let count = seconds.iter().filter(|wait| (from..from + 0.125).contains(*wait)).count();
        assert!((25..80).contains(&count), "{count} of 200 in one quarter of the half");
    }
}

#[test]
fn what_was_not_sent_is_due_again_and_is_nobodys_fault() {
    let now = Instant::now();
    let mut announcer = announcer(&[2], true, now);
    let first = announcer.poll(now).unwrap();
    let later = now + Duration::from_secs(7);
    announcer.on_deferred(first.token, later);
    assert_eq!((announcer.poll(now), announcer.next_wakeup(now)), (None, Some(later)));
    let again = announcer.poll(later).unwrap();
    assert_eq!((again.token.tracker, again.event), (first.token.tracker, Event::Started));
    assert!(announcer.statuses().all(|status| status.failures == 0));
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Wait(u16),
    Wakeup,
    Answer(usize, u16, Option<u16>),
    Fail(usize, Option<u16>),
    Force,
    Complete,
    Stop,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => any::<u16>().prop_map(Op::Wait),
        6 => Just(Op::Wakeup),
        6 => (any::<usize>(), 60u16.., any::<Option<u16>>()).prop_map(|(n, i, m)| Op::Answer(n, i, m)),
        5 => (any::<usize>(), proptest::option::weighted(0.2, 0u16..100)).prop_map(|(n, r)| Op::Fail(n, r)),
        2 => Just(Op::Force),
        1 => Just(Op::Complete),
        1 => Just(Op::Stop),
        1 => Just(Op::Restart),
    ]
}

/// What trackers would remember of us, and the promises made to them.
#[derive(Default)]
struct Known {
    started: HashSet<usize>,
    completed: HashSet<usize>,
    stopped: HashSet<usize>,
    silent_until: HashMap<usize, Instant>,
    no_regular_until: HashMap<usize, Instant>,
    in_flight: Vec<Announce>,
    complete: bool,
}

impl Known {
    fn check(&mut self, announce: Announce, now: Instant, tier_of: impl Fn(usize) -> usize) {
        let tracker = announce.token.tracker.0;
        assert!(!self.stopped.contains(&tracker), "no word after stopped");
        match announce.event {
            Event::Started => assert!(!self.started.contains(&tracker)),
            Event::Completed => {
                assert!(self.complete && self.started.contains(&tracker) && self.completed.insert(tracker))
            }
            Event::Stopped => assert!(self.started.contains(&tracker) && self.stopped.insert(tracker)),
            Event::None => {
                assert!(self.started.contains(&tracker));
                assert!(self.no_regular_until.get(&tracker).is_none_or(|at| *at <= now), "min interval");
            }
        }
        if announce.event != Event::Stopped {
            assert!(self.silent_until.get(&tracker).is_none_or(|at| *at <= now), "back-off");
            let tier = tier_of(tracker);
            assert!(
                self.in_flight.iter().all(|other| tier_of(other.token.tracker.0) != tier),
                "one at a time"
            );
        }
        self.in_flight.push(announce);
    }

    fn answered(&mut self, now: Instant, announce: &Announce, response: &AnnounceResponse) {
        let tracker = announce.token.tracker.0;
        if announce.event == Event::Started {
            self.started.insert(tracker);
        }
        self.silent_until.remove(&tracker);
        self.no_regular_until.insert(tracker, now + response.min_interval.unwrap_or(INTERVAL_MIN));
    }

    fn failed(&mut self, now: Instant, announce: &Announce, least: Option<Duration>) {
        let tracker = announce.token.tracker.0;
        if announce.event == Event::Completed {
            self.completed.remove(&tracker);
        }
        self.silent_until.insert(tracker, now + least.unwrap_or_default().max(Duration::from_secs(5)));
    }
}

proptest! {
    #[test]
    fn promises_hold_under_any_sequence(
        sizes in proptest::collection::vec(0usize..4, 0..4),
        all_tiers: bool,
        seed: u64,
        ops in proptest::collection::vec(op(), 0..120),
    ) {
        let mut now = Instant::now();
        let mut rng = TestRng(seed);
        let plan = SchedulePlan { announce_to_all_tiers: all_tiers, ..SchedulePlan::default() };
        let mut announcer = Announcer::new(plan, &tiers(&sizes), now, &mut rng);
        let tier_of_tracker: Vec<usize> = announcer.statuses().map(|status| status.tier).collect();
        let tier_of = |tracker: usize| if all_tiers { tier_of_tracker[tracker] } else { 0 };
        let mut known = Known::default();
        for op in ops {
            match op {
                Op::Wait(seconds) => now += Duration::from_secs(seconds.into()),
                Op::Wakeup => if let Some(at) = announcer.next_wakeup(now) {
                    prop_assert!(at >= now);
                    if at > now {
                        prop_assert_eq!(announcer.poll(now), None);
                    }
                    now = at;
                },
                Op::Answer(n, interval, min) if !known.in_flight.is_empty() => {
                    let announce = known.in_flight.swap_remove(n % known.in_flight.len());
                    let seconds = |s: u16| Duration::from_secs(s.into());
                    let response = AnnounceResponse { interval: seconds(interval), min_interval: min.map(seconds), ..ok() };
                    known.answered(now, &announce, &response);
                    announcer.on_response(now, announce.token, &response, &mut rng);
                }
                Op::Fail(n, retry) if !known.in_flight.is_empty() => {
                    let announce = known.in_flight.swap_remove(n % known.in_flight.len());
                    let least = retry.map(|seconds| Duration::from_secs(seconds.into()));
                    known.failed(now, &announce, least);
                    announcer.on_failure(now, announce.token, "x", least.map(RetryIn::After), &mut rng);
                }
                Op::Answer(..) | Op::Fail(..) => {}
                Op::Force => announcer.announce_now(now),
                Op::Complete => if !known.complete {
                    known.complete = true;
                    announcer.on_completed(now);
                },
                Op::Stop => {
                    // Announces to trackers that know us are given up; their answers would come too late.
                    let Known { in_flight, started, .. } = &mut known;
                    in_flight.retain(|a| !started.contains(&a.token.tracker.0) || a.event == Event::Stopped);
                    for announce in announcer.stop(now) {
                        known.check(announce, now, tier_of);
                    }
                }
                Op::Restart => {
                    announcer.restart(now);
                    known = Known::default();
                }
            }
            while let Some(announce) = announcer.poll(now) {
                known.check(announce, now, tier_of);
            }
            if let Some(at) = announcer.next_wakeup(now) {
                prop_assert!(at > now, "a drained announcer must not spin");
            }
        }
    }
}

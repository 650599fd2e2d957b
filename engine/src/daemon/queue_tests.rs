use super::*;
use proptest::prelude::*;

const START: Look = Look { wanted: true, forced: false, complete: false, busy: false, rate: 1 << 20 };

fn limits(downloads: u32) -> QueueLimits {
    QueueLimits {
        active_downloads: Some(downloads),
        active_seeds: Some(1),
        active_limit: None,
        slow_rate: 100,
        slow_after: Duration::from_secs(60),
    }
}

fn queue(count: usize) -> Queue<usize> {
    let mut queue = Queue::new();
    (0..count).for_each(|key| queue.push(key));
    queue
}

fn running(queue: &Queue<usize>) -> Vec<usize> {
    queue.order().iter().copied().filter(|key| queue.runs(*key)).collect()
}

#[test]
fn the_first_of_the_order_run() {
    let (mut queue, now) = (queue(4), Instant::now());
    let decided = queue.decide(&limits(2), now, |_| START);
    assert_eq!(decided, [0, 1].map(|key| Decision { key, runs: true }));
    assert!(queue.decide(&limits(2), now, |_| START).is_empty(), "nothing is new");
    assert!(queue.step(3, Step::Top));
    let decided = queue.decide(&limits(2), now, |_| START);
    assert_eq!(decided, [Decision { key: 1, runs: false }, Decision { key: 3, runs: true }]);
    let paused = |key| Look { wanted: key != 0, ..START };
    queue.decide(&limits(2), now, paused);
    assert_eq!(running(&queue), [3, 1]);
}

#[test]
fn seeds_have_places_of_their_own() {
    let (mut queue, now) = (queue(4), Instant::now());
    let look = |key| Look { complete: key < 2, ..START };
    queue.decide(&limits(1), now, look);
    assert_eq!(running(&queue), [0, 2]);
    let one = QueueLimits { active_limit: Some(1), ..limits(1) };
    queue.decide(&one, now, look);
    assert_eq!(running(&queue), [2], "downloads come first");
}

#[test]
fn a_slow_one_runs_on_without_counting() {
    let (mut queue, now) = (queue(3), Instant::now());
    let slow = |key: usize| Look { rate: if key == 0 { 99 } else { 100 }, ..START };
    let at = |seconds| now + Duration::from_secs(seconds);
    queue.decide(&limits(1), at(0), slow);
    queue.decide(&limits(1), at(1), slow);
    queue.decide(&limits(1), at(60), slow);
    assert_eq!(running(&queue), [0], "slow since second 1");
    queue.decide(&limits(1), at(61), slow);
    assert_eq!(running(&queue), [0, 1]);
    queue.decide(&limits(1), at(62), |_| START);
    assert_eq!(running(&queue), [0], "it is fast again, and counts");
    queue.decide(&limits(1), at(200), |key| Look { busy: true, ..slow(key) });
    queue.decide(&limits(1), at(300), |key| Look { busy: true, ..slow(key) });
    assert_eq!(running(&queue), [0], "a check is not slow");
    let never = QueueLimits { slow_rate: 0, ..limits(1) };
    let none = |_| Look { rate: 0, ..START };
    queue.decide(&never, at(400), none);
    queue.decide(&never, at(4000), none);
    assert_eq!(running(&queue), [0], "the rule is off");
}

#[test]
fn a_forced_one_runs_and_does_not_count() {
    let (mut queue, now) = (queue(3), Instant::now());
    let forced = |key| Look { forced: key == 2, ..START };
    queue.decide(&limits(1), now, forced);
    assert_eq!(running(&queue), [0, 2]);
    queue.decide(&limits(1), now, |key| Look { wanted: key != 2, ..forced(key) });
    assert_eq!(running(&queue), [0], "paused counts more");
}

#[test]
fn steps_move_one_and_keep_the_others_order() {
    let mut queue = queue(4);
    for (key, step, order, changes) in [
        (2, Step::Up, [0, 2, 1, 3], true),
        (0, Step::Up, [0, 2, 1, 3], false),
        (0, Step::Down, [2, 0, 1, 3], true),
        (3, Step::Top, [3, 2, 0, 1], true),
        (2, Step::Bottom, [3, 0, 1, 2], true),
        (2, Step::Down, [3, 0, 1, 2], false),
    ] {
        assert_eq!(queue.step(key, step), changes, "{key} {step:?}");
        assert_eq!(queue.order(), order);
    }
    assert!(!queue.step(9, Step::Top), "unknown");
}

#[derive(Clone, Debug)]
enum Op {
    Push(usize),
    Remove(usize),
    Step(usize, Step),
    Change(usize, Look),
    Limits(QueueLimits),
    Pass(u64),
}

fn ops() -> impl Strategy<Value = Op> {
    let key = 0..12usize;
    let step = prop_oneof![Just(Step::Up), Just(Step::Down), Just(Step::Top), Just(Step::Bottom)];
    let look =
        (any::<bool>(), prop::bool::weighted(0.1), any::<bool>(), prop::bool::weighted(0.1), 0..200u64)
            .prop_map(|(wanted, forced, complete, busy, rate)| Look { wanted, forced, complete, busy, rate });
    let most = || prop::option::of(0..5u32);
    let limits = (most(), most(), most(), 0..200u64, 0..50u64).prop_map(|(down, seeds, all, rate, after)| {
        let slow_after = Duration::from_secs(after);
        QueueLimits {
            active_downloads: down,
            active_seeds: seeds,
            active_limit: all,
            slow_rate: rate,
            slow_after,
        }
    });
    prop_oneof![
        2 => key.clone().prop_map(Op::Push),
        1 => key.clone().prop_map(Op::Remove),
        1 => (key.clone(), step).prop_map(|(key, step)| Op::Step(key, step)),
        4 => (key, look).prop_map(|(key, look)| Op::Change(key, look)),
        1 => limits.prop_map(Op::Limits),
        2 => (0..40u64).prop_map(Op::Pass),
    ]
}

/// Everything that must hold after a decision; `slow` comes from a model of its own.
fn assert_sound(queue: &Queue<usize>, looks: &[Look], limits: &QueueLimits, slow: &dyn Fn(usize) -> bool) {
    let of = |complete: bool| {
        let managed = move |key: &usize| {
            let look = &looks[*key];
            look.wanted && !look.forced && look.complete == complete
        };
        queue.order().iter().copied().filter(move |key| managed(key))
    };
    for key in queue.order() {
        let look = looks[*key];
        assert!(look.wanted || !queue.runs(*key), "{key} is not wanted");
        assert!(!(look.wanted && look.forced) || queue.runs(*key), "{key} is forced");
    }
    let total =
        [false, true].iter().flat_map(|complete| of(*complete)).filter(|key| queue.runs(*key)).count();
    let is_full = limits.active_limit.is_some_and(|limit| total >= limit as usize);
    assert!(limits.active_limit.is_none_or(|limit| total <= limit as usize), "{total} run");
    for (complete, limit) in [(false, limits.active_downloads), (true, limits.active_seeds)] {
        let counted = of(complete).filter(|key| queue.runs(*key) && !slow(*key)).count();
        assert!(limit.is_none_or(|limit| counted <= limit as usize), "{counted} count");
        let mut waits = false;
        for key in of(complete) {
            if !queue.runs(key) {
                waits = true;
                assert!(is_full || limit.is_some_and(|limit| counted >= limit as usize), "{key} could run");
            } else {
                assert!(!waits || slow(key), "{key} runs before one that stands before it");
            }
        }
    }
}

proptest! {
    #[test]
    fn decisions_keep_limits_and_order(all in prop::collection::vec(ops(), 1..80)) {
        let mut queue = Queue::new();
        let mut looks = [START; 12];
        let mut limits = limits(2);
        let mut now = Instant::now();
        let mut known = std::collections::BTreeSet::new();
        // The model of slowness: since when each is slow while it runs.
        let mut since: HashMap<usize, Instant> = HashMap::new();
        for op in all {
            match op {
                Op::Push(key) => { queue.push(key); known.insert(key); }
                Op::Remove(key) => { queue.remove(key); known.remove(&key); since.remove(&key); }
                Op::Step(key, step) => { queue.step(key, step); }
                Op::Change(key, look) => looks[key] = look,
                Op::Limits(new) => limits = new,
                Op::Pass(seconds) => now += Duration::from_secs(seconds),
            }
            let ran: Vec<usize> = running(&queue);
            for (key, look) in looks.iter().enumerate() {
                let is_managed = look.wanted && !look.forced;
                if is_managed && ran.contains(&key) && !look.busy && look.rate < limits.slow_rate {
                    since.entry(key).or_insert(now);
                } else {
                    since.remove(&key);
                }
            }
            let decided = queue.decide(&limits, now, |key| looks[key]);
            for Decision { key, runs } in &decided {
                assert_eq!(*runs, queue.runs(*key));
                assert_ne!(*runs, ran.contains(key), "a decision is a change");
            }
            let after = limits.slow_after;
            let slow = |key: usize| {
                ran.contains(&key) && queue.runs(key)
                    && since.get(&key).is_some_and(|since| now.duration_since(*since) >= after)
            };
            assert_sound(&queue, &looks, &limits, &slow);
            for Decision { key, .. } in decided { since.remove(&key); }
            let mut order = queue.order().to_vec();
            order.sort_unstable();
            assert_eq!(order, known.iter().copied().collect::<Vec<_>>());
        }
    }
}

//! Properties of a shared limit: a model of several shards whose requests and grants take time.

use std::collections::VecDeque;

use super::*;
use crate::rate::Quota;
use proptest::prelude::*;

const US: Duration = Duration::from_micros(1);
/// One turn of the model.
const STEP: Duration = Duration::from_micros(250);

struct ModelShard {
    quota: Quota,
    /// Bytes per second that its peers would move.
    demand: u64,
    moved: u64,
    /// Bytes that its peers would have moved by now.
    backlog: u64,
    /// Billionths of a byte that a turn's demand left over.
    carry: u128,
}

enum Message {
    Ask(usize, u64),
    Grant(usize, u64),
}

struct Model {
    now: Instant,
    keeper: SharedBucket,
    shards: Vec<ModelShard>,
    /// What is on its way, and when it arrives.
    messages: VecDeque<(Instant, Message)>,
    delay: Duration,
    dealt: u64,
}

impl Model {
    fn new(rate: u64, demands: &[u64], delay: Duration) -> Self {
        let now = Instant::now();
        let shard = |demand: &u64| {
            let mut quota = Quota::default();
            quota.set_rate(rate);
            ModelShard { quota, demand: *demand, moved: 0, backlog: 0, carry: 0 }
        };
        let shards = demands.iter().map(shard).collect();
        let keeper = SharedBucket::new(now, rate);
        Self { now, keeper, shards, messages: VecDeque::new(), delay, dealt: 0 }
    }

    fn step(&mut self) {
        self.now += STEP;
        while self.messages.front().is_some_and(|(at, _)| *at <= self.now) {
            match self.messages.pop_front().expect("looked at").1 {
                Message::Ask(shard, bytes) => self.keeper.ask(shard, bytes),
                Message::Grant(shard, bytes) => self.shards[shard].quota.answered(bytes),
            }
        }
        let mut grants = Vec::new();
        self.keeper.deal(self.now, &mut grants);
        for (shard, bytes) in grants {
            self.dealt += bytes;
            self.messages.push_back((self.now + self.delay, Message::Grant(shard, bytes)));
        }
        for (nth, shard) in self.shards.iter_mut().enumerate() {
            let comes = u128::from(shard.demand) * STEP.as_nanos() + shard.carry;
            shard.carry = comes % 1_000_000_000;
            let comes = (comes / 1_000_000_000) as u64;
            // Peers do not hoard: what they could not move is lost beyond a socket buffer.
            shard.backlog = (shard.backlog + comes).min(4 * comes + (1 << 20));
            let bytes = shard.backlog.min(shard.quota.available());
            shard.quota.consume(bytes);
            shard.backlog -= bytes;
            shard.moved += bytes;
            let need = u64::from(shard.backlog > 0);
            if (need > 0 || bytes > 0)
                && let Some(bytes) = shard.quota.ask(need)
            {
                self.messages.push_back((self.now + self.delay, Message::Ask(nth, bytes)));
            }
        }
    }

    /// Tokens that were dealt and not spent: at the shards, or on their way there.
    fn at_hand(&self) -> i64 {
        let under_way = self.messages.iter().map(|(_, message)| match message {
            Message::Grant(_, bytes) => *bytes as i64,
            Message::Ask(..) => 0,
        });
        self.shards.iter().map(|shard| shard.quota.tokens()).chain(under_way).sum()
    }

    /// As [`Self::rates`], which have to be fair.
    fn assert_fair(&mut self, rate: u64, tolerance: f64, time: Duration) {
        let before = self.at_hand();
        let rates = self.rates(time);
        let seconds = time.as_secs_f64();
        let kept = (self.at_hand() - before) as f64 / seconds;
        let demands: Vec<u64> = self.shards.iter().map(|shard| shard.demand).collect();
        assert_fair(&rates, kept, rate, &demands, tolerance, seconds);
    }

    /// Bytes per second of each shard over the next `time`.
    fn rates(&mut self, time: Duration) -> Vec<f64> {
        let before: Vec<u64> = self.shards.iter().map(|shard| shard.moved).collect();
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
        self.shards
            .iter()
            .zip(before)
            .map(|(s, before)| (s.moved - before) as f64 / time.as_secs_f64())
            .collect()
    }
}

/// The max-min fair split of `rate`.
fn fair(rate: u64, demands: &[u64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..demands.len()).collect();
    order.sort_by_key(|nth| demands[*nth]);
    let (mut left, mut split) = (rate as f64, vec![0.0; demands.len()]);
    for (done, nth) in order.iter().enumerate() {
        split[*nth] = (demands[*nth] as f64).min(left / (demands.len() - done) as f64);
        left -= split[*nth];
    }
    split
}

/// `kept`: tokens per second that were put by, or taken from what was.
fn assert_fair(rates: &[f64], kept: f64, rate: u64, demands: &[u64], tolerance: f64, seconds: f64) {
    // A grant more or less.
    let grant = 2.0 * LEAST as f64 / seconds;
    for (got, due) in rates.iter().zip(fair(rate, demands)) {
        let slack = rate as f64 * tolerance + grant;
        assert!((got - due).abs() <= slack, "{rates:?} of {rate} for {demands:?}: {got} is not {due}");
    }
    let wanted: u64 = demands.iter().sum();
    // Where all is wanted nothing is lost: what does not pass is at hand. Shards that are near their share put by up to 20 ms
    // of the limit each, which is several per cent of a second.
    let (sum, due) = if wanted < rate {
        (rates.iter().sum::<f64>(), wanted as f64)
    } else {
        (rates.iter().sum::<f64>() + kept, rate as f64)
    };
    assert!((sum - due).abs() <= due * 0.02 + grant, "{sum} of {due}: {rates:?} for {demands:?}");
}

fn rates() -> impl Strategy<Value = u64> {
    prop_oneof![65_536u64..1_000_000, 1_000_000u64..100_000_000, 100_000_000u64..2_000_000_000]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is asked, and however the limit changes, no more is dealt than the limits allow.
    #[test]
    fn never_more_than_the_limit(
        steps in prop::collection::vec((0u64..50_000, 0usize..6, 1u64..40_000_000, prop::option::of(rates())), 1..300),
    ) {
        let mut now = Instant::now();
        let mut rate = 1_000_000;
        let mut keeper = SharedBucket::new(now, rate);
        let (mut dealt, mut allowed) = (0u64, 0.0);
        for (us, shard, bytes, change) in steps {
            now += US * us as u32;
            allowed += rate as f64 * us as f64 / 1e6;
            if let Some(change) = change {
                rate = change;
                keeper.set_rate(now, rate);
            }
            keeper.ask(shard, bytes);
            let mut grants = Vec::new();
            keeper.deal(now, &mut grants);
            dealt += grants.iter().map(|(_, bytes)| bytes).sum::<u64>();
            prop_assert!(dealt as f64 <= allowed + 1.0, "{} of {}", dealt, allowed);
            let mut shards: Vec<usize> = grants.iter().map(|(shard, _)| *shard).collect();
            shards.sort_unstable();
            shards.dedup();
            prop_assert_eq!(shards.len(), grants.len(), "one grant for each");
        }
    }

    /// Whatever the shards' demands, each gets its fair share, and together they get the limit, within 2 %, also when
    /// requests and grants take longer than what they are about.
    #[test]
    fn everybody_gets_a_fair_share(
        rate in rates(),
        parts in prop::collection::vec(prop_oneof![Just(0u32), 1u32..3000], 1..6),
        delay_us in prop_oneof![Just(0u64), 1u64..5_000],
    ) {
        let demands: Vec<u64> = parts.iter().map(|mille| rate * u64::from(*mille) / 1000).collect();
        let mut model = Model::new(rate, &demands, US * delay_us as u32);
        // Long enough for the tokens that shards hold at the end to count for little.
        let seconds = if rate < 1_000_000 { 60 } else if rate < 10_000_000 { 20 } else { 2 };
        model.rates(Duration::from_secs(seconds / 2));
        model.assert_fair(rate, 0.02, Duration::from_secs(seconds));
    }

    /// When demand moves from some shards to others, they have their new shares a fifth of a second later, and those
    /// that had nothing are served at once.
    #[test]
    fn demand_moves(
        rate in 2_000_000u64..2_000_000_000,
        before in prop::collection::vec(0u32..2000, 4),
        after in prop::collection::vec(0u32..2000, 4),
        delay_us in 0u64..2_000,
    ) {
        let bytes = |mille: &Vec<u32>| -> Vec<u64> { mille.iter().map(|m| rate * u64::from(*m) / 1000).collect() };
        let (before, after) = (bytes(&before), bytes(&after));
        let mut model = Model::new(rate, &before, US * delay_us as u32);
        for _ in 0..3 {
            for demands in [&before, &after] {
                for (shard, demand) in model.shards.iter_mut().zip(demands) {
                    (shard.demand, shard.backlog) = (*demand, 0);
                }
                model.rates(Duration::from_millis(200));
                model.assert_fair(rate, 0.04, Duration::from_millis(800));
            }
        }
    }

    /// Shares are steady: of shards that all want everything, each gets its part in every tenth of a second.
    #[test]
    fn no_oscillation(rate in 20_000_000u64..2_000_000_000, count in 1usize..8, delay_us in 0u64..2_000) {
        let demands = vec![rate; count];
        let mut model = Model::new(rate, &demands, US * delay_us as u32);
        model.rates(Duration::from_millis(500));
        for _ in 0..10 {
            let got = model.rates(Duration::from_millis(100));
            let due = rate as f64 / count as f64;
            prop_assert!(got.iter().all(|rate| (rate - due).abs() < due * 0.25), "{:?} for {}", got, due);
        }
    }
}

#[test]
fn a_starving_shard_is_next() {
    let mut now = Instant::now();
    let mut keeper = SharedBucket::new(now, 65_536);
    let mut served = [0u64; 5];
    for _ in 0..100 {
        // Shards 0 to 3 ask again and again, shard 4 once.
        (0..4).for_each(|shard| keeper.ask(shard, 1 << 20));
        if served.iter().sum::<u64>() == 0 {
            keeper.ask(4, 16_397);
        }
        let wait = keeper.wait(now).expect("they wait");
        now += wait;
        let mut grants = Vec::new();
        keeper.deal(now, &mut grants);
        assert!(!grants.is_empty(), "the time told is the time when there is something");
        for (shard, bytes) in grants {
            served[shard] += bytes;
        }
    }
    assert_eq!(served[4], 16_397);
    let (least, most) = (served[..4].iter().min().unwrap(), served[..4].iter().max().unwrap());
    assert!(most - least <= LEAST, "{served:?}");
    (0..5).for_each(|shard| keeper.forget(shard));
    assert_eq!(keeper.wait(now), None);
}

#[test]
fn of_two_requests_of_a_shard_the_later_one_holds() {
    let start = Instant::now();
    let mut shared = SharedBucket::new(start, 1 << 20);
    shared.ask(1, 40_000);
    shared.ask(1, 17_000);
    let mut grants = Vec::new();
    shared.deal(start + Duration::from_secs(10), &mut grants);
    assert_eq!(grants, [(1, 17_000)]);
    assert!(!shared.is_asked());
}

/// One shard asks while the requests of the others are on their way, and they while its is: it got four times as much.
#[test]
fn who_asks_alone_gets_its_part() {
    let rate = 13_117_600;
    let mut model =
        Model::new(rate, &[17_944_876, 27_612_548, 28_819_367, 35_010_874, 25_553_084], US * 3251);
    model.rates(Duration::from_secs(1));
    model.assert_fair(rate, 0.02, Duration::from_secs(2));
}

#[test]
fn what_was_set_aside_is_dealt_when_nobody_comes_for_it() {
    let mut now = Instant::now();
    let mut keeper = SharedBucket::new(now, 50_000_000);
    let deal = |keeper: &mut SharedBucket, now| {
        let mut grants = Vec::new();
        keeper.deal(now, &mut grants);
        grants
    };
    (0..2).for_each(|shard| keeper.ask(shard, 1_000_000));
    now += US * 10_000;
    assert_eq!(deal(&mut keeper, now), [(0, 250_000), (1, 250_000)]);
    keeper.ask(0, 1_000_000);
    now += US * 10_000;
    assert_eq!(deal(&mut keeper, now), [(0, 250_000)], "half of it is the other one's");
    keeper.ask(0, 1_000_000);
    now += US * 10_000;
    assert_eq!(deal(&mut keeper, now), [(0, 750_000)], "which has not come in 20 ms");
}

#[test]
fn nobody_waits_long_for_one_that_stays_away() {
    let mut now = Instant::now();
    let mut keeper = SharedBucket::new(now, 1_000_000);
    let mut grants = Vec::new();
    (0..2).for_each(|shard| keeper.ask(shard, 1 << 20));
    now += US * 40_000;
    keeper.deal(now, &mut grants);
    assert_eq!(grants.len(), 2, "{grants:?}");
    // Shard 1 is never heard of again. The bucket holds 50 ms' worth, and shard 0 loses none of it.
    let (start, mut got, mut turns) = (now, 0, 0);
    while now < start + Duration::from_secs(1) {
        keeper.ask(0, 1 << 20);
        let wait = keeper.wait(now).expect("it asks");
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(20), "{wait:?}");
        now += wait;
        grants.clear();
        keeper.deal(now, &mut grants);
        got += grants.iter().map(|(_, bytes)| bytes).sum::<u64>();
        turns += 1;
    }
    assert!((980_000..=1_021_000).contains(&got), "{got}");
    assert!(turns < 70, "{turns} turns for 61 blocks");
}

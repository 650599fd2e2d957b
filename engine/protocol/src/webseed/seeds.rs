//! Whom to ask next, for how much, and whom not to ask.
//!
//! Role: what a torrent knows of its web seeds. Owner: the torrent's home shard. Invariants: a seed has at most
//! [`REQUESTS_MAX`] requests under way; one that sent a wrong piece is asked for nothing more; one that fails rests,
//! longer each time, as long as it says itself if it does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::http::HttpFault;

/// Requests under way at one web seed of a torrent. It begins with one, and gets one more for each that succeeds.
pub const REQUESTS_MAX: u32 = 4;
/// Bytes of a request at least (unless pieces are longer) and at most.
const RUN: (u64, u64) = (1 << 20, 16 << 20);
/// Bytes of a request to a server that cannot begin in the middle of a file.
const RUN_UNRANGED: u64 = 64 << 20;
/// How long a request should take: long against a round trip, short against a slow server.
const RUN_TIME: Duration = Duration::from_millis(500);
/// Rest after a failure, and at most; doubled by each in a row.
const REST: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// A file that is not there is looked for again after so long.
const LACK: Duration = Duration::from_secs(600);

/// Names a web seed of a torrent: its position.
pub type SeedId = usize;

/// How a request ended that brought less than it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Failure {
    /// It was called back: nobody's fault.
    #[error("called back")]
    Cancelled,
    /// Name, connection, TLS.
    #[error("{0}")]
    Unreachable(String),
    /// The server took too long.
    #[error("the server is too slow")]
    Slow,
    /// It answered so, and perhaps said when to come again.
    #[error("the server answers {status}")]
    Refused { status: u16, retry: Option<Duration> },
    /// One of the files is not there: its position in the torrent.
    #[error("the server does not have a file (it answers {status})")]
    Lacks { file: usize, status: u16 },
    /// The answer is no use.
    #[error("{0}")]
    Fault(#[from] HttpFault),
    /// It is, or leads to, an address that torrents may not make us ask.
    #[error("{0} is a local address; web_seed_local = true allows that")]
    Forbidden(String),
    /// No URL that can be used, or too many redirects.
    #[error("{0}")]
    BadUrl(String),
}

/// How a request ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Bytes of payload.
    pub bytes: u64,
    /// How long it took from the time it was sent.
    pub took: Duration,
    /// Whether the server can begin in the middle of a file, if that is known.
    pub ranged: Option<bool>,
    /// `Ok`: everything came.
    pub result: Result<(), Failure>,
}

#[derive(Debug)]
struct Seed {
    active: u32,
    most: u32,
    /// It rests until then.
    until: Option<Instant>,
    failures: u32,
    banned: bool,
    ranged: bool,
    /// Files that it does not have, and when to look again.
    lacks: BTreeMap<usize, Instant>,
    /// Bytes per second of one request, smoothed; 0 = unknown.
    rate: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Seeds {
    seeds: Vec<Seed>,
}

impl Seeds {
    /// So many seeds, nothing known of them.
    pub fn new(count: usize) -> Self {
        let seed = |_| Seed {
            active: 0,
            most: 1,
            until: None,
            failures: 0,
            banned: false,
            ranged: true,
            lacks: BTreeMap::new(),
            rate: 0,
        };
        Self { seeds: (0..count).map(seed).collect() }
    }

    /// The seed to ask now: of those that may be asked for more the one with the fewest requests under way.
    pub fn next(&self, now: Instant) -> Option<SeedId> {
        let may = |seed: &Seed| {
            let most = if seed.ranged { seed.most } else { 1 };
            !seed.banned && seed.active < most && seed.until.is_none_or(|until| until <= now)
        };
        let able = self.seeds.iter().enumerate().filter(|(_, seed)| may(seed));
        able.min_by_key(|(_, seed)| seed.active).map(|(id, _)| id)
    }

    /// Bytes to ask it for at once.
    pub fn run_bytes(&self, id: SeedId) -> u64 {
        let seed = &self.seeds[id];
        if !seed.ranged {
            return RUN_UNRANGED;
        }
        let due = u128::from(seed.rate) * RUN_TIME.as_millis() / 1000;
        (due as u64).clamp(RUN.0, RUN.1)
    }

    /// Whether it has to be asked for the first missing pieces.
    pub fn is_sequential(&self, id: SeedId) -> bool {
        !self.seeds[id].ranged
    }

    /// Whether it is known not to have a file.
    pub fn lacks(&self, now: Instant, id: SeedId, file: usize) -> bool {
        self.seeds[id].lacks.get(&file).is_some_and(|until| now < *until)
    }

    /// Whether there is any file that it is known not to have.
    pub fn lacks_any(&self, id: SeedId) -> bool {
        !self.seeds[id].lacks.is_empty()
    }

    /// A request goes out.
    pub fn begun(&mut self, id: SeedId) {
        self.seeds[id].active += 1;
    }

    /// There is nothing for it to do now.
    pub fn rest(&mut self, now: Instant, id: SeedId, time: Duration) {
        self.seeds[id].until = Some(now + time);
    }

    /// A request that [`Seeds::begun`] has ended.
    pub fn ended(&mut self, now: Instant, id: SeedId, outcome: &Outcome) {
        let seed = &mut self.seeds[id];
        seed.active -= 1;
        seed.ranged = outcome.ranged.unwrap_or(seed.ranged);
        let millis = outcome.took.as_millis().max(1) as u64;
        if outcome.bytes >= RUN.0 / 4 {
            let rate = outcome.bytes.saturating_mul(1000) / millis;
            seed.rate = if seed.rate == 0 { rate } else { seed.rate / 4 * 3 + rate / 4 };
        }
        let mut rest = |times: u32, least: Duration| {
            // Requests that were under way together fail together, and that counts once.
            if seed.until.is_none_or(|until| until <= now) {
                seed.failures = seed.failures.saturating_add(times);
            }
            let wait = REST.0 * 2u32.saturating_pow(seed.failures.saturating_sub(1).min(10));
            seed.until = Some(now + wait.min(REST.1).max(least));
            seed.most = 1;
        };
        match &outcome.result {
            Ok(()) => {
                seed.failures = 0;
                seed.most = (seed.most + 1).min(REQUESTS_MAX);
            }
            Err(Failure::Cancelled) => {}
            Err(Failure::Lacks { file, .. }) => {
                seed.lacks.retain(|_, until| now < *until);
                seed.lacks.insert(*file, now + LACK);
            }
            Err(Failure::Refused { retry, .. }) => rest(1, retry.unwrap_or_default()),
            Err(Failure::Unreachable(_) | Failure::Slow | Failure::Fault(HttpFault::Truncated)) => {
                rest(1, Duration::ZERO);
            }
            // This will hardly become better by itself.
            Err(Failure::Fault(_) | Failure::Forbidden(_) | Failure::BadUrl(_)) => rest(8, Duration::ZERO),
        }
    }

    /// It sent a piece with the wrong hash: it is not asked again. Returns whether that is news.
    pub fn ban(&mut self, id: SeedId) -> bool {
        !std::mem::replace(&mut self.seeds[id].banned, true)
    }

    /// The user wants to go on now: nobody rests.
    pub fn wake(&mut self) {
        for seed in &mut self.seeds {
            (seed.until, seed.failures) = (None, 0);
            seed.lacks.clear();
        }
    }

    /// When the next one that rests has rested.
    pub fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        let rests = self.seeds.iter().filter(|seed| !seed.banned).filter_map(|seed| seed.until);
        rests.filter(|until| *until > now).min()
    }

    /// Seeds in all, those asked now, those banned (counts).
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |which: fn(&&Seed) -> bool| self.seeds.iter().filter(which).count();
        (self.seeds.len(), count(|seed| seed.active > 0), count(|seed| seed.banned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(bytes: u64, result: Result<(), Failure>) -> Outcome {
        Outcome { bytes, took: Duration::from_millis(100), ranged: None, result }
    }

    fn ask(seeds: &mut Seeds, now: Instant) -> Option<SeedId> {
        seeds.next(now).inspect(|id| seeds.begun(*id))
    }

    #[test]
    fn requests_are_shared_and_grow_with_success() {
        let (mut seeds, now) = (Seeds::new(2), Instant::now());
        assert_eq!(
            [ask(&mut seeds, now), ask(&mut seeds, now), ask(&mut seeds, now)],
            [Some(0), Some(1), None]
        );
        assert_eq!(seeds.run_bytes(0), 1 << 20);
        for _ in 0..9 {
            seeds.ended(now, 0, &outcome(10 << 20, Ok(())));
            seeds.begun(0);
        }
        assert_eq!(seeds.run_bytes(0), 16 << 20, "100 MiB/s for half a second is more than the most");
        let more = std::iter::from_fn(|| ask(&mut seeds, now)).count();
        assert_eq!(more as u32, REQUESTS_MAX - 1, "the other one has had no success");
        assert_eq!(seeds.counts(), (2, 2, 0));
    }

    #[test]
    fn failures_make_it_rest_longer_and_longer() {
        let (mut seeds, mut now) = (Seeds::new(1), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..9 {
            seeds.begun(0);
            seeds.ended(now, 0, &outcome(0, Err(Failure::Slow)));
            let until = seeds.next_wakeup(now).expect("it rests");
            waits.push((until - now).as_secs());
            assert_eq!(seeds.next(until - Duration::from_millis(1)), None);
            now = until;
            assert_eq!(seeds.next(now), Some(0));
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        seeds.begun(0);
        seeds.ended(now, 0, &outcome(1, Ok(())));
        seeds.begun(0);
        let retry = Some(Duration::from_secs(3000));
        seeds.ended(now, 0, &outcome(0, Err(Failure::Refused { status: 503, retry })));
        assert_eq!(seeds.next_wakeup(now), Some(now + Duration::from_secs(3000)));
        seeds.wake();
        assert_eq!(seeds.next(now), Some(0));
    }

    #[test]
    fn failures_of_the_same_moment_count_once() {
        let (mut seeds, now) = (Seeds::new(1), Instant::now());
        (0..3).for_each(|_| seeds.begun(0));
        (0..3).for_each(|_| seeds.ended(now, 0, &outcome(0, Err(Failure::Slow))));
        assert_eq!(seeds.next_wakeup(now), Some(now + REST.0));
    }

    #[test]
    fn liars_are_not_asked_again_and_missing_files_only_later() {
        let (mut seeds, now) = (Seeds::new(1), Instant::now());
        seeds.begun(0);
        seeds.ended(now, 0, &outcome(0, Err(Failure::Lacks { file: 3, status: 404 })));
        assert!(seeds.lacks(now, 0, 3) && !seeds.lacks(now, 0, 2) && !seeds.lacks(now + LACK, 0, 3));
        assert_eq!(seeds.next(now), Some(0), "it may have others");
        assert!(seeds.ban(0) && !seeds.ban(0));
        seeds.wake();
        assert_eq!((seeds.next(now), seeds.counts()), (None, (1, 0, 1)));
    }

    #[test]
    fn a_server_without_ranges_gets_one_long_request_in_order() {
        let (mut seeds, now) = (Seeds::new(1), Instant::now());
        seeds.begun(0);
        seeds.ended(now, 0, &Outcome { ranged: Some(false), ..outcome(5, Ok(())) });
        assert_eq!((seeds.run_bytes(0), seeds.is_sequential(0)), (RUN_UNRANGED, true));
        seeds.begun(0);
        assert_eq!(seeds.next(now), None);
    }
}

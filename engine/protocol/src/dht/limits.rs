//! How much is answered and asked: by source and in all.
//!
//! Anybody can send a query in somebody else's name. So an address that has not shown that it can receive (by an answer
//! to a query of ours, or by a token) gets few bytes: [`CREDIT`] to begin with, four for each that it sends, and all
//! such addresses together [`UNPROVEN`] a second. Invariant: sources remembered are bounded.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Sources in each of the two generations that are remembered: 64 bytes each.
const SOURCES_MAX: usize = 4096;
/// How long a proof counts.
const PROOF: Duration = Duration::from_secs(600);
/// Queries of one source that are answered, per second and at once.
const QUERIES: (u64, u64) = (20, 60);
/// Bytes that an unproven source gets, per second and at once.
const CREDIT: (u64, u64) = (256, 2048);
/// Bytes that are added for each byte that it sends.
const GAIN: u64 = 4;
/// Bytes for all unproven sources together, per second and at once.
const UNPROVEN: (u64, u64) = (64 << 10, 128 << 10);
/// Bytes of all answers, per second and at once.
const ALL: (u64, u64) = (512 << 10, 1 << 20);

/// Tokens that come with time. Units: what it counts, per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    per_second: u64,
    most: u64,
    /// In thousandths.
    level: u64,
    at: Instant,
}

impl Budget {
    /// A full one.
    pub fn new(now: Instant, (per_second, most): (u64, u64)) -> Self {
        Self { per_second, most, level: most * 1000, at: now }
    }

    /// From now on so many come a second, and as many may be there.
    pub fn set_rate(&mut self, now: Instant, per_second: u64) {
        self.fill(now);
        (self.per_second, self.most) = (per_second, per_second);
        self.level = self.level.min(self.most * 1000);
    }

    fn fill(&mut self, now: Instant) {
        let millis = now.saturating_duration_since(self.at).as_millis();
        if millis > 0 {
            let come = u64::try_from(millis).unwrap_or(u64::MAX).saturating_mul(self.per_second);
            self.level = self.level.saturating_add(come).min(self.most * 1000);
            self.at = now;
        }
    }

    /// Takes `count` if there are that many.
    pub fn take(&mut self, now: Instant, count: u64) -> bool {
        self.fill(now);
        let there = self.level >= count * 1000;
        if there {
            self.level -= count * 1000;
        }
        there
    }

    fn add(&mut self, count: u64) {
        self.level = (self.level + count * 1000).min(self.most * 1000);
    }

    /// When there is one.
    pub fn ready(&self, now: Instant) -> Instant {
        let lacking = 1000u64.saturating_sub(self.level);
        now.max(self.at + Duration::from_millis(lacking.div_ceil(self.per_second.max(1))))
    }
}

#[derive(Clone, Copy, Debug)]
struct Source {
    queries: Budget,
    credit: Budget,
    proven: Option<Instant>,
}

/// Who asks us, and how much they get.
#[derive(Debug)]
pub struct Sources {
    /// Those heard of lately; when they are many they become `old`, and the old ones are forgotten.
    young: HashMap<IpAddr, Source>,
    old: HashMap<IpAddr, Source>,
    unproven: Budget,
    all: Budget,
}

impl Sources {
    /// Nobody is known.
    pub fn new(now: Instant) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            unproven: Budget::new(now, UNPROVEN),
            all: Budget::new(now, ALL),
        }
    }

    fn source(&mut self, now: Instant, ip: IpAddr) -> &mut Source {
        let place = subnet(ip);
        if !self.young.contains_key(&place) {
            if self.young.len() >= SOURCES_MAX {
                self.old = std::mem::take(&mut self.young);
            }
            let new =
                Source { queries: Budget::new(now, QUERIES), credit: Budget::new(now, CREDIT), proven: None };
            let source = self.old.remove(&place).unwrap_or(new);
            self.young.insert(place, source);
        }
        self.young.get_mut(&place).expect("inserted above")
    }

    /// A query of `len` bytes came from `ip`: whether it is looked at.
    pub fn admit(&mut self, now: Instant, ip: IpAddr, len: usize) -> bool {
        let source = self.source(now, ip);
        source.credit.fill(now);
        source.credit.add(GAIN * len as u64);
        source.queries.take(now, 1)
    }

    /// Whether `ip` may be sent an answer of `len` bytes, which are counted then.
    pub fn pay(&mut self, now: Instant, ip: IpAddr, len: usize) -> bool {
        let len = len as u64;
        let source = self.source(now, ip);
        let is_proven = source.proven.is_some_and(|at| now.saturating_duration_since(at) < PROOF);
        if !is_proven && !source.credit.take(now, len) {
            return false;
        }
        (is_proven || self.unproven.take(now, len)) && self.all.take(now, len)
    }

    /// Whoever sends from `ip` receives there.
    pub fn prove(&mut self, now: Instant, ip: IpAddr) {
        self.source(now, ip).proven = Some(now);
    }

    /// Sources remembered.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }
}

/// What one machine can send from: an IPv4 address, or 64 bits of an IPv6 one.
pub(crate) fn subnet(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) if super::id::is_local(ip) => IpAddr::V6(v6),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4((0x0800_0000 + n).into())
    }

    #[test]
    fn whoever_has_not_shown_that_it_receives_gets_little() {
        let now = Instant::now();
        let mut sources = Sources::new(now);
        let mut sent = 0;
        for _ in 0..QUERIES.1 {
            assert!(sources.admit(now, ip(1), 100));
            if sources.pay(now, ip(1), 1000) {
                sent += 1000;
            }
        }
        assert!(sent <= CREDIT.1 + GAIN * 100 * QUERIES.1, "{sent}");
        assert!(!sources.admit(now, ip(1), 100), "too many queries");
        assert!(sources.admit(now + Duration::from_secs(1), ip(1), 100));
        sources.prove(now, ip(1));
        assert!((0..100).all(|_| sources.pay(now, ip(1), 1000)));
        assert!(!(0..5).all(|_| sources.pay(now + PROOF, ip(1), 1000)), "a proof is forgotten");
    }

    #[test]
    fn all_together_are_bounded() {
        let now = Instant::now();
        let mut sources = Sources::new(now);
        let mut sent = 0;
        for n in 0..20_000 {
            if sources.admit(now, ip(n), 100) && sources.pay(now, ip(n), 1000) {
                sent += 1000;
            }
        }
        assert!(sent <= UNPROVEN.1 && sent > UNPROVEN.1 / 2, "{sent}");
        assert!(sources.len() <= 2 * SOURCES_MAX, "{}", sources.len());
        sources.prove(now, ip(0));
        let mut sent = 0;
        while sources.pay(now, ip(0), 1000) {
            sent += 1000;
        }
        assert!(sent <= ALL.1 && sent > ALL.1 / 2, "a flood in other names does not stop the proven: {sent}");
    }

    #[test]
    fn those_who_stay_are_remembered_through_a_flood() {
        let now = Instant::now();
        let mut sources = Sources::new(now);
        sources.prove(now, ip(0));
        for n in 1..4 * SOURCES_MAX as u32 {
            sources.admit(now, ip(n), 100);
            if n.is_multiple_of(100) {
                sources.admit(now, ip(0), 0);
            }
        }
        assert!((0..10).all(|_| sources.pay(now, ip(0), 1000)));
    }

    #[test]
    fn sixty_four_bits_of_ipv6_are_one_source() {
        let parse = |text: &str| -> IpAddr { text.parse().expect("an address") };
        assert_eq!(subnet(parse("2001:db8::1:2")), subnet(parse("2001:db8::ff00:9")));
        assert_ne!(subnet(parse("2001:db8::1")), subnet(parse("2001:db8:0:1::1")));
        assert_ne!(subnet(parse("::1")), subnet(parse("fe80::1")));
    }

    #[test]
    fn budgets_say_when_there_is_one() {
        let now = Instant::now();
        let mut budget = Budget::new(now, (10, 2));
        assert!(budget.take(now, 1) && budget.take(now, 1) && !budget.take(now, 1));
        let at = budget.ready(now);
        assert_eq!(at, now + Duration::from_millis(100));
        assert!(budget.take(at, 1) && !budget.take(at, 1));
    }
}

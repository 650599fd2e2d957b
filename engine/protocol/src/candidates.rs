//! Addresses that might be worth connecting to: one bounded list per torrent.
//!
//! Role: merges what trackers, users and (later) DHT and PEX tell, decides whom to try next, backs off from those that
//! fail and shuns those that were banned. Pure. Owner: a torrent's home shard. Invariant: an address is at most once in
//! the list, and never handed out while connected, banned or backing off.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

/// Addresses kept per torrent; a newcomer replaces the one that failed most.
pub const MAX_CANDIDATES: usize = 2000;
/// Banned addresses remembered per torrent.
const MAX_BANNED: usize = 4096;
/// First wait after a failure; doubles with each further one.
const BACK_OFF: Duration = Duration::from_secs(5);
/// Longest wait between two attempts.
const MAX_BACK_OFF: Duration = Duration::from_secs(1800);
/// Failures in a row after which an address is forgotten, unless the user named it.
const MAX_FAILURES: u32 = 8;

/// Where an address came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The user named it: never forgotten, tried first.
    User,
    /// A tracker announced it.
    Tracker,
    /// Announced to nodes of the DHT (BEP 5).
    Dht,
    /// Announced in the local network (BEP 14).
    Lsd,
    /// It connected to us; only useful to avoid a second connection, as its port is not its listening port.
    Incoming,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    source: Source,
    failures: u32,
    not_before: Option<Instant>,
    connected: bool,
    ourselves: bool,
}

/// The list. See the module.
#[derive(Debug, Default)]
pub struct Candidates {
    known: HashMap<SocketAddr, Candidate>,
    banned: HashSet<IpAddr>,
}

impl Candidates {
    /// Adds an address; returns whether it was new and taken.
    pub fn add(&mut self, addr: SocketAddr, source: Source) -> bool {
        let useless = addr.port() == 0 || addr.ip().is_unspecified() || addr.ip().is_multicast();
        if useless || self.banned.contains(&addr.ip()) {
            return false;
        }
        if let Some(known) = self.known.get_mut(&addr) {
            if source == Source::User {
                known.source = source;
            }
            return false;
        }
        if self.known.len() >= MAX_CANDIDATES && !self.evict() {
            return false;
        }
        self.known.insert(
            addr,
            Candidate { source, failures: 0, not_before: None, connected: false, ourselves: false },
        );
        true
    }

    fn evict(&mut self) -> bool {
        let worst = self
            .known
            .iter()
            .filter(|(_, c)| !c.connected && c.source != Source::User && c.failures > 0)
            .max_by_key(|(_, c)| c.failures)
            .map(|(addr, _)| *addr);
        worst.is_some_and(|addr| self.known.remove(&addr).is_some())
    }

    /// The next address to try, now counted as connected; `None` when none is ready.
    pub fn next(&mut self, now: Instant, rng: &mut impl Rng) -> Option<SocketAddr> {
        // Fewest failures first, the user's first among those, the rest in random order so that a swarm spreads.
        let free = |c: &Candidate| !c.connected && !c.ourselves;
        let ready = self.known.iter().filter(|(_, c)| free(c) && c.not_before.is_none_or(|at| at <= now));
        let best = ready.min_by_key(|(_, c)| (c.failures, c.source != Source::User, rng.random::<u16>()));
        let addr = *best?.0;
        self.known.get_mut(&addr).expect("just found").connected = true;
        Some(addr)
    }

    /// When [`Candidates::next`] has something, `now` or later; `None` = not before something is added or freed.
    pub fn next_ready(&self, now: Instant) -> Option<Instant> {
        let free = self.known.values().filter(|c| !c.connected && !c.ourselves);
        free.map(|c| c.not_before.map_or(now, |at| at.max(now))).min()
    }

    /// A connection to `addr` ended. `useful`: data went over it; otherwise it counts as a failure.
    pub fn gone(&mut self, now: Instant, addr: SocketAddr, useful: bool) {
        let Some(candidate) = self.known.get_mut(&addr) else { return };
        candidate.connected = false;
        if self.banned.contains(&addr.ip()) {
            self.known.remove(&addr);
            return;
        }
        candidate.failures = if useful { 0 } else { candidate.failures + 1 };
        if candidate.source == Source::Incoming
            || candidate.source != Source::User && candidate.failures > MAX_FAILURES
        {
            self.known.remove(&addr);
            return;
        }
        let wait =
            BACK_OFF.saturating_mul(1 << candidate.failures.saturating_sub(1).min(16)).min(MAX_BACK_OFF);
        candidate.not_before = Some(now + wait);
    }

    /// `addr` leads back to ourselves: never again.
    pub fn ourselves(&mut self, addr: SocketAddr) {
        if let Some(candidate) = self.known.get_mut(&addr) {
            candidate.ourselves = true;
        }
    }

    /// `addr` connected to us: it is not to be dialled meanwhile.
    pub fn incoming(&mut self, addr: SocketAddr) {
        if self.add(addr, Source::Incoming) || self.known.contains_key(&addr) {
            self.known.get_mut(&addr).expect("known").connected = true;
        }
    }

    /// Shuns every port of `ip` from now on.
    pub fn ban(&mut self, ip: IpAddr) {
        if self.banned.len() < MAX_BANNED {
            self.banned.insert(ip);
        }
        self.known.retain(|addr, candidate| addr.ip() != ip || candidate.connected);
    }

    /// Whether `ip` is shunned.
    pub fn is_banned(&self, ip: IpAddr) -> bool {
        self.banned.contains(&ip)
    }

    /// Number of shunned addresses.
    pub fn banned(&self) -> usize {
        self.banned.len()
    }

    /// Addresses known, connected ones included.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// True without addresses.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn rng() -> impl Rng {
        rand::rngs::SmallRng::seed_from_u64(7)
    }

    fn addr(n: u32) -> SocketAddr {
        SocketAddr::new(IpAddr::V4((0x0a00_0000 + n).into()), 6881)
    }

    #[test]
    fn hands_out_each_once_and_backs_off() {
        let (mut list, mut rng, now) = (Candidates::default(), rng(), Instant::now());
        assert!(list.add(addr(1), Source::Tracker));
        assert!(!list.add(addr(1), Source::Tracker));
        assert_eq!(list.next(now, &mut rng), Some(addr(1)));
        assert_eq!(list.next(now, &mut rng), None);
        list.gone(now, addr(1), false);
        assert_eq!(list.next(now, &mut rng), None);
        assert_eq!(list.next(now + BACK_OFF, &mut rng), Some(addr(1)));
        list.gone(now, addr(1), false);
        assert_eq!(list.next(now + BACK_OFF, &mut rng), None, "the wait doubles");
        assert_eq!(list.next_ready(now), Some(now + BACK_OFF * 2));
    }

    #[test]
    fn forgets_the_hopeless_but_never_the_users() {
        let (mut list, mut rng, mut now) = (Candidates::default(), rng(), Instant::now());
        list.add(addr(1), Source::Tracker);
        list.add(addr(2), Source::User);
        assert_eq!(list.next(now, &mut rng), Some(addr(2)), "the user's first");
        list.gone(now, addr(2), false);
        for _ in 0..40 {
            now += MAX_BACK_OFF;
            while let Some(addr) = list.next(now, &mut rng) {
                list.gone(now, addr, false);
            }
        }
        assert_eq!(list.len(), 1);
        assert_eq!(list.next(now + MAX_BACK_OFF, &mut rng), Some(addr(2)));
    }

    #[test]
    fn bans_every_port_and_refuses_useless_addresses() {
        let mut list = Candidates::default();
        list.add(addr(1), Source::User);
        list.ban(addr(1).ip());
        assert!(list.is_empty());
        assert!(!list.add(SocketAddr::new(addr(1).ip(), 1), Source::Tracker));
        assert!(!list.add(SocketAddr::new(addr(2).ip(), 0), Source::Tracker));
        list.add(addr(3), Source::User);
        let (now, mut rng) = (Instant::now(), rng());
        assert_eq!(list.next(now, &mut rng), Some(addr(3)));
        list.ban(addr(3).ip());
        list.gone(now, addr(3), true);
        assert_eq!(
            list.next(now + MAX_BACK_OFF, &mut rng),
            None,
            "one that was connected when it was banned"
        );
        assert!(!list.add("224.0.0.1:5".parse().unwrap(), Source::Tracker));
        assert!(!list.add("0.0.0.0:5".parse().unwrap(), Source::Tracker));
    }

    #[test]
    fn bounded_and_replaces_the_worst() {
        let (mut list, mut rng, now) = (Candidates::default(), rng(), Instant::now());
        for n in 0..MAX_CANDIDATES as u32 {
            assert!(list.add(addr(n), Source::Tracker));
        }
        assert!(!list.add(addr(9999), Source::Tracker), "nothing to replace");
        let failed = list.next(now, &mut rng).unwrap();
        list.gone(now, failed, false);
        assert!(list.add(addr(9999), Source::Tracker));
        assert_eq!(list.len(), MAX_CANDIDATES);
    }
}

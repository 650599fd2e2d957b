//! Addresses that might be worth connecting to: one bounded list per torrent.
//!
//! Role: merges what users, magnet links, trackers, DHT, PEX and LSD tell, decides whom to try next, backs off from those
//! that fail and shuns those that were banned or that the IP filter has. Pure. Owner: a torrent's home shard.
//!
//! Invariants: an address is at most once in the list, and never handed out while connected, banned or backing off.
//! Sources take turns in [`Candidates::next`], and each has a share of the list that no other can take from it, so
//! endless addresses from one of them delay those of another by one attempt each and displace none.

mod priority;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use crate::ipfilter::{self, is_blocked};
use crate::score::Record;

use priority::OwnAddress;
pub use priority::{canonical_priority, is_global};

/// Addresses kept per torrent; a newcomer replaces one that failed, or one of a source that exceeds its share.
pub const MAX_CANDIDATES: usize = 2000;
/// Banned addresses remembered per torrent.
const MAX_BANNED: usize = 4096;
/// First wait after a failure; doubles with each further one.
const BACK_OFF: Duration = Duration::from_secs(5);
/// Longest wait between two attempts.
const MAX_BACK_OFF: Duration = Duration::from_secs(1800);
/// Failures in a row after which an address is forgotten, unless the user named it.
const MAX_FAILURES: u32 = 8;
/// Reliability in which two addresses differ so little that canonical priority decides.
const RELIABILITY_STEP: u8 = 20;
/// Ports of one address that strangers (DHT, PEX) may name: nobody is to be connected to a thousand times.
const MAX_PORTS: usize = 4;

/// Where an address came from, the most trustworthy first: an address that several tell counts as the first one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The user named it: never forgotten, tried first.
    User,
    /// A magnet link names it (`x.pe`, BEP 9).
    Magnet,
    /// A tracker announced it.
    Tracker,
    /// Found on the local network (BEP 14).
    Lsd,
    /// Found in the DHT (BEP 5).
    Dht,
    /// Another peer told of it (BEP 11).
    Pex,
    /// It connected to us; only useful to avoid a second connection, as its port is not its listening port.
    Incoming,
}

/// Addresses of each source that are kept whatever others bring, in the order of [`Source`].
const SHARES: [usize; 7] = [400, 100, 700, 100, 400, 200, 100];

impl Source {
    /// Strangers tell, and nobody vouches for it.
    fn is_hearsay(self) -> bool {
        matches!(self, Self::Dht | Self::Pex)
    }

    /// Allowed for private torrents: their peers come from trackers alone (BEP 27), or the user knows them.
    fn is_for_private(self) -> bool {
        matches!(self, Self::User | Self::Tracker | Self::Incoming)
    }
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    source: Source,
    failures: u32,
    /// What it did of what was expected of it, over all connections.
    record: Record,
    not_before: Option<Instant>,
    connected: bool,
    ourselves: bool,
    /// BEP 40, once our address is known.
    priority: Option<u32>,
}

/// What is tried first among those of one source, the smallest.
type Rank = (Reverse<u8>, u32, Reverse<u32>);

impl Candidate {
    fn is_free(&self) -> bool {
        !self.connected && !self.ourselves
    }
}

/// The list. See the module.
#[derive(Debug, Default)]
pub struct Candidates {
    /// In order, so that the same draws lead to the same choice.
    known: BTreeMap<SocketAddr, Candidate>,
    /// How many of each source are known.
    held: [usize; SHARES.len()],
    banned: HashSet<IpAddr>,
    filter: ipfilter::Shared,
    private: bool,
    own: OwnAddress,
    own_port: u16,
    /// Start-time fair queueing: when a source's next attempt begins, in attempts.
    turns: [u64; SHARES.len()],
    clock: u64,
}

impl Candidates {
    /// An empty list of somebody who listens on `port`; 0 = not at all.
    pub fn new(port: u16) -> Self {
        Self { own_port: port, ..Self::default() }
    }

    /// Adds an address; returns whether it was new and taken.
    pub fn add(&mut self, addr: SocketAddr, source: Source) -> bool {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let useless = addr.port() == 0 || addr.ip().is_unspecified() || addr.ip().is_multicast();
        if useless || self.banned.contains(&addr.ip()) || self.private && !source.is_for_private() {
            return false;
        }
        // What the user names is kept for the day when the filter does not have it any more.
        if source != Source::User && is_blocked(&self.filter, addr.ip()) {
            return false;
        }
        if let Some(known) = self.known.get_mut(&addr) {
            if source < known.source {
                self.held[known.source as usize] -= 1;
                self.held[source as usize] += 1;
                known.source = source;
            }
            return false;
        }
        if source.is_hearsay() && !addr.ip().is_loopback() {
            let ports = self.known.keys().filter(|known| known.ip() == addr.ip());
            if ports.count() >= MAX_PORTS {
                return false;
            }
        }
        if self.known.len() >= MAX_CANDIDATES && !self.make_room(source) {
            return false;
        }
        let priority = self.priority(addr);
        self.known.insert(
            addr,
            Candidate {
                source,
                failures: 0,
                record: Record::default(),
                not_before: None,
                connected: false,
                ourselves: false,
                priority,
            },
        );
        self.held[source as usize] += 1;
        true
    }

    /// Adds all of `addrs`; how many were new and taken.
    pub fn add_all(&mut self, addrs: &[SocketAddr], source: Source) -> usize {
        addrs.iter().filter(|addr| self.add(**addr, source)).count()
    }

    fn priority(&self, addr: SocketAddr) -> Option<u32> {
        canonical_priority(SocketAddr::new(self.own.toward(addr)?, self.own_port), addr)
    }

    /// Removes the worst of those that `newcomer` may replace: of its own source one that has failed, and while it has
    /// less than its share any of a source that has more.
    fn make_room(&mut self, newcomer: Source) -> bool {
        let exceeds = |source: Source| self.held[source as usize] > SHARES[source as usize];
        let is_short = self.held[newcomer as usize] < SHARES[newcomer as usize];
        let replaceable = |c: &Candidate| match c.source {
            _ if c.connected || c.source == Source::User => false,
            source if source == newcomer => c.failures > 0,
            source => exceeds(source) && (is_short || c.failures > 0),
        };
        let worst = self.known.iter().filter(|(_, c)| replaceable(c));
        let worst =
            worst.max_by_key(|(_, c)| (c.failures, c.source, Reverse(c.priority))).map(|(addr, _)| *addr);
        worst.is_some_and(|addr| self.remove(addr))
    }

    fn remove(&mut self, addr: SocketAddr) -> bool {
        let Some(candidate) = self.known.remove(&addr) else { return false };
        self.held[candidate.source as usize] -= 1;
        true
    }

    fn retain(&mut self, keep: impl Fn(&SocketAddr, &Candidate) -> bool) {
        let held = &mut self.held;
        self.known.retain(|addr, candidate| {
            let kept = keep(addr, candidate);
            held[candidate.source as usize] -= usize::from(!kept);
            kept
        });
    }

    /// The next address to try, now counted as connected; `None` when none is ready.
    ///
    /// Sources take turns. Of one source the most reliable come first ([`Record::reliability`], in steps of 20), then
    /// those with the fewest failures, then canonical priority (BEP 40), or a random one until our own address is known.
    pub fn next(&mut self, now: Instant, rng: &mut impl Rng) -> Option<SocketAddr> {
        let mut best: [Option<(Rank, SocketAddr)>; SHARES.len()] = [None; SHARES.len()];
        let ready = |c: &Candidate| c.is_free() && c.not_before.is_none_or(|at| at <= now);
        let welcome = |addr: &SocketAddr| !is_blocked(&self.filter, addr.ip());
        for (addr, candidate) in self.known.iter().filter(|(addr, c)| ready(c) && welcome(addr)) {
            let priority = candidate.priority.unwrap_or_else(|| rng.random());
            let class = candidate.record.reliability() / RELIABILITY_STEP;
            let rank = (Reverse(class), candidate.failures, Reverse(priority));
            let place = &mut best[candidate.source as usize];
            if place.is_none_or(|before| rank < before.0) {
                *place = Some((rank, *addr));
            }
        }
        let offers = best.iter().enumerate().filter_map(|(source, offer)| Some((source, (*offer)?.1)));
        let (source, addr) = offers.min_by_key(|(source, _)| self.turns[*source].max(self.clock))?;
        self.clock = self.clock.max(self.turns[source]);
        self.turns[source] = self.clock + 1;
        self.known.get_mut(&addr).expect("just found").connected = true;
        Some(addr)
    }

    /// Whether `addr` may be connected to now, whatever happened before; then it counts as connected.
    pub fn claim(&mut self, addr: SocketAddr, source: Source) -> bool {
        self.add(addr, source);
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let welcome = !is_blocked(&self.filter, addr.ip());
        let free = self.known.get_mut(&addr).filter(|candidate| welcome && candidate.is_free());
        free.map(|candidate| candidate.connected = true).is_some()
    }

    /// When [`Candidates::next`] has something, `now` or later; `None` = not before something is added or freed.
    pub fn next_ready(&self, now: Instant) -> Option<Instant> {
        let welcome = |addr: &SocketAddr| !is_blocked(&self.filter, addr.ip());
        let free = self.known.iter().filter(|(addr, c)| c.is_free() && welcome(addr));
        free.map(|(_, c)| c.not_before.map_or(now, |at| at.max(now))).min()
    }

    /// What the peer at `addr` did over a connection that ends; called before [`Self::gone`].
    pub fn learn(&mut self, addr: SocketAddr, record: Record) {
        if let Some(candidate) = self.known.get_mut(&addr) {
            candidate.record = candidate.record.and(record);
        }
    }

    /// What is known of the peer at `addr` from connections that have ended.
    pub fn record(&self, addr: SocketAddr) -> Record {
        self.known.get(&addr).map(|candidate| candidate.record).unwrap_or_default()
    }

    /// A connection to `addr` ended. `useful`: data went over it; otherwise it counts as a failure.
    pub fn gone(&mut self, now: Instant, addr: SocketAddr, useful: bool) {
        let Some(candidate) = self.known.get_mut(&addr) else { return };
        candidate.connected = false;
        candidate.failures = if useful { 0 } else { candidate.failures + 1 };
        if !useful {
            candidate.record = candidate.record.and(Record { connect_failures: 1, ..Record::default() });
        }
        let wait =
            BACK_OFF.saturating_mul(1 << candidate.failures.saturating_sub(1).min(16)).min(MAX_BACK_OFF);
        candidate.not_before = Some(now + wait);
        let (source, failures) = (candidate.source, candidate.failures);
        let hopeless = source != Source::User && failures > MAX_FAILURES;
        let filtered = source != Source::User && is_blocked(&self.filter, addr.ip());
        let banned = self.banned.contains(&addr.ip());
        let unwelcome = banned || filtered || self.private && !source.is_for_private();
        if source == Source::Incoming || hopeless || unwelcome {
            self.remove(addr);
        }
    }

    /// `addr` may be tried again at once: its connection ended for a reason of ours.
    pub fn retry_now(&mut self, addr: SocketAddr) {
        if let Some(candidate) = self.known.get_mut(&addr) {
            (candidate.failures, candidate.not_before) = (0, None);
            candidate.record.connect_failures = candidate.record.connect_failures.saturating_sub(1);
        }
    }

    /// As [`Self::retry_now`] for all: there was no network.
    pub fn retry_all(&mut self) {
        let all: Vec<SocketAddr> = self.known.keys().copied().collect();
        all.into_iter().for_each(|addr| self.retry_now(addr));
    }

    /// `addr` leads back to ourselves: never again.
    pub fn ourselves(&mut self, addr: SocketAddr) {
        if let Some(candidate) = self.known.get_mut(&addr) {
            candidate.ourselves = true;
        }
    }

    /// `addr` connected to us: it is not to be dialled meanwhile.
    pub fn incoming(&mut self, addr: SocketAddr) {
        self.add(addr, Source::Incoming);
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        if let Some(candidate) = self.known.get_mut(&addr) {
            candidate.connected = true;
        }
    }

    /// The peer at `teller` says that we are at `ours` (`yourip`, BEP 10); believed when another one says the same.
    pub fn told_own_address(&mut self, teller: IpAddr, ours: IpAddr) {
        if self.own.told(teller, ours) {
            let priorities: Vec<_> = self.known.keys().map(|addr| (*addr, self.priority(*addr))).collect();
            for (addr, priority) in priorities {
                self.known.get_mut(&addr).expect("listed just now").priority = priority;
            }
        }
    }

    /// The torrent is private (BEP 27): from now on only trackers and the user name addresses, and what others named is
    /// forgotten. The addresses of these that are connected, which the caller ends.
    pub fn set_private(&mut self) -> Vec<SocketAddr> {
        self.private = true;
        self.retain(|_, candidate| candidate.source.is_for_private() || candidate.connected);
        let foreign = self.known.iter().filter(|(_, candidate)| !candidate.source.is_for_private());
        foreign.map(|(addr, _)| *addr).collect()
    }

    /// Shuns what `filter` has from now on, and no more what another one had; forgets what it has, but for what the user
    /// named, and for connections, which the caller ends.
    pub fn set_filter(&mut self, filter: ipfilter::Shared) {
        self.filter = filter.clone();
        self.retain(|addr, candidate| {
            candidate.connected || candidate.source == Source::User || !is_blocked(&filter, addr.ip())
        });
    }

    /// Shuns every port of `ip` from now on.
    pub fn ban(&mut self, ip: IpAddr) {
        if self.banned.len() < MAX_BANNED {
            self.banned.insert(ip);
        }
        self.retain(|addr, candidate| addr.ip() != ip || candidate.connected);
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

    /// Addresses known of one source, connected ones included.
    pub fn held(&self, source: Source) -> usize {
        self.held[source as usize]
    }

    /// True without addresses.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests;

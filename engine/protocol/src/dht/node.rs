//! One node of the DHT: its tables, what it asks and answers, and what it looks for.
//!
//! Call order. Whenever a datagram comes: [`Dht::handle`]. When [`Dht::next_wakeup`] says so: [`Dht::tick`]. After each of
//! these and after [`Dht::start`]: [`Dht::poll_transmit`] until `None`, and [`Dht::poll_event`] until `None`.
//! Invariants: an answer counts only when it comes from the address that was asked, with the transaction id that was
//! drawn for it; bounded are queries on the way ([`ASKED_MAX`]), searches ([`SEARCHES_MAX`]) and all that is stored.

mod answers;
mod queries;
mod searches;
mod types;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use super::id::{Contact, NodeId, is_reachable};
use super::items::ItemStore;
use super::krpc::{Body, Malformed, Message, Query};
use super::limits::{Budget, Sources};
use super::peers::PeerStore;
use super::saved::{NODES_MAX, Saved};
use super::table::{BUCKET, Table};
use super::tokens::Tokens;
use super::votes::Votes;
use searches::Search;
pub use types::{Announce, DhtConfig, DhtStats, Event, Goal, SearchId, Transmit};

/// Queries of ours without an answer at most.
pub const ASKED_MAX: usize = 1024;
/// Searches of the caller's that may run at a time.
pub const SEARCHES_MAX: usize = 96;
/// Queries that we send, per second and at once, for up to some thousand torrents: 20 KB/s.
const QUERIES: u64 = 200;
/// The same for any number of them: 70 KB/s.
const QUERIES_MAX: u64 = 700;
/// Queries that a look-up with its announce takes, and seconds from one of a torrent to the next.
const LOOKUP_QUERIES: u64 = 60;
const LOOKUP_EVERY: u64 = 15 * 60;
/// An answer takes a round trip; after this somebody else is asked too.
const LATE: Duration = Duration::from_millis(1500);
/// After this none is expected.
const LOST: Duration = Duration::from_secs(6);
/// Between two looks at tables and stores.
const CHORES: Duration = Duration::from_secs(10);
/// Between two looks for our own neighbourhood; sooner while the table is nearly empty.
const SELF_LOOKUP: Duration = Duration::from_secs(30 * 60);
const SELF_LOOKUP_EMPTY: [u64; 5] = [10, 20, 60, 120, 300];
/// Addresses to begin with that are remembered, by family.
const ENTRIES_MAX: usize = NODES_MAX + 64;
/// Nodes that asked us and wait for a check at most.
const PROBES_MAX: usize = 64;
/// Nodes pinged at each look at a table.
const CHECKS: usize = 4;

/// A query on its way.
#[derive(Clone, Copy, Debug)]
struct Asked {
    to: SocketAddr,
    /// The name that it should have.
    id: Option<NodeId>,
    at: Instant,
    late: bool,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Whether a node is there.
    Check,
    /// On the way to a place.
    Lookup(u64),
    /// To store something.
    Store(u64),
}

/// What there is of one family.
#[derive(Debug)]
struct Side {
    table: Table,
    votes: Votes,
    /// Nodes have agreed on our address.
    agreed: bool,
    /// Addresses to begin with.
    entries: Vec<SocketAddr>,
    /// Who asked us and may be put into the table.
    probes: VecDeque<Contact>,
    self_lookup: Instant,
    /// How often that found too few.
    tries: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Dht {
    read_only: bool,
    sides: [Option<Side>; 2],
    tokens: Tokens,
    peers: PeerStore,
    items: ItemStore,
    sources: Sources,
    budget: Budget,
    asked: BTreeMap<u32, Asked>,
    searches: BTreeMap<u64, Search>,
    next_search: u64,
    /// Whose turn it is to ask first.
    turn: u64,
    /// Somebody would ask more if the budget allowed it.
    hungry: bool,
    chores: Instant,
    out: VecDeque<Transmit>,
    events: VecDeque<Event>,
    stats: DhtStats,
}

impl Dht {
    /// A node that knows nobody but those that were saved.
    pub fn new(now: Instant, config: &DhtConfig, rng: &mut impl Rng) -> Self {
        let side = |family: usize, rng: &mut _| {
            config.families[family].then(|| Side {
                table: Table::new(config.saved.ids[family].unwrap_or_else(|| NodeId::random(rng)), now),
                votes: Votes::default(),
                agreed: false,
                entries: Vec::new(),
                probes: VecDeque::new(),
                self_lookup: now,
                tries: 0,
            })
        };
        let mut this = Self {
            read_only: config.read_only,
            sides: [side(0, rng), side(1, rng)],
            tokens: Tokens::new(now, rng),
            peers: PeerStore::default(),
            items: ItemStore::default(),
            sources: Sources::new(now),
            budget: Budget::new(now, (QUERIES, QUERIES)),
            asked: BTreeMap::new(),
            searches: BTreeMap::new(),
            next_search: 0,
            turn: 0,
            hungry: false,
            chores: now,
            out: VecDeque::new(),
            events: VecDeque::new(),
            stats: DhtStats::default(),
        };
        this.enter_by(now, config.saved.nodes.iter().map(|node| node.addr));
        this
    }

    // ---- getters

    /// Our name in one family; IPv4 is 0.
    pub fn id(&self, family: usize) -> Option<NodeId> {
        self.sides[family].as_ref().map(|side| side.table.own())
    }

    /// What is to be kept for the next run.
    pub fn save(&self) -> Saved {
        let nodes = self.sides.iter().flatten().flat_map(|side| side.table.contacts());
        Saved { ids: [self.id(0), self.id(1)], nodes: nodes.collect() }
    }

    /// See [`DhtStats`].
    pub fn stats(&self) -> DhtStats {
        let nodes = |family: usize| self.sides[family].as_ref().map_or(0, |side| side.table.len());
        DhtStats {
            nodes: [nodes(0), nodes(1)],
            searches: self.searches.values().filter(|search| search.is_callers()).count(),
            stored: [self.peers.len(), self.peers.peers(), self.items.len()],
            ..self.stats
        }
    }

    /// When [`Self::tick`] has something to do.
    pub fn next_wakeup(&self, now: Instant) -> Instant {
        let lost = |asked: &Asked| asked.at + if asked.late { LOST } else { LATE };
        let first = self.asked.values().map(lost).min();
        let hungry = self.hungry.then(|| self.budget.ready(now));
        [Some(self.chores), first, hungry].into_iter().flatten().min().expect("chores never end").max(now)
    }

    /// A datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    // ---- whom to begin with

    /// Addresses of nodes that may be there, at which to begin while the table is nearly empty.
    pub fn enter_by(&mut self, now: Instant, addrs: impl IntoIterator<Item = SocketAddr>) {
        for addr in addrs {
            let Some(side) = &mut self.sides[family(addr)] else { continue };
            if is_reachable(addr) && side.entries.len() < ENTRIES_MAX && !side.entries.contains(&addr) {
                side.entries.push(addr);
                if side.table.len() < BUCKET {
                    (side.self_lookup, side.tries) = (now, 0);
                    self.chores = now;
                }
            }
        }
    }

    /// Somebody says that there is a node at `addr` (a PORT message): it is asked whether it is, if there is room for it.
    pub fn add_node(&mut self, now: Instant, addr: SocketAddr, rng: &mut impl Rng) {
        let Some(side) = &self.sides[family(addr)] else { return };
        let is_known = side.table.contacts().any(|contact| contact.addr == addr);
        if is_reachable(addr) && !is_known && !self.asked.values().any(|asked| asked.to == addr) {
            self.ask(now, addr, None, Query::Ping, Why::Check, rng);
        }
    }

    /// A tracker says what our address is (BEP 24): believed until nodes have agreed on one, since it is one voice.
    pub fn hint_external(&mut self, now: Instant, ip: IpAddr, rng: &mut impl Rng) {
        let side = &self.sides[usize::from(ip.is_ipv6())];
        if side.as_ref().is_some_and(|side| !side.agreed) {
            self.set_external(now, ip, rng);
        }
    }

    /// Our name is changed if it does not fit our address (BEP 42).
    fn set_external(&mut self, now: Instant, ip: IpAddr, rng: &mut impl Rng) {
        let Some(side) = &mut self.sides[usize::from(ip.is_ipv6())] else { return };
        if !side.table.own().fits(ip) {
            side.table.set_own(NodeId::for_ip(ip, rng), now);
            side.self_lookup = now;
            self.chores = now;
            self.events.push_back(Event::External(ip));
        }
    }

    /// So many torrents are looked up again and again: enough is asked for each to have its turn in time, up to
    /// [`QUERIES_MAX`] a second. More of them have to wait for longer.
    pub fn set_torrents(&mut self, now: Instant, torrents: usize) {
        let wanted = torrents as u64 * LOOKUP_QUERIES / LOOKUP_EVERY;
        self.budget.set_rate(now, wanted.clamp(QUERIES, QUERIES_MAX));
    }

    // ---- what comes in

    /// Takes in one datagram.
    pub fn handle(&mut self, now: Instant, from: SocketAddr, bytes: &[u8], rng: &mut impl Rng) {
        if self.sides[family(from)].is_none() || !is_reachable(from) {
            self.stats.refused += 1;
            return;
        }
        match Message::decode(bytes) {
            Ok(Message { transaction, body: Body::Query { id, read_only, query } }) => {
                self.stats.queries_in += 1;
                if !self.read_only && self.sources.admit(now, from.ip(), bytes.len()) {
                    let asker = Contact { id, addr: from };
                    self.on_query(now, asker, read_only, transaction, query, rng);
                }
            }
            Ok(Message { transaction, body: Body::Answer { id, ip, answer } }) => {
                match self.take_asked(from, &transaction) {
                    Some(asked) => self.on_answer(now, asked, id, ip, *answer, rng),
                    None => self.stats.refused += 1,
                }
            }
            Ok(Message { transaction, body: Body::Error { .. } }) => {
                match self.take_asked(from, &transaction) {
                    Some(asked) => self.on_error(now, asked),
                    None => self.stats.refused += 1,
                }
            }
            Err(Malformed::Silent) => self.stats.refused += 1,
            Err(Malformed::Query { transaction, code, text }) => {
                self.stats.queries_in += 1;
                if !self.read_only && self.sources.admit(now, from.ip(), bytes.len()) {
                    self.refuse(now, from, transaction, code, text);
                }
            }
        }
        self.drive(now, rng);
    }

    /// The query that this answers.
    fn take_asked(&mut self, from: SocketAddr, transaction: &[u8]) -> Option<Asked> {
        let key = u32::from_be_bytes(transaction.try_into().ok()?);
        let asked = self.asked.get(&key).filter(|asked| asked.to == from)?;
        let asked = *asked;
        self.asked.remove(&key);
        Some(asked)
    }

    /// Sends a query, if that may be.
    fn ask(
        &mut self,
        now: Instant,
        to: SocketAddr,
        id: Option<NodeId>,
        query: Query,
        why: Why,
        rng: &mut impl Rng,
    ) -> bool {
        let Some(side) = &self.sides[family(to)] else { return false };
        if self.asked.len() >= ASKED_MAX || !self.budget.take(now, 1) {
            return false;
        }
        let key = loop {
            let key = rng.random();
            if !self.asked.contains_key(&key) {
                break key;
            }
        };
        let body = Body::Query { id: side.table.own(), read_only: self.read_only, query };
        let bytes = Message { transaction: key.to_be_bytes().to_vec(), body }.encode();
        self.asked.insert(key, Asked { to, id, at: now, late: false, why });
        self.out.push_back(Transmit { to, bytes });
        self.stats.queries_out += 1;
        true
    }

    // ---- what time brings

    /// Looks after what is due.
    pub fn tick(&mut self, now: Instant, rng: &mut impl Rng) {
        let age = |asked: &Asked| now.saturating_duration_since(asked.at);
        let lost: Vec<Asked> =
            self.asked.extract_if(.., |_, asked| age(asked) >= LOST).map(|(_, asked)| asked).collect();
        lost.into_iter().for_each(|asked| self.on_lost(asked));
        let late: Vec<u32> = self
            .asked
            .iter()
            .filter(|(_, asked)| !asked.late && age(asked) >= LATE)
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            let asked = self.asked.get_mut(&key).expect("listed above");
            asked.late = true;
            if let Why::Lookup(search) = asked.why {
                let to = asked.to;
                self.with_lookup(search, to, |lookup| lookup.late(to));
            }
        }
        if now >= self.chores {
            self.chores = now + CHORES;
            self.tokens.rotate(now, rng);
            self.peers.expire(now);
            self.items.expire(now);
            (0..2).for_each(|family| self.look_after(now, family, rng));
        }
        self.drive(now, rng);
    }

    /// Nobody answered.
    fn on_lost(&mut self, asked: Asked) {
        if let (Some(id), Some(side)) = (asked.id, &mut self.sides[family(asked.to)]) {
            side.table.failed(Contact { id, addr: asked.to });
        }
        self.settle(asked);
    }

    /// An answer that is of no use: the look-up goes on without it.
    fn settle(&mut self, asked: Asked) {
        match asked.why {
            Why::Check => {}
            Why::Lookup(search) => self.with_lookup(search, asked.to, |lookup| lookup.failed(asked.to)),
            Why::Store(search) => {
                if let Some(search) = self.searches.get_mut(&search) {
                    search.storing -= 1;
                }
            }
        }
    }

    fn on_error(&mut self, now: Instant, asked: Asked) {
        self.sources.prove(now, asked.to.ip());
        self.settle(asked);
    }

    /// Keeps the table of one family in order.
    fn look_after(&mut self, now: Instant, family: usize, rng: &mut impl Rng) {
        let Some(side) = &mut self.sides[family] else { return };
        let mut checks: Vec<Contact> = side.probes.drain(..).collect();
        checks.retain(|contact| side.table.wants(*contact));
        checks.extend(std::iter::from_fn(|| side.table.next_check(now)).take(CHECKS));
        for contact in checks {
            self.ask(now, contact.addr, Some(contact.id), Query::Ping, Why::Check, rng);
        }
        let Some(side) = &mut self.sides[family] else { return };
        if self.searches.values().any(|search| search.keeps(family)) {
            return;
        }
        let target = if now >= side.self_lookup && !(side.table.is_empty() && side.entries.is_empty()) {
            let few = side.table.len() < BUCKET;
            let wait = SELF_LOOKUP_EMPTY[side.tries.min(SELF_LOOKUP_EMPTY.len() - 1)];
            side.tries = if few { side.tries + 1 } else { 0 };
            side.self_lookup = now + if few { Duration::from_secs(wait) } else { SELF_LOOKUP };
            Some(side.table.own())
        } else {
            side.table.next_refresh(now, rng)
        };
        if let Some(target) = target.filter(|_| !side.table.is_empty() || !side.entries.is_empty()) {
            self.keep(now, family, target);
        }
    }
}

/// 0 for IPv4, 1 for IPv6.
fn family(addr: SocketAddr) -> usize {
    usize::from(addr.is_ipv6())
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;

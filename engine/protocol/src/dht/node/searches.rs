//! Searches: look-ups in both families, and what is stored at their end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;

use super::{Announce, Dht, Event, Goal, SEARCHES_MAX, SearchId, Why, family};
use crate::dht::bloom::Bloom;
use crate::dht::id::NodeId;
use crate::dht::krpc::{Item, Query, Want};
use crate::dht::lookup::Lookup;
use crate::dht::table::BUCKET;

/// A search that takes longer ends with what it has.
const LONGEST: Duration = Duration::from_secs(60);
/// Nodes of our own table that a look-up begins with.
const BEGIN: usize = 2 * BUCKET;

/// See the module.
#[derive(Debug)]
pub(super) struct Search {
    pub goal: Goal,
    /// It keeps the table of this family in order, and nobody waits for it.
    own: Option<usize>,
    pub lookups: [Option<Lookup>; 2],
    started: Instant,
    /// Stores on their way.
    pub storing: usize,
    pub stored: usize,
    is_storing: bool,
    /// Of seeds and other peers.
    pub blooms: Option<(Bloom, Bloom)>,
    pub found: Option<Box<Item>>,
}

impl Search {
    pub fn is_callers(&self) -> bool {
        self.own.is_none()
    }

    /// Whether it keeps this family's table in order.
    pub fn keeps(&self, family: usize) -> bool {
        self.own == Some(family)
    }

    /// What is asked on the way.
    fn query(&self, want: Want) -> Query {
        match &self.goal {
            Goal::Nodes(target) => Query::FindNode { target: *target, want },
            Goal::Peers { info_hash, .. } => {
                Query::GetPeers { info_hash: *info_hash, want, no_seeds: false, scrape: false }
            }
            Goal::Scrape(info_hash) => {
                Query::GetPeers { info_hash: *info_hash, want, no_seeds: false, scrape: true }
            }
            Goal::Get { target, .. } => Query::Get { target: *target, seq: None, want },
            Goal::Put { item, .. } => Query::Get { target: item.target(), seq: None, want },
            Goal::Sample(target) => Query::SampleInfohashes { target: *target, want },
        }
    }

    /// What is stored at the end, with a token.
    fn store(&self, token: Vec<u8>) -> Option<Query> {
        match &self.goal {
            Goal::Peers { info_hash, announce: Some(Announce { port, seed }) } => {
                Some(Query::AnnouncePeer { info_hash: *info_hash, port: *port, seed: *seed, token })
            }
            Goal::Put { item, cas } => Some(Query::Put { item: item.clone(), cas: *cas, token }),
            _ => None,
        }
    }

    /// Whether there is no need to look further.
    fn is_satisfied(&self) -> bool {
        // An immutable value is there or not; a mutable one may be newer elsewhere.
        matches!(self.goal, Goal::Get { .. }) && self.found.as_ref().is_some_and(|item| item.signed.is_none())
    }
}

impl Goal {
    fn target(&self) -> NodeId {
        match self {
            Self::Nodes(target) | Self::Sample(target) | Self::Get { target, .. } => *target,
            Self::Peers { info_hash, .. } | Self::Scrape(info_hash) => (*info_hash).into(),
            Self::Put { item, .. } => item.target(),
        }
    }
}

impl Dht {
    /// Begins a search. `None`: [`SEARCHES_MAX`] run already.
    pub fn start(&mut self, now: Instant, goal: Goal, rng: &mut impl Rng) -> Option<SearchId> {
        let running = self.searches.values().filter(|search| search.is_callers()).count();
        if running >= SEARCHES_MAX {
            return None;
        }
        let stored = match &goal {
            // We may be one of the nodes that it is announced to.
            Goal::Peers { info_hash, .. } => {
                [false, true].map(|v6| self.peers.choose(info_hash, v6, false, rng)).concat()
            }
            _ => Vec::new(),
        };
        let id = self.begin(now, goal, None);
        if !stored.is_empty() {
            self.events.push_back(Event::Peers(SearchId(id), stored));
        }
        self.drive(now, rng);
        Some(SearchId(id))
    }

    /// Ends a search without a word.
    pub fn cancel(&mut self, search: SearchId) {
        self.searches.remove(&search.0);
    }

    /// Looks for nodes near `target`, for the table's sake.
    pub(super) fn keep(&mut self, now: Instant, family: usize, target: NodeId) {
        self.begin(now, Goal::Nodes(target), Some(family));
    }

    fn begin(&mut self, now: Instant, goal: Goal, own: Option<usize>) -> u64 {
        let target = goal.target();
        let lookup = |family: usize| {
            let side = self.sides[family].as_ref().filter(|_| own.is_none_or(|own| own == family))?;
            let few = side.table.len() < BUCKET;
            let entries = if few { &side.entries[..] } else { &[] };
            Some(Lookup::new(target, side.table.closest(&target, BEGIN), entries))
        };
        let lookups = [lookup(0), lookup(1)];
        let id = self.next_search;
        self.next_search += 1;
        let search = Search {
            goal,
            own,
            lookups,
            started: now,
            storing: 0,
            stored: 0,
            is_storing: false,
            blooms: None,
            found: None,
        };
        self.searches.insert(id, search);
        id
    }

    /// The look-up that `to` was asked for.
    pub(super) fn with_lookup(&mut self, search: u64, to: SocketAddr, then: impl FnOnce(&mut Lookup)) {
        let search = self.searches.get_mut(&search);
        if let Some(lookup) = search.and_then(|search| search.lookups[family(to)].as_mut()) {
            then(lookup);
        }
    }

    /// Asks on, and ends what is done. Searches take turns: one that waited for the budget comes first.
    pub(super) fn drive(&mut self, now: Instant, rng: &mut impl Rng) {
        self.hungry = false;
        let mut keys: Vec<u64> = self.searches.keys().copied().collect();
        let first = keys.partition_point(|key| *key < self.turn);
        keys.rotate_left(first);
        for key in keys {
            if !self.advance(now, key, rng) {
                self.turn = key;
                self.hungry = true;
                break;
            }
        }
    }

    /// Goes on with one search; `false` when it may not ask as much as it would.
    fn advance(&mut self, now: Instant, key: u64, rng: &mut impl Rng) -> bool {
        let want = Want { v4: self.sides[0].is_some(), v6: self.sides[1].is_some() };
        // Who has one family only is not asked for another one.
        let want = if want.v4 && want.v6 { want } else { Want::default() };
        let mut is_starved = false;
        for family in 0..2 {
            loop {
                let may_ask = self.may_ask(now);
                let search = self.searches.get_mut(&key).expect("the caller has seen it");
                if search.is_storing || search.is_satisfied() {
                    break;
                }
                let query = search.query(want);
                let Some(lookup) = &mut search.lookups[family] else { break };
                if !may_ask {
                    is_starved |= lookup.has_next();
                    break;
                }
                let Some((to, id)) = lookup.next_asked() else { break };
                if !self.ask(now, to, id, query, Why::Lookup(key), rng) {
                    self.with_lookup(key, to, |lookup| lookup.failed(to));
                }
            }
        }
        let search = &self.searches[&key];
        let is_found = search.lookups.iter().flatten().all(Lookup::is_done) || search.is_satisfied();
        if !search.is_storing && (is_found || self.is_overdue(now, key)) {
            self.store_all(now, key, rng);
        }
        if self.searches.get(&key).is_some_and(|search| search.is_storing && search.storing == 0) {
            self.finish(key);
        }
        !is_starved
    }

    fn is_overdue(&self, now: Instant, key: u64) -> bool {
        now.saturating_duration_since(self.searches[&key].started) >= LONGEST
    }

    fn may_ask(&self, now: Instant) -> bool {
        self.asked.len() < super::ASKED_MAX && self.budget.ready(now) <= now
    }

    /// The look-ups have ended: stores at the nearest nodes what is to be stored.
    fn store_all(&mut self, now: Instant, key: u64, rng: &mut impl Rng) {
        let search = self.searches.get_mut(&key).expect("the caller has seen it");
        search.is_storing = true;
        let nearest: Vec<_> = search.lookups.iter().flatten().flat_map(Lookup::closest).collect();
        for (contact, token) in nearest {
            let Some(query) = self.searches[&key].store(token) else { return };
            if self.ask(now, contact.addr, Some(contact.id), query, Why::Store(key), rng) {
                self.searches.get_mut(&key).expect("seen above").storing += 1;
            }
        }
    }

    fn finish(&mut self, key: u64) {
        let search = self.searches.remove(&key).expect("the caller has seen it");
        if !search.is_callers() {
            return;
        }
        let id = SearchId(key);
        if let Goal::Scrape(_) = search.goal {
            let (seeds, peers) = search.blooms.unwrap_or_default();
            self.events.push_back(Event::Scraped(id, seeds.estimate(), peers.estimate()));
        }
        if let Some(item) = search.found {
            self.events.push_back(Event::Found(id, item));
        }
        let nodes = search.lookups.iter().flatten().map(|lookup| lookup.answered_nodes().len()).sum();
        self.events.push_back(Event::Done { search: id, nodes, stored: search.stored });
    }
}

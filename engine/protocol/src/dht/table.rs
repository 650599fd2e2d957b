//! The nodes that we know, more of them the nearer they are (BEP 5), for one family of addresses.
//!
//! Bucket `i` holds nodes that share exactly `i` leading bits with our own name, the last one all that share more; only
//! that one is split. Invariants: a node comes in only after it has answered a query of ours; a bucket has [`BUCKET`]
//! nodes at most and as many spares; one machine has one node (local addresses: one per port).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::Rng;

use super::id::{Contact, NodeId, is_local};
use super::limits::subnet;

/// Nodes of a bucket, and its spares: with 160 buckets 2560 of 100 bytes at most, about 200 in practice.
pub const BUCKET: usize = 8;
/// A node that was silent for so long is questionable, a bucket in which nothing happened is looked up again (BEP 5).
pub const FRESH: Duration = Duration::from_secs(15 * 60);
/// Queries in a row that a node left unanswered: it is bad, a spare takes its place and nobody is told of it.
const BAD: u8 = 2;
/// So many, and it is forgotten also when nobody takes its place. Not sooner: our own network may have been down.
const HOPELESS: u8 = 10;
/// Between two checks of one node.
const CHECK: Duration = Duration::from_secs(60);

/// Where a machine is.
type Place = (IpAddr, u16);

fn place(addr: SocketAddr) -> Place {
    let port = if is_local(addr.ip()) { addr.port() } else { 0 };
    (subnet(addr.ip()), port)
}

#[derive(Clone, Copy, Debug)]
struct Node {
    contact: Contact,
    /// Its last answer.
    answered: Instant,
    /// Its last query.
    asked: Option<Instant>,
    /// When we last made sure of it.
    checked: Instant,
    /// Queries in a row that it left unanswered.
    failures: u8,
    /// It may have its name (BEP 42).
    fits: bool,
}

impl Node {
    fn is_good(&self, now: Instant) -> bool {
        let is_fresh = |at: Instant| now.saturating_duration_since(at) < FRESH;
        self.failures == 0 && (is_fresh(self.answered) || self.asked.is_some_and(is_fresh))
    }
}

#[derive(Debug)]
struct Bucket {
    live: Vec<Node>,
    /// Known to answer, in case a live one does not; the last one answered last.
    spare: Vec<Node>,
    changed: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { live: Vec::new(), spare: Vec::new(), changed: now }
    }

    /// The best spare.
    fn take_spare(&mut self) -> Option<Node> {
        let best =
            (0..self.spare.len()).rev().max_by_key(|at| (self.spare[*at].fits, self.spare[*at].answered));
        best.map(|at| self.spare.remove(at))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Table {
    own: NodeId,
    buckets: Vec<Bucket>,
    /// Of live nodes and spares.
    places: HashMap<Place, NodeId>,
}

impl Table {
    /// An empty one of the node `own`.
    pub fn new(own: NodeId, now: Instant) -> Self {
        Self { own, buckets: vec![Bucket::new(now)], places: HashMap::new() }
    }

    /// Our name.
    pub fn own(&self) -> NodeId {
        self.own
    }

    /// Gives us another name, and every node its new place.
    pub fn set_own(&mut self, own: NodeId, now: Instant) {
        let mut nodes: Vec<Node> = Vec::new();
        for bucket in &mut self.buckets {
            nodes.append(&mut bucket.live);
        }
        *self = Self::new(own, now);
        nodes.into_iter().for_each(|node| self.insert(node));
    }

    /// Live nodes.
    pub fn len(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.live.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.live.is_empty())
    }

    /// Live nodes of which nothing bad is known.
    pub fn contacts(&self) -> impl Iterator<Item = Contact> + '_ {
        let live = self.buckets.iter().flat_map(|bucket| &bucket.live);
        live.filter(|node| node.failures < BAD).map(|node| node.contact)
    }

    fn index(&self, id: &NodeId) -> usize {
        self.own.shared_bits(id).min(self.buckets.len() - 1)
    }

    fn find(&mut self, id: &NodeId) -> Option<&mut Node> {
        let index = self.index(id);
        let bucket = &mut self.buckets[index];
        bucket.live.iter_mut().chain(&mut bucket.spare).find(|node| node.contact.id == *id)
    }

    /// A node has answered a query that we had sent to this address.
    pub fn answered(&mut self, now: Instant, contact: Contact) {
        if contact.id == self.own {
            return;
        }
        if let Some(before) = self.places.get(&place(contact.addr)).copied() {
            let node = *self.find(&before).expect("every place has its node");
            if node.contact == contact {
                return self.refresh(now, &contact.id);
            }
            // Another name or port: two nodes of one machine, or one that was started anew.
            if node.contact.addr != contact.addr && node.failures == 0 {
                return;
            }
            self.remove(&before);
        }
        if let Some(node) = self.find(&contact.id).copied() {
            // One of the two has the other's name. Whoever was there first stays, while it answers.
            if node.failures == 0 {
                return;
            }
            self.remove(&contact.id);
        }
        let fits = contact.id.fits(contact.addr.ip());
        self.insert(Node { contact, answered: now, asked: None, checked: now, failures: 0, fits });
    }

    fn refresh(&mut self, now: Instant, id: &NodeId) {
        let index = self.index(id);
        let bucket = &mut self.buckets[index];
        if let Some(node) = bucket.live.iter_mut().find(|node| node.contact.id == *id) {
            (node.answered, node.failures) = (now, 0);
            bucket.changed = now;
        } else if let Some(at) = bucket.spare.iter().position(|node| node.contact.id == *id) {
            let node = bucket.spare.remove(at);
            bucket.spare.push(Node { answered: now, failures: 0, ..node });
        }
    }

    fn remove(&mut self, id: &NodeId) {
        let index = self.index(id);
        let bucket = &mut self.buckets[index];
        for nodes in [&mut bucket.live, &mut bucket.spare] {
            if let Some(at) = nodes.iter().position(|node| node.contact.id == *id) {
                self.places.remove(&place(nodes.remove(at).contact.addr));
            }
        }
    }

    /// Puts a node that is not there into its bucket, or among the spares, or nowhere.
    fn insert(&mut self, node: Node) {
        if self.places.contains_key(&place(node.contact.addr)) {
            return;
        }
        let mut index = self.index(&node.contact.id);
        while self.buckets[index].live.len() >= BUCKET && index + 1 == self.buckets.len() && index < 159 {
            self.split();
            index = self.index(&node.contact.id);
        }
        let bucket = &mut self.buckets[index];
        let bad = bucket.live.iter().position(|live| live.failures >= BAD);
        // A name that does not fit the address may have been chosen to be near something.
        let odd = bucket.live.iter().position(|live| !live.fits && node.fits);
        self.places.insert(place(node.contact.addr), node.contact.id);
        if bucket.live.len() < BUCKET {
            bucket.live.push(node);
            bucket.changed = bucket.changed.max(node.answered);
        } else if let Some(at) = bad.or(odd) {
            let before = std::mem::replace(&mut bucket.live[at], node);
            bucket.changed = bucket.changed.max(node.answered);
            if before.failures >= BAD {
                self.places.remove(&place(before.contact.addr));
            } else {
                self.add_spare(index, before);
            }
        } else {
            self.add_spare(index, node);
        }
    }

    fn add_spare(&mut self, index: usize, node: Node) {
        let spare = &mut self.buckets[index].spare;
        if spare.len() >= BUCKET {
            let gone = spare.remove(0);
            self.places.remove(&place(gone.contact.addr));
        }
        spare.push(node);
    }

    /// Makes two of the last bucket.
    fn split(&mut self) {
        let bits = self.buckets.len() - 1;
        let last = self.buckets.last_mut().expect("there is always one");
        let mut near = Bucket { live: Vec::new(), spare: Vec::new(), changed: last.changed };
        let own = self.own;
        let is_near = |node: &mut Node| own.shared_bits(&node.contact.id) > bits;
        near.live.extend(last.live.extract_if(.., is_near));
        near.spare.extend(last.spare.extract_if(.., is_near));
        for bucket in [last, &mut near] {
            while bucket.live.len() < BUCKET
                && let Some(node) = bucket.take_spare()
            {
                bucket.live.push(node);
            }
        }
        self.buckets.push(near);
    }

    /// A node left a query unanswered.
    pub fn failed(&mut self, contact: Contact) {
        let index = self.index(&contact.id);
        let bucket = &mut self.buckets[index];
        if let Some(at) = bucket.spare.iter().position(|node| node.contact == contact) {
            bucket.spare.remove(at);
            self.places.remove(&place(contact.addr));
            return;
        }
        let Some(at) = bucket.live.iter().position(|node| node.contact == contact) else { return };
        let node = &mut bucket.live[at];
        node.failures = node.failures.saturating_add(1);
        let failures = node.failures;
        let spare = if failures >= BAD { bucket.take_spare() } else { None };
        match spare {
            Some(spare) => bucket.live[at] = spare,
            None if failures >= HOPELESS => drop(bucket.live.remove(at)),
            None => return,
        }
        self.places.remove(&place(contact.addr));
    }

    /// A node has sent a query: whether it is one of ours.
    pub fn asked(&mut self, now: Instant, contact: Contact) -> bool {
        match self.find(&contact.id) {
            Some(node) if node.contact == contact => {
                node.asked = Some(now);
                true
            }
            _ => false,
        }
    }

    /// Whether a node that nobody has checked yet would be of use.
    pub fn wants(&self, contact: Contact) -> bool {
        if contact.id == self.own || self.places.contains_key(&place(contact.addr)) {
            return false;
        }
        let index = self.index(&contact.id);
        let bucket = &self.buckets[index];
        let fits = contact.id.fits(contact.addr.ip());
        bucket.live.len() < BUCKET
            || index + 1 == self.buckets.len()
            || bucket.spare.len() < BUCKET
            || bucket.live.iter().any(|live| live.failures >= BAD || fits && !live.fits)
    }

    /// The nodes nearest to `target`, those that did not answer lately left out.
    pub fn closest(&self, target: &NodeId, count: usize) -> Vec<Contact> {
        let mut nodes: Vec<Contact> = self.contacts().collect();
        nodes.sort_unstable_by_key(|contact| contact.id.distance(target));
        nodes.truncate(count);
        nodes
    }

    /// A questionable node to be pinged now, the one silent for longest first; those with spares before others.
    pub fn next_check(&mut self, now: Instant) -> Option<Contact> {
        let mut found: Option<(bool, Instant, NodeId)> = None;
        for bucket in &self.buckets {
            let due =
                |node: &&Node| !node.is_good(now) && now.saturating_duration_since(node.checked) >= CHECK;
            let oldest = bucket.live.iter().filter(due).min_by_key(|node| node.answered);
            let candidate = oldest.map(|node| (bucket.spare.is_empty(), node.answered, node.contact.id));
            found = found.into_iter().chain(candidate).min();
        }
        let node = self.find(&found?.2).expect("found above");
        node.checked = now;
        Some(node.contact)
    }

    /// A place to look up, as nothing was heard from its bucket for long.
    pub fn next_refresh(&mut self, now: Instant, rng: &mut impl Rng) -> Option<NodeId> {
        let is_stale = |bucket: &Bucket| now.saturating_duration_since(bucket.changed) >= FRESH;
        let index = self.buckets.iter().position(is_stale)?;
        self.buckets[index].changed = now;
        Some(self.own.random_sharing(index, rng))
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;

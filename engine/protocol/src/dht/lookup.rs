//! One iterative look-up: towards a place, always asking the nearest nodes known (BEP 5).
//!
//! Pure bookkeeping: [`Lookup::next_asked`] says whom to ask, the node sends and tells the outcome. What others say of a
//! node is hearsay: its name counts once it has answered with it. Names that do not fit their address (BEP 42), and
//! nodes told by somebody whose nodes did not exist, are doubtful: [`DOUBTFUL_WINDOW`] of them are asked at a time,
//! [`DOUBTFUL_MAX`] in all, and they keep no other node from being asked. Invariants: no machine is asked twice;
//! [`ASKED_MAX`] queries at most.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use super::id::{Contact, Distance, NodeId, is_local};
use super::limits::subnet;
use super::table::BUCKET;

/// Queries on the way at a time, not counting those that are late.
pub const ALPHA: usize = 4;
/// Queries of one look-up at most.
pub const ASKED_MAX: usize = 128;
/// Nodes remembered at most.
const CANDIDATES_MAX: usize = 128;
/// Nodes taken from one answer.
const TOLD_MAX: usize = 2 * BUCKET;
/// The nearest doubtful ones that are asked.
const DOUBTFUL_WINDOW: usize = 4;
/// Of them, so many in all.
const DOUBTFUL_MAX: usize = 32;
/// So many nodes that somebody told did not answer, or had other names: the rest is doubtful.
const STRIKES: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Waiting { late: bool },
    Answered,
    Failed,
}

#[derive(Clone, Debug)]
struct Candidate {
    contact: Contact,
    distance: Distance,
    state: State,
    /// Who told of it; `None`: it is from our table.
    teller: Option<SocketAddr>,
    /// It may have its name.
    fits: bool,
    token: Option<Vec<u8>>,
}

/// See the module.
#[derive(Debug)]
pub struct Lookup {
    target: NodeId,
    /// Nearest first.
    candidates: Vec<Candidate>,
    /// Places to begin with whose names are not known.
    entries: Vec<(SocketAddr, State)>,
    seen: HashSet<(IpAddr, u16)>,
    strikes: HashMap<SocketAddr, u8>,
    asked: usize,
    doubtful_asked: usize,
}

impl Lookup {
    /// Towards `target`, from nodes of our table, and from `entries` of which only the address is known.
    pub fn new(target: NodeId, known: Vec<Contact>, entries: &[SocketAddr]) -> Self {
        let mut this = Self {
            target,
            candidates: Vec::new(),
            entries: Vec::new(),
            seen: HashSet::new(),
            strikes: HashMap::new(),
            asked: 0,
            doubtful_asked: 0,
        };
        known.into_iter().for_each(|contact| this.add(contact, None));
        for addr in entries.iter().take(CANDIDATES_MAX) {
            if this.seen.insert(machine(*addr)) {
                this.entries.push((*addr, State::New));
            }
        }
        this
    }

    /// Where it leads.
    pub fn target(&self) -> NodeId {
        self.target
    }

    /// Takes nodes that somebody told of.
    pub fn told(&mut self, teller: SocketAddr, nodes: &[Contact]) {
        nodes.iter().take(TOLD_MAX).for_each(|contact| self.add(*contact, Some(teller)));
    }

    fn add(&mut self, contact: Contact, teller: Option<SocketAddr>) {
        if !self.seen.insert(machine(contact.addr)) {
            return;
        }
        let distance = contact.id.distance(&self.target);
        let fits = contact.id.fits(contact.addr.ip());
        let new = Candidate { contact, distance, state: State::New, teller, fits, token: None };
        if self.candidates.len() >= CANDIDATES_MAX {
            let Some(gone) = self.least(&new) else { return };
            self.candidates.remove(gone);
        }
        let at = self.candidates.partition_point(|candidate| candidate.distance < distance);
        self.candidates.insert(at, new);
    }

    /// Who makes room for `new`: one that failed, else the farthest that is as doubtful or more, if it is farther or more.
    /// So no number of doubtful ones drives out another.
    fn least(&self, new: &Candidate) -> Option<usize> {
        let idle = |doubtful: bool| {
            move |candidate: &Candidate| {
                candidate.state == State::New && self.is_doubtful(candidate) == doubtful
            }
        };
        let failed = self.candidates.iter().rposition(|candidate| candidate.state == State::Failed);
        let doubtful = || self.candidates.iter().rposition(idle(true));
        let nearer = |at: &usize| self.candidates[*at].distance > new.distance;
        if self.is_doubtful(new) {
            return failed.or_else(|| doubtful().filter(nearer));
        }
        failed.or_else(doubtful).or_else(|| self.candidates.iter().rposition(idle(false)).filter(nearer))
    }

    fn is_doubtful(&self, candidate: &Candidate) -> bool {
        let struck =
            |teller: SocketAddr| self.strikes.get(&teller).is_some_and(|strikes| *strikes >= STRIKES);
        !candidate.fits || candidate.state != State::Answered && candidate.teller.is_some_and(struck)
    }

    /// The nearest nodes that did not fail: [`BUCKET`] without doubt, and some of the others.
    fn window(&self) -> impl Iterator<Item = usize> + '_ {
        let (mut sure, mut doubtful) = (0, 0);
        (0..self.candidates.len()).filter(move |at| {
            let candidate = &self.candidates[*at];
            if candidate.state == State::Failed || sure >= BUCKET {
                return false;
            }
            let is_doubtful = self.is_doubtful(candidate);
            let spent = self.doubtful_asked >= DOUBTFUL_MAX && candidate.state == State::New;
            let (count, most) =
                if is_doubtful { (&mut doubtful, DOUBTFUL_WINDOW) } else { (&mut sure, BUCKET) };
            let inside = *count < most && !(is_doubtful && spent);
            *count += usize::from(inside);
            inside
        })
    }

    fn in_flight(&self) -> usize {
        let states = self.candidates.iter().map(|candidate| candidate.state);
        let states = states.chain(self.entries.iter().map(|(_, state)| *state));
        states.filter(|state| *state == State::Waiting { late: false }).count()
    }

    /// Whom to ask next, if anybody: a candidate, or an entry.
    fn pick(&self) -> Option<Result<usize, usize>> {
        if self.asked >= ASKED_MAX || self.in_flight() >= ALPHA {
            return None;
        }
        let found = self.window().find(|at| self.candidates[*at].state == State::New);
        // Strangers only when what is known does not suffice.
        let stranger = || self.entries.iter().position(|(_, state)| *state == State::New);
        found.map(Ok).or_else(|| stranger().filter(|_| self.needs_entries()).map(Err))
    }

    fn needs_entries(&self) -> bool {
        self.candidates.iter().filter(|candidate| candidate.state == State::Answered).count() < BUCKET
    }

    /// Whether [`Self::next_asked`] has somebody.
    pub fn has_next(&self) -> bool {
        self.pick().is_some()
    }

    /// Whom to ask now, and the name that it should have; it counts as asked.
    pub fn next_asked(&mut self) -> Option<(SocketAddr, Option<NodeId>)> {
        let pick = self.pick()?;
        self.asked += 1;
        match pick {
            Ok(at) => {
                self.doubtful_asked += usize::from(self.is_doubtful(&self.candidates[at]));
                let candidate = &mut self.candidates[at];
                candidate.state = State::Waiting { late: false };
                Some((candidate.contact.addr, Some(candidate.contact.id)))
            }
            Err(at) => {
                let (addr, state) = &mut self.entries[at];
                *state = State::Waiting { late: false };
                Some((*addr, None))
            }
        }
    }

    /// Whether there is nothing to ask and nothing to wait for.
    pub fn is_done(&self) -> bool {
        let open = |state: State| matches!(state, State::Waiting { .. });
        let waits = self.window().any(|at| open(self.candidates[at].state))
            || self.entries.iter().any(|(_, state)| open(*state));
        if waits {
            return false;
        }
        // Nobody is waited for, so there is room to ask.
        self.pick().is_none()
    }

    /// `addr` has answered as `id`. Returns whether that is who was asked.
    pub fn answered(&mut self, addr: SocketAddr, id: NodeId, token: Option<Vec<u8>>) -> bool {
        if let Some(entry) = self.entries.iter_mut().find(|(entry, _)| *entry == addr) {
            entry.1 = State::Answered;
            self.seen.remove(&machine(addr));
            self.add(Contact { id, addr }, None);
        }
        let Some(at) = self.candidates.iter().position(|candidate| candidate.contact.addr == addr) else {
            return false;
        };
        if self.candidates[at].contact.id != id {
            self.strike(at);
            return false;
        }
        self.candidates[at].state = State::Answered;
        self.candidates[at].token = token;
        true
    }

    /// `addr` will not answer.
    pub fn failed(&mut self, addr: SocketAddr) {
        if let Some(entry) = self.entries.iter_mut().find(|(entry, _)| *entry == addr) {
            entry.1 = State::Failed;
        }
        if let Some(at) = self.candidates.iter().position(|candidate| candidate.contact.addr == addr) {
            self.strike(at);
        }
    }

    fn strike(&mut self, at: usize) {
        self.candidates[at].state = State::Failed;
        if let Some(teller) = self.candidates[at].teller {
            let strikes = self.strikes.entry(teller).or_default();
            *strikes = strikes.saturating_add(1);
        }
    }

    /// `addr` takes its time: somebody else is asked meanwhile.
    pub fn late(&mut self, addr: SocketAddr) {
        let entries = self.entries.iter_mut().map(|(entry, state)| (*entry, state));
        let candidates =
            self.candidates.iter_mut().map(|candidate| (candidate.contact.addr, &mut candidate.state));
        for (_, state) in entries.chain(candidates).filter(|(of, _)| *of == addr) {
            if let State::Waiting { late } = state {
                *late = true;
            }
        }
    }

    /// The nearest nodes that answered, gave a token and may have their name: what is to be stored is stored there
    /// (BEP 42 forbids it with others).
    pub fn closest(&self) -> Vec<(Contact, Vec<u8>)> {
        let good =
            self.candidates.iter().filter(|candidate| candidate.state == State::Answered && candidate.fits);
        let with_token = good.filter_map(|candidate| Some((candidate.contact, candidate.token.clone()?)));
        with_token.take(BUCKET).collect()
    }

    /// The nearest nodes that answered, whatever their names.
    pub fn answered_nodes(&self) -> Vec<Contact> {
        let good = self.candidates.iter().filter(|candidate| candidate.state == State::Answered);
        good.map(|candidate| candidate.contact).take(BUCKET).collect()
    }

    /// Queries so far.
    pub fn asked(&self) -> usize {
        self.asked
    }
}

/// What is asked once at most.
fn machine(addr: SocketAddr) -> (IpAddr, u16) {
    let port = if is_local(addr.ip()) { addr.port() } else { 0 };
    (subnet(addr.ip()), port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    const TARGET: NodeId = NodeId([0xaa; 20]);

    fn addr(n: u32) -> SocketAddr {
        SocketAddr::new(IpAddr::V4((0x0800_0000 + n).into()), 6881)
    }

    fn fitting(n: u32) -> Contact {
        let mut rng = SmallRng::seed_from_u64(u64::from(n));
        Contact { id: NodeId::for_ip(addr(n).ip(), &mut rng), addr: addr(n) }
    }

    #[test]
    fn asks_a_few_at_a_time_and_more_when_they_are_late() {
        let mut lookup = Lookup::new(TARGET, (0..20).map(fitting).collect(), &[]);
        let first: Vec<_> = std::iter::from_fn(|| lookup.next_asked()).collect();
        assert_eq!(first.len(), ALPHA);
        lookup.late(first[0].0);
        assert!(lookup.next_asked().is_some() && lookup.next_asked().is_none());
        lookup.failed(first[1].0);
        assert!(lookup.next_asked().is_some() && lookup.next_asked().is_none());
        assert!(!lookup.is_done());
    }

    #[test]
    fn ends_with_the_nearest_that_answer() {
        let all: Vec<Contact> = (0..40).map(fitting).collect();
        let mut lookup = Lookup::new(TARGET, all[..8].to_vec(), &[]);
        let mut asked = 0;
        while let Some((addr, id)) = lookup.next_asked() {
            asked += 1;
            assert!(lookup.answered(addr, id.expect("known"), Some(vec![1])));
            lookup.told(addr, &all);
        }
        assert!(lookup.is_done() && asked < 40, "{asked}");
        let mut nearest = all;
        nearest.sort_by_key(|contact| contact.id.distance(&TARGET));
        // Of each answer sixteen nodes are taken, so the others are known through others only.
        let found: Vec<Contact> = lookup.closest().into_iter().map(|(contact, _)| contact).collect();
        assert_eq!(found.len(), BUCKET);
        assert_eq!(found, lookup.answered_nodes());
        assert!(found[0].id.distance(&TARGET) <= nearest[15].id.distance(&TARGET));
    }

    #[test]
    fn endless_nearer_nodes_end() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut lookup = Lookup::new(TARGET, (0..8).map(fitting).collect(), &[]);
        let (mut asked, mut next) = (0, 1000);
        while let Some((from, id)) = lookup.next_asked() {
            asked += 1;
            lookup.answered(from, id.expect("known"), Some(vec![1]));
            let nodes: Vec<Contact> = (0..8)
                .map(|_| {
                    next += 1;
                    Contact { id: TARGET.random_sharing(20 + asked, &mut rng), addr: addr(next) }
                })
                .collect();
            lookup.told(from, &nodes);
        }
        assert!(lookup.is_done() && asked <= 8 + DOUBTFUL_MAX, "{asked}");
        let stored = lookup.closest();
        assert!(
            stored.len() == BUCKET && stored.iter().all(|(contact, _)| fitting_addr(contact)),
            "{stored:?}"
        );
    }

    fn fitting_addr(contact: &Contact) -> bool {
        contact.id.fits(contact.addr.ip())
    }

    #[test]
    fn a_teller_of_fables_is_not_believed_for_long() {
        let liar = fitting(0);
        let mut lookup = Lookup::new(TARGET, vec![liar], &[]);
        lookup.next_asked().expect("the liar");
        assert!(lookup.answered(liar.addr, liar.id, None));
        // Names that fit, and nobody there.
        let fables: Vec<Contact> = (100..116).map(fitting).collect();
        lookup.told(liar.addr, &fables);
        let mut asked = Vec::new();
        while let Some((addr, _)) = lookup.next_asked() {
            asked.push(addr);
            lookup.failed(addr);
        }
        assert_eq!(asked.len(), 16, "still asked while nothing better is there");
        assert!(lookup.is_done());
        let honest = Lookup::new(TARGET, vec![liar], &[]);
        assert!(!honest.is_done());
    }

    #[test]
    fn a_node_with_another_name_than_was_told_is_left_out() {
        let told = fitting(1);
        let mut lookup = Lookup::new(TARGET, vec![told], &[]);
        lookup.next_asked().expect("asked");
        assert!(!lookup.answered(told.addr, fitting(2).id, Some(vec![1])));
        assert!(lookup.closest().is_empty() && lookup.is_done());
    }

    #[test]
    fn begins_at_addresses_without_names() {
        let mut lookup = Lookup::new(TARGET, Vec::new(), &[addr(1), addr(2), addr(1)]);
        assert_eq!(lookup.next_asked(), Some((addr(1), None)));
        assert_eq!(lookup.next_asked(), Some((addr(2), None)));
        assert_eq!(lookup.next_asked(), None);
        assert!(lookup.answered(addr(1), fitting(1).id, Some(vec![7])));
        lookup.told(addr(1), &[fitting(2), fitting(3)]);
        assert!(!lookup.is_done());
        lookup.failed(addr(2));
        assert!(lookup.next_asked().is_some_and(|(_, id)| id.is_some()));
    }

    #[test]
    fn bounded() {
        let mut lookup = Lookup::new(TARGET, Vec::new(), &[]);
        for n in 0..2000 {
            lookup.told(addr(0), &[fitting(n)]);
        }
        assert_eq!(lookup.candidates.len(), CANDIDATES_MAX);
        let sorted = lookup.candidates.is_sorted_by_key(|candidate| candidate.distance);
        assert!(sorted);
        while let Some((addr, _)) = lookup.next_asked() {
            lookup.failed(addr);
        }
        assert!(lookup.asked() <= ASKED_MAX && lookup.is_done());
    }
}

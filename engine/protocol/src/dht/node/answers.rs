//! What others answer to our queries.

use std::net::SocketAddr;
use std::time::Instant;

use rand::Rng;

use super::{Asked, Dht, Event, Goal, SearchId, Why, family};
use crate::dht::id::{Contact, NodeId};
use crate::dht::krpc::{Answer, Item};

/// Events that nobody has taken yet at most: a caller takes them after each datagram.
const EVENTS_MAX: usize = 4096;

impl Dht {
    pub(super) fn on_answer(
        &mut self,
        now: Instant,
        asked: Asked,
        id: NodeId,
        ip: Option<SocketAddr>,
        answer: Answer,
        rng: &mut impl Rng,
    ) {
        self.stats.answers_in += 1;
        let contact = Contact { id, addr: asked.to };
        self.sources.prove(now, asked.to.ip());
        let Some(side) = &mut self.sides[family(asked.to)] else { return };
        if let Some(expected) = asked.id.filter(|expected| *expected != id) {
            side.table.failed(Contact { id: expected, addr: asked.to });
        }
        side.table.answered(now, contact);
        let agreed = ip.and_then(|ip| side.votes.add(asked.to.ip(), ip.ip()));
        side.agreed |= agreed.is_some();
        match asked.why {
            Why::Check => {}
            Why::Lookup(search) => self.on_step(search, contact, answer),
            Why::Store(search) => {
                if let Some(search) = self.searches.get_mut(&search) {
                    search.storing -= 1;
                    search.stored += 1;
                }
            }
        }
        if let Some(ip) = agreed {
            self.set_external(now, ip, rng);
        }
    }

    /// A look-up is a step further.
    fn on_step(&mut self, key: u64, from: Contact, answer: Answer) {
        let ours = [self.id(0), self.id(1)];
        let Some(search) = self.searches.get_mut(&key) else { return };
        let Some(lookup) = &mut search.lookups[family(from.addr)] else { return };
        if !lookup.answered(from.addr, from.id, answer.token) {
            return;
        }
        for (at, lookup) in search.lookups.iter_mut().enumerate() {
            // Many tell us of ourselves.
            let others =
                answer.nodes.iter().filter(|node| family(node.addr) == at && ours[at] != Some(node.id));
            let theirs: Vec<Contact> = others.copied().collect();
            if let Some(lookup) = lookup {
                lookup.told(from.addr, &theirs);
            }
        }
        let mut told = None;
        match &search.goal {
            Goal::Peers { .. } if !answer.values.is_empty() => {
                told = Some(Event::Peers(SearchId(key), answer.values));
            }
            Goal::Scrape(_) => {
                if let Some(theirs) = answer.blooms {
                    let ours = search.blooms.get_or_insert_default();
                    ours.0.unite(&theirs.0);
                    ours.1.unite(&theirs.1);
                }
            }
            Goal::Get { target, salt } => {
                if let Some(item) = answer.item.and_then(|item| authentic(*item, target, salt)) {
                    let seq = |item: &Item| item.signed.as_ref().map(|signed| signed.seq);
                    if search.found.as_ref().is_none_or(|found| seq(found) < seq(&item)) {
                        search.found = Some(Box::new(item));
                    }
                }
            }
            Goal::Sample(_) => {
                told = answer.samples.map(|samples| Event::Samples(SearchId(key), from, samples))
            }
            _ => {}
        }
        self.events.extend(told.filter(|_| self.events.len() < EVENTS_MAX));
    }
}

/// The item, if it is what `target` names.
fn authentic(mut item: Item, target: &NodeId, salt: &[u8]) -> Option<Item> {
    if let Some(signed) = &mut item.signed {
        signed.salt = salt.to_vec();
    }
    (item.target() == *target && item.is_authentic()).then_some(item)
}

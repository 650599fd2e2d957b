//! What others ask us, and what we answer.

use std::net::SocketAddr;
use std::time::Instant;

use rand::Rng;

use super::{Dht, PROBES_MAX, Transmit, family};
use crate::dht::id::{Contact, NodeId};
use crate::dht::krpc::{Answer, Body, Item, Message, Query, Samples, Want, code};
use crate::dht::peers::SAMPLE_INTERVAL;
use crate::dht::table::BUCKET;
use crate::ids::InfoHash;

/// What a query leads to: an answer, or code and text of an error.
type Outcome = Result<Answer, (i64, &'static str)>;

impl Dht {
    pub(super) fn on_query(
        &mut self,
        now: Instant,
        asker: Contact,
        read_only: bool,
        transaction: Vec<u8>,
        query: Query,
        rng: &mut impl Rng,
    ) {
        let Some(side) = &mut self.sides[family(asker.addr)] else { return };
        let own = side.table.own();
        if asker.id == own {
            return;
        }
        // It may lie about its address, so it is checked first. Who answers nothing is of no use (BEP 43).
        if !read_only
            && !side.table.asked(now, asker)
            && side.table.wants(asker)
            && side.probes.len() < PROBES_MAX
            && !side.probes.contains(&asker)
        {
            side.probes.push_back(asker);
            if side.table.len() < BUCKET {
                self.chores = now;
            }
        }
        match self.answer(now, asker.addr, query, rng) {
            Ok(answer) => {
                let body = Body::Answer { id: own, ip: Some(asker.addr), answer: Box::new(answer) };
                self.reply(now, asker.addr, &Message { transaction, body });
            }
            Err((code, text)) => self.refuse(now, asker.addr, transaction, code, text),
        }
    }

    fn reply(&mut self, now: Instant, to: SocketAddr, message: &Message) {
        let bytes = message.encode();
        if self.sources.pay(now, to.ip(), bytes.len()) {
            self.stats.answers_out += 1;
            self.out.push_back(Transmit { to, bytes });
        }
    }

    pub(super) fn refuse(
        &mut self,
        now: Instant,
        to: SocketAddr,
        transaction: Vec<u8>,
        code: i64,
        text: &str,
    ) {
        let body = Body::Error { code, text: text.to_owned() };
        self.reply(now, to, &Message { transaction, body });
    }

    fn answer(&mut self, now: Instant, from: SocketAddr, query: Query, rng: &mut impl Rng) -> Outcome {
        let nodes = |this: &Self, target: &NodeId, want| this.nearest(from, target, want);
        let mut answer = Answer::default();
        match query {
            Query::Ping => {}
            Query::FindNode { target, want } => answer.nodes = nodes(self, &target, want),
            Query::GetPeers { info_hash, want, no_seeds, scrape } => {
                let target = info_hash.into();
                answer.nodes = nodes(self, &target, want);
                answer.token = Some(self.tokens.make(from.ip(), &target));
                if scrape {
                    answer.blooms = self.peers.blooms(&info_hash, from.is_ipv6()).map(Box::new);
                } else {
                    answer.values = self.peers.choose(&info_hash, from.is_ipv6(), no_seeds, rng);
                }
            }
            Query::AnnouncePeer { info_hash, port, seed, token } => {
                self.check_token(now, from, &info_hash.into(), &token)?;
                let peer = SocketAddr::new(from.ip(), port.unwrap_or(from.port()));
                self.peers.announce(now, info_hash, peer, seed);
            }
            Query::Get { target, seq, want } => {
                answer.nodes = nodes(self, &target, want);
                answer.token = Some(self.tokens.make(from.ip(), &target));
                self.add_item(&target, seq, &mut answer);
            }
            Query::Put { item, cas, token } => {
                self.check_token(now, from, &item.target(), &token)?;
                self.items.put(now, *item, cas)?;
            }
            Query::SampleInfohashes { target, want } => {
                answer.nodes = nodes(self, &target, want);
                let hashes: Vec<InfoHash> = self.peers.samples(now, rng);
                let total = u32::try_from(self.peers.len()).unwrap_or(u32::MAX);
                answer.samples = Some(Samples { hashes, total, interval: SAMPLE_INTERVAL });
            }
        }
        Ok(answer)
    }

    /// The nodes nearest to `target`, of the families that are wanted (BEP 32).
    fn nearest(&self, from: SocketAddr, target: &NodeId, want: Want) -> Vec<Contact> {
        let own = Want { v4: from.is_ipv4(), v6: from.is_ipv6() };
        let want = if want == Want::default() { own } else { want };
        let mut nodes = Vec::new();
        for (side, _) in self.sides.iter().zip([want.v4, want.v6]).filter(|(_, wanted)| *wanted) {
            let nearest = side.iter().flat_map(|side| side.table.closest(target, BUCKET + 1));
            nodes.extend(nearest.filter(|contact| contact.addr != from).take(BUCKET));
        }
        nodes
    }

    fn check_token(
        &mut self,
        now: Instant,
        from: SocketAddr,
        target: &NodeId,
        token: &[u8],
    ) -> Result<(), (i64, &'static str)> {
        if !self.tokens.accepts(from.ip(), target, token) {
            return Err((code::PROTOCOL, "bad token"));
        }
        // It has received what we sent there.
        self.sources.prove(now, from.ip());
        Ok(())
    }

    fn add_item(&self, target: &NodeId, seq: Option<i64>, answer: &mut Answer) {
        let Some(item) = self.items.get(target) else { return };
        let stored = item.signed.as_ref().map(|signed| signed.seq);
        if let (Some(stored), Some(seq)) = (stored, seq)
            && stored <= seq
        {
            answer.seq = Some(stored);
            return;
        }
        let mut item: Item = item.clone();
        if let Some(signed) = &mut item.signed {
            // Whoever asks knows it.
            signed.salt.clear();
        }
        answer.item = Some(Box::new(item));
    }
}

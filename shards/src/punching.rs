//! Holes in NATs (BEP 55): what a torrent's ut_holepunch messages make a shard do.
//!
//! Owner: the shard. Candidates are the home's, so it dials; whoever told a satellite's peers of an address is asked by
//! that satellite. Dialling is over uTP alone and from the listening port: the relay has told the peer of that one.
//!
//! As relay a part of a spread torrent that does not know the target asks the others: the question goes from shard to
//! shard until one knows, or it is back. Nothing is kept of it anywhere, and there is one message at a time for each; how
//! many there are is bounded by what a peer may ask ([`ccbt_protocol::holepunch::Gate`]).

use std::net::SocketAddr;

use ccbt_protocol::candidates::Source;
use ccbt_protocol::holepunch::{HolepunchError, HolepunchMessage, Rendezvous};
use ccbt_protocol::ids::TorrentKey;

use crate::dialling::{For, Transport};
use crate::messages::ToShard;
use crate::satellites::Part;
use crate::shard::Shard;

/// A question of a peer that its part of a torrent has no answer to.
#[derive(Clone, Copy, Debug)]
pub struct Relay {
    /// The torrent.
    pub key: TorrentKey,
    /// The shard of the part that asks.
    pub from: usize,
    /// What is asked.
    pub asked: Rendezvous,
}

impl Shard {
    /// Whether ut_holepunch is of use.
    pub(crate) fn may_punch(&self) -> bool {
        self.config.transports.utp && self.utp_ends.is_listening()
    }

    /// A relay says that the peer at `addr` dials us: we dial it as well.
    pub(crate) fn punch(&mut self, index: usize, addr: SocketAddr) {
        let home = &self.homes[index];
        if let Part::Satellite { home: shard, .. } = &home.part {
            let (shard, key) = (*shard, home.key);
            return self.post(shard, ToShard::Punch(key, addr));
        }
        tracing::debug!(%addr, "a relay says that it dials us");
        let room = home.all_conns() < home.max_peers && self.has_room();
        let wanted = home.is_running() && !home.paused && self.stopping.is_none();
        if !wanted || !room || !self.may_punch() || !self.homes[index].candidates.claim(addr, Source::Pex) {
            return;
        }
        match self.start_attempt(For::Torrent(index), addr, Transport::Utp) {
            Some(key) => self.ring.persist_utp(key),
            None => self.homes[index].candidates.gone(self.now, addr, false),
        }
    }

    /// `addr` cannot be reached: whoever told us of it may help.
    pub(crate) fn seek_relay(&mut self, index: usize, addr: SocketAddr) {
        if !self.may_punch() || self.stopping.is_some() || !self.homes[index].is_running() {
            return;
        }
        let home = &mut self.homes[index];
        if home.torrent.as_mut().is_some_and(|torrent| torrent.rendezvous(addr)) {
            tracing::debug!(%addr, "asking the peer that told of it for help");
            return self.touch(index);
        }
        if let Part::Home { satellites, .. } = &home.part {
            let (key, shards) = (home.key, satellites.keys().copied().collect::<Vec<_>>());
            shards.into_iter().for_each(|shard| self.post(shard, ToShard::Rendezvous(key, addr)));
        }
    }

    /// A peer wants to meet one that this part does not know.
    pub(crate) fn relay(&mut self, index: usize, asked: Rendezvous) {
        let home = &self.homes[index];
        let key = home.key;
        if home.part.is_satellite() || home.part.satellites().next().is_some() {
            return self.pass_on(Relay { key, from: self.config.index, asked });
        }
        self.on_relayed(key, asked.asker, asked.refused(HolepunchError::NotConnected));
    }

    /// To the next shard, or back when all were asked.
    fn pass_on(&mut self, relay: Relay) {
        let next = (self.config.index + 1) % self.others.len();
        let Relay { key, from, asked } = relay;
        let none = || ToShard::Relayed(key, asked.asker, asked.refused(HolepunchError::NotConnected));
        let message = if next == from { none() } else { ToShard::Relay(Box::new(relay)) };
        self.post(next, message);
    }

    pub(crate) fn on_relay(&mut self, relay: Relay) {
        let Relay { key, from, asked } = relay;
        let now = self.now;
        let known = self.by_key.get(&key).copied();
        let torrent = known.and_then(|index| self.homes[index].torrent.as_mut());
        match (known, torrent.and_then(|torrent| torrent.relay(now, &asked))) {
            (Some(index), Some(answer)) => {
                self.touch(index);
                self.post(from, ToShard::Relayed(key, asked.asker, answer));
            }
            _ => self.pass_on(relay),
        }
    }

    pub(crate) fn on_relayed(&mut self, key: TorrentKey, asker: SocketAddr, answer: HolepunchMessage) {
        let Some(&index) = self.by_key.get(&key) else { return };
        if let Some(torrent) = &mut self.homes[index].torrent {
            torrent.relayed(asker, answer);
            self.touch(index);
        }
    }
}

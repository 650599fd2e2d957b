//! Holes in NATs (BEP 55): what a torrent's ut_holepunch messages make a shard do.
//!
//! Owner: the shard. Candidates are the home's, so it dials; whoever told a satellite's peers of an address is asked by
//! that satellite. Dialling is over uTP alone and from the listening port: the relay has told the peer of that one.

use std::net::SocketAddr;

use ccbt_protocol::candidates::Source;

use crate::dialling::{For, Transport};
use crate::messages::ToShard;
use crate::satellites::Part;
use crate::shard::Shard;

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
}

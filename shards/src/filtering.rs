//! The IP filter at work in a shard.
//!
//! Role: each shard has the filter as an `Arc`, given by message, so looking costs no lock. Owner: the shard. Whom it has
//! becomes no candidate ([`ccbt_protocol::candidates`]), is neither dialled nor accepted, and is disconnected when a new
//! filter comes. Invariant: after [`Shard::set_filter`] no connection with an address that the filter has is open or begun.

use std::net::SocketAddr;

use ccbt_protocol::ipfilter::{self, Shared};

use crate::conns::End;
use crate::ring::SocketKey;
use crate::shard::Shard;

impl Shard {
    /// Whether the filter has `addr`, and then no connection with it may begin: counted.
    pub(crate) fn is_filtered(&mut self, addr: SocketAddr) -> bool {
        let is_filtered = ipfilter::is_blocked(&self.filter, addr.ip());
        if is_filtered {
            self.stats.filtered += 1;
            tracing::debug!(%addr, "no connection: the IP filter has the address");
        }
        is_filtered
    }

    /// From now on this filter counts, for connections that are open too.
    pub(crate) fn set_filter(&mut self, filter: Shared) {
        self.filter = filter;
        for (_, home) in &mut self.homes {
            home.candidates.set_filter(self.filter.clone());
        }
        for (_, fetcher) in &mut self.fetchers {
            fetcher.candidates.set_filter(self.filter.clone());
        }
        let addrs: Vec<(SocketKey, SocketAddr)> =
            self.conns.iter().flatten().map(|conn| (conn.socket, conn.addr)).collect();
        for (key, addr) in addrs {
            if self.is_filtered(addr) {
                self.end(key, End::Ours);
            }
        }
        // The user's peers may be welcome now.
        let all: Vec<usize> = self.homes.iter().map(|(index, _)| index).collect();
        all.into_iter().for_each(|index| self.touch(index));
    }
}

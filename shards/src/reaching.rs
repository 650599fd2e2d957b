//! Where the world reaches us, once a router forwards our port, and that it does again after a network was gone.
//!
//! Role: [`Reach`] carries what was mapped to all who tell others of our port: trackers, DHT, and peers in the extended
//! handshake (BEP 10). Local discovery goes on with the port that we listen on. Caller: whoever has the ports mapped.

use std::net::IpAddr;

use crate::discovery::Discovery;
use crate::inbox::Inbox;
use crate::messages::ToShard;
use crate::shard::Shard;

/// The way to those who tell of us. Outlives the session, then unheard.
#[derive(Clone, Debug)]
pub struct Reach {
    pub(crate) shards: Vec<Inbox>,
    pub(crate) discovery: Option<Discovery>,
}

impl Reach {
    /// Others reach our TCP port as `port` from now on.
    pub fn set_port(&self, port: u16) {
        for shard in &self.shards {
            shard.send(ToShard::Reached(port));
        }
        if let Some(discovery) = &self.discovery {
            discovery.reached(port);
        }
    }

    /// The router's address in the Internet, which is how nodes of the DHT see us.
    pub fn set_ip(&self, ip: IpAddr) {
        if let Some(discovery) = &self.discovery {
            discovery.external(ip);
        }
    }
}

impl Shard {
    /// There was no network and there is one again: nobody is to blame for what failed meanwhile.
    pub(crate) fn forgive_all(&mut self) {
        let now = self.now;
        for (_, fetcher) in &mut self.fetchers {
            fetcher.candidates.retry_all();
            if let Some(announces) = &mut fetcher.announces {
                announces.forgive(now);
            }
        }
        let all: Vec<usize> = self.homes.iter().map(|(index, _)| index).collect();
        for index in all {
            let home = &mut self.homes[index];
            home.candidates.retry_all();
            if let Some(announces) = &mut home.announces {
                announces.forgive(now);
            }
            self.announce(index);
            self.dial(index);
            self.touch(index);
        }
    }

    /// Others reach us at `port`: they hear of it with the next announce, which is soon, and in handshakes.
    pub(crate) fn set_port(&mut self, port: u16) {
        if self.config.listen_port == 0 || std::mem::replace(&mut self.config.listen_port, port) == port {
            return;
        }
        let now = self.now;
        let homes = self.homes.iter_mut().map(|(_, home)| {
            if let Some(torrent) = &mut home.torrent {
                torrent.set_listen_port(port);
            }
            &mut home.announces
        });
        let fetchers = self.fetchers.iter_mut().map(|(_, fetcher)| {
            fetcher.fetching.set_listen_port(port);
            &mut fetcher.announces
        });
        homes.chain(fetchers).flatten().for_each(|announces| announces.set_port(now, port));
        let all: Vec<usize> = self.homes.iter().map(|(index, _)| index).collect();
        all.into_iter().for_each(|index| self.touch(index));
    }
}

//! What a torrent tells the discovery thread: whether peers are wanted, and that it has become a seed.
//!
//! Owner: the torrent's home; satellites tell nothing. Invariant: a private torrent (BEP 27) is in neither the DHT nor
//! the local network, says nothing of a node to its peers, and passes no node of theirs on.

use std::net::IpAddr;

use ccbt_protocol::ids::TorrentKey;

use crate::discovery::Interest;
use crate::messages::AddTorrent;
use crate::shard::Shard;
use crate::torrents::Home;

/// Where a torrent's peers are looked for, besides trackers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Finding {
    /// In the DHT.
    pub dht: bool,
    /// In the local network.
    pub lsd: bool,
    /// What was told last: nothing, or whether we are a seed.
    told: Option<bool>,
}

impl Finding {
    pub fn new(add: &AddTorrent) -> Self {
        let is_public = !add.metainfo.private;
        Self { dht: add.use_dht && is_public, lsd: add.use_lsd && is_public, told: None }
    }

    /// Of a satellite, which looks for nothing itself.
    pub fn satellite(dht: bool) -> Self {
        Self { dht, ..Self::default() }
    }
}

impl Shard {
    /// UDP port of our DHT node for the peers of a torrent; 0 = none.
    pub(crate) fn dht_port(&self, home: &Home) -> u16 {
        let discovery = self.discovery.as_ref().filter(|_| home.finding.dht && !home.meta.private);
        discovery.map_or(0, |discovery| discovery.dht_port())
    }

    /// A torrent is there: the nodes that it names are worth a try.
    pub(crate) fn tell_nodes(&self, index: usize) {
        let home = &self.homes[index];
        if let Some(discovery) = self.discovery.as_ref().filter(|_| home.finding.dht) {
            discovery.hosts(home.meta.nodes.clone());
        }
    }

    /// Tells the discovery thread what has changed, if anything: peers are wanted while a torrent runs.
    pub(crate) fn find_peers(&mut self, index: usize) {
        let Some(discovery) = &self.discovery else { return };
        let home = &mut self.homes[index];
        if home.part.is_satellite() || !(home.finding.dht || home.finding.lsd) {
            return;
        }
        let is_up = home.is_running() && !home.paused && self.stopping.is_none();
        let wanted = is_up.then(|| home.bytes_left() == 0);
        if wanted == home.finding.told {
            return;
        }
        let told = match wanted {
            Some(seed) => discovery.add(Interest {
                info_hash: home.meta.info_hash,
                key: home.key,
                home: self.others[self.config.index].clone(),
                private: home.meta.private,
                seed,
                dht: home.finding.dht,
                lsd: home.finding.lsd,
            }),
            None => discovery.remove(home.key),
        };
        if told {
            home.finding.told = wanted;
        } else {
            // It has no room: the next tick comes again.
            self.stir(index);
        }
    }

    /// A tracker says at which address it sees us (BEP 24).
    pub(crate) fn learn_address(&self, ip: Option<IpAddr>) {
        if let (Some(ip), Some(discovery)) = (ip, &self.discovery) {
            discovery.external(ip);
        }
    }

    /// A torrent is gone.
    pub(crate) fn stop_finding(&mut self, index: usize) {
        let home = &self.homes[index];
        let key: TorrentKey = home.key;
        if let (Some(discovery), Some(_)) = (&self.discovery, home.finding.told) {
            // Should there be no room, results for a key that nobody has are dropped.
            discovery.remove(key);
        }
    }
}

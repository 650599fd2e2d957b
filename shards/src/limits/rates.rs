//! What the limits are: set, and told.

use ccbt_protocol::ids::TorrentKey;
use ccbt_protocol::rate::{TorrentLimits, Way};

use super::{KEEPER, TorrentGates};
use crate::messages::ToShard;
use crate::shard::Shard;

impl Shard {
    /// Sets the limits of all torrents on all shards, in bytes per second; 0 = unlimited.
    pub(crate) fn set_limits(&mut self, down: u64, up: u64) {
        let (now, keeps) = (self.now, self.config.index == KEEPER);
        for (way, rate) in [(Way::Down, down), (Way::Up, up)] {
            self.limits.gates[way as usize].set_rate(now, rate, keeps);
        }
        self.let_all_go(None);
    }

    /// Sets the limits of a torrent, here and on its other shards.
    pub(crate) fn set_torrent_limits(&mut self, key: TorrentKey, rates: TorrentLimits) {
        let Some(&index) = self.by_key.get(&key) else { return };
        let now = self.now;
        let home = &mut self.homes[index];
        let keeps = !home.part.is_satellite();
        if rates == TorrentLimits::default() && home.limits.is_none() {
            return;
        }
        if rates == TorrentLimits::default() {
            home.limits = None;
        } else {
            let new = || Box::new(TorrentGates { rates, gates: Default::default(), busy: false });
            let limits = home.limits.get_or_insert_with(new);
            limits.rates = rates;
            for way in Way::ALL {
                limits.gates[way as usize].set_rate(now, rates.all(way), keeps);
            }
        }
        self.let_all_go(Some(index));
        for shard in self.satellite_shards(index) {
            self.post(shard, ToShard::TorrentLimits(key, rates));
        }
    }

    /// The limits of a torrent as they were set.
    pub(crate) fn torrent_limits(&self, index: usize) -> TorrentLimits {
        self.homes[index].limits.as_ref().map_or(TorrentLimits::default(), |limits| limits.rates)
    }

    /// The limit of all torrents, in bytes per second; 0 = none.
    pub(crate) fn global_limit(&self, way: Way) -> u64 {
        self.limits.gates[way as usize].quota.rate()
    }
}

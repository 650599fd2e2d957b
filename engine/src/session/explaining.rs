//! Asking a session why a torrent, or a magnet link, does what it does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ccbt_protocol::ids::TorrentKey;
use ccbt_shards::diagnosis::ShardLook;
use crossbeam_channel::Receiver;

use super::error::GoneError;
use super::{MagnetHandle, Session, TorrentHandle};
use crate::TorrentStatus;
use crate::explain::{Around, Finding, Snapshot, explain};

/// So long shards are waited for: each answers within a turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// The answer of a session, on its way.
#[derive(Debug)]
pub(crate) struct Looking {
    looks: Receiver<ShardLook>,
    around: Around,
}

impl Looking {
    /// Waits for the shards, for five seconds at most. Errors: no shard runs the torrent any more.
    pub fn wait(self) -> Result<Snapshot, GoneError> {
        let until = Instant::now() + PATIENCE;
        // It hangs up when all have answered.
        let looks: Vec<ShardLook> = std::iter::from_fn(|| self.looks.recv_deadline(until).ok()).collect();
        Snapshot::new(&looks, self.around).ok_or(GoneError)
    }
}

impl Session {
    /// Why `torrent` is slow, stuck or not seeding, the most important first. Waits for the engine's threads, which answer
    /// within milliseconds.
    pub fn explain(&self, torrent: &TorrentHandle) -> Result<Vec<Finding>, GoneError> {
        Ok(explain(&self.snapshot_for_explain(torrent)?))
    }

    /// The facts that [`Self::explain`] goes by.
    pub fn snapshot_for_explain(&self, torrent: &TorrentHandle) -> Result<Snapshot, GoneError> {
        let mut snapshot = self.look(torrent).wait()?;
        snapshot.error = torrent.shared.failure().map(|message| (message, false));
        Ok(snapshot)
    }

    /// Why the metadata of `magnet` is not there yet, the most important first. As [`Self::explain`].
    pub fn explain_magnet(&self, magnet: &MagnetHandle) -> Result<Vec<Finding>, GoneError> {
        Ok(explain(&self.look_at_magnet(magnet).wait()?))
    }

    pub(crate) fn look_at_magnet(&self, magnet: &MagnetHandle) -> Looking {
        self.look_for(magnet.key(), None)
    }

    pub(crate) fn look(&self, torrent: &TorrentHandle) -> Looking {
        self.look_for(torrent.key(), torrent.status())
    }

    fn look_for(&self, key: TorrentKey, status: Option<Arc<TorrentStatus>>) -> Looking {
        let storage = self.storage_stats();
        let sum = |of: fn(&TorrentStatus) -> u64| self.status().iter().map(|status| of(status)).sum();
        let around = Around {
            status,
            total_rates: (sum(|status| status.down_rate), sum(|status| status.up_rate)),
            hash_queue: storage.hash.jobs_waiting,
            disk_queue: (
                storage.devices.iter().map(|device| device.waiting_parts).sum(),
                storage.devices.iter().map(|device| u64::from(device.in_flight)).sum(),
            ),
            dht_nodes: self.discovery_stats().map_or(0, |stats| stats.dht.nodes.iter().sum()),
            filtered: self.caches().shards().iter().map(|shard| shard.filtered).sum(),
            uptime: self.started.elapsed(),
        };
        Looking { looks: self.service().diagnose(key), around }
    }
}

//! Asking a session why a torrent does what it does.

use std::time::{Duration, Instant};

use ccbt_shards::diagnosis::ShardLook;
use crossbeam_channel::Receiver;

use super::error::GoneError;
use super::{Session, TorrentHandle};
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

    pub(crate) fn look(&self, torrent: &TorrentHandle) -> Looking {
        let storage = self.storage_stats();
        let sum = |of: fn(&crate::TorrentStatus) -> u64| self.status().iter().map(|status| of(status)).sum();
        let around = Around {
            status: torrent.status(),
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
        Looking { looks: self.service().diagnose(torrent.key()), around }
    }
}

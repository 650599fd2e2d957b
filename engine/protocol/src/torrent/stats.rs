//! What a torrent has moved so far: plain sums, owned by [`super::Torrent`] and copied into statuses.

use std::time::{Duration, Instant};

use super::{Torrent, peer_of};
use crate::peer::PeerStatus;
use crate::picker::PeerKey;

/// Sums since the torrent was added to this process. Units: bytes of payload, unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Block payload that was accepted.
    pub downloaded: u64,
    /// Of this, what came from web seeds (BEP 19).
    pub web_downloaded: u64,
    /// Block payload sent.
    pub uploaded: u64,
    /// Block payload received and thrown away.
    pub wasted: u64,
    /// Pieces that failed their hash (a count).
    pub hash_failures: u64,
    /// Addresses banned for corrupt data (a count).
    pub banned: u64,
}

impl std::ops::AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.downloaded += other.downloaded;
        self.web_downloaded += other.web_downloaded;
        self.uploaded += other.uploaded;
        self.wasted += other.wasted;
        self.hash_failures += other.hash_failures;
        self.banned += other.banned;
    }
}

impl Torrent {
    /// From the request of the block that ended last to its last byte; the clock is that of [`Torrent::end_block`]'s
    /// caller. For histograms of those who keep them.
    pub fn block_wait(&self) -> Duration {
        self.block_wait
    }

    /// What to show of every connection.
    pub fn peer_statuses(&mut self, now: Instant) -> Vec<PeerStatus> {
        let keys: Vec<PeerKey> = self.peer_keys().collect();
        let pieces = self.geometry.piece_count();
        let status = |key: PeerKey| {
            let peer = peer_of(&mut self.slots, key);
            PeerStatus {
                key,
                addr: peer.info.addr,
                id: peer.info.id,
                down_rate: peer.down.rate(now),
                up_rate: peer.up.rate(now),
                outstanding: peer.outstanding.len(),
                window: peer.depth(),
                seed: peer.is_seed(),
                incoming: peer.info.incoming,
                snubbed: peer.snubbed,
                peer_choking: peer.peer_choking,
                peer_interested: peer.peer_interested,
                am_choking: peer.am_choking,
                am_interested: peer.am_interested,
                pieces: peer.piece_count(pieces),
                downloaded: peer.downloaded,
                uploaded: peer.uploaded,
                connected: peer.connected,
                utp: peer.utp,
                client: peer.extension.as_ref().and_then(|said| said.client.clone()),
                round_trip: peer.window.round_trip(),
                record: peer.record(),
                score: peer.score(now),
            }
        };
        keys.into_iter().map(status).collect()
    }
}

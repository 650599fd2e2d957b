//! What is said with one peer, to the log or to whoever looks.

use std::sync::Arc;

use ccbt_protocol::wire::trace::Direction;
use ccbt_shards::tapping::{PeerAddress, TapLine, TapRequest, WireTap};

use super::{MagnetHandle, Session, TorrentHandle};
use crate::config::log::WIRE;

/// Writes what is said into the log, for as long as the session lives.
#[derive(Debug)]
struct LogTap;

impl WireTap for LogTap {
    fn line(&self, line: TapLine) {
        let way = match line.direction {
            Some(Direction::In) => "<-",
            Some(Direction::Out) => "->",
            None => "--",
        };
        tracing::info!(target: WIRE, "{} {way} {}", line.peer, line.text);
    }

    fn is_closed(&self) -> bool {
        false
    }
}

impl Session {
    /// Shows `tap` every message to and from `peer` from now on, of one torrent or of all, until it is closed. It is called
    /// on the engine's own threads and must not wait.
    pub fn tap(&self, torrent: Option<&TorrentHandle>, peer: PeerAddress, tap: Arc<dyn WireTap>) {
        self.service().tap(&TapRequest { torrent: torrent.map(TorrentHandle::key), peer, tap });
    }

    /// As [`Self::tap`], while the metadata of `magnet` is fetched, and on when its torrent runs.
    pub fn tap_magnet(&self, magnet: &MagnetHandle, peer: PeerAddress, tap: Arc<dyn WireTap>) {
        self.service().tap(&TapRequest { torrent: Some(magnet.key()), peer, tap });
    }

    pub(super) fn log_peer(&self, peer: PeerAddress) {
        self.tap(None, peer, Arc::new(LogTap));
    }
}

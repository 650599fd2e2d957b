//! aria2 as a peer. It learns of peers only from a tracker, so its torrents carry the URL of a [`Tracker`].
//!
//! Owner: the test.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::PATIENCE;
use crate::lab::Lab;
use crate::ports::{free_port, local};
use crate::process::Process;
use crate::tracker::Tracker;

/// A running aria2c with one torrent.
pub struct Aria2Peer {
    process: Process,
    address: SocketAddr,
}

impl Aria2Peer {
    /// Starts seeding the complete data in `dir`; returns when aria2 has told the tracker that nothing is left.
    pub fn seed(lab: &Lab, torrent: &Path, dir: &Path, tracker: &Tracker) -> Self {
        let peer = Self::start(lab, torrent, dir, &["--check-integrity=true", "--seed-ratio=0.0"]);
        tracker.wait_announce(peer.address.port(), |announce| announce.left == 0);
        peer
    }

    /// Starts downloading into `dir`; aria2 ends when it has everything. Register the peers at the tracker before.
    pub fn leech(lab: &Lab, torrent: &Path, dir: &Path) -> Self {
        Self::start(lab, torrent, dir, &["--seed-time=0"])
    }

    fn start(lab: &Lab, torrent: &Path, dir: &Path, options: &[&str]) -> Self {
        let port = free_port();
        let mut command = Command::new("aria2c");
        command
            .current_dir(lab.path())
            .args(["--no-conf=true", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"])
            .args(["--enable-peer-exchange=false", "--file-allocation=none", "--disable-ipv6=true"])
            .args(["--summary-interval=0", "--console-log-level=info", "--allow-overwrite=true"])
            .arg(format!("--listen-port={port}"))
            .arg(format!("--dir={}", dir.display()))
            .args(options)
            .arg(torrent);
        // A proxy of the environment is not for trackers on loopback.
        for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(name);
        }
        Self { process: Process::start("aria2c", &mut command), address: local(port) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for a download to end well.
    pub fn wait_finished(&mut self) {
        let status = self.process.wait_exit(PATIENCE);
        assert_eq!(status.code(), Some(0), "aria2 downloads everything");
    }
}

//! libtorrent through its Python module, in the virtual environment that `.ci/setup.sh` makes.
//!
//! Owner: the test. The script is embedded and handed to Python as text, so no path to it can go stale.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::PATIENCE;
use crate::ports::free_port;
use crate::process::{Process, repository, run};

const SCRIPT: &str = include_str!("libtorrent_peer.py");

/// A libtorrent session with one torrent: seeds when its folder holds the data, else downloads into it.
pub struct LibtorrentPeer {
    process: Process,
    address: SocketAddr,
}

impl LibtorrentPeer {
    /// Starts it and waits until it has checked its files and listens. `torrent` may be a magnet link.
    pub fn start(torrent: &Path, dir: &Path) -> Self {
        Self::start_with(torrent, dir, json!({}))
    }

    /// As [`Self::start`], with more of libtorrent's settings.
    pub fn start_with(torrent: &Path, dir: &Path, settings: Value) -> Self {
        Self::start_by(Command::new(python()), Ipv4Addr::LOCALHOST, torrent, dir, settings)
    }

    /// As [`Self::start_with`], listening at `ip`, by a command that becomes the interpreter.
    pub fn start_by(
        mut command: Command,
        ip: impl Into<IpAddr>,
        torrent: &Path,
        dir: &Path,
        mut settings: Value,
    ) -> Self {
        let address = SocketAddr::new(ip.into(), free_port());
        settings["listen_interfaces"] = address.to_string().into();
        command.args(["-c", SCRIPT, "peer"]).args([torrent, dir]).arg(address.port().to_string());
        command.arg(settings.to_string());
        let mut peer = Self { process: Process::start("libtorrent", &mut command), address };
        peer.wait_event("listening");
        peer
    }

    /// What makes it a node of the DHT that begins at `first`, one of several on this machine.
    pub fn dht_settings(first: Option<SocketAddr>) -> Value {
        json!({
            "enable_dht": true,
            "dht_bootstrap_nodes": first.map_or(String::new(), |first| first.to_string()),
            "dht_restrict_routing_ips": false,
            "dht_restrict_search_ips": false,
            "dht_ignore_dark_internet": false,
            "dht_announce_interval": 5,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes it connect to `peer`.
    pub fn connect(&mut self, peer: SocketAddr) {
        self.process.tell(&format!("connect {} {}", peer.ip(), peer.port()));
    }

    /// Makes it receive at most so many bytes a second.
    pub fn limit(&mut self, bytes: u32) {
        self.process.tell(&format!("limit {bytes}"));
    }

    /// Makes it ask for pieces in order.
    pub fn sequential(&mut self) {
        self.process.tell("sequential");
    }

    /// The pieces that it believes each of its peers to have.
    pub fn pieces_of_peers(&mut self) -> Vec<Vec<u32>> {
        self.process.tell("peers");
        let event = self.wait_event("peers");
        serde_json::from_value(event["pieces"].clone()).expect("lists of numbers")
    }

    /// Waits until it has every piece.
    pub fn wait_finished(&mut self) {
        self.wait_event("finished");
    }

    /// Payload bytes it has sent so far.
    pub fn uploaded(&mut self) -> u64 {
        self.process.tell("stats");
        self.wait_event("stats")["uploaded"].as_u64().expect("the script counts bytes")
    }

    fn wait_event(&mut self, name: &str) -> Value {
        self.process.wait_line(PATIENCE, name, |line| {
            let event = parse(line);
            (event["event"] == name).then_some(event)
        })
    }
}

/// What libtorrent reads in a torrent file: name, info_hash, piece_length, pieces, private, comment, trackers,
/// web_seeds, files.
///
/// Panics when libtorrent refuses the file.
pub fn libtorrent_info(torrent: &Path) -> Value {
    let mut command = Command::new(python());
    let (code, stdout, stderr) =
        run("libtorrent", command.args(["-c", SCRIPT, "info"]).arg(torrent), PATIENCE);
    assert_eq!(code, 0, "libtorrent cannot read {}: {stderr}", torrent.display());
    parse(stdout.trim())
}

/// Makes a torrent of the file or folder `item` with libtorrent: hybrid (BEP 52), so padded (BEP 47), unless `v1_only`.
///
/// Panics when libtorrent cannot.
pub fn libtorrent_create(item: &Path, torrent: &Path, piece_len: usize, v1_only: bool) {
    create(item, torrent, piece_len, v1_only.then_some("v1"));
}

/// As [`libtorrent_create`], of v1, with symbolic links as such (BEP 47).
pub fn libtorrent_create_with_links(item: &Path, torrent: &Path, piece_len: usize) {
    create(item, torrent, piece_len, Some("symlinks"));
}

fn create(item: &Path, torrent: &Path, piece_len: usize, kind: Option<&str>) {
    let mut command = Command::new(python());
    command.args(["-c", SCRIPT, "create"]).arg(item).arg(torrent).arg(piece_len.to_string());
    command.args(kind);
    let (code, _, stderr) = run("libtorrent", &mut command, PATIENCE);
    assert_eq!(code, 0, "libtorrent makes no torrent of {}: {stderr}", item.display());
}

/// Lets libtorrent check what is in the folder `dir`, and writes its resume data to the file `out`.
///
/// Panics when libtorrent cannot.
pub fn libtorrent_resume(torrent: &Path, dir: &Path, out: &Path) {
    let mut command = Command::new(python());
    command.args(["-c", SCRIPT, "resume"]).args([torrent, dir, out]);
    let (code, _, stderr) = run("libtorrent", &mut command, PATIENCE);
    assert_eq!(code, 0, "libtorrent makes no resume data: {stderr}");
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line)
        .unwrap_or_else(|error| panic!("the script prints JSON, but: {line:?} ({error})"))
}

/// The interpreter of the virtual environment.
pub fn python() -> PathBuf {
    let path = repository().join(".cache/venv/bin/python");
    assert!(path.exists(), "{} is missing: run .ci/setup.sh first (make test does)", path.display());
    path
}

//! The programs under test, one file each.
//!
//! Role: how to start a client with a torrent and peers, and how to know that it is done. `transfer::run` drives them
//! through [`Client`] and knows nothing else about any of them.
//! Invariant: every client gets the settings that make it fastest on loopback, no encryption, no discovery, no limits;
//! what it is told is visible in its file, so that a rival's user can check that it was treated well.

mod aria2;
mod ccbt;
mod libtorrent;
mod rqbit;
mod transmission;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::process::Process;
use crate::tracker::Tracker;

/// Which way the bytes go, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The client downloads from the synthetic seeder.
    Download,
    /// The client seeds to the synthetic leecher.
    Seed,
}

impl Direction {
    /// As in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Seed => "seed",
        }
    }
}

/// One run of a client.
pub struct Job<'a> {
    /// Download or seed.
    pub direction: Direction,
    /// The `.torrent` file; it names no tracker.
    pub torrent: &'a Path,
    /// Folder of this run for configuration and logs.
    pub scratch: &'a Path,
    /// Folder that holds the torrent's file, or will.
    pub output: &'a Path,
    /// Port the client must listen on, on 127.0.0.1.
    pub port: u16,
    /// Whom to download from; empty when seeding.
    pub peers: &'a [SocketAddrV4],
}

impl Job<'_> {
    /// Where the client listens.
    pub fn address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port)
    }

    fn log(&self) -> PathBuf {
        self.scratch.join("client.log")
    }

    fn number_of_peers(&self) -> usize {
        // When seeding, the leecher's peers are not known to the client: leave room for as many as there can be.
        if self.peers.is_empty() { crate::generator::net::MAX_PEERS } else { self.peers.len() }
    }
}

/// A program under test.
pub trait Client {
    /// Its name on the command line and in reports.
    fn name(&self) -> &'static str;
    /// Its version, or `None` if it is not installed.
    fn version(&self) -> Option<String>;
    /// Whether it connects to the peers it is told; if not, they connect to it.
    fn dials(&self) -> bool {
        true
    }
    /// What it is told beyond the torrent, its peers and "no encryption, no discovery, no limits", for the report.
    fn settings(&self) -> &'static str;
    /// Requests that each of so many leechers keeps outstanding for it to seed at its best.
    fn window(&self, _connections: u32) -> u32 {
        64
    }
    /// MiB below which a run would only show it getting faster.
    fn least_mib(&self, _direction: Direction, _connections: u32) -> u64 {
        0
    }
    /// Starts it; returns when it has been told everything, not when it is ready to serve.
    fn start(&self, job: &Job<'_>) -> Result<Running, BenchError>;
}

/// How a client tells that its download is complete.
enum Done {
    /// It exits with 0.
    Exit,
    /// It prints this line.
    Line(&'static str),
    /// It answers so through its RPC.
    Rpc(transmission::Rpc),
}

/// A started client and what lives as long as it.
pub struct Running {
    /// The process that is measured.
    pub process: Process,
    done: Done,
    _tracker: Option<Tracker>,
}

impl Running {
    fn new(process: Process, done: Done) -> Self {
        Self { process, done, _tracker: None }
    }

    /// Whether the download is complete by the client's own word.
    ///
    /// Errors: the process ended without saying so, or its RPC broke.
    pub fn is_done(&mut self) -> Result<bool, BenchError> {
        if let Some(exit) = self.process.try_wait() {
            return match self.done {
                Done::Exit if exit.status.success() => Ok(true),
                _ => Err(self.ended_early()),
            };
        }
        match &mut self.done {
            Done::Exit => Ok(false),
            Done::Line(wanted) => Ok(self.process.log_text().lines().any(|line| line == *wanted)),
            Done::Rpc(rpc) => rpc.is_complete(),
        }
    }

    /// Errors if a client that should serve has ended.
    pub fn check_alive(&mut self) -> Result<(), BenchError> {
        match self.process.try_wait() {
            Some(_) => Err(self.ended_early()),
            None => Ok(()),
        }
    }

    fn ended_early(&mut self) -> BenchError {
        let status = self.process.try_wait().map(|exit| exit.status.to_string()).unwrap_or_default();
        BenchError::Client(format!("the client ended early ({status}){}", self.process.log_tail()))
    }
}

/// All clients the harness knows, in the order of the report. `ccbt` is the path of our own binary.
pub fn all(ccbt: &Path) -> Vec<Box<dyn Client>> {
    vec![
        Box::new(ccbt::Ccbt::new(ccbt)),
        Box::new(libtorrent::Libtorrent::find()),
        Box::new(aria2::Aria2),
        Box::new(transmission::Transmission),
        Box::new(rqbit::Rqbit::find()),
    ]
}

/// The interpreter that has libtorrent, if one has.
pub(crate) fn python() -> PathBuf {
    libtorrent::Libtorrent::find().python().to_owned()
}

/// Starts transmission on a torrent whose data lies in `folder`: it checks it at once, and is done when it
/// has. Its configuration goes to `scratch`.
pub(crate) fn check_with_transmission(
    torrent: &Path,
    folder: &Path,
    scratch: &Path,
) -> Result<Running, BenchError> {
    let port = crate::generator::net::free_port().map_err(BenchError::socket("find a free port"))?;
    let direction = Direction::Download;
    transmission::Transmission.start(&Job { direction, torrent, scratch, output: folder, port, peers: &[] })
}

/// Starts transmission without a torrent, its configuration in `scratch`, with room for all connections.
pub(crate) fn transmission_daemon(
    scratch: &Path,
    port: u16,
    peers: usize,
) -> Result<(Process, transmission::Rpc), BenchError> {
    transmission::daemon(scratch, scratch, port, peers)
}

/// The options that aria2 is measured with.
pub(crate) const ARIA2_OPTIONS: &[&str] = &aria2::OPTIONS;

/// A file that `bench/setup.sh` put below `.cache`, looked for upwards from the working folder and from this program.
fn find_cached(file: &str) -> Option<PathBuf> {
    let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    let in_cache = |dir: &Path| dir.join(".cache").join(file);
    starts.iter().flatten().find_map(|start| start.ancestors().map(in_cache).find(|path| path.exists()))
}

/// First line that `program args` prints, or `None` if it cannot be run or fails.
pub(crate) fn first_line(program: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success())?;
    // transmission-daemon prints its version to standard error.
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Some(String::from_utf8_lossy(&text).lines().next()?.trim().to_owned())
}

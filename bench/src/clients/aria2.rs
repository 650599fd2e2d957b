//! aria2c. It takes peers only from a tracker, so it gets one of its own ([`Tracker`]).
//!
//! Known limit of aria2 itself: as a seeder it unchokes a few peers at a time, whatever the options.

use std::path::Path;
use std::process::Command;

use super::{Client, Direction, Done, Job, Running, first_line};
use crate::error::BenchError;
use crate::process::Process;
use crate::tracker::Tracker;

/// aria2c on PATH.
pub(super) struct Aria2;

/// No configuration file, discovery, encryption, limits or display; incoming and outgoing on loopback.
pub(super) const OPTIONS: [&str; 19] = [
    "--no-conf=true",
    "--quiet=true",
    "--console-log-level=error",
    "--enable-dht=false",
    "--enable-dht6=false",
    "--disable-ipv6=true",
    "--bt-enable-lpd=false",
    "--enable-peer-exchange=false",
    "--bt-require-crypto=false",
    "--bt-min-crypto-level=plain",
    "--bt-max-peers=0",
    "--bt-request-peer-speed-limit=2000M",
    "--max-overall-upload-limit=0",
    "--max-overall-download-limit=0",
    "--check-integrity=false",
    "--file-allocation=none",
    "--disk-cache=64M",
    "--allow-overwrite=true",
    "--interface=127.0.0.1",
];

impl Client for Aria2 {
    fn name(&self) -> &'static str {
        "aria2"
    }

    fn version(&self) -> Option<String> {
        first_line(Path::new("aria2c"), &["--version"])
    }

    fn settings(&self) -> &'static str {
        "--bt-max-peers=0 --bt-request-peer-speed-limit=2000M --file-allocation=none --disk-cache=64M; its seeding side \
         unchokes a few peers at a time, whatever the options"
    }

    /// It unchokes, and ends when it is done, at the ticks of a clock of one second: short runs would show those.
    fn least_mib(&self, _direction: Direction, _connections: u32) -> u64 {
        1024
    }

    fn start(&self, job: &Job<'_>) -> Result<Running, BenchError> {
        let tracker = Tracker::start(job.peers)?;
        let mut command = Command::new("aria2c");
        command.args(OPTIONS).arg(format!("--listen-port={}", job.port));
        command.arg(format!("--bt-tracker={}", tracker.url()));
        command.arg(format!("--dir={}", job.output.display()));
        match job.direction {
            Direction::Download => command.arg("--seed-time=0"),
            // The data is known to be right: serve it without a check, for ever.
            Direction::Seed => command.args(["--bt-seed-unverified=true", "--seed-ratio=0.0"]),
        };
        command.arg(job.torrent);
        let process = Process::spawn(&mut command, &job.log())?;
        Ok(Running { process, done: Done::Exit, _tracker: Some(tracker) })
    }
}

//! The programs of `ccbt-bench scale`: each started with all torrents in one process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::clients;
use crate::error::BenchError;
use crate::process::Process;

use super::torrents::{self, Torrents};
use super::{CONNECTIONS_MAX, sample};

/// How long adding all torrents may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// A client that tells nothing counts as ready after a second with less work than this, in percent of a core.
const QUIET_PERCENT: f64 = 5.0;

/// A client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A build of this program, by the name in the report.
    Ccbt {
        name: &'static str,
        program: PathBuf,
    },
    Libtorrent {
        python: PathBuf,
    },
    Transmission,
    Aria2,
}

/// One that runs.
pub(crate) struct Started {
    pub process: Process,
    /// From the first torrent added until all seed, as far as it tells.
    pub add_s: Option<f64>,
}

impl Subject {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Ccbt { name, .. } => name,
            Self::Libtorrent { .. } => "libtorrent",
            Self::Transmission => "transmission",
            Self::Aria2 => "aria2",
        }
    }

    /// Its version; `None`: not installed.
    pub(super) fn version(&self) -> Option<String> {
        match self {
            Self::Ccbt { program, .. } => clients::first_line(program, &["--version"]),
            Self::Libtorrent { python } => {
                clients::first_line(python, &["-c", "import libtorrent; print(libtorrent.__version__)"])
            }
            Self::Transmission => clients::first_line(Path::new("transmission-daemon"), &["--version"]),
            Self::Aria2 => clients::first_line(Path::new("aria2c"), &["--version"]),
        }
    }

    /// Starts it and waits until all torrents seed.
    pub(crate) fn start(
        &self,
        torrents: &Torrents,
        scratch: &Path,
        port: u16,
        trackers: bool,
    ) -> Result<Started, BenchError> {
        let log = scratch.join("client.log");
        match self {
            Self::Ccbt { program, .. } => {
                let mut command = Command::new(program);
                command.arg("scale-child").arg("--torrents").arg(torrents.torrents());
                command.arg("--data").arg(torrents.data()).args(["--port", &port.to_string()]);
                command.args(trackers.then_some("--trackers"));
                wait_for_word(Process::spawn(&mut command, &log)?)
            }
            Self::Libtorrent { python } => {
                let script = scratch.join("run.py");
                let text = include_str!("libtorrent.py");
                std::fs::write(&script, text).map_err(BenchError::file("write", &script))?;
                let mut command = Command::new(python);
                command.arg(script).arg(torrents.torrents()).arg(torrents.data()).arg(port.to_string());
                command.arg(u32::from(trackers).to_string());
                wait_for_word(Process::spawn(&mut command, &log)?)
            }
            Self::Transmission => transmission(torrents, scratch, port),
            Self::Aria2 => {
                let mut command = Command::new("aria2c");
                command.args(clients::ARIA2_OPTIONS).args(["--bt-seed-unverified=true", "--seed-ratio=0.0"]);
                command.args(["--max-concurrent-downloads=100000", &format!("--listen-port={port}")]);
                command.arg(format!("--dir={}", torrents.data().display()));
                command.args(torrents::list(&torrents.torrents())?);
                wait_for_quiet(Process::spawn(&mut command, &log)?)
            }
        }
    }
}

fn transmission(torrents: &Torrents, scratch: &Path, port: u16) -> Result<Started, BenchError> {
    let (process, mut rpc) = clients::transmission_daemon(scratch, port, CONNECTIONS_MAX)?;
    let (paths, data) = (torrents::list(&torrents.torrents())?, torrents.data());
    let start = Instant::now();
    for path in &paths {
        rpc.add(path, &data)?;
    }
    while rpc.seeding()? < paths.len() {
        too_late(&process, start)?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(Started { process, add_s: Some(start.elapsed().as_secs_f64()) })
}

/// Waits for the line `READY SECONDS`.
fn wait_for_word(mut process: Process) -> Result<Started, BenchError> {
    let start = Instant::now();
    loop {
        let text = process.log_text();
        if let Some(seconds) = text.lines().find_map(|line| line.strip_prefix("READY ")) {
            return Ok(Started { add_s: seconds.trim().parse().ok(), process });
        }
        if process.try_wait().is_some() {
            return Err(BenchError::Client(format!("the client ended early{}", process.log_tail())));
        }
        too_late(&process, start)?;
        process.sleep_while_running(Duration::from_millis(20));
    }
}

fn wait_for_quiet(mut process: Process) -> Result<Started, BenchError> {
    let start = Instant::now();
    loop {
        let before = sample::work(process.id())?.0;
        process.sleep_while_running(Duration::from_secs(1));
        if process.try_wait().is_some() {
            return Err(BenchError::Client(format!("the client ended early{}", process.log_tail())));
        }
        if (sample::work(process.id())?.0 - before) * 100.0 < QUIET_PERCENT {
            return Ok(Started { process, add_s: None });
        }
        too_late(&process, start)?;
    }
}

fn too_late(process: &Process, start: Instant) -> Result<(), BenchError> {
    if start.elapsed() < PATIENCE {
        return Ok(());
    }
    let (seconds, log) = (PATIENCE.as_secs(), process.log_tail());
    Err(BenchError::Timeout { seconds, what: "all torrents to seed", log })
}

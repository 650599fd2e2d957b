//! libtorrent (rasterbar) through its Python binding and a small script that ships inside this program.
//!
//! The interpreter only sleeps while libtorrent's own threads work; what it costs to start is not counted, since
//! `transfer::run` subtracts the CPU time used before the first handshake.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Client, Direction, Done, Job, Running, find_cached, first_line};
use crate::error::BenchError;
use crate::process::Process;

/// Session settings and the life of one torrent.
const SCRIPT: &str = include_str!("libtorrent.py");

/// A Python interpreter that may have libtorrent.
pub(super) struct Libtorrent {
    python: PathBuf,
}

impl Libtorrent {
    /// Takes the virtual environment of `bench/setup.sh` (the newest libtorrent), else that of the tests, if one is found
    /// upwards from here or from this program.
    pub(super) fn find() -> Self {
        let venv = ["bench-venv", "venv"].iter().find_map(|venv| find_cached(&format!("{venv}/bin/python")));
        Self { python: venv.unwrap_or_else(|| "python3".into()) }
    }

    /// The interpreter.
    pub(super) fn python(&self) -> &Path {
        &self.python
    }
}

impl Client for Libtorrent {
    fn name(&self) -> &'static str {
        "libtorrent"
    }

    fn version(&self) -> Option<String> {
        let version = first_line(&self.python, &["-c", "import libtorrent; print(libtorrent.__version__)"])?;
        Some(format!("libtorrent {version}"))
    }

    fn settings(&self) -> &'static str {
        "high_performance_seed() and, as bench/src/clients/libtorrent.py lists, deeper request queues, larger send \
         buffers, 64 MiB of queued writes, 2 disk threads and one hash thread per CPU"
    }

    fn start(&self, job: &Job<'_>) -> Result<Running, BenchError> {
        let script: PathBuf = job.scratch.join("run.py");
        std::fs::write(&script, SCRIPT).map_err(BenchError::file("write", Path::new(&script)))?;
        let direction = match job.direction {
            Direction::Download => "download",
            Direction::Seed => "seed",
        };
        let mut command = Command::new(&self.python);
        command.arg(&script).arg(direction).arg(job.torrent).arg(job.output).arg(job.port.to_string());
        command.args(job.peers.iter().map(ToString::to_string));
        Ok(Running::new(Process::spawn(&mut command, &job.log())?, Done::Line("DONE")))
    }
}

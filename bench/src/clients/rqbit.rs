//! rqbit, if a binary is on PATH.

use std::path::Path;
use std::process::Command;

use super::{Client, Direction, Done, Job, Running, first_line};
use crate::error::BenchError;
use crate::generator::net::free_port;
use crate::process::Process;

/// rqbit on PATH.
pub(super) struct Rqbit;

impl Client for Rqbit {
    fn name(&self) -> &'static str {
        "rqbit"
    }

    fn version(&self) -> Option<String> {
        first_line(Path::new("rqbit"), &["--version"])
    }

    fn start(&self, job: &Job<'_>) -> Result<Running, BenchError> {
        let api = free_port().map_err(BenchError::socket("find a port for rqbit's API"))?;
        let mut command = Command::new("rqbit");
        command.args(["-v", "error", "--disable-dht", "--listen-ip", "127.0.0.1"]);
        command.args(["--listen-port", &job.port.to_string()]);
        command.args(["--http-api-listen-addr", &format!("127.0.0.1:{api}")]);
        command.args(["download", "--overwrite", "--disable-trackers", "--output-folder"]).arg(job.output);
        if job.direction == Direction::Download {
            let peers: Vec<_> = job.peers.iter().map(ToString::to_string).collect();
            command.args(["--exit-on-finish", "--initial-peers", &peers.join(",")]);
        }
        command.arg(job.torrent);
        Ok(Running::new(Process::spawn(&mut command, &job.log())?, Done::Exit))
    }
}

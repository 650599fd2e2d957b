//! ccbt-fast itself, through its command line as any user would.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Client, Direction, Done, Job, Running, first_line};
use crate::error::BenchError;
use crate::process::Process;

/// The engine's CLI at a given path.
pub(super) struct Ccbt {
    program: PathBuf,
}

impl Ccbt {
    pub(super) fn new(program: &Path) -> Self {
        Self { program: program.to_owned() }
    }
}

fn arguments(job: &Job<'_>) -> Vec<String> {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let command = match job.direction {
        Direction::Download => "download",
        Direction::Seed => "seed",
    };
    let mut args = vec![command.to_owned(), path(job.torrent), "--output".into(), path(job.output)];
    args.extend(["--port".into(), job.port.to_string(), "--bind".into(), "127.0.0.1".into()]);
    args.extend(["--no-tracker", "--json", "--log-level", "error"].map(String::from));
    args.extend(job.peers.iter().flat_map(|peer| ["--peer".into(), peer.to_string()]));
    args
}

impl Client for Ccbt {
    fn name(&self) -> &'static str {
        "ccbt"
    }

    fn version(&self) -> Option<String> {
        first_line(&self.program, &["--version"])
    }

    fn settings(&self) -> &'static str {
        "its defaults"
    }

    fn start(&self, job: &Job<'_>) -> Result<Running, BenchError> {
        let process = Process::spawn(
            // Not as an option: programs of before there was a configuration are compared, too.
            Command::new(&self.program)
                .env("CCBT_NO_CONFIG", "1")
                // Checkpoints are kept as by default, but not in the user's folder.
                .env("XDG_STATE_HOME", job.scratch.join("state"))
                .args(arguments(job)),
            &job.log(),
        )?;
        Ok(Running::new(process, Done::Exit))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::*;

    #[test]
    fn command_line_of_a_download() {
        let peers = [1, 2].map(|nth| SocketAddrV4::new(Ipv4Addr::new(127, 1, 1, nth), 99));
        let (torrent, dir) = (Path::new("t.torrent"), Path::new("d"));
        let direction = Direction::Download;
        let job = Job { direction, torrent, scratch: dir, output: dir, port: 7, peers: &peers };
        let expected = "download t.torrent --output d --port 7 --bind 127.0.0.1 --no-tracker --json \
                        --log-level error --peer 127.1.1.1:99 --peer 127.1.1.2:99";
        assert_eq!(arguments(&job).join(" "), expected);
    }
}

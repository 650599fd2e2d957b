//! rqbit: the binary that `bench/setup.sh` builds, else one on PATH.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Client, Direction, Done, Job, Running, find_cached, first_line};
use crate::error::BenchError;
use crate::process::Process;

/// An rqbit binary.
pub(super) struct Rqbit {
    program: PathBuf,
}

impl Rqbit {
    /// Takes the one below `.cache`, if one is found upwards from here or from this program.
    pub(super) fn find() -> Self {
        Self { program: find_cached("rqbit/bin/rqbit").unwrap_or_else(|| "rqbit".into()) }
    }
}

/// For rqbit 9: what it is told of discovery and limits stands before the sub-command.
fn arguments(job: &Job<'_>) -> Vec<String> {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let mut args: Vec<String> =
        ["-v", "error", "--listen-ip", "127.0.0.1", "--listen-port"].map(String::from).into();
    args.push(job.port.to_string());
    args.extend(
        ["--disable-dht", "--disable-lsd", "--disable-trackers", "--disable-upnp-port-forward"]
            .map(String::from),
    );
    args.extend(["--peer-limit".into(), (job.number_of_peers() + 10).to_string()]);
    args.extend(["download", "--disable-http-api", "--overwrite", "--output-folder"].map(String::from));
    args.push(path(job.output));
    if job.direction == Direction::Download {
        let peers: Vec<_> = job.peers.iter().map(ToString::to_string).collect();
        args.extend(["--exit-on-finish".into(), "--initial-peers".into(), peers.join(",")]);
    }
    args.push(path(job.torrent));
    args
}

impl Client for Rqbit {
    fn name(&self) -> &'static str {
        "rqbit"
    }

    fn version(&self) -> Option<String> {
        first_line(&self.program, &["--version"])
    }

    fn settings(&self) -> &'static str {
        "--peer-limit above the number of peers; its defaults otherwise"
    }

    fn start(&self, job: &Job<'_>) -> Result<Running, BenchError> {
        let process = Process::spawn(Command::new(&self.program).args(arguments(job)), &job.log())?;
        Ok(Running::new(process, Done::Exit))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::*;

    #[test]
    fn only_a_download_has_peers_and_ends() {
        let peers = [SocketAddrV4::new(Ipv4Addr::new(127, 1, 1, 1), 99)];
        let (torrent, dir) = (Path::new("t.torrent"), Path::new("d"));
        let direction = Direction::Download;
        let mut job = Job { direction, torrent, scratch: dir, output: dir, port: 7, peers: &peers };
        let text = arguments(&job).join(" ");
        assert!(
            text.contains("--peer-limit 11") && text.ends_with("--initial-peers 127.1.1.1:99 t.torrent"),
            "{text}"
        );
        job.direction = Direction::Seed;
        job.peers = &[];
        let text = arguments(&job).join(" ");
        assert!(
            text.contains("--peer-limit 2010") && text.ends_with("--output-folder d t.torrent"),
            "{text}"
        );
    }
}

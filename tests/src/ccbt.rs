//! Our own client as a test sees it: a command line, a stream of JSON events, an exit code.
//!
//! Owner: the test. Every long-running command gets `--json`, a free port and 127.0.0.1, and `--no-tracker` and `--no-dht`
//! unless the test asks for them. No command reads a configuration file that the test does not name with `--config`. With
//! [`SHARDS`] in the environment it gets that many shards, unless the test has an opinion: so every test is one of a
//! torrent on several shards too.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::binary::ccbt_fast;
use crate::confine::Confinement;
use crate::ports::free_port;
use crate::process::{Process, run, wait_until};
use crate::{PATIENCE, SOON};

/// Environment variable: shards of every engine that a test starts.
pub const SHARDS: &str = "CCBT_TEST_SHARDS";

/// What [`SHARDS`] says. Panics when it is no number.
pub fn test_shards() -> Option<usize> {
    let text = std::env::var(SHARDS).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{SHARDS}={text}: {error}")))
}

/// A command line under construction.
pub struct CcbtCommand {
    command: Command,
    shards: Option<usize>,
    port: u16,
    ip: IpAddr,
    places: Option<String>,
    use_trackers: bool,
    use_dht: bool,
    checkpoints: Option<PathBuf>,
}

impl CcbtCommand {
    /// `ccbt-fast download TORRENT --output DIR`.
    pub fn download(torrent: &Path, output: &Path) -> Self {
        Self::new("download", torrent, output)
    }

    /// `ccbt-fast magnet LINK --output DIR`.
    pub fn magnet(link: &str, output: &Path) -> Self {
        Self::new("magnet", Path::new(link), output)
    }

    /// `ccbt-fast seed TORRENT --output DIR`.
    pub fn seed(torrent: &Path, output: &Path) -> Self {
        Self::new("seed", torrent, output)
    }

    /// `ccbt-fast stream TORRENT --output DIR`, at a free HTTP port.
    pub fn stream(torrent: &Path, output: &Path) -> Self {
        Self::new("stream", torrent, output)
    }

    fn new(subcommand: &str, torrent: &Path, output: &Path) -> Self {
        Self::build(Command::new(ccbt_fast()), subcommand, torrent, output)
    }

    /// `ccbt-fast download TORRENT --output DIR` under a restriction of the machine.
    pub fn confined_download(confinement: Confinement<'_>, torrent: &Path, output: &Path) -> Self {
        Self::build(confinement.command(ccbt_fast()), "download", torrent, output)
    }

    /// `ccbt-fast seed TORRENT --output DIR` under a restriction of the machine.
    pub fn confined_seed(confinement: Confinement<'_>, torrent: &Path, output: &Path) -> Self {
        Self::build(confinement.command(ccbt_fast()), "seed", torrent, output)
    }

    /// As [`Self::download`] or [`Self::seed`], by a command that becomes the program.
    pub fn build(mut command: Command, subcommand: &str, torrent: &Path, output: &Path) -> Self {
        command.arg(subcommand).arg(torrent).arg("--output").arg(output);
        command.args(["--json", "--log-level", "debug", "--no-config"]);
        Self::with(command, None)
    }

    fn with(command: Command, checkpoints: Option<PathBuf>) -> Self {
        Self {
            command,
            shards: test_shards(),
            port: free_port(),
            ip: Ipv4Addr::LOCALHOST.into(),
            places: None,
            use_trackers: false,
            use_dht: false,
            checkpoints,
        }
    }

    /// Listens at this address instead of 127.0.0.1.
    pub fn bind(mut self, ip: impl Into<IpAddr>) -> Self {
        self.ip = ip.into();
        self
    }

    /// Is bound to these addresses and interfaces; `ip` is where others reach it.
    pub fn bound(mut self, places: &str, ip: impl Into<IpAddr>) -> Self {
        (self.places, self.ip) = (Some(places.to_owned()), ip.into());
        self
    }

    /// Runs a node of the DHT that begins at `first` instead of passing `--no-dht`.
    pub fn dht(mut self, first: SocketAddr) -> Self {
        self.use_dht = true;
        self.option("--dht-bootstrap", first.to_string())
    }

    /// Listens at this port instead of a free one.
    pub fn listen_at(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// A peer to connect to.
    pub fn peer(mut self, peer: SocketAddr) -> Self {
        self.command.arg("--peer").arg(peer.to_string());
        self
    }

    /// An option and its value.
    pub fn option(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        if name == "--shards" {
            self.shards = None;
        }
        self.command.arg(name).arg(value);
        self
    }

    /// A variable of its environment.
    pub fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// An option without a value.
    pub fn flag(mut self, name: &str) -> Self {
        self.command.arg(name);
        self
    }

    /// Announces to the torrent's trackers instead of passing `--no-tracker`.
    pub fn trackers(mut self) -> Self {
        self.use_trackers = true;
        self
    }

    /// Keeps checkpoints in this folder instead of passing `--no-checkpoint`.
    pub fn checkpoints(mut self, dir: &Path) -> Self {
        self.checkpoints = Some(dir.to_owned());
        self
    }

    /// `ccbt-fast resume HASH`, in the folder where the download was.
    pub fn resume(info_hash: &str, checkpoints: &Path) -> Self {
        let mut command = Command::new(ccbt_fast());
        command.args(["resume", info_hash, "--json", "--log-level", "debug"]);
        Self::with(command, Some(checkpoints.to_owned()))
    }

    /// Starts it.
    pub fn start(mut self) -> Ccbt {
        let places = self.places.take().unwrap_or_else(|| self.ip.to_string());
        self.command.args(["--port", &self.port.to_string(), "--bind", &places]);
        if !self.use_dht {
            self.command.arg("--no-dht");
        }
        if let Some(shards) = self.shards {
            self.command.args(["--shards", &shards.to_string()]);
        }
        if !self.use_trackers {
            self.command.arg("--no-tracker");
        }
        if let Some(dir) = &self.checkpoints {
            self.command.arg("--checkpoint-dir").arg(dir);
        } else {
            self.command.arg("--no-checkpoint");
        }
        Ccbt { process: Process::start("ccbt-fast", &mut self.command), address: (self.ip, self.port).into() }
    }
}

/// A running `ccbt-fast`.
pub struct Ccbt {
    process: Process,
    address: SocketAddr,
}

impl Ccbt {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits for the next event called `name`.
    pub fn wait_event(&mut self, name: &str) -> Value {
        self.wait_json(name, |event| (event["event"] == name).then(|| event.clone()))
    }

    /// Waits until the socket listens.
    pub fn wait_listening(&mut self) {
        let event = self.wait_event("listening");
        assert_eq!(event["port"], self.address.port(), "it listens where it was told to");
    }

    /// Waits until it listens and its torrent takes connections: existing data has been checked.
    pub fn wait_ready(&mut self) {
        self.wait_listening();
        self.wait_json("torrent that takes connections", |event| {
            let named = ["checked", "seeding", "finished"].iter().any(|name| event["event"] == *name);
            let moves = event["state"] == "downloading" || event["state"] == "seeding";
            (named || moves).then_some(())
        });
    }

    /// Waits for a `progress` event of a transfer (not of a check) whose `field` is at least `least`.
    pub fn wait_progress(&mut self, field: &str, least: u64) -> Value {
        self.wait_json(&format!("progress with {field} >= {least}"), |event| {
            let moves =
                event["event"] == "progress" && event["state"] != "checking" && event["state"] != "opening";
            let reached = moves && event[field].as_u64().is_some_and(|now| now >= least);
            reached.then(|| event.clone())
        })
    }

    /// Waits for an event that satisfies `wanted`.
    pub fn wait_json<T>(&mut self, what: &str, mut wanted: impl FnMut(&Value) -> Option<T>) -> T {
        self.process.wait_line(PATIENCE, what, |line| {
            let event = serde_json::from_str::<Value>(line).unwrap_or_else(|error| {
                panic!("with --json every line is an object, but: {line:?} ({error})")
            });
            wanted(&event)
        })
    }

    /// Every event called `name` that was said so far, also those that a wait has passed over.
    pub fn events(&self, name: &str) -> Vec<Value> {
        let stdout = self.process.stdout();
        let all = stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        all.filter(|event| event["event"] == name).collect()
    }

    /// Everything it said on both streams.
    pub fn words(&self) -> String {
        self.process.stdout() + &self.process.stderr()
    }

    /// Most memory it has ever had resident, in bytes (`VmHWM`); `None` once it has ended.
    pub fn peak_memory_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().expect("the kernel prints KiB") << 10)
    }

    /// Waits until it either ends, or reports an `error` event and goes on: the exit code in the first case.
    pub fn wait_end_or_error(&mut self) -> Option<i32> {
        let status = self.wait_status_or_error()?;
        Some(status.code().unwrap_or_else(|| panic!("ccbt-fast died: {status}")))
    }

    /// As [`Self::wait_end_or_error`], whatever ended it.
    pub fn wait_status_or_error(&mut self) -> Option<ExitStatus> {
        wait_until(PATIENCE, "end or error event", || {
            if self.process.try_exit().is_some() {
                return Some(Some(self.process.wait_exit(SOON)));
            }
            (!self.events("error").is_empty()).then_some(None)
        })
    }

    /// Waits for the end of a download that succeeds: `finished` was said and the exit code is 0.
    pub fn wait_done(&mut self) {
        let status = self.process.wait_exit(PATIENCE);
        assert_eq!(status.code(), Some(0), "a finished download exits with 0");
        assert!(self.process.stdout().contains("\"finished\""), "a finished download says so");
    }

    /// Waits for the process to end, whatever its status.
    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        self.process.wait_exit(deadline)
    }

    /// SIGTERM, then a clean end.
    pub fn stop(&mut self) {
        self.process.signal(Signal::TERM);
        let status = self.process.wait_exit(SOON);
        assert!(status.code().is_some(), "SIGTERM is handled, but it died: {status}");
    }

    /// Sends any signal.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Panics if it has ended.
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.process.try_exit() {
            panic!("ccbt-fast ended: {status}");
        }
    }

    /// Whether a line of its output or log satisfies `wanted`.
    pub fn said(&self, wanted: impl Fn(&str) -> bool) -> bool {
        self.process.said(wanted)
    }
}

/// Runs a short `ccbt-fast` command to its end: (exit code, stdout, stderr).
pub fn ccbt<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> (i32, String, String) {
    run("ccbt-fast", Command::new(ccbt_fast()).env("CCBT_NO_CONFIG", "1").args(args), PATIENCE)
}

/// What `ccbt-fast verify --json` finds below `output`.
///
/// Panics when there is no report.
pub fn verified(torrent: &Path, output: &Path) -> Value {
    let args = [OsStr::new("verify"), torrent.as_os_str(), OsStr::new("--output"), output.as_os_str()];
    let (_, stdout, stderr) = ccbt(args.into_iter().chain([OsStr::new("--json")]));
    let report = stdout.lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
    report
        .filter(|report| report["pieces_ok"].is_u64())
        .unwrap_or_else(|| panic!("no report: {stdout}{stderr}"))
}

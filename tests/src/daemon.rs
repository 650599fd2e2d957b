//! Our daemon as a test sees it: a process, its commands, and raw HTTP on its socket.
//!
//! Owner: the test. Each daemon has folders of its own below the lab, listens on 127.0.0.1 at a free port, asks no trackers
//! and reads no configuration file that the test does not name.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::process::Signal;
use serde_json::Value;

use crate::binary::ccbt_fast;
use crate::ccbt::{ccbt, test_shards};
use crate::lab::{Lab, Published};
use crate::payload::Payload;
use crate::ports::free_port;
use crate::process::{Process, wait_until};
use crate::torrent::{Torrent, TorrentSpec};
use crate::{PATIENCE, SOON};

/// A daemon's command line.
pub struct DaemonCommand {
    command: Command,
    ip: IpAddr,
    port: u16,
    socket: PathBuf,
    use_dht: bool,
    use_trackers: bool,
}

impl DaemonCommand {
    /// `ccbt-fast daemon` with its state in `<lab>/state`, files in `<lab>/out`, and the socket `<lab>/d.sock`.
    pub fn new(lab: &Lab) -> Self {
        let socket = lab.path().join("d.sock");
        Self::with_socket(lab, &socket, &lab.dir("state"))
    }

    /// As [`Self::new`] with another socket and folder of the state.
    pub fn with_socket(lab: &Lab, socket: &Path, state: &Path) -> Self {
        let mut command = Command::new(ccbt_fast());
        command.arg("daemon").args(["--json", "--no-config"]);
        command.args(["--log-level", "info", "--memory", "64"]);
        command.arg("--output").arg(lab.dir("out")).arg("--socket").arg(socket).arg("--state-dir").arg(state);
        if let Some(shards) = test_shards() {
            command.args(["--shards", &shards.to_string()]);
        }
        Self {
            command,
            ip: Ipv4Addr::LOCALHOST.into(),
            port: free_port(),
            socket: socket.to_owned(),
            use_dht: false,
            use_trackers: false,
        }
    }

    /// Listens at this address instead of 127.0.0.1.
    pub fn bind(mut self, ip: impl Into<IpAddr>) -> Self {
        self.ip = ip.into();
        self
    }

    /// Asks the torrents' trackers instead of passing `--no-tracker`.
    pub fn trackers(mut self) -> Self {
        self.use_trackers = true;
        self
    }

    /// Options.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs a node of the DHT that begins at `first` (HOST:PORT, or "none") instead of passing `--no-dht`.
    pub fn dht(mut self, first: &str) -> Self {
        self.use_dht = true;
        self.args(["--dht-bootstrap", first])
    }

    /// Starts it and waits until it can be controlled.
    pub fn start(self) -> Daemon {
        let mut daemon = self.launch();
        daemon.started = daemon.process.wait_line(PATIENCE, "a daemon that runs", |line| {
            let event = serde_json::from_str::<Value>(line).ok()?;
            (event["event"] == "daemon").then_some(event)
        });
        daemon
    }

    /// Starts it.
    pub fn launch(mut self) -> Daemon {
        self.command.args(["--port", &self.port.to_string(), "--bind", &self.ip.to_string()]);
        if !self.use_trackers {
            self.command.arg("--no-tracker");
        }
        if !self.use_dht {
            self.command.arg("--no-dht");
        }
        let process = Process::start("ccbt-fast daemon", &mut self.command);
        Daemon { process, socket: self.socket, address: (self.ip, self.port).into(), started: Value::Null }
    }
}

/// A running daemon.
pub struct Daemon {
    process: Process,
    socket: PathBuf,
    address: SocketAddr,
    /// Its first event.
    pub started: Value,
}

impl Daemon {
    /// Where peers reach it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs `ccbt-fast COMMAND ARGS --socket …`: (exit code, stdout, stderr).
    pub fn run(&self, args: &[&str]) -> (i32, String, String) {
        let socket = self.socket.to_str().expect("labs have plain names");
        ccbt(args.iter().copied().chain(["--socket", socket]))
    }

    /// As [`Self::run`] with `--json`, which succeeds: the objects that it prints.
    pub fn ask(&self, args: &[&str]) -> Vec<Value> {
        let (code, stdout, stderr) = self.run(&[args, &["--json"]].concat());
        assert_eq!(code, 0, "{args:?}: {stdout}{stderr}");
        stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    }

    /// A number of the daemon as a whole.
    pub fn stat(&self, name: &str) -> u64 {
        self.ask(&["stats"]).remove(0)[name].as_u64().unwrap_or_else(|| panic!("no {name}"))
    }

    /// All that it knows of a torrent.
    pub fn show(&self, torrent: &Published) -> Value {
        self.ask(&["show", &torrent.torrent.info_hash_hex()]).remove(0)
    }

    /// Its torrents, in the order of the queue.
    pub fn list(&self) -> Vec<Value> {
        let list = self.ask(&["list"]).remove(0);
        list["torrents"].as_array().expect("a list").clone()
    }

    /// Waits until `field` of a torrent is `wanted`.
    pub fn wait_for(&self, torrent: &Published, field: &str, wanted: impl Into<Value>) -> Value {
        let wanted = wanted.into();
        let mut last = Value::Null;
        let mut look = || {
            last = self.show(torrent);
            (last[field] == wanted).then(|| last.clone())
        };
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(PATIENCE, &format!("torrent with {field} = {wanted}"), &mut look)
        }));
        found.unwrap_or_else(|panic| {
            eprintln!("the last of it: {last:#}");
            std::panic::resume_unwind(panic)
        })
    }

    /// Sends these bytes to the socket and reads until it is closed: status and body.
    pub fn raw(&self, request: &[u8]) -> (u16, String) {
        let stream = UnixStream::connect(&self.socket).expect("the daemon listens");
        exchange(stream, request)
    }

    /// A request with a body of JSON: status and body.
    pub fn http(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        let (status, body) = self.raw(format!("{head}{body}").as_bytes());
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end.
    pub fn wait_exit(&mut self) -> ExitStatus {
        self.process.wait_exit(SOON)
    }

    /// SIGTERM and an orderly end.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.wait_exit().code(), Some(0), "{}", self.words());
        assert!(!self.socket.exists(), "it takes its socket with it");
    }

    /// The end that nobody is asked about.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.wait_exit();
    }

    /// Everything it said.
    pub fn words(&self) -> String {
        self.process.stdout() + &self.process.stderr()
    }

    /// Waits until it has said something.
    pub fn wait_said(&self, part: &str) {
        wait_until(PATIENCE, part, || self.process.said(|line| line.contains(part)).then_some(()));
    }
}

/// Sends a request on a stream, and reads status and body until its end.
pub fn exchange(mut stream: impl Read + Write, request: &[u8]) -> (u16, String) {
    // One that has answered before it has read all may have closed.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    // What was answered before a reset counts.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned());
    (status, body)
}

/// A torrent called `name` of `len` bytes: its file in the lab, its data in `<lab>/data` only if `on_disk`.
pub fn torrent(lab: &Lab, name: &str, len: usize, on_disk: bool) -> Published {
    let payload = Payload::single(name, len);
    let data = lab.dir("data");
    if on_disk {
        payload.write_to(&data);
    }
    let torrent = Torrent::of(&payload, &TorrentSpec::pieces_of(16 << 10));
    let torrent_path = lab.file(&format!("{name}.torrent"), torrent.bytes());
    Published { data, torrent_path, torrent, payload }
}

/// As a body carries a torrent file.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let value = word >> (18 - 6 * digit) & 63;
            text.push(if digit > chunk.len() { '=' } else { DIGITS[value as usize] as char });
        }
    }
    text
}

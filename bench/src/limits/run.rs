//! One measurement: a client with a limit moves bytes, and the slope of its own counters is taken.
//!
//! The counters are those of its `progress` events, which tell payload; 0.08 % more are counted by the limit (headers
//! of blocks). What the far end of a socket sees would not do: at low rates, buffers in the kernel hold more than is
//! measured.

use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::clients::Direction;
use crate::error::BenchError;
use crate::generator::fetch::{FetchPlan, fetch};
use crate::generator::net::free_port;
use crate::generator::probe;
use crate::generator::serve::Seeder;
use crate::payload::{FILE_NAME, Payload};
use crate::process::Process;

/// Pause between looks at the client's output: the error of a measured time.
const LOOK_PAUSE: Duration = Duration::from_millis(1);
/// Pause between tries to reach a client that is getting ready to seed.
const READY_PAUSE: Duration = Duration::from_millis(20);
/// How long the first byte may take, and each step after it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests that each leecher keeps outstanding.
const WINDOW: usize = 64;
/// Time between two `progress` events.
const EVENTS: Duration = Duration::from_millis(250);
/// A rate no machine reaches; unlimited runs are sized by it.
const UNLIMITED: u64 = 4_000_000_000;

/// How long a run at some rate is, and how much it moves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    rate: u64,
    warm_up: Duration,
    seconds: Duration,
    total: u64,
}

impl Setting {
    pub(super) fn of(rate: u64, seconds: u64, most: u64) -> Self {
        let bytes_per_s = if rate == 0 { UNLIMITED } else { rate };
        let slow = rate > 0 && rate < 1 << 20;
        let (warm_up, seconds) = if slow { (2.0, 4.0 * seconds as f64) } else { (0.3, seconds as f64) };
        // What is left at the end is moved in another way, so it is not measured. The first event comes up to one
        // interval after the first byte, and the warm-up and the measurement end with the next event each.
        let events = 3.0 * EVENTS.as_secs_f64();
        let room = (most as f64 * 0.95 / bytes_per_s as f64 - warm_up - events).max(0.3);
        let seconds = seconds.min(room);
        let total = ((warm_up + seconds + 1.0) * bytes_per_s as f64) as u64;
        let total = total.clamp(64 << 20, most).next_multiple_of(1 << 20);
        Self {
            rate,
            warm_up: Duration::from_secs_f64(warm_up),
            seconds: Duration::from_secs_f64(seconds),
            total,
        }
    }
}

/// What a run gave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) seconds: f64,
    pub(super) bytes: u64,
    pub(super) cpu_s: f64,
}

/// Everything that runs at one rate have in common.
pub(super) struct Load {
    program: PathBuf,
    work: PathBuf,
    setting: Setting,
    payload: Arc<Payload>,
    torrent: PathBuf,
    stop: Arc<AtomicBool>,
}

/// A folder that goes when it is not needed any more.
pub(super) struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // The work folder around it is removed at the end anyway; only memory is at stake here.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Load {
    pub(super) fn new(
        program: &Path,
        work: &Path,
        setting: Setting,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, BenchError> {
        let payload = Arc::new(Payload::new(setting.total, 1 << 20)?);
        let torrent = work.join("ccbt-bench.torrent");
        fs::write(&torrent, payload.torrent_file()).map_err(BenchError::file("write", &torrent))?;
        Ok(Self { program: program.to_owned(), work: work.to_owned(), setting, payload, torrent, stop })
    }

    /// Writes what is to be seeded.
    pub(super) fn prepare(&self, direction: Direction) -> Result<Option<Folder>, BenchError> {
        if direction == Direction::Download {
            return Ok(None);
        }
        let folder = Folder(self.work.join("seed"));
        fs::create_dir_all(&folder.0).map_err(BenchError::file("create", &folder.0))?;
        self.payload.write_file(&folder.0.join(FILE_NAME))?;
        Ok(Some(folder))
    }

    pub(super) fn run(&self, direction: Direction, shards: u16, peers: u32) -> Result<Measured, BenchError> {
        let scratch = Folder(self.work.join("run"));
        fs::create_dir_all(&scratch.0).map_err(BenchError::file("create", &scratch.0))?;
        let port = free_port().map_err(BenchError::socket("find a free port"))?;
        let (command, limit, output) = match direction {
            Direction::Download => ("download", "--down-limit", scratch.0.join("output")),
            Direction::Seed => ("seed", "--up-limit", self.work.join("seed")),
        };
        let mut client = Command::new(&self.program);
        client.arg(command).arg(&self.torrent).arg("--output").arg(output);
        client.env("XDG_STATE_HOME", scratch.0.join("state"));
        client.args(["--bind", "127.0.0.1", "--no-tracker", "--json", "--log-level", "error"]);
        client.args(["--port", &port.to_string(), "--shards", &shards.to_string()]);
        client.args([limit, &(self.setting.rate >> 10).to_string()]);
        let log = scratch.0.join("client.log");
        match direction {
            Direction::Download => self.download(client, &log, peers),
            Direction::Seed => self.seed(client, &log, peers, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)),
        }
    }

    fn download(&self, mut client: Command, log: &Path, peers: u32) -> Result<Measured, BenchError> {
        let seeder = Seeder::start(Arc::clone(&self.payload), peers as usize, 1)?;
        for peer in seeder.peers() {
            client.arg("--peer").arg(peer.to_string());
        }
        let mut process = Process::spawn(&mut client, log)?;
        // Without a limit it is measured to its end: the first gigabytes go into memory faster than those after them.
        let seconds = if self.setting.rate == 0 { PATIENCE } else { self.setting.seconds };
        let measured = self.watch(&mut process, log, "downloaded", seconds);
        process.terminate()?;
        seeder.stop()?;
        measured
    }

    fn seed(
        &self,
        mut client: Command,
        log: &Path,
        peers: u32,
        target: SocketAddrV4,
    ) -> Result<Measured, BenchError> {
        let mut process = Process::spawn(&mut client, log)?;
        let deadline = Instant::now() + PATIENCE;
        while !probe::is_ready(target, &self.payload) {
            self.check(&mut process, deadline)?;
            std::thread::sleep(READY_PAUSE);
        }
        let plan = FetchPlan {
            payload: Arc::clone(&self.payload),
            target,
            connections: peers as usize,
            window: WINDOW,
            threads: 1,
            cancel: Arc::default(),
        };
        let measured = std::thread::scope(|scope| {
            let fetching = scope.spawn(|| fetch(&plan));
            let measured = self.watch(&mut process, log, "uploaded", self.setting.seconds);
            plan.cancel.store(true, Ordering::Relaxed);
            // It ends early, which it calls an error.
            let _ = fetching.join().expect("the leecher does not panic");
            measured
        });
        process.terminate()?;
        measured
    }

    /// Waits for the first bytes, lets it warm up, and takes the slope of `counter` for `span`, or until the client
    /// ends.
    fn watch(
        &self,
        process: &mut Process,
        log: &Path,
        counter: &str,
        span: Duration,
    ) -> Result<Measured, BenchError> {
        let mut tail = Tail::open(log)?;
        let mut deadline = Instant::now() + PATIENCE;
        let mut begun: Option<Instant> = None;
        let mut first: Option<(Instant, u64, f64)> = None;
        let mut last: Option<Measured> = None;
        loop {
            if let (Some(last), Some(_)) = (last, process.try_wait()) {
                // Everything has gone before the time was over: without a limit nobody knows how long it takes.
                return Ok(last);
            }
            self.check(process, deadline)?;
            let Some(bytes) = tail.newest(counter)?.filter(|bytes| *bytes > 0) else {
                std::thread::sleep(LOOK_PAUSE);
                continue;
            };
            let now = Instant::now();
            let begun = *begun.get_or_insert(now);
            deadline = now + PATIENCE;
            match first {
                None if now - begun >= self.setting.warm_up => {
                    first = Some((now, bytes, process.cpu_now().total()));
                }
                Some((at, before, cpu)) if bytes > before => {
                    let (seconds, cpu_s) = ((now - at).as_secs_f64(), process.cpu_now().total() - cpu);
                    last = Some(Measured { seconds, bytes: bytes - before, cpu_s });
                    if now - at >= span {
                        return Ok(last.expect("just set"));
                    }
                }
                _ => {}
            }
        }
    }

    fn check(&self, process: &mut Process, deadline: Instant) -> Result<(), BenchError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(BenchError::Interrupted);
        }
        if process.try_wait().is_some() {
            return Err(BenchError::Client(format!("the client ended early{}", process.log_tail())));
        }
        if Instant::now() > deadline {
            let (seconds, log) = (PATIENCE.as_secs(), process.log_tail());
            return Err(BenchError::Timeout { seconds, what: "bytes that move", log });
        }
        Ok(())
    }
}

/// The events that a client writes.
struct Tail {
    file: File,
    path: PathBuf,
    text: String,
}

impl Tail {
    fn open(path: &Path) -> Result<Self, BenchError> {
        let file = File::open(path).map_err(BenchError::file("open", path))?;
        Ok(Self { file, path: path.to_owned(), text: String::new() })
    }

    /// The counter in the last whole `progress` event that came since the last call.
    fn newest(&mut self, counter: &str) -> Result<Option<u64>, BenchError> {
        self.file.read_to_string(&mut self.text).map_err(BenchError::file("read", &self.path))?;
        let Some(end) = self.text.rfind('\n') else { return Ok(None) };
        let lines: String = self.text.drain(..=end).collect();
        let value = |line: &str| -> Option<u64> {
            let event: serde_json::Value = serde_json::from_str(line).ok()?;
            (event["event"] == "progress").then(|| event[counter].as_u64())?
        };
        Ok(lines.lines().rev().find_map(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_fit_into_the_memory_that_is_allowed() {
        let most = 6 << 30;
        for rate in [0, 64 << 10, 1 << 20, 512 << 20, 2_000_000_000] {
            let setting = Setting::of(rate, 5, most);
            assert!(setting.total <= most && setting.total.is_multiple_of(1 << 20), "{setting:?}");
            let moved = (setting.warm_up + setting.seconds + 3 * EVENTS).as_secs_f64() * rate as f64;
            assert!(moved < setting.total as f64, "{setting:?}");
        }
        assert_eq!(Setting::of(64 << 10, 5, most).seconds, Duration::from_secs(20));
    }

    #[test]
    fn the_newest_whole_event_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "").unwrap();
        let mut tail = Tail::open(&path).unwrap();
        assert_eq!(tail.newest("uploaded").unwrap(), None);
        let event = |bytes| format!("{{\"event\":\"progress\",\"uploaded\":{bytes}}}\n");
        fs::write(&path, format!("{}{}noise\n{{\"event\":\"pro", event(1), event(2))).unwrap();
        assert_eq!(tail.newest("uploaded").unwrap(), Some(2));
        assert_eq!(tail.newest("uploaded").unwrap(), None);
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, b"gress\",\"uploaded\":3}\n").unwrap();
        assert_eq!(tail.newest("uploaded").unwrap(), Some(3));
    }
}

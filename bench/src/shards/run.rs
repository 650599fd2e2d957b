//! One run: ccbt-fast with so many shards moves the whole torrent once, and its threads are watched.
//!
//! The clock of a download runs from the first handshake to `finished` (every piece synced), that of a seed from the
//! first dial to the last block. The process is alive at both ends, so what its threads used is exact.

use std::fs;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ShardsArgs;
use super::quota::Quota;
use super::threads::{ThreadUse, Threads};
use crate::clients::Direction;
use crate::error::BenchError;
use crate::generator::fetch::{FetchPlan, fetch};
use crate::generator::net::free_port;
use crate::generator::probe;
use crate::generator::serve::Seeder;
use crate::payload::{FILE_NAME, Payload, Verify};
use crate::process::Process;

/// Between two looks at the client.
const LOOK: Duration = Duration::from_millis(10);
/// Looks between two looks at its threads.
const THREADS_EVERY: u32 = 10;

/// What all runs have in common.
pub(super) struct Runner<'a> {
    pub args: &'a ShardsArgs,
    pub program: PathBuf,
    pub payload: Arc<Payload>,
    pub work: PathBuf,
    pub torrent: PathBuf,
    pub seed_dir: PathBuf,
    pub stop: Arc<AtomicBool>,
}

/// What a shard says at its end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Told {
    pub received: u64,
    pub sent: u64,
    pub accepted: u64,
    pub handed_over: u64,
    pub peers: u64,
    pub messages: u64,
    pub lease_messages: u64,
}

/// What was measured.
#[derive(Debug)]
pub(super) struct Measured {
    pub seconds: f64,
    pub threads: Vec<ThreadUse>,
    pub shards: Vec<Told>,
    pub generator_cpu_s: f64,
}

/// A started client.
struct Client {
    process: Process,
    address: SocketAddrV4,
    /// Dropped after the process.
    _quota: Option<Quota>,
}

impl Runner<'_> {
    /// Runs once with `shards` shards.
    pub fn run(&self, direction: Direction, shards: u32) -> Result<Measured, BenchError> {
        let scratch = self.work.join("run");
        fs::create_dir_all(&scratch).map_err(BenchError::file("create", &scratch))?;
        let measured = match direction {
            Direction::Download => self.download(shards),
            Direction::Seed => self.seed(shards),
        };
        let _ = fs::remove_dir_all(&scratch);
        measured
    }

    fn start(&self, direction: Direction, shards: u32, peers: &[SocketAddrV4]) -> Result<Client, BenchError> {
        let port = free_port().map_err(BenchError::socket("find a free port"))?;
        let address = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port);
        let (scratch, mut command) = (self.work.join("run"), Command::new(&self.program));
        match direction {
            Direction::Download => {
                command.arg("download").arg(&self.torrent).arg("--output").arg(scratch.join("output"));
                command.args(["--seed-time", &self.args.timeout_s.to_string()]);
            }
            Direction::Seed => {
                command.arg("seed").arg(&self.torrent).arg("--output").arg(&self.seed_dir);
            }
        }
        // Checkpoints, but not in the user's folder.
        command.env("XDG_STATE_HOME", scratch.join("state"));
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--no-tracker", "--json"]);
        command.args(["--log-level", "error", "--shards", &shards.to_string()]);
        command.args(["--memory", &self.args.memory_mib.to_string()]);
        command.args(peers.iter().flat_map(|peer| ["--peer".to_owned(), peer.to_string()]));
        let process = Process::spawn(&mut command, &scratch.join("client.log"))?;
        let mut client = Client { process, address, _quota: None };
        if let Some(percent) = self.args.quota_percent {
            let shards = self.wait_shards(&mut client, shards)?;
            client._quota = Some(Quota::apply(client.process.id(), &shards, percent)?);
        }
        Ok(client)
    }

    fn wait_shards(&self, client: &mut Client, shards: u32) -> Result<Vec<u32>, BenchError> {
        let end = Instant::now() + Duration::from_secs(self.args.timeout_s);
        loop {
            let mut threads = Threads::default();
            threads.look(client.process.id());
            let found = threads.called("ccbt-shard-");
            if found.len() == shards as usize {
                return Ok(found);
            }
            self.go_on(client, end, "all shards")?;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn download(&self, shards: u32) -> Result<Measured, BenchError> {
        let seeder = Seeder::start(Arc::clone(&self.payload), self.args.connections as usize, 1)?;
        let peers = if self.args.incoming { &[] } else { seeder.peers() };
        let mut client = self.start(Direction::Download, shards, peers)?;
        if self.args.incoming {
            self.wait_log(&mut client, "listening")?;
            seeder.dial(client.address);
        }
        let end = Instant::now() + Duration::from_secs(self.args.timeout_s);
        let (mut threads, mut first) = (Threads::default(), None);
        for look in 0u32.. {
            if first.is_none()
                && let Some(started) = seeder.first_handshake()
            {
                threads.look(client.process.id());
                first = Some((started, threads.clone()));
            }
            if look.is_multiple_of(THREADS_EVERY) {
                threads.look(client.process.id());
            }
            if has_event(&client.process.log_text(), "finished") {
                break;
            }
            self.go_on(&mut client, end, "the download")?;
            std::thread::sleep(LOOK);
        }
        let done = Instant::now();
        threads.look(client.process.id());
        let (started, before) =
            first.ok_or_else(|| BenchError::Client("finished without ever connecting".into()))?;
        let used = threads.since(&before);
        let told = stop(client, shards)?;
        let served = seeder.stop()?;
        let file = self.work.join("run/output").join(FILE_NAME);
        self.payload.verify_file(&file, Verify::Sample)?;
        Ok(Measured {
            seconds: (done - started).as_secs_f64(),
            threads: used,
            shards: told,
            generator_cpu_s: served.cpu.as_secs_f64(),
        })
    }

    fn seed(&self, shards: u32) -> Result<Measured, BenchError> {
        let mut client = self.start(Direction::Seed, shards, &[])?;
        let end = Instant::now() + Duration::from_secs(self.args.timeout_s);
        while !probe::is_ready(client.address, &self.payload) {
            self.go_on(&mut client, end, "the check of the seed's file")?;
            std::thread::sleep(LOOK);
        }
        let plan = FetchPlan {
            payload: Arc::clone(&self.payload),
            target: client.address,
            connections: self.args.connections as usize,
            window: self.args.window as usize,
            threads: 1,
            cancel: Arc::new(AtomicBool::new(false)),
        };
        let mut threads = Threads::default();
        threads.look(client.process.id());
        let before = threads.clone();
        let fetched = std::thread::scope(|scope| {
            let fetching = scope.spawn(|| fetch(&plan));
            let mut trouble = None;
            while !fetching.is_finished() {
                threads.look(client.process.id());
                if let Err(error) = self.go_on(&mut client, end, "the last block") {
                    plan.cancel.store(true, Ordering::Relaxed);
                    trouble = Some(error);
                    break;
                }
                std::thread::sleep(LOOK * THREADS_EVERY);
            }
            let fetched = fetching.join().expect("the leecher does not panic");
            trouble.map_or(fetched, Err)
        })?;
        threads.look(client.process.id());
        let used = threads.since(&before);
        Ok(Measured {
            seconds: fetched.elapsed.as_secs_f64(),
            threads: used,
            shards: stop(client, shards)?,
            generator_cpu_s: fetched.cpu.as_secs_f64(),
        })
    }

    fn wait_log(&self, client: &mut Client, event: &str) -> Result<(), BenchError> {
        let end = Instant::now() + Duration::from_secs(self.args.timeout_s);
        while !has_event(&client.process.log_text(), event) {
            self.go_on(client, end, "the client to listen")?;
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn go_on(&self, client: &mut Client, end: Instant, what: &'static str) -> Result<(), BenchError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(BenchError::Interrupted);
        }
        if let Some(exit) = client.process.try_wait() {
            let (status, log) = (exit.status, client.process.log_tail());
            return Err(BenchError::Client(format!("ccbt-fast ended early ({status}){log}")));
        }
        if Instant::now() > end {
            let (seconds, log) = (self.args.timeout_s, client.process.log_tail());
            return Err(BenchError::Timeout { seconds, what, log });
        }
        Ok(())
    }
}

/// Ends the client; what its shards say.
fn stop(mut client: Client, shards: u32) -> Result<Vec<Told>, BenchError> {
    client.process.terminate()?;
    let log = client.process.log_text();
    let told = told(&log).unwrap_or_default();
    if told.len() != shards as usize {
        let (found, tail) = (told.len(), client.process.log_tail());
        return Err(BenchError::Client(format!("{found} of {shards} shards told what they did{tail}")));
    }
    Ok(told)
}

fn events(log: &str) -> impl Iterator<Item = Value> + '_ {
    log.lines().filter_map(|line| serde_json::from_str(line).ok())
}

fn has_event(log: &str, name: &str) -> bool {
    // Most lines are progress: only the few that may be it are parsed.
    log.contains(name) && events(log).any(|event| event["event"] == name)
}

fn told(log: &str) -> Option<Vec<Told>> {
    let stopped = events(log).find(|event| event["event"] == "stopped")?;
    serde_json::from_value(stopped["shards"].clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shards_say_is_read_from_the_last_line() {
        let shard = r#"{"received":1,"sent":2,"accepted":3,"handed_over":4,"peers":5,"messages":6,"lease_messages":7}"#;
        let log = format!(
            "warning: x\n{{\"event\":\"finished\"}}\n{{\"event\":\"stopped\",\"shards\":[{shard},{shard}]}}\n"
        );
        let told = told(&log).expect("there");
        assert_eq!((told.len(), told[1].received, told[1].lease_messages), (2, 1, 7));
        assert!(has_event(&log, "finished") && !has_event(&log, "warning"));
        assert_eq!(super::told("{\"event\":\"finished\"}"), None);
    }
}

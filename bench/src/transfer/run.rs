//! One run: start a client, move the whole torrent, measure, check, clean up.
//!
//! The clock of a download runs from the first handshake at the synthetic seeder to the client's own word that it is
//! done; that of a seeding run from the leecher's first dial to its last block, after the client has shown that it is
//! ready. The client's CPU time is counted from the same moment: to its end for a download (work left to do at the
//! end is work all the same), to the last block for a seeding run.

use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::TransferArgs;
use super::report::{Generator, Measured};
use crate::clients::{Client, Direction, Job, Running};
use crate::error::BenchError;
use crate::generator::fetch::{FetchPlan, FetchReport, fetch};
use crate::generator::net::free_port;
use crate::generator::probe;
use crate::generator::serve::Seeder;
use crate::payload::{FILE_NAME, Payload};
use crate::process::{Cpu, PeakMemory};

/// Pause between looks at a client that downloads: the error of a measured time.
const WATCH_PAUSE: Duration = Duration::from_millis(2);
/// Every how many looks its memory is read.
const MEMORY_EVERY: u32 = 10;
/// Pause between tries to reach a client that is getting ready to seed.
const READY_PAUSE: Duration = Duration::from_millis(50);

/// What all runs have in common.
pub(super) struct Runner<'a> {
    pub(super) args: &'a TransferArgs,
    pub(super) payload: Arc<Payload>,
    pub(super) work: PathBuf,
    pub(super) torrent: PathBuf,
    pub(super) seed_dir: PathBuf,
    pub(super) stop: Arc<AtomicBool>,
}

/// A folder that is emptied when the run ends, however it ends.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // The work folder around it is removed at the end anyway; only memory is at stake here.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Runner<'_> {
    /// Runs `client` once.
    pub(super) fn run(&self, client: &dyn Client, direction: Direction) -> Result<Measured, BenchError> {
        let scratch = Scratch(self.work.join("run"));
        fs::create_dir_all(&scratch.0).map_err(BenchError::file("create", &scratch.0))?;
        let port = free_port().map_err(BenchError::socket("find a free port"))?;
        match direction {
            Direction::Download => self.download(client, &scratch.0, port),
            Direction::Seed => self.seed(client, &scratch.0, port),
        }
    }

    fn download(&self, client: &dyn Client, scratch: &Path, port: u16) -> Result<Measured, BenchError> {
        let output = scratch.join("output");
        fs::create_dir(&output).map_err(BenchError::file("create", &output))?;
        let connections = self.args.connections as usize;
        let threads = self.args.generator_threads as usize;
        let seeder = Seeder::start(Arc::clone(&self.payload), connections, threads)?;
        let job = Job {
            direction: Direction::Download,
            torrent: &self.torrent,
            scratch,
            output: &output,
            port,
            peers: seeder.peers(),
        };
        let mut running = client.start(&job)?;
        if !client.dials() {
            seeder.dial(job.address());
        }
        let (seconds, cpu_before) = self.watch_download(&seeder, &mut running)?;
        let exit = running.process.terminate()?;
        let served = seeder.stop()?;
        self.payload.verify_file(&output.join(FILE_NAME), self.args.verify)?;
        let generator = Generator {
            cpu_s: served.cpu.as_secs_f64(),
            handshakes: served.handshakes,
            protocol_errors: served.protocol_errors,
            pipeline_depth_max: Some(served.depth_max as u64),
        };
        let cpu = exit.cpu.since(cpu_before);
        Ok(self.measured(seconds, cpu, running.process.peak_memory(), generator, served.inter_arrival))
    }

    /// Waits until the client is done: transfer time in seconds, and the CPU time it had used before.
    fn watch_download(&self, seeder: &Seeder, running: &mut Running) -> Result<(f64, Cpu), BenchError> {
        let deadline = self.deadline();
        let mut before = None;
        for look in 0u32.. {
            if before.is_none()
                && let Some(started) = seeder.first_handshake()
            {
                before = Some((started, running.process.cpu_now()));
            }
            if look.is_multiple_of(MEMORY_EVERY) {
                running.process.sample_memory();
            }
            if running.is_done()? {
                let done = Instant::now();
                let (started, cpu) = before.ok_or_else(|| {
                    BenchError::Client("the client says it is done, but never connected to a peer".into())
                })?;
                return Ok(((done - started).as_secs_f64(), cpu));
            }
            self.check_time(deadline, "the download", running)?;
            std::thread::sleep(WATCH_PAUSE);
        }
        unreachable!("2^32 looks take longer than any deadline")
    }

    fn seed(&self, client: &dyn Client, scratch: &Path, port: u16) -> Result<Measured, BenchError> {
        let job = Job {
            direction: Direction::Seed,
            torrent: &self.torrent,
            scratch,
            output: &self.seed_dir,
            port,
            peers: &[],
        };
        let mut running = client.start(&job)?;
        let deadline = self.deadline();
        while !probe::is_ready(job.address(), &self.payload) {
            running.check_alive()?;
            self.check_time(deadline, "the client getting ready to seed", &running)?;
            std::thread::sleep(READY_PAUSE);
        }
        let cpu_before = running.process.cpu_now();
        let fetched = self.fetch_watched(job.address(), &mut running, deadline)?;
        let cpu = running.process.cpu_now().since(cpu_before);
        running.process.terminate()?;
        let generator = Generator {
            cpu_s: fetched.cpu.as_secs_f64(),
            handshakes: fetched.handshakes,
            protocol_errors: fetched.unrequested,
            pipeline_depth_max: None,
        };
        let (seconds, peak) = (fetched.elapsed.as_secs_f64(), running.process.peak_memory());
        Ok(self.measured(seconds, cpu, peak, generator, fetched.round_trip))
    }

    /// Fetches everything in a thread, while this one watches the client and the clock.
    fn fetch_watched(
        &self,
        target: SocketAddrV4,
        running: &mut Running,
        deadline: Instant,
    ) -> Result<FetchReport, BenchError> {
        let plan = FetchPlan {
            payload: Arc::clone(&self.payload),
            target,
            connections: self.args.connections as usize,
            window: self.args.window as usize,
            threads: self.args.generator_threads as usize,
            cancel: Arc::new(AtomicBool::new(false)),
        };
        std::thread::scope(|scope| {
            let fetching = scope.spawn(|| fetch(&plan));
            let mut trouble = None;
            while !fetching.is_finished() {
                running.process.sample_memory();
                let checked =
                    running.check_alive().and_then(|()| self.check_time(deadline, "the last block", running));
                if let Err(error) = checked {
                    plan.cancel.store(true, Ordering::Relaxed);
                    trouble = Some(error);
                    break;
                }
                std::thread::sleep(WATCH_PAUSE * MEMORY_EVERY);
            }
            let fetched = fetching.join().expect("the leecher does not panic");
            trouble.map_or(fetched, Err)
        })
    }

    fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_secs(self.args.timeout_s)
    }

    fn check_time(&self, deadline: Instant, what: &'static str, running: &Running) -> Result<(), BenchError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(BenchError::Interrupted);
        }
        if Instant::now() > deadline {
            let (seconds, log) = (self.args.timeout_s, running.process.log_tail());
            return Err(BenchError::Timeout { seconds, what, log });
        }
        Ok(())
    }

    fn measured(
        &self,
        seconds: f64,
        cpu: Cpu,
        peak: PeakMemory,
        generator: Generator,
        latencies: crate::stats::Latencies,
    ) -> Measured {
        Measured::new(self.payload.total_len(), seconds, cpu, peak, generator, latencies)
    }
}

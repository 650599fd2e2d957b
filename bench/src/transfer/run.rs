//! One run: start a client, move the whole torrent, measure, check, clean up.
//!
//! The clock of a download runs from the first request at the synthetic seeder (transmission takes seconds from its
//! handshakes to that, which say nothing about its speed) to the client's own word that it is done; that of a seeding
//! run from the leecher's first dial to its last block, after the client has shown that it is ready. The client's CPU
//! time is counted from the same moment: to its end for a download (work left to do at the end is work all the same),
//! to the last block for a seeding run. On a disk a second clock runs until `syncfs` returns: some clients are done
//! when the page cache has everything, others when the disk has.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::WorkDir;
use super::plan::Group;
use super::report::{Generator, Measured, Raw};
use crate::clients::{Client, Direction, Job, Running};
use crate::error::BenchError;
use crate::generator::fetch::{FetchPlan, FetchReport, fetch};
use crate::generator::net::free_port;
use crate::generator::probe;
use crate::generator::serve::Seeder;
use crate::machine::busy_of_others;
use crate::payload::{FILE_NAME, Payload, Verify};
use crate::process::Cpu;

/// Pause between looks at a client that downloads: the error of a measured time.
const WATCH_PAUSE: Duration = Duration::from_millis(2);
/// Every how many looks its memory is read.
const MEMORY_EVERY: u32 = 10;
/// Pause between tries to reach a client that is getting ready to seed.
const READY_PAUSE: Duration = Duration::from_millis(50);

/// What all runs have in common.
pub(super) struct Runner {
    pub(super) generator_threads: usize,
    /// `None`: what each client asks for.
    pub(super) window: Option<u32>,
    pub(super) verify: Verify,
    pub(super) timeout: Duration,
    pub(super) piece_len: usize,
    /// Folders to work in; data to seed lies in the first.
    pub(super) places: Vec<Place>,
    /// Payloads by bytes.
    pub(super) loads: BTreeMap<u64, Load>,
    pub(super) stop: Arc<AtomicBool>,
}

/// A folder to work in.
pub(super) struct Place {
    pub(super) work: WorkDir,
    pub(super) file_system: String,
}

impl Place {
    /// Whether written data is to be made to outlast a power cut.
    pub(super) fn is_disk(&self) -> bool {
        self.file_system != "tmpfs"
    }

    /// Waits until all that was written to its file system is on the disk.
    fn sync(&self) -> Result<(), BenchError> {
        let folder = File::open(self.work.path()).map_err(BenchError::file("open", self.work.path()))?;
        rustix::fs::syncfs(&folder)
            .map_err(|error| BenchError::file("sync the file system of", self.work.path())(error.into()))
    }
}

/// A payload with what clients need of it.
pub(super) struct Load {
    payload: Arc<Payload>,
    torrent: PathBuf,
    /// Folder with the complete file.
    seed_dir: PathBuf,
}

/// A folder that is emptied when the run ends, however it ends.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // The work folder around it is removed at the end anyway; only memory is at stake here.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Runner {
    /// Makes the payload of `bytes`, its `.torrent` file and, `with_data`, the file to seed, unless they are there.
    pub(super) fn prepare(&mut self, bytes: u64, with_data: bool) -> Result<(), BenchError> {
        if !self.loads.contains_key(&bytes) {
            let payload = Arc::new(Payload::new(bytes, self.piece_len)?);
            let folder = self.places[0].work.path().join(format!("{}-mib", bytes >> 20));
            fs::create_dir(&folder).map_err(BenchError::file("create", &folder))?;
            let torrent = folder.join("ccbt-bench.torrent");
            fs::write(&torrent, payload.torrent_file()).map_err(BenchError::file("write", &torrent))?;
            self.loads.insert(bytes, Load { payload, torrent, seed_dir: folder.join("seed") });
        }
        let load = &self.loads[&bytes];
        if with_data && !load.seed_dir.exists() {
            fs::create_dir(&load.seed_dir).map_err(BenchError::file("create", &load.seed_dir))?;
            load.payload.write_file(&load.seed_dir.join(FILE_NAME))?;
        }
        Ok(())
    }

    /// Runs `client` once with a payload that was prepared.
    pub(super) fn run(&self, client: &dyn Client, group: Group, bytes: u64) -> Result<Measured, BenchError> {
        let scratch = Scratch(self.places[group.place].work.path().join("run"));
        fs::create_dir_all(&scratch.0).map_err(BenchError::file("create", &scratch.0))?;
        let port = free_port().map_err(BenchError::socket("find a free port"))?;
        let load = &self.loads[&bytes];
        match group.direction {
            Direction::Download => self.download(client, group, load, &scratch.0, port),
            Direction::Seed => self.seed(client, group, load, &scratch.0, port),
        }
    }

    fn download(
        &self,
        client: &dyn Client,
        group: Group,
        load: &Load,
        scratch: &Path,
        port: u16,
    ) -> Result<Measured, BenchError> {
        let place = &self.places[group.place];
        if place.is_disk() {
            // What an earlier run left to write is not this client's.
            place.sync()?;
        }
        let output = scratch.join("output");
        fs::create_dir(&output).map_err(BenchError::file("create", &output))?;
        let payload = Arc::clone(&load.payload);
        let seeder = Seeder::start(payload, group.connections as usize, self.generator_threads)?;
        let job = Job {
            direction: Direction::Download,
            torrent: &load.torrent,
            scratch,
            output: &output,
            port,
            peers: seeder.peers(),
        };
        let mut running = client.start(&job)?;
        if !client.dials() {
            seeder.dial(job.address());
        }
        let watched = self.watch_download(&seeder, &mut running)?;
        let mut durable_s = None;
        if place.is_disk() {
            place.sync()?;
            durable_s = Some(watched.started.elapsed().as_secs_f64());
        }
        let exit = running.process.terminate()?;
        let machine_cpu_s = (busy_of_others() - watched.busy_before).max(0.0);
        let served = seeder.stop()?;
        load.payload.verify_file(&output.join(FILE_NAME), self.verify)?;
        Ok(Measured::new(Raw {
            bytes: load.payload.total_len(),
            seconds: watched.seconds,
            durable_s,
            cpu: exit.cpu.since(watched.cpu_before),
            machine_cpu_s,
            peak: running.process.peak_memory(),
            generator: Generator {
                cpu_s: served.cpu.as_secs_f64(),
                handshakes: served.handshakes,
                protocol_errors: served.protocol_errors,
                pipeline_depth_max: Some(served.depth_max as u64),
            },
            latencies: served.inter_arrival,
        }))
    }

    /// Waits until the client is done by its own word.
    fn watch_download(&self, seeder: &Seeder, running: &mut Running) -> Result<Watched, BenchError> {
        let deadline = self.deadline();
        let mut before = None;
        for look in 0u32.. {
            if before.is_none()
                && let Some(started) = seeder.first_request()
            {
                before = Some((started, running.process.cpu_now(), busy_of_others()));
            }
            if look.is_multiple_of(MEMORY_EVERY) {
                running.process.sample_memory();
            }
            if running.is_done()? {
                let done = Instant::now();
                let (started, cpu_before, busy_before) = before.ok_or_else(|| {
                    BenchError::Client(
                        "the client says it is done, but never asked a peer for anything".into(),
                    )
                })?;
                let seconds = (done - started).as_secs_f64();
                return Ok(Watched { started, seconds, cpu_before, busy_before });
            }
            self.check_time(deadline, "the download", running)?;
            std::thread::sleep(WATCH_PAUSE);
        }
        unreachable!("2^32 looks take longer than any deadline")
    }

    fn seed(
        &self,
        client: &dyn Client,
        group: Group,
        load: &Load,
        scratch: &Path,
        port: u16,
    ) -> Result<Measured, BenchError> {
        let job = Job {
            direction: Direction::Seed,
            torrent: &load.torrent,
            scratch,
            output: &load.seed_dir,
            port,
            peers: &[],
        };
        let mut running = client.start(&job)?;
        let deadline = self.deadline();
        while !probe::is_ready(job.address(), &load.payload) {
            running.check_alive()?;
            self.check_time(deadline, "the client getting ready to seed", &running)?;
            std::thread::sleep(READY_PAUSE);
        }
        let plan = FetchPlan {
            payload: Arc::clone(&load.payload),
            target: job.address(),
            connections: group.connections as usize,
            window: self.window.unwrap_or_else(|| client.window(group.connections)) as usize,
            threads: self.generator_threads,
            cancel: Arc::new(AtomicBool::new(false)),
        };
        let (cpu_before, busy_before) = (running.process.cpu_now(), busy_of_others());
        let fetched = self.fetch_watched(&plan, &mut running, deadline)?;
        let cpu = running.process.cpu_now().since(cpu_before);
        let machine_cpu_s = (busy_of_others() - busy_before).max(0.0);
        running.process.terminate()?;
        Ok(Measured::new(Raw {
            bytes: load.payload.total_len(),
            seconds: fetched.elapsed.as_secs_f64(),
            durable_s: None,
            cpu,
            machine_cpu_s,
            peak: running.process.peak_memory(),
            generator: Generator {
                cpu_s: fetched.cpu.as_secs_f64(),
                handshakes: fetched.handshakes,
                protocol_errors: fetched.unrequested,
                pipeline_depth_max: None,
            },
            latencies: fetched.round_trip,
        }))
    }

    /// Fetches everything in a thread, while this one watches the client and the clock.
    fn fetch_watched(
        &self,
        plan: &FetchPlan,
        running: &mut Running,
        deadline: Instant,
    ) -> Result<FetchReport, BenchError> {
        std::thread::scope(|scope| {
            let fetching = scope.spawn(|| fetch(plan));
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
        Instant::now() + self.timeout
    }

    fn check_time(&self, deadline: Instant, what: &'static str, running: &Running) -> Result<(), BenchError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(BenchError::Interrupted);
        }
        if Instant::now() > deadline {
            let (seconds, log) = (self.timeout.as_secs(), running.process.log_tail());
            return Err(BenchError::Timeout { seconds, what, log });
        }
        Ok(())
    }
}

/// A download that has ended, and what had been used when it began.
struct Watched {
    started: Instant,
    seconds: f64,
    cpu_before: Cpu,
    busy_before: f64,
}

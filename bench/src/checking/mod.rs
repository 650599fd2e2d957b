//! `ccbt-bench verify` and `ccbt-bench create`: how fast programs check and make torrents, in one interleaved
//! run with what the machine could do at best.
//!
//! Role: options, data, the order of runs. The best is min(fio's sequential O_DIRECT read, cores × rate of the
//! hash kernel), both measured between the programs. Invariant: one program runs at a time, the order rotates
//! from round to round, every program reads the same file, and on a disk none finds it in the page cache.

mod kernel;
mod programs;
mod report;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::error::BenchError;
use crate::payload::{FILE_NAME, Payload};
use crate::transfer::WorkDir;
use programs::Program;
use report::{Report, Run};

/// Huge pages of 2 MiB that fio's buffers need.
const HUGE_PAGES: u32 = 64;

/// What the programs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Check a complete file against its torrent.
    Verify,
    /// Make a torrent of a file.
    Create,
}

/// Options of `ccbt-bench verify` and `create`.
#[derive(Debug, Clone, Args)]
pub struct HashingArgs {
    /// Programs to run [default: all that are installed]
    #[arg(long, value_delimiter = ',', value_enum)]
    programs: Vec<Program>,
    /// Size of the file in MiB
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    size_mib: u32,
    /// Piece length in KiB, a power of two from 16
    #[arg(long, default_value_t = 1024, value_parser = piece_kib)]
    piece_kib: u32,
    /// Measured runs of each program and place
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Threads of programs that can be told [default: one per CPU]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
    threads: Option<u8>,
    /// Folder in memory
    #[arg(long, default_value = "/dev/shm")]
    memory: PathBuf,
    /// Folder on a disk; measured too if given
    #[arg(long)]
    disk: Option<PathBuf>,
    /// Path of ccbt-fast [default: beside this program]
    #[arg(long)]
    ccbt: Option<PathBuf>,
    /// Seconds after which a run counts as failed
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    timeout_s: u64,
    /// Also write everything to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

fn piece_kib(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(kib) if kib.is_power_of_two() && (16..=65_536).contains(&kib) => Ok(kib),
        _ => Err("must be a power of two from 16 to 65536".into()),
    }
}

/// One run of a program.
struct Job<'a> {
    task: Task,
    ccbt: &'a Path,
    torrent: &'a Path,
    /// Folder that holds the file.
    folder: &'a Path,
    file: PathBuf,
    bytes: u64,
    /// The file lies in memory.
    is_memory: bool,
    /// For logs and what is made; in memory.
    scratch: &'a Path,
    piece_kib: u32,
    threads: usize,
    stop: &'a AtomicBool,
    deadline: Instant,
    timeout_s: u64,
}

/// A place where the file lies.
struct Place {
    name: &'static str,
    work: WorkDir,
    is_memory: bool,
}

/// Runs the comparison and prints the table; false if a run failed.
///
/// Errors: useless options, a folder that cannot be written, or an interruption (after printing what was done).
pub fn run(task: Task, args: &HashingArgs) -> Result<bool, BenchError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| BenchError::Usage(format!("cannot catch signals: {error}")))?;
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("ccbt-fast")));
    let ccbt = args.ccbt.clone().or(beside).unwrap_or_else(|| "ccbt-fast".into());
    let programs = choose(task, args, &ccbt)?;
    let payload = Payload::new(u64::from(args.size_mib) << 20, args.piece_kib as usize * 1024)?;
    let mut places = vec![Place { name: "memory", work: WorkDir::create(&args.memory)?, is_memory: true }];
    if let Some(disk) = &args.disk {
        places.push(Place { name: "disk", work: WorkDir::create(disk)?, is_memory: false });
    }
    let torrent = places[0].work.path().join("ccbt-bench.torrent");
    std::fs::write(&torrent, payload.torrent_file()).map_err(BenchError::file("write", &torrent))?;
    for place in &places {
        let file = place.work.path().join(FILE_NAME);
        payload.write_file(&file)?;
        let synced = File::open(&file).and_then(|file| file.sync_all());
        synced.map_err(BenchError::file("sync", &file))?;
    }
    let _huge = HugePages::reserve(HUGE_PAGES);
    let runs = measure(task, args, &ccbt, &programs, &places, &torrent, &stop);
    let versions = programs.iter().map(|(program, version)| (program.name(), version.clone())).collect();
    let report = Report::new(task, args, versions, runs);
    print!("{}", report.table());
    if let Some(path) = &args.json {
        std::fs::write(path, report.json()).map_err(BenchError::file("write", path))?;
    }
    if stop.load(Ordering::Relaxed) {
        return Err(BenchError::Interrupted);
    }
    Ok(report.all_succeeded())
}

fn choose(task: Task, args: &HashingArgs, ccbt: &Path) -> Result<Vec<(Program, String)>, BenchError> {
    use clap::ValueEnum;
    let mut chosen = Vec::new();
    for program in Program::value_variants().iter().filter(|program| program.does(task)) {
        let is_asked = args.programs.contains(program);
        if !is_asked && !args.programs.is_empty() {
            continue;
        }
        match program.version(ccbt) {
            Some(version) => chosen.push((*program, version)),
            None if is_asked => {
                let name = program.name();
                return Err(BenchError::Usage(format!("{name} is not installed; see bench/setup.sh")));
            }
            None => eprintln!("{}: not installed, left out", program.name()),
        }
    }
    Ok(chosen)
}

fn measure(
    task: Task,
    args: &HashingArgs,
    ccbt: &Path,
    programs: &[(Program, String)],
    places: &[Place],
    torrent: &Path,
    stop: &AtomicBool,
) -> Vec<Run> {
    let threads = args.threads.map_or_else(cpus, usize::from);
    let mut runs = Vec::new();
    for place in places {
        let folder = place.work.path();
        for round in 0..args.runs {
            runs.push(Run::kernel(place.name, round, kernel::rate(threads)));
            for nth in 0..programs.len() {
                if stop.load(Ordering::Relaxed) {
                    return runs;
                }
                let (program, _) = programs[(nth + round as usize) % programs.len()];
                let job = Job {
                    task,
                    ccbt,
                    torrent,
                    folder,
                    file: folder.join(FILE_NAME),
                    bytes: u64::from(args.size_mib) << 20,
                    is_memory: place.is_memory,
                    scratch: places[0].work.path(),
                    piece_kib: args.piece_kib,
                    threads,
                    stop,
                    deadline: Instant::now() + Duration::from_secs(args.timeout_s),
                    timeout_s: args.timeout_s,
                };
                if !place.is_memory {
                    forget(&job.file);
                }
                let outcome = program.run(&job);
                if matches!(outcome, Err(BenchError::Interrupted)) {
                    return runs;
                }
                let run = Run::new(place.name, program.name(), round, job.bytes, outcome);
                eprintln!("{}", run.line());
                runs.push(run);
            }
        }
    }
    runs
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Drops the file's pages from the page cache; it is synced, so none is dirty. That needs no privilege.
fn forget(file: &Path) {
    let dropped = File::open(file).and_then(|file| {
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).map_err(Into::into)
    });
    if let Err(error) = dropped {
        eprintln!("{}: still in the page cache: {error}", file.display());
    }
}

/// Huge pages reserved for fio, where that is permitted; without, fio says that it cannot have them.
struct HugePages {
    before: String,
}

const HUGE_PAGES_FILE: &str = "/proc/sys/vm/nr_hugepages";

impl HugePages {
    fn reserve(count: u32) -> Option<Self> {
        let before = std::fs::read_to_string(HUGE_PAGES_FILE).ok()?;
        let have: u32 = before.trim().parse().ok()?;
        std::fs::write(HUGE_PAGES_FILE, (have + count).to_string()).ok()?;
        Some(Self { before })
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(HUGE_PAGES_FILE, &self.before) {
            eprintln!("ccbt-bench: {HUGE_PAGES_FILE} cannot be set back: {error}");
        }
    }
}

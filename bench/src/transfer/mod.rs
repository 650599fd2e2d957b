//! `ccbt-bench transfer`: every client in turn, as downloader and as seeder, with medians over interleaved runs.
//!
//! Role: options, the order of runs, and the way from results to the report. One client runs at a time; the order
//! rotates from round to round, so that no client always follows the same other one.
//! Invariant: a run that fails is a row of the report; nothing is left behind, neither process nor file.

mod report;
mod run;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, ValueEnum};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::clients::{self, Client, Direction};
use crate::error::BenchError;
use crate::generator::net::MAX_PEERS;
use crate::payload::{FILE_NAME, Payload, Verify};
use report::{ClientInfo, Report, RunResult};
use run::Runner;

/// Which directions to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Clients download
    Download,
    /// Clients seed
    Seed,
    /// First all download, then all seed
    Both,
}

/// Options of `ccbt-bench transfer`.
#[derive(Debug, Clone, Args)]
pub struct TransferArgs {
    /// Clients to run: ccbt, libtorrent, aria2, transmission, rqbit [default: all that are installed]
    #[arg(long, value_delimiter = ',')]
    clients: Vec<String>,
    /// Size of the torrent in MiB
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    size_mib: u32,
    /// Synthetic peers, each with an address of its own
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=MAX_PEERS as i64))]
    connections: u32,
    /// Piece length in KiB, a multiple of 16
    #[arg(long, default_value_t = 1024)]
    piece_kib: u32,
    /// Measured runs of each client and mode
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Which way the clients move the data
    #[arg(long, value_enum, default_value_t = Mode::Both)]
    mode: Mode,
    /// Folder to work in; a sub-folder is made and removed
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// Path of ccbt-fast [default: beside this program]
    #[arg(long)]
    ccbt: Option<PathBuf>,
    /// Requests each leecher keeps outstanding
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    window: u32,
    /// Threads of the load generator
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    generator_threads: u32,
    /// How much of each download is hashed afterwards
    #[arg(long, value_enum, default_value_t = Verify::Sample)]
    verify: Verify,
    /// One more run of each client and mode before the measured ones, not counted
    #[arg(long)]
    warm_up: bool,
    /// Seconds after which a run counts as failed
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    timeout_s: u64,
    /// Also write everything to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Runs the whole comparison and prints the table; false if a run failed or an asked-for client is missing.
///
/// Errors: useless options, a work folder that cannot be written, or an interruption (after printing what was done).
pub fn run(args: &TransferArgs) -> Result<bool, BenchError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| BenchError::Usage(format!("cannot catch signals: {error}")))?;
    }
    let (clients, missing) = choose(args)?;
    let payload = Arc::new(Payload::new(u64::from(args.size_mib) << 20, args.piece_kib as usize * 1024)?);
    let work = WorkDir::create(&args.dir)?;
    let torrent = work.0.join("ccbt-bench.torrent");
    std::fs::write(&torrent, payload.torrent_file()).map_err(BenchError::file("write", &torrent))?;
    let seed_dir = work.0.join("seed");
    if args.mode != Mode::Download {
        std::fs::create_dir(&seed_dir).map_err(BenchError::file("create", &seed_dir))?;
        payload.write_file(&seed_dir.join(FILE_NAME))?;
    }
    let runner = Runner { args, payload, work: work.0.clone(), torrent, seed_dir, stop: Arc::clone(&stop) };
    let results = run_all(&runner, &clients);
    let info = clients.iter().map(|(client, version)| ClientInfo::new(client.name(), version)).collect();
    let report = Report::new(args, info, missing, results);
    print!("{}", report.table());
    if let Some(path) = &args.json {
        std::fs::write(path, report.json()).map_err(BenchError::file("write", path))?;
    }
    if stop.load(Ordering::Relaxed) {
        return Err(BenchError::Interrupted);
    }
    Ok(report.all_succeeded())
}

type Chosen = Vec<(Box<dyn Client>, String)>;

/// The clients to run with their versions, and the names of those asked for but not installed.
fn choose(args: &TransferArgs) -> Result<(Chosen, Vec<String>), BenchError> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("ccbt-fast")));
    let ccbt = args.ccbt.clone().or(beside).unwrap_or_else(|| "ccbt-fast".into());
    let all = clients::all(&ccbt);
    let known: Vec<_> = all.iter().map(|client| client.name()).collect();
    if let Some(unknown) = args.clients.iter().find(|name| !known.contains(&name.as_str())) {
        let known = known.join(", ");
        return Err(BenchError::Usage(format!("--clients: {unknown:?} is none of {known}")));
    }
    let (mut chosen, mut missing) = (Vec::new(), Vec::new());
    for client in all {
        let asked = args.clients.iter().any(|name| name == client.name());
        if !asked && !args.clients.is_empty() {
            continue;
        }
        match client.version() {
            Some(version) => chosen.push((client, version)),
            None if asked => missing.push(client.name().to_owned()),
            None => eprintln!("{}: not installed, left out", client.name()),
        }
    }
    if chosen.is_empty() {
        return Err(BenchError::Usage(
            "no client is installed; bench/setup.sh installs the free ones".into(),
        ));
    }
    Ok((chosen, missing))
}

fn run_all(runner: &Runner<'_>, clients: &Chosen) -> Vec<RunResult> {
    let args = runner.args;
    let directions: &[Direction] = match args.mode {
        Mode::Download => &[Direction::Download],
        Mode::Seed => &[Direction::Seed],
        Mode::Both => &[Direction::Download, Direction::Seed],
    };
    let mut results = Vec::new();
    let warm_ups = u32::from(args.warm_up);
    for &direction in directions {
        for round in 0..args.runs + warm_ups {
            for nth in 0..clients.len() {
                if runner.stop.load(Ordering::Relaxed) {
                    return results;
                }
                let (client, _) = &clients[(nth + round as usize) % clients.len()];
                let outcome = runner.run(client.as_ref(), direction);
                if matches!(outcome, Err(BenchError::Interrupted)) {
                    return results;
                }
                let result = RunResult::new(client.name(), direction, round, outcome);
                eprintln!("{}", result.line());
                // A failed warm-up is not a measurement, and the run after it will tell.
                if round >= warm_ups {
                    results.push(result);
                }
            }
        }
    }
    results
}

/// A folder of our own that is removed with everything in it.
pub(crate) struct WorkDir(PathBuf);

impl WorkDir {
    /// Makes it below `parent`.
    pub(crate) fn create(parent: &Path) -> Result<Self, BenchError> {
        let path = parent.join(format!("ccbt-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(BenchError::file("create", &path))?;
        // Clients get absolute paths: some change their working directory.
        Ok(Self(path.canonicalize().map_err(BenchError::file("resolve", &path))?))
    }

    /// Its absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("ccbt-bench: cannot remove {}: {error}", self.0.display());
        }
    }
}

//! `ccbt-bench transfer`: every client as downloader and as seeder, with several numbers of connections, in one
//! interleaved run with medians.
//!
//! Role: options and the way from them to the report; `plan` says which runs there are, `matrix` does them.
//! Invariant: one client runs at a time; a run that fails is a row of the report; nothing is left behind, neither process
//! nor file.

mod charts;
mod matrix;
mod page;
mod plan;
mod publish;
mod report;
mod run;
mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::clients::{self, Client};
use crate::error::BenchError;
use crate::generator::net::MAX_PEERS;
use crate::machine::{Machine, file_system, today};
use crate::payload::Verify;
use matrix::Matrix;
use report::{ClientInfo, Report, Setting};
use run::{Place, Runner};

pub use publish::{ReportArgs, run as report};

/// Which directions to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Clients download
    Download,
    /// Clients seed
    Seed,
    /// Both
    Both,
}

/// Options of `ccbt-bench transfer`.
#[derive(Debug, Clone, Args)]
pub struct TransferArgs {
    /// Clients to run: ccbt, libtorrent, aria2, transmission, rqbit [default: all that are installed]
    #[arg(long, value_delimiter = ',')]
    clients: Vec<String>,
    /// Check of a minute for regressions: ccbt only, 512 MiB (compare its --json with that of an earlier build)
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Better figures: 2 GiB, 5 runs, 19 minutes
    #[arg(long)]
    full: bool,
    /// Largest payload in MiB; groups too slow for the budget get a half, a quarter … of it [default: 1024]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    size_mib: Option<u32>,
    /// Numbers of synthetic peers, each with an address of its own
    #[arg(long, value_delimiter = ',', default_values_t = [1, 20, 200],
        value_parser = clap::value_parser!(u32).range(1..=MAX_PEERS as i64))]
    connections: Vec<u32>,
    /// Piece length in KiB, a multiple of 16
    #[arg(long, default_value_t = 1024)]
    piece_kib: u32,
    /// Measured runs of each client, mode and number of connections [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// Seconds that everything may take together [default: 320]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    budget_s: Option<u64>,
    /// Which way the clients move the data
    #[arg(long, value_enum, default_value_t = Mode::Both)]
    mode: Mode,
    /// Folder to work in; a sub-folder is made and removed. The default is in memory
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// Download to this folder as well, with the middle number of connections
    #[arg(long)]
    disk: Option<PathBuf>,
    /// Path of ccbt-fast [default: beside this program]
    #[arg(long)]
    ccbt: Option<PathBuf>,
    /// Requests each leecher keeps outstanding [default: 64; for transmission up to 500]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    window: Option<u32>,
    /// Threads of the load generator
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    generator_threads: u32,
    /// How much of each download is hashed afterwards
    #[arg(long, value_enum, default_value_t = Verify::Sample)]
    verify: Verify,
    /// Seconds after which a run counts as failed
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    timeout_s: u64,
    /// Also write everything to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write transfer.json, transfer.md and its charts to this folder
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Put the headline between the marks in this file
    #[arg(long, value_name = "FILE", requires = "report")]
    readme: Option<PathBuf>,
}

/// How much is measured.
struct Scale {
    size_mib: u32,
    runs: u32,
    budget: Duration,
}

impl TransferArgs {
    /// What was asked for, else what `--quick` or `--full` stands for, else the default.
    fn scale(&self) -> Scale {
        let (size_mib, runs, budget_s) = match (self.quick, self.full) {
            (true, _) => (512, 3, 50),
            (_, true) => (2048, 5, 1_140),
            _ => (1024, 3, 320),
        };
        Scale {
            size_mib: self.size_mib.unwrap_or(size_mib),
            runs: self.runs.unwrap_or(runs),
            budget: Duration::from_secs(self.budget_s.unwrap_or(budget_s)),
        }
    }

    fn distinct_connections(&self) -> Vec<u32> {
        let mut all = self.connections.clone();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Runs the whole comparison and prints the table; false if a run failed or an asked-for client is missing.
///
/// Errors: useless options, a work folder that cannot be written, or an interruption (after printing what was done).
pub fn run(args: &TransferArgs) -> Result<bool, BenchError> {
    let started = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| BenchError::Usage(format!("cannot catch signals: {error}")))?;
    }
    if args.disk.as_ref() == Some(&args.dir) {
        return Err(BenchError::Usage("--disk must be another folder than --dir".into()));
    }
    let scale = args.scale();
    let (clients, missing) = choose(args)?;
    let connections = args.distinct_connections();
    let place = |dir: &PathBuf| -> Result<Place, BenchError> {
        let work = WorkDir::create(dir)?;
        let file_system = file_system(work.path());
        Ok(Place { work, file_system })
    };
    let places: Vec<Place> =
        [&args.dir].into_iter().chain(&args.disk).map(place).collect::<Result<_, _>>()?;
    if let [first, other] = &places[..]
        && first.file_system == other.file_system
    {
        let what =
            format!("--disk and --dir are both {}: their rows would have the same name", first.file_system);
        return Err(BenchError::Usage(what));
    }
    let groups = plan::groups(args.mode, &connections, places.len());
    let runner = Runner {
        generator_threads: args.generator_threads as usize,
        window: args.window,
        verify: args.verify,
        timeout: Duration::from_secs(args.timeout_s),
        piece_len: args.piece_kib as usize * 1024,
        places,
        loads: Default::default(),
        stop: Arc::clone(&stop),
    };
    let info = clients.iter().map(|(client, version)| ClientInfo {
        name: client.name().to_owned(),
        version: version.clone(),
        settings: client.settings().to_owned(),
    });
    let info = info.collect();
    let largest = u64::from(scale.size_mib) << 20;
    let mut matrix =
        Matrix { runner, clients, groups, largest, runs: scale.runs, budget: scale.budget, started };
    let results = matrix.measure()?;
    let setting = Setting {
        date: today(),
        size_mib: scale.size_mib,
        connections,
        piece_kib: args.piece_kib,
        runs: scale.runs,
        generator_threads: args.generator_threads,
        elapsed_s: started.elapsed().as_secs_f64(),
        machine: Machine::this(),
    };
    let report = Report::new(setting, info, missing, &matrix.tasks(), results);
    print!("{}", table::table(&report));
    if stop.load(Ordering::Relaxed) {
        return Err(BenchError::Interrupted);
    }
    if let Some(path) = &args.json {
        std::fs::write(path, report.json()).map_err(BenchError::file("write", path))?;
    }
    if let Some(folder) = &args.report {
        publish::write(&report, folder, args.readme.as_deref())?;
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
        let wanted = args.clients.is_empty() && (!args.quick || client.name() == "ccbt");
        if !asked && !wanted {
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: TransferArgs,
    }

    fn args(text: &str) -> TransferArgs {
        Cli::parse_from(std::iter::once("x").chain(text.split_ascii_whitespace())).args
    }

    #[test]
    fn presets_give_way_to_what_is_asked_for() {
        let full = args("--full --runs 7").scale();
        assert_eq!((full.size_mib, full.runs, full.budget.as_secs()), (2048, 7, 1_140));
        let quick = args("--quick --size-mib 64").scale();
        assert_eq!((quick.size_mib, quick.runs, quick.budget.as_secs()), (64, 3, 50));
        assert_eq!(args("").scale().size_mib, 1024);
        assert!(Cli::try_parse_from(["x", "--quick", "--full"]).is_err());
        assert!(Cli::try_parse_from(["x", "--readme", "README.md"]).is_err(), "of which report?");
    }

    #[test]
    fn connections_are_sorted_and_distinct() {
        assert_eq!(args("").distinct_connections(), [1, 20, 200]);
        assert_eq!(args("--connections 20,5,20").distinct_connections(), [5, 20]);
        assert!(Cli::try_parse_from(["x", "--connections", "0"]).is_err());
    }
}

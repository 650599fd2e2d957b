//! `ccbt-bench shards`: one hot torrent on 1, 2, 4 … shards.
//!
//! Role: what a GiB costs each thread, how evenly the shards share it, what they say to each other for it. Where there
//! are fewer cores than threads, rates say nothing: from the CPU time of each thread follows what the threads could do
//! with a core each (a model, and so called), and with `--quota-percent` every shard gets a slow core of its own, so that
//! rates are measured. Invariant: numbers of shards take turns within a round; a run that fails is named and counted.

mod quota;
mod report;
mod run;
mod threads;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::clients::Direction;
use crate::error::BenchError;
use crate::generator::net::MAX_PEERS;
use crate::payload::{FILE_NAME, Payload};
use crate::transfer::{Mode, WorkDir};
pub(crate) use report::Figures;
use report::{Report, Row};
use run::Runner;

/// Options of `ccbt-bench shards`.
#[derive(Debug, Clone, Args)]
pub struct ShardsArgs {
    /// Numbers of shards
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16,64",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    shards: Vec<u32>,
    /// Size of the torrent in MiB
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    size_mib: u32,
    /// Synthetic peers, each with an address of its own
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=MAX_PEERS as i64))]
    connections: u32,
    /// Piece length in KiB, a multiple of 16
    #[arg(long, default_value_t = 256)]
    piece_kib: u32,
    /// Memory for pieces of all shards together
    #[arg(long, default_value_t = 1024)]
    memory_mib: u32,
    /// Measured runs of each number of shards and mode
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Which way the data moves
    #[arg(long, value_enum, default_value_t = Mode::Both)]
    mode: Mode,
    /// Downloads too are from peers that connect to us
    #[arg(long)]
    incoming: bool,
    /// Every shard gets so much of a core, by a control group: then rates can be compared (as root)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    quota_percent: Option<u32>,
    /// Requests each leecher keeps outstanding
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    window: u32,
    /// Folder to work in; a sub-folder is made and removed
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
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

/// Runs all numbers of shards and prints the table; false if a run failed.
///
/// Errors: useless options, a work folder that cannot be written, or an interruption (after printing what was done).
pub fn run(args: &ShardsArgs) -> Result<bool, BenchError> {
    let stop = catch_signals()?;
    let work = WorkDir::create(&args.dir)?;
    let runner = prepare(args, &work, Arc::clone(&stop))?;
    let (rows, failed) = run_all(&runner);
    let report = Report::new(args, rows, failed);
    print!("{}", report.table());
    if let Some(path) = &args.json {
        std::fs::write(path, report.json()).map_err(BenchError::file("write", path))?;
    }
    if stop.load(Ordering::Relaxed) {
        return Err(BenchError::Interrupted);
    }
    Ok(failed == 0)
}

/// Set by SIGINT and SIGTERM.
fn catch_signals() -> Result<Arc<AtomicBool>, BenchError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| BenchError::Usage(format!("cannot catch signals: {error}")))?;
    }
    Ok(stop)
}

/// Payload, torrent and what is seeded, in `work`.
fn prepare<'a>(
    args: &'a ShardsArgs,
    work: &WorkDir,
    stop: Arc<AtomicBool>,
) -> Result<Runner<'a>, BenchError> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("ccbt-fast")));
    let program = args.ccbt.clone().or(beside).unwrap_or_else(|| "ccbt-fast".into());
    let payload = Arc::new(Payload::new(u64::from(args.size_mib) << 20, args.piece_kib as usize * 1024)?);
    let torrent = work.path().join("ccbt-bench.torrent");
    std::fs::write(&torrent, payload.torrent_file()).map_err(BenchError::file("write", &torrent))?;
    let seed_dir = work.path().join("seed");
    if args.mode != Mode::Download {
        std::fs::create_dir(&seed_dir).map_err(BenchError::file("create", &seed_dir))?;
        payload.write_file(&seed_dir.join(FILE_NAME))?;
    }
    Ok(Runner { args, program, payload, work: work.path().to_owned(), torrent, seed_dir, stop })
}

/// One run with 20 connections in `dir`, for `ccbt-bench box`.
pub(crate) fn once(
    direction: Direction,
    shards: u32,
    size_mib: u32,
    dir: &Path,
    ccbt: Option<&Path>,
) -> Result<Figures, BenchError> {
    let args = ShardsArgs {
        shards: vec![shards],
        size_mib,
        connections: 20,
        piece_kib: 1024,
        memory_mib: 256,
        runs: 1,
        mode: if direction == Direction::Seed { Mode::Seed } else { Mode::Download },
        incoming: false,
        quota_percent: None,
        window: 64,
        dir: dir.to_owned(),
        ccbt: ccbt.map(Path::to_owned),
        timeout_s: 120,
        json: None,
    };
    let work = WorkDir::create(dir)?;
    let runner = prepare(&args, &work, catch_signals()?)?;
    Ok(Row::new(direction, shards, &args, runner.run(direction, shards)?).figures)
}

/// All runs, and how many failed.
fn run_all(runner: &Runner<'_>) -> (Vec<Row>, u32) {
    let args = runner.args;
    let directions: &[Direction] = match args.mode {
        Mode::Download => &[Direction::Download],
        Mode::Seed => &[Direction::Seed],
        Mode::Both => &[Direction::Download, Direction::Seed],
    };
    let (mut rows, mut failed) = (Vec::new(), 0);
    for &direction in directions {
        for round in 0..args.runs as usize {
            for nth in 0..args.shards.len() {
                let shards = args.shards[(nth + round) % args.shards.len()];
                if runner.stop.load(Ordering::Relaxed) {
                    return (rows, failed);
                }
                match runner.run(direction, shards) {
                    Ok(measured) => {
                        let row = Row::new(direction, shards, args, measured);
                        eprintln!("{}", row.line());
                        rows.push(row);
                    }
                    Err(error) => {
                        eprintln!("{direction:?} with {shards} shards FAILED: {error}");
                        failed += 1;
                    }
                }
            }
        }
    }
    (rows, failed)
}

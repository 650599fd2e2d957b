//! `ccbt-bench limits`: sets rate limits and measures what they come to.
//!
//! Role: options, the order of runs, and the verdict. For each direction, number of shards and number of peers an
//! unlimited run tells what the machine can do; limits above 90 % of that are not judged. Invariant: one client runs
//! at a time; nothing is left behind, neither process nor file.

mod report;
mod run;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::clients::Direction;
use crate::error::BenchError;
use crate::generator::net::MAX_PEERS;
use crate::transfer::{Mode, WorkDir};
use report::{Report, Row};
use run::{Load, Setting};

/// From 64 KiB/s to 2 GB/s.
const RATES_KIB: &str = "64,1024,16384,131072,524288,976563,1953125";

/// Options of `ccbt-bench limits`.
#[derive(Debug, Clone, Args)]
pub struct LimitsArgs {
    /// Limits, KiB/s
    #[arg(long, value_delimiter = ',', default_value = RATES_KIB, value_parser = clap::value_parser!(u64).range(1..))]
    rates_kib: Vec<u64>,
    /// Numbers of shards
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    shards: Vec<u16>,
    /// Numbers of synthetic peers, each with an address of its own
    #[arg(long, value_delimiter = ',', default_value = "1,50", value_parser = peer_count())]
    peers: Vec<u32>,
    /// Which way the data goes
    #[arg(long, value_enum, default_value_t = Mode::Both)]
    mode: Mode,
    /// Seconds of each measurement; four times as long below 1 MiB/s, shorter where it would move more than --size-mib
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Most MiB that a run moves; they lie in the work folder
    #[arg(long, default_value_t = 6144, value_parser = clap::value_parser!(u32).range(64..))]
    size_mib: u32,
    /// Deviation in percent that is good enough
    #[arg(long, default_value_t = 2.0)]
    tolerance: f64,
    /// Folder to work in; a sub-folder is made and removed
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// Path of ccbt-fast [default: beside this program]
    #[arg(long)]
    ccbt: Option<PathBuf>,
    /// Also write everything to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

fn peer_count() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=MAX_PEERS as i64)
}

/// Measures and prints; false if a limit that the machine can reach is missed by more than the tolerance.
///
/// Errors: useless options, a work folder that cannot be written, a client that fails, or an interruption.
pub fn run(args: &LimitsArgs) -> Result<bool, BenchError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| BenchError::Usage(format!("cannot catch signals: {error}")))?;
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("ccbt-fast")));
    let program = args.ccbt.clone().or(beside).unwrap_or_else(|| "ccbt-fast".into());
    let work = WorkDir::create(&args.dir)?;
    let directions: &[Direction] = match args.mode {
        Mode::Download => &[Direction::Download],
        Mode::Seed => &[Direction::Seed],
        Mode::Both => &[Direction::Download, Direction::Seed],
    };
    let mut report = Report::new(args.tolerance);
    // Unlimited first: it tells what can be reached.
    for rate in std::iter::once(0).chain(args.rates_kib.iter().map(|kib| kib << 10)) {
        let setting = Setting::of(rate, args.seconds, u64::from(args.size_mib) << 20);
        let load = Load::new(&program, work.path(), setting, Arc::clone(&stop))?;
        for &direction in directions {
            let _data = load.prepare(direction)?;
            for (shards, peers) in args.shards.iter().flat_map(|s| args.peers.iter().map(move |p| (*s, *p))) {
                let measured = load.run(direction, shards, peers)?;
                let row = Row::new(direction, shards, peers, rate, measured);
                report.add(row);
                if stop.load(Ordering::Relaxed) {
                    return Err(BenchError::Interrupted);
                }
            }
        }
    }
    print!("{}", report.table());
    if let Some(path) = &args.json {
        std::fs::write(path, report.json()).map_err(BenchError::file("write", path))?;
    }
    Ok(report.all_within())
}

//! `ccbt-bench storage`: the storage service against fio on the same file system.
//!
//! Role: writes fresh files and reads them back, past the page cache, once through
//! [`ccbt_storage::StorageService`] and once with fio (io_uring engine, same block size, same number under way),
//! turn by turn, and reports medians. Every measurement is a process of its own ([`child`] for the service), so
//! that CPU time and memory are those of that measurement. Nothing is synced within the measured time, by
//! neither; blocks are reserved before it starts.

pub mod child;
mod fio;
mod report;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::process::Process;

/// A measurement that takes longer is given up.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Options of `ccbt-bench storage`.
#[derive(Args, Debug, Clone)]
pub struct StorageArgs {
    /// Folder on the file system to measure; needs room for one file of --size-mib
    #[arg(long)]
    pub dir: PathBuf,
    /// Bytes moved per measurement
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(64..))]
    pub size_mib: u32,
    /// Piece lengths, which are fio's block sizes
    #[arg(long, value_delimiter = ',', default_values_t = [256, 1024, 4096, 16384])]
    pub pieces_kib: Vec<u32>,
    /// How files get their blocks
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Alloc::Full, Alloc::Sparse])]
    pub alloc: Vec<Alloc>,
    /// In which order pieces come
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Order::Rising])]
    pub order: Vec<Order>,
    /// Rounds; the order within a round alternates
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Memory for pieces under way: as many as fit, 4 at least and 64 at most
    #[arg(long, default_value_t = 64)]
    pub window_mib: u32,
    /// Leave the service this queue depth instead of letting it find one
    #[arg(long)]
    pub queue_depth: Option<u32>,
    /// Leave the service this operation length instead of letting it find one
    #[arg(long)]
    pub write_kib: Option<u32>,
    /// Write the results to this file
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// How a file gets its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Alloc {
    /// Reserved first (`fallocate`).
    Full,
    /// The length is set, blocks come with the writes.
    Sparse,
}

/// In which order the pieces of a file are written and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// From the first to the last.
    Rising,
    /// Any, as rarest-first makes it: each once.
    Random,
}

/// What was measured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Tool {
    Service,
    Fio,
}

/// One combination of block size and allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Case {
    piece_kib: u32,
    alloc: Alloc,
    order: Order,
    /// Pieces under way.
    window: u32,
}

/// One direction of one measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Way {
    /// Duration.
    pub seconds: f64,
    /// CPU time of the process, user and system, workers of the kernel included.
    pub cpu_s: f64,
    /// Per piece, from handing over to answer (fio: completion latency), microseconds.
    pub p50_us: u64,
    /// As above.
    pub p99_us: u64,
    /// As above.
    pub p999_us: u64,
}

/// What the service told about itself after a measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Seen {
    /// Queue depth at the end.
    pub depth: u32,
    /// Operation length at the end.
    pub batch_kib: u32,
    /// Operations a kernel worker did.
    pub punts: u64,
    /// Operations of both directions.
    pub operations: u64,
    /// System calls of its ring.
    pub enters: u64,
    /// Share of the bytes that went through the page cache.
    pub buffered_share: f64,
    /// Seconds of the sync after the writes.
    pub sync_s: f64,
}

/// Both directions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    /// Writing the file.
    pub write: Way,
    /// Reading it back.
    pub read: Way,
    /// Peak resident memory, MiB; 0 = not seen (a child fills it in for its parent).
    pub peak_rss_mib: f64,
    /// The service's own view.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
}

/// Runs everything; whether all measurements succeeded.
pub fn run(args: &StorageArgs) -> Result<bool, BenchError> {
    let fio = fio::version();
    if fio.is_none() {
        eprintln!("fio is not installed: measuring without it");
    }
    let mut runs = Vec::new();
    for round in 0..args.runs {
        for case in cases(args) {
            let mut tools = vec![Tool::Service];
            tools.extend(fio.is_some().then_some(Tool::Fio));
            if round % 2 == 1 {
                tools.reverse();
            }
            for tool in tools {
                let outcome = match tool {
                    Tool::Service => service(args, case),
                    Tool::Fio => fio::measure(args, case),
                };
                let run = report::Run::new(tool, case, round, outcome);
                println!("{}", run.line());
                runs.push(run);
            }
        }
    }
    let report = report::Report::new(args, fio, runs);
    print!("{}", report.table());
    if let Some(path) = &args.json {
        std::fs::write(path, report.json()).map_err(BenchError::file("write", path))?;
    }
    Ok(report.all_succeeded())
}

/// One measurement of the service in `dir`: a file with reserved blocks, pieces in order.
pub fn measure(
    dir: &Path,
    size_mib: u32,
    piece_kib: u32,
    depth: Option<u32>,
) -> Result<Measured, BenchError> {
    let args = StorageArgs {
        dir: dir.to_owned(),
        size_mib,
        pieces_kib: vec![piece_kib],
        alloc: vec![Alloc::Full],
        order: vec![Order::Rising],
        runs: 1,
        window_mib: 64,
        queue_depth: depth,
        write_kib: None,
        json: None,
    };
    service(&args, cases(&args)[0])
}

fn cases(args: &StorageArgs) -> Vec<Case> {
    let mut cases = Vec::new();
    for &piece_kib in &args.pieces_kib {
        let window = (args.window_mib.saturating_mul(1024) / piece_kib.max(1)).clamp(4, 64);
        for &alloc in &args.alloc {
            cases.extend(args.order.iter().map(|&order| Case { piece_kib, alloc, order, window }));
        }
    }
    cases
}

/// A choice as the command line has it.
fn name(choice: impl ValueEnum) -> String {
    choice.to_possible_value().expect("none is skipped").get_name().to_owned()
}

/// One measurement of the service, in a process of its own.
fn service(args: &StorageArgs, case: Case) -> Result<Measured, BenchError> {
    let program = std::env::current_exe().map_err(BenchError::file("find", Path::new("ccbt-bench")))?;
    let mut command = Command::new(program);
    command.arg("storage-child").arg("--dir").arg(&args.dir);
    let mut option = |name: &str, value: String| {
        command.args([name, &value]);
    };
    option("--size-mib", args.size_mib.to_string());
    option("--piece-kib", case.piece_kib.to_string());
    option("--window", case.window.to_string());
    option("--alloc", name(case.alloc));
    option("--order", name(case.order));
    if let Some(depth) = args.queue_depth {
        option("--queue-depth", depth.to_string());
    }
    if let Some(kib) = args.write_kib {
        option("--write-kib", kib.to_string());
    }
    let (text, peak_rss_mib) = output(&mut command, &args.dir)?;
    let line = text.lines().last().unwrap_or_default();
    let parsed: Result<Measured, _> = serde_json::from_str(line);
    match parsed {
        Ok(measured) => Ok(Measured { peak_rss_mib, ..measured }),
        Err(error) => Err(BenchError::Client(format!("storage-child: {error}: {text}"))),
    }
}

/// Runs a command to its end; its output and its peak memory in MiB.
fn output(command: &mut Command, dir: &Path) -> Result<(String, f64), BenchError> {
    let log = dir.join("ccbt-bench-storage.log");
    let mut process = Process::spawn(command, &log)?;
    let start = Instant::now();
    let exit = loop {
        process.sample_memory();
        if let Some(exit) = process.try_wait() {
            break exit;
        }
        if start.elapsed() > TIMEOUT {
            let (seconds, log) = (TIMEOUT.as_secs(), process.log_tail());
            return Err(BenchError::Timeout { seconds, what: "the measurement to end", log });
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = process.log_text();
    let _ = std::fs::remove_file(&log);
    if !exit.status.success() {
        return Err(BenchError::Client(format!("{}{}", exit.status, process.log_tail())));
    }
    Ok((text, process.peak_memory().rss_kib as f64 / 1024.0))
}

//! `ccbt-bench floor`: what a GiB costs a program that does nothing but move it.
//!
//! Role: one thread, plain system calls, no protocol: the least that a client of this machine pays, to hold the figures of
//! `transfer` against. Each measurement is a process of its own ([`child`]); the other end of its connections is this one
//! ([`far`]). Invariant: nothing is left behind, neither process nor file.

pub mod child;
mod far;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::error::BenchError;
use crate::generator::net::MAX_PEERS;
use crate::machine::Machine;
use crate::process::Process;
use crate::stats::median;
use crate::transfer::WorkDir;

/// A measurement takes no longer, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);

/// Options of `ccbt-bench floor`.
#[derive(Debug, Clone, Args)]
pub struct FloorArgs {
    /// Numbers of connections
    #[arg(long, value_delimiter = ',', default_value = "1,20,200", value_parser = counts())]
    connections: Vec<u32>,
    /// MiB of each measurement
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    size_mib: u32,
    /// Measurements of each kind; they take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Folder of the file that is written and read; a sub-folder is made and removed
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// Also write everything to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

fn counts() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=MAX_PEERS as i64)
}

/// What the process does with each byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Takes it out of the socket.
    Receive,
    /// The same, and writes it to a file, a MiB at a time.
    Write,
    /// The same, and hashes (SHA-1) sixteen MiB at once before they are written.
    Download,
    /// Reads it from a file and sends it, 256 KiB at a time.
    Seed,
}

impl Task {
    const ALL: [Self; 4] = [Self::Receive, Self::Write, Self::Download, Self::Seed];

    fn label(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Write => "receive, write",
            Self::Download => "receive, hash, write",
            Self::Seed => "read, send",
        }
    }
}

/// Medians of one task with one number of connections.
#[derive(Debug, Serialize)]
struct Row {
    task: Task,
    connections: u32,
    cpu_s_per_gib: f64,
    mb_per_s: f64,
    runs: usize,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    size_mib: u32,
    rows: Vec<Row>,
}

/// Measures and prints; always true.
///
/// Errors: a folder that cannot be written, a socket that fails, or a process that does not end.
pub fn run(args: &FloorArgs) -> Result<bool, BenchError> {
    let work = WorkDir::create(&args.dir)?;
    let mut measured: BTreeMap<(Task, u32), Vec<(f64, f64)>> = BTreeMap::new();
    for _ in 0..args.runs {
        for connections in &args.connections {
            for task in Task::ALL {
                let one = measure(args, &work, task, *connections)?;
                measured.entry((task, *connections)).or_default().push(one);
            }
        }
    }
    let rows = measured.into_iter().map(|((task, connections), runs)| {
        let column =
            |of: fn(&(f64, f64)) -> f64| median(&runs.iter().map(of).collect::<Vec<_>>()).unwrap_or(f64::NAN);
        let (cpu_s_per_gib, mb_per_s) = (column(|run| run.0), column(|run| run.1));
        Row { task, connections, cpu_s_per_gib, mb_per_s, runs: runs.len() }
    });
    let report = Report { machine: Machine::this(), size_mib: args.size_mib, rows: rows.collect() };
    print!("{}", table(&report));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report).expect("plain numbers");
        std::fs::write(path, text + "\n").map_err(BenchError::file("write", path))?;
    }
    Ok(true)
}

/// One process: CPU seconds per GiB of its whole life, and MB/s.
fn measure(args: &FloorArgs, work: &WorkDir, task: Task, connections: u32) -> Result<(f64, f64), BenchError> {
    // Whole MiB for each connection.
    let each_mib = args.size_mib.div_ceil(connections);
    let bytes = f64::from(each_mib * connections) * f64::from(1 << 20);
    let file = work.path().join("floor");
    if task == Task::Seed {
        child::fill(&file, u64::from(each_mib * connections)).map_err(BenchError::file("write", &file))?;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(BenchError::socket("listen"))?;
    let port = listener.local_addr().map_err(BenchError::socket("listen"))?.port();
    let program = std::env::current_exe().map_err(BenchError::file("find", "this program".as_ref()))?;
    let mut command = Command::new(program);
    command.arg("floor-child").arg(task.to_possible_value().expect("no variant is skipped").get_name());
    command
        .args([port, connections as u16].map(|number| number.to_string()))
        .arg(each_mib.to_string())
        .arg(&file);
    let mut process = Process::spawn(&mut command, &work.path().join("log"))?;
    let sockets = far::accept(&listener, connections).map_err(BenchError::socket("accept"))?;
    let start = Instant::now();
    let moved =
        if task == Task::Seed { far::drain(sockets) } else { far::feed(sockets, u64::from(each_mib) << 20) };
    moved.map_err(BenchError::socket("move bytes"))?;
    let exit = loop {
        if let Some(exit) = process.try_wait() {
            break exit;
        }
        if start.elapsed() > PATIENCE {
            let log = process.log_tail();
            return Err(BenchError::Timeout {
                seconds: PATIENCE.as_secs(),
                what: "the end of a bare loop",
                log,
            });
        }
        process.sleep_while_running(PATIENCE);
    };
    let seconds = start.elapsed().as_secs_f64();
    if !exit.status.success() {
        return Err(BenchError::Client(format!("a bare loop failed: {}{}", exit.status, process.log_tail())));
    }
    // It may not be there: receiving alone writes nothing.
    let _ = std::fs::remove_file(&file);
    Ok((exit.cpu.total() / (bytes / f64::from(1 << 30)), bytes / seconds / 1e6))
}

fn table(report: &Report) -> String {
    let (machine, mut text) = (&report.machine, String::new());
    text += &format!(
        "bare loops of one thread, {} MiB; {} CPUs ({}), Linux {}\n{:<22}{:>12}{:>12}{:>8}\n",
        report.size_mib,
        machine.cpus,
        machine.cpu_model,
        machine.kernel,
        "task",
        "connections",
        "CPU s/GiB",
        "MB/s"
    );
    for row in &report.rows {
        let label = row.task.label();
        text +=
            &format!("{label:<22}{:>12}{:>12.2}{:>8.0}\n", row.connections, row.cpu_s_per_gib, row.mb_per_s);
    }
    text
}

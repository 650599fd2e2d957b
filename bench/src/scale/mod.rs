//! `ccbt-bench scale`: what a connection and a torrent cost while they idle.
//!
//! Role: starts a client with many torrents, or with many connections on one, lets it rest, and reads its memory, CPU
//! time and context switches from procfs. One client runs at a time, the order rotates from round to round. Memory
//! per connection or torrent is the growth from one of them to all of them, divided by their number.

pub mod child;
mod peers;
mod report;
pub(crate) mod sample;
pub(crate) mod subject;
pub(crate) mod torrents;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use self::peers::Peers;
use self::sample::{Idle, Memory};
use self::subject::Subject;
use self::torrents::Torrents;
use crate::clients;
use crate::error::BenchError;
use crate::generator::net::free_port;
use crate::tracker::Tracker;

/// Connections that clients are told to expect.
const CONNECTIONS_MAX: usize = 12_000;
/// From the last event to the measurement.
const SETTLE: Duration = Duration::from_secs(3);

/// Options of `ccbt-bench scale`.
#[derive(Args, Debug, Clone)]
pub struct ScaleArgs {
    /// Idle connections on one torrent; empty: none of these measurements
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000, 5000])]
    pub connections: Vec<usize>,
    /// Idle torrents in one process; empty: none of these measurements
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1000, 10_000])]
    pub torrents: Vec<usize>,
    /// Torrents with a tracker that answers at once
    #[arg(long, value_delimiter = ',', default_values_t = [1000])]
    pub tracked: Vec<usize>,
    /// Pieces of 16 KiB in each torrent
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub pieces: u32,
    /// Clients to measure, of ccbt, before, libtorrent, transmission and aria2; those not installed are left out
    #[arg(long, value_delimiter = ',', default_value = "ccbt,before,libtorrent,transmission,aria2")]
    pub clients: Vec<String>,
    /// Other clients are measured with no more torrents and connections than this
    #[arg(long, default_value_t = 1000)]
    pub others_max: usize,
    /// Another build of this program, measured as `before`
    #[arg(long)]
    pub before: Option<PathBuf>,
    /// Seconds of rest that are measured
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub idle_s: u64,
    /// Rounds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Folder for torrents and their data, which are small; the default is one of the system's
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Write the results to this file
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// What idles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Load {
    Connections,
    Torrents,
    /// Torrents with a tracker.
    Tracked,
}

/// One measurement to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Case {
    load: Load,
    number: usize,
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Measured {
    add_s: Option<f64>,
    /// Before the connections came.
    start: Memory,
    memory: Memory,
    idle: Idle,
    /// Connections that the client closed meanwhile.
    lost: usize,
}

/// Runs everything; whether all measurements succeeded.
pub fn run(args: &ScaleArgs) -> Result<bool, BenchError> {
    let subjects = subjects(args)?;
    let mut runs = Vec::new();
    for round in 0..args.runs {
        for case in cases(args) {
            for nth in 0..subjects.len() {
                let subject = &subjects[(nth + round as usize) % subjects.len()];
                let ours = matches!(subject, Subject::Ccbt { .. });
                if !ours && case.number > args.others_max {
                    continue;
                }
                let run = report::Run::new(subject.name(), case, measure(args, subject, case));
                println!("{}", run.line());
                runs.push(run);
            }
        }
    }
    let report = report::Report::new(args, &subjects, &runs);
    print!("{}", report.table());
    if let Some(path) = &args.json {
        std::fs::write(path, report.json()).map_err(BenchError::file("write", path))?;
    }
    Ok(runs.iter().all(report::Run::succeeded))
}

fn subjects(args: &ScaleArgs) -> Result<Vec<Subject>, BenchError> {
    let mut subjects = Vec::new();
    for name in &args.clients {
        let subject = match name.as_str() {
            "ccbt" => {
                let program =
                    std::env::current_exe().map_err(BenchError::file("find", "ccbt-bench".as_ref()))?;
                Subject::Ccbt { name: "ccbt", program }
            }
            "before" => match &args.before {
                Some(program) => Subject::Ccbt { name: "before", program: program.clone() },
                None => continue,
            },
            "libtorrent" => Subject::Libtorrent { python: clients::python() },
            "transmission" => Subject::Transmission,
            "aria2" => Subject::Aria2,
            other => return Err(BenchError::Usage(format!("--clients: there is no client {other}"))),
        };
        match subject.version() {
            Some(_) => subjects.push(subject),
            None => eprintln!("{name} is not installed: measuring without it"),
        }
    }
    Ok(subjects)
}

fn cases(args: &ScaleArgs) -> Vec<Case> {
    let of = |load, numbers: &[usize]| -> Vec<Case> {
        numbers.iter().filter(|number| **number > 0).map(|&number| Case { load, number }).collect()
    };
    [
        of(Load::Connections, &args.connections),
        of(Load::Torrents, &args.torrents),
        of(Load::Tracked, &args.tracked),
    ]
    .concat()
}

fn measure(args: &ScaleArgs, subject: &Subject, case: Case) -> Result<Measured, BenchError> {
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let folder = base.join(format!("ccbt-bench-scale-{}", std::process::id()));
    let tracker = match case.load {
        Load::Tracked => Some(Tracker::start(&[])?),
        Load::Connections | Load::Torrents => None,
    };
    let count = if case.load == Load::Connections { 1 } else { case.number };
    let torrents = Torrents::make(folder.clone(), count, args.pieces, tracker.as_ref().map(Tracker::url))?;
    let scratch = folder.join("scratch");
    std::fs::create_dir_all(&scratch).map_err(BenchError::file("create", &scratch))?;
    let port = free_port().map_err(BenchError::socket("find a free port"))?;
    let started = subject.start(&torrents, &scratch, port, tracker.is_some())?;
    let pid = started.process.id();
    let mut peers = None;
    let mut start = Memory::default();
    if case.load == Load::Connections {
        // One connection pays for what is allocated once.
        let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        std::thread::sleep(Duration::from_millis(500));
        start = sample::memory(pid)?;
        peers = Some(Peers::connect(target, torrents.first(), case.number)?);
    }
    std::thread::sleep(SETTLE);
    let idle = sample::idle(pid, Duration::from_secs(args.idle_s))?;
    let memory = sample::memory(pid)?;
    let lost = peers.as_ref().map_or(0, Peers::lost);
    // The client first: it would see all connections end.
    drop(started.process);
    Ok(Measured { add_s: started.add_s, start, memory, idle, lost })
}

//! `ccbt-bench trackers`: many torrents of one process announce to one opentracker.
//!
//! Role: makes torrents, starts opentracker and our engine, and shows when announces began, over how many connections, and
//! what they cost. A front ([`front`]) between the two counts, and shortens the interval.

mod front;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;

use self::front::{Front, Seen};
use crate::error::BenchError;
use crate::generator::net::free_port;
use crate::process::Process;
use crate::scale::subject::Subject;
use crate::scale::torrents::Torrents;

/// Connections that are too many.
const CONNECTIONS_MAX: usize = 32;
/// Rows of the histogram in one interval.
const ROWS: u32 = 12;
/// Opentracker must be there within this time.
const PATIENCE: Duration = Duration::from_secs(10);
/// What an announce may be late: the turn of a thread on a busy machine.
const LATE: Duration = Duration::from_secs(2);

/// Options of `ccbt-bench trackers`.
#[derive(Args, Debug, Clone)]
pub struct TrackersArgs {
    /// Torrents
    #[arg(long, default_value_t = 10_000)]
    pub torrents: usize,
    /// Seconds between two announces of a torrent, in place of opentracker's half hour
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(60..))]
    pub interval_s: u64,
    /// Intervals to measure, after the torrents were added
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..))]
    pub intervals: u32,
    /// Folder for torrents and their data, which are small; the default is one of the system's
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Write the page of results to this file
    #[arg(long)]
    pub page: Option<PathBuf>,
}

/// Runs it; whether all torrents announced in time, apart from each other and over few connections.
pub fn run(args: &TrackersArgs) -> Result<bool, BenchError> {
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let folder = base.join(format!("ccbt-bench-trackers-{}", std::process::id()));
    let port = free_port().map_err(BenchError::socket("find a free port"))?;
    let tracker = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let front = Front::start(tracker, args.interval_s)?;
    let torrents = Torrents::make(folder.clone(), args.torrents, 1, Some(&front.url))?;
    let scratch = folder.join("scratch");
    std::fs::create_dir_all(&scratch).map_err(BenchError::file("create", &scratch))?;
    let _opentracker = opentracker(&scratch, tracker, &torrents)?;
    let program = std::env::current_exe().map_err(BenchError::file("find", "ccbt-bench".as_ref()))?;
    let port = free_port().map_err(BenchError::socket("find a free port"))?;
    let begin = Instant::now();
    let started = Subject::Ccbt { name: "ccbt", program }.start(&torrents, &scratch, port, true)?;
    let pid = started.process.id();
    let cpu = crate::scale::sample::work(pid)?.0;
    let measured = Duration::from_secs(args.interval_s) * args.intervals;
    std::thread::sleep(measured);
    let cpu = crate::scale::sample::work(pid)?.0 - cpu;
    drop(started);
    let seen = std::mem::take(&mut *front.seen.lock().expect("no holder panics"));
    let report = Report::new(args, begin, &seen, &front, cpu / measured.as_secs_f64() * 100.0);
    let page = report.page();
    print!("{page}");
    if let Some(path) = &args.page {
        std::fs::write(path, page).map_err(BenchError::file("write", path))?;
    }
    Ok(report.is_good())
}

/// A running opentracker that knows the torrents.
fn opentracker(scratch: &Path, at: SocketAddrV4, torrents: &Torrents) -> Result<Process, BenchError> {
    let list = scratch.join("hashes");
    let hex = |hash: &[u8; 20]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    let lines: String = torrents.hashes().iter().map(hex).collect();
    std::fs::write(&list, lines).map_err(BenchError::file("write", &list))?;
    let port = at.port().to_string();
    let mut command = Command::new("opentracker");
    command.args(["-i", "127.0.0.1", "-p", &port, "-P", &port, "-w", "hashes", "-d"]).arg(scratch);
    let process = Process::spawn(&mut command, &scratch.join("opentracker.log"))?;
    let start = Instant::now();
    while TcpStream::connect(at).is_err() {
        if start.elapsed() > PATIENCE {
            let what =
                format!("opentracker does not answer; bench/setup.sh installs it{}", process.log_tail());
            return Err(BenchError::Client(what));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(process)
}

struct Report<'a> {
    args: &'a TrackersArgs,
    announces: usize,
    refused: usize,
    torrents: usize,
    /// From the first torrent added to the last `started`.
    all_started_s: f64,
    /// Torrents that announced later than their interval.
    late: usize,
    /// Announces sooner than half an interval after the one before.
    early: usize,
    connections: usize,
    accepted: usize,
    cpu_percent: f64,
    /// Announces that began in each twelfth of an interval.
    rows: Vec<usize>,
}

impl<'a> Report<'a> {
    fn new(args: &'a TrackersArgs, begin: Instant, seen: &[Seen], front: &Front, cpu_percent: f64) -> Self {
        let interval = Duration::from_secs(args.interval_s);
        let row = interval / ROWS;
        let (mut rows, mut before, mut all_started) = (Vec::new(), HashMap::new(), Duration::ZERO);
        let (mut late, mut early) = (0, 0);
        let end = seen.iter().map(|seen| seen.at).max().unwrap_or(begin);
        for seen in seen {
            let nth = (seen.at - begin).div_duration_f64(row) as usize;
            rows.resize(rows.len().max(nth + 1), 0);
            rows[nth] += 1;
            if seen.event == "started" {
                all_started = all_started.max(seen.at - begin);
            }
            if let Some(before) = before.insert(seen.info_hash.clone(), seen.at) {
                late += usize::from(seen.at - before > interval + LATE);
                early += usize::from(seen.at - before < interval / 2);
            }
        }
        late += before.values().filter(|at| end - **at > interval + LATE).count();
        Self {
            args,
            announces: seen.len(),
            refused: seen.iter().filter(|seen| !seen.good).count(),
            torrents: before.len(),
            all_started_s: all_started.as_secs_f64(),
            late,
            early,
            connections: front.connections.most.load(Ordering::SeqCst),
            accepted: front.connections.accepted.load(Ordering::SeqCst),
            cpu_percent,
            rows,
        }
    }

    /// The part that comes after all have announced twice: how even it is.
    fn steady(&self) -> &[usize] {
        let from = (self.args.intervals.max(2) - 1) * ROWS;
        // The last row is cut off by the end.
        self.rows.get(from as usize..self.rows.len().saturating_sub(1)).unwrap_or_default()
    }

    /// Most announces in a row, as a multiple of the mean.
    fn peak(&self) -> f64 {
        let steady = self.steady();
        let mean = steady.iter().sum::<usize>() as f64 / steady.len().max(1) as f64;
        steady.iter().copied().max().unwrap_or(0) as f64 / mean.max(1.0)
    }

    fn is_good(&self) -> bool {
        let in_time = self.torrents == self.args.torrents && self.late == 0 && self.early == 0;
        in_time && self.refused == 0 && self.connections <= CONNECTIONS_MAX && self.peak() < 4.0
    }

    fn page(&self) -> String {
        let Self { announces, refused, torrents, all_started_s, late, early, .. } = self;
        let Self { connections, accepted, cpu_percent, .. } = self;
        let (interval, peak) = (self.args.interval_s, self.peak());
        let mut page = format!(
            "# Announces of {torrents} torrents to one opentracker\n\n\
             Made by `ccbt-bench trackers`. Interval {interval} s (in place of opentracker's half hour).\n\n\
             | | |\n|---|--:|\n\
             | announces | {announces} |\n| refused | {refused} |\n\
             | all `started` sent after | {all_started_s:.1} s |\n\
             | later than the interval | {late} |\n| sooner than half of it | {early} |\n\
             | connections at once, at most | {connections} |\n| connections in all | {accepted} |\n\
             | busiest moment of the last interval, times its mean | {peak:.1} |\n\
             | CPU of the whole process | {cpu_percent:.1} % of a core |\n\n\
             Announces that began in each {:.0} s:\n\n```\n",
            interval as f64 / f64::from(ROWS)
        );
        let most = self.rows.iter().copied().max().unwrap_or(1).max(1);
        for (nth, count) in self.rows.iter().enumerate() {
            let from = nth as f64 * interval as f64 / f64::from(ROWS);
            let bar = "#".repeat(count * 60 / most);
            page.push_str(&format!("{from:5.0} s {count:6} {bar}\n"));
        }
        page + "```\n"
    }
}

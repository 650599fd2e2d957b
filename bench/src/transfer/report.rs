//! From single runs to medians, the table for people and the JSON for programs.
//!
//! Role: pure formatting of what `transfer::run` measured. MB are 10^6 bytes, GiB 2^30, latencies microseconds.

use std::fmt::Write;

use serde::Serialize;

use super::TransferArgs;
use crate::clients::Direction;
use crate::error::BenchError;
use crate::process::{Cpu, PeakMemory};
use crate::stats::{Latencies, LatencySummary, median};

/// A generator busier than this share of one core's time per thread was probably the limit.
const BUSY_LIMIT: f64 = 0.9;

/// A client of the comparison.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ClientInfo {
    name: String,
    version: String,
}

impl ClientInfo {
    pub(super) fn new(name: &str, version: &str) -> Self {
        Self { name: name.to_owned(), version: version.to_owned() }
    }
}

/// The load generator's side of a run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Generator {
    /// CPU seconds of its threads.
    pub(super) cpu_s: f64,
    /// Handshakes completed: connections that came about.
    pub(super) handshakes: u64,
    /// Protocol violations; as a seeder also encrypted first attempts, as a leecher blocks nobody asked for.
    pub(super) protocol_errors: u64,
    /// Most requests waiting on one connection (downloads only).
    pub(super) pipeline_depth_max: Option<u64>,
}

/// What one successful run gave.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Measured {
    seconds: f64,
    mb_per_s: f64,
    cpu_user_s: f64,
    cpu_system_s: f64,
    cpu_s_per_gib: f64,
    peak_rss_mib: f64,
    peak_anon_mib: f64,
    generator: Generator,
    generator_cpu_s_per_gib: f64,
    /// CPU time of the generator per second of the transfer: 1.0 is one core, always busy.
    generator_busy: f64,
    latency: LatencySummary,
    #[serde(skip)]
    histogram: Latencies,
}

impl Measured {
    /// Derives the rates from `bytes` moved in `seconds`.
    pub(super) fn new(
        bytes: u64,
        seconds: f64,
        cpu: Cpu,
        peak: PeakMemory,
        generator: Generator,
        histogram: Latencies,
    ) -> Self {
        let gib = bytes as f64 / f64::from(1 << 30);
        Self {
            seconds,
            mb_per_s: bytes as f64 / 1e6 / seconds,
            cpu_user_s: cpu.user,
            cpu_system_s: cpu.system,
            cpu_s_per_gib: cpu.total() / gib,
            peak_rss_mib: peak.rss_kib as f64 / 1024.0,
            peak_anon_mib: peak.anon_kib as f64 / 1024.0,
            generator_cpu_s_per_gib: generator.cpu_s / gib,
            generator_busy: generator.cpu_s / seconds,
            generator,
            latency: histogram.summary(),
            histogram,
        }
    }
}

/// One run of one client.
#[derive(Debug, Clone, Serialize)]
pub(super) struct RunResult {
    client: String,
    mode: Direction,
    round: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<Measured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl RunResult {
    /// Keeps a failure as its message.
    pub(super) fn new(
        client: &str,
        mode: Direction,
        round: u32,
        outcome: Result<Measured, BenchError>,
    ) -> Self {
        let (measured, error) = match outcome {
            Ok(measured) => (Some(measured), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self { client: client.to_owned(), mode, round, measured, error }
    }

    /// One line of progress.
    pub(super) fn line(&self) -> String {
        let start = format!("{} {} run {}:", mode_name(self.mode), self.client, self.round + 1);
        match (&self.measured, &self.error) {
            (Some(run), _) => format!("{start} {:.0} MB/s, {:.2} CPU s/GiB", run.mb_per_s, run.cpu_s_per_gib),
            (None, error) => format!("{start} FAILED: {}", error.as_deref().unwrap_or_default()),
        }
    }
}

fn mode_name(mode: Direction) -> &'static str {
    match mode {
        Direction::Download => "download",
        Direction::Seed => "seed",
    }
}

/// Medians of one client in one mode, over its successful runs.
#[derive(Debug, Clone, Serialize)]
struct Summary {
    client: String,
    mode: Direction,
    runs: usize,
    failed: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    medians: Option<Medians>,
}

#[derive(Debug, Clone, Serialize)]
struct Medians {
    mb_per_s: f64,
    mb_per_s_min: f64,
    mb_per_s_max: f64,
    cpu_s_per_gib: f64,
    cpu_user_s: f64,
    cpu_system_s: f64,
    peak_rss_mib: f64,
    peak_anon_mib: f64,
    generator_cpu_s_per_gib: f64,
    generator_busy: f64,
    /// Of all runs together.
    latency: LatencySummary,
}

impl Medians {
    /// `None` for no runs.
    fn of(runs: &[&Measured]) -> Option<Self> {
        let all = |pick: fn(&Measured) -> f64| runs.iter().map(|run| pick(run)).collect::<Vec<_>>();
        let middle = |pick| median(&all(pick));
        let mut latencies = Latencies::default();
        runs.iter().for_each(|run| latencies.merge(&run.histogram));
        Some(Self {
            mb_per_s: middle(|run| run.mb_per_s)?,
            mb_per_s_min: all(|run| run.mb_per_s).into_iter().reduce(f64::min)?,
            mb_per_s_max: all(|run| run.mb_per_s).into_iter().reduce(f64::max)?,
            cpu_s_per_gib: middle(|run| run.cpu_s_per_gib)?,
            cpu_user_s: middle(|run| run.cpu_user_s)?,
            cpu_system_s: middle(|run| run.cpu_system_s)?,
            peak_rss_mib: middle(|run| run.peak_rss_mib)?,
            peak_anon_mib: middle(|run| run.peak_anon_mib)?,
            generator_cpu_s_per_gib: middle(|run| run.generator_cpu_s_per_gib)?,
            generator_busy: middle(|run| run.generator_busy)?,
            latency: latencies.summary(),
        })
    }
}

/// The machine and the load, for whoever reads the JSON later.
#[derive(Debug, Clone, Serialize)]
struct Setting {
    size_mib: u32,
    connections: u32,
    piece_kib: u32,
    runs: u32,
    window: u32,
    generator_threads: u32,
    cpus: usize,
    cpu_model: String,
    kernel: String,
}

impl Setting {
    fn new(args: &TransferArgs) -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            size_mib: args.size_mib,
            connections: args.connections,
            piece_kib: args.piece_kib,
            runs: args.runs,
            window: args.window,
            generator_threads: args.generator_threads,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_model: model.map(|(_, name)| name.to_owned()).unwrap_or_default(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
        }
    }
}

/// Everything one call of `transfer` found out.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    /// Version of this JSON's layout.
    schema: u32,
    setting: Setting,
    clients: Vec<ClientInfo>,
    /// Asked for, but not installed.
    missing: Vec<String>,
    summary: Vec<Summary>,
    runs: Vec<RunResult>,
}

impl Report {
    /// Groups `runs` by mode and client, in the order of `clients`.
    pub(super) fn new(
        args: &TransferArgs,
        clients: Vec<ClientInfo>,
        missing: Vec<String>,
        runs: Vec<RunResult>,
    ) -> Self {
        let mut summary = Vec::new();
        for mode in [Direction::Download, Direction::Seed] {
            for client in &clients {
                let own: Vec<_> =
                    runs.iter().filter(|run| run.mode == mode && run.client == client.name).collect();
                let good: Vec<_> = own.iter().filter_map(|run| run.measured.as_ref()).collect();
                if !own.is_empty() {
                    let (client, medians) = (client.name.clone(), Medians::of(&good));
                    summary.push(Summary {
                        client,
                        mode,
                        runs: own.len(),
                        failed: own.len() - good.len(),
                        medians,
                    });
                }
            }
        }
        Self { schema: 1, setting: Setting::new(args), clients, missing, summary, runs }
    }

    /// No failed run, and every client that was asked for was there.
    pub(super) fn all_succeeded(&self) -> bool {
        self.missing.is_empty() && self.runs.iter().all(|run| run.error.is_none())
    }

    /// Pretty-printed JSON.
    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data serialises") + "\n"
    }

    /// The table for a terminal, with what it was measured on and what failed.
    pub(super) fn table(&self) -> String {
        let (mut out, setting) = (String::new(), &self.setting);
        let mut line = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("strings take all");
        line(format_args!(
            "\n{} MiB in pieces of {} KiB, {} connections, {} runs; {} CPUs, Linux {}",
            setting.size_mib,
            setting.piece_kib,
            setting.connections,
            setting.runs,
            setting.cpus,
            setting.kernel
        ));
        for client in &self.clients {
            line(format_args!("{}: {}", client.name, client.version));
        }
        for mode in [Direction::Download, Direction::Seed] {
            let rows: Vec<_> = self.summary.iter().filter(|row| row.mode == mode).collect();
            if rows.is_empty() {
                continue;
            }
            let latency = match mode {
                Direction::Download => "us between requests",
                Direction::Seed => "us request to block",
            };
            line(format_args!(
                "\n{:<13} {:>5} {:>7} {:>15} {:>9} {:>9} {:>9} {:>8}   {latency}",
                mode_name(mode),
                "ok",
                "MB/s",
                "min..max",
                "CPU s/GiB",
                "RSS MiB",
                "gen s/GiB",
                "gen busy"
            ));
            rows.iter().for_each(|row| line(format_args!("{}", self.row(row))));
        }
        self.missing.iter().for_each(|name| line(format_args!("{name}: not installed")));
        for run in self.runs.iter().filter(|run| run.error.is_some()) {
            line(format_args!("{}", run.line()));
        }
        if self.summary.iter().filter_map(|row| row.medians.as_ref()).any(|row| self.generator_bound(row)) {
            line(format_args!("* the load generator was busy: it may be the limit; try --generator-threads"));
        }
        out
    }

    fn generator_bound(&self, medians: &Medians) -> bool {
        medians.generator_busy > BUSY_LIMIT * f64::from(self.setting.generator_threads)
    }

    fn row(&self, row: &Summary) -> String {
        let ok = format!("{}/{}", row.runs - row.failed, row.runs);
        let start = format!("{:<13} {ok:>5}", row.client);
        let Some(medians) = &row.medians else { return format!("{start} {:>7}", "FAILED") };
        let range = format!("{:.0}..{:.0}", medians.mb_per_s_min, medians.mb_per_s_max);
        let star = if self.generator_bound(medians) { "*" } else { " " };
        let latency = &medians.latency;
        format!(
            "{start} {:>7.0} {range:>15} {:>9.2} {:>9.0} {:>9.2} {:>7.0}%{star}  p50 {} p99 {} p99.9 {} max {}",
            medians.mb_per_s,
            medians.cpu_s_per_gib,
            medians.peak_rss_mib,
            medians.generator_cpu_s_per_gib,
            medians.generator_busy * 100.0,
            latency.p50_us,
            latency.p99_us,
            latency.p999_us,
            latency.max_us
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: TransferArgs,
    }

    fn measured(seconds: f64) -> Measured {
        let generator =
            Generator { cpu_s: 0.95, handshakes: 20, protocol_errors: 0, pipeline_depth_max: None };
        let mut latencies = Latencies::default();
        latencies.record(Duration::from_micros(700));
        let cpu = Cpu { user: 1.0, system: 2.0 };
        let peak = PeakMemory { rss_kib: 10 * 1024, anon_kib: 1024 };
        Measured::new(2 << 30, seconds, cpu, peak, generator, latencies)
    }

    fn report() -> Report {
        let args = Cli::parse_from(["x", "--size-mib", "2048"]).args;
        let failed = Err(BenchError::Client("no luck".into()));
        let runs = vec![
            RunResult::new("a", Direction::Download, 0, Ok(measured(4.0))),
            RunResult::new("a", Direction::Download, 1, Ok(measured(1.0))),
            RunResult::new("a", Direction::Download, 2, Ok(measured(2.0))),
            RunResult::new("b", Direction::Download, 0, failed),
        ];
        let clients = ["b", "a"].map(|name| ClientInfo::new(name, "1")).to_vec();
        Report::new(&args, clients, vec!["c".into()], runs)
    }

    #[test]
    fn rates_and_medians() {
        let report = report();
        let names: Vec<_> = report.summary.iter().map(|row| row.client.as_str()).collect();
        assert_eq!(names, ["b", "a"], "order of the clients, no empty seed rows");
        let medians = report.summary[1].medians.as_ref().expect("has good runs");
        assert_eq!(medians.mb_per_s, (2u64 << 30) as f64 / 2e6);
        assert_eq!(medians.mb_per_s_max, (2u64 << 30) as f64 / 1e6);
        assert_eq!(medians.cpu_s_per_gib, 1.5);
        assert_eq!(medians.latency.count, 3, "latencies of all runs together");
        assert!(!report.all_succeeded());
    }

    #[test]
    fn json_has_summary_runs_and_errors() {
        let value: serde_json::Value = serde_json::from_str(&report().json()).expect("valid JSON");
        assert_eq!(value["schema"], 1);
        assert_eq!(value["summary"][1]["medians"]["peak_rss_mib"], 10.0);
        assert_eq!(value["runs"][0]["measured"]["latency"]["count"], 1);
        assert_eq!(value["runs"][3]["error"], "no luck");
        assert_eq!(value["runs"][3]["mode"], "download");
        assert_eq!(value["missing"][0], "c");
        assert!(value["summary"][0].get("medians").is_none());
    }

    #[test]
    fn table_shows_failures_and_a_busy_generator() {
        let mut report = report();
        let table = report.table();
        assert!(
            table.contains("FAILED: no luck") && table.contains("0/1") && table.contains("3/3"),
            "{table}"
        );
        assert!(table.contains("c: not installed") && !table.contains('*'), "{table}");
        let medians = report.summary[1].medians.as_mut().expect("has good runs");
        medians.generator_busy = 0.97;
        assert!(report.table().contains("97%*"));
    }
}

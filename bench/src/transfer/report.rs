//! From single runs to medians, and the JSON that holds both.
//!
//! Role: pure arithmetic on what `transfer::run` measured; `table` and `publish` show it. Invariant: what is shown comes
//! from the JSON's `summary`, so that pages can be made again from the file. MB are 10^6 bytes, GiB 2^30.

use serde::{Deserialize, Serialize};

use super::plan::middle;
use crate::clients::Direction;
use crate::error::BenchError;
use crate::machine::Machine;
use crate::process::{Cpu, PeakMemory};
use crate::stats::{Latencies, LatencySummary, median};

/// Version of the JSON's layout.
const SCHEMA: u32 = 2;
/// A generator busier than this share of one core's time per thread was probably the limit.
const BUSY_LIMIT: f64 = 0.9;

/// A client of the comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ClientInfo {
    pub(super) name: String,
    pub(super) version: String,
    /// What it was told beyond what any user must tell it.
    pub(super) settings: String,
}

/// The load generator's side of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
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

/// What a run is made of, before any division.
pub(super) struct Raw {
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    /// Seconds until everything was on the disk; `None` in memory and for seeds.
    pub(super) durable_s: Option<f64>,
    pub(super) cpu: Cpu,
    /// CPU seconds of the whole machine but the generator, to the end of the client.
    pub(super) machine_cpu_s: f64,
    pub(super) peak: PeakMemory,
    pub(super) generator: Generator,
    pub(super) latencies: Latencies,
}

/// What one successful run gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) seconds: f64,
    mb_per_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    durable_mb_per_s: Option<f64>,
    cpu_user_s: f64,
    cpu_system_s: f64,
    cpu_s_per_gib: f64,
    machine_cpu_s_per_gib: f64,
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
    /// Derives the rates.
    pub(super) fn new(raw: Raw) -> Self {
        let Raw { bytes, seconds, durable_s, cpu, machine_cpu_s, peak, generator, latencies } = raw;
        let (gib, megabytes) = (bytes as f64 / f64::from(1 << 30), bytes as f64 / 1e6);
        Self {
            seconds,
            mb_per_s: megabytes / seconds,
            durable_mb_per_s: durable_s.map(|seconds| megabytes / seconds),
            cpu_user_s: cpu.user,
            cpu_system_s: cpu.system,
            cpu_s_per_gib: cpu.total() / gib,
            machine_cpu_s_per_gib: machine_cpu_s / gib,
            peak_rss_mib: peak.rss_kib as f64 / 1024.0,
            peak_anon_mib: peak.anon_kib as f64 / 1024.0,
            generator_cpu_s_per_gib: generator.cpu_s / gib,
            generator_busy: generator.cpu_s / seconds,
            generator,
            latency: latencies.summary(),
            histogram: latencies,
        }
    }
}

/// What a run was to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) client: String,
    pub(super) mode: Direction,
    pub(super) connections: u32,
    /// Where downloads went, or seeds read from.
    pub(super) file_system: String,
    pub(super) payload_mib: u64,
}

impl Task {
    fn is_row(&self, other: &Self) -> bool {
        // A warm-up that failed moved another payload.
        (&self.client, self.mode, self.connections, &self.file_system)
            == (&other.client, other.mode, other.connections, &other.file_system)
    }
}

/// One run of one client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RunResult {
    #[serde(flatten)]
    pub(super) task: Task,
    round: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) measured: Option<Measured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

impl RunResult {
    /// Keeps a failure as its message.
    pub(super) fn new(task: Task, round: u32, outcome: Result<Measured, BenchError>) -> Self {
        let (measured, error) = match outcome {
            Ok(measured) => (Some(measured), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self { task, round, measured, error }
    }

    /// One line of progress.
    pub(super) fn line(&self) -> String {
        let Task { client, mode, connections, file_system, payload_mib } = &self.task;
        let mode = mode.name();
        let start = format!("{mode} {client}, {connections} connections, {file_system}, {payload_mib} MiB:");
        match (&self.measured, &self.error) {
            (Some(run), _) => format!("{start} {:.0} MB/s, {:.2} CPU s/GiB", run.mb_per_s, run.cpu_s_per_gib),
            (None, error) => format!("{start} FAILED: {}", error.as_deref().unwrap_or_default()),
        }
    }
}

/// Medians of one client in one group, over its successful runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Summary {
    #[serde(flatten)]
    pub(super) task: Task,
    pub(super) runs: usize,
    pub(super) failed: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) medians: Option<Medians>,
}

/// Middle, lowest and highest value of a figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Medians {
    pub(super) mb_per_s: f64,
    pub(super) mb_per_s_min: f64,
    pub(super) mb_per_s_max: f64,
    /// Until everything is on the disk; only where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) durable_mb_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) durable_mb_per_s_min: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) durable_mb_per_s_max: Option<f64>,
    pub(super) cpu_s_per_gib: f64,
    pub(super) cpu_s_per_gib_min: f64,
    pub(super) cpu_s_per_gib_max: f64,
    cpu_user_s: f64,
    cpu_system_s: f64,
    pub(super) machine_cpu_s_per_gib: f64,
    pub(super) peak_rss_mib: f64,
    pub(super) peak_anon_mib: f64,
    pub(super) generator_cpu_s_per_gib: f64,
    pub(super) generator_busy: f64,
    /// Of all runs together.
    pub(super) latency: LatencySummary,
}

impl Medians {
    /// `None` for no runs.
    fn of(runs: &[&Measured]) -> Option<Self> {
        let all = |pick: fn(&Measured) -> f64| runs.iter().map(|run| pick(run)).collect::<Vec<_>>();
        let middle = |pick| median(&all(pick));
        let least = |pick| all(pick).into_iter().reduce(f64::min);
        let most = |pick| all(pick).into_iter().reduce(f64::max);
        let durable: Vec<f64> = runs.iter().filter_map(|run| run.durable_mb_per_s).collect();
        let mut latencies = Latencies::default();
        runs.iter().for_each(|run| latencies.merge(&run.histogram));
        Some(Self {
            mb_per_s: middle(|run| run.mb_per_s)?,
            mb_per_s_min: least(|run| run.mb_per_s)?,
            mb_per_s_max: most(|run| run.mb_per_s)?,
            durable_mb_per_s: median(&durable),
            durable_mb_per_s_min: durable.iter().copied().reduce(f64::min),
            durable_mb_per_s_max: durable.iter().copied().reduce(f64::max),
            cpu_s_per_gib: middle(|run| run.cpu_s_per_gib)?,
            cpu_s_per_gib_min: least(|run| run.cpu_s_per_gib)?,
            cpu_s_per_gib_max: most(|run| run.cpu_s_per_gib)?,
            cpu_user_s: middle(|run| run.cpu_user_s)?,
            cpu_system_s: middle(|run| run.cpu_system_s)?,
            machine_cpu_s_per_gib: middle(|run| run.machine_cpu_s_per_gib)?,
            peak_rss_mib: middle(|run| run.peak_rss_mib)?,
            peak_anon_mib: middle(|run| run.peak_anon_mib)?,
            generator_cpu_s_per_gib: middle(|run| run.generator_cpu_s_per_gib)?,
            generator_busy: middle(|run| run.generator_busy)?,
            latency: latencies.summary(),
        })
    }
}

/// The machine and the load, for whoever reads the JSON later.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Setting {
    /// UTC.
    pub(super) date: String,
    pub(super) size_mib: u32,
    pub(super) connections: Vec<u32>,
    pub(super) piece_kib: u32,
    pub(super) runs: u32,
    pub(super) generator_threads: u32,
    pub(super) elapsed_s: f64,
    #[serde(flatten)]
    pub(super) machine: Machine,
}

/// Everything one call of `transfer` found out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Report {
    schema: u32,
    pub(super) setting: Setting,
    pub(super) clients: Vec<ClientInfo>,
    /// Asked for, but not installed.
    pub(super) missing: Vec<String>,
    pub(super) summary: Vec<Summary>,
    pub(super) runs: Vec<RunResult>,
}

/// Rows that are compared with each other: one per client, in the clients' order.
pub(super) struct Rows<'a> {
    pub(super) mode: Direction,
    pub(super) connections: u32,
    pub(super) file_system: &'a str,
    pub(super) rows: Vec<&'a Summary>,
}

impl Report {
    /// Groups `runs` by what they were to do. `tasks` gives the order: groups, and clients in them.
    pub(super) fn new(
        setting: Setting,
        clients: Vec<ClientInfo>,
        missing: Vec<String>,
        tasks: &[Task],
        runs: Vec<RunResult>,
    ) -> Self {
        let summarise = |task: &Task| {
            let own: Vec<_> = runs.iter().filter(|run| run.task.is_row(task)).collect();
            let good: Vec<_> = own.iter().filter_map(|run| run.measured.as_ref()).collect();
            let task = own.first()?.task.clone();
            Some(Summary {
                task,
                runs: own.len(),
                failed: own.len() - good.len(),
                medians: Medians::of(&good),
            })
        };
        let summary = tasks.iter().filter_map(summarise).collect();
        Self { schema: SCHEMA, setting, clients, missing, summary, runs }
    }

    /// Reads a file that [`Report::json`] made.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let report: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        match report.schema {
            SCHEMA => Ok(report),
            other => Err(format!("layout {other} instead of {SCHEMA}: measure again")),
        }
    }

    /// Rounds that were measured: fewer than wanted when the budget was used up.
    pub(super) fn rounds(&self) -> usize {
        self.summary.iter().map(|row| row.runs).max().unwrap_or(0)
    }

    /// No failed run, and every client that was asked for was there.
    pub(super) fn all_succeeded(&self) -> bool {
        self.missing.is_empty() && self.runs.iter().all(|run| run.error.is_none())
    }

    /// Pretty-printed JSON.
    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data serialises") + "\n"
    }

    /// The rows in groups of what is compared.
    pub(super) fn groups(&self) -> Vec<Rows<'_>> {
        let mut groups: Vec<Rows<'_>> = Vec::new();
        for row in &self.summary {
            let (mode, connections) = (row.task.mode, row.task.connections);
            let file_system = row.task.file_system.as_str();
            let is_same = |group: &&mut Rows<'_>| {
                (group.mode, group.connections, group.file_system) == (mode, connections, file_system)
            };
            match groups.iter_mut().find(is_same) {
                Some(group) => group.rows.push(row),
                None => groups.push(Rows { mode, connections, file_system, rows: vec![row] }),
            }
        }
        groups
    }

    /// Number of connections of the headline.
    pub(super) fn headline_connections(&self) -> u32 {
        middle(&self.setting.connections)
    }

    /// Whether the generator was probably the limit.
    pub(super) fn generator_bound(&self, medians: &Medians) -> bool {
        medians.generator_busy > BUSY_LIMIT * f64::from(self.setting.generator_threads)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    /// A run over `mib` MiB.
    pub(crate) fn measured(mib: u64, seconds: f64, durable_s: Option<f64>) -> Measured {
        let generator =
            Generator { cpu_s: 0.1 * seconds, handshakes: 20, protocol_errors: 0, pipeline_depth_max: None };
        let mut latencies = Latencies::default();
        (1..=1_000).for_each(|nth| latencies.record(Duration::from_micros(nth * 7)));
        Measured::new(Raw {
            bytes: mib << 20,
            seconds,
            durable_s,
            cpu: Cpu { user: 1.0, system: 2.0 },
            machine_cpu_s: 3.5,
            peak: PeakMemory { rss_kib: 10 * 1024, anon_kib: 1024 },
            generator,
            latencies,
        })
    }

    pub(crate) fn task(client: &str, mode: Direction, connections: u32, file_system: &str) -> Task {
        let (client, file_system) = (client.to_owned(), file_system.to_owned());
        Task { client, mode, connections, file_system, payload_mib: 2048 }
    }

    /// Two clients (one fails once), one and twenty connections, both directions and a disk.
    pub(crate) fn report() -> Report {
        let machine = Machine {
            cpus: 2,
            ram_mib: 24_105,
            hash_features: vec!["sha_ni".into()],
            cpu_model: "Some CPU".into(),
            kernel: "6.18.1".into(),
        };
        let setting = Setting {
            date: "2026-01-31".into(),
            size_mib: 2048,
            connections: vec![1, 20, 200],
            piece_kib: 1024,
            runs: 3,
            generator_threads: 1,
            elapsed_s: 61.0,
            machine,
        };
        let clients = ["ccbt", "other"].map(|name| ClientInfo {
            name: name.into(),
            version: format!("{name} 1.0"),
            settings: "as it comes".into(),
        });
        let mut tasks = Vec::new();
        for (mode, file_system) in
            [(Direction::Download, "tmpfs"), (Direction::Seed, "tmpfs"), (Direction::Download, "ext4")]
        {
            for connections in [1, 20].into_iter().filter(|&number| file_system == "tmpfs" || number == 20) {
                tasks.extend(["ccbt", "other"].map(|client| task(client, mode, connections, file_system)));
            }
        }
        let mut runs = Vec::new();
        for (nth, task) in tasks.iter().enumerate() {
            for (round, seconds) in [4.0, 1.0, 2.0].into_iter().enumerate() {
                let durable = (task.file_system == "ext4").then_some(seconds * 2.0);
                let outcome = match (nth, round) {
                    (1, _) => Err(BenchError::Client("no luck".into())),
                    _ => Ok(measured(2048, seconds * (1.0 + nth as f64), durable)),
                };
                runs.push(RunResult::new(task.clone(), round as u32, outcome));
            }
        }
        Report::new(setting, clients.to_vec(), vec!["third".into()], &tasks, runs)
    }

    #[test]
    fn rates_and_medians() {
        let report = report();
        let medians = report.summary[0].medians.as_ref().expect("has good runs");
        assert_eq!(medians.mb_per_s, (2u64 << 30) as f64 / 2e6);
        assert_eq!(
            (medians.mb_per_s_min, medians.mb_per_s_max),
            ((2u64 << 30) as f64 / 4e6, (2u64 << 30) as f64 / 1e6)
        );
        assert_eq!((medians.cpu_s_per_gib, medians.cpu_s_per_gib_max), (1.5, 1.5));
        assert_eq!(medians.latency.count, 3_000, "latencies of all runs together");
        assert!(medians.durable_mb_per_s.is_none());
        assert!(!report.all_succeeded());
        assert!((report.summary[1].medians.is_none(), report.summary[1].failed) == (true, 3));
        let disk = report.summary[8].medians.as_ref().expect("has good runs");
        assert_eq!(disk.durable_mb_per_s, Some((2u64 << 30) as f64 / 4e6));
    }

    #[test]
    fn groups_are_what_is_compared() {
        let report = report();
        let groups = report.groups();
        let names: Vec<_> = groups
            .iter()
            .map(|group| format!("{} {} {}", group.mode.name(), group.connections, group.file_system))
            .collect();
        assert_eq!(
            names,
            ["download 1 tmpfs", "download 20 tmpfs", "seed 1 tmpfs", "seed 20 tmpfs", "download 20 ext4"]
        );
        assert!(groups.iter().all(|group| group.rows.len() == 2));
        assert_eq!(report.headline_connections(), 20);
    }

    #[test]
    fn json_is_read_back_as_it_was_written() {
        let report = report();
        let text = report.json();
        let again = Report::parse(&text).expect("our own file");
        assert_eq!(again.json(), text);
        let value: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
        assert_eq!(value["summary"][0]["medians"]["peak_rss_mib"], 10.0);
        assert_eq!(value["summary"][0]["connections"], 1);
        assert_eq!(value["runs"][3]["error"], "no luck");
        assert!(value["summary"][1].get("medians").is_none());
        let old = text.replacen("\"schema\": 2", "\"schema\": 1", 1);
        assert!(Report::parse(&old).is_err_and(|error| error.contains("measure again")));
    }
}

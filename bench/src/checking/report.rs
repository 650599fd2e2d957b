//! From single runs to medians and ratios, the table for people and the JSON for programs.
//!
//! Role: pure formatting of what [`super`] measured. MB are 10^6 bytes, GiB 2^30. The JSON has the shape that
//! [`crate::compare`] reads: `summary` is a list of rows with names and figures.

use std::fmt::Write;

use serde::Serialize;

use super::programs::Measured;
use super::{HashingArgs, Task, cpus};
use crate::error::BenchError;
use crate::stats::median;

/// Name of the row with the rate of the hash kernel on all threads together.
const KERNEL: &str = "kernel";

/// One run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    place: &'static str,
    program: &'static str,
    round: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    mb_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_s_per_gib: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_rss_mib: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Run {
    /// Derives the rates; a failure is kept as its message.
    pub(super) fn new(
        place: &'static str,
        program: &'static str,
        round: u32,
        bytes: u64,
        outcome: Result<Measured, BenchError>,
    ) -> Self {
        let none = Self {
            place,
            program,
            round,
            mb_per_s: None,
            cpu_s_per_gib: None,
            peak_rss_mib: None,
            error: None,
        };
        match outcome {
            Ok(measured) => Self {
                mb_per_s: Some(bytes as f64 / 1e6 / measured.seconds),
                cpu_s_per_gib: Some(measured.cpu_s / (bytes as f64 / f64::from(1 << 30))),
                peak_rss_mib: Some(measured.peak_rss_mib),
                ..none
            },
            Err(error) => Self { error: Some(error.to_string()), ..none },
        }
    }

    /// The hash kernel alone.
    pub(super) fn kernel(place: &'static str, round: u32, mb_per_s: f64) -> Self {
        let error = None;
        let (cpu_s_per_gib, peak_rss_mib) = (None, None);
        Self { place, program: KERNEL, round, mb_per_s: Some(mb_per_s), cpu_s_per_gib, peak_rss_mib, error }
    }

    /// One line of progress.
    pub(super) fn line(&self) -> String {
        let start = format!("{} {} run {}:", self.place, self.program, self.round + 1);
        match (self.mb_per_s, &self.error) {
            (Some(rate), _) => format!("{start} {rate:.0} MB/s"),
            (None, error) => format!("{start} FAILED: {}", error.as_deref().unwrap_or_default()),
        }
    }
}

/// Medians of one program in one place.
#[derive(Debug, Clone, Serialize)]
struct Summary {
    place: &'static str,
    program: &'static str,
    runs: usize,
    failed: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    mb_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mb_per_s_min: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mb_per_s_max: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_s_per_gib: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_rss_mib: Option<f64>,
    /// How many times as fast ccbt is.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_of_ccbt: Option<f64>,
}

/// min(fio, kernel).
#[derive(Debug, Clone, Serialize)]
struct Bound {
    mb_s: f64,
    /// Which of the two it is.
    by: &'static str,
}

/// What ccbt reaches of what the machine could do.
#[derive(Debug, Clone, Serialize)]
struct Limit {
    place: &'static str,
    /// A fact about the machine, not a result: nothing that is compared.
    limit: Bound,
    ratio_to_limit: f64,
}

#[derive(Debug, Clone, Serialize)]
struct Setting {
    task: Task,
    size_mib: u32,
    piece_kib: u32,
    runs: u32,
    threads: usize,
    cpus: usize,
    cpu_model: String,
    kernel: String,
}

#[derive(Debug, Clone, Serialize)]
struct Version {
    name: &'static str,
    version: String,
}

/// Everything one call found out.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    /// Version of this JSON's layout.
    schema: u32,
    setting: Setting,
    programs: Vec<Version>,
    summary: Vec<Summary>,
    limits: Vec<Limit>,
    runs: Vec<Run>,
}

impl Report {
    pub(super) fn new(
        task: Task,
        args: &HashingArgs,
        versions: Vec<(&'static str, String)>,
        runs: Vec<Run>,
    ) -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let setting = Setting {
            task,
            size_mib: args.size_mib,
            piece_kib: args.piece_kib,
            runs: args.runs,
            threads: args.threads.map_or_else(cpus, usize::from),
            cpus: cpus(),
            cpu_model: model.map(|(_, name)| name.to_owned()).unwrap_or_default(),
            kernel: release.trim().to_owned(),
        };
        let summary = summarise(&runs);
        let limits = ["memory", "disk"].iter().filter_map(|place| limit(place, &summary)).collect();
        let programs = versions.into_iter().map(|(name, version)| Version { name, version }).collect();
        Self { schema: 1, setting, programs, summary, limits, runs }
    }

    /// Whether no run failed.
    pub(super) fn all_succeeded(&self) -> bool {
        self.summary.iter().all(|row| row.failed == 0)
    }

    /// Everything, for programs.
    pub(super) fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("numbers and text");
        text.push('\n');
        text
    }

    /// The medians, for people.
    pub(super) fn table(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| writeln!(out, "{text}").expect("writing to memory");
        let Setting { size_mib, piece_kib, runs, cpus, threads, kernel, .. } = &self.setting;
        let task = if self.setting.task == Task::Verify { "verify" } else { "create" };
        line(format!(
            "{task}: {size_mib} MiB, pieces of {piece_kib} KiB, {runs} runs, {threads} threads, {cpus} CPUs, Linux {kernel}"
        ));
        for row in &self.summary {
            let ok = format!("{}/{}", row.runs - row.failed, row.runs);
            let start = format!("{:<7} {:<13} {ok:>4}", row.place, row.program);
            let (Some(rate), Some(least), Some(most)) = (row.mb_per_s, row.mb_per_s_min, row.mb_per_s_max)
            else {
                line(format!("{start}  FAILED"));
                continue;
            };
            let optional = |value: Option<f64>, digits| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
            };
            line(format!(
                "{start} {rate:>7.0} MB/s {:>15} {:>6} CPU s/GiB {:>6} MiB   ccbt is {:>5}x",
                format!("{least:.0}..{most:.0}"),
                optional(row.cpu_s_per_gib, 3),
                optional(row.peak_rss_mib, 0),
                optional(row.ratio_of_ccbt, 2),
            ));
        }
        for limit in &self.limits {
            line(format!(
                "{:<7} ccbt reaches {:.1} % of {:.0} MB/s, the limit of the {}",
                limit.place,
                limit.ratio_to_limit * 100.0,
                limit.limit.mb_s,
                limit.limit.by
            ));
        }
        for run in self.runs.iter().filter(|run| run.error.is_some()) {
            line(run.line());
        }
        out
    }
}

fn summarise(runs: &[Run]) -> Vec<Summary> {
    let mut keys: Vec<(&str, &str)> = Vec::new();
    for run in runs {
        if !keys.contains(&(run.place, run.program)) {
            keys.push((run.place, run.program));
        }
    }
    let rows = |place, program| runs.iter().filter(move |run| (run.place, run.program) == (place, program));
    let middle = |place, program, of: fn(&Run) -> Option<f64>| {
        median(&rows(place, program).filter_map(of).collect::<Vec<_>>())
    };
    let summary = keys.into_iter().map(|(place, program)| {
        let rates: Vec<f64> = rows(place, program).filter_map(|run| run.mb_per_s).collect();
        let mb_per_s = median(&rates);
        let ccbt = middle(place, "ccbt", |run| run.mb_per_s).filter(|_| program != "ccbt");
        Summary {
            place,
            program,
            runs: rows(place, program).count(),
            failed: rows(place, program).filter(|run| run.error.is_some()).count(),
            mb_per_s,
            mb_per_s_min: rates.iter().copied().reduce(f64::min),
            mb_per_s_max: rates.iter().copied().reduce(f64::max),
            cpu_s_per_gib: middle(place, program, |run| run.cpu_s_per_gib),
            peak_rss_mib: middle(place, program, |run| run.peak_rss_mib),
            ratio_of_ccbt: ccbt.zip(mb_per_s).map(|(ccbt, other)| ccbt / other),
        }
    });
    summary.collect()
}

fn limit(place: &'static str, summary: &[Summary]) -> Option<Limit> {
    let rate = |program: &str| {
        let row = summary.iter().find(|row| (row.place, row.program) == (place, program));
        row.and_then(|row| row.mb_per_s)
    };
    let ccbt = rate("ccbt")?;
    let kernel = rate(KERNEL)?;
    // The better of both memories: the device's own limit.
    let fio = [rate("fio"), rate("fio4k")].into_iter().flatten().reduce(f64::max)?;
    let (mb_s, by) = if fio < kernel { (fio, "device (fio)") } else { (kernel, "hash kernel") };
    Some(Limit { place, limit: Bound { mb_s, by }, ratio_to_limit: ccbt / mb_s })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: HashingArgs,
    }

    fn run(program: &'static str, round: u32, seconds: f64) -> Run {
        let measured = Measured { seconds, cpu_s: 1.0, peak_rss_mib: 10.0 };
        Run::new("memory", program, round, 2 << 30, Ok(measured))
    }

    #[test]
    fn medians_ratios_and_the_limit() {
        let args = Cli::parse_from(["x"]).args;
        let failed = Err(BenchError::Client("no luck".into()));
        let runs = vec![
            Run::kernel("memory", 0, 5_000.0),
            run("fio", 0, 1.0),
            run("fio4k", 0, 0.5),
            run("ccbt", 0, 0.5),
            run("ccbt", 1, 1.0),
            run("ccbt", 2, 4.0),
            run("libtorrent", 0, 2.0),
            Run::new("memory", "sha1sum", 0, 1, failed),
        ];
        let report = Report::new(Task::Create, &args, vec![("ccbt", "1".into())], runs);
        let rate = (2u64 << 30) as f64 / 1e6;
        assert_eq!(report.summary[3].mb_per_s, Some(rate));
        assert_eq!(report.summary[3].mb_per_s_max, Some(2.0 * rate));
        assert_eq!(report.summary[3].cpu_s_per_gib, Some(0.5));
        assert_eq!(report.summary[4].ratio_of_ccbt, Some(2.0));
        assert_eq!(report.summary[3].ratio_of_ccbt, None);
        assert_eq!(report.limits[0].limit.mb_s, 2.0 * rate, "the better fio is below the kernel");
        assert_eq!(report.limits[0].ratio_to_limit, 0.5);
        assert!(!report.all_succeeded());
        let table = report.table();
        assert!(table.contains("FAILED: no luck") && table.contains("50.0 %"), "{table}");
        let value: serde_json::Value = serde_json::from_str(&report.json()).expect("valid JSON");
        assert_eq!(value["setting"]["task"], "create");
        assert_eq!(value["summary"][5]["failed"], 1);
    }
}

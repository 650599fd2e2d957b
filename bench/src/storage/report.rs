//! From single measurements to medians, the table and the JSON. MB are 10^6 bytes, GiB 2^30.

use std::fmt::Write as _;

use crate::machine::file_system;
use serde::Serialize;

use super::{Case, Measured, StorageArgs, Tool, Way, name};
use crate::error::BenchError;
use crate::stats::median;

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    tool: Tool,
    #[serde(flatten)]
    case: Case,
    round: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<Measured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Run {
    pub(super) fn new(tool: Tool, case: Case, round: u32, outcome: Result<Measured, BenchError>) -> Self {
        let (measured, error) = match outcome {
            Ok(measured) => (Some(measured), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self { tool, case, round, measured, error }
    }

    /// One line of progress.
    pub(super) fn line(&self) -> String {
        let start = format!(
            "{} {} KiB {} {} run {}:",
            tool_name(self.tool),
            self.case.piece_kib,
            name(self.case.alloc),
            name(self.case.order),
            self.round + 1
        );
        match (&self.measured, &self.error) {
            (Some(run), _) => {
                let mut text =
                    format!("{start} write {:.2} s, read {:.2} s", run.write.seconds, run.read.seconds);
                if let Some(seen) = &run.seen {
                    write!(text, "; {seen:?}").expect("strings take all");
                }
                text
            }
            (None, error) => format!("{start} FAILED: {}", error.as_deref().unwrap_or_default()),
        }
    }
}

fn tool_name(tool: Tool) -> &'static str {
    match tool {
        Tool::Service => "service",
        Tool::Fio => "fio",
    }
}

/// Medians of one direction.
#[derive(Debug, Clone, Serialize)]
struct Rate {
    mb_per_s: f64,
    mb_per_s_min: f64,
    mb_per_s_max: f64,
    cpu_s_per_gib: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
}

impl Rate {
    fn of(ways: &[&Way], bytes: f64) -> Option<Self> {
        let all = |pick: &dyn Fn(&Way) -> f64| ways.iter().map(|way| pick(way)).collect::<Vec<_>>();
        let rates = all(&|way| bytes / 1e6 / way.seconds);
        Some(Self {
            mb_per_s: median(&rates)?,
            mb_per_s_min: rates.iter().copied().reduce(f64::min)?,
            mb_per_s_max: rates.iter().copied().reduce(f64::max)?,
            cpu_s_per_gib: median(&all(&|way| way.cpu_s / (bytes / f64::from(1 << 30))))?,
            p50_us: median(&all(&|way| way.p50_us as f64))?,
            p99_us: median(&all(&|way| way.p99_us as f64))?,
            p999_us: median(&all(&|way| way.p999_us as f64))?,
        })
    }
}

/// Medians of one tool in one case.
#[derive(Debug, Clone, Serialize)]
struct Summary {
    tool: Tool,
    #[serde(flatten)]
    case: Case,
    runs: usize,
    failed: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    write: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_rss_mib: Option<f64>,
    /// Rates divided by fio's of the same case: medians of the rounds' ratios, each from neighbours in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    write_to_fio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_to_fio: Option<f64>,
}

/// The machine and the load.
#[derive(Debug, Clone, Serialize)]
struct Setting {
    size_mib: u32,
    runs: u32,
    queue_depth: Option<u32>,
    write_kib: Option<u32>,
    file_system: String,
    cpus: usize,
    cpu_model: String,
    kernel: String,
    fio: Option<String>,
}

/// Everything one call found out.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    schema: u32,
    setting: Setting,
    summary: Vec<Summary>,
    runs: Vec<Run>,
}

impl Report {
    pub(super) fn new(args: &StorageArgs, fio: Option<String>, runs: Vec<Run>) -> Self {
        let bytes = f64::from(args.size_mib) * f64::from(1 << 20);
        let mut summary = Vec::new();
        for case in super::cases(args) {
            for tool in [Tool::Service, Tool::Fio] {
                let own: Vec<&Run> = runs.iter().filter(|run| run.case == case && run.tool == tool).collect();
                if !own.is_empty() {
                    summary.push(summarise(tool, case, &own, &runs, bytes));
                }
            }
        }
        Self { schema: 1, setting: Setting::new(args, fio), summary, runs }
    }

    pub(super) fn all_succeeded(&self) -> bool {
        self.runs.iter().all(|run| run.error.is_none())
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data serialises") + "\n"
    }

    pub(super) fn table(&self) -> String {
        let (mut out, setting) = (String::new(), &self.setting);
        let mut line = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("strings take all");
        line(format_args!(
            "\n{} MiB on {}, {} runs; {} CPUs, Linux {}",
            setting.size_mib, setting.file_system, setting.runs, setting.cpus, setting.kernel
        ));
        line(format_args!(
            "{:>9} {:<6} {:<6} {:<8} {:>10} {:>6} {:>9} {:>8} {:>8} {:>10} {:>6} {:>9} {:>8}",
            "piece KiB",
            "alloc",
            "order",
            "by",
            "write MB/s",
            "/fio",
            "CPU s/GiB",
            "p50 us",
            "p99 us",
            "read MB/s",
            "/fio",
            "CPU s/GiB",
            "RSS MiB"
        ));
        for row in &self.summary {
            let (Some(write), Some(read)) = (&row.write, &row.read) else {
                line(format_args!("{:>9} {}: no run succeeded", row.case.piece_kib, tool_name(row.tool)));
                continue;
            };
            let share =
                |share: Option<f64>| share.map_or(String::new(), |share| format!("{:.0}%", share * 100.0));
            line(format_args!(
                "{:>9} {:<6} {:<6} {:<8} {:>10.0} {:>6} {:>9.3} {:>8.0} {:>8.0} {:>10.0} {:>6} {:>9.3} {:>8}",
                row.case.piece_kib,
                name(row.case.alloc),
                name(row.case.order),
                tool_name(row.tool),
                write.mb_per_s,
                share(row.write_to_fio),
                write.cpu_s_per_gib,
                write.p50_us,
                write.p99_us,
                read.mb_per_s,
                share(row.read_to_fio),
                read.cpu_s_per_gib,
                row.peak_rss_mib.map_or(String::new(), |mib| format!("{mib:.0}"))
            ));
        }
        out
    }
}

fn summarise(tool: Tool, case: Case, own: &[&Run], all: &[Run], bytes: f64) -> Summary {
    let good: Vec<&Measured> = own.iter().filter_map(|run| run.measured.as_ref()).collect();
    let ways = |pick: fn(&Measured) -> &Way| good.iter().map(|run| pick(run)).collect::<Vec<_>>();
    let to_fio = |pick: fn(&Measured) -> &Way| {
        let ratios: Vec<f64> = own
            .iter()
            .filter_map(|run| {
                let fio =
                    |other: &&Run| other.tool == Tool::Fio && other.case == case && other.round == run.round;
                let fio = all.iter().find(fio)?.measured.as_ref()?;
                Some(pick(fio).seconds / pick(run.measured.as_ref()?).seconds)
            })
            .collect();
        if tool == Tool::Fio { None } else { median(&ratios) }
    };
    Summary {
        tool,
        case,
        runs: own.len(),
        failed: own.len() - good.len(),
        write: Rate::of(&ways(|run| &run.write), bytes),
        read: Rate::of(&ways(|run| &run.read), bytes),
        peak_rss_mib: median(&good.iter().map(|run| run.peak_rss_mib).collect::<Vec<_>>())
            .filter(|_| tool == Tool::Service),
        write_to_fio: to_fio(|run| &run.write),
        read_to_fio: to_fio(|run| &run.read),
    }
}

impl Setting {
    fn new(args: &StorageArgs, fio: Option<String>) -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            size_mib: args.size_mib,
            runs: args.runs,
            queue_depth: args.queue_depth,
            write_kib: args.write_kib,
            file_system: file_system(&args.dir),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_model: model.map(|(_, name)| name.to_owned()).unwrap_or_default(),
            kernel: kernel.trim().to_owned(),
            fio,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Alloc, Order};
    use super::*;

    fn way(seconds: f64) -> Way {
        Way { seconds, cpu_s: 0.1, p50_us: 10, p99_us: 20, p999_us: 30 }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let args = StorageArgs {
            dir: "/".into(),
            size_mib: 1024,
            pieces_kib: vec![1024],
            alloc: vec![Alloc::Full],
            order: vec![Order::Random],
            runs: 3,
            window_mib: 16,
            queue_depth: None,
            write_kib: None,
            json: None,
        };
        let case = super::super::cases(&args)[0];
        assert_eq!(case.window, 16);
        let mut runs = Vec::new();
        for (round, (service, fio)) in [(1.0, 2.0), (2.0, 1.0), (4.0, 3.0)].into_iter().enumerate() {
            for (tool, seconds) in [(Tool::Service, service), (Tool::Fio, fio)] {
                let (write, read) = (way(seconds), way(1.0));
                let measured = Measured { write, read, peak_rss_mib: 1.0, seen: None };
                runs.push(Run::new(tool, case, round as u32, Ok(measured)));
            }
        }
        runs.push(Run::new(Tool::Service, case, 3, Err(BenchError::Client("no luck".into()))));
        let report = Report::new(&args, Some("fio-3".into()), runs);
        let service = &report.summary[0];
        assert_eq!((service.write_to_fio, service.read_to_fio), (Some(0.75), Some(1.0)));
        assert_eq!((service.runs, service.failed), (4, 1));
        assert_eq!(report.summary[1].write_to_fio, None);
        assert!(!report.all_succeeded());
        assert!(report.table().contains("75%"), "{}", report.table());
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("valid");
        assert_eq!(json["summary"][0]["piece_kib"], 1024);
        assert_eq!(json["runs"][6]["error"], "no luck");
    }
}

//! From single measurements to medians, the table and the JSON.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use super::subject::Subject;
use super::{Case, Load, Measured, ScaleArgs};
use crate::error::BenchError;
use crate::machine::Machine;
use crate::stats::median;

/// One measurement.
#[derive(Debug, Clone)]
pub(super) struct Run {
    client: &'static str,
    case: Case,
    outcome: Result<Measured, String>,
}

impl Run {
    pub(super) fn new(client: &'static str, case: Case, outcome: Result<Measured, BenchError>) -> Self {
        Self { client, case, outcome: outcome.map_err(|error| error.to_string()) }
    }

    pub(super) fn succeeded(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|measured| measured.lost == 0)
    }

    /// One line of progress.
    pub(super) fn line(&self) -> String {
        let start = format!("{} {} {}:", self.client, self.case.number, name(self.case.load));
        match &self.outcome {
            Ok(m) => format!(
                "{start} {:.3} % CPU, {:.1} wake-ups/s, {:.0} KiB PSS, {:.0} KiB anonymous, {} descriptors, {} lost",
                m.idle.cpu_percent,
                m.idle.wakeups_per_s,
                m.memory.pss_kib,
                m.memory.anon_kib,
                m.idle.descriptors,
                m.lost
            ),
            Err(error) => format!("{start} FAILED: {error}"),
        }
    }
}

fn name(load: Load) -> &'static str {
    match load {
        Load::Connections => "connections",
        Load::Torrents => "torrents",
        Load::Tracked => "tracked",
    }
}

/// Medians of one client in one case.
#[derive(Debug, Clone, Serialize)]
struct Summary {
    client: &'static str,
    #[serde(flatten)]
    case: Case,
    runs: usize,
    failed: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    figures: Option<Figures>,
}

#[derive(Debug, Clone, Serialize)]
struct Figures {
    #[serde(skip_serializing_if = "Option::is_none")]
    add_seconds: Option<f64>,
    idle_cpu_percent: f64,
    wakeups_per_s: f64,
    rss_mib: f64,
    pss_mib: f64,
    anon_mib: f64,
    /// Anonymous memory for each connection or torrent, KiB: growth over the process without them.
    #[serde(skip_serializing_if = "Option::is_none")]
    anon_kib_each: Option<f64>,
    descriptors: f64,
}

/// Everything measured.
pub(super) struct Report {
    setting: Value,
    summary: Vec<Summary>,
}

impl Report {
    pub(super) fn new(args: &ScaleArgs, subjects: &[Subject], runs: &[Run]) -> Self {
        let clients: Vec<Value> = subjects
            .iter()
            .map(|subject| json!({ "name": subject.name(), "version": subject.version() }))
            .collect();
        let setting = json!({
            "machine": Machine::this(), "clients": clients, "pieces": args.pieces, "idle_s": args.idle_s,
            "runs_each": args.runs,
        });
        let mut summary: Vec<Summary> = Vec::new();
        for run in runs {
            if !summary.iter().any(|row| row.client == run.client && row.case == run.case) {
                summary.push(summarise(runs, run.client, run.case));
            }
        }
        let order = |row: &Summary| (row.case.load as usize, row.case.number);
        summary.sort_by_key(order);
        Self { setting, summary }
    }

    pub(super) fn table(&self) -> String {
        let mut out = String::from(
            "load        number client       ok  add s  idle CPU %  wake-ups/s  RSS MiB  PSS MiB  KiB each  fds\n",
        );
        for row in &self.summary {
            let ok = row.runs - row.failed;
            write!(
                out,
                "{:11} {:6} {:12} {ok}/{}",
                name(row.case.load),
                row.case.number,
                row.client,
                row.runs
            )
            .expect("strings take all");
            if let Some(figures) = &row.figures {
                let dash = |value: Option<f64>, digits| value.map_or("-".into(), |v| format!("{v:.digits$}"));
                write!(
                    out,
                    " {:>5} {:11.3} {:11.1} {:8.1} {:8.1} {:>9} {:4.0}",
                    dash(figures.add_seconds, 2),
                    figures.idle_cpu_percent,
                    figures.wakeups_per_s,
                    figures.rss_mib,
                    figures.pss_mib,
                    dash(figures.anon_kib_each, 2),
                    figures.descriptors
                )
                .expect("strings take all");
            }
            out.push('\n');
        }
        out
    }

    pub(super) fn json(&self) -> String {
        let lower =
            ["idle_cpu_percent", "wakeups_per_s", "pss_mib", "anon_mib", "anon_kib_each", "descriptors"];
        let better: serde_json::Map<String, Value> =
            lower.iter().map(|name| ((*name).to_owned(), json!("lower"))).collect();
        let all = json!({ "setting": self.setting, "better": better, "summary": self.summary });
        serde_json::to_string_pretty(&all).expect("plain data serialises") + "\n"
    }
}

fn summarise(runs: &[Run], client: &'static str, case: Case) -> Summary {
    let all: Vec<&Run> = runs.iter().filter(|run| run.client == client && run.case == case).collect();
    let good: Vec<Measured> =
        all.iter().filter(|run| run.succeeded()).filter_map(|run| run.outcome.clone().ok()).collect();
    let base = base_anon_kib(runs, client, case);
    Summary {
        client,
        case,
        runs: all.len(),
        failed: all.len() - good.len(),
        figures: figures(&good, case, base),
    }
}

/// Anonymous memory of the same client with the fewest torrents that were measured, and their number.
fn base_anon_kib(runs: &[Run], client: &str, case: Case) -> Option<(usize, f64)> {
    let same = |run: &&Run| run.client == client && run.case.load == case.load;
    let least = runs.iter().filter(same).map(|run| run.case.number).min()?;
    let anon: Vec<f64> = runs
        .iter()
        .filter(same)
        .filter(|run| run.case.number == least)
        .filter_map(|run| Some(run.outcome.as_ref().ok()?.memory.anon_kib))
        .collect();
    Some((least, median(&anon)?)).filter(|_| least < case.number)
}

fn figures(good: &[Measured], case: Case, base: Option<(usize, f64)>) -> Option<Figures> {
    let of = |pick: &dyn Fn(&Measured) -> f64| median(&good.iter().map(pick).collect::<Vec<_>>());
    let anon_kib = of(&|m| m.memory.anon_kib)?;
    let anon_kib_each = match case.load {
        Load::Connections => of(&|m| (m.memory.anon_kib - m.start.anon_kib) / case.number as f64),
        Load::Torrents | Load::Tracked => {
            base.map(|(least, anon)| (anon_kib - anon) / (case.number - least) as f64)
        }
    };
    let add: Vec<f64> = good.iter().filter_map(|m| m.add_s).collect();
    Some(Figures {
        add_seconds: median(&add).filter(|_| case.load != Load::Connections),
        idle_cpu_percent: of(&|m| m.idle.cpu_percent)?,
        wakeups_per_s: of(&|m| m.idle.wakeups_per_s)?,
        rss_mib: of(&|m| m.memory.rss_kib)? / 1024.0,
        pss_mib: of(&|m| m.memory.pss_kib)? / 1024.0,
        anon_mib: anon_kib / 1024.0,
        anon_kib_each,
        descriptors: of(&|m| m.idle.descriptors as f64)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Idle, Memory};
    use super::*;

    fn run(number: usize, start: f64, end: f64, cpu_percent: f64) -> Run {
        let memory = |anon_kib| Memory { rss_kib: 2.0 * anon_kib, pss_kib: anon_kib, anon_kib };
        let idle = Idle { cpu_percent, wakeups_per_s: 1.0, descriptors: number };
        let measured =
            Measured { add_s: Some(1.0), start: memory(start), memory: memory(end), idle, lost: 0 };
        Run { client: "ccbt", case: Case { load: Load::Connections, number }, outcome: Ok(measured) }
    }

    #[test]
    fn medians_of_growth_and_rest() {
        let mut runs =
            vec![run(10, 100.0, 140.0, 0.1), run(10, 100.0, 150.0, 0.3), run(10, 100.0, 160.0, 0.2)];
        runs.push(Run { outcome: Err("broken".into()), ..runs[0].clone() });
        let row = summarise(&runs, "ccbt", runs[0].case);
        let figures = row.figures.expect("three succeeded");
        assert_eq!((row.runs, row.failed, figures.anon_kib_each), (4, 1, Some(5.0)));
        assert!((figures.idle_cpu_percent - 0.2).abs() < 1e-9 && figures.add_seconds.is_none());
    }

    #[test]
    fn torrents_are_compared_with_the_fewest() {
        let of = |number, end| {
            let mut run = run(number, 0.0, end, 0.1);
            run.case.load = Load::Torrents;
            run
        };
        let runs = [of(10, 1000.0), of(110, 2000.0)];
        let each = |run: &Run| summarise(&runs, "ccbt", run.case).figures.and_then(|f| f.anon_kib_each);
        assert_eq!((each(&runs[0]), each(&runs[1])), (None, Some(10.0)));
    }
}

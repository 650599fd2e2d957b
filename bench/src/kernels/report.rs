//! From single rates to medians, the table for people and the JSON for programs.
//!
//! Role: pure formatting of what `kernels::run` measured, and the verdict on the engine's rule. GB are 10^9 bytes.

use std::fmt::Write;

use ccbt_storage::hash::algorithm::{Algorithm, Sha1Algorithm, Sha256Algorithm};
use ccbt_storage::hash::{Backend, Kernel, LANES_MAX};
use serde::Serialize;

use super::plan::{Choice, Costs, choices, crossover};
use super::subject::Subject;
use super::{HashArgs, POOL_JOBS, POOL_PIECE_LEN};
use crate::machine::Machine;
use crate::stats::median;

/// The rule agrees with the measurement when it gives away no more than this share: less is noise.
const LOSS_MAX: f64 = 0.05;
/// The set that the rule is judged by: pieces come from memory.
const JUDGED_SET: &str = "memory";

/// One subject on one set.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) set: &'static str,
    pub(super) algorithm: &'static str,
    pub(super) subject: String,
    /// Messages at once.
    pub(super) lanes: usize,
    gb_per_s: f64,
    gb_per_s_min: f64,
    gb_per_s_max: f64,
    #[serde(skip)]
    kernel: Option<Kernel>,
}

impl Row {
    /// Panics when there are no rates.
    pub(super) fn new(set: &'static str, subject: &Subject, rates: &[f64]) -> Self {
        let extreme = |pick: fn(f64, f64) -> f64| rates.iter().copied().reduce(pick);
        Self {
            set,
            algorithm: subject.algorithm,
            subject: subject.name.clone(),
            lanes: subject.lanes,
            gb_per_s: median(rates).expect("at least one round"),
            gb_per_s_min: extreme(f64::min).expect("at least one round"),
            gb_per_s_max: extreme(f64::max).expect("at least one round"),
            kernel: subject.kernel,
        }
    }
}

/// What a set of kernels makes of batches of all sizes.
#[derive(Debug, Clone, Serialize)]
struct Judgement {
    algorithm: &'static str,
    /// The CPU class.
    backend: &'static str,
    /// From how many messages on the wide kernel is used, by the rule.
    wide_from_by_rule: Option<usize>,
    /// From how many messages on it is the fastest, as measured.
    wide_from_as_measured: Option<usize>,
    /// Largest share of throughput given away.
    loss_max: f64,
    choices: Vec<Choice>,
}

impl Judgement {
    fn all(rows: &[Row]) -> Vec<Self> {
        let mut judgements = Self::of_algorithm::<Sha1Algorithm>(rows);
        judgements.extend(Self::of_algorithm::<Sha256Algorithm>(rows));
        judgements
    }

    fn of_algorithm<A: Algorithm>(rows: &[Row]) -> Vec<Self> {
        let mut costs = Costs::default();
        for row in rows.iter().filter(|row| row.set == JUDGED_SET && row.algorithm == A::NAME) {
            if let Some(kernel) = row.kernel {
                costs.measured(kernel, row.lanes, row.gb_per_s);
            }
        }
        let mut classes = classes();
        if A::NAME == Sha256Algorithm::NAME && Kernel::ShaNi.is_available() {
            // The portable kernel is a crate that takes SHA-NI where it is: as slow as without, it cannot be had.
            classes.retain(|kernels| kernels.contains(&Kernel::ShaNi));
        }
        classes.into_iter().filter_map(|kernels| Self::new::<A>(&costs, &kernels)).collect()
    }

    /// `None` when this CPU lacks a kernel or not all were measured.
    fn new<A: Algorithm>(costs: &Costs, kernels: &[Kernel]) -> Option<Self> {
        let choices = choices::<A>(costs, kernels, LANES_MAX);
        let loss_max = choices.iter().map(Choice::loss).reduce(f64::max)?;
        let (wide_from_by_rule, wide_from_as_measured) = crossover(&choices);
        let backend = Backend::of(kernels)?.name();
        let algorithm = A::NAME;
        Some(Self { algorithm, backend, wide_from_by_rule, wide_from_as_measured, loss_max, choices })
    }
}

/// CPU classes, this CPU's own first: what it would do without some of its instructions.
fn classes() -> Vec<Vec<Kernel>> {
    let own: Vec<Kernel> = Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()).collect();
    let mut classes = vec![own];
    for fewer in [
        vec![Kernel::Portable, Kernel::Avx2, Kernel::ShaNi],
        vec![Kernel::Portable, Kernel::Avx2, Kernel::Avx512],
        vec![Kernel::Portable, Kernel::Avx2],
    ] {
        if !classes.contains(&fewer) {
            classes.push(fewer);
        }
    }
    classes
}

/// The machine and the sets.
#[derive(Debug, Clone, Serialize)]
struct Setting {
    #[serde(flatten)]
    machine: Machine,
    backend: &'static str,
    cached_mib: u32,
    memory_mib: u32,
    piece_kib: u32,
    pool_jobs: usize,
    pool_piece_kib: usize,
    rounds: u32,
    measure_ms: u64,
}

/// Everything one call of `hash` found out.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    /// Version of this JSON's layout.
    schema: u32,
    setting: Setting,
    dispatch: Vec<Judgement>,
    rows: Vec<Row>,
}

impl Report {
    pub(super) fn new(args: &HashArgs, rows: Vec<Row>) -> Self {
        let setting = Setting {
            machine: Machine::this(),
            backend: Backend::detect().name(),
            cached_mib: args.cached_mib,
            memory_mib: args.memory_mib,
            piece_kib: args.piece_kib,
            pool_jobs: POOL_JOBS,
            pool_piece_kib: POOL_PIECE_LEN / 1024,
            rounds: args.rounds,
            measure_ms: args.measure_ms,
        };
        Self { schema: 1, setting, dispatch: Judgement::all(&rows), rows }
    }

    /// Whether the rule for this CPU gives nothing away.
    pub(super) fn agrees(&self) -> bool {
        let own = self.dispatch.iter().filter(|judged| judged.backend == self.setting.backend);
        own.into_iter().all(|judged| judged.loss_max <= LOSS_MAX)
    }

    /// Pretty-printed JSON.
    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data serialises") + "\n"
    }

    /// The table for a terminal.
    pub(super) fn table(&self) -> String {
        let mut out = String::new();
        let mut line = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("strings take all");
        let setting = &self.setting;
        line(format_args!(
            "\n{} CPUs ({}), Linux {}; this CPU: {}",
            setting.machine.cpus, setting.machine.cpu_model, setting.machine.kernel, setting.backend
        ));
        line(format_args!(
            "cache: {} MiB, memory: {} MiB, pieces of {} KiB; pool: {} pieces of {} KiB; GB/s, medians of {}",
            setting.cached_mib,
            setting.memory_mib,
            setting.piece_kib,
            setting.pool_jobs,
            setting.pool_piece_kib,
            setting.rounds
        ));
        for set in ["cache", "memory", "pool"] {
            for algorithm in [Sha1Algorithm::NAME, Sha256Algorithm::NAME] {
                self.rates(set, algorithm).iter().for_each(|text| line(format_args!("{text}")));
            }
        }
        for judged in &self.dispatch {
            self.judgement(judged).iter().for_each(|text| line(format_args!("{text}")));
        }
        out
    }

    /// A line per subject, with its number of messages and rates.
    fn rates(&self, set: &str, algorithm: &str) -> Vec<String> {
        let rows = self.rows.iter().filter(|row| row.set == set && row.algorithm == algorithm);
        let mut lines: Vec<String> = Vec::new();
        let mut before = "";
        for row in rows {
            if lines.is_empty() {
                lines.push(format!("\n{algorithm}, {set}"));
            }
            let rate = format!("x{} {:.2}", row.lanes, row.gb_per_s);
            match lines.last_mut() {
                Some(last) if before == row.subject => *last += &format!("  {rate}"),
                _ => lines.push(format!("  {:<20} {rate}", row.subject)),
            }
            before = &row.subject;
        }
        lines
    }

    /// The crossover, and every batch for which the rule is not the best.
    fn judgement(&self, judged: &Judgement) -> Vec<String> {
        let count = |from: Option<usize>| from.map_or("never".to_owned(), |from| format!("from {from}"));
        let is_own = judged.backend == self.setting.backend;
        let verdict = if judged.loss_max <= LOSS_MAX { "agrees" } else { "DISAGREES" };
        let mut lines = vec![format!(
            "\n{} with {}{}: a message per lane {} by the rule, {} as measured; the rule {verdict} \
             (gives away {:.1} % at most)",
            judged.algorithm,
            judged.backend,
            if is_own { "" } else { " only" },
            count(judged.wide_from_by_rule),
            count(judged.wide_from_as_measured),
            judged.loss_max * 100.0
        )];
        for choice in judged.choices.iter().filter(|choice| is_own || choice.loss() > LOSS_MAX) {
            lines.push(format!(
                "  {:>2} messages: {:<20} {:5.2}   best {:<20} {:5.2}",
                choice.messages, choice.rule, choice.rule_gb_per_s, choice.best, choice.best_gb_per_s
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: HashArgs,
    }

    fn row(kernel: Option<Kernel>, name: &str, lanes: usize, rates: &[f64]) -> Row {
        let step = Box::new(|_: &mut super::super::Set| Ok(0));
        let subject = Subject { algorithm: "SHA-1", name: name.into(), lanes, kernel, step };
        Row::new("memory", &subject, rates)
    }

    /// Every kernel at `rate(kernel, lanes)`, and a library.
    fn report(rate: impl Fn(Kernel, usize) -> f64) -> Report {
        let mut rows = Vec::new();
        for kernel in Kernel::ALL {
            for lanes in 1..=kernel.lanes() {
                rows.push(row(Some(kernel), kernel.name(), lanes, &[rate(kernel, lanes)]));
            }
        }
        rows.push(row(None, "sha1 crate", 1, &[9.0, 1.0, 2.0]));
        Report::new(&Cli::parse_from(["x"]).args, rows)
    }

    #[test]
    fn medians_and_extremes() {
        let report = report(|_, lanes| lanes as f64);
        let library = report.rows.last().unwrap();
        assert_eq!((library.gb_per_s, library.gb_per_s_min, library.gb_per_s_max), (2.0, 1.0, 9.0));
        let table = report.table();
        assert!(table.contains("SHA-NI               x1 1.00  x2 2.00  x3 3.00  x4 4.00"), "{table}");
        assert!(table.contains("sha1 crate           x1 2.00\n"), "{table}");
    }

    #[test]
    fn a_rule_that_gives_throughput_away_is_told() {
        // The portable kernel beats everything, which no rule expects where there is another.
        let slow = report(|kernel, _| if kernel == Kernel::Portable { 100.0 } else { 1.0 });
        let has_others = Backend::detect().name() != "portable";
        assert_eq!(slow.agrees(), !has_others, "{}", slow.table());
        assert_eq!(slow.table().contains("DISAGREES"), has_others);
        let value: serde_json::Value = serde_json::from_str(&slow.json()).unwrap();
        assert_eq!(value["schema"], 1);
        assert_eq!(value["setting"]["pool_jobs"], 64);
        assert_eq!(value["dispatch"][0]["algorithm"], "SHA-1");
        assert_eq!(value["dispatch"][0]["choices"][15]["messages"], 16);
        assert_eq!(value["rows"][0]["gb_per_s"], 100.0);
        assert!(value["setting"]["cpus"].is_u64(), "the machine's details are in the setting");
    }
}

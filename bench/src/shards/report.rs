//! Figures of `ccbt-bench shards`: of each run, and medians by mode and number of shards.
//!
//! Role: pure arithmetic, the table and the JSON file. CPU seconds are per GiB of payload. The model takes every thread
//! to have a core of its own: the rate is then that of the busiest shard, of storage or of hashing, whichever is least.

use std::fmt::Write;

use serde::Serialize;

use super::ShardsArgs;
use super::run::{Measured, Told};
use super::threads::ThreadUse;
use crate::clients::Direction;
use crate::machine::Machine;
use crate::stats::median;

const GIB: f64 = (1u64 << 30) as f64;

/// Figures of one run, or medians of several.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// Payload bytes per second, in millions.
    pub mb_per_s: f64,
    /// Of the shard's thread that used most.
    pub busiest_cpu_s_per_gib: f64,
    /// Of all shards' threads.
    pub shards_cpu_s_per_gib: f64,
    pub storage_cpu_s_per_gib: f64,
    /// Of all hash threads.
    pub hash_cpu_s_per_gib: f64,
    /// The kernel's workers for the rings, and everything else in the process.
    pub other_cpu_s_per_gib: f64,
    pub generator_cpu_s_per_gib: f64,
    /// Payload of the busiest shard against the mean of all: 1 is even.
    pub bytes_max_to_mean: f64,
    /// The same of their connections.
    pub peers_max_to_mean: f64,
    /// Between shards, for each piece of the torrent.
    pub messages_per_piece: f64,
    /// Of these, about pieces.
    pub lease_messages_per_piece: f64,
    /// Context switches of all threads, for each GiB.
    pub switches_per_gib: f64,
    /// If every thread had a core.
    pub model_gib_per_s: f64,
    /// What sets it.
    #[serde(skip)]
    pub model_limit: &'static str,
}

/// One run.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub mode: Direction,
    pub shards: u32,
    pub figures: Figures,
    pub told: Vec<Told>,
}

#[derive(Debug, Serialize)]
struct Summary {
    mode: Direction,
    shards: u32,
    runs: usize,
    #[serde(flatten)]
    figures: Figures,
    /// Rates against those of the smallest number of shards, as measured and by the model.
    rate_ratio: f64,
    model_ratio: f64,
    model_limit: &'static str,
}

#[derive(Debug, Serialize)]
struct Setting {
    size_mib: u32,
    connections: u32,
    piece_kib: u32,
    memory_mib: u32,
    incoming: bool,
    quota_percent: Option<u32>,
    #[serde(flatten)]
    machine: Machine,
}

/// All results.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    setting: Setting,
    summary: Vec<Summary>,
    runs: Vec<Row>,
    failed: u32,
}

impl Row {
    pub fn new(mode: Direction, shards: u32, args: &ShardsArgs, measured: Measured) -> Self {
        let (bytes, piece) = (u64::from(args.size_mib) << 20, u64::from(args.piece_kib) << 10);
        let figures = figures(mode, bytes, bytes.div_ceil(piece), &measured);
        Self { mode, shards, figures, told: measured.shards }
    }

    /// One line, for whoever watches.
    pub fn line(&self) -> String {
        let (figures, mode) = (&self.figures, name(self.mode));
        let peers: Vec<u64> = self.told.iter().map(|told| told.peers).collect();
        format!(
            "{mode} {} shards: {:.0} MB/s, busiest shard {:.3} s/GiB, all {:.3}, peers {peers:?}",
            self.shards, figures.mb_per_s, figures.busiest_cpu_s_per_gib, figures.shards_cpu_s_per_gib
        )
    }
}

fn figures(mode: Direction, bytes: u64, pieces: u64, measured: &Measured) -> Figures {
    let gib = bytes as f64 / GIB;
    let of = |prefix: &str| -> Vec<f64> {
        let ours = measured.threads.iter().filter(|thread| thread.name.starts_with(prefix));
        ours.map(|thread| thread.cpu_s / gib).collect()
    };
    let (shards, storage, hash) = (of("ccbt-shard-"), of("ccbt-storage"), of("ccbt-hash-"));
    let sum = |list: &[f64]| list.iter().sum::<f64>();
    let max = |list: &[f64]| list.iter().copied().fold(0.0, f64::max);
    let all = sum(&measured.threads.iter().map(|thread| thread.cpu_s / gib).collect::<Vec<_>>());
    let moved = |told: &Told| if mode == Direction::Download { told.received } else { told.sent };
    let total = |count: fn(&Told) -> u64| measured.shards.iter().map(count).sum::<u64>() as f64;
    let limits = [("shards", max(&shards)), ("storage", max(&storage)), ("hash", max(&hash))];
    let (limit, most) = limits.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("three of them");
    let switches: u64 = measured.threads.iter().map(|thread: &ThreadUse| thread.switches).sum();
    Figures {
        mb_per_s: bytes as f64 / 1e6 / measured.seconds,
        busiest_cpu_s_per_gib: max(&shards),
        shards_cpu_s_per_gib: sum(&shards),
        storage_cpu_s_per_gib: sum(&storage),
        hash_cpu_s_per_gib: sum(&hash),
        other_cpu_s_per_gib: (all - sum(&shards) - sum(&storage) - sum(&hash)).max(0.0),
        generator_cpu_s_per_gib: measured.generator_cpu_s / gib,
        bytes_max_to_mean: max_to_mean(measured.shards.iter().map(moved)),
        peers_max_to_mean: max_to_mean(measured.shards.iter().map(|told| told.peers)),
        messages_per_piece: total(|told| told.messages) / pieces as f64,
        lease_messages_per_piece: total(|told| told.lease_messages) / pieces as f64,
        switches_per_gib: switches as f64 / gib,
        model_gib_per_s: 1.0 / most.max(1e-9),
        model_limit: limit,
    }
}

fn max_to_mean(counts: impl Iterator<Item = u64>) -> f64 {
    let counts: Vec<f64> = counts.map(|count| count as f64).collect();
    let mean = counts.iter().sum::<f64>() / counts.len().max(1) as f64;
    counts.into_iter().fold(0.0, f64::max) / mean.max(1e-9)
}

/// Field by field.
fn medians(rows: &[&Figures]) -> Figures {
    let of = |field: fn(&Figures) -> f64| {
        median(&rows.iter().map(|row| field(row)).collect::<Vec<_>>()).expect("at least one run")
    };
    Figures {
        mb_per_s: of(|f| f.mb_per_s),
        busiest_cpu_s_per_gib: of(|f| f.busiest_cpu_s_per_gib),
        shards_cpu_s_per_gib: of(|f| f.shards_cpu_s_per_gib),
        storage_cpu_s_per_gib: of(|f| f.storage_cpu_s_per_gib),
        hash_cpu_s_per_gib: of(|f| f.hash_cpu_s_per_gib),
        other_cpu_s_per_gib: of(|f| f.other_cpu_s_per_gib),
        generator_cpu_s_per_gib: of(|f| f.generator_cpu_s_per_gib),
        bytes_max_to_mean: of(|f| f.bytes_max_to_mean),
        peers_max_to_mean: of(|f| f.peers_max_to_mean),
        messages_per_piece: of(|f| f.messages_per_piece),
        lease_messages_per_piece: of(|f| f.lease_messages_per_piece),
        switches_per_gib: of(|f| f.switches_per_gib),
        model_gib_per_s: of(|f| f.model_gib_per_s),
        model_limit: rows[0].model_limit,
    }
}

const fn name(mode: Direction) -> &'static str {
    match mode {
        Direction::Download => "download",
        Direction::Seed => "seed",
    }
}

impl Report {
    pub fn new(args: &ShardsArgs, runs: Vec<Row>, failed: u32) -> Self {
        let mut summary: Vec<Summary> = Vec::new();
        for mode in [Direction::Download, Direction::Seed] {
            let mut first: Option<Figures> = None;
            for &shards in &args.shards {
                let same = runs.iter().filter(|row| row.mode == mode && row.shards == shards);
                let same: Vec<&Figures> = same.map(|row| &row.figures).collect();
                if same.is_empty() {
                    continue;
                }
                let figures = medians(&same);
                let base = first.get_or_insert_with(|| figures.clone());
                summary.push(Summary {
                    mode,
                    shards,
                    runs: same.len(),
                    rate_ratio: figures.mb_per_s / base.mb_per_s,
                    model_ratio: figures.model_gib_per_s / base.model_gib_per_s,
                    model_limit: figures.model_limit,
                    figures,
                });
            }
        }
        let setting = Setting {
            size_mib: args.size_mib,
            connections: args.connections,
            piece_kib: args.piece_kib,
            memory_mib: args.memory_mib,
            incoming: args.incoming,
            quota_percent: args.quota_percent,
            machine: Machine::this(),
        };
        Self { setting, summary, runs, failed }
    }

    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain numbers are JSON") + "\n"
    }

    pub fn table(&self) -> String {
        let (setting, mut out) = (&self.setting, String::new());
        let quota = setting.quota_percent.map(|percent| format!(", {percent} % of a core for each shard"));
        let _ = writeln!(
            out,
            "{} MiB, pieces of {} KiB, {} connections{}; {} CPUs, Linux {}\n\
             {:<8} {:>6} {:>6} {:>6} | {:>7} {:>6} {:>7} {:>6} {:>6} | {:>6} {:>6} {:>9} {:>8} | {:>7} {:>6} limit",
            setting.size_mib,
            setting.piece_kib,
            setting.connections,
            quota.unwrap_or_default(),
            setting.machine.cpus,
            setting.machine.kernel,
            "",
            "shards",
            "MB/s",
            "ratio",
            "busiest",
            "shards",
            "storage",
            "hash",
            "other",
            "bytes",
            "peers",
            "msg/piece",
            "switches",
            "GiB/s",
            "ratio"
        );
        for row in &self.summary {
            let f = &row.figures;
            let _ = writeln!(
                out,
                "{:<8} {:>6} {:>6.0} {:>6.2} | {:>7.3} {:>6.3} {:>7.3} {:>6.3} {:>6.3} | {:>6.2} {:>6.2} {:>9.3} {:>8.0} \
                 | {:>7.2} {:>6.2} {}",
                name(row.mode),
                row.shards,
                f.mb_per_s,
                row.rate_ratio,
                f.busiest_cpu_s_per_gib,
                f.shards_cpu_s_per_gib,
                f.storage_cpu_s_per_gib,
                f.hash_cpu_s_per_gib,
                f.other_cpu_s_per_gib,
                f.bytes_max_to_mean,
                f.peers_max_to_mean,
                f.messages_per_piece,
                f.switches_per_gib,
                f.model_gib_per_s,
                row.model_ratio,
                row.model_limit
            );
        }
        if self.failed > 0 {
            let _ = writeln!(out, "{} runs failed", self.failed);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(name: &str, cpu_s: f64) -> ThreadUse {
        ThreadUse { name: name.to_owned(), cpu_s, switches: 10 }
    }

    #[test]
    fn the_busiest_shard_and_the_uneven_share_show() {
        let told = |received, peers| Told { received, peers, messages: 8, ..Told::default() };
        let threads = vec![
            thread("ccbt-shard-0", 0.6),
            thread("ccbt-shard-1", 0.2),
            thread("ccbt-storage", 0.1),
            thread("ccbt-hash-0", 0.3),
            thread("ccbt-fast", 0.05),
        ];
        let measured = Measured {
            seconds: 1.0,
            threads,
            shards: vec![told(300, 9), told(100, 3)],
            generator_cpu_s: 0.4,
        };
        let f = figures(Direction::Download, 2 << 30, 64, &measured);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} is not {b}");
        close(f.busiest_cpu_s_per_gib, 0.3);
        close(f.shards_cpu_s_per_gib, 0.4);
        close(f.hash_cpu_s_per_gib, 0.15);
        close(f.other_cpu_s_per_gib, 0.025);
        close(f.bytes_max_to_mean, 1.5);
        close(f.peers_max_to_mean, 1.5);
        close(f.messages_per_piece, 0.25);
        close(f.switches_per_gib, 25.0);
        close(f.model_gib_per_s, 1.0 / 0.3);
        assert_eq!(f.model_limit, "shards");
        let quick = Figures { mb_per_s: 1.0, ..f.clone() };
        assert_eq!(medians(&[&quick, &f, &f]).mb_per_s, f.mb_per_s);
    }
}

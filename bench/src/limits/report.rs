//! The table of set and measured rates for people, and the JSON for programs. MB are 10^6 bytes, GiB 2^30.

use std::fmt::Write;

use serde::Serialize;

use super::run::Measured;
use crate::clients::Direction;
use crate::machine::Machine;

/// Limits above this part of what an unlimited run reaches are not judged.
const REACHABLE: f64 = 0.9;

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    direction: Direction,
    shards: u16,
    peers: u32,
    /// Bytes per second; 0 = unlimited.
    set: u64,
    measured_mb_per_s: f64,
    /// Percent; `None` without a limit.
    deviation: Option<f64>,
    /// Whether an unlimited run was clearly faster than the limit.
    reachable: bool,
    cpu_s_per_gib: f64,
    /// CPU seconds per second.
    cores: f64,
    seconds: f64,
}

impl Row {
    pub(super) fn new(direction: Direction, shards: u16, peers: u32, set: u64, measured: Measured) -> Self {
        let Measured { seconds, bytes, cpu_s } = measured;
        let rate = bytes as f64 / seconds;
        Self {
            direction,
            shards,
            peers,
            set,
            measured_mb_per_s: rate / 1e6,
            deviation: (set > 0).then(|| (rate / set as f64 - 1.0) * 100.0),
            reachable: true,
            cpu_s_per_gib: cpu_s / (bytes as f64 / f64::from(1 << 30)),
            cores: cpu_s / seconds,
            seconds,
        }
    }

    fn line(&self) -> String {
        let direction = match self.direction {
            Direction::Download => "download",
            Direction::Seed => "seed",
        };
        let (set, deviation) = match self.deviation {
            None => ("no limit".to_owned(), String::new()),
            Some(deviation) => (format!("{:.3}", self.set as f64 / 1e6), format!("{deviation:+.2} %")),
        };
        let note = if self.reachable { "" } else { "  more than the machine can do" };
        format!(
            "{direction:<8} {:>6} {:>5} {set:>10} {:>10.3} {deviation:>9} {:>9.2} {:>6.2}{note}",
            self.shards, self.peers, self.measured_mb_per_s, self.cpu_s_per_gib, self.cores,
        )
    }
}

/// All measurements.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    tolerance: f64,
    rows: Vec<Row>,
}

impl Report {
    pub(super) fn new(tolerance: f64) -> Self {
        Self { machine: Machine::this(), tolerance, rows: Vec::new() }
    }

    /// Adds a row and tells it; the unlimited one of its kind comes first.
    pub(super) fn add(&mut self, mut row: Row) {
        let same = |other: &&Row| {
            other.set == 0
                && (other.direction, other.shards, other.peers) == (row.direction, row.shards, row.peers)
        };
        if let Some(unlimited) = self.rows.iter().find(same) {
            row.reachable = row.set as f64 <= unlimited.measured_mb_per_s * 1e6 * REACHABLE;
        }
        eprintln!("{}", row.line());
        self.rows.push(row);
    }

    /// Whether every limit that can be reached was kept and reached.
    pub(super) fn all_within(&self) -> bool {
        let judged = self.rows.iter().filter(|row| row.reachable);
        judged.filter_map(|row| row.deviation).all(|deviation| deviation.abs() <= self.tolerance)
    }

    pub(super) fn table(&self) -> String {
        let Machine { cpus, kernel, .. } = &self.machine;
        let mut text = format!("{cpus} CPUs, Linux {kernel}\n");
        text.push_str("         shards peers   set MB/s       MB/s deviation CPU s/GiB  cores\n");
        for row in &self.rows {
            let _ = writeln!(text, "{}", row.line());
        }
        text
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data serialises")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(set: u64, bytes: u64) -> Row {
        Row::new(Direction::Seed, 2, 9, set, Measured { seconds: 2.0, bytes, cpu_s: 1.0 })
    }

    #[test]
    fn only_what_can_be_reached_is_judged() {
        let mut report = Report::new(2.0);
        report.add(row(0, 2_000_000));
        report.add(row(500_000, 1_019_000));
        report.add(row(950_000, 1_000_000));
        assert!(report.all_within());
        assert_eq!(report.rows.iter().map(|row| row.reachable).collect::<Vec<_>>(), [true, true, false]);
        assert!(
            report.table().contains("+1.90 %") && report.table().contains("no limit"),
            "{}",
            report.table()
        );
        report.add(row(500_000, 979_000));
        assert!(!report.all_within());
    }
}

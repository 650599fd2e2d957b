//! `ccbt-bench hash`: the engine's hash kernels against each other, other libraries and `sha1sum`, on one core.
//!
//! Role: options and the order of measurements. Everything is measured in rounds, each subject once per round and set,
//! so that a slow moment of the machine meets all of them; the table shows medians. Invariant: a set is gone through
//! in turn, so the bytes of the large one come from memory.

mod plan;
mod report;
mod subject;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use crate::error::BenchError;
use report::{Report, Row};
use subject::{Set, Subject};

/// Pieces and length of the set for the pool, bytes.
const POOL_JOBS: usize = 64;
const POOL_PIECE_LEN: usize = 1 << 20;
/// Most messages that a kernel takes: a set needs a piece for each.
const LANES: u32 = ccbt_storage::hash::LANES_MAX as u32;

/// Options of `ccbt-bench hash`.
#[derive(Debug, Clone, Args)]
pub struct HashArgs {
    /// MiB of pieces that come from the caches
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    cached_mib: u32,
    /// MiB of pieces that come from memory; several times the last cache
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    memory_mib: u32,
    /// Piece length in KiB
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    piece_kib: u32,
    /// Rounds of measurements
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Milliseconds of each measurement
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    measure_ms: u64,
    /// Folder for the file that sha1sum reads: one in memory
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// Also write everything to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

impl HashArgs {
    /// Pieces in a set of so many MiB; an error when there are too few for all lanes.
    fn pieces(&self, option: &str, mib: u32) -> Result<usize, BenchError> {
        let count = mib * 1024 / self.piece_kib;
        if count < LANES {
            return Err(BenchError::Usage(format!(
                "{option} {mib} holds {count} pieces of {} KiB: make it {} or more, or --piece-kib smaller",
                self.piece_kib,
                (self.piece_kib * LANES).div_ceil(1024)
            )));
        }
        Ok(count as usize)
    }
}

/// A set and what hashes it.
struct Stage {
    set: Set,
    subjects: Vec<Subject>,
    /// GB/s of each subject, a value per round.
    rates: Vec<Vec<f64>>,
}

impl Stage {
    fn new(set: Set, subjects: Vec<Subject>) -> Self {
        let rates = vec![Vec::new(); subjects.len()];
        Self { set, subjects, rates }
    }

    /// Measures every subject once, starting with another one each round.
    fn round(&mut self, round: usize, time: Duration) -> Result<(), BenchError> {
        let count = self.subjects.len();
        for nth in 0..count {
            let at = (nth + round) % count;
            let rate = measure(&mut self.subjects[at], &mut self.set, time)?;
            self.rates[at].push(rate);
        }
        Ok(())
    }

    fn rows(&self) -> impl Iterator<Item = Row> {
        let pairs = self.subjects.iter().zip(&self.rates);
        pairs.map(|(subject, rates)| Row::new(self.set.name, subject, rates))
    }
}

/// GB/s (10^9 bytes) over at least `time`, after a quarter of it unmeasured.
fn measure(subject: &mut Subject, set: &mut Set, time: Duration) -> Result<f64, BenchError> {
    let mut run = |time: Duration| {
        let (start, mut bytes) = (Instant::now(), 0);
        loop {
            bytes += (subject.step)(set)?;
            let elapsed = start.elapsed();
            if elapsed >= time {
                return Ok::<_, BenchError>(bytes as f64 / elapsed.as_secs_f64() / 1e9);
            }
        }
    };
    run(time / 4)?;
    run(time)
}

/// Measures everything and prints the table; false when the engine's rule gives away throughput on this machine.
///
/// Errors: useless options, no memory, no room for the file, a program that fails.
pub fn run(args: &HashArgs) -> Result<bool, BenchError> {
    let piece_len = args.piece_kib as usize * 1024;
    let cached = Set::new("cache", piece_len, args.pieces("--cached-mib", args.cached_mib)?)?;
    let mut memory = Set::new("memory", piece_len, args.pieces("--memory-mib", args.memory_mib)?)?;
    let file = TemporaryFile(args.dir.join(format!("ccbt-bench-hash-{}", std::process::id())));
    memory.write(file.0.clone())?;
    let mut in_memory = subject::all();
    in_memory.extend(subject::programs());
    let pool = Set::new("pool", POOL_PIECE_LEN, POOL_JOBS)?;
    let mut stages = [
        Stage::new(cached, subject::all()),
        Stage::new(memory, in_memory),
        Stage::new(pool, subject::pool(POOL_JOBS)?),
    ];
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        for stage in &mut stages {
            stage.round(round as usize, Duration::from_millis(args.measure_ms))?;
        }
    }
    let report = Report::new(args, stages.iter().flat_map(Stage::rows).collect());
    print!("{}", report.table());
    if let Some(path) = &args.json {
        std::fs::write(path, report.json()).map_err(BenchError::file("write", path))?;
    }
    Ok(report.agrees())
}

/// Removed when it goes.
struct TemporaryFile(PathBuf);

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // There is none when writing it was what failed.
        let _ = std::fs::remove_file(&self.0);
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

    #[test]
    fn sets_must_hold_a_piece_for_each_lane() {
        let args = Cli::parse_from(["x", "--piece-kib", "1024"]).args;
        assert_eq!(args.pieces("--memory-mib", args.memory_mib).unwrap(), 256);
        let error = args.pieces("--cached-mib", args.cached_mib).unwrap_err().to_string();
        assert!(error.contains("--cached-mib 4 holds 4 pieces") && error.contains("16 or more"), "{error}");
    }

    #[test]
    fn every_subject_gets_a_rate_from_a_small_set() {
        let dir = tempfile::tempdir().unwrap();
        let mut set = Set::new("cache", 4096, 16).unwrap();
        set.write(dir.path().join("set")).unwrap();
        let mut subjects = subject::all();
        subjects.extend(subject::programs());
        subjects.extend(subject::pool(16).unwrap());
        let mut stage = Stage::new(set, subjects);
        stage.round(1, Duration::ZERO).unwrap();
        assert!(stage.rates.iter().all(|rates| rates.len() == 1 && rates[0] > 0.0));
        let rows: Vec<Row> = stage.rows().collect();
        assert!(rows.iter().any(|row| row.subject == "sha1 crate" && row.algorithm == "SHA-1"));
        assert!(rows.iter().any(|row| row.subject == "HashPool, 1 thread"));
    }
}

//! Does the runs that `plan` says: a warm-up with a small payload, then measured rounds with what fits the budget.
//!
//! Role: the loop between the pure plan and single runs. Owner: `transfer::run`. Invariant: a client that fails in the
//! warm-up is not run again in that group; its error is a row of the report.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Chosen;
use super::plan::{self, Candidate, Group, Probe, WarmUp};
use super::report::{RunResult, Task};
use super::run::Runner;
use crate::clients::Direction;
use crate::error::BenchError;

/// Part of the time left that is planned with; the rest is for slow moments of the machine.
const PLANNED: f64 = 0.92;
/// No round begins that would probably end later than this part of the budget.
const LATEST: f64 = 1.05;

/// A first warm-up that takes longer is the only one.
const LONG_S: f64 = 6.0;

/// All runs of one call of `transfer`.
pub(super) struct Matrix {
    pub(super) runner: Runner,
    pub(super) clients: Chosen,
    pub(super) groups: Vec<Group>,
    pub(super) largest: u64,
    pub(super) runs: u32,
    pub(super) budget: Duration,
    pub(super) started: Instant,
}

/// What one client does in one group.
struct Cell {
    group: usize,
    client: usize,
    bytes: u64,
    runs: u32,
}

impl Matrix {
    /// The tasks in the order of the report, with the largest payload.
    pub(super) fn tasks(&self) -> Vec<Task> {
        let pairs = (0..self.groups.len())
            .flat_map(|group| (0..self.clients.len()).map(move |client| (group, client)));
        pairs
            .map(|(group, client)| self.task(&Cell { group, client, bytes: self.largest, runs: 0 }))
            .collect()
    }

    /// Warm-up and measured rounds; what was done so far if it is interrupted.
    ///
    /// Errors: a payload that cannot be made. Failures of clients are results.
    pub(super) fn measure(&mut self) -> Result<Vec<RunResult>, BenchError> {
        let mut results = Vec::new();
        let pairs = plan::order(self.groups.len(), self.clients.len(), 0);
        let seconds =
            pairs.iter().map(|&(group, client)| plan::second(self.largest, self.least(group, client)));
        let sizes: Vec<u64> = seconds.chain([plan::smallest(self.largest)]).collect();
        self.prepare(&sizes)?;
        let mut warm = Vec::new();
        for (group, client) in pairs {
            match self.warm_up(group, client) {
                _ if self.is_stopped() => return Ok(results),
                Ok(probe) => {
                    let least = self.least(group, client);
                    warm.push((Cell { group, client, bytes: 0, runs: 0 }, Candidate { group, probe, least }));
                }
                Err(failed) => {
                    eprintln!("{}", failed.line());
                    results.push(*failed);
                }
            }
        }
        let candidates: Vec<_> = warm.iter().map(|(_, candidate)| *candidate).collect();
        let left = self.budget.saturating_sub(self.started.elapsed()).mul_f64(PLANNED);
        let rounds = plan::fit(&candidates, self.largest, self.runs, left.as_secs_f64());
        let chosen = rounds.bytes.iter().zip(&rounds.runs);
        let cells: Vec<Cell> = warm
            .into_iter()
            .zip(chosen)
            .map(|((cell, _), (&bytes, &runs))| Cell { bytes, runs, ..cell })
            .collect();
        eprintln!("warm-up: {:.0} s", self.started.elapsed().as_secs_f64());
        self.prepare(&rounds.bytes)?;
        self.rounds(&cells, &mut results);
        Ok(results)
    }

    /// One short run, and a second one of clients that may be too slow for the whole payload.
    ///
    /// Errors: the failed run.
    fn warm_up(&self, group: usize, client: usize) -> Result<Probe, Box<RunResult>> {
        let run = |bytes: u64| -> Result<WarmUp, Box<RunResult>> {
            let began = Instant::now();
            let result = self.run(&Cell { group, client, bytes, runs: 1 }, 0);
            let whole_s = began.elapsed().as_secs_f64();
            match &result.measured {
                Some(run) => Ok(WarmUp { bytes, transfer_s: run.seconds, whole_s }),
                None => Err(Box::new(result)),
            }
        };
        let least = self.least(group, client);
        let (small, second) = (plan::smallest(self.largest), plan::second(self.largest, least));
        let short = run(small)?;
        let probe = Probe::of(short);
        let cells = (self.groups.len() * self.clients.len()) as f64;
        let share_s = self.budget.as_secs_f64() / f64::from(self.runs + 1) / cells;
        let is_known = probe.estimate(self.largest) <= share_s || (least <= small && short.whole_s > LONG_S);
        if second == small || is_known || self.is_stopped() {
            return Ok(probe);
        }
        Ok(Probe::of_two(short, run(second)?))
    }

    fn rounds(&self, cells: &[Cell], results: &mut Vec<RunResult>) {
        let runs = cells.iter().map(|cell| cell.runs).max().unwrap_or(0);
        let mut longest = Duration::ZERO;
        for round in 0..runs {
            let began = Instant::now();
            if round > 0 && self.started.elapsed() + longest > self.budget.mul_f64(LATEST) {
                eprintln!("the budget is used up: {round} of {runs} rounds were run");
                return;
            }
            for (group, client) in plan::order(self.groups.len(), self.clients.len(), round) {
                let is_due = |cell: &&Cell| (cell.group, cell.client) == (group, client) && round < cell.runs;
                let cell = cells.iter().find(is_due);
                let Some(cell) = cell else { continue };
                let result = self.run(cell, round);
                if self.is_stopped() {
                    return;
                }
                eprintln!("round {}: {}", round + 1, result.line());
                results.push(result);
            }
            longest = longest.max(began.elapsed());
        }
    }

    /// Bytes that the client has to move to be shown as it is.
    fn least(&self, group: usize, client: usize) -> u64 {
        let of = self.groups[group];
        self.clients[client].0.least_mib(of.direction, of.connections) << 20
    }

    fn prepare(&mut self, sizes: &[u64]) -> Result<(), BenchError> {
        let seeds = self.groups.iter().any(|group| group.direction == Direction::Seed);
        sizes.iter().try_for_each(|&bytes| self.runner.prepare(bytes, seeds))
    }

    fn run(&self, cell: &Cell, round: u32) -> RunResult {
        let client = self.clients[cell.client].0.as_ref();
        RunResult::new(self.task(cell), round, self.runner.run(client, self.groups[cell.group], cell.bytes))
    }

    fn task(&self, cell: &Cell) -> Task {
        let group = self.groups[cell.group];
        Task {
            client: self.clients[cell.client].0.name().to_owned(),
            mode: group.direction,
            connections: group.connections,
            file_system: self.runner.places[group.place].file_system.clone(),
            payload_mib: cell.bytes >> 20,
        }
    }

    fn is_stopped(&self) -> bool {
        self.runner.stop.load(Ordering::Relaxed)
    }
}

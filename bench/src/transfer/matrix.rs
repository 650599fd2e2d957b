//! Does the runs that `plan` says: a warm-up with a small payload, then measured rounds with what fits the budget.
//!
//! Role: the loop between the pure plan and single runs. Owner: `transfer::run`. Invariant: a client that fails in the
//! warm-up is not run again in that group; its error is a row of the report.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Chosen;
use super::plan::{self, Candidate, Group, Probe};
use super::report::{RunResult, Task};
use super::run::Runner;
use crate::clients::Direction;
use crate::error::BenchError;

/// Part of the time left that is planned with; the rest is for slow moments of the machine.
const PLANNED: f64 = 0.92;
/// No round begins that would probably end later than this part of the budget.
const LATEST: f64 = 1.1;

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
}

impl Matrix {
    /// The tasks in the order of the report, with the largest payload.
    pub(super) fn tasks(&self) -> Vec<Task> {
        let pairs = (0..self.groups.len())
            .flat_map(|group| (0..self.clients.len()).map(move |client| (group, client)));
        pairs.map(|(group, client)| self.task(&Cell { group, client, bytes: self.largest })).collect()
    }

    /// Warm-up and measured rounds; what was done so far if it is interrupted.
    ///
    /// Errors: a payload that cannot be made. Failures of clients are results.
    pub(super) fn measure(&mut self) -> Result<Vec<RunResult>, BenchError> {
        let mut results = Vec::new();
        let small = plan::smallest(self.largest);
        self.prepare(&[small])?;
        let mut warm = Vec::new();
        for (group, client) in plan::order(self.groups.len(), self.clients.len(), 0) {
            let cell = Cell { group, client, bytes: small };
            let began = Instant::now();
            let result = self.run(&cell, 0);
            let whole_s = began.elapsed().as_secs_f64();
            if self.is_stopped() {
                return Ok(results);
            }
            match &result.measured {
                Some(run) => {
                    let probe = Probe { bytes: small, transfer_s: run.seconds, whole_s };
                    let of = self.groups[group];
                    let least = self.clients[client].0.least_mib(of.direction, of.connections) << 20;
                    warm.push((cell, Candidate { probe, least }));
                }
                None => {
                    eprintln!("{}", result.line());
                    results.push(result);
                }
            }
        }
        let candidates: Vec<_> = warm.iter().map(|(_, candidate)| *candidate).collect();
        let left = self.budget.saturating_sub(self.started.elapsed()).mul_f64(PLANNED);
        let rounds = plan::fit(&candidates, self.largest, self.runs, left.as_secs_f64());
        let cells: Vec<Cell> =
            warm.into_iter().zip(&rounds.bytes).map(|((cell, _), &bytes)| Cell { bytes, ..cell }).collect();
        eprintln!("warm-up: {:.0} s; {} rounds follow", self.started.elapsed().as_secs_f64(), rounds.runs);
        self.prepare(&rounds.bytes)?;
        self.rounds(&cells, rounds.runs, &mut results);
        Ok(results)
    }

    fn rounds(&self, cells: &[Cell], runs: u32, results: &mut Vec<RunResult>) {
        let mut longest = Duration::ZERO;
        for round in 0..runs {
            let began = Instant::now();
            if round > 0 && self.started.elapsed() + longest > self.budget.mul_f64(LATEST) {
                eprintln!("the budget is used up: {round} of {runs} rounds were run");
                return;
            }
            for (group, client) in plan::order(self.groups.len(), self.clients.len(), round) {
                let cell = cells.iter().find(|cell| (cell.group, cell.client) == (group, client));
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

//! Which runs there are, in which order, and how much each may move within the budget.
//!
//! Role: pure; `transfer` gives it what the warm-up round measured and does what it says.
//! Invariants: every client meets every group once per round, and clients of a group run one after the other, so that
//! what is compared was measured within a minute or two. All clients of a group move the same payload, or the fixed
//! costs of a start would count for more with some; one that is far too slow runs once, if need be with less.

use super::Mode;
use crate::clients::Direction;

/// How many times the payload may be halved for clients that are too slow for the budget.
const HALVINGS_MAX: u32 = 5;
/// Bytes that no payload goes below.
const SIZE_MIN: u64 = 4 << 20;
/// Seconds per GiB outside of the measured time: seeds check their data, downloads are checked and removed.
const CHECK_S_PER_GIB: f64 = 0.5;
/// A client is far too slow for its group when a run takes so many times what the middle one takes.
const SLOW_TIMES: f64 = 8.0;
/// Seconds that the only run of a client that is far too slow may take.
const SLOW_MAX_S: f64 = 30.0;

/// What clients are compared in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) direction: Direction,
    /// Index of the folder to work in.
    pub(super) place: usize,
    /// Synthetic peers.
    pub(super) connections: u32,
}

/// All groups: both directions in the first folder, and downloads with the middle number of connections in each other.
pub(super) fn groups(mode: Mode, connections: &[u32], places: usize) -> Vec<Group> {
    let directions: &[Direction] = match mode {
        Mode::Download => &[Direction::Download],
        Mode::Seed => &[Direction::Seed],
        Mode::Both => &[Direction::Download, Direction::Seed],
    };
    let first = directions.iter().flat_map(|&direction| {
        connections.iter().map(move |&connections| Group { direction, place: 0, connections })
    });
    let more = if mode == Mode::Seed { 1..1 } else { 1..places };
    let middle = middle(connections);
    let others = more.map(|place| Group { direction: Direction::Download, place, connections: middle });
    first.chain(others).collect()
}

/// The middle one by size, the lower of two; 0 for none.
pub(super) fn middle(connections: &[u32]) -> u32 {
    let mut sorted = connections.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

/// Order of one round as (group, client): rotated from round to round, and backwards in every other one, so that no
/// client always follows the same other one.
pub(super) fn order(groups: usize, clients: usize, round: u32) -> Vec<(usize, usize)> {
    let round = round as usize;
    let mut order: Vec<_> = (0..groups)
        .flat_map(|group| {
            let group = (group + round) % groups;
            (0..clients).map(move |client| (group, (client + round) % clients))
        })
        .collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// One run of the warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct WarmUp {
    /// What it moved.
    pub(super) bytes: u64,
    /// Seconds it moved for.
    pub(super) transfer_s: f64,
    /// Seconds altogether: start, checks and clean-up as well.
    pub(super) whole_s: f64,
}

/// How long runs take, from the warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Probe {
    fixed_s: f64,
    s_per_byte: f64,
}

impl Probe {
    /// From one run: as if the transfer took no time to get going.
    pub(super) fn of(run: WarmUp) -> Self {
        let s_per_byte = run.transfer_s / run.bytes as f64;
        Self { fixed_s: (run.whole_s - run.transfer_s).max(0.0), s_per_byte }
    }

    /// From a second, longer run too, which tells what is lost at the start of each.
    pub(super) fn of_two(short: WarmUp, long: WarmUp) -> Self {
        let average = long.transfer_s / long.bytes as f64;
        let slope = (long.transfer_s - short.transfer_s) / (long.bytes - short.bytes) as f64;
        // Chance may make the longer one the shorter one.
        let s_per_byte = slope.clamp(average / 5.0, average);
        Self { fixed_s: (long.whole_s - s_per_byte * long.bytes as f64).max(0.0), s_per_byte }
    }

    /// Seconds that a run with `bytes` will probably take.
    pub(super) fn estimate(&self, bytes: u64) -> f64 {
        let gib = bytes as f64 / f64::from(1 << 30);
        self.fixed_s + self.s_per_byte * bytes as f64 + CHECK_S_PER_GIB * gib
    }
}

/// One run in every round: what the warm-up found, and the least that says something about this client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Index of its group.
    pub(super) group: usize,
    pub(super) probe: Probe,
    /// Bytes below which the client would be shown while it still gets faster.
    pub(super) least: u64,
}

/// What the measured rounds will be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rounds {
    /// How many for each candidate; fewer than wanted if even the smallest payloads would take too long.
    pub(super) runs: Vec<u32>,
    /// Bytes for each candidate.
    pub(super) bytes: Vec<u64>,
}

/// Payload sizes: half of the one before, each a whole number of MiB.
fn sizes(largest: u64) -> impl Iterator<Item = u64> {
    (0..=HALVINGS_MAX)
        .map(move |halvings| largest >> halvings)
        .take_while(move |&size| size == largest || (size >= SIZE_MIN && size.is_multiple_of(1 << 20)))
}

/// The smallest payload there can be: that of the first warm-up.
pub(super) fn smallest(largest: u64) -> u64 {
    sizes(largest).last().unwrap_or(largest)
}

/// The payload of the second warm-up: four times the smallest, and what the client has to move in any case.
pub(super) fn second(largest: u64, least: u64) -> u64 {
    (smallest(largest) * 4).max(least).min(largest)
}

/// Gives each group the largest payload with which none of its runs exceeds a limit, with the highest limit of time with
/// which `runs` rounds fit into `budget_s`.
pub(super) fn fit(candidates: &[Candidate], largest: u64, runs: u32, budget_s: f64) -> Rounds {
    let slow: Vec<bool> = candidates.iter().map(|one| is_far_too_slow(one, candidates, largest)).collect();
    let repeated: Vec<u32> = slow.iter().map(|&slow| if slow { 1 } else { runs }).collect();
    let all_s = |bytes: &[u64]| -> f64 {
        let all = candidates.iter().zip(bytes).zip(&repeated);
        all.map(|((candidate, &bytes), &runs)| candidate.probe.estimate(bytes) * f64::from(runs)).sum()
    };
    let mut limits: Vec<f64> = candidates
        .iter()
        .flat_map(|candidate| sizes(largest).map(|size| candidate.probe.estimate(size)))
        .collect();
    limits.sort_by(f64::total_cmp);
    let choose = |limit: f64| payloads(candidates, &slow, largest, limit);
    let fitting = |bytes: &Vec<u64>| all_s(bytes) <= budget_s;
    if let Some(bytes) = limits.iter().rev().map(|&limit| choose(limit)).find(fitting) {
        return Rounds { runs: repeated, bytes };
    }
    let bytes = choose(0.0);
    let part = budget_s / all_s(&bytes).max(f64::MIN_POSITIVE);
    let fewer = |&runs: &u32| ((f64::from(runs) * part) as u32).clamp(1, runs);
    Rounds { runs: repeated.iter().map(fewer).collect(), bytes }
}

fn is_far_too_slow(one: &Candidate, candidates: &[Candidate], largest: u64) -> bool {
    let group = candidates.iter().filter(|other| other.group == one.group);
    let mut times: Vec<f64> = group.map(|other| other.probe.estimate(largest)).collect();
    times.sort_by(f64::total_cmp);
    one.probe.estimate(largest) > SLOW_TIMES * times[(times.len() - 1) / 2]
}

/// Bytes for each candidate if runs are to take no longer than `limit` seconds.
fn payloads(candidates: &[Candidate], slow: &[bool], largest: u64, limit: f64) -> Vec<u64> {
    let fitting = |candidate: &Candidate, limit: f64| {
        let fits = |size: &u64| candidate.probe.estimate(*size) <= limit;
        sizes(largest).find(fits).unwrap_or(smallest(largest))
    };
    let of_group = |group: usize| {
        let members = || {
            let all = candidates.iter().zip(slow);
            all.filter(move |(one, slow)| one.group == group && !**slow).map(|(one, _)| one)
        };
        let fits = members().map(|one| fitting(one, limit)).min().unwrap_or(smallest(largest));
        let least = members().map(|one| one.least).max().unwrap_or(0);
        fits.max(least.min(largest))
    };
    let one = |(candidate, slow): (&Candidate, &bool)| match slow {
        true => of_group(candidate.group).min(fitting(candidate, SLOW_MAX_S)),
        false => of_group(candidate.group),
    };
    candidates.iter().zip(slow).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn candidate(group: usize, mb_per_s: f64, least: u64) -> Candidate {
        let bytes = 16 * MIB;
        let transfer_s = bytes as f64 / 1e6 / mb_per_s;
        let probe = Probe::of(WarmUp { bytes, transfer_s, whole_s: transfer_s + 0.5 });
        Candidate { group, probe, least }
    }

    #[test]
    fn groups_cover_the_matrix_and_one_row_on_disk() {
        let all = groups(Mode::Both, &[1, 20, 200], 2);
        assert_eq!(all.len(), 7);
        assert_eq!(all[6], Group { direction: Direction::Download, place: 1, connections: 20 });
        assert_eq!(groups(Mode::Seed, &[5], 2).len(), 1, "seeds read from memory only");
        assert_eq!(groups(Mode::Download, &[5], 1).len(), 1);
        assert_eq!((middle(&[200, 1, 20]), middle(&[2, 1]), middle(&[])), (20, 1, 0));
    }

    #[test]
    fn every_round_has_every_pair_once_and_neighbours_change() {
        let mut followers = std::collections::HashSet::new();
        for round in 0..4 {
            let order = order(3, 4, round);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), 12, "round {round}");
            for part in order.chunks(4) {
                assert!(part.iter().all(|(group, _)| *group == part[0].0), "a group stays together");
            }
            followers.extend(order.windows(2).filter(|pair| pair[1].1 == 2).map(|pair| pair[0].1));
        }
        assert!(followers.len() > 1, "always behind the same client");
    }

    #[test]
    fn two_warm_ups_tell_the_start_from_the_rate() {
        let run =
            |mib: u64, transfer_s: f64| WarmUp { bytes: mib * MIB, transfer_s, whole_s: transfer_s + 1.0 };
        let is_near = |probe: Probe, mib: u64, seconds: f64| {
            let rest = probe.estimate(mib * MIB) - CHECK_S_PER_GIB * mib as f64 / 1024.0;
            assert!((rest - seconds).abs() < 1e-6, "{rest} instead of {seconds}");
        };
        // Two seconds to get going, then 100 MiB/s.
        let (short, long) = (run(100, 3.0), run(400, 6.0));
        is_near(Probe::of_two(short, long), 1000, 13.0);
        is_near(Probe::of(short), 1000, 31.0);
        // A lucky long one: not faster than five times its average.
        is_near(Probe::of_two(run(100, 9.0), long), 1600, 7.0 - 1.2 + 4.8);
    }

    #[test]
    fn sizes_are_whole_mib_and_not_tiny() {
        assert_eq!(smallest(2048 * MIB), 64 * MIB);
        assert_eq!(sizes(8 * MIB).collect::<Vec<_>>(), [8 * MIB, 4 * MIB]);
        assert_eq!(smallest(9 * MIB), 9 * MIB, "half of it is no whole number");
        assert_eq!(smallest(MIB), MIB);
    }

    #[test]
    fn a_large_budget_gives_everybody_everything() {
        let candidates = [candidate(0, 2_000.0, 0), candidate(0, 300.0, 0), candidate(1, 10.0, 0)];
        let rounds = fit(&candidates, 1024 * MIB, 5, 1e6);
        assert_eq!(rounds, Rounds { runs: vec![5; 3], bytes: vec![1024 * MIB; 3] });
    }

    #[test]
    fn all_of_a_group_move_the_same_and_the_budget_holds() {
        let candidates = [
            candidate(0, 2_000.0, 0),
            candidate(0, 400.0, 0),
            candidate(0, 150.0, 0),
            candidate(1, 3_000.0, 0),
            candidate(1, 2_000.0, 0),
        ];
        let rounds = fit(&candidates, 2048 * MIB, 5, 90.0);
        assert_eq!(rounds.runs, [5; 5]);
        assert_eq!(rounds.bytes[..3], [rounds.bytes[0]; 3]);
        assert!(rounds.bytes[0] < 2048 * MIB, "{rounds:?}");
        assert_eq!(rounds.bytes[3..], [2048 * MIB; 2], "a fast group loses nothing");
        let time: f64 =
            candidates.iter().zip(&rounds.bytes).map(|(one, &size)| one.probe.estimate(size)).sum();
        assert!(time * 5.0 <= 90.0, "{time}");
    }

    #[test]
    fn a_client_that_warms_up_slowly_gets_its_least_and_so_do_the_others() {
        let candidates = [candidate(0, 400.0, 0), candidate(0, 150.0, 512 * MIB)];
        assert_eq!(fit(&candidates, 2048 * MIB, 3, 10.0).bytes, [512 * MIB; 2]);
        assert_eq!(fit(&candidates, 256 * MIB, 3, 10.0).bytes, [256 * MIB; 2], "no more than there is");
    }

    #[test]
    fn too_little_time_means_fewer_rounds_but_one() {
        let candidates = [candidate(0, 1.0, 0)];
        let one = candidates[0].probe.estimate(smallest(1024 * MIB));
        assert_eq!(fit(&candidates, 1024 * MIB, 5, one * 2.5).runs, [2]);
        assert_eq!(fit(&candidates, 1024 * MIB, 5, 0.0).runs, [1]);
        assert!(fit(&[], 1024 * MIB, 5, 1.0).runs.is_empty());
    }

    #[test]
    fn one_far_too_slow_client_is_run_once_and_spares_the_others() {
        let mut candidates = vec![candidate(0, 2_000.0, 0); 4];
        candidates.push(candidate(0, 17.0, 0));
        let rounds = fit(&candidates, 1024 * MIB, 3, 100.0);
        assert_eq!(rounds.runs, [3, 3, 3, 3, 1]);
        assert_eq!(rounds.bytes[..4], [1024 * MIB; 4], "the others lose nothing");
        assert!(rounds.bytes[4] < 1024 * MIB && candidates[4].probe.estimate(rounds.bytes[4]) <= SLOW_MAX_S);
        candidates[4] = candidate(0, 120.0, 0);
        let rounds = fit(&candidates, 1024 * MIB, 3, 100.0);
        assert_eq!((rounds.runs[4], rounds.bytes[4]), (1, 1024 * MIB), "the same payload if it can be");
    }
}

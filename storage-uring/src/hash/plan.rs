//! How a batch of messages is cut into groups for the kernels of this CPU.
//!
//! Role: measures each kernel once per process, under a millisecond for all of them, and keeps the cheapest way to cut every
//! batch. No table of thresholds would do: SHA-NI takes four messages at 5.7 GB/s on a Zen 5 and at 1.55 on a Xeon of
//! the fifth generation, so AVX-512 (10 and 5.6 for sixteen) wins from nine messages there and from five here. Owner:
//! [`super::Backend`], which looks its plan up. Invariant: a plan names kernels of its backend only; a measurement that
//! goes wrong costs speed, never a digest. `ccbt-bench hash` compares the plan with its own longer measurement.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::algorithm::Algorithm;
use super::backend::LANES_MAX;
use super::kernel::{Block, Kernel};

/// Blocks of each message in a measurement: 4 KiB, which take one message 2 to 8 µs.
const BLOCKS: usize = 64;
/// The best of so many counts: an interrupt or a busy neighbour spoils one or two.
const ROUNDS: usize = 5;
/// A larger group has to gain more than this share of its time over smaller ones, so that chance decides no tie.
const MARGIN: f64 = 0.03;

/// Backends there can be: each of AVX2, SHA-NI and AVX-512 used or not.
pub(super) const BACKENDS: usize = 8;
/// The plan of each backend, made when it is first asked for.
pub type Plans = [OnceLock<Plan>; BACKENDS];

/// Time that `kernel` takes to advance `lanes` messages by the same number of blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cost {
    pub(super) kernel: Kernel,
    pub(super) lanes: usize,
    pub(super) time: f64,
}

/// The first group for each number of messages that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    groups: [(Kernel, u8); LANES_MAX],
    lanes: u8,
}

impl Plan {
    /// Measures `kernels`, which this CPU has.
    pub(super) fn measured<A: Algorithm>(kernels: impl Iterator<Item = Kernel> + Clone) -> Self {
        let message = [[0x5a; 64]; BLOCKS];
        let mut states = [A::START; LANES_MAX];
        let blocks: [&[Block]; LANES_MAX] = [&message; LANES_MAX];
        let mut best = vec![Duration::MAX; widths(kernels.clone()).count()];
        // Round by round: what disturbs one measurement disturbs the next kernel's, not all of one kernel's.
        for _ in 0..ROUNDS {
            for ((kernel, lanes), best) in widths(kernels.clone()).zip(&mut best) {
                let began = Instant::now();
                kernel.compress::<A>(&mut states[..lanes], &blocks[..lanes]);
                *best = began.elapsed().min(*best);
            }
        }
        std::hint::black_box(&states);
        let costs = widths(kernels).zip(best);
        let costs: Vec<Cost> =
            costs.map(|((kernel, lanes), time)| Cost { kernel, lanes, time: time.as_secs_f64() }).collect();
        Self::cheapest(&costs)
    }

    /// The cheapest way to cut each batch. Kernels with a message in each 32-bit lane take as long for fewer messages.
    /// Panics when no kernel takes a single message.
    pub(super) fn cheapest(costs: &[Cost]) -> Self {
        // What is cheapest for each smaller batch, and its first group.
        let mut ways: Vec<(f64, Kernel, usize)> = vec![(0.0, Kernel::Portable, 0)];
        for size in 1..=LANES_MAX {
            let mut best = (f64::INFINITY, Kernel::Portable, 0);
            for cost in costs.iter().filter(|cost| cost.lanes <= size || is_wide(cost.kernel)) {
                let count = cost.lanes.min(size);
                let time = cost.time + ways[size - count].0;
                if time + MARGIN * cost.time < best.0 {
                    best = (time, cost.kernel, count);
                }
            }
            assert!(best.2 > 0, "no kernel takes {size} messages");
            ways.push(best);
        }
        let rate = |size: &usize| *size as f64 / ways[*size].0;
        // Several groups are no faster than one of them after the other.
        let undivided = (1..=LANES_MAX).filter(|size| ways[*size].2 == *size);
        let lanes = undivided.max_by(|a, b| rate(a).total_cmp(&rate(b))).expect("one message is one group");
        let mut groups = [(Kernel::Portable, 1); LANES_MAX];
        for (group, way) in groups.iter_mut().zip(&ways[1..]) {
            *group = (way.1, way.2 as u8);
        }
        Self { groups, lanes: lanes as u8 }
    }

    /// The kernel for the first of `waiting` messages, and how many of them it takes. Panics when none wait.
    pub(super) fn group(&self, waiting: usize) -> (Kernel, usize) {
        assert!(waiting > 0, "a group of no messages");
        let (kernel, count) = self.groups[waiting.min(LANES_MAX) - 1];
        (kernel, count.into())
    }

    /// Messages at once that give the highest throughput.
    pub(super) fn lanes(&self) -> usize {
        self.lanes.into()
    }
}

fn is_wide(kernel: Kernel) -> bool {
    matches!(kernel, Kernel::Avx2 | Kernel::Avx512)
}

/// What is measured: each number of messages that has a cost of its own.
fn widths(kernels: impl Iterator<Item = Kernel>) -> impl Iterator<Item = (Kernel, usize)> {
    kernels.flat_map(|kernel| {
        let least = if is_wide(kernel) { kernel.lanes() } else { 1 };
        (least..=kernel.lanes()).map(move |lanes| (kernel, lanes))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From GB/s, as `ccbt-bench hash` prints them.
    fn costs(rates: &[(Kernel, usize, f64)]) -> Vec<Cost> {
        let cost =
            |&(kernel, lanes, rate): &(Kernel, usize, f64)| Cost { kernel, lanes, time: lanes as f64 / rate };
        rates.iter().map(cost).collect()
    }

    fn cut(plan: &Plan, mut waiting: usize) -> Vec<(Kernel, usize)> {
        let mut groups = Vec::new();
        while waiting > 0 {
            let group = plan.group(waiting);
            waiting -= group.1;
            groups.push(group);
        }
        groups.sort_by_key(|group| std::cmp::Reverse(group.1));
        groups
    }

    use Kernel::{Avx2, Avx512, Portable, ShaNi};

    #[test]
    fn a_zen_5_uses_sha_ni_up_to_eight() {
        let plan = Plan::cheapest(&costs(&[
            (Portable, 1, 1.2),
            (Avx2, 8, 3.7),
            (ShaNi, 1, 2.1),
            (ShaNi, 2, 3.8),
            (ShaNi, 3, 4.8),
            (ShaNi, 4, 5.7),
            (Avx512, 16, 10.1),
        ]));
        assert_eq!(cut(&plan, 4), [(ShaNi, 4)]);
        assert_eq!(cut(&plan, 5), [(ShaNi, 3), (ShaNi, 2)], "better than four and a lonely one");
        assert_eq!(cut(&plan, 8), [(ShaNi, 4), (ShaNi, 4)]);
        assert_eq!(cut(&plan, 9), [(Avx512, 9)]);
        assert_eq!((cut(&plan, 16), plan.lanes()), (vec![(Avx512, 16)], 16));
        assert_eq!(plan.group(100), (Avx512, 16));
    }

    #[test]
    fn a_xeon_whose_sha_ni_gains_nothing_by_company_uses_avx_512_from_five() {
        let mut rates = vec![
            (Portable, 1, 0.9),
            (Avx2, 8, 2.72),
            (ShaNi, 1, 1.40),
            (ShaNi, 2, 1.46),
            (ShaNi, 3, 1.33),
            (ShaNi, 4, 1.55),
            (Avx512, 16, 5.62),
        ];
        let plan = Plan::cheapest(&costs(&rates));
        assert_eq!((cut(&plan, 4), cut(&plan, 5)), (vec![(ShaNi, 4)], vec![(Avx512, 5)]));
        rates.pop();
        let plan = Plan::cheapest(&costs(&rates));
        assert_eq!((cut(&plan, 8), plan.lanes()), (vec![(Avx2, 8)], 8), "without AVX-512");
        assert_eq!(cut(&plan, 3).len(), 2, "two and one");
        let plan = Plan::cheapest(&costs(&[(Portable, 1, 0.9)]));
        assert_eq!((cut(&plan, 3), plan.lanes()), (vec![(Portable, 1); 3], 1));
    }

    #[test]
    fn a_measured_plan_covers_every_batch() {
        let here = || Kernel::ALL.into_iter().filter(|kernel| kernel.is_available());
        let plan = Plan::measured::<super::super::algorithm::Sha1Algorithm>(here());
        for waiting in 1..=40 {
            assert_eq!(cut(&plan, waiting).iter().map(|group| group.1).sum::<usize>(), waiting);
        }
    }
}

//! The cheapest way to cut a batch into groups for kernels, by what was measured, against the engine's rule.
//!
//! Role: pure arithmetic that tells whether `Backend::group` decides well on this machine. Costs are the seconds that
//! a group takes to advance each of its messages by 10^9 bytes.

use std::collections::BTreeMap;

use ccbt_storage::hash::algorithm::Algorithm;
use ccbt_storage::hash::{Backend, Kernel};
use serde::Serialize;

/// A kernel and how many messages it takes.
type Group = (Kernel, usize);

/// What each group costs.
#[derive(Debug, Clone, Default)]
pub(super) struct Costs(BTreeMap<Group, f64>);

impl Costs {
    /// Notes that `kernel` hashes `lanes` messages at `gb_per_s` together.
    pub(super) fn measured(&mut self, kernel: Kernel, lanes: usize, gb_per_s: f64) {
        self.0.insert((kernel, lanes), lanes as f64 / gb_per_s);
    }

    /// What `groups` cost together; `None` when one was not measured.
    fn of(&self, groups: &[Group]) -> Option<f64> {
        groups.iter().map(|group| self.0.get(group)).sum()
    }

    /// The cheapest groups for `batch` messages with the kernels of `allowed`; `None` when none were measured.
    fn best(&self, batch: usize, allowed: &[Kernel]) -> Option<Vec<Group>> {
        // The last group of the cheapest way for each smaller batch, and what the whole way costs.
        let mut ways: Vec<(f64, Option<Group>)> = vec![(0.0, None)];
        for size in 1..=batch {
            let mut best = (f64::INFINITY, None);
            for (&group, cost) in self.0.iter().filter(|((kernel, _), _)| allowed.contains(kernel)) {
                let Some(rest) = size.checked_sub(group.1) else { continue };
                if ways[rest].0 + cost < best.0 {
                    best = (ways[rest].0 + cost, Some(group));
                }
            }
            ways.push(best);
        }
        let mut groups = Vec::new();
        let mut left = batch;
        while left > 0 {
            let group = ways[left].1?;
            groups.push(group);
            left -= group.1;
        }
        groups.sort_by(|a, b| b.cmp(a));
        Some(groups)
    }
}

/// The groups that the engine's rule makes of a batch.
fn rule<A: Algorithm>(backend: Backend, batch: usize) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut left = batch;
    while left > 0 {
        let group = backend.group::<A>(left);
        left -= group.1;
        groups.push(group);
    }
    groups
}

/// A batch by the rule and by the measurement.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Choice {
    pub(super) messages: usize,
    pub(super) rule: String,
    pub(super) rule_gb_per_s: f64,
    pub(super) best: String,
    pub(super) best_gb_per_s: f64,
    #[serde(skip)]
    rule_is_wide: bool,
    #[serde(skip)]
    best_is_wide: bool,
}

impl Choice {
    /// The share of the best throughput that the rule gives away.
    pub(super) fn loss(&self) -> f64 {
        1.0 - self.rule_gb_per_s / self.best_gb_per_s
    }
}

/// Batches of 1 to `most` messages, with the kernels in `kernels`. Empty unless all of those were measured.
pub(super) fn choices<A: Algorithm>(costs: &Costs, kernels: &[Kernel], most: usize) -> Vec<Choice> {
    let Some(backend) = Backend::of(kernels) else { return Vec::new() };
    let wide =
        |groups: &[Group]| groups.iter().any(|(kernel, _)| matches!(kernel, Kernel::Avx2 | Kernel::Avx512));
    let choose = |messages| {
        let (rule, best) = (rule::<A>(backend, messages), costs.best(messages, kernels)?);
        let rate = |groups| Some(messages as f64 / costs.of(groups)?);
        Some(Choice {
            messages,
            rule_gb_per_s: rate(&rule)?,
            best_gb_per_s: rate(&best)?,
            rule_is_wide: wide(&rule),
            best_is_wide: wide(&best),
            rule: describe(&rule),
            best: describe(&best),
        })
    };
    (1..=most).map_while(choose).collect()
}

/// From how many messages on a kernel with a message in each 32-bit lane is used: by the rule, by the measurement.
/// Both `None` when it never is.
pub(super) fn crossover(choices: &[Choice]) -> (Option<usize>, Option<usize>) {
    let from = |is_wide: fn(&Choice) -> bool| {
        let narrow = choices.iter().rposition(|choice| !is_wide(choice)).map_or(0, |at| at + 1);
        choices.get(narrow).map(|choice| choice.messages)
    };
    (from(|choice| choice.rule_is_wide), from(|choice| choice.best_is_wide))
}

/// "SHA-NI 4+3": kernels and the messages of their groups.
fn describe(groups: &[Group]) -> String {
    let mut text = String::new();
    let mut before = None;
    for &(kernel, lanes) in groups {
        match before {
            None => text += &format!("{} {lanes}", kernel.name()),
            Some(same) if same == kernel => text += &format!("+{lanes}"),
            Some(_) => text += &format!(", {} {lanes}", kernel.name()),
        }
        before = Some(kernel);
    }
    text
}

#[cfg(test)]
mod tests {
    use ccbt_storage::hash::algorithm::Sha1Algorithm;

    use super::*;

    /// Portable 1 GB/s; wide: 16 at 8 GB/s, fewer at as much less; narrow: 2, 3.5, 4, 4.
    fn costs() -> Costs {
        let mut costs = Costs::default();
        costs.measured(Kernel::Portable, 1, 1.0);
        (1..=16).for_each(|lanes| costs.measured(Kernel::Avx512, lanes, lanes as f64 / 2.0));
        for (lanes, rate) in [(1, 2.0), (2, 3.5), (3, 4.0), (4, 4.0)] {
            costs.measured(Kernel::ShaNi, lanes, rate);
        }
        costs
    }

    #[test]
    fn best_is_the_cheapest_of_all_cuts() {
        let costs = costs();
        let all = Kernel::ALL;
        assert_eq!(costs.best(1, &all).unwrap(), [(Kernel::ShaNi, 1)]);
        // 2 + 3: 0.571 + 0.75 = 1.32; 4 + 1: 1.5; AVX-512: 2.
        assert_eq!(costs.best(5, &all).unwrap(), [(Kernel::ShaNi, 3), (Kernel::ShaNi, 2)]);
        // 16 lanes cost 2 however few are used; four more cost 1, and twice two 1.14.
        assert_eq!(costs.best(20, &all).unwrap(), [(Kernel::Avx512, 16), (Kernel::ShaNi, 4)]);
        assert_eq!(costs.best(2, &[Kernel::Portable]).unwrap(), [(Kernel::Portable, 1); 2]);
        assert_eq!(costs.best(2, &[Kernel::Avx2]), None, "not measured");
        assert_eq!(costs.best(0, &all).unwrap(), []);
        let cost = costs.of(&[(Kernel::ShaNi, 2), (Kernel::Portable, 1)]).unwrap();
        assert!((cost - (2.0 / 3.5 + 1.0)).abs() < 1e-9);
        assert_eq!(costs.of(&[(Kernel::Avx2, 1)]), None);
    }

    #[test]
    fn choices_compare_the_rule_with_the_measurement() {
        let choices = choices::<Sha1Algorithm>(&costs(), &[Kernel::Portable], 3);
        assert_eq!(choices.len(), 3);
        assert_eq!((choices[2].rule.as_str(), choices[2].messages), ("portable 1+1+1", 3));
        assert_eq!(choices[2].best_gb_per_s, 1.0);
        assert_eq!(choices[2].loss(), 0.0);
        assert_eq!(crossover(&choices), (None, None));
        assert!(super::choices::<Sha1Algorithm>(&Costs::default(), &[Kernel::Portable], 3).is_empty());
    }

    #[test]
    fn crossover_is_where_the_last_narrow_batch_has_passed() {
        let choice = |messages, rule_is_wide, best_is_wide| Choice {
            messages,
            rule: String::new(),
            rule_gb_per_s: 3.0,
            best: String::new(),
            best_gb_per_s: 4.0,
            rule_is_wide,
            best_is_wide,
        };
        let choices = [choice(1, false, true), choice(2, true, false), choice(3, true, true)];
        assert_eq!(crossover(&choices), (Some(2), Some(3)));
        assert_eq!(choices[0].loss(), 0.25);
        assert_eq!(crossover(&[]), (None, None));
    }

    #[test]
    fn groups_are_described_by_kernel() {
        let groups = [(Kernel::Avx512, 16), (Kernel::ShaNi, 3), (Kernel::ShaNi, 2)];
        assert_eq!(describe(&groups), "AVX-512 16, SHA-NI 3+2");
        assert_eq!(describe(&[]), "");
    }
}

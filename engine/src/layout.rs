//! Which CPU does what.
//!
//! Role: one pure function from the CPUs that this process may use to the threads of the engine. Owner: the
//! session, at start. Invariant: at least one shard, one hash thread and one storage thread whatever the
//! mask; no two pinned threads share a CPU unless more shards were asked for than there are CPUs.
//!
//! Threads without a CPU float: the scheduler puts them wherever something is idle, which is the right thing
//! on one to three CPUs, where a pinned helper would only wait behind a busy shard.

/// CPUs from which on storage and hashing get CPUs of their own.
const DEDICATED_FROM: usize = 4;
/// CPUs that one hash thread serves: 3.5 GB/s of SHA-1 is more than seven shards receive.
const CPUS_PER_HASH_THREAD: usize = 8;

/// What the user decides instead of [`layout`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// CPUs to use, of those that this process may use. [`layout`] is given what is left ([`Overrides::usable`]).
    pub cpus: Option<Vec<usize>>,
    /// Number of shards, at least 1.
    pub shards: Option<usize>,
    /// CPU of the storage thread.
    pub storage_cpu: Option<usize>,
    /// CPUs of the hash threads, one thread each; empty is the same as `None`.
    pub hash_cpus: Option<Vec<usize>>,
    /// Number of hash threads, at least 1; `hash_cpus` decides where there are any.
    pub hash_threads: Option<usize>,
}

impl Overrides {
    /// The CPUs of `allowed` that are to be used. Where the system does not tell (`allowed` is empty) nothing is known of
    /// the ones that were asked for, and none is used.
    pub fn usable(&self, allowed: &[usize]) -> Vec<usize> {
        let is_wanted = |cpu: &usize| self.cpus.as_ref().is_none_or(|wanted| wanted.contains(cpu));
        allowed.iter().copied().filter(is_wanted).collect()
    }
}

/// Threads of the engine, each with the CPU it is pinned to, or `None` where it floats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// One entry per shard.
    pub shards: Vec<Option<usize>>,
    /// The storage thread.
    pub storage: Option<usize>,
    /// One entry per hash thread.
    pub hash: Vec<Option<usize>>,
}

/// CPUs of this process's affinity mask, rising; empty when the system does not tell.
pub fn allowed_cpus() -> Vec<usize> {
    let mut cpus: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    cpus.sort_unstable();
    cpus
}

/// Lays the threads out over `cpus`, the CPUs that may be used.
///
/// One to three CPUs: shards on all but one (one shard on one CPU), storage and hashing float. From four on:
/// storage on the last CPU, one hash thread per eight CPUs before it, shards on the rest. More shards than
/// that leaves room for makes the helpers float; more shards than CPUs share CPUs in turn. So do more hash threads.
pub fn layout(cpus: &[usize], overrides: &Overrides) -> Layout {
    let hash_threads = match overrides.hash_threads {
        Some(threads) => threads.max(1),
        None if cpus.len() >= DEDICATED_FROM => cpus.len().div_ceil(CPUS_PER_HASH_THREAD),
        None => 0,
    };
    let helpers = if cpus.len() >= DEDICATED_FROM { 1 + hash_threads } else { 1 };
    let default_shards = cpus.len().saturating_sub(helpers).max(1);
    let shards = overrides.shards.unwrap_or(default_shards).max(1);
    let dedicated = cpus.len() >= DEDICATED_FROM && shards + helpers <= cpus.len();

    let nth_cpu = |nth: usize| (!cpus.is_empty()).then(|| cpus[nth % cpus.len()]);
    let own_storage = dedicated.then(|| cpus[cpus.len() - 1]);
    let own_hash = if dedicated {
        cpus[cpus.len() - helpers..cpus.len() - 1].iter().copied().map(Some).collect()
    } else {
        vec![None; hash_threads.max(1)]
    };
    Layout {
        shards: (0..shards).map(nth_cpu).collect(),
        storage: overrides.storage_cpu.or(own_storage),
        hash: match &overrides.hash_cpus {
            Some(cpus) if !cpus.is_empty() => cpus.iter().copied().map(Some).collect(),
            _ => own_hash,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn plan(cpus: usize) -> Layout {
        layout(&(0..cpus).collect::<Vec<_>>(), &Overrides::default())
    }

    fn with_shards(cpus: &[usize], shards: usize) -> Layout {
        layout(cpus, &Overrides { shards: Some(shards), ..Overrides::default() })
    }

    #[test]
    fn small_machines_let_the_helpers_float() {
        let floating = |shards: &[usize]| Layout {
            shards: shards.iter().copied().map(Some).collect(),
            storage: None,
            hash: vec![None],
        };
        assert_eq!(plan(1), floating(&[0]));
        assert_eq!(plan(2), floating(&[0]));
        assert_eq!(plan(3), floating(&[0, 1]));
        assert_eq!(with_shards(&[0, 1], 2), floating(&[0, 1]));
    }

    #[test]
    fn an_unknown_mask_pins_nothing() {
        assert_eq!(plan(0), Layout { shards: vec![None], storage: None, hash: vec![None] });
        assert_eq!(with_shards(&[], 3).shards, [None; 3]);
    }

    #[test]
    fn helpers_get_their_own_cpus_from_four_on() {
        for (cpus, shards, hash) in
            [(4, 2, 1), (8, 6, 1), (16, 13, 2), (32, 27, 4), (64, 55, 8), (128, 111, 16)]
        {
            let plan = plan(cpus);
            assert_eq!((plan.shards.len(), plan.hash.len()), (shards, hash), "{cpus} CPUs");
            assert_eq!(plan.storage, Some(cpus - 1));
            let all = plan.shards.iter().chain(&plan.hash).chain([&plan.storage]);
            let distinct: HashSet<usize> = all.map(|cpu| cpu.expect("all are pinned")).collect();
            assert_eq!(distinct.len(), cpus, "every CPU has one thread");
        }
    }

    #[test]
    fn the_mask_counts_and_not_the_machine() {
        let plan = with_shards(&[3, 5, 9, 64], 2);
        assert_eq!(plan, Layout { shards: vec![Some(3), Some(5)], storage: Some(64), hash: vec![Some(9)] });
    }

    #[test]
    fn overrides_win() {
        let few = with_shards(&[0, 1, 2, 3, 4, 5, 6, 7], 1);
        assert_eq!((few.shards.len(), few.storage, few.hash), (1, Some(7), vec![Some(6)]));
        let many = with_shards(&[0, 1, 2, 3], 4);
        assert_eq!((many.storage, many.hash), (None, vec![None]));
        assert_eq!(with_shards(&[4, 6], 5).shards, [4, 6, 4, 6, 4].map(Some));
        assert_eq!(with_shards(&[4], 0).shards.len(), 1, "never none");

        let threads = |count| Overrides { hash_threads: Some(count), ..Overrides::default() };
        assert_eq!(layout(&[0, 1], &threads(3)).hash, [None; 3]);
        let dedicated = layout(&[0, 1, 2, 3, 4, 5], &threads(2));
        assert_eq!((dedicated.shards.len(), dedicated.hash), (3, vec![Some(3), Some(4)]));
        let many = layout(&[0, 1, 2, 3], &threads(9));
        assert_eq!((many.shards.len(), many.hash.len(), many.storage), (1, 9, None));

        let wanted = Overrides { cpus: Some(vec![1, 3, 9]), ..Overrides::default() };
        assert_eq!(wanted.usable(&[0, 1, 2, 3]), [1, 3]);
        assert_eq!(Overrides::default().usable(&[0, 1]), [0, 1]);

        let named = Overrides { storage_cpu: Some(1), hash_cpus: Some(vec![2, 3]), ..Overrides::default() };
        let plan = layout(&[0, 1, 2, 3], &named);
        assert_eq!((plan.storage, plan.hash), (Some(1), vec![Some(2), Some(3)]));
    }
}

//! CPUs: how many, what they can, and which thread runs where.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use ccbt_storage::hash::algorithm::Sha1Algorithm;
use ccbt_storage::hash::{Backend, digest_all};

use super::Finding;
use crate::layout::{Overrides, allowed_cpus, layout};

/// Time that is spent on hashing.
const HASH_TIME: Duration = Duration::from_millis(100);
/// A gigabit and a half per second with one CPU; what is slower has none of the kernels.
const HASH_RATE: f64 = 200e6;

pub fn examine(root: &Path) -> Vec<Finding> {
    let mut findings = vec![threads(&allowed_cpus()), hashing()];
    findings.extend(nodes(fs::read_to_string(root.join("sys/devices/system/node/online")).ok().as_deref()));
    findings
}

fn threads(cpus: &[usize]) -> Finding {
    if cpus.is_empty() {
        let advice = "threads are not pinned; engine.cpus names CPUs";
        return Finding::warn("cpus", "the system does not tell which CPUs may be used", advice);
    }
    let plan = layout(cpus, &Overrides::default());
    let place = |cpu: Option<usize>| cpu.map_or_else(|| "any".to_owned(), |cpu| cpu.to_string());
    let list = |cpus: &[Option<usize>]| cpus.iter().map(|cpu| place(*cpu)).collect::<Vec<_>>().join(", ");
    let found = format!(
        "{} CPUs; shards on {}; storage on {}; hashing on {}",
        cpus.len(),
        list(&plan.shards),
        place(plan.storage),
        list(&plan.hash)
    );
    Finding::ok("cpus", found)
}

fn hashing() -> Finding {
    let backend = Backend::detect();
    let data = vec![0x5a; 16 * (256 << 10)];
    let pieces: Vec<&[u8]> = data.chunks(256 << 10).collect();
    let (began, mut bytes) = (Instant::now(), 0);
    while began.elapsed() < HASH_TIME {
        digest_all::<Sha1Algorithm>(backend, pieces.iter().copied(), |_, digest| {
            std::hint::black_box(digest);
        });
        bytes += data.len();
    }
    let rate = bytes as f64 / began.elapsed().as_secs_f64();
    let found = format!("SHA-1 with {}: {:.1} GB/s on one CPU", backend.name(), rate / 1e9);
    if rate >= HASH_RATE {
        Finding::ok("hashing", found)
    } else {
        let advice =
            "this CPU hashes slowly; let the virtual machine pass AVX2 or SHA-NI through (CPU type host)";
        Finding::warn("hashing", found, advice)
    }
}

/// `online` as the kernel lists NUMA nodes, such as `0-1`.
fn nodes(online: Option<&str>) -> Option<Finding> {
    let online = online?.trim();
    Some(if online == "0" {
        Finding::ok("numa", "one NUMA node")
    } else {
        let advice = "name CPUs of the node that the network card is at (cat /sys/class/net/*/device/numa_node) in engine.cpus";
        Finding::warn("numa", format!("NUMA nodes {online}"), advice)
    })
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn cpus_are_told_with_their_threads() {
        let found = threads(&[0, 1, 2, 3]).found;
        assert_eq!(found, "4 CPUs; shards on 0, 1; storage on 3; hashing on 2");
        assert_eq!(threads(&[]).verdict, Verdict::Warn);
    }

    #[test]
    fn several_nodes_are_a_reason_to_choose() {
        assert_eq!(nodes(None), None);
        assert_eq!(nodes(Some("0\n")).unwrap().verdict, Verdict::Ok);
        let several = nodes(Some("0-3\n")).unwrap();
        assert_eq!((several.verdict, several.found.as_str()), (Verdict::Warn, "NUMA nodes 0-3"));
    }

    #[test]
    fn hashing_tells_its_rate() {
        assert!(hashing().found.contains("GB/s"));
    }
}

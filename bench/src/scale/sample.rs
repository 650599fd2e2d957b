//! What a process costs now: memory, CPU time and context switches, from procfs.

use std::fs;
use std::time::{Duration, Instant};

use crate::error::BenchError;

/// Memory of a process, KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Memory {
    /// Resident (`VmRSS`).
    pub rss_kib: f64,
    /// Proportional share of all mappings (`Pss`).
    pub pss_kib: f64,
    /// Of that, anonymous memory (`Pss_Anon`): heap, stacks and buffers.
    pub anon_kib: f64,
}

/// What a process did in some time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Idle {
    /// CPU time in percent of one core, user and system.
    pub cpu_percent: f64,
    /// Context switches per second, all threads: how often something woke.
    pub wakeups_per_s: f64,
    /// Descriptors open at the end.
    pub descriptors: usize,
}

/// Memory of `pid`.
pub(super) fn memory(pid: u32) -> Result<Memory, BenchError> {
    let rollup = read(pid, "smaps_rollup")?;
    let of = |key: &str| kib(&rollup, key).unwrap_or(0.0);
    Ok(Memory { rss_kib: of("Rss:"), pss_kib: of("Pss:"), anon_kib: of("Pss_Anon:") })
}

/// Watches `pid` for `time`.
pub(super) fn idle(pid: u32, time: Duration) -> Result<Idle, BenchError> {
    let (start, before) = (Instant::now(), work(pid)?);
    std::thread::sleep(time);
    let (after, seconds) = (work(pid)?, start.elapsed().as_secs_f64());
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    Ok(Idle {
        cpu_percent: (after.0 - before.0) / seconds * 100.0,
        wakeups_per_s: (after.1 - before.1) / seconds,
        descriptors,
    })
}

/// CPU seconds and context switches of all threads so far. The scheduler's own clock (`schedstat`) is exact; the one
/// of `stat` counts ticks, between which short turns vanish.
pub(crate) fn work(pid: u32) -> Result<(f64, f64), BenchError> {
    let tasks = format!("/proc/{pid}/task");
    let (mut cpu, mut switches) = (0.0, 0.0);
    let threads = fs::read_dir(&tasks).map_err(BenchError::file("read", tasks.as_ref()))?;
    for thread in threads.flatten() {
        let text = |name: &str| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        let nanos = text("schedstat").split(' ').next().and_then(|text| text.parse::<f64>().ok());
        cpu += nanos.unwrap_or(0.0) / 1e9;
        let status = text("status");
        let of =
            |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<f64>().ok());
        switches += of("voluntary_ctxt_switches:").unwrap_or(0.0);
        switches += of("nonvoluntary_ctxt_switches:").unwrap_or(0.0);
    }
    Ok((cpu, switches))
}

fn read(pid: u32, name: &str) -> Result<String, BenchError> {
    let path = format!("/proc/{pid}/{name}");
    fs::read_to_string(&path).map_err(BenchError::file("read", path.as_ref()))
}

fn kib(text: &str, key: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_measured() {
        let pid = std::process::id();
        let memory = memory(pid).expect("our own");
        assert!(memory.rss_kib > 100.0 && memory.anon_kib > 0.0 && memory.pss_kib <= memory.rss_kib);
        let before = work(pid).expect("our own");
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(20) {}
        let after = work(pid).expect("our own");
        assert!(after.0 > before.0 && after.1 >= before.1);
        assert_eq!(kib("Rss:      12 kB\nPss: 3 kB\n", "Pss:"), Some(3.0));
    }
}

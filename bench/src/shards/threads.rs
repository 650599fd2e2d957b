//! What each thread of a process has used.
//!
//! Role: reads `/proc/PID/task/*`: CPU time from `schedstat` (nanoseconds), context switches from `status`, and the name.
//! Invariant: a thread that ended keeps the numbers of the last look at it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Numbers of one thread since it started.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ThreadUse {
    /// Its name, 15 bytes at most.
    pub name: String,
    /// User and system time, seconds.
    pub cpu_s: f64,
    /// Context switches, voluntary and not.
    pub switches: u64,
}

/// All threads of a process that were seen, by their id.
#[derive(Debug, Default)]
pub(super) struct Threads(BTreeMap<u32, ThreadUse>);

impl Threads {
    /// Looks again.
    pub fn look(&mut self, pid: u32) {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return };
        for entry in entries.flatten() {
            let tid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let (Some(tid), Some(found)) = (tid, read(&entry.path())) {
                self.0.insert(tid, found);
            }
        }
    }

    /// Ids of the threads called so, in the order of the number that follows the prefix in their names. A thread's
    /// helpers have its name; they come after it.
    pub fn called(&self, prefix: &str) -> Vec<u32> {
        let number = |(tid, found): (&u32, &ThreadUse)| {
            Some((found.name.strip_prefix(prefix)?.parse::<u32>().ok()?, *tid))
        };
        let mut found: Vec<_> = self.0.iter().filter_map(number).collect();
        found.sort_unstable();
        found.dedup_by_key(|(number, _)| *number);
        found.into_iter().map(|(_, tid)| tid).collect()
    }

    /// What each thread has used since `earlier`.
    pub fn since(&self, earlier: &Self) -> Vec<ThreadUse> {
        let used = |(tid, now): (&u32, &ThreadUse)| {
            let before = earlier.0.get(tid).cloned().unwrap_or_default();
            let switches = now.switches.saturating_sub(before.switches);
            ThreadUse { name: now.name.clone(), cpu_s: (now.cpu_s - before.cpu_s).max(0.0), switches }
        };
        self.0.iter().map(used).collect()
    }
}

impl Clone for Threads {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

fn read(task: &Path) -> Option<ThreadUse> {
    let text = |name| fs::read_to_string(task.join(name)).ok();
    let cpu_ns: f64 = text("schedstat")?.split_ascii_whitespace().next()?.parse().ok()?;
    let switches = switches(&text("status")?);
    Some(ThreadUse { name: text("comm")?.trim().to_owned(), cpu_s: cpu_ns / 1e9, switches })
}

/// Both kinds of switches in the text of a `status` file.
fn switches(status: &str) -> u64 {
    let of = |key| status.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
    of("voluntary_ctxt_switches:").unwrap_or(0) + of("nonvoluntary_ctxt_switches:").unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_busy_thread_of_ours_is_seen_and_kept() {
        assert_eq!(switches("x: 1\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t5\n"), 12);
        let pid = std::process::id();
        let (mut threads, mut before) = (Threads::default(), Threads::default());
        before.look(pid);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let named = std::thread::Builder::new().name("busy-3".into());
            let spin = || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            };
            named.spawn_scoped(scope, spin).expect("a thread");
            let worked = |one: &ThreadUse| one.name == "busy-3" && one.cpu_s > 0.0;
            while !threads.since(&before).iter().any(worked) {
                threads.look(pid);
            }
            stop.store(true, Ordering::Relaxed);
        });
        threads.look(pid);
        assert_eq!(threads.called("busy-").len(), 1, "kept after its end");
    }
}

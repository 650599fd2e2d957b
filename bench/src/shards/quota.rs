//! Slow cores: a share of a core for each thread that has to be compared.
//!
//! Role: puts threads into control groups with a CPU quota, so that a few of them can be compared with many on a
//! machine with few cores, and what drives them is never the limit. Takes the `cpu` controller of version 1, or of
//! version 2 in threaded mode. Needs root. Invariant: the groups are gone when this is, and the process has ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::BenchError;

const ROOT: &str = "/sys/fs/cgroup";
/// Short against the queues between threads, long against a context switch.
const PERIOD_US: u64 = 10_000;
/// Threads that were killed leave their group a moment later.
const LEAVING: Duration = Duration::from_secs(2);

/// Control groups, one per thread.
#[derive(Debug)]
pub(super) struct Quota {
    /// Made by us, the outermost first.
    made: Vec<PathBuf>,
}

impl Quota {
    /// Gives each of `threads` of process `pid` a group with `percent` of a core.
    ///
    /// Errors: no `cpu` controller, or no right to it.
    pub fn apply(pid: u32, threads: &[u32], percent: u32) -> Result<Self, BenchError> {
        let mut this = Self { made: Vec::new() };
        let name = format!("ccbt-bench-{pid}");
        let v1 = Path::new(ROOT).join("cpu");
        let is_v1 = v1.join("cpu.cfs_quota_us").exists();
        let parent = if is_v1 { v1.join(name) } else { Path::new(ROOT).join(name) };
        this.make(&parent)?;
        if !is_v1 {
            // Threads of one process may be in different groups only below one that holds the process.
            write(&parent.join("cgroup.procs"), &pid.to_string())?;
        }
        for (nth, thread) in threads.iter().enumerate() {
            let group = parent.join(nth.to_string());
            this.make(&group)?;
            let quota = PERIOD_US * u64::from(percent) / 100;
            if is_v1 {
                write(&group.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
                write(&group.join("cpu.cfs_quota_us"), &quota.to_string())?;
                write(&group.join("tasks"), &thread.to_string())?;
            } else {
                write(&group.join("cgroup.type"), "threaded")?;
                write(&parent.join("cgroup.subtree_control"), "+cpu")?;
                write(&group.join("cpu.max"), &format!("{quota} {PERIOD_US}"))?;
                write(&group.join("cgroup.threads"), &thread.to_string())?;
            }
        }
        Ok(this)
    }

    fn make(&mut self, path: &Path) -> Result<(), BenchError> {
        fs::create_dir(path).map_err(BenchError::file("create control group (are you root?)", path))?;
        self.made.push(path.to_owned());
        Ok(())
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            let end = Instant::now() + LEAVING;
            while fs::remove_dir(path).is_err() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), BenchError> {
    fs::write(path, text).map_err(BenchError::file("set the CPU quota in", path))
}

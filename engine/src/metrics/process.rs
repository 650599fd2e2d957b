//! What the kernel says of this process: CPU time of its threads, memory, descriptors.
//!
//! Role: reads procfs when somebody asks; costs two reads and a file per thread. Owner: [`super::Collector`]. Invariant:
//! threads have series of their own by names that we gave them, so their number follows from the configuration;
//! all others, the kernel's workers among them, are summed.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{Resource, getrlimit};

/// Threads told apart.
const THREADS_MAX: usize = 1024;

/// See the module; what cannot be read is 0 or empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ProcessStats {
    /// CPU seconds by thread: `ccbt-…`, `io-wq` for the kernel's workers, `others`.
    pub threads: BTreeMap<String, f64>,
    /// CPU seconds of all, also of those that have ended.
    pub cpu_s: f64,
    /// Kernel workers alive.
    pub workers: u64,
    /// Resident memory, bytes.
    pub resident: u64,
    pub open_fds: u64,
    pub max_fds: Option<u64>,
    /// When it started, seconds since 1970.
    pub started: f64,
}

impl ProcessStats {
    /// As of now.
    pub fn now() -> Self {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as u64;
        let mut this = Self::default();
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        if let Some(stat) = Stat::parse(&text("/proc/self/stat")) {
            this.cpu_s = stat.cpu_ticks as f64 / ticks;
            this.resident = stat.resident_pages * page;
            let booted =
                text("/proc/stat").lines().find_map(|line| line.strip_prefix("btime ")?.parse::<u64>().ok());
            this.started = booted.unwrap_or(0) as f64 + stat.start_ticks as f64 / ticks;
        }
        // One of them is that of the look itself.
        this.open_fds = fs::read_dir("/proc/self/fd").map_or(0, |all| all.count().saturating_sub(1) as u64);
        this.max_fds = getrlimit(Resource::Nofile).current;
        for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            // A thread may end while it is looked at.
            if let Some(stat) = Stat::parse(&fs::read_to_string(task.path().join("stat")).unwrap_or_default())
            {
                this.add_thread(&stat, ticks);
            }
        }
        this
    }

    fn add_thread(&mut self, stat: &Stat, ticks: f64) {
        let is_worker = stat.name.starts_with("iou-wrk-");
        self.workers += u64::from(is_worker);
        let has_room = self.threads.len() < THREADS_MAX || self.threads.contains_key(&stat.name);
        let name = match () {
            () if is_worker => "io-wq",
            () if stat.name.starts_with("ccbt-") && has_room => &stat.name,
            () => "others",
        };
        *self.threads.entry(name.to_owned()).or_default() += stat.cpu_ticks as f64 / ticks;
    }
}

/// What is of use in a `stat` file of procfs.
#[derive(Debug, PartialEq)]
struct Stat {
    name: String,
    cpu_ticks: u64,
    start_ticks: u64,
    resident_pages: u64,
}

impl Stat {
    /// Fields are counted after the name, which may hold anything: state is 3 (proc_pid_stat(5)).
    fn parse(text: &str) -> Option<Self> {
        let (name, fields) = text.split_once('(')?.1.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            name: name.to_owned(),
            cpu_ticks: field(14)? + field(15)?,
            start_ticks: field(22)?,
            resident_pages: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let stats = ProcessStats::now();
        assert!(stats.cpu_s >= 0.0 && stats.resident > 0 && stats.open_fds > 2, "{stats:?}");
        assert!(stats.started > 1e9 && stats.max_fds.is_none_or(|most| most >= stats.open_fds), "{stats:?}");
        assert!(stats.threads.contains_key("others"), "{stats:?}");
    }

    #[test]
    fn threads_are_known_by_name_and_workers_summed() {
        let line =
            |name: &str| format!("7 ({name}) S 1 7 7 0 -1 42 100 0 0 0 250 50 9 9 20 0 1 0 777 5000 12 1 2");
        let stat = Stat::parse(&line("ccbt) x")).expect("parses");
        let expected = Stat { name: "ccbt) x".into(), cpu_ticks: 300, start_ticks: 777, resident_pages: 12 };
        assert_eq!(stat, expected);
        assert_eq!(Stat::parse("7 (x) S 1"), None);
        let mut stats = ProcessStats::default();
        for name in ["ccbt-shard-0", "iou-wrk-7", "iou-wrk-7", "tokio", "bash"] {
            stats.add_thread(&Stat::parse(&line(name)).expect("parses"), 100.0);
        }
        let threads: Vec<(&str, f64)> =
            stats.threads.iter().map(|(name, cpu)| (name.as_str(), *cpu)).collect();
        assert_eq!(threads, [("ccbt-shard-0", 3.0), ("io-wq", 6.0), ("others", 6.0)]);
        assert_eq!(stats.workers, 2);
    }
}

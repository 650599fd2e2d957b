//! The machine a result was measured on, for whoever reads it later.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// CPU, memory and kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// CPUs this process may use.
    pub cpus: usize,
    /// Main memory, MiB.
    pub ram_mib: u64,
    /// Instruction sets that hashing lives on, as the kernel names them.
    pub hash_features: Vec<String>,
    /// As the CPU calls itself; empty when it does not say.
    pub cpu_model: String,
    /// Release of the running Linux.
    pub kernel: String,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            ram_mib: ram_mib(&meminfo),
            hash_features: hash_features(&cpuinfo),
            cpu_model: cpu_model(&cpuinfo),
            kernel: kernel.trim().to_owned(),
        }
    }
}

/// The first model name in the text of `/proc/cpuinfo`.
fn cpu_model(cpuinfo: &str) -> String {
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map(|(_, name)| name.to_owned()).unwrap_or_default()
}

/// `MemTotal` of the text of `/proc/meminfo`, MiB; 0 when it is not there.
fn ram_mib(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn hash_features(cpuinfo: &str) -> Vec<String> {
    let flags =
        cpuinfo.lines().find_map(|line| line.strip_prefix("flags")?.split_once(": ")).map(|(_, all)| all);
    let wanted = ["sha_ni", "avx2", "avx512f"];
    let words = flags.unwrap_or_default().split_ascii_whitespace();
    words.filter(|word| wanted.contains(word)).map(String::from).collect()
}

/// CPU seconds that everything on this machine but this process has used since it started: clients, and the kernel's own
/// work such as writing back. 0 when `/proc` does not say.
pub fn busy_of_others() -> f64 {
    use rustix::time::{ClockId, clock_gettime};
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let own = clock_gettime(ClockId::ProcessCPUTime);
    let own = own.tv_sec as f64 + own.tv_nsec as f64 / 1e9;
    busy_s(&stat, rustix::param::clock_ticks_per_second()).unwrap_or(own) - own
}

/// User, nice, system, interrupt and soft interrupt time of all CPUs in the text of `/proc/stat`.
fn busy_s(stat: &str, ticks_per_second: u64) -> Option<f64> {
    let all = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = all.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    let ticks: u64 = [0, 1, 2, 5, 6].iter().map(|&field| fields.get(field)).sum::<Option<u64>>()?;
    Some(ticks as f64 / ticks_per_second as f64)
}

/// Today's date, UTC, as 2026-01-31.
pub fn today() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    date_of(since.as_secs() / 86_400)
}

/// Date of the nth day after 1970-01-01 in the Gregorian calendar.
fn date_of(mut day: u64) -> String {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let months = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= months[month] {
        day -= months[month];
        month += 1;
    }
    format!("{year:04}-{:02}-{:02}", month + 1, day + 1)
}

/// Name of the file system that holds `path`; its magic number when it is none of the usual ones.
pub fn file_system(path: &Path) -> String {
    #[allow(clippy::unnecessary_cast)] // `f_type` has other widths on other targets.
    match rustix::fs::statfs(path).map(|stat| stat.f_type as i64) {
        Ok(0xef53) => "ext4".into(),
        Ok(0x0102_1994) => "tmpfs".into(),
        Ok(0x5846_5342) => "xfs".into(),
        Ok(0x9123_683e) => "btrfs".into(),
        Ok(other) => format!("file system {other:#x}"),
        Err(error) => format!("unknown file system ({error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_is_found_or_empty() {
        let text = "processor\t: 0\nmodel name\t: Some CPU: 3 GHz\n\nmodel name\t: Other\n";
        assert_eq!(cpu_model(text), "Some CPU: 3 GHz");
        assert_eq!(cpu_model("Hardware : board\n"), "");
        assert!(Machine::this().cpus > 0);
    }

    #[test]
    fn memory_and_features_are_found_or_none() {
        assert_eq!(ram_mib("MemTotal:       24684084 kB\nMemFree: 1 kB\n"), 24_105);
        assert_eq!(ram_mib("nothing"), 0);
        assert_eq!(hash_features("flags\t\t: fpu sha_ni avx avx2\n"), ["sha_ni", "avx2"]);
        assert!(hash_features("Features : x").is_empty());
    }

    #[test]
    fn idle_and_waiting_are_not_busy() {
        let stat = "cpu  100 20 30 4000 500 6 7 80 0 0\ncpu0 1 2 3\n";
        assert_eq!(busy_s(stat, 100), Some(1.63));
        assert_eq!(busy_s("cpu 1 2 3", 100), None);
        assert_eq!(busy_s("", 100), None);
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(date_of(0), "1970-01-01");
        assert_eq!(date_of(11_016), "2000-02-29");
        assert_eq!(date_of(11_017), "2000-03-01");
        assert_eq!(date_of(20_089), "2025-01-01");
        assert_eq!(date_of(20_088), "2024-12-31");
    }

    #[test]
    fn proc_is_no_usual_file_system() {
        assert!(file_system(Path::new("/proc")).contains("0x9fa0"));
        assert!(file_system(Path::new("/no/such/folder")).starts_with("unknown"));
    }
}

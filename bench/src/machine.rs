//! The machine a result was measured on, for whoever reads it later.

use serde::Serialize;

/// CPU and kernel.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// CPUs this process may use.
    pub cpus: usize,
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
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
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
}

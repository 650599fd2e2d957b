//! What the system says of itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use crate::layout::{Overrides, allowed_cpus, layout};

/// Settings of the kernel that are looked at, by their name for `sysctl`.
pub(super) const SYSCTLS: [&str; 11] = [
    "kernel.io_uring_disabled",
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.core.somaxconn",
    "net.core.busy_poll",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_available_congestion_control",
    "net.ipv4.ip_local_port_range",
];

/// What the system says; what it does not say is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Release of the kernel, such as `6.12.9-amd64`.
    pub release: Option<String>,
    /// Settings of the kernel by name, with blanks between their parts.
    pub sysctls: BTreeMap<String, String>,
    /// Bytes that may be locked; `None`: any number.
    pub memlock: Option<u64>,
    /// Shards that the engine would have.
    pub shards: u64,
    /// Descriptors: what counts now, and how far that may be raised. `None`: any number.
    pub descriptors: (Option<u64>, Option<u64>),
    /// Source of the kernel's time, and those it could choose.
    pub clock: Option<(String, Vec<String>)>,
    /// Whether large pages are used: always, madvise or never.
    pub huge_pages: Option<String>,
}

/// A setting of the kernel under `root`, its parts parted by single blanks.
pub fn sysctl(root: &Path, name: &str) -> Option<String> {
    let path = root.join("proc/sys").join(name.replace('.', "/"));
    let text = fs::read_to_string(path).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn read(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The word in brackets of a list like `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

impl Facts {
    /// Reads `proc` and `sys` under `root`, and this process's limits.
    pub fn read(root: &Path) -> Self {
        let known = |name: &str| Some((name.to_owned(), sysctl(root, name)?));
        let clocks = root.join("sys/devices/system/clocksource/clocksource0");
        let clock = read(&clocks.join("current_clocksource")).map(|now| {
            let all = read(&clocks.join("available_clocksource")).unwrap_or_default();
            (now, all.split_whitespace().map(str::to_owned).collect())
        });
        let nofile = getrlimit(Resource::Nofile);
        Self {
            release: sysctl(root, "kernel.osrelease"),
            sysctls: SYSCTLS.into_iter().filter_map(known).collect(),
            memlock: getrlimit(Resource::Memlock).current,
            shards: layout(&allowed_cpus(), &Overrides::default()).shards.len() as u64,
            descriptors: (nofile.current, nofile.maximum),
            clock,
            huge_pages: read(&root.join("sys/kernel/mm/transparent_hugepage/enabled"))
                .and_then(|text| chosen(&text)),
        }
    }

    /// The last number of a setting: its maximum where it has three.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.sysctls.get(name)?.split(' ').next_back()?.parse().ok()
    }
}

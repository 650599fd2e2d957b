//! Limits that the kernel keeps for a group of processes: memory, bytes per second to a device, and CPUs.
//!
//! Owner: the test. Invariant: a group is gone with its test; those of tests that were killed are removed by the next one.
//! Takes version 1 of control groups or version 2, whichever is mounted with a memory controller and may be written;
//! else [`Cgroup::open`] prints why and gives `None`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::process::wait_until;

const ROOT: &str = "/sys/fs/cgroup";
const PREFIX: &str = "ccbt-tests-";
/// Processes that were killed leave their group a moment later.
const LEAVING: Duration = Duration::from_secs(5);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A control group without processes yet.
#[derive(Debug)]
pub struct Cgroup {
    /// Folder of the memory controller; of all controllers in version 2.
    memory: PathBuf,
    /// Folder of the block device controller, if there is one.
    devices: Option<PathBuf>,
    is_v2: bool,
}

impl Cgroup {
    /// Makes one.
    pub fn open() -> Option<Self> {
        match Self::try_open() {
            Ok(group) => Some(group),
            Err(reason) => {
                eprintln!("without a control group: {reason}");
                None
            }
        }
    }

    fn try_open() -> Result<Self, String> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", process::id());
        let root = Path::new(ROOT);
        let make = |controller: &str| {
            let folder = root.join(controller);
            remove_stale(&folder);
            let path = folder.join(&name);
            fs::create_dir(&path)
                .map(|()| path.clone())
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        if root.join("memory/memory.limit_in_bytes").exists() || root.join("memory/tasks").exists() {
            let memory = make("memory")?;
            let devices = root.join("blkio").exists().then(|| make("blkio").ok()).flatten();
            return Ok(Self { memory, devices, is_v2: false });
        }
        let enabled = fs::read_to_string(root.join("cgroup.subtree_control"))
            .map_err(|error| format!("no control groups below {ROOT}: {error}"))?;
        if !enabled.split_whitespace().any(|name| name == "memory") {
            return Err("the memory controller is not enabled for groups below the root".to_owned());
        }
        let memory = make("")?;
        let devices = enabled.split_whitespace().any(|name| name == "io").then(|| memory.clone());
        Ok(Self { memory, devices, is_v2: true })
    }

    /// The files a process writes its id to, separated by colons.
    pub fn procs(&self) -> String {
        let folders = [Some(&self.memory), self.devices.as_ref().filter(|_| !self.is_v2)];
        let files: Vec<String> = folders
            .into_iter()
            .flatten()
            .map(|path| path.join("cgroup.procs").display().to_string())
            .collect();
        files.join(":")
    }

    /// The kernel takes cached pages away from the group beyond `bytes`, and kills what still needs more.
    pub fn limit_memory(&self, bytes: u64) {
        let name = if self.is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        set(&self.memory.join(name), &bytes.to_string());
    }

    /// The group reads and writes at most so many bytes a second from and to `device` (`MAJOR:MINOR`), as far as it
    /// passes the page cache by. False when there is no such controller.
    pub fn limit_device(&self, device: &str, reads_bytes_per_s: u64, writes_bytes_per_s: u64) -> bool {
        let Some(folder) = &self.devices else { return false };
        if self.is_v2 {
            let limit = format!("{device} rbps={reads_bytes_per_s} wbps={writes_bytes_per_s}");
            set(&folder.join("io.max"), &limit);
        } else {
            set(&folder.join("blkio.throttle.read_bps_device"), &format!("{device} {reads_bytes_per_s}"));
            set(&folder.join("blkio.throttle.write_bps_device"), &format!("{device} {writes_bytes_per_s}"));
        }
        true
    }

    /// How often the kernel killed something in the group for want of memory.
    pub fn kills(&self) -> u64 {
        let name = if self.is_v2 { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.memory.join(name)).expect("a group tells of its kills");
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in [Some(&self.memory), self.devices.as_ref()].into_iter().flatten() {
            let gone = || (fs::remove_dir(folder).is_ok() || !folder.exists()).then_some(());
            if std::thread::panicking() {
                // A process of a failing test may still be in it: the next test removes the group.
                gone();
            } else {
                wait_until(LEAVING, "empty control group", gone);
            }
        }
    }
}

/// A control group that only restricts where its processes run, of version 1 or 2. Gone with its test.
#[derive(Debug)]
pub struct Cpuset(PathBuf);

impl Cpuset {
    /// One of these CPUs (a list such as `0` or `0-1`); prints why when there is none.
    pub fn open(cpus: &str) -> Option<Self> {
        let name = format!("{PREFIX}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = Path::new(ROOT);
        let v1 = root.join("cpuset");
        let folder = if v1.exists() { v1 } else { root.to_owned() };
        remove_stale(&folder);
        let this = Self(folder.join(name));
        let made = fs::create_dir(&this.0).and_then(|()| {
            // Version 1 begins with no memory node at all.
            let nodes = fs::read_to_string(folder.join("cpuset.mems")).ok();
            nodes.map_or(Ok(()), |nodes| fs::write(this.0.join("cpuset.mems"), nodes))?;
            fs::write(this.0.join("cpuset.cpus"), cpus)
        });
        match made {
            Ok(()) => Some(this),
            Err(error) => {
                eprintln!("without a cpuset: {}: {error}", this.0.display());
                None
            }
        }
    }

    /// Other CPUs from now on.
    pub fn set(&self, cpus: &str) {
        set(&self.0.join("cpuset.cpus"), cpus);
    }

    /// The file a process writes its id to.
    pub fn procs(&self) -> String {
        self.0.join("cgroup.procs").display().to_string()
    }
}

impl Drop for Cpuset {
    fn drop(&mut self) {
        let gone = || (fs::remove_dir(&self.0).is_ok() || !self.0.exists()).then_some(());
        if gone().is_none() && !std::thread::panicking() {
            wait_until(LEAVING, "empty control group", gone);
        }
    }
}

fn set(path: &Path, value: &str) {
    fs::write(path, value)
        .unwrap_or_else(|error| panic!("cannot write {value:?} to {}: {error}", path.display()));
}

/// Removes what test processes left behind that are no more.
fn remove_stale(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let owner = rest.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            // Refused while somebody is in it.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

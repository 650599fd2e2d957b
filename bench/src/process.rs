//! A client process: started, watched, measured and surely ended.
//!
//! Role: CPU time comes from `wait4`'s rusage at the end (exact, all threads) and from `/proc/PID/stat` at the start of
//! the transfer (so that interpreter start-up and hash checks are not charged to it); memory from `VmHWM`, since a
//! child's `ru_maxrss` also counts its parent's memory before `exec`.
//! Invariant: a [`Process`] that goes out of scope is killed and reaped.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use wait4::Wait4;

use crate::error::BenchError;

/// How long a client may take to end after SIGTERM before it is killed.
const TERMINATE_WAIT: Duration = Duration::from_secs(20);

/// CPU time of a process, all its threads.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cpu {
    /// Seconds in user mode.
    pub user: f64,
    /// Seconds in the kernel on its behalf.
    pub system: f64,
}

impl Cpu {
    /// What was used since `earlier`; never negative, for the two sources round differently.
    pub fn since(self, earlier: Self) -> Self {
        let (user, system) = (self.user - earlier.user, self.system - earlier.system);
        Self { user: user.max(0.0), system: system.max(0.0) }
    }

    /// User and system together, seconds.
    pub fn total(self) -> f64 {
        self.user + self.system
    }
}

/// Highest values seen of a process's memory, KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeakMemory {
    /// Resident set, mapped file pages included (`VmHWM`).
    pub rss_kib: u64,
    /// Its anonymous part, at the sampled moments (`RssAnon`).
    pub anon_kib: u64,
}

/// How a process ended and what it used in its whole life.
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// CPU time from `wait4`.
    pub cpu: Cpu,
}

/// A running or ended client.
pub struct Process {
    child: Child,
    pid: Pid,
    log: PathBuf,
    exit: Option<Exit>,
    peak: PeakMemory,
}

impl Process {
    /// Starts `command` with its output going to the file `log`.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Self, BenchError> {
        let out = File::create(log).map_err(BenchError::file("create", log))?;
        let err = out.try_clone().map_err(BenchError::file("create", log))?;
        let program = PathBuf::from(command.get_program());
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(BenchError::file("start", &program))?;
        let pid = Pid::from_child(&child);
        Ok(Self { child, pid, log: log.to_owned(), exit: None, peak: PeakMemory::default() })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Option<Exit> {
        if self.exit.is_none()
            && let Ok(Some(used)) = self.child.try_wait4()
        {
            let cpu = Cpu { user: used.rusage.utime.as_secs_f64(), system: used.rusage.stime.as_secs_f64() };
            self.exit = Some(Exit { status: used.status, cpu });
        }
        self.exit
    }

    /// Sleeps until it ends, at most for `most`. Unlike looking every now and then, this takes no CPU time
    /// from the process that is measured.
    pub fn sleep_while_running(&self, most: Duration) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        use rustix::process::{PidfdFlags, pidfd_open};
        let timeout = Timespec::try_from(most).unwrap_or_default();
        // Not reaped yet unless `exit` is set, so the number is still its own.
        match pidfd_open(self.pid, PidfdFlags::empty()) {
            Ok(pidfd) if self.exit.is_none() => {
                // A signal only makes the sleep shorter.
                let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout));
            }
            _ => std::thread::sleep(most.min(Duration::from_millis(2))),
        }
    }

    /// CPU time so far.
    pub fn cpu_now(&self) -> Cpu {
        let parse = |text: String| parse_stat(&text, rustix::param::clock_ticks_per_second());
        match self.exit {
            Some(exit) => exit.cpu,
            None => self.proc_file("stat").ok().and_then(parse).unwrap_or_default(),
        }
    }

    /// Reads its memory use; call it every now and then, and before it ends.
    pub fn sample_memory(&mut self) {
        if let Ok(text) = self.proc_file("status") {
            let of = |key| status_kib(&text, key).unwrap_or(0);
            self.peak.rss_kib = self.peak.rss_kib.max(of("VmHWM:"));
            self.peak.anon_kib = self.peak.anon_kib.max(of("RssAnon:"));
        }
    }

    /// Highest memory use sampled.
    pub fn peak_memory(&self) -> PeakMemory {
        self.peak
    }

    /// Text of its log.
    pub fn log_text(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The log's last lines, for messages; starts with a line break unless empty.
    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let tail = &lines[lines.len().saturating_sub(5)..];
        tail.iter().map(|line| format!("\n    {}", line.chars().take(200).collect::<String>())).collect()
    }

    /// Asks it to end, waits, kills it if it does not.
    pub fn terminate(&mut self) -> Result<Exit, BenchError> {
        let asked = Instant::now();
        let mut killed = false;
        if self.try_wait().is_none() {
            self.sample_memory();
            // It may have ended between the two calls; its zombie takes the signal.
            let _ = kill_process(self.pid, Signal::TERM);
        }
        loop {
            if let Some(exit) = self.try_wait() {
                return Ok(exit);
            }
            if !killed && asked.elapsed() > TERMINATE_WAIT {
                let _ = kill_process(self.pid, Signal::KILL);
                killed = true;
            }
            if asked.elapsed() > 2 * TERMINATE_WAIT {
                return Err(BenchError::Client("the process does not end, even when killed".into()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn proc_file(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid.as_raw_nonzero()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.try_wait().is_none() {
            // Killing a zombie is harmless, and waiting for a killed child returns at once.
            let _ = kill_process(self.pid, Signal::KILL);
            while self.try_wait().is_none() {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// User and system time of `/proc/PID/stat`: fields 14 and 15, counted after the parenthesised name.
fn parse_stat(text: &str, ticks_per_second: u64) -> Option<Cpu> {
    let mut fields = text.rsplit_once(") ")?.1.split_ascii_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<u64>().ok()? as f64 / ticks_per_second as f64);
    Some(Cpu { user: seconds()?, system: seconds()? })
}

/// A value of `/proc/PID/status` in KiB.
fn status_kib(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let stat = "17 (a) b) c) S 1 17 17 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 1 0 5 6 7";
        assert_eq!(parse_stat(stat, 100), Some(Cpu { user: 2.5, system: 0.5 }));
        assert_eq!(parse_stat("17 (x", 100), None);
        let status = "Name:\tx\nVmHWM:\t   12345 kB\nRssAnon:\t 7 kB\n";
        assert_eq!(status_kib(status, "VmHWM:"), Some(12_345));
        assert_eq!(status_kib(status, "VmSwap:"), None);
    }

    #[test]
    fn a_child_is_measured_and_its_output_kept() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let mut process = Process::spawn(&mut command, &dir.path().join("log")).expect("sh exists");
        let exit = loop {
            process.sample_memory();
            if let Some(exit) = process.try_wait() {
                break exit;
            }
            process.sleep_while_running(Duration::from_secs(100));
        };
        assert_eq!(exit.status.code(), Some(3));
        assert!(process.log_tail().contains("one") && process.log_tail().contains("two"));
        assert_eq!(process.cpu_now(), exit.cpu);
    }

    #[test]
    fn dropping_kills() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut command = Command::new("sleep");
        command.arg("1000");
        let process = Process::spawn(&mut command, &dir.path().join("log")).expect("sleep exists");
        let proc_dir = PathBuf::from(format!("/proc/{}", process.pid.as_raw_nonzero()));
        assert!(proc_dir.exists());
        drop(process);
        assert!(!proc_dir.exists(), "reaped");
    }

    #[test]
    fn terminate_ends_a_running_child() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut command = Command::new("sleep");
        command.arg("1000");
        let mut process = Process::spawn(&mut command, &dir.path().join("log")).expect("sleep exists");
        process.sleep_while_running(Duration::from_millis(1));
        let exit = process.terminate().expect("ends");
        process.sleep_while_running(Duration::from_secs(100));
        assert!(!exit.status.success());
        assert!(process.terminate().is_ok(), "a second call is harmless");
    }
}

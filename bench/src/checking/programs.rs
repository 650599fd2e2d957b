//! The programs that check or make a torrent, and fio, which only reads: how each is started and measured.
//!
//! Role: [`Program::run`] is one run over one file. Owner: [`super`]. Invariant: a program's own time counts,
//! from its start to its end; where it only serves others (an interpreter, a daemon) the time of its work
//! alone. What each is told is visible here, so that its user can check that it was treated well.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use super::{Job, Task};
use crate::clients;
use crate::error::BenchError;
use crate::process::Process;

/// What libtorrent does.
const SCRIPT: &str = include_str!("libtorrent.py");
/// Pause between looks at a process's memory, of which the kernel keeps the peak.
const MEMORY_PAUSE: Duration = Duration::from_millis(50);
/// Pause between looks at a daemon: the error of its measured time.
const PAUSE: Duration = Duration::from_millis(5);
/// Every how many of these its memory is read.
const MEMORY_EVERY: u32 = 10;

/// A program of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// Reads the file past the page cache, with buffers in huge pages
    Fio,
    /// The same with buffers in small pages
    Fio4k,
    /// ccbt-fast
    Ccbt,
    /// libtorrent
    Libtorrent,
    /// transmission-daemon, transmission-create
    Transmission,
    /// mktorrent
    Mktorrent,
    /// sha1sum
    Sha1sum,
}

/// What one run gave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Measured {
    pub(super) seconds: f64,
    pub(super) cpu_s: f64,
    pub(super) peak_rss_mib: f64,
}

impl Program {
    /// Its name in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fio => "fio",
            Self::Fio4k => "fio4k",
            Self::Ccbt => "ccbt",
            Self::Libtorrent => "libtorrent",
            Self::Transmission => "transmission",
            Self::Mktorrent => "mktorrent",
            Self::Sha1sum => "sha1sum",
        }
    }

    /// Whether it can do the task at all.
    pub(super) fn does(self, task: Task) -> bool {
        self != Self::Mktorrent || task == Task::Create
    }

    /// Its version, or `None` if it is not installed.
    pub(super) fn version(self, ccbt: &Path) -> Option<String> {
        let (program, args): (PathBuf, &[&str]) = match self {
            Self::Fio | Self::Fio4k => ("fio".into(), &["--version"]),
            Self::Ccbt => (ccbt.to_owned(), &["--version"]),
            Self::Libtorrent => {
                (clients::python(), &["-c", "import libtorrent; print(libtorrent.__version__)"])
            }
            Self::Transmission => ("transmission-create".into(), &["--version"]),
            Self::Mktorrent => ("mktorrent".into(), &["-h"]),
            Self::Sha1sum => ("sha1sum".into(), &["--version"]),
        };
        let output = Command::new(program).args(args).output().ok()?;
        // transmission prints to standard error; mktorrent's exit code for its help is no success.
        let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        let is_good = output.status.success() || self == Self::Mktorrent;
        let line = String::from_utf8_lossy(&text).lines().next()?.trim().to_owned();
        is_good.then_some(line)
    }

    /// Runs it once over the job's file.
    pub(super) fn run(self, job: &Job<'_>) -> Result<Measured, BenchError> {
        match (self, job.task) {
            (Self::Fio, _) => fio(job, true),
            (Self::Fio4k, _) => fio(job, false),
            (Self::Libtorrent, _) => libtorrent(job),
            (Self::Transmission, Task::Verify) => transmission(job),
            _ => whole(job, &mut self.command(job)),
        }
    }

    /// The command of a program that only does this.
    fn command(self, job: &Job<'_>) -> Command {
        let torrent = job.scratch.join("made.torrent");
        let threads = job.threads.to_string();
        let mut command;
        match (self, job.task) {
            (Self::Ccbt, Task::Verify) => {
                command = Command::new(job.ccbt);
                command.arg("verify").arg(job.torrent).arg("--output").arg(job.folder);
                command.args(["--threads", &threads, "--json"]);
            }
            (Self::Ccbt, Task::Create) => {
                command = Command::new(job.ccbt);
                command.arg("create").arg(&job.file).arg("--output").arg(torrent);
                command.args([
                    "--force",
                    "--threads",
                    &threads,
                    "--piece-size",
                    &format!("{}K", job.piece_kib),
                ]);
            }
            (Self::Transmission, _) => {
                command = Command::new("transmission-create");
                command.arg("-o").arg(torrent).arg("-s").arg(job.piece_kib.to_string()).arg(&job.file);
            }
            (Self::Mktorrent, _) => {
                command = Command::new("mktorrent");
                let power = (job.piece_kib * 1024).ilog2().to_string();
                command.args(["-t", &threads, "-l", &power, "-o"]).arg(torrent).arg(&job.file);
            }
            _ => {
                command = Command::new("sha1sum");
                command.arg(&job.file);
            }
        }
        command
    }
}

/// A process from start to end.
fn whole(job: &Job<'_>, command: &mut Command) -> Result<Measured, BenchError> {
    // It refuses to overwrite what the run before made.
    let _ = std::fs::remove_file(job.scratch.join("made.torrent"));
    let started = Instant::now();
    let mut process = Process::spawn(command, &job.scratch.join("log"))?;
    let (seconds, cpu_s) = wait(job, &mut process, started)?;
    Ok(Measured { seconds, cpu_s, peak_rss_mib: rss_mib(&process) })
}

/// Waits for a good end: wall and CPU seconds.
fn wait(job: &Job<'_>, process: &mut Process, started: Instant) -> Result<(f64, f64), BenchError> {
    loop {
        if let Some(exit) = process.try_wait() {
            let seconds = started.elapsed().as_secs_f64();
            if exit.status.success() {
                return Ok((seconds, exit.cpu.total()));
            }
            let text = format!("it failed ({}){}", exit.status, process.log_tail());
            return Err(BenchError::Client(text));
        }
        process.sample_memory();
        check(job, process)?;
        process.sleep_while_running(MEMORY_PAUSE);
    }
}

/// Fails when it takes too long or somebody wants to stop.
fn check(job: &Job<'_>, process: &Process) -> Result<(), BenchError> {
    if job.stop.load(std::sync::atomic::Ordering::Relaxed) {
        return Err(BenchError::Interrupted);
    }
    if Instant::now() > job.deadline {
        let (seconds, log) = (job.timeout_s, process.log_tail());
        return Err(BenchError::Timeout { seconds, what: "the end of the work", log });
    }
    Ok(())
}

fn rss_mib(process: &Process) -> f64 {
    process.peak_memory().rss_kib as f64 / 1024.0
}

/// One pass over the file with the block size and depth of `ccbt-fast`'s own reads.
fn fio(job: &Job<'_>, huge: bool) -> Result<Measured, BenchError> {
    let mut command = Command::new("fio");
    command.args(["--name=read", "--rw=read", "--direct=1", "--readonly", "--output-format=json"]);
    command.arg(format!("--filename={}", job.file.display())).args(["--invalidate=0", "--loops=2"]);
    if job.is_memory {
        // tmpfs answers io_uring through kernel threads; plain reads are what is fastest there.
        command.args(["--ioengine=psync", "--bs=128k"]);
    } else {
        command.args(["--ioengine=io_uring", "--bs=1m", "--iodepth=32"]);
    }
    if huge {
        command.arg("--mem=mmaphuge");
    }
    let mut process = Process::spawn(&mut command, &job.scratch.join("log"))?;
    let (_, cpu_s) = wait(job, &mut process, Instant::now())?;
    let rate = parse_fio(&process.log_text())?;
    // Two loops, of which the rate is the mean; the CPU time is that of both and of fio's start.
    Ok(Measured { seconds: job.bytes as f64 / rate, cpu_s: cpu_s / 2.0, peak_rss_mib: rss_mib(&process) })
}

/// Bytes per second of fio's report; lines before the JSON are warnings.
fn parse_fio(text: &str) -> Result<f64, BenchError> {
    let json = text.find('{').map_or("", |at| &text[at..]);
    let value: Value = serde_json::from_str(json).unwrap_or_default();
    let rate = value["jobs"][0]["read"]["bw_bytes"].as_f64().filter(|rate| *rate > 0.0);
    rate.ok_or_else(|| BenchError::Client(format!("fio's report has no rate: {text}")))
}

fn libtorrent(job: &Job<'_>) -> Result<Measured, BenchError> {
    let script = job.scratch.join("hashing.py");
    std::fs::write(&script, SCRIPT).map_err(BenchError::file("write", &script))?;
    let mut command = Command::new(clients::python());
    command.arg(script);
    match job.task {
        Task::Verify => command.arg("verify").arg(job.torrent).arg(job.folder),
        Task::Create => command
            .arg("create")
            .arg(&job.file)
            .args([job.piece_kib * 1024, job.threads as u32].map(|n| n.to_string())),
    };
    let mut process = Process::spawn(&mut command, &job.scratch.join("log"))?;
    wait(job, &mut process, Instant::now())?;
    let text = process.log_text();
    let value: Value =
        text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    match (value["seconds"].as_f64(), value["cpu_s"].as_f64()) {
        (Some(seconds), Some(cpu_s)) => Ok(Measured { seconds, cpu_s, peak_rss_mib: rss_mib(&process) }),
        _ => Err(BenchError::Client(format!("libtorrent's script gave no figures{}", process.log_tail()))),
    }
}

/// The daemon checks what is there when a torrent is added.
fn transmission(job: &Job<'_>) -> Result<Measured, BenchError> {
    let config = job.scratch.join("transmission");
    // Nothing is remembered from the run before.
    let _ = std::fs::remove_dir_all(&config);
    std::fs::create_dir_all(&config).map_err(BenchError::file("create", &config))?;
    let mut running = clients::check_with_transmission(job.torrent, job.folder, &config)?;
    let (started, before) = (Instant::now(), running.process.cpu_now());
    for look in 0u32.. {
        if running.is_done()? {
            break;
        }
        if look.is_multiple_of(MEMORY_EVERY) {
            running.process.sample_memory();
        }
        check(job, &running.process)?;
        std::thread::sleep(PAUSE);
    }
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), running.process.cpu_now().since(before));
    running.process.sample_memory();
    let peak_rss_mib = rss_mib(&running.process);
    running.process.terminate()?;
    Ok(Measured { seconds, cpu_s: cpu.total(), peak_rss_mib })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fio_reports_are_read() {
        let text = r#"fio: a warning
            {"jobs": [{"read": {"bw_bytes": 1500000}}]}"#;
        assert_eq!(parse_fio(text).expect("has a rate"), 1_500_000.0);
        for bad in ["", "fio: no such file", r#"{"jobs": [{"read": {"bw_bytes": 0}}]}"#] {
            assert!(parse_fio(bad).is_err(), "{bad}");
        }
    }
}

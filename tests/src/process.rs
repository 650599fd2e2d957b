//! A child process that cannot outlive its test.
//!
//! Owner: the wrapper of one client ([`crate::ccbt`], [`crate::libtorrent`], …). Invariant: dropped means killed and
//! reaped; both output streams are drained all the time, so a chatty child never blocks on a full pipe; a panicking test
//! prints the last lines of each of its children.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Lines kept per stream for the report of a failed test, and for [`Process::said`].
const LINES_MAX: usize = 20_000;

/// Lines shown per stream when a test fails.
const LINES_SHOWN: usize = 60;

/// How often a wait looks again.
pub const POLL: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Lines {
    kept: VecDeque<String>,
    dropped: usize,
}

type Shared = Arc<Mutex<Lines>>;

/// A running (or ended, not yet forgotten) child.
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Shared,
    stderr: Shared,
    readers: Vec<JoinHandle<()>>,
    cursor: usize,
}

impl Process {
    /// Starts `command` under a `name` for messages. Its stdin is a pipe that closes when this is dropped.
    ///
    /// Panics when the program cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({:?}): {error}", command.get_program()));
        let (stdout, stderr) = (Shared::default(), Shared::default());
        let readers = vec![
            drain(child.stdout.take().expect("stdout is piped"), Arc::clone(&stdout)),
            drain(child.stderr.take().expect("stderr is piped"), Arc::clone(&stderr)),
        ];
        let stdin = child.stdin.take();
        Self { name: name.to_owned(), child, stdin, stdout, stderr, readers, cursor: 0 }
    }

    /// The next line of stdout for which `wanted` gives something; earlier lines are passed over.
    ///
    /// Panics when the deadline passes or the process has ended without saying it.
    pub fn wait_line<T>(
        &mut self,
        deadline: Duration,
        what: &str,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let until = Instant::now() + deadline;
        loop {
            // Looked up before the lines: what a process says before it ends is then never missed.
            let over = self.readers[0].is_finished();
            while let Some(line) = self.next_line() {
                if let Some(found) = wanted(&line) {
                    return found;
                }
            }
            assert!(!over, "{} ended before {what}", self.name);
            assert!(Instant::now() < until, "{}: no {what} within {deadline:?}", self.name);
            thread::sleep(POLL);
        }
    }

    /// The exit status, once the process has ended by itself.
    ///
    /// Panics when it still runs at the deadline.
    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let until = Instant::now() + deadline;
        loop {
            if let Some(status) = self.try_exit() {
                for reader in self.readers.drain(..) {
                    reader.join().expect("a reader thread only copies lines");
                }
                return status;
            }
            assert!(Instant::now() < until, "{} did not end within {deadline:?}", self.name);
            thread::sleep(POLL);
        }
    }

    /// The exit status if the process has already ended.
    pub fn try_exit(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap_or_else(|error| panic!("cannot wait for {}: {error}", self.name))
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; does nothing if the process has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.try_exit().is_none() {
            let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
            kill_process(pid, signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
        }
    }

    /// Writes a line to the child's stdin.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin stays open until the drop");
        writeln!(stdin, "{line}").unwrap_or_else(|error| panic!("cannot write to {}: {error}", self.name));
    }

    /// Everything on stdout so far.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// Everything on stderr so far.
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Whether a line of either stream satisfies `wanted`.
    pub fn said(&self, wanted: impl Fn(&str) -> bool) -> bool {
        [&self.stdout, &self.stderr]
            .into_iter()
            .any(|stream| lock(stream).kept.iter().any(|line| wanted(line)))
    }

    fn next_line(&mut self) -> Option<String> {
        let lines = lock(&self.stdout);
        let index = self.cursor.max(lines.dropped);
        let line = lines.kept.get(index - lines.dropped)?.clone();
        self.cursor = index + 1;
        Some(line)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the child is gone already, which is what the drop is for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            for (label, stream) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
                let lines = lock(stream);
                let skip = lines.kept.len().saturating_sub(LINES_SHOWN);
                eprintln!("--- {} {label}, last {} lines", self.name, lines.kept.len() - skip);
                lines.kept.iter().skip(skip).for_each(|line| eprintln!("    {line}"));
            }
        }
    }
}

/// Runs `command` to its end and returns (exit code, stdout, stderr).
///
/// Panics when it still runs at the deadline or died of a signal.
pub fn run(name: &str, command: &mut Command, deadline: Duration) -> (i32, String, String) {
    let mut process = Process::start(name, command);
    let status = process.wait_exit(deadline);
    let code = status.code().unwrap_or_else(|| panic!("{name} died: {status}\n{}", process.stderr()));
    (code, process.stdout(), process.stderr())
}

/// A field of the status of each thread (`Cpus_allowed_list:`), as far as they live.
///
/// Panics when there is no such process.
pub fn task_values(pid: u32, field: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let value = |task: std::fs::DirEntry| {
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        status.lines().find_map(|line| Some(line.strip_prefix(field)?.trim().to_owned()))
    };
    tasks.filter_map(|task| value(task.ok()?)).collect()
}

/// Looks until `probe` gives something.
///
/// Panics when the deadline passes first.
pub fn wait_until<T>(deadline: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + deadline;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < until, "no {what} within {deadline:?}");
        thread::sleep(POLL);
    }
}

/// The repository's root, from this crate's own place in it.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

fn drain(stream: impl Read + Send + 'static, lines: Shared) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut raw = Vec::new();
        // A read error means the pipe is gone, as does the end of the stream.
        while reader.read_until(b'\n', &mut raw).is_ok_and(|read| read > 0) {
            let line = String::from_utf8_lossy(&raw).trim_end().to_owned();
            raw.clear();
            let mut lines = lock(&lines);
            if lines.kept.len() == LINES_MAX {
                lines.kept.pop_front();
                lines.dropped += 1;
            }
            lines.kept.push_back(line);
        }
    })
}

fn text(stream: &Shared) -> String {
    lock(stream).kept.iter().fold(String::new(), |text, line| text + line + "\n")
}

fn lock(stream: &Shared) -> std::sync::MutexGuard<'_, Lines> {
    // Poison only says that another thread of the failing test panicked while it copied a line.
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The program that runs for each complete download.
//!
//! Role: runs it without a shell, a few at a time, and passes what it prints to the log. Owner: [`super::core`].
//! Invariant: at most [`RUNNING_MAX`] run; the others wait in order. What runs when the daemon ends is left to itself.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, PipeReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use ccbt_protocol::ids::InfoHash;
use crossbeam_channel::Sender;

use super::core::Message;

/// Programs at a time.
const RUNNING_MAX: usize = 4;
/// Lines of output that are logged, and characters of a line.
const LINES_MAX: usize = 200;
const LINE_LEN_MAX: u64 = 1000;

/// A program to run.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub argv: Vec<String>,
    pub info_hash: InfoHash,
    pub name: String,
    /// The torrent's file or folder.
    pub path: PathBuf,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Hooks {
    waiting: VecDeque<Job>,
    running: usize,
    tell: Sender<Message>,
}

impl Hooks {
    /// Ends are told as [`Message::HookEnded`].
    pub fn new(tell: Sender<Message>) -> Self {
        Self { waiting: VecDeque::new(), running: 0, tell }
    }

    /// Runs it, now or later.
    pub fn run(&mut self, job: Job) {
        self.waiting.push_back(job);
        self.next();
    }

    /// One has ended.
    pub fn ended(&mut self) {
        self.running -= 1;
        self.next();
    }

    fn next(&mut self) {
        while self.running < RUNNING_MAX
            && let Some(job) = self.waiting.pop_front()
        {
            self.running += 1;
            let tell = self.tell.clone();
            let info_hash = job.info_hash;
            let spawned = thread::Builder::new().name("ccbt-hook".to_owned()).spawn(move || {
                let code = execute(&job).unwrap_or_else(|error| {
                    tracing::warn!("on_complete: {} cannot be run: {error}", job.argv[0]);
                    None
                });
                // The daemon may have ended.
                let _ = tell.send(Message::HookEnded { info_hash, code });
            });
            if let Err(error) = spawned {
                tracing::warn!("on_complete: no thread for it: {error}");
                self.running -= 1;
            }
        }
    }
}

/// Runs it to its end; its exit code, `None` when a signal ended it.
fn execute(job: &Job) -> io::Result<Option<i32>> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(&job.argv[0]);
    command.args(&job.argv[1..]).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    command.env("CCBT_NAME", &job.name);
    command.env("CCBT_INFO_HASH", job.info_hash.to_string());
    command.env("CCBT_PATH", &job.path);
    let mut child = command.spawn()?;
    // Ours would keep the pipe open.
    drop(command);
    let name = job.name.clone();
    // Not waited for: what the program leaves behind may hold the pipe.
    let _ = thread::Builder::new().name("ccbt-hook-log".to_owned()).spawn(move || log(reader, &name));
    let status = child.wait()?;
    tracing::info!("on_complete: {} for {} ended: {status}", job.argv[0], job.name);
    Ok(status.code())
}

fn log(reader: PipeReader, name: &str) {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    for _ in 0..LINES_MAX {
        line.clear();
        match reader.by_ref().take(LINE_LEN_MAX).read_until(b'\n', &mut line) {
            Ok(1..) => {
                tracing::info!("on_complete for {name}: {}", String::from_utf8_lossy(&line).trim_end())
            }
            Ok(0) | Err(_) => return,
        }
    }
    tracing::info!("on_complete for {name}: the rest is not logged");
    // A full pipe would stop the program.
    let _ = io::copy(&mut reader, &mut io::sink());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;
    use std::time::Duration;

    fn job(dir: &std::path::Path, script: &str) -> Job {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned).into();
        Job { argv, info_hash: InfoHash([1; 20]), name: "a \"name\"".into(), path: dir.join("a b") }
    }

    #[test]
    fn a_few_run_at_a_time_with_their_environment() {
        let dir = tempfile::tempdir().expect("a folder");
        let (tell, told) = bounded(16);
        let mut hooks = Hooks::new(tell);
        let gate = dir.path().join("gate");
        let script = format!(
            "printf '%s|%s|%s\\n' \"$CCBT_NAME\" \"$CCBT_INFO_HASH\" \"$CCBT_PATH\" >> {0}/out; \
             while [ ! -e {1} ]; do sleep 0.02; done; exit 3",
            dir.path().display(),
            gate.display()
        );
        for _ in 0..RUNNING_MAX + 2 {
            hooks.run(job(dir.path(), &script));
        }
        assert_eq!((hooks.running, hooks.waiting.len()), (RUNNING_MAX, 2));
        std::fs::write(&gate, b"").expect("written");
        for _ in 0..RUNNING_MAX + 2 {
            let ended = told.recv_timeout(Duration::from_secs(60)).expect("it ends");
            assert!(matches!(ended, Message::HookEnded { code: Some(3), .. }), "{ended:?}");
            hooks.ended();
        }
        let out = std::fs::read_to_string(dir.path().join("out")).expect("written");
        let line = format!("a \"name\"|{}|{}/a b", InfoHash([1; 20]), dir.path().display());
        assert_eq!(out.lines().collect::<Vec<_>>(), vec![line.as_str(); RUNNING_MAX + 2]);
    }

    #[test]
    fn a_program_that_is_not_there_ends_without_a_code() {
        let (tell, told) = bounded(1);
        let mut hooks = Hooks::new(tell);
        let argv = vec!["/nonexistent/program".to_owned()];
        hooks.run(Job { argv, ..job(std::path::Path::new("/"), "") });
        let ended = told.recv_timeout(Duration::from_secs(60)).expect("told");
        assert!(matches!(ended, Message::HookEnded { code: None, .. }), "{ended:?}");
    }
}

//! A child process of the demonstration: this program itself, told apart by its JSON events.
//!
//! Owner: [`super::run`]. Invariant: the process is gone when the value is dropped.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::failure::Failure;
use crate::signals::Signals;

/// Events waiting to be looked at; the child waits when nobody looks, as with any pipe.
const EVENTS_MAX: usize = 256;
/// How often signals are looked at while waiting.
const TICK: Duration = Duration::from_millis(100);
/// Time a child may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A running child.
pub struct Client {
    name: String,
    child: Child,
    events: Receiver<Value>,
}

impl Client {
    /// Starts `ccbt-fast ARGS --json --no-config`.
    pub fn start<S: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = S>) -> Result<Self, Failure> {
        let start = || {
            let mut command = Command::new(std::env::current_exe()?);
            // The demo shows the defaults, whatever this user has configured.
            for (name, _) in
                std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CCBT_"))
            {
                command.env_remove(name);
            }
            let mut child = command
                .args(args)
                .args(["--json", "--no-config"])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()?;
            let stdout = child.stdout.take().expect("it is piped");
            Ok((child, stdout))
        };
        let (child, stdout) = start().map_err(Failure::system(format!("start the {name}")))?;
        let (tell, events) = bounded(EVENTS_MAX);
        // Ends with the child's output or when nobody listens.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if serde_json::from_str(&line).is_ok_and(|event| tell.send(event).is_err()) {
                    break;
                }
            }
        });
        Ok(Self { name: name.to_owned(), child, events })
    }

    /// The next event, or `None` when the child has closed its output.
    pub fn next(&mut self, signals: &Signals) -> Result<Option<Value>, Failure> {
        loop {
            if let Some(signal) = signals.received() {
                return Err(Failure::Interrupted(signal));
            }
            match self.events.recv_timeout(TICK) {
                Ok(event) => return Ok(Some(event)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Waits for the event called `name`.
    pub fn wait_for(&mut self, name: &str, signals: &Signals) -> Result<Value, Failure> {
        while let Some(event) = self.next(signals)? {
            if event["event"] == name {
                return Ok(event);
            }
            self.check(&event)?;
        }
        Err(Failure::Demo(format!("the {} ended before it was {name}", self.name)))
    }

    /// An error that the child will not recover from by itself.
    pub fn check(&self, event: &Value) -> Result<(), Failure> {
        if event["event"] == "error" && event["retry"] != true {
            return Err(Failure::Demo(format!("the {}: {}", self.name, event["message"])));
        }
        Ok(())
    }

    /// Waits for the end, and says how much CPU time the whole process took.
    pub fn finish(mut self) -> Result<(ExitStatus, Duration), Failure> {
        let pid = self.child.id();
        let started = Instant::now();
        // A process that has ended keeps its times until it is waited for.
        let cpu = loop {
            match read_stat(pid) {
                Some((b'Z', cpu)) => break Ok(cpu),
                Some(_) if started.elapsed() < STOP_TIMEOUT => std::thread::sleep(Duration::from_millis(5)),
                Some(_) => break Err(Failure::Demo(format!("the {} does not end", self.name))),
                None => break Err(Failure::Demo(format!("/proc/{pid}/stat is not readable"))),
            }
        }?;
        let status = self.child.wait().map_err(Failure::system(format!("wait for the {}", self.name)))?;
        Ok((status, cpu))
    }

    /// Asks it to stop, and waits for its end.
    pub fn stop(self) -> Result<(), Failure> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)
                .map_err(|error| Failure::system("stop a seeder")(error.into()))?;
        }
        let name = self.name.clone();
        match self.finish()? {
            (status, _) if status.success() => Ok(()),
            (status, _) => Err(Failure::Demo(format!("the {name} ended with {status}"))),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_stat(pid: u32) -> Option<(u8, Duration)> {
    parse_stat(
        &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?,
        rustix::param::clock_ticks_per_second(),
    )
}

/// State and CPU time (user and system, all threads) from `/proc/PID/stat`.
fn parse_stat(stat: &str, ticks_per_second: u64) -> Option<(u8, Duration)> {
    // The name before the last parenthesis may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let mut ticks = fields.skip(10).map_while(|field| field.parse::<u64>().ok());
    let total = ticks.next()? + ticks.next()?;
    Some((state, Duration::from_millis(total * 1000 / ticks_per_second.max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "42 (a) b (c) Z 1 2 3 0 -1 4194560 1 2 3 4 150 50 9 9 20 0 5 0 77";
        assert_eq!(parse_stat(stat, 100), Some((b'Z', Duration::from_secs(2))));
        assert_eq!(parse_stat("42 (x) R 1", 100), None);
        let (state, _) = read_stat(std::process::id()).expect("this process has one");
        assert!(state.is_ascii_alphabetic());
    }
}

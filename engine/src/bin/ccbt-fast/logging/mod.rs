//! Log records on standard error or in files, each on one line that cannot drive a terminal.
//!
//! Role: a thread of its own writes; whoever logs, a shard above all, only hands a line over. Owner: whoever runs
//! something, as [`Log`]. Invariants: nobody waits for a disk or a terminal: what finds no room in the queue is dropped,
//! counted and told; a line has [`LINE_BYTES`] at most; whatever a stranger named is escaped here, in text and in JSON.

mod file;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ccbt_fast::config::LogSettings;
use ccbt_protocol::metainfo::escape_for_terminal;
use crossbeam_channel::{Receiver, Sender, bounded};
use indicatif::ProgressBar;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, reload};

use crate::failure::Failure;
use crate::json;
use file::LogFile;

/// Records that wait for the disk or the terminal: a burst of some seconds, and 64 MiB of the longest at most.
const QUEUE: usize = 4096;
/// Bytes of a line at most; the rest is cut off.
const LINE_BYTES: usize = 16 << 10;
/// How long the end waits for what is queued.
const GOODBYE: Duration = Duration::from_secs(2);

enum Job {
    Line(Vec<u8>),
    /// Answered when all before it is written.
    Flush(Sender<()>),
}

/// What the subscriber writes to; once for each record.
#[derive(Clone)]
struct Queue {
    jobs: Sender<Job>,
    dropped: Arc<AtomicU64>,
}

impl Write for Queue {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let line = Job::Line(record[..record.len().min(LINE_BYTES)].to_vec());
        if self.jobs.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where lines end up.
enum Sink {
    /// Standard error, above the live display if there is one.
    Terminal(ProgressBar),
    File(LogFile),
}

impl Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Terminal(bar) => bar.suspend(|| io::stderr().lock().write_all(line)),
            Self::File(file) => file.write(line),
        }
    }
}

/// The thread's body.
struct Writer {
    jobs: Receiver<Job>,
    dropped: Arc<AtomicU64>,
    sink: Sink,
    is_json: bool,
}

impl Writer {
    fn run(mut self) {
        while let Ok(job) = self.jobs.recv() {
            match job {
                Job::Line(record) => self.line(&record),
                // Whoever asked may have given up.
                Job::Flush(done) => drop(done.try_send(())),
            }
            if self.jobs.is_empty() {
                self.tell_dropped();
            }
        }
    }

    fn line(&mut self, record: &[u8]) {
        let text = String::from_utf8_lossy(record);
        let text = text.trim_end_matches('\n');
        let line = match self.is_json {
            true => json::escaped(text.to_owned()),
            false => escape_for_terminal(text).into_owned(),
        };
        if self.sink.write(format!("{line}\n").as_bytes()).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells through the queue, which has room now, so that it looks like any other record.
    fn tell_dropped(&self) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!("{dropped} log records were dropped: they came faster than they could be written");
        }
    }
}

/// The running log. Dropped, it waits for what is queued, for two seconds at most.
pub struct Log {
    set: Box<dyn Fn(Targets)>,
    jobs: Sender<Job>,
}

impl Log {
    /// Lets through what `settings` say from now on; where to is not changed.
    pub fn set(&self, settings: &LogSettings) {
        (self.set)(settings.targets());
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let (done, is_done) = bounded(1);
        if self.jobs.send_timeout(Job::Flush(done), GOODBYE).is_ok() {
            let _ = is_done.recv_timeout(GOODBYE);
        }
    }
}

/// Starts logging as `settings` say; `bar` is taken away while a record is written on standard error.
pub fn start(settings: &LogSettings, bar: ProgressBar) -> Result<Log, Failure> {
    let sink = match &settings.file {
        None => Sink::Terminal(bar),
        Some(path) => {
            let opened = LogFile::open(path, settings.file_bytes, settings.files);
            Sink::File(opened.map_err(|error| {
                let path = path.to_string_lossy();
                Failure::Usage(escape_for_terminal(&format!("log file {path}: {error}")).into_owned())
            })?)
        }
    };
    let (jobs, queued) = bounded(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let writer = Writer { jobs: queued, dropped: dropped.clone(), sink, is_json: settings.json };
    std::thread::Builder::new()
        .name("ccbt-log".to_owned())
        .spawn(move || writer.run())
        .map_err(Failure::system("start the log's thread"))?;
    let queue = Queue { jobs: jobs.clone(), dropped };
    let (filter, handle) = reload::Layer::new(settings.targets());
    tracing_subscriber::registry().with(records(settings.json, queue).with_filter(filter)).init();
    // It fails only once the subscriber is gone, which is never.
    let set = Box::new(move |targets| drop(handle.reload(targets)));
    Ok(Log { set, jobs })
}

fn records(is_json: bool, queue: Queue) -> Box<dyn Layer<Registry> + Send + Sync> {
    let layer = fmt::layer().with_ansi(false).with_writer(move || queue.clone());
    match is_json {
        true => Box::new(layer.json().flatten_event(true)),
        false => Box::new(layer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(sink: Sink, is_json: bool) -> (Queue, Writer) {
        let (jobs, queued) = bounded(4);
        let dropped = Arc::new(AtomicU64::new(0));
        (Queue { jobs, dropped: dropped.clone() }, Writer { jobs: queued, dropped, sink, is_json })
    }

    #[test]
    fn lines_cannot_drive_a_terminal() {
        let dir = tempfile::tempdir().expect("a folder");
        for is_json in [false, true] {
            let path = dir.path().join(format!("log-{is_json}"));
            let file = LogFile::open(&path, None, 1).expect("opened");
            let (mut queue, writer) = writer(Sink::File(file), is_json);
            let hostile: &[&[u8]] = &[
                b"\"\x7f\"\n",
                "\"\u{9b}31m\"\n".as_bytes(),
                "\"\u{202e}\"\n".as_bytes(),
                b"\"\xff\xfe\"\n",
            ];
            for record in hostile {
                queue.write_all(record).expect("queued");
            }
            drop(queue);
            writer.run();
            let text = std::fs::read_to_string(&path).expect("UTF-8");
            assert_eq!(text.lines().count(), hostile.len(), "{text:?}");
            let is_safe = |c: char| c == '\n' || !ccbt_protocol::metainfo::is_unsafe_to_show(c);
            assert!(text.chars().all(is_safe), "{text:?}");
            if is_json {
                let read: Vec<String> =
                    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
                assert_eq!(read[1..3], ["\u{9b}31m", "\u{202e}"], "it means the same");
            }
        }
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let (mut queue, writer) = writer(Sink::Terminal(ProgressBar::hidden()), false);
        for _ in 0..10 {
            queue.write_all(b"x\n").expect("never an error, never a wait");
        }
        assert_eq!(writer.dropped.load(Ordering::Relaxed), 6);
        let mut long = queue.clone();
        drop(writer);
        long.write_all(&vec![b'x'; 10 * LINE_BYTES]).expect("the same without a thread");
    }
}

//! Log records on standard error or in a file, each on one line that cannot drive a terminal.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use ccbt_protocol::metainfo::escape_for_terminal;
use indicatif::ProgressBar;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, reload};

use crate::failure::Failure;

/// Where records go.
#[derive(Clone)]
enum Sink {
    /// Standard error, above the live display if there is one.
    Terminal(ProgressBar),
    File(Arc<File>),
}

impl Write for Sink {
    /// Called once per record.
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(record);
        let line = format!("{}\n", escape_for_terminal(text.trim_end_matches('\n')));
        match self {
            Self::Terminal(bar) => bar.suspend(|| io::stderr().lock().write_all(line.as_bytes()))?,
            Self::File(file) => (&**file).write_all(line.as_bytes())?,
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The running log.
pub struct Log {
    set_level: Box<dyn Fn(LevelFilter)>,
}

impl Log {
    /// Logs up to `level` from now on.
    pub fn set_level(&self, level: LevelFilter) {
        (self.set_level)(level);
    }
}

/// Starts logging up to `level`, to the end of `file` if there is one; else `bar` is taken away while a record is written.
pub fn start(level: LevelFilter, file: Option<&Path>, bar: ProgressBar) -> Result<Log, Failure> {
    let sink = match file {
        None => Sink::Terminal(bar),
        Some(path) => {
            let opened = File::options().append(true).create(true).open(path);
            Sink::File(Arc::new(opened.map_err(|error| {
                let path = path.to_string_lossy();
                Failure::Usage(escape_for_terminal(&format!("log file {path}: {error}")).into_owned())
            })?))
        }
    };
    let (filter, handle) = reload::Layer::new(level);
    let records = fmt::layer().with_ansi(false).with_writer(move || sink.clone());
    tracing_subscriber::registry().with(filter).with(records).init();
    // It fails only once the subscriber is gone, which is never.
    Ok(Log { set_level: Box::new(move |level| drop(handle.reload(level))) })
}

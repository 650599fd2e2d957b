//! Log records on standard error, each on one line that cannot drive a terminal.

use std::io::{self, Write};

use ccbt_protocol::metainfo::escape_for_terminal;
use indicatif::ProgressBar;
use tracing::level_filters::LevelFilter;

/// Writes whole records, above the live display if there is one.
struct Records {
    bar: ProgressBar,
}

impl Write for Records {
    /// Called once per record.
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(record);
        let line = format!("{}\n", escape_for_terminal(text.trim_end_matches('\n')));
        self.bar.suspend(|| io::stderr().lock().write_all(line.as_bytes()))?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts logging up to `level`; `bar` is taken away while a record is written.
pub fn start(level: LevelFilter, bar: ProgressBar) {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(move || Records { bar: bar.clone() })
        .init();
}

//! The one error type of the harness.
//!
//! Role: everything that can end a run or the whole program, as values with a message for the person at the terminal.
//! A failing client becomes a row of the report (see `transfer`), never a panic.

use std::io;
use std::path::{Path, PathBuf};

/// Why a run, or the program, could not go on.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// An option has a value the harness cannot work with.
    #[error("{0}")]
    Usage(String),
    /// A file operation failed.
    #[error("{action} {path}: {source}", path = path.display())]
    File {
        /// What was being done, as a verb: "write", "read".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// A socket operation of the load generator failed.
    #[error("load generator: {action}: {source}")]
    Socket {
        /// What was being done.
        action: &'static str,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// A client did something that makes its run worthless.
    #[error("{0}")]
    Client(String),
    /// A run took longer than `--timeout-s`.
    #[error("no result within {seconds} s: {what}{log}")]
    Timeout {
        /// The limit in seconds.
        seconds: u64,
        /// What was waited for.
        what: &'static str,
        /// Last lines of the client's log, or empty.
        log: String,
    },
    /// SIGINT or SIGTERM arrived.
    #[error("interrupted")]
    Interrupted,
}

impl BenchError {
    /// Adapter for `map_err` on file operations.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }

    /// Adapter for `map_err` on socket operations.
    pub fn socket(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Socket { action, source }
    }
}

//! Where a value comes from, and what is wrong with one.
//!
//! Invariant: every message is one line per problem and cannot drive a terminal, since `./ccbt.toml` may be a stranger's.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use ccbt_protocol::metainfo::escape_for_terminal;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody has set it.
    Default,
    /// A configuration file.
    File {
        /// As it was looked for.
        path: Arc<Path>,
        /// From 1; 0 is the file as a whole.
        line: usize,
    },
    /// This environment variable.
    Env(String),
    /// This option of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Default => "default".to_owned(),
            Self::File { path, line: 0 } => path.display().to_string(),
            Self::File { path, line } => format!("{}:{line}", path.display()),
            Self::Env(name) | Self::Flag(name) => name.clone(),
        };
        out.write_str(&escape_for_terminal(&text))
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// The key as it was written, with its section; empty where no key is to blame.
    pub key: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(out, "{}: ", escape_for_terminal(&self.key))?;
        }
        out.write_str(&escape_for_terminal(&self.message))
    }
}

/// A configuration that cannot be used: everything that is wrong with it, at least one thing. Nothing was applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// In the order of the layers, and of the lines in a file.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(out, "{separator}{problem}")?;
        }
        Ok(())
    }
}

//! What this machine lacks to run the engine well, and what to type about it.
//!
//! Role: [`examine`] looks at the kernel, limits, CPUs, a folder and a port, and judges each. Owner: whoever asks
//! (`ccbt-fast doctor`). Invariants: nothing is changed, and nothing leaves the machine unless
//! [`Subjects::router`] says that the router may be asked; every finding that is not
//! [`Verdict::Ok`] says what to do. [`Facts`] are read by one function and judged by another, which is pure.

mod cpu;
mod facts;
mod folder;
mod judge;
mod port;
mod router;

use std::path::PathBuf;

use ccbt_storage::ring::features::{features, of_kernel};
use serde::Serialize;

pub use facts::{Facts, sysctl};
pub use judge::judge;

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but costs speed, memory or safety.
    Warn,
    /// The engine does not run, or not there.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at; a short name that stays the same.
    pub check: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do or type; `None` with [`Verdict::Ok`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), advice: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, found: found.into(), advice: Some(advice.into()) }
    }

    fn fail(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, found: found.into(), advice: Some(advice.into()) }
    }
}

/// What is to be examined.
#[derive(Clone, Debug)]
pub struct Subjects {
    /// Where `proc` and `sys` are: `/`, or a made-up tree.
    pub root: PathBuf,
    /// Folders that torrents will be in.
    pub folders: Vec<PathBuf>,
    /// Port that peers connect to; 0: none is chosen yet, and the one the system gives is tried.
    pub port: u16,
    /// The router is asked whether it maps ports.
    pub router: bool,
}

/// Examines everything, in the order in which it is worth reading. Takes a second at most, of which most is spent on
/// hashing and on writing one block into each folder; five more where a router is asked that does not answer.
pub fn examine(subjects: &Subjects) -> Vec<Finding> {
    let mut findings = judge(&Facts::read(&subjects.root));
    findings.push(judge::ring(ccbt_storage::ring::probe()));
    if let (Ok(there), Ok(used)) = (of_kernel(), features()) {
        findings.push(judge::ring_features(there, used));
    }
    findings.extend(cpu::examine(&subjects.root));
    for folder in &subjects.folders {
        findings.extend(folder::examine(folder, &subjects.root));
    }
    findings.extend(port::examine(subjects.port));
    findings.extend(router::examine(subjects.router, subjects.port));
    findings
}

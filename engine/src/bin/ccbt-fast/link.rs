//! `--link-from`: files of other folders are taken over before a torrent runs.

use std::path::Path;
use std::sync::Arc;

use ccbt_fast::hashing::{HashError, Progress};
use ccbt_fast::linking::{How, LinkError, LinkOptions, Outcome, link};
use ccbt_fast::{AddOptions, Metainfo};
use ccbt_storage::relocate::{MoveProgress, RelocateError};

use crate::console::Console;
use crate::failure::Failure;
use crate::gauge::{self, Watched};
use crate::lines::Line;
use crate::signals::Signals;

/// Files that were not linked and are named to people; programs (`--json`) hear of all.
const NAMED_MAX: usize = 20;

/// Hashing and copying, shown as the first and cancelled together.
struct Both {
    hashing: Arc<Progress>,
    copying: Arc<MoveProgress>,
}

impl Watched for Both {
    fn done(&self) -> u64 {
        self.hashing.done()
    }

    fn total(&self) -> u64 {
        self.hashing.total()
    }

    fn cancel(&self) {
        self.hashing.cancel();
        self.copying.cancel();
    }
}

/// Links what is found, tells it, and puts what was verified into `options`.
pub fn run(
    metainfo: &Metainfo,
    link_options: &LinkOptions,
    options: &mut AddOptions,
    signals: &Signals,
    console: &mut Console,
) -> Result<(), Failure> {
    let progress =
        Both { hashing: Arc::clone(&link_options.progress), copying: Arc::clone(&link_options.copying) };
    let work = || link(metainfo, &options.output, &options.renames, link_options);
    let result = gauge::watch("looking for files", &progress, signals, console, work)?;
    let report = match (result, signals.received()) {
        (
            Err(LinkError::Hash(HashError::Cancelled) | LinkError::Copy(RelocateError::Cancelled)),
            Some(signal),
        ) => return Err(Failure::Interrupted(signal)),
        (result, _) => result?,
    };
    for note in &report.notes {
        console.line(&Line::Note { message: note });
    }
    let mut missing = 0;
    for (index, outcome) in &report.files {
        let path = metainfo.files[*index].path.join("/");
        let reason = reason(outcome);
        missing += usize::from(reason.is_some());
        let from = match outcome {
            Outcome::Linked { from, .. } | Outcome::Refused { from, .. } => Some(shown(from)),
            _ => None,
        };
        let line =
            Line::Link { path: &path, from: from.as_deref(), how: how(outcome), reason: reason.as_deref() };
        if missing <= NAMED_MAX || console.is_json() {
            console.line(&line);
        }
    }
    if missing > NAMED_MAX {
        console.words(&format!("{} more files were not linked", missing - NAMED_MAX));
    }
    let (files, bytes) = report.linked(metainfo);
    console.line(&Line::Linked { files, missing, bytes });
    options.known = Some(report.known());
    Ok(())
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn how(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Linked { how: How::Reflinked, .. } => Some("reflink"),
        Outcome::Linked { how: How::HardLinked, .. } => Some("hardlink"),
        Outcome::Linked { how: How::Copied, .. } => Some("copy"),
        Outcome::Created => Some("created"),
        _ => None,
    }
}

/// Why a file is not there now.
fn reason(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::NotFound => Some("no file of its length was found".to_owned()),
        Outcome::Differs(1) => Some("the one file of its length has other content".to_owned()),
        Outcome::Differs(found) => Some(format!("the {found} files of its length have other content")),
        Outcome::Refused { from, reason } => Some(format!("{} was found, but {reason}", shown(from))),
        Outcome::AlreadyThere | Outcome::Created | Outcome::Linked { .. } => None,
    }
}

//! A torrent's files moved, renamed, deleted, or made its own again.
//!
//! Role: everything that happens to whole files, as plain blocking calls; a [`thread`] of its own makes them, so
//! that the storage ring never waits for a copy. Owner: whoever calls; nothing is kept between calls.
//!
//! Invariants of [`relocate`]: after `Ok` every file is at its new place; after an error everything that this call
//! did is undone (if even that fails, [`RelocateError::Split`] says which file is where); after a crash the same call
//! again completes the move. A copy bears the suffix [`TEMPORARY`] until it is whole and synced, and a source is
//! removed only when all copies are durable. Below either root no symbolic link is followed, and nothing is touched
//! that is not a file of the torrent or a folder that became empty by that.
//!
//! The torrent must be closed in the storage thread meanwhile. Called by the mover thread for shards, and by the
//! command line.

mod copying;
mod deleting;
mod error;
mod moving;
mod places;
mod progress;
mod sharing;
pub mod thread;

use std::path::PathBuf;
use std::sync::Arc;

use ccbt_protocol::ids::TorrentKey;

pub use copying::{Copied, Source, clone_into, copy_into};
pub use deleting::{DeleteReport, delete};
pub use error::RelocateError;
pub use moving::{MoveOptions, MoveReport, relocate};
pub use places::{Identity, Place, Root, sync_folder};
pub use progress::MoveProgress;
pub use sharing::unshare;

use crate::layout::LayoutSpec;

/// What a file is called behind its name while it is being written by a move, a copy or a link.
pub const TEMPORARY: &str = ".ccbt-move";

/// Work for the mover thread.
#[derive(Debug)]
pub struct RelocateJob {
    /// The torrent.
    pub torrent: TorrentKey,
    /// What to do with its files.
    pub kind: RelocateKind,
    /// How far it is, and the way to cancel it.
    pub progress: Arc<MoveProgress>,
}

/// What to do with a torrent's files.
#[derive(Debug)]
pub enum RelocateKind {
    /// From the places of one layout to those of the other; both have the same files.
    Move {
        /// Where they are.
        from: Arc<LayoutSpec>,
        /// Where they shall be.
        to: Arc<LayoutSpec>,
        /// What may be done on the way.
        options: MoveOptions,
    },
    /// Gives those of `files` that have further hard links a copy of their own.
    Unshare {
        /// Where they are.
        spec: Arc<LayoutSpec>,
        /// Indices of the files.
        files: Vec<u32>,
    },
    /// Removes them.
    Delete {
        /// Where they are.
        spec: Arc<LayoutSpec>,
    },
}

/// The mover's answer to a [`RelocateJob`].
#[derive(Debug)]
pub struct RelocateDone {
    /// The torrent.
    pub torrent: TorrentKey,
    /// What became of it.
    pub result: Result<RelocateReport, RelocateError>,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelocateReport {
    /// Of [`RelocateKind::Move`].
    Moved(MoveReport),
    /// Of [`RelocateKind::Unshare`]: so many files were copied.
    Unshared(usize),
    /// Of [`RelocateKind::Delete`].
    Deleted(DeleteReport),
}

impl RelocateJob {
    /// Does it, on this thread.
    pub fn run(self) -> RelocateDone {
        let progress = &self.progress;
        let result = match &self.kind {
            RelocateKind::Move { from, to, options } => {
                relocate(from, to, *options, progress).map(RelocateReport::Moved)
            }
            RelocateKind::Unshare { spec, files } => {
                unshare(spec, files, progress).map(RelocateReport::Unshared)
            }
            RelocateKind::Delete { spec } => delete(spec).map(RelocateReport::Deleted),
        };
        RelocateDone { torrent: self.torrent, result }
    }
}

/// A file or folder that stays although it should go, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Where it is.
    pub path: PathBuf,
    /// Why it stays, for people.
    pub reason: String,
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

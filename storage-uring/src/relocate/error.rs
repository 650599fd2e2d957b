//! Why files cannot be moved, copied or deleted. Every message says what to do.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::error::{Op, StorageError};

/// A move, copy or removal that did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelocateError {
    /// A system call failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Something else is where a file should go.
    #[error(
        "{} is there already and is not the same as {}; move it away, or allow it to be overwritten",
        .there.display(), .source_path.display()
    )]
    Conflict {
        /// What is in the way.
        there: PathBuf,
        /// The file that should take its place.
        source_path: PathBuf,
    },
    /// A file was written to by somebody while it was copied.
    #[error("{} changed while it was copied; stop what writes to it, then move again", .0.display())]
    Changed(PathBuf),
    /// The copies do not fit.
    #[error(
        "not enough space in {}: {needed} bytes are needed and {free} are free; free some or choose another folder",
        .folder.display()
    )]
    Space {
        /// Where the copies should go.
        folder: PathBuf,
        /// Bytes to be copied.
        needed: u64,
        /// Bytes to be had.
        free: u64,
    },
    /// Somebody asked to stop.
    #[error("the move was cancelled; every file is where it was")]
    Cancelled,
    /// The move failed, and so did undoing it.
    #[error(
        "{cause}; and undoing what was done failed too ({undo}), so some files are in {} and some in {}: move \
         again when the cause is gone",
        .from.display(), .to.display()
    )]
    Split {
        /// Folder that was moved from.
        from: PathBuf,
        /// Folder that was moved to.
        to: PathBuf,
        /// What failed first.
        cause: Box<RelocateError>,
        /// What failed then.
        undo: StorageError,
    },
}

/// For `map_err`: the error of a system call on `path`.
pub(super) fn failed(op: Op, path: &Path) -> impl Fn(Errno) -> StorageError + '_ {
    move |errno| StorageError::from_errno(op, path, errno.raw_os_error())
}

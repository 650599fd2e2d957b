//! What can go wrong with files, in words that tell the user what to do.
//!
//! Role: one error type for every disk operation. Invariant: cloneable (one failed vectored write fails
//! several pieces), so it keeps the errno and not an `io::Error`. Built by the storage thread and
//! [`crate::files`].

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Opening or creating a file or a folder.
    Open,
    /// Setting a length or reserving blocks.
    Allocate,
    /// Writing a piece.
    Write,
    /// Reading a range.
    Read,
    /// Making written data durable.
    Sync,
    /// Renaming a file, or moving it to another folder.
    Move,
    /// Removing a file or a folder.
    Delete,
    /// Giving a file another name, or sharing its blocks.
    Link,
}

/// What the caller can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// `ENOSPC`: goes on when there is space again.
    NoSpace,
    /// `EDQUOT`: goes on when the quota allows.
    Quota,
    /// `EROFS`.
    ReadOnly,
    /// `EACCES` or `EPERM`.
    Permission,
    /// A folder, device, fifo or socket is where a file should be, or a file where a folder should be.
    NotAFile,
    /// A symbolic link or a path part leads out of the download folder (or is a link at all).
    OutsideRoot,
    /// The file or the folder is not there.
    Missing,
    /// The file ended before the range did: it was cut or never completed.
    ShortRead,
    /// The file would be longer than the file system or the process limit allows (`EFBIG`).
    TooLarge,
    /// Out of descriptors or kernel memory (`EMFILE`, `ENFILE`, `ENOMEM`) after a bounded number of retries.
    Exhausted,
    /// Another process writes to it.
    InUse,
    /// The torrent is not open, or was opened read-only and a write was asked.
    NotOpen,
    /// The layout itself is impossible: a path that is absolute or climbs, or sizes that do not add up.
    BadLayout,
    /// The file has further hard links: writing to it would change the other copies too. It is copied first.
    Shared,
    /// Any other I/O error, `EIO` above all.
    Io,
}

/// A failed disk operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {} {}: {}", verb(*.op), .path.display(), explain(*.kind, *.errno))]
pub struct StorageError {
    op: Op,
    path: PathBuf,
    kind: ErrorKind,
    errno: Option<i32>,
}

impl StorageError {
    /// From the error of a system call on `path`.
    pub fn from_errno(op: Op, path: &Path, errno: i32) -> Self {
        Self { op, path: path.to_owned(), kind: kind_of(errno), errno: Some(errno) }
    }

    /// One that no system call reported.
    pub fn new(op: Op, path: &Path, kind: ErrorKind) -> Self {
        Self { op, path: path.to_owned(), kind, errno: None }
    }

    /// What the caller can act on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same may work later without the user changing paths: space, quota, descriptors, devices.
    pub fn is_temporary(&self) -> bool {
        use ErrorKind::{Exhausted, Io, NoSpace, Quota};
        matches!(self.kind, NoSpace | Quota | Exhausted | Io)
    }

    /// What was tried.
    pub fn op(&self) -> Op {
        self.op
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The system's error number, when a system call failed.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }
}

fn kind_of(errno: i32) -> ErrorKind {
    match Errno::from_raw_os_error(errno) {
        Errno::NOSPC => ErrorKind::NoSpace,
        Errno::DQUOT => ErrorKind::Quota,
        Errno::ROFS => ErrorKind::ReadOnly,
        Errno::ACCESS | Errno::PERM => ErrorKind::Permission,
        Errno::ISDIR | Errno::NOTDIR | Errno::NXIO | Errno::NODEV => ErrorKind::NotAFile,
        Errno::LOOP | Errno::XDEV => ErrorKind::OutsideRoot,
        Errno::NOENT => ErrorKind::Missing,
        Errno::FBIG => ErrorKind::TooLarge,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => ErrorKind::Exhausted,
        _ => ErrorKind::Io,
    }
}

fn verb(op: Op) -> &'static str {
    match op {
        Op::Open => "open",
        Op::Allocate => "reserve space for",
        Op::Write => "write",
        Op::Read => "read",
        Op::Sync => "sync",
        Op::Move => "move",
        Op::Delete => "delete",
        Op::Link => "link",
    }
}

fn explain(kind: ErrorKind, errno: Option<i32>) -> String {
    let advice = match kind {
        ErrorKind::NoSpace => "no space left on the device; free some, then resume the torrent",
        ErrorKind::Quota => {
            "the disk quota is used up; free space or raise the quota, then resume the torrent"
        }
        ErrorKind::ReadOnly => "the file system is read-only; remount it or choose another folder",
        ErrorKind::Permission => "permission denied; give this user access or choose another folder",
        ErrorKind::NotAFile => {
            "there is something else than a regular file (or a file where a folder is needed); move it away"
        }
        ErrorKind::OutsideRoot => {
            "a symbolic link is in the way, and links inside the download folder are not followed; remove it"
        }
        ErrorKind::Missing => "it is not there; restore it or re-check the torrent",
        ErrorKind::ShortRead => "the file is shorter than it should be; re-check the torrent",
        ErrorKind::TooLarge => "the file system or `ulimit -f` does not allow files of this size",
        ErrorKind::Exhausted => {
            "out of file descriptors or kernel memory; raise `ulimit -n` or open fewer torrents"
        }
        ErrorKind::InUse => {
            "another process downloads to it; stop that one, choose another folder, or seed without writing"
        }
        ErrorKind::NotOpen => "the torrent is not open for this",
        ErrorKind::BadLayout => "the torrent names an impossible path or size",
        ErrorKind::Shared => "it has another hard link, and writing would change that too; copy it first",
        ErrorKind::Io => "the device reports an error; check the disk and the kernel log",
    };
    match errno {
        Some(errno) => format!("{advice} ({})", io::Error::from_raw_os_error(errno)),
        None => advice.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_path_cause_and_cure() {
        let full = StorageError::from_errno(Op::Write, Path::new("/data/a.iso"), 28);
        assert_eq!(full.kind(), ErrorKind::NoSpace);
        let text = full.to_string();
        assert!(
            text.starts_with("cannot write /data/a.iso: no space left") && text.contains("os error 28"),
            "{text}"
        );
        let short = StorageError::new(Op::Read, Path::new("b"), ErrorKind::ShortRead);
        assert!(short.to_string().contains("re-check"), "{short}");
        assert_eq!(StorageError::from_errno(Op::Open, Path::new("b"), 5).kind(), ErrorKind::Io);
    }
}

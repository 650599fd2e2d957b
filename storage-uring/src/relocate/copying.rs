//! One file's bytes into another: shared blocks where the file system can, else copied in bounded chunks.
//!
//! Invariant: the copy has the source's holes, permission bits and time of change, is no longer and no shorter, and is
//! durable when the call returns. The source is only read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{
    Mode, SeekFrom, Timespec, Timestamps, copy_file_range, fchmod, fdatasync, fsync, ftruncate, futimens,
    ioctl_ficlone, seek,
};
use rustix::io::Errno;

use super::error::failed;
use super::places::Identity;
use super::{MoveProgress, RelocateError};
use crate::error::{ErrorKind, Op, StorageError};

/// Bytes copied between two looks at whether to stop.
const CHUNK: usize = 16 << 20;
/// Bytes of the buffer where the kernel does not copy by itself.
const BUFFER: usize = 1 << 20;
/// Bytes after which what was copied is written back, so that the page cache does not fill up with it.
const SYNC_EVERY: u64 = 256 << 20;

/// How a file came to its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// It shares its blocks with the source (FICLONE); either may change without the other.
    Cloned,
    /// Byte by byte.
    Copied,
}

/// A file to be copied: open for reading, what it was when it was looked at, and its path for messages.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its content.
    pub file: &'a File,
    /// What it was.
    pub identity: &'a Identity,
    /// Where it is.
    pub path: &'a Path,
}

/// Makes `target`, a new and empty file, share the blocks of `source`. `false`: the file systems cannot.
pub fn clone_into(source: Source<'_>, target: &File, path: &Path) -> Result<bool, StorageError> {
    match ioctl_ficlone(target, source.file) {
        Ok(()) => {}
        // ENOTTY, EOPNOTSUPP: no reflinks there; EXDEV: two file systems; EINVAL, EPERM, ETXTBSY, EISDIR: not these.
        Err(
            Errno::NOTTY
            | Errno::OPNOTSUPP
            | Errno::XDEV
            | Errno::INVAL
            | Errno::PERM
            | Errno::NOSYS
            | Errno::TXTBSY
            | Errno::BADF,
        ) => return Ok(false),
        Err(errno) => return Err(failed(Op::Write, path)(errno)),
    }
    dress(source.identity, target, path)?;
    Ok(true)
}

/// Gives `target`, a new and empty file, the content of `source`.
pub fn copy_into(
    source: Source<'_>,
    target: &File,
    path: &Path,
    progress: &MoveProgress,
) -> Result<Copied, RelocateError> {
    if clone_into(source, target, path)? {
        progress.add(source.identity.len);
        return Ok(Copied::Cloned);
    }
    ftruncate(target, source.identity.len).map_err(failed(Op::Allocate, path))?;
    let mut copier =
        Copier { source, target, path, progress, in_kernel: true, buffer: Vec::new(), unsynced: 0 };
    copier.copy_all()?;
    dress(source.identity, target, path)?;
    Ok(Copied::Copied)
}

/// Permission bits and time of change, then everything to the disk.
fn dress(identity: &Identity, target: &File, path: &Path) -> Result<(), StorageError> {
    fchmod(target, Mode::from_raw_mode(identity.mode & 0o777)).map_err(failed(Op::Write, path))?;
    let (tv_sec, nanoseconds) = identity.modified;
    let modified = Timespec { tv_sec, tv_nsec: nanoseconds.into() };
    let times = Timestamps { last_access: modified, last_modification: modified };
    futimens(target, &times).map_err(failed(Op::Write, path))?;
    fsync(target).map_err(failed(Op::Sync, path))
}

struct Copier<'a> {
    source: Source<'a>,
    target: &'a File,
    path: &'a Path,
    progress: &'a MoveProgress,
    /// `copy_file_range` has not been refused yet.
    in_kernel: bool,
    buffer: Vec<u8>,
    unsynced: u64,
}

impl Copier<'_> {
    /// Copies what is data; holes of the source are holes of the target, which has its length already.
    fn copy_all(&mut self) -> Result<(), RelocateError> {
        let len = self.source.identity.len;
        let mut at = 0;
        while at < len {
            let (start, end) = self.next_data(at, len)?;
            self.progress.add(start - at);
            at = start;
            while at < end {
                self.progress.check()?;
                let want = (end - at).min(CHUNK as u64) as usize;
                let moved = self.copy_some(at, want)?;
                if moved == 0 {
                    return Err(RelocateError::Changed(self.source.path.to_owned()));
                }
                at += moved as u64;
                self.progress.add(moved as u64);
                self.unsynced += moved as u64;
                if self.unsynced >= SYNC_EVERY {
                    self.unsynced = 0;
                    fdatasync(self.target).map_err(failed(Op::Sync, self.path))?;
                }
            }
        }
        Ok(())
    }

    /// The next stretch of data from `at` on, within the first `len` bytes; empty at `len` when there is none.
    fn next_data(&self, at: u64, len: u64) -> Result<(u64, u64), StorageError> {
        let start = match seek(self.source.file, SeekFrom::Data(at)) {
            Ok(start) => start.min(len),
            Err(Errno::NXIO) => return Ok((len, len)),
            // The file system cannot tell: all of it is data.
            Err(Errno::INVAL) => return Ok((at, len)),
            Err(errno) => return Err(failed(Op::Read, self.source.path)(errno)),
        };
        let end = match seek(self.source.file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(len),
            Err(Errno::NXIO | Errno::INVAL) => len,
            Err(errno) => return Err(failed(Op::Read, self.source.path)(errno)),
        };
        Ok((start, end))
    }

    /// Copies up to `want` bytes at `at`; how many. 0: the source has become shorter.
    fn copy_some(&mut self, at: u64, want: usize) -> Result<usize, StorageError> {
        while self.in_kernel {
            let (mut from, mut to) = (at, at);
            match copy_file_range(self.source.file, Some(&mut from), self.target, Some(&mut to), want) {
                Ok(moved) => return Ok(moved),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => self.in_kernel = false,
                Err(errno) => return Err(failed(Op::Write, self.path)(errno)),
            }
        }
        self.buffer.resize(BUFFER, 0);
        let want = want.min(BUFFER);
        let got = read_some(self.source.file, &mut self.buffer[..want], at)
            .map_err(|error| of_io(Op::Read, self.source.path, &error))?;
        self.target
            .write_all_at(&self.buffer[..got], at)
            .map_err(|error| of_io(Op::Write, self.path, &error))?;
        Ok(got)
    }
}

fn read_some(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn of_io(op: Op, path: &Path, error: &io::Error) -> StorageError {
    match error.raw_os_error() {
        Some(errno) => StorageError::from_errno(op, path, errno),
        None => StorageError::new(op, path, ErrorKind::Io),
    }
}

/// Whether two files of the same length have the same content.
pub(super) fn same_content(
    one: Source<'_>,
    other: Source<'_>,
    progress: &MoveProgress,
) -> Result<bool, RelocateError> {
    let (mut left, mut right) = (vec![0; BUFFER], vec![0; BUFFER]);
    let len = one.identity.len;
    let mut at = 0;
    while at < len {
        progress.check()?;
        let want = (len - at).min(BUFFER as u64) as usize;
        for (source, buffer) in [(one, &mut left), (other, &mut right)] {
            source.file.read_exact_at(&mut buffer[..want], at).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => RelocateError::Changed(source.path.to_owned()),
                _ => of_io(Op::Read, source.path, &error).into(),
            })?;
        }
        if left[..want] != right[..want] {
            return Ok(false);
        }
        at += want as u64;
    }
    Ok(true)
}

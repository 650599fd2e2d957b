//! Files as folder and name below a root, and what identifies them.
//!
//! Role: the system calls of the mover. Invariant: as in [`crate::files`], nothing below a root is reached through a
//! symbolic link, and only regular files are opened, renamed or removed.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, RenameFlags, StatxFlags, renameat, renameat_with, statx, unlinkat};
use rustix::io::Errno;

use super::TEMPORARY;
use super::error::failed;
use crate::error::{ErrorKind, Op, StorageError};
use crate::files::{self, Access};

/// Longest name that gets [`TEMPORARY`] appended; a longer one is cut first (`NAME_MAX` is 255).
const NAME_MAX: usize = 240;

/// What a regular file is, apart from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Length in bytes.
    pub len: u64,
    /// Time of the last change of its content: seconds since 1970, nanoseconds.
    pub modified: (i64, u32),
    /// Permission bits.
    pub mode: u32,
    /// Names it has (hard links).
    pub links: u32,
    /// Bytes of its blocks; fewer than `len` for a sparse file.
    pub stored: u64,
}

impl Identity {
    /// Whether `other` is this file with the content it had, as far as can be told without reading.
    pub fn is_unchanged(&self, other: &Self) -> bool {
        let content = |this: &Self| (this.device, this.inode, this.len, this.modified);
        content(self) == content(other)
    }

    /// What the metadata of an open file, or of one that was looked at, says.
    pub fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        let device = metadata.dev();
        Self {
            device: u64::from(rustix::fs::major(device)) << 32 | u64::from(rustix::fs::minor(device)),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec() as u32),
            mode: metadata.mode() & 0o7777,
            links: metadata.nlink() as u32,
            stored: metadata.blocks() * 512,
        }
    }

    /// Whether `other` is another look at, or another name of, the same file.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// The folder all of a torrent's paths are relative to.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    fd: OwnedFd,
}

/// A file's folder, opened, and its name in it. There need not be a file.
#[derive(Debug)]
pub struct Place {
    folder: OwnedFd,
    name: OsString,
    /// The whole path, for errors.
    full: PathBuf,
}

impl Root {
    /// Opens the folder; `None` when it is not there.
    pub fn open(path: &Path) -> Result<Option<Self>, StorageError> {
        let fd = files::open_root(path, false, &mut Vec::new())?;
        Ok(fd.map(|fd| Self { path: path.to_owned(), fd }))
    }

    /// Opens the folder, and makes it and those above it that are missing. What was made is added to `made`.
    pub fn create(path: &Path, made: &mut Vec<PathBuf>) -> Result<Self, StorageError> {
        let missing: Vec<PathBuf> = path
            .ancestors()
            .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
            .map(Path::to_path_buf)
            .collect();
        // Also when it fails: some may have been made, and undoing takes what is not there as done.
        made.extend(missing.into_iter().rev());
        let fd = files::open_root(path, true, &mut Vec::new())?;
        let fd = fd.ok_or_else(|| StorageError::new(Op::Open, path, ErrorKind::Missing))?;
        Ok(Self { path: path.to_owned(), fd })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Device and inode of the folder.
    pub fn identity(&self) -> Result<(u64, u64), StorageError> {
        folder_identity(self.fd.as_fd(), &self.path)
    }

    /// The place of a file whose folder is there; `None` when the folder is not.
    pub fn place(&self, file: &Path) -> Result<Option<Place>, StorageError> {
        let parent = parent_of(file);
        match files::open_folder(self.fd.as_fd(), &self.path, parent, false, &mut Vec::new()) {
            Ok(folder) => Ok(folder.map(|folder| self.place_in(folder, file))),
            // A file where a folder should be: nothing of ours is below it.
            Err(error) if error.errno() == Some(libc::ENOTDIR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The place of a file, for which missing folders are made. What was made is added to `made`.
    pub fn make_place(&self, file: &Path, made: &mut Vec<PathBuf>) -> Result<Place, StorageError> {
        let parent = parent_of(file);
        let mut pairs = Vec::new();
        let folder = files::open_folder(self.fd.as_fd(), &self.path, parent, true, &mut pairs);
        // Pairs of a folder to sync and the one that was made in it.
        made.extend(pairs.into_iter().skip(1).step_by(2));
        let folder = folder?.ok_or_else(|| StorageError::new(Op::Open, &self.path, ErrorKind::Missing))?;
        Ok(self.place_in(folder, file))
    }

    fn place_in(&self, folder: OwnedFd, file: &Path) -> Place {
        let name = file.file_name().expect("paths of a layout end in a name").to_owned();
        Place { folder, name, full: self.path.join(file) }
    }

    /// Removes the folders of `files` that are empty now, the deepest first; never the root itself. What is not
    /// empty or not ours to remove stays.
    pub fn remove_empty_folders<'a>(&self, files: impl Iterator<Item = &'a Path>) {
        let mut folders: Vec<&Path> = files.flat_map(|file| file.ancestors().skip(1)).collect();
        folders.retain(|folder| !folder.as_os_str().is_empty());
        folders.sort_unstable_by_key(|folder| (std::cmp::Reverse(folder.components().count()), *folder));
        folders.dedup();
        for folder in folders {
            let Ok(Some(place)) = self.place(folder) else { continue };
            if let Err(error) = unlinkat(&place.folder, &place.name, AtFlags::REMOVEDIR) {
                tracing::trace!(folder = %place.full.display(), %error, "a folder stays");
            }
        }
    }
}

fn parent_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn folder_identity(folder: BorrowedFd<'_>, path: &Path) -> Result<(u64, u64), StorageError> {
    let stat =
        statx(folder, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_err(failed(Op::Open, path))?;
    Ok((u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor), stat.stx_ino))
}

impl Place {
    /// The whole path, for messages.
    pub fn path(&self) -> &Path {
        &self.full
    }

    /// The file that is here; `None` when nothing is. Refuses links, folders and devices.
    pub fn look(&self) -> Result<Option<Identity>, StorageError> {
        identify(self.folder.as_fd(), &self.name, AtFlags::SYMLINK_NOFOLLOW, &self.full)
    }

    /// Whether `other` names the same entry of the same folder.
    pub fn is_same_entry(&self, other: &Self) -> Result<bool, StorageError> {
        Ok(self.name == other.name
            && folder_identity(self.folder.as_fd(), &self.full)?
                == folder_identity(other.folder.as_fd(), &other.full)?)
    }

    /// The place beside this one that bears the temporary name.
    pub fn temporary(&self) -> Result<Self, StorageError> {
        let folder = self.folder.try_clone().map_err(|error| {
            StorageError::from_errno(Op::Open, &self.full, error.raw_os_error().unwrap_or(libc::EMFILE))
        })?;
        let name = temporary_name(&self.name);
        let full = self.full.with_file_name(&name);
        Ok(Self { folder, name, full })
    }

    /// Opens the file for reading.
    pub fn open(&self) -> Result<File, StorageError> {
        let access = Access { write: false, direct: false };
        files::open_in(self.folder.as_fd(), Path::new(&self.name), &self.full, access).map(File::from)
    }

    /// Makes the file, which must not be there, and opens it for writing.
    pub fn create(&self, executable: bool) -> Result<File, StorageError> {
        files::create(self.folder.as_fd(), Path::new(&self.name), executable, &self.full).map(File::from)
    }

    /// Moves the file to `to`, where nothing may be unless `replace` is set. The error is the number.
    pub fn rename(&self, to: &Self, replace: bool) -> Result<(), Errno> {
        if replace {
            return renameat(&self.folder, &self.name, &to.folder, &to.name);
        }
        match renameat_with(&self.folder, &self.name, &to.folder, &to.name, RenameFlags::NOREPLACE) {
            // The file system does not know the flag: a link fails where something is, and is atomic.
            Err(Errno::INVAL) => {
                rustix::fs::linkat(&self.folder, &self.name, &to.folder, &to.name, AtFlags::empty())?;
                unlinkat(&self.folder, &self.name, AtFlags::empty())
            }
            other => other,
        }
    }

    /// Gives `file` this name too (a hard link), which must not be taken. The error is the number.
    pub fn link(&self, file: &File) -> Result<(), Errno> {
        use std::os::fd::AsRawFd;
        // Linking a descriptor itself needs a privilege; its name in /proc does not, and is the very file.
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::linkat(CWD, name, &self.folder, &self.name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Removes the name.
    pub fn remove(&self) -> Result<(), StorageError> {
        unlinkat(&self.folder, &self.name, AtFlags::empty()).map_err(failed(Op::Delete, &self.full))
    }

    /// Removes the file if a regular one is here. Whether there was.
    pub fn remove_if_there(&self) -> Result<bool, StorageError> {
        match self.look()? {
            Some(_) => self.remove().map(|()| true),
            None => Ok(false),
        }
    }
}

/// What is at `path` relative to `folder`; `None` when nothing is. Refuses what is no regular file.
pub(super) fn identify(
    folder: BorrowedFd<'_>,
    path: impl rustix::path::Arg,
    flags: AtFlags,
    full: &Path,
) -> Result<Option<Identity>, StorageError> {
    let stat = match statx(folder, path, flags, StatxFlags::BASIC_STATS) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed(Op::Open, full)(errno)),
    };
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => {}
        FileType::Symlink => return Err(StorageError::new(Op::Open, full, ErrorKind::OutsideRoot)),
        _ => return Err(StorageError::new(Op::Open, full, ErrorKind::NotAFile)),
    }
    Ok(Some(Identity {
        device: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
        inode: stat.stx_ino,
        len: stat.stx_size,
        modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        mode: u32::from(stat.stx_mode) & 0o7777,
        links: stat.stx_nlink,
        stored: stat.stx_blocks * 512,
    }))
}

/// The name of a file while it is being written. The same for the same name, so that what a crash left is found.
pub(super) fn temporary_name(name: &OsStr) -> OsString {
    let bytes = name.as_bytes();
    if bytes.len() <= NAME_MAX {
        let mut temporary = name.to_owned();
        temporary.push(TEMPORARY);
        return temporary;
    }
    // Long names that are alike in the beginning must not share one.
    let digest = crate::hash::sha1(bytes);
    let tag: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let mut temporary = OsStr::from_bytes(&bytes[..NAME_MAX - tag.len() - 1]).to_owned();
    temporary.push("~");
    temporary.push(tag);
    temporary.push(TEMPORARY);
    temporary
}

/// Removes a folder by its path, if it is empty.
pub(super) fn remove_folder(path: &Path) -> Result<(), StorageError> {
    match unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
        Err(errno) => Err(failed(Op::Delete, path)(errno)),
    }
}

/// Makes the entries of a folder durable.
pub fn sync_folder(path: &Path) -> Result<(), StorageError> {
    // The parent of a relative path of one name.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let fd = files::open_to_sync(path)?;
    match rustix::fs::fsync(&fd) {
        // Some file systems have nothing to sync for a folder.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(failed(Op::Sync, path)(errno)),
    }
}

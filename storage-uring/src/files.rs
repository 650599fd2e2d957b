//! Files and folders below a torrent's root, looked at, made and opened safely.
//!
//! Role: the system calls with paths. Owner: the storage thread; nothing is kept here. Invariant: below the
//! root no symbolic link is followed and no path leads out (`openat2` with `RESOLVE_BENEATH |
//! RESOLVE_NO_SYMLINKS`), and only regular files are opened. Called by [`crate::core`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    Advice, AtFlags, CWD, FallocateFlags, FileType, FlockOperation, Mode, OFlags, ResolveFlags, SeekFrom,
    Statx, StatxFlags, accessat, fadvise, fallocate, fcntl_setfl, flock, fstat, fstatfs, ftruncate, mkdirat,
    openat, openat2, seek, statx,
};
use rustix::io::Errno;

use crate::arena::PAGE;
use crate::error::{ErrorKind, Op, StorageError};

/// `f_type` of file systems that live in memory (`tmpfs`, `ramfs`).
const MEMORY_FILE_SYSTEMS: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// `f_type` of file systems that keep zeros as data: ext2 to ext4, xfs, btrfs, tmpfs.
const KEEP_ZEROS: [i64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994];

/// `f_type` of file systems that may number a file anew whenever it is opened: FUSE, CIFS, SMB 2.
const RENUMBER: [i64; 3] = [0x6573_5546, 0xff53_4d42, 0xfe53_4d42];

/// What the file system says about `O_DIRECT` on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectIo {
    /// Buffers must be aligned to so many bytes (a power of two, at most a page); offsets and lengths to a
    /// page at most.
    Aligned(u32),
    /// Not possible.
    Never,
    /// It does not say (Linux before 6.1, some file systems): try.
    Unknown,
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Bytes.
    pub len: u64,
    /// Device number (`st_dev`).
    pub device: u64,
    /// Whether the page cache can be passed by.
    pub direct: DirectIo,
    /// Which file of the device it is; never 0.
    pub inode: u64,
    /// When its bytes were changed last, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// It takes less of the disk than its length says, so it may have holes.
    pub sparse: bool,
    /// Whether the file has further names (hard links), so that writing to it would change what others see.
    pub shared: bool,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// For writing too.
    pub write: bool,
    /// With `O_DIRECT`.
    pub direct: bool,
}

fn failed(path: &Path) -> impl Fn(Errno) -> StorageError + '_ {
    move |errno| StorageError::from_errno(Op::Open, path, errno.raw_os_error())
}

/// Opens the folder `root`, which may be reached through links. With `create`, makes it and the folders above
/// it, and adds what must be synced for that to last (the folders and the one that was there) to `made`.
/// `None`: it is not there.
pub fn open_root(
    root: &Path,
    create: bool,
    made: &mut Vec<PathBuf>,
) -> Result<Option<OwnedFd>, StorageError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let here = if root.as_os_str().is_empty() { Path::new(".") } else { root };
    match openat(CWD, here, flags, Mode::empty()) {
        Ok(fd) => return Ok(Some(fd)),
        Err(Errno::NOENT) if create => {}
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed(here)(errno)),
    }
    let missing: Vec<&Path> =
        here.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    let above = missing.last().and_then(|path| path.parent()).filter(|path| !path.as_os_str().is_empty());
    for folder in missing.iter().rev() {
        match mkdirat(CWD, *folder, Mode::from_bits_truncate(0o777)) {
            Ok(()) | Err(Errno::EXIST) => made.push(folder.to_path_buf()),
            Err(errno) => return Err(failed(folder)(errno)),
        }
    }
    made.extend(above.map(Path::to_path_buf));
    openat(CWD, here, flags, Mode::empty()).map(Some).map_err(failed(here))
}

/// Opens the folder `path` below `root`, where `at` is the root's own path. With `create`, makes what is
/// missing and adds what must be synced for that to last to `made`. `None`: it is not there.
pub fn open_folder(
    root: BorrowedFd<'_>,
    at: &Path,
    path: &Path,
    create: bool,
    made: &mut Vec<PathBuf>,
) -> Result<Option<OwnedFd>, StorageError> {
    match beneath(root, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
        Ok(fd) => return Ok(Some(fd)),
        Err(Errno::NOENT) if create => {}
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed(&at.join(path))(errno)),
    }
    let mut folder =
        beneath(root, Path::new("."), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).map_err(failed(at))?;
    let mut reached = at.to_path_buf();
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        let name = Path::new(name);
        let parent = reached.clone();
        reached.push(name);
        match mkdirat(&folder, name, Mode::from_bits_truncate(0o777)) {
            Ok(()) => made.extend([parent, reached.clone()]),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(&reached)(errno)),
        }
        let next = beneath(folder.as_fd(), name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
        folder = next.map_err(failed(&reached))?;
    }
    Ok(Some(folder))
}

/// What is at `name` in `folder`; `None` when nothing is. `path` is for errors. Refuses what is no regular
/// file.
pub fn look(folder: BorrowedFd<'_>, name: &Path, path: &Path) -> Result<Option<Facts>, StorageError> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::DIOALIGN;
    match statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, mask) {
        Ok(stat) => facts(&stat, path).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed(path)(errno)),
    }
}

/// The same of an open file.
pub fn look_at(file: BorrowedFd<'_>, path: &Path) -> Result<Facts, StorageError> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::DIOALIGN;
    let stat = statx(file, c"", AtFlags::EMPTY_PATH, mask).map_err(failed(path))?;
    facts(&stat, path)
}

fn facts(stat: &Statx, path: &Path) -> Result<Facts, StorageError> {
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => {}
        FileType::Symlink => return Err(StorageError::new(Op::Open, path, ErrorKind::OutsideRoot)),
        _ => return Err(StorageError::new(Op::Open, path, ErrorKind::NotAFile)),
    }
    let page = PAGE as u32;
    let direct = if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        DirectIo::Unknown
    } else {
        match (stat.stx_dio_mem_align, stat.stx_dio_offset_align) {
            (1.., 1..)
                if page.is_multiple_of(stat.stx_dio_offset_align)
                    && page.is_multiple_of(stat.stx_dio_mem_align) =>
            {
                DirectIo::Aligned(stat.stx_dio_mem_align)
            }
            _ => DirectIo::Never,
        }
    };
    let mtime_ns = stat.stx_mtime.tv_sec.saturating_mul(1_000_000_000);
    Ok(Facts {
        len: stat.stx_size,
        device: device(stat),
        direct,
        inode: stat.stx_ino,
        mtime_ns: mtime_ns.saturating_add(stat.stx_mtime.tv_nsec.into()),
        // Counted in 512 bytes, whatever the block size.
        sparse: stat.stx_blocks.saturating_mul(512) < stat.stx_size,
        shared: stat.stx_nlink > 1,
    })
}

/// How much there is of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Bytes.
    pub len: u64,
    /// Bytes of the blocks it occupies.
    pub allocated: u64,
}

/// How much there is of an open file. `path` is for errors.
pub fn content(file: BorrowedFd<'_>, path: &Path) -> Result<Content, StorageError> {
    let stat = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_err(failed(path))?;
    Ok(Content { len: stat.stx_size, allocated: stat.stx_blocks * 512 })
}

/// Whether `file` is what is found at `path` below the folder `root`: false once it was deleted, moved or
/// replaced.
pub fn is_at(file: BorrowedFd<'_>, root: &Path, path: &Path) -> bool {
    let there = || -> Result<bool, Errno> {
        let folder = open_root(root, false, &mut Vec::new()).ok().flatten().ok_or(Errno::NOENT)?;
        let found = beneath(folder.as_fd(), path, OFlags::PATH, Mode::empty())?;
        let identity = |fd: BorrowedFd<'_>| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
        Ok(identity(found.as_fd())? == identity(file)? || !numbers_for_good(file))
    };
    // What cannot be looked at is not there for readers either.
    there().unwrap_or(false)
}

/// Whether a file that was closed and is opened again has the number it had ([`Facts::inode`]).
pub fn numbers_for_good(fd: BorrowedFd<'_>) -> bool {
    !is_on(fd, &RENUMBER)
}

/// Whether the file system keeps zeros that were written as data. Some (ZFS) make holes of them, which then
/// say nothing about a file.
pub fn keeps_zeros(fd: BorrowedFd<'_>) -> bool {
    is_on(fd, &KEEP_ZEROS)
}

/// Whether `fd` is on a file system of one of these types.
fn is_on(fd: BorrowedFd<'_>, types: &[i64]) -> bool {
    #[allow(clippy::unnecessary_cast)] // `f_type` has other widths on other targets.
    fstatfs(fd).is_ok_and(|stat| types.contains(&(stat.f_type as i64)))
}

/// Whether a part of `range` was never written.
pub fn has_hole(file: BorrowedFd<'_>, range: &std::ops::Range<u64>) -> bool {
    // ENXIO: the range begins behind the end.
    seek(file, SeekFrom::Hole(range.start)).map_or_else(|errno| errno == Errno::NXIO, |hole| hole < range.end)
}

/// Device number of the file system that holds the folder `path`.
pub fn device_of(folder: BorrowedFd<'_>, path: &Path) -> Result<u64, StorageError> {
    statx(folder, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
        .map(|stat| device(&stat))
        .map_err(failed(path))
}

fn device(stat: &Statx) -> u64 {
    u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor)
}

/// Keeps the kernel from reading pages into its cache that were not asked for: beside direct writes they
/// would be thrown out again at once.
pub fn no_read_ahead(file: &OwnedFd) {
    // A hint: without it everything works, somewhat slower.
    let _ = fadvise(file, 0, None, Advice::Random);
}

/// Whether the file system behind `fd` keeps its data in memory only.
pub fn in_memory(fd: BorrowedFd<'_>) -> bool {
    is_on(fd, &MEMORY_FILE_SYSTEMS)
}

/// Makes the file `name` in `folder`, which must not be there, and opens it for writing.
pub fn create(
    folder: BorrowedFd<'_>,
    name: &Path,
    executable: bool,
    path: &Path,
) -> Result<OwnedFd, StorageError> {
    let mode = Mode::from_bits_truncate(if executable { 0o777 } else { 0o666 });
    beneath(folder, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode).map_err(failed(path))
}

/// Opens the file `path` below the folder `root`. Never makes anything, so a disk that was unmounted is not
/// written beneath. `ErrorKind::Io` with `EINVAL`: no `O_DIRECT` here.
pub fn open(root: &Path, path: &Path, access: Access) -> Result<OwnedFd, StorageError> {
    let full = root.join(path);
    let folder = open_root(root, false, &mut Vec::new())?
        .ok_or_else(|| StorageError::new(Op::Open, root, ErrorKind::Missing))?;
    open_in(folder.as_fd(), path, &full, access)
}

/// As [`open`], below an open folder. `full` is for errors.
pub fn open_in(
    folder: BorrowedFd<'_>,
    path: &Path,
    full: &Path,
    access: Access,
) -> Result<OwnedFd, StorageError> {
    let mut flags = if access.write { OFlags::RDWR } else { OFlags::RDONLY };
    if access.direct {
        flags |= OFlags::DIRECT;
    }
    // Non-blocking until it is known to be a regular file: opening a fifo would wait for its other end.
    let fd = beneath(folder, path, flags | OFlags::NONBLOCK, Mode::empty()).map_err(failed(full))?;
    look_at(fd.as_fd(), full)?;
    // io_uring hands EAGAIN out for non-blocking files instead of letting a worker wait.
    fcntl_setfl(&fd, flags).map_err(failed(full))?;
    Ok(fd)
}

/// Locks the file `name` in `folder` against other processes, until the descriptor is closed. `None`: the file system has
/// no locks, or there is no descriptor left.
pub fn lock(folder: BorrowedFd<'_>, name: &Path, path: &Path) -> Result<Option<OwnedFd>, StorageError> {
    let Ok(fd) = open_in(folder, name, path, Access { write: false, direct: false }) else { return Ok(None) };
    match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(fd)),
        Err(Errno::WOULDBLOCK) => Err(StorageError::new(Op::Open, path, ErrorKind::InUse)),
        Err(_) => Ok(None),
    }
}

/// Whether this process may write the file `name` in `folder`, without opening it.
pub fn check_writable(folder: BorrowedFd<'_>, name: &Path, path: &Path) -> Result<(), StorageError> {
    accessat(folder, name, rustix::fs::Access::WRITE_OK, AtFlags::EACCESS).map_err(failed(path))
}

/// Opens a folder to be synced.
pub fn open_to_sync(folder: &Path) -> Result<OwnedFd, StorageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, folder, flags, Mode::empty())
        .map_err(|errno| StorageError::from_errno(Op::Sync, folder, errno.raw_os_error()))
}

/// Sets the file's length.
pub fn set_len(file: BorrowedFd<'_>, len: u64, path: &Path) -> Result<(), StorageError> {
    ftruncate(file, len).map_err(|errno| StorageError::from_errno(Op::Allocate, path, errno.raw_os_error()))
}

/// Reserves the blocks of the file's first `len` bytes; it becomes that long if it was shorter. The error is
/// the number.
pub fn allocate(file: BorrowedFd<'_>, len: u64) -> Result<(), i32> {
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, len) {
            Err(Errno::INTR) => {}
            result => return result.map_err(Errno::raw_os_error),
        }
    }
}

/// `openat2` that follows no link and does not leave `folder`.
fn beneath(folder: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(folder, path, flags | OFlags::CLOEXEC, mode, resolve) {
            // EAGAIN: a rename elsewhere made the kernel unsure about "..", of which there is none here.
            Err(Errno::INTR | Errno::AGAIN) => {}
            // A filter of system calls that cannot look into its argument: systemd's RestrictSUIDSGID, which DynamicUser
            // implies.
            Err(Errno::NOSYS) => return step_by_step(folder, path, flags, mode),
            other => return other,
        }
    }
}

/// As [`beneath`] without `openat2`: each part of the path is opened by itself, and none may be a link.
fn step_by_step(
    folder: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let open = |at: BorrowedFd<'_>, part: &Path, flags: OFlags| loop {
        match openat(at, part, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode) {
            Err(Errno::INTR) => {}
            other => break other,
        }
    };
    // With O_PATH a link is opened, not refused.
    let look = |at: BorrowedFd<'_>, part: &Path| {
        let found = open(at, part, OFlags::PATH)?;
        match FileType::from_raw_mode(fstat(&found)?.st_mode) {
            FileType::Symlink => Err(Errno::LOOP),
            kind => Ok((found, kind)),
        }
    };
    let mut parts: Vec<&Path> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.as_ref()),
            Component::CurDir => {}
            _ => return Err(Errno::XDEV),
        }
    }
    let last = parts.pop().unwrap_or(Path::new("."));
    let mut at: Option<OwnedFd> = None;
    for part in parts {
        at = Some(look(at.as_ref().map_or(folder, AsFd::as_fd), part)?.0);
    }
    let at = at.as_ref().map_or(folder, AsFd::as_fd);
    if !flags.contains(OFlags::PATH) {
        return open(at, last, flags);
    }
    let (found, kind) = look(at, last)?;
    if flags.contains(OFlags::DIRECTORY) && kind != FileType::Directory {
        return Err(Errno::NOTDIR);
    }
    Ok(found)
}

/// Whether an open file still has a name and at least `len` bytes.
pub fn check_whole(file: BorrowedFd<'_>, len: u64, path: &Path) -> Result<(), StorageError> {
    let stat = fstat(file).map_err(|errno| StorageError::from_errno(Op::Sync, path, errno.raw_os_error()))?;
    if stat.st_nlink == 0 {
        return Err(StorageError::new(Op::Sync, path, ErrorKind::Missing));
    }
    if u64::try_from(stat.st_size).is_ok_and(|has| has < len) {
        return Err(StorageError::new(Op::Sync, path, ErrorKind::ShortRead));
    }
    Ok(())
}

/// The file's ranges without data below `len`, as far as the file system tells; a hole behind the `max`th is left out.
pub fn holes(file: BorrowedFd<'_>, len: u64, max: usize) -> Vec<std::ops::Range<u64>> {
    let mut holes = Vec::new();
    let mut at = 0;
    while at < len && holes.len() < max {
        // Errors: not supported here, or the file has become shorter. Then there is nothing to be said.
        let Ok(start) = seek(file, SeekFrom::Hole(at)) else { break };
        if start >= len {
            break;
        }
        let end = match seek(file, SeekFrom::Data(start)) {
            Ok(end) => end.min(len),
            // ENXIO: nothing but the hole up to the end of the file.
            Err(Errno::NXIO) => len,
            Err(_) => break,
        };
        if end <= start {
            break;
        }
        holes.push(start..end);
        at = end;
    }
    holes
}

#[cfg(test)]
mod tests;

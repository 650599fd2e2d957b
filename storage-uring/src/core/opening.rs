//! Opening a torrent, a few files per turn of the loop, so that other torrents go on meanwhile.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use ccbt_protocol::ids::TorrentKey;

use super::torrent::FileState;
use super::{Core, Task, may_write};
use crate::error::{Op, StorageError};
use crate::files::{self, Access, DirectIo, Facts};
use crate::layout::LayoutSpec;
use crate::links;
use crate::messages::{Hole, OpenReport, OpenedFile, Preallocate, StorageDone};
use crate::rotation;

/// Files looked at per turn.
const FILES_PER_STEP: usize = 32;
/// Reservations of one torrent under way at most; each holds a descriptor.
const ALLOCATIONS_MAX: usize = 8;
/// Smaller files are reserved at once on this thread: handing them to a worker takes longer. Units: bytes.
const INLINE_ALLOCATION_MAX: u64 = 256 * 1024;
/// Files longer than they should be that are named in the notes; the rest is counted.
const LONGER_NAMED_MAX: usize = 8;
/// Holes of one file, and of one torrent, that are reported at most: what is left out is taken for data.
const HOLES_OF_FILE_MAX: usize = 256;
const HOLES_MAX: usize = 65_536;
/// The kernel writes out what is older than half a minute; some devices are slow. Units: nanoseconds.
const RECENT_NS: i64 = 300 * 1_000_000_000;

/// How far opening has come.
#[derive(Debug)]
pub(super) struct Opening {
    client: usize,
    prealloc: Preallocate,
    /// The next file to look at.
    next: usize,
    report: OpenReport,
    error: Option<StorageError>,
    /// Reservations under way.
    allocating: usize,
    /// Whether it stands in the line of torrents to be opened.
    queued: bool,
    /// The torrent's folder once it was looked for; `None` inside when it is not there.
    root: Option<Option<OwnedFd>>,
    /// The folder of the last file; `None` inside when it is not there.
    folder: Option<(PathBuf, Option<OwnedFd>)>,
    /// Links that cannot be made.
    links: usize,
    longer: usize,
    noted: Noted,
    /// Files to be made later, rising.
    later: Vec<u32>,
    /// When opening began, in nanoseconds since 1970.
    now_ns: i64,
}

/// Fallbacks that were noted, each once.
#[derive(Debug, Default)]
struct Noted {
    buffered: bool,
    sparse: bool,
}

impl Opening {
    pub(super) fn new(client: usize, prealloc: Preallocate, files: usize, later: Vec<u32>) -> Self {
        let report = OpenReport { files: Vec::with_capacity(files), ..OpenReport::default() };
        Self {
            client,
            prealloc,
            next: 0,
            report,
            error: None,
            allocating: 0,
            queued: true,
            root: None,
            folder: None,
            longer: 0,
            links: 0,
            noted: Noted::default(),
            later,
            now_ns: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)),
        }
    }

    /// Whether files are made as long as they will be.
    pub(super) fn gives_length(&self) -> bool {
        self.prealloc != Preallocate::None
    }

    /// Whether some files are made later.
    pub(super) fn makes_later(&self) -> bool {
        !self.later.is_empty()
    }

    fn note_longer(&mut self, path: &Path, by: u64) {
        self.longer += 1;
        if self.longer <= LONGER_NAMED_MAX {
            let path = path.display();
            self.report
                .notes
                .push(format!("{path} is {by} bytes longer than the torrent says; the rest is left alone"));
        }
    }

    fn note_link(&mut self, problem: Option<String>) {
        let Some(problem) = problem else { return };
        self.links += 1;
        if self.links <= LONGER_NAMED_MAX {
            self.report.notes.push(problem);
        }
    }

    fn finish_notes(&mut self) {
        if self.links > LONGER_NAMED_MAX {
            let more = self.links - LONGER_NAMED_MAX;
            self.report.notes.push(format!("{more} more symbolic links are not made"));
        }
        if self.longer > LONGER_NAMED_MAX {
            let more = self.longer - LONGER_NAMED_MAX;
            self.report.notes.push(format!("{more} more files are longer than the torrent says"));
        }
    }
}

/// What looking at one file needs to know of it.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) index: u32,
    pub(super) len: u64,
    pub(super) executable: bool,
    pub(super) name: PathBuf,
    pub(super) full: PathBuf,
    write: bool,
    /// Made only before the first write to it.
    later: bool,
}

impl Target {
    pub(super) fn new(spec: &LayoutSpec, index: u32, write: bool, later: bool) -> Self {
        let file = &spec.files()[index as usize];
        Self {
            index,
            len: file.len,
            executable: file.executable,
            name: file.path.file_name().map(OsStr::to_owned).unwrap_or_default().into(),
            full: spec.file_path(index),
            write,
            later: later && write,
        }
    }

    /// Whether it is made now if it is not there.
    fn makes(&self) -> bool {
        self.write && !self.later
    }
}

/// The folder of a file, below the root.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Core {
    /// Looks at some files of the torrent whose turn it is.
    pub(super) fn step_opening(&mut self) {
        let Some(key) = self.opening.pop_front() else { return };
        let torrent = self.torrents.get_mut(&key).expect("a torrent being opened");
        let mut opening = torrent.opening.take().expect("a torrent being opened");
        opening.queued = false;
        for _ in 0..FILES_PER_STEP {
            let all = self.torrents[&key].spec.files().len();
            if opening.error.is_some() || opening.next == all || opening.allocating >= ALLOCATIONS_MAX {
                break;
            }
            if let Err(error) = self.open_one(key, &mut opening) {
                opening.error = Some(error);
            }
        }
        self.settle(key, opening);
    }

    /// Decides what is next for a torrent being opened: its turn again, waiting for reservations, or the
    /// answer.
    fn settle(&mut self, key: TorrentKey, mut opening: Box<Opening>) {
        let torrent = self.torrents.get_mut(&key).expect("a torrent being opened");
        let looked = opening.error.is_some() || opening.next == torrent.spec.files().len();
        if !looked || opening.allocating > 0 {
            if !looked && opening.allocating < ALLOCATIONS_MAX && !opening.queued {
                opening.queued = true;
                self.opening.push_back(key);
            }
            torrent.opening = Some(opening);
            return;
        }
        let client = opening.client;
        if let Some(error) = opening.error {
            self.ports.answer(client, StorageDone::Opened { torrent: key, result: Err(error) });
            return self.forget(key);
        }
        opening.finish_notes();
        self.ports.answer(client, StorageDone::Opened { torrent: key, result: Ok(opening.report) });
        let waiting = std::mem::take(&mut self.torrents.get_mut(&key).expect("just opened").waiting);
        for (client, command) in waiting {
            self.command(client, command);
        }
    }

    /// Looks at the next file, and makes it or gives it its length where that is wanted.
    fn open_one(&mut self, key: TorrentKey, opening: &mut Opening) -> Result<(), StorageError> {
        self.open_root(key, opening)?;
        let torrent = &self.torrents[&key];
        let index = opening.next;
        let file = &torrent.spec.files()[index];
        let (state, found) = if file.pad {
            if may_write(torrent.mode) {
                let mut made = Vec::new();
                let problem = links::make(&torrent.spec, file, &mut made);
                opening.note_link(problem);
                self.torrents.get_mut(&key).expect("being opened").new_folders.extend(made);
            }
            let (torrent, file) = (&self.torrents[&key], &self.torrents[&key].spec.files()[index]);
            (
                FileState { device: torrent.home, ..FileState::default() },
                OpenedFile { existed: true, len: file.len, ..OpenedFile::default() },
            )
        } else {
            let folder = folder_of(&file.path).to_path_buf();
            let later = opening.later.binary_search(&(index as u32)).is_ok();
            let target = Target::new(&torrent.spec, index as u32, may_write(torrent.mode), later);
            self.open_folder(key, opening, folder, target.makes())?;
            self.open_target(key, opening, &target)?
        };
        opening.report.files.push(found);
        self.torrents.get_mut(&key).expect("being opened").files.push(state);
        opening.next += 1;
        Ok(())
    }

    fn open_target(
        &mut self,
        key: TorrentKey,
        opening: &mut Opening,
        target: &Target,
    ) -> Result<(FileState, OpenedFile), StorageError> {
        // Taken out while it is used, for the borrow's sake.
        let folder = opening.folder.take().expect("opened just now");
        let (mut state, mut found) = (FileState::default(), OpenedFile::default());
        (state.device, state.bare) = (self.torrents[&key].home, target.later);
        if let Some(fd) = &folder.1 {
            (state, found) = self.open_in_folder(key, opening, fd.as_fd(), target)?;
        }
        opening.folder = Some(folder);
        opening.report.direct |= state.align > 0;
        let buffered = state.align == 0 && target.len > 0 && (found.existed || target.makes());
        if buffered && !std::mem::replace(&mut opening.noted.buffered, true) {
            let root = self.torrents[&key].spec.root().display();
            opening.report.notes.push(format!("{root}: no O_DIRECT here, data goes through the page cache"));
        }
        Ok((state, found))
    }

    fn open_root(&mut self, key: TorrentKey, opening: &mut Opening) -> Result<(), StorageError> {
        if opening.root.is_some() {
            return Ok(());
        }
        let torrent = self.torrents.get_mut(&key).expect("being opened");
        let mut made = Vec::new();
        let (root, write) = (torrent.spec.root(), may_write(torrent.mode));
        let fd = self.handles.retrying(|| files::open_root(root, write, &mut made))?;
        torrent.new_folders.extend(made);
        // Files that are not there need some device too, for the errors their reads will end in.
        let number = fd.as_ref().map_or(Ok(0), |fd| files::device_of(fd.as_fd(), root))?;
        let home = self.device(number, || fd.as_ref().is_some_and(|fd| files::in_memory(fd.as_fd())));
        opening.report.device = number;
        opening.report.rotating = rotation::is_rotating(number, self.torrents[&key].spec.root());
        opening.report.in_memory = self.devices[usize::from(home)].in_memory;
        self.torrents.get_mut(&key).expect("being opened").home = home;
        opening.root = Some(fd);
        Ok(())
    }

    fn open_folder(
        &mut self,
        key: TorrentKey,
        opening: &mut Opening,
        path: PathBuf,
        write: bool,
    ) -> Result<(), StorageError> {
        let is_there = |(known, fd): &(PathBuf, Option<OwnedFd>)| *known == path && (fd.is_some() || !write);
        if opening.folder.as_ref().is_some_and(is_there) {
            return Ok(());
        }
        let torrent = self.torrents.get_mut(&key).expect("being opened");
        let mut made = Vec::new();
        let folder = match opening.root.as_ref().and_then(Option::as_ref) {
            Some(root) => {
                let at = torrent.spec.root();
                let open = || files::open_folder(root.as_fd(), at, &path, write, &mut made);
                self.handles.retrying(open)?
            }
            None => None,
        };
        torrent.new_folders.extend(made);
        opening.folder = Some((path, folder));
        Ok(())
    }

    fn open_in_folder(
        &mut self,
        key: TorrentKey,
        opening: &mut Opening,
        folder: BorrowedFd<'_>,
        target: &Target,
    ) -> Result<(FileState, OpenedFile), StorageError> {
        let (facts, fd) = match files::look(folder, &target.name, &target.full)? {
            None if !target.makes() => {
                let (device, bare) = (self.torrents[&key].home, target.later);
                return Ok((FileState { device, bare, ..FileState::default() }, OpenedFile::default()));
            }
            None => {
                let create = || files::create(folder, &target.name, target.executable, &target.full);
                let fd = self.handles.retrying(create)?;
                let folder = target.full.parent().map(Path::to_path_buf);
                let torrent = self.torrents.get_mut(&key).expect("being opened");
                torrent.new_folders.extend(folder);
                (files::look_at(fd.as_fd(), &target.full)?, Some(fd))
            }
            Some(facts) => (facts, None),
        };
        if target.makes() {
            self.lock(key, folder, target, facts)?;
        }
        let inode = facts.inode;
        // A time in the future says nothing: such a file counts as recent too.
        let recent = opening.now_ns.saturating_sub(facts.mtime_ns) < RECENT_NS;
        let found = match fd {
            Some(_) => OpenedFile::default(),
            None => OpenedFile { existed: true, len: facts.len, mtime_ns: facts.mtime_ns, recent },
        };
        if found.existed && facts.sparse {
            self.look_for_holes(opening, folder, target);
        }
        if found.recent && target.write {
            self.torrents.get_mut(&key).expect("being opened").dirty.insert(target.index);
        }
        if facts.len > target.len {
            opening.note_longer(&target.full, facts.len - target.len);
        }
        let device = self.device(facts.device, || files::in_memory(folder));
        let align = self.alignment(device, facts, folder, target);
        // Others see a shared file too: it gets a copy of its own before anything of it is changed.
        if target.makes() && !facts.shared {
            self.give_length(key, opening, folder, target, facts.len, device, fd)?;
        }
        Ok((FileState { device, align, inode, shared: facts.shared, bare: target.later }, found))
    }

    fn look_for_holes(&mut self, opening: &mut Opening, folder: BorrowedFd<'_>, target: &Target) {
        let max = HOLES_OF_FILE_MAX.min(HOLES_MAX - opening.report.holes.len());
        let access = Access { write: false, direct: false };
        let open = || files::open_in(folder, &target.name, &target.full, access);
        // One that cannot be opened for reading will say so when it is read.
        let Ok(fd) = self.handles.retrying(open) else { return };
        let holes = files::holes(fd.as_fd(), target.len, max).into_iter();
        opening.report.holes.extend(holes.map(|range| Hole { file: target.index, range }));
    }

    /// What `O_DIRECT` asks of addresses for this file; 0 = it is not to be used.
    pub(super) fn alignment(
        &mut self,
        device: u16,
        facts: Facts,
        folder: BorrowedFd<'_>,
        target: &Target,
    ) -> u16 {
        let device = &mut self.devices[usize::from(device)];
        match facts.direct {
            _ if device.in_memory => 0,
            DirectIo::Aligned(align) => align as u16,
            DirectIo::Never => 0,
            DirectIo::Unknown => {
                let works = *device.direct_works.get_or_insert_with(|| {
                    let access = Access { write: false, direct: true };
                    files::open_in(folder, &target.name, &target.full, access).is_ok()
                });
                if works { crate::arena::PAGE as u16 } else { 0 }
            }
        }
    }

    /// Makes a shorter file as long as it should be, as far as preallocation is wanted; checks that a file
    /// that is long enough may be written.
    #[allow(clippy::too_many_arguments)]
    fn give_length(
        &mut self,
        key: TorrentKey,
        opening: &mut Opening,
        folder: BorrowedFd<'_>,
        target: &Target,
        had: u64,
        device: u16,
        fd: Option<OwnedFd>,
    ) -> Result<(), StorageError> {
        let new = fd.is_some();
        let shorter = had < target.len && opening.prealloc != Preallocate::None;
        if !new && !shorter {
            return files::check_writable(folder, &target.name, &target.full);
        }
        if !shorter {
            return Ok(());
        }
        let access = Access { write: true, direct: false };
        let fd = match fd {
            Some(fd) => fd,
            None => self.handles.retrying(|| files::open_in(folder, &target.name, &target.full, access))?,
        };
        if opening.prealloc == Preallocate::Sparse {
            return files::set_len(fd.as_fd(), target.len, &target.full);
        }
        if target.len <= INLINE_ALLOCATION_MAX {
            let result = files::allocate(fd.as_fd(), target.len);
            return self.take_allocation(key, opening, target.index, &fd, had, result);
        }
        opening.allocating += 1;
        let task = Task::Allocate { torrent: key, file: target.index, fd: Rc::new(fd), had };
        self.devices[usize::from(device)].queue.push_task(task);
        Ok(())
    }

    /// Takes the result of a reservation that was made through the ring.
    pub(super) fn allocated(
        &mut self,
        key: TorrentKey,
        file: u32,
        fd: &OwnedFd,
        had: u64,
        result: Result<u32, i32>,
    ) {
        let torrent = self.torrents.get_mut(&key).expect("a torrent being opened");
        let mut opening = torrent.opening.take().expect("a torrent being opened");
        opening.allocating -= 1;
        let outcome = self.take_allocation(key, &mut opening, file, fd, had, result.map(drop));
        opening.error = opening.error.take().or(outcome.err());
        self.settle(key, opening);
    }

    fn take_allocation(
        &self,
        key: TorrentKey,
        opening: &mut Opening,
        file: u32,
        fd: &OwnedFd,
        had: u64,
        result: Result<(), i32>,
    ) -> Result<(), StorageError> {
        let spec = &self.torrents[&key].spec;
        let path = || spec.file_path(file);
        match result {
            Ok(()) => Ok(()),
            Err(libc::EOPNOTSUPP | libc::ENOSYS) => {
                if !std::mem::replace(&mut opening.noted.sparse, true) {
                    let root = spec.root().display();
                    opening
                        .report
                        .notes
                        .push(format!("{root}: space cannot be reserved here, files are sparse"));
                }
                files::set_len(fd.as_fd(), spec.files()[file as usize].len, &path())
            }
            Err(errno) => {
                // What was reserved before it failed would only keep the disk full.
                if let Err(error) = files::set_len(fd.as_fd(), had, &path()) {
                    tracing::debug!(%error, "a reservation stays after it failed");
                }
                Err(StorageError::from_errno(Op::Allocate, &path(), errno))
            }
        }
    }
}

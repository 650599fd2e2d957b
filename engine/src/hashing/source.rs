//! The file that a lane reads at the moment: how it is best read, and where it has holes.
//!
//! Owner: one lane. Invariant: at most one file is open here (reads in flight hold theirs longer), only
//! regular files stay open, and what is not known to be a hole counts as data.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;

use ccbt_storage::arena::PAGE;
use rustix::fs::{Advice, AtFlags, FileType, OFlags, SeekFrom, Stat, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::{PlanFile, Reading};

/// Shorter files are read through the page cache: the extra system calls cost more than the copy.
const DIRECT_FILE_LEN_MIN: u64 = 1 << 20;
/// File systems that are memory (statfs(2)): tmpfs and ramfs.
const MEMORY_MAGICS: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the page cache, on this thread, without waiting for the disk.
    Cached,
    /// Through the page cache, waiting for the disk.
    Buffered,
    /// Past the page cache (O_DIRECT), at multiples of the page size.
    Direct,
}

/// See the module.
#[derive(Default)]
pub(super) struct Source {
    open: Option<Open>,
    /// A device that was seen to be memory.
    memory: Option<u64>,
    /// The file system refused a direct read that it had promised.
    no_direct: bool,
}

struct Open {
    plan: usize,
    index: usize,
    fd: Rc<OwnedFd>,
    stat: Stat,
    way: Way,
    /// A part of the file that is all data or all hole, as was last found.
    stretch: Range<u64>,
    is_hole: bool,
}

impl Source {
    /// Opens file `index` of plan `plan`, of which byte `offset` is read first, unless it is open.
    pub(super) fn open(
        &mut self,
        plan: usize,
        index: usize,
        file: &PlanFile,
        offset: u64,
        reading: Reading,
    ) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|open| (open.plan, open.index) == (plan, index)) {
            return Ok(());
        }
        // Close first: never two descriptors.
        self.open = None;
        let fd = open_regular(&file.path)?;
        let stat = rustix::fs::fstat(&fd)?;
        // Blocks are counted in units of 512 bytes whatever the device has. With as many as the length asks
        // for there are no holes to look for.
        let is_dense = stat.st_blocks as u64 * 512 >= file.present;
        let stretch = if is_dense { 0..file.present } else { 0..0 };
        let fd = Rc::new(OwnedFd::from(fd));
        let mut open = Open { plan, index, fd, stat, way: Way::Cached, stretch, is_hole: false };
        let is_long = file.present >= DIRECT_FILE_LEN_MIN;
        let is_cached = match reading {
            Reading::Direct => self.is_memory(&open),
            // Short files are simply tried.
            _ if !is_long => true,
            _ => {
                // Keeps the kernel from reading ahead for a byte that is not there: one page at most.
                let _ = rustix::fs::fadvise(&*open.fd, 0, None, Advice::Random);
                self.read_now_from(&open, offset, &mut [0]).is_ok()
            }
        };
        if !is_cached {
            self.choose_waiting(&mut open, is_long && reading != Reading::Buffered);
        }
        self.open = Some(open);
        Ok(())
    }

    /// How the open file is read. Panics when none is open.
    pub(super) fn way(&self) -> Way {
        self.opened().way
    }

    /// The open file.
    pub(super) fn fd(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.opened().fd)
    }

    /// The page cache does not have what [`Self::read_now`] was asked for: from now on the disk is waited for.
    pub(super) fn missed(&mut self, file: &PlanFile, reading: Reading) {
        let mut open = self.open.take().expect("a file is open");
        let wants_direct = reading != Reading::Buffered && file.present >= DIRECT_FILE_LEN_MIN;
        self.choose_waiting(&mut open, wants_direct);
        self.open = Some(open);
    }

    /// No more direct reads through this source: one was refused.
    pub(super) fn give_up_direct(&mut self) {
        self.no_direct = true;
        self.open = None;
    }

    /// Reads what is in memory at byte `offset`, without waiting; at least one byte unless the file ends.
    /// Fails with `EAGAIN` when the disk would have to be asked.
    pub(super) fn read_now(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let open = self.open.take().expect("a file is open");
        let result = self.read_now_from(&open, offset, buf);
        self.open = Some(open);
        result
    }

    /// How many bytes from `offset` on, at most up to `end`, are all hole (true) or all data. `offset` lies
    /// before `end`, which is no more than the bytes that should be there.
    pub(super) fn stretch(&mut self, offset: u64, end: u64) -> (u64, bool) {
        let open = self.open.as_mut().expect("a file is open");
        if !open.stretch.contains(&offset) {
            (open.stretch, open.is_hole) = look(&open.fd, offset, end);
        }
        (open.stretch.end.min(end) - offset, open.is_hole)
    }

    fn opened(&self) -> &Open {
        self.open.as_ref().expect("a file is open")
    }

    fn choose_waiting(&self, open: &mut Open, wants_direct: bool) {
        let is_direct = wants_direct
            && !self.no_direct
            && allows_direct(&open.fd)
            && rustix::fs::fcntl_setfl(&*open.fd, OFlags::DIRECT).is_ok();
        open.way = if is_direct { Way::Direct } else { Way::Buffered };
        if !is_direct {
            // Only advice: file systems that do not take it read all the same.
            let _ = rustix::fs::fadvise(&*open.fd, 0, None, Advice::Sequential);
        }
    }

    fn read_now_from(&mut self, open: &Open, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self.memory == Some(open.stat.st_dev) {
            return pread(&open.fd, buf, offset);
        }
        loop {
            let mut slices = [IoSliceMut::new(buf)];
            return match rustix::io::preadv2(&*open.fd, &mut slices, offset, ReadWriteFlags::NOWAIT) {
                Ok(got) => Ok(got),
                Err(Errno::INTR) => continue,
                // tmpfs does not know the flag, and needs none.
                Err(Errno::OPNOTSUPP) if self.is_memory(open) => pread(&open.fd, buf, offset),
                Err(_) => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
    }

    fn is_memory(&mut self, open: &Open) -> bool {
        let is_memory =
            rustix::fs::fstatfs(&*open.fd).is_ok_and(|stat| MEMORY_MAGICS.contains(&(stat.f_type as u64)));
        if is_memory {
            self.memory = Some(open.stat.st_dev);
        }
        is_memory
    }
}

/// Where the data or the hole at `offset` ends.
fn look(fd: &OwnedFd, offset: u64, end: u64) -> (Range<u64>, bool) {
    let data = match rustix::fs::seek(fd, SeekFrom::Data(offset)) {
        Ok(data) if data > offset => return (offset..data, true),
        Ok(_) => rustix::fs::seek(fd, SeekFrom::Hole(offset)).unwrap_or(end),
        // No data up to the end of the file, which may have moved.
        Err(Errno::NXIO) => match rustix::fs::fstat(fd) {
            Ok(stat) if stat.st_size as u64 >= end => return (offset..end, true),
            _ => end,
        },
        Err(_) => end,
    };
    // Whatever a file system answers: data of at least a byte.
    (offset..data.max(offset + 1), false)
}

/// Opens what is a regular file now; anything else is an error and never waited for (a fifo would block).
fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options().read(true).custom_flags(flags.bits() as i32).open(path)?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::RegularFile {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// Whether byte `offset` of the file can be had without the disk.
pub(super) fn is_in_memory(file: &PlanFile, offset: u64) -> bool {
    let mut source = Source::default();
    let opened = source.open(0, 0, file, offset, Reading::Auto);
    opened.is_ok() && source.way() == Way::Cached && source.read_now(offset, &mut [0]).is_ok()
}

/// Whether page-aligned O_DIRECT reads work, as statx tells since Linux 6.1 (tmpfs and older kernels: no).
fn allows_direct(fd: &OwnedFd) -> bool {
    let Ok(stat) = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else {
        return false;
    };
    let is_within_page = |align: u32| align > 0 && PAGE.is_multiple_of(align as usize);
    stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0
        && is_within_page(stat.stx_dio_mem_align)
        && is_within_page(stat.stx_dio_offset_align)
}

fn pread(fd: &OwnedFd, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match rustix::io::pread(fd, &mut *buf, offset) {
            Ok(got) => return Ok(got),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A file opened anew and read through the page cache with all patience: for ranges where the fast way had
/// trouble.
pub(super) struct Careful(File);

impl Careful {
    /// Opens `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        open_regular(path).map(Self)
    }

    /// Fills `buf` from byte `offset` on; false when the file ends before.
    pub(super) fn fill(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        match self.0.read_exact_at(buf, offset) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path) -> PlanFile {
        PlanFile::stored(path.to_owned(), path.metadata().unwrap().len())
    }

    #[test]
    fn holes_end_where_data_begins() {
        let beside = std::env::current_exe().unwrap();
        for parent in [beside.parent().unwrap(), Path::new("/dev/shm")] {
            let Ok(dir) = tempfile::tempdir_in(parent) else { continue };
            let path = dir.path().join("f");
            let sparse = File::create(&path).unwrap();
            sparse.write_all_at(&[1; 4096], 1 << 20).unwrap();
            sparse.set_len(3 << 20).unwrap();
            let file = file(&path);
            let mut source = Source::default();
            source.open(0, 0, &file, 0, Reading::Auto).unwrap();
            let (first, is_hole) = source.stretch(5, 3 << 20);
            if !is_hole {
                eprintln!("skipped: no holes on {}", parent.display());
                continue;
            }
            assert_eq!(first, (1 << 20) - 5, "{}", parent.display());
            assert_eq!(source.stretch(1 << 20, (1 << 20) + 100), (100, false));
            assert!(!source.stretch((1 << 20) + 4095, 3 << 20).1);
            assert_eq!(source.stretch(2 << 20, 3 << 20), (1 << 20, true));
            assert_eq!(source.stretch(17, 4096), (4079, true));

            // Bytes that are gone are no hole.
            sparse.set_len(2 << 20).unwrap();
            let mut source = Source::default();
            source.open(0, 0, &file, 0, Reading::Auto).unwrap();
            assert!(!source.stretch((2 << 20) + 1, 3 << 20).1);
        }
    }

    #[test]
    fn only_regular_files_are_read() {
        for path in ["/dev/null", "/"] {
            let file = PlanFile::stored(path.into(), 1);
            let error = Source::default().open(0, 0, &file, 0, Reading::Auto).unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{error}");
        }
    }

    #[test]
    fn what_was_just_written_is_in_memory_and_direct_is_direct() {
        let beside = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(beside.parent().unwrap()).unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, vec![7; 2 << 20]).unwrap();
        let file = file(&path);
        let mut source = Source::default();
        source.open(0, 0, &file, 0, Reading::Direct).unwrap();
        match allows_direct(&source.fd()) {
            true => assert_eq!(source.way(), Way::Direct),
            false => assert_ne!(source.way(), Way::Direct),
        }
        source.give_up_direct();
        source.open(0, 0, &file, 0, Reading::Direct).unwrap();
        assert_ne!(source.way(), Way::Direct);
        let mut source = Source::default();
        source.open(0, 0, &file, 5, Reading::Buffered).unwrap();
        assert_ne!(source.way(), Way::Direct);
        source.missed(&file, Reading::Buffered);
        assert_eq!(source.way(), Way::Buffered);
    }
}

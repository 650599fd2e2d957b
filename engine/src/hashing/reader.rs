//! Ranges of files into page-aligned memory, past the page cache where that is possible.
//!
//! Owner: one lane. Invariant: at most one file is open, and only regular files are ever opened for long.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use ccbt_storage::arena::PAGE;
use rustix::fs::{Advice, AtFlags, CWD, OFlags, StatxFlags, fadvise, statx};
use rustix::io::Errno;

use super::PlanFile;

/// Longest read through the page cache, in bytes: the copy of four lanes stays in a core's second-level cache.
const BUFFERED_READ_LEN: usize = 256 * 1024;
/// Shorter files are read through the page cache: the extra system calls cost more than the copy.
const DIRECT_FILE_LEN_MIN: u64 = 1 << 20;

/// See the module.
pub(super) struct Reader<'a> {
    files: &'a [PlanFile],
    direct: bool,
    open: Option<Open>,
}

/// What [`Reader::read`] brought.
pub(super) struct Got {
    /// Where in the buffer.
    pub data: Range<usize>,
    /// The file ended before all that was asked for.
    pub is_short: bool,
}

struct Open {
    index: usize,
    file: File,
    is_direct: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(files: &'a [PlanFile], direct: bool) -> Self {
        Self { files, direct, open: None }
    }

    /// Reads from byte `offset` of file `index` on, at most `len` bytes, into `buf`, whose address is page aligned and
    /// which is two pages longer than `len`. Brings at least one byte unless the file ends before.
    pub(super) fn read(&mut self, index: usize, offset: u64, len: usize, buf: &mut [u8]) -> io::Result<Got> {
        if self.open.as_ref().is_none_or(|open| open.index != index) {
            // Close first: never two descriptors.
            self.open = None;
            self.open = Some(self.open(index)?);
        }
        let open = self.open.as_ref().expect("opened above");
        if !open.is_direct {
            let len = len.min(BUFFERED_READ_LEN);
            let got = read_full(&open.file, &mut buf[..len], offset, 1)?;
            return Ok(Got { data: 0..got, is_short: got < len });
        }
        let skip = (offset % PAGE as u64) as usize;
        let aligned = &mut buf[..(skip + len).next_multiple_of(PAGE)];
        match read_full(&open.file, aligned, offset - skip as u64, PAGE) {
            Ok(got) => Ok(Got { data: skip.min(got)..got.min(skip + len), is_short: got < skip + len }),
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                // The file system promised what it does not keep.
                self.direct = false;
                self.open = None;
                self.read(index, offset, len, buf)
            }
            Err(error) => Err(error),
        }
    }

    fn open(&self, index: usize) -> io::Result<Open> {
        let PlanFile { path, len, .. } = &self.files[index];
        if self.direct && *len >= DIRECT_FILE_LEN_MIN && allows_direct(path) {
            match open_regular(path, OFlags::DIRECT) {
                Ok(file) => return Ok(Open { index, file, is_direct: true }),
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
        let file = open_regular(path, OFlags::empty())?;
        // Only advice: file systems that do not take it read all the same.
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        Ok(Open { index, file, is_direct: false })
    }
}

/// Opens what is a regular file now; anything else is an error and never waited for (a fifo would block).
fn open_regular(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// Whether page-aligned O_DIRECT reads of `path` work, as statx tells since Linux 6.1 (tmpfs and older kernels: no).
fn allows_direct(path: &Path) -> bool {
    let Ok(stat) = statx(CWD, path, AtFlags::empty(), StatxFlags::DIOALIGN) else { return false };
    let is_within_page = |align: u32| align > 0 && PAGE.is_multiple_of(align as usize);
    stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0
        && is_within_page(stat.stx_dio_mem_align)
        && is_within_page(stat.stx_dio_offset_align)
}

/// Fills `buf` from byte `offset` on, in steps that are multiples of `align`; returns fewer bytes at the end of the file.
fn read_full(file: &File, buf: &mut [u8], offset: u64, align: usize) -> io::Result<usize> {
    let mut got = 0;
    while got < buf.len() {
        match file.read_at(&mut buf[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(len) => {
                got += len;
                if !len.is_multiple_of(align) {
                    // Direct reads end off the alignment only at the end of the file.
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

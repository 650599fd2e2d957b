//! Ranges of files into page-aligned memory, past the page cache where that is possible.
//!
//! Owner: one lane. Invariant: at most one file is open, and only regular files are ever opened for long.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use ccbt_storage::arena::PAGE;
use rustix::fs::{Advice, AtFlags, CWD, OFlags, StatxFlags, fadvise, statx};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::{PlanFile, Reading};

/// Longest read through the page cache, in bytes: the copy of four lanes stays in a core's second-level
/// cache.
const BUFFERED_READ_LEN: usize = 256 * 1024;
/// Shorter files are read through the page cache: the extra system calls cost more than the copy.
const DIRECT_FILE_LEN_MIN: u64 = 1 << 20;

/// See the module.
pub(super) struct Reader<'a> {
    files: &'a [PlanFile],
    reading: Reading,
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
    pub(super) fn new(files: &'a [PlanFile], reading: Reading) -> Self {
        Self { files, reading, open: None }
    }

    /// Reads from byte `offset` of file `index` on, at most `len` bytes, into `buf`, whose address is page
    /// aligned and which is two pages longer than `len`. Brings at least one byte unless the file ends
    /// before.
    pub(super) fn read(&mut self, index: usize, offset: u64, len: usize, buf: &mut [u8]) -> io::Result<Got> {
        if self.open.as_ref().is_none_or(|open| open.index != index) {
            // Close first: never two descriptors.
            self.open = None;
            self.open = Some(self.open(index, offset)?);
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
                self.reading = Reading::Buffered;
                self.open = None;
                self.read(index, offset, len, buf)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens file `index`, whose byte `offset` is read first.
    fn open(&self, index: usize, offset: u64) -> io::Result<Open> {
        let PlanFile { path, len, .. } = &self.files[index];
        let file = open_regular(path, OFlags::empty())?;
        let wants_direct = match self.reading {
            Reading::Buffered => false,
            _ if *len < DIRECT_FILE_LEN_MIN || !allows_direct(path) => false,
            Reading::Direct => true,
            Reading::Auto => !is_cached(&file, offset),
        };
        if wants_direct {
            match open_regular(path, OFlags::DIRECT) {
                Ok(file) => return Ok(Open { index, file, is_direct: true }),
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
        // Only advice: file systems that do not take it read all the same.
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        Ok(Open { index, file, is_direct: false })
    }
}

/// Whether byte `offset` can be had without the disk. File systems that cannot say count as not cached.
fn is_cached(file: &File, offset: u64) -> bool {
    // Keeps the kernel from reading ahead for a byte that is not there: one page at most.
    let _ = fadvise(file, 0, None, Advice::Random);
    let mut byte = [0];
    preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT) == Ok(1)
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

/// Whether page-aligned O_DIRECT reads of `path` work, as statx tells since Linux 6.1 (tmpfs and older
/// kernels: no).
fn allows_direct(path: &Path) -> bool {
    let Ok(stat) = statx(CWD, path, AtFlags::empty(), StatxFlags::DIOALIGN) else { return false };
    let is_within_page = |align: u32| align > 0 && PAGE.is_multiple_of(align as usize);
    stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0
        && is_within_page(stat.stx_dio_mem_align)
        && is_within_page(stat.stx_dio_offset_align)
}

/// Fills `buf` from byte `offset` on, in steps that are multiples of `align`; returns fewer bytes at the end
/// of the file.
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

#[cfg(test)]
mod tests {
    use super::*;
    use ccbt_storage::arena::Partition;

    #[test]
    fn ranges_at_any_offset_and_way_of_reading() {
        let beside = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(beside.parent().unwrap()).unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..(3u32 << 20) + 777).map(|at| (at * 7 + (at >> 8)) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let files = [PlanFile::stored(path.clone(), bytes.len() as u64)];
        let mut buf = Partition::new((1 << 20) + 2 * PAGE).unwrap().alloc((1 << 20) + 8192, 0).unwrap();
        for reading in [Reading::Auto, Reading::Direct, Reading::Buffered] {
            let mut reader = Reader::new(&files, reading);
            for offset in [0, 1, 4095, 4096, 1_000_001, 3 << 20, bytes.len() - 1, bytes.len()] {
                for len in [1, 4096, 4097, 200_000, 1 << 20] {
                    let got = reader.read(0, offset as u64, len, buf.as_mut_slice()).unwrap();
                    let wanted = &bytes[offset..bytes.len().min(offset + len)];
                    let data = &buf.as_slice()[got.data];
                    assert!(wanted.starts_with(data), "{reading:?}: {len} bytes at {offset}");
                    assert_eq!(got.is_short, data.len() < len && data.len() == wanted.len());
                    assert_eq!(data.is_empty(), offset == bytes.len());
                }
            }
            let is_direct = reader.open.unwrap().is_direct;
            match reading {
                Reading::Direct => assert_eq!(is_direct, allows_direct(&path)),
                Reading::Buffered => assert!(!is_direct),
                // Either is right: the kernel may drop what was just written.
                Reading::Auto => {}
            }
        }
    }

    #[test]
    fn only_regular_files_are_read() {
        let files = [PlanFile::stored("/dev/null".into(), 1), PlanFile::stored("/".into(), 1)];
        let mut reader = Reader::new(&files, Reading::Auto);
        for index in 0..files.len() {
            let error = reader.read(index, 0, 1, &mut [0; 3 * PAGE]).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{error}");
        }
    }
}

//! IP filters from files: lists of addresses that the session has nothing to do with.
//!
//! Role: [`load`] makes an [`IpFilter`] of a file, or of all files of a folder, plain, gzip or zip; [`FilterKeeper`] does
//! so again when they change, on a thread of its own. Callers: whoever starts a session, and the loop that runs it.
//! Invariants: lists are read as a stream, so memory is the ranges ([`ccbt_protocol::ipfilter`]) and not the file; a
//! compressed one expands to [`EXPANDED_BYTES_MAX`] at most; a list without a single range is an error, and changes
//! nothing.

mod keeper;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ccbt_protocol::ipfilter::{Builder, Reading, read};
use flate2::read::MultiGzDecoder;

pub use ccbt_protocol::ipfilter::IpFilter;
pub use keeper::FilterKeeper;

/// Bytes of all lists together, once expanded: forty times a list of a million ranges. Lists beyond it are refused.
pub const EXPANDED_BYTES_MAX: u64 = 1 << 30;
/// Files of a folder, and of a zip archive.
const FILES_MAX: usize = 64;
/// Wrong lines that a report names.
const BAD_SHOWN: usize = 5;
/// Read at a time.
const BUFFER: usize = 64 << 10;

/// Where the filter comes from, and for whom it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterSettings {
    /// A list, or a folder of lists; `None`: no filter.
    pub path: Option<PathBuf>,
    /// Trackers at its addresses are not asked either.
    pub trackers: bool,
}

/// A filter, and what there is to tell of it.
#[derive(Clone, Debug)]
pub struct LoadedFilter {
    /// The filter.
    pub filter: Arc<IpFilter>,
    /// What was found.
    pub report: FilterReport,
}

/// What was found in lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterReport {
    /// Files that were read.
    pub files: Vec<PathBuf>,
    /// Ranges that are blocked, once merged.
    pub ranges: usize,
    /// Bytes of memory.
    pub memory_bytes: usize,
    /// Lines that say nothing known.
    pub bad_lines: u64,
    /// The first of these, each with its file, its number, and what is wrong.
    pub first_bad: Vec<String>,
}

impl fmt::Display for FilterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the IP filter has {} ranges from {} files", self.ranges, self.files.len())?;
        if self.bad_lines > 0 {
            write!(f, "; {} lines were not understood: {}", self.bad_lines, self.first_bad.join("; "))?;
        }
        Ok(())
    }
}

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A file cannot be read, is damaged, or is too much.
    #[error("the IP filter {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// Nothing in it is a range.
    #[error(
        "the IP filter {} has no range that is understood{}; it must be a list in DAT, P2P, P2B or CIDR form",
        path.display(),
        first_bad.first().map(|bad| format!(" ({bad})")).unwrap_or_default()
    )]
    Empty {
        /// The file or folder.
        path: PathBuf,
        /// See [`FilterReport::first_bad`].
        first_bad: Vec<String>,
    },
}

/// Reads the list at `path`, or all lists of that folder.
pub fn load(path: &Path) -> Result<LoadedFilter, FilterError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| FilterError::Read { path, source }
    };
    let files = lists_at(path).map_err(failed(path))?;
    let mut builder = Builder::default();
    let mut report = FilterReport::default();
    let mut left = EXPANDED_BYTES_MAX;
    for file in &files {
        let reading = read_file(file, &mut left, &mut builder).map_err(failed(file))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        report.bad_lines += reading.bad;
        report.first_bad.extend(reading.first_bad.iter().map(|bad| format!("{name}, {bad}")));
    }
    report.first_bad.truncate(BAD_SHOWN);
    let filter = builder.build();
    if filter.is_empty() {
        return Err(FilterError::Empty { path: path.to_owned(), first_bad: report.first_bad });
    }
    (report.files, report.ranges, report.memory_bytes) = (files, filter.len(), filter.memory_bytes());
    Ok(LoadedFilter { filter: Arc::new(filter), report })
}

/// The file, or the files of the folder in the order of their names; hidden ones, which may be half written, are none.
fn lists_at(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !is_hidden && fs::metadata(entry.path()).is_ok_and(|found| found.is_file()) {
            files.push(entry.path());
        }
        if files.len() > FILES_MAX {
            return Err(io::Error::other(format!("more than {FILES_MAX} files; join some")));
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path, left: &mut u64, builder: &mut Builder) -> io::Result<Reading> {
    // Another kind might be waited for without end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut file = File::open(path)?;
    let mut start = [0; 4];
    let len = fill(&mut file, &mut start)?;
    file.rewind()?;
    match &start[..len] {
        [0x1f, 0x8b, ..] => read(&mut buffered(MultiGzDecoder::new(file), left), builder),
        b"PK\x03\x04" => read_zip(file, left, builder),
        _ => read(&mut buffered(file, left), builder),
    }
}

fn fill(file: &mut File, start: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < start.len() {
        match file.read(&mut start[len..])? {
            0 => break,
            more => len += more,
        }
    }
    Ok(len)
}

/// All files of an archive.
fn read_zip(file: File, left: &mut u64, builder: &mut Builder) -> io::Result<Reading> {
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(io::Error::other)?;
    if archive.len() > FILES_MAX {
        return Err(io::Error::other(format!("more than {FILES_MAX} files in the archive")));
    }
    let mut sum = Reading::default();
    for at in 0..archive.len() {
        let entry = archive.by_index(at).map_err(io::Error::other)?;
        if entry.is_file() {
            sum.add(read(&mut buffered(entry, left), builder)?);
        }
    }
    Ok(sum)
}

fn buffered<'a>(inner: impl Read + 'a, left: &'a mut u64) -> impl BufRead + 'a {
    BufReader::with_capacity(BUFFER, Bounded { inner, left })
}

/// Fails instead of giving more bytes than are left.
struct Bounded<'a, R> {
    inner: R,
    left: &'a mut u64,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(into)?;
        *self.left = self.left.checked_sub(len as u64).ok_or_else(|| {
            io::Error::other(format!("it expands to more than {} MiB", EXPANDED_BYTES_MAX >> 20))
        })?;
        Ok(len)
    }
}

#[cfg(test)]
mod tests;

//! A log file of bounded length, and the ones before it.
//!
//! Owner: the log's thread. Invariant: `FILE`, `FILE.1` … are `files` at most, each of `bytes_max` at most, but for a
//! single line that is longer.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// See the module.
pub struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: Option<u64>,
    files: usize,
}

impl LogFile {
    /// Appends to `path`. A file that would become longer than `bytes_max` makes way for a new one.
    pub fn open(path: &Path, bytes_max: Option<u64>, files: usize) -> io::Result<Self> {
        let file = append(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, bytes_max, files })
    }

    /// Appends a line.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let len = line.len() as u64;
        if self.bytes > 0 && self.bytes_max.is_some_and(|max| self.bytes + len > max) {
            self.rotate()?;
        }
        self.bytes += len;
        self.file.write_all(line)
    }

    fn rotate(&mut self) -> io::Result<()> {
        let kept = self.files.saturating_sub(1);
        for nth in (0..kept).rev() {
            match fs::rename(self.numbered(nth), self.numbered(nth + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if kept == 0 {
            fs::remove_file(&self.path)?;
        }
        self.file = append(&self.path)?;
        self.bytes = 0;
        Ok(())
    }

    /// The present file is number 0.
    fn numbered(&self, nth: usize) -> PathBuf {
        match nth {
            0 => self.path.clone(),
            nth => self.path.with_added_extension(nth.to_string()),
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    // Names of torrents and addresses of peers are in it.
    File::options().append(true).create(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<(String, u64)> {
        let entry = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.expect("an entry");
            (entry.file_name().to_string_lossy().into_owned(), entry.metadata().expect("there").len())
        };
        let mut names: Vec<_> = fs::read_dir(dir).expect("a folder").map(entry).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_bounded_in_length_and_number() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log");
        let mut log = LogFile::open(&path, Some(100), 3).expect("opened");
        for n in 0..50 {
            log.write(format!("{n:029}\n").as_bytes()).expect("written");
        }
        let names_now = names(dir.path());
        let [(one, _), (two, _), (three, _)] = &names_now[..] else { panic!("{names_now:?}") };
        assert_eq!([one.as_str(), two, three], ["log", "log.1", "log.2"]);
        assert!(names_now.iter().all(|(_, len)| *len <= 100), "{names_now:?}");
        let newest = fs::read_to_string(&path).expect("read");
        assert!(
            newest.ends_with("49\n")
                && fs::read_to_string(path.with_added_extension("1")).expect("read") < newest
        );
    }

    #[test]
    fn one_file_and_what_is_there_already() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log");
        fs::write(&path, [b'x'; 90]).expect("written");
        let mut log = LogFile::open(&path, Some(100), 1).expect("opened");
        log.write(&[b'y'; 20]).expect("written");
        assert_eq!(names(dir.path()), [("log".to_owned(), 20)]);
        log.write(&[b'z'; 300]).expect("a long line is whole");
        assert_eq!(names(dir.path()), [("log".to_owned(), 300)]);
        let mut endless = LogFile::open(&path, None, 1).expect("opened");
        endless.write(&[b'z'; 300]).expect("written");
        assert_eq!(names(dir.path()), [("log".to_owned(), 600)]);
    }
}

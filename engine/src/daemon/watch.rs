//! The watch folder: torrent files that are put there are added.
//!
//! Role: says which files to try, and remembers what became of them. Owner: [`super::core`], which asks a few times a
//! second. inotify says when to look, the folder what is there, and the parser whether a file is complete: one that is
//! being written does not parse, and is tried again. Invariant: a file is added once; what is not a torrent is told once
//! and tried again when it has changed.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

/// Between two looks at files that do not parse yet.
const RETRY: Duration = Duration::from_secs(1);
/// So long a file must have been the same before it is told that it is no torrent.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Between two looks without a word from inotify: where it does not work (network file systems), or the folder is made
/// later.
const POLL: Duration = Duration::from_secs(5);
/// Files to try at a time.
const FILES_MAX: usize = 64;
/// Ending of files that were added.
const ADDED: &str = "added";

/// What a file was: device, inode, length and time.
type Mark = (u64, u64, u64, (i64, i64));

#[derive(Clone, Copy, Debug)]
struct Seen {
    mark: Mark,
    since: Instant,
    /// It was added, or is no torrent.
    settled: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct WatchFolder {
    dir: PathBuf,
    fd: Option<OwnedFd>,
    seen: HashMap<PathBuf, Seen>,
    looked: Option<Instant>,
    /// Files that do not parse yet are there.
    pending: bool,
    /// That it cannot be read was told.
    told: bool,
}

impl WatchFolder {
    /// Watches `dir`, which need not be there yet.
    pub fn new(dir: &Path) -> Self {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok();
        Self { dir: dir.to_owned(), fd, seen: HashMap::new(), looked: None, pending: false, told: false }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Files to try now.
    pub fn due(&mut self, now: Instant) -> Vec<PathBuf> {
        let age = self.looked.map(|looked| now.saturating_duration_since(looked));
        let heard = self.drain();
        let is_due = age.is_none_or(|age| age >= POLL || self.pending && age >= RETRY);
        if !heard && !is_due {
            return Vec::new();
        }
        self.looked = Some(now);
        if let Some(fd) = &self.fd {
            let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
            // It may be another folder of that name by now. Without a watch it is looked at now and then.
            let _ = inotify::add_watch(fd, &self.dir, flags);
        }
        match self.list(now) {
            Ok(files) => {
                self.told = false;
                files
            }
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!("the watch folder {} cannot be read: {error}", self.dir.display());
                }
                Vec::new()
            }
        }
    }

    fn list(&mut self, now: Instant) -> io::Result<Vec<PathBuf>> {
        let mut there = HashMap::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let is_torrent = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("torrent"));
            // A pipe would hold us up.
            if let (true, Ok(found)) = (is_torrent, fs::metadata(&path))
                && found.is_file()
            {
                let mark = (found.dev(), found.ino(), found.len(), (found.mtime(), found.mtime_nsec()));
                let before = self.seen.get(&path).filter(|seen| seen.mark == mark).copied();
                there.insert(path, before.unwrap_or(Seen { mark, since: now, settled: false }));
            }
        }
        self.seen = there;
        let open = self.seen.iter().filter(|(_, seen)| !seen.settled);
        let mut files: Vec<PathBuf> = open.map(|(path, _)| path.clone()).collect();
        files.sort();
        self.pending = !files.is_empty();
        if files.len() > FILES_MAX {
            // The others have their turn at once, but clients before them.
            files.truncate(FILES_MAX);
            self.looked = None;
        }
        Ok(files)
    }

    /// `path` was added, or was there already.
    pub fn added(&mut self, path: &Path) {
        let to = path.with_added_extension(ADDED);
        if let Err(error) = fs::rename(path, &to) {
            tracing::warn!("{} was added, but cannot be renamed: {error}", path.display());
        }
        self.settle(path);
    }

    /// `path` cannot be added, for a reason that may pass. Whether that is to be told.
    pub fn refused(&mut self, path: &Path, now: Instant) -> bool {
        let gives_up =
            self.seen.get(path).is_some_and(|seen| now.saturating_duration_since(seen.since) >= GIVE_UP);
        if gives_up {
            self.settle(path);
        }
        gives_up
    }

    fn settle(&mut self, path: &Path) {
        if let Some(seen) = self.seen.get_mut(path) {
            seen.settled = true;
        }
    }

    fn drain(&self) -> bool {
        let Some(fd) = &self.fd else { return false };
        let mut events = [0; 4096];
        let mut any = false;
        loop {
            match rustix::io::read(fd, &mut events[..]) {
                Ok(1..) => any = true,
                Err(Errno::INTR) => {}
                Ok(0) | Err(_) => return any,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_tried_until_they_are_settled() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("watch");
        let mut watch = WatchFolder::new(&folder);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(watch.due(at(0)).is_empty(), "it is not there yet");
        fs::create_dir(&folder).expect("made");
        assert!(watch.due(at(1)).is_empty());
        assert!(watch.due(at(6)).is_empty(), "nothing is in it");
        let (one, other) = (folder.join("a.torrent"), folder.join("b.TORRENT"));
        fs::write(&one, b"d").expect("written");
        fs::write(folder.join("c.txt"), b"d").expect("written");
        assert_eq!(watch.due(at(7)), std::slice::from_ref(&one), "heard of");
        assert!(!watch.refused(&one, at(7)));
        fs::rename(folder.join("c.txt"), &other).expect("renamed");
        assert_eq!(watch.due(at(7)), [one.clone(), other.clone()], "moved in");
        watch.added(&other);
        assert!(folder.join("b.TORRENT.added").exists());
        assert!(watch.due(at(7)).len() <= 1, "renaming may have been heard of");
        assert_eq!(watch.due(at(9)), std::slice::from_ref(&one), "tried again");
        assert!(watch.refused(&one, at(17)), "that is no torrent");
        assert!(watch.due(at(18)).is_empty());
        fs::write(&one, b"de").expect("written");
        assert_eq!(watch.due(at(19)), [one], "it has changed");
    }
}

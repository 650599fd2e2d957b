//! Notices that configuration files have changed.
//!
//! Role: inotify on the folders of the files, because editors replace a file by renaming another one over it, and then a
//! look at what is there now. Owner: the thread that runs a session; it asks now and then, and nothing waits.
//! Invariant: a file that is made, written, replaced, removed or reached by other links is noticed, once.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use super::sources::Source;

/// Between a change and reading the file: an editor may be writing still.
const SETTLED_AFTER: Duration = Duration::from_millis(50);
/// Links followed from a file to what it is.
const LINKS_MAX: usize = 16;

/// What a file was when it was looked at: device, inode, length, and the times of its content and of its inode.
type Mark = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

/// See the module.
#[derive(Debug)]
pub struct Watcher {
    fd: OwnedFd,
    paths: Vec<PathBuf>,
    watched: BTreeSet<PathBuf>,
    marks: Vec<Mark>,
    /// When something was heard of that was not looked at yet.
    heard: Option<Instant>,
}

impl Watcher {
    /// Watches `files`, of which none need be there.
    ///
    /// Errors: the system has no inotify instance left (`sysctl fs.inotify.max_user_instances`).
    pub fn new(files: &[Source]) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let paths: Vec<PathBuf> = files.iter().map(|source| source.path.clone()).collect();
        let mut this = Self { fd, paths, watched: BTreeSet::new(), marks: Vec::new(), heard: None };
        this.watch_folders();
        this.marks = this.look();
        Ok(this)
    }

    /// Whether a file is another one than at the last call that said so. Never waits.
    pub fn has_changed(&mut self, now: Instant) -> bool {
        if self.drain() {
            self.heard = Some(now);
        }
        let is_settled =
            self.heard.is_some_and(|heard| now.saturating_duration_since(heard) >= SETTLED_AFTER);
        if !is_settled {
            return false;
        }
        self.heard = None;
        // What was reached by links, or had no folder, may be elsewhere now.
        self.watch_folders();
        let marks = self.look();
        let has_changed = marks != self.marks;
        self.marks = marks;
        has_changed
    }

    /// Whether anything was heard of.
    fn drain(&self) -> bool {
        let mut events = [0; 4096];
        let mut any = false;
        loop {
            match rustix::io::read(&self.fd, &mut events[..]) {
                Ok(1..) => any = true,
                Err(Errno::INTR) => {}
                // Nothing is left.
                Ok(0) | Err(_) => return any,
            }
        }
    }

    fn look(&self) -> Vec<Mark> {
        let mark = |path: &PathBuf| {
            let found = fs::metadata(path).ok()?;
            let (content, inode) = ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
            Some((found.dev(), found.ino(), found.len(), content, inode))
        };
        self.paths.iter().map(mark).collect()
    }

    /// Watches every folder that a change can come from: those that hold the files, what links lead to, and above a folder
    /// that is not there the nearest one that is.
    fn watch_folders(&mut self) {
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        let folders: BTreeSet<PathBuf> = self.paths.iter().flat_map(|path| folders_of(path)).collect();
        for folder in &folders {
            // Adding a folder once more changes nothing, and one that was removed and made again is a new one.
            if let Err(error) = inotify::add_watch(&self.fd, folder, flags)
                && !self.watched.contains(folder)
            {
                tracing::debug!("cannot watch {}: {error}", folder.display());
            }
        }
        self.watched = folders;
    }
}

fn folders_of(path: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => break,
        };
        folders.extend(parent.ancestors().find(|folder| folder.is_dir()).map(Path::to_owned));
        match fs::read_link(&path) {
            Ok(target) => path = parent.join(target),
            Err(_) => break,
        }
    }
    folders
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;

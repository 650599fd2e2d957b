//! The folder of checkpoints.
//!
//! ```text
//! HASH.ckpt       the checkpoint of the torrent with this info-hash (40 hexadecimal digits)
//! HASH.ckpt.bak   the good one before it
//! HASH.ckpt.new   one that is being written
//! HASH.torrent    a copy of the torrent file, so that `resume HASH` needs nothing else
//! ```
//!
//! A new one is written as `.new` and synced; the present one becomes `.bak` if it is good; the new one takes its name;
//! the folder is synced. Invariant: after each of these steps, and after a power cut between them, [`Store::load`] finds
//! the newest or the one before it. Only `HASH.*` files are ever touched.
//!
//! Called by the session's checkpoint thread and by the command line.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ccbt_protocol::checkpoint::{Checkpoint, FILE_LEN_MAX, Format};
use ccbt_protocol::ids::InfoHash;

use crate::TorrentSource;

/// A folder of checkpoints; see the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    dir: PathBuf,
}

/// What was found of a torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The newest that is good.
    pub checkpoint: Checkpoint,
    /// Why it is the one before the newest.
    pub fell_back: Option<String>,
}

/// Why there is no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// None was ever written, or it was removed.
    #[error("there is no checkpoint of {0}")]
    Missing(InfoHash),
    /// None that is there is good.
    #[error("the checkpoint {} cannot be used: {reason}; the files will be looked at instead", .path.display())]
    Unusable {
        /// The newest.
        path: PathBuf,
        /// What is wrong with it, and with the one before it if there is one.
        reason: String,
    },
}

/// A torrent in the folder.
#[derive(Debug)]
pub struct Entry {
    /// The torrent.
    pub info_hash: InfoHash,
    /// Its checkpoint.
    pub loaded: Result<Loaded, LoadError>,
    /// Bytes of all its files here.
    pub bytes: u64,
    /// When one of them was written last.
    pub written: Option<SystemTime>,
}

/// Which checkpoints are to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Those that were written longer ago than this.
    pub older_than: Option<Duration>,
    /// Those of complete torrents, however new.
    pub completed: bool,
}

/// A step of writing; faults are put before them in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Folder,
    Create,
    Write,
    SyncFile,
    Backup,
    Replace,
    SyncFolder,
}

impl Store {
    /// The folder `dir`, which is made when something is saved.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the checkpoint of a torrent is.
    pub fn path(&self, info_hash: InfoHash) -> PathBuf {
        self.dir.join(format!("{info_hash}.ckpt"))
    }

    /// Where the copy of a torrent file is, if one was kept.
    pub fn torrent_path(&self, info_hash: InfoHash) -> PathBuf {
        self.dir.join(format!("{info_hash}.torrent"))
    }

    fn backup_path(&self, info_hash: InfoHash) -> PathBuf {
        self.dir.join(format!("{info_hash}.ckpt.bak"))
    }

    /// Makes `checkpoint` the newest of its torrent. After an error the one before it can still be loaded.
    pub fn save(&self, checkpoint: &Checkpoint, format: Format) -> io::Result<()> {
        self.save_with(checkpoint, format, &mut |_| Ok(()))
    }

    fn save_with(
        &self,
        checkpoint: &Checkpoint,
        format: Format,
        before: &mut dyn FnMut(Step) -> io::Result<()>,
    ) -> io::Result<()> {
        before(Step::Folder)?;
        let _alone = self.lock()?;
        let path = self.path(checkpoint.info_hash);
        let bytes = checkpoint.encode(format);
        let rotate = || match read(&path, checkpoint.info_hash) {
            Ok(_) => fs::rename(&path, self.backup_path(checkpoint.info_hash)),
            // A damaged one must not take the place of a good one.
            Err(_) => Ok(()),
        };
        replace(&path, &bytes, before, rotate)
    }

    /// Makes the folder, and keeps other processes that write or remove there waiting. They hold it for as long as one file
    /// takes. A file system without locks has none: then two processes with the same torrent may spoil each other's
    /// checkpoint, which its checksum shows.
    fn lock(&self) -> io::Result<File> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let folder = File::open(&self.dir)?;
        let _ = folder.lock();
        Ok(folder)
    }

    /// Makes a checkpoint count as written now, so that others do not clean it away while its torrent runs. One that is not
    /// there stays so.
    pub fn touch(&self, info_hash: InfoHash) -> io::Result<()> {
        match OpenOptions::new().write(true).open(self.path(info_hash)) {
            Ok(file) => file.set_modified(SystemTime::now()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Keeps a copy of a torrent file.
    pub fn save_torrent(&self, info_hash: InfoHash, bytes: &[u8]) -> io::Result<()> {
        let _alone = self.lock()?;
        write_atomically(&self.torrent_path(info_hash), bytes)
    }

    /// The torrent file of a checkpoint: the one it was read from, else the copy here; `None`: neither is there, or is what it
    /// was.
    pub fn torrent_of(&self, checkpoint: &Checkpoint) -> Option<PathBuf> {
        let copy = self.torrent_path(checkpoint.info_hash);
        let is_it = |path: &PathBuf| {
            // Opening a pipe would wait.
            path.is_file()
                && TorrentSource::from(path.as_path())
                    .load()
                    .is_ok_and(|metainfo| checkpoint.fits(&metainfo).is_ok())
        };
        checkpoint.source.torrent.iter().chain([&copy]).find(|path| is_it(path)).cloned()
    }

    /// The newest good checkpoint of a torrent.
    pub fn load(&self, info_hash: InfoHash) -> Result<Loaded, LoadError> {
        let path = self.path(info_hash);
        let newest = match read(&path, info_hash) {
            Ok(checkpoint) => return Ok(Loaded { checkpoint, fell_back: None }),
            Err(problem) => problem,
        };
        match (newest, read(&self.backup_path(info_hash), info_hash)) {
            (newest, Ok(checkpoint)) => {
                let reason = newest.unwrap_or_else(|| "it is not there".to_owned());
                Ok(Loaded { checkpoint, fell_back: Some(reason) })
            }
            (None, Err(None)) => Err(LoadError::Missing(info_hash)),
            (newest, Err(backup)) => {
                let reasons = [newest, backup.map(|backup| format!("the one before it: {backup}"))];
                let reason = reasons.into_iter().flatten().collect::<Vec<_>>().join("; ");
                Err(LoadError::Unusable { path, reason })
            }
        }
    }

    /// Every torrent in the folder, by info-hash. A folder that is not there has none.
    pub fn list(&self) -> io::Result<Vec<Entry>> {
        Ok(self.hashes()?.into_iter().map(|info_hash| self.entry(info_hash)).collect())
    }

    /// The torrents in the folder, whether their checkpoints are good or not. No file is opened.
    pub fn hashes(&self) -> io::Result<BTreeSet<InfoHash>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(error),
        };
        let mut hashes = BTreeSet::new();
        for entry in entries {
            let name = entry?.file_name();
            let hash = name.to_str().and_then(|name| name.split_once('.')).filter(|(_, end)| is_ckpt(end));
            hashes.extend(hash.and_then(|(hash, _)| hash.parse::<InfoHash>().ok()));
        }
        Ok(hashes)
    }

    fn entry(&self, info_hash: InfoHash) -> Entry {
        let (bytes, written) = self.size(info_hash);
        Entry { info_hash, loaded: self.load(info_hash), bytes, written }
    }

    /// Bytes of all files of a torrent, and when one was written last.
    fn size(&self, info_hash: InfoHash) -> (u64, Option<SystemTime>) {
        let found = self.files(info_hash).into_iter().filter_map(|path| path.symlink_metadata().ok());
        found.fold((0, None), |(bytes, written), metadata| {
            (bytes + metadata.len(), written.max(metadata.modified().ok()))
        })
    }

    fn files(&self, info_hash: InfoHash) -> [PathBuf; 4] {
        let path = self.path(info_hash);
        [new_path(&path), self.backup_path(info_hash), path, self.torrent_path(info_hash)]
    }

    /// Removes all that is kept of a torrent; whether there was anything.
    pub fn delete(&self, info_hash: InfoHash) -> io::Result<bool> {
        if !self.dir.is_dir() {
            return Ok(false);
        }
        let folder = self.lock()?;
        let any = self.remove(info_hash)?;
        if any {
            folder.sync_all()?;
        }
        Ok(any)
    }

    /// As [`Self::delete`], but a power cut may bring some back.
    fn remove(&self, info_hash: InfoHash) -> io::Result<bool> {
        let mut any = false;
        for path in self.files(info_hash) {
            match fs::remove_file(path) {
                Ok(()) => any = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(any)
    }

    /// Removes what `retention` says, but nothing of the torrents in `keep`; says of which torrents.
    pub fn clean(&self, retention: Retention, keep: &BTreeSet<InfoHash>) -> io::Result<Vec<InfoHash>> {
        let all = self.hashes()?;
        self.clean_some(retention, all.difference(keep))
    }

    /// As [`Self::clean`], of these torrents only. What a power cut brings back goes the next time.
    pub(crate) fn clean_some<'a>(
        &self,
        retention: Retention,
        some: impl Iterator<Item = &'a InfoHash>,
    ) -> io::Result<Vec<InfoHash>> {
        let mut gone = Vec::new();
        for info_hash in some {
            if self.goes(*info_hash, retention) {
                let _alone = self.lock()?;
                // It may have begun to run meanwhile.
                if self.goes(*info_hash, retention) && self.remove(*info_hash)? {
                    gone.push(*info_hash);
                }
            }
        }
        Ok(gone)
    }

    /// Whether `retention` wants the files of this torrent gone. Opens them only where that matters.
    fn goes(&self, info_hash: InfoHash, retention: Retention) -> bool {
        let (_, written) = self.size(info_hash);
        let age = written.and_then(|written| SystemTime::now().duration_since(written).ok());
        let is_old = retention.older_than.is_some_and(|limit| age.unwrap_or_default() > limit);
        let is_complete = || self.load(info_hash).is_ok_and(|loaded| loaded.checkpoint.is_complete());
        is_old || retention.completed && is_complete()
    }
}

fn is_ckpt(end: &str) -> bool {
    matches!(end, "ckpt" | "ckpt.bak")
}

/// Reads one file. An error of `None`: it is not there.
fn read(path: &Path, info_hash: InfoHash) -> Result<Checkpoint, Option<String>> {
    let bytes = match read_bounded(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(None),
        Err(error) => return Err(Some(error.to_string())),
    };
    let checkpoint = Checkpoint::decode(&bytes).map_err(|error| Some(error.to_string()))?;
    if checkpoint.info_hash != info_hash {
        return Err(Some(format!("it is of the torrent {}", checkpoint.info_hash)));
    }
    Ok(checkpoint)
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    // Looked at before it is opened: opening a pipe would wait.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn new_path(path: &Path) -> PathBuf {
    path.with_added_extension("new")
}

/// Puts `bytes` in the place of the file at `path`, for the user's eyes only: after a crash there is either.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, &mut |_| Ok(()), || Ok(()))
}

fn replace(
    path: &Path,
    bytes: &[u8],
    before: &mut dyn FnMut(Step) -> io::Result<()>,
    rotate: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let new = new_path(path);
    let mut write = || {
        before(Step::Create)?;
        // What a crash has left, or a link that somebody has put there: neither is written to.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        before(Step::Write)?;
        file.write_all(bytes)?;
        before(Step::SyncFile)?;
        file.sync_all()
    };
    if let Err(error) = write() {
        // What is left of it would only take room; on a full disk there is none.
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    before(Step::Backup)?;
    rotate()?;
    before(Step::Replace)?;
    fs::rename(&new, path)?;
    before(Step::SyncFolder)?;
    let folder = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

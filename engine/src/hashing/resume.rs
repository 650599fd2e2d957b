//! What a verification has found out so far, on disk: [`VerifyOptions::resume`](super::verify).
//!
//! Owner: the thread that verifies. Invariant: the file at the path is always whole (a new one replaces it by
//! rename), and it is only ever replaced or removed when it is a resume file, or empty. Nothing it says is
//! believed when its checksum is wrong, when a file looks different from how it looked when its pieces were
//! hashed, or when a file was written so shortly before that a later write could not be told from it.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ccbt_storage::hash::sha1;
use serde::{Deserialize, Serialize};

/// First line of a resume file.
const MAGIC: &str = "ccbt-fast verify state 1\n";
/// Longest file that is read: far more than ten thousand torrents need.
const LEN_MAX: u64 = 1 << 30;
/// Time stamps may be this coarse, in seconds (FAT).
const TICK_S: i64 = 2;

/// How a file looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    inode: u64,
    len: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// Time of the last change of anything, the time of modification included.
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a write right after `now` might leave the same stamp.
    fn is_doubtful(&self, now: i64) -> bool {
        self.modified.0.max(self.changed.0) >= now - TICK_S
    }
}

/// What is kept of one torrent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// In hexadecimal digits.
    pub info_hash: String,
    /// When the stamps were taken, in seconds since 1970.
    pub looked: i64,
    /// How each file looked before its pieces were hashed; `None` where nothing was, and for padding.
    pub stamps: Vec<Option<Stamp>>,
    /// A letter for each piece: see [`super::verify`].
    pub pieces: String,
}

impl Kept {
    /// Whether what was found in file `index` still holds when it looks like `now`.
    pub(super) fn holds(&self, index: usize, now: Option<&Stamp>) -> bool {
        match (self.stamps.get(index), now) {
            (Some(Some(then)), Some(now)) => then == now && !then.is_doubtful(self.looked),
            _ => false,
        }
    }
}

/// Why a path cannot be used for a resume file.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// Something else is there.
    #[error("it is not a resume file and is left alone; choose another path, or remove it")]
    NotOurs,
    /// It cannot be read or written.
    #[error("{0}; choose a path in a folder that can be written")]
    Io(#[from] io::Error),
}

/// What was found at the path.
#[derive(Debug)]
pub(super) enum Loaded {
    /// Nothing, or an empty file.
    Nothing,
    /// A resume file that is damaged.
    Corrupt,
    /// A good one.
    Kept(Vec<Kept>),
}

/// Reads the file at `path`.
pub(super) fn load(path: &Path) -> Result<Loaded, ResumeError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Nothing),
        Err(error) => return Err(error.into()),
    };
    // Looked at before it is opened: opening a pipe would wait.
    if !metadata.is_file() {
        return Err(ResumeError::NotOurs);
    }
    let mut bytes = Vec::new();
    let mut file = File::open(path)?;
    Read::by_ref(&mut file).take(MAGIC.len() as u64).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Ok(Loaded::Nothing);
    }
    if bytes != MAGIC.as_bytes() {
        return Err(ResumeError::NotOurs);
    }
    file.take(LEN_MAX).read_to_end(&mut bytes)?;
    Ok(parse(&bytes[MAGIC.len()..]).map_or(Loaded::Corrupt, Loaded::Kept))
}

fn parse(bytes: &[u8]) -> Option<Vec<Kept>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (body, sum) = text.strip_suffix('\n')?.split_once('\n')?;
    (sum == checksum(body)).then(|| serde_json::from_str(body).ok())?
}

fn checksum(body: &str) -> String {
    sha1(body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts a resume file in the place of what is at `path`.
pub(super) fn save(path: &Path, kept: &[Kept]) -> io::Result<()> {
    let body = serde_json::to_string(kept)?;
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut file = tempfile::Builder::new().prefix(".ccbt-fast-resume-").tempfile_in(folder)?;
    write!(file, "{MAGIC}{body}\n{}\n", checksum(&body))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Takes the file away: everything is done.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Vec<Kept> {
        let stamp = Stamp { inode: 7, len: 5, modified: (100, 9), changed: (101, 0) };
        vec![Kept {
            info_hash: "ab".into(),
            looked: 200,
            stamps: vec![Some(stamp), None],
            pieces: "+?-".into(),
        }]
    }

    #[test]
    fn what_is_saved_is_loaded_and_damage_is_seen_everywhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        assert!(matches!(load(&path).unwrap(), Loaded::Nothing));
        save(&path, &kept()).unwrap();
        let Loaded::Kept(loaded) = load(&path).unwrap() else { panic!("it was saved") };
        assert_eq!(loaded, kept());
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            match load(&path) {
                Err(ResumeError::NotOurs) => assert!(at < MAGIC.len()),
                Ok(Loaded::Corrupt) => assert!(at >= MAGIC.len()),
                other => panic!("byte {at}: {other:?}"),
            }
            fs::write(&path, &good[..at]).unwrap();
            assert!(!matches!(load(&path), Ok(Loaded::Kept(_))), "{at} bytes left");
        }
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "no temporary file stays");
    }

    #[test]
    fn other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(load(dir.path()), Err(ResumeError::NotOurs)));
        assert!(matches!(load(Path::new("/dev/null")), Err(ResumeError::NotOurs)));
        let path = dir.path().join("f");
        fs::write(&path, "").unwrap();
        assert!(matches!(load(&path).unwrap(), Loaded::Nothing));
        assert!(save(&dir.path().join("no/where"), &[]).is_err());
    }

    #[test]
    fn stamps_that_changed_or_are_too_fresh_do_not_hold() {
        let kept = &kept()[0];
        let stamp = kept.stamps[0].unwrap();
        assert!(kept.holds(0, Some(&stamp)));
        assert!(!kept.holds(0, None) && !kept.holds(1, None) && !kept.holds(1, Some(&stamp)));
        assert!(!kept.holds(2, Some(&stamp)), "a file the torrent did not have");
        for other in [
            Stamp { inode: 8, ..stamp },
            Stamp { len: 6, ..stamp },
            Stamp { modified: (100, 8), ..stamp },
            Stamp { changed: (102, 0), ..stamp },
        ] {
            assert!(!kept.holds(0, Some(&other)));
        }
        for (looked, holds) in [(103, false), (104, true)] {
            assert_eq!(Kept { looked, ..kept.clone() }.holds(0, Some(&stamp)), holds);
        }
    }
}

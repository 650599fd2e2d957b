//! Checkpoints on disk: what is kept of torrents between runs, so that a download goes on where it was.
//!
//! Role: settings, the folder ([`Store`]) and what other clients keep ([`import`]). The data and its two forms are in
//! [`ccbt_protocol::checkpoint`]; the session's thread that writes them is `session::checkpointing`.
//!
//! Invariant: nothing that a checkpoint says is believed unless its checksum is right, it is of the torrent, and the
//! files are as it says. What is not believed is hashed; what is, is not.

pub mod import;
mod store;

use std::env;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::metainfo::Metainfo;
use ccbt_shards::messages::{FileMark, Known};

pub use ccbt_protocol::checkpoint::{
    Checkpoint, DecodeError, Format, Mark, Mismatch, Rename, Source, Totals, VERSION,
};
pub use store::{Entry, LoadError, Loaded, Retention, Store, write_atomically};

/// How a session keeps checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointSettings {
    /// Folder for them, made when it is needed; `None`: none are written.
    pub dir: Option<PathBuf>,
    /// Time between two of a torrent while something changes. They are also written when a torrent is finished, paused,
    /// moved, renamed, removed, and at an orderly end.
    pub interval: Duration,
    /// One is written earlier when so many pieces have come; 0: by time only. Looked at four times a second.
    pub pieces: u32,
    /// Form of the files.
    pub format: Format,
    /// Checkpoints of torrents that did not run for so long are removed; `None`: never.
    pub keep: Option<Duration>,
    /// Whether those of complete torrents stay, so that seeding begins without hashing.
    pub keep_completed: bool,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self {
            dir: None,
            interval: Duration::from_secs(30),
            pieces: 1000,
            format: Format::Binary,
            keep: Some(Duration::from_secs(30 * 86_400)),
            keep_completed: true,
        }
    }
}

impl CheckpointSettings {
    /// `$XDG_STATE_HOME/ccbt/checkpoints`, or below `~/.local/state`; `None` where there is no home.
    pub fn default_dir() -> Option<PathBuf> {
        let named = env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
        let state = named.or_else(|| Some(env::home_dir()?.join(".local/state")))?;
        state.is_absolute().then(|| state.join("ccbt/checkpoints"))
    }
}

/// What a checkpoint knows of the files, for [`crate::AddOptions::known`].
pub fn known(checkpoint: &Checkpoint) -> Known {
    let mark = |mark: &Option<Mark>| mark.map(|Mark { len, mtime_ns }| FileMark { len, mtime_ns });
    Known {
        have: checkpoint.have.clone(),
        looked: checkpoint.looked.clone(),
        partial: checkpoint.partial.clone(),
        files: checkpoint.files.iter().map(mark).collect(),
    }
}

/// How many pieces are taken for there without a look: those whose files have the length and the time that they had.
/// Looks at the files. `checkpoint` fits `metainfo`.
pub fn trusted(checkpoint: &Checkpoint, metainfo: &Metainfo) -> u32 {
    let mut have = checkpoint.have.clone();
    let mut paths: Vec<PathBuf> = metainfo.files.iter().map(|file| file.path.iter().collect()).collect();
    for rename in &checkpoint.renames {
        paths[rename.file as usize].clone_from(&rename.path);
    }
    let piece_len = u64::from(metainfo.geometry.piece_len());
    for ((file, path), mark) in metainfo.files.iter().zip(paths).zip(&checkpoint.files) {
        if file.pad || file.len == 0 || mark.is_some() && import::mark(&checkpoint.output.join(path)) == *mark
        {
            continue;
        }
        for piece in file.offset / piece_len..(file.offset + file.len).div_ceil(piece_len) {
            let piece = PieceIndex(piece as u32);
            if have.has(piece) {
                have.remove(piece);
            }
        }
    }
    have.count()
}

/// Seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

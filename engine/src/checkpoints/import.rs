//! Taking over what other clients keep: libtorrent and qBittorrent (`.fastresume`, `BT_backup`), rtorrent (session
//! folder), Transmission (`resume` and `torrents` folders), and checkpoints of our own that were exported.
//!
//! Role: finds the torrent that belongs to a resume file, looks at the data files, and makes a checkpoint of what holds
//! ([`ccbt_protocol::checkpoint::foreign`]). Nothing is hashed and no file of the other client is changed.

use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ccbt_protocol::checkpoint::foreign::{self, Foreign, ForeignError};
use ccbt_protocol::checkpoint::{Checkpoint, DecodeError, Mark, Mismatch, Rename, Source};
use ccbt_protocol::metainfo::Metainfo;
use ccbt_storage::layout::{LayoutError, LayoutSpec};

use crate::{LoadError, TorrentSource};

/// Longest resume file that is read, in bytes.
const LEN_MAX: u64 = 256 << 20;

/// What the user knows better.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The torrent file; `None`: what lies beside the resume file.
    pub torrent: Option<PathBuf>,
    /// The folder of the data; `None`: what the resume file says.
    pub output: Option<PathBuf>,
}

/// A resume file that was taken over.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Ready to be saved.
    pub checkpoint: Checkpoint,
    /// The bytes of its torrent file, where there is one.
    pub torrent: Option<Vec<u8>>,
    /// Pieces that the other client claimed, and that are not believed because a file is not as it says (a count).
    pub doubtful: u32,
    /// Things worth telling.
    pub notes: Vec<String>,
}

/// Why a resume file is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is no checkpoint, though it begins like one.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It is a checkpoint of another torrent.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// It is no resume file.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
    /// There is no torrent file beside it.
    #[error("its torrent file is not beside it; name it with --torrent")]
    NoTorrent,
    /// The torrent file is wrong.
    #[error(transparent)]
    Torrent(#[from] LoadError),
    /// It does not say where the data is.
    #[error("it does not say which folder holds the data; name it with --output")]
    NoFolder,
    /// Its paths cannot be used.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// The resume files in a folder of another client, sorted: `BT_backup`, an rtorrent session, or Transmission's `resume`.
pub fn candidates(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let ending = path.extension().map(|ending| ending.as_bytes());
        if matches!(ending, Some(b"fastresume" | b"libtorrent_resume" | b"resume" | b"ckpt")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Makes a checkpoint of the file at `path`.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Imported, ImportError> {
    let metadata = fs::metadata(path)?;
    let bytes = read(path)?;
    // Ours begin with neither a dictionary of bencode nor anything else that others write.
    if matches!(bytes.first(), Some(b'{' | 0x89)) {
        return import_own(&bytes, options);
    }
    let (torrent, metainfo) = find_torrent(path, &bytes, options)?;
    let companion = companion(path).and_then(|path| read(&path).ok());
    let mut foreign = foreign::read(&bytes, companion.as_deref(), &metainfo)?;
    let output = options.output.clone().or_else(|| foreign.output.clone()).ok_or(ImportError::NoFolder)?;
    let output = std::path::absolute(output)?;
    let mut notes = Vec::new();
    take_partial_names(&mut foreign, &metainfo, &output, &mut notes);
    let renames: Vec<_> = foreign.renames.iter().map(|rename| (rename.file, rename.path.clone())).collect();
    LayoutSpec::from_metainfo(output.clone(), &metainfo)?.with_renames(&renames)?;
    let paths = foreign.paths(&metainfo);
    let found: Vec<Option<Mark>> = paths.iter().map(|path| mark(&output.join(path))).collect();
    let claimed = foreign.have.count();
    let mut checkpoint = foreign.into_checkpoint(&metainfo, output, &found, time_ns(&metadata), super::now());
    let named = options.torrent.as_ref().map(std::path::absolute).transpose()?;
    checkpoint.source = Source { torrent: named, magnet: None };
    let doubtful = claimed - checkpoint.have.count();
    Ok(Imported { checkpoint, torrent: Some(torrent), doubtful, notes })
}

fn import_own(bytes: &[u8], options: &ImportOptions) -> Result<Imported, ImportError> {
    let mut checkpoint = Checkpoint::decode(bytes)?;
    let torrent_at = |path: &Path| {
        let bytes = read(path)?;
        let metainfo = parse(&bytes)?;
        checkpoint.fits(&metainfo)?;
        Ok::<_, ImportError>(bytes)
    };
    let torrent = match (&options.torrent, &checkpoint.source.torrent) {
        (Some(path), _) => Some(torrent_at(path)?),
        // Where it was exported there may be none.
        (None, Some(path)) => torrent_at(path).ok(),
        (None, None) => None,
    };
    if let Some(path) = &options.torrent {
        checkpoint.source.torrent = Some(std::path::absolute(path)?);
    }
    if let Some(output) = &options.output {
        checkpoint.output = std::path::absolute(output)?;
    }
    Ok(Imported { checkpoint, torrent, doubtful: 0, notes: Vec::new() })
}

fn parse(bytes: &[u8]) -> Result<Arc<Metainfo>, LoadError> {
    TorrentSource::from(bytes.to_vec()).load()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    // Looked at before it is opened: opening a pipe would wait.
    if !metadata.is_file() || metadata.len() > LEN_MAX {
        return Err(io::Error::other("it is not a file, or too long for one of its kind"));
    }
    let mut bytes = Vec::new();
    // It may grow meanwhile.
    fs::File::open(path)?.take(LEN_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The torrent of a resume file: named, part of it, or beside it.
fn find_torrent(
    path: &Path,
    bytes: &[u8],
    options: &ImportOptions,
) -> Result<(Vec<u8>, Arc<Metainfo>), ImportError> {
    if let Some(path) = &options.torrent {
        let bytes = read(path)?;
        let metainfo = parse(&bytes)?;
        return Ok((bytes, metainfo));
    }
    // An old rtorrent keeps all in one file, and libtorrent the `info` of what came from a magnet link.
    if let Ok(metainfo) = parse(bytes) {
        return Ok((bytes.to_vec(), metainfo));
    }
    let mut first = None;
    for beside in torrents_beside(path, bytes) {
        let Ok(bytes) = read(&beside) else { continue };
        match parse(&bytes) {
            Ok(metainfo) => return Ok((bytes, metainfo)),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    Err(first.map_or(ImportError::NoTorrent, ImportError::Torrent))
}

fn torrents_beside(path: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut places = Vec::new();
    // rtorrent: HASH.torrent.libtorrent_resume; BT_backup: HASH.fastresume.
    let stem = path.with_extension("");
    if stem.extension().is_some_and(|ending| ending == "torrent") {
        places.push(stem);
    }
    places.push(path.with_extension("torrent"));
    let folder = path.parent().unwrap_or(Path::new("."));
    if let Some(hash) = foreign::info_hash(bytes) {
        places.push(folder.join(format!("{hash}.torrent")));
    }
    // Transmission: resume/X.resume and torrents/X.torrent.
    if let (Some(name), Some(above)) = (path.file_stem(), folder.parent()) {
        let mut name = name.to_owned();
        name.push(".torrent");
        places.push(above.join("torrents").join(name));
    }
    places
}

/// rtorrent's second file.
fn companion(path: &Path) -> Option<PathBuf> {
    let is_resume = path.extension()? == "libtorrent_resume";
    is_resume.then(|| path.with_extension("rtorrent"))
}

/// Clients mark files that are not complete in their names (`.part`, `.!qB`): then those are the files.
fn take_partial_names(foreign: &mut Foreign, metainfo: &Metainfo, output: &Path, notes: &mut Vec<String>) {
    let paths = foreign.paths(metainfo);
    let mut count = 0;
    for (index, path) in paths.into_iter().enumerate() {
        if metainfo.files[index].pad || output.join(&path).symlink_metadata().is_ok() {
            continue;
        }
        for ending in ["part", "!qB"] {
            let partial = path.with_added_extension(ending);
            if output.join(&partial).is_file() {
                let file = index as u32;
                foreign.renames.retain(|rename| rename.file != file);
                foreign.renames.push(Rename { file, path: partial });
                count += 1;
                break;
            }
        }
    }
    if count > 0 {
        notes.push(format!("{count} files have the other client's ending for incomplete ones and keep it"));
    }
}

pub(crate) fn mark(path: &Path) -> Option<Mark> {
    let metadata = path.symlink_metadata().ok().filter(Metadata::is_file)?;
    Some(Mark { len: metadata.len(), mtime_ns: time_ns(&metadata) })
}

fn time_ns(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;

//! Checks files on disk against a torrent: `ccbt-fast verify`, and re-checks without a running session.
//!
//! Owner: the caller's thread. Invariant: nothing is created or changed, and a piece counts as ok only when all its bytes
//! were read and hashed in this run. Missing, short, unreadable and foreign files are findings, not errors.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::metainfo::{FileEntry, Metainfo};

use super::{Faults, HashError, HashOptions, HashPlan, PlanFile, Progress, shown};

/// How to verify.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Threads and way of reading.
    pub hash: HashOptions,
    /// How far it is, and the way to cancel it.
    pub progress: Arc<Progress>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The folder is not there, or is no folder.
    #[error(
        "{} is not a folder that can be read ({source}); give the folder that holds \"{name}\"",
        shown(path)
    )]
    Root {
        /// The folder.
        path: PathBuf,
        /// The torrent's name, escaped.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// Cancelled, or no memory or threads.
    #[error(transparent)]
    Hash(#[from] HashError),
}

/// What became of one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceState {
    /// Its bytes have the promised hash.
    Ok,
    /// Its bytes are there and differ.
    Bad,
    /// Some of its bytes are not there or cannot be read.
    Missing,
}

/// What was found at one file's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileState {
    /// There, of the right length, and all its pieces are ok. For a symbolic link (BEP 47): there is a link.
    Complete,
    /// There and of the right length, but some of its pieces are not ok. At its edges the cause may be a neighbour that
    /// shares the piece (BEP 3 pieces span files).
    Damaged,
    /// Longer or shorter than it should be.
    WrongSize {
        /// Its length in bytes.
        found: u64,
    },
    /// Nothing is there.
    Missing,
    /// It cannot be read, for the reason given, or is no regular file.
    Unreadable(String),
}

/// One stored file of the torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// Its position in [`Metainfo::files`]; padding has no report.
    pub index: usize,
    /// Where it was looked for.
    pub path: PathBuf,
    /// Length it should have, in bytes.
    pub len: u64,
    /// What was found.
    pub state: FileState,
    /// Pieces with bytes of this file.
    pub pieces: u32,
    /// How many of them are not ok.
    pub pieces_not_ok: u32,
}

/// The outcome of [`verify`].
#[derive(Clone, Debug)]
pub struct VerifyReport {
    /// State of each piece, in order.
    pub pieces: Vec<PieceState>,
    /// The pieces that are ok.
    pub bitfield: Bitfield,
    /// All stored files in torrent order.
    pub files: Vec<FileReport>,
}

impl VerifyReport {
    /// Whether every piece is ok and every file is as it should be, the empty ones included.
    pub fn is_complete(&self) -> bool {
        self.bitfield.is_full() && self.files.iter().all(|file| file.state == FileState::Complete)
    }

    /// Pieces in `state`.
    pub fn count(&self, state: PieceState) -> u32 {
        self.pieces.iter().filter(|piece| **piece == state).count() as u32
    }
}

/// Hashes what lies in the folder `root`, to which all paths of `metainfo` are relative, and compares.
pub fn verify(
    metainfo: &Metainfo,
    root: &Path,
    options: &VerifyOptions,
) -> Result<VerifyReport, VerifyError> {
    let no_root =
        |source| VerifyError::Root { path: root.to_owned(), name: shown(Path::new(&metainfo.name)), source };
    std::fs::read_dir(root).map_err(no_root)?;

    let mut found: Vec<Found> = metainfo.files.iter().map(|entry| Found::look(entry, root)).collect();
    let files = metainfo.files.iter().zip(&found).map(|(entry, found)| plan_file(entry, found)).collect();
    let plan =
        HashPlan::new(files, metainfo.geometry.piece_len()).expect("a metainfo's sizes are consistent");
    assert_eq!(plan.geometry(), metainfo.geometry, "the files of a metainfo tile it");

    let hashes = plan.run(options.hash, Faults::Skip, &options.progress)?;
    for (index, fault) in hashes.faults {
        found[index].state = match fault.kind() {
            // Deleted since it was looked at.
            io::ErrorKind::NotFound => FoundState::Missing,
            _ => FoundState::Unreadable(fault.to_string()),
        };
    }
    let mut bitfield = Bitfield::empty(metainfo.geometry.piece_count());
    let mut pieces = Vec::with_capacity(hashes.pieces.len());
    for (piece, hash) in metainfo.geometry.pieces().zip(hashes.pieces) {
        let state = match hash {
            Some(hash) if hash == metainfo.piece_hash(piece) => PieceState::Ok,
            Some(_) => PieceState::Bad,
            None => PieceState::Missing,
        };
        if state == PieceState::Ok {
            bitfield.insert(piece);
        }
        pieces.push(state);
    }
    let files = metainfo.files.iter().zip(found).enumerate().filter(|(_, (entry, _))| !entry.pad);
    let files =
        files.map(|(index, (entry, found))| report(metainfo, &bitfield, index, entry, found)).collect();
    Ok(VerifyReport { pieces, bitfield, files })
}

/// What a look at a file's path brought.
struct Found {
    path: PathBuf,
    state: FoundState,
}

enum FoundState {
    /// A regular file of this many bytes, or the symbolic link that was wanted (then 0).
    There(u64),
    Missing,
    Unreadable(String),
}

impl Found {
    fn look(entry: &FileEntry, root: &Path) -> Self {
        if entry.pad {
            return Self { path: PathBuf::new(), state: FoundState::There(entry.len) };
        }
        let mut path = root.to_owned();
        path.extend(&entry.path);
        let looked = if entry.symlink.is_some() { path.symlink_metadata() } else { path.metadata() };
        let is_right_kind = |metadata: &Metadata| match entry.symlink {
            Some(_) => metadata.is_symlink(),
            None => metadata.is_file(),
        };
        let state = match looked {
            Ok(metadata) if !is_right_kind(&metadata) => {
                let wanted = if entry.symlink.is_some() { "symbolic link" } else { "regular file" };
                FoundState::Unreadable(format!("it is not a {wanted}; move it away"))
            }
            Ok(_) if entry.symlink.is_some() => FoundState::There(0),
            Ok(metadata) => FoundState::There(metadata.len()),
            // A file where a folder should be: then nothing is below it.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                FoundState::Missing
            }
            Err(error) => FoundState::Unreadable(error.to_string()),
        };
        Self { path, state }
    }
}

fn plan_file(entry: &FileEntry, found: &Found) -> PlanFile {
    if entry.pad {
        return PlanFile::padding(entry.len);
    }
    let present = match found.state {
        FoundState::There(len) => len.min(entry.len),
        FoundState::Missing | FoundState::Unreadable(_) => 0,
    };
    PlanFile { present, ..PlanFile::stored(found.path.clone(), entry.len) }
}

fn report(
    metainfo: &Metainfo,
    bitfield: &Bitfield,
    index: usize,
    entry: &FileEntry,
    found: Found,
) -> FileReport {
    let range = metainfo.geometry.pieces_of_range(entry.offset, entry.len);
    let pieces = range.len() as u32;
    let pieces_not_ok = range.filter(|&piece| !bitfield.has(PieceIndex(piece))).count() as u32;
    let state = match found.state {
        FoundState::Missing => FileState::Missing,
        FoundState::Unreadable(reason) => FileState::Unreadable(reason),
        FoundState::There(found) if found != entry.len => FileState::WrongSize { found },
        FoundState::There(_) if pieces_not_ok > 0 => FileState::Damaged,
        FoundState::There(_) => FileState::Complete,
    };
    FileReport { index, path: found.path, len: entry.len, state, pieces, pieces_not_ok }
}

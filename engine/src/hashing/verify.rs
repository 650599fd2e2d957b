//! Checks files on disk against a torrent: `ccbt-fast verify`, and re-checks without a running session.
//!
//! Owner: the caller's thread. Invariant: nothing is created or changed (but for the resume file, if one is
//! asked for), and a piece counts as ok only when all its bytes were read and hashed in this run, or in an
//! earlier one that left a resume file and its files have not changed since. Missing, short, unreadable and
//! foreign files are findings, not errors.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::metainfo::{FileEntry, Metainfo};
use ccbt_storage::layout::{LayoutError, LayoutSpec};

pub use super::resume::ResumeError;
use super::resume::Stamp;
use super::run::{Batch, Fault, Tuning};
use super::verdicts::{Keeper, Verdicts, now_s};
use super::{Faults, HashError, HashOptions, HashPlan, PlanFile, Progress, shown};

/// Time between two versions of the resume file: what is lost when the machine stops.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

/// How to verify.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Threads and way of reading.
    pub hash: HashOptions,
    /// How far it is, and the way to cancel it.
    pub progress: Arc<Progress>,
    /// Where to keep what was found out, to go on from there when the run is cancelled or dies. Removed when
    /// it ends by itself.
    pub resume: Option<PathBuf>,
    /// Told what the user should know: that a resume file was of no use, or cannot be written.
    pub notify: Option<fn(&str)>,
}

/// A torrent and where its files are.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The torrent.
    pub metainfo: &'a Metainfo,
    /// The folder to which all its paths are relative.
    pub root: &'a Path,
    /// Files that lie elsewhere below it than the torrent says, as (index in [`Metainfo::files`], path).
    pub renames: &'a [(u32, PathBuf)],
}

impl Target<'_> {
    /// Checks that the other paths stay in the folder and do not get in each other's way.
    fn layout(&self) -> Result<(), LayoutError> {
        LayoutSpec::from_metainfo(self.root.to_owned(), self.metainfo)?.with_renames(self.renames).map(drop)
    }
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
    /// There is no place for the resume file.
    #[error("cannot use the resume file {}: {source}", shown(path))]
    Resume {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: ResumeError,
    },
    /// Other paths of files cannot be used.
    #[error(transparent)]
    Layout(#[from] LayoutError),
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
    /// There and of the right length, but some of its pieces are not ok. At its edges the cause may be a
    /// neighbour that shares the piece (BEP 3 pieces span files).
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
    let mut reports = verify_all(&[Target { metainfo, root, renames: &[] }], options)?;
    Ok(reports.pop().expect("a report for each target"))
}

/// [`verify`] for several torrents at once: those on a rotating device one after the other in a single
/// sequential stream, all others side by side. Returns a report for each, in order.
pub fn verify_all(targets: &[Target<'_>], options: &VerifyOptions) -> Result<Vec<VerifyReport>, VerifyError> {
    for target @ Target { metainfo, root, renames } in targets {
        if !renames.is_empty() {
            target.layout()?;
        }
        let no_root = |source| VerifyError::Root {
            path: (*root).to_owned(),
            name: shown(Path::new(&metainfo.name)),
            source,
        };
        std::fs::read_dir(root).map_err(no_root)?;
    }
    // Before the look, so that what is written after it is never taken for older.
    let looked = now_s();
    let mut found: Vec<Vec<Found>> = targets.iter().map(look).collect();
    let plans: Vec<HashPlan> =
        targets.iter().zip(&found).map(|(target, found)| plan(target, found)).collect();
    let verdicts = Verdicts::new(targets);
    let keeper = match &options.resume {
        None => None,
        Some(path) => {
            let stamps = found.iter().map(|found| found.iter().map(|found| found.stamp).collect()).collect();
            let keeper = Keeper::open(path, targets, (looked, stamps), &verdicts, options.notify)
                .map_err(|source| VerifyError::Resume { path: path.clone(), source })?;
            options.progress.start_at(verdicts.bytes_known(targets));
            Some(keeper)
        }
    };
    let batch = Batch {
        plans: &plans,
        options: options.hash,
        faults: Faults::Skip,
        progress: &options.progress,
        is_wanted: &|torrent, piece| verdicts.get(torrent, piece).is_none(),
        report: &|torrent, piece, hash| {
            let state = match hash {
                Some(hash) if hash == targets[torrent].metainfo.piece_hash(PieceIndex(piece)) => {
                    PieceState::Ok
                }
                Some(_) => PieceState::Bad,
                None => PieceState::Missing,
            };
            verdicts.set(torrent, piece, state);
        },
        tuning: Tuning::default(),
    };
    let faults = match &keeper {
        None => batch.run(),
        Some(keeper) => keeper.watch(&verdicts, SAVE_INTERVAL, || batch.run()),
    };
    for Fault { plan, file, error } in faults? {
        found[plan][file].state = match error.kind() {
            // Deleted since it was looked at.
            io::ErrorKind::NotFound => FoundState::Missing,
            _ => FoundState::Unreadable(error.to_string()),
        };
    }
    let reports = targets.iter().zip(found).enumerate();
    Ok(reports.map(|(index, (target, found))| report(target.metainfo, verdicts.all(index), found)).collect())
}

fn look(target: &Target<'_>) -> Vec<Found> {
    let look = |(index, entry): (usize, &FileEntry)| {
        let renamed = target.renames.iter().find(|(file, _)| *file as usize == index);
        let path = match renamed {
            Some((_, path)) => target.root.join(path),
            None => target.root.join(entry.path.iter().collect::<PathBuf>()),
        };
        Found::look(entry, path)
    };
    target.metainfo.files.iter().enumerate().map(look).collect()
}

fn plan(target: &Target<'_>, found: &[Found]) -> HashPlan {
    let metainfo = target.metainfo;
    let files = metainfo.files.iter().zip(found).map(|(entry, found)| plan_file(entry, found)).collect();
    let plan =
        HashPlan::new(files, metainfo.geometry.piece_len()).expect("a metainfo's sizes are consistent");
    assert_eq!(plan.geometry(), metainfo.geometry, "the files of a metainfo tile it");
    plan
}

fn report(metainfo: &Metainfo, pieces: Vec<PieceState>, found: Vec<Found>) -> VerifyReport {
    let mut bitfield = Bitfield::empty(metainfo.geometry.piece_count());
    for (piece, state) in metainfo.geometry.pieces().zip(&pieces) {
        if *state == PieceState::Ok {
            bitfield.insert(piece);
        }
    }
    let files = metainfo.files.iter().zip(found).enumerate().filter(|(_, (entry, _))| !entry.pad);
    let files =
        files.map(|(index, (entry, found))| file_report(metainfo, &bitfield, index, entry, found)).collect();
    VerifyReport { pieces, bitfield, files }
}

/// What a look at a file's path brought.
struct Found {
    path: PathBuf,
    state: FoundState,
    /// How the file looked, if anything was there.
    stamp: Option<Stamp>,
}

enum FoundState {
    /// A regular file of this many bytes, or the symbolic link that was wanted (then 0).
    There(u64),
    Missing,
    Unreadable(String),
}

impl Found {
    fn look(entry: &FileEntry, path: PathBuf) -> Self {
        if entry.pad {
            return Self { path: PathBuf::new(), state: FoundState::There(entry.len), stamp: None };
        }
        let looked = if entry.symlink.is_some() { path.symlink_metadata() } else { path.metadata() };
        let is_right_kind = |metadata: &Metadata| match entry.symlink {
            Some(_) => metadata.is_symlink(),
            None => metadata.is_file(),
        };
        let stamp = looked.as_ref().ok().map(Stamp::of);
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
        Self { path, state, stamp }
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

fn file_report(
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

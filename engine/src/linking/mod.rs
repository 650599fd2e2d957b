//! Files of other folders taken over for a torrent (`--link-from`): cross-seeding without a second download or copy.
//!
//! Role: finds files that are the torrent's by length and piece hashes, whatever they are called, and gives them its
//! names by sharing blocks, by a hard link or by a copy. Owner: the caller's thread; the torrent must not run.
//!
//! Invariants: what is at the torrent's places already is not touched; the found files are only read; a file is taken
//! only if every piece that lies wholly in it (with the padding around it) has the right hash, and a file without such
//! a piece only if a piece that it shares with its neighbours has. A hard link is made only for a file of which every
//! byte was verified, since the engine must never have a reason to write to it; and if one comes up later, the storage
//! thread refuses and the file gets a copy of its own first.
//!
//! The order of things: [`walk`] the folders → [`choose`] a candidate for each file, reading little → hash all chosen
//! ones at full speed, as `verify` does → [`place`] them. Called by the command line before `download` and `seed`.

mod choose;
mod place;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::metainfo::Metainfo;
use ccbt_shards::messages::{Known, Snapshot};
use ccbt_storage::error::StorageError;
use ccbt_storage::layout::{LayoutError, LayoutSpec};
use ccbt_storage::relocate::{MoveProgress, RelocateError};

use crate::hashing::{Faults, HashError, HashOptions, HashPlan, PlanFile, Progress, shown};

use choose::{Chooser, Slot};
use place::Placer;

/// How often another candidate is tried for files that turn out to differ in the middle.
const ROUNDS_MAX: usize = 4;

/// How a found file gets the torrent's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LinkMode {
    /// Sharing blocks (FICLONE) where the file system can, else a hard link.
    #[default]
    Auto,
    /// Sharing blocks only.
    Reflink,
    /// A hard link only.
    HardLink,
    /// Sharing blocks, else a copy.
    Copy,
}

/// How a file came to the torrent's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It shares blocks with the found one; either may change without the other.
    Reflinked,
    /// It is the found file, under one more name.
    HardLinked,
    /// It is a copy.
    Copied,
}

/// Where to look, and how.
#[derive(Clone, Debug, Default)]
pub struct LinkOptions {
    /// Folders that are searched, with everything below but for symbolic links.
    pub folders: Vec<PathBuf>,
    /// How found files get their new names.
    pub mode: LinkMode,
    /// Threads and way of reading.
    pub hash: HashOptions,
    /// How far hashing is, and the way to cancel it and what comes behind it.
    pub progress: Arc<Progress>,
    /// Bytes copied, and the way to cancel a copy in the middle of a file.
    pub copying: Arc<MoveProgress>,
}

/// What became of a file of the torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Something has its name already; it was left alone.
    AlreadyThere,
    /// It has no bytes, and was made.
    Created,
    /// It is there now.
    Linked {
        /// The found file.
        from: PathBuf,
        /// How.
        how: How,
    },
    /// No file of its length was found.
    NotFound,
    /// So many files of its length were found, and none has the right content.
    Differs(usize),
    /// A file was found that cannot be taken.
    Refused {
        /// The found file.
        from: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
}

/// What [`link`] did.
#[derive(Clone, Debug)]
pub struct LinkReport {
    /// Every stored file of the torrent, as (index in [`Metainfo::files`], outcome).
    pub files: Vec<(usize, Outcome)>,
    /// Pieces whose bytes are at their places and were verified in this run.
    pub verified: Bitfield,
    spec: Arc<LayoutSpec>,
    /// Folders that could not be searched, and other things worth a line.
    pub notes: Vec<String>,
}

impl LinkReport {
    /// What need not be hashed again when the torrent is added, for [`crate::AddOptions::known`]. Looks at the files.
    pub fn known(&self) -> Known {
        let (have, looked) = (self.verified.clone(), self.verified.clone());
        let (durable, partial, spec) = (have.clone(), Vec::new(), Arc::clone(&self.spec));
        Snapshot { durable, have, looked, partial, spec, checked: true }.known()
    }

    /// Number of files that were linked or copied, and their bytes.
    pub fn linked(&self, metainfo: &Metainfo) -> (usize, u64) {
        let linked = self.files.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Linked { .. }));
        linked.fold((0, 0), |(count, bytes), (index, _)| (count + 1, bytes + metainfo.files[*index].len))
    }
}

/// Why nothing, or not all, was linked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A folder that should be searched cannot be read.
    #[error("cannot search {}: {source}", shown(path))]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The torrent's paths are impossible.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Hashing was cancelled or could not start.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The torrent's own folder cannot be used.
    #[error(transparent)]
    Output(#[from] StorageError),
    /// A copy failed.
    #[error(transparent)]
    Copy(#[from] RelocateError),
}

/// Looks for the files of `metainfo` in the folders of `options`, and gives what it finds its place below `output`,
/// where files may have other paths (`renames`, as in [`crate::AddOptions::renames`]).
pub fn link(
    metainfo: &Metainfo,
    output: &Path,
    renames: &[(u32, PathBuf)],
    options: &LinkOptions,
) -> Result<LinkReport, LinkError> {
    let spec = LayoutSpec::from_metainfo(output.to_owned(), metainfo)?.with_renames(renames)?;
    let placer = Placer::new(&spec, options)?;
    let mut notes = Vec::new();
    let mut slots = placer.look()?;
    let wanted = |slot: &Slot| matches!(slot, Slot::Wanted(_));
    if slots.iter().any(wanted) {
        let found = walk::find(&options.folders, metainfo, &slots, &mut notes, &options.progress)?;
        let mut chooser = Chooser::new(metainfo, &spec, slots);
        chooser.offer(found);
        chooser.narrow(&options.progress)?;
        slots = chooser.into_slots();
    }
    let good = hash_chosen(metainfo, &spec, &mut slots, options)?;
    let mut verified = good.clone();
    let mut files = Vec::new();
    for (index, slot) in slots.iter().enumerate() {
        if options.progress.is_cancelled() {
            return Err(HashError::Cancelled.into());
        }
        let outcome = match slot {
            Slot::Nothing => continue,
            Slot::There { .. } => Outcome::AlreadyThere,
            Slot::Empty => placer.create_empty(index)?,
            Slot::Wanted(wanted) => match wanted.candidates.first() {
                Some(chosen) => {
                    let whole = pieces_of(metainfo, index).all(|piece| good.has(piece));
                    placer.place(index, chosen, whole)?
                }
                None if wanted.offered == 0 => Outcome::NotFound,
                None => Outcome::Differs(wanted.offered),
            },
        };
        if !matches!(outcome, Outcome::AlreadyThere | Outcome::Created | Outcome::Linked { .. }) {
            for piece in pieces_of(metainfo, index) {
                verified.remove(piece);
            }
        }
        files.push((index, outcome));
    }
    placer.sync()?;
    Ok(LinkReport { files, verified, spec: Arc::new(spec.clone()), notes })
}

/// Pieces with bytes of file `index`.
fn pieces_of(metainfo: &Metainfo, index: usize) -> impl Iterator<Item = PieceIndex> + use<> {
    let file = &metainfo.files[index];
    metainfo.geometry.pieces_of_range(file.offset, file.len).map(PieceIndex)
}

/// Pieces that lie wholly in file `index` and the padding around it.
fn own_pieces(metainfo: &Metainfo, index: usize) -> impl Iterator<Item = PieceIndex> + use<> {
    let files = &metainfo.files;
    let pads = |file: &&ccbt_protocol::metainfo::FileEntry| file.pad || file.len == 0;
    let before: u64 = files[..index].iter().rev().take_while(pads).map(|file| file.len).sum();
    let behind: u64 = files[index + 1..].iter().take_while(pads).map(|file| file.len).sum();
    let file = &files[index];
    let (start, end) = (file.offset - before, file.offset + file.len + behind);
    let geometry = metainfo.geometry;
    let is_inside = move |piece: &PieceIndex| {
        let first = geometry.piece_start(*piece);
        first >= start && first + u64::from(geometry.piece_size(*piece)) <= end
    };
    pieces_of(metainfo, index).filter(is_inside)
}

/// Hashes everything that is there or was chosen; the pieces that are good. Candidates that turn out to differ are
/// taken out, and the next ones tried.
fn hash_chosen(
    metainfo: &Metainfo,
    spec: &LayoutSpec,
    slots: &mut [Slot],
    options: &LinkOptions,
) -> Result<Bitfield, LinkError> {
    let mut good = Bitfield::empty(metainfo.geometry.piece_count());
    for round in 1..=ROUNDS_MAX {
        let chosen = |slot: &Slot| matches!(slot, Slot::Wanted(wanted) if !wanted.candidates.is_empty());
        if !slots.iter().any(chosen) {
            // What is there already is the session's to check.
            return Ok(Bitfield::empty(metainfo.geometry.piece_count()));
        }
        let file = |(index, slot): (usize, &Slot)| slot.plan_file(metainfo, spec, index);
        let files = slots.iter().enumerate().map(file).collect();
        let plan =
            HashPlan::new(files, metainfo.geometry.piece_len()).expect("a metainfo's sizes are consistent");
        let hashes = plan.run(options.hash, Faults::Skip, &options.progress)?;
        good = Bitfield::empty(metainfo.geometry.piece_count());
        for (piece, hash) in metainfo.geometry.pieces().zip(hashes.pieces) {
            if hash == Some(metainfo.piece_hash(piece)) {
                good.insert(piece);
            }
        }
        if !drop_refuted(metainfo, slots, &good, round == ROUNDS_MAX) {
            break;
        }
    }
    Ok(good)
}

/// Takes candidates out that `good` refutes, and in the `last` round those that nobody would look at any more; whether
/// there were any.
fn drop_refuted(metainfo: &Metainfo, slots: &mut [Slot], good: &Bitfield, last: bool) -> bool {
    let mut any = false;
    for (index, slot) in slots.iter_mut().enumerate() {
        let Slot::Wanted(wanted) = slot else { continue };
        if wanted.candidates.is_empty() {
            continue;
        }
        let mut own = own_pieces(metainfo, index).peekable();
        let holds = match own.peek() {
            Some(_) => own.all(|piece| good.has(piece)),
            None => pieces_of(metainfo, index).any(|piece| good.has(piece)),
        };
        if !holds {
            let gone = if last { wanted.candidates.len() } else { 1 };
            wanted.candidates.drain(..gone);
            any = true;
        }
    }
    any
}

/// Padding, or a file that is read from `path` if there is one.
fn plan_file(path: Option<PathBuf>, len: u64, pad: bool) -> PlanFile {
    match path {
        _ if pad => PlanFile::padding(len),
        Some(path) => PlanFile::stored(path, len),
        None => PlanFile { present: 0, ..PlanFile::stored(PathBuf::new(), len) },
    }
}

#[cfg(test)]
mod tests;

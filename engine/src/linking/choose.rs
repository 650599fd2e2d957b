//! Which of several files of the right length it is.
//!
//! Role: reads as little as tells candidates apart: a few pieces of a long file, and the pieces that short files share.
//! Invariant: bounded reading, whatever the folders hold; what is left over is decided by hashing everything.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::metainfo::Metainfo;
use ccbt_storage::hash::Sha1;
use ccbt_storage::layout::LayoutSpec;
use ccbt_storage::relocate::Identity;

use super::walk::Found;
use super::{LinkError, own_pieces, pieces_of, plan_file};
use crate::hashing::{HashError, PlanFile, Progress};

/// Candidates of one file that are looked into, the likeliest ones.
const CANDIDATES_MAX: usize = 64;
/// Pieces of a long file that are read to tell candidates apart.
const SAMPLES: usize = 3;
/// Combinations of candidates that are tried for a piece that several files share.
const COMBINATIONS_MAX: usize = 1024;
/// Bytes read at a time.
const BUFFER: usize = 256 * 1024;

/// A found file of the right length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub path: PathBuf,
    /// What it was when it was found.
    pub identity: Identity,
}

/// A file that is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// What may be it, the likeliest first.
    pub candidates: Vec<Candidate>,
    /// Files of its length that were found.
    pub offered: usize,
}

/// What is known of a place of the torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Padding, or a symbolic link: never stored here.
    Nothing,
    /// A file of so many bytes is there.
    There { len: u64 },
    /// A file without bytes, which is not there.
    Empty,
    /// A file that is not there.
    Wanted(Wanted),
}

impl Slot {
    /// Where the file can be read whole.
    fn paths(&self, spec: &LayoutSpec, index: usize) -> Vec<PathBuf> {
        match self {
            Self::There { len } if *len >= spec.files()[index].len => vec![spec.file_path(index as u32)],
            Self::Wanted(wanted) => wanted.candidates.iter().map(|found| found.path.clone()).collect(),
            _ => Vec::new(),
        }
    }

    /// What is hashed in its place: what is there, or the first candidate.
    pub fn plan_file(&self, metainfo: &Metainfo, spec: &LayoutSpec, index: usize) -> PlanFile {
        let file = &metainfo.files[index];
        plan_file(self.paths(spec, index).into_iter().next(), file.len, file.pad)
    }
}

pub(super) struct Chooser<'a> {
    metainfo: &'a Metainfo,
    spec: &'a LayoutSpec,
    slots: Vec<Slot>,
    /// Shared pieces whose combinations were tried in vain.
    undecided: HashSet<PieceIndex>,
}

impl<'a> Chooser<'a> {
    pub fn new(metainfo: &'a Metainfo, spec: &'a LayoutSpec, slots: Vec<Slot>) -> Self {
        Self { metainfo, spec, slots, undecided: HashSet::new() }
    }

    pub fn into_slots(self) -> Vec<Slot> {
        self.slots
    }

    /// Gives every wanted file its candidates, those with the most alike paths first.
    pub fn offer(&mut self, found: Found) {
        for (file, slot) in self.metainfo.files.iter().zip(&mut self.slots) {
            let Slot::Wanted(wanted) = slot else { continue };
            let mut same = found.get(&file.len).cloned().unwrap_or_default();
            wanted.offered = same.len();
            same.sort_by_cached_key(|found| {
                (std::cmp::Reverse(alike(&found.path, &file.path)), found.path.clone())
            });
            same.truncate(CANDIDATES_MAX);
            wanted.candidates = same;
        }
    }

    /// Takes out what cannot be it.
    pub fn narrow(&mut self, progress: &Progress) -> Result<(), LinkError> {
        let all = 0..self.slots.len();
        for index in all.clone() {
            stop_if_cancelled(progress)?;
            self.take_samples(index);
        }
        for index in all {
            stop_if_cancelled(progress)?;
            self.combine(index);
        }
        Ok(())
    }

    fn candidates(&mut self, index: usize) -> Option<&mut Vec<Candidate>> {
        match &mut self.slots[index] {
            Slot::Wanted(wanted) if !wanted.candidates.is_empty() => Some(&mut wanted.candidates),
            _ => None,
        }
    }

    /// Reads some pieces of each candidate of a long file, or all of a short one when there are several.
    fn take_samples(&mut self, index: usize) {
        let own: Vec<PieceIndex> = own_pieces(self.metainfo, index).collect();
        let spread = |nth: usize| own[nth * (own.len() - 1) / (SAMPLES - 1)];
        let mut samples: Vec<PieceIndex> =
            if own.is_empty() { Vec::new() } else { (0..SAMPLES).map(spread).collect() };
        samples.dedup();
        let Some(candidates) = self.candidates(index) else { return };
        let mut left = std::mem::take(candidates);
        if samples.is_empty() && left.len() > 1 {
            // Copies of one file are one candidate.
            let mut contents = HashSet::new();
            left.retain(|found| digest_of(&found.path).is_some_and(|digest| contents.insert(digest)));
        } else {
            let is_good = |path: &Path, piece: PieceIndex| {
                self.hash(piece, |file| (file == index).then_some(path))
                    == Some(self.metainfo.piece_hash(piece))
            };
            left.retain(|found| samples.iter().all(|piece| is_good(&found.path, *piece)));
        }
        if let Slot::Wanted(wanted) = &mut self.slots[index] {
            wanted.candidates = left;
        }
    }

    /// Decides between several candidates of a file by the pieces it shares with its neighbours.
    fn combine(&mut self, index: usize) {
        let ends = [pieces_of(self.metainfo, index).next(), pieces_of(self.metainfo, index).last()];
        let own: Vec<PieceIndex> = own_pieces(self.metainfo, index).collect();
        for piece in ends.into_iter().flatten().filter(|piece| own.binary_search(piece).is_err()) {
            if self.candidates(index).is_none_or(|candidates| candidates.len() < 2) {
                return;
            }
            if !self.undecided.contains(&piece) && !self.combine_in(piece) {
                self.undecided.insert(piece);
            }
        }
    }

    /// Tries the candidates of all files in `piece` together, and puts those of the first combination that has the hash
    /// first; whether there is one. Of a short file nothing else can be it.
    fn combine_in(&mut self, piece: PieceIndex) -> bool {
        let (start, len) = (self.spec.piece_start(piece), self.spec.piece_size(piece));
        let mut files: Vec<(usize, Vec<PathBuf>)> = Vec::new();
        for extent in self.spec.extents(start, len) {
            let index = extent.file as usize;
            if self.spec.files()[index].pad {
                continue;
            }
            let paths = self.slots[index].paths(self.spec, index);
            if paths.is_empty() {
                // Somebody is missing: nothing can be said.
                return false;
            }
            files.push((index, paths));
        }
        let mut choice = vec![0; files.len()];
        for _ in 0..COMBINATIONS_MAX {
            let path = |file: usize| {
                let at = files.iter().position(|(index, _)| *index == file)?;
                Some(files[at].1[choice[at]].as_path())
            };
            if self.hash(piece, path) == Some(self.metainfo.piece_hash(piece)) {
                for ((index, _), nth) in files.iter().zip(choice) {
                    let is_short = own_pieces(self.metainfo, *index).next().is_none();
                    let Some(candidates) = self.candidates(*index) else { continue };
                    candidates[..=nth].rotate_right(1);
                    if is_short {
                        candidates.truncate(1);
                    }
                }
                return true;
            }
            // The next one, as an odometer counts.
            let Some(wheel) = (0..files.len()).rev().find(|&at| choice[at] + 1 < files[at].1.len()) else {
                return false;
            };
            choice[wheel] += 1;
            choice[wheel + 1..].fill(0);
        }
        false
    }

    /// SHA-1 of `piece` with each file read from where `path` says; `None` when something cannot be read.
    fn hash<'p>(&self, piece: PieceIndex, path: impl Fn(usize) -> Option<&'p Path>) -> Option<[u8; 20]> {
        let mut hasher = Sha1::new();
        let mut buffer = vec![0; BUFFER];
        for extent in self.spec.extents(self.spec.piece_start(piece), self.spec.piece_size(piece)) {
            let index = extent.file as usize;
            if self.spec.files()[index].pad {
                buffer.fill(0);
                for from in (0..extent.len as usize).step_by(BUFFER) {
                    hasher.update(&buffer[..BUFFER.min(extent.len as usize - from)]);
                }
                continue;
            }
            let file = open_regular(path(index)?)?;
            for from in (0..extent.len).step_by(BUFFER) {
                let bytes = &mut buffer[..BUFFER.min((extent.len - from) as usize)];
                file.read_exact_at(bytes, extent.offset + u64::from(from)).ok()?;
                hasher.update(bytes);
            }
        }
        Some(hasher.finalize())
    }
}

/// Opens a regular file, and neither a link nor anything that would wait.
pub(super) fn open_regular(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits() as i32).open(path).ok()?;
    file.metadata().is_ok_and(|metadata| metadata.is_file()).then_some(file)
}

fn digest_of(path: &Path) -> Option<[u8; 20]> {
    let file = open_regular(path)?;
    let mut hasher = Sha1::new();
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Some(hasher.finalize()),
            Ok(got) => {
                hasher.update(&buffer[..got]);
                at += got as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// How many names at the end of two paths are the same.
fn alike(found: &Path, wanted: &[String]) -> usize {
    let ends = found.iter().rev().zip(wanted.iter().rev());
    ends.take_while(|(one, other)| *one == OsStr::new(other.as_str())).count()
}

fn stop_if_cancelled(progress: &Progress) -> Result<(), HashError> {
    if progress.is_cancelled() { Err(HashError::Cancelled) } else { Ok(()) }
}

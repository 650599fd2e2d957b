//! The search for files of the right lengths.
//!
//! Invariant: bounded in entries and depth, symbolic links are neither followed nor taken, and nothing is opened.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use ccbt_protocol::metainfo::Metainfo;
use ccbt_storage::relocate::{Identity, TEMPORARY};

use super::choose::{Candidate, Slot};
use super::{LinkError, shown};
use crate::hashing::{HashError, Progress};

/// Entries of all folders together that are looked at.
const ENTRIES_MAX: usize = 2_000_000;
/// Folders below each other that are looked at.
const DEPTH_MAX: usize = 64;
/// Files of one length that are remembered.
const SAME_LEN_MAX: usize = 4096;
/// Folders that could not be read and are named; the rest is counted.
const NAMED_MAX: usize = 8;

/// Files by their length.
pub(super) type Found = HashMap<u64, Vec<Candidate>>;

struct Walk<'a> {
    found: Found,
    entries: usize,
    unreadable: usize,
    too_deep: usize,
    notes: &'a mut Vec<String>,
    progress: &'a Progress,
}

/// Files below `folders` as long as a file that `slots` want.
pub(super) fn find(
    folders: &[PathBuf],
    metainfo: &Metainfo,
    slots: &[Slot],
    notes: &mut Vec<String>,
    progress: &Progress,
) -> Result<Found, LinkError> {
    let wanted = metainfo.files.iter().zip(slots).filter(|(_, slot)| matches!(slot, Slot::Wanted(_)));
    let found = wanted.map(|(file, _)| (file.len, Vec::new())).collect();
    let mut walk = Walk { found, entries: 0, unreadable: 0, too_deep: 0, notes, progress };
    for folder in folders {
        walk.all_below(folder)?;
    }
    if walk.unreadable > NAMED_MAX {
        walk.notes.push(format!("{} more folders cannot be read", walk.unreadable - NAMED_MAX));
    }
    if walk.too_deep > 0 {
        let many = walk.too_deep;
        walk.notes.push(format!("{many} folders more than {DEPTH_MAX} levels down were not searched"));
    }
    Ok(walk.found)
}

impl Walk<'_> {
    /// The folder itself may be reached through a link: that is the user's choice.
    fn all_below(&mut self, top: &Path) -> Result<(), LinkError> {
        let failed = |source| LinkError::Folder { path: top.to_owned(), source };
        let mut waiting = vec![(top.to_owned(), 0)];
        // An error at the top is one of the user's; below it is a note.
        fs::read_dir(top).map_err(failed)?;
        while let Some((folder, depth)) = waiting.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) => {
                    self.unreadable(&folder, &error);
                    continue;
                }
            };
            for entry in entries {
                if self.progress.is_cancelled() {
                    return Err(HashError::Cancelled.into());
                }
                self.entries += 1;
                if self.entries > ENTRIES_MAX {
                    let note = format!("only the first {ENTRIES_MAX} entries of the folders were looked at");
                    self.notes.push(note);
                    return Ok(());
                }
                let Ok(entry) = entry else { continue };
                let Ok(kind) = entry.file_type() else { continue };
                if kind.is_dir() && depth < DEPTH_MAX {
                    waiting.push((entry.path(), depth + 1));
                } else if kind.is_dir() {
                    self.too_deep += 1;
                } else if kind.is_file() {
                    self.take(&entry);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, entry: &fs::DirEntry) {
        let Ok(metadata) = entry.metadata() else { return };
        let Some(same) = self.found.get_mut(&metadata.len()) else { return };
        let unfinished = entry.file_name().as_encoded_bytes().ends_with(TEMPORARY.as_bytes());
        let candidate = Candidate { path: entry.path(), identity: Identity::of(&metadata) };
        // Folders given twice or inside each other bring the same file again.
        let known = |other: &Candidate| {
            other.path == candidate.path || other.identity.is_same_file(&candidate.identity)
        };
        if metadata.is_file() && !unfinished && same.len() < SAME_LEN_MAX && !same.iter().any(known) {
            same.push(candidate);
        }
    }

    fn unreadable(&mut self, folder: &Path, error: &std::io::Error) {
        self.unreadable += 1;
        if self.unreadable <= NAMED_MAX {
            self.notes.push(format!("cannot search {}: {error}", shown(folder)));
        }
    }
}

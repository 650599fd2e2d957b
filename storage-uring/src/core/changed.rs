//! Files that another program cut, replaced or deleted while we wrote them.
//!
//! Role: the look at a file after its data was made durable, before that is told, and at all files of a torrent that has
//! rested. Owner: the storage thread.
//! Invariant: a sync that succeeds says that what was written since the torrent was opened is found under the
//! file's own path: writes to a deleted file succeed too, and a file that is cut and written further behind
//! has a hole. What was there before the torrent was opened is not known here.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use ccbt_protocol::ids::{PieceIndex, TorrentKey};

use super::Core;
use super::torrent::Torrent;
use crate::error::{ErrorKind, Op, StorageError};
use crate::files::{self, Access};

/// Files looked at by one command at most, spread over all of a torrent's: the thread does nothing else meanwhile, and
/// whoever replaces a folder replaces all that is in it.
const LOOKED_MAX: usize = 4096;

impl Core {
    /// Whether the torrent's files are those that were opened. What cannot be told is noticed by who reads or writes it.
    pub(super) fn look(&self, key: TorrentKey) -> Result<(), StorageError> {
        let torrent = &self.torrents[&key];
        let step = torrent.files.len().div_ceil(LOOKED_MAX).max(1);
        for file in (0..torrent.files.len()).step_by(step) {
            self.is_same(torrent, file as u32)?;
        }
        Ok(())
    }

    fn is_same(&self, torrent: &Torrent, file: u32) -> Result<(), StorageError> {
        let (spec, state) = (&torrent.spec, torrent.files[file as usize]);
        if state.inode == 0 || state.bare {
            return Ok(());
        }
        let (path, place) = (spec.file_path(file), &spec.files()[file as usize]);
        let failed = |kind| Err(StorageError::new(Op::Open, &path, kind));
        let opened = files::open(spec.root(), &place.path, Access { write: false, direct: false });
        match opened.and_then(|fd| files::look_at(fd.as_fd(), &path).map(|facts| (fd, facts))) {
            Ok((fd, facts)) => {
                let now = (facts.device, facts.inode);
                let is_other = now != (self.devices[usize::from(state.device)].number, state.inode);
                let full = torrent.full_len && !state.shared;
                if is_other && files::numbers_for_good(fd.as_fd()) {
                    return failed(ErrorKind::Missing);
                }
                if full && facts.len < place.len { failed(ErrorKind::ShortRead) } else { Ok(()) }
            }
            Err(error) => match error.kind() {
                ErrorKind::Missing | ErrorKind::NotAFile | ErrorKind::OutsideRoot => Err(error),
                _ => Ok(()),
            },
        }
    }

    /// A file's data is durable; tells so if it is still the file it was, with all that was written.
    pub(super) fn file_synced(&mut self, key: TorrentKey, file: u32) {
        let looked = self.handle_to_sync(key, file).and_then(|fd| self.still_whole(key, file, &fd));
        let Err(error) = looked else { return self.sync_part_ended(key, None) };
        // The next operation finds what is under the path now.
        self.handles.close_file(key, file);
        let torrent = self.torrents.get_mut(&key).expect("a sync holds its torrent");
        torrent.dirty.insert(file);
        self.sync_part_ended(key, Some(error));
    }

    fn still_whole(&self, key: TorrentKey, file: u32, fd: &Rc<OwnedFd>) -> Result<(), StorageError> {
        let torrent = &self.torrents[&key];
        let path = torrent.spec.file_path(file);
        let failed = |kind| Err(StorageError::new(Op::Sync, &path, kind));
        let facts = files::content(fd.as_fd(), &path)?;
        if !files::is_at(fd.as_fd(), torrent.spec.root(), &torrent.spec.files()[file as usize].path) {
            return failed(ErrorKind::Missing);
        }
        let runs = written_runs(torrent, file);
        let written: u64 = runs.iter().map(|run| run.end - run.start).sum();
        if runs.last().is_some_and(|run| facts.len < run.end) {
            return failed(ErrorKind::ShortRead);
        }
        // Counting is cheap; looking for the holes is only worth it when something does not add up.
        let holes = facts.allocated < written && files::keeps_zeros(fd.as_fd());
        match holes && runs.iter().any(|run| files::has_hole(fd.as_fd(), run)) {
            true => failed(ErrorKind::ShortRead),
            false => Ok(()),
        }
    }
}

/// The ranges of a file that were written since the torrent was opened, in order, neighbours joined.
fn written_runs(torrent: &Torrent, file: u32) -> Vec<std::ops::Range<u64>> {
    let spec = &torrent.spec;
    let (start, len) = (spec.file_start(file), spec.files()[file as usize].len);
    let piece_len = u64::from(spec.piece_len());
    let pieces = (start / piece_len) as u32..(start + len).div_ceil(piece_len) as u32;
    let mut runs: Vec<std::ops::Range<u64>> = Vec::new();
    for piece in pieces.map(PieceIndex).filter(|piece| torrent.written.has(*piece)) {
        let first = spec.piece_start(piece);
        let end = (first + u64::from(spec.piece_size(piece))).min(start + len) - start;
        let first = first.saturating_sub(start);
        match runs.last_mut() {
            Some(run) if run.end == first => run.end = end,
            _ => runs.push(first..end),
        }
    }
    runs
}

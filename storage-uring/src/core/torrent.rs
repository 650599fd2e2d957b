//! What the storage thread knows of a torrent.
//!
//! Invariant: `epochs` has one entry more than there are syncs waiting: writes are counted in the epoch they
//! began in, and the sync at the front starts when the first epoch has none left.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::ids::PieceIndex;

use super::opening::Opening;
use crate::error::StorageError;
use crate::layout::LayoutSpec;
use crate::messages::{OpenMode, StorageCmd};

/// What is remembered of each file; small, since there may be a hundred thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FileState {
    /// Index of its device.
    pub(super) device: u16,
    /// What `O_DIRECT` asks of memory addresses; 0 = no `O_DIRECT`.
    pub(super) align: u16,
    /// Which file of the device it was when the torrent was opened; 0 = it was not there.
    pub(super) inode: u64,
    /// It has further hard links and is never written to.
    pub(super) shared: bool,
    /// It is made, and as long as it will be, only before the first write to it.
    pub(super) bare: bool,
}

impl FileState {
    pub(super) fn align(self) -> Option<u32> {
        (self.align > 0).then_some(u32::from(self.align))
    }
}

/// A sync that was asked for.
#[derive(Debug)]
pub(super) struct Sync {
    pub(super) client: usize,
    pub(super) started: bool,
    /// Files and folders not yet done.
    pub(super) left: usize,
    pub(super) error: Option<StorageError>,
}

#[derive(Debug)]
pub(super) struct Torrent {
    pub(super) spec: Arc<LayoutSpec>,
    pub(super) mode: OpenMode,
    pub(super) files: Vec<FileState>,
    /// Index of the device of its folder.
    pub(super) home: u16,
    /// Files were made as long as they will be: one that is shorter was cut by somebody else.
    pub(super) full_len: bool,
    /// Some files may be made later.
    pub(super) has_bare: bool,
    /// Keeps other processes from writing to its files.
    pub(super) lock: Option<Rc<OwnedFd>>,
    /// While it is being opened.
    pub(super) opening: Option<Box<Opening>>,
    /// The client that asked to close it.
    pub(super) closing: Option<usize>,
    /// Commands that came while it was opening or closing.
    pub(super) waiting: VecDeque<(usize, StorageCmd)>,
    /// Reads and writes under way.
    pub(super) requests: usize,
    epochs: VecDeque<u32>,
    first_epoch: u64,
    pub(super) syncs: VecDeque<Sync>,
    /// Files written since they were last synced.
    pub(super) dirty: BTreeSet<u32>,
    /// Folders with new entries, not yet synced.
    pub(super) new_folders: BTreeSet<PathBuf>,
    /// Pieces written since it was opened: what must be found in its files.
    pub(super) written: Bitfield,
}

impl Torrent {
    pub(super) fn new(spec: Arc<LayoutSpec>, mode: OpenMode, opening: Opening) -> Self {
        let pieces = spec.total_len().div_ceil(u64::from(spec.piece_len()));
        Self {
            written: Bitfield::empty(pieces as u32),
            files: Vec::with_capacity(spec.files().len()),
            spec,
            mode,
            home: 0,
            full_len: opening.gives_length(),
            has_bare: opening.makes_later(),
            lock: None,
            opening: Some(Box::new(opening)),
            closing: None,
            waiting: VecDeque::new(),
            requests: 0,
            epochs: VecDeque::from([0]),
            first_epoch: 0,
            syncs: VecDeque::new(),
            dirty: BTreeSet::new(),
            new_folders: BTreeSet::new(),
        }
    }

    /// A file that `piece` would be written to although it has further hard links.
    pub(super) fn shared_file_of(&self, piece: PieceIndex) -> Option<PathBuf> {
        let spec = &self.spec;
        let mut extents = spec.extents(spec.piece_start(piece), spec.piece_size(piece));
        let shared = extents.find(|extent| self.files[extent.file as usize].shared)?;
        Some(spec.file_path(shared.file))
    }

    /// Counts a write in; the epoch it belongs to.
    pub(super) fn write_began(&mut self) -> u64 {
        *self.epochs.back_mut().expect("never empty") += 1;
        self.first_epoch + self.epochs.len() as u64 - 1
    }

    pub(super) fn write_ended(&mut self, epoch: u64) {
        self.epochs[(epoch - self.first_epoch) as usize] -= 1;
    }

    pub(super) fn add_sync(&mut self, client: usize) {
        self.epochs.push_back(0);
        self.syncs.push_back(Sync { client, started: false, left: 0, error: None });
    }

    /// Whether all writes before the first sync have ended.
    pub(super) fn first_epoch_over(&self) -> bool {
        self.epochs[0] == 0
    }

    pub(super) fn end_sync(&mut self) -> Sync {
        self.epochs.pop_front();
        self.first_epoch += 1;
        self.syncs.pop_front().expect("a sync that ended")
    }
}

//! Giving found files the torrent's names.
//!
//! Invariant: a file gets its name only when it is whole (shared or copied under a temporary name first), never
//! replaces anything, and never lies outside the output folder or behind a symbolic link.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;

use ccbt_storage::error::{Op, StorageError};
use ccbt_storage::layout::LayoutSpec;
use ccbt_storage::relocate::{
    Identity, MoveProgress, Place, RelocateError, Root, Source, clone_into, copy_into, sync_folder,
};
use rustix::io::Errno;

use super::choose::{Candidate, Slot, Wanted, open_regular};
use super::{How, LinkError, LinkMode, LinkOptions, Outcome};

pub(super) struct Placer<'a> {
    spec: &'a LayoutSpec,
    mode: LinkMode,
    copying: &'a MoveProgress,
    root: Root,
    /// Folders with new entries.
    to_sync: RefCell<BTreeSet<PathBuf>>,
}

impl<'a> Placer<'a> {
    /// Opens the output folder, and makes it if it is not there.
    pub fn new(spec: &'a LayoutSpec, options: &'a LinkOptions) -> Result<Self, StorageError> {
        let mut made = Vec::new();
        let root = Root::create(spec.root(), &mut made)?;
        let above = made.iter().filter_map(|folder| folder.parent().map(PathBuf::from)).collect();
        let (mode, copying) = (options.mode, &*options.copying);
        Ok(Self { spec, mode, copying, root, to_sync: RefCell::new(above) })
    }

    /// What is at the torrent's places.
    pub fn look(&self) -> Result<Vec<Slot>, StorageError> {
        let look = |file: &ccbt_storage::layout::FileSpec| {
            if file.pad {
                return Ok(Slot::Nothing);
            }
            let found = self.root.place(&file.path)?.map(|place| place.look()).transpose()?.flatten();
            Ok(match found {
                Some(found) => Slot::There { len: found.len },
                None if file.len == 0 => Slot::Empty,
                None => Slot::Wanted(Wanted::default()),
            })
        };
        self.spec.files().iter().map(look).collect()
    }

    /// Makes a file without bytes.
    pub fn create_empty(&self, index: usize) -> Result<Outcome, StorageError> {
        self.make_place(index)?.create(self.spec.files()[index].executable)?;
        Ok(Outcome::Created)
    }

    /// Gives the found file its place. `whole`: every byte of it was verified.
    pub fn place(&self, index: usize, found: &Candidate, whole: bool) -> Result<Outcome, LinkError> {
        let refused =
            |reason: &str| Ok(Outcome::Refused { from: found.path.clone(), reason: reason.to_owned() });
        let Some(file) = open_regular(&found.path) else {
            return refused("it cannot be opened any more");
        };
        let now = file.metadata().map(|metadata| Identity::of(&metadata));
        if !now.is_ok_and(|now| now.is_unchanged(&found.identity)) {
            return refused("it changed while it was looked at; run this again when nothing writes to it");
        }
        let place = self.make_place(index)?;
        if self.mode != LinkMode::HardLink
            && let Some(how) = self.share_or_copy(&place, &file, found)?
        {
            return Ok(Outcome::Linked { from: found.path.clone(), how });
        }
        match self.mode {
            LinkMode::Reflink | LinkMode::Copy => {
                refused("the file systems cannot share blocks; --link-mode copy copies instead")
            }
            LinkMode::Auto | LinkMode::HardLink if !whole => refused(
                "a piece that it shares with a file that is missing could not be checked, and a hard link must \
                 never be written to; --link-mode copy copies instead",
            ),
            LinkMode::Auto | LinkMode::HardLink => self.hard_link(&place, &file, found),
        }
    }

    /// Shares blocks, or copies where that was asked for. `None`: blocks cannot be shared.
    fn share_or_copy(&self, place: &Place, file: &File, found: &Candidate) -> Result<Option<How>, LinkError> {
        let temporary = place.temporary()?;
        temporary.remove_if_there()?;
        let target = temporary.create(false)?;
        let source = Source { file, identity: &found.identity, path: &found.path };
        let fill = || -> Result<Option<How>, RelocateError> {
            let how = if clone_into(source, &target, temporary.path())? {
                How::Reflinked
            } else if self.mode == LinkMode::Copy {
                copy_into(source, &target, temporary.path(), self.copying)?;
                How::Copied
            } else {
                return Ok(None);
            };
            let failed =
                |errno: Errno| StorageError::from_errno(Op::Link, place.path(), errno.raw_os_error());
            temporary.rename(place, false).map_err(failed)?;
            Ok(Some(how))
        };
        let how = fill();
        if !matches!(how, Ok(Some(_))) {
            // The first error is the one worth telling.
            let _ = temporary.remove_if_there();
        }
        Ok(how?)
    }

    fn hard_link(&self, place: &Place, file: &File, found: &Candidate) -> Result<Outcome, LinkError> {
        let reason = match place.link(file) {
            Ok(()) => {
                // Whoever wrote it may not have synced it, and we call it verified.
                file.sync_all().map_err(|error| {
                    StorageError::from_errno(Op::Sync, &found.path, error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()))
                })?;
                let how = How::HardLinked;
                return Ok(Outcome::Linked { from: found.path.clone(), how });
            }
            Err(Errno::XDEV) => {
                "it is on another file system, which a hard link cannot reach; --link-mode copy copies instead"
                    .to_owned()
            }
            Err(Errno::PERM | Errno::OPNOTSUPP) => {
                "the file system allows no hard link, or it belongs to somebody else \
                 (fs.protected_hardlinks); --link-mode copy copies instead"
                    .to_owned()
            }
            Err(Errno::MLINK) => "it has as many hard links as the file system allows".to_owned(),
            Err(errno) => StorageError::from_errno(Op::Link, place.path(), errno.raw_os_error()).to_string(),
        };
        Ok(Outcome::Refused { from: found.path.clone(), reason })
    }

    fn make_place(&self, index: usize) -> Result<Place, StorageError> {
        let mut made = Vec::new();
        let place = self.root.make_place(&self.spec.files()[index].path, &mut made)?;
        let mut to_sync = self.to_sync.borrow_mut();
        to_sync.extend(made.iter().filter_map(|folder| folder.parent().map(PathBuf::from)));
        to_sync.extend(place.path().parent().map(PathBuf::from));
        Ok(place)
    }

    /// Makes the new names durable.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.to_sync.borrow().iter().try_for_each(|folder| sync_folder(folder))
    }
}

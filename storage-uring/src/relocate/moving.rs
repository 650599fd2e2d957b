//! Moving files from the places of one layout to those of another.
//!
//! Role: the order of steps that makes a move safe at every moment. Owner: one call of [`relocate`]. A file is
//!
//! 1. renamed, where one file system holds both places: it is at one of them at any moment; or
//! 2. copied under a temporary name, synced, and renamed to its own. Its source is removed at the very end, when every
//!    file and folder of the target is durable.
//!
//! What an earlier, interrupted move has done is found again by looking: a target without a source is done, a target
//! beside a source of the same content is a copy whose source is still to be removed, and a temporary file is one
//! that was not finished.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::fs::{fstatfs, fstatvfs, fsync};
use rustix::io::Errno;

use super::copying::{Source, copy_into, same_content};
use super::error::failed;
use super::places::{Identity, Place, Root, remove_folder, sync_folder};
use super::{Left, MoveProgress, RelocateError};
use crate::error::{ErrorKind, Op, StorageError};
use crate::layout::LayoutSpec;
use crate::links;

/// `f_type` of btrfs, whose subvolumes share blocks although their device numbers differ.
const BTRFS: i64 = 0x9123_683e;

/// What a move may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MoveOptions {
    /// Other files where the torrent's should go are replaced; they do not come back when the move fails later.
    /// Without it they make the move fail.
    pub overwrite: bool,
}

/// What a move did. Counts of files, and bytes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct MoveReport {
    /// Renamed.
    pub renamed: u64,
    /// Copied, or made to share blocks with their source, which is gone now.
    pub copied: u64,
    /// There already with the same content; the source is gone now.
    pub adopted: u64,
    /// At the new place already, and no longer at the old one.
    pub done_before: u64,
    /// At neither place.
    pub missing: u64,
    /// Bytes of the files of the first three kinds.
    pub bytes: u64,
    /// Sources that could not be removed. The move is complete all the same.
    pub left: Vec<Left>,
}

/// Something that was done and may have to be undone.
#[derive(Debug)]
enum Undo {
    /// A folder was made.
    Folder(PathBuf),
    /// The file of this number was renamed.
    Renamed(usize),
    /// The file of this number was made.
    Created(usize),
}

/// Moves the files of `from` to where `to` has them. Both must be layouts of the same torrent. See the module
/// [`super`] for what holds afterwards.
pub fn relocate(
    from: &LayoutSpec,
    to: &LayoutSpec,
    options: MoveOptions,
    progress: &MoveProgress,
) -> Result<MoveReport, RelocateError> {
    assert_eq!(from.files().len(), to.files().len(), "two layouts of one torrent");
    let Some(source) = Root::open(from.root())? else {
        return Err(StorageError::new(Op::Move, from.root(), ErrorKind::Missing).into());
    };
    let mut made = Vec::new();
    let target = Root::create(to.root(), &mut made);
    let to_sync = made.iter().filter_map(|folder| folder.parent()).map(Path::to_path_buf).collect();
    let undo: Vec<Undo> = made.into_iter().map(Undo::Folder).collect();
    let target = match target {
        Ok(target) => target,
        Err(error) => {
            undo_folders(&undo);
            return Err(error.into());
        }
    };
    let mut mover = Mover {
        from,
        to,
        source,
        target,
        options,
        progress,
        undo,
        to_sync,
        doomed: Vec::new(),
        report: MoveReport::default(),
    };
    match mover.place_all() {
        Ok(()) => Ok(mover.remove_sources()),
        Err(cause) => Err(mover.undo_all(cause)),
    }
}

struct Mover<'a> {
    from: &'a LayoutSpec,
    to: &'a LayoutSpec,
    source: Root,
    target: Root,
    options: MoveOptions,
    progress: &'a MoveProgress,
    undo: Vec<Undo>,
    /// Folders with new entries.
    to_sync: BTreeSet<PathBuf>,
    /// Files whose sources go in the end, and what they were.
    doomed: Vec<(usize, Identity)>,
    report: MoveReport,
}

impl Mover<'_> {
    fn old_path(&self, index: usize) -> &Path {
        &self.from.files()[index].path
    }

    fn new_path(&self, index: usize) -> &Path {
        &self.to.files()[index].path
    }

    /// Files that are on disk at all and whose path changes.
    fn indices(&self) -> Result<Vec<usize>, StorageError> {
        let same_root = self.source.identity()? == self.target.identity()?;
        let moves = |index: &usize| {
            let stays = same_root && self.old_path(*index) == self.new_path(*index);
            !self.from.files()[*index].pad && !stays
        };
        Ok((0..self.from.files().len()).filter(moves).collect())
    }

    /// Everything up to the moment when all files are durable at their new places.
    fn place_all(&mut self) -> Result<(), RelocateError> {
        let indices = self.indices()?;
        self.look_for_room(&indices)?;
        for index in indices {
            self.progress.check()?;
            self.place(index)?;
        }
        for folder in &self.to_sync {
            self.progress.check()?;
            sync_folder(folder)?;
        }
        for (index, identity) in &self.doomed {
            let now = self.source.place(self.old_path(*index))?.map(|place| place.look()).transpose()?;
            if now.flatten().is_none_or(|now| !now.is_unchanged(identity)) {
                return Err(RelocateError::Changed(self.from.file_path(*index as u32)));
            }
        }
        self.progress.check()
    }

    /// Sums up what is to be moved, and refuses when copies cannot fit.
    fn look_for_room(&self, indices: &[usize]) -> Result<(), RelocateError> {
        let (mut total, mut stored) = (0, 0);
        for &index in indices {
            let Some(place) = self.source.place(self.old_path(index))? else { continue };
            let Some(found) = place.look()? else { continue };
            total += found.len;
            let there = self.target.place(self.new_path(index))?.map(|place| place.look()).transpose()?;
            // What is there already is adopted, overwritten or in the way.
            stored += if there.flatten().is_none() { found.stored.min(found.len) } else { 0 };
        }
        self.progress.set_total(total);
        if self.source.identity()?.0 == self.target.identity()?.0 || self.shares_blocks() {
            return Ok(());
        }
        let room = fstatvfs(self.target.fd()).map_err(failed(Op::Move, self.target.path()))?;
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        if stored > free {
            let folder = self.target.path().to_owned();
            return Err(RelocateError::Space { folder, needed: stored, free });
        }
        Ok(())
    }

    /// Whether both roots may lie in one file system although their device numbers differ.
    fn shares_blocks(&self) -> bool {
        #[allow(clippy::unnecessary_cast)] // `f_type` has other widths on other targets.
        let is_btrfs = |root: &Root| fstatfs(root.fd()).is_ok_and(|stat| stat.f_type as i64 == BTRFS);
        is_btrfs(&self.source) && is_btrfs(&self.target)
    }

    /// Brings one file to its new place, or finds it there.
    fn place(&mut self, index: usize) -> Result<(), RelocateError> {
        let source = self.source.place(self.old_path(index))?;
        let found = source.as_ref().map(Place::look).transpose()?.flatten();
        let (Some(source), Some(found)) = (source, found) else {
            let there = self.target.place(self.new_path(index))?.map(|place| place.look()).transpose()?;
            match there.flatten() {
                Some(_) => self.report.done_before += 1,
                None => self.report.missing += 1,
            }
            return Ok(());
        };
        let target = self.make_target(index)?;
        match target.look()? {
            Some(there) if there.is_same_file(&found) => {
                if source.is_same_entry(&target)? {
                    // Two ways to one folder: it is where it should be.
                    self.report.done_before += 1;
                } else if found.links == 1 {
                    // One entry under two names (a file system that folds case): only the name changes.
                    self.rename(index, &source, &target, &found, true)?;
                } else {
                    self.adopt(index, &target, found)?;
                }
            }
            Some(there) if there.len == found.len && self.is_equal(&source, &found, &target, &there)? => {
                self.adopt(index, &target, found)?;
            }
            Some(_) if !self.options.overwrite => return Err(conflict(&target, &source)),
            Some(_) => self.bring(index, &source, &target, &found, true)?,
            None => self.bring(index, &source, &target, &found, false)?,
        }
        Ok(())
    }

    fn make_target(&mut self, index: usize) -> Result<Place, StorageError> {
        let mut made = Vec::new();
        let target = self.target.make_place(&self.to.files()[index].path, &mut made);
        for folder in made {
            self.to_sync.extend(folder.parent().map(Path::to_path_buf));
            self.undo.push(Undo::Folder(folder));
        }
        target
    }

    fn is_equal(
        &self,
        source: &Place,
        found: &Identity,
        target: &Place,
        there: &Identity,
    ) -> Result<bool, RelocateError> {
        let (left, right) = (source.open()?, target.open()?);
        let one = Source { file: &left, identity: found, path: source.path() };
        let other = Source { file: &right, identity: there, path: target.path() };
        same_content(one, other, self.progress)
    }

    /// What is at the target is the file.
    fn adopt(&mut self, index: usize, target: &Place, found: Identity) -> Result<(), RelocateError> {
        // Whoever wrote it may not have synced it.
        fsync(target.open()?).map_err(failed(Op::Sync, target.path()))?;
        self.note_entry(target);
        self.report.adopted += 1;
        self.report.bytes += found.len;
        self.progress.add(found.len);
        self.doomed.push((index, found));
        Ok(())
    }

    /// Renames the file or, across file systems, copies it.
    fn bring(
        &mut self,
        index: usize,
        source: &Place,
        target: &Place,
        found: &Identity,
        replace: bool,
    ) -> Result<(), RelocateError> {
        match self.rename(index, source, target, found, replace) {
            Err(RelocateError::Storage(error)) if error.errno() == Some(libc::EXDEV) => {
                self.copy(index, source, target, found, replace)
            }
            other => other,
        }
    }

    fn rename(
        &mut self,
        index: usize,
        source: &Place,
        target: &Place,
        found: &Identity,
        replace: bool,
    ) -> Result<(), RelocateError> {
        match source.rename(target, replace) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(conflict(target, source)),
            Err(errno) => return Err(failed(Op::Move, source.path())(errno).into()),
        }
        self.undo.push(Undo::Renamed(index));
        self.progress.step();
        self.note_entry(target);
        self.to_sync.extend(source.path().parent().map(Path::to_path_buf));
        self.report.renamed += 1;
        self.report.bytes += found.len;
        self.progress.add(found.len);
        Ok(())
    }

    fn copy(
        &mut self,
        index: usize,
        source: &Place,
        target: &Place,
        found: &Identity,
        replace: bool,
    ) -> Result<(), RelocateError> {
        let temporary = target.temporary()?;
        // What an interrupted move left.
        temporary.remove_if_there()?;
        let result = self.copy_to(source, &temporary, found).and_then(|()| {
            self.progress.step();
            temporary.rename(target, replace).map_err(|errno| match errno {
                Errno::EXIST => conflict(target, source),
                errno => failed(Op::Move, temporary.path())(errno).into(),
            })
        });
        if let Err(error) = result {
            // The first error is the one worth telling.
            let _ = temporary.remove_if_there();
            return Err(error);
        }
        self.undo.push(Undo::Created(index));
        self.progress.step();
        self.note_entry(target);
        self.report.copied += 1;
        self.report.bytes += found.len;
        self.doomed.push((index, *found));
        Ok(())
    }

    fn copy_to(&self, source: &Place, temporary: &Place, found: &Identity) -> Result<(), RelocateError> {
        let file = source.open()?;
        let copy = temporary.create(false)?;
        self.progress.step();
        let content = Source { file: &file, identity: found, path: source.path() };
        copy_into(content, &copy, temporary.path(), self.progress).map(drop)
    }

    fn note_entry(&mut self, target: &Place) {
        self.to_sync.extend(target.path().parent().map(Path::to_path_buf));
    }

    /// The point of no return is behind: from here on only what is superfluous goes.
    fn remove_sources(mut self) -> MoveReport {
        for (index, _) in std::mem::take(&mut self.doomed) {
            self.progress.step();
            let removed = match self.source.place(self.old_path(index)) {
                Ok(Some(place)) => place.remove_if_there().map(drop),
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = removed {
                let path = self.from.file_path(index as u32);
                self.report.left.push(Left { path, reason: error.to_string() });
            }
        }
        self.progress.step();
        // Those at the new place are made when the torrent is opened there.
        links::remove(self.from);
        let stored = self.from.files().iter().filter(|file| !file.pad || file.link.is_some());
        self.source.remove_empty_folders(stored.map(|file| file.path.as_path()));
        self.report
    }

    /// Takes back what was done, the last first. Gives the error that the move ends with.
    fn undo_all(mut self, cause: RelocateError) -> RelocateError {
        while let Some(step) = self.undo.pop() {
            if let Err(undo) = self.undo_one(&step) {
                return RelocateError::Split {
                    from: self.from.root().to_owned(),
                    to: self.to.root().to_owned(),
                    cause: Box::new(cause),
                    undo,
                };
            }
        }
        cause
    }

    fn undo_one(&self, step: &Undo) -> Result<(), StorageError> {
        let index = match step {
            Undo::Folder(path) => return remove_folder(path),
            Undo::Renamed(index) | Undo::Created(index) => *index,
        };
        let gone = |path: &Path| StorageError::new(Op::Move, path, ErrorKind::Missing);
        let new = self.target.place(self.new_path(index))?;
        let new = new.ok_or_else(|| gone(&self.to.file_path(index as u32)))?;
        match step {
            Undo::Renamed(_) => {
                let old = self.source.place(self.old_path(index))?;
                let old = old.ok_or_else(|| gone(&self.from.file_path(index as u32)))?;
                new.rename(&old, false).map_err(failed(Op::Move, new.path()))
            }
            _ => new.remove(),
        }
    }
}

fn conflict(target: &Place, source: &Place) -> RelocateError {
    RelocateError::Conflict { there: target.path().to_owned(), source_path: source.path().to_owned() }
}

fn undo_folders(made: &[Undo]) {
    for step in made.iter().rev() {
        if let Undo::Folder(path) = step
            && let Err(error) = remove_folder(path)
        {
            tracing::debug!(%error, "a folder that was made in vain stays");
        }
    }
}

//! Files with further hard links, before they are written to.
//!
//! A hard link makes two names of one file: writing through one changes the other, which may be another torrent's or
//! somebody's own. So the storage thread refuses to write to such a file ([`crate::error::ErrorKind::Shared`]), and here
//! it gets a copy of its own under the torrent's name.

use rustix::io::Errno;

use super::copying::{Source, copy_into};
use super::error::failed;
use super::places::{Place, Root, sync_folder};
use super::{MoveProgress, RelocateError};
use crate::error::Op;
use crate::layout::LayoutSpec;

/// Gives those of the files with these `indices` that have more than one name a copy of their own; how many had. The
/// other names keep the file as it is. After an error, files that were not copied are as they were.
pub fn unshare(spec: &LayoutSpec, indices: &[u32], progress: &MoveProgress) -> Result<usize, RelocateError> {
    let mut copied = 0;
    let Some(root) = Root::open(spec.root())? else { return Ok(0) };
    for &index in indices {
        let file = &spec.files()[index as usize];
        if file.pad {
            continue;
        }
        progress.check()?;
        let Some(place) = root.place(&file.path)? else { continue };
        if place.look()?.is_some_and(|found| found.links > 1) {
            copy_one(&place, progress)?;
            copied += 1;
        }
    }
    Ok(copied)
}

fn copy_one(place: &Place, progress: &MoveProgress) -> Result<(), RelocateError> {
    let temporary = place.temporary()?;
    temporary.remove_if_there()?;
    let result = copy_over(place, &temporary, progress);
    if result.is_err() {
        // The first error is the one worth telling.
        let _ = temporary.remove_if_there();
    }
    result
}

fn copy_over(place: &Place, temporary: &Place, progress: &MoveProgress) -> Result<(), RelocateError> {
    let gone = || RelocateError::Changed(place.path().to_owned());
    let found = place.look()?.ok_or_else(gone)?;
    let file = place.open()?;
    let copy = temporary.create(false)?;
    let source = Source { file: &file, identity: &found, path: place.path() };
    copy_into(source, &copy, temporary.path(), progress)?;
    if place.look()?.is_none_or(|now| !now.is_unchanged(&found)) {
        return Err(gone());
    }
    temporary.rename(place, true).map_err(|errno: Errno| failed(Op::Move, temporary.path())(errno))?;
    if let Some(folder) = place.path().parent() {
        sync_folder(folder)?;
    }
    Ok(())
}

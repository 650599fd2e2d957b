//! Removing a torrent's files.

use super::places::Root;
use super::{Left, RelocateError};
use crate::layout::LayoutSpec;
use crate::links;

/// What a removal did.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DeleteReport {
    /// Files removed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What stays, since it is no file of ours (a link, a folder) or cannot be removed.
    pub left: Vec<Left>,
}

/// Removes the files of `spec`, what unfinished moves left of them, and folders that are empty then. The root itself
/// and everything else stays; nothing is removed through a symbolic link. Errors: the root cannot be opened.
pub fn delete(spec: &LayoutSpec) -> Result<DeleteReport, RelocateError> {
    let mut report = DeleteReport::default();
    let Some(root) = Root::open(spec.root())? else { return Ok(report) };
    let stored = || spec.files().iter().filter(|file| !file.pad).map(|file| file.path.as_path());
    for path in stored() {
        let remove = || {
            let Some(place) = root.place(path)? else { return Ok(None) };
            place.temporary()?.remove_if_there()?;
            let found = place.look()?;
            if found.is_some() {
                place.remove()?;
            }
            Ok::<_, crate::error::StorageError>(found)
        };
        match remove() {
            Ok(Some(found)) => {
                report.files += 1;
                report.bytes += found.len;
            }
            Ok(None) => {}
            Err(error) => {
                report.left.push(Left { path: spec.root().join(path), reason: error.to_string() });
            }
        }
    }
    links::remove(spec);
    root.remove_empty_folders(
        spec.files().iter().filter(|file| !file.pad || file.link.is_some()).map(|file| file.path.as_path()),
    );
    Ok(report)
}

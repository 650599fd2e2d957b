//! Symbolic links of a torrent (BEP 47, attribute `l`).
//!
//! Called by the storage thread when a torrent is opened that may be written, and by who moves or removes its files.
//! Invariants: a link is relative and leads to a place below the root, whatever the torrent says; the folder that it
//! is made in is reached without following one; what lies in its place is left alone, also a link that leads elsewhere;
//! the engine itself reads and writes through none of them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, readlinkat, symlinkat, unlinkat};
use rustix::io::Errno;

use crate::error::{Op, StorageError};
use crate::files;
use crate::layout::{FileSpec, LayoutSpec};

/// What a link at `path` says to lead to `target`, both below the root.
fn text(path: &Path, target: &Path) -> PathBuf {
    let folder = path.parent().unwrap_or(Path::new(""));
    let shared = folder.components().zip(target.components()).take_while(|(one, other)| one == other).count();
    let up = folder.components().count() - shared;
    let rest = target.components().skip(shared);
    let text: PathBuf = std::iter::repeat_n(Component::ParentDir, up).chain(rest).collect();
    if text.as_os_str().is_empty() { PathBuf::from(".") } else { text }
}

/// Makes the link `file` if it is one and not there, and the folder that it lies in; what must be synced for that to last
/// is added to `made`. Gives a line when it cannot be made: the torrent's data is complete without it.
pub fn make(spec: &LayoutSpec, file: &FileSpec, made: &mut Vec<PathBuf>) -> Option<String> {
    let text = text(&file.path, file.link.as_deref()?);
    let reason = make_one(spec, &file.path, &text, made).err()?;
    let path = spec.root().join(&file.path);
    Some(format!("{}: the symbolic link is not made: {reason}", path.display()))
}

fn make_one(spec: &LayoutSpec, path: &Path, text: &Path, made: &mut Vec<PathBuf>) -> Result<(), String> {
    let place = place(spec, path, Some(made)).map_err(|error| error.to_string())?;
    let (folder, name) = place.ok_or("the output folder is gone")?;
    match symlinkat(text, &folder, name) {
        Ok(()) => made.extend(spec.root().join(path).parent().map(Path::to_path_buf)),
        Err(Errno::EXIST) if is_ours(&folder, name, text) => {}
        Err(Errno::EXIST) => return Err("something else is there, and is left alone".to_owned()),
        Err(errno) => return Err(errno.to_string()),
    }
    Ok(())
}

/// Removes the links that are as [`make`] makes them.
pub fn remove(spec: &LayoutSpec) {
    let link = |file: &'_ FileSpec| Some(text(&file.path, file.link.as_deref()?));
    for (file, text) in spec.files().iter().filter_map(|file| Some((file, link(file)?))) {
        if let Ok(Some((folder, name))) = place(spec, &file.path, None)
            && is_ours(&folder, name, &text)
        {
            // One that stays is a link into nothing: it does no harm.
            let _ = unlinkat(&folder, name, AtFlags::empty());
        }
    }
}

fn is_ours(folder: &OwnedFd, name: &Path, text: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    readlinkat(folder, name, Vec::new()).is_ok_and(|found| found.as_bytes() == text.as_os_str().as_bytes())
}

/// The folder of a link, made where `made` is given, and its name. `None`: it is not there.
fn place<'a>(
    spec: &LayoutSpec,
    path: &'a Path,
    made: Option<&mut Vec<PathBuf>>,
) -> Result<Option<(OwnedFd, &'a Path)>, StorageError> {
    let name = path.file_name().map(Path::new);
    let name = name.ok_or_else(|| StorageError::from_errno(Op::Open, path, libc::EINVAL))?;
    let root = files::open_root(spec.root(), false, &mut Vec::new())?;
    let Some(root) = root else { return Ok(None) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let creates = made.is_some();
    let mut unused = Vec::new();
    let folder = files::open_folder(root.as_fd(), spec.root(), folder, creates, made.unwrap_or(&mut unused))?;
    Ok(folder.map(|folder| (folder, name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn link(path: &str, target: &str) -> FileSpec {
        FileSpec { path: path.into(), link: Some(target.into()), pad: true, ..FileSpec::default() }
    }

    fn make(spec: &LayoutSpec, made: &mut Vec<PathBuf>) -> Vec<String> {
        spec.files().iter().filter_map(|file| super::make(spec, file, made)).collect()
    }

    fn spec(root: &Path, files: Vec<FileSpec>) -> LayoutSpec {
        let data = FileSpec { path: "t/data".into(), len: 1, ..FileSpec::default() };
        LayoutSpec::new(root.to_owned(), [vec![data], files].concat(), 16_384).unwrap()
    }

    #[test]
    fn what_links_say_leads_from_their_folder_to_the_target() {
        let says = |path: &str, target: &str| text(path.as_ref(), target.as_ref()).display().to_string();
        assert_eq!(says("t/link", "t/data"), "data");
        assert_eq!(says("t/a/b/link", "t/data"), "../../data");
        assert_eq!(says("t/a/link", "t/b/c"), "../b/c");
        assert_eq!(says("t/a/link", "t/a/b"), "b");
        assert_eq!(says("t/a/b/link", "t/a"), "..");
        assert_eq!(says("t/a/link", "t/a"), ".");
    }

    #[test]
    fn links_are_made_once_and_removed() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("t")).unwrap();
        std::fs::write(temp.path().join("t/data"), "x").unwrap();
        let spec = spec(temp.path(), vec![link("t/new/link", "t/data"), link("t/folder", "t/new")]);
        let mut made = Vec::new();
        assert_eq!(make(&spec, &mut made), [""; 0]);
        assert_eq!(std::fs::read(temp.path().join("t/folder/link")).unwrap(), b"x", "through both");
        assert!(made.contains(&temp.path().join("t/new")), "to be synced");
        made.clear();
        assert_eq!(make(&spec, &mut made), [""; 0], "they are there");
        assert!(made.is_empty());
        remove(&spec);
        assert!(temp.path().join("t/new/link").symlink_metadata().is_err());
        assert!(temp.path().join("t/data").exists());
    }

    #[test]
    fn what_is_in_the_way_stays_and_no_link_is_followed() {
        let (temp, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(temp.path().join("t")).unwrap();
        std::fs::write(temp.path().join("t/file"), "mine").unwrap();
        symlink("/etc/passwd", temp.path().join("t/other")).unwrap();
        symlink(outside.path(), temp.path().join("t/away")).unwrap();
        let links = vec![link("t/file", "t/data"), link("t/other", "t/data"), link("t/away/link", "t/data")];
        let spec = spec(temp.path(), links);
        let problems = make(&spec, &mut Vec::new());
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].contains("something else is there"), "{problems:?}");
        remove(&spec);
        assert_eq!(std::fs::read(temp.path().join("t/file")).unwrap(), b"mine");
        assert_eq!(std::fs::read_link(temp.path().join("t/other")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}

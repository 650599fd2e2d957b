//! Rules over a torrent's files as a whole: no two in one place, none in another's way, no link that leads in a circle.
//!
//! Padding files are left out, since they are never stored and share one path by custom (BEP 47).
//! Cost: one sort of the files; links are followed through a trie, so nothing is quadratic in what strangers send.

use super::error::PathProblem;
use super::{FileEntry, MAX_SYMLINKS, MetainfoError, escape_for_terminal, path};
use std::collections::HashMap;

/// Links followed in a row before a path counts as a circle; Linux's own bound.
const LINKS_FOLLOWED_MAX: usize = 40;

/// What padding files made by BitComet are called; they carry no attribute.
pub(super) const BITCOMET_PAD_PREFIX: &str = "_____padding_file_";

/// Whether BitComet's naming marks `path` as padding.
pub(super) fn is_bitcomet_pad(path: &[String]) -> bool {
    path.last().is_some_and(|name| name.starts_with(BITCOMET_PAD_PREFIX))
}

/// Gives files that became alike by sanitising a name of their own: all but the first of each get a tag made of
/// `identity(index)`, the raw path. Files whose raw paths are alike too stay so, and [`check`] refuses them.
pub(super) fn part_lookalikes(files: &mut [FileEntry], identity: impl Fn(usize) -> Vec<u8>) {
    let order = stored_in_path_order(files);
    let mut renamed: Vec<(usize, String)> = Vec::new();
    for run in order.chunk_by(|&a, &b| files[a].path == files[b].path).filter(|run| run.len() > 1) {
        let first = identity(run[0]);
        for &index in &run[1..] {
            let own = identity(index);
            let name = files[index].path.last().expect("paths are not empty");
            if own != first {
                renamed.push((index, path::with_tag(name, &own)));
            }
        }
    }
    for (index, name) in renamed {
        *files[index].path.last_mut().expect("paths are not empty") = name;
    }
}

/// Refuses files that cannot all exist in one folder, and links in circles.
pub(super) fn check(files: &[FileEntry]) -> Result<(), MetainfoError> {
    // In path order, whatever lies below a path follows it at once.
    for pair in stored_in_path_order(files).windows(2) {
        let (a, b) = (&files[pair[0]].path, &files[pair[1]].path);
        if a == b {
            return Err(MetainfoError::DuplicatePath(shown(a)));
        }
        if b.starts_with(a) {
            return Err(MetainfoError::FileAsFolder(shown(a)));
        }
    }
    check_links(files)
}

/// `path` for an error message.
pub(super) fn shown(path: &[String]) -> String {
    escape_for_terminal(&path.join("/")).into_owned()
}

/// Indices of the files that are stored, by path and then by index.
fn stored_in_path_order(files: &[FileEntry]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..files.len()).filter(|&index| !files[index].pad).collect();
    order.sort_by(|&a, &b| files[a].path.cmp(&files[b].path));
    order
}

/// The links of a torrent by their paths.
#[derive(Default)]
struct Links<'a> {
    /// Child of a trie node by component; node 0 is the output folder.
    children: HashMap<(usize, &'a str), usize>,
    /// Target of the link at each trie node.
    targets: Vec<Option<&'a [String]>>,
}

impl<'a> Links<'a> {
    fn insert(&mut self, path: &'a [String], target: &'a [String]) {
        let mut node = 0;
        for name in path {
            let fresh = self.targets.len();
            node = *self.children.entry((node, name)).or_insert(fresh);
            if node == fresh {
                self.targets.push(None);
            }
        }
        self.targets[node] = Some(target);
    }

    /// The first link on the way down `path`: how many components lead to it, and its target.
    fn first_on(&self, path: &[&'a str]) -> Option<(usize, &'a [String])> {
        let mut node = 0;
        for (depth, name) in path.iter().enumerate() {
            node = *self.children.get(&(node, *name))?;
            if let Some(target) = self.targets[node] {
                return Some((depth + 1, target));
            }
        }
        None
    }

    /// Where `target` is once no link is left in it; `None` when there is no end to them.
    fn resolve(&self, target: &'a [String]) -> Option<Vec<&'a str>> {
        let mut path: Vec<&str> = target.iter().map(String::as_str).collect();
        for _ in 0..LINKS_FOLLOWED_MAX {
            let Some((depth, next)) = self.first_on(&path) else {
                return Some(path);
            };
            path = next.iter().map(String::as_str).chain(path[depth..].iter().copied()).collect();
            if path.len() > super::MAX_PATH_DEPTH {
                return None;
            }
        }
        None
    }
}

/// Refuses links that end at themselves, at each other or at a folder they lie in. That they stay inside the output
/// folder is already sure: targets are sanitised like paths, so no component is `..`.
fn check_links(files: &[FileEntry]) -> Result<(), MetainfoError> {
    let stored = || {
        let links = files.iter().enumerate().filter(|(_, file)| !file.pad);
        links.filter_map(|(index, file)| Some((index, &file.path[..], file.symlink.as_deref()?)))
    };
    if stored().count() > MAX_SYMLINKS {
        return Err(MetainfoError::TooManySymlinks);
    }
    let mut links = Links { targets: vec![None], ..Links::default() };
    stored().for_each(|(_, path, target)| links.insert(path, target));
    for (index, path, target) in stored() {
        let goes_round = match links.resolve(target) {
            None => true,
            Some(end) => end.len() <= path.len() && end.iter().zip(path).all(|(a, b)| a == b),
        };
        if goes_round {
            let field = format!("info.files[{index}].symlink path");
            return Err(MetainfoError::Path { field, problem: PathProblem::SymlinkLoop });
        }
    }
    Ok(())
}

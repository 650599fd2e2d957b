//! Pieces as ranges of files, and which of their pages may go past the page cache.
//!
//! Role: pure arithmetic from torrent offsets to file offsets. Owner: whoever holds the `Arc<LayoutSpec>`;
//! nothing here changes after it was made. Invariant: the extents of a range tile it, in order, and a file
//! page that lies wholly inside one extent is the only kind that [`Extent::spans`] calls [`Class::Direct`],
//! so pages that two pieces share are written through the page cache and no page is written both ways. Called
//! by the session (to build one), shards (for the phase of buffers) and the storage thread.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::metainfo::Metainfo;

use crate::arena::PAGE;

/// Bytes of a page as file offsets count.
const PAGE_BYTES: u64 = PAGE as u64;

/// The files of a torrent in their order, and how they are cut into pieces (BEP 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutSpec {
    root: PathBuf,
    files: Vec<FileSpec>,
    /// First byte of each file within the torrent.
    starts: Vec<u64>,
    piece_len: u32,
    total_len: u64,
}

/// One file of a torrent.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FileSpec {
    /// Relative to the root; only normal parts.
    pub path: PathBuf,
    /// Length in bytes.
    pub len: u64,
    /// Padding (BEP 47): never on disk, reads as zeros.
    pub pad: bool,
    /// Executable (BEP 47 attribute `x`).
    pub executable: bool,
    /// A symbolic link to this path (BEP 47 attribute `l`), relative to the root; only normal parts. It is `pad`, too.
    pub link: Option<PathBuf>,
}

/// Why files make no layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A path is empty, absolute or climbs.
    #[error("the path {0:?} does not stay inside the download folder; the torrent cannot be stored")]
    Path(PathBuf),
    /// There is no such file, or it is padding.
    #[error("the torrent has no file with the number {0}; `info --json` lists them, the first is 0")]
    NoFile(u32),
    /// Two files would be in each other's way.
    #[error("the path {0:?} is taken by another file of the torrent, or leads through one; choose another")]
    Taken(PathBuf),
    /// Piece length 0, or lengths that add up to more than a file offset holds.
    #[error("the lengths of pieces or files are impossible; the torrent cannot be stored")]
    Sizes,
}

/// A contiguous piece of one file. Units: bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Index into [`LayoutSpec::files`].
    pub file: u32,
    /// First byte within the file.
    pub offset: u64,
    /// First byte within the buffer that holds the range.
    pub at: u32,
    /// Length, never 0.
    pub len: u32,
}

/// Which way a page goes to and from the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Past the page cache, by the `O_DIRECT` descriptor.
    Direct,
    /// Through the page cache: shared with another piece, a ragged end, or no `O_DIRECT` here.
    Seam,
}

impl LayoutSpec {
    /// A torrent of `files` in pieces of `piece_len` bytes, all below the folder `root`, which may itself be
    /// reached through symbolic links. Padding files need no path.
    pub fn new(root: PathBuf, files: Vec<FileSpec>, piece_len: u32) -> Result<Self, LayoutError> {
        if piece_len == 0 || u32::try_from(files.len()).is_err() {
            return Err(LayoutError::Sizes);
        }
        let mut starts = Vec::with_capacity(files.len());
        let mut total_len = 0u64;
        for file in &files {
            if (!file.pad || file.link.is_some()) && !stays_inside(&file.path) {
                return Err(LayoutError::Path(file.path.clone()));
            }
            if let Some(target) = file.link.as_ref().filter(|target| !stays_inside(target)) {
                return Err(LayoutError::Path(target.clone()));
            }
            starts.push(total_len);
            total_len = total_len.checked_add(file.len).ok_or(LayoutError::Sizes)?;
        }
        if i64::try_from(total_len).is_err() || total_len.div_ceil(u64::from(piece_len)) > u64::from(u32::MAX)
        {
            return Err(LayoutError::Sizes);
        }
        Ok(Self { root, files, starts, piece_len, total_len })
    }

    /// The layout of a torrent file below the output folder `root`. Its files keep their indices; symbolic
    /// links (BEP 47) have no bytes: they count as padding of length 0, and [`crate::links`] makes them.
    pub fn from_metainfo(root: PathBuf, metainfo: &Metainfo) -> Result<Self, LayoutError> {
        let files = metainfo.files.iter().map(|entry| FileSpec {
            path: entry.path.iter().collect(),
            len: entry.len,
            pad: entry.pad || entry.symlink.is_some(),
            executable: entry.executable,
            link: entry.symlink.as_ref().filter(|_| !entry.pad).map(|target| target.iter().collect()),
        });
        Self::new(root, files.collect(), metainfo.geometry.piece_len())
    }

    /// The same files below another folder.
    pub fn with_root(&self, root: PathBuf) -> Self {
        Self { root, ..self.clone() }
    }

    /// The same files, some of them at other paths below the root: (file index, path). Refuses paths that leave the
    /// root, that two files would share, and that lead through another file.
    pub fn with_renames(&self, renames: &[(u32, PathBuf)]) -> Result<Self, LayoutError> {
        let mut spec = self.clone();
        for (index, path) in renames {
            let file = spec.files.get_mut(*index as usize).filter(|file| !file.pad);
            let file = file.ok_or(LayoutError::NoFile(*index))?;
            if !stays_inside(path) || path.as_os_str().as_bytes().contains(&0) {
                return Err(LayoutError::Path(path.clone()));
            }
            // Written the same way as the others: without "." and doubled slashes.
            let old = std::mem::replace(&mut file.path, path.components().collect());
            let new = file.path.clone();
            let links = spec.files.iter_mut().filter_map(|file| file.link.as_mut());
            links.filter(|target| **target == old).for_each(|target| target.clone_from(&new));
        }
        if !renames.is_empty() {
            spec.refuse_collisions()?;
        }
        Ok(spec)
    }

    fn refuse_collisions(&self) -> Result<(), LayoutError> {
        let is_stored = |file: &&FileSpec| !file.pad || file.link.is_some();
        let stored = || self.files.iter().filter(is_stored).map(|file| file.path.as_path());
        let mut files = HashSet::with_capacity(self.files.len());
        if let Some(twice) = stored().find(|path| !files.insert(*path)) {
            return Err(LayoutError::Taken(twice.to_owned()));
        }
        let through = |path: &&Path| path.ancestors().skip(1).any(|folder| files.contains(folder));
        match stored().find(through) {
            Some(path) => Err(LayoutError::Taken(path.to_owned())),
            None => Ok(()),
        }
    }

    /// Folder all paths are relative to.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The files, in torrent order.
    pub fn files(&self) -> &[FileSpec] {
        &self.files
    }

    /// Bytes in every piece but the last.
    pub fn piece_len(&self) -> u32 {
        self.piece_len
    }

    /// Bytes of all files together, padding included.
    pub fn total_len(&self) -> u64 {
        self.total_len
    }

    /// First byte of `piece` within the torrent.
    pub fn piece_start(&self, piece: PieceIndex) -> u64 {
        u64::from(piece.0) * u64::from(self.piece_len)
    }

    /// Bytes in `piece`; 0 when there is no such piece.
    pub fn piece_size(&self, piece: PieceIndex) -> u32 {
        let left = self.total_len.saturating_sub(self.piece_start(piece));
        left.min(u64::from(self.piece_len)) as u32
    }

    /// First byte of file `index` within the torrent.
    pub fn file_start(&self, index: u32) -> u64 {
        self.starts[index as usize]
    }

    /// Where file `index` is.
    pub fn file_path(&self, index: u32) -> PathBuf {
        self.root.join(&self.files[index as usize].path)
    }

    /// Where in a page the buffer of `piece` starts ([`crate::arena::Partition::alloc`]).
    pub fn phase(&self, piece: PieceIndex) -> u32 {
        self.phase_at(self.piece_start(piece))
    }

    /// Where in a page a buffer for a read from byte `start` of the torrent starts: the file offset of that
    /// byte, modulo the page. 0 past the end.
    pub fn phase_at(&self, start: u64) -> u32 {
        self.file_at(start).map_or(0, |file| ((start - self.starts[file]) % PAGE_BYTES) as u32)
    }

    /// The file that holds byte `start`; `None` past the end.
    fn file_at(&self, start: u64) -> Option<usize> {
        if start >= self.total_len {
            return None;
        }
        // Of several files that start here all but the last are empty.
        Some(self.starts.partition_point(|&first| first <= start) - 1)
    }

    /// The bytes `start..start + len` of the torrent as extents of files, padding included, in order. Bytes
    /// past the end of the torrent are left out.
    pub fn extents(&self, start: u64, len: u32) -> impl Iterator<Item = Extent> + '_ {
        let end = start.saturating_add(u64::from(len)).min(self.total_len);
        let mut file = self.file_at(start).unwrap_or(self.files.len());
        let mut position = start;
        std::iter::from_fn(move || {
            while position < end {
                let offset = position - self.starts[file];
                let here = (self.files[file].len - offset).min(end - position);
                let extent =
                    Extent { file: file as u32, offset, at: (position - start) as u32, len: here as u32 };
                position += here;
                file += 1;
                if here > 0 {
                    return Some(extent);
                }
            }
            None
        })
    }
}

impl Extent {
    /// The extent cut by page class: at most a ragged head, whole pages and a ragged tail. `phase` is the
    /// address of the buffer's first byte modulo the page, `align` what `O_DIRECT` asks of memory addresses
    /// (a power of two, at most a page), or `None` when the file has no `O_DIRECT`.
    pub fn spans(self, phase: u32, align: Option<u32>) -> impl Iterator<Item = (Class, Extent)> {
        let end = self.offset + u64::from(self.len);
        let first = self.offset.next_multiple_of(PAGE_BYTES);
        let last = end - end % PAGE_BYTES;
        let (first, last) = match align {
            Some(align) if first < last && self.address(phase, first).is_multiple_of(align.into()) => {
                (first, last)
            }
            _ => (end, end),
        };
        let cuts =
            [(Class::Seam, self.offset, first), (Class::Direct, first, last), (Class::Seam, last, end)];
        cuts.into_iter().filter(|(_, from, to)| from < to).map(move |(class, from, to)| {
            let at = self.at + (from - self.offset) as u32;
            (class, Extent { file: self.file, offset: from, at, len: (to - from) as u32 })
        })
    }

    /// Address of the byte at `offset` of the file, counted from the page in which the buffer starts.
    fn address(&self, phase: u32, offset: u64) -> u64 {
        u64::from(phase) + u64::from(self.at) + (offset - self.offset)
    }
}

fn stays_inside(path: &Path) -> bool {
    let mut parts = path.components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests;

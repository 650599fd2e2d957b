//! Files that are made only when a piece is written to them.
//!
//! Role: files nobody wants are not there, but a piece that a wanted file shares with one is verified and served as a
//! whole, so its other bytes have to be somewhere: in the file that they belong to, which is made sparse for them. Owner:
//! the storage thread. Invariant: a file that is `bare` has not been written to since the torrent was opened.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use ccbt_protocol::ids::{PieceIndex, TorrentKey};

use super::opening::{Target, folder_of};
use super::torrent::FileState;
use super::{Core, may_write};
use crate::error::{ErrorKind, Op, StorageError};
use crate::files::{self, Access};

impl Core {
    /// Makes those files that `piece` lies in and that are still bare.
    pub(super) fn make_files_of(&mut self, key: TorrentKey, piece: PieceIndex) -> Result<(), StorageError> {
        let torrent = &self.torrents[&key];
        if !torrent.has_bare || !may_write(torrent.mode) {
            return Ok(());
        }
        let spec = &torrent.spec;
        let extents = spec.extents(spec.piece_start(piece), spec.piece_size(piece));
        let bare: Vec<u32> =
            extents.map(|extent| extent.file).filter(|file| torrent.files[*file as usize].bare).collect();
        bare.into_iter().try_for_each(|file| self.make_file(key, file))
    }

    fn make_file(&mut self, key: TorrentKey, file: u32) -> Result<(), StorageError> {
        let torrent = &self.torrents[&key];
        let (spec, full_len) = (Arc::clone(&torrent.spec), torrent.full_len);
        let target = Target::new(&spec, file, true, false);
        let missing = || StorageError::new(Op::Open, &target.full, ErrorKind::Missing);
        let mut new_folders: Vec<PathBuf> = Vec::new();
        // Never made here: a disk that was unmounted is not written beneath.
        let root = files::open_root(spec.root(), false, &mut Vec::new())?.ok_or_else(missing)?;
        let path = folder_of(&spec.files()[file as usize].path);
        let folder = files::open_folder(root.as_fd(), spec.root(), path, true, &mut new_folders)?;
        let folder = folder.ok_or_else(missing)?;
        let access = Access { write: true, direct: false };
        let fd = match files::look(folder.as_fd(), &target.name, &target.full)? {
            // Its other name keeps it: the write is refused, and comes again when it has a copy of its own.
            Some(facts) if facts.shared => None,
            Some(_) => Some(
                self.handles
                    .retrying(|| files::open_in(folder.as_fd(), &target.name, &target.full, access))?,
            ),
            None => {
                new_folders.extend(target.full.parent().map(PathBuf::from));
                Some(self.handles.retrying(|| {
                    files::create(folder.as_fd(), &target.name, target.executable, &target.full)
                })?)
            }
        };
        let facts = files::look(folder.as_fd(), &target.name, &target.full)?.ok_or_else(missing)?;
        if let Some(fd) = &fd
            && full_len
            && facts.len < target.len
        {
            files::set_len(fd.as_fd(), target.len, &target.full)?;
        }
        let device = self.device(facts.device, || files::in_memory(folder.as_fd()));
        let align = self.alignment(device, facts, folder.as_fd(), &target);
        let torrent = self.torrents.get_mut(&key).expect("an open torrent");
        torrent.new_folders.extend(new_folders);
        // One that was looked at when the torrent was opened has to be still the same.
        let known = torrent.files[file as usize].inode;
        let inode = if known == 0 { facts.inode } else { known };
        torrent.files[file as usize] =
            FileState { device, align, inode, shared: facts.shared, bare: fd.is_none() };
        Ok(())
    }
}

//! Syncs and closes: commands that wait for those before them.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use ccbt_protocol::ids::TorrentKey;

use super::{Core, Task, may_write};
use crate::error::{ErrorKind, Op, StorageError};
use crate::files::{self, Access};
use crate::messages::StorageDone;

impl Core {
    /// Starts the first sync of a torrent if its time has come, or closes the torrent if nothing is left.
    pub(super) fn progress(&mut self, key: TorrentKey) {
        loop {
            let torrent = self.torrents.get_mut(&key).expect("a torrent that goes on");
            let over = torrent.first_epoch_over();
            match torrent.syncs.front() {
                Some(sync) if sync.started || !over => return,
                Some(_) => {}
                None => {
                    if let Some(client) = torrent.closing
                        && torrent.requests == 0
                    {
                        self.ports.answer(client, StorageDone::Closed { torrent: key });
                        self.forget(key);
                    }
                    return;
                }
            }
            self.start_sync(key);
            if self.torrents[&key].syncs[0].left > 0 {
                return;
            }
            self.finish_sync(key);
        }
    }

    fn start_sync(&mut self, key: TorrentKey) {
        let torrent = self.torrents.get_mut(&key).expect("a torrent that goes on");
        let files = std::mem::take(&mut torrent.dirty);
        let folders = std::mem::take(&mut torrent.new_folders);
        let sync = &mut torrent.syncs[0];
        sync.started = true;
        sync.left = files.len() + folders.len();
        let home = usize::from(torrent.home);
        for file in files {
            let device = usize::from(torrent.files[file as usize].device);
            self.devices[device].queue.push_task(Task::SyncFile { torrent: key, file });
        }
        for path in folders {
            self.devices[home].queue.push_task(Task::SyncFolder { torrent: key, path });
        }
    }

    fn finish_sync(&mut self, key: TorrentKey) {
        let sync = self.torrents.get_mut(&key).expect("a torrent that goes on").end_sync();
        let result = sync.error.map_or(Ok(()), Err);
        self.ports.answer(sync.client, StorageDone::Synced { torrent: key, result });
    }

    pub(super) fn sync_part_ended(&mut self, key: TorrentKey, error: Option<StorageError>) {
        let torrent = self.torrents.get_mut(&key).expect("a sync holds its torrent");
        let sync = &mut torrent.syncs[0];
        sync.left -= 1;
        sync.error = sync.error.take().or(error);
        if sync.left == 0 {
            self.finish_sync(key);
            self.progress(key);
        }
    }

    /// A task that ends in an error. What was to be synced stays to be synced.
    pub(super) fn task_failed(&mut self, task: Task, error: StorageError) {
        match task {
            Task::Allocate { .. } => unreachable!("reservations have their own way to end"),
            Task::SyncFile { torrent, file } => {
                self.torrents.get_mut(&torrent).expect("a sync holds its torrent").dirty.insert(file);
                self.sync_part_ended(torrent, Some(error));
            }
            Task::SyncFolder { torrent, path } => {
                self.torrents.get_mut(&torrent).expect("a sync holds its torrent").new_folders.insert(path);
                self.sync_part_ended(torrent, Some(error));
            }
        }
    }

    /// Any descriptor of the file: syncing concerns the file, not the descriptor. Fails when somebody has removed or cut
    /// the file meanwhile: what was written to it is not there, however well a sync would go.
    pub(super) fn handle_to_sync(
        &mut self,
        torrent: TorrentKey,
        file: u32,
    ) -> Result<Rc<OwnedFd>, StorageError> {
        let fd = match self.handles.get((torrent, file, true)) {
            Some(fd) => fd,
            None => self.handle(torrent, file, false)?,
        };
        let torrent = &self.torrents[&torrent];
        // A file that others share was left as long as it was, and so is one that is not wanted.
        let state = torrent.files[file as usize];
        let full = torrent.full_len && !state.shared && !state.bare;
        let len = if full { torrent.spec.files()[file as usize].len } else { 0 };
        files::check_whole(fd.as_fd(), len, &torrent.spec.file_path(file))?;
        Ok(fd)
    }

    /// The descriptor of a file, opened if it is not. Fails when somebody has put another file in its place.
    pub(super) fn handle(
        &mut self,
        torrent: TorrentKey,
        file: u32,
        direct: bool,
    ) -> Result<Rc<OwnedFd>, StorageError> {
        let key = (torrent, file, direct);
        if let Some(fd) = self.handles.get(key) {
            return Ok(fd);
        }
        let torrent = &self.torrents[&torrent];
        let mixed = !direct && torrent.files[file as usize].align > 0;
        let access = Access { write: may_write(torrent.mode), direct };
        let path = &torrent.spec.files()[file as usize].path;
        let fd = self.handles.retrying(|| files::open(torrent.spec.root(), path, access))?;
        let known = torrent.files[file as usize].inode;
        let full = || torrent.spec.file_path(file);
        let is_other = known != 0 && files::look_at(fd.as_fd(), &full())?.inode != known;
        if is_other && files::numbers_for_good(fd.as_fd()) {
            // Its bytes were never looked at: to serve them would be to serve anything.
            return Err(StorageError::new(Op::Open, &full(), ErrorKind::Missing));
        }
        if mixed {
            files::no_read_ahead(&fd);
        }
        Ok(self.handles.insert(key, fd))
    }
}

//! One process writes to a torrent's files.
//!
//! The first file of a torrent that is open for writing is locked (`flock`) until the torrent is closed: the lock
//! sees processes of other users and containers, ends with the process, and leaves nothing behind. Readers are not
//! kept out, and torrents of one process may share files. A file system without locks, or more torrents than half
//! of the files that may be open, costs the protection only.

use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};

use ccbt_protocol::ids::TorrentKey;

use super::Core;
use super::opening::Target;
use crate::error::StorageError;
use crate::files::{self, Facts};

impl Core {
    /// Takes the torrent's lock with the file `target`, unless it has one.
    pub(super) fn lock(
        &mut self,
        key: TorrentKey,
        folder: BorrowedFd<'_>,
        target: &Target,
        facts: Facts,
    ) -> Result<(), StorageError> {
        if self.torrents[&key].lock.is_some() || target.len == 0 || facts.shared {
            return Ok(());
        }
        let place = (facts.device, facts.inode);
        self.locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = match self.locks.get(&place).and_then(Weak::upgrade) {
            Some(lock) => Some(lock),
            None if self.locks.len() >= self.locks_max => return Ok(()),
            None => files::lock(folder, &target.name, &target.full)?.map(Rc::new),
        };
        if let Some(lock) = &lock {
            self.locks.insert(place, Rc::downgrade(lock));
        }
        self.torrents.get_mut(&key).expect("being opened").lock = lock;
        Ok(())
    }
}

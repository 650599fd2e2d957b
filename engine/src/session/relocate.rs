//! What a session does with a torrent's files as such, and how it lets a torrent rest.
//!
//! Every call returns at once; what became of it comes as an event. The torrent goes on meanwhile as far as it can: its
//! peers stay connected, nothing is checked again, and other torrents notice nothing.

use std::path::PathBuf;

use ccbt_shards::messages::ToShard;
use ccbt_storage::relocate::MoveOptions;

use super::Session;
use super::error::GoneError;
use super::torrent::TorrentHandle;

/// What becomes of a torrent's files when it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RemoveOptions {
    /// Its files go too, and folders that are empty then; never the download folder itself, nothing that is not the
    /// torrent's, and nothing behind a symbolic link.
    pub delete_data: bool,
}

impl Session {
    /// Stops a torrent and closes its files. [`crate::TorrentEvent::Removed`] follows; with
    /// [`RemoveOptions::delete_data`], [`crate::TorrentEvent::Deleted`] comes before.
    pub fn remove(&self, torrent: &TorrentHandle, options: RemoveOptions) {
        self.service().remove(torrent.key(), options.delete_data);
    }
}

impl TorrentHandle {
    /// Moves the torrent's files to the folder `dir`, which is made if it is not there: by renaming within a file
    /// system, else by copying (or sharing blocks) and then removing the sources.
    ///
    /// [`crate::TorrentEvent::MoveProgress`] tells how far it is. It ends with [`crate::TorrentEvent::Moved`], or with
    /// [`crate::TorrentEvent::MoveFailed`] and everything where it was. After a crash the files may be in both folders,
    /// each whole in one of them: the same move again completes it.
    pub fn move_storage(&self, dir: impl Into<PathBuf>, options: MoveOptions) -> Result<(), GoneError> {
        self.shared.send(ToShard::Move { key: self.key(), root: dir.into(), options })
    }

    /// Gives file number `index` of [`crate::Metainfo::files`] the path `path` below the download folder. Neither
    /// the info-hash nor what others see of the torrent changes.
    ///
    /// Ends with [`crate::TorrentEvent::Renamed`] or [`crate::TorrentEvent::MoveFailed`]. The name holds as long as
    /// the torrent is in the session: remember it, and give it in [`super::AddOptions::renames`] the next time.
    pub fn rename_file(&self, index: u32, path: impl Into<PathBuf>) -> Result<(), GoneError> {
        self.shared.send(ToShard::Rename { key: self.key(), file: index, path: path.into() })
    }

    /// Gives up moves and renames of the torrent that are under way or wait. Each ends with
    /// [`crate::TorrentEvent::MoveFailed`] unless it is past the point where only sources remain to be removed.
    pub fn cancel_move(&self) -> Result<(), GoneError> {
        self.shared.send(ToShard::CancelMove(self.key()))
    }

    /// Lets a torrent rest: it leaves its peers and trackers and takes no connections, but keeps what it has. Its
    /// status says [`crate::State::Paused`].
    ///
    /// [`Self::resume`] ends it.
    pub fn pause(&self) -> Result<(), GoneError> {
        self.shared.send(ToShard::Pause(self.key()))
    }
}

//! Going on from checkpoints: which ones there are, and a torrent added from one.
//!
//! Role: joins the session's folder of checkpoints with [`Session::add_torrent`]. Called by the session's user.

use std::collections::HashSet;
use std::io;

use super::error::ResumeError;
use super::{AddOptions, Session, TorrentHandle, TorrentSource};
use crate::checkpoints::Checkpoint;

impl Session {
    /// The checkpoints in the session's folder from which a torrent can go on: good ones whose torrent file is there and
    /// that do not run already. None when no checkpoints are kept. Reads them all, and so may wait for the disk.
    ///
    /// Errors: the folder cannot be listed.
    pub fn list_resumable_checkpoints(&self) -> io::Result<Vec<Checkpoint>> {
        let Some(store) = self.checkpoints() else { return Ok(Vec::new()) };
        let running: HashSet<_> = self.torrents().iter().map(TorrentHandle::info_hash).collect();
        let good = store.list()?.into_iter().filter_map(|entry| Some(entry.loaded.ok()?.checkpoint));
        let is_resumable = |checkpoint: &Checkpoint| {
            !running.contains(&checkpoint.info_hash) && store.torrent_of(checkpoint).is_some()
        };
        Ok(good.filter(is_resumable).collect())
    }

    /// Adds the torrent of a checkpoint, in the folder where it was: only what has changed since is hashed. `torrent` is its
    /// torrent file; `None`: the one that it was read from, or the copy that was kept. For other options, see
    /// [`AddOptions::resume`].
    ///
    /// Errors: there is no torrent file, or it is another torrent's, or as [`Session::add_torrent`].
    pub fn resume_from_checkpoint(
        &self,
        checkpoint: Checkpoint,
        torrent: Option<TorrentSource>,
    ) -> Result<TorrentHandle, ResumeError> {
        let known = || self.checkpoints()?.torrent_of(&checkpoint).map(TorrentSource::from);
        let source = torrent.or_else(known).ok_or(ResumeError::NoTorrent(checkpoint.info_hash))?;
        let path = if let TorrentSource::Path(path) = &source { Some(path.clone()) } else { None };
        let metainfo = source.load()?;
        checkpoint.fits(&metainfo)?;
        let options = AddOptions {
            source: path.or_else(|| checkpoint.source.torrent.clone()),
            resume: Some(Box::new(checkpoint.clone())),
            ..AddOptions::new(&checkpoint.output)
        };
        Ok(self.add_torrent(metainfo, options)?)
    }
}

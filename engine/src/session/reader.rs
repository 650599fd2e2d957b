//! A file that is read while it is fetched.
//!
//! Role: `Read` and `Seek` that wait for pieces. Owner: whoever reads; any number of readers at a time. Invariant: no byte
//! is given out before its piece is verified and written. Where a reader is, the shard is told whenever it has used up
//! what it knows to be there, and lets the pieces behind that place be fetched first (`ccbt_protocol::playback`).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ccbt_shards::messages::{Play, Playable, ToShard};
use ccbt_storage::files::{self, Access};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::TorrentHandle;
use super::error::GoneError;
use super::torrent::Shared;

/// How often one who waits is asked whether it still does.
const LOOK: Duration = Duration::from_millis(200);
/// The next reader's number.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A file of a torrent as a stream of bytes. See [`TorrentHandle::reader`].
#[derive(Debug)]
pub struct FileReader {
    shared: Arc<Shared>,
    number: u64,
    index: u32,
    /// Place and length of the file within the torrent.
    start: u64,
    len: u64,
    /// The next byte of the file.
    at: u64,
    /// The file is there from `at` up to here.
    ready: u64,
    open: Option<(PathBuf, File)>,
}

impl TorrentHandle {
    /// Reads the file with this index in [`crate::Metainfo::files`] while it is fetched. Reading waits until the piece is
    /// verified and written; it fails when the piece is not wanted ([`Self::set_file_priorities`]), or the torrent goes.
    /// A torrent that is read stays on one shard from then on.
    ///
    /// `None`: there is no such file, or it is padding or a symbolic link.
    pub fn reader(&self, file: usize) -> Option<FileReader> {
        let entry = self.metainfo().files.get(file)?;
        if entry.pad || entry.symlink.is_some() {
            return None;
        }
        Some(FileReader {
            shared: Arc::clone(&self.shared),
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            index: file as u32,
            start: entry.offset,
            len: entry.len,
            at: 0,
            ready: 0,
            open: None,
        })
    }
}

impl FileReader {
    /// Bytes in the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// As [`Read::read`], but asks several times a second whether to go on waiting: `None` when it shall not.
    pub fn read_while(
        &mut self,
        into: &mut [u8],
        mut go_on: impl FnMut() -> bool,
    ) -> io::Result<Option<usize>> {
        if self.at >= self.len || into.is_empty() {
            return Ok(Some(0));
        }
        if self.at >= self.ready {
            let answer = self.ask()?;
            let playable = loop {
                match answer.recv_timeout(LOOK) {
                    Ok(playable) => break playable,
                    Err(RecvTimeoutError::Timeout) if go_on() => {}
                    Err(RecvTimeoutError::Timeout) => return Ok(None),
                    Err(RecvTimeoutError::Disconnected) => return Err(gone()),
                }
            };
            self.take(&playable)?;
        }
        let most = usize::try_from(self.ready - self.at).unwrap_or(usize::MAX).min(into.len());
        let (_, file) = self.open.as_ref().expect("opened with the answer");
        let count = file.read_at(&mut into[..most], self.at)?;
        if count == 0 {
            let cut = "the file is shorter than it was: somebody has cut it";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, cut));
        }
        self.at += count as u64;
        Ok(Some(count))
    }

    fn ask(&self) -> io::Result<Receiver<Playable>> {
        let (reply, answer) = bounded(1);
        let file = self.start..self.start + self.len;
        let play = Play { reader: self.number, file, at: self.start + self.at, reply };
        self.shared.send(ToShard::Play(self.shared.key(), play)).map_err(|GoneError| gone())?;
        Ok(answer)
    }

    fn take(&mut self, playable: &Playable) -> io::Result<()> {
        if playable.bytes == 0 {
            let text =
                format!("byte {} of the file is not there, and not to be fetched: select the file", self.at);
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        self.ready = self.at + playable.bytes;
        let path = playable.spec.file_path(self.index);
        // It may have been moved.
        if self.open.as_ref().is_none_or(|(known, _)| *known != path) {
            // No link that somebody has put there is followed.
            let spec = &playable.spec;
            let access = Access { write: false, direct: false };
            let file = files::open(spec.root(), &spec.files()[self.index as usize].path, access);
            self.open = Some((path, file.map_err(io::Error::other)?.into()));
        }
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::other("the torrent is gone")
}

impl Read for FileReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.read_while(into, || true)?;
        Ok(read.expect("it waits as long as it takes"))
    }
}

impl Seek for FileReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::End(by) => (self.len, by),
            SeekFrom::Current(by) => (self.at, by),
        };
        let at = base.checked_add_signed(by);
        let at =
            at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a place before the beginning"))?;
        if at != self.at {
            (self.at, self.ready) = (at, at);
        }
        Ok(at)
    }
}

impl Drop for FileReader {
    fn drop(&mut self) {
        // A torrent that is gone has forgotten it anyway.
        let _ = self.shared.send(ToShard::StopPlaying(self.shared.key(), self.number));
    }
}

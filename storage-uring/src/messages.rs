//! What shards, the storage thread and the hash pool say to each other.
//!
//! Role: the vocabulary only. Owner: a message belongs to the queue it is in, and a buffer to the message it
//! is in. Invariant: every command is answered exactly once, and an answer brings back the buffer its command
//! took, whatever the outcome. Built and matched by shards, the storage thread and the hash pool.

use std::sync::Arc;

use ccbt_protocol::ids::{PieceIndex, TorrentKey};

use crate::arena::PieceBuf;
pub use crate::error::{ErrorKind, StorageError};
use crate::layout::LayoutSpec;

/// How files get their length when a torrent is opened for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Preallocate {
    /// Blocks are reserved (`fallocate`), so a full disk shows at once. Sparse where the file system cannot.
    Full,
    /// Only the length is set: holes until written.
    #[default]
    Sparse,
    /// Files grow as pieces arrive.
    None,
}

/// What a torrent is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Folders and files are created.
    ReadWrite,
    /// Nothing is created or changed; missing files are reported as not existing.
    ReadOnly,
}

/// From a shard to the storage thread. Commands of one client are taken in order; reads may overtake writes.
#[derive(Debug)]
pub enum StorageCmd {
    /// Creates, preallocates and checks the files of a torrent. Answered by [`StorageDone::Opened`].
    Open {
        /// The name all later commands use.
        torrent: TorrentKey,
        /// Files and sizes.
        spec: Arc<LayoutSpec>,
        /// How files get their length.
        prealloc: Preallocate,
        /// Whether files may be created and written.
        mode: OpenMode,
        /// Indices of files, rising, that are neither made nor made longer before something is written to them.
        later: Vec<u32>,
    },
    /// Writes one verified piece. Answered by [`StorageDone::Written`].
    ///
    /// `buf` holds exactly the piece. Give it [`LayoutSpec::phase`] when it is allocated, otherwise every
    /// byte takes the slower buffered way.
    Write {
        /// The torrent.
        torrent: TorrentKey,
        /// The piece.
        piece: PieceIndex,
        /// Its bytes.
        buf: PieceBuf,
    },
    /// Reads `buf.len()` bytes of the torrent from byte `start` on (padding reads as zeros). Answered by
    /// [`StorageDone::ReadDone`]. A phase of `start % 4096` of the first file's offset keeps the direct way
    /// open.
    Read {
        /// The torrent.
        torrent: TorrentKey,
        /// Returned with the answer.
        tag: u64,
        /// First byte within the torrent.
        start: u64,
        /// Filled for its length.
        buf: PieceBuf,
    },
    /// Makes everything durable that was written before it. Answered by [`StorageDone::Synced`].
    Sync {
        /// The torrent.
        torrent: TorrentKey,
    },
    /// Looks whether the files are still those that were opened. Answered by [`StorageDone::Looked`].
    Look {
        /// The torrent.
        torrent: TorrentKey,
    },
    /// Closes the files after all earlier commands of the torrent. Answered by [`StorageDone::Closed`].
    Close {
        /// The torrent.
        torrent: TorrentKey,
    },
}

/// From the storage thread to a shard.
#[derive(Debug)]
pub enum StorageDone {
    /// Answer to [`StorageCmd::Open`]. After an error the torrent is not open.
    Opened {
        /// The torrent.
        torrent: TorrentKey,
        /// What was found.
        result: Result<OpenReport, StorageError>,
    },
    /// Answer to [`StorageCmd::Write`]. `Ok` only when every byte of the piece was accepted by the file
    /// system; it is durable after a later [`StorageDone::Synced`].
    Written {
        /// The torrent.
        torrent: TorrentKey,
        /// The piece.
        piece: PieceIndex,
        /// The buffer of the command.
        buf: PieceBuf,
        /// The outcome.
        result: Result<(), StorageError>,
    },
    /// Answer to [`StorageCmd::Read`]. After an error the bytes in `buf` mean nothing.
    ReadDone {
        /// The torrent.
        torrent: TorrentKey,
        /// The tag of the command.
        tag: u64,
        /// The buffer of the command.
        buf: PieceBuf,
        /// The outcome.
        result: Result<(), StorageError>,
    },
    /// Answer to [`StorageCmd::Sync`].
    Synced {
        /// The torrent.
        torrent: TorrentKey,
        /// The outcome: on an error nothing written since the last `Ok` may be claimed.
        result: Result<(), StorageError>,
    },
    /// Answer to [`StorageCmd::Look`].
    Looked {
        /// The torrent.
        torrent: TorrentKey,
        /// Of a file that is not what it was: it has gone, another one is in its place, or it is shorter.
        result: Result<(), StorageError>,
    },
    /// Answer to [`StorageCmd::Close`].
    Closed {
        /// The torrent.
        torrent: TorrentKey,
    },
}

/// What opening a torrent found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// One entry per file of the layout, in its order; padding files count as existing.
    pub files: Vec<OpenedFile>,
    /// Whether piece data takes the O_DIRECT way.
    pub direct: bool,
    /// Number of the device of the torrent's folder (`st_dev`); 0 when there is no folder.
    pub device: u64,
    /// Whether that device rotates, so that several streams at once would slow it down.
    pub rotating: bool,
    /// Whether it is memory: reading again costs a copy and nothing else.
    pub in_memory: bool,
    /// Ranges of files that hold no data and read as zeros, by rising file and offset; a bounded number of them, and
    /// none of file systems that do not tell.
    pub holes: Vec<Hole>,
    /// Things worth one log line: fallbacks taken, longer files left alone.
    pub notes: Vec<String>,
}

/// A file as it was before it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenedFile {
    /// Whether it was there.
    pub existed: bool,
    /// Its length then, in bytes; 0 when it was not there.
    pub len: u64,
    /// When its bytes were changed last, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// That was so short a time ago that the system may not have written everything out; the next sync covers it.
    pub recent: bool,
}

impl OpenedFile {
    /// What tells it from what it was or will be.
    pub fn mark(&self) -> FileMark {
        FileMark { len: self.len, mtime_ns: self.mtime_ns }
    }
}

/// Length and time of a file: a file with another mark has been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMark {
    /// Bytes.
    pub len: u64,
    /// When its bytes were changed last, in nanoseconds since 1970.
    pub mtime_ns: i64,
}

/// A range of a file without data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Index of the file.
    pub file: u32,
    /// First byte, and the one behind the last.
    pub range: std::ops::Range<u64>,
}

/// From a shard to the hash pool: check a complete piece.
#[derive(Debug)]
pub struct HashJob {
    /// The torrent.
    pub torrent: TorrentKey,
    /// The piece.
    pub piece: PieceIndex,
    /// SHA-1 the metainfo promises (BEP 3).
    pub expected: [u8; 20],
    /// The piece's bytes, all `buf.len()` of them hashed.
    pub buf: PieceBuf,
}

/// From the hash pool to a shard.
#[derive(Debug)]
pub struct HashVerdict {
    /// The torrent.
    pub torrent: TorrentKey,
    /// The piece.
    pub piece: PieceIndex,
    /// Whether `digest` is what was expected.
    pub ok: bool,
    /// SHA-1 of the bytes.
    pub digest: [u8; 20],
    /// The buffer of the job.
    pub buf: PieceBuf,
}

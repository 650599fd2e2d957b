//! A client that waits, and torrents with known bytes.
#![allow(dead_code)] // Each test binary uses its own part.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_storage::arena::{Partition, PieceBuf};
use ccbt_storage::doorbell::Doorbell;
use ccbt_storage::layout::{FileSpec, LayoutSpec};
use ccbt_storage::messages::{OpenMode, OpenReport, Preallocate, StorageCmd, StorageDone, StorageError};
use ccbt_storage::{Completion, StorageClient, StorageConfig, StorageService};
use rustix::event::{PollFd, PollFlags, poll};

/// Storage, one client and its memory.
pub struct Rig {
    pub client: StorageClient,
    pub memory: Partition,
    bell: Arc<Doorbell>,
    pub service: StorageService,
}

impl Rig {
    pub fn new(config: StorageConfig) -> Self {
        let service = StorageService::start(config).unwrap();
        let bell = Doorbell::new().unwrap();
        let memory = Partition::new(256 << 20).unwrap();
        let client = service.client(Arc::clone(&bell), 4096);
        Self { client, memory, bell, service }
    }

    /// The next answer, waiting for it asleep.
    pub fn wait(&mut self) -> StorageDone {
        loop {
            match self.client.poll() {
                Some(Completion::Storage(done)) => return done,
                Some(other) => panic!("{other:?}"),
                None => {}
            }
            assert!(self.client.under_way() > 0, "waiting for nothing");
            self.bell.announce_sleep();
            if !self.client.has_completions() {
                poll(&mut [PollFd::new(&*self.bell, PollFlags::IN)], None).unwrap();
            }
            self.bell.awake();
            self.bell.drain();
        }
    }

    pub fn open(
        &mut self,
        key: u32,
        spec: &Arc<LayoutSpec>,
        prealloc: Preallocate,
        mode: OpenMode,
    ) -> Result<OpenReport, StorageError> {
        self.open_some(key, spec, prealloc, mode, Vec::new())
    }

    /// As [`Self::open`], without making the files of these indices.
    pub fn open_some(
        &mut self,
        key: u32,
        spec: &Arc<LayoutSpec>,
        prealloc: Preallocate,
        mode: OpenMode,
        later: Vec<u32>,
    ) -> Result<OpenReport, StorageError> {
        let torrent = TorrentKey(key);
        self.client.submit(StorageCmd::Open { torrent, spec: Arc::clone(spec), prealloc, mode, later });
        match self.wait() {
            StorageDone::Opened { torrent, result } if torrent == TorrentKey(key) => result,
            other => panic!("{other:?}"),
        }
    }

    /// Hands a piece with the bytes of [`content`] over; false when memory is used up.
    pub fn submit_write(&mut self, key: u32, spec: &LayoutSpec, piece: u32, phase: Option<u32>) -> bool {
        let piece = PieceIndex(piece);
        let phase = phase.unwrap_or_else(|| spec.phase(piece));
        let Some(mut buf) = self.memory.alloc(spec.piece_size(piece), phase) else { return false };
        fill(buf.as_mut_slice(), key, spec.piece_start(piece));
        self.client.submit(StorageCmd::Write { torrent: TorrentKey(key), piece, buf });
        true
    }

    pub fn write(&mut self, key: u32, spec: &LayoutSpec, piece: u32) -> Result<(), StorageError> {
        assert!(self.submit_write(key, spec, piece, None));
        match self.wait() {
            StorageDone::Written { buf, result, .. } => {
                self.memory.free(buf);
                result
            }
            other => panic!("{other:?}"),
        }
    }

    /// Writes all pieces in the given order, many at a time; the pieces that failed.
    pub fn write_all(&mut self, key: u32, spec: &LayoutSpec, order: &[u32]) -> HashMap<u32, StorageError> {
        let mut failed = HashMap::new();
        let mut left = order.len();
        let mut order = order.iter().copied().peekable();
        while left > 0 {
            while let Some(&piece) = order.peek()
                && self.client.under_way() < 4000
                && self.submit_write(key, spec, piece, None)
            {
                order.next();
            }
            match self.wait() {
                StorageDone::Written { buf, result, piece, .. } => {
                    self.memory.free(buf);
                    left -= 1;
                    failed.extend(result.err().map(|error| (piece.0, error)));
                }
                other => panic!("{other:?}"),
            }
        }
        failed
    }

    /// Reads a range into a buffer full of rubbish.
    pub fn read(
        &mut self,
        key: u32,
        spec: &LayoutSpec,
        start: u64,
        len: u32,
    ) -> Result<Vec<u8>, StorageError> {
        self.submit_read(key, spec, start, len, 0);
        match self.wait() {
            StorageDone::ReadDone { buf, result, .. } => {
                let bytes = buf.as_slice().to_vec();
                self.memory.free(buf);
                result.map(|()| bytes)
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn submit_read(&mut self, key: u32, spec: &LayoutSpec, start: u64, len: u32, tag: u64) {
        let mut buf: PieceBuf = self.memory.alloc(len, spec.phase_at(start)).unwrap();
        buf.as_mut_slice().fill(0xaa);
        self.client.submit(StorageCmd::Read { torrent: TorrentKey(key), tag, start, buf });
    }

    pub fn sync(&mut self, key: u32) -> Result<(), StorageError> {
        self.client.submit(StorageCmd::Sync { torrent: TorrentKey(key) });
        match self.wait() {
            StorageDone::Synced { result, .. } => result,
            other => panic!("{other:?}"),
        }
    }

    pub fn close(&mut self, key: u32) {
        self.client.submit(StorageCmd::Close { torrent: TorrentKey(key) });
        match self.wait() {
            StorageDone::Closed { torrent } => assert_eq!(torrent, TorrentKey(key)),
            other => panic!("{other:?}"),
        }
    }
}

/// The byte at `position` of torrent `key`.
pub fn content(key: u32, position: u64) -> u8 {
    let mixed = (position ^ u64::from(key) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8 | 1
}

pub fn fill(bytes: &mut [u8], key: u32, start: u64) {
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = content(key, start + at as u64);
    }
}

pub fn piece_count(spec: &LayoutSpec) -> u32 {
    spec.total_len().div_ceil(u64::from(spec.piece_len())) as u32
}

pub fn file(path: &str, len: u64) -> FileSpec {
    FileSpec { path: path.into(), len, ..FileSpec::default() }
}

pub fn pad(len: u64) -> FileSpec {
    FileSpec { path: ".pad/x".into(), len, pad: true, executable: false, link: None }
}

pub fn layout(root: &Path, files: Vec<FileSpec>, piece_len: u32) -> Arc<LayoutSpec> {
    Arc::new(LayoutSpec::new(root.to_path_buf(), files, piece_len).unwrap())
}

/// Compares every file with what was written, length included.
pub fn check_files(key: u32, spec: &LayoutSpec) {
    let mut start = 0;
    for (index, file) in spec.files().iter().enumerate() {
        let path = spec.file_path(index as u32);
        if file.pad {
            assert!(!path.exists(), "padding on disk: {path:?}");
        } else {
            let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            assert_eq!(bytes.len() as u64, file.len, "{path:?}");
            let wrong =
                bytes.iter().enumerate().position(|(at, byte)| *byte != content(key, start + at as u64));
            assert_eq!(wrong, None, "{path:?}");
        }
        start += file.len;
    }
}

/// What reading `start..start + len` gives: zeros for padding.
pub fn expected(key: u32, spec: &LayoutSpec, start: u64, len: u32) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    for extent in spec.extents(start, len) {
        if !spec.files()[extent.file as usize].pad {
            let from = extent.at as usize;
            fill(&mut bytes[from..from + extent.len as usize], key, start + u64::from(extent.at));
        }
    }
    bytes
}

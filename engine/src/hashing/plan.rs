//! What is to be hashed: files in torrent order, cut into pieces.
//!
//! Owner: whoever made it; workers only look. Invariant: the files tile the torrent, in the order of their
//! offsets. Made by [`super::create`] and [`super::verify`].

use std::io;
use std::path::PathBuf;

use std::sync::Mutex;

use ccbt_protocol::geometry::{Geometry, GeometryError};
use ccbt_protocol::ids::PieceIndex;

use super::run::{Batch, Tuning};
use super::{Faults, HashError, HashOptions, Progress};

/// One file of a [`HashPlan`], in torrent order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanFile {
    /// Where it is; empty for padding.
    pub path: PathBuf,
    /// Bytes it has in the torrent.
    pub len: u64,
    /// Padding (BEP 47): hashed as zeroes, never read.
    pub pad: bool,
    /// Bytes that are there to be read, at most `len`; what follows is reported absent without a look.
    pub present: u64,
}

impl PlanFile {
    /// A file of which all bytes are there.
    pub fn stored(path: PathBuf, len: u64) -> Self {
        Self { path, len, pad: false, present: len }
    }

    /// `len` zeroes.
    pub fn padding(len: u64) -> Self {
        Self { path: PathBuf::new(), len, pad: true, present: len }
    }
}

/// What a run found out.
#[derive(Debug)]
pub struct Hashes {
    /// SHA-1 of each piece in order; `None` where bytes are absent or could not be read.
    pub pieces: Vec<Option<[u8; 20]>>,
    /// With [`Faults::Skip`], the first fault of each file that has one, by index in the plan.
    pub faults: Vec<(usize, io::Error)>,
}

/// Files in torrent order, and the length of pieces.
#[derive(Clone, Debug)]
pub struct HashPlan {
    files: Vec<PlanFile>,
    /// First byte of each file within the torrent.
    offsets: Vec<u64>,
    geometry: Geometry,
}

impl HashPlan {
    /// A plan of `files` in pieces of `piece_len` bytes. Fails when they make no torrent; panics when the
    /// lengths add up to 2^64 or more, or a file has more bytes present than its length.
    pub fn new(files: Vec<PlanFile>, piece_len: u32) -> Result<Self, GeometryError> {
        let mut offsets = Vec::with_capacity(files.len());
        let mut total = 0u64;
        for file in &files {
            assert!(file.present <= file.len, "{} of {} bytes present", file.present, file.len);
            offsets.push(total);
            total = total.checked_add(file.len).expect("a torrent is shorter than 2^64 bytes");
        }
        let geometry = Geometry::new(total, u64::from(piece_len))?;
        Ok(Self { files, offsets, geometry })
    }

    /// The files, as given.
    pub fn files(&self) -> &[PlanFile] {
        &self.files
    }

    /// Sizes of the pieces.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The file that holds byte `at` of the torrent, and where in it.
    pub(super) fn locate(&self, at: u64) -> (usize, u64) {
        assert!(at < self.geometry.total_len(), "byte {at} of {}", self.geometry.total_len());
        // Empty files share their offset with the file that follows: the last one that starts here holds the
        // byte.
        let index = self.offsets.partition_point(|&offset| offset <= at) - 1;
        (index, at - self.offsets[index])
    }

    /// First byte of `piece` and of the one that follows.
    pub(super) fn piece_range(&self, piece: u32) -> std::ops::Range<u64> {
        let start = self.geometry.piece_start(PieceIndex(piece));
        start..start + u64::from(self.geometry.piece_size(PieceIndex(piece)))
    }

    /// The piece that holds byte `at`.
    pub(super) fn piece_at(&self, at: u64) -> u32 {
        (at / u64::from(self.geometry.piece_len())) as u32
    }

    /// Whether all bytes of `range` are padding or there to be read.
    pub(super) fn is_present(&self, range: &std::ops::Range<u64>) -> bool {
        let (first, _) = self.locate(range.start);
        let files = self.files[first..].iter().zip(&self.offsets[first..]);
        files
            .take_while(|(_, offset)| **offset < range.end)
            .all(|(file, offset)| range.end.min(offset + file.len) <= offset + file.present)
    }

    /// Reads and hashes everything, and returns when it is done, failed or cancelled. Panics when a worker
    /// panicked.
    pub fn run(
        &self,
        options: HashOptions,
        faults: Faults,
        progress: &Progress,
    ) -> Result<Hashes, HashError> {
        let pieces = Mutex::new(vec![None; self.geometry.piece_count() as usize]);
        let report = |_: usize, piece: u32, hash| {
            pieces.lock().expect("no holder panics")[piece as usize] = hash;
        };
        let batch = Batch {
            plans: std::slice::from_ref(self),
            options,
            faults,
            progress,
            is_wanted: &|_, _| true,
            report: &report,
            tuning: Tuning::default(),
        };
        let faults = batch.run()?.into_iter().map(|fault| (fault.file, fault.error)).collect();
        Ok(Hashes { pieces: pieces.into_inner().expect("no holder panics"), faults })
    }
}

//! One of the messages that a worker hashes at once: a run of pieces, read ahead of the hash.
//!
//! Owner: a worker of [`super::HashPlan::run`]. Invariant: `at` is the torrent offset of the first byte that is not
//! hashed yet, and the unread part of the buffer (or of the zeroes) starts there and stays within the lane's chunk.

use std::io;
use std::ops::Range;

use ccbt_protocol::ids::PieceIndex;
use ccbt_storage::arena::{PAGE, Partition, PieceBuf};
use ccbt_storage::hash::Sha1;

use super::reader::Reader;
use super::{CHUNK_LEN, Faults, HashError, HashPlan, Part, Run};

/// What padding is hashed from.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// See the module.
pub(super) struct Lane<'a> {
    reader: Reader<'a>,
    buf: PieceBuf,
    /// Bytes of `buf` that are not hashed yet.
    data: Range<usize>,
    /// Bytes of padding that are not hashed yet; then `data` is empty.
    zeroes: u64,
    at: u64,
    chunk_end: u64,
    /// First byte after the piece that holds `at`.
    piece_end: u64,
}

impl<'a> Lane<'a> {
    /// A lane without work. Fails when there is no memory for its buffer.
    pub(super) fn new(run: &Run<'a>) -> io::Result<Self> {
        // An unaligned file offset makes an aligned read touch a page more at each end.
        let len = CHUNK_LEN as usize + 2 * PAGE;
        let buf = Partition::new(len)?.alloc(len as u32, 0).expect("the partition is as long as the buffer");
        let reader = Reader::new(run.plan.files(), run.direct);
        Ok(Self { reader, buf, data: 0..0, zeroes: 0, at: 0, chunk_end: 0, piece_end: 0 })
    }

    /// Bytes to be hashed next, all of one piece; empty when there are no pieces left.
    pub(super) fn ready(&self) -> &[u8] {
        let left = usize::try_from(self.piece_end - self.at).expect("pieces are below 2^32 bytes");
        if self.zeroes > 0 {
            &ZEROES[..left.min(ZEROES.len()).min(self.zeroes.min(ZEROES.len() as u64) as usize)]
        } else {
            &self.buf.as_slice()[self.data.start..self.data.end.min(self.data.start + left)]
        }
    }

    /// Makes something ready unless all pieces are given out. Pieces with absent bytes are reported on the way.
    pub(super) fn prepare(
        &mut self,
        run: &Run<'a>,
        hasher: &mut Sha1,
        part: &mut Part,
    ) -> Result<(), HashError> {
        let geometry = run.plan.geometry();
        while self.data.is_empty() && self.zeroes == 0 {
            if self.at == self.chunk_end {
                let Some(pieces) = run.next_pieces() else { return Ok(()) };
                let last = PieceIndex(pieces.end - 1);
                self.at = geometry.piece_start(PieceIndex(pieces.start));
                self.chunk_end = geometry.piece_start(last) + u64::from(geometry.piece_size(last));
                self.piece_end = self.at + u64::from(geometry.piece_size(PieceIndex(pieces.start)));
            }
            if !self.fill(run, part)? {
                part.pieces.push((piece_at(run.plan, self.at), None));
                run.progress.add(self.piece_end - self.at);
                *hasher = Sha1::new();
                self.at = self.piece_end;
                self.enter_piece(run.plan);
                if run.progress.is_cancelled() {
                    return Err(HashError::Cancelled);
                }
            }
        }
        Ok(())
    }

    /// Counts up to `len` ready bytes as hashed, and reports the piece when it is complete.
    pub(super) fn advance(&mut self, plan: &HashPlan, len: usize, hasher: &mut Sha1, part: &mut Part) {
        let len = self.ready().len().min(len);
        if len == 0 {
            return;
        }
        if self.zeroes > 0 {
            self.zeroes -= len as u64;
        } else {
            self.data.start += len;
        }
        let piece = piece_at(plan, self.at);
        self.at += len as u64;
        if self.at == self.piece_end {
            let digest = std::mem::take(hasher).finalize();
            part.pieces.push((piece, Some(digest)));
            self.enter_piece(plan);
        }
    }

    /// Sets the end of the piece that starts at `at`, if the chunk has one more.
    fn enter_piece(&mut self, plan: &HashPlan) {
        if self.at < self.chunk_end {
            self.piece_end = self.chunk_end.min(self.at + u64::from(plan.geometry().piece_len()));
        }
    }

    /// Reads on from `at`; false when the byte there is absent.
    fn fill(&mut self, run: &Run<'a>, part: &mut Part) -> Result<bool, HashError> {
        let (index, offset) = run.plan.locate(self.at);
        let file = &run.plan.files()[index];
        let left = self.chunk_end - self.at;
        if file.pad {
            self.zeroes = left.min(file.len - offset);
            return Ok(true);
        }
        let want = left.min(file.present.saturating_sub(offset)).min(CHUNK_LEN);
        if want == 0 {
            return Ok(false);
        }
        let result = self.reader.read(index, offset, want as usize, self.buf.as_mut_slice());
        match (result, run.faults) {
            (Ok(got), Faults::Stop) if got.is_short => Err(HashError::Shortened { path: file.path.clone() }),
            (Ok(got), _) => {
                self.data = got.data;
                Ok(!self.data.is_empty())
            }
            (Err(source), Faults::Stop) => Err(HashError::Read { path: file.path.clone(), source }),
            (Err(error), Faults::Skip) => {
                if part.faults.iter().all(|(file, _)| *file != index) {
                    part.faults.push((index, error));
                }
                Ok(false)
            }
        }
    }
}

fn piece_at(plan: &HashPlan, at: u64) -> u32 {
    (at / u64::from(plan.geometry().piece_len())) as u32
}

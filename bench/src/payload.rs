//! The synthetic torrent: content that is a function of the block's number, its hashes, and its `.torrent` file.
//!
//! Role: one immutable value shared by the generators, the file writer and the verifier. Block n is the 16 KiB of a
//! random template that start at (n × `STEP`) mod 1 MiB: producing a block costs nothing, no two of the first
//! 65,536 × 16 blocks are equal, and the template stays in a core's cache.
//! Invariant: lengths are multiples of a block, so every request of a sane client names exactly one block.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sha1::{Digest, Sha1};

use crate::error::BenchError;

/// Bytes of a block: what BEP 3 clients request at a time.
pub const BLOCK_LEN: usize = ccbt_protocol::geometry::BLOCK_LEN as usize;

/// Name of the torrent's only file.
pub const FILE_NAME: &str = "ccbt-bench.bin";

/// Starts of blocks within the template lie in this period.
const PERIOD: usize = 1 << 20;

/// Odd, so that it visits every start in the period before one repeats.
const STEP: usize = 4_099;

/// How much of a downloaded file is hashed after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Verify {
    /// First, last and 30 pieces between them
    Sample,
    /// Every piece
    Full,
}

/// The torrent's content, piece hashes (SHA-1) and identity (BEP 3 v1).
pub struct Payload {
    template: Box<[u8]>,
    piece_len: usize,
    total_len: u64,
    hashes: Vec<[u8; 20]>,
    info_hash: [u8; 20],
}

impl Payload {
    /// Makes the template and hashes all pieces on all cores.
    ///
    /// Errors: a length that is zero, not a multiple of a block, or needs more than 2^20 pieces.
    pub fn new(total_len: u64, piece_len: usize) -> Result<Self, BenchError> {
        let block = BLOCK_LEN as u64;
        if piece_len == 0 || !piece_len.is_multiple_of(BLOCK_LEN) || piece_len > 64 << 20 {
            return Err(BenchError::Usage("--piece-kib must be a multiple of 16, at most 65536".into()));
        }
        if total_len == 0 || !total_len.is_multiple_of(block) || total_len / piece_len as u64 > 1 << 20 {
            return Err(BenchError::Usage("--size-mib must be at least 1 and at most 2^20 pieces".into()));
        }
        let mut template = vec![0; PERIOD + BLOCK_LEN].into_boxed_slice();
        StdRng::seed_from_u64(0x0063_6362_7462_656e).fill_bytes(&mut template);
        let mut payload = Self { template, piece_len, total_len, hashes: Vec::new(), info_hash: [0; 20] };
        payload.hashes = payload.hash_pieces();
        payload.info_hash = Sha1::digest(payload.info_dictionary()).into();
        Ok(payload)
    }

    /// Bytes of the whole file.
    pub fn total_len(&self) -> u64 {
        self.total_len
    }

    /// Number of pieces; the last one may be shorter.
    pub fn piece_count(&self) -> u32 {
        self.hashes.len() as u32
    }

    /// Number of 16 KiB blocks.
    pub fn block_count(&self) -> u64 {
        self.total_len / BLOCK_LEN as u64
    }

    /// SHA-1 of the info dictionary.
    pub fn info_hash(&self) -> [u8; 20] {
        self.info_hash
    }

    /// The block numbers of a piece.
    pub fn blocks_of(&self, piece: u32) -> std::ops::Range<u64> {
        let per_piece = (self.piece_len / BLOCK_LEN) as u64;
        let first = u64::from(piece) * per_piece;
        first..(first + per_piece).min(self.block_count())
    }

    /// Piece index and offset in it of block `number`.
    pub fn place_of(&self, number: u64) -> (u32, u32) {
        let per_piece = (self.piece_len / BLOCK_LEN) as u64;
        ((number / per_piece) as u32, (number % per_piece) as u32 * BLOCK_LEN as u32)
    }

    /// Where block `number` starts in the template.
    fn start_of(number: u64) -> usize {
        (number % PERIOD as u64) as usize * STEP % PERIOD
    }

    /// The content of block `number`.
    pub fn block(&self, number: u64) -> &[u8] {
        let start = Self::start_of(number);
        &self.template[start..start + BLOCK_LEN]
    }

    /// Template range with the bytes of a request, or `None` if it leaves its piece or crosses a block's edge.
    pub fn locate(&self, piece: u32, begin: u32, len: u32) -> Option<std::ops::Range<usize>> {
        let block = BLOCK_LEN as u64;
        let (inside, len) = (u64::from(begin) % block, u64::from(len));
        let number = u64::from(piece) * (self.piece_len as u64 / block) + u64::from(begin) / block;
        let fits = len > 0 && inside + len <= block;
        if piece >= self.piece_count() || !self.blocks_of(piece).contains(&number) || !fits {
            return None;
        }
        let start = Self::start_of(number) + inside as usize;
        Some(start..start + len as usize)
    }

    /// The bytes behind a range that [`Payload::locate`] gave.
    pub fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.template[range]
    }

    fn hash_piece(&self, piece: u32) -> [u8; 20] {
        let mut hasher = Sha1::new();
        self.blocks_of(piece).for_each(|number| hasher.update(self.block(number)));
        hasher.finalize().into()
    }

    fn hash_pieces(&self) -> Vec<[u8; 20]> {
        let pieces = self.total_len.div_ceil(self.piece_len as u64) as u32;
        let threads = std::thread::available_parallelism().map_or(1, usize::from) as u32;
        let share = pieces.div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let parts: Vec<_> = (0..pieces)
                .step_by(share as usize)
                .map(|from| {
                    let to = (from + share).min(pieces);
                    scope.spawn(move || (from..to).map(|piece| self.hash_piece(piece)).collect::<Vec<_>>())
                })
                .collect();
            parts.into_iter().flat_map(|part| part.join().expect("hashing does not panic")).collect()
        })
    }

    fn info_dictionary(&self) -> Vec<u8> {
        let mut out = format!(
            "d6:lengthi{}e4:name{}:{FILE_NAME}12:piece lengthi{}e6:pieces{}:",
            self.total_len,
            FILE_NAME.len(),
            self.piece_len,
            self.hashes.len() * 20
        )
        .into_bytes();
        out.extend(self.hashes.iter().flatten());
        out.push(b'e');
        out
    }

    /// The `.torrent` file: an info dictionary and nothing else; who needs a tracker is told by option.
    pub fn torrent_file(&self) -> Vec<u8> {
        let mut out = b"d4:info".to_vec();
        out.extend(self.info_dictionary());
        out.push(b'e');
        out
    }

    /// Writes the whole content to `path`.
    pub fn write_file(&self, path: &Path) -> Result<(), BenchError> {
        let write = || -> std::io::Result<()> {
            let mut file = std::io::BufWriter::with_capacity(1 << 20, File::create(path)?);
            (0..self.block_count()).try_for_each(|number| file.write_all(self.block(number)))?;
            file.flush()
        };
        write().map_err(BenchError::file("write", path))
    }

    /// Checks length and piece hashes of a downloaded file.
    ///
    /// Errors: [`BenchError::Client`] naming the first thing that is wrong.
    pub fn verify_file(&self, path: &Path, how: Verify) -> Result<(), BenchError> {
        let mut file = File::open(path).map_err(BenchError::file("open downloaded", path))?;
        let len = file.metadata().map_err(BenchError::file("read", path))?.len();
        if len != self.total_len {
            return Err(BenchError::Client(format!("output has {len} bytes instead of {}", self.total_len)));
        }
        let mut buf = vec![0; self.piece_len];
        for piece in self.pieces_to_check(how) {
            let blocks = self.blocks_of(piece);
            let buf = &mut buf[..(blocks.end - blocks.start) as usize * BLOCK_LEN];
            file.seek(SeekFrom::Start(blocks.start * BLOCK_LEN as u64))
                .and_then(|_| file.read_exact(buf))
                .map_err(BenchError::file("read", path))?;
            if Sha1::digest(&*buf)[..] != self.hashes[piece as usize] {
                return Err(BenchError::Client(format!("output: piece {piece} has a wrong hash")));
            }
        }
        Ok(())
    }

    fn pieces_to_check(&self, how: Verify) -> Vec<u32> {
        let count = self.piece_count();
        match how {
            Verify::Full => (0..count).collect(),
            Verify::Sample => {
                let last = u64::from(count - 1);
                let mut pieces: Vec<u32> = (0..32).map(|i| (last * i / 31) as u32).collect();
                pieces.dedup();
                pieces
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> Payload {
        Payload::new(3 << 20, 5 * BLOCK_LEN * 4).expect("sizes are valid")
    }

    #[test]
    fn hashes_match_the_blocks_and_the_written_file() {
        let payload = payload();
        assert_eq!(payload.piece_count(), 10, "192 blocks in pieces of 20");
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("data");
        payload.write_file(&path).expect("written");
        payload.verify_file(&path, Verify::Full).expect("every piece is right");
        let content = std::fs::read(&path).expect("read back");
        for number in 0..payload.block_count() {
            let at = number as usize * BLOCK_LEN;
            assert_eq!(&content[at..at + BLOCK_LEN], payload.block(number));
        }
    }

    #[test]
    fn a_flipped_bit_and_a_short_file_are_found() {
        let payload = payload();
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("data");
        payload.write_file(&path).expect("written");
        let mut content = std::fs::read(&path).expect("read back");
        content[2 << 20] ^= 1;
        std::fs::write(&path, &content).expect("damaged copy");
        let error = payload.verify_file(&path, Verify::Full).expect_err("damage is noticed");
        assert!(error.to_string().contains("piece 6"), "{error}");
        std::fs::write(&path, &content[1..]).expect("short copy");
        assert!(payload.verify_file(&path, Verify::Sample).is_err());
    }

    #[test]
    fn requests_are_located_inside_one_block_only() {
        let payload = payload();
        let range = payload.locate(1, BLOCK_LEN as u32, BLOCK_LEN as u32).expect("a whole block");
        assert_eq!(payload.bytes(range), payload.block(21));
        let range = payload.locate(9, 16 * 11 * 1024 + 100, 50).expect("part of the last block");
        assert_eq!(payload.bytes(range), &payload.block(191)[100..150]);
        assert_eq!(payload.locate(9, 16 * 12 * 1024, 1), None, "behind the short last piece");
        assert_eq!(payload.locate(10, 0, 1), None);
        assert_eq!(payload.locate(0, 1, BLOCK_LEN as u32), None, "crosses into the next block");
        assert_eq!(payload.locate(0, 0, 0), None);
        assert_eq!(payload.locate(u32::MAX, u32::MAX, u32::MAX), None);
    }

    #[test]
    fn places_and_block_numbers_agree() {
        let payload = payload();
        for piece in 0..payload.piece_count() {
            for (nth, number) in payload.blocks_of(piece).enumerate() {
                assert_eq!(payload.place_of(number), (piece, (nth * BLOCK_LEN) as u32));
            }
        }
    }

    #[test]
    fn torrent_is_canonical_bencode() {
        let payload = payload();
        let torrent = payload.torrent_file();
        assert!(
            torrent.starts_with(b"d4:infod6:lengthi3145728e4:name14:ccbt-bench.bin12:piece lengthi327680e")
        );
        assert!(torrent.ends_with(b"ee"));
        let digest: [u8; 20] = Sha1::digest(&torrent[7..torrent.len() - 1]).into();
        assert_eq!(payload.info_hash(), digest);
    }

    #[test]
    fn useless_sizes_are_refused() {
        assert!(Payload::new(0, BLOCK_LEN).is_err());
        assert!(Payload::new(1 << 20, 1000).is_err());
        assert!(Payload::new(1 << 20, 0).is_err());
    }
}

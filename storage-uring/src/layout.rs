//! Piece to file spans.

use std::path::PathBuf;

use ccbt_protocol::ids::PieceIndex;

/// The files of a torrent in their order, and how they are cut into pieces (BEP 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutSpec {
    /// Folder all paths are relative to. May itself be reached through symbolic links.
    pub root: PathBuf,
    /// The files, in torrent order.
    pub files: Vec<FileSpec>,
    /// Bytes in every piece but the last.
    pub piece_len: u32,
    /// Bytes of all files together, padding included.
    pub total_len: u64,
}

/// One file of a torrent.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FileSpec {
    /// Relative to the root; only normal parts.
    pub path: PathBuf,
    /// Length in bytes.
    pub len: u64,
    /// Padding (BEP 47): never on disk, reads as zeros.
    pub pad: bool,
    /// Executable (BEP 47 attribute `x`).
    pub executable: bool,
}

impl LayoutSpec {
    /// Where in a page the buffer of `piece` starts ([`crate::arena::Partition::alloc`]).
    pub fn phase(&self, piece: PieceIndex) -> u32 {
        self.phase_at(u64::from(piece.0) * u64::from(self.piece_len))
    }

    /// Where in a page a buffer for a read from byte `start` of the torrent starts: the file offset of that byte, modulo
    /// the page. 0 past the end.
    pub fn phase_at(&self, start: u64) -> u32 {
        let mut file_start = 0;
        for file in &self.files {
            if start < file_start + file.len {
                return ((start - file_start) % 4096) as u32;
            }
            file_start += file.len;
        }
        0
    }
}

//! Torrent files (BEP 3, 12, 19, 27, 47): reading and making them.
//!
//! [`Metainfo::parse`] reads a torrent file and [`Metainfo::from_info`] a bare `info` dictionary; [`build`] plans and
//! writes new ones. No I/O: bytes in, bytes out.
//!
//! Invariant: a [`Metainfo`] that exists is safe to act on. Its paths are relative, inside one folder, free of control
//! characters and no two files collide; its files tile the torrent exactly; there is one hash per piece.
//!
//! Called by the session when a torrent is added, by the command line, and by the magnet code for received metadata.

pub mod build;
mod display;
mod error;
mod files;
mod parse;
mod path;
mod urls;

pub use display::{escape_for_terminal, is_unsafe_to_show};
pub use error::{MetainfoError, PathProblem};
pub(crate) use urls::{is_tracker_url, is_web_seed_url};

use crate::geometry::Geometry;
use crate::ids::{InfoHash, PieceIndex};
use crate::padding::Padding;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Longest torrent file read, in bytes: room for [`crate::geometry::MAX_PIECES`] hashes and a long file list.
pub const MAX_METAINFO_LEN: usize = 1536 * 1024 * 1024;
/// Most files in one torrent, padding files included.
pub const MAX_FILES: usize = 1_000_000;
/// Most symbolic links (BEP 47) in one torrent.
pub const MAX_SYMLINKS: usize = 10_000;
/// Longest file or folder name in bytes (Linux's `NAME_MAX`); longer ones are shortened.
pub const MAX_COMPONENT_LEN: usize = 255;
/// Most folders and names in one path.
pub const MAX_PATH_DEPTH: usize = 128;
/// Longest path in bytes, separators included (Linux's `PATH_MAX` less its NUL); longer ones are refused.
pub const MAX_PATH_LEN: usize = 4095;
/// Most tracker URLs kept, and most web seed URLs.
pub const MAX_URLS: usize = 1000;
/// Most DHT nodes kept.
pub const MAX_NODES: usize = 64;
/// Longest tracker or web seed URL kept, in bytes.
pub const MAX_URL_LEN: usize = 2048;
/// Longest comment, creator or source kept, in bytes; the rest is cut off.
pub const MAX_TEXT_LEN: usize = 16 * 1024;

/// What a torrent file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metainfo {
    /// SHA-1 of the raw `info` dictionary.
    pub info_hash: InfoHash,
    /// Sanitised name: the file of a single-file torrent, the folder of a multi-file one.
    pub name: String,
    /// Peers come from the torrent's trackers only (BEP 27).
    pub private: bool,
    /// Sizes of the torrent and its pieces.
    pub geometry: Geometry,
    /// All files in torrent order; their lengths add up to the geometry's total.
    pub files: Vec<FileEntry>,
    /// Where the padding is.
    pub padding: Padding,
    /// Whether the torrent has a file list, and so a folder of its own, even for one file.
    pub is_multi_file: bool,
    /// Whether the torrent also has a BEP 52 (v2) side, which is not used.
    pub is_hybrid: bool,
    /// Tracker URLs in tiers (BEP 12), `http`, `https` and `udp` only; `announce` alone makes one tier. Never an empty
    /// tier, never the same URL twice.
    pub trackers: Vec<Vec<String>>,
    /// `http` and `https` web seed URLs (BEP 19).
    pub web_seeds: Vec<String>,
    /// Hosts and ports of DHT nodes to begin with (BEP 5), at most [`MAX_NODES`].
    pub nodes: Vec<(String, u16)>,
    /// Free text of the maker.
    pub comment: Option<String>,
    /// The program that made the torrent.
    pub created_by: Option<String>,
    /// When it was made, in seconds since 1970.
    pub creation_date: Option<i64>,
    /// `info.source`, by which private trackers tell their torrents apart.
    pub source: Option<String>,
    info: RawInfo,
}

/// One file of a torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Sanitised components relative to the output folder, at least one; the first of a multi-file torrent is its name.
    pub path: Vec<String>,
    /// Bytes; 0 for symbolic links.
    pub len: u64,
    /// First byte within the torrent.
    pub offset: u64,
    /// Zeroes that only align the next file (BEP 47): hashed, never stored. Padding files may share one path.
    pub pad: bool,
    /// To be made executable (BEP 47).
    pub executable: bool,
    /// Marked hidden (BEP 47).
    pub hidden: bool,
    /// For a symbolic link (BEP 47), its target as `path` is given: relative to the output folder.
    pub symlink: Option<Vec<String>>,
}

/// The `info` dictionary as received, and where its piece hashes are.
#[derive(Clone, PartialEq, Eq)]
struct RawInfo {
    bytes: Arc<[u8]>,
    pieces: Range<usize>,
}

impl fmt::Debug for RawInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl Metainfo {
    /// Reads a torrent file. The error names the field that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetainfoError> {
        parse::parse(bytes)
    }

    /// Reads a bare `info` dictionary, as peers send it (BEP 9): no trackers, no comment. Does not compare its hash with
    /// the one asked for; that is [`Metainfo::info_hash`].
    pub fn from_info(raw_info: &[u8]) -> Result<Self, MetainfoError> {
        parse::from_info(raw_info)
    }

    /// SHA-1 that `piece` must have. Panics when there is no such piece.
    pub fn piece_hash(&self, piece: PieceIndex) -> [u8; 20] {
        assert!(self.geometry.contains(piece), "piece {piece} of {}", self.geometry.piece_count());
        let hashes = &self.info.bytes[self.info.pieces.clone()];
        let start = piece.as_usize() * 20;
        hashes[start..start + 20].try_into().expect("20 bytes were taken")
    }

    /// The `info` dictionary exactly as it was received; its SHA-1 is the info-hash.
    pub fn raw_info(&self) -> &[u8] {
        &self.info.bytes
    }

    /// A torrent file that says the same: what a magnet link led to, to be kept.
    pub fn to_torrent(&self) -> Vec<u8> {
        build::wrap(self)
    }

    /// The same bytes as [`Metainfo::raw_info`], to be shared with other threads (BEP 9 serves them to peers).
    pub fn shared_raw_info(&self) -> Arc<[u8]> {
        Arc::clone(&self.info.bytes)
    }

    /// Bytes in all files that are stored, padding excluded.
    pub fn stored_len(&self) -> u64 {
        self.files.iter().filter(|file| !file.pad).map(|file| file.len).sum()
    }
}

#[cfg(test)]
mod tests;

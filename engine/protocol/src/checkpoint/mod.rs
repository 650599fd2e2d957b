//! A checkpoint: what is kept of a torrent between two runs of the program.
//!
//! Role: the data, its two forms as bytes ([`Checkpoint::encode`], [`Checkpoint::decode`]), and what other clients keep
//! ([`foreign`]). Pure: the engine's store reads and writes files and looks at what the torrent's files are now.
//!
//! Invariant: a `Checkpoint` that was decoded fits itself: both sets have as many pieces as its sizes say, and a piece
//! that is there was looked at, its folder is an absolute path, and no file's name leads out of it. Whether it fits a
//! torrent is for [`Checkpoint::fits`] to say.

mod codec;
pub mod foreign;
mod text;

use std::net::SocketAddr;
use std::path::{Component, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bitfield::Bitfield;
use crate::geometry::Geometry;
use crate::ids::{InfoHash, PieceIndex};
use crate::metainfo::{MAX_FILES, Metainfo};
use crate::picker::{PartialPiece, Priority};

pub use codec::{DecodeError, FILE_LEN_MAX, Format, RAW_LEN_MAX, VERSION};

/// Addresses kept at most.
pub const PEERS_MAX: usize = 200;
/// Pieces whose blocks are kept at most; further ones are fetched again.
pub const PARTIAL_MAX: usize = 1 << 16;

/// Everything kept of one torrent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The torrent.
    #[serde(with = "text::shown")]
    pub info_hash: InfoHash,
    /// Its name.
    pub name: String,
    /// When this was written, in seconds since 1970.
    pub saved_at: i64,
    /// When the torrent was added for the first time, in seconds since 1970.
    pub added_at: i64,
    /// Where the torrent comes from.
    pub source: Source,
    /// Folder that its files lie below.
    #[serde(with = "text::path")]
    pub output: PathBuf,
    /// Files that lie elsewhere below `output` than the torrent says.
    #[serde(default, deserialize_with = "text::list::<_, _, { MAX_FILES + 1 }>")]
    pub renames: Vec<Rename>,
    /// Bytes in a piece.
    pub piece_len: u32,
    /// Bytes in the torrent.
    pub total_len: u64,
    /// Pieces that are there.
    #[serde(with = "text::bitfield")]
    pub have: Bitfield,
    /// Pieces whose state is known: there, or else missing.
    #[serde(with = "text::bitfield")]
    pub looked: Bitfield,
    /// Pieces that are not there, but some of their blocks are: written unverified, by rising piece.
    #[serde(default, with = "text::partial", skip_serializing_if = "Vec::is_empty")]
    pub partial: Vec<PartialPiece>,
    /// Each file as it was; `None`: it was not there, is padding, or was written to so shortly before that a later write
    /// could not be told from it.
    #[serde(deserialize_with = "text::list::<_, _, { MAX_FILES + 1 }>")]
    pub files: Vec<Option<Mark>>,
    /// Sums over all runs.
    #[serde(default)]
    pub totals: Totals,
    /// How much each file is wanted, by its index; files behind the last entry are [`Priority::Normal`].
    #[serde(default, with = "text::priorities", skip_serializing_if = "Vec::is_empty")]
    pub file_priorities: Vec<Priority>,
    /// Tracker URLs in tiers.
    #[serde(default, deserialize_with = "text::tiers")]
    pub trackers: Vec<Vec<String>>,
    /// Peers that were connected to, at most [`PEERS_MAX`].
    #[serde(default, deserialize_with = "text::list::<_, _, { PEERS_MAX + 1 }>")]
    pub peers: Vec<SocketAddr>,
}

/// Where a torrent comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The torrent file.
    #[serde(default, with = "text::optional_path")]
    pub torrent: Option<PathBuf>,
    /// The magnet link (BEP 9).
    #[serde(default)]
    pub magnet: Option<String>,
}

/// A file with another path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rename {
    /// Its index in [`Metainfo::files`].
    pub file: u32,
    /// Its path below the output folder.
    #[serde(with = "text::path")]
    pub path: PathBuf,
}

/// Length and time of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Bytes.
    pub len: u64,
    /// When its bytes were changed last, in nanoseconds since 1970.
    pub mtime_ns: i64,
}

/// Payload over all runs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Received and accepted.
    pub downloaded: u64,
    /// Sent.
    pub uploaded: u64,
}

/// A checkpoint is not one of this torrent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It is another torrent's.
    #[error("it is of the torrent {0}")]
    InfoHash(InfoHash),
    /// Pieces or files are not as the torrent says.
    #[error("its pieces or files are not those of the torrent")]
    Shape,
}

impl Checkpoint {
    /// Whether it is of this torrent.
    pub fn fits(&self, metainfo: &Metainfo) -> Result<(), Mismatch> {
        if self.info_hash != metainfo.info_hash {
            return Err(Mismatch::InfoHash(self.info_hash));
        }
        let geometry = metainfo.geometry;
        let same = self.piece_len == geometry.piece_len()
            && self.total_len == geometry.total_len()
            && self.have.len() == geometry.piece_count()
            && self.looked.len() == self.have.len()
            && self.partial.iter().all(|partial| partial.fits(geometry))
            && self.files.len() == metainfo.files.len()
            && self.file_priorities.len() <= metainfo.files.len()
            && self.renames.iter().all(|rename| (rename.file as usize) < metainfo.files.len());
        if same { Ok(()) } else { Err(Mismatch::Shape) }
    }

    /// Whether every piece is there.
    pub fn is_complete(&self) -> bool {
        self.have.is_full()
    }

    /// Bytes of the pieces that are there.
    pub fn bytes_done(&self) -> u64 {
        let (piece_len, pieces) = (u64::from(self.piece_len), u64::from(self.have.len()));
        let short = pieces * piece_len - self.total_len;
        let last = self.have.has(PieceIndex(self.have.len().saturating_sub(1)));
        u64::from(self.have.count()) * piece_len - if last { short } else { 0 }
    }

    /// Bytes of the blocks that are there of pieces that are not.
    pub fn bytes_partial(&self) -> u64 {
        let Ok(geometry) = Geometry::new(self.total_len, self.piece_len.into()) else { return 0 };
        self.partial
            .iter()
            .filter(|partial| partial.fits(geometry))
            .map(|partial| partial.bytes(geometry))
            .sum()
    }

    /// Why it cannot be: what [`Self::decode`] refuses.
    fn problem(&self) -> Option<&'static str> {
        let pieces = match self.piece_len {
            0 => return Some("pieces have no length"),
            len => self.total_len.div_ceil(u64::from(len)),
        };
        if u64::from(self.have.len()) != pieces || self.looked.len() != self.have.len() {
            return Some("sets of pieces do not fit the sizes");
        }
        if self.have.has_any_not_in(&self.looked) {
            return Some("a piece is there that was not looked at");
        }
        let geometry = Geometry::new(self.total_len, self.piece_len.into());
        let fits = |partial: &PartialPiece| geometry.is_ok_and(|geometry| partial.fits(geometry));
        let rising = self.partial.is_sorted_by(|one, next| one.piece < next.piece);
        if !rising || self.partial.len() > PARTIAL_MAX || !self.partial.iter().all(fits) {
            return Some("blocks of pieces do not fit the sizes");
        }
        if self.files.len() > MAX_FILES || self.renames.len() > MAX_FILES {
            return Some("too many files");
        }
        if !self.output.is_absolute() {
            return Some("its folder is not a path from the root");
        }
        let is_inner = |part| matches!(part, Component::Normal(_));
        if self.renames.iter().any(|rename| !rename.path.components().all(is_inner)) {
            return Some("a file's other name leads out of its folder");
        }
        (self.peers.len() > PEERS_MAX).then_some("too many peers")
    }
}

#[cfg(test)]
mod tests;

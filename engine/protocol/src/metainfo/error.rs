//! Why a torrent is refused. Every message names the field; text from the torrent is escaped for terminals.

use super::{MAX_FILES, MAX_METAINFO_LEN, MAX_PATH_DEPTH, MAX_PATH_LEN, MAX_SYMLINKS};
use crate::bencode::DecodeError;
use crate::geometry::GeometryError;

/// Why bytes are not a torrent that this engine takes. `field` is a path like `info.files[3].length`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetainfoError {
    /// Not bencode.
    #[error(transparent)]
    Bencode(#[from] DecodeError),
    /// Longer than [`MAX_METAINFO_LEN`].
    #[error("the torrent file has {0} bytes, at most {MAX_METAINFO_LEN} are supported")]
    TooLong(usize),
    /// A field that must be there is not.
    #[error("{field}: missing")]
    Missing {
        /// The field.
        field: String,
    },
    /// A field of the wrong kind.
    #[error("{field}: must be {expected}")]
    WrongType {
        /// The field.
        field: String,
        /// What belongs there, with its article.
        expected: &'static str,
    },
    /// A size below zero.
    #[error("{field}: {value} is negative")]
    Negative {
        /// The field.
        field: String,
        /// Its value.
        value: i64,
    },
    /// All lengths together overflow.
    #[error("{field}: the sizes add up to 2^63 bytes or more")]
    TotalOverflow {
        /// The field at which the sum overflows.
        field: String,
    },
    /// Sizes of which no torrent can be made.
    #[error("info.{field}: {source}", field = geometry_field(.source))]
    Geometry {
        /// Why.
        #[from]
        source: GeometryError,
    },
    /// `pieces` is not a row of whole hashes.
    #[error("info.pieces: {0} bytes are not a multiple of 20")]
    PiecesLen(usize),
    /// Another number of hashes than the sizes ask for.
    #[error("info.pieces: {actual} hashes where the sizes need {expected}")]
    PieceCount {
        /// Hashes that the sizes need.
        expected: u32,
        /// Hashes that are there.
        actual: usize,
    },
    /// A single file and a file list at once.
    #[error("info: has both `length` and `files`")]
    LengthAndFiles,
    /// A file list without entries.
    #[error("info.files: the list is empty")]
    NoFiles,
    /// Too many files.
    #[error("info.files: more than {MAX_FILES} files")]
    TooManyFiles,
    /// Too many symbolic links.
    #[error("info.files: more than {MAX_SYMLINKS} symbolic links")]
    TooManySymlinks,
    /// A name or path that must not reach the disk.
    #[error("{field}: {problem}")]
    Path {
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// Two files under one path.
    #[error("info.files: two files have the path \"{0}\"")]
    DuplicatePath(String),
    /// A file whose path is a folder of another file.
    #[error("info.files: \"{0}\" is both a file and a folder")]
    FileAsFolder(String),
    /// BEP 52 without a v1 side.
    #[error("info: this is a v2-only torrent (meta version 2, BEP 52), which is not supported yet")]
    V2Only,
}

/// What is wrong with a name or path. Nothing of it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// No component, or none but `.` and empty ones.
    #[error("the path is empty")]
    Empty,
    /// A leading `/`.
    #[error("absolute paths are not allowed")]
    Absolute,
    /// `..`.
    #[error("\"..\" is not allowed")]
    Parent,
    /// A `/` inside a component.
    #[error("\"/\" inside a name is not allowed")]
    Separator,
    /// A NUL byte.
    #[error("a NUL byte is not allowed")]
    Nul,
    /// More components than [`MAX_PATH_DEPTH`].
    #[error("the path is deeper than {MAX_PATH_DEPTH} folders")]
    TooDeep,
    /// Longer than [`MAX_PATH_LEN`].
    #[error("the path is longer than {MAX_PATH_LEN} bytes")]
    TooLong,
    /// A symbolic link that leads back to itself or to a folder it lies in.
    #[error("the symbolic link goes round in a circle")]
    SymlinkLoop,
    /// A symbolic link that claims bytes of the torrent.
    #[error("a symbolic link must have the length 0")]
    SymlinkLength,
}

/// The field of `info` that a geometry error is about.
fn geometry_field(error: &GeometryError) -> &'static str {
    match error {
        GeometryError::PieceLen(_) => "piece length",
        GeometryError::TooManyPieces(_) => "pieces",
        GeometryError::Empty => "length",
    }
}

//! What other clients keep of a torrent, as a [`Checkpoint`].
//!
//! Role: each client's file becomes a [`Foreign`]: which pieces it claims, and under which condition on each file. The
//! caller looks at the files, and [`Foreign::into_checkpoint`] keeps the claims whose conditions hold. Pure.
//!
//! Invariant: a piece is claimed only when the other client had verified it and every file it lies in agrees; nothing is
//! ever claimed to be missing, so what the other client does not know of is looked at.

mod libtorrent;
mod rtorrent;
mod transmission;

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::{Checkpoint, Mark, PEERS_MAX, Rename, Source, Totals};
use crate::bencode::{Dict, List};
use crate::bitfield::Bitfield;
use crate::ids::{InfoHash, PieceIndex};
use crate::metainfo::Metainfo;
use crate::picker::{PartialPiece, Priority};

/// What a client keeps, read for one torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Folder that the files lie below.
    pub output: Option<PathBuf>,
    /// Paths below `output` that differ from the torrent's.
    pub renames: Vec<Rename>,
    /// Pieces that it has verified.
    pub have: Bitfield,
    /// Blocks that it has written of other pieces, by rising piece.
    pub partial: Vec<PartialPiece>,
    /// For each file of the torrent, when its pieces may be claimed.
    pub conditions: Vec<Condition>,
    /// How much each file is wanted, by index; empty: all alike.
    pub file_priorities: Vec<Priority>,
    /// Payload so far.
    pub totals: Totals,
    /// When the torrent was added, in seconds since 1970.
    pub added_at: Option<i64>,
    /// Peers it knew.
    pub peers: Vec<SocketAddr>,
}

/// When the pieces of a file may be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Its length (where one is given) and the whole seconds of its time are these.
    Exactly {
        /// Bytes.
        len: Option<u64>,
        /// Seconds since 1970.
        mtime: i64,
    },
    /// It was not changed after this second since 1970.
    NotAfter(i64),
    /// It was not changed after the client's own file was written.
    NotAfterSave,
    /// Never.
    Never,
}

/// Why a file of another client is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignError {
    /// It is not bencoded.
    #[error("it is not bencoded: {0}")]
    Bencode(String),
    /// It is none of the files that are known.
    #[error("it is no resume file of libtorrent, qBittorrent, rtorrent or Transmission")]
    Unknown,
    /// A field is missing or wrong.
    #[error("its field `{0}` is missing or wrong")]
    Field(&'static str),
    /// It is another torrent's.
    #[error("it is of the torrent {0}")]
    OtherTorrent(InfoHash),
}

/// Reads a resume file of any client that is known. `companion` is rtorrent's second file (`.rtorrent`).
pub fn read(bytes: &[u8], companion: Option<&[u8]>, metainfo: &Metainfo) -> Result<Foreign, ForeignError> {
    let document = decode(bytes)?;
    let root = document.root().as_dict().ok_or(ForeignError::Unknown)?;
    if root.get_str(b"file-format") == Some("libtorrent resume file") {
        return libtorrent::read(root, metainfo);
    }
    if let Some(progress) = root.get_dict(b"progress") {
        return transmission::read(root, progress, metainfo);
    }
    let companion = companion.map(decode).transpose()?;
    let companion = companion.as_ref().and_then(|document| document.root().as_dict());
    match root.get_dict(b"libtorrent_resume") {
        // Until 0.8 both were kept in the torrent file.
        Some(resume) => rtorrent::read(resume, root.get_dict(b"rtorrent").or(companion), metainfo),
        None if root.get(b"bitfield").is_some() => rtorrent::read(root, companion, metainfo),
        None => Err(ForeignError::Unknown),
    }
}

/// The info-hash that a libtorrent resume file names, to find its torrent.
pub fn info_hash(bytes: &[u8]) -> Option<InfoHash> {
    let document = decode(bytes).ok()?;
    document.root().as_dict()?.get_bytes(b"info-hash")?.try_into().ok().map(InfoHash)
}

fn decode(bytes: &[u8]) -> Result<crate::bencode::Document<'_>, ForeignError> {
    crate::bencode::decode(bytes).map_err(|error| ForeignError::Bencode(error.to_string()))
}

impl Foreign {
    /// Where each file lies below the output folder; padding too, for the index to fit.
    pub fn paths(&self, metainfo: &Metainfo) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = metainfo.files.iter().map(|file| file.path.iter().collect()).collect();
        for rename in &self.renames {
            paths[rename.file as usize].clone_from(&rename.path);
        }
        paths
    }

    /// Keeps the claims that hold, and says how many pieces they are of.
    ///
    /// `found`: each file as it is now. `saved_ns`: when the client's file was written, in nanoseconds since 1970. `now`:
    /// in seconds since 1970.
    pub fn into_checkpoint(
        self,
        metainfo: &Metainfo,
        output: PathBuf,
        found: &[Option<Mark>],
        saved_ns: i64,
        now: i64,
    ) -> Checkpoint {
        let mut have = self.have;
        let mut files = Vec::with_capacity(metainfo.files.len());
        for ((file, condition), found) in metainfo.files.iter().zip(&self.conditions).zip(found) {
            let agrees = found.filter(|mark| condition.holds(mark, saved_ns));
            if agrees.is_none() && !file.pad && file.len > 0 {
                let piece_len = u64::from(metainfo.geometry.piece_len());
                for piece in file.offset / piece_len..(file.offset + file.len).div_ceil(piece_len) {
                    let piece = PieceIndex(piece as u32);
                    if have.has(piece) {
                        have.remove(piece);
                    }
                }
            }
            files.push(agrees);
        }
        let geometry = metainfo.geometry;
        Checkpoint {
            info_hash: metainfo.info_hash,
            name: metainfo.name.clone(),
            saved_at: now,
            added_at: self.added_at.unwrap_or(now),
            source: Source::default(),
            output,
            renames: self.renames,
            piece_len: geometry.piece_len(),
            total_len: geometry.total_len(),
            looked: have.clone(),
            partial: self.partial,
            have,
            files,
            totals: self.totals,
            file_priorities: self.file_priorities,
            trackers: metainfo.trackers.clone(),
            peers: self.peers.into_iter().take(PEERS_MAX).collect(),
        }
    }
}

impl Condition {
    fn holds(self, found: &Mark, saved_ns: i64) -> bool {
        let seconds = found.mtime_ns.div_euclid(1_000_000_000);
        match self {
            Self::Exactly { len, mtime } => len.is_none_or(|len| len == found.len) && mtime == seconds,
            Self::NotAfter(second) => seconds <= second,
            Self::NotAfterSave => found.mtime_ns <= saved_ns,
            Self::Never => false,
        }
    }
}

/// A count that other clients keep as a signed integer.
fn count(dict: Dict<'_, '_>, key: &[u8]) -> u64 {
    dict.get_int(key).and_then(|value| value.try_into().ok()).unwrap_or(0)
}

fn path(bytes: &[u8]) -> PathBuf {
    OsStr::from_bytes(bytes).into()
}

/// The path if it stays below its folder.
fn inner_path(bytes: &[u8]) -> Option<PathBuf> {
    let path = path(bytes);
    let is_inner = path.components().all(|part| matches!(part, Component::Normal(_)));
    (is_inner && !path.as_os_str().is_empty()).then_some(path)
}

/// The folder if it can be found from anywhere.
fn folder(bytes: Option<&[u8]>) -> Option<PathBuf> {
    bytes.map(path).filter(|path| path.is_absolute())
}

/// Notes `path` for a file if the torrent says otherwise.
fn rename(renames: &mut Vec<Rename>, metainfo: &Metainfo, file: usize, path: PathBuf) {
    let entry = &metainfo.files[file];
    if !entry.pad && !Path::new(&path).iter().eq(entry.path.iter().map(OsStr::new)) {
        renames.push(Rename { file: file as u32, path });
    }
}

/// Addresses in the compact form (BEP 23, BEP 7).
fn compact_peers(v4: Option<&[u8]>, v6: Option<&[u8]>) -> Vec<SocketAddr> {
    let port = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
    let v4 = v4.unwrap_or_default().chunks_exact(6).map(|peer| {
        let ip: [u8; 4] = peer[..4].try_into().expect("four bytes");
        SocketAddr::new(IpAddr::from(ip), port(&peer[4..]))
    });
    let v6 = v6.unwrap_or_default().chunks_exact(18).map(|peer| {
        let ip: [u8; 16] = peer[..16].try_into().expect("sixteen bytes");
        SocketAddr::new(IpAddr::from(ip), port(&peer[16..]))
    });
    v4.chain(v6).filter(|peer| peer.port() != 0 && !peer.ip().is_unspecified()).take(PEERS_MAX).collect()
}

/// Elements of a list that has one for each file, or `None`.
fn per_file<'t, 'a>(list: Option<List<'t, 'a>>, metainfo: &Metainfo) -> Option<List<'t, 'a>> {
    list.filter(|list| list.iter().count() == metainfo.files.len())
}

#[cfg(test)]
mod tests;

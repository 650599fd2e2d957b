//! Where a torrent comes from: a file, bytes, or metainfo that was read before.
//!
//! Called by [`super::Session::add_torrent`] and by the command line, which reads before it starts anything.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ccbt_protocol::metainfo::{MAX_METAINFO_LEN, Metainfo, escape_for_terminal};

use super::error::LoadError;

/// A torrent to read.
#[derive(Clone, Debug)]
pub enum TorrentSource {
    /// A torrent file.
    Path(PathBuf),
    /// The bytes of one.
    Bytes(Vec<u8>),
    /// One that is read already.
    Metainfo(Arc<Metainfo>),
}

impl TorrentSource {
    /// Reads it. Errors name the field that is wrong.
    pub fn load(self) -> Result<Arc<Metainfo>, LoadError> {
        match self {
            Self::Path(path) => {
                let bytes = read_torrent(&path)?;
                parse(&bytes, shown_path(&path))
            }
            Self::Bytes(bytes) => parse(&bytes, format!("the input of {} bytes", bytes.len())),
            Self::Metainfo(metainfo) => Ok(metainfo),
        }
    }
}

/// The bytes of a torrent file.
pub(crate) fn read_torrent(path: &Path) -> Result<Vec<u8>, LoadError> {
    read_bounded(path).map_err(|source| LoadError::Read { path: shown_path(path).into(), source })
}

/// File names may be a stranger's too.
fn shown_path(path: &Path) -> String {
    escape_for_terminal(&path.to_string_lossy()).into_owned()
}

fn parse(bytes: &[u8], origin: String) -> Result<Arc<Metainfo>, LoadError> {
    Metainfo::parse(bytes).map(Arc::new).map_err(|source| LoadError::Metainfo { origin, source })
}

/// All of the file, but one byte more than is supported at most: enough for the parser to refuse it by its
/// length.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_METAINFO_LEN as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl From<PathBuf> for TorrentSource {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<&Path> for TorrentSource {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<Vec<u8>> for TorrentSource {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Metainfo> for TorrentSource {
    fn from(metainfo: Metainfo) -> Self {
        Self::Metainfo(Arc::new(metainfo))
    }
}

impl From<Arc<Metainfo>> for TorrentSource {
    fn from(metainfo: Arc<Metainfo>) -> Self {
        Self::Metainfo(metainfo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_file_and_the_field() {
        let missing = TorrentSource::from(Path::new("/nonexistent/\x1b.torrent")).load();
        let text = missing.expect_err("no such file").to_string();
        assert!(text.starts_with("cannot read /nonexistent/\\u{1b}.torrent: "), "{text}");
        let folder = TorrentSource::from(Path::new("/")).load().expect_err("a folder").to_string();
        assert!(folder.contains("directory"), "{folder}");
        let bad = TorrentSource::from(b"d4:infodee".to_vec()).load().expect_err("no name").to_string();
        assert!(bad.starts_with("the input of 10 bytes is not a usable torrent: info."), "{bad}");
    }
}

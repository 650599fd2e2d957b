//! The torrents of a measurement: small files, sparse where the file system can, and their metainfo.

use std::fs::File;
use std::path::{Path, PathBuf};

use ccbt_protocol::metainfo::build::Builder;
use sha1::{Digest, Sha1};

use crate::error::BenchError;

/// Bytes of a piece.
const PIECE_LEN: u32 = 16 * 1024;

/// `count` torrents below one folder: `torrents/N.torrent`, their data in `data/`. Removed when dropped.
pub(crate) struct Torrents {
    folder: PathBuf,
    hashes: Vec<[u8; 20]>,
}

impl Torrents {
    /// Makes them, each with `pieces` pieces and one file, which reads as zeros.
    pub(crate) fn make(
        folder: PathBuf,
        count: usize,
        pieces: u32,
        tracker: Option<&str>,
    ) -> Result<Self, BenchError> {
        let mut this = Self { folder, hashes: Vec::with_capacity(count) };
        for dir in [this.torrents(), this.data()] {
            std::fs::create_dir_all(&dir).map_err(BenchError::file("create", &dir))?;
        }
        let hashes = vec![<[u8; 20]>::from(Sha1::digest(vec![0; PIECE_LEN as usize])); pieces as usize];
        let len = u64::from(PIECE_LEN) * u64::from(pieces);
        for nth in 0..count {
            let name = format!("{nth:05}.bin");
            let trackers = tracker.map(|url| vec![vec![url.to_owned()]]).unwrap_or_default();
            let plan = Builder::single_file(&name, len).piece_len(PIECE_LEN).trackers(trackers).plan();
            let bytes = plan.expect("a sound torrent").finish(&hashes);
            let parsed = ccbt_protocol::metainfo::Metainfo::parse(&bytes).expect("our own torrent");
            this.hashes.push(parsed.info_hash.0);
            let path = this.torrents().join(format!("{nth:05}.torrent"));
            std::fs::write(&path, bytes).map_err(BenchError::file("write", &path))?;
            let path = this.data().join(name);
            let sparse = File::create(&path).and_then(|file| file.set_len(len));
            sparse.map_err(BenchError::file("write", &path))?;
        }
        Ok(this)
    }

    /// Folder of the torrent files.
    pub(super) fn torrents(&self) -> PathBuf {
        self.folder.join("torrents")
    }

    /// Folder of their data.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Info-hash of the first.
    pub(super) fn first(&self) -> [u8; 20] {
        self.hashes[0]
    }

    /// Info-hashes of all.
    pub(crate) fn hashes(&self) -> &[[u8; 20]] {
        &self.hashes
    }
}

impl Drop for Torrents {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The torrent files below a folder, in order.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, BenchError> {
    let entries = std::fs::read_dir(folder).map_err(BenchError::file("read", folder))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort_unstable();
    Ok(paths)
}

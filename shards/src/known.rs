//! What is known of a torrent's files, to be kept and given back: then only what is doubtful is looked at again.
//!
//! Role: values between shards and the session. Made from a [`Snapshot`], used by [`crate::checking`].

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::picker::PartialPiece;
use ccbt_storage::layout::LayoutSpec;
pub use ccbt_storage::messages::FileMark;

/// What was found out about a torrent's files, and what they were then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Pieces that are good.
    pub have: Bitfield,
    /// Pieces whose state is known: good, or else missing.
    pub looked: Bitfield,
    /// Blocks that are in the files of pieces that are not good.
    pub partial: Vec<PartialPiece>,
    /// Each file of the torrent then; `None`: it was not there. Padding files have no mark.
    pub files: Vec<Option<FileMark>>,
}

/// A torrent's pieces at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Verified and written; while checking, found good so far.
    pub have: Bitfield,
    /// Of these, the ones that outlast a power cut.
    pub durable: Bitfield,
    /// Pieces whose state is known; while checking, looked at so far.
    pub looked: Bitfield,
    /// Blocks of other pieces that were written, unverified and not synced: at worst they are fetched again.
    pub partial: Vec<PartialPiece>,
    /// Where the files are.
    pub spec: Arc<LayoutSpec>,
    /// Whether the files were looked at, so that nothing is left to be found out. Before, `durable` is empty.
    pub checked: bool,
}

impl Snapshot {
    /// All that is known, for a process that starts after this one has ended orderly. Looks at the files, and so may
    /// wait for the disk.
    pub fn known(self) -> Known {
        Known { files: marks(&self.spec), have: self.have, looked: self.looked, partial: self.partial }
    }

    /// What is still true after a power cut: pieces that are not durable are doubtful. Looks at the files.
    pub fn known_durable(self) -> Known {
        let mut looked = self.looked;
        for piece in self.have.iter().filter(|piece| !self.durable.has(*piece)) {
            if looked.has(piece) {
                looked.remove(piece);
            }
        }
        Known { files: marks(&self.spec), have: self.durable, looked, partial: self.partial }
    }
}

/// Length and time of every file now.
fn marks(spec: &LayoutSpec) -> Vec<Option<FileMark>> {
    let mark = |at: usize| {
        let stat = fs::symlink_metadata(spec.file_path(at as u32)).ok()?;
        let mtime_ns = stat.mtime().saturating_mul(1_000_000_000).saturating_add(stat.mtime_nsec());
        Some(FileMark { len: stat.len(), mtime_ns })
    };
    let files = spec.files().iter().enumerate();
    files.map(|(at, file)| if file.pad { None } else { mark(at) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccbt_protocol::ids::PieceIndex;
    use ccbt_storage::layout::FileSpec;

    #[test]
    fn what_is_not_durable_is_doubtful_after_a_power_cut() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), [1; 100]).unwrap();
        let file =
            |path: &str, pad| FileSpec { path: path.into(), len: 100, pad, executable: false, link: None };
        let files = vec![file("a", false), file("p", true), file("b", false)];
        let spec = Arc::new(LayoutSpec::new(folder.path().to_owned(), files, 100).unwrap());
        let mut have = Bitfield::empty(3);
        have.insert(PieceIndex(0));
        have.insert(PieceIndex(1));
        let mut durable = Bitfield::empty(3);
        durable.insert(PieceIndex(1));
        let blocks = Bitfield::full(1);
        let partial = vec![PartialPiece { piece: PieceIndex(2), blocks }];
        let (durable_too, looked) = (durable.clone(), Bitfield::full(3));
        let snapshot = Snapshot { have, durable: durable_too, looked, partial, spec, checked: true };
        let known = snapshot.clone().known();
        assert_eq!((known.have.count(), known.looked.count()), (2, 3));
        assert_eq!(known.files[0].map(|mark| mark.len), Some(100));
        assert_eq!(known.files[1..], [None, None]);
        let cut = snapshot.known_durable();
        assert_eq!((cut.have, cut.partial.len()), (durable, 1));
        assert!(!cut.looked.has(PieceIndex(0)) && cut.looked.has(PieceIndex(2)));
    }
}

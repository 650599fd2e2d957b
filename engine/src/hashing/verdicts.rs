//! What is known of each piece while a verification runs, and the thread that keeps it on disk.
//!
//! Owner: [`super::verify::verify_all`]. Invariant: a verdict is set once and stays; what is kept on disk was
//! set before.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use ccbt_protocol::ids::PieceIndex;
use crossbeam_channel::RecvTimeoutError;

use super::HashError;
use super::resume::{self, Kept, Loaded, ResumeError, Stamp};
use super::verify::{PieceState, Target};

const UNKNOWN: u8 = b'.';
const OK: u8 = b'+';
const BAD: u8 = b'-';
/// Not kept on disk: what could not be read is looked at again.
const MISSING: u8 = b'?';

/// State of every piece of several torrents.
pub(super) struct Verdicts(Vec<Vec<AtomicU8>>);

impl Verdicts {
    /// Nothing is known.
    pub(super) fn new(targets: &[Target<'_>]) -> Self {
        let unknown =
            |target: &Target<'_>| target.metainfo.geometry.pieces().map(|_| AtomicU8::new(UNKNOWN)).collect();
        Self(targets.iter().map(unknown).collect())
    }

    /// What is known of a piece.
    pub(super) fn get(&self, torrent: usize, piece: u32) -> Option<PieceState> {
        match self.0[torrent][piece as usize].load(Ordering::Relaxed) {
            OK => Some(PieceState::Ok),
            BAD => Some(PieceState::Bad),
            MISSING => Some(PieceState::Missing),
            _ => None,
        }
    }

    /// Notes what became of a piece.
    pub(super) fn set(&self, torrent: usize, piece: u32, state: PieceState) {
        let letter = match state {
            PieceState::Ok => OK,
            PieceState::Bad => BAD,
            PieceState::Missing => MISSING,
        };
        let before = self.0[torrent][piece as usize].swap(letter, Ordering::Relaxed);
        assert_eq!(before, UNKNOWN, "piece {piece} is reported twice");
    }

    /// Every piece's state. Panics when one is not known.
    pub(super) fn all(&self, torrent: usize) -> Vec<PieceState> {
        let pieces = 0..self.0[torrent].len() as u32;
        pieces.map(|piece| self.get(torrent, piece).expect("every piece is reported")).collect()
    }

    /// Bytes of the pieces that something is known of.
    pub(super) fn bytes_known(&self, targets: &[Target<'_>]) -> u64 {
        let known = targets.iter().enumerate().flat_map(|(torrent, target)| {
            let geometry = target.metainfo.geometry;
            let pieces = geometry.pieces().filter(move |piece| self.get(torrent, piece.0).is_some());
            pieces.map(move |piece| u64::from(geometry.piece_size(piece)))
        });
        known.sum()
    }

    fn letters(&self, torrent: usize) -> String {
        let letter = |piece: &AtomicU8| match piece.load(Ordering::Relaxed) {
            MISSING => char::from(UNKNOWN),
            letter => char::from(letter),
        };
        self.0[torrent].iter().map(letter).collect()
    }

    /// Takes over what an earlier run found out of `target` and still holds.
    fn adopt(&self, torrent: usize, target: &Target<'_>, kept: &Kept, stamps: &[Option<Stamp>]) {
        let geometry = target.metainfo.geometry;
        let mut letters = kept.pieces.clone().into_bytes();
        for (index, file) in target.metainfo.files.iter().enumerate().filter(|(_, file)| !file.pad) {
            if !kept.holds(index, stamps[index].as_ref()) {
                let pieces = geometry.pieces_of_range(file.offset, file.len);
                letters[pieces.start as usize..pieces.end as usize].fill(UNKNOWN);
            }
        }
        for (PieceIndex(piece), letter) in geometry.pieces().zip(letters) {
            match letter {
                OK => self.set(torrent, piece, PieceState::Ok),
                BAD => self.set(torrent, piece, PieceState::Bad),
                _ => {}
            }
        }
    }
}

/// Seconds since 1970; 0 before.
pub(super) fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Keeps verdicts in a file.
pub(super) struct Keeper {
    path: PathBuf,
    notify: Option<fn(&str)>,
    /// All but the verdicts.
    frame: Vec<Kept>,
}

impl Keeper {
    /// Loads what is at `path` into `verdicts`, as far as it is of use, and writes the file anew. The files
    /// looked like `stamps` no earlier than `looked`.
    pub(super) fn open(
        path: &Path,
        targets: &[Target<'_>],
        (looked, stamps): (i64, Vec<Vec<Option<Stamp>>>),
        verdicts: &Verdicts,
        notify: Option<fn(&str)>,
    ) -> Result<Self, ResumeError> {
        let frame = targets.iter().zip(stamps).map(|(target, stamps)| {
            let info_hash = target.metainfo.info_hash.to_string();
            Kept { info_hash, looked, stamps, pieces: String::new() }
        });
        let keeper = Self { path: path.to_owned(), notify, frame: frame.collect() };
        match resume::load(path)? {
            Loaded::Nothing => {}
            Loaded::Corrupt => keeper.say("is damaged: starting over"),
            Loaded::Kept(kept) => {
                if !keeper.adopt(&kept, targets, verdicts) {
                    keeper.say("is of other torrents: starting over");
                }
            }
        }
        keeper.save(verdicts)?;
        Ok(keeper)
    }

    /// Whether any of `targets` was found in `kept`.
    fn adopt(&self, kept: &[Kept], targets: &[Target<'_>], verdicts: &Verdicts) -> bool {
        let mut is_any = false;
        for (torrent, target) in targets.iter().enumerate() {
            let frame = &self.frame[torrent];
            let fits = |kept: &&Kept| {
                kept.info_hash == frame.info_hash
                    && kept.stamps.len() == target.metainfo.files.len()
                    && kept.pieces.len() == target.metainfo.geometry.piece_count() as usize
            };
            if let Some(kept) = kept.iter().find(fits) {
                verdicts.adopt(torrent, target, kept, &frame.stamps);
                is_any = true;
            }
        }
        is_any
    }

    /// Runs `work`, and saves `verdicts` every `interval` and when it fails; removes the file when it does
    /// not.
    pub(super) fn watch<T>(
        &self,
        verdicts: &Verdicts,
        interval: Duration,
        work: impl FnOnce() -> Result<T, HashError>,
    ) -> Result<T, HashError> {
        let result = std::thread::scope(|scope| {
            let (hang_up, ended) = crossbeam_channel::bounded::<()>(0);
            let saver =
                std::thread::Builder::new().name("ccbt-resume".into()).spawn_scoped(scope, move || {
                    while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                        if let Err(error) = self.save(verdicts) {
                            self.say(&format!("cannot be written ({error}): going on without"));
                            return;
                        }
                    }
                });
            if let Err(error) = saver {
                self.say(&format!("is only written at the end ({error})"));
            }
            let result = work();
            drop(hang_up);
            result
        });
        let kept = match &result {
            Ok(_) => resume::remove(&self.path),
            Err(_) => self.save(verdicts),
        };
        if let Err(error) = kept {
            self.say(&format!("cannot be written or removed: {error}"));
        }
        result
    }

    fn save(&self, verdicts: &Verdicts) -> std::io::Result<()> {
        let fill =
            |(torrent, frame): (usize, &Kept)| Kept { pieces: verdicts.letters(torrent), ..frame.clone() };
        let kept: Vec<Kept> = self.frame.iter().enumerate().map(fill).collect();
        resume::save(&self.path, &kept)
    }

    fn say(&self, what: &str) {
        if let Some(notify) = self.notify {
            notify(&format!("the resume file {} {what}", super::shown(&self.path)));
        }
    }
}

//! A torrent whose files as such are changed: moved to another folder, renamed, copied before they are written to,
//! deleted.
//!
//! Role: fences the torrent off its files while the mover thread ([`ccbt_storage::relocate`]) has them. Owner: the
//! shard. Invariants: while a torrent is fenced, no command for its files is handed to storage but the `Sync` and
//! `Close` at the beginning and the `Open` at the end; what it has is not checked again, but pieces whose bytes are not
//! there any more when the files are opened again are missing; one change at a time, in the order asked for.
//!
//! The way of a change: wait until nothing is under way → sync → close → mover → open with the new layout. Peers stay
//! connected meanwhile; they are served from memory only, nothing is asked of them, and verified pieces wait in
//! memory. Other torrents go on.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_storage::error::StorageError;
use ccbt_storage::layout::LayoutSpec;
use ccbt_storage::messages::{OpenReport, StorageCmd};
use ccbt_storage::relocate::{
    DeleteReport, Left, MoveOptions, MoveProgress, MoveReport, RelocateDone, RelocateError, RelocateJob,
    RelocateKind, RelocateReport,
};

use crate::messages::{Event, FromShard};
use crate::shard::Shard;
use crate::torrents::{Home, Phase};

/// Changes of one torrent that may wait for their turn; further ones are refused.
const WAITING_MAX: usize = 256;

/// A change that was asked for.
#[derive(Debug)]
enum Wish {
    Move {
        root: PathBuf,
        options: MoveOptions,
    },
    Rename {
        file: u32,
        path: PathBuf,
    },
    /// Verified pieces wait to be written to files that have further hard links.
    Unshare,
}

/// How far the change under way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Until commands and hash jobs under way are answered.
    Draining,
    /// `Close` was handed over.
    Closing,
    /// The mover has the files.
    Working,
    /// `Open` was handed over, or failed and is tried again.
    Reopening,
    /// Files are in two places; only another move helps.
    Stuck,
}

/// The change under way.
#[derive(Debug)]
struct Change {
    wish: Wish,
    stage: Stage,
    /// The layout that holds if it succeeds.
    to: Arc<LayoutSpec>,
    progress: Arc<MoveProgress>,
    /// Bytes that were told last.
    told: u64,
    /// Told once the files are open again.
    news: Option<Event>,
    /// Files are to be looked at again afterwards, trusting what is known of them or not.
    restart: Option<bool>,
}

impl Change {
    fn new(wish: Wish, stage: Stage, to: LayoutSpec) -> Self {
        let (to, progress) = (Arc::new(to), Arc::default());
        Self { wish, stage, to, progress, told: 0, news: None, restart: None }
    }
}

/// What happens to a torrent's files as such.
#[derive(Debug, Default)]
pub(crate) struct Relocations {
    waiting: VecDeque<Wish>,
    change: Option<Change>,
}

impl Relocations {
    fn stage(&self) -> Option<Stage> {
        self.change.as_ref().map(|change| change.stage)
    }

    /// Whether nothing may be read from or written to the files now.
    pub fn is_fenced(&self) -> bool {
        self.change.is_some()
    }

    /// Whether the files are being opened again, or wait to be.
    pub fn is_reopening(&self) -> bool {
        self.stage() == Some(Stage::Reopening)
    }

    /// Whether a user would say that files are being moved.
    pub fn is_moving(&self) -> bool {
        let moving = |change: &Change| change.stage != Stage::Stuck && !matches!(change.wish, Wish::Unshare);
        self.change.as_ref().is_some_and(moving)
    }

    /// Keeps a restart for when the change is over. `false`: none is under way.
    pub fn put_off_restart(&mut self, trust: bool) -> bool {
        let Some(change) = &mut self.change else { return false };
        change.restart = Some(trust && change.restart.unwrap_or(true));
        true
    }

    fn is_unshare_wanted(&self) -> bool {
        let under_way = self.change.as_ref().map(|change| &change.wish);
        self.waiting.iter().chain(under_way).any(|wish| matches!(wish, Wish::Unshare))
    }
}

fn in_words(left: Vec<Left>) -> Vec<String> {
    left.into_iter().map(|left| format!("{}: {}", left.path.display(), left.reason)).collect()
}

/// Pieces that were had and whose bytes `report` does not find any more.
fn lost_pieces(home: &Home, report: &OpenReport) -> Vec<PieceIndex> {
    let Some(torrent) = &home.torrent else { return Vec::new() };
    let mut lost = Vec::new();
    for (file, found) in home.meta.files.iter().zip(&report.files) {
        if file.pad || file.symlink.is_some() || found.existed && found.len >= file.len {
            continue;
        }
        let there = if found.existed { found.len } else { 0 };
        let gone = home.meta.geometry.pieces_of_range(file.offset + there, file.len - there);
        lost.extend(gone.map(PieceIndex).filter(|piece| torrent.picker().have().has(*piece)));
    }
    // A piece may lie in several files.
    lost.sort_unstable();
    lost.dedup();
    lost
}

/// Files that pieces waiting to be written lie in.
fn files_of_unwritten(home: &Home) -> Vec<u32> {
    let spec = &home.spec;
    let extents = home
        .unwritten
        .iter()
        .flat_map(|(piece, buf)| spec.extents(spec.piece_start(*piece), buf.len() as u32));
    let mut files: Vec<u32> = extents.map(|extent| extent.file).collect();
    files.sort_unstable();
    files.dedup();
    files
}

impl Shard {
    // ---- wishes

    pub(crate) fn want_move(&mut self, key: TorrentKey, root: PathBuf, options: MoveOptions) {
        self.want(key, Wish::Move { root, options });
    }

    pub(crate) fn want_rename(&mut self, key: TorrentKey, file: u32, path: PathBuf) {
        self.want(key, Wish::Rename { file, path });
    }

    /// Verified pieces wait for files of their own. `cause` names the first of them.
    pub(crate) fn want_unshared(&mut self, index: usize, cause: &StorageError) {
        let home = &mut self.homes[index];
        if home.relocations.is_unshare_wanted() {
            return;
        }
        home.relocations.waiting.push_back(Wish::Unshare);
        let key = home.key;
        let path = cause.path().display();
        let note = format!("{path} has another hard link: it is copied before it is written to");
        self.tell(FromShard::Event(key, Event::Note(note)));
        self.touch(index);
    }

    fn want(&mut self, key: TorrentKey, wish: Wish) {
        let failed = |message: &str| Event::MoveFailed { message: message.to_owned() };
        let Some(&index) = self.by_key.get(&key) else {
            return self.tell(FromShard::Event(key, failed("the torrent is not here any more")));
        };
        let refused = match &self.homes[index] {
            home if matches!(home.phase, Phase::Ending { .. }) => Some("the torrent is being removed"),
            home if home.relocations.waiting.len() >= WAITING_MAX => {
                Some("too many moves and renames wait already; ask again when they are done")
            }
            _ => None,
        };
        if let Some(reason) = refused {
            return self.tell(FromShard::Event(key, failed(reason)));
        }
        self.homes[index].relocations.waiting.push_back(wish);
        self.touch(index);
    }

    /// Gives up the move under way and those that wait.
    pub(crate) fn cancel_moves(&mut self, key: TorrentKey) {
        if let Some(&index) = self.by_key.get(&key) {
            self.drop_waiting(index);
            if let Some(change) = &self.homes[index].relocations.change {
                change.progress.cancel();
            }
        }
    }

    fn drop_waiting(&mut self, index: usize) {
        let home = &mut self.homes[index];
        let key = home.key;
        let waiting = std::mem::take(&mut home.relocations.waiting);
        let (unshare, dropped) =
            waiting.into_iter().partition::<Vec<_>, _>(|wish| matches!(wish, Wish::Unshare));
        home.relocations.waiting.extend(unshare);
        for _ in dropped {
            let message = RelocateError::Cancelled.to_string();
            self.tell(FromShard::Event(key, Event::MoveFailed { message }));
        }
    }

    /// The torrent ends: nothing new begins, and a move under way is undone.
    pub(crate) fn end_relocations(&mut self, index: usize) {
        self.drop_waiting(index);
        let relocations = &mut self.homes[index].relocations;
        relocations.waiting.clear();
        match &relocations.change {
            Some(change) if change.stage == Stage::Working => change.progress.cancel(),
            _ => relocations.change = None,
        }
    }

    // ---- the way of a change

    /// Goes on with what is asked for, as far as it can.
    pub(crate) fn continue_relocation(&mut self, index: usize) {
        let home = &mut self.homes[index];
        match home.relocations.stage() {
            None if !home.relocations.waiting.is_empty() => self.begin_change(index),
            Some(Stage::Draining) => self.drain(index),
            Some(Stage::Stuck) if !home.relocations.waiting.is_empty() => self.begin_change(index),
            _ => {}
        }
    }

    fn begin_change(&mut self, index: usize) {
        let home = &mut self.homes[index];
        let is_stuck = home.relocations.stage() == Some(Stage::Stuck);
        let failed_to_open = matches!(home.phase, Phase::Opening) && home.failure.is_some();
        if !matches!(home.phase, Phase::Running) && !failed_to_open && !is_stuck {
            return;
        }
        let Some(wish) = home.relocations.waiting.pop_front() else { return };
        let to = match &wish {
            Wish::Move { root, .. } => Ok(home.spec.with_root(root.clone())),
            Wish::Rename { file, path } => home.spec.with_renames(&[(*file, path.clone())]),
            Wish::Unshare => Ok((*home.spec).clone()),
        };
        let key = home.key;
        match to {
            Ok(to) => {
                // Whoever moves a torrent that waits for the user has looked after it.
                home.held = false;
                let stage = if is_stuck { Stage::Closing } else { Stage::Draining };
                home.relocations.change = Some(Change::new(wish, stage, to));
                self.stop_satellites(index);
                if is_stuck {
                    self.on_fenced(index);
                } else {
                    self.drain(index);
                }
            }
            Err(error) => {
                self.tell(FromShard::Event(key, Event::MoveFailed { message: error.to_string() }));
                self.touch(index);
            }
        }
    }

    /// Waits for what is under way, makes durable what was written, closes.
    fn drain(&mut self, index: usize) {
        let home = &mut self.homes[index];
        if home.busy > 0 || home.part.satellites().next().is_some() {
            return;
        }
        if !home.durability.unsynced.is_empty() {
            return self.submit_sync(index);
        }
        home.relocations.change.as_mut().expect("a change is drained for").stage = Stage::Closing;
        home.busy += 1;
        let torrent = home.key;
        self.command(StorageCmd::Close { torrent });
    }

    /// The files are closed: the mover's turn.
    pub(crate) fn on_fenced(&mut self, index: usize) {
        let home = &mut self.homes[index];
        let (torrent, from) = (home.key, Arc::clone(&home.spec));
        let files = files_of_unwritten(home);
        let change = home.relocations.change.as_mut().filter(|change| change.stage == Stage::Closing);
        let Some(change) = change else { return self.touch(index) };
        change.stage = Stage::Working;
        let kind = match &change.wish {
            Wish::Move { options, .. } => {
                RelocateKind::Move { from, to: change.to.clone(), options: *options }
            }
            Wish::Rename { .. } => {
                RelocateKind::Move { from, to: change.to.clone(), options: MoveOptions::default() }
            }
            Wish::Unshare => RelocateKind::Unshare { spec: from, files },
        };
        let job = RelocateJob { torrent, kind, progress: Arc::clone(&change.progress) };
        self.submit_job(index, job);
    }

    /// The files are closed and shall go.
    pub(crate) fn delete_files(&mut self, index: usize) {
        let home = &mut self.homes[index];
        let kind = RelocateKind::Delete { spec: Arc::clone(&home.spec) };
        let job = RelocateJob { torrent: home.key, kind, progress: Arc::default() };
        self.submit_job(index, job);
    }

    fn submit_job(&mut self, index: usize, job: RelocateJob) {
        self.homes[index].busy += 1;
        self.moves.push_back(job);
        self.submit_waiting_jobs();
    }

    /// Hands over jobs as long as there is room for them.
    pub(crate) fn submit_waiting_jobs(&mut self) {
        while let Some(job) = self.moves.pop_front() {
            if let Err(job) = self.storage.relocate(job) {
                return self.moves.push_front(job);
            }
        }
    }

    pub(crate) fn on_relocated(&mut self, done: RelocateDone) {
        let index = *self.by_key.get(&done.torrent).expect("a torrent stays until its jobs are answered");
        let home = &mut self.homes[index];
        home.busy -= 1;
        if let Phase::Ending { closing } = home.phase {
            return self.relocated_in_the_end(index, closing, done.result);
        }
        let change = home.relocations.change.as_mut().expect("a job belongs to a change");
        change.stage = Stage::Reopening;
        match done.result {
            Ok(RelocateReport::Moved(report)) => {
                change.news = Some(news_of(&change.wish, report));
                home.spec = Arc::clone(&change.to);
            }
            Ok(_) => {}
            Err(error) => self.change_failed(index, error),
        }
        if self.homes[index].relocations.is_reopening() {
            self.open(index);
        }
        self.touch(index);
    }

    fn change_failed(&mut self, index: usize, error: RelocateError) {
        let home = &mut self.homes[index];
        let (key, message) = (home.key, error.to_string());
        let change = home.relocations.change.as_mut().expect("a job belongs to a change");
        if matches!(change.wish, Wish::Unshare) {
            // Told as a failure of the disk; it is tried again like one.
            return match error {
                RelocateError::Storage(error) => self.fail(index, &error),
                _ => self.fail_with(index, message, true),
            };
        }
        let is_split = matches!(error, RelocateError::Split { .. });
        if is_split {
            // Opening would make empty files where there are none.
            change.stage = Stage::Stuck;
        }
        self.tell(FromShard::Event(key, Event::MoveFailed { message: message.clone() }));
        if is_split {
            self.fail_with(index, message, false);
        }
    }

    /// Opened after a change.
    pub(crate) fn on_reopened(&mut self, index: usize, result: Result<OpenReport, StorageError>) {
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                self.fail(index, &error);
                return self.touch(index);
            }
        };
        let home = &mut self.homes[index];
        let key = home.key;
        let change = home.relocations.change.take().expect("opened after a change");
        home.take_report(&report);
        let lost = lost_pieces(home, &report);
        for piece in &lost {
            self.lose_piece(index, *piece);
        }
        if let Some(torrent) = &mut self.homes[index].torrent {
            torrent.mark_all();
        }
        if !lost.is_empty() {
            let note = format!("{} pieces are missing again: their files became shorter or went", lost.len());
            self.tell(FromShard::Event(key, Event::Note(note)));
        }
        let home = &mut self.homes[index];
        match home.torrent {
            // It had not been looked at yet.
            None => self.opened(index, &report),
            // A copy that failed is tried again later, as a write is.
            Some(_) if matches!(change.wish, Wish::Unshare) && home.failure.is_some() => {}
            Some(_) if home.failure.is_some() => self.recover(index),
            Some(_) => {
                for (piece, buf) in std::mem::take(&mut home.unwritten) {
                    self.write(index, piece, buf);
                }
            }
        }
        if let Some(news) = change.news {
            self.tell(FromShard::Event(key, news));
        }
        if let Some(trust) = change.restart {
            self.restart(index, trust);
        }
        self.wake_hungry();
        self.spread(index);
        self.dial(index);
        self.touch(index);
    }

    /// The torrent ended while the mover had its files.
    fn relocated_in_the_end(
        &mut self,
        index: usize,
        closing: bool,
        result: Result<RelocateReport, RelocateError>,
    ) {
        let home = &mut self.homes[index];
        let key = home.key;
        if closing {
            match result {
                Ok(RelocateReport::Deleted(DeleteReport { files, bytes, left })) => {
                    let deleted = Event::Deleted { files, bytes, left: in_words(left) };
                    self.tell(FromShard::Event(key, deleted));
                }
                Ok(_) => unreachable!("a closed torrent is only deleted"),
                Err(error) => {
                    let deleted = Event::Deleted { files: 0, bytes: 0, left: vec![error.to_string()] };
                    self.tell(FromShard::Event(key, deleted));
                }
            }
            return self.forget(index);
        }
        let change = home.relocations.change.take().expect("a job belongs to a change");
        let told = match result {
            Ok(RelocateReport::Moved(report)) => {
                home.spec = change.to;
                Some(news_of(&change.wish, report))
            }
            Ok(_) => None,
            Err(error) if matches!(change.wish, Wish::Unshare) => Some(Event::Note(error.to_string())),
            Err(error) => Some(Event::MoveFailed { message: error.to_string() }),
        };
        if let Some(event) = told {
            self.tell(FromShard::Event(key, event));
        }
        self.touch(index);
    }

    /// Tells how far a move is, if it went on.
    pub(crate) fn tell_move_progress(&mut self, index: usize) {
        let home = &mut self.homes[index];
        let (is_moving, key) = (home.relocations.is_moving(), home.key);
        let change =
            home.relocations.change.as_mut().filter(|change| is_moving && change.stage == Stage::Working);
        let Some(change) = change else { return };
        let (done, total) = (change.progress.done(), change.progress.total());
        if done != change.told {
            change.told = done;
            self.tell(FromShard::Event(key, Event::MoveProgress { done, total }));
        }
    }
}

fn news_of(wish: &Wish, report: MoveReport) -> Event {
    match wish {
        Wish::Rename { file, path } => Event::Renamed { file: *file, path: path.clone() },
        Wish::Move { root, .. } => Event::Moved { root: root.clone(), left: in_words(report.left) },
        Wish::Unshare => unreachable!("copies for one's own are no move"),
    }
}

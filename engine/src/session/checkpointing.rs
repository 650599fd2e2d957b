//! The thread that writes checkpoints, `ccbt-checkpoint`.
//!
//! Role: decides when a torrent's checkpoint is due, asks its shard how the pieces are, looks at the files, and writes.
//! Owner: the session. A shard only copies two sets of pieces for it. What happens to torrents comes over the [`Board`],
//! which the control thread writes without ever waiting.
//!
//! Invariant: what is claimed holds after a power cut ([`Snapshot::known_durable`]), or after an orderly end
//! ([`Snapshot::known`]). A file that was written to less than [`HOT`] before the shard was asked gets no mark: a write
//! that came after the answer could have left it the same time, and so nobody could tell it from one before. While a
//! torrent runs no piece is claimed to be missing.

mod board;
mod retention;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ccbt_protocol::checkpoint::{PARTIAL_MAX, PEERS_MAX};
use ccbt_protocol::ids::TorrentKey;
use ccbt_protocol::metainfo::{MAX_METAINFO_LEN, Metainfo};
use ccbt_shards::messages::{AddTorrent, Event, FileMark, Known, Snapshot, State, ToShard, TorrentStatus};
use ccbt_storage::layout::LayoutSpec;
use crossbeam_channel::bounded;

pub(super) use board::Board;
use board::Origin;
use retention::Cleaning;

use super::control::Registry;
use super::events::SessionEvent;
use super::source::TorrentSource;
use super::torrent::Shared;
use crate::checkpoints::{self, Checkpoint, CheckpointSettings, Mark, Rename, Source, Store, Totals};

/// Coarsest step of file times (FAT).
const HOT: Duration = Duration::from_secs(2);
/// Steps of file times on all other file systems are shorter: those of the kernel's tick at most.
const TICK: Duration = Duration::from_millis(20);
/// What was written longer ago has reached the disk, whoever wrote it. Younger files that this session has not synced,
/// because it only read them, may lose their bytes and keep their times in a power cut.
const RECENT: Duration = Duration::from_secs(300);
/// How often torrents with news are looked at, unless the interval is shorter.
const LOOK: Duration = Duration::from_millis(250);
/// A shard that takes longer to answer is stuck, and asked again later.
const ANSWER: Duration = Duration::from_secs(5);

/// The running thread.
pub(super) struct Checkpointer {
    board: Arc<Board>,
    store: Store,
    thread: JoinHandle<()>,
}

impl Checkpointer {
    /// Starts it. `settings` name a folder.
    pub(super) fn start(
        settings: &CheckpointSettings,
        is_synced: bool,
        board: Arc<Board>,
        registry: Arc<Registry>,
    ) -> io::Result<Self> {
        let dir = settings.dir.clone().expect("checkpoints have a folder");
        let store = Store::new(dir);
        let mut writer = Writer {
            settings: settings.clone(),
            is_synced,
            store: store.clone(),
            registry,
            torrents: HashMap::new(),
            pending: HashSet::new(),
            failing: false,
            cleaning: Cleaning::default(),
        };
        let board_of_thread = Arc::clone(&board);
        let thread = std::thread::Builder::new()
            .name("ccbt-checkpoint".to_owned())
            .spawn(move || writer.run(&board_of_thread))?;
        Ok(Self { board, store, thread })
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Takes other settings; the folder stays.
    pub(super) fn set(&self, settings: CheckpointSettings) {
        self.board.put(|news| news.settings = Some(settings));
    }

    /// Keeps checkpoints of a torrent from now on. It was read from the file or the magnet link `from` and goes on from
    /// `before`.
    pub(super) fn watch(
        &self,
        shared: &Arc<Shared>,
        from: (Option<PathBuf>, Option<String>),
        before: Option<&Checkpoint>,
        add: &AddTorrent,
    ) {
        let before = before.filter(|before| before.info_hash == shared.info_hash());
        let spec = LayoutSpec::from_metainfo(add.root.clone(), &add.metainfo);
        let origin = Origin {
            source: Source {
                torrent: from.0.and_then(|path| std::path::absolute(path).ok()),
                magnet: from.1.or_else(|| before.and_then(|before| before.source.magnet.clone())),
            },
            added_at: before.map_or_else(checkpoints::now, |before| before.added_at),
            totals: before.map_or_else(Totals::default, |before| before.totals),
            peers: before.map_or_else(Vec::new, |before| before.peers.clone()),
            seed_only: add.seed_only,
            spec: spec.and_then(|spec| spec.with_renames(&add.renames)).ok().filter(|_| add.seed_only),
        };
        self.board.put(|news| news.added.push((Arc::clone(shared), origin)));
    }

    /// Writes what is left, and ends. Called when the control thread has ended.
    pub(super) fn finish(self) {
        self.board.put(|news| news.ended = true);
        if self.thread.join().is_err() {
            tracing::error!("the checkpoint thread panicked");
        }
    }
}

/// What a checkpoint was written from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    state: State,
    pieces: u32,
    durable: u32,
    partial: u32,
}

impl Seen {
    fn of(status: &TorrentStatus) -> Self {
        let TorrentStatus { state, pieces_done, pieces_durable, blocks_partial, .. } = *status;
        Self { state, pieces: pieces_done, durable: pieces_durable, partial: blocks_partial }
    }
}

/// A torrent that is watched.
#[derive(Debug)]
struct Torrent {
    shared: Arc<Shared>,
    origin: Origin,
    /// Files that only we could change, and do not: as they were when the torrent was added.
    unchanged: Option<Vec<Option<FileMark>>>,
    /// When the last one was tried, and of what it was; `None` before the first.
    last: Option<(Instant, Seen)>,
    /// The last one has files without a mark.
    hot: bool,
    /// One is due at once.
    urgent: bool,
}

impl Torrent {
    fn new(shared: Arc<Shared>, origin: Origin) -> Self {
        let unchanged = origin.spec.as_ref().map(marks);
        Self { shared, origin, unchanged, last: None, hot: false, urgent: false }
    }

    fn metainfo(&self) -> &Arc<Metainfo> {
        self.shared.metainfo()
    }

    /// Takes the marks of files away that somebody has changed while they were served: what of them was hashed before
    /// that may not hold any more.
    fn doubt_changed(&self, known: &mut Known) {
        for (mark, before) in known.files.iter_mut().zip(self.unchanged.iter().flatten()) {
            if mark != before {
                *mark = None;
            }
        }
    }

    fn snapshot(&self) -> Option<Snapshot> {
        let (reply, answer) = bounded(1);
        self.shared.send(ToShard::Snapshot(self.shared.key(), reply)).ok()?;
        answer.recv_timeout(ANSWER).ok()
    }

    /// Whether a checkpoint is due; `None`: nothing is new.
    fn is_due(&self, seen: Seen, settings: &CheckpointSettings) -> Option<bool> {
        let Some((at, before)) = self.last else { return Some(true) };
        if before == seen && !self.hot && !self.urgent {
            return None;
        }
        let many = settings.pieces > 0 && seen.pieces.abs_diff(before.pieces) >= settings.pieces;
        // Its begun pieces reach the disk when it rests.
        let rests =
            seen.state == State::Paused && (before.state != State::Paused || seen.partial != before.partial);
        Some(self.urgent || many || rests || at.elapsed() >= settings.interval)
    }

    fn compose(&self, known: Known, snapshot_spec: &ccbt_storage::layout::LayoutSpec) -> Checkpoint {
        let metainfo = self.metainfo();
        let status = self.shared.status();
        let stats = status.as_ref().map(|status| status.stats).unwrap_or_default();
        let connected = status.iter().flat_map(|status| &status.peers).filter(|peer| !peer.incoming);
        let mut peers: Vec<_> = connected.map(|peer| peer.addr).collect();
        peers.extend(&self.origin.peers);
        let mut met = HashSet::new();
        peers.retain(|peer| met.insert(*peer));
        peers.truncate(PEERS_MAX);
        let root = snapshot_spec.root();
        let mark = |mark: ccbt_shards::messages::FileMark| Mark { len: mark.len, mtime_ns: mark.mtime_ns };
        Checkpoint {
            info_hash: metainfo.info_hash,
            name: metainfo.name.clone(),
            saved_at: checkpoints::now(),
            added_at: self.origin.added_at,
            source: self.origin.source.clone(),
            output: std::path::absolute(root).unwrap_or_else(|_| root.to_owned()),
            renames: renames(metainfo, snapshot_spec),
            piece_len: metainfo.geometry.piece_len(),
            total_len: metainfo.geometry.total_len(),
            have: known.have,
            looked: known.looked,
            partial: known.partial.into_iter().take(PARTIAL_MAX).collect(),
            files: known.files.into_iter().map(|file| file.map(mark)).collect(),
            totals: Totals {
                downloaded: self.origin.totals.downloaded.saturating_add(stats.downloaded),
                uploaded: self.origin.totals.uploaded.saturating_add(stats.uploaded),
            },
            trackers: metainfo.trackers.clone(),
            file_priorities: self.shared.priorities(),
            peers,
        }
    }
}

/// The bytes of a torrent file that is one still: a pipe would keep this thread waiting, and the session's end with it.
fn read_torrent(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file =
        fs::metadata(path).ok().filter(fs::Metadata::is_file).and_then(|_| fs::File::open(path).ok())?;
    file.take(MAX_METAINFO_LEN as u64 + 1).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Files that lie elsewhere than the torrent says.
fn renames(metainfo: &Metainfo, spec: &ccbt_storage::layout::LayoutSpec) -> Vec<Rename> {
    let pairs = spec.files().iter().zip(&metainfo.files).enumerate();
    let differs = |path: &Path, own: &[String]| !path.iter().eq(own.iter().map(std::ffi::OsStr::new));
    pairs
        .filter(|(_, (file, entry))| !file.pad && differs(&file.path, &entry.path))
        .map(|(index, (file, _))| Rename { file: index as u32, path: file.path.clone() })
        .collect()
}

/// What a running torrent's checkpoint says, from the answer of a shard that was asked then; whether files have no mark
/// yet.
fn claims(snapshot: Snapshot, asked: SystemTime) -> (Known, bool) {
    let mut known = snapshot.known_durable();
    // A piece may be on its way to the disk by now, so none is claimed to be missing.
    known.looked = known.have.clone();
    let hot = cool(&mut known, asked, HOT);
    (known, hot)
}

/// Takes the marks of files away that were written to less than `age` before `since`, or after it; whether there were any.
fn cool(known: &mut Known, since: SystemTime, age: Duration) -> bool {
    let limit = nanoseconds(since) - age.as_nanos() as i64;
    let mut hot = false;
    for file in &mut known.files {
        if file.is_some_and(|mark| mark.mtime_ns > limit) {
            *file = None;
            hot = true;
        }
    }
    hot
}

/// Length and time of every file now.
fn marks(spec: &LayoutSpec) -> Vec<Option<FileMark>> {
    let mark = |(at, file): (usize, &ccbt_storage::layout::FileSpec)| {
        let mark = checkpoints::import::mark(&spec.file_path(at as u32)).filter(|_| !file.pad)?;
        Some(FileMark { len: mark.len, mtime_ns: mark.mtime_ns })
    };
    spec.files().iter().enumerate().map(mark).collect()
}

fn nanoseconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

struct Writer {
    settings: CheckpointSettings,
    /// Whether anything is ever synced.
    is_synced: bool,
    store: Store,
    registry: Arc<Registry>,
    torrents: HashMap<TorrentKey, Torrent>,
    /// Torrents with something new that was not written yet.
    pending: HashSet<TorrentKey>,
    /// The last one could not be written, and that was told.
    failing: bool,
    cleaning: Cleaning,
}

impl Writer {
    fn run(&mut self, board: &Board) {
        loop {
            let look = LOOK.min(self.settings.interval);
            let news = board.wait((!self.pending.is_empty()).then_some(look), self.cleaning.due());
            if let Some(settings) = news.settings {
                self.set(settings);
            }
            for (shared, origin) in news.added {
                self.torrents.insert(shared.key(), Torrent::new(shared, origin));
            }
            for (key, snapshot) in news.closed {
                self.write_last(key, *snapshot);
                self.pending.remove(&key);
                self.torrents.remove(&key);
            }
            for key in news.deleted {
                self.delete(key);
                self.torrents.remove(&key);
            }
            for key in &news.removed {
                self.torrents.remove(key);
            }
            for key in &news.urgent {
                if let Some(torrent) = self.torrents.get_mut(key) {
                    torrent.urgent = true;
                }
            }
            self.pending.extend(news.changed.into_iter().chain(news.urgent));
            for key in self.pending.iter().copied().collect::<Vec<_>>() {
                if self.consider(key) {
                    self.pending.remove(&key);
                }
            }
            if news.ended {
                return;
            }
            self.clean();
        }
    }

    /// Writes a checkpoint if one is due. Whether the torrent needs no further look until there is news of it.
    fn consider(&mut self, key: TorrentKey) -> bool {
        let Some(torrent) = self.torrents.get(&key) else { return true };
        let Some(status) = torrent.shared.status() else { return true };
        let seen = Seen::of(&status);
        if matches!(seen.state, State::Opening | State::Checking | State::Moving) {
            return false;
        }
        match torrent.is_due(seen, &self.settings) {
            None => return true,
            Some(false) => return false,
            Some(true) => {}
        }
        let asked = SystemTime::now();
        let checked = torrent.snapshot().filter(|snapshot| snapshot.checked);
        let Some(snapshot) = checked else {
            // Its files are closed after a failure, or its shard is stuck: again after the interval.
            let torrent = self.torrents.get_mut(&key).expect("seen just now");
            (torrent.last, torrent.hot) = (Some((Instant::now(), seen)), true);
            return false;
        };
        let spec = Arc::clone(&snapshot.spec);
        let (mut known, hot) = claims(snapshot, asked);
        torrent.doubt_changed(&mut known);
        let checkpoint = torrent.compose(known, &spec);
        let written = self.write(key, &checkpoint);
        let torrent = self.torrents.get_mut(&key).expect("seen just now");
        (torrent.last, torrent.hot, torrent.urgent) = (Some((Instant::now(), seen)), hot, false);
        // At an orderly end nobody is connected any more.
        torrent.origin.peers = checkpoint.peers;
        written && !hot
    }

    /// The torrent was stopped orderly: all that is there is known.
    fn write_last(&mut self, key: TorrentKey, snapshot: Snapshot) {
        let Some(torrent) = self.torrents.get(&key) else { return };
        if snapshot.looked.count() == 0 {
            // It ended before it knew anything; what was kept before knows more.
            return;
        }
        let spec = Arc::clone(&snapshot.spec);
        let is_checked = snapshot.checked;
        let unsynced = snapshot.have.has_any_not_in(&snapshot.durable);
        let known = if unsynced && snapshot.checked && self.is_synced && !torrent.origin.seed_only {
            // The last sync failed.
            snapshot.known_durable()
        } else {
            let newest = |known: &Known| known.files.iter().flatten().map(|mark| mark.mtime_ns).max();
            let known = snapshot.clone().known();
            let is_fresh = newest(&known)
                .is_some_and(|newest| newest > nanoseconds(SystemTime::now()) - TICK.as_nanos() as i64);
            // Whoever writes to the files after us must leave another time.
            if is_fresh {
                std::thread::sleep(TICK);
                snapshot.known()
            } else {
                known
            }
        };
        let mut known = known;
        if self.is_synced && (torrent.origin.seed_only || !is_checked) {
            cool(&mut known, SystemTime::now(), RECENT);
        }
        torrent.doubt_changed(&mut known);
        let checkpoint = torrent.compose(known, &spec);
        self.write(key, &checkpoint);
    }

    /// Writes; tells of the first of several failures, and of their end.
    fn write(&mut self, key: TorrentKey, checkpoint: &Checkpoint) -> bool {
        let result = if checkpoint.is_complete() && !self.settings.keep_completed {
            self.store.delete(checkpoint.info_hash).map(drop)
        } else {
            self.store
                .save(checkpoint, self.settings.format)
                .and_then(|()| self.keep_torrent(key, checkpoint))
        };
        match result {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    self.note(key, "checkpoints are written again".to_owned());
                }
                self.cleaning.begin();
                true
            }
            Err(error) => {
                let dir = self.store.dir().display();
                let text = format!(
                    "no checkpoint can be written in {dir}: {error}; the download goes on, and after a crash \
                     its files will be looked at; make room there or name another folder"
                );
                if !std::mem::replace(&mut self.failing, true) {
                    self.note(key, text);
                }
                false
            }
        }
    }

    /// Copies the torrent file beside the checkpoint, once; what came from a magnet link is written there.
    fn keep_torrent(&self, key: TorrentKey, checkpoint: &Checkpoint) -> io::Result<()> {
        let copy = self.store.torrent_path(checkpoint.info_hash);
        let path = checkpoint.source.torrent.as_ref();
        if copy.exists() || path == Some(&copy) {
            return Ok(());
        }
        let Some(path) = path else {
            let torrent = self.torrents.get(&key).filter(|_| checkpoint.source.magnet.is_some());
            let bytes = torrent.map(|torrent| torrent.metainfo().to_torrent());
            return bytes.map_or(Ok(()), |bytes| self.store.save_torrent(checkpoint.info_hash, &bytes));
        };
        // It may be gone, something else or another one by now; then there is no copy.
        let Some(bytes) = read_torrent(path) else { return Ok(()) };
        let is_it = TorrentSource::from(bytes.clone())
            .load()
            .is_ok_and(|metainfo| metainfo.info_hash == checkpoint.info_hash);
        if is_it { self.store.save_torrent(checkpoint.info_hash, &bytes) } else { Ok(()) }
    }

    fn delete(&mut self, key: TorrentKey) {
        let Some(torrent) = self.torrents.get(&key) else { return };
        if let Err(error) = self.store.delete(torrent.shared.info_hash()) {
            self.note(key, format!("its checkpoint cannot be removed: {error}"));
        }
    }

    fn note(&self, key: TorrentKey, text: String) {
        self.registry.publish(&SessionEvent::Torrent(key, Event::Note(text)));
    }
}

#[cfg(test)]
#[path = "checkpointing_tests.rs"]
mod tests;

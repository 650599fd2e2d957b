//! The life of a torrent on its home shard: open, check what is there, run, close.
//!
//! Role: turns control messages and storage answers into calls of [`Torrent`]. Owner: the shard. Its pieces are in
//! [`crate::pieces`], the look at existing data in [`crate::checking`]. Invariant: a torrent stays in the slab until
//! every command and job of its own has been answered and every connection is gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use ccbt_protocol::candidates::{Candidates, Source};
use ccbt_protocol::geometry::Block;
use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_protocol::metainfo::Metainfo;
use ccbt_protocol::picker::{PeerKey, PickerConfig, Priority, Slots};
use ccbt_protocol::torrent::{Stats, Torrent, TorrentConfig};
use ccbt_storage::arena::{Partition, PieceBuf};
use ccbt_storage::error::StorageError;
use ccbt_storage::layout::LayoutSpec;
use ccbt_storage::messages::{OpenMode, OpenReport, Preallocate, StorageCmd, StorageDone};

use crate::announce::{Announces, Identity, Totals};
use crate::checking::Check;
use crate::messages::{AddTorrent, Event, FromShard, State};
use crate::pieces::{Durability, Failure};
use crate::ring::{LivePiece, Places, SocketKey};
use crate::satellites::Part;
use crate::shard::{PIECES_MAX, Shard};

/// What a torrent waits for.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Files are being opened.
    Opening,
    /// What is on disk is being hashed.
    Checking(Check),
    /// Peers are served and asked.
    Running,
    /// It ends: no new work; gone when nothing is under way and trackers know.
    Ending {
        /// `Close` was handed over.
        closing: bool,
    },
}

/// A block that was received beside its place, which a receive of `holder` may still overwrite.
pub(crate) struct Aside {
    pub block: Block,
    pub bytes: Vec<u8>,
    pub holder: Option<SocketKey>,
}

/// One torrent.
pub(crate) struct Home {
    pub key: TorrentKey,
    pub meta: Arc<Metainfo>,
    pub spec: Arc<LayoutSpec>,
    pub phase: Phase,
    /// From the end of checking on.
    pub torrent: Option<Torrent>,
    /// Memory of the pieces being fetched.
    pub live: LivePieces,
    pub asides: Vec<Aside>,
    /// Complete pieces whose memory a cancelled receive still holds.
    pub completing: Vec<PieceIndex>,
    pub sockets: HashMap<PeerKey, SocketKey>,
    pub candidates: Candidates,
    pub announces: Option<Announces>,
    pub max_peers: usize,
    /// Connections, half-open ones included.
    pub conns: usize,
    /// On the shard's list of this turn.
    pub touched: bool,
    /// On the shard's list of torrents without memory.
    pub starved: bool,
    pub failure: Option<Failure>,
    /// Verified pieces that the disk did not take.
    pub unwritten: Vec<(PieceIndex, PieceBuf)>,
    /// Hash jobs and storage commands of pieces under way.
    pub busy: usize,
    pub durability: Durability,
    /// Its home, or a satellite of it.
    pub part: Part,
    /// Sums of satellites that are gone.
    pub past: Stats,
    /// Other shards help once it runs.
    spread: bool,
    seed_only: bool,
    prealloc: Preallocate,
    pub picker: PickerConfig,
    /// What the last status told, and whether bytes moved then.
    pub last_status: Option<(State, Stats, usize, u32, bool)>,
    removed: bool,
}

/// The memory of pieces being fetched.
#[derive(Default)]
pub(crate) struct LivePieces(pub HashMap<PieceIndex, LivePiece>);

impl Places for LivePieces {
    fn piece(&self, block: Block) -> Option<&LivePiece> {
        self.0.get(&block.piece)
    }
}

/// Gives the picker memory for pieces.
pub(crate) struct SlotSource<'a> {
    pub live: &'a mut LivePieces,
    pub partition: &'a mut Partition,
    pub spec: &'a LayoutSpec,
    /// Pieces of all torrents of the shard that hold memory.
    pub pieces: &'a mut usize,
    pub starved: bool,
}

impl Slots for SlotSource<'_> {
    fn acquire(&mut self, piece: PieceIndex, len: u32) -> bool {
        let room = *self.pieces < PIECES_MAX;
        let Some(buf) = room.then(|| self.partition.alloc(len, self.spec.phase(piece))).flatten() else {
            self.starved = true;
            return false;
        };
        *self.pieces += 1;
        let before = self.live.0.insert(piece, LivePiece::new(buf));
        assert!(before.is_none(), "piece {piece} has memory already");
        true
    }
}

impl Home {
    /// One that waits for its files.
    pub fn new(
        now: Instant,
        key: TorrentKey,
        meta: Arc<Metainfo>,
        spec: Arc<LayoutSpec>,
        picker: PickerConfig,
        max_peers: usize,
    ) -> Self {
        Self {
            key,
            spec,
            phase: Phase::Opening,
            torrent: None,
            live: LivePieces::default(),
            asides: Vec::new(),
            completing: Vec::new(),
            sockets: HashMap::new(),
            candidates: Candidates::default(),
            announces: None,
            max_peers,
            conns: 0,
            touched: false,
            starved: false,
            failure: None,
            unwritten: Vec::new(),
            busy: 0,
            durability: Durability::default(),
            part: Part::home(now),
            past: Stats::default(),
            spread: false,
            seed_only: false,
            prealloc: Preallocate::default(),
            picker,
            last_status: None,
            removed: false,
            meta,
        }
    }

    pub fn state(&self) -> State {
        match &self.phase {
            Phase::Opening if self.failure.is_none() => State::Opening,
            _ if self.failure.is_some() => State::Paused,
            Phase::Checking(_) => State::Checking,
            _ if self.torrent.as_ref().is_some_and(Torrent::is_finished) => State::Seeding,
            _ => State::Downloading,
        }
    }

    /// Whether connections are welcome.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }

    /// Sums of all parts.
    pub fn stats(&self) -> Stats {
        let mut stats = self.torrent.as_ref().map(Torrent::stats).unwrap_or_default();
        stats += self.past;
        self.part.satellites().for_each(|satellite| stats += satellite.stats);
        stats
    }

    /// Connections of all parts, half-open ones included.
    pub fn all_conns(&self) -> usize {
        self.conns + self.part.satellites().map(|satellite| satellite.conns).sum::<usize>()
    }

    fn totals(&self) -> Totals {
        let stats = self.stats();
        Totals { uploaded: stats.uploaded, downloaded: stats.downloaded, left: self.bytes_left() }
    }

    fn bytes_left(&self) -> u64 {
        let total = self.meta.geometry.total_len();
        total - self.bytes_done()
    }

    /// Bytes verified and written.
    pub fn bytes_done(&self) -> u64 {
        let Some(torrent) = &self.torrent else { return 0 };
        let (geometry, have) = (self.meta.geometry, torrent.picker().have());
        let last = PieceIndex(geometry.piece_count() - 1);
        let whole = u64::from(have.count()) * u64::from(geometry.piece_len());
        let short = u64::from(geometry.piece_len() - geometry.piece_size(last));
        if have.has(last) { whole - short } else { whole }
    }
}

impl Shard {
    pub(crate) fn add_torrent(&mut self, add: AddTorrent, spread: bool) {
        assert!(!self.by_key.contains_key(&add.key), "a torrent key used twice");
        let spec = match LayoutSpec::from_metainfo(add.root.clone(), &add.metainfo) {
            Ok(spec) => Arc::new(spec),
            Err(error) => {
                let failed = Event::Failed { message: error.to_string(), retry: false };
                return self.tell(FromShard::Event(add.key, failed));
            }
        };
        let mut candidates = Candidates::default();
        for peer in &add.peers {
            candidates.add(*peer, Source::User);
        }
        let announces = (add.use_trackers && !add.metainfo.trackers.is_empty()).then(|| {
            let identity = Identity {
                torrent: add.key,
                info_hash: add.metainfo.info_hash,
                peer_id: self.config.peer_id,
                port: self.config.listen_port,
            };
            Announces::new(identity, &add.metainfo.trackers, self.now, &mut self.rng)
        });
        let home = Home {
            candidates,
            announces,
            part: Part::home(self.now),
            spread,
            seed_only: add.seed_only,
            prealloc: add.prealloc,
            ..Home::new(self.now, add.key, add.metainfo, spec, add.picker, add.max_peers)
        };
        let (key, hash) = (home.key, home.meta.info_hash);
        let index = self.homes.insert(home);
        self.by_key.insert(key, index);
        self.by_hash.insert(hash, index);
        let home = &self.homes[index];
        if home.meta.geometry.piece_len() as usize + ccbt_storage::arena::PAGE > self.partition.capacity() {
            let message = format!(
                "its pieces of {} KiB do not fit into this shard's {} MiB of piece memory; raise --memory or use fewer --shards",
                home.meta.geometry.piece_len() / 1024,
                self.partition.capacity() >> 20,
            );
            return self.tell(FromShard::Event(key, Event::Failed { message, retry: false }));
        }
        self.open(index);
    }

    pub(crate) fn open(&mut self, index: usize) {
        let home = &mut self.homes[index];
        home.busy += 1;
        let mode = if home.seed_only { OpenMode::ReadOnly } else { OpenMode::ReadWrite };
        let command =
            StorageCmd::Open { torrent: home.key, spec: home.spec.clone(), prealloc: home.prealloc, mode };
        self.command(command);
    }

    /// Hands a command to storage, or keeps it until there is room: torrents are many, the queue is not.
    pub(crate) fn command(&mut self, command: StorageCmd) {
        if self.backlog.is_empty() && self.storage.under_way() < crate::shard::JOBS_MAX {
            self.storage.submit(command);
        } else {
            self.backlog.push_back(command);
        }
    }

    pub(crate) fn on_storage(&mut self, done: StorageDone) {
        let key = match &done {
            StorageDone::Opened { torrent, .. }
            | StorageDone::Written { torrent, .. }
            | StorageDone::ReadDone { torrent, .. }
            | StorageDone::Synced { torrent, .. }
            | StorageDone::Closed { torrent } => *torrent,
        };
        // A torrent stays until everything under way has been answered.
        let index = *self.by_key.get(&key).expect("storage answers for a torrent that is gone");
        match done {
            StorageDone::Opened { result, .. } => self.on_opened(index, result),
            StorageDone::Written { piece, buf, result, .. } => self.on_written(index, piece, buf, result),
            StorageDone::ReadDone { tag, buf, result, .. } => {
                if self.is_check(index, &buf) {
                    self.on_check_read(index, tag, buf, result);
                } else {
                    self.on_upload_read(index, tag, buf, result);
                }
            }
            StorageDone::Synced { result, .. } => self.on_synced(index, result),
            StorageDone::Closed { .. } => {
                self.homes[index].busy -= 1;
                self.forget(index);
            }
        }
    }

    /// Reads for checking fill download memory, reads for peers upload memory.
    fn is_check(&self, _index: usize, buf: &PieceBuf) -> bool {
        buf.region().id() == self.partition.region().id()
    }

    fn on_opened(&mut self, index: usize, result: Result<OpenReport, StorageError>) {
        let home = &mut self.homes[index];
        home.busy -= 1;
        let key = home.key;
        match result {
            Ok(report) => {
                let recovered = home.failure.take().is_some();
                for note in &report.notes {
                    self.tell(FromShard::Event(key, Event::Note(note.clone())));
                }
                if recovered {
                    self.tell(FromShard::Event(key, Event::Recovered));
                }
                if !self.is_ending(index) {
                    self.start_check(index, &report);
                }
            }
            Err(error) => self.fail(index, &error),
        }
        self.touch(index);
    }

    /// Checking is over: `have` is on disk and good.
    pub(crate) fn run_torrent(&mut self, index: usize, have: ccbt_protocol::bitfield::Bitfield) {
        let config = TorrentConfig {
            picker: self.homes[index].picker.clone(),
            listen_port: self.config.listen_port,
            metadata_size: self.homes[index].meta.raw_info().len() as u32,
            ..self.config.torrent.clone()
        };
        let (now, id) = (self.now, self.config.peer_id);
        let home = &mut self.homes[index];
        let missing: Vec<_> = match home.seed_only {
            true => home.meta.geometry.pieces().filter(|piece| !have.has(*piece)).collect(),
            false => Vec::new(),
        };
        let mut torrent = Torrent::new(now, home.meta.info_hash, id, home.meta.geometry, config, have);
        for piece in missing {
            torrent.picker_mut().set_priority(piece, Priority::Skip);
        }
        torrent.priorities_changed();
        home.torrent = Some(torrent);
        home.phase = Phase::Running;
        self.touch(index);
        if self.homes[index].spread {
            self.spread(index);
        }
        self.answer_waiting(index);
        self.dial(index);
    }

    // ---- trackers

    /// Starts announces that are due.
    pub(crate) fn announce(&mut self, index: usize) {
        let now = self.now;
        let home = &mut self.homes[index];
        if home.torrent.is_none() && !matches!(home.phase, Phase::Ending { .. }) {
            return;
        }
        let totals = home.totals();
        if let Some(announces) = &mut home.announces {
            announces.poll(now, totals, &self.tracker, &self.announced);
        }
    }

    pub(crate) fn take_announces(&mut self) -> bool {
        let mut any = false;
        while let Some(done) = self.announced.pop() {
            any = true;
            let Some(&index) = self.by_key.get(&done.torrent) else { continue };
            let home = &mut self.homes[index];
            let Some(announces) = &mut home.announces else { continue };
            let outcome = announces.on_done(self.now, done);
            for peer in outcome.peers {
                home.candidates.add(peer, Source::Tracker);
            }
            if let Some((url, reason)) = outcome.problem {
                let key = home.key;
                self.tell(FromShard::Event(key, Event::Tracker { url, reason }));
            }
            self.announce(index);
            self.dial(index);
            self.touch(index);
        }
        any
    }

    // ---- the end

    pub(crate) fn is_ending(&self, index: usize) -> bool {
        matches!(self.homes[index].phase, Phase::Ending { .. })
    }

    /// Stops a torrent: peers go at once, what is being written gets written and synced, trackers hear `stopped`.
    pub(crate) fn end_torrent(&mut self, index: usize, removed: bool) {
        let now = self.now;
        let home = &mut self.homes[index];
        home.removed |= removed;
        if matches!(home.phase, Phase::Ending { .. }) {
            return;
        }
        // Checking leaves its reads and verdicts to be taken in without a consequence.
        home.phase = Phase::Ending { closing: false };
        if let Some(announces) = &mut home.announces {
            announces.stop(now);
        }
        self.close_all(index);
        self.stop_satellites(index);
        self.announce(index);
        self.touch(index);
    }

    /// Goes on with the end of a torrent as far as it can.
    pub(crate) fn continue_end(&mut self, index: usize) {
        let home = &mut self.homes[index];
        let Phase::Ending { closing } = home.phase else { return };
        let told = home.announces.as_ref().is_none_or(Announces::is_idle);
        if closing || !told || home.busy > 0 || home.conns > 0 || home.part.satellites().next().is_some() {
            return;
        }
        if !home.durability.unsynced.is_empty() && home.failure.is_none() {
            return self.submit_sync(index);
        }
        for (_, buf) in std::mem::take(&mut home.unwritten) {
            self.free_piece(buf);
        }
        let home = &mut self.homes[index];
        for (_, live) in std::mem::take(&mut home.live.0) {
            let buf = live.try_take().unwrap_or_else(|_| panic!("a receive outlived its connection"));
            self.partition.free(buf);
            self.pieces -= 1;
        }
        let home = &mut self.homes[index];
        let torrent = home.key;
        self.cache.drop_torrent(torrent);
        if home.part.is_satellite() {
            self.satellite_ended(index);
            return self.forget(index);
        }
        home.phase = Phase::Ending { closing: true };
        home.busy += 1;
        self.command(StorageCmd::Close { torrent });
    }

    /// Storage has closed the files: the torrent is gone.
    fn forget(&mut self, index: usize) {
        let home = self.homes.remove(index);
        self.by_key.remove(&home.key);
        self.by_hash.remove(&home.meta.info_hash);
        self.starved.retain(|starved| *starved != index);
        self.touched.retain(|touched| *touched != index);
        if home.removed {
            self.tell(FromShard::Event(home.key, Event::Removed));
        }
    }
}

//! One torrent of a shard: what it has and waits for.
//!
//! Role: the data, and questions about it. Owner: the shard's slab; changed by [`crate::torrents`] and its neighbours.
//! Invariant: `torrent` is there from the end of checking until the files are closed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::candidates::Candidates;
use ccbt_protocol::fetching::Fetching;
use ccbt_protocol::geometry::Block;
use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_protocol::metainfo::Metainfo;
use ccbt_protocol::picker::{PeerKey, PickerConfig, Priority};
use ccbt_protocol::selection::Selection;
use ccbt_protocol::torrent::{Stats, Torrent};
use ccbt_storage::arena::PieceBuf;
use ccbt_storage::layout::LayoutSpec;
use ccbt_storage::messages::{OpenReport, OpenedFile, Preallocate};

use crate::announce::{Announces, Totals};
use crate::binding::Binding;
use crate::checking::Check;
use crate::diagnosis::Endings;
use crate::discovering::Finding;
use crate::faults::{Failure, ReadFaults};
use crate::limits::TorrentGates;
use crate::messages::{Known, Snapshot, State};
use crate::pacing::Backlog;
use crate::partial::Partials;
use crate::playing::Playing;
use crate::relocating::Relocations;
use crate::ring::SocketKey;
use crate::satellites::Part;
use crate::slots::LivePieces;
use crate::sync::Durability;
use crate::websources::WebSources;

/// What a torrent waits for.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Files are being opened.
    Opening,
    /// What is on disk is being hashed.
    Checking(Check),
    /// Peers are served and asked.
    Running,
    /// Peers go, what is under way ends and files are closed, to be opened and looked at again.
    Restarting {
        /// `Close` was handed over.
        closing: bool,
    },
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
    /// What peers said to its magnet, until they are taken over.
    pub fetching: Option<Box<Fetching>>,
    pub announces: Option<Announces>,
    /// Its web seeds, if it has any.
    pub web: Option<Box<WebSources>>,
    /// Where peers are looked for without trackers.
    pub finding: Finding,
    pub max_peers: usize,
    /// Rate limits, when it has any of its own.
    pub limits: Option<Box<TorrentGates>>,
    /// How connections have ended.
    pub endings: Endings,
    /// When connections last made way for others, and whether somebody was turned away since.
    pub made_room: Option<Instant>,
    pub turned_away: bool,
    /// Connections, half-open ones included.
    pub conns: usize,
    /// On the shard's list of this turn.
    pub touched: bool,
    /// On the shard's list of torrents whose status may have changed.
    pub is_changed: bool,
    /// Its peers keep the shard busy.
    pub is_busy: bool,
    /// On the shard's list of torrents without memory.
    pub starved: bool,
    pub failure: Option<Failure>,
    /// Verified pieces that the disk did not take.
    pub unwritten: Vec<(PieceIndex, PieceBuf)>,
    /// Hash jobs and storage commands of pieces under way.
    pub busy: usize,
    /// Of these, pieces that were fetched and wait for hash or disk.
    pub backlog: Backlog,
    pub durability: Durability,
    /// Blocks of begun pieces in the files.
    pub partials: Partials,
    /// Reads that failed.
    pub reads: ReadFaults,
    /// Its files live in memory.
    pub in_memory: bool,
    /// What is known of the files before they are looked at.
    pub known: Option<Known>,
    /// The files when they were opened.
    pub files: Vec<OpenedFile>,
    /// Pieces in files that somebody has just written to.
    pub recent: Vec<PieceIndex>,
    /// It waits for the user, with its files closed.
    pub held: bool,
    /// When its files were last opened anew.
    pub restarted: Option<Instant>,
    /// Sums of what ran before the files were opened anew.
    pub stats: Stats,
    /// Trackers were told that the download is complete.
    pub completed: bool,
    /// Its home, or a satellite of it.
    pub part: Part,
    /// Sums of satellites that are gone.
    pub past: Stats,
    /// Other shards help while it runs.
    pub spread: bool,
    pub seed_only: bool,
    pub prealloc: Preallocate,
    pub picker: PickerConfig,
    /// Who reads its files while they come.
    pub playing: Option<Box<Playing>>,
    pub super_seeding: bool,
    /// Peers are told of each other, unless the torrent is private.
    pub pex: bool,
    /// Where it is bound to, other than the session.
    pub bind: Option<Binding>,
    /// Which files are wanted, and the bytes of their pieces.
    pub selection: Selection,
    pub bytes_wanted: u64,
    /// The user wants it to rest.
    pub paused: bool,
    /// What happens to the files as such.
    pub relocations: Relocations,
    /// What the last status told, and whether bytes moved then.
    pub last_status: Option<(State, Stats, usize, [u32; 3], u64, bool)>,
    pub removed: bool,
    /// Its files go when it goes.
    pub delete_data: bool,
}

impl Home {
    /// Takes in how its files were found when they were opened.
    pub(crate) fn take_report(&mut self, report: &OpenReport) {
        self.files.clone_from(&report.files);
        self.in_memory = report.in_memory;
    }

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
            fetching: None,
            announces: None,
            web: None,
            finding: Finding::default(),
            max_peers,
            limits: None,
            endings: Endings::default(),
            made_room: None,
            turned_away: false,
            conns: 0,
            touched: false,
            is_changed: false,
            is_busy: false,
            starved: false,
            failure: None,
            unwritten: Vec::new(),
            busy: 0,
            backlog: Backlog::default(),
            durability: Durability::new(meta.geometry.piece_count()),
            partials: Partials::default(),
            reads: ReadFaults::default(),
            in_memory: false,
            known: None,
            files: Vec::new(),
            recent: Vec::new(),
            held: false,
            restarted: None,
            stats: Stats::default(),
            completed: false,
            paused: false,
            relocations: Relocations::default(),
            delete_data: false,
            part: Part::home(now),
            past: Stats::default(),
            spread: false,
            seed_only: false,
            prealloc: Preallocate::default(),
            picker,
            playing: None,
            super_seeding: false,
            pex: true,
            bind: None,
            selection: Selection::default(),
            bytes_wanted: meta.geometry.total_len(),
            last_status: None,
            removed: false,
            meta,
        }
    }

    pub fn state(&self) -> State {
        match &self.phase {
            _ if self.relocations.is_moving()
                && !(self.relocations.is_reopening() && self.failure.is_some()) =>
            {
                State::Moving
            }
            Phase::Opening if self.failure.is_none() && self.restarted.is_none() => State::Opening,
            _ if self.failure.is_some() || self.paused => State::Paused,
            Phase::Checking(_) | Phase::Restarting { .. } => State::Checking,
            Phase::Opening if self.restarted.is_some() => State::Checking,
            _ if self.torrent.as_ref().is_some_and(Torrent::is_finished) => State::Seeding,
            _ => State::Downloading,
        }
    }

    /// Whether connections are welcome.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }

    /// Whether peers are asked for blocks.
    pub fn may_fetch(&self) -> bool {
        let may = self.is_running() && self.failure.is_none() && !self.relocations.is_fenced();
        may && !self.partials.is_busy()
    }

    /// Sums of all parts.
    pub fn all_stats(&self) -> Stats {
        let mut stats = self.torrent.as_ref().map_or(self.stats, Torrent::stats);
        stats += self.past;
        self.part.satellites().for_each(|satellite| stats += satellite.status.stats);
        stats
    }

    /// Connections of all parts, half-open ones included.
    pub fn all_conns(&self) -> usize {
        self.conns + self.part.satellites().map(|satellite| satellite.conns).sum::<usize>()
    }

    pub fn totals(&self) -> Totals {
        let stats = self.all_stats();
        Totals { uploaded: stats.uploaded, downloaded: stats.downloaded, left: self.bytes_left() }
    }

    /// How the pieces are now.
    pub fn snapshot(&self) -> Snapshot {
        let known = self.known_now();
        let durable = match &self.torrent {
            Some(_) => self.durability.durable.clone(),
            // Found by a check that is not over, or known from before: to be looked at again after a power cut.
            None => Bitfield::empty(known.have.len()),
        };
        let checked = self.torrent.is_some();
        let Known { have, looked, partial, .. } = known;
        Snapshot { have, durable, looked, partial, spec: self.spec.clone(), checked }
    }

    /// A piece that turned out to be missing is not to be fetched where nothing is.
    pub fn forgo(&mut self, piece: PieceIndex) {
        if let (true, Some(torrent)) = (self.seed_only, &mut self.torrent) {
            torrent.picker_mut().set_priority(piece, Priority::Skip);
        }
    }

    pub fn bytes_left(&self) -> u64 {
        let total = self.meta.geometry.total_len();
        total - self.bytes_done()
    }

    /// Bytes that are wanted and not there yet.
    pub fn wanted_left(&self) -> u64 {
        self.torrent.as_ref().map_or(self.bytes_wanted, |torrent| torrent.picker().bytes_left())
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

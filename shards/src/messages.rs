//! What the control thread and shards say to each other.
//!
//! Role: the vocabulary only. Every queue is bounded where it is made ([`crate::inbox`], [`crate::service`]).

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use ccbt_protocol::candidates::Source;
use ccbt_protocol::holepunch::HolepunchMessage;
use ccbt_protocol::ids::{InfoHash, PeerId, TorrentKey};
use ccbt_protocol::ipfilter;
use ccbt_protocol::lease::{FromSatellite, ToSatellite};
use ccbt_protocol::metainfo::Metainfo;
use ccbt_protocol::peer::PeerStatus;
use ccbt_protocol::picker::{PartialPiece, PickerConfig};
use ccbt_protocol::rate::{TorrentLimits, Way};
use ccbt_protocol::score::Record;
use ccbt_protocol::selection::Selection;
use ccbt_protocol::torrent::Stats;
use ccbt_protocol::tracker::schedule::TrackerStatus;
use ccbt_storage::error::StorageError;
use ccbt_storage::messages::Preallocate;
use ccbt_storage::relocate::MoveOptions;
use crossbeam_channel::Sender;

pub use crate::counters::{CacheStats, ShardLoad, ShardStats};
pub use crate::fetching::AddMagnet;
pub use crate::hand_off::{Arrival, HandOff};
pub use crate::known::{FileMark, Known, Snapshot};
pub use crate::playing::{Play, Playable};
pub use crate::punching::Relay;

use crate::binding::Binding;
use crate::diagnosis::ShardLook;
use crate::satellites::peers::GivenBack;
use crate::satellites::{AddSatellite, SatelliteStatus};
use crate::tapping::TapRequest;
use crate::webseeds::{FromWeb, Site, WebCounts};

/// A torrent to run.
#[derive(Debug)]
pub struct AddTorrent {
    /// Its name in all later messages; never reused.
    pub key: TorrentKey,
    /// What the torrent file says.
    pub metainfo: Arc<Metainfo>,
    /// Folder that its paths are relative to.
    pub root: PathBuf,
    /// Files that lie elsewhere below the root than the torrent says: (file index, path).
    pub renames: Vec<(u32, PathBuf)>,
    /// Neither connect nor fetch until [`ToShard::Resume`].
    pub paused: bool,
    /// How files get their length.
    pub prealloc: Preallocate,
    /// Order and endgame.
    pub picker: PickerConfig,
    /// Addresses to connect to besides what trackers tell.
    pub peers: Vec<SocketAddr>,
    /// Tiers of trackers to ask (BEP 12); empty: none.
    pub trackers: Vec<Vec<String>>,
    /// Look for peers in the DHT and announce it there; never done for private torrents (BEP 27).
    pub use_dht: bool,
    /// As `use_dht`, in the local network (BEP 14).
    pub use_lsd: bool,
    /// Only serve what is there: nothing is written and nothing missing is fetched.
    pub seed_only: bool,
    /// Connections of this torrent at most.
    pub max_peers: usize,
    /// Rate limits of its own.
    pub limits: TorrentLimits,
    /// Servers that have its files (BEP 19).
    pub web_seeds: Vec<Arc<Site>>,
    /// Which files are wanted; of no meaning to a seed.
    pub selection: Selection,
    /// Fetch what is needed to play its largest wanted file while it comes.
    pub streaming: bool,
    /// Show each peer single pieces (BEP 16), if everything is there when it starts.
    pub super_seeding: bool,
    /// Tell peers of each other, and take addresses from them (BEP 11), unless it is private.
    pub pex: bool,
    /// What an earlier run has found out about its files: only what is doubtful is looked at.
    pub known: Option<Known>,
    /// Where it is bound to, other than the session: its connections and announces leave from there, and others are not
    /// accepted. It is in neither the DHT nor the local network then, which tell of the session's places.
    pub bind: Option<Binding>,
}

/// To a shard.
#[derive(Debug)]
pub enum ToShard {
    /// Run a torrent; this shard becomes its home, and the others its satellites if it is `spread`.
    Add {
        /// The torrent.
        torrent: Box<AddTorrent>,
        /// Whether other shards help.
        spread: bool,
    },
    /// Fetch the metadata of a magnet link; this shard will be its torrent's home.
    AddMagnet(Box<AddMagnet>),
    /// Stop a torrent and close its files, and with `delete_data` remove them too; answered by [`Event::Removed`].
    Remove {
        /// The torrent.
        key: TorrentKey,
        /// Whether its files go too.
        delete_data: bool,
    },
    /// Move the files of a torrent to the folder; answered by [`Event::Moved`] or [`Event::MoveFailed`].
    Move {
        /// The torrent.
        key: TorrentKey,
        /// The new root.
        root: PathBuf,
        /// What may be done on the way.
        options: MoveOptions,
    },
    /// Give a file of a torrent another path below the root; answered by [`Event::Renamed`] or [`Event::MoveFailed`].
    Rename {
        /// The torrent.
        key: TorrentKey,
        /// The file.
        file: u32,
        /// Its new path.
        path: PathBuf,
    },
    /// Give up a move under way, or the next one: [`Event::MoveFailed`] follows unless it is done by then.
    CancelMove(TorrentKey),
    /// Leave all peers and trackers; files stay open.
    Pause(TorrentKey),
    /// Go on after [`ToShard::Pause`], or after a failure, now.
    Resume(TorrentKey),
    /// Look at all of a torrent's files again; its peers go meanwhile. Answered by [`Event::Checked`].
    Recheck(TorrentKey),
    /// Tell how the pieces are. Hung up on without an answer when the torrent is gone.
    Snapshot(TorrentKey, Sender<Snapshot>),
    /// Tell what is known of why it does what it does; every shard answers ([`ShardLook`]).
    Diagnose(TorrentKey, Sender<ShardLook>),
    /// Tell how announcing does. Hung up on without an answer when the torrent is gone.
    Trackers(TorrentKey, Sender<Vec<TrackerStatus>>),
    /// Say that messages are read.
    Ping(Sender<()>),
    /// It may be this torrent's turn to read from a rotating device.
    CheckTurn(TorrentKey),
    /// Addresses somebody found for a torrent or a magnet.
    AddPeers(TorrentKey, Vec<SocketAddr>, Source),
    /// Bytes per second for all torrents of all shards together; 0 = unlimited.
    Limits {
        /// Receiving.
        down: u64,
        /// Sending.
        up: u64,
    },
    /// Whom to have nothing to do with from now on.
    Filter(ipfilter::Shared),
    /// A router forwards this port to ours: it is the one to tell of.
    Reached(u16),
    /// Other rate limits for a torrent.
    TorrentLimits(TorrentKey, TorrentLimits),
    /// Other files of a torrent are wanted; answered by [`Event::Selected`], and then by [`Event::Finished`] if all of
    /// them are there.
    Select(TorrentKey, Selection),
    /// Somebody reads a file of a torrent and waits for it.
    Play(TorrentKey, Play),
    /// A reader is gone.
    StopPlaying(TorrentKey, u64),
    /// About the tokens of a limit that several shards share.
    Tokens {
        /// Whose limit; `None`: that of all torrents.
        torrent: Option<TorrentKey>,
        /// In which direction.
        way: Way,
        /// What is said.
        word: TokenWord,
    },
    /// `shard` is the home of a torrent: connections for it go there. `None`: nobody's any more.
    Route(InfoHash, Option<usize>),
    /// Somebody looks at what is said with a peer.
    Tap(TapRequest),
    /// Accept connections of this socket, too, until it is shut down.
    Listen(OwnedFd),
    /// A connection for a torrent of this shard.
    HandOff(Box<HandOff>),
    /// Serve a new uTP connection.
    Arrived(Box<Arrival>),
    /// Become a satellite of a torrent.
    AddSatellite(Box<AddSatellite>),
    /// Stop being one; answered by [`Self::SatelliteGone`].
    StopSatellite(TorrentKey),
    /// From its home to a satellite.
    ToSatellite {
        /// The torrent.
        key: TorrentKey,
        /// What it says.
        message: ToSatellite,
    },
    /// From a satellite to the home.
    FromSatellite {
        /// The torrent.
        key: TorrentKey,
        /// The satellite.
        shard: usize,
        /// What it says.
        message: FromSatellite,
    },
    /// To the home: a relay says that the peer there dials us (BEP 55).
    Punch(TorrentKey, SocketAddr),
    /// To a satellite: this address cannot be reached; whoever told of it may help.
    Rendezvous(TorrentKey, SocketAddr),
    /// A peer of another part's wants to meet one that is ours, perhaps (BEP 55).
    Relay(Box<Relay>),
    /// To the part that asked: what its peer, connected from this address, is to be told.
    Relayed(TorrentKey, SocketAddr, HolepunchMessage),
    /// A satellite connects to this address for its home; answered by [`Self::SatellitePeer`] when that is over.
    Dial {
        /// The torrent.
        key: TorrentKey,
        /// The address.
        addr: SocketAddr,
        /// The home's shard.
        home: usize,
        /// What is known of the peer there.
        record: Record,
    },
    /// To a satellite: its idlest connections make way for others ([`crate::turnover`]).
    MakeRoom(TorrentKey),
    /// A connection that a satellite was given, to dial or to go on with, is over.
    SatellitePeer {
        /// The torrent.
        key: TorrentKey,
        /// The satellite.
        shard: usize,
        /// The connection.
        back: GivenBack,
    },
    /// A peer is through its handshake at a satellite; answered by [`Self::Duplicate`] when another part has it.
    SatelliteMet {
        /// The torrent.
        key: TorrentKey,
        /// The satellite.
        shard: usize,
        /// What the peer calls itself.
        id: PeerId,
    },
    /// To a satellite: another part had this peer before.
    Duplicate {
        /// The torrent.
        key: TorrentKey,
        /// What the peer calls itself.
        id: PeerId,
    },
    /// An address lied to one part of a torrent.
    Ban {
        /// The torrent.
        key: TorrentKey,
        /// The address.
        ip: IpAddr,
        /// The shard that says so.
        from: usize,
    },
    /// How a satellite does; four times a second.
    SatelliteStatus {
        /// The torrent.
        key: TorrentKey,
        /// The satellite.
        shard: usize,
        /// How it does.
        status: Box<SatelliteStatus>,
    },
    /// The disk failed a satellite.
    SatelliteFailed {
        /// The torrent.
        key: TorrentKey,
        /// What happened.
        error: StorageError,
    },
    /// A satellite has ended; these are its last words.
    SatelliteGone {
        /// The torrent.
        key: TorrentKey,
        /// The satellite.
        shard: usize,
        /// Blocks of pieces that it had begun, in the files now.
        partial: Vec<PartialPiece>,
    },
    /// From the web seed thread to the home of a torrent.
    Web(TorrentKey, FromWeb),
    /// Say goodbye to trackers and peers, finish writes, then stop. Answered by [`FromShard::Stopped`].
    Shutdown,
}

/// What shards say about tokens: bytes that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenWord {
    /// `shard` wants some; to the shard that keeps the limit.
    Ask {
        /// Who asks.
        shard: usize,
        /// How many.
        bytes: u64,
    },
    /// The answer.
    Grant {
        /// How many; perhaps fewer than it wants.
        bytes: u64,
    },
}

/// From a shard.
#[derive(Debug)]
pub enum FromShard {
    /// Something worth telling happened to a torrent.
    Event(TorrentKey, Event),
    /// How a torrent does; about four times a second while something changes.
    Status(Box<TorrentStatus>),
    /// The `info` dictionary of a magnet; its SHA-1 is the info-hash. What is connected waits for the torrent.
    Metadata(TorrentKey, Arc<[u8]>),
    /// How a shard's read cache does; about four times a second while something changes.
    Cache(usize, CacheStats),
    /// A torrent's files are closed, as it was stopped or removed: how its pieces were at last. Not told when its files
    /// are removed.
    Closed(TorrentKey, Box<Snapshot>),
    /// What a shard did; about four times a second while something changes.
    Work(usize, Box<ShardStats>),
    /// The shard is done.
    Stopped {
        /// Its number.
        shard: usize,
    },
}

/// What happened to a torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Files are open; `note` is worth a log line.
    Note(String),
    /// How far the metadata of a magnet is; once a second at most, when something has changed.
    Metadata {
        /// Bytes received.
        received: u32,
        /// Bytes in all; 0 until a peer says.
        total: u32,
        /// Connections through their handshake (a count).
        peers: usize,
        /// Addresses known (a count).
        candidates: usize,
    },
    /// The metadata of a magnet is there and verified: it can be added as a torrent.
    MetadataComplete,
    /// Existing data was looked at: so many pieces are good.
    Checked {
        /// Good pieces.
        good: u32,
        /// All pieces.
        total: u32,
    },
    /// Everything wanted is verified, written and synced.
    Finished,
    /// Answer to [`ToShard::Select`].
    Selected,
    /// The torrent cannot go on; it tries again by itself when `retry` is set.
    Failed {
        /// Why, and what to do.
        message: String,
        /// Whether the cause may go away.
        retry: bool,
    },
    /// It goes on after a failure.
    Recovered,
    /// An address sent corrupt data and is avoided now.
    Banned(IpAddr),
    /// A connection ended because of what the peer did.
    PeerFault {
        /// The peer.
        addr: SocketAddr,
        /// What it did.
        fault: String,
    },
    /// A tracker failed.
    Tracker {
        /// Its address.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// A web seed failed, or is not asked any more.
    WebSeed {
        /// Its URL.
        url: String,
        /// Why.
        reason: String,
    },
    /// How far a move is; a few times a second. Units: bytes.
    MoveProgress {
        /// At the new place.
        done: u64,
        /// In all files to be moved.
        total: u64,
    },
    /// All files are in this folder now, and the torrent goes on there.
    Moved {
        /// The new root.
        root: PathBuf,
        /// Files of the old place that could not be removed.
        left: Vec<String>,
    },
    /// A file has this path below the root now.
    Renamed {
        /// The file.
        file: u32,
        /// Its new path.
        path: PathBuf,
    },
    /// A move or a new name did not come about. The torrent goes on where it was, unless the message says that files
    /// are in two places.
    MoveFailed {
        /// Why, and what to do.
        message: String,
    },
    /// The files of a torrent were removed; [`Event::Removed`] follows.
    Deleted {
        /// Files removed.
        files: u64,
        /// Their bytes.
        bytes: u64,
        /// What stays, and why.
        left: Vec<String>,
    },
    /// Answer to [`ToShard::Remove`].
    Removed,
}

/// What a torrent is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Files are being opened and preallocated.
    Opening,
    /// Existing data is being hashed.
    Checking,
    /// Fetching what is missing.
    Downloading,
    /// Everything wanted is there.
    Seeding,
    /// Its files are being moved.
    Moving,
    /// Stopped by a failure of the disk, or by the user.
    Paused,
}

/// How a torrent does.
#[derive(Clone, Debug)]
pub struct TorrentStatus {
    /// The torrent.
    pub key: TorrentKey,
    /// What it is doing.
    pub state: State,
    /// Sums so far.
    pub stats: Stats,
    /// Payload bytes per second received.
    pub down_rate: u64,
    /// Payload bytes per second sent.
    pub up_rate: u64,
    /// Pieces verified and written; while checking, pieces looked at.
    pub pieces_done: u32,
    /// Pieces in the torrent; while checking, to be looked at.
    pub pieces_total: u32,
    /// Pieces that outlast a power cut: covered by a sync, or found in files that are old.
    pub pieces_durable: u32,
    /// Blocks of 16 KiB that are in the files, of pieces that are not complete.
    pub blocks_partial: u32,
    /// Syncs of its files so far (a count).
    pub syncs: u64,
    /// Bytes verified and written.
    pub bytes_done: u64,
    /// Bytes in the torrent.
    pub bytes_total: u64,
    /// Bytes of the pieces that are wanted; one that a wanted file shares with others counts as a whole.
    pub bytes_wanted: u64,
    /// Of these, the ones that are not verified and written yet.
    pub bytes_left: u64,
    /// Connections through their handshake (a count).
    pub peer_count: usize,
    /// Some of them, at most 200.
    pub peers: Vec<PeerStatus>,
    /// Addresses known.
    pub candidates: usize,
    /// Its web seeds.
    pub web: WebCounts,
}

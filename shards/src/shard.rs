//! The state of one shard: its ring, its torrents, its connections, its memory.
//!
//! Owner: the shard's thread, as plain `&mut` in [`crate::drive`]; nothing here is shared. The other modules of this
//! crate add the behaviour: `conns` the life of a connection, `transfer` its bytes, `torrents` the life of a torrent,
//! `pieces` and `sync` what becomes of its data, `faults` what happens when the disk refuses, `checking` the look at what
//! is on disk, `uploads` reading for others, `turns` messages and status, `timers` what
//! time brings.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use ccbt_protocol::cache::ReadAhead;
use ccbt_protocol::geometry::Block;
use ccbt_protocol::ids::{InfoHash, PeerId, TorrentKey};
use ccbt_protocol::ipfilter;
use ccbt_protocol::picker::PeerKey;
use ccbt_protocol::proxy::Tunnel;
use ccbt_protocol::torrent::TorrentConfig;
use ccbt_protocol::wire::handshake::HandshakeReader;
use ccbt_storage::arena::Partition;
use ccbt_storage::doorbell::Doorbell;
use ccbt_storage::messages::StorageCmd;
use ccbt_storage::relocate::RelocateJob;
use ccbt_storage::{StorageClient, StorageService};
use crossbeam_channel::{Receiver, Sender};
use rand::rngs::SmallRng;
use slab::Slab;

use crate::announce::DoneQueue;
use crate::binding::Binding;
use crate::cache::{ExtentKey, ReadCache};
use crate::checking::line::DeviceLines;
use crate::counters::ShardStats;
use crate::dialling::{Transport, Transports, Worked};
use crate::discovery::Discovery;
use crate::encryption::{EncryptionPolicy, Mse, PlainOnly};
use crate::fetching::Fetcher;
use crate::inbox::Inbox;
use crate::limits::{ConnLimits, ShardLimits};
use crate::messages::{CacheStats, FromShard, ToShard};
use crate::pacing::Gathering;
use crate::proxying::Proxy;
use crate::ring::utp::UtpEnds;
use crate::ring::{SocketKey, SocketRing};
use crate::satellites::Outbox;
use crate::sync::SyncConfig;
use crate::tapping::{ConnTrace, TapRequest};
use crate::timers::Timers;
use crate::torrents::Home;
use crate::trackers::Trackers;
use crate::webseeds::WebSeeds;
use crate::zero_copy::ZeroCopySend;

/// Pieces that hold download memory at most, however small they are: fetched, hashed, written or checked.
pub(crate) const PIECES_MAX: usize = 4096;
/// Reads for uploads under way at most.
pub(crate) const READS_MAX: usize = 1024;
/// Commands that come from torrents as such (open, sync, close) wait while more than these are under way.
pub(crate) const JOBS_MAX: usize = 2048;
/// What is under way at the storage service at most: each piece and each read once, and the torrents' commands.
pub(crate) const UNDER_WAY_MAX: usize = PIECES_MAX + READS_MAX + JOBS_MAX;

/// Sends without a copy may hold one part in so many of the read cache until peers acknowledge.
const HELD_PART: usize = 2;

/// What a shard is built with.
pub struct ShardConfig {
    /// Its number, from 0.
    pub index: usize,
    /// Bytes for pieces being downloaded or checked.
    pub download_bytes: usize,
    /// Bytes for data being uploaded.
    pub upload_bytes: usize,
    /// Sockets that listen already.
    pub listeners: Vec<OwnedFd>,
    /// The port they listen on; 0 = none.
    pub listen_port: u16,
    /// Outgoing connections leave from here.
    pub bind: Option<Binding>,
    /// What we call ourselves.
    pub peer_id: PeerId,
    /// Connections of all shards at most, half-open ones included.
    pub max_connections: usize,
    /// Time a connect may take.
    pub connect_timeout: Duration,
    /// Time a handshake may take.
    pub handshake_timeout: Duration,
    /// What every torrent is built with, but for its own picker.
    pub torrent: TorrentConfig,
    /// Limits count the headers of IP and TCP, too.
    pub count_overhead: bool,
    /// When written pieces are made durable.
    pub sync: SyncConfig,
    /// When payload is sent without a copy in the kernel.
    pub zero_copy_send: ZeroCopySend,
    /// How peers are reached.
    pub transports: Transports,
    /// Which connections are encrypted.
    pub encryption: EncryptionPolicy,
    /// What all connections to peers go through.
    pub proxy: Option<Arc<Proxy>>,
}

/// A shard's queues.
pub struct Links {
    /// Rung by whoever pushes to the shard.
    pub bell: Arc<Doorbell>,
    /// What the control thread and other shards say.
    pub inbox: Receiver<ToShard>,
    /// The inboxes of all shards, this one included.
    pub others: Vec<Inbox>,
    /// To the control thread.
    pub control: Sender<FromShard>,
    /// Whose turn it is to check at rotating devices.
    pub lines: Arc<DeviceLines>,
    /// Connections of all shards, half-open ones included.
    pub connections: Arc<AtomicUsize>,
    /// Where peers are found without trackers; `None`: nowhere.
    pub discovery: Option<Discovery>,
    /// Who has a uTP socket of the listening port.
    pub utp_ends: UtpEnds,
    /// Where announces go.
    pub trackers: Trackers,
    /// Who asks web seeds; `None`: nobody.
    pub webseeds: Option<WebSeeds>,
}

/// How far a connection is.
pub(crate) enum Stage {
    /// Our connect is in flight.
    Connecting,
    /// The proxy is asked for the peer.
    Proxied(Box<Tunnel>),
    /// The handshake of MSE is under way.
    Encrypting(Box<Mse>),
    /// Waiting for the peer's handshake.
    Handshake(HandshakeReader),
    /// Only metadata is spoken of: its torrent is not known yet.
    Fetching(PeerKey),
    /// Messages flow.
    Open(PeerKey),
    /// Going; the ring lets go of it soon.
    Closing,
}

/// One connection.
pub(crate) struct Conn {
    pub socket: SocketKey,
    pub addr: SocketAddr,
    pub incoming: bool,
    pub stage: Stage,
    /// Slab index of the torrent, once known.
    pub home: Option<usize>,
    /// Slab index of the magnet that it belongs to instead.
    pub fetch: Option<usize>,
    /// Its address is to be tried again at once.
    pub again: bool,
    /// The peer in the torrent, until it is told that the peer is gone.
    pub peer: Option<PeerKey>,
    /// It came before its torrent runs: what followed the handshake.
    pub waiting: Option<Vec<u8>>,
    /// The block that is being received beside its place.
    pub aside: Option<Vec<u8>>,
    /// Blocks given up whose place the receive in flight may still write, and whether the picker is to be told.
    pub releases: Vec<(Block, bool)>,
    /// In this turn's work list.
    pub queued: bool,
    pub limits: ConnLimits,
    /// Blocks of the send in flight.
    pub sending: Vec<Block>,
    /// What it reads, and will read.
    pub reader: ReadAhead,
    /// The extent that its next block waits for.
    pub waiting_for: Option<ExtentKey>,
    /// It waits for memory of the read cache.
    pub hungry: bool,
    /// It ended because of what the peer did.
    pub hostile: bool,
    /// Its torrent's home has given it to this shard.
    pub placed: bool,
    /// We have opened it, and yet the peer speaks first.
    pub answers: bool,
    /// Of a connection that we have opened: how.
    pub transport: Transport,
    /// The attempt at the same address over the other transport.
    pub rival: Option<SocketKey>,
    /// That one counts, not this.
    pub superseded: bool,
    /// The proxy failed before it was asked for the peer, which is not to blame.
    pub proxy_fault: bool,
    /// Bytes of handshakes that wait for the send under way, encrypted if they have to be.
    pub outbox: Vec<u8>,
    /// It has come through a handshake of MSE.
    pub encrypted: bool,
    /// Somebody looks at what is said over it.
    pub trace: Option<Box<ConnTrace>>,
}

impl Conn {
    pub(crate) fn new(
        socket: SocketKey,
        addr: SocketAddr,
        incoming: bool,
        stage: Stage,
        home: Option<usize>,
    ) -> Self {
        Self {
            socket,
            addr,
            incoming,
            stage,
            home,
            fetch: None,
            again: false,
            peer: None,
            waiting: None,
            aside: None,
            releases: Vec::new(),
            queued: false,
            limits: ConnLimits::default(),
            sending: Vec::new(),
            reader: ReadAhead::default(),
            waiting_for: None,
            hungry: false,
            hostile: false,
            placed: false,
            answers: false,
            transport: Transport::Tcp,
            rival: None,
            superseded: false,
            proxy_fault: false,
            outbox: Vec::new(),
            encrypted: false,
            trace: None,
        }
    }
}

/// One shard.
pub struct Shard {
    pub(crate) config: ShardConfig,
    pub(crate) ring: SocketRing,
    pub(crate) bell: Arc<Doorbell>,
    pub(crate) inbox: Receiver<ToShard>,
    pub(crate) control: Sender<FromShard>,
    /// The inboxes of all shards, this one included.
    pub(crate) others: Vec<Inbox>,
    /// Messages that found no room there.
    pub(crate) outbox: Outbox,
    pub(crate) timers: Timers,
    pub(crate) routes: HashMap<InfoHash, usize>,
    pub(crate) lines: Arc<DeviceLines>,
    pub(crate) storage: StorageClient,
    pub(crate) partition: Partition,
    pub(crate) cache: ReadCache,
    pub(crate) homes: Slab<Home>,
    /// Magnets whose torrents are not known yet.
    pub(crate) fetchers: Slab<Fetcher>,
    pub(crate) by_key: HashMap<TorrentKey, usize>,
    pub(crate) by_hash: HashMap<InfoHash, usize>,
    pub(crate) conns: Vec<Option<Conn>>,
    /// Who looks at what is said.
    pub(crate) taps: Vec<TapRequest>,
    /// When somebody last connected to us here.
    pub(crate) accepted_at: Option<Instant>,
    /// Connections of all shards.
    pub(crate) connections: Arc<AtomicUsize>,
    /// When somebody last made way for one who had no place, and when one was refused.
    pub(crate) crowded_at: Option<Instant>,
    pub(crate) refused_at: Option<Instant>,
    pub(crate) rng: SmallRng,
    pub(crate) utp_ends: UtpEnds,
    /// Whom to have nothing to do with.
    pub(crate) filter: ipfilter::Shared,
    /// Transports that have worked.
    pub(crate) worked: Worked,
    /// Peers that do not take encrypted connections.
    pub(crate) plain_only: PlainOnly,
    /// Torrents by what encrypted connections name them by.
    pub(crate) torrent_names: HashMap<[u8; 20], InfoHash>,
    pub(crate) limits: ShardLimits,
    pub(crate) trackers: Trackers,
    pub(crate) discovery: Option<Discovery>,
    pub(crate) announced: DoneQueue,
    /// Connections to look after before the turn ends.
    pub(crate) work: Vec<SocketKey>,
    /// Torrents to look after before the turn ends.
    pub(crate) touched: Vec<usize>,
    /// Torrents that found no memory for another piece.
    pub(crate) starved: Vec<usize>,
    /// Torrents whose check found no memory, in the order in which they go on.
    pub(crate) checks: VecDeque<usize>,
    /// Torrents that begin no piece before others are written, until then at most.
    pub(crate) behind: Vec<usize>,
    pub(crate) behind_until: Option<Instant>,
    /// Complete pieces on their way to the hash pool.
    pub(crate) gathered: Gathering,
    /// Pieces that hold download memory.
    pub(crate) pieces: usize,
    /// Who asks web seeds, and bytes lent to it.
    pub(crate) webseeds: Option<WebSeeds>,
    pub(crate) web_bytes: usize,
    /// Commands that wait for room at the storage service.
    pub(crate) backlog: VecDeque<StorageCmd>,
    /// Jobs that wait for room at the mover thread: one per torrent at most.
    pub(crate) moves: VecDeque<RelocateJob>,
    /// Bytes went to or from peers in the last second: checks make way.
    pub(crate) transferring: bool,
    /// What was told of the read cache.
    pub(crate) told_cache: CacheStats,
    pub(crate) stats: ShardStats,
    /// What was told of them.
    pub(crate) told_stats: ShardStats,
    /// Reused between turns.
    pub(crate) dirty: Vec<PeerKey>,
    /// Listeners whose accept failed, armed again at the next tick.
    pub(crate) deaf: Vec<u32>,
    pub(crate) stopping: Option<Instant>,
    pub(crate) spill: Vec<u8>,
    pub(crate) now: Instant,
}

impl Shard {
    /// Builds the shard on its own thread. Errors: the ring or the memory could not be had.
    pub fn new(mut config: ShardConfig, links: Links, storage: &StorageService) -> std::io::Result<Self> {
        let now = Instant::now();
        let mut ring = SocketRing::new(links.bell.clone())?;
        for listener in config.listeners.drain(..) {
            ring.listen(listener);
        }
        let partition = Partition::new(config.download_bytes)?;
        let cache = ReadCache::new(config.upload_bytes)?;
        let can = ring.set_zero_copy(config.zero_copy_send, cache.capacity() / HELD_PART);
        if !can && config.zero_copy_send != ZeroCopySend::Off && config.index == 0 {
            tracing::info!(
                "this kernel has no zero-copy sends (they came with Linux 6.2); plain sends are used"
            );
        }
        Ok(Self {
            ring,
            storage: storage.client(links.bell.clone(), UNDER_WAY_MAX),
            partition,
            cache,
            trackers: links.trackers,
            announced: DoneQueue::new(links.bell.clone()),
            config,
            bell: links.bell,
            inbox: links.inbox,
            control: links.control,
            others: links.others,
            lines: links.lines,
            outbox: Outbox::default(),
            timers: Timers::new(now),
            routes: HashMap::new(),
            homes: Slab::new(),
            fetchers: Slab::new(),
            by_key: HashMap::new(),
            by_hash: HashMap::new(),
            conns: Vec::new(),
            taps: Vec::new(),
            accepted_at: None,
            connections: links.connections,
            crowded_at: None,
            refused_at: None,
            discovery: links.discovery,
            utp_ends: links.utp_ends,
            filter: None,
            rng: rand::make_rng(),
            worked: Worked::default(),
            plain_only: PlainOnly::default(),
            torrent_names: HashMap::new(),
            limits: ShardLimits::default(),
            work: Vec::new(),
            touched: Vec::new(),
            starved: Vec::new(),
            checks: VecDeque::new(),
            behind: Vec::new(),
            behind_until: None,
            gathered: Gathering::default(),
            pieces: 0,
            webseeds: links.webseeds,
            web_bytes: 0,
            backlog: VecDeque::new(),
            moves: VecDeque::new(),
            transferring: false,
            told_cache: CacheStats::default(),
            stats: ShardStats::default(),
            told_stats: ShardStats::default(),
            dirty: Vec::new(),
            deaf: Vec::new(),
            stopping: None,
            spill: Vec::new(),
            now,
        })
    }

    /// Tells the control thread. Status is dropped when it is behind; everything else waits for room there, which it
    /// makes without ever waiting for a shard.
    pub(crate) fn tell(&self, message: FromShard) {
        match message {
            FromShard::Status(_) | FromShard::Cache(..) | FromShard::Work(..) => {
                drop(self.control.try_send(message))
            }
            message => drop(self.control.send(message)),
        }
    }

    pub(crate) fn conn(&mut self, socket: SocketKey) -> Option<&mut Conn> {
        self.conns.get_mut(socket.index())?.as_mut().filter(|conn| conn.socket == socket)
    }

    /// Puts a connection on this turn's work list.
    pub(crate) fn queue(&mut self, socket: SocketKey) {
        if let Some(conn) = self.conn(socket)
            && !std::mem::replace(&mut conn.queued, true)
        {
            self.work.push(socket);
        }
    }

    /// Something happened to a torrent: puts it on this turn's list, and on that of the next tick.
    pub(crate) fn touch(&mut self, home: usize) {
        if self.homes.contains(home) {
            self.stir(home);
            self.settle_soon(home);
        }
    }

    /// Puts a torrent on this turn's list.
    pub(crate) fn settle_soon(&mut self, home: usize) {
        if let Some(state) = self.homes.get_mut(home)
            && !std::mem::replace(&mut state.touched, true)
        {
            self.touched.push(home);
        }
    }
}

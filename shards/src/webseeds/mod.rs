//! The web seed thread (BEP 19): HTTP for all torrents of all shards, off the hot path.
//!
//! Role: a torrent's home lends it the memory of a run of pieces ([`Fetch`]); it receives the ranges of files that they
//! are made of straight into that memory and sends each piece back when it is complete ([`FromWeb`]). Hashing, writing,
//! blame and choice stay at home ([`crate::websources`]). Owner: [`crate::service::Service`] starts and ends the
//! thread; shards have a clone of the handle. Invariants: every buffer that was lent comes back once, in
//! [`FromWeb::Piece`] or [`FromWeb::Ended`]; the thread waits for nothing but its sockets, its bell and the clock;
//! commands are bounded by what is lent.

mod conn;
mod job;
mod thread;

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_protocol::ipfilter;
use ccbt_protocol::webseed::{Outcome, Segment};
use ccbt_storage::arena::PieceBuf;
use ccbt_storage::doorbell::Doorbell;
use crossbeam_channel::{Sender, bounded};

use crate::binding::Binding;
use crate::inbox::Inbox;

/// Commands that wait at most: far more than requests that memory can be lent for. A shard that finds no room waits for
/// the thread, which waits for nobody.
const COMMANDS_MAX: usize = 4096;

/// How web seeds are asked.
#[derive(Clone, Debug)]
pub struct WebSeedConfig {
    /// Torrents' web seeds and redirects may lead to loopback, private and link-local addresses. What the user names
    /// may anyway.
    pub allow_local: bool,
    /// Connections leave from here, where a torrent has no place of its own.
    pub bind: Option<Binding>,
    /// Certificate authorities trusted besides the system's: contents of PEM files.
    pub extra_roots_pem: Vec<Vec<u8>>,
    /// Sent as User-Agent.
    pub user_agent: String,
}

/// One web seed of a torrent.
#[derive(Debug)]
pub struct Site {
    /// Its URL.
    pub url: String,
    /// The user has named it, not a torrent: it may be a local address.
    pub trusted: bool,
    /// Whether the torrent has a file list.
    pub is_multi_file: bool,
    /// Connections for it leave from here.
    pub bind: Option<Binding>,
    /// Below the URL, by index of the file.
    pub paths: Arc<Vec<String>>,
}

/// A run of pieces to be fetched.
#[derive(Debug)]
pub struct Fetch {
    /// The torrent.
    pub torrent: TorrentKey,
    /// Its name among the torrent's requests.
    pub job: u32,
    /// Where answers go.
    pub home: Inbox,
    /// Whom to ask.
    pub site: Arc<Site>,
    /// The first of the pieces.
    pub first: PieceIndex,
    /// Their memory, in order.
    pub pieces: VecDeque<PieceBuf>,
    /// What they are made of.
    pub segments: VecDeque<Segment>,
    /// Bytes come only as far as [`Command::Allow`] says.
    pub limited: bool,
}

/// A torrent's web seeds (counts).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WebCounts {
    /// In all.
    pub known: usize,
    /// Asked for something now.
    pub active: usize,
    /// Not asked any more: they sent wrong pieces.
    pub banned: usize,
}

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    Fetch(Box<Fetch>),
    /// Give a request up; answered by [`FromWeb::Ended`] unless that is under way.
    Cancel(TorrentKey, u32),
    /// So many more bytes may come for a torrent; `None`: any number.
    Allow(TorrentKey, Option<u64>),
    /// Nothing more comes for a torrent.
    Forget(TorrentKey),
    /// Whom not to ask from now on.
    Filter(ipfilter::Shared),
    Stop,
}

/// What the thread tells a torrent's home.
#[derive(Debug)]
pub enum FromWeb {
    /// So many bytes of payload came.
    Progress(u64),
    /// A piece is here.
    Piece {
        /// The request.
        job: u32,
        /// Which.
        piece: PieceIndex,
        /// Its bytes.
        buf: PieceBuf,
    },
    /// A request has ended.
    Ended {
        /// The request.
        job: u32,
        /// The first of the pieces that did not come.
        first: PieceIndex,
        /// Their memory.
        left: VecDeque<PieceBuf>,
        /// How it ended.
        outcome: Outcome,
    },
}

/// The way to the thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct WebSeeds {
    commands: Sender<Command>,
    bell: Arc<Doorbell>,
}

impl WebSeeds {
    pub(crate) fn set_filter(&self, filter: ipfilter::Shared) {
        self.send(Command::Filter(filter));
    }

    pub(crate) fn send(&self, command: Command) {
        // Hung up: the process ends.
        let _ = self.commands.send(command);
        self.bell.ring();
    }
}

/// The running thread.
pub struct WebSeedThread {
    handle: WebSeeds,
    thread: JoinHandle<()>,
}

impl WebSeedThread {
    /// Starts it. Errors: no thread or descriptor is to be had.
    pub fn start(config: WebSeedConfig) -> std::io::Result<Self> {
        let (commands, receiver) = bounded(COMMANDS_MAX);
        let bell = Doorbell::new()?;
        let worker = thread::Worker::new(config, receiver, Arc::clone(&bell));
        let thread = std::thread::Builder::new().name("ccbt-webseeds".to_owned()).spawn(|| worker.run())?;
        Ok(Self { handle: WebSeeds { commands, bell }, thread })
    }

    /// For shards.
    pub fn handle(&self) -> &WebSeeds {
        &self.handle
    }

    /// Ends it.
    pub fn stop(self) {
        self.handle.send(Command::Stop);
        if self.thread.join().is_err() {
            tracing::error!("the web seed thread panicked");
        }
    }
}

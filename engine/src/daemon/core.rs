//! The daemon's own thread: everything that is decided.
//!
//! Role: owns session, torrents, queue and state; takes calls of clients, events of the session and the passing of time one
//! after the other. Owner: [`super::Daemon`]. What it does on calls is in [`super::actions`], on events in
//! [`super::happenings`]. Invariant: it waits for nothing but its own disk.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ccbt_protocol::ids::{InfoHash, TorrentKey};
use ccbt_protocol::tracker::schedule::TrackerStatus;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use tokio::sync::{mpsc, oneshot};

use super::api::{self, ApiError, Event};
use super::explaining::Explaining;
use super::filtering::Filtering;
use super::hooks::Hooks;
use super::http::Streaming;
use super::magnets::Pending;
use super::queue::Queue;
use super::reload::Reloader;
use super::state::{Board, Counters, StateDir};
use super::subscribers::{READERS_MAX, Subscribers};
use super::torrent::Torrent;
use super::tracing_peers::Traces;
use super::watch::WatchFolder;
use crate::checkpoints::Store;
use crate::config::Config;
use crate::sandbox::Sandbox;
use crate::session::{Session, SessionEvent};
use crate::{Scraped, Snapshot};

/// Messages handled before time is looked at again.
const BATCH: usize = 256;
/// How often torrents are looked at when nothing happens.
const LOOK: Duration = Duration::from_secs(1);
/// Between two writes of the order of the queue.
const SAVE_ORDER: Duration = Duration::from_millis(200);
/// Between two writes of counters while payload moves.
const SAVE_COUNTERS: Duration = Duration::from_secs(10);
/// Between two writes when nothing changes but the time of seeding: disks may sleep meanwhile.
const SAVE_TIMES: Duration = Duration::from_secs(300);

/// To the daemon's thread.
#[derive(Debug)]
pub(super) enum Message {
    Call(Request, oneshot::Sender<Result<Answer, ApiError>>),
    Session(SessionEvent),
    /// The session's threads are gone.
    SessionEnded,
    HookEnded {
        info_hash: InfoHash,
        code: Option<i32>,
    },
}

/// What clients ask for. A torrent is named by the first digits of its info-hash.
#[derive(Debug)]
pub(super) enum Request {
    List,
    Show(String),
    Add(Box<NewTorrent>),
    Remove(String, api::Remove),
    Pause(String),
    Resume(String),
    Recheck(String),
    Move(String, api::Move),
    Queue(String, api::QueueStep),
    Change(String, api::Change),
    Peers(String, api::Peers),
    Scrape(String),
    Explain(String),
    Pieces(String, api::Cells),
    Trackers(String),
    Engine,
    Stats,
    Limits(api::LimitChange),
    ReloadFilter,
    Subscribe(Streaming),
    Trace(String, api::Trace, Streaming),
}

/// A torrent to add.
#[derive(Debug)]
pub(super) struct NewTorrent {
    /// The torrent file.
    pub bytes: Vec<u8>,
    /// How; its own `torrent` is empty.
    pub how: api::Add,
}

/// What is answered.
#[derive(Debug)]
pub(super) enum Answer {
    List(Vec<api::Torrent>),
    Torrent(Box<api::Torrent>),
    Detail(Box<api::TorrentDetail>),
    Removed(api::Removed),
    Stats(Box<api::Stats>),
    Limits {
        down: u64,
        up: u64,
    },
    Filter(api::IpFilter),
    /// Of the torrent: each tracker's URL, and where its answer will be.
    Scrapes(InfoHash, Vec<(String, Receiver<Scraped>)>),
    /// What is known of a torrent, but for what its shards still have to say.
    Explain(Box<Explaining>),
    /// Of the torrent: where its pieces will be told, and in how many cells.
    Pieces(InfoHash, u32, Receiver<Snapshot>),
    /// Of the torrent: where its trackers will be told.
    Trackers(InfoHash, Receiver<Vec<TrackerStatus>>),
    Engine(Box<api::Engine>),
    Events(mpsc::Receiver<String>),
}

/// See the module.
pub(super) struct Core {
    pub session: Session,
    pub inbox: Receiver<Message>,
    pub config: Config,
    pub reloader: Reloader,
    pub state: StateDir,
    pub store: Option<Store>,
    pub sandbox: Option<Sandbox>,
    pub torrents: HashMap<InfoHash, Torrent>,
    /// Those whose metadata is looked for.
    pub magnets: HashMap<InfoHash, Pending>,
    /// Of both.
    pub keys: HashMap<TorrentKey, InfoHash>,
    pub queue: Queue<InfoHash>,
    pub subscribers: Subscribers,
    pub traces: Traces,
    pub hooks: Hooks,
    pub watch: Option<WatchFolder>,
    pub filtering: Filtering,
    /// Limits of all torrents that clients asked for, in place of the configuration's.
    pub own_limits: (Option<u64>, Option<u64>),
    pub started: Instant,
    /// Decide at once what runs.
    pub undecided: bool,
    pub order_changed: bool,
    pub counters_changed: bool,
    pub times_changed: bool,
    pub looked: Instant,
    pub saved: Instant,
    /// A failure to write the state was told.
    pub failing: bool,
}

/// The engine's threads are gone without having been asked to stop: nothing goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine stopped by itself; the log says why, and what was verified and synced is safe")]
pub struct EngineGone;

impl Core {
    /// Handles what comes within `timeout`, and what is due.
    pub fn turn(&mut self, timeout: Duration) -> Result<(), EngineGone> {
        match self.inbox.recv_timeout(timeout) {
            Ok(message) => self.handle(message)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(EngineGone),
        }
        for _ in 0..BATCH {
            let Ok(message) = self.inbox.try_recv() else { break };
            self.handle(message)?;
        }
        self.pass(Instant::now());
        Ok(())
    }

    fn handle(&mut self, message: Message) -> Result<(), EngineGone> {
        match message {
            Message::Call(request, reply) => self.call(request, reply),
            Message::Session(event) => self.happened(event)?,
            Message::SessionEnded => return Err(EngineGone),
            Message::HookEnded { info_hash, code } => {
                self.hooks.ended();
                self.subscribers.tell(&Event::CommandEnded { info_hash: info_hash.to_string(), code });
            }
        }
        Ok(())
    }

    fn call(&mut self, request: Request, reply: oneshot::Sender<Result<Answer, ApiError>>) {
        let answer = match request {
            // Answered when it is gone.
            Request::Remove(id, how) => {
                if let Some(reply) = self.remove_magnet(&id, reply) {
                    self.remove(&id, how, reply);
                }
                return;
            }
            // Answered when it is read.
            Request::ReloadFilter => return self.reload_filter(reply),
            Request::List => Ok(Answer::List(self.rows())),
            Request::Show(id) => self.find(&id).map(|hash| {
                let (position, runs) = self.place(hash);
                Answer::Detail(Box::new(self.torrents[&hash].detail(position, runs)))
            }),
            Request::Add(new) if new.how.magnet.is_some() && new.bytes.is_empty() => self.add_magnet(new.how),
            Request::Add(new) if new.how.magnet.is_some() => {
                Err(ApiError::new(400, "bad_value", "give either a torrent file or a magnet link, not both"))
            }
            Request::Add(new) => self.add(&new.bytes, &new.how).map(|hash| self.answer(hash)),
            Request::Pause(id) => self.pause(&id),
            Request::Resume(id) => self.resume(&id),
            Request::Recheck(id) => self.recheck(&id),
            Request::Move(id, how) => self.move_files(&id, how),
            Request::Queue(id, step) => self.step(&id, step),
            Request::Change(id, change) => self.change(&id, &change),
            Request::Peers(id, peers) => self.add_peers(&id, peers),
            Request::Scrape(id) => self.scrape(&id),
            Request::Explain(id) => self.explain(&id),
            Request::Trace(id, how, streaming) => self.trace(&id, &how.peer, streaming),
            Request::Pieces(id, cells) => self.pieces(&id, cells),
            Request::Trackers(id) => self.trackers(&id),
            Request::Engine => Ok(Answer::Engine(Box::new(self.engine()))),
            Request::Stats => Ok(Answer::Stats(Box::new(self.stats()))),
            Request::Limits(change) => Ok(self.change_limits(change)),
            Request::Subscribe(streaming) => {
                let lines = self.subscribers.add(streaming);
                lines.map(Answer::Events).ok_or_else(|| {
                    let most = format!("{READERS_MAX} clients read events, and no more can; end one of them");
                    ApiError::new(503, "too_many_readers", most)
                })
            }
        };
        // Whoever asked may be gone.
        let _ = reply.send(answer);
    }

    /// What is due by time.
    fn pass(&mut self, now: Instant) {
        self.watch_folder(now);
        self.keep_filter(now);
        let elapsed = now.saturating_duration_since(self.looked);
        if elapsed >= LOOK {
            self.looked = now;
            self.rule(elapsed);
            self.tell_news();
            self.undecided = true;
        }
        if std::mem::take(&mut self.undecided) {
            self.decide(now);
        }
        let age = now.saturating_duration_since(self.saved);
        let due = [
            (self.order_changed, SAVE_ORDER),
            (self.counters_changed, SAVE_COUNTERS),
            (self.times_changed, SAVE_TIMES),
        ];
        if due.into_iter().any(|(changed, after)| changed && age >= after) {
            self.save_board(now);
        }
    }

    /// Starts and stops what the queue says.
    pub fn decide(&mut self, now: Instant) {
        let limits = self.reloader.daemon().queue;
        let torrents = &self.torrents;
        let decisions = self.queue.decide(&limits, now, |hash| torrents[&hash].look());
        for decision in decisions {
            let torrent = self.torrents.get_mut(&decision.key).expect("it is in the queue");
            torrent.news = true;
            let handle = &torrent.handle;
            // A session that is gone is noticed by its end.
            let _ = if decision.runs { handle.resume() } else { handle.pause() };
        }
    }

    /// Keeps what changes often.
    pub fn save_board(&mut self, now: Instant) {
        self.saved = now;
        (self.order_changed, self.counters_changed, self.times_changed) = (false, false, false);
        let mut board = Board::default();
        board.order = self.queue.order().iter().map(InfoHash::to_string).collect();
        (board.down_limit, board.up_limit) = self.own_limits;
        let counters = self.torrents.iter().map(|(hash, torrent)| (hash.to_string(), torrent.counters()));
        board.counters = counters.filter(|(_, counters)| *counters != Counters::default()).collect();
        let result = self.state.save_board(&board);
        self.told_once(result);
    }

    /// Tells the first of several failures to write the state.
    pub fn told_once(&mut self, result: std::io::Result<()>) {
        match result {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!("the daemon's state cannot be written: {error}; make room for it");
                }
            }
        }
    }

    /// Ends it: tells trackers, syncs files, keeps the state. Whether the engine's threads ended in time.
    pub fn stop(mut self, timeout: Duration) -> Result<(), crate::ShutdownError> {
        self.subscribers.end();
        self.save_board(Instant::now());
        let Self { session, mut torrents, queue, state, own_limits, .. } = self;
        let stopped = session.shutdown(timeout);
        // What was sent meanwhile counts too.
        let mut board = Board::default();
        board.order = queue.order().iter().map(InfoHash::to_string).collect();
        (board.down_limit, board.up_limit) = own_limits;
        board.counters =
            torrents.drain().map(|(hash, torrent)| (hash.to_string(), torrent.counters())).collect();
        if let Err(error) = state.save_board(&board) {
            tracing::error!("the daemon's state cannot be written: {error}");
        }
        stopped
    }
}

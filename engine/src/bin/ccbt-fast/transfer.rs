//! What `download` and `seed` have in common: start the engine, run one torrent, tell what happens, stop
//! orderly.

use std::io;
use std::net::SocketAddr;
use std::ops::Add;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ccbt_fast::config::{Config, Effect, Reload, Setting, Sources, Watcher};
use ccbt_fast::ipfilter;
use ccbt_fast::streaming::StreamServer;
use ccbt_fast::{
    AddOptions, CacheStats, InfoHash, Metainfo, MoveOptions, Received, Session, SessionEvent, Settings,
    TorrentEvent, TorrentHandle, TorrentSource, TorrentStatus,
};

use ccbt_protocol::metainfo::escape_for_terminal;

use crate::args::TransferArgs;
use crate::console::Console;
use crate::failure::Failure;
use crate::finding::Finding;
use crate::lines::{Disk, Line, Progress};
use crate::logging::Log;
use crate::reload::Reloader;
use crate::signals::Signals;
use crate::units;
use crate::{limits, link, logging, relocate, sandbox};
use ccbt_fast::Goal;

/// How often signals and the seeding goal are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Time an orderly stop may take: 3 s for trackers, the rest for a slow disk.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// What is done with the torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Download {
        /// Folder that everything moves to when it is finished.
        move_completed: Option<PathBuf>,
    },
    Seed,
    /// A download that is served over HTTP until it is stopped.
    Stream {
        /// Its index.
        file: usize,
        listen: SocketAddr,
    },
}

/// The configuration, read.
pub struct Configuration {
    sources: Sources,
    /// Since before the files were read: no change is missed.
    watcher: io::Result<Watcher>,
    config: Config,
}

impl Configuration {
    /// Reads what `args` name; `settings` are options that set keys.
    pub fn read(args: &TransferArgs, settings: &[Setting]) -> Result<Self, Failure> {
        let sources = args.sources.sources(settings);
        let watcher = Watcher::new(sources.files());
        let config = sources.load()?;
        Ok(Self { sources, watcher, config })
    }

    /// What it leads to for a torrent.
    pub fn effect(&self, info_hash: &InfoHash, name: &str) -> Effect {
        self.config.effect(Some((info_hash, name)))
    }
}

/// Output, signals and settings of one run, and the engine once it is started.
pub struct Stage {
    pub console: Console,
    pub signals: Signals,
    pub settings: Settings,
    pub session: Option<Session>,
    log: Log,
}

impl Stage {
    /// Begins to log and to take signals.
    pub fn new(args: &TransferArgs, effect: &Effect, configuration: &Configuration) -> Result<Self, Failure> {
        let mut console = Console::new(args.json);
        sandbox::of_transfer(args, effect, &configuration.sources, &mut console)?;
        let log = logging::start(&effect.log, console.bar())?;
        let signals = Signals::install_with_reload().map_err(Failure::system("handle signals"))?;
        let settings = settings(effect, &configuration.config, limits::raise())?;
        Ok(Self { console, signals, settings, session: None, log })
    }
}

/// The torrent and the configuration, read. Nothing is started or created yet, but for a magnet link's engine.
pub struct Plan {
    pub metainfo: Arc<Metainfo>,
    configuration: Configuration,
    /// What they lead to. Options that are no keys are in it too.
    pub effect: Effect,
    /// Told first.
    pub notes: Vec<String>,
}

impl Plan {
    /// Reads what `args` name; `settings` are options that set keys.
    pub fn new(args: &TransferArgs, settings: &[Setting]) -> Result<Self, Failure> {
        let metainfo = TorrentSource::from(args.torrent.as_path()).load()?;
        Ok(Self::of(metainfo, args, Configuration::read(args, settings)?))
    }

    /// For a torrent that is known.
    pub fn of(metainfo: Arc<Metainfo>, args: &TransferArgs, configuration: Configuration) -> Self {
        let mut effect = configuration.effect(&metainfo.info_hash, &metainfo.name);
        effect.torrent.peers.clone_from(&args.peers);
        effect.torrent.web_seeds.clone_from(&args.web_seeds);
        effect.torrent.renames.clone_from(&args.rename.renames);
        Self { metainfo, configuration, effect, notes: Vec::new() }
    }

    fn goal(&self) -> Goal {
        Goal { time: self.effect.seed_time, ratio: self.effect.seed_ratio }
    }
}

/// What a session is started with when this process may open `descriptors` files and sockets.
pub fn settings(effect: &Effect, config: &Config, descriptors: usize) -> Result<Settings, Failure> {
    let mut settings = effect.settings.clone();
    settings.max_open_files = settings.max_open_files.min(descriptors / 4).max(1);
    let limits = config.limits_now();
    (settings.down_limit, settings.up_limit) = (limits.down, limits.up);
    let wrong = |text: String| Failure::Usage(escape_for_terminal(&text).into_owned());
    if let Some(path) = &effect.tracker_ca_file {
        let pem = std::fs::read(path)
            .map_err(|error| wrong(format!("security.tracker_ca_file {}: {error}", path.display())))?;
        settings.tracker_roots_pem = vec![pem];
    }
    settings.proxy = effect.proxy.load().map_err(wrong)?;
    if let Some(path) = &effect.ip_filter.path {
        // Who wants a filter wants nothing to go past it.
        let loaded = ipfilter::load(path).map_err(|error| wrong(error.to_string()))?;
        tracing::info!("{}", loaded.report);
        settings.ip_filter = Some(loaded.filter);
    }
    settings.ip_filter_trackers = effect.ip_filter.trackers;
    Ok(settings)
}

/// Runs one torrent to its end.
pub fn run(kind: Kind, args: &TransferArgs, plan: Plan) -> Result<(), Failure> {
    let stage = Stage::new(args, &plan.effect, &plan.configuration)?;
    run_on(stage, kind, args, plan)
}

/// As [`run`], where the engine may run already.
pub fn run_on(mut stage: Stage, kind: Kind, args: &TransferArgs, mut plan: Plan) -> Result<(), Failure> {
    let Stage { console, signals, .. } = &mut stage;
    for message in &plan.notes {
        console.line(&Line::Note { message });
    }
    let options = &mut plan.effect.torrent;
    let prepared = prepare(&kind, args, &plan.metainfo, options, signals, console);
    if let Err(failure) = prepared {
        console.finish();
        return Err(failure);
    }
    run_session(kind, plan, stage)
}

/// What is done with files before the engine starts.
fn prepare(
    kind: &Kind,
    args: &TransferArgs,
    metainfo: &Metainfo,
    options: &mut AddOptions,
    signals: &Signals,
    console: &mut Console,
) -> Result<(), Failure> {
    if let Kind::Download { move_completed: Some(dir) } = kind {
        complete_move(dir, metainfo, options, signals, console)?;
    }
    match args.link.options() {
        Some(link_options) => link::run(metainfo, &link_options, options, signals, console),
        None => Ok(()),
    }
}

/// Completes a move to `dir` that was interrupted, or finds it done: then the torrent runs there.
fn complete_move(
    dir: &Path,
    metainfo: &Metainfo,
    options: &mut AddOptions,
    signals: &Signals,
    console: &mut Console,
) -> Result<(), Failure> {
    let from = relocate::layout(metainfo, &options.output, &options.renames)?;
    let to = from.with_root(dir.to_owned());
    let mut stored = to.files().iter().enumerate().filter(|(_, file)| !file.pad && file.len > 0);
    // Moves begin only when everything is finished, so one whole file there means that one had begun.
    let is_whole = |(index, file): (usize, &ccbt_storage::layout::FileSpec)| {
        to.file_path(index as u32).symlink_metadata().is_ok_and(|found| found.len() >= file.len)
    };
    if stored.any(is_whole) {
        relocate::watched(&from, &to, MoveOptions::default(), signals, console)?;
        options.output = dir.to_owned();
    }
    Ok(())
}

fn run_session(kind: Kind, plan: Plan, stage: Stage) -> Result<(), Failure> {
    let Stage { mut console, signals, settings, session, log } = stage;
    let outcome = match session.map_or_else(|| Session::start(&settings), Ok) {
        Ok(session) => run_in(kind, plan, session, log, &signals, &mut console),
        Err(error) => Err(error.into()),
    };
    console.finish();
    outcome
}

fn run_in(
    kind: Kind,
    plan: Plan,
    session: Session,
    log: Log,
    signals: &Signals,
    console: &mut Console,
) -> Result<(), Failure> {
    let goal = plan.goal();
    let Plan { metainfo, configuration, effect: Effect { torrent: options, ip_filter, .. }, .. } = plan;
    let Configuration { sources, watcher, config } = configuration;
    let limits = config.limits_now();
    if options.magnet.is_none() {
        let info_hash = metainfo.info_hash.to_string();
        console.line(&Line::Listening { port: session.port(), info_hash, name: &metainfo.name });
    }
    let events = session.events();
    let mut course = Course::new(kind, goal, Instant::now());
    course.complete = options.known.as_ref().is_some_and(|known| known.have.is_full());
    if let Some(checkpoint) = &options.resume {
        console.line(&Line::Resumed {
            pieces: checkpoint.have.count(),
            total: checkpoint.have.len(),
            saved_at: checkpoint.saved_at,
        });
    }
    let torrent = session.add_torrent(metainfo, options)?;
    let server = match course.kind {
        Kind::Stream { file, listen } => {
            let failed = Failure::system(format!("serve HTTP at {listen}"));
            Some(StreamServer::start(torrent.clone(), file, listen).map_err(failed)?)
        }
        _ => None,
    };
    if let Some(server) = &server {
        console.line(&Line::Streaming { url: server.url() });
    }
    let (reload, mut finding) = (Reload::new(sources, watcher), Finding::default());
    let mut reloader = Reloader::new(reload, config, (torrent.clone(), limits), ip_filter, log);
    let end = loop {
        if let Some(dir) = course.begin_move() {
            // A shard that is gone is noticed below.
            let _ = torrent.move_storage(dir, MoveOptions::default());
        }
        if let Some(signal) = signals.received() {
            break course.interrupted(signal);
        }
        let now = Instant::now();
        finding.turn(now, &session, console);
        let new_goal = reloader.turn(now, signals.is_reload_wanted(), &session, console);
        course.goal = new_goal.unwrap_or(course.goal);
        let outcome = match events.recv_timeout(TICK) {
            Received::Event(event) => course.handle(event, &torrent, console),
            Received::TimedOut => Ok(()),
            Received::Ended => Err(Failure::EngineLost),
        };
        if outcome.is_err() {
            break outcome;
        }
        if course.is_done(Instant::now()) {
            break Ok(());
        }
    };
    if let Err(failure @ (Failure::EngineLost | Failure::NothingToSeed)) = &end {
        console.line(&Line::Error { message: &failure.to_string(), retry: false });
    }
    drop(server);
    finding.end(&session, console);
    let (caches, storage) = (session.caches(), session.storage_stats());
    let stopped = session.shutdown(SHUTDOWN_TIMEOUT);
    if let Some(status) = torrent.status() {
        console.line(&Line::Progress(Progress::from(&*status)));
        console.finish();
        console.words(&course.summary(&status, Instant::now()));
    }
    if stopped.is_ok() {
        let cache = caches.stats().into_iter().fold(CacheStats::default(), CacheStats::add);
        let disks = storage.devices.iter().map(Disk::from).collect();
        let shards = caches.shards().into_iter().map(Into::into).collect();
        console.line(&Line::Stopped { cache: cache.into(), disks, shards });
    }
    end.and(stopped.map_err(Failure::from))
}

/// How far the move of a finished download is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moving {
    /// Nothing is to be moved, or not yet.
    Not,
    /// It begins now.
    Due,
    /// It goes on.
    UnderWay,
}

/// How far a transfer is. Pure: time comes in.
#[derive(Debug)]
struct Course {
    kind: Kind,
    goal: Goal,
    started: Instant,
    /// Whether every piece is there.
    complete: bool,
    /// Whether any piece is there.
    has_some: bool,
    /// When the last piece was on disk.
    finished: Option<Instant>,
    /// How far the move of what is finished is.
    moving: Moving,
    /// When serving without fetching began.
    seeding: Option<Instant>,
    uploaded: u64,
    size: u64,
}

impl Course {
    fn new(kind: Kind, goal: Goal, started: Instant) -> Self {
        let (complete, has_some, finished, seeding, moving) = (false, false, None, None, Moving::Not);
        Self { kind, goal, started, complete, has_some, finished, moving, seeding, uploaded: 0, size: 0 }
    }

    fn handle(
        &mut self,
        event: SessionEvent,
        torrent: &TorrentHandle,
        console: &mut Console,
    ) -> Result<(), Failure> {
        match event {
            SessionEvent::Status(status) => {
                self.note_status(&status);
                console.line(&Line::Progress(Progress::from(&*status)));
                Ok(())
            }
            SessionEvent::Missed(events) => {
                console.line(&Line::Missed { events });
                Ok(())
            }
            SessionEvent::EngineLost => Err(Failure::EngineLost),
            SessionEvent::Torrent(_, event) => {
                if let TorrentEvent::PeerFault { addr, fault } = &event {
                    tracing::debug!("{addr} was disconnected: {fault}");
                }
                // The numbers of the end come before its name.
                if let (TorrentEvent::Finished, Some(status)) = (&event, torrent.status()) {
                    console.line(&Line::Progress(Progress::from(&*status)));
                }
                // Where all is known there is no check, and no status yet.
                if event == TorrentEvent::Finished
                    && self.kind == Kind::Seed
                    && let Ok(snapshot) = torrent.snapshot()
                {
                    self.complete |= snapshot.have.is_full();
                    self.has_some |= snapshot.have.count() > 0;
                }
                if self.is_true(&event)
                    && let Some(line) = Line::of(&event)
                {
                    console.line(&line);
                }
                if self.note_event(&event, Instant::now())? {
                    console.line(&Line::Seeding);
                }
                Ok(())
            }
        }
    }

    fn note_status(&mut self, status: &TorrentStatus) {
        self.uploaded = status.stats.uploaded;
        self.size = status.bytes_total;
    }

    /// `Finished` means that nothing is left to fetch, which for a seed of some pieces is not all.
    fn is_true(&self, event: &TorrentEvent) -> bool {
        self.kind != Kind::Seed || self.complete || *event != TorrentEvent::Finished
    }

    /// Whether seeding begins with this event.
    fn note_event(&mut self, event: &TorrentEvent, now: Instant) -> Result<bool, Failure> {
        let begins = match (event, &self.kind) {
            (TorrentEvent::Failed { message, retry: false }, _) => {
                return Err(Failure::Torrent(message.clone()));
            }
            (TorrentEvent::Removed, _) => return Err(Failure::EngineLost),
            (TorrentEvent::Checked { good: 0, .. }, Kind::Seed) => return Err(Failure::NothingToSeed),
            (TorrentEvent::Checked { good, total }, Kind::Seed) => {
                self.complete = good == total;
                true
            }
            // It runs, and there was nothing to check.
            (TorrentEvent::Finished, Kind::Seed)
                if self.seeding.is_none() && !self.complete && !self.has_some =>
            {
                return Err(Failure::NothingToSeed);
            }
            // What is good was known, and nothing was looked at.
            (TorrentEvent::Finished, Kind::Seed) => self.seeding.is_none(),
            (TorrentEvent::Finished, Kind::Stream { .. }) => {
                self.finished.get_or_insert(now);
                true
            }
            (TorrentEvent::Finished, Kind::Download { move_completed }) => {
                let is_first = self.finished.is_none();
                self.finished.get_or_insert(now);
                if is_first && move_completed.is_some() {
                    self.moving = Moving::Due;
                }
                self.moving == Moving::Not && self.wants_to_seed()
            }
            (TorrentEvent::Moved { .. }, _) if self.moving == Moving::UnderWay => {
                self.moving = Moving::Not;
                self.wants_to_seed()
            }
            (TorrentEvent::MoveFailed { message }, _) => return Err(Failure::Torrent(message.clone())),
            _ => false,
        };
        let is_new = begins && self.seeding.is_none();
        if is_new {
            self.seeding = Some(now);
        }
        Ok(is_new)
    }

    fn wants_to_seed(&self) -> bool {
        !self.goal.is_none() && !self.goal.is_reached(Duration::ZERO, self.uploaded, self.size)
    }

    /// Where to move what is finished, once.
    fn begin_move(&mut self) -> Option<PathBuf> {
        if self.moving != Moving::Due {
            return None;
        }
        self.moving = Moving::UnderWay;
        match &self.kind {
            Kind::Download { move_completed } => move_completed.clone(),
            Kind::Seed | Kind::Stream { .. } => None,
        }
    }

    fn is_done(&self, now: Instant) -> bool {
        match (self.seeding, &self.kind) {
            (_, Kind::Stream { .. }) => false,
            (Some(since), _) => self.goal.is_reached(now.duration_since(since), self.uploaded, self.size),
            (None, Kind::Download { .. }) => self.finished.is_some() && self.moving == Moving::Not,
            (None, Kind::Seed) => false,
        }
    }

    /// A signal stops it: only an unfinished download has failed by that.
    fn interrupted(&self, signal: i32) -> Result<(), Failure> {
        match &self.kind {
            Kind::Download { .. } if self.finished.is_none() || self.moving != Moving::Not => {
                Err(Failure::Interrupted(signal))
            }
            _ => Ok(()),
        }
    }

    fn summary(&self, status: &TorrentStatus, now: Instant) -> String {
        let until = self.finished.unwrap_or(now);
        let took = until.duration_since(self.started);
        let stats = &status.stats;
        let rate = units::rate((stats.downloaded as f64 / took.as_secs_f64().max(0.001)) as u64);
        let received =
            format!("received {} in {} ({rate})", units::bytes(stats.downloaded), units::duration(took));
        let sent = format!("sent {}", units::bytes(stats.uploaded));
        match &self.kind {
            Kind::Download { .. } | Kind::Stream { .. } => {
                format!("{received}, {sent}, wasted {}", units::bytes(stats.wasted))
            }
            Kind::Seed => sent,
        }
    }
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;

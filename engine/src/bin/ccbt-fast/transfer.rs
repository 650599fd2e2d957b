//! What `download` and `seed` have in common: start the engine, run one torrent, tell what happens, stop
//! orderly.

use std::ops::Add;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ccbt_fast::{
    AddOptions, CacheStats, Metainfo, Received, Session, SessionEvent, Settings, TorrentEvent, TorrentHandle,
    TorrentSource, TorrentStatus,
};

use crate::args::TransferArgs;
use crate::console::Console;
use crate::failure::Failure;
use crate::goal::Goal;
use crate::lines::{Line, Progress};
use crate::signals::Signals;
use crate::units;
use crate::{limits, logging};

/// How often signals and the seeding goal are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Time an orderly stop may take: 3 s for trackers, the rest for a slow disk.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// What is done with the torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Download,
    Seed,
}

/// Reads the torrent that `args` name. Nothing is started or created yet.
pub fn load(args: &TransferArgs) -> Result<Arc<Metainfo>, Failure> {
    Ok(TorrentSource::from(args.torrent.as_path()).load()?)
}

/// Runs one torrent to its end. `settings` are made for as many descriptors as this process may open.
pub fn run(
    kind: Kind,
    args: &TransferArgs,
    metainfo: Arc<Metainfo>,
    options: AddOptions,
    settings: impl FnOnce(usize) -> Settings,
) -> Result<(), Failure> {
    let mut console = Console::new(args.json);
    logging::start(args.log.log_level.into(), console.bar());
    let signals = Signals::install().map_err(Failure::system("handle signals"))?;
    let descriptors = limits::raise();
    let outcome =
        run_session(kind, args.goal(), &settings(descriptors), (metainfo, options), &signals, &mut console);
    console.finish();
    outcome
}

fn run_session(
    kind: Kind,
    goal: Goal,
    settings: &Settings,
    (metainfo, options): (Arc<Metainfo>, AddOptions),
    signals: &Signals,
    console: &mut Console,
) -> Result<(), Failure> {
    let session = Session::start(settings)?;
    let info_hash = metainfo.info_hash.to_string();
    console.line(&Line::Listening { port: session.port(), info_hash, name: &metainfo.name });
    let events = session.events();
    let torrent = session.add_torrent(metainfo, options)?;
    let mut course = Course::new(kind, goal, Instant::now());
    let end = loop {
        if let Some(signal) = signals.received() {
            break course.interrupted(signal);
        }
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
    let caches = session.caches();
    let stopped = session.shutdown(SHUTDOWN_TIMEOUT);
    if let Some(status) = torrent.status() {
        console.line(&Line::Progress(Progress::from(&*status)));
        console.finish();
        console.words(&course.summary(&status, Instant::now()));
    }
    if stopped.is_ok() {
        let cache = caches.stats().into_iter().fold(CacheStats::default(), CacheStats::add);
        console.line(&Line::Stopped { cache: cache.into() });
    }
    end.and(stopped.map_err(Failure::from))
}

/// How far a transfer is. Pure: time comes in.
#[derive(Debug)]
struct Course {
    kind: Kind,
    goal: Goal,
    started: Instant,
    /// Whether the check found every piece.
    complete: bool,
    /// When the last piece was on disk.
    finished: Option<Instant>,
    /// When serving without fetching began.
    seeding: Option<Instant>,
    uploaded: u64,
    size: u64,
}

impl Course {
    fn new(kind: Kind, goal: Goal, started: Instant) -> Self {
        Self { kind, goal, started, complete: false, finished: None, seeding: None, uploaded: 0, size: 0 }
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
        self.kind == Kind::Download || self.complete || *event != TorrentEvent::Finished
    }

    /// Whether seeding begins with this event.
    fn note_event(&mut self, event: &TorrentEvent, now: Instant) -> Result<bool, Failure> {
        let begins = match (event, self.kind) {
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
            (TorrentEvent::Finished, Kind::Seed) if self.seeding.is_none() => {
                return Err(Failure::NothingToSeed);
            }
            (TorrentEvent::Finished, Kind::Download) => {
                self.finished.get_or_insert(now);
                !self.goal.is_none() && !self.goal.is_reached(Duration::ZERO, self.uploaded, self.size)
            }
            _ => false,
        };
        let is_new = begins && self.seeding.is_none();
        if is_new {
            self.seeding = Some(now);
        }
        Ok(is_new)
    }

    fn is_done(&self, now: Instant) -> bool {
        match (self.seeding, self.kind) {
            (Some(since), _) => self.goal.is_reached(now.duration_since(since), self.uploaded, self.size),
            (None, Kind::Download) => self.finished.is_some(),
            (None, Kind::Seed) => false,
        }
    }

    /// A signal stops it: only an unfinished download has failed by that.
    fn interrupted(&self, signal: i32) -> Result<(), Failure> {
        match self.kind {
            Kind::Download if self.finished.is_none() => Err(Failure::Interrupted(signal)),
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
        match self.kind {
            Kind::Download => format!("{received}, {sent}, wasted {}", units::bytes(stats.wasted)),
            Kind::Seed => sent,
        }
    }
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;

//! The way of all shards' torrents to their trackers: one thread for the process.
//!
//! Role: [`Trackers`] is what shards and the session say to the tracker thread ([`thread`]); announces' results go to
//! the shard's [`crate::announce::DoneQueue`]. Owner: [`crate::service::Service`] starts and ends the thread;
//! everybody else has a clone of the handle. Invariant: at most [`JOBS_MAX`] requests wait or are under way, whoever
//! asks for them, so the queues to and from the thread need no bound of their own.

pub mod hosts;
mod thread;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use ccbt_protocol::ids::{InfoHash, TorrentKey};
use ccbt_protocol::ipfilter;
use ccbt_protocol::tracker::AnnounceRequest;
use ccbt_protocol::tracker::dispatch::DispatchPlan;
use ccbt_protocol::tracker::schedule::AnnounceToken;
use ccbt_protocol::tracker::udp::ScrapeEntry;
use ccbt_storage::doorbell::Doorbell;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::announce::DoneSender;
use crate::binding::Binding;
use crate::control::{TrackerClientConfig, TrackerError};
use crate::executor;

pub use hosts::HostStats;
use hosts::Hosts;

/// Requests that wait or are under way: about 500 bytes each, so 32 MB at the very most.
const JOBS_MAX: usize = 65_536;
/// Hashes of one scrape that a caller asks for.
pub const SCRAPE_MAX: usize = 10_000;

/// An announce to be sent.
#[derive(Debug)]
pub struct AnnounceJob {
    /// Whose it is.
    pub torrent: TorrentKey,
    /// To be handed back with the result.
    pub token: AnnounceToken,
    /// The tracker's announce URL.
    pub url: String,
    /// What to tell it.
    pub request: AnnounceRequest,
    /// Where it leaves from; `None`: from where the session is bound to.
    pub bind: Option<Binding>,
    /// Once set, only `completed` and `stopped` are worth sending.
    pub over: Arc<AtomicBool>,
    /// Where the result goes.
    pub done: DoneSender,
}

/// What a tracker knows of several torrents, in their order; see [`crate::control::TrackerClient::scrape`].
pub type Scraped = Result<Vec<Option<ScrapeEntry>>, TrackerError>;

#[derive(Debug)]
struct ScrapeJob {
    url: String,
    hashes: Vec<InfoHash>,
    reply: Sender<Scraped>,
}

#[derive(Debug)]
enum Command {
    Announce(Box<AnnounceJob>),
    Scrape(Box<ScrapeJob>),
    /// Not to be asked from now on.
    Filter(ipfilter::Shared),
    /// There is a network again.
    Forgive,
    /// Nothing but `completed` and `stopped` is of use any more.
    Closing,
    Stop,
}

/// How the tracker thread does. Counts since the start, unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrackerStats {
    /// Tracker hosts known now.
    pub hosts: usize,
    /// Of these, those that do not answer now.
    pub hosts_down: usize,
    /// Requests that wait now.
    pub waiting: usize,
    /// Requests under way now.
    pub running: usize,
    /// Connections to HTTP trackers that are kept for the next request now.
    pub idle_connections: usize,
    /// Requests that were answered, refusals included.
    pub answered: u64,
    /// Requests that were not.
    pub failed: u64,
    /// Requests that were not sent: their host was down, or they had no time left.
    pub unsent: u64,
}

/// What the tracker thread tells.
#[derive(Clone, Debug, Default)]
struct Told {
    stats: Arc<Mutex<TrackerStats>>,
    hosts: Arc<Mutex<Hosts>>,
}

/// The way to the tracker thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct Trackers {
    commands: Sender<Command>,
    bell: Arc<Doorbell>,
    jobs: Arc<AtomicUsize>,
    told: Told,
}

impl Trackers {
    /// Has an announce sent when it is its turn. `false`: too many wait, come again.
    pub fn announce(&self, job: AnnounceJob) -> bool {
        self.submit(Command::Announce(Box::new(job)))
    }

    /// Asks the tracker with the announce URL `url` about at most [`SCRAPE_MAX`] torrents (BEP 48; further ones are
    /// left out). The answer comes by the channel; it hangs up when too many requests wait.
    pub fn scrape(&self, url: &str, mut hashes: Vec<InfoHash>) -> Receiver<Scraped> {
        hashes.truncate(SCRAPE_MAX);
        let (reply, receiver) = bounded(1);
        self.submit(Command::Scrape(Box::new(ScrapeJob { url: url.to_owned(), hashes, reply })));
        receiver
    }

    /// A handle that nobody listens to.
    #[cfg(test)]
    pub(crate) fn unheard() -> Self {
        let (commands, _) = unbounded();
        let bell = Doorbell::new().expect("a descriptor");
        Self { commands, bell, jobs: Arc::default(), told: Told::default() }
    }

    /// Trackers at addresses that `filter` has are not asked from now on.
    pub fn set_filter(&self, filter: ipfilter::Shared) {
        self.send(Command::Filter(filter));
    }

    /// There was no network and there is one again: hosts that did not answer may be asked at once.
    pub fn forgive(&self) {
        self.send(Command::Forgive);
    }

    /// The session ends: what waits and is no `completed` or `stopped` is not sent any more.
    pub fn closing(&self) {
        self.send(Command::Closing);
    }

    /// How it does, as of a moment ago.
    pub fn stats(&self) -> TrackerStats {
        *self.told.stats.lock().expect("no holder panics")
    }

    /// What each host did, by its name with the port.
    pub fn hosts(&self) -> Vec<(String, HostStats)> {
        self.told.hosts.lock().expect("no holder panics").all()
    }

    fn submit(&self, command: Command) -> bool {
        if self.jobs.fetch_add(1, Ordering::Relaxed) >= JOBS_MAX {
            self.jobs.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        self.send(command);
        true
    }

    fn send(&self, command: Command) {
        let _ = self.commands.send(command);
        self.bell.ring();
    }
}

/// How trackers are asked, and how many at once.
#[derive(Clone, Debug, Default)]
pub struct TrackersConfig {
    /// How one is asked.
    pub client: TrackerClientConfig,
    /// How many at once.
    pub plan: DispatchPlan,
}

/// The running thread.
pub struct TrackersThread {
    handle: Trackers,
    thread: JoinHandle<()>,
}

impl TrackersThread {
    /// Starts it. Errors: no thread, ring or descriptor is to be had.
    pub fn start(config: TrackersConfig) -> io::Result<Self> {
        let (commands, receiver) = unbounded();
        let bell = Doorbell::new()?;
        let jobs = Arc::<AtomicUsize>::default();
        let told = Told::default();
        let handle = Trackers { commands, bell: bell.clone(), jobs: jobs.clone(), told: told.clone() };
        let thread =
            executor::spawn("ccbt-trackers", None, move || thread::run(config, receiver, bell, jobs, told))?;
        Ok(Self { handle, thread })
    }

    /// For others.
    pub fn handle(&self) -> &Trackers {
        &self.handle
    }

    /// Ends it; what is under way is given up.
    pub fn stop(self) {
        self.handle.send(Command::Stop);
        if self.thread.join().is_err() {
            tracing::error!("the tracker thread panicked");
        }
    }
}

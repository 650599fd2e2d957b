//! The tracker thread: a glommio executor with a task for each request under way.
//!
//! Owner of the [`TrackerClient`] and of the [`Dispatcher`] that decides what is sent when. It sleeps until its bell rings:
//! for a command, for the end of a task, or for a time that has come. Invariant: each request ends with one answer to
//! whoever asked, and is counted in `jobs` until then.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ccbt_protocol::tracker::Event;
use ccbt_protocol::tracker::dispatch::{Dispatcher, Step, Urgency};
use ccbt_storage::doorbell::Doorbell;
use crossbeam_channel::Receiver;
use glommio::Task;
use rand::rngs::SmallRng;
use slab::Slab;

use super::{AnnounceJob, Command, ScrapeJob, Told, TrackerStats, TrackersConfig};
use crate::announce::AnnounceDone;
use crate::binding::Binding;
use crate::control::{TrackerClient, TrackerError, host_key};
use crate::executor::Sleeper;

/// A request.
enum Job {
    Announce(Box<AnnounceJob>),
    Scrape(Box<ScrapeJob>),
}

/// How a task ended.
enum Verdict {
    Answered,
    /// It says that it will not, or nothing that can be understood.
    Refused,
    /// The host does not answer.
    Outage(String),
    Other,
}

/// Ends of tasks that the loop has not looked at: at most one for each under way.
type Ended = Rc<RefCell<Vec<(usize, Verdict)>>>;

struct Worker {
    client: Rc<TrackerClient>,
    /// Of torrents that are bound elsewhere.
    bound: HashMap<Binding, Rc<TrackerClient>>,
    stop_timeout: Duration,
    dispatcher: Dispatcher<(String, Job)>,
    /// Why a host is down, by its name in `dispatcher`.
    reasons: HashMap<String, String>,
    running: Slab<(String, Instant, Task<()>)>,
    ended: Ended,
    commands: Receiver<Command>,
    bell: Arc<Doorbell>,
    jobs: Arc<AtomicUsize>,
    told: Told,
    stats: TrackerStats,
    rng: SmallRng,
    /// The session ends: only `stopped` is sent.
    closing: bool,
}

/// Runs until it is told to stop, or everybody has hung up.
pub(super) async fn run(
    config: TrackersConfig,
    commands: Receiver<Command>,
    bell: Arc<Doorbell>,
    jobs: Arc<AtomicUsize>,
    told: Told,
) {
    let sleeper =
        Sleeper::new(bell.park_fd()).unwrap_or_else(|error| panic!("tracker thread's eventfd: {error}"));
    let mut worker = Worker {
        stop_timeout: config.client.stop_timeout,
        client: Rc::new(TrackerClient::new(config.client)),
        bound: HashMap::new(),
        dispatcher: Dispatcher::new(config.plan),
        reasons: HashMap::new(),
        running: Slab::new(),
        ended: Rc::default(),
        commands,
        bell,
        jobs,
        told,
        stats: TrackerStats::default(),
        rng: rand::make_rng(),
        closing: false,
    };
    let mut alarm: Option<(Instant, Task<()>)> = None;
    while worker.turn() {
        let at = worker.next_wakeup();
        if alarm.as_ref().map(|(at, _)| *at) != at {
            alarm = at.map(|at| (at, worker.alarm(at)));
        }
        worker.bell.announce_park();
        if !worker.commands.is_empty() || !worker.ended.borrow().is_empty() {
            worker.bell.awake();
            continue;
        }
        sleeper.sleep().await.unwrap_or_else(|error| panic!("tracker thread's eventfd: {error}"));
        worker.bell.awake();
        if alarm.as_ref().is_some_and(|(at, _)| *at <= Instant::now()) {
            alarm = None;
        }
    }
    // Their sockets are closed when the ring has heard of it.
    drop((worker, alarm));
    glommio::timer::sleep(Duration::from_millis(1)).await;
}

impl Worker {
    /// Does all there is to do now; `false` when it is over.
    fn turn(&mut self) -> bool {
        let now = Instant::now();
        loop {
            match self.commands.try_recv() {
                Ok(Command::Announce(job)) => self.submit(now, Job::Announce(job)),
                Ok(Command::Scrape(job)) => self.submit(now, Job::Scrape(job)),
                Ok(Command::Filter(filter)) => self.client.set_filter(filter),
                Ok(Command::Forgive) => self.dispatcher.forgive(),
                Ok(Command::Closing) => {
                    self.closing = true;
                    self.dispatcher.give_up(|(_, job)| !job.outlives());
                }
                Ok(Command::Stop) | Err(crossbeam_channel::TryRecvError::Disconnected) => return false,
                Err(crossbeam_channel::TryRecvError::Empty) => break,
            }
        }
        let ended = std::mem::take(&mut *self.ended.borrow_mut());
        for (key, verdict) in ended {
            self.on_end(now, key, verdict);
        }
        while let Some(step) = self.dispatcher.poll(now) {
            match step {
                Step::Start((host, job)) if self.is_useless(&job) => {
                    self.dispatcher.on_other(&host);
                    self.unsent(job, TrackerError::NotSent);
                }
                Step::Start((host, job)) => self.start(now, host, job),
                Step::Expired((_, job)) => self.unsent(job, TrackerError::NotSent),
                Step::Down((host, job), after) => {
                    let reason = self.reasons.get(&host).cloned().unwrap_or_default();
                    self.unsent(job, TrackerError::HostDown { reason, after });
                }
            }
        }
        self.publish(now);
        true
    }

    fn submit(&mut self, now: Instant, job: Job) {
        let host = match (host_key(job.url()), job.bind()) {
            (Ok(host), None) => host,
            // What it is from there says nothing of how it is from elsewhere.
            (Ok(host), Some(bind)) => format!("{host} from {bind}"),
            (Err(error), _) => return self.unsent(job, error),
        };
        let until = job.is_goodbye().then(|| now + self.stop_timeout);
        let urgency = job.urgency();
        if let Err((_, job)) = self.dispatcher.submit(now, &host, urgency, until, (host.clone(), job)) {
            self.unsent(job, TrackerError::NotSent);
        }
    }

    fn start(&mut self, now: Instant, host: String, job: Job) {
        let client = self.client_for(job.bind());
        let entry = self.running.vacant_entry();
        let key = entry.key();
        let (ended, jobs) = (self.ended.clone(), self.jobs.clone());
        let bell = self.bell.clone();
        let task = glommio::spawn_local(async move {
            let verdict = match job {
                Job::Announce(job) => {
                    let result = client.announce(&job.url, &job.request).await;
                    let verdict = verdict(&result);
                    let AnnounceJob { torrent, token, url, done, .. } = *job;
                    done.push(AnnounceDone { torrent, token, url, result });
                    verdict
                }
                Job::Scrape(job) => {
                    let result = client.scrape(&job.url, &job.hashes).await;
                    let verdict = verdict(&result);
                    // Whoever does not wait any more is told nothing.
                    let _ = job.reply.try_send(result);
                    verdict
                }
            };
            jobs.fetch_sub(1, Ordering::Relaxed);
            ended.borrow_mut().push((key, verdict));
            bell.ring();
        });
        entry.insert((host, now, task));
    }

    /// The client whose connections leave from `bind`.
    fn client_for(&mut self, bind: Option<&Binding>) -> Rc<TrackerClient> {
        let Some(bind) = bind else { return self.client.clone() };
        if let Some(client) = self.bound.get(bind) {
            return client.clone();
        }
        if self.bound.len() >= BOUND_MAX {
            // Those with requests under way live on until these end.
            self.bound.clear();
        }
        let client = Rc::new(self.client.bound_to(bind.clone()));
        self.bound.insert(bind.clone(), client.clone());
        client
    }

    fn on_end(&mut self, now: Instant, key: usize, verdict: Verdict) {
        let (host, started, task) = self.running.remove(key);
        drop(task);
        self.count_end(&host, &verdict, now - started);
        match verdict {
            Verdict::Answered | Verdict::Refused => {
                self.stats.answered += 1;
                self.reasons.remove(&host);
                self.dispatcher.on_answer(&host);
            }
            Verdict::Outage(reason) => {
                self.stats.failed += 1;
                if self.dispatcher.on_failure(now, &host, &mut self.rng) {
                    if self.reasons.len() >= REASONS_MAX {
                        self.reasons.clear();
                    }
                    self.reasons.insert(host, reason);
                }
            }
            Verdict::Other => {
                self.stats.failed += 1;
                self.dispatcher.on_other(&host);
            }
        }
    }

    fn count_end(&self, host: &str, verdict: &Verdict, took: Duration) {
        let mut hosts = self.told.hosts.lock().expect("no holder panics");
        let counts = hosts.of(host);
        match verdict {
            Verdict::Answered | Verdict::Refused => {
                counts.answered += 1;
                counts.refused += u64::from(matches!(verdict, Verdict::Refused));
                counts.answer_time += took;
            }
            Verdict::Outage(_) | Verdict::Other => counts.failed += 1,
        }
    }

    /// Ends a request that is not sent.
    fn unsent(&mut self, job: Job, error: TrackerError) {
        self.stats.unsent += 1;
        if let Ok(host) = host_key(job.url()) {
            self.told.hosts.lock().expect("no holder panics").of(&host).unsent += 1;
        }
        self.jobs.fetch_sub(1, Ordering::Relaxed);
        match job {
            Job::Announce(job) => {
                let AnnounceJob { torrent, token, url, done, .. } = *job;
                done.push(AnnounceDone { torrent, token, url, result: Err(error) });
            }
            Job::Scrape(job) => drop(job.reply.try_send(Err(error))),
        }
    }

    /// Whether nobody wants it any more.
    fn is_useless(&self, job: &Job) -> bool {
        (self.closing && !job.outlives()) || job.is_over()
    }

    fn publish(&mut self, now: Instant) {
        (self.stats.hosts, self.stats.hosts_down) = self.dispatcher.hosts(now);
        self.stats.waiting = self.dispatcher.waiting();
        self.stats.running = self.dispatcher.running();
        self.stats.idle_connections = self.client.kept().0;
        *self.told.stats.lock().expect("no holder panics") = self.stats;
    }

    /// When the loop must go on although no bell rings.
    fn next_wakeup(&self) -> Option<Instant> {
        self.dispatcher.next_wakeup()
    }

    /// Rings the bell at `at`.
    fn alarm(&self, at: Instant) -> Task<()> {
        let bell = self.bell.clone();
        glommio::spawn_local(async move {
            glommio::timer::sleep(at.saturating_duration_since(Instant::now())).await;
            bell.ring();
        })
    }
}

/// Clients of torrents that are bound elsewhere.
const BOUND_MAX: usize = 64;

/// Reasons remembered, of hosts that are down.
const REASONS_MAX: usize = 1024;

fn verdict<T>(result: &Result<T, TrackerError>) -> Verdict {
    match result {
        Ok(_) => Verdict::Answered,
        Err(TrackerError::Refused(_) | TrackerError::Malformed | TrackerError::Status { .. }) => {
            Verdict::Refused
        }
        Err(error) if error.is_outage() => Verdict::Outage(error.to_string()),
        Err(_) => Verdict::Other,
    }
}

impl Job {
    fn url(&self) -> &str {
        match self {
            Self::Announce(job) => &job.url,
            Self::Scrape(job) => &job.url,
        }
    }

    fn bind(&self) -> Option<&Binding> {
        if let Self::Announce(job) = self { job.bind.as_ref() } else { None }
    }

    fn is_goodbye(&self) -> bool {
        matches!(self, Self::Announce(job) if job.request.event == Event::Stopped)
    }

    /// Whether nobody wants it any more.
    fn is_over(&self) -> bool {
        matches!(self, Self::Announce(job) if job.over.load(Ordering::Relaxed)) && !self.outlives()
    }

    /// Whether it is worth sending although its torrent or the session ends.
    fn outlives(&self) -> bool {
        matches!(self, Self::Announce(job) if matches!(job.request.event, Event::Stopped | Event::Completed))
    }

    fn urgency(&self) -> Urgency {
        match self {
            Self::Announce(job) if job.request.event == Event::Stopped => Urgency::Goodbye,
            Self::Announce(job) if job.request.left > 0 || job.request.event == Event::Completed => {
                Urgency::Download
            }
            Self::Announce(_) => Urgency::Seed,
            Self::Scrape(_) => Urgency::Download,
        }
    }
}

//! The web seed thread: one loop over its sockets, its commands and the clock.
//!
//! Owner of all requests, idle connections and allowances. Invariant: a turn does a bounded amount for each request;
//! what a home has no room for waits here, in order.

mod filtering;
mod waiting;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_protocol::ipfilter::{self, is_blocked};
use ccbt_protocol::webseed::{Failure, Outcome};
use ccbt_storage::doorbell::Doorbell;
use crossbeam_channel::{Receiver, TryRecvError};
use futures_rustls::pki_types::ServerName;
use futures_rustls::rustls::ClientConfig;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::conn::Conn;
use super::job::{CONNECT_TIME, HEAD_TIME, Host, Job, SLOW, Stage, Step, unreachable};
use super::{Command, Fetch, FromWeb, WebSeedConfig};
use crate::control::{in_turn, is_public, load_certificates, look_up};
use crate::inbox::Inbox;
use crate::messages::ToShard;

/// Requests under way, and so connections, in all and to one server; others wait.
const REQUESTS_MAX: usize = 128;
const PER_HOST_MAX: usize = 8;
/// Idle connections kept, and for how long.
const IDLE_MAX: usize = 64;
const IDLE_TIME: Duration = Duration::from_secs(10);
/// How often is looked at what has no descriptor: names, certificates, full inboxes.
const LOOK: Duration = Duration::from_millis(5);
/// How often progress is told, and the clock looked at, while something comes.
const TELL: Duration = Duration::from_millis(50);
/// Addresses tried of one name.
const ADDRESSES_MAX: usize = 4;

type Certificates = Arc<OnceLock<Result<Arc<ClientConfig>, String>>>;

struct Idle {
    host: Host,
    conn: Conn,
    since: Instant,
}

/// See the module.
pub(super) struct Worker {
    config: WebSeedConfig,
    commands: Receiver<Command>,
    bell: Arc<Doorbell>,
    jobs: Vec<Job>,
    idle: Vec<Idle>,
    /// Bytes that may come, of torrents with limits.
    allowed: HashMap<TorrentKey, u64>,
    certificates: Option<Certificates>,
    /// Whom not to ask.
    filter: ipfilter::Shared,
    /// Messages that found no room.
    outbox: VecDeque<(Inbox, ToShard)>,
}

impl Worker {
    pub fn new(config: WebSeedConfig, commands: Receiver<Command>, bell: Arc<Doorbell>) -> Self {
        Self {
            config,
            commands,
            bell,
            jobs: Vec::new(),
            idle: Vec::new(),
            allowed: HashMap::new(),
            certificates: None,
            filter: None,
            outbox: VecDeque::new(),
        }
    }

    /// Until it is told to stop, or everybody has hung up.
    pub fn run(mut self) {
        let mut told = Instant::now();
        while self.obey() {
            let now = Instant::now();
            for (home, message) in std::mem::take(&mut self.outbox) {
                self.post(home, message);
            }
            if now >= told + TELL {
                told = now;
                self.look_at_clock(now);
            }
            let mut at = 0;
            let mut more = false;
            while at < self.jobs.len() {
                if !std::mem::take(&mut self.jobs[at].ready) {
                    at += 1;
                    continue;
                }
                match self.advance(now, at) {
                    Ok(again) => {
                        self.jobs[at].ready = again;
                        more |= again;
                        at += 1;
                    }
                    Err(result) => {
                        self.finish(now, at, result);
                        more = true;
                    }
                }
            }
            if !more {
                self.sleep();
            }
        }
    }

    fn post(&mut self, home: Inbox, message: ToShard) {
        if !self.outbox.is_empty() {
            return self.outbox.push_back((home, message));
        }
        if let Err(crossbeam_channel::TrySendError::Full(message)) = home.try_send(message) {
            self.outbox.push_back((home, message));
        }
    }

    /// Takes commands; `false` when it is over.
    fn obey(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Fetch(fetch)) => self.begin(*fetch),
                Ok(Command::Cancel(torrent, job)) => {
                    let is_it = |other: &Job| other.fetch.torrent == torrent && other.fetch.job == job;
                    if let Some(at) = self.jobs.iter().position(is_it) {
                        self.finish(Instant::now(), at, Err(Failure::Cancelled));
                    }
                }
                Ok(Command::Allow(torrent, bytes)) => {
                    match bytes {
                        Some(bytes) => *self.allowed.entry(torrent).or_default() += bytes,
                        None => drop(self.allowed.remove(&torrent)),
                    }
                    for job in self.jobs.iter_mut().filter(|job| job.fetch.torrent == torrent) {
                        (job.held, job.ready) = (false, true);
                    }
                }
                Ok(Command::Filter(filter)) => self.set_filter(filter),
                Ok(Command::Forget(torrent)) => drop(self.allowed.remove(&torrent)),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn begin(&mut self, fetch: Fetch) {
        if fetch.limited {
            self.allowed.entry(fetch.torrent).or_default();
        }
        let now = Instant::now();
        match Job::new(now, fetch, self.config.allow_local) {
            Ok(job) => self.jobs.push(job),
            Err((fetch, failure)) => self.tell_end(fetch, outcome(0, Duration::ZERO, None, Err(failure))),
        }
    }

    fn tell_end(&mut self, fetch: Fetch, outcome: Outcome) {
        let Fetch { torrent, job, home, first, pieces, .. } = fetch;
        let message = FromWeb::Ended { job, first, left: pieces, outcome };
        self.post(home, ToShard::Web(torrent, message));
    }

    fn tell_progress(&mut self, at: usize) {
        let job = &mut self.jobs[at];
        let bytes = std::mem::take(&mut job.untold);
        if bytes > 0 {
            let (home, torrent) = (job.fetch.home.clone(), job.fetch.torrent);
            self.post(home, ToShard::Web(torrent, FromWeb::Progress(bytes)));
        }
    }

    fn finish(&mut self, now: Instant, at: usize, result: Result<(), Failure>) {
        self.tell_progress(at);
        let mut job = self.jobs.swap_remove(at);
        if let (Ok(()), Stage::Between(Some(conn))) =
            (&result, std::mem::replace(&mut job.stage, Stage::Queued))
        {
            self.keep(now, job.host.clone(), conn);
        }
        let took = now.saturating_duration_since(job.begun);
        self.tell_end(job.fetch, outcome(job.bytes, took, job.ranged, result));
        // Somebody may have waited for this place.
        self.jobs
            .iter_mut()
            .filter(|job| matches!(job.stage, Stage::Queued))
            .for_each(|job| job.ready = true);
    }

    fn keep(&mut self, now: Instant, host: Host, conn: Conn) {
        if self.idle.len() >= IDLE_MAX {
            self.idle.swap_remove(0);
        }
        self.idle.push(Idle { host, conn, since: now });
    }

    /// What is due: progress, slow servers, old connections.
    fn look_at_clock(&mut self, now: Instant) {
        self.idle.retain(|idle| now < idle.since + IDLE_TIME);
        let mut at = 0;
        while at < self.jobs.len() {
            self.tell_progress(at);
            let job = &mut self.jobs[at];
            let waits_here = job.held || matches!(job.stage, Stage::Queued);
            if waits_here {
                // Nobody else's fault.
                (job.deadline, job.since) = (now + SLOW.1, SLOW.0);
            }
            if now < job.deadline {
                at += 1;
            } else if matches!(job.stage, Stage::Body(..)) && job.since >= SLOW.0 {
                (job.deadline, job.since) = (now + SLOW.1, 0);
                at += 1;
            } else if matches!(job.stage, Stage::Connecting(..)) {
                job.ready = true;
                at += 1;
            } else {
                self.finish(now, at, Err(Failure::Slow));
            }
        }
    }

    /// Goes on with a request; whether there is more to do at once. `Err`: it has ended.
    fn advance(&mut self, now: Instant, at: usize) -> Result<bool, Result<(), Failure>> {
        let job = &mut self.jobs[at];
        match std::mem::replace(&mut job.stage, Stage::Queued) {
            Stage::Queued => self.start(now, at),
            Stage::Name(names) => match names.get() {
                None => {
                    job.stage = Stage::Name(names);
                    Ok(false)
                }
                Some(Ok(ips)) => {
                    let ips = ips.clone();
                    self.dial(now, at, &ips)
                }
                Some(Err(reason)) => Err(Err(Failure::Unreachable(reason.clone()))),
            },
            Stage::Connecting(conn, rest) => self.on_connect(now, at, conn, rest),
            Stage::Certificates(conn) => self.secure(now, at, conn),
            Stage::Between(conn) => self.next_file(now, at, conn),
            stage @ Stage::Head(..) => {
                job.stage = stage;
                match job.read_head(now, self.config.allow_local) {
                    // The server has closed a connection that had served before: that is no failure of its.
                    Err(Failure::Unreachable(_)) if job.reused => {
                        (job.reused, job.stage) = (false, Stage::Between(None));
                        Ok(true)
                    }
                    Err(failure) => Err(Err(failure)),
                    Ok(step) => Ok(step != Step::Wait),
                }
            }
            stage @ Stage::Body(..) => {
                job.stage = stage;
                self.receive(at)
            }
        }
    }

    /// Whether there is room for a request to its server.
    fn start(&mut self, now: Instant, at: usize) -> Result<bool, Result<(), Failure>> {
        let (host, mut all, mut here) = (&self.jobs[at].host, 0, 0);
        for job in self.jobs.iter().filter(|job| !matches!(job.stage, Stage::Queued)) {
            all += 1;
            here += usize::from(job.host == *host);
        }
        if all >= REQUESTS_MAX || here >= PER_HOST_MAX {
            return Ok(false);
        }
        self.jobs[at].begun = now;
        self.next_file(now, at, None)
    }

    /// Asks for the next file, over `conn` if that leads there.
    fn next_file(
        &mut self,
        now: Instant,
        at: usize,
        conn: Option<Conn>,
    ) -> Result<bool, Result<(), Failure>> {
        let before = self.jobs[at].host.clone();
        let job = &mut self.jobs[at];
        if job.is_piece_complete() || job.make_zeroes() {
            job.stage = Stage::Between(conn);
            self.deliver(at);
            return Ok(true);
        }
        if job.fetch.segments.is_empty() {
            job.stage = Stage::Between(conn);
            return Err(Ok(()));
        }
        if job.redirects == 0 {
            job.aim().map_err(Err)?;
        }
        job.deadline = now + HEAD_TIME;
        let host = job.host.clone();
        if let Some(conn) = conn {
            if host == before {
                return self.ask(now, at, conn);
            }
            self.keep(now, before, conn);
        }
        while let Some(found) = self.idle.iter().rposition(|idle| idle.host == host) {
            let mut idle = self.idle.swap_remove(found);
            if idle.conn.is_quiet() {
                self.jobs[at].reused = true;
                return self.ask(now, at, idle.conn);
            }
        }
        self.jobs[at].reused = false;
        match host.name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(ip) => self.dial(now, at, &[ip]),
            Err(_) => {
                let names = look_up(&host.name);
                let names = names.ok_or(Err(Failure::Unreachable("too many look-ups wait".to_owned())))?;
                self.jobs[at].stage = Stage::Name(names);
                Ok(false)
            }
        }
    }

    fn dial(&mut self, now: Instant, at: usize, ips: &[IpAddr]) -> Result<bool, Result<(), Failure>> {
        let job = &mut self.jobs[at];
        let bind = job.host.bind.as_ref().or(self.config.bind.as_ref());
        // What is checked here is what is dialled: a name that is looked up once cannot change in between.
        let mut addrs: Vec<SocketAddr> = in_turn(ips, bind)
            .into_iter()
            .filter(|ip| !job.host.guarded || is_public(*ip))
            .filter(|ip| !is_blocked(&self.filter, *ip))
            .map(|ip| SocketAddr::new(ip, job.host.port))
            .collect();
        if addrs.is_empty() {
            let failure = match ips.iter().find(|ip| job.host.guarded && !is_public(**ip)) {
                Some(ip) => Failure::Forbidden(ip.to_string()),
                None if ips.iter().any(|ip| is_blocked(&self.filter, *ip)) => filtering::filtered(),
                None => Failure::Unreachable("no address of it can be reached from here".to_owned()),
            };
            return Err(Err(failure));
        }
        addrs.truncate(ADDRESSES_MAX);
        let first = addrs.remove(0);
        job.deadline = now + CONNECT_TIME;
        let conn = Conn::open(first, bind).map_err(|error| Err(unreachable(error)))?;
        job.stage = Stage::Connecting(conn, addrs);
        Ok(false)
    }

    fn on_connect(
        &mut self,
        now: Instant,
        at: usize,
        conn: Conn,
        mut rest: Vec<SocketAddr>,
    ) -> Result<bool, Result<(), Failure>> {
        let job = &mut self.jobs[at];
        let failure = match conn.is_connected() {
            Ok(true) => return self.secure(now, at, conn),
            Ok(false) if now < job.deadline => {
                job.stage = Stage::Connecting(conn, rest);
                return Ok(false);
            }
            Ok(false) => Failure::Slow,
            Err(error) => unreachable(error),
        };
        if rest.is_empty() {
            return Err(Err(failure));
        }
        let next = Conn::open(rest.remove(0), job.host.bind.as_ref().or(self.config.bind.as_ref()))
            .map_err(|error| Err(unreachable(error)))?;
        (job.deadline, job.stage) = (now + CONNECT_TIME, Stage::Connecting(next, rest));
        Ok(false)
    }

    fn secure(&mut self, now: Instant, at: usize, mut conn: Conn) -> Result<bool, Result<(), Failure>> {
        self.jobs[at].deadline = now + HEAD_TIME;
        if !self.jobs[at].host.secure {
            return self.ask(now, at, conn);
        }
        let slot = match &self.certificates {
            Some(slot) => slot.clone(),
            None => {
                let slot = load_certificates(self.config.extra_roots_pem.clone());
                let slot = slot.ok_or(Err(Failure::Unreachable("too many look-ups wait".to_owned())))?;
                self.certificates.insert(slot).clone()
            }
        };
        let config = match slot.get() {
            None => {
                self.jobs[at].stage = Stage::Certificates(conn);
                return Ok(false);
            }
            Some(Ok(config)) => Arc::clone(config),
            Some(Err(reason)) => return Err(Err(Failure::Unreachable(reason.clone()))),
        };
        let name = self.jobs[at].host.name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).map_err(|error| Err(Failure::BadUrl(error.to_string())))?;
        conn.secure(config, name).map_err(|error| Err(unreachable(error)))?;
        self.ask(now, at, conn)
    }

    fn ask(&mut self, now: Instant, at: usize, mut conn: Conn) -> Result<bool, Result<(), Failure>> {
        let job = &mut self.jobs[at];
        let request = job.request(&self.config.user_agent);
        let sent = conn.send(&request);
        if let (Err(error), false) = (&sent, job.reused) {
            return Err(Err(Failure::Unreachable(error.to_string())));
        }
        (job.deadline, job.stage) = (now + HEAD_TIME, Stage::Head(conn, Vec::new()));
        Ok(true)
    }

    fn receive(&mut self, at: usize) -> Result<bool, Result<(), Failure>> {
        let job = &mut self.jobs[at];
        let mut allowance = self.allowed.get_mut(&job.fetch.torrent);
        let most = allowance.as_ref().map_or(u64::MAX, |left| **left);
        if most == 0 {
            job.held = true;
            return Ok(false);
        }
        let (step, bytes) = job.read_body(most).map_err(Err)?;
        if let Some(left) = &mut allowance {
            **left -= bytes;
        }
        job.bytes += bytes;
        job.untold += bytes;
        if step == Step::Piece {
            self.deliver(at);
        }
        Ok(step != Step::Wait)
    }

    /// The first piece of a request is complete.
    fn deliver(&mut self, at: usize) {
        self.tell_progress(at);
        let job = &mut self.jobs[at];
        let buf = job.fetch.pieces.pop_front().expect("a piece that is complete is there");
        let (piece, number) = (job.fetch.first, job.fetch.job);
        // One receive may have gone beyond it.
        (job.fetch.first, job.at) = (PieceIndex(piece.0 + 1), job.at - buf.len());
        let (home, torrent) = (job.fetch.home.clone(), job.fetch.torrent);
        self.post(home, ToShard::Web(torrent, FromWeb::Piece { job: number, piece, buf }));
    }
}

fn outcome(bytes: u64, took: Duration, ranged: Option<bool>, result: Result<(), Failure>) -> Outcome {
    Outcome { bytes, took, ranged, result }
}

//! The announces of one torrent: schedule and answers.
//!
//! Owner: the torrent's home shard. [`Announces::poll`] gives what [`Announcer`] says is due to the tracker thread
//! ([`Trackers`]); each ends as an [`AnnounceDone`] in the shard's [`DoneQueue`], which the shard takes to
//! [`Announces::on_done`]. Invariants: every announce given away is either in `under_way` or given up by
//! [`Announces::stop`]; after `stop` nothing but `stopped` goes out.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ccbt_protocol::ids::{InfoHash, PeerId, TorrentKey};
use ccbt_protocol::tracker::schedule::{Announce, AnnounceToken, Announcer, SchedulePlan, TrackerStatus};
use ccbt_protocol::tracker::{AnnounceRequest, AnnounceResponse, Event};
use ccbt_storage::doorbell::Doorbell;
use crossbeam_channel::{Receiver, Sender, unbounded};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::binding::Binding;
use crate::control::{TrackerError, shown};
use crate::trackers::{AnnounceJob, Trackers};

/// Peers asked for in one announce: enough for a torrent's connections, and for some that fail.
const NUMWANT: u32 = 100;
/// How long [`Announces::stop`] waits for trackers that may have learned of us by an unanswered `started`.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// When an announce is tried again for which the tracker thread had no room.
const NO_ROOM: Duration = Duration::from_secs(10);

/// An announce ended.
#[derive(Debug)]
pub struct AnnounceDone {
    /// Whose announce it was.
    pub torrent: TorrentKey,
    /// Which announce.
    pub token: AnnounceToken,
    /// The tracker.
    pub url: String,
    /// Its answer.
    pub result: Result<AnnounceResponse, TrackerError>,
}

/// Where the results of one shard's announces arrive; each rings the shard's bell.
///
/// Bounded by the announces under way: a torrent has at most one per tier.
#[derive(Clone, Debug)]
pub struct DoneQueue {
    results: Receiver<AnnounceDone>,
    sender: DoneSender,
}

/// The tracker thread's end of a [`DoneQueue`].
#[derive(Clone, Debug)]
pub struct DoneSender {
    results: Sender<AnnounceDone>,
    bell: Arc<Doorbell>,
}

impl DoneSender {
    /// Adds a result and wakes the shard's loop. Nothing happens when the shard has gone.
    pub fn push(&self, done: AnnounceDone) {
        let _ = self.results.send(done);
        self.bell.ring();
    }
}

impl DoneQueue {
    /// An empty queue of the shard that sleeps on `bell`.
    pub fn new(bell: Arc<Doorbell>) -> Self {
        let (sender, results) = unbounded();
        Self { results, sender: DoneSender { results: sender, bell } }
    }

    /// Takes the oldest result.
    pub fn pop(&self) -> Option<AnnounceDone> {
        self.results.try_recv().ok()
    }

    /// Whether there is no result.
    pub fn is_empty(&self) -> bool {
        self.results.is_empty()
    }
}

/// Who announces: the same for every announce of a torrent.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The torrent, for finding it again when an announce ends.
    pub torrent: TorrentKey,
    /// The swarm.
    pub info_hash: InfoHash,
    /// Our name in it.
    pub peer_id: PeerId,
    /// The TCP port we accept peers on; 0 = none.
    pub port: u16,
}

/// What is told: payload bytes since the start, and bytes missing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Payload bytes sent.
    pub uploaded: u64,
    /// Payload bytes received.
    pub downloaded: u64,
    /// Bytes missing; 0 = we seed.
    pub left: u64,
}

/// What an ended announce means for the torrent.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Peers to try.
    pub peers: Vec<SocketAddr>,
    /// Tracker URL (escaped) and text, of a failure or of a warning.
    pub problem: Option<(String, String)>,
    /// Our address as the tracker sees it (BEP 24).
    pub external_ip: Option<IpAddr>,
}

/// The announces of one torrent.
pub struct Announces {
    identity: Identity,
    announcer: Announcer,
    /// Random per torrent and session, so that trackers know us again after our address changed.
    key: u32,
    rng: SmallRng,
    /// Tasks whose result is awaited.
    under_way: HashMap<AnnounceToken, Event>,
    /// `stopped` announces not sent yet.
    owed: VecDeque<Announce>,
    has_completed: bool,
    /// After a stop: when unanswered announces are not waited for any longer.
    give_up_at: Option<Instant>,
    bind: Option<Binding>,
    /// Told to the tracker thread with every announce: what has not been sent is of no use, but for `completed` and `stopped`.
    over: Arc<AtomicBool>,
}

impl Announces {
    /// Announces to `tiers` (BEP 12), the first of them due at `now`.
    pub fn new(identity: Identity, tiers: &[Vec<String>], now: Instant, rng: &mut impl Rng) -> Self {
        Self {
            identity,
            announcer: Announcer::new(SchedulePlan::default(), tiers, now, rng),
            key: rand::random(),
            rng: SmallRng::from_rng(rng),
            under_way: HashMap::new(),
            owed: VecDeque::new(),
            has_completed: false,
            give_up_at: None,
            bind: None,
            over: Arc::default(),
        }
    }

    /// Announces leave from `bind`, where it is given, and not from where the session is bound to.
    pub fn bound_to(self, bind: Option<Binding>) -> Self {
        Self { bind, ..self }
    }

    /// Peers reach us at `port` from now on: trackers hear of it as soon as they allow.
    pub fn set_port(&mut self, now: Instant, port: u16) {
        self.identity.port = port;
        self.announcer.announce_now(now);
    }

    /// Gives what is due to `trackers`, which answer to `done`.
    pub fn poll(&mut self, now: Instant, totals: Totals, trackers: &Trackers, done: &DoneQueue) {
        if self.give_up_at.is_some_and(|at| at <= now) {
            // `stopped` has a time limit of its own.
            self.under_way.retain(|_, event| *event == Event::Stopped);
        }
        while let Some(announce) = self.owed.pop_front().or_else(|| self.announcer.poll(now)) {
            self.start(now, announce, totals, trackers, done.sender.clone());
        }
    }

    fn start(
        &mut self,
        now: Instant,
        announce: Announce,
        totals: Totals,
        trackers: &Trackers,
        done: DoneSender,
    ) {
        let Announce { token, url, event, tracker_id } = announce;
        let Identity { torrent, info_hash, peer_id, port } = self.identity;
        let Totals { uploaded, downloaded, left } = totals;
        let request = AnnounceRequest {
            info_hash,
            peer_id,
            port,
            uploaded,
            downloaded,
            left,
            event,
            numwant: Some(NUMWANT),
            key: self.key,
            tracker_id,
            ip: None,
            other_ip: None,
        };
        let job = AnnounceJob {
            torrent,
            token,
            url,
            request,
            bind: self.bind.clone(),
            over: self.over.clone(),
            done,
        };
        if trackers.announce(job) {
            self.under_way.insert(token, event);
        } else {
            self.announcer.on_deferred(token, now + NO_ROOM);
        }
    }

    /// When [`Self::poll`] has something next, unless another call comes before.
    pub fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        if !self.owed.is_empty() {
            return Some(now);
        }
        let waits = self.under_way.values().any(|event| *event != Event::Stopped);
        let give_up_at = self.give_up_at.filter(|_| waits).map(|at| at.max(now));
        self.announcer.next_wakeup(now).into_iter().chain(give_up_at).min()
    }

    /// The download is complete: trackers hear of it, once. Not for a torrent that was complete when it
    /// started.
    pub fn completed(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.has_completed, true) {
            self.announcer.on_completed(now);
        }
    }

    /// More peers are wanted: announces become due as soon as min intervals and back-offs allow.
    pub fn announce_now(&mut self, now: Instant) {
        self.announcer.announce_now(now);
    }

    /// There was no network and there is one again: what failed is tried at once.
    pub fn forgive(&mut self, now: Instant) {
        self.announcer.forgive(now);
    }

    /// Say goodbye: from now on only `stopped` goes out, to the trackers that know us, with the next
    /// [`Self::poll`].
    pub fn stop(&mut self, now: Instant) {
        if self.give_up_at.is_some() {
            return;
        }
        self.give_up_at = Some(now + STOP_GRACE);
        self.over.store(true, Ordering::Relaxed);
        self.owed.extend(self.announcer.stop(now));
        // What was under way to the same trackers is of no interest any more; its result will find no one.
        let owed = &self.owed;
        self.under_way.retain(|token, _| owed.iter().all(|announce| announce.token.tracker != token.tracker));
    }

    /// Begins a new session after [`Self::stop`]: every tracker is due its `started`. Unlike with a new
    /// `Announces`, late results of the old session are told from those of the new one.
    pub fn restart(&mut self, now: Instant) {
        self.announcer.restart(now);
        self.key = rand::random();
        self.under_way.clear();
        self.owed.clear();
        self.has_completed = false;
        self.give_up_at = None;
        self.over = Arc::default();
    }

    /// Whether no announce is under way and none is owed (after [`Self::stop`]).
    ///
    /// An unanswered `started` counts for three seconds: its tracker may know us by now, and is told
    /// `stopped` once it answers.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.owed.is_empty()
    }

    /// Takes a result of this torrent's. Results of announces given up by [`Self::stop`] mean nothing.
    pub fn on_done(&mut self, now: Instant, done: AnnounceDone) -> Outcome {
        let AnnounceDone { token, url, result, .. } = done;
        if self.under_way.remove(&token).is_none() {
            return Outcome::default();
        }
        let outcome = match result {
            Ok(response) => {
                self.announcer.on_response(now, token, &response, &mut self.rng);
                let problem = response.warning.map(|warning| (shown(&url), warning));
                let peers = if self.give_up_at.is_none() { response.peers } else { Vec::new() };
                Outcome { peers, problem, external_ip: response.external_ip }
            }
            Err(TrackerError::NotSent) => {
                self.announcer.on_deferred(token, now + NO_ROOM);
                Outcome::default()
            }
            Err(error) => {
                let text = error.to_string();
                self.announcer.on_failure(now, token, &text, error.retry_in(), &mut self.rng);
                Outcome { problem: Some((shown(&url), text)), ..Outcome::default() }
            }
        };
        if self.give_up_at.is_some() {
            self.owed.extend(std::iter::from_fn(|| self.announcer.poll(now)));
        }
        outcome
    }

    /// What is known of each tracker, in the torrent's order. URLs are as the torrent has them: escape before
    /// showing.
    pub fn statuses(&self) -> Vec<TrackerStatus> {
        self.announcer.statuses().cloned().collect()
    }
}

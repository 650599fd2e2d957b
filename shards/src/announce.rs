//! The announces of one torrent: schedule, tasks, answers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use ccbt_protocol::ids::{InfoHash, PeerId, TorrentKey};
use ccbt_protocol::tracker::AnnounceResponse;
use ccbt_protocol::tracker::schedule::{AnnounceToken, TrackerStatus};
use ccbt_storage::doorbell::Doorbell;
use rand::Rng;

use crate::control::{TrackerClient, TrackerError};

/// An announce ended.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct AnnounceDone {
    pub torrent: TorrentKey,
    pub token: AnnounceToken,
    pub url: String,
    pub result: Result<AnnounceResponse, TrackerError>,
}

/// Where announce tasks put their results; pushing rings the shard's bell so that its loop wakes.
#[derive(Clone, Debug)]
pub struct DoneQueue {
    queue: Rc<RefCell<VecDeque<AnnounceDone>>>,
    bell: Arc<Doorbell>,
}

#[allow(missing_docs)]
impl DoneQueue {
    pub fn new(bell: Arc<Doorbell>) -> Self { Self { queue: Rc::default(), bell } }
    pub fn push(&self, done: AnnounceDone) { self.queue.borrow_mut().push_back(done); self.bell.ring(); }
    pub fn pop(&self) -> Option<AnnounceDone> { self.queue.borrow_mut().pop_front() }
    pub fn is_empty(&self) -> bool { self.queue.borrow().is_empty() }
}

/// Who announces: the same for every announce of a torrent.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Identity {
    pub torrent: TorrentKey,
    pub info_hash: InfoHash,
    pub peer_id: PeerId,
    pub port: u16,
}

/// What is told: payload bytes since the start, and bytes missing.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Totals {
    pub uploaded: u64,
    pub downloaded: u64,
    pub left: u64,
}

/// What an ended announce means for the torrent.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Outcome {
    pub peers: Vec<SocketAddr>,
    /// Tracker URL and text, of a failure or of a warning.
    pub problem: Option<(String, String)>,
}

/// The announces of one torrent.
pub struct Announces {}

#[allow(unused_variables, missing_docs)]
impl Announces {
    pub fn new(identity: Identity, tiers: &[Vec<String>], now: Instant, rng: &mut impl Rng) -> Self { todo!() }
    /// Starts what is due, as detached glommio tasks. Call on the executor's thread.
    pub fn poll(&mut self, now: Instant, totals: Totals, client: &Rc<TrackerClient>, done: &DoneQueue) { todo!() }
    /// When [`Self::poll`] has something next.
    pub fn next_wakeup(&self, now: Instant) -> Option<Instant> { todo!() }
    /// The download is complete: trackers hear of it.
    pub fn completed(&mut self, now: Instant) { todo!() }
    /// Say goodbye: from now on only `stopped` goes out.
    pub fn stop(&mut self, now: Instant) { todo!() }
    /// Whether no announce is under way and none is owed (after [`Self::stop`]).
    pub fn is_idle(&self) -> bool { todo!() }
    pub fn on_done(&mut self, now: Instant, done: AnnounceDone) -> Outcome { todo!() }
    pub fn statuses(&self) -> Vec<TrackerStatus> { todo!() }
}

//! A torrent as the user of the library holds it.
//!
//! Role: the newest status of one torrent, and a way to wait for its end. Owner: written by the control
//! thread, read by any [`TorrentHandle`]. Invariant: `outcome` only moves away from [`Outcome::Running`], and from
//! [`Outcome::Failed`] back to it when the torrent goes on; a failure that retries by itself is not an outcome.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ccbt_protocol::ids::{InfoHash, TorrentKey};
use ccbt_protocol::metainfo::Metainfo;
use ccbt_protocol::picker::Priority;
use ccbt_protocol::rate::TorrentLimits;
use ccbt_protocol::selection::Selection;
use ccbt_protocol::tracker::schedule::TrackerStatus;
use ccbt_shards::inbox::Inbox;
use ccbt_shards::messages::{Event, Snapshot, ToShard, TorrentStatus};
use crossbeam_channel::{Receiver, bounded};

use super::error::{GoneError, WaitError};

/// How a torrent's wait ends.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Running,
    Finished,
    Failed(String),
    Removed,
}

#[derive(Debug)]
struct Progress {
    status: Option<Arc<TorrentStatus>>,
    outcome: Outcome,
    /// How much each file is wanted, as asked for last.
    priorities: Vec<Priority>,
    /// Other priorities were asked for so often, and the shard has not taken them yet: what is finished by then is not
    /// what was asked for.
    selecting: u32,
}

/// What the control thread and handles share.
#[derive(Debug)]
pub(super) struct Shared {
    key: TorrentKey,
    metainfo: Arc<Metainfo>,
    progress: Mutex<Progress>,
    /// Held by who changes priorities, so that the last one to note them is the last one at the shard.
    selecting: Mutex<()>,
    changed: Condvar,
    /// The way to its shard, once it was handed over.
    home: OnceLock<Inbox>,
}

impl Shared {
    pub(super) fn new(key: TorrentKey, metainfo: Arc<Metainfo>) -> Self {
        let progress =
            Progress { status: None, outcome: Outcome::Running, priorities: Vec::new(), selecting: 0 };
        let progress = Mutex::new(progress);
        Self {
            key,
            metainfo,
            progress,
            selecting: Mutex::new(()),
            changed: Condvar::new(),
            home: OnceLock::new(),
        }
    }

    /// The torrent was handed to a shard.
    pub(super) fn set_home(&self, home: Inbox) {
        self.home.set(home).expect("a torrent is handed over once");
    }

    pub(super) fn send(&self, message: ToShard) -> Result<(), GoneError> {
        let sent = self.home.get().is_some_and(|home| home.send(message));
        if sent { Ok(()) } else { Err(GoneError) }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn key(&self) -> TorrentKey {
        self.key
    }

    pub(super) fn metainfo(&self) -> &Arc<Metainfo> {
        &self.metainfo
    }

    pub(super) fn status(&self) -> Option<Arc<TorrentStatus>> {
        self.lock().status.clone()
    }

    pub(super) fn set_status(&self, status: Arc<TorrentStatus>) {
        self.lock().status = Some(status);
    }

    pub(super) fn priorities(&self) -> Vec<Priority> {
        self.lock().priorities.clone()
    }

    pub(super) fn set_priorities(&self, priorities: Vec<Priority>) {
        self.lock().priorities = priorities;
    }

    /// Other files are wanted from now on.
    fn select(&self, priorities: Vec<Priority>) -> Result<(), GoneError> {
        // The progress is not held while it is sent: that may wait for the shard, and the shard for the control thread.
        let _turn = self.selecting.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut progress = self.lock();
            progress.priorities.clone_from(&priorities);
            progress.selecting += 1;
            if progress.outcome == Outcome::Finished {
                progress.outcome = Outcome::Running;
            }
        }
        self.send(ToShard::Select(self.key, Selection::new(priorities)))
    }

    /// Notes what `event` means for those who wait.
    pub(super) fn apply(&self, event: &Event) {
        let outcome = match event {
            Event::Finished if self.lock().selecting > 0 => return,
            Event::Finished => Outcome::Finished,
            Event::Selected => {
                let mut progress = self.lock();
                progress.selecting = progress.selecting.saturating_sub(1);
                return;
            }
            Event::Failed { message, retry: false } => Outcome::Failed(message.clone()),
            Event::Removed => Outcome::Removed,
            Event::Recovered => Outcome::Running,
            _ => return,
        };
        let mut progress = self.lock();
        if let (Outcome::Running, Outcome::Failed(_)) = (&outcome, &progress.outcome) {
            progress.outcome = Outcome::Running;
        }
        // Finished stays finished when the torrent is removed after seeding.
        if progress.outcome == Outcome::Running && outcome != Outcome::Running {
            progress.outcome = outcome;
            self.changed.notify_all();
        }
    }

    /// Why it cannot go on by itself.
    pub(super) fn failure(&self) -> Option<String> {
        match &self.lock().outcome {
            Outcome::Failed(message) => Some(message.clone()),
            _ => None,
        }
    }

    pub(super) fn info_hash(&self) -> InfoHash {
        self.metainfo.info_hash
    }
}

/// One torrent of a session. Cheap to clone; outlives the session, then as a record of the last status.
#[derive(Clone, Debug)]
pub struct TorrentHandle {
    pub(super) shared: Arc<Shared>,
}

impl TorrentHandle {
    /// Its name in events.
    pub fn key(&self) -> TorrentKey {
        self.shared.key()
    }

    /// SHA-1 of its `info` dictionary.
    pub fn info_hash(&self) -> InfoHash {
        self.shared.info_hash()
    }

    /// What its torrent file says.
    pub fn metainfo(&self) -> &Arc<Metainfo> {
        self.shared.metainfo()
    }

    /// How it did a moment ago; `None` before its shard has said anything.
    pub fn status(&self) -> Option<Arc<TorrentStatus>> {
        self.shared.status()
    }

    /// Hashes all of its data again. Its peers go and come back afterwards; [`crate::TorrentEvent::Checked`] follows.
    /// A torrent that has stopped after a failure goes on by this too.
    pub fn recheck(&self) -> Result<(), GoneError> {
        self.shared.send(ToShard::Recheck(self.key()))
    }

    /// Changes its rate limits and those of each of its peers. Connections stay; what is under way is not taken back.
    pub fn set_limits(&self, limits: TorrentLimits) -> Result<(), GoneError> {
        self.shared.send(ToShard::TorrentLimits(self.key(), limits))
    }

    /// Changes how much each file is wanted, by index in [`Metainfo::files`]; files behind the last entry are
    /// [`Priority::Normal`]. [`crate::TorrentEvent::Selected`] follows, and [`crate::TorrentEvent::Finished`] when all
    /// that is wanted is there. Checkpoints keep it. A seed wants nothing, whatever is said here.
    ///
    /// A piece is wanted as much as the most wanted of its files. A skipped file is not made until a piece is written
    /// that it shares with a wanted one; then it is sparse and has just that. What is there of it already stays.
    pub fn set_file_priorities(&self, priorities: Vec<Priority>) -> Result<(), GoneError> {
        self.shared.select(priorities)
    }

    /// How much each file is wanted, as it was asked for last; files behind the last entry are [`Priority::Normal`].
    pub fn file_priorities(&self) -> Vec<Priority> {
        self.shared.priorities()
    }

    /// Goes on after [`Self::pause`], or after a failure, at once: then [`crate::TorrentEvent::Recovered`] follows, or
    /// the failure again.
    pub fn resume(&self) -> Result<(), GoneError> {
        self.shared.send(ToShard::Resume(self.key()))
    }

    /// How its pieces are now: which are there, which of them outlast a power cut, and, while they are being checked,
    /// which were looked at. To be kept and given back as [`crate::AddOptions::known`].
    pub fn snapshot(&self) -> Result<Snapshot, GoneError> {
        // A shard that is gone, or does not know the torrent, hangs up.
        self.ask_snapshot()?.recv().map_err(|_| GoneError)
    }

    /// As [`Self::snapshot`], for those who wait elsewhere.
    pub(crate) fn ask_snapshot(&self) -> Result<Receiver<Snapshot>, GoneError> {
        let (reply, answer) = bounded(1);
        self.shared.send(ToShard::Snapshot(self.key(), reply)).map(|()| answer)
    }

    /// How announcing to each of its trackers does, in the order of its tiers; the channel hangs up when the torrent is gone.
    pub(crate) fn ask_trackers(&self) -> Result<Receiver<Vec<TrackerStatus>>, GoneError> {
        let (reply, answer) = bounded(1);
        self.shared.send(ToShard::Trackers(self.key(), reply)).map(|()| answer)
    }

    /// Waits until everything is verified and on disk. A failure that the engine retries by itself (a full
    /// disk) goes on waiting; `timeout` of `None` waits for ever.
    pub fn wait_finished(&self, timeout: Option<Duration>) -> Result<(), WaitError> {
        let started = Instant::now();
        let mut progress = self.shared.lock();
        loop {
            match &progress.outcome {
                Outcome::Finished => return Ok(()),
                Outcome::Failed(message) => return Err(WaitError::Failed(message.clone())),
                Outcome::Removed => return Err(WaitError::Removed),
                Outcome::Running => {}
            }
            progress = match timeout {
                None => self.shared.changed.wait(progress).unwrap_or_else(PoisonError::into_inner),
                Some(timeout) => {
                    let left = timeout.saturating_sub(started.elapsed());
                    if left.is_zero() {
                        return Err(WaitError::TimedOut(timeout));
                    }
                    let waited = self.shared.changed.wait_timeout(progress, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn handle() -> TorrentHandle {
        let metainfo = Arc::new(testing::metainfo("t", 3 * 16384, 16384));
        TorrentHandle { shared: Arc::new(Shared::new(TorrentKey(1), metainfo)) }
    }

    #[test]
    fn waiting_ends_with_the_first_outcome() {
        let torrent = handle();
        let short = Some(Duration::from_millis(1));
        assert!(matches!(torrent.wait_finished(short), Err(WaitError::TimedOut(_))));
        torrent.shared.apply(&Event::Failed { message: "disk full".into(), retry: true });
        assert!(matches!(torrent.wait_finished(short), Err(WaitError::TimedOut(_))), "it retries by itself");
        torrent.shared.apply(&Event::Failed { message: "bad disk".into(), retry: false });
        assert_eq!(torrent.wait_finished(short), Err(WaitError::Failed("bad disk".into())));
        torrent.shared.apply(&Event::Recovered);
        assert!(matches!(torrent.wait_finished(short), Err(WaitError::TimedOut(_))), "it goes on");
        torrent.shared.apply(&Event::Finished);
        torrent.shared.apply(&Event::Removed);
        torrent.shared.apply(&Event::Recovered);
        assert_eq!(torrent.wait_finished(None), Ok(()));
    }

    #[test]
    fn commands_to_a_torrent_without_a_shard_say_so() {
        let torrent = handle();
        assert_eq!(torrent.recheck(), Err(GoneError));
        assert_eq!(torrent.resume(), Err(GoneError));
        assert_eq!(torrent.set_limits(TorrentLimits::default()), Err(GoneError));
        assert!(torrent.snapshot().is_err());
    }

    #[test]
    fn failures_and_removal_wake_those_who_wait() {
        for (event, expected) in [
            (Event::Failed { message: "no".into(), retry: false }, WaitError::Failed("no".into())),
            (Event::Removed, WaitError::Removed),
        ] {
            let torrent = handle();
            let waiting = torrent.clone();
            let thread = std::thread::spawn(move || waiting.wait_finished(None));
            torrent.shared.apply(&event);
            assert_eq!(thread.join().expect("no panic"), Err(expected));
        }
    }
}

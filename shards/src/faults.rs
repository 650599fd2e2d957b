//! What becomes of a torrent whose disk or files fail it, and how it goes on.
//!
//! Role: pause, retry, start over, give up. Owner: the shard. Invariants: one torrent stops and no other; verified data
//! that the disk did not take waits in memory; files that changed behind our back are closed, opened and looked at
//! again, so nothing is claimed that is not there; whatever is tried again is tried after a growing pause, and a disk
//! that keeps failing reads is left alone until the user says [`crate::messages::ToShard::Resume`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::ids::PieceIndex;
use ccbt_storage::error::{ErrorKind, StorageError};
use ccbt_storage::messages::StorageCmd;

use crate::messages::{Event, FromShard, Known};
use crate::shard::Shard;
use crate::sync::SyncPolicy;
use crate::torrents::Phase;

/// Before the first attempt to go on after the disk failed; each further one waits twice as long.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Between two attempts at most.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Files that change all the time are not looked at more often than this.
const RESTART_PAUSE: Duration = Duration::from_secs(60);
/// Reads that fail with none succeeding between them, after which the torrent stops.
const FAILED_IN_ROW_MAX: u32 = 16;
/// How often one piece may be fetched again because it could not be read.
const FAILED_PIECE_MAX: u8 = 3;
/// Pieces whose failures are counted at most.
const FAILED_PIECES_KNOWN_MAX: usize = 1024;

/// The disk refuses.
pub(crate) struct Failure {
    /// When to try again; `None`: when the user says so.
    retry_at: Option<Instant>,
    /// The pause before that.
    pause: Duration,
    /// An attempt was made after that pause.
    tried: bool,
    /// The cause, told once.
    message: String,
    /// The files are not what they were: they are to be opened and looked at again.
    changed: bool,
}

impl Failure {
    /// Of a part that waits for its home to end it.
    pub fn of_satellite() -> Self {
        Self { retry_at: None, pause: RETRY_MAX, tried: false, message: String::new(), changed: false }
    }
}

/// Reads that failed.
#[derive(Debug, Default)]
pub(crate) struct ReadFaults {
    in_row: u32,
    by_piece: HashMap<PieceIndex, u8>,
}

impl ReadFaults {
    /// A read succeeded.
    pub fn good(&mut self) {
        self.in_row = 0;
    }

    /// A read of `piece` failed by the device's fault. Returns whether it is time to stop.
    fn bad(&mut self, piece: PieceIndex) -> bool {
        self.in_row += 1;
        if self.by_piece.len() >= FAILED_PIECES_KNOWN_MAX {
            return true;
        }
        let times = self.by_piece.entry(piece).or_default();
        *times = times.saturating_add(1);
        *times >= FAILED_PIECE_MAX || self.in_row >= FAILED_IN_ROW_MAX
    }
}

/// Whether the error says that somebody changed files or folders.
fn is_change(error: &StorageError) -> bool {
    use ErrorKind::{Missing, NotAFile, OutsideRoot, ShortRead};
    matches!(error.kind(), Missing | NotAFile | OutsideRoot | ShortRead)
}

impl Shard {
    /// A read for a peer failed: the piece is not ours any more, and perhaps the file is not what it was.
    pub(crate) fn read_failed(&mut self, index: usize, piece: PieceIndex, error: &StorageError) {
        if !self.lose_piece(index, piece) {
            return;
        }
        let home = &mut self.homes[index];
        let (key, stop) = (home.key, !is_change(error) && home.reads.bad(piece));
        let (part, trouble) = (home.part.is_satellite(), stop || is_change(error));
        if part {
            if trouble {
                self.report_failure(index, error);
            }
            return;
        }
        self.tell(FromShard::Event(key, Event::Note(format!("piece {piece} is missing again: {error}"))));
        if stop {
            let message =
                format!("reading fails again and again: {error}; resume the torrent when it is mended");
            self.give_up(index, message);
        } else if is_change(error) && self.may_restart(index) {
            let note = "files have changed: looking at them again".to_owned();
            self.tell(FromShard::Event(key, Event::Note(note)));
            self.restart(index, true);
        }
    }

    /// The disk refused something: no new requests until it recovers.
    pub(crate) fn fail(&mut self, index: usize, error: &StorageError) {
        if self.homes[index].part.is_satellite() {
            return self.report_failure(index, error);
        }
        let retry = error.is_temporary() || self.homes[index].torrent.is_some();
        let changed = is_change(error);
        self.note_failure(index, error.to_string(), retry, changed);
        if changed && self.may_restart(index) {
            self.restart(index, true);
        }
    }

    /// As [`Self::fail`], for what is no error of a single file.
    pub(crate) fn fail_with(&mut self, index: usize, message: String, retry: bool) {
        self.note_failure(index, message, retry, false);
    }

    pub(crate) fn note_failure(&mut self, index: usize, message: String, retry: bool, changed: bool) {
        let now = self.now;
        let home = &mut self.homes[index];
        let told = home.failure.as_ref().is_some_and(|before| before.message == message);
        let (pause, at) = match &home.failure {
            Some(before) if before.tried => {
                let pause = (before.pause * 2).min(RETRY_MAX);
                (pause, now + pause)
            }
            // One cause fails many pieces at once: that is one failure.
            Some(before) => (before.pause, before.retry_at.unwrap_or(now + before.pause)),
            None => (RETRY_MIN, now + RETRY_MIN),
        };
        let retry_at = retry.then_some(at);
        home.failure = Some(Failure { retry_at, pause, tried: false, message: message.clone(), changed });
        let key = home.key;
        if !told {
            self.tell(FromShard::Event(key, Event::Failed { message, retry }));
        }
        self.touch(index);
    }

    /// Stops a torrent until the user resumes it: files are closed, peers go, memory is given back.
    fn give_up(&mut self, index: usize, message: String) {
        let home = &mut self.homes[index];
        let (retry_at, pause) = (None, RETRY_MAX);
        home.failure =
            Some(Failure { retry_at, pause, tried: false, message: message.clone(), changed: false });
        home.held = true;
        let key = home.key;
        self.tell(FromShard::Event(key, Event::Failed { message, retry: false }));
        self.restart(index, true);
    }

    /// A seed has nothing left to serve.
    pub(crate) fn nothing_left(&mut self, index: usize) {
        let message =
            "none of the torrent's data is there any more; restore the files, then resume the torrent";
        self.give_up(index, message.to_owned());
    }

    /// The user says that the cause of a failure is gone.
    pub(crate) fn resume(&mut self, index: usize) {
        let now = self.now;
        let home = &mut self.homes[index];
        home.held = false;
        home.reads = ReadFaults::default();
        home.restarted = None;
        if let Some(failure) = &mut home.failure {
            (failure.retry_at, failure.pause) = (Some(now), RETRY_MIN);
            // Told again when it fails again.
            failure.message.clear();
            self.retry_failed(index);
        }
    }

    /// Tries to go on after a failure.
    pub(crate) fn retry_failed(&mut self, index: usize) {
        let now = self.now;
        let home = &mut self.homes[index];
        let Some(failure) = &mut home.failure else { return };
        let fenced = home.relocations.is_fenced() && !home.relocations.is_reopening();
        // A satellite's failures are its home's.
        if home.held || fenced || home.part.is_satellite() || failure.retry_at.is_none_or(|at| at > now) {
            return;
        }
        failure.retry_at = Some(now + failure.pause);
        failure.tried = true;
        match home.phase {
            _ if home.relocations.is_reopening() => {
                if home.busy == 0 {
                    self.open(index);
                }
            }
            Phase::Opening if home.busy == 0 => self.open(index),
            Phase::Running if failure.changed => self.restart(index, true),
            // Reads for peers may be under way all the time; nothing here waits for them.
            Phase::Running => match home.unwritten.pop() {
                Some((piece, buf)) => self.write(index, piece, buf),
                None if self.config.sync.policy == SyncPolicy::None => self.recover(index),
                // Nothing waits to be written: ask the disk whether it takes a sync again.
                None if home.durability.syncing.is_none() => self.submit_sync(index),
                None => {}
            },
            Phase::Opening | Phase::Checking(_) | Phase::Restarting { .. } | Phase::Ending { .. } => {}
        }
    }

    /// The disk took something.
    pub(crate) fn recover(&mut self, index: usize) {
        let home = &mut self.homes[index];
        if !home.is_running() || home.held || home.failure.take().is_none() {
            return;
        }
        let waiting = std::mem::take(&mut home.unwritten);
        if let Some(torrent) = &mut home.torrent {
            torrent.mark_all();
        }
        let key = home.key;
        for (piece, buf) in waiting {
            self.write(index, piece, buf);
        }
        self.tell(FromShard::Event(key, Event::Recovered));
        self.spread(index);
        self.touch(index);
    }

    /// The torrent has rested, and nothing has touched its files: others may have.
    pub(crate) fn look_at_files(&mut self, index: usize) {
        let home = &mut self.homes[index];
        if home.is_running() && !home.relocations.is_fenced() {
            home.busy += 1;
            let torrent = home.key;
            self.command(StorageCmd::Look { torrent });
        }
    }

    pub(crate) fn on_looked(&mut self, index: usize, result: Result<(), StorageError>) {
        self.homes[index].busy -= 1;
        if let (Err(error), true) = (result, self.homes[index].is_running()) {
            self.fail(index, &error);
        }
        self.touch(index);
    }

    // ---- starting over

    fn may_restart(&self, index: usize) -> bool {
        let home = &self.homes[index];
        let long_ago = |at: Instant| self.now.saturating_duration_since(at) >= RESTART_PAUSE;
        home.is_running() && home.restarted.is_none_or(long_ago)
    }

    /// Closes a torrent's files and connections, opens the files again and looks at them: at all of them, or, with
    /// `trust`, at what has changed and what is not known.
    pub(crate) fn restart(&mut self, index: usize, trust: bool) {
        let now = self.now;
        let home = &mut self.homes[index];
        if !matches!(home.phase, Phase::Ending { .. }) && home.relocations.put_off_restart(trust) {
            return;
        }
        match home.phase {
            Phase::Ending { .. } => return,
            // It will look at everything that it does not know.
            Phase::Opening | Phase::Restarting { .. } => {
                home.known = home.known.take().filter(|_| trust);
                return self.touch(index);
            }
            Phase::Checking(_) | Phase::Running => {}
        }
        home.known = trust.then(|| home.known_now());
        home.restarted = Some(now);
        self.leave_line(index);
        self.homes[index].phase = Phase::Restarting { closing: false };
        self.close_all(index);
        self.stop_satellites(index);
        self.touch(index);
    }

    /// Goes on with a restart as far as it can: pieces under way are written first.
    pub(crate) fn continue_restart(&mut self, index: usize) {
        let home = &mut self.homes[index];
        let Phase::Restarting { closing: false } = home.phase else { return };
        let spread = home.part.satellites().next().is_some();
        if home.busy > 0 || spread || !home.sockets.is_empty() || !home.completing.is_empty() {
            return;
        }
        if self.wants_last_sync(index) {
            return self.submit_sync(index);
        }
        self.release_memory(index);
        let home = &mut self.homes[index];
        if let (Some(torrent), Some(known)) = (&home.torrent, &mut home.known) {
            // What was written since the restart was asked for.
            known.have = torrent.picker().have().clone();
        }
        if let Some(torrent) = home.torrent.take() {
            home.stats = torrent.stats();
        }
        home.phase = Phase::Restarting { closing: true };
        home.busy += 1;
        let torrent = home.key;
        self.command(StorageCmd::Close { torrent });
    }

    /// The files are closed, for whatever reason.
    pub(crate) fn on_closed_files(&mut self, index: usize) {
        let home = &mut self.homes[index];
        home.busy -= 1;
        match home.phase {
            Phase::Ending { closing: true } if home.delete_data => self.delete_files(index),
            Phase::Ending { closing: true } => self.forget(index),
            Phase::Restarting { closing: true } => self.reopen(index),
            // Closed to be moved. If it ends instead, it is closed once more, which is allowed.
            _ => self.on_fenced(index),
        }
    }

    /// The files are closed: opens them again, unless the torrent waits for the user.
    pub(crate) fn reopen(&mut self, index: usize) {
        let home = &mut self.homes[index];
        home.phase = Phase::Opening;
        if !home.held {
            self.open(index);
        }
        self.touch(index);
    }
}

impl crate::torrents::Home {
    /// What is known of the files now. While they are being checked: so far.
    pub fn known_now(&self) -> Known {
        let pieces = self.meta.geometry.piece_count();
        let (have, looked) = match (&self.phase, &self.torrent, &self.known) {
            (Phase::Checking(check), ..) => (check.good.clone(), check.looked_at.clone()),
            (_, Some(torrent), _) => (torrent.picker().have().clone(), Bitfield::full(pieces)),
            (_, None, Some(known)) => return known.clone(),
            (_, None, None) => (Bitfield::empty(pieces), Bitfield::empty(pieces)),
        };
        let files = self.files.iter().map(|file| file.existed.then(|| file.mark())).collect();
        let partial = self.partials.written(&have);
        Known { have, looked, partial, files }
    }
}

#[cfg(test)]
mod tests;

//! The way of events from the control thread to whoever wants to hear them.
//!
//! Role: one bounded queue per subscriber. Owner: written by the control thread only, read by one [`Events`]
//! or [`EventStream`]. Nothing here is on a hot path, so a mutex and a condition variable are enough.
//!
//! Invariant: the writer never waits for a reader. A slow reader gets only the newest status of each torrent,
//! and loses the oldest of the [`QUEUE_MAX`] chatty events (and is told how many); what decides about a
//! torrent (metadata there, checked, finished, failed, recovered, moved, renamed, deleted, removed) is never lost, except
//! that a newer one of the same kind for the same torrent replaces the older. So a queue holds at most [`QUEUE_MAX`]
//! entries and eleven more per torrent.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ccbt_protocol::ids::TorrentKey;
use ccbt_shards::messages::{Event, TorrentStatus};

/// Chatty events kept for a reader that is behind: a few seconds of a busy swarm.
const QUEUE_MAX: usize = 1024;

/// Something a session tells.
#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// How a torrent does; the newest status at the time of reading.
    Status(Arc<TorrentStatus>),
    /// Something happened to a torrent.
    Torrent(TorrentKey, Event),
    /// The reader was too slow: so many chatty events (notes, peers, trackers) were dropped.
    Missed(u64),
    /// The engine's threads are gone without having been asked to stop: nothing goes on.
    EngineLost,
}

#[derive(Debug)]
enum Entry {
    /// Stands for the status in `Inner::statuses`.
    Status(TorrentKey),
    Other(SessionEvent),
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Entry>,
    statuses: HashMap<TorrentKey, Arc<TorrentStatus>>,
    chatty: usize,
    missed: u64,
    closed: bool,
    waker: Option<Waker>,
}

/// A subscriber's queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    arrived: Condvar,
}

/// Whether losing `event` would leave a reader with a wrong idea of the torrent.
fn is_decisive(event: &SessionEvent) -> bool {
    match event {
        SessionEvent::Torrent(_, event) => matches!(
            event,
            Event::Checked { .. }
                | Event::Finished
                | Event::Selected
                | Event::MetadataComplete
                | Event::Failed { .. }
                | Event::Recovered
                | Event::Moved { .. }
                | Event::Renamed { .. }
                | Event::MoveFailed { .. }
                | Event::Deleted { .. }
                | Event::Removed
        ),
        SessionEvent::Status(_) | SessionEvent::Missed(_) | SessionEvent::EngineLost => true,
    }
}

fn same_kind(old: &Entry, new: &SessionEvent) -> bool {
    match (old, new) {
        (Entry::Other(SessionEvent::Torrent(old_key, old)), SessionEvent::Torrent(new_key, new)) => {
            old_key == new_key && std::mem::discriminant(old) == std::mem::discriminant(new)
        }
        _ => false,
    }
}

impl Inner {
    fn push(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Status(status) => {
                let key = status.key;
                if self.statuses.insert(key, status).is_none() {
                    self.queue.push_back(Entry::Status(key));
                }
            }
            event if is_decisive(&event) => {
                // Only a reader that is behind has anything to replace.
                if self.queue.len() > QUEUE_MAX {
                    self.queue.retain(|old| !same_kind(old, &event));
                }
                self.queue.push_back(Entry::Other(event));
            }
            event => {
                if self.chatty == QUEUE_MAX {
                    let is_chatty = |old: &Entry| matches!(old, Entry::Other(old) if !is_decisive(old));
                    let oldest = self.queue.iter().position(is_chatty).expect("they are counted");
                    self.queue.remove(oldest);
                    self.chatty -= 1;
                    self.missed += 1;
                }
                self.chatty += 1;
                self.queue.push_back(Entry::Other(event));
            }
        }
    }

    fn pop(&mut self) -> Option<SessionEvent> {
        if self.missed > 0 {
            return Some(SessionEvent::Missed(std::mem::take(&mut self.missed)));
        }
        match self.queue.pop_front()? {
            Entry::Status(key) => {
                let status = self.statuses.remove(&key).expect("a status entry has a status");
                Some(SessionEvent::Status(status))
            }
            Entry::Other(event) => {
                self.chatty -= usize::from(!is_decisive(&event));
                Some(event)
            }
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing between lock and unlock leaves the queue half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event and wakes the reader.
    pub(super) fn push(&self, event: SessionEvent) {
        let mut inner = self.lock();
        inner.push(event);
        self.wake(inner);
    }

    /// No more events will come.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        self.wake(inner);
    }

    fn wake(&self, mut inner: MutexGuard<'_, Inner>) {
        let waker = inner.waker.take();
        drop(inner);
        self.arrived.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Events of a session for a thread that may wait. Dropping it ends the subscription.
///
/// As an iterator it yields until the session ends.
#[derive(Debug)]
pub struct Events {
    pub(super) queue: Arc<Queue>,
}

/// What [`Events::recv_timeout`] found.
#[derive(Clone, Debug)]
pub enum Received {
    /// An event.
    Event(SessionEvent),
    /// None came in time.
    TimedOut,
    /// The session has ended and all events are read.
    Ended,
}

impl Events {
    /// Waits for the next event; `None` after the session has ended.
    pub fn recv(&self) -> Option<SessionEvent> {
        let mut inner = self.queue.lock();
        loop {
            if let Some(event) = inner.pop() {
                return Some(event);
            }
            if inner.closed {
                return None;
            }
            inner = self.queue.arrived.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the next event for at most `timeout`.
    pub fn recv_timeout(&self, timeout: Duration) -> Received {
        let deadline = Instant::now() + timeout;
        let mut inner = self.queue.lock();
        loop {
            if let Some(event) = inner.pop() {
                return Received::Event(event);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if inner.closed || left.is_zero() {
                return if inner.closed { Received::Ended } else { Received::TimedOut };
            }
            let waited = self.queue.arrived.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The next event if one is there.
    pub fn try_recv(&self) -> Option<SessionEvent> {
        self.queue.lock().pop()
    }

    /// The same events as a [`futures_core::Stream`], for any async runtime.
    pub fn into_stream(self) -> EventStream {
        EventStream { events: self }
    }
}

impl Iterator for Events {
    type Item = SessionEvent;

    fn next(&mut self) -> Option<SessionEvent> {
        self.recv()
    }
}

/// Events of a session as a stream; made by [`Events::into_stream`].
#[derive(Debug)]
pub struct EventStream {
    events: Events,
}

impl futures_core::Stream for EventStream {
    type Item = SessionEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<SessionEvent>> {
        let mut inner = self.events.queue.lock();
        match inner.pop() {
            Some(event) => Poll::Ready(Some(event)),
            None if inner.closed => Poll::Ready(None),
            None => {
                inner.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;

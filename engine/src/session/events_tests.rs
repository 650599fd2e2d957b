use super::*;
use crate::testing::status;
use ccbt_protocol::ids::TorrentKey;
use futures_core::Stream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

const KEY: TorrentKey = TorrentKey(1);

fn events() -> Events {
    Events { queue: Arc::new(Queue::default()) }
}

fn note(nth: usize) -> SessionEvent {
    SessionEvent::Torrent(KEY, Event::Note(nth.to_string()))
}

fn failed(message: &str) -> SessionEvent {
    SessionEvent::Torrent(KEY, Event::Failed { message: message.into(), retry: true })
}

#[test]
fn only_the_newest_status_of_each_torrent_waits() {
    let events = events();
    for pieces in 1..=5 {
        events.queue.push(SessionEvent::Status(Arc::new(status(KEY, pieces))));
        events.queue.push(SessionEvent::Status(Arc::new(status(TorrentKey(2), pieces))));
    }
    events.queue.close();
    let seen: Vec<(u32, u32)> = events
        .map(|event| match event {
            SessionEvent::Status(status) => (status.key.0, status.pieces_done),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seen, [(1, 5), (2, 5)]);
}

#[test]
fn a_slow_reader_loses_chatter_but_no_decision() {
    let events = events();
    events.queue.push(SessionEvent::Torrent(KEY, Event::Finished));
    for nth in 0..QUEUE_MAX + 10 {
        events.queue.push(note(nth));
        events.queue.push(failed(&nth.to_string()));
    }
    events.queue.close();
    let all: Vec<SessionEvent> = events.collect();
    assert!(matches!(all[0], SessionEvent::Missed(10)), "{:?}", all[0]);
    assert!(matches!(all[1], SessionEvent::Torrent(_, Event::Finished)));
    let notes = all.iter().filter(|event| matches!(event, SessionEvent::Torrent(_, Event::Note(_))));
    assert_eq!(notes.count(), QUEUE_MAX);
    let failures = |event: &&SessionEvent| matches!(event, SessionEvent::Torrent(_, Event::Failed { .. }));
    assert_eq!(all.iter().filter(failures).count(), 1, "older failures are replaced");
    let last = all.iter().rfind(failures);
    let newest = (QUEUE_MAX + 9).to_string();
    assert!(
        matches!(last, Some(SessionEvent::Torrent(_, Event::Failed { message, .. })) if *message == newest)
    );
}

#[test]
fn reading_makes_room_for_chatter_again() {
    let events = events();
    for nth in 0..3 * QUEUE_MAX {
        events.queue.push(note(nth));
        let read = events.recv();
        assert!(matches!(read, Some(SessionEvent::Torrent(_, Event::Note(text))) if text == nth.to_string()));
    }
    assert!(events.try_recv().is_none());
    assert!(matches!(events.recv_timeout(Duration::ZERO), Received::TimedOut));
    events.queue.close();
    assert!(matches!(events.recv_timeout(Duration::MAX / 4), Received::Ended));
    assert!(events.recv().is_none());
}

#[test]
fn a_waiting_thread_is_woken() {
    let events = events();
    let queue = Arc::clone(&events.queue);
    let reader = std::thread::spawn(move || events.map(|event| format!("{event:?}")).collect::<Vec<_>>());
    queue.push(SessionEvent::Missed(3));
    queue.close();
    assert_eq!(reader.join().expect("no panic"), ["Missed(3)"]);
}

struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_stream_is_woken_for_each_wait() {
    let events = events();
    let queue = Arc::clone(&events.queue);
    let mut stream = events.into_stream();
    let counter = Arc::new(Counter(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&counter));
    let mut poll = || Pin::new(&mut stream).poll_next(&mut Context::from_waker(&waker));
    assert!(poll().is_pending());
    queue.push(note(1));
    queue.push(note(2));
    assert_eq!(counter.0.load(Ordering::Relaxed), 1, "once per wait");
    assert!(poll().is_ready() && poll().is_ready() && poll().is_pending());
    queue.close();
    assert_eq!(counter.0.load(Ordering::Relaxed), 2);
    assert!(matches!(poll(), Poll::Ready(None)));
}

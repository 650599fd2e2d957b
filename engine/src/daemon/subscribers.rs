//! Who reads `GET /v1/events`.
//!
//! Role: a bounded queue of lines per reader. Owner: [`super::core`] writes, the HTTP thread reads. Invariant: nobody
//! waits for a reader; one that is [`LINES_MAX`] lines behind gets [`Event::Dropped`] as its last line and is cut off.

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::api::Event;
use super::http::{CONNECTIONS_MAX, Streaming};

/// Lines that a reader may be behind: those of a thousand torrents that change at once.
const LINES_MAX: usize = 2048;

/// Readers at a time: half of the connections that a listener takes, so that they keep nobody else out.
pub(super) const READERS_MAX: usize = CONNECTIONS_MAX / 2;

#[derive(Debug)]
struct Subscriber {
    lines: Sender<String>,
    /// Tells the connection's deadline that it is a stream.
    _streaming: Streaming,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    all: Vec<Subscriber>,
}

impl Subscribers {
    /// A new reader; `None`: there are [`READERS_MAX`].
    pub fn add(&mut self, streaming: Streaming) -> Option<Receiver<String>> {
        self.all.retain(|subscriber| !subscriber.lines.is_closed());
        if self.all.len() == READERS_MAX {
            return None;
        }
        let (lines, reader) = channel(LINES_MAX + 1);
        self.all.push(Subscriber { lines, _streaming: streaming });
        Some(reader)
    }

    /// Whether anybody reads.
    pub fn any(&self) -> bool {
        !self.all.is_empty()
    }

    /// Tells all.
    pub fn tell(&mut self, event: &Event) {
        if self.all.is_empty() {
            return;
        }
        let line = line(event);
        self.all.retain(|subscriber| {
            let lines = &subscriber.lines;
            if lines.is_closed() {
                return false;
            }
            // The last place is for the word that it is the last one.
            if lines.capacity() > 1 {
                return lines.try_send(line.clone()).is_ok();
            }
            let _ = lines.try_send(self::line(&Event::Dropped));
            false
        });
    }

    /// Tells all that it is over.
    pub fn end(&mut self) {
        self.tell(&Event::Stopping);
        self.all.clear();
    }
}

fn line(event: &Event) -> String {
    serde_json::to_string(event).expect("no map has keys other than strings") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_is_told_and_dropped() {
        let mut subscribers = Subscribers::default();
        let mut slow = subscribers.add(Streaming::default()).expect("there is room");
        let gone = subscribers.add(Streaming::default()).expect("there is room");
        drop(gone);
        let event = Event::Finished { info_hash: "x".into() };
        for _ in 0..LINES_MAX + 5 {
            subscribers.tell(&event);
        }
        assert!(!subscribers.any());
        let mut lines = Vec::new();
        while let Ok(line) = slow.try_recv() {
            lines.push(line);
        }
        assert_eq!(lines.len(), LINES_MAX + 1);
        assert_eq!(lines[0], "{\"event\":\"finished\",\"info_hash\":\"x\"}\n");
        assert_eq!(lines.last().map(String::as_str), Some("{\"event\":\"dropped\"}\n"));
    }

    #[test]
    fn readers_are_bounded_and_those_that_are_gone_make_room() {
        let mut subscribers = Subscribers::default();
        let mut readers: Vec<_> =
            (0..READERS_MAX).map(|_| subscribers.add(Streaming::default()).expect("there is room")).collect();
        assert!(subscribers.add(Streaming::default()).is_none());
        readers.pop();
        assert!(subscribers.add(Streaming::default()).is_some());
    }
}

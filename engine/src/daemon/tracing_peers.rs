//! Who reads `GET /v1/torrents/{id}/trace`: what is said with one peer.
//!
//! Role: a tap of the session's that queues lines for one client. Owner: the shards call it, the HTTP thread reads.
//! Invariant: nobody waits for a reader; what finds no room is counted and told with the next line.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::UNIX_EPOCH;

use ccbt_shards::tapping::{PeerAddress, TapLine, WireTap};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::api::{ApiError, Traced};
use super::core::{Answer, Core};
use super::http::Streaming;

/// Lines that a reader may be behind.
const LINES_MAX: usize = 1024;
/// Readers at a time: each makes the shards write words.
const READERS_MAX: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct TraceReader {
    lines: Sender<String>,
    dropped: AtomicU64,
    /// Tells the connection's deadline that it is a stream.
    _streaming: Streaming,
}

impl TraceReader {
    fn new(streaming: Streaming) -> (Arc<Self>, Receiver<String>) {
        let (lines, reader) = channel(LINES_MAX);
        (Arc::new(Self { lines, dropped: AtomicU64::new(0), _streaming: streaming }), reader)
    }
}

impl WireTap for TraceReader {
    fn line(&self, line: TapLine) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        let millis = line.at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let traced = Traced {
            at_ms: u64::try_from(millis).unwrap_or(u64::MAX),
            peer: line.peer,
            direction: line.direction.map(Into::into),
            message: line.text,
            dropped,
        };
        let json = serde_json::to_string(&traced).expect("no map has keys other than strings") + "\n";
        if self.lines.try_send(json).is_err() {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        }
    }

    fn is_closed(&self) -> bool {
        self.lines.is_closed()
    }
}

impl Core {
    /// Shows what is said with a peer of a torrent.
    pub fn trace(&mut self, id: &str, peer: &str, streaming: Streaming) -> Result<Answer, ApiError> {
        let magnet = self.find_magnet(id);
        let hash = magnet.map_or_else(|| self.find_staying(id), Ok)?;
        let peer: PeerAddress = peer.parse().map_err(|_| {
            let message = "peer must be an IP address, or one with a port, such as 10.0.0.2:6881";
            ApiError::new(400, "bad_peer", message)
        })?;
        self.traces.retain(|reader| reader.upgrade().is_some_and(|reader| !reader.is_closed()));
        if self.traces.len() >= READERS_MAX {
            let most = format!("{READERS_MAX} clients trace peers, and no more can; end one of them");
            return Err(ApiError::new(503, "too_many_readers", most));
        }
        let (tap, lines) = TraceReader::new(streaming);
        self.traces.push(Arc::downgrade(&tap));
        match magnet {
            Some(_) => self.session.tap_magnet(self.magnets[&hash].handle(), peer, tap),
            None => self.session.tap(Some(&self.torrents[&hash].handle), peer, tap),
        }
        Ok(Answer::Events(lines))
    }
}

/// The readers of a daemon.
pub(super) type Traces = Vec<Weak<TraceReader>>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn a_slow_reader_is_told_what_it_missed_and_a_gone_one_is_noticed() {
        let (tap, mut lines) = TraceReader::new(Streaming::default());
        let line = |text: &str| TapLine {
            at: SystemTime::now(),
            peer: "127.0.0.1:1".parse().expect("an address"),
            direction: None,
            text: text.to_owned(),
        };
        for _ in 0..LINES_MAX + 5 {
            tap.line(line("x"));
        }
        let mut read =
            || lines.try_recv().ok().map(|text| serde_json::from_str::<Traced>(&text).expect("JSON"));
        for _ in 0..LINES_MAX {
            assert_eq!(read().expect("queued").dropped, 0);
        }
        assert!(read().is_none());
        tap.line(line("y"));
        let next = read().expect("there is room again");
        assert_eq!((next.message.as_str(), next.dropped), ("y", 5));
        assert!(!tap.is_closed());
        drop(lines);
        assert!(tap.is_closed());
    }
}

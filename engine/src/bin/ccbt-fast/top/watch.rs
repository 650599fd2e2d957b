//! Asks the daemon, for the screen.
//!
//! Role: one look a second at what the screen shows, and what keys ask for. Owner: two threads of [`super::run`].
//! Invariant: at most a tenth of the time is spent on looking, however many torrents there are: answers that take long
//! are asked for less often.

use std::time::{Duration, Instant};

use ccbt_fast::daemon::api::{
    self, Engine, Pieces, Removed, Stats, Torrent, TorrentDetail, Tracker, Trackers,
};
use ccbt_fast::daemon::{Client, ClientError};
use ccbt_protocol::metainfo::escape_for_terminal;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use serde::Deserialize;

use super::update::{Message, Request};
use crate::control::NO_BODY;

/// Between two looks at least.
const INTERVAL: Duration = Duration::from_secs(1);
/// Cells of a map of pieces: more than most screens have.
const CELLS: u32 = 2048;

/// What is looked at besides the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// A torrent, by its info-hash.
    pub torrent: Option<String>,
    /// Shards and queues.
    pub engine: bool,
}

/// A torrent that is looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Detail {
    pub torrent: TorrentDetail,
    pub pieces: Pieces,
    pub trackers: Vec<Tracker>,
}

/// What the daemon said at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    /// Since the first look.
    pub at: Duration,
    pub stats: Stats,
    pub torrents: Vec<Torrent>,
    /// Of the torrent that was to be looked at, or why there is nothing.
    pub detail: Option<(String, Result<Box<Detail>, String>)>,
    pub engine: Option<Engine>,
}

#[derive(Deserialize)]
struct List {
    torrents: Vec<Torrent>,
}

/// Looks until nobody wants to know.
pub fn look(client: &Client, watching: &Receiver<Watch>, tell: &Sender<Message>) {
    let first = Instant::now();
    let mut watch = Watch::default();
    loop {
        let began = Instant::now();
        let message = match once(client, &watch, began.duration_since(first)) {
            Ok(look) => Message::Looked(Box::new(look)),
            Err(error) => Message::Lost(error.to_string()),
        };
        if tell.send(message).is_err() {
            return;
        }
        match watching.recv_timeout(INTERVAL.max(began.elapsed() * 9)) {
            Ok(newer) => watch = watching.try_iter().last().unwrap_or(newer),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn once(client: &Client, watch: &Watch, at: Duration) -> Result<Look, ClientError> {
    let stats = client.call("GET", "/v1/stats", NO_BODY)?;
    let List { torrents } = client.call("GET", "/v1/torrents", NO_BODY)?;
    let detail = match &watch.torrent {
        None => None,
        Some(hash) => match detail(client, hash) {
            Ok(detail) => Some((hash.clone(), Ok(Box::new(detail)))),
            Err(ClientError::Refused(error)) => Some((hash.clone(), Err(error.message))),
            Err(error) => return Err(error),
        },
    };
    let engine = watch.engine.then(|| client.call("GET", "/v1/engine", NO_BODY)).transpose()?;
    Ok(Look { at, stats, torrents, detail, engine })
}

fn detail(client: &Client, hash: &str) -> Result<Detail, ClientError> {
    let torrent = client.call("GET", &format!("/v1/torrents/{hash}"), NO_BODY)?;
    let pieces = client.call("GET", &format!("/v1/torrents/{hash}/pieces?cells={CELLS}"), NO_BODY)?;
    let trackers: Trackers = client.call("GET", &format!("/v1/torrents/{hash}/trackers"), NO_BODY)?;
    Ok(Detail { torrent, pieces, trackers: trackers.trackers })
}

/// Does it, and says what became of it.
pub fn act(client: &Client, request: &Request) -> Result<String, String> {
    let named = |torrent: Torrent| torrent.name;
    let post = |hash: &str, verb: &str| {
        client.call("POST", &format!("/v1/torrents/{hash}/{verb}"), NO_BODY).map(named)
    };
    let done = match request {
        Request::Pause(hash) => post(hash, "pause").map(|name| format!("paused: {name}")),
        Request::Resume(hash) => post(hash, "resume").map(|name| format!("resumed: {name}")),
        Request::Recheck(hash) => post(hash, "recheck").map(|name| format!("is being checked: {name}")),
        Request::Remove { hash, name, delete_data } => {
            let path = format!("/v1/torrents/{hash}?delete_data={delete_data}");
            client.call("DELETE", &path, NO_BODY).map(|removed: Removed| removal(name, &removed))
        }
        Request::Limit { hash: Some(hash), down, rate } => {
            let mut change = api::Change::default();
            *(if *down { &mut change.down_limit } else { &mut change.up_limit }) = Some(*rate);
            let path = format!("/v1/torrents/{hash}");
            client.call("PATCH", &path, Some(&change)).map(|torrent| format!("changed: {}", named(torrent)))
        }
        Request::Limit { hash: None, down, rate } => {
            let mut change = api::LimitChange::default();
            *(if *down { &mut change.down_limit } else { &mut change.up_limit }) = Some(*rate);
            let changed = client.call("PATCH", "/v1/limits", Some(&change));
            changed.map(|_: serde_json::Value| "changed: the limit of all torrents together".to_owned())
        }
    };
    done.map_err(|error| error.to_string())
}

fn removal(name: &str, removed: &Removed) -> String {
    let files = if removed.files > 0 { format!(", {} files of it", removed.files) } else { String::new() };
    let left = match removed.left.first() {
        None => String::new(),
        Some(first) => format!("; {} stay, such as {}", removed.left.len(), escape_for_terminal(first)),
    };
    format!("removed: {name}{files}{left}")
}

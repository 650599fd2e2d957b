//! A torrent of the daemon: what was asked for, what its session tells, and both as clients see them.
//!
//! Owner: [`super::core`]. Invariant: what is in `record` is in the folder of the state, too, once the call that changed
//! it is answered.

use std::path::PathBuf;
use std::time::Duration;

use ccbt_protocol::ids::InfoHash;
use ccbt_protocol::metainfo::FileEntry;
use ccbt_protocol::peer::PeerStatus;
use ccbt_protocol::rate::TorrentLimits;
use ccbt_protocol::selection::Selection;
use tokio::sync::oneshot;

use super::api::{Activity, ApiError, Connection, FileDetail, Removed, Torrent as Row, TorrentDetail};
use super::queue::Look;
use super::settings::SeedAction;
use super::state::{Counters, Own, OwnLimits, Record};
use crate::config::Effect;
use crate::session::TorrentHandle;
use crate::{Goal, State, TorrentStatus};

/// What the configuration says of one torrent.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub limits: TorrentLimits,
    pub goal: Goal,
    pub action: SeedAction,
    pub move_completed: Option<PathBuf>,
}

impl Rules {
    pub fn of(effect: &Effect) -> Self {
        Self {
            limits: effect.torrent.limits.unwrap_or_default(),
            goal: Goal { time: effect.seed_time, ratio: effect.seed_ratio },
            action: effect.daemon.seed_action,
            move_completed: effect.move_completed.clone(),
        }
    }

    /// The limits that count for a torrent with its own.
    pub fn limits(&self, own: &OwnLimits) -> TorrentLimits {
        TorrentLimits {
            down: own.down.unwrap_or(self.limits.down),
            up: own.up.unwrap_or(self.limits.up),
            peer_down: own.peer_down.unwrap_or(self.limits.peer_down),
            peer_up: own.peer_up.unwrap_or(self.limits.peer_up),
        }
    }
}

/// Why a torrent does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub message: String,
    /// It is tried again, or was only a move.
    pub passes: bool,
}

/// A torrent on its way out.
#[derive(Debug)]
pub(super) struct Leaving {
    /// Who waits for it; nobody when a rule removes it.
    pub reply: Option<oneshot::Sender<Result<super::core::Answer, ApiError>>>,
    pub removed: Removed,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Torrent {
    pub handle: TorrentHandle,
    pub record: Record,
    pub rules: Rules,
    /// Sums before this run.
    pub before: Counters,
    /// Time of seeding in this run.
    pub seeded: Duration,
    /// Whether nothing is left to fetch.
    pub complete: bool,
    /// Bytes there before the session tells of any.
    pub bytes_known: u64,
    /// Payload in this run, both ways, as last looked at.
    pub moved: u64,
    pub trouble: Option<Trouble>,
    pub move_done: Option<u64>,
    pub leaving: Option<Leaving>,
    /// It has told that nothing is left to fetch, and what follows was not done yet.
    pub finishing: bool,
    /// Subscribers have not seen its newest status.
    pub news: bool,
}

impl Torrent {
    pub fn info_hash(&self) -> InfoHash {
        self.handle.info_hash()
    }

    /// Whether it cannot go on by itself.
    fn has_failed(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| !trouble.passes)
    }

    /// What the queue is told of it.
    pub fn look(&self) -> Look {
        let status = self.handle.status();
        let state = status.as_ref().map_or(State::Opening, |status| status.state);
        let rate = status.map_or(0, |status| if self.complete { status.up_rate } else { status.down_rate });
        Look {
            wanted: !self.record.paused && !self.has_failed() && self.leaving.is_none(),
            forced: self.record.forced,
            complete: self.complete,
            busy: matches!(state, State::Opening | State::Checking | State::Moving),
            rate,
        }
    }

    /// Sums over all runs.
    pub fn counters(&self) -> Counters {
        let stats = self.handle.status().map(|status| status.stats).unwrap_or_default();
        Counters {
            downloaded: self.before.downloaded.saturating_add(stats.downloaded),
            uploaded: self.before.uploaded.saturating_add(stats.uploaded),
            seeded_seconds: self.before.seeded_seconds.saturating_add(self.seeded.as_secs()),
        }
    }

    /// The goal of seeding that counts.
    pub fn goal(&self) -> Goal {
        let Record { seed_ratio, seed_seconds, .. } = &self.record;
        let time = seed_seconds.map(Own::value).map(|own| own.map(Duration::from_secs));
        Goal {
            ratio: seed_ratio.map_or(self.rules.goal.ratio, Own::value),
            time: time.unwrap_or(self.rules.goal.time),
        }
    }

    /// What happens when it is reached.
    pub fn action(&self) -> SeedAction {
        self.record.seed_action.unwrap_or(self.rules.action)
    }

    /// Whether its goal of seeding is reached now.
    pub fn is_goal_reached(&self) -> bool {
        let counters = self.counters();
        let seeded = Duration::from_secs(counters.seeded_seconds);
        let size = self.handle.metainfo().geometry.total_len();
        self.complete && self.goal().is_reached(seeded, counters.uploaded, size)
    }

    fn activity(&self, runs: bool, status: Option<&TorrentStatus>) -> Activity {
        let state = status.map_or(State::Opening, |status| status.state);
        match state {
            _ if self.leaving.is_some() => Activity::Removing,
            State::Moving => Activity::Moving,
            _ if self.has_failed() => Activity::Error,
            _ if self.record.paused => Activity::Paused,
            _ if !runs => Activity::Queued,
            State::Opening => Activity::Opening,
            State::Checking => Activity::Checking,
            State::Downloading => Activity::Downloading,
            State::Seeding => Activity::Seeding,
            // It fails and tries again.
            State::Paused if self.trouble.is_some() => Activity::Error,
            // It was started this moment.
            State::Paused => Activity::Opening,
        }
    }

    /// As a list has it; `position` from 1.
    pub fn row(&self, position: usize, runs: bool) -> Row {
        let status = self.handle.status();
        let status = status.as_deref();
        let counters = self.counters();
        let bytes_total = self.handle.metainfo().geometry.total_len();
        let bytes_done = status.map_or(self.bytes_known, |status| status.bytes_done);
        let down_rate = status.map_or(0, |status| status.down_rate);
        let state = self.activity(runs, status);
        // Of what is wanted.
        let left = status.map_or_else(|| bytes_total.saturating_sub(bytes_done), |status| status.bytes_left);
        let moves = state == Activity::Downloading && down_rate > 0;
        Row {
            info_hash: self.info_hash().to_string(),
            name: self.record.name.clone(),
            state,
            position,
            paused: self.record.paused,
            forced: self.record.forced,
            bytes_total,
            bytes_done,
            downloaded: counters.downloaded,
            uploaded: counters.uploaded,
            ratio: counters.uploaded as f64 / bytes_total.max(1) as f64,
            down_rate,
            up_rate: status.map_or(0, |status| status.up_rate),
            peers: status.map_or(0, |status| status.peer_count),
            eta_seconds: moves.then(|| left.div_ceil(down_rate)),
            seeded_seconds: counters.seeded_seconds,
            added_at: self.record.added_at,
            completed_at: self.record.completed_at,
            output: self.record.output.to_string_lossy().into_owned(),
            error: self.trouble.as_ref().map(|trouble| trouble.message.clone()),
        }
    }

    /// All that is known of it.
    pub fn detail(&self, position: usize, runs: bool) -> TorrentDetail {
        let status = self.handle.status();
        let status = status.as_deref();
        let metainfo = self.handle.metainfo();
        let limits = self.rules.limits(&self.record.limits);
        let goal = self.goal();
        let selection = Selection::new(self.handle.file_priorities());
        let file = |(at, file): (usize, &FileEntry)| FileDetail {
            path: file.path.join("/"),
            len: file.len,
            priority: selection.of(at).name().to_owned(),
        };
        let files = metainfo.files.iter().enumerate().filter(|(_, file)| !file.pad).map(file);
        let peers = status.map_or(&[][..], |status| &status.peers);
        TorrentDetail {
            torrent: self.row(position, runs),
            pieces_done: status.map_or(0, |status| status.pieces_done),
            pieces_total: metainfo.geometry.piece_count(),
            piece_len: metainfo.geometry.piece_len(),
            wasted: status.map_or(0, |status| status.stats.wasted),
            hash_failures: status.map_or(0, |status| status.stats.hash_failures),
            candidates: status.map_or(0, |status| status.candidates),
            down_limit: limits.down,
            up_limit: limits.up,
            peer_down_limit: limits.peer_down,
            peer_up_limit: limits.peer_up,
            seed_ratio: goal.ratio,
            seed_seconds: goal.time.map(|time| time.as_secs()),
            seed_action: self.action(),
            move_to: self.record.move_to.as_ref().map(|dir| dir.to_string_lossy().into_owned()),
            move_done: self.move_done,
            trackers: metainfo.trackers.clone(),
            files: files.collect(),
            connections: peers.iter().map(connection).collect(),
        }
    }
}

fn connection(peer: &PeerStatus) -> Connection {
    let said = peer.client.clone().or_else(|| peer.id.client());
    Connection {
        addr: peer.addr,
        down_rate: peer.down_rate,
        up_rate: peer.up_rate,
        seed: peer.seed,
        incoming: peer.incoming,
        client: said.unwrap_or_default(),
        utp: peer.utp,
        pieces: peer.pieces,
        downloaded: peer.downloaded,
        uploaded: peer.uploaded,
        connected_seconds: peer.connected.elapsed().as_secs(),
        am_interested: peer.am_interested,
        peer_choking: peer.peer_choking,
        peer_interested: peer.peer_interested,
        am_choking: peer.am_choking,
        snubbed: peer.snubbed,
        outstanding: peer.outstanding,
        round_trip_ms: peer.round_trip.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        quality: peer.score.quality,
        reliability: peer.score.reliability,
        snubs: peer.record.snubs,
        timeouts: peer.record.timeouts,
        rejects: peer.record.rejects,
        suspicions: peer.record.suspicions,
    }
}

//! A satellite's side: what to ask for, and what to report.
//!
//! Owner: the satellite shard, beside its [`Torrent`] (made by [`Torrent::new_satellite`]). Invariant: the pieces that
//! are not Elsewhere and not ours in the satellite's picker are those lent to it.

use std::time::{Duration, Instant};

use super::{FromSatellite, GATHER_PIECES, LEASE_MAX, STALLED, ToSatellite, gather};
use crate::ids::PieceIndex;
use crate::picker::PieceState;
use crate::torrent::Torrent;

/// How much fetching a lease should last for: long against a message, short against a download.
const AHEAD: Duration = Duration::from_millis(250);
/// What peers have is told anew at most so often.
const REACH_EVERY: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub struct Borrower {
    /// A request is under way.
    asked: bool,
    reach_told: Option<Instant>,
    /// Fetched and not told yet.
    fetched: Vec<PieceIndex>,
    told: Instant,
    /// How long news waits.
    gather: Duration,
    /// Start of the present measurement, and pieces fetched in it and in the one before.
    measured: Instant,
    count: u32,
    before: u32,
    progress: Instant,
    out: Vec<FromSatellite>,
}

impl Borrower {
    /// Nothing borrowed yet. The torrent is spread over `parts` shards, its home included.
    pub fn new(now: Instant, parts: usize) -> Self {
        Self {
            asked: false,
            reach_told: None,
            fetched: Vec::new(),
            told: now,
            gather: gather(parts),
            measured: now,
            count: 0,
            before: 0,
            progress: now,
            out: Vec::new(),
        }
    }

    /// Takes in what the home says.
    pub fn receive(&mut self, now: Instant, torrent: &mut Torrent, message: ToSatellite) {
        match message {
            ToSatellite::Lease { pieces, more } => {
                self.asked = false;
                // Not when more comes to what it cannot fetch: pieces that are lent to and fro would pass for progress.
                if torrent.picker().startable() == 0 && torrent.picker().begun() == 0 {
                    self.progress = now;
                }
                torrent.picker_mut().set_more_elsewhere(more);
                pieces.into_iter().for_each(|piece| torrent.admit(piece));
                torrent.mark_hungry();
            }
            ToSatellite::NoMore => {
                torrent.picker_mut().set_more_elsewhere(false);
                torrent.mark_hungry();
            }
            ToSatellite::Have(pieces) => {
                pieces.into_iter().for_each(|piece| torrent.fetched_elsewhere(piece))
            }
            ToSatellite::Lost(pieces) => pieces.into_iter().for_each(|piece| torrent.lost_elsewhere(piece)),
            ToSatellite::Priorities(changes) => {
                for (piece, priority) in changes {
                    torrent.picker_mut().set_priority(piece, priority);
                }
                torrent.priorities_changed();
            }
            ToSatellite::Recall => self.give_back(now, torrent),
        }
    }

    /// Whether nothing was fetched and nothing lent for a while. Then what is begun and asked of nobody is better given
    /// up, before [`Borrower::tick`]: others may get on with it.
    pub fn is_stalled(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.progress) >= STALLED
    }

    fn give_back(&mut self, now: Instant, torrent: &mut Torrent) {
        let idle = |piece: &PieceIndex| {
            matches!(torrent.picker().state(*piece), PieceState::Missing | PieceState::Skipped)
        };
        let mut pieces: Vec<PieceIndex> = torrent.geometry().pieces().filter(idle).collect();
        // A part that gets on keeps the half that it comes to soon.
        if !self.is_stalled(now) {
            pieces.truncate(pieces.len().div_ceil(2));
        }
        pieces.retain(|piece| torrent.picker_mut().give_back(*piece));
        if !pieces.is_empty() {
            self.out.push(FromSatellite::Returned(pieces));
        }
    }

    /// Asks for more in time and gathers what was fetched. To be called once in every turn of the shard in which
    /// something happened to the torrent, and when [`Borrower::next_turn`] says.
    pub fn settle(&mut self, now: Instant, torrent: &mut Torrent) {
        let fresh = torrent.take_fresh();
        if !fresh.is_empty() {
            self.progress = now;
            self.count += fresh.len() as u32;
            self.fetched.extend(fresh);
        }
        let lost = torrent.take_lost();
        if !lost.is_empty() {
            // Told first: else the home would hear of a loss before it heard that there was something to lose.
            self.tell(now);
            self.out.push(FromSatellite::Lost(lost));
        }
        let passed = now.saturating_duration_since(self.measured);
        if passed >= AHEAD {
            self.before = if passed < 2 * AHEAD { self.count } else { 0 };
            (self.count, self.measured) = (0, now);
        }
        self.ask(now, torrent);
        let due = now.saturating_duration_since(self.told) >= self.gather;
        // Who waits for a lease has nothing better to do than to tell, and at the end the home waits for it.
        let waits = self.asked && torrent.picker().startable() == 0;
        if due || waits || self.fetched.len() >= GATHER_PIECES {
            self.tell(now);
        }
    }

    fn tell(&mut self, now: Instant) {
        if !self.fetched.is_empty() {
            self.told = now;
            self.out.push(FromSatellite::Fetched(std::mem::take(&mut self.fetched)));
        }
    }

    fn ask(&mut self, now: Instant, torrent: &Torrent) {
        let ahead = self.count.max(self.before).max(1);
        let startable = torrent.picker().startable();
        if self.asked || startable >= ahead || !torrent.could_ask(now) {
            return;
        }
        let stale = self.reach_told.is_none_or(|told| now.saturating_duration_since(told) >= REACH_EVERY);
        let reach = stale.then(|| torrent.reach());
        if stale {
            self.reach_told = Some(now);
        }
        self.asked = true;
        let count = (2 * ahead - startable).clamp(1, LEASE_MAX);
        self.out.push(FromSatellite::Want { count, reach });
    }

    /// To be called about once a second. A request that stands is repeated, since what peers have may have changed. A
    /// satellite that gets nowhere returns its lease; the caller has given up before what is begun and asked of nobody.
    pub fn tick(&mut self, now: Instant, torrent: &mut Torrent) {
        if self.is_stalled(now) {
            self.give_back(now, torrent);
            self.progress = now;
        }
        if self.asked {
            self.asked = false;
            self.ask(now, torrent);
        }
    }

    /// When [`Borrower::settle`] has to be called again even if nothing happens.
    pub fn next_turn(&self) -> Option<Instant> {
        (!self.fetched.is_empty()).then(|| self.told + self.gather)
    }

    /// The messages to send to the home.
    pub fn outgoing(&mut self) -> impl Iterator<Item = FromSatellite> + '_ {
        self.out.drain(..)
    }

    /// The last words before the satellite stops, after its last piece was written: what it fetched. The rest of its
    /// lease goes back with [`super::Lender::leave`].
    pub fn close(&mut self, now: Instant, torrent: &mut Torrent) -> impl Iterator<Item = FromSatellite> + '_ {
        self.fetched.extend(torrent.take_fresh());
        self.tell(now);
        self.out.retain(|message| !matches!(message, FromSatellite::Want { .. }));
        self.out.drain(..)
    }
}

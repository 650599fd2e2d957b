//! The home shard's side: what is lent to whom.
//!
//! Owner: the torrent's home shard, beside its [`Torrent`]. Invariant: `leased` of all members together are exactly the
//! pieces that are Elsewhere in the home's picker, but for those that web seeds fetch ([`crate::webseed`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::Rng;

use super::{
    FromSatellite, GATHER_PIECES, GATHER_PIECES_PER_PART, LEASE_MAX, Reach, STALLED, ToSatellite, gather,
};
use crate::bitfield::Bitfield;
use crate::ids::PieceIndex;
use crate::picker::Priority;
use crate::torrent::Torrent;

/// Between two calls for what satellites have not begun.
const RECALL_EVERY: Duration = Duration::from_millis(500);

/// One satellite, by the number of its shard.
#[derive(Debug)]
struct Member {
    reach: Reach,
    wants: u32,
    leased: BTreeSet<PieceIndex>,
    /// What it was last told about whether there is more.
    told_more: bool,
    /// Fetched by others and not told yet.
    news: Vec<PieceIndex>,
    out: Vec<ToSatellite>,
}

/// See the module.
#[derive(Debug)]
pub struct Lender {
    members: BTreeMap<usize, Member>,
    told: Instant,
    recalled: Instant,
    /// When the home last completed a piece.
    progress: Instant,
}

impl Lender {
    /// Nobody has borrowed anything.
    pub fn new(now: Instant) -> Self {
        Self { members: BTreeMap::new(), told: now, recalled: now, progress: now }
    }

    /// Shard `shard` became a satellite, with the torrent's bitfield of this moment. Panics when it is one.
    pub fn join(&mut self, torrent: &mut Torrent, shard: usize) {
        // News from before is in the bitfield that it starts with.
        self.take_news(torrent);
        torrent.set_spread(true);
        let member = Member {
            reach: Reach::Some(Bitfield::empty(torrent.geometry().piece_count())),
            wants: 0,
            leased: BTreeSet::new(),
            told_more: true,
            news: Vec::new(),
            out: Vec::new(),
        };
        let before = self.members.insert(shard, member);
        assert!(before.is_none(), "shard {shard} joins twice");
    }

    /// Shard `shard` has stopped: what it held is missing again. Panics when it is no satellite.
    pub fn leave(&mut self, torrent: &mut Torrent, shard: usize) {
        let member = self.members.remove(&shard).expect("a satellite that leaves has joined");
        member.leased.into_iter().for_each(|piece| torrent.admit(piece));
        torrent.mark_hungry();
        if self.members.is_empty() {
            torrent.set_spread(false);
        }
    }

    /// The satellites' shards.
    pub fn shards(&self) -> impl Iterator<Item = usize> + '_ {
        self.members.keys().copied()
    }

    /// Whether there is no satellite.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Pieces that satellites hold.
    pub fn leased(&self) -> usize {
        self.members.values().map(|member| member.leased.len()).sum()
    }

    /// Takes in what satellite `shard` says. Panics when it is none, or answers for a piece that it does not hold.
    pub fn receive(&mut self, torrent: &mut Torrent, shard: usize, message: FromSatellite) {
        let member = self.members.get_mut(&shard).expect("a satellite that speaks has joined");
        match message {
            FromSatellite::Want { count, reach } => {
                member.wants = count.min(LEASE_MAX);
                if let Some(reach) = reach {
                    member.reach = reach;
                }
            }
            FromSatellite::Fetched(pieces) => {
                for piece in &pieces {
                    assert!(
                        member.leased.remove(piece),
                        "shard {shard} fetched {piece}, which it was not lent"
                    );
                    torrent.fetched_elsewhere(*piece);
                }
                self.spread(shard, &pieces, |member, pieces| member.news.extend(pieces));
            }
            FromSatellite::Returned(pieces) => {
                for piece in &pieces {
                    assert!(
                        member.leased.remove(piece),
                        "shard {shard} returned {piece}, which it was not lent"
                    );
                    torrent.admit(*piece);
                }
                torrent.mark_hungry();
            }
            FromSatellite::Lost(pieces) => {
                // We fetch them, or lend them out again. Also told to the satellite itself, which may have heard of a
                // repair meanwhile.
                pieces.iter().for_each(|piece| torrent.lost_piece(*piece));
                self.take_news(torrent);
                torrent.mark_hungry();
            }
        }
    }

    /// To be called after priorities were changed at home.
    pub fn priorities_changed(&mut self, changes: &[(PieceIndex, Priority)]) {
        for member in self.members.values_mut() {
            member.out.push(ToSatellite::Priorities(changes.to_vec()));
        }
    }

    fn spread(&mut self, except: usize, pieces: &[PieceIndex], tell: impl Fn(&mut Member, &[PieceIndex])) {
        if pieces.is_empty() {
            return;
        }
        for (_, member) in self.members.iter_mut().filter(|(shard, _)| **shard != except) {
            tell(member, pieces);
        }
    }

    /// Returns whether the home has completed a piece.
    fn take_news(&mut self, torrent: &mut Torrent) -> bool {
        let fresh = torrent.take_fresh();
        self.spread(usize::MAX, &fresh, |member, pieces| member.news.extend(pieces));
        let lost = torrent.take_lost();
        self.spread(usize::MAX, &lost, |member, pieces| {
            member.news.retain(|piece| !pieces.contains(piece));
            member.out.push(ToSatellite::Lost(pieces.to_vec()));
        });
        !fresh.is_empty()
    }

    /// Whether satellites wait for pieces while the home gets nowhere: then what it has begun but asks nobody for is
    /// better given up, so that it can be lent.
    pub fn is_home_in_the_way(&self, now: Instant, torrent: &Torrent) -> bool {
        !torrent.is_finished()
            && now.saturating_duration_since(self.progress) >= STALLED
            && self.members.values().any(|member| member.wants > 0)
    }

    /// Answers requests as far as there is something to lend. To be called once in every turn of the shard in which
    /// something happened to the torrent, and when [`Lender::next_turn`] says.
    pub fn settle(&mut self, now: Instant, torrent: &mut Torrent, rng: &mut impl Rng) {
        if self.members.is_empty() {
            return;
        }
        if self.take_news(torrent) {
            self.progress = now;
        }
        self.lend(torrent, rng);
        self.recall(now, torrent);
        let due = now.saturating_duration_since(self.told) >= self.gather();
        let enough = GATHER_PIECES.max(GATHER_PIECES_PER_PART * self.members.len());
        let mut told = false;
        for member in self.members.values_mut() {
            if !member.news.is_empty() && (due || member.news.len() >= enough) {
                member.out.push(ToSatellite::Have(std::mem::take(&mut member.news)));
                told = true;
            }
        }
        if told {
            self.told = now;
        }
    }

    fn gather(&self) -> Duration {
        gather(self.members.len() + 1)
    }

    fn lend(&mut self, torrent: &mut Torrent, rng: &mut impl Rng) {
        let parts = 2 * (self.members.len() as u32 + 1);
        for member in self.members.values_mut().filter(|member| member.wants > 0) {
            // Of what is left everybody gets a share, so that all end at the same time.
            let share = torrent.picker().startable().div_ceil(parts).min(member.wants);
            let mut pieces = Vec::new();
            torrent.picker_mut().lend(member.reach.as_has(), share as usize, rng, &mut pieces);
            let more = torrent.picker().startable() > 0;
            if !pieces.is_empty() {
                member.leased.extend(&pieces);
                member.wants = 0;
                member.told_more = more;
                member.out.push(ToSatellite::Lease { pieces, more });
            } else if !more && std::mem::replace(&mut member.told_more, false) {
                member.out.push(ToSatellite::NoMore);
            }
        }
    }

    /// When some have nothing to do, others return what they have not begun.
    fn recall(&mut self, now: Instant, torrent: &Torrent) {
        let over = now.saturating_duration_since(self.recalled) < RECALL_EVERY;
        if over || torrent.is_finished() {
            return;
        }
        let home_idle = torrent.picker().startable() == 0 && torrent.has_idle_peer(now);
        // Nothing that they could fetch was left to lend.
        let waiting = self.members.values().filter(|member| member.wants > 0).count();
        for member in self.members.values_mut() {
            let others = waiting - usize::from(member.wants > 0);
            if !member.leased.is_empty() && (home_idle || others > 0) {
                member.out.push(ToSatellite::Recall);
                self.recalled = now;
            }
        }
    }

    /// When [`Lender::settle`] has to be called again even if nothing happens.
    pub fn next_turn(&self) -> Option<Instant> {
        self.members.values().any(|member| !member.news.is_empty()).then(|| self.told + self.gather())
    }

    /// The messages to send, each with the shard that it is for.
    pub fn outgoing(&mut self) -> impl Iterator<Item = (usize, ToSatellite)> + '_ {
        let drain = |(shard, member): (&usize, &'_ mut Member)| {
            let shard = *shard;
            std::mem::take(&mut member.out).into_iter().map(move |message| (shard, message))
        };
        self.members.iter_mut().flat_map(drain)
    }

    /// Asserts the invariant. O(pieces).
    pub fn check(&self, torrent: &Torrent) {
        use crate::picker::PieceState::Elsewhere;
        let mut held: Vec<PieceIndex> =
            self.members.values().flat_map(|member| member.leased.iter().copied()).collect();
        held.sort_unstable();
        let pieces = torrent.geometry().pieces();
        let elsewhere: Vec<PieceIndex> =
            pieces.filter(|piece| torrent.picker().state(*piece) == Elsewhere).collect();
        assert_eq!(held, elsewhere, "pieces that are lent");
    }
}

//! When a shard has to do something even if nothing arrives: only what is due is touched.
//!
//! Role: the deadlines of torrents and connections, and the list of torrents whose status has changed. Owner: the
//! shard; [`crate::drive`] asks when to wake, and calls [`Shard::tick`] then. Invariant: a torrent with which something
//! happens ([`Shard::touch`]) is ticked within a second; a tick finds out when it is due again, and one that rests is
//! due when its schedule says so, or never. So a thousand idle torrents cost nothing but memory.

use std::time::{Duration, Instant};

use ccbt_protocol::deadlines::Deadlines;

use crate::shard::Shard;
use crate::sync::SyncPolicy;
use crate::torrents::{Home, Phase};

/// Between two ticks at least, and how often a torrent is looked at with which something is going on.
const TICK: Duration = Duration::from_secs(1);
/// Between two reports of what has changed at least.
const REPORT: Duration = Duration::from_millis(250);
/// Payload bytes per second of all of a torrent's peers from which on a check beside it makes way.
const BUSY_RATE: u64 = 64 * 1024;

/// See the module.
pub(crate) struct Timers {
    /// By index of the torrent.
    pub homes: Deadlines,
    /// Until when a connection must have come about, by index of the socket.
    pub conns: Deadlines,
    /// Until when an attempt to connect has no rival, by index of the socket.
    pub races: Deadlines,
    /// When the next news of a spread torrent has to be told.
    pub gathers: Deadlines,
    /// Torrents whose status may have changed since it was told.
    changed: Vec<usize>,
    /// The last tick, and the last report.
    ticked: Instant,
    reported: Instant,
    /// Torrents that transfer.
    busy: usize,
}

impl Timers {
    pub fn new(now: Instant) -> Self {
        Self {
            homes: Deadlines::default(),
            conns: Deadlines::default(),
            races: Deadlines::default(),
            gathers: Deadlines::default(),
            changed: Vec::new(),
            ticked: now,
            reported: now,
            busy: 0,
        }
    }
}

impl Shard {
    /// When the next tick is due; `None`: not before something happens.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        let waits = !self.deaf.is_empty()
            || !self.starved.is_empty()
            || !self.checks.is_empty()
            || !self.fetchers.is_empty()
            || self.cache.has_hungry()
            || self.ring.lingers();
        let chores = (waits || self.stopping.is_some()).then_some(self.timers.ticked);
        let first = [self.timers.homes.next(), self.timers.conns.next(), chores].into_iter().flatten().min();
        first.map(|at| at.max(self.timers.ticked + TICK))
    }

    /// When the next report is due.
    pub(crate) fn next_report(&self) -> Option<Instant> {
        // A connection that the filter stops changes no torrent.
        let has_filtered = self.stats.filtered != self.told_stats.filtered;
        (has_filtered || !self.timers.changed.is_empty()).then_some(self.timers.reported + REPORT)
    }

    /// Looks after everything that is due.
    pub(crate) fn tick(&mut self) {
        let now = self.now;
        self.timers.ticked = now;
        self.time_out_conns();
        self.ring.reset_late();
        for listener in std::mem::take(&mut self.deaf) {
            self.ring.arm_accept(listener);
        }
        self.reclaim();
        self.wake_hungry();
        self.tick_fetchers();
        for index in self.timers.homes.pop_all(now) {
            self.tick_home(index);
        }
    }

    fn tick_home(&mut self, index: usize) {
        let now = self.now;
        let home = &mut self.homes[index];
        let mut busy = false;
        if let (Phase::Running, Some(torrent)) = (&home.phase, &mut home.torrent) {
            torrent.tick(now, &mut self.rng);
            let (down, up) = torrent.rates(now);
            busy = down + up >= BUSY_RATE;
        }
        self.set_busy(index, busy);
        self.tick_part(index);
        self.tick_web(index);
        self.retry_failed(index);
        self.sync_if_due(index);
        self.unpause_check(index);
        self.continue_check(index);
        self.announce(index);
        self.find_peers(index);
        self.make_room(index);
        self.dial(index);
        self.settle_soon(index);
    }

    /// Whether a torrent's peers keep us busy, so that checks make way.
    fn set_busy(&mut self, index: usize, busy: bool) {
        if std::mem::replace(&mut self.homes[index].is_busy, busy) == busy {
            return;
        }
        self.timers.busy = if busy { self.timers.busy + 1 } else { self.timers.busy - 1 };
        self.transferring = self.timers.busy > 0;
    }

    /// The torrent is gone.
    pub(crate) fn forget_timers(&mut self, index: usize) {
        self.set_busy(index, false);
        self.timers.homes.set(index, None);
        self.timers.gathers.set(index, None);
        self.timers.changed.retain(|changed| *changed != index);
    }

    /// Something happened to a torrent: the next tick looks at it, and its status is told.
    pub(crate) fn stir(&mut self, index: usize) {
        self.timers.homes.at_most(index, self.now);
        self.note_change(index);
    }

    /// The status of a torrent may have changed.
    pub(crate) fn note_change(&mut self, index: usize) {
        if !std::mem::replace(&mut self.homes[index].is_changed, true) {
            self.timers.changed.push(index);
        }
    }

    /// The torrents whose status may have changed since the last call.
    pub(crate) fn take_changed(&mut self) -> Vec<usize> {
        self.timers.reported = self.now;
        let changed = std::mem::take(&mut self.timers.changed);
        changed.iter().for_each(|index| self.homes[*index].is_changed = false);
        changed
    }

    /// Finds out when a torrent is due again that has been ticked. One that was stirred since is due anyway.
    pub(crate) fn schedule(&mut self, index: usize) {
        if self.timers.homes.get(index).is_none() {
            let due = self.due(index);
            self.timers.homes.set(index, due);
        }
    }

    fn due(&self, index: usize) -> Option<Instant> {
        let (home, now) = (&self.homes[index], self.now);
        let soon = now + TICK;
        if home.failure.is_some() || home.relocations.is_fenced() || home.is_busy || home.starved {
            return Some(soon);
        }
        match (&home.phase, &home.torrent) {
            // The answer to `Open` comes by itself.
            (Phase::Opening, _) => None,
            (Phase::Running, Some(torrent)) => {
                let spread = home.part.is_satellite() || home.part.satellites().next().is_some();
                let web = home.web.as_ref();
                if (spread || web.is_some_and(|web| web.is_busy())) && !torrent.is_finished() {
                    return Some(soon);
                }
                let announces = home.announces.as_ref().and_then(|announces| announces.next_wakeup(now));
                let web = web.filter(|_| !torrent.is_finished() && !home.paused);
                let web = web.and_then(|web| web.next_wakeup(now));
                let others =
                    [torrent.next_tick(now), announces, self.next_sync(home), self.next_dial(home), web];
                others.into_iter().flatten().min().map(|at| at.max(soon))
            }
            _ => Some(soon),
        }
    }

    fn next_sync(&self, home: &Home) -> Option<Instant> {
        let checkpoints = self.config.sync.policy == SyncPolicy::Checkpoint;
        home.durability.due(&self.config.sync).filter(|_| checkpoints)
    }

    fn next_dial(&self, home: &Home) -> Option<Instant> {
        let room = home.all_conns() < home.max_peers;
        if home.paused || !room || self.stopping.is_some() {
            return None;
        }
        home.candidates.next_ready(self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{KEY, Rig};

    /// Turns the shard until nothing is left to do at once, and then until the status has been told.
    fn rest(rig: &mut Rig) {
        rig.turn_until("check", |rig| rig.shard.homes.iter().all(|(_, home)| home.is_running()));
        rig.turn_until("rest", |rig| rig.shard.timers.changed.is_empty() && rig.shard.next_tick().is_none());
    }

    #[test]
    fn an_idle_torrent_is_never_due_and_is_woken_by_what_happens() {
        let mut rig = Rig::new(|_| {});
        rig.add(&[40_000], |add| add.seed_only = true);
        rest(&mut rig);
        assert_eq!((rig.shard.next_tick(), rig.shard.next_report()), (None, None));
        let index = rig.shard.by_key[&KEY];
        rig.shard.touch(index);
        assert!(rig.shard.next_tick().is_some() && rig.shard.next_report().is_some());
        rest(&mut rig);
        assert_eq!((rig.shard.next_tick(), rig.shard.next_report()), (None, None));
    }

    #[test]
    fn addresses_to_dial_and_failures_keep_a_torrent_due() {
        let mut rig = Rig::new(|_| {});
        rig.add(&[40_000], |add| add.seed_only = true);
        rest(&mut rig);
        let index = rig.shard.by_key[&KEY];
        let addr = "127.0.0.1:9".parse().expect("an address");
        rig.shard.homes[index].candidates.add(addr, ccbt_protocol::candidates::Source::User);
        assert_eq!(rig.shard.due(index), Some(rig.shard.now + TICK));
        rig.shard.homes[index].max_peers = 0;
        assert_eq!(rig.shard.due(index), None, "there is no room");
        rig.shard.fail_with(index, "broken".into(), true);
        assert_eq!(rig.shard.due(index), Some(rig.shard.now + TICK));
    }
}

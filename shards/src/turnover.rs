//! Who makes way when a torrent has all the connections that it may have.
//!
//! Role: a full torrent would keep whoever came first; here its idlest connections ([`Torrent::idlest`]) end now and then
//! while others wait to be dialled or were turned away. Owner: the shard; asked by [`crate::timers`] at a torrent's tick.
//! Invariants: nobody over whose connection something goes is ended, and nobody within [`PATIENCE`] of its handshake.
//!
//! [`Torrent::idlest`]: ccbt_protocol::torrent::Torrent::idlest

use std::time::Duration;

use crate::conns::End;
use crate::messages::ToShard;
use crate::shard::Shard;

/// Between two times at which a torrent makes room.
const EVERY: Duration = Duration::from_secs(60);
/// So long a connection has to show that it is of use: several choking rounds, and an optimistic unchoke among them.
const PATIENCE: Duration = Duration::from_secs(90);
/// One connection in so many ends at a time, and one at least.
const PART: usize = 25;

impl Shard {
    /// Makes room for those who wait, if there is none and it is time.
    pub(crate) fn make_room(&mut self, index: usize) {
        let (now, has_room) = (self.now, self.has_room());
        let home = &mut self.homes[index];
        let is_full = home.all_conns() >= home.max_peers || !has_room;
        let is_due = home.made_room.is_none_or(|at| now.saturating_duration_since(at) >= EVERY);
        if !is_full || !is_due || home.paused || home.part.is_satellite() {
            return;
        }
        let waits = home.candidates.next_ready(now).is_some_and(|at| at <= now);
        if !waits && !std::mem::take(&mut home.turned_away) {
            return;
        }
        (home.made_room, home.turned_away) = (Some(now), false);
        let (key, parts) = (home.key, home.part.satellites_running());
        for shard in parts {
            self.post(shard, ToShard::MakeRoom(key));
        }
        self.shed(index);
    }

    /// Ends the idlest connections of a torrent here.
    pub(crate) fn shed(&mut self, index: usize) {
        let now = self.now;
        let home = &mut self.homes[index];
        let Some(torrent) = &mut home.torrent else { return };
        let most = (torrent.peer_count() / PART).max(1);
        let idle = torrent.idlest(now, PATIENCE, most);
        let sockets: Vec<_> = idle.iter().filter_map(|peer| home.sockets.get(peer).copied()).collect();
        for socket in sockets {
            self.end(socket, End::Idle);
        }
    }
}

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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use ccbt_protocol::candidates::Source;
    use ccbt_protocol::ids::PeerId;
    use ccbt_protocol::picker::PeerKey;
    use ccbt_protocol::score::Record;

    use super::*;
    use crate::testing::Rig;

    /// A finished torrent with room for two, and where it listens.
    fn full_house() -> (Rig, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut rig = Rig::new(|config| config.listeners = vec![listener.into()]);
        rig.add(&[50_000], |add| add.max_peers = 2);
        rig.turn_until("the torrent", |rig| rig.shard.homes[0].is_running());
        (rig, addr)
    }

    /// A peer that greets and says nothing more.
    fn call(rig: &mut Rig, addr: SocketAddr, id: u8) -> TcpStream {
        let mut stream = TcpStream::connect(addr).unwrap();
        let hash = rig.shard.homes[0].torrent.as_ref().unwrap().info_hash();
        let greeting = [&b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0"[..], &hash.0, &[id; 20]].concat();
        stream.write_all(&greeting).unwrap();
        stream
    }

    fn peers(rig: &Rig) -> Vec<(PeerId, PeerKey)> {
        let home = &rig.shard.homes[0];
        let torrent = home.torrent.as_ref().unwrap();
        let mut peers: Vec<_> = home.sockets.keys().map(|key| (torrent.peer(*key).info().id, *key)).collect();
        peers.sort_unstable_by_key(|(id, _)| id.0);
        peers
    }

    fn ids(rig: &Rig) -> Vec<u8> {
        peers(rig).iter().map(|(id, _)| id.0[0]).collect()
    }

    /// What would be done in so many seconds.
    fn make_room_in(rig: &mut Rig, seconds: u64) {
        let now = rig.shard.now;
        rig.shard.now += Duration::from_secs(seconds);
        rig.shard.make_room(0);
        rig.shard.now = now;
        rig.turn();
    }

    #[test]
    fn the_worst_makes_way_for_those_who_wait() {
        let (mut rig, addr) = full_house();
        let _both = [call(&mut rig, addr, 7), call(&mut rig, addr, 8)];
        rig.turn_until("two peers", |rig| rig.shard.homes[0].sockets.len() == 2);
        let worse = peers(&rig)[1].1;
        let torrent = rig.shard.homes[0].torrent.as_mut().unwrap();
        torrent.recall(worse, Record { snubs: 9, ..Record::default() });
        make_room_in(&mut rig, 1000);
        assert_eq!(ids(&rig), [7, 8], "nobody waits");
        // One that waits to be dialled is as good a reason as one that was turned away.
        let waiting: SocketAddr = "127.0.0.9:9".parse().unwrap();
        rig.shard.homes[0].candidates.add(waiting, Source::User);
        make_room_in(&mut rig, 30);
        assert_eq!(ids(&rig), [7, 8], "they have just come");
        rig.shard.homes[0].made_room = None;
        rig.shard.homes[0].paused = true;
        make_room_in(&mut rig, 1000);
        rig.shard.homes[0].paused = false;
        assert_eq!(ids(&rig), [7, 8], "a torrent at rest wants nobody");
        make_room_in(&mut rig, 1000);
        assert_eq!(ids(&rig), [7], "one of two, and the worse one");
    }

    #[test]
    fn who_is_turned_away_is_a_reason_once_and_not_every_second() {
        let (mut rig, addr) = full_house();
        let _both = [call(&mut rig, addr, 7), call(&mut rig, addr, 8)];
        rig.turn_until("two peers", |rig| rig.shard.homes[0].sockets.len() == 2);
        // Not before a minute after the last time; then the tick has nothing to do with it.
        rig.shard.homes[0].made_room = Some(rig.shard.now);
        let _third = call(&mut rig, addr, 9);
        rig.turn_until("one that is turned away", |rig| rig.shard.homes[0].turned_away);
        make_room_in(&mut rig, EVERY.as_secs() - 1);
        assert_eq!(ids(&rig), [7, 8]);
        make_room_in(&mut rig, 1000);
        assert_eq!(ids(&rig).len(), 1);
        rig.shard.homes[0].made_room = None;
        rig.shard.homes[0].max_peers = 1;
        make_room_in(&mut rig, 1000);
        assert_eq!(ids(&rig).len(), 1, "that one has been made room for");
        rig.shard.homes[0].turned_away = true;
        rig.shard.homes[0].max_peers = 2;
        make_room_in(&mut rig, 1000);
        assert_eq!(ids(&rig).len(), 1, "there is room");
    }
}

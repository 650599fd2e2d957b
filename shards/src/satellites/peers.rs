//! Who of a spread torrent's peers lives where.
//!
//! Role: the home gives every connection to the part with the fewest, whether we dial it or it was accepted by any
//! shard, and keeps a peer from being connected to two parts. Owner: the shard. Invariants: what the home counts as a
//! satellite's connections ([`Satellite::conns`]) are those that it gave it; the satellite reports the end of each one
//! once, with [`ToShard::SatellitePeer`], and ends only after the last of them.

use std::net::{IpAddr, SocketAddr};

use ccbt_protocol::ids::{PeerId, TorrentKey};
use ccbt_protocol::score::Record;

use super::{Part, Satellite};
use crate::conns::End;
use crate::dialling::For;
use crate::messages::ToShard;
use crate::shard::{Conn, Shard};

/// The end of a connection that a satellite was given, or that it could not be made.
#[derive(Clone, Copy, Debug)]
pub struct GivenBack {
    /// The other end.
    pub addr: SocketAddr,
    /// It was accepted, not dialled.
    pub incoming: bool,
    /// What the peer calls itself, if it got through its handshake.
    pub id: Option<PeerId>,
    /// Whether payload went over it, and nothing was wrong.
    pub useful: bool,
    /// What the peer did of what was expected of it.
    pub record: Record,
}

impl Part {
    /// The shards of its satellites that were not told to end.
    pub(crate) fn satellites_running(&self) -> Vec<usize> {
        let Self::Home { satellites, .. } = self else { return Vec::new() };
        satellites.iter().filter(|(_, satellite)| !satellite.stopping).map(|(shard, _)| *shard).collect()
    }

    /// The home has given us this peer, and knows this of it.
    pub(crate) fn remember(&mut self, addr: SocketAddr, record: Record) {
        if let Self::Satellite { records, .. } = self
            && record != Record::default()
        {
            records.insert(addr, record);
        }
    }

    /// What the home knew of this peer.
    pub(crate) fn remembered(&self, addr: SocketAddr) -> Option<Record> {
        let Self::Satellite { records, .. } = self else { return None };
        records.get(&addr).copied()
    }
}

impl Shard {
    // ---- at home

    /// The satellite that gets the next connection; `None`: we keep it. The part with the fewest.
    pub(crate) fn satellite_for_peer(&mut self, index: usize) -> Option<usize> {
        let home = &mut self.homes[index];
        let conns = home.conns;
        let Part::Home { satellites, .. } = &mut home.part else { return None };
        let lives = satellites.iter_mut().filter(|(_, satellite)| !satellite.stopping);
        let (shard, satellite) = lives.min_by_key(|(_, satellite)| satellite.conns)?;
        if satellite.conns >= conns {
            return None;
        }
        satellite.conns += 1;
        Some(*shard)
    }

    pub(crate) fn on_satellite_peer(&mut self, key: TorrentKey, shard: usize, back: GivenBack) {
        let now = self.now;
        let Some(&index) = self.by_key.get(&key) else { return };
        let home = &mut self.homes[index];
        if !back.incoming {
            home.candidates.learn(back.addr, back.record);
            home.candidates.gone(now, back.addr, back.useful);
        }
        let Part::Home { satellites, guests, .. } = &mut home.part else { return };
        if let Some(Satellite { conns, .. }) = satellites.get_mut(&shard) {
            *conns = conns.saturating_sub(1);
        }
        if let Some(id) = back.id
            && guests.get(&id) == Some(&shard)
        {
            guests.remove(&id);
        }
        if !back.incoming && back.id.is_none() && !back.useful {
            self.seek_relay(index, back.addr);
        }
        self.note_change(index);
        self.touch(index);
    }

    /// A peer is through its handshake on a satellite. The connection that came first stays.
    pub(crate) fn on_satellite_met(&mut self, key: TorrentKey, shard: usize, id: PeerId) {
        let Some(&index) = self.by_key.get(&key) else { return };
        let home = &mut self.homes[index];
        let here = home.torrent.as_ref().is_some_and(|torrent| torrent.has_id(id));
        let Part::Home { guests, .. } = &mut home.part else { return };
        if here || guests.contains_key(&id) {
            return self.post(shard, ToShard::Duplicate { key, id });
        }
        guests.insert(id, shard);
    }

    // ---- on a satellite

    /// Addresses from home.
    pub(crate) fn on_dial(&mut self, key: TorrentKey, addr: SocketAddr, home: usize, record: Record) {
        let room = self.has_room();
        let index = self.by_key.get(&key).copied().filter(|index| room && !self.is_ending(*index));
        // Also from a satellite that has ended meanwhile: until it hears, the home takes the address for connected.
        if let Some(index) = index
            && self.connect(For::Torrent(index), addr)
        {
            self.homes[index].part.remember(addr, record);
        } else {
            let back =
                GivenBack { addr, incoming: false, id: None, useful: false, record: Record::default() };
            self.post(home, ToShard::SatellitePeer { key, shard: self.config.index, back });
        }
    }

    /// Tells the home that a connection which it gave us is over.
    pub(crate) fn give_peer_back(&mut self, index: usize, back: GivenBack) {
        let home = &mut self.homes[index];
        let (Part::Satellite { home: shard, records, .. }, key) = (&mut home.part, home.key) else { return };
        records.remove(&back.addr);
        let shard = *shard;
        self.post(shard, ToShard::SatellitePeer { key, shard: self.config.index, back });
    }

    /// Tells the home who is connected here.
    pub(crate) fn report_met(&mut self, index: usize, id: PeerId) {
        let home = &self.homes[index];
        let (Part::Satellite { home: shard, .. }, key) = (&home.part, home.key) else { return };
        self.post(*shard, ToShard::SatelliteMet { key, shard: self.config.index, id });
    }

    /// Another part had this peer before us.
    pub(crate) fn on_duplicate(&mut self, key: TorrentKey, id: PeerId) {
        let Some(&index) = self.by_key.get(&key) else { return };
        let Some(torrent) = &self.homes[index].torrent else { return };
        let is_it = |conn: &&Conn| {
            conn.home == Some(index) && conn.peer.is_some_and(|peer| torrent.peer(peer).info().id == id)
        };
        if let Some(conn) = self.conns.iter().flatten().find(is_it) {
            let socket = conn.socket;
            self.end(socket, End::Refused("it is connected to another part of the torrent already"));
        }
    }

    // ---- both

    /// A liar was found on one shard: all shards avoid it.
    pub(crate) fn spread_ban(&mut self, index: usize, ip: IpAddr, from: Option<usize>) {
        let (key, own) = (self.homes[index].key, self.config.index);
        let to: Vec<usize> = match &self.homes[index].part {
            Part::Home { satellites, .. } => {
                satellites.keys().copied().filter(|shard| Some(*shard) != from).collect()
            }
            Part::Satellite { home, .. } if from.is_none() => vec![*home],
            Part::Satellite { .. } => Vec::new(),
        };
        for shard in to {
            self.post(shard, ToShard::Ban { key, ip, from: own });
        }
    }

    pub(crate) fn on_ban(&mut self, key: TorrentKey, ip: IpAddr, from: usize) {
        if let Some(&index) = self.by_key.get(&key) {
            self.ban(index, ip, Some(from));
        }
    }
}

//! The life of a connection: dialled or accepted, through its handshake, open, gone.
//!
//! Owner: the shard. Invariants: a connection counts in its torrent ([`crate::torrents::Home::conns`]) from the moment
//! the torrent is known until [`Event::Closed`]; the torrent's decisions hear of its end only then, when nothing of it
//! is in flight any more.

use ccbt_protocol::ids::{InfoHash, TorrentKey};
use ccbt_protocol::peer::{PeerFault, PeerInfo};
use ccbt_protocol::rate::Way;
use ccbt_protocol::score::Record;
use ccbt_protocol::wire::handshake::{Handshake, HandshakeReader, Reserved};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use crate::encryption::Encrypted;
use crate::messages::{Event as Told, FromShard, HandOff, ToShard};
use crate::ring::{Event, SocketKey, Stream};
use crate::satellites::Part;
use crate::satellites::peers::GivenBack;
use crate::shard::{Conn, Shard, Stage};
use crate::torrents::Phase;

/// What we support: BEP 6 and BEP 10, and BEP 5 where there is a node and the torrent is not private.
pub(crate) const RESERVED: Reserved = Reserved::NONE.with_fast().with_extension();

/// Target of records about single peers: `observability.enable_peer_tracing` shows them, whatever the level is.
pub(crate) const PEERS: &str = "ccbt_shards::peers";

/// Why a connection is ended by us.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// The peer did something, or has nothing left for us.
    Fault(PeerFault),
    /// The stream broke, or the peer closed it.
    Broken,
    /// The handshake is wrong, late or unwelcome.
    Refused(&'static str),
    /// Our own decision: the torrent stops, the address is banned.
    Ours,
    /// Nothing goes over it, and others wait for its place.
    Idle,
}

impl Shard {
    pub(crate) fn on_ring_event(&mut self, event: Event) {
        match event {
            Event::Accepted { listener, socket } => self.on_accepted(listener, socket),
            Event::Connected(key, result) => self.on_connected(key, result),
            Event::Readable(key) => self.queue(key),
            Event::Received(key, result) => self.on_received(key, result),
            Event::Sent(key, result) => self.on_sent(key, result),
            Event::Closed(key) => self.on_closed(key),
            Event::Stray(from, bytes) => {
                if let Some(discovery) = &self.discovery {
                    discovery.datagram(from, bytes);
                }
            }
            Event::Released => self.wake_hungry(),
            Event::Bell => self.bell.drain(),
        }
    }

    fn on_accepted(&mut self, listener: u32, socket: io::Result<(OwnedFd, SocketAddr)>) {
        match socket {
            Ok((fd, addr)) => self.on_arrived(Stream::Tcp(fd), addr),
            // It listens no longer: its interface has gone, and another socket has taken its place.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.ring.unlisten(listener),
            Err(error) => {
                tracing::debug!(%error, "accept failed");
                self.deaf.push(listener);
            }
        }
    }

    /// Somebody has connected to us.
    pub(crate) fn on_arrived(&mut self, stream: Stream, addr: SocketAddr) {
        // Dropping the descriptor closes it: the peer tries again later. A uTP one was told nothing yet.
        if self.stopping.is_some() || self.is_filtered(addr) {
            return;
        }
        if !self.has_room() && !self.crowd_out(addr, None) {
            return self.session_is_full();
        }
        self.stats.accepted += 1;
        self.accepted_at = Some(self.now);
        let key = self.take_in(stream);
        self.insert_conn(key, addr, true, Stage::Handshake(HandshakeReader::default()), None);
        self.ring.recv_plain(key);
    }

    fn take_in(&mut self, stream: Stream) -> SocketKey {
        if let Stream::Tcp(fd) = &stream {
            let _ = socket2::SockRef::from(fd).set_tcp_nodelay(true);
        }
        self.ring.adopt(stream)
    }

    pub(crate) fn insert_conn(
        &mut self,
        key: SocketKey,
        addr: SocketAddr,
        incoming: bool,
        stage: Stage,
        home: Option<usize>,
    ) {
        let index = key.index();
        if index >= self.conns.len() {
            self.conns.resize_with(index + 1, || None);
        }
        let limit = match stage {
            Stage::Connecting => self.config.connect_timeout,
            _ => self.config.handshake_timeout,
        };
        self.timers.conns.set(index, Some(self.now + limit));
        let before = self.conns[index].replace(Conn::new(key, addr, incoming, stage, home));
        assert!(before.is_none(), "two connections in one place");
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the session may have another connection. Shards that ask at the same moment may exceed the limit by one
    /// each.
    pub(crate) fn has_room(&self) -> bool {
        self.connections.load(Ordering::Relaxed) < self.config.max_connections
    }

    /// A connection for a torrent of ours that another shard accepted.
    pub(crate) fn on_hand_off(&mut self, hand_off: HandOff) {
        let placed = hand_off.placed;
        let place = placed.and_then(|(key, _)| self.by_key.get(&key).copied());
        if self.stopping.is_some() || !self.has_room() || self.is_filtered(hand_off.addr) {
            if let Some(index) = place {
                let back = GivenBack {
                    addr: hand_off.addr,
                    incoming: true,
                    id: None,
                    useful: false,
                    record: Record::default(),
                };
                self.give_peer_back(index, back);
            }
            return;
        }
        if let (Some(index), Some((_, record))) = (place, placed) {
            self.homes[index].part.remember(hand_off.addr, record);
        }
        let key = self.take_in(hand_off.stream);
        self.insert_conn(key, hand_off.addr, true, Stage::Handshake(HandshakeReader::default()), None);
        let conn = self.conn(key).expect("just inserted");
        conn.placed = placed.is_some();
        if let Some(Encrypted { ciphers, outbox }) = hand_off.encrypted {
            (conn.encrypted, conn.outbox) = (true, outbox);
            self.ring.set_ciphers(key, ciphers);
            self.flush_outbox(key);
        }
        self.on_handshake_bytes(key, hand_off.bytes);
    }

    /// Bytes of a connection that is not through its handshake.
    pub(crate) fn on_handshake_bytes(&mut self, key: SocketKey, bytes: Vec<u8>) {
        if self.is_encrypted(key, &bytes) {
            return;
        }
        let conn = self.conn(key).expect("called for a connection that lives");
        let Stage::Handshake(reader) = &mut conn.stage else { panic!("not in its handshake") };
        let taken = match reader.push(&bytes) {
            Ok(taken) => taken,
            Err(_) => return self.end(key, End::Refused("it does not speak BitTorrent")),
        };
        let start = reader.info_hash();
        if let (Some((info_hash, _)), None, None) = (start, conn.home, conn.fetch) {
            let all = [reader.as_bytes(), &bytes[taken..]].concat();
            if !self.find_home(key, info_hash, all) {
                return;
            }
        }
        let rest = bytes[taken..].to_vec();
        let conn = self.conns[key.index()].as_mut().expect("called for a connection that lives");
        if conn.answers && start.is_some() {
            conn.answers = false;
            let info_hash = self.dialled_for(self.conns[key.index()].as_ref().expect("seen just now"));
            self.send_handshake(key, info_hash);
        }
        let conn = self.conns[key.index()].as_mut().expect("seen just now");
        match conn.home {
            // It came before our files were looked at: it is answered when they were, or times out.
            Some(index) if conn.incoming && !self.homes[index].is_running() => conn.waiting = Some(rest),
            _ => self.continue_handshake(key, &rest),
        }
    }

    fn continue_handshake(&mut self, key: SocketKey, rest: &[u8]) {
        let conn = self.conn(key).expect("called for a connection that lives");
        let Stage::Handshake(reader) = &conn.stage else { panic!("not in its handshake") };
        match reader.handshake() {
            Some(handshake) => self.on_handshake(key, handshake, rest),
            None => self.ring.recv_plain(key),
        }
    }

    /// The torrent runs now: answers the connections that came before, or leaves them to its satellites.
    pub(crate) fn answer_waiting(&mut self, index: usize) {
        if self.homes[index].conns == 0 {
            return;
        }
        let waiting = |conn: &&Conn| conn.home == Some(index) && conn.waiting.is_some();
        let keys: Vec<SocketKey> =
            self.conns.iter().flatten().filter(waiting).map(|conn| conn.socket).collect();
        let info_hash = self.homes[index].meta.info_hash;
        for key in keys {
            let rest = self.conn(key).and_then(|conn| conn.waiting.take());
            let seen = self.conn(key).and_then(|conn| match &conn.stage {
                Stage::Handshake(reader) => Some(reader.as_bytes().to_vec()),
                _ => None,
            });
            let (Some(rest), Some(seen)) = (rest, seen) else { continue };
            if let Some(shard) = self.satellite_for_peer(index) {
                let home = &mut self.homes[index];
                home.conns -= 1;
                let torrent = home.key;
                self.hand_off(key, shard, [seen, rest].concat(), Some(torrent));
            } else {
                self.send_handshake(key, info_hash);
                self.continue_handshake(key, &rest);
            }
        }
    }

    /// Which torrent an accepted connection is for; `false` when it is not (or no longer) ours.
    fn find_home(&mut self, key: SocketKey, info_hash: InfoHash, bytes: Vec<u8>) -> bool {
        if let Some(&index) = self.by_hash.get(&info_hash) {
            let home = &mut self.homes[index];
            let conn = self.conns[key.index()].as_mut().expect("called for a connection that lives");
            let (addr, placed) = (conn.addr, conn.placed);
            if let (&Part::Satellite { home: shard, .. }, false) = (&home.part, placed) {
                self.hand_off(key, shard, bytes, None);
                return false;
            }
            let stays = !matches!(home.phase, Phase::Ending { .. }) && !home.paused;
            let by = home.bind.as_ref().map(|bind| (bind, self.ring.local_ip(key)));
            let comes_right = by.is_none_or(|(bind, local)| local.is_some_and(|ip| bind.admits(ip)));
            let is_full = home.all_conns() >= home.max_peers;
            let welcome = stays && comes_right && !home.candidates.is_banned(addr.ip());
            if !welcome || is_full && !self.crowd_out(addr, Some(index)) {
                self.homes[index].turned_away |= stays && comes_right && is_full;
                self.end(key, End::Refused("the torrent takes no connection from it now"));
                if self.homes[index].turned_away {
                    self.stir(index);
                }
                self.give_peer_back(
                    index,
                    GivenBack { addr, incoming: true, id: None, useful: false, record: Record::default() },
                );
                return false;
            }
            let home = &self.homes[index];
            let torrent = home.key;
            if let (true, Some(shard)) = (home.is_running(), self.satellite_for_peer(index)) {
                self.hand_off(key, shard, bytes, Some(torrent));
                return false;
            }
            let home = &mut self.homes[index];
            let conn = self.conns[key.index()].as_mut().expect("called for a connection that lives");
            home.conns += 1;
            conn.home = Some(index);
            if home.is_running() {
                self.send_handshake(key, info_hash);
            }
            return true;
        }
        if let Some(found) = self.find_fetcher(key, info_hash) {
            return found;
        }
        let placed = self.conn(key).is_some_and(|conn| conn.placed);
        let elsewhere = self.routes.get(&info_hash).filter(|shard| **shard != self.config.index);
        if let (Some(&shard), false) = (elsewhere, placed) {
            self.hand_off(key, shard, bytes, None);
        } else {
            self.end(key, End::Refused("it asks for a torrent that we do not run"));
        }
        false
    }

    /// Gives a connection to another shard: to the torrent's home, or from there to the part that is `placed` there.
    fn hand_off(&mut self, key: SocketKey, shard: usize, bytes: Vec<u8>, placed: Option<TorrentKey>) {
        let ciphers = self.ring.take_ciphers(key);
        let Some(stream) = self.ring.take(key) else {
            // The answer of an encrypted handshake is still being sent.
            let conn = self.conns[key.index()].as_mut().expect("called for a connection that lives");
            let addr = conn.addr;
            conn.home = None;
            if let Some(torrent) = placed {
                let back =
                    GivenBack { addr, incoming: true, id: None, useful: false, record: Record::default() };
                self.on_satellite_peer(torrent, shard, back);
            }
            return self.end(key, End::Refused("it is too fast"));
        };
        let conn = self.conns[key.index()].take().expect("called for a connection that lives");
        self.timers.conns.set(key.index(), None);
        self.connections.fetch_sub(1, Ordering::Relaxed);
        self.stats.handed_over += 1;
        let encrypted = conn.encrypted.then_some(Encrypted { ciphers, outbox: conn.outbox });
        let known =
            |torrent| self.by_key.get(&torrent).map(|index| self.homes[*index].candidates.record(conn.addr));
        let placed = placed.map(|torrent| (torrent, known(torrent).unwrap_or_default()));
        let message =
            ToShard::HandOff(Box::new(HandOff { stream, addr: conn.addr, encrypted, bytes, placed }));
        if placed.is_some() {
            // Counted as that part's, and not before the message that makes it one.
            return self.post(shard, message);
        }
        self.stats.messages += 1;
        if self.others[shard].try_send(message).is_err() {
            tracing::debug!(addr = %conn.addr, shard, "the other shard is too far behind; the connection is dropped");
        }
    }

    fn on_handshake(&mut self, key: SocketKey, handshake: Handshake, rest: &[u8]) {
        let now = self.now;
        if let Some(at) = self.conn(key).and_then(|conn| conn.fetch) {
            return self.on_fetch_handshake(key, at, handshake, rest);
        }
        let (our_id, index) = (self.config.peer_id, self.conn(key).and_then(|conn| conn.home));
        let index = index.expect("the torrent is known by now");
        let home = &mut self.homes[index];
        let conn = self.conns[key.index()].as_mut().expect("called for a connection that lives");
        let torrent = match &mut home.torrent {
            Some(torrent) if handshake.info_hash == home.meta.info_hash => torrent,
            Some(_) => return self.end(key, End::Refused("it answers for another torrent")),
            None => return self.end(key, End::Refused("the torrent takes no connection now")),
        };
        if handshake.peer_id == our_id {
            if !conn.incoming {
                home.candidates.ourselves(conn.addr);
            }
            return self.end(key, End::Refused("it is ourselves"));
        }
        if torrent.has_id(handshake.peer_id) || home.part.has_guest(handshake.peer_id) {
            return self.end(key, End::Refused("it is connected already"));
        }
        let info = PeerInfo {
            addr: conn.addr,
            id: handshake.peer_id,
            reserved: handshake.reserved,
            incoming: conn.incoming,
        };
        if conn.incoming && !home.part.is_satellite() {
            home.candidates.incoming(conn.addr);
        }
        let peer = torrent.connected(now, info);
        let past = home.part.remembered(conn.addr);
        torrent.recall(peer, past.unwrap_or_else(|| home.candidates.record(conn.addr)));
        if self.ring.is_utp(key) {
            torrent.over_utp(peer);
        }
        self.ring.receiver(key).set_max_message_len(torrent.message_len_max());
        home.sockets.insert(peer, key);
        conn.peer = Some(peer);
        conn.stage = Stage::Open(peer);
        self.timers.conns.set(key.index(), None);
        self.stats.peers += 1;
        tracing::debug!(
            target: PEERS, addr = %info.addr, incoming = info.incoming, id = ?info.id,
            client = info.id.client(), "connected"
        );
        if !self.taps.is_empty() {
            self.tap_new(key, Some(&handshake));
        }
        self.report_met(index, handshake.peer_id);
        self.feed(key, rest);
        self.touch(index);
        self.queue(key);
    }

    /// Ends a connection; everything of it is given back once [`Event::Closed`] comes.
    pub(crate) fn end(&mut self, key: SocketKey, end: End) {
        let Some(conn) = self.conn(key) else { return };
        if matches!(conn.stage, Stage::Closing) {
            return;
        }
        if matches!(conn.stage, Stage::Encrypting(_)) && !matches!(end, End::Ours) {
            self.retry_plainly(key);
        }
        self.count_ending(key, &end);
        let conn = self.conns[key.index()].as_mut().expect("seen just now");
        let before = std::mem::replace(&mut conn.stage, Stage::Closing);
        conn.hostile = matches!(&end, End::Fault(fault) if fault.is_hostile());
        conn.proxy_fault |= self.config.proxy.is_some() && matches!(before, Stage::Connecting);
        let (addr, home) = (conn.addr, conn.home);
        if let (Stage::Fetching(peer), Some(index)) = (before, home) {
            self.leave_fetching(index, peer);
        }
        self.timers.conns.set(key.index(), None);
        self.leave_race(key, false);
        let reason = match end {
            End::Fault(fault) => fault.to_string(),
            End::Refused(reason) => reason.to_owned(),
            End::Broken => "the connection broke".to_owned(),
            End::Ours => "we want no connection with it".to_owned(),
            End::Idle => "it makes way for others".to_owned(),
        };
        tracing::debug!(target: PEERS, %addr, reason, "closing");
        if let Some(trace) = self.conn(key).and_then(|conn| conn.trace.as_mut()) {
            trace.note(&format!("closed: {reason}"));
        }
        if let (End::Fault(fault), Some(index)) = (end, home)
            && fault.is_hostile()
        {
            let told = Told::PeerFault { addr, fault: reason };
            self.tell(FromShard::Event(self.homes[index].key, told));
        }
        self.ring.close(key);
    }

    fn on_closed(&mut self, key: SocketKey) {
        let place = self.conns.get_mut(key.index()).and_then(Option::take);
        let mut conn = place.filter(|conn| conn.socket == key).expect("a connection closed twice");
        self.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(at) = conn.fetch {
            return self.on_fetch_closed(at, &conn);
        }
        let Some(index) = conn.home else { return };
        self.give_back(key, index, Way::Down, conn.limits.take_reserved());
        let now = self.now;
        let home = &mut self.homes[index];
        home.conns -= 1;
        let (mut useful, mut id, mut record) = (false, None, Record::default());
        if let (Some(peer), Some(torrent)) = (conn.peer, &mut home.torrent) {
            for (block, release) in &conn.releases {
                if *release {
                    torrent.released(peer, *block);
                }
            }
            (id, record) = (Some(torrent.peer(peer).info().id), torrent.peer(peer).record());
            useful = torrent.gone(peer);
            home.sockets.remove(&peer);
        }
        let useful = (useful || conn.proxy_fault) && !conn.hostile;
        tracing::debug!(target: PEERS, addr = %conn.addr, ?record, reliability = record.reliability(), "gone");
        if conn.superseded {
            // Another attempt at the same address goes on.
        } else if home.part.is_satellite() {
            let back = GivenBack { addr: conn.addr, incoming: conn.incoming, id, useful, record };
            self.give_peer_back(index, back);
        } else {
            home.candidates.learn(conn.addr, record);
            home.candidates.gone(now, conn.addr, useful);
            if conn.again {
                home.candidates.retry_now(conn.addr);
            } else if !conn.incoming && id.is_none() {
                self.seek_relay(index, conn.addr);
            }
        }
        // What its batch referred to is free.
        self.wake_hungry();
        self.touch(index);
    }

    /// Ends all connections of a torrent.
    pub(crate) fn close_all(&mut self, index: usize) {
        if self.homes[index].conns == 0 {
            return;
        }
        let of_home = |conn: &&Conn| conn.home == Some(index);
        let keys: Vec<SocketKey> =
            self.conns.iter().flatten().filter(of_home).map(|conn| conn.socket).collect();
        keys.into_iter().for_each(|key| self.end(key, End::Ours));
    }

    /// Ends all connections of a torrent with `ip`, and never connects to it again. `from`: the shard that said so.
    pub(crate) fn ban(&mut self, index: usize, ip: IpAddr, from: Option<usize>) {
        self.homes[index].candidates.ban(ip);
        let theirs = |conn: &&Conn| conn.home == Some(index) && conn.addr.ip() == ip;
        let keys: Vec<SocketKey> =
            self.conns.iter().flatten().filter(theirs).map(|conn| conn.socket).collect();
        keys.into_iter().for_each(|key| self.end(key, End::Ours));
        self.spread_ban(index, ip, from);
        if from.is_none() {
            self.tell(FromShard::Event(self.homes[index].key, Told::Banned(ip)));
        }
    }

    /// Ends connections that take too long to come about.
    pub(crate) fn time_out_conns(&mut self) {
        for index in self.timers.conns.pop_all(self.now) {
            let conn = self.conns[index].as_ref().expect("one that is gone has no deadline");
            self.end(conn.socket, End::Refused("it takes too long"));
        }
    }
}

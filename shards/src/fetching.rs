//! Magnet links on their home shard: connections that fetch metadata, until the torrent itself is added.
//!
//! Role: joins [`Fetching`] with sockets, candidates and trackers. Owner: the shard. [`ToShard::AddMagnet`] begins;
//! [`FromShard::Metadata`] tells the end; the [`ToShard::Add`] that follows under the same key takes candidates, announces
//! and connections over ([`Shard::take_fetcher`], [`Shard::adopt`]). Other sources (DHT, LSD, PEX) reach it as a torrent does,
//! by [`ToShard::AddPeers`].
//!
//! Invariant: a connection of a fetcher has `Conn::fetch` set until it ends or its torrent takes it over, and counts in
//! `Fetcher::conns` as long.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ccbt_protocol::candidates::{Candidates, Source};
use ccbt_protocol::fetching::{Fetching, FetchingEvent};
use ccbt_protocol::geometry::Block;
use ccbt_protocol::ids::{InfoHash, TorrentKey};
use ccbt_protocol::metadata::FetchProgress;
use ccbt_protocol::peer::{PeerFault, PeerInfo};
use ccbt_protocol::picker::PeerKey;
use ccbt_protocol::wire::handshake::Handshake;
use ccbt_protocol::wire::message::Message;
use ccbt_protocol::wire::receiver::{Receiver, Sink};

use crate::announce::{Announces, Identity, Totals};
use crate::conns::{End, outgoing_socket};
use crate::messages::{AddMagnet, Event, FromShard, ToShard};
use crate::ring::SocketKey;
use crate::satellites::Part;
use crate::shard::{Conn, Shard, Stage};
use crate::slots::LivePieces;

/// Connections of one magnet at most: metadata is small.
const MAX_PEERS: usize = 40;
/// Connections started per magnet and turn.
const DIALS_PER_TURN: usize = 20;
/// Bytes told to trackers as missing while nobody knows how many there are; as libtorrent does.
const LEFT_UNKNOWN: u64 = 16 * 1024;
/// Pieces told one by one over a connection that is taken over; a torrent that has more dials anew.
const MAX_HAVES: u32 = 1000;

/// One magnet.
pub(crate) struct Fetcher {
    pub key: TorrentKey,
    pub info_hash: InfoHash,
    pub fetching: Box<Fetching>,
    pub candidates: Candidates,
    pub announces: Option<Announces>,
    trackers: Vec<Vec<String>>,
    max_peers: usize,
    /// Connections, half-open ones included.
    conns: usize,
    sockets: HashMap<PeerKey, SocketKey>,
    /// The metadata was told: what is connected waits for the torrent.
    done: bool,
    paused: bool,
    /// It is to be forgotten when its connections are gone and trackers know; whether that is to be told.
    ending: Option<bool>,
    told: Option<(FetchProgress, usize)>,
}

/// Takes what one peer sent.
struct FetchSink<'a> {
    fetching: &'a mut Fetching,
    peer: PeerKey,
    now: std::time::Instant,
}

impl Sink for FetchSink<'_> {
    type Error = PeerFault;

    fn begin_block(&mut self, _block: Block) -> Result<bool, PeerFault> {
        self.fetching.block(self.peer).map(|()| false)
    }

    fn write(&mut self, _block: Block, _offset: u32, _bytes: &[u8]) {
        unreachable!("no block is accepted")
    }

    fn placed(&self, _block: Block, _offset: u32, _len: u32) -> &[u8] {
        unreachable!("no block is planned")
    }

    fn end_block(&mut self, _block: Block, _accepted: bool) -> Result<(), PeerFault> {
        Ok(())
    }

    fn message(&mut self, message: Message<'_>) -> Result<(), PeerFault> {
        self.fetching.message(self.now, self.peer, message)
    }
}

impl Shard {
    pub(crate) fn add_magnet(&mut self, add: AddMagnet) {
        let AddMagnet { key, info_hash, peers, named, trackers, max_peers, paused } = add;
        let mut candidates = Candidates::new(self.config.listen_port);
        named.into_iter().for_each(|peer| drop(candidates.add(peer, Source::Magnet)));
        peers.into_iter().for_each(|peer| drop(candidates.add(peer, Source::User)));
        let mut announces = (!trackers.is_empty()).then(|| {
            let identity = Identity {
                torrent: key,
                info_hash,
                peer_id: self.config.peer_id,
                port: self.config.listen_port,
            };
            Announces::new(identity, &trackers, self.now, &mut self.rng)
        });
        if let (true, Some(announces)) = (paused, &mut announces) {
            // Nobody knows us yet: this only keeps it quiet until it is resumed.
            announces.stop(self.now);
        }
        let at = self.fetchers.insert(Fetcher {
            key,
            info_hash,
            fetching: Box::new(Fetching::new(info_hash, self.config.peer_id, self.config.listen_port)),
            candidates,
            announces,
            trackers,
            max_peers: max_peers.min(MAX_PEERS),
            conns: 0,
            sockets: HashMap::new(),
            done: false,
            paused,
            ending: None,
            told: None,
        });
        self.settle_fetcher(at);
    }

    pub(crate) fn fetcher_by_key(&self, key: TorrentKey) -> Option<usize> {
        self.fetchers.iter().find(|(_, fetcher)| fetcher.key == key).map(|(at, _)| at)
    }

    fn fetcher_by_hash(&self, info_hash: InfoHash) -> Option<usize> {
        self.fetchers.iter().find(|(_, fetcher)| fetcher.info_hash == info_hash).map(|(at, _)| at)
    }

    /// Once a second while there is a magnet.
    pub(crate) fn tick_fetchers(&mut self) {
        let all: Vec<usize> = self.fetchers.iter().map(|(at, _)| at).collect();
        for at in all {
            let now = self.now;
            self.fetchers[at].fetching.tick(now);
            self.settle_fetcher(at);
            self.tell_progress(at);
        }
    }

    fn tell_progress(&mut self, at: usize) {
        let Some(fetcher) = self.fetchers.get_mut(at).filter(|fetcher| !fetcher.done) else { return };
        let picture = (fetcher.fetching.progress(), fetcher.fetching.peer_count());
        if fetcher.told.replace(picture) == Some(picture) {
            return;
        }
        let (FetchProgress { received, total, .. }, peers) = picture;
        let (key, candidates) = (fetcher.key, fetcher.candidates.len());
        self.tell(FromShard::Event(key, Event::Metadata { received, total, peers, candidates }));
    }

    /// Does what is due: events, announces, new connections, what peers are to hear, the end.
    pub(crate) fn settle_fetcher(&mut self, at: usize) {
        self.take_fetching_events(at);
        let now = self.now;
        let Some(fetcher) = self.fetchers.get_mut(at) else { return };
        if let Some(announces) = &mut fetcher.announces {
            let totals = Totals { left: LEFT_UNKNOWN, ..Totals::default() };
            announces.poll(now, totals, &self.tracker, &self.announced);
        }
        self.dial_for_fetcher(at);
        let fetcher = &mut self.fetchers[at];
        for peer in fetcher.fetching.take_dirty() {
            if let Some(&key) = fetcher.sockets.get(&peer)
                && let Some(conn) = self.conns.get_mut(key.index()).and_then(Option::as_mut)
                && !std::mem::replace(&mut conn.queued, true)
            {
                self.work.push(key);
            }
        }
        self.continue_fetcher_end(at);
    }

    fn take_fetching_events(&mut self, at: usize) {
        while let Some(event) = self.fetchers.get_mut(at).and_then(|fetcher| fetcher.fetching.poll_event()) {
            let fetcher = &mut self.fetchers[at];
            match event {
                FetchingEvent::Complete(info) => {
                    fetcher.done = true;
                    let (key, info) = (fetcher.key, Arc::from(info));
                    self.tell(FromShard::Metadata(key, info));
                }
                FetchingEvent::Ban(ip) => {
                    fetcher.candidates.ban(ip);
                    let key = fetcher.key;
                    self.end_fetching(at, End::Ours, |conn| conn.addr.ip() == ip);
                    self.tell(FromShard::Event(key, Event::Banned(ip)));
                }
                FetchingEvent::Close(peer, fault) => {
                    if let Some(&socket) = fetcher.sockets.get(&peer) {
                        self.end(socket, End::Fault(fault));
                    }
                }
                FetchingEvent::Peers(peers) => {
                    peers.into_iter().for_each(|peer| drop(fetcher.candidates.add(peer, Source::Pex)));
                }
                FetchingEvent::OwnAddress(teller, ours) => fetcher.candidates.told_own_address(teller, ours),
            }
        }
    }

    /// Somebody found peers; `false`: not of a magnet.
    pub(crate) fn add_magnet_peers(&mut self, key: TorrentKey, peers: &[SocketAddr], source: Source) -> bool {
        let Some(at) = self.fetcher_by_key(key) else { return false };
        peers.iter().for_each(|peer| drop(self.fetchers[at].candidates.add(*peer, source)));
        self.settle_fetcher(at);
        true
    }

    /// An announce of a magnet's ended.
    pub(crate) fn on_magnet_announce(&mut self, done: crate::announce::AnnounceDone) {
        let Some(at) = self.fetcher_by_key(done.torrent) else { return };
        let fetcher = &mut self.fetchers[at];
        let Some(announces) = &mut fetcher.announces else { return };
        let outcome = announces.on_done(self.now, done);
        outcome.peers.into_iter().for_each(|peer| drop(fetcher.candidates.add(peer, Source::Tracker)));
        let key = fetcher.key;
        if let Some((url, reason)) = outcome.problem {
            self.tell(FromShard::Event(key, Event::Tracker { url, reason }));
        }
        self.settle_fetcher(at);
    }

    // ---- connections

    fn dial_for_fetcher(&mut self, at: usize) {
        for _ in 0..DIALS_PER_TURN {
            let room = self.has_room() && self.stopping.is_none();
            let fetcher = &mut self.fetchers[at];
            let rests = fetcher.done || fetcher.paused || fetcher.ending.is_some();
            if rests || !room || fetcher.conns >= fetcher.max_peers {
                return;
            }
            let Some(addr) = fetcher.candidates.next(self.now, &mut self.rng) else { return };
            match outgoing_socket(addr, self.config.bind) {
                Ok(fd) => {
                    fetcher.conns += 1;
                    let key = self.ring.connect(fd, addr);
                    self.insert_conn(key, addr, false, Stage::Connecting, None);
                    self.conn(key).expect("just inserted").fetch = Some(at);
                }
                Err(error) => {
                    tracing::debug!(%addr, %error, "cannot connect");
                    fetcher.candidates.gone(self.now, addr, false);
                }
            }
        }
    }

    /// An accepted connection asks for `info_hash`; `false`: no magnet of ours, or not welcome (then it is ended).
    pub(crate) fn find_fetcher(&mut self, key: SocketKey, info_hash: InfoHash) -> Option<bool> {
        let at = self.fetcher_by_hash(info_hash)?;
        let fetcher = &mut self.fetchers[at];
        let addr = self.conns[key.index()].as_ref().expect("called for a connection that lives").addr;
        let rests = fetcher.paused || fetcher.ending.is_some();
        if rests || fetcher.conns >= fetcher.max_peers || fetcher.candidates.is_banned(addr.ip()) {
            self.end(key, End::Refused("the magnet takes no connection from it now"));
            return Some(false);
        }
        fetcher.conns += 1;
        self.conns[key.index()].as_mut().expect("seen just now").fetch = Some(at);
        self.send_handshake(key, info_hash);
        Some(true)
    }

    pub(crate) fn on_fetch_handshake(&mut self, key: SocketKey, at: usize, handshake: Handshake, rest: &[u8]) {
        let fetcher = &mut self.fetchers[at];
        let conn = self.conns[key.index()].as_mut().expect("called for a connection that lives");
        if handshake.info_hash != fetcher.info_hash {
            return self.end(key, End::Refused("it answers for another torrent"));
        }
        if handshake.peer_id == self.config.peer_id {
            if !conn.incoming {
                fetcher.candidates.ourselves(conn.addr);
            }
            return self.end(key, End::Refused("it is ourselves"));
        }
        if fetcher.fetching.has_id(handshake.peer_id) {
            return self.end(key, End::Refused("it is connected already"));
        }
        if conn.incoming {
            fetcher.candidates.incoming(conn.addr);
        }
        let info = PeerInfo {
            addr: conn.addr,
            id: handshake.peer_id,
            reserved: handshake.reserved,
            incoming: conn.incoming,
        };
        let peer = fetcher.fetching.connected(self.now, info);
        fetcher.sockets.insert(peer, key);
        conn.stage = Stage::Fetching(peer);
        self.timers.conns.set(key.index(), None);
        let mut sink = FetchSink { fetching: &mut fetcher.fetching, peer, now: self.now };
        let result = self.ring.receiver(key).feed(rest, &mut sink);
        self.after_fetch_bytes(key, result);
    }

    /// Bytes arrived over a connection that speaks of metadata.
    pub(crate) fn on_fetch_bytes(&mut self, key: SocketKey, n: usize) {
        let conn = self.conns[key.index()].as_ref().expect("called for a connection that lives");
        let Stage::Fetching(peer) = conn.stage else { return };
        let fetching = match (conn.fetch, conn.home) {
            (Some(at), _) => &mut self.fetchers[at].fetching,
            (None, Some(index)) => match &mut self.homes[index].fetching {
                Some(fetching) => fetching,
                None => return self.end(key, End::Ours),
            },
            (None, None) => return self.end(key, End::Ours),
        };
        let mut sink = FetchSink { fetching, peer, now: self.now };
        let result = self.ring.receiver(key).commit(n, &mut self.spill, &mut sink);
        self.after_fetch_bytes(key, result);
    }

    fn after_fetch_bytes(&mut self, key: SocketKey, result: Result<(), PeerFault>) {
        let Some(conn) = self.conn(key) else { return };
        let (at, home) = (conn.fetch, conn.home);
        match result {
            Err(fault) => self.end(key, End::Fault(fault)),
            Ok(()) if home.is_some_and(|index| self.homes[index].torrent.is_some()) => self.adopt(key),
            Ok(()) => self.queue(key),
        }
        if let Some(at) = at {
            self.settle_fetcher(at);
        }
    }

    /// Starts the next receive and the next send of a connection that speaks of metadata.
    pub(crate) fn serve_fetch(&mut self, key: SocketKey, peer: PeerKey) {
        let Some(conn) = self.conn(key) else { return };
        let at = conn.fetch;
        if let Some(at) = at
            && !self.ring.sending(key)
        {
            let out = self.fetchers[at].fetching.out(self.now, peer);
            if !out.is_empty() {
                self.ring.batch(key).bytes(&out);
                self.ring.send(key);
            }
        }
        if !self.ring.is_reading(key) {
            self.ring.recv(key, std::iter::empty(), &LivePieces::default(), usize::MAX, false);
        }
    }

    pub(crate) fn on_fetch_closed(&mut self, at: usize, conn: &Conn) {
        let now = self.now;
        let fetcher = &mut self.fetchers[at];
        fetcher.conns -= 1;
        let known = fetcher.sockets.iter().find(|(_, socket)| **socket == conn.socket).map(|(peer, _)| *peer);
        let useful = known.is_some_and(|peer| {
            fetcher.sockets.remove(&peer);
            fetcher.fetching.gone(now, peer)
        });
        fetcher.candidates.gone(now, conn.addr, useful && !conn.hostile);
        self.settle_fetcher(at);
    }

    fn end_fetching(&mut self, at: usize, end: End, is_it: impl Fn(&Conn) -> bool) {
        let of_it = |conn: &&Conn| conn.fetch == Some(at) && is_it(conn);
        let keys: Vec<SocketKey> = self.conns.iter().flatten().filter(of_it).map(|conn| conn.socket).collect();
        keys.into_iter().for_each(|key| self.end(key, end));
    }

    // ---- rest and end

    pub(crate) fn pause_fetcher(&mut self, at: usize, paused: bool) {
        let now = self.now;
        let fetcher = &mut self.fetchers[at];
        if fetcher.paused == paused || fetcher.ending.is_some() {
            return;
        }
        fetcher.paused = paused;
        if let Some(announces) = &mut fetcher.announces {
            if paused { announces.stop(now) } else { announces.restart(now) }
        }
        if paused {
            self.end_fetching(at, End::Ours, |_| true);
        }
        self.settle_fetcher(at);
    }

    /// It ends without a torrent; with `tell`, [`Event::Removed`] follows.
    pub(crate) fn end_fetcher(&mut self, at: usize, tell: bool) {
        let now = self.now;
        let fetcher = &mut self.fetchers[at];
        let was = fetcher.ending.replace(tell || fetcher.ending == Some(true));
        if was.is_none() {
            if let Some(announces) = &mut fetcher.announces {
                announces.stop(now);
            }
            self.end_fetching(at, End::Ours, |_| true);
        }
        self.settle_fetcher(at);
    }

    fn continue_fetcher_end(&mut self, at: usize) {
        let Some(fetcher) = self.fetchers.get(at) else { return };
        let Some(tell) = fetcher.ending else { return };
        if fetcher.conns > 0 || !fetcher.announces.as_ref().is_none_or(Announces::is_idle) {
            return;
        }
        let key = self.fetchers.remove(at).key;
        if tell {
            self.tell(FromShard::Event(key, Event::Removed));
        }
    }

    // ---- the torrent

    /// What a magnet leaves to its torrent `key`, which is about to be added with `trackers`: candidates, and announces if
    /// they are to the same trackers. Its connections are [`Self::hand_down`]'s.
    pub(crate) fn take_fetcher(
        &mut self,
        key: TorrentKey,
        trackers: &[Vec<String>],
    ) -> Option<(usize, Candidates, Option<Announces>)> {
        let at = self.fetcher_by_key(key)?;
        let fetcher = &mut self.fetchers[at];
        let candidates = std::mem::take(&mut fetcher.candidates);
        let announces = fetcher.announces.take().filter(|_| fetcher.trackers == trackers && !fetcher.paused);
        Some((at, candidates, announces))
    }

    /// Gives the connections of the magnet `at` to the torrent at `index`, which has its candidates already. Those of a
    /// private or paused torrent end: who is at the other end may not be for it.
    pub(crate) fn hand_down(&mut self, at: usize, index: usize) {
        let fetcher = self.fetchers.remove(at);
        let home = &mut self.homes[index];
        home.fetching = Some(fetcher.fetching);
        home.conns += fetcher.conns;
        let ends = home.paused || home.meta.private;
        if home.meta.private {
            home.candidates.set_private();
        }
        let mut ended = Vec::new();
        for conn in self.conns.iter_mut().flatten().filter(|conn| conn.fetch == Some(at)) {
            (conn.fetch, conn.home) = (None, Some(index));
            if ends || !matches!(conn.stage, Stage::Fetching(_) | Stage::Closing) {
                conn.again = true;
                ended.push(conn.socket);
            }
        }
        ended.into_iter().for_each(|key| self.end(key, End::Ours));
    }

    /// The torrent runs: takes over the connections that its magnet left. One whose receive is under way follows when that
    /// is cancelled.
    pub(crate) fn adopt_all(&mut self, index: usize) {
        if self.homes[index].fetching.is_none() {
            return;
        }
        let left = |conn: &&Conn| conn.home == Some(index) && matches!(conn.stage, Stage::Fetching(_));
        let keys: Vec<SocketKey> = self.conns.iter().flatten().filter(left).map(|conn| conn.socket).collect();
        for key in keys {
            if self.ring.is_receiving(key) {
                self.ring.cancel_recv(key);
            } else {
                self.adopt(key);
            }
        }
    }

    fn adopt(&mut self, key: SocketKey) {
        let now = self.now;
        let Some(conn) = self.conns[key.index()].as_mut() else { return };
        let (Stage::Fetching(old), Some(index)) = (&conn.stage, conn.home) else { return };
        let home = &mut self.homes[index];
        let taken = home.fetching.as_mut().and_then(|fetching| fetching.take(*old));
        let Some(torrent) = &mut home.torrent else { return };
        let fits = torrent.picker().have().count() <= MAX_HAVES;
        let welcome = |info: &PeerInfo| !torrent.has_id(info.id) && !home.part.has_guest(info.id);
        let Some((info, said)) = taken.filter(|(info, _)| fits && welcome(info)) else {
            conn.again = true;
            return self.end(key, End::Ours);
        };
        let peer = torrent.adopted(now, info);
        home.sockets.insert(peer, key);
        conn.peer = Some(peer);
        conn.stage = Stage::Open(peer);
        self.stats.peers += 1;
        // The stream's own parser may be within a message that came later.
        let result = self.with_sink(key, |_, _, sink| Receiver::new(64, 1 << 20).feed(&said, sink));
        if let Some((_, Err(fault))) = result {
            self.end(key, End::Fault(fault));
        }
        self.touch(index);
        self.queue(key);
    }

    /// A connection of a torrent ends that has not been taken over.
    pub(crate) fn leave_fetching(&mut self, index: usize, peer: PeerKey) {
        let now = self.now;
        let place = &mut self.homes[index].fetching;
        if let Some(fetching) = place {
            fetching.gone(now, peer);
            if fetching.peer_count() == 0 {
                *place = None;
            }
        }
    }

    /// A peer of a torrent told of others.
    pub(crate) fn heard_of(&mut self, index: usize, peers: Vec<SocketAddr>) {
        let home = &mut self.homes[index];
        if let Part::Satellite { home: shard, .. } = &home.part {
            let (shard, key) = (*shard, home.key);
            return self.post(shard, ToShard::AddPeers(key, peers, Source::Pex));
        }
        let new = peers.into_iter().filter(|peer| home.candidates.add(*peer, Source::Pex)).count();
        if new > 0 {
            self.dial(index);
            self.stir(index);
        }
    }

    /// The swarm a connection that we made is for.
    pub(crate) fn dialled_for(&self, conn: &Conn) -> InfoHash {
        match (conn.fetch, conn.home) {
            (Some(at), _) => self.fetchers[at].info_hash,
            (None, Some(index)) => self.homes[index].meta.info_hash,
            (None, None) => unreachable!("we dial for a torrent"),
        }
    }
}

//! Magnet links on their home shard: connections that fetch metadata, until the torrent itself is added.
//!
//! Role: joins [`Fetching`] with sockets, candidates and trackers. Owner: the shard. `ToShard::AddMagnet` begins;
//! [`FromShard::Metadata`] tells the end; the `ToShard::Add` that follows under the same key takes candidates, announces
//! and connections over (`handover`). Other sources (DHT, LSD, PEX) reach it as a torrent does, by
//! `ToShard::AddPeers`.
//!
//! Invariant: a connection of a fetcher has `Conn::fetch` set until it ends or its torrent takes it over, and counts in
//! `Fetcher::conns` as long.

mod add;
mod handover;
mod sink;

pub use add::AddMagnet;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use ccbt_protocol::candidates::{Candidates, Source};
use ccbt_protocol::fetching::{Fetching, FetchingEvent};
use ccbt_protocol::ids::{InfoHash, TorrentKey};
use ccbt_protocol::metadata::FetchProgress;
use ccbt_protocol::peer::{PeerFault, PeerInfo};
use ccbt_protocol::picker::PeerKey;
use ccbt_protocol::wire::handshake::Handshake;

use crate::announce::{Announces, Identity, Totals};
use crate::binding::Binding;
use crate::conns::End;
use crate::diagnosis::Endings;
use crate::discovering::is_at_home;
use crate::discovery::Interest;
use crate::messages::{Event, FromShard};
use crate::ring::SocketKey;
use crate::shard::{Conn, Shard, Stage};
use crate::slots::LivePieces;
use crate::tapping::TracedSink;

use sink::FetchSink;

/// Connections of one magnet at most: metadata is small.
const MAX_PEERS: usize = 40;
/// Connections started per magnet and turn.
const DIALS_PER_TURN: usize = 20;
/// Bytes told to trackers as missing while nobody knows how many there are; as libtorrent does.
const LEFT_UNKNOWN: u64 = 16 * 1024;

/// One magnet.
pub(crate) struct Fetcher {
    pub key: TorrentKey,
    pub info_hash: InfoHash,
    pub fetching: Box<Fetching>,
    pub candidates: Candidates,
    pub announces: Option<Announces>,
    trackers: Vec<Vec<String>>,
    pub(crate) max_peers: usize,
    /// Connections, half-open ones included.
    pub(crate) conns: usize,
    sockets: HashMap<PeerKey, SocketKey>,
    /// The metadata was told: what is connected waits for the torrent.
    done: bool,
    pub(crate) paused: bool,
    /// It is to be forgotten when its connections are gone and trackers know; whether that is to be told.
    ending: Option<bool>,
    told: Option<(FetchProgress, usize)>,
    pub(crate) dht: bool,
    pub(crate) lsd: bool,
    /// The discovery thread looks for peers.
    finding: bool,
    pub bind: Option<Binding>,
    /// How connections have ended, and those among them whose peers had no metadata, or gave none.
    pub(crate) endings: Endings,
    pub(crate) without: u64,
}

impl Fetcher {
    /// Whether new connections are of use.
    pub(crate) fn wants_peers(&self) -> bool {
        !self.done && !self.paused && self.ending.is_none()
    }
}

impl Shard {
    pub(crate) fn add_magnet(&mut self, add: AddMagnet) {
        let is_at_home = is_at_home(add.bind.as_ref(), self.config.bind.as_ref());
        let AddMagnet { key, info_hash, peers, named, trackers, max_peers, paused, pex, dht, lsd, bind } =
            add;
        let mut candidates = Candidates::new(self.config.listen_port);
        candidates.set_filter(self.filter.clone());
        candidates.add_all(&named, Source::Magnet);
        candidates.add_all(&peers, Source::User);
        let mut announces = (!trackers.is_empty()).then(|| {
            let identity = Identity {
                torrent: key,
                info_hash,
                peer_id: self.config.peer_id,
                port: self.config.listen_port,
            };
            Announces::new(identity, &trackers, self.now, &mut self.rng).bound_to(bind.clone())
        });
        if let (true, Some(announces)) = (paused, &mut announces) {
            // Nobody knows us yet: this only keeps it quiet until it is resumed.
            announces.stop(self.now);
        }
        let at = self.fetchers.insert(Fetcher {
            key,
            info_hash,
            fetching: Box::new(Fetching::new(info_hash, self.config.peer_id, self.config.listen_port, pex)),
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
            dht: dht && is_at_home,
            lsd: lsd && is_at_home,
            finding: false,
            bind,
            endings: Endings::default(),
            without: 0,
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
            announces.poll(now, totals, &self.trackers, &self.announced);
        }
        self.find_for_fetcher(at);
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

    /// Tells the discovery thread whether peers are wanted; again with the next tick if it has no room. The torrent tells
    /// it for itself.
    fn find_for_fetcher(&mut self, at: usize) {
        let Some(discovery) = &self.discovery else { return };
        let fetcher = &mut self.fetchers[at];
        let wanted = (fetcher.dht || fetcher.lsd) && fetcher.wants_peers() && self.stopping.is_none();
        if wanted == fetcher.finding {
            return;
        }
        let told = match wanted {
            true => discovery.add(Interest {
                info_hash: fetcher.info_hash,
                key: fetcher.key,
                home: self.others[self.config.index].clone(),
                private: false,
                seed: false,
                dht: fetcher.dht,
                lsd: fetcher.lsd,
            }),
            false => discovery.remove(fetcher.key),
        };
        if told {
            fetcher.finding = wanted;
        }
    }

    fn take_fetching_events(&mut self, at: usize) {
        while let Some(event) = self.fetchers.get_mut(at).and_then(|fetcher| fetcher.fetching.poll_event()) {
            let fetcher = &mut self.fetchers[at];
            match event {
                FetchingEvent::Complete(info) => {
                    fetcher.done = true;
                    let (key, len) = (fetcher.key, info.len() as u32);
                    let (peers, candidates) = (fetcher.fetching.peer_count(), fetcher.candidates.len());
                    let all = Event::Metadata { received: len, total: len, peers, candidates };
                    self.tell(FromShard::Event(key, all));
                    let info = Arc::from(info);
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
                    fetcher.candidates.add_all(&peers, Source::Pex);
                }
                FetchingEvent::OwnAddress(teller, ours) => fetcher.candidates.told_own_address(teller, ours),
            }
        }
    }

    /// Somebody found peers; `false`: not of a magnet.
    pub(crate) fn add_magnet_peers(&mut self, key: TorrentKey, peers: &[SocketAddr], source: Source) -> bool {
        let Some(at) = self.fetcher_by_key(key) else { return false };
        self.fetchers[at].candidates.add_all(peers, source);
        self.settle_fetcher(at);
        true
    }

    /// An announce of a magnet's ended.
    pub(crate) fn on_magnet_announce(&mut self, done: crate::announce::AnnounceDone) {
        let Some(at) = self.fetcher_by_key(done.torrent) else { return };
        let fetcher = &mut self.fetchers[at];
        let Some(announces) = &mut fetcher.announces else { return };
        let outcome = announces.on_done(self.now, done);
        fetcher.candidates.add_all(&outcome.peers, Source::Tracker);
        let key = fetcher.key;
        if let Some((url, reason)) = outcome.problem {
            self.tell(FromShard::Event(key, Event::Tracker { url, reason }));
        }
        self.learn_address(outcome.external_ip);
        self.settle_fetcher(at);
    }

    // ---- connections

    fn dial_for_fetcher(&mut self, at: usize) {
        for _ in 0..DIALS_PER_TURN {
            let room = self.has_room() && self.stopping.is_none();
            let fetcher = &mut self.fetchers[at];
            if !fetcher.wants_peers() || !room || fetcher.conns >= fetcher.max_peers {
                return;
            }
            let Some(addr) = fetcher.candidates.next(self.now, &mut self.rng) else { return };
            if !self.connect(crate::dialling::For::Magnet(at), addr) {
                self.fetchers[at].candidates.gone(self.now, addr, false);
            }
        }
    }

    /// An accepted connection asks for `info_hash`; `false`: no magnet of ours, or not welcome (then it is ended).
    pub(crate) fn find_fetcher(&mut self, key: SocketKey, info_hash: InfoHash) -> Option<bool> {
        let at = self.fetcher_by_hash(info_hash)?;
        let fetcher = &mut self.fetchers[at];
        let addr = self.conns[key.index()].as_ref().expect("called for a connection that lives").addr;
        let rests = fetcher.paused || fetcher.ending.is_some();
        let by = fetcher.bind.as_ref().map(|bind| (bind, self.ring.local_ip(key)));
        let comes_right = by.is_none_or(|(bind, local)| local.is_some_and(|ip| bind.admits(ip)));
        if rests
            || !comes_right
            || fetcher.conns >= fetcher.max_peers
            || fetcher.candidates.is_banned(addr.ip())
        {
            self.end(key, End::Refused("the magnet takes no connection from it now"));
            return Some(false);
        }
        fetcher.conns += 1;
        self.conns[key.index()].as_mut().expect("seen just now").fetch = Some(at);
        self.send_handshake(key, info_hash);
        Some(true)
    }

    pub(crate) fn on_fetch_handshake(
        &mut self,
        key: SocketKey,
        at: usize,
        handshake: Handshake,
        rest: &[u8],
    ) {
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
        if !self.taps.is_empty() {
            self.tap_new(key, Some(&handshake));
        }
        let mut sink = FetchSink { fetching: &mut self.fetchers[at].fetching, peer, now: self.now };
        let receiver = self.ring.receiver(key);
        let result = match self.conns[key.index()].as_mut().and_then(|conn| conn.trace.as_mut()) {
            None => receiver.feed(rest, &mut sink),
            Some(trace) => receiver.feed(rest, &mut TracedSink { sink, trace }),
        };
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
        let receiver = self.ring.receiver(key);
        let result = match self.conns[key.index()].as_mut().and_then(|conn| conn.trace.as_mut()) {
            None => receiver.commit(n, &mut self.spill, &mut sink),
            Some(trace) => receiver.commit(n, &mut self.spill, &mut TracedSink { sink, trace }),
        };
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
                if let Some(trace) = self.conn(key).and_then(|conn| conn.trace.as_mut()) {
                    trace.sent(&out);
                }
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
        if !conn.superseded {
            fetcher.candidates.gone(now, conn.addr, (useful || conn.proxy_fault) && !conn.hostile);
        }
        self.settle_fetcher(at);
    }

    fn end_fetching(&mut self, at: usize, end: End, is_it: impl Fn(&Conn) -> bool) {
        let of_it = |conn: &&Conn| conn.fetch == Some(at) && is_it(conn);
        let keys: Vec<SocketKey> =
            self.conns.iter().flatten().filter(of_it).map(|conn| conn.socket).collect();
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

    /// The swarm a connection that we made is for.
    pub(crate) fn dialled_for(&self, conn: &Conn) -> InfoHash {
        match (conn.fetch, conn.home) {
            (Some(at), _) => self.fetchers[at].info_hash,
            (None, Some(index)) => self.homes[index].meta.info_hash,
            (None, None) => unreachable!("we dial for a torrent"),
        }
    }
}

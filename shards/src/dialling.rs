//! Connecting to peers, over TCP or uTP, whichever answers.
//!
//! Role: chooses the transport of each attempt. The preferred one starts; when it fails, or has not answered after
//! [`HEAD_START`], the other one starts beside it, and the first that connects ends the other (happy eyeballs, RFC 8305).
//! What worked is remembered per address. Owner: the shard. Invariant: of the attempts at one address all but the last
//! are `superseded`, and only one that is not is told to the torrent's list of candidates.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use ccbt_protocol::wire::handshake::HandshakeReader;
use socket2::{Protocol, Type};

use crate::binding::{Binding, socket_to};
use crate::conns::{End, PEERS};
use crate::messages::ToShard;
use crate::ring::SocketKey;
use crate::shard::{Conn, Shard, Stage};

/// Connects started per torrent and turn: a tracker's 200 addresses are not dialled in one burst.
const DIALS_PER_TURN: usize = 50;
/// Time that the preferred transport has for itself: two round trips to the other end of the world.
const HEAD_START: Duration = Duration::from_millis(600);
/// Addresses whose transport is remembered; then all are forgotten.
const REMEMBERED_MAX: usize = 8192;

/// How bytes travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// uTP (BEP 29).
    Utp,
}

impl Transport {
    const fn other(self) -> Self {
        match self {
            Self::Tcp => Self::Utp,
            Self::Utp => Self::Tcp,
        }
    }
}

/// Which transports are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transports {
    /// TCP connections are made and accepted.
    pub tcp: bool,
    /// uTP connections are made and accepted.
    pub utp: bool,
    /// Tried first where both are.
    pub preferred: Transport,
}

impl Default for Transports {
    fn default() -> Self {
        Self { tcp: true, utp: false, preferred: Transport::Tcp }
    }
}

impl Transports {
    const fn allows(&self, transport: Transport) -> bool {
        match transport {
            Transport::Tcp => self.tcp,
            Transport::Utp => self.utp,
        }
    }
}

/// What we connect for, by its index: the place in [`Shard::homes`] or [`Shard::fetchers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    Torrent(usize),
    Magnet(usize),
}

/// What has worked.
#[derive(Default)]
pub(crate) struct Worked(HashMap<SocketAddr, Transport>);

impl Worked {
    fn remember(&mut self, addr: SocketAddr, transport: Transport) {
        if self.0.len() >= REMEMBERED_MAX {
            self.0.clear();
        }
        self.0.insert(addr, transport);
    }
}

impl Conn {
    /// What it was opened for.
    pub(crate) fn what(&self) -> Option<For> {
        self.fetch.map(For::Magnet).or(self.home.map(For::Torrent))
    }
}

impl Shard {
    /// Connects to addresses of the torrent's while it may have more peers.
    pub(crate) fn dial(&mut self, index: usize) {
        for _ in 0..DIALS_PER_TURN {
            let home = &self.homes[index];
            let room = home.all_conns() < home.max_peers && self.has_room();
            if !home.is_running() || home.paused || !room || self.stopping.is_some() {
                return;
            }
            let home = &mut self.homes[index];
            let Some(addr) = home.candidates.next(self.now, &mut self.rng) else { return };
            let key = home.key;
            match self.satellite_for_peer(index) {
                Some(shard) => {
                    let record = self.homes[index].candidates.record(addr);
                    self.post(shard, ToShard::Dial { key, addr, home: self.config.index, record });
                }
                None if self.connect(For::Torrent(index), addr) => {}
                None => self.homes[index].candidates.gone(self.now, addr, false),
            }
        }
    }

    /// Starts to connect to `addr`; `false` when that cannot be.
    pub(crate) fn connect(&mut self, what: For, addr: SocketAddr) -> bool {
        let transports = self.config.transports;
        let first = self.worked.0.get(&addr).copied().unwrap_or(transports.preferred);
        let first = if transports.allows(first) { first } else { first.other() };
        let Some(key) = self.start_attempt(what, addr, first) else { return false };
        if transports.allows(first.other()) {
            self.timers.races.set(key.index(), Some(self.now + HEAD_START));
        }
        true
    }

    pub(crate) fn start_attempt(
        &mut self,
        what: For,
        addr: SocketAddr,
        transport: Transport,
    ) -> Option<SocketKey> {
        if self.is_filtered(addr) {
            return None;
        }
        let own = match what {
            For::Torrent(index) => self.homes[index].bind.as_ref(),
            For::Magnet(at) => self.fetchers[at].bind.as_ref(),
        };
        let bind = own.or(self.config.bind.as_ref());
        let started = match transport {
            Transport::Tcp => {
                let way = self.way_to(addr);
                outgoing_socket(way, bind).map(|fd| self.ring.connect(fd, way))
            }
            // Nothing goes past a proxy.
            Transport::Utp if self.config.proxy.is_some() => Err(io::ErrorKind::Unsupported.into()),
            Transport::Utp => {
                self.utp_ends.dial(bind, addr).map(|socket| self.ring.connect_utp(socket, rand::random()))
            }
        };
        let key = match started {
            Ok(key) => key,
            Err(error) => {
                tracing::debug!(target: PEERS, %addr, ?transport, %error, "cannot connect");
                return None;
            }
        };
        let (home, fetch) = match what {
            For::Torrent(index) => {
                self.homes[index].conns += 1;
                (Some(index), None)
            }
            For::Magnet(at) => {
                self.fetchers[at].conns += 1;
                (None, Some(at))
            }
        };
        self.insert_conn(key, addr, false, Stage::Connecting, home);
        let conn = self.conn(key).expect("just inserted");
        (conn.transport, conn.fetch) = (transport, fetch);
        if let Some(index) = home {
            self.touch(index);
        }
        Some(key)
    }

    /// Another attempt beside one that is under way or has just failed; `None` when the torrent wants no more, or it
    /// cannot be.
    pub(crate) fn start_another(&mut self, of: SocketKey, transport: Transport) -> Option<SocketKey> {
        let conn = self.conn(of)?;
        let (addr, what) = (conn.addr, conn.what()?);
        let wanted = match what {
            For::Torrent(index) => self.homes[index].is_running(),
            For::Magnet(at) => self.fetchers[at].wants_peers(),
        };
        if !wanted || self.stopping.is_some() || !self.has_room() {
            return None;
        }
        self.start_attempt(what, addr, transport)
    }

    /// Attempts that have had their head start get a rival.
    pub(crate) fn start_races(&mut self) {
        for index in self.timers.races.pop_all(self.now) {
            let key = self.conns[index].as_ref().expect("one that is gone has no deadline").socket;
            self.start_rival(key);
        }
    }

    /// Tries the other transport beside `key`; `false` when that cannot be.
    fn start_rival(&mut self, key: SocketKey) -> bool {
        let Some(conn) = self.conn(key) else { return false };
        let other = conn.transport.other();
        if !matches!(conn.stage, Stage::Connecting) || conn.rival.is_some() {
            return false;
        }
        let Some(rival) = self.start_another(key, other) else { return false };
        self.conn(key).expect("seen just now").rival = Some(rival);
        self.conn(rival).expect("just inserted").rival = Some(key);
        true
    }

    pub(crate) fn on_connected(&mut self, key: SocketKey, result: io::Result<()>) {
        let Some(conn) = self.conn(key) else { return };
        let (addr, transport, rival) = (conn.addr, conn.transport, conn.rival.take());
        if let Err(error) = result {
            tracing::debug!(target: PEERS, %addr, ?transport, %error, "connect failed");
            let may_race = self.timers.races.get(key.index()).is_some();
            // Its rival goes on alone, or starts now.
            let goes_on = rival.is_some() || may_race && self.start_rival(key);
            self.leave_race(key, goes_on);
            return self.end(key, End::Broken);
        }
        if let Some(rival) = rival {
            self.leave_race(rival, true);
            self.end(rival, End::Ours);
        }
        self.worked.remember(addr, transport);
        self.timers.races.set(key.index(), None);
        if self.ask_proxy(key) {
            return;
        }
        self.conn(key).expect("seen just now").stage = Stage::Handshake(HandshakeReader::default());
        self.begin_handshake(key);
    }

    /// A connection that we have opened leads to the peer: says the first words.
    pub(crate) fn begin_handshake(&mut self, key: SocketKey) {
        self.timers.conns.set(key.index(), Some(self.now + self.config.handshake_timeout));
        if self.ring.was_accepted(key) {
            // Both have dialled, and the peer's attempt counts: it speaks first.
            self.conn(key).expect("seen just now").answers = true;
            return self.ring.recv_plain(key);
        }
        let info_hash = self.dialled_for(self.conns[key.index()].as_ref().expect("seen just now"));
        self.greet(key, info_hash);
    }

    /// `key` is no longer one of two attempts; `superseded`: the other one counts.
    pub(crate) fn leave_race(&mut self, key: SocketKey, superseded: bool) {
        self.timers.races.set(key.index(), None);
        let Some(conn) = self.conn(key) else { return };
        conn.superseded |= superseded;
        if let Some(rival) = conn.rival.take()
            && let Some(rival) = self.conn(rival)
        {
            rival.rival = None;
        }
    }
}

/// A socket to connect to `addr` with.
pub(crate) fn outgoing_socket(addr: SocketAddr, bind: Option<&Binding>) -> io::Result<OwnedFd> {
    let kind = (Type::STREAM, Protocol::TCP);
    socket_to(bind, kind, addr, 0, |socket| socket.set_tcp_nodelay(true)).map(OwnedFd::from)
}

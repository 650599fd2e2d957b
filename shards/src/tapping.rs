//! Showing what is said over the connections with one peer.
//!
//! Role: a tap ([`TapRequest`]) gets a line for each message of the connections that it is for, those that are there and
//! those that come. Owner: the shard. Invariants: a connection that nobody looks at costs one branch for each receive and
//! each batch that is sent ([`Conn::trace`]); a tap never makes a shard wait; what a tap is told has no payload.
//!
//! Connections that fetch the metadata of a magnet are shown, too; the torrent that takes them over goes on with them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use ccbt_protocol::geometry::Block;
use ccbt_protocol::ids::TorrentKey;
use ccbt_protocol::peer::PeerFault;
use ccbt_protocol::wire::handshake::Handshake;
use ccbt_protocol::wire::message::Message;
use ccbt_protocol::wire::receiver::Sink;
use ccbt_protocol::wire::trace::{Direction, WireTrace};

use crate::ring::SocketKey;
use crate::shard::{Conn, Shard, Stage};

/// A peer by its address, and by its port if that is given: the port of one that connects to us is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its address.
    pub ip: IpAddr,
    /// Its port; `None`: any.
    pub port: Option<u16>,
}

impl PeerAddress {
    /// Whether a connection with `addr` is meant.
    pub fn matches(&self, addr: SocketAddr) -> bool {
        self.ip == addr.ip().to_canonical() && self.port.is_none_or(|port| port == addr.port())
    }
}

impl FromStr for PeerAddress {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let new = |ip: IpAddr, port| Self { ip: ip.to_canonical(), port };
        match text.parse::<SocketAddr>() {
            Ok(addr) => Ok(new(addr.ip(), Some(addr.port()))),
            Err(_) => text.parse().map(|ip| new(ip, None)),
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

/// Something that was said, or happened, on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapLine {
    /// When.
    pub at: SystemTime,
    /// The other end.
    pub peer: SocketAddr,
    /// Which way it went; `None`: it is about the connection itself.
    pub direction: Option<Direction>,
    /// In words, at most [`ccbt_protocol::wire::trace::LINE_CHARS`] characters, and safe to show.
    pub text: String,
}

/// Who looks. Called on a shard's thread, so neither call may wait.
pub trait WireTap: fmt::Debug + Send + Sync {
    /// Takes a line, or drops it when there is no room.
    fn line(&self, line: TapLine);

    /// Nobody looks any more.
    fn is_closed(&self) -> bool;
}

/// A tap and what it is for.
#[derive(Clone, Debug)]
pub struct TapRequest {
    /// Only connections of this torrent.
    pub torrent: Option<TorrentKey>,
    /// Connections with this peer.
    pub peer: PeerAddress,
    /// Who looks.
    pub tap: Arc<dyn WireTap>,
}

/// What is kept of a connection that somebody looks at.
#[derive(Debug)]
pub(crate) struct ConnTrace {
    taps: Vec<Arc<dyn WireTap>>,
    wire: WireTrace,
    peer: SocketAddr,
}

impl ConnTrace {
    fn tell(&mut self, direction: Option<Direction>, text: &str) {
        self.taps.retain(|tap| !tap.is_closed());
        for tap in &self.taps {
            tap.line(TapLine { at: SystemTime::now(), peer: self.peer, direction, text: text.to_owned() });
        }
    }

    /// What happened to the connection.
    pub fn note(&mut self, text: &str) {
        self.tell(None, text);
    }

    fn message(&mut self, direction: Direction, message: &Message<'_>) {
        let text = self.wire.message(direction, message);
        self.tell(Some(direction), &text);
    }

    /// Whole messages that go out.
    pub fn sent(&mut self, mut frames: &[u8]) {
        while let Some((len, rest)) = frames.split_first_chunk::<4>() {
            let Some((body, rest)) = rest.split_at_checked(u32::from_be_bytes(*len) as usize) else { break };
            frames = rest;
            if let Ok(message) = Message::decode(body) {
                self.message(Direction::Out, &message);
            }
        }
    }

    /// Blocks that go out.
    pub fn sent_blocks(&mut self, blocks: &[Block]) {
        blocks.iter().for_each(|block| self.tell(Some(Direction::Out), &WireTrace::block(*block)));
    }
}

/// Shows what passes on its way to the torrent, or to the fetcher of its metadata.
pub(crate) struct TracedSink<'a, S> {
    pub sink: S,
    pub trace: &'a mut ConnTrace,
}

impl<S: Sink<Error = PeerFault>> Sink for TracedSink<'_, S> {
    type Error = PeerFault;

    fn begin_block(&mut self, block: Block) -> Result<bool, PeerFault> {
        let is_wanted = self.sink.begin_block(block);
        let note = if matches!(is_wanted, Ok(true)) { "" } else { ", which nobody asked for" };
        self.trace.tell(Some(Direction::In), &format!("{}{note}", WireTrace::block(block)));
        is_wanted
    }

    fn is_aside(&self, block: Block) -> bool {
        self.sink.is_aside(block)
    }

    fn write(&mut self, block: Block, offset: u32, bytes: &[u8]) {
        self.sink.write(block, offset, bytes);
    }

    fn placed(&self, block: Block, offset: u32, len: u32) -> &[u8] {
        self.sink.placed(block, offset, len)
    }

    fn end_block(&mut self, block: Block, accepted: bool) -> Result<(), PeerFault> {
        self.sink.end_block(block, accepted)
    }

    fn message(&mut self, message: Message<'_>) -> Result<(), PeerFault> {
        self.trace.message(Direction::In, &message);
        self.sink.message(message)
    }
}

impl Shard {
    /// Somebody looks at a peer from now on.
    pub(crate) fn add_tap(&mut self, request: TapRequest) {
        self.taps.retain(|request| !request.tap.is_closed());
        let speaks = |conn: &Conn| conn.peer.is_some() || matches!(conn.stage, Stage::Fetching(_));
        let connected = |conn: &&Conn| speaks(conn) && request.peer.matches(conn.addr);
        let keys: Vec<SocketKey> =
            self.conns.iter().flatten().filter(connected).map(|conn| conn.socket).collect();
        for key in keys {
            if self.attach(key, &request)
                && let Some(trace) = self.conn(key).and_then(|conn| conn.trace.as_mut())
            {
                trace.note("connected already; what was said before is not shown");
            }
        }
        self.taps.push(request);
    }

    fn attach(&mut self, key: SocketKey, request: &TapRequest) -> bool {
        let Some(conn) = self.conns[key.index()].as_mut() else { return false };
        let (torrent, said) = match (conn.home, conn.fetch, &conn.stage) {
            (Some(index), ..) => {
                let home = &self.homes[index];
                let peer = home.torrent.as_ref().zip(conn.peer);
                (home.key, peer.and_then(|(torrent, peer)| torrent.peer(peer).extension()))
            }
            (None, Some(at), Stage::Fetching(peer)) => {
                let fetcher = &self.fetchers[at];
                (fetcher.key, fetcher.fetching.said_by(*peer))
            }
            _ => return false,
        };
        if !request.peer.matches(conn.addr) || request.torrent.is_some_and(|key| key != torrent) {
            return false;
        }
        let new = || Box::new(ConnTrace { taps: Vec::new(), wire: WireTrace::new(said), peer: conn.addr });
        conn.trace.get_or_insert_with(new).taps.push(request.tap.clone());
        true
    }

    /// A connection is through its handshake: those who look at its peer see it from here on.
    pub(crate) fn tap_new(&mut self, key: SocketKey, theirs: Option<&Handshake>) {
        self.taps.retain(|request| !request.tap.is_closed());
        for request in self.taps.clone() {
            self.attach(key, &request);
        }
        let Some(conn) = self.conn(key).filter(|conn| conn.trace.is_some()) else { return };
        let (incoming, encrypted) = (conn.incoming, conn.encrypted);
        let way = if self.ring.is_utp(key) { "uTP" } else { "TCP" };
        let who = if incoming { "it connected to us" } else { "we connected to it" };
        let secret = if encrypted { ", encrypted" } else { "" };
        let ours = theirs.and_then(|theirs| Handshake::parse(&self.hello(theirs.info_hash)).ok());
        let trace = self.conn(key).and_then(|conn| conn.trace.as_mut()).expect("seen just now");
        trace.note(&format!("connected over {way}{secret}: {who}"));
        for (direction, handshake) in [(Direction::Out, ours.as_ref()), (Direction::In, theirs)] {
            if let Some(handshake) = handshake {
                trace.tell(Some(direction), &WireTrace::handshake(handshake));
            }
        }
    }
}

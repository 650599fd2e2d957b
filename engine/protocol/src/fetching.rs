//! A torrent of which only the name is known: connections that speak of nothing but metadata and peers.
//!
//! Role: stands in for [`crate::torrent::Torrent`] until the metadata is there. It sends the extended handshake, asks for
//! metadata ([`crate::metadata::Fetch`]), listens to peers' peers (BEP 11), and keeps what else a peer says, so that the
//! torrent can take the connection over ([`Fetching::take`]). Owner: the torrent's home shard. Pure.
//!
//! Call order: [`Fetching::connected`] after a handshake; [`Fetching::message`] and [`Fetching::block`] for what arrives;
//! [`Fetching::gone`] when the connection has ended; [`Fetching::tick`] once a second. After each of these
//! [`Fetching::poll_event`] until `None`, then what [`Fetching::out`] holds is sent for each of [`Fetching::take_dirty`].
//!
//! Invariant: of one peer at most [`MAX_KEPT`] bytes are kept.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::ids::{InfoHash, PeerId};
use crate::metadata::{self, Fetch, FetchEvent, FetchProgress, FetchTrouble, MetadataMessage};
use crate::peer::{MAX_UNREAD, PeerFault, PeerInfo};
use crate::pex::{self, Gate, PexMessage};
use crate::picker::PeerKey;
use crate::wire::extension::{ExtensionHandshake, LT_DONTHAVE, LT_DONTHAVE_NAME, UT_METADATA, UT_PEX};
use crate::wire::message::Message;

/// What a peer says besides, in bytes: the bitfield of a million pieces. One that says more is dialled again later.
pub const MAX_KEPT: usize = 128 * 1024;
/// Longest message that a peer may send, in bytes: a bitfield of as many pieces as there is room for in metadata.
pub const MESSAGE_LEN_MAX: u32 = 1 + metadata::MAX_METADATA_LEN / 20 / 8;
/// A peer has so long for its extended handshake.
const HELLO_TIME: Duration = Duration::from_secs(15);
/// A peer that has no metadata, but may tell of others, stays so long.
const HEARSAY_TIME: Duration = Duration::from_secs(150);
/// We say something at least this often (BEP 3).
const KEEP_ALIVE: Duration = Duration::from_secs(100);
/// Events of hearsay that may wait while nobody takes them.
const MAX_WAITING: usize = 1024;
/// Useless things that a peer may send.
const MAX_STRIKES: u32 = 64;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum FetchingEvent {
    /// The `info` dictionary; its SHA-1 is the info-hash.
    Complete(Vec<u8>),
    /// Avoid this address: it gave false metadata.
    Ban(IpAddr),
    /// End the connection, then call [`Fetching::gone`].
    Close(PeerKey, PeerFault),
    /// A peer told of others (BEP 11).
    Peers(Vec<SocketAddr>),
    /// The peer at the first address says that ours is the second one.
    OwnAddress(IpAddr, IpAddr),
}

#[derive(Debug)]
struct Peer {
    info: PeerInfo,
    connected: Instant,
    last_sent: Instant,
    hello: Option<ExtensionHandshake>,
    gate: Gate,
    out: Vec<u8>,
    /// What it said, for the torrent; `None`: too much.
    kept: Option<Vec<u8>>,
    strikes: u32,
    /// It gave a piece.
    useful: bool,
}

impl Peer {
    fn strike(&mut self) -> Result<(), PeerFault> {
        self.strikes += 1;
        if self.strikes > MAX_STRIKES { Err(PeerFault::TooMuchWaste) } else { Ok(()) }
    }

    fn keep(&mut self, message: &Message<'_>) {
        if let Some(kept) = &mut self.kept {
            message.encode(kept);
            if kept.len() > MAX_KEPT {
                self.kept = None;
            }
        }
    }

    fn metadata_id(&self) -> Option<u8> {
        self.hello.as_ref()?.id_of(metadata::NAME)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Fetching {
    info_hash: InfoHash,
    our_id: PeerId,
    listen_port: u16,
    pex: bool,
    fetch: Fetch,
    peers: BTreeMap<PeerKey, Peer>,
    next_key: u32,
    events: VecDeque<FetchingEvent>,
    dirty: Vec<PeerKey>,
}

impl Fetching {
    /// Of `info_hash`, by somebody who listens on `listen_port` (0 = nowhere), and to what peers tell of others with `pex`.
    pub fn new(info_hash: InfoHash, our_id: PeerId, listen_port: u16, pex: bool) -> Self {
        Self {
            info_hash,
            our_id,
            listen_port,
            pex,
            fetch: Fetch::new(info_hash),
            peers: BTreeMap::new(),
            next_key: 0,
            events: VecDeque::new(),
            dirty: Vec::new(),
        }
    }

    /// The torrent.
    pub fn info_hash(&self) -> InfoHash {
        self.info_hash
    }

    /// How far it is.
    pub fn progress(&self) -> FetchProgress {
        self.fetch.progress()
    }

    /// What went wrong so far.
    pub fn trouble(&self) -> FetchTrouble {
        self.fetch.trouble()
    }

    /// The extended handshake of a peer, once it came.
    pub fn said_by(&self, key: PeerKey) -> Option<&ExtensionHandshake> {
        self.peers.get(&key)?.hello.as_ref()
    }

    /// Connections through their handshake.
    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// Whether a connection with this peer id exists, or it is our own id: a second one is refused.
    pub fn has_id(&self, id: PeerId) -> bool {
        id == self.our_id || self.peers.values().any(|peer| peer.info.id == id)
    }

    /// The next thing to do; `None` when all is told.
    pub fn poll_event(&mut self) -> Option<FetchingEvent> {
        self.events.pop_front()
    }

    /// The peers that have something to send since the last call.
    pub fn take_dirty(&mut self) -> Vec<PeerKey> {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        dirty.dedup();
        dirty.retain(|key| self.peers.contains_key(key));
        dirty
    }

    /// Bytes waiting to be sent; the caller takes them all.
    pub fn out(&mut self, now: Instant, key: PeerKey) -> Vec<u8> {
        let Some(peer) = self.peers.get_mut(&key) else { return Vec::new() };
        if !peer.out.is_empty() {
            peer.last_sent = now;
        }
        std::mem::take(&mut peer.out)
    }

    /// A connection is through its handshake.
    pub fn connected(&mut self, now: Instant, info: PeerInfo) -> PeerKey {
        let key = PeerKey(self.next_key);
        self.next_key = self.next_key.wrapping_add(1);
        let mut out = Vec::new();
        if info.reserved.fast() {
            Message::HaveNone.encode(&mut out);
        }
        if info.reserved.extension() {
            let hello = self.hello(info.addr.ip());
            Message::Extended { id: 0, payload: &hello.encode() }.encode(&mut out);
        } else {
            self.events.push_back(FetchingEvent::Close(key, PeerFault::NoMetadata));
        }
        let peer = Peer {
            info,
            connected: now,
            last_sent: now,
            hello: None,
            gate: Gate::new(now),
            out,
            kept: Some(Vec::new()),
            strikes: 0,
            useful: false,
        };
        self.peers.insert(key, peer);
        self.dirty.push(key);
        key
    }

    /// The port that peers are told of in handshakes to come.
    pub fn set_listen_port(&mut self, port: u16) {
        self.listen_port = port;
    }

    fn hello(&self, your_ip: IpAddr) -> ExtensionHandshake {
        let mut messages =
            vec![(metadata::NAME.to_owned(), UT_METADATA), (LT_DONTHAVE_NAME.to_owned(), LT_DONTHAVE)];
        messages.extend(self.pex.then(|| (pex::NAME.to_owned(), UT_PEX)));
        ExtensionHandshake {
            client: Some(concat!("ccbt-fast/", env!("CARGO_PKG_VERSION")).into()),
            port: (self.listen_port != 0).then_some(self.listen_port),
            your_ip: Some(your_ip),
            messages,
            ..ExtensionHandshake::default()
        }
    }

    /// Takes in one message. An error ends the connection: the caller closes it and calls [`Fetching::gone`].
    pub fn message(&mut self, now: Instant, key: PeerKey, message: Message<'_>) -> Result<(), PeerFault> {
        self.hear(now, key, message)?;
        let waiting = self.peers.get(&key).map_or(0, |peer| peer.out.len());
        if waiting > MAX_UNREAD { Err(PeerFault::Unread) } else { Ok(()) }
    }

    fn hear(&mut self, now: Instant, key: PeerKey, message: Message<'_>) -> Result<(), PeerFault> {
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        match message {
            Message::KeepAlive => Ok(()),
            Message::Extended { id: 0, payload } => {
                peer.keep(&message);
                self.on_hello(now, key, payload)
            }
            Message::Extended { id: UT_METADATA, payload } => self.on_metadata(now, key, payload),
            Message::Extended { id: UT_PEX, payload } if self.pex => {
                let Ok(message) = PexMessage::parse(payload) else { return peer.strike() };
                match peer.gate.pass(now, peer.info.addr.ip(), &message) {
                    Some(peers) if peers.is_empty() || self.events.len() >= MAX_WAITING => Ok(()),
                    Some(peers) => {
                        self.events.push_back(FetchingEvent::Peers(peers));
                        Ok(())
                    }
                    None => peer.strike(),
                }
            }
            // Takes back what was said before, so it has to be kept with it.
            Message::Extended { id: LT_DONTHAVE, .. } => {
                peer.keep(&message);
                Ok(())
            }
            // We have nothing to give, and have said so.
            Message::Request(_) | Message::Extended { .. } | Message::Unknown { .. } => peer.strike(),
            message => {
                peer.keep(&message);
                Ok(())
            }
        }
    }

    /// The header of a PIECE message came: nobody asked for it.
    pub fn block(&mut self, key: PeerKey) -> Result<(), PeerFault> {
        self.peers.get_mut(&key).map_or(Ok(()), Peer::strike)
    }

    fn on_hello(&mut self, now: Instant, key: PeerKey, payload: &[u8]) -> Result<(), PeerFault> {
        let peer = self.peers.get_mut(&key).expect("looked up by the caller");
        let Ok(hello) = ExtensionHandshake::parse(payload) else { return peer.strike() };
        let (ip, size) = (peer.info.addr.ip(), hello.metadata_size);
        if let (Some(ours), true) = (hello.your_ip, self.events.len() < MAX_WAITING) {
            self.events.push_back(FetchingEvent::OwnAddress(ip, ours));
        }
        let offers = hello.id_of(metadata::NAME).and(size);
        let may_tell = self.pex && hello.id_of(pex::NAME).is_some();
        peer.hello = Some(hello);
        match offers {
            Some(size) => self.fetch.add_peer(now, key, ip, size)?,
            None if may_tell => self.fetch.remove_peer(now, key),
            None => return Err(PeerFault::NoMetadata),
        }
        self.ask(now);
        Ok(())
    }

    fn on_metadata(&mut self, now: Instant, key: PeerKey, payload: &[u8]) -> Result<(), PeerFault> {
        let peer = self.peers.get_mut(&key).expect("looked up by the caller");
        match MetadataMessage::parse(payload) {
            Err(_) => return peer.strike(),
            Ok(MetadataMessage::Unknown) => {}
            Ok(MetadataMessage::Request(piece)) => {
                peer.strike()?;
                if let Some(id) = peer.metadata_id() {
                    let reject = MetadataMessage::Reject(piece).encode();
                    Message::Extended { id, payload: &reject }.encode(&mut peer.out);
                    self.dirty.push(key);
                }
            }
            Ok(MetadataMessage::Reject(piece)) => self.fetch.on_reject(now, key, piece),
            Ok(MetadataMessage::Data { piece, total_size, bytes }) => {
                self.fetch.on_data(now, key, piece, total_size, bytes)?;
                peer.useful = true;
            }
        }
        self.ask(now);
        Ok(())
    }

    /// Takes what the fetch says, and sends its requests.
    fn ask(&mut self, now: Instant) {
        while let Some(event) = self.fetch.poll_event() {
            let event = match event {
                FetchEvent::Complete(info) => FetchingEvent::Complete(info),
                FetchEvent::Liar(ip) => FetchingEvent::Ban(ip),
                FetchEvent::Useless(key) => FetchingEvent::Close(key, PeerFault::NoMetadata),
            };
            self.events.push_back(event);
        }
        while let Some((key, piece)) = self.fetch.poll_request(now) {
            let peer = self.peers.get_mut(&key).expect("the fetch knows peers that are connected");
            let Some(id) = peer.metadata_id() else { continue };
            let request = MetadataMessage::Request(piece).encode();
            Message::Extended { id, payload: &request }.encode(&mut peer.out);
            self.dirty.push(key);
        }
    }

    /// To be called once a second.
    pub fn tick(&mut self, now: Instant) {
        self.fetch.tick(now);
        for (key, peer) in &mut self.peers {
            let age = now.saturating_duration_since(peer.connected);
            let offers = peer.hello.as_ref().map(|hello| hello.metadata_size.is_some());
            let is_late = match offers {
                None => age >= HELLO_TIME,
                Some(false) => age >= HEARSAY_TIME,
                Some(true) => false,
            };
            if is_late {
                self.events.push_back(FetchingEvent::Close(*key, PeerFault::NoMetadata));
            }
            if peer.out.is_empty() && now.saturating_duration_since(peer.last_sent) >= KEEP_ALIVE {
                Message::KeepAlive.encode(&mut peer.out);
                self.dirty.push(*key);
            }
        }
        self.ask(now);
    }

    /// The connection is over. Returns whether it gave metadata.
    pub fn gone(&mut self, now: Instant, key: PeerKey) -> bool {
        self.fetch.remove_peer(now, key);
        let useful = self.peers.remove(&key).is_some_and(|peer| peer.useful);
        self.ask(now);
        useful
    }

    /// A peer, for the torrent: who it is, and what it has said so far, as it came. `None`: it said too much to be kept,
    /// and is to be dialled again.
    pub fn take(&mut self, key: PeerKey) -> Option<(PeerInfo, Vec<u8>)> {
        let peer = self.peers.remove(&key)?;
        Some((peer.info, peer.kept?))
    }
}

#[cfg(test)]
#[path = "fetching_tests.rs"]
mod tests;

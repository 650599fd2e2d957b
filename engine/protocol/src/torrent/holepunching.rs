//! Peers behind NATs and those who bring them together (BEP 55): as relay, as who asks for one, and as who is asked for.
//!
//! A peer that cannot be reached is asked for at whoever told of it, once. A relay, which may know the peers of other parts
//! of the torrent too, has both ends dial each other over uTP
//! at the same time, each from the port that the relay sees, so that either NAT takes what the other one sends.

use std::net::SocketAddr;
use std::time::Instant;

use super::extensions::{MAX_WAITING, listens_at};
use super::{Torrent, TorrentEvent, peer_of};
use crate::holepunch::{Gate, HolepunchError, HolepunchMessage, Introductions, Rendezvous};
use crate::peer::{Peer, PeerFault};
use crate::pex::is_plausible;
use crate::picker::PeerKey;
use crate::wire::message::Message;

/// State of the extension for one peer.
#[derive(Debug)]
pub(super) struct Punch {
    /// Its id for our messages; `None`: it does not understand them.
    pub id: Option<u8>,
    /// What it says, and what others have us tell it.
    says: Gate,
    hears: Gate,
}

impl Punch {
    pub fn new(now: Instant) -> Self {
        Self { id: None, says: Gate::new(now), hears: Gate::new(now) }
    }
}

impl Torrent {
    /// ut_holepunch is spoken from now on, before the first peer; not where peers are not to be told of each other.
    pub fn enable_holepunch(&mut self) {
        if self.pex.is_some() {
            self.punch = Some(Introductions::default());
        }
    }

    /// The peer is connected over uTP.
    pub fn over_utp(&mut self, key: PeerKey) {
        self.peer_mut(key).utp = true;
    }

    /// `addr` cannot be reached: asks the peer that told of it to help. `false`: there is none. [`TorrentEvent::Punch`]
    /// follows if it does.
    pub fn rendezvous(&mut self, addr: SocketAddr) -> bool {
        let Some(relay) = self.punch.as_mut().and_then(|known| known.take(addr)) else { return false };
        self.get(relay).is_some() && self.tell_punch(relay, HolepunchMessage::Rendezvous(addr))
    }

    /// Sends `message`; `false`: the peer does not understand it.
    fn tell_punch(&mut self, key: PeerKey, message: HolepunchMessage) -> bool {
        let peer = peer_of(&mut self.slots, key);
        let Some(id) = peer.gossip.as_ref().and_then(|gossip| gossip.punch.id) else { return false };
        peer.push(&Message::Extended { id, payload: &message.encode() });
        self.mark(key);
        true
    }

    pub(super) fn on_holepunch_message(
        &mut self,
        now: Instant,
        key: PeerKey,
        payload: &[u8],
    ) -> Result<(), PeerFault> {
        let peer = peer_of(&mut self.slots, key);
        let teller = peer.info.addr.ip();
        let Ok(message) = HolepunchMessage::parse(payload) else { return peer.strike() };
        let speaks = peer.gossip.as_mut().filter(|gossip| gossip.punch.id.is_some());
        if !speaks.is_some_and(|gossip| gossip.punch.says.pass(now)) {
            return peer.strike();
        }
        match message {
            HolepunchMessage::Rendezvous(target) => self.on_rendezvous(now, key, target),
            HolepunchMessage::Connect(addr) if !is_plausible(teller, addr) => return peer.strike(),
            HolepunchMessage::Connect(addr) => {
                if self.events.len() < MAX_WAITING {
                    self.events.push_back(TorrentEvent::Punch(addr));
                }
            }
            HolepunchMessage::Error(..) => {}
        }
        Ok(())
    }

    /// The peer wants to meet `target`: it is told what comes of that, now or by [`Self::relayed`].
    fn on_rendezvous(&mut self, now: Instant, key: PeerKey, target: SocketAddr) {
        let peer = self.peer(key);
        let asked = Rendezvous { asker: peer.info.addr, seen_at: seen_at(peer), target };
        let answer = if target.port() == 0 || target.ip().is_unspecified() {
            asked.refused(HolepunchError::NoSuchPeer)
        } else if is_at(peer, target) {
            asked.refused(HolepunchError::NoSelf)
        } else if let Some(answer) = self.relay(now, &asked) {
            answer
        } else if self.events.len() < MAX_WAITING {
            return self.events.push_back(TorrentEvent::Relay(asked));
        } else {
            asked.refused(HolepunchError::NotConnected)
        };
        self.tell_punch(key, answer);
    }

    /// A peer of ours, or of another part of the torrent, wants to meet somebody. What it is to be told; `None`: no peer
    /// of this part is whom it wants.
    pub fn relay(&mut self, now: Instant, asked: &Rendezvous) -> Option<HolepunchMessage> {
        let other = self.peer_keys().find(|key| is_at(self.peer(*key), asked.target))?;
        let peer = peer_of(&mut self.slots, other);
        let met = seen_at(peer);
        let Some(gossip) = peer.gossip.as_mut().filter(|gossip| gossip.punch.id.is_some()) else {
            return Some(asked.refused(HolepunchError::NoSupport));
        };
        if !gossip.punch.hears.pass(now) {
            // It has heard enough for now; there is no error for that.
            return Some(asked.refused(HolepunchError::NotConnected));
        }
        self.tell_punch(other, HolepunchMessage::Connect(asked.seen_at));
        Some(HolepunchMessage::Connect(met))
    }

    /// What other parts say to [`TorrentEvent::Relay`] of the peer connected to us from `asker`, if it still is.
    pub fn relayed(&mut self, asker: SocketAddr, answer: HolepunchMessage) {
        let key = self.peer_keys().find(|key| self.peer(*key).info.addr == asker);
        if let Some(key) = key {
            self.tell_punch(key, answer);
        }
    }
}

/// Whether the peer is who others know by `addr`.
fn is_at(peer: &Peer, addr: SocketAddr) -> bool {
    peer.info.addr == addr || listens_at(peer) == Some(addr)
}

/// The address behind which a peer waits for uTP, as far as we can know: that of its uTP connection is as its NAT made it.
fn seen_at(peer: &Peer) -> SocketAddr {
    if peer.utp { peer.info.addr } else { listens_at(peer).unwrap_or(peer.info.addr) }
}

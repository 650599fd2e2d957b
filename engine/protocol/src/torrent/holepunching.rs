//! Peers behind NATs and those who bring them together (BEP 55): as relay, as who asks for one, and as who is asked for.
//!
//! A peer that cannot be reached is asked for at whoever told of it, once. A relay has both ends dial each other over uTP
//! at the same time, each from the port that the relay sees, so that either NAT takes what the other one sends.

use std::net::SocketAddr;
use std::time::Instant;

use super::extensions::{MAX_WAITING, listens_at};
use super::{Torrent, TorrentEvent, key_index, peer_of};
use crate::holepunch::{Gate, HolepunchError, HolepunchMessage, Introductions};
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
            HolepunchMessage::Rendezvous(target) => {
                let answer = self.relay(now, key, target);
                self.tell_punch(key, answer);
            }
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

    /// `from` wants to meet `target`; what it is told.
    fn relay(&mut self, now: Instant, from: PeerKey, target: SocketAddr) -> HolepunchMessage {
        let no = |error| HolepunchMessage::Error(target, error);
        if target.port() == 0 || target.ip().is_unspecified() {
            return no(HolepunchError::NoSuchPeer);
        }
        let is_it = |peer: &Peer| peer.info.addr == target || listens_at(peer) == Some(target);
        let Some(other) = self.peer_keys().find(|key| is_it(self.peer(*key))) else {
            return no(HolepunchError::NotConnected);
        };
        if key_index(other) == key_index(from) {
            return no(HolepunchError::NoSelf);
        }
        let asker = seen_at(self.peer(from));
        let peer = peer_of(&mut self.slots, other);
        let met = seen_at(peer);
        let Some(gossip) = peer.gossip.as_mut().filter(|gossip| gossip.punch.id.is_some()) else {
            return no(HolepunchError::NoSupport);
        };
        if !gossip.punch.hears.pass(now) {
            // It has heard enough for now; there is no error for that.
            return no(HolepunchError::NotConnected);
        }
        self.tell_punch(other, HolepunchMessage::Connect(asker));
        HolepunchMessage::Connect(met)
    }
}

/// The address behind which a peer waits for uTP, as far as we can know: that of its uTP connection is as its NAT made it.
fn seen_at(peer: &Peer) -> SocketAddr {
    if peer.utp { peer.info.addr } else { listens_at(peer).unwrap_or(peer.info.addr) }
}

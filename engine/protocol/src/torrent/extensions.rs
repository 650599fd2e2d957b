//! What is exchanged by extension messages (BEP 10): metadata for those who lack it (BEP 9), and peers (BEP 11).
//!
//! Both cost a peer that does not use them nothing. Metadata is copied piece by piece from the torrent's own bytes, when
//! the peer's earlier bytes have left. Peers are told when the tick looks at a peer, which it does when there is news.

use std::net::SocketAddr;
use std::time::Instant;

use super::holepunching::Punch;
use super::{Torrent, TorrentEvent, key_index, peer_of};
use crate::holepunch;
use crate::metadata::{self, MetadataMessage, PIECE_LEN, Served};
use crate::peer::{Peer, PeerFault};
use crate::pex::{self, Flags, Gate, PexMessage, Told};
use crate::picker::PeerKey;
use crate::wire::extension::{
    ExtensionHandshake, LT_DONTHAVE, LT_DONTHAVE_NAME, UT_HOLEPUNCH, UT_METADATA, UT_PEX,
};
use crate::wire::message::Message;

/// State of the extensions of one peer.
#[derive(Debug)]
pub(crate) struct Gossip {
    /// Its ids for our messages; `None`: it does not understand them.
    metadata_id: Option<u8>,
    pex_id: Option<u8>,
    /// From its first request on.
    served: Option<Served>,
    told: Told,
    gate: Gate,
    pub(super) punch: Punch,
}

impl Gossip {
    /// Appends the next piece of metadata that the peer asked for.
    pub(super) fn serve_metadata(&mut self, info: &[u8], out: &mut Vec<u8>) {
        let (Some(id), Some(served)) = (self.metadata_id, &mut self.served) else { return };
        let Some(piece) = served.pop() else { return };
        let start = piece as usize * PIECE_LEN as usize;
        let bytes = &info[start..info.len().min(start + PIECE_LEN as usize)];
        let data = MetadataMessage::Data { piece, total_size: Some(info.len() as u32), bytes };
        Message::Extended { id, payload: &data.encode() }.encode(out);
    }
}

impl Torrent {
    /// The extension messages that we understand, as the extended handshake tells them.
    pub(super) fn extensions(&self) -> Vec<(String, u8)> {
        let mut messages =
            vec![(LT_DONTHAVE_NAME.to_owned(), LT_DONTHAVE), (metadata::NAME.to_owned(), UT_METADATA)];
        if self.pex.is_some() {
            messages.push((pex::NAME.to_owned(), UT_PEX));
        }
        if self.punch.is_some() {
            messages.push((holepunch::NAME.to_owned(), UT_HOLEPUNCH));
        }
        messages
    }

    pub(super) fn on_extended_handshake(
        &mut self,
        now: Instant,
        key: PeerKey,
        payload: &[u8],
    ) -> Result<(), PeerFault> {
        let peer = peer_of(&mut self.slots, key);
        let Ok(hello) = ExtensionHandshake::parse(payload) else { return peer.strike() };
        if let Some(reqq) = hello.reqq {
            peer.window.set_peer_limit(reqq as usize);
        }
        peer.upload_only = hello.upload_only;
        if let Some(ours) = hello.your_ip {
            let told = TorrentEvent::OwnAddress(peer.info.addr.ip(), ours);
            if self.events.len() < MAX_WAITING {
                self.events.push_back(told);
            }
        }
        let (metadata_id, pex_id) = (hello.id_of(metadata::NAME), hello.id_of(pex::NAME));
        let punch_id = hello.id_of(holepunch::NAME);
        if metadata_id.or(pex_id).or(punch_id).is_some() || peer.gossip.is_some() {
            let new = || Gossip {
                metadata_id: None,
                pex_id: None,
                served: None,
                told: Told::default(),
                gate: Gate::new(now),
                punch: Punch::new(now),
            };
            let gossip = peer.gossip.get_or_insert_with(|| Box::new(new()));
            (gossip.metadata_id, gossip.pex_id, gossip.punch.id) = (metadata_id, pex_id, punch_id);
        }
        let before = listens_at(peer);
        peer.extension = Some(hello);
        self.disclaim_earlier(key);
        self.update_interest(key);
        self.list(now, key, before);
        Ok(())
    }

    pub(super) fn on_extension(
        &mut self,
        now: Instant,
        key: PeerKey,
        id: u8,
        payload: &[u8],
    ) -> Result<(), PeerFault> {
        match id {
            UT_METADATA => self.on_metadata_message(now, key, payload),
            LT_DONTHAVE => self.on_dont_have(now, key, payload),
            UT_HOLEPUNCH if self.punch.is_some() => self.on_holepunch_message(now, key, payload),
            UT_PEX if self.pex.is_some() => self.on_pex_message(now, key, payload),
            _ => peer_of(&mut self.slots, key).strike(),
        }
    }

    fn on_metadata_message(&mut self, now: Instant, key: PeerKey, payload: &[u8]) -> Result<(), PeerFault> {
        let peer = peer_of(&mut self.slots, key);
        let piece = match MetadataMessage::parse(payload) {
            Ok(MetadataMessage::Request(piece)) => piece,
            Ok(MetadataMessage::Unknown) => return Ok(()),
            // We have the metadata, and ask for none; but what was asked for before may still come.
            Ok(MetadataMessage::Data { .. } | MetadataMessage::Reject(_)) | Err(_) => return peer.strike(),
        };
        let pieces = self.config.metadata.as_ref().map_or(0, |info| metadata::piece_count(info.len() as u32));
        let Some(gossip) = peer.gossip.as_mut() else { return peer.strike() };
        let Some(theirs) = gossip.metadata_id else { return peer.strike() };
        let served = gossip.served.get_or_insert_with(|| Served::new(now, pieces));
        if piece >= pieces || !served.request(now, piece) {
            peer.strike()?;
            peer.push(&Message::Extended { id: theirs, payload: &MetadataMessage::Reject(piece).encode() });
        }
        self.mark(key);
        Ok(())
    }

    // ---- peers

    fn on_pex_message(&mut self, now: Instant, key: PeerKey, payload: &[u8]) -> Result<(), PeerFault> {
        let peer = peer_of(&mut self.slots, key);
        let Ok(message) = PexMessage::parse(payload) else { return peer.strike() };
        let Some(gossip) = peer.gossip.as_mut() else { return peer.strike() };
        let Some(peers) = gossip.gate.pass(now, peer.info.addr.ip(), &message) else { return peer.strike() };
        if let (Some(punch), true) = (&mut self.punch, gossip.punch.id.is_some()) {
            peers.iter().for_each(|addr| punch.told(key, *addr));
        }
        if !peers.is_empty() && self.events.len() < MAX_WAITING {
            self.events.push_back(TorrentEvent::Peers(peers));
        }
        Ok(())
    }

    /// Notes where a peer listens, now that it is known; `before`: where it was thought to.
    pub(super) fn list(&mut self, now: Instant, key: PeerKey, before: Option<SocketAddr>) {
        let Some(book) = &mut self.pex else { return };
        let peer = peer_of(&mut self.slots, key);
        let addr = listens_at(peer);
        if before != addr
            && let Some(before) = before
        {
            book.left(before);
        }
        let is_new = addr.is_some_and(|addr| book.joined(addr, flags(peer)));
        if is_new || peer.gossip.is_some() {
            self.due.at_most(key_index(key), now);
        }
        if is_new {
            self.schedule_telling(now);
        }
    }

    /// The peer goes.
    pub(super) fn unlist(&mut self, key: PeerKey) {
        let Some(book) = &mut self.pex else { return };
        if let Some(addr) = listens_at(peer_of(&mut self.slots, key)) {
            book.left(addr);
        }
    }

    /// There is news: everybody who understands it is looked at when it may be told.
    fn schedule_telling(&mut self, now: Instant) {
        for (at, slot) in self.slots.iter().enumerate() {
            let gossip = slot.peer.as_ref().and_then(|peer| peer.gossip.as_ref());
            if let Some(gossip) = gossip.filter(|gossip| gossip.pex_id.is_some()) {
                self.due.at_most(at, gossip.told.next(now));
            }
        }
    }

    /// Tells a peer who came and went, when there is news for it and a minute is over.
    pub(super) fn tell_peers(&mut self, now: Instant, key: PeerKey) {
        let Some(book) = &mut self.pex else { return };
        let peer = peer_of(&mut self.slots, key);
        let own = listens_at(peer);
        if let Some(own) = own {
            // Whether it is a seed may be known by now.
            book.joined(own, flags(peer));
        }
        let Some(gossip) = &mut peer.gossip else { return };
        let Some(id) = gossip.pex_id else { return };
        if let Some(message) = book.message(now, &mut gossip.told, own) {
            peer.push(&Message::Extended { id, payload: &message.encode() });
            self.mark(key);
        }
    }

    /// When a peer is to be told of others; `None`: there is no news for it.
    pub(super) fn next_telling(&self, now: Instant, peer: &Peer) -> Option<Instant> {
        let (book, gossip) = (self.pex.as_ref()?, peer.gossip.as_ref()?);
        (gossip.pex_id.is_some() && book.has_news(&gossip.told)).then(|| gossip.told.next(now))
    }
}

/// Events of hearsay that may wait: the caller takes them after every receive.
pub(super) const MAX_WAITING: usize = 1024;

/// Where others can reach a peer: the address that we connected to, or the port that it names.
pub(super) fn listens_at(peer: &Peer) -> Option<SocketAddr> {
    if !peer.info.incoming {
        return Some(peer.info.addr);
    }
    let port = peer.extension.as_ref()?.port?;
    Some(SocketAddr::new(peer.info.addr.ip(), port))
}

fn flags(peer: &Peer) -> Flags {
    let is_seed = peer.is_seed() || peer.upload_only;
    let punches = peer.gossip.as_ref().is_some_and(|gossip| gossip.punch.id.is_some());
    Flags::default()
        .with(Flags::SEED, is_seed)
        .with(Flags::UTP, peer.utp)
        .with(Flags::HOLEPUNCH, punches)
        .with(Flags::REACHABLE, !peer.info.incoming)
}

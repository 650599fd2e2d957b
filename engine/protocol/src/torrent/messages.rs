//! What peers say, PIECE apart.

use std::net::SocketAddr;
use std::time::Instant;

use super::tick::CHOKE_ROUND;
use super::{Torrent, TorrentEvent, key_index, peer_of};
use crate::bitfield::Bitfield;
use crate::geometry::Block;
use crate::ids::PieceIndex;
use crate::peer::{Has, MAX_UNREAD, PeerFault};
use crate::picker::PeerKey;
use crate::wire::message::Message;

/// Longest message of an extension, in bytes: 16 KiB of metadata (BEP 9) with its dictionary, or some hundred peers
/// (BEP 11). Connections keep what they have of an unfinished message, so this times their number is memory.
const EXTENSION_LEN_MAX: u32 = 32 << 10;
/// Bytes of a HAVE.
const HAVE_LEN: usize = 9;

impl Torrent {
    /// Takes in one message. An error ends the connection: the caller closes it and calls [`Torrent::gone`].
    pub fn message(&mut self, now: Instant, key: PeerKey, message: Message<'_>) -> Result<(), PeerFault> {
        let peer = peer_of(&mut self.slots, key);
        peer.last_received = now;
        let mut first = false;
        if matches!(message, Message::Have(_) | Message::Bitfield(_) | Message::HaveAll | Message::HaveNone) {
            first = std::mem::replace(&mut peer.may_bitfield, false);
        }
        if is_fast(&message) && !peer.fast() {
            return Err(PeerFault::FastNotNegotiated);
        }
        if !matches!(message, Message::KeepAlive) {
            self.due.at_most(key_index(key), now);
        }
        let heard = match message {
            Message::Have(piece) => Some(Some(piece)),
            Message::Bitfield(_) | Message::HaveAll | Message::HaveNone => Some(None),
            _ => None,
        };
        let result = match message {
            Message::KeepAlive => Ok(()),
            Message::Port(port) => self.on_port(key, port),
            Message::HaveNone if first => Ok(()),
            Message::HaveNone => Err(PeerFault::LateBitfield),
            Message::Choke => self.on_choke(key),
            Message::Unchoke => {
                peer.peer_choking = false;
                self.mark(key);
                Ok(())
            }
            Message::Interested => {
                peer.peer_interested = true;
                self.choker_rests = false;
                // Looked at in the next tick or sooner, so that a newcomer need not wait for the regular round. Not more
                // often than those, or a peer that changes its mind all the time would keep us busy.
                let recent = |at: Instant| now.saturating_duration_since(at) < CHOKE_ROUND;
                if peer.am_choking && !peer.early_round.is_some_and(recent) {
                    peer.early_round = Some(now);
                    self.choke_due = None;
                }
                self.mark(key);
                Ok(())
            }
            Message::NotInterested => {
                peer.peer_interested = false;
                Ok(())
            }
            Message::Have(piece) => self.on_have(key, piece),
            Message::Bitfield(bytes) => self.on_bitfield(key, bytes, first),
            Message::HaveAll => {
                self.becomes_seed(key);
                self.update_interest(key);
                Ok(())
            }
            Message::Request(block) => self.on_request(key, block),
            Message::Cancel(block) => self.on_cancel(key, block),
            Message::Reject(block) => self.on_reject(key, block),
            Message::Suggest(piece) | Message::AllowedFast(piece) => {
                check_piece(self.geometry, piece)?;
                let allowed = matches!(message, Message::AllowedFast(_));
                let known = peer.hint(allowed, piece, self.geometry.piece_count());
                self.mark(key);
                known
            }
            Message::Extended { id: 0, payload } => self.on_extended_handshake(now, key, payload),
            Message::Extended { id, payload } => self.on_extension(now, key, id, payload),
            Message::Unknown { .. } => peer.strike(),
            Message::Piece { .. } => unreachable!("blocks come through begin_block"),
        };
        if let (Ok(()), Some(piece)) = (&result, heard) {
            self.super_seed_heard(key, piece);
        }
        result.and_then(|()| self.check_unread(key))
    }

    /// Longest message but PIECE that a peer may send, in bytes: a bitfield, or an extension's.
    pub fn message_len_max(&self) -> u32 {
        EXTENSION_LEN_MAX.max(1 + self.geometry.piece_count().div_ceil(8))
    }

    /// Whoever makes us answer has to read: otherwise a few bytes of its own would cost us memory again and again. What
    /// we say of our own accord, a bitfield and a HAVE for each piece, is not its fault.
    fn check_unread(&mut self, key: PeerKey) -> Result<(), PeerFault> {
        let ours = HAVE_LEN * self.geometry.piece_count() as usize;
        let waiting = peer_of(&mut self.slots, key).out.len();
        if waiting > MAX_UNREAD + ours { Err(PeerFault::Unread) } else { Ok(()) }
    }

    /// Heard where we have a node of our own, and once: the port of a node does not change.
    fn on_port(&mut self, key: PeerKey, port: u16) -> Result<(), PeerFault> {
        let peer = peer_of(&mut self.slots, key);
        if std::mem::replace(&mut peer.told_port, true) {
            return peer.strike();
        }
        if self.config.dht_port != 0 && port != 0 {
            let addr = SocketAddr::new(peer.info.addr.ip(), port);
            self.events.push_back(TorrentEvent::DhtNode(addr));
        }
        Ok(())
    }

    fn on_choke(&mut self, key: PeerKey) -> Result<(), PeerFault> {
        let peer = peer_of(&mut self.slots, key);
        peer.peer_choking = true;
        if peer.fast() {
            // Every request will be answered, with a block or a reject (BEP 6).
            return Ok(());
        }
        let dropped = std::mem::take(&mut peer.outstanding);
        // What was on the way may still come. No receive is under way now: these messages came with one.
        peer.expect_late(dropped.len());
        for request in &dropped {
            self.picker.request_failed(key, request.block);
        }
        if !dropped.is_empty() {
            self.wake_idle();
        }
        Ok(())
    }

    fn on_have(&mut self, key: PeerKey, piece: PieceIndex) -> Result<(), PeerFault> {
        check_piece(self.geometry, piece)?;
        let peer = peer_of(&mut self.slots, key);
        let Has::Some(field) = &mut peer.has else { return peer.strike() };
        if !field.insert(piece) {
            return peer.strike();
        }
        self.picker.peer_have(piece);
        if field.is_full() {
            self.becomes_seed(key);
        }
        let peer = peer_of(&mut self.slots, key);
        if peer.am_interested {
            self.mark(key);
        } else {
            self.update_interest(key);
        }
        Ok(())
    }

    /// A bitfield comes first (BEP 3), but aria2 also sends one later in place of many HAVEs: one that only adds is an
    /// update, one that takes back what was said is a fault.
    fn on_bitfield(&mut self, key: PeerKey, bytes: &[u8], first: bool) -> Result<(), PeerFault> {
        let field = Bitfield::from_wire(bytes, self.geometry.piece_count())?;
        let peer = peer_of(&mut self.slots, key);
        let before = match &peer.has {
            Has::All if field.is_full() => return peer.strike(),
            Has::All => return Err(PeerFault::LateBitfield),
            Has::Some(before) if before.has_any_not_in(&field) => return Err(PeerFault::LateBitfield),
            Has::Some(before) => before,
        };
        if before.count() == field.count() && !first {
            return peer.strike();
        }
        if field.is_full() {
            self.becomes_seed(key);
        } else {
            self.picker.peer_bitfield_removed(before);
            self.picker.peer_bitfield_added(&field);
            peer.has = Has::Some(field);
        }
        self.update_interest(key);
        self.mark(key);
        Ok(())
    }

    fn becomes_seed(&mut self, key: PeerKey) {
        let peer = peer_of(&mut self.slots, key);
        if let Has::Some(field) = std::mem::replace(&mut peer.has, Has::All) {
            self.picker.peer_bitfield_removed(&field);
            self.picker.seed_added();
        }
    }

    /// Tells the peer whether we want something of it, when that changed.
    pub(super) fn update_interest(&mut self, key: PeerKey) {
        let peer = peer_of(&mut self.slots, key);
        let interesting = self.picker.is_interesting(&peer.peer_has());
        if interesting != peer.am_interested {
            peer.am_interested = interesting;
            peer.push(if interesting { &Message::Interested } else { &Message::NotInterested });
            self.mark(key);
        }
        let peer = peer_of(&mut self.slots, key);
        let idle = peer.outstanding.is_empty() && peer.uploads.is_empty();
        // Of a seed they would take their leave; a super-seed seems to have nothing, and is not told of what it showed.
        let has_finished = self.super_seed.is_some() && peer.upload_only && !peer.peer_interested;
        let wants_nothing = peer.is_seed() || has_finished;
        if idle && wants_nothing && self.picker.have().is_full() {
            self.fault(key, PeerFault::Done);
        }
    }

    fn on_request(&mut self, key: PeerKey, block: Block) -> Result<(), PeerFault> {
        if !self.geometry.allows(block) {
            return Err(PeerFault::NoSuchBlock(block));
        }
        let hidden = self.super_seed.as_ref().is_some_and(|state| !state.is_shown(key, block.piece));
        let have = self.picker.have().has(block.piece) && !hidden;
        let peer = peer_of(&mut self.slots, key);
        if !have {
            // With BEP 6 a race (a piece we just found damaged) is answered; without, there is no polite answer.
            peer.strike()?;
            return if peer.fast() {
                peer.reject(block);
                self.mark(key);
                Ok(())
            } else {
                Err(PeerFault::NotOurs(block.piece))
            };
        }
        if peer.am_choking && !peer.take_fast(block) {
            // Requests cross our CHOKE on the way, up to a whole queue of them.
            peer.overflow += 1;
            if peer.overflow as usize > 4 * crate::peer::MAX_UPLOAD_QUEUE {
                return Err(PeerFault::RequestFlood);
            }
            peer.reject(block);
        } else {
            peer.queue_upload(block)?;
        }
        self.mark(key);
        Ok(())
    }

    fn on_cancel(&mut self, key: PeerKey, block: Block) -> Result<(), PeerFault> {
        if !self.geometry.allows(block) {
            return Err(PeerFault::NoSuchBlock(block));
        }
        let peer = peer_of(&mut self.slots, key);
        if let Some(at) = peer.uploads.iter().position(|queued| *queued == block) {
            peer.uploads.remove(at);
            peer.reject(block);
            self.mark(key);
        }
        Ok(())
    }

    fn on_reject(&mut self, key: PeerKey, block: Block) -> Result<(), PeerFault> {
        if !self.geometry.allows(block) {
            return Err(PeerFault::NoSuchBlock(block));
        }
        let peer = peer_of(&mut self.slots, key);
        if peer.take_outstanding(block).is_none() {
            return peer.unrequested();
        }
        peer.rejected()?;
        // Served to the choked no longer: do not ask again and again.
        peer.allowed_in.retain(|piece| *piece != block.piece);
        self.picker.request_failed(key, block);
        self.judge_peer(key);
        self.wake_idle();
        Ok(())
    }
}

fn is_fast(message: &Message<'_>) -> bool {
    use Message::{AllowedFast, HaveAll, HaveNone, Reject, Suggest};
    matches!(message, Suggest(_) | HaveAll | HaveNone | Reject(_) | AllowedFast(_))
}

fn check_piece(geometry: crate::geometry::Geometry, piece: PieceIndex) -> Result<(), PeerFault> {
    if geometry.contains(piece) { Ok(()) } else { Err(PeerFault::NoSuchPiece(piece)) }
}

//! A connection's bytes: what was received goes to the torrent, what the torrent wants said goes out.
//!
//! Owner: the shard; called for every completion of a peer's receive or send. The only copy of a block's bytes in user
//! space is made for blocks that were received beside their place (endgame) or after a misprediction.

use std::io;
use std::time::Instant;

use ccbt_protocol::geometry::Block;
use ccbt_protocol::peer::PeerFault;
use ccbt_protocol::picker::PeerKey;
use ccbt_protocol::rate::Way;
use ccbt_protocol::torrent::{BlockPlace, Torrent, TorrentEvent};
use ccbt_protocol::wire::message::{Message, PIECE_HEADER_LEN};
use ccbt_protocol::wire::receiver::{Receiver, Sink};
use ccbt_storage::stats::LatencyStats;

use crate::conns::End;
use crate::ring::{SocketKey, was_cancelled};
use crate::shard::{Shard, Stage};
use crate::tapping::TracedSink;
use crate::torrents::{Aside, LivePieces, SlotSource};

/// Bytes of the parser of what was said to a magnet, and of a message to it at most.
const SAID_SCRATCH: usize = 64;
const SAID_MESSAGE_MAX: u32 = 1 << 20;

/// Takes what one peer sent.
pub(crate) struct PeerSink<'a> {
    torrent: &'a mut Torrent,
    live: &'a mut LivePieces,
    asides: &'a mut Vec<Aside>,
    peer: PeerKey,
    now: Instant,
    /// Of the block being received: its bytes so far when it is received beside its place.
    aside: &'a mut Option<Vec<u8>>,
    waits: &'a mut LatencyStats,
}

impl Sink for PeerSink<'_> {
    type Error = PeerFault;

    fn begin_block(&mut self, block: Block) -> Result<bool, PeerFault> {
        *self.aside = None;
        Ok(match self.torrent.begin_block(self.peer, block)? {
            BlockPlace::InPlace => true,
            BlockPlace::Aside => {
                *self.aside = Some(vec![0; block.len as usize]);
                true
            }
            BlockPlace::Discard => false,
        })
    }

    fn is_aside(&self, _block: Block) -> bool {
        self.aside.is_some()
    }

    fn write(&mut self, block: Block, offset: u32, bytes: &[u8]) {
        match self.aside.as_mut() {
            Some(aside) => aside[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes),
            None => {
                let piece = self.live.0.get_mut(&block.piece).expect("an accepted block has its place");
                piece.write((block.begin + offset) as usize, bytes);
            }
        }
    }

    fn placed(&self, block: Block, offset: u32, len: u32) -> &[u8] {
        let piece =
            self.live.0.get(&block.piece).expect("a piece lives as long as a receive may write to it");
        piece.read((block.begin + offset) as usize, len as usize)
    }

    fn end_block(&mut self, block: Block, accepted: bool) -> Result<(), PeerFault> {
        let aside = self.aside.take();
        if accepted && self.torrent.end_block(self.now, self.peer, block) {
            self.waits.record(self.torrent.block_wait());
            if let Some(bytes) = aside {
                self.asides.push(Aside { block, bytes, holder: None });
            }
        }
        Ok(())
    }

    fn message(&mut self, message: Message<'_>) -> Result<(), PeerFault> {
        self.torrent.message(self.now, self.peer, message)
    }
}

/// What a peer said.
pub(crate) enum Input<'a> {
    /// So many bytes arrived along the plan of the last receive.
    Received(usize),
    /// These came before there was a plan.
    Before(&'a [u8]),
    /// These were said to its magnet: the stream's own parser may be within a message that came later.
    Said(&'a [u8]),
}

impl Input<'_> {
    fn pass<S: Sink>(
        self,
        receiver: &mut Receiver,
        spill: &mut Vec<u8>,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        match self {
            Self::Received(n) => receiver.commit(n, spill, sink),
            Self::Before(bytes) => receiver.feed(bytes, sink),
            Self::Said(bytes) => Receiver::new(SAID_SCRATCH, SAID_MESSAGE_MAX).feed(bytes, sink),
        }
    }
}

impl Shard {
    pub(crate) fn on_received(&mut self, key: SocketKey, result: io::Result<usize>) {
        let Some(conn) = self.conn(key) else { return };
        let n = match result {
            Ok(0) => return self.end(key, End::Broken),
            Ok(n) => n,
            Err(error) if was_cancelled(&error) || error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return self.end(key, End::Broken),
        };
        let (reserved, home) = (conn.limits.take_reserved(), conn.home);
        if let (true, Some(index)) = (reserved > 0 || self.config.count_overhead, home) {
            self.settle_receive(key, index, reserved, n as u64);
        }
        let Some(conn) = self.conn(key) else { return };
        match conn.stage {
            Stage::Handshake(_) | Stage::Encrypting(_) | Stage::Proxied(_) if n == 0 => {
                self.ring.recv_plain(key)
            }
            Stage::Encrypting(_) => {
                let bytes = self.ring.plain_bytes(key, n).to_vec();
                self.on_mse_bytes(key, &bytes);
            }
            Stage::Proxied(_) => {
                let bytes = self.ring.plain_bytes(key, n).to_vec();
                self.on_proxy_bytes(key, &bytes);
            }
            Stage::Handshake(_) => {
                let bytes = self.ring.plain_bytes(key, n).to_vec();
                self.on_handshake_bytes(key, bytes);
            }
            Stage::Open(_) => self.on_peer_bytes(key, n),
            Stage::Fetching(_) => self.on_fetch_bytes(key, n),
            Stage::Connecting | Stage::Closing => {}
        }
    }

    /// Bytes arrived along the plan of the last receive.
    fn on_peer_bytes(&mut self, key: SocketKey, n: usize) {
        self.stats.received += n as u64;
        let Some((index, result)) = self.hear(key, Input::Received(n)) else {
            return;
        };
        if let Err(fault) = result {
            self.touch(index);
            return self.end(key, End::Fault(fault));
        }
        self.retire(key);
        self.touch(index);
        self.queue(key);
    }

    /// Bytes that came with the handshake.
    pub(crate) fn feed(&mut self, key: SocketKey, bytes: &[u8]) {
        let Some((_, result)) = self.hear(key, Input::Before(bytes)) else {
            return;
        };
        if let Err(fault) = result {
            self.end(key, End::Fault(fault));
        }
    }

    /// Takes in what a peer said. The torrent's index, and what came of it; `None`: the connection is not open.
    pub(crate) fn hear(
        &mut self,
        key: SocketKey,
        input: Input<'_>,
    ) -> Option<(usize, Result<(), PeerFault>)> {
        let conn = self.conns.get_mut(key.index())?.as_mut().filter(|conn| conn.socket == key)?;
        let (index, Stage::Open(peer)) = (conn.home?, &conn.stage) else { return None };
        let home = &mut self.homes[index];
        let mut sink = PeerSink {
            torrent: home.torrent.as_mut().expect("open connections belong to running torrents"),
            live: &mut home.live,
            asides: &mut home.asides,
            peer: *peer,
            now: self.now,
            aside: &mut conn.aside,
            waits: &mut self.stats.block_wait,
        };
        let receiver = self.ring.receiver(key);
        let result = match &mut conn.trace {
            None => input.pass(receiver, &mut self.spill, &mut sink),
            Some(trace) => input.pass(receiver, &mut self.spill, &mut TracedSink { sink, trace }),
        };
        Some((index, result))
    }

    /// A receive of `key` is over: blocks given up meanwhile can no longer be written by it.
    fn retire(&mut self, key: SocketKey) {
        let Some(conn) = self.conn(key) else { return };
        if conn.releases.is_empty() {
            return;
        }
        let releases = std::mem::take(&mut conn.releases);
        let (index, peer) = (conn.home.expect("open"), conn.peer.expect("open"));
        let torrent =
            self.homes[index].torrent.as_mut().expect("open connections belong to running torrents");
        for (block, release) in releases {
            self.ring.receiver(key).retract(block);
            if release {
                torrent.released(peer, block);
            }
        }
    }

    /// Copies blocks to their place that were received beside it, as far as no receive may write there any more.
    fn flush_asides(&mut self, index: usize) {
        let home = &mut self.homes[index];
        let (live, ring) = (&mut home.live.0, &self.ring);
        home.asides.retain_mut(|aside| {
            if aside.holder.is_some_and(|holder| ring.may_write(holder, aside.block)) {
                return true;
            }
            let piece = live.get_mut(&aside.block.piece).expect("a piece lives until it is complete");
            piece.write(aside.block.begin as usize, &aside.bytes);
            false
        });
    }

    /// `peer` need not send `block` any more. While its receive may still write there, nobody else must.
    fn retract(&mut self, index: usize, peer: PeerKey, block: Block, release: bool) {
        let home = &mut self.homes[index];
        let torrent = home.torrent.as_mut().expect("its own event");
        // A peer that closed meanwhile gave everything back.
        let Some(&key) = home.sockets.get(&peer) else { return };
        if self.ring.may_write(key, block) {
            self.ring.cancel_recv(key);
            for aside in home.asides.iter_mut().filter(|aside| aside.block == block) {
                aside.holder = Some(key);
            }
            let conn = self.conns[key.index()].as_mut().expect("listed sockets live");
            return conn.releases.push((block, release));
        }
        let conn = self.conns[key.index()].as_mut().expect("listed sockets live");
        if !self.ring.is_receiving(key) && !matches!(conn.stage, Stage::Closing) {
            self.ring.receiver(key).retract(block);
        }
        if release {
            torrent.released(peer, block);
        }
    }

    /// Does what the torrent wants done, and lets its peers ask for more.
    pub(crate) fn settle_home(&mut self, index: usize) {
        let Some(home) = self.homes.get_mut(index) else { return };
        home.touched = false;
        self.do_events(index);
        let home = &mut self.homes[index];
        if let Some(torrent) = &mut home.torrent {
            if torrent.wants_choke_round() {
                torrent.choke_round(self.now, &mut self.rng);
            }
            torrent.reveal(self.now, &mut self.rng);
            self.play(index);
            self.fill(index);
            self.feed_web(index);
        }
        self.do_events(index);
        self.continue_check(index);
        self.continue_restart(index);
        self.continue_relocation(index);
        self.continue_pause(index);
        self.settle_part(index);
        self.continue_end(index);
        if self.homes.contains(index) {
            self.schedule(index);
        }
    }

    fn do_events(&mut self, index: usize) {
        while let Some(event) = self.homes[index].torrent.as_mut().and_then(Torrent::poll_event) {
            match event {
                TorrentEvent::PieceComplete(piece) => self.homes[index].completing.push(piece),
                TorrentEvent::Retract { peer, block, release } => self.retract(index, peer, block, release),
                TorrentEvent::Close(peer, fault) => {
                    if let Some(&key) = self.homes[index].sockets.get(&peer) {
                        self.end(key, End::Fault(fault));
                    }
                }
                TorrentEvent::Ban(ip) => self.ban(index, ip, None),
                TorrentEvent::Peers(peers) => self.heard_of(index, peers),
                TorrentEvent::OwnAddress(teller, ours) => {
                    self.homes[index].candidates.told_own_address(teller, ours);
                }
                TorrentEvent::Punch(addr) => self.punch(index, addr),
                TorrentEvent::Relay(asked) => self.relay(index, asked),
                TorrentEvent::DhtNode(addr) => {
                    if let Some(discovery) = &self.discovery {
                        discovery.node(addr);
                    }
                }
                TorrentEvent::Finished => self.on_finished(index),
            }
        }
        // Retractions have named the receives that blocks received aside have to wait for; the others are copied now.
        self.flush_asides(index);
        self.hash_complete(index);
    }

    /// Lets every peer with news ask for more, and puts it on the work list.
    fn fill(&mut self, index: usize) {
        let home = &mut self.homes[index];
        let fetch = home.may_fetch();
        let behind = home.is_behind(self.now, self.partition.capacity());
        let torrent = home.torrent.as_mut().expect("checked by the caller");
        let mut dirty = std::mem::take(&mut self.dirty);
        torrent.take_dirty(&mut dirty);
        let mut slots = SlotSource {
            live: &mut home.live,
            partition: &mut self.partition,
            spec: &home.spec,
            padding: &home.meta.padding,
            geometry: home.meta.geometry,
            pieces: &mut self.pieces,
            behind,
            held_back: false,
            starved: false,
        };
        for peer in &dirty {
            let Some(key) = home.sockets.get(peer) else { continue };
            let conn = self.conns[key.index()].as_mut().expect("listed sockets live");
            if matches!(conn.stage, Stage::Closing) {
                continue;
            }
            if fetch {
                torrent.fill_requests(self.now, *peer, &mut slots, &mut self.rng);
            }
            if !std::mem::replace(&mut conn.queued, true) {
                self.work.push(*key);
            }
        }
        if slots.starved && !std::mem::replace(&mut home.starved, true) {
            self.starved.push(index);
        }
        if slots.held_back {
            self.wait_for_backlog(index);
        }
        self.dirty = dirty;
    }

    /// Starts the next receive and the next send of a connection, where none is in flight.
    pub(crate) fn serve(&mut self, key: SocketKey) {
        let Some(conn) = self.conn(key) else { return };
        conn.queued = false;
        if let Stage::Fetching(peer) = conn.stage {
            return self.serve_fetch(key, peer);
        }
        let (Stage::Open(peer), Some(index)) = (&conn.stage, conn.home) else { return };
        let (peer, has_outbox) = (*peer, !conn.outbox.is_empty());
        if !self.ring.sending(key) {
            if has_outbox {
                self.flush_outbox(key);
            } else {
                self.fill_batch(key, index, peer);
                self.ring.send(key);
            }
        }
        if !self.ring.is_reading(key) {
            self.receive(key, index, peer);
        }
    }

    fn receive(&mut self, key: SocketKey, index: usize, peer: PeerKey) {
        let limited = self.is_limited(index, Way::Down);
        let max = if limited { self.reserve_receive(key, index) } else { usize::MAX };
        let held = max == 0 && self.is_held(key, Way::Down);
        let home = &mut self.homes[index];
        let torrent = home.torrent.as_mut().expect("open connections belong to running torrents");
        match (max, held) {
            (0, true) => return torrent.hold(peer),
            (0, false) => return,
            _ => torrent.let_go(self.now, peer),
        }
        self.ring.recv(key, torrent.peer(peer).expected(), &home.live, max, limited);
    }

    pub(crate) fn on_sent(&mut self, key: SocketKey, result: io::Result<usize>) {
        let Ok(bytes) = result else { return self.end(key, End::Broken) };
        self.stats.sent += bytes as u64;
        let now = self.now;
        let Some(conn) = self.conns.get_mut(key.index()).and_then(Option::as_mut).filter(|c| c.socket == key)
        else {
            return;
        };
        if let (Stage::Open(peer), Some(index)) = (&conn.stage, conn.home)
            && let Some(torrent) = &mut self.homes[index].torrent
        {
            for block in conn.sending.drain(..) {
                torrent.sent_block(now, *peer, block);
            }
            let reveals = torrent.is_reveal_due();
            self.note_change(index);
            if reveals {
                self.settle_soon(index);
            }
        }
        self.flush_outbox(key);
        self.queue(key);
        self.wake_hungry();
    }
}

/// Bytes of a PIECE message.
pub(crate) const fn message_len(block: Block) -> u64 {
    PIECE_HEADER_LEN as u64 + block.len as u64
}

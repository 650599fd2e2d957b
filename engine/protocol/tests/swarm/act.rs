//! What a shard does with its torrents: events, requests, uploads, hash pool, disk and leases.

use std::time::Duration;

use ccbt_protocol::candidates::Source;
use ccbt_protocol::fetching::FetchingEvent;
use ccbt_protocol::geometry::Block;
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::peer::PeerFault;
use ccbt_protocol::picker::PeerKey;
use ccbt_protocol::torrent::TorrentEvent;
use ccbt_protocol::wire::message::Message;
use rand::RngExt;
use sha1::{Digest, Sha1};

use crate::check::is_right;
use crate::net::{LeaseMessage, Packet, ToNode, What, Whose};
use crate::node::{Manner, Memory, Role};
use crate::world::{MS, SECOND, World};

/// A node that is not at rest after so many turns never will be.
const TURNS_MAX: usize = 200;
/// What is written is synced once in so many ticks.
const SYNC_EVERY: u64 = 5;
/// Whoever is connected knows by then that a piece is lost (BEP 54), whatever the network does: a dozen windows may be on
/// their way to a slow line, which is 10 s, and the request comes back as slowly.
const HEARD_OF: Duration = Duration::from_secs(60);

/// The messages in `bytes`.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let (len, rest) = bytes.split_first_chunk()?;
        let (body, rest) = rest.split_at(u32::from_be_bytes(*len) as usize);
        bytes = rest;
        Some(Message::decode(body).expect("what we encode can be decoded"))
    })
}

impl World {
    pub(crate) fn happen(&mut self, at: usize, what: ToNode) {
        match what {
            ToNode::Tick => return self.tick(at),
            ToNode::Uplink => {
                self.nodes[at].uplink_armed = false;
                return self.send_blocks(at);
            }
            ToNode::Settle => self.nodes[at].settle_armed = None,
            ToNode::Announce => return self.announce(at),
            ToNode::Told(addrs) => _ = self.nodes[at].candidates.add_all(&addrs, Source::Tracker),
            ToNode::Dialled(addr) => self.dialled(at, addr),
            ToNode::Hashed(part, piece) => self.hashed(at, part, piece),
            ToNode::Written(part, piece) => self.written(at, part, piece),
            ToNode::Lease(part, message) => self.leased(at, part, message),
        }
        self.pump(at);
    }

    fn tick(&mut self, at: usize) {
        let now = self.now;
        self.later(at, SECOND, ToNode::Tick);
        let node = &mut self.nodes[at];
        if let Some(fetching) = &mut node.fetching {
            fetching.tick(now);
        }
        for part in &mut node.parts {
            if part.torrent.next_tick(now).is_some_and(|due| due <= now) {
                part.torrent.tick(now, &mut self.rng);
            }
            let in_the_way = match &part.role {
                Role::Home(lender) => lender.is_home_in_the_way(now, &part.torrent),
                Role::Satellite(borrower) => borrower.is_stalled(now),
            };
            let starved = std::mem::take(&mut part.starved);
            let most = if in_the_way { usize::MAX } else { usize::from(starved) };
            for _ in 0..most {
                let Some(piece) = part.torrent.abandon_one() else { break };
                part.memory.remove(&piece).expect("a begun piece has memory");
                part.torrent.mark_hungry();
            }
            if in_the_way {
                part.torrent.rest_useless(now);
            } else if starved {
                part.torrent.make_way(now, false);
            }
            if let Role::Satellite(borrower) = &mut part.role {
                borrower.tick(now, &mut part.torrent);
            }
        }
        if self.elapsed().as_secs().is_multiple_of(SYNC_EVERY) {
            let node = &mut self.nodes[at];
            node.synced = node.disk.keys().copied().collect();
        }
        self.dial(at);
        self.pump(at);
        self.check_fully(at);
    }

    /// Lets a node do what there is to do now.
    pub(crate) fn pump(&mut self, at: usize) {
        for _ in 0..TURNS_MAX {
            let mut busy = self.fetching_events(at);
            for part in 0..self.nodes[at].parts.len() {
                self.settle(at, part);
                busy |= self.torrent_events(at, part);
                busy |= self.requests(at, part);
            }
            if !busy {
                self.send_blocks(at);
                return self.check_quickly(at);
            }
        }
        panic!("node {at} does not come to rest: {}", self.describe(at));
    }

    // ---- the torrent

    fn torrent_events(&mut self, at: usize, part: usize) -> bool {
        let now = self.now;
        let the_part = &mut self.nodes[at].parts[part];
        if the_part.torrent.wants_choke_round() {
            the_part.torrent.choke_round(now, &mut self.rng);
        }
        the_part.torrent.reveal(now, &mut self.rng);
        let mut busy = false;
        while let Some(event) = self.nodes[at].parts[part].torrent.poll_event() {
            busy = true;
            self.torrent_event(at, part, event);
        }
        busy
    }

    fn torrent_event(&mut self, at: usize, part: usize, event: TorrentEvent) {
        match event {
            TorrentEvent::PieceComplete(piece) => {
                let delay = self.within(MS..20 * MS);
                self.later(at, delay, ToNode::Hashed(part, piece));
            }
            TorrentEvent::Retract { peer, block, release } => self.retract(at, part, peer, block, release),
            TorrentEvent::Close(key, fault) => self.end_peer(at, Whose::Part(part, key), fault),
            TorrentEvent::Ban(ip) => self.ban(at, ip),
            TorrentEvent::Peers(addrs) => _ = self.nodes[at].candidates.add_all(&addrs, Source::Pex),
            TorrentEvent::OwnAddress(teller, ours) => {
                self.nodes[at].candidates.told_own_address(teller, ours)
            }
            // Everybody can be reached, and nobody speaks uTP.
            TorrentEvent::Punch(_) | TorrentEvent::Relay(_) => {}
            TorrentEvent::DhtNode(addr) => panic!("a node at {addr}, and nobody has one"),
            TorrentEvent::Finished if part == 0 => self.nodes[at].finished = Some(self.now),
            TorrentEvent::Finished => {}
        }
    }

    fn retract(&mut self, at: usize, part: usize, peer: PeerKey, block: Block, release: bool) {
        if !release {
            return;
        }
        let Some(link) = self.nodes[at].links.get(&Whose::Part(part, peer)).copied() else { return };
        let end = self.end_of(link, at);
        self.links[link].as_mut().expect("it is open").ends[end].releases.push(block);
        let delay = self.within(Duration::ZERO..50 * MS);
        self.at(self.now + delay, What::Release { link, end, block });
    }

    fn end_peer(&mut self, at: usize, whose: Whose, fault: PeerFault) {
        let Some(link) = self.nodes[at].links.get(&whose).copied() else { return };
        let end = self.end_of(link, at);
        let ip = self.links[link].as_ref().expect("it is open").ends[end].addr.ip();
        self.nodes[at].faults.push((ip, fault));
        self.close(link, end, true);
    }

    fn ban(&mut self, at: usize, ip: std::net::IpAddr) {
        let node = &mut self.nodes[at];
        node.bans.push(ip);
        node.candidates.ban(ip);
        for link in self.nodes[at].links.values().copied().collect::<Vec<_>>() {
            let end = self.end_of(link, at);
            if self.links[link].as_ref().is_some_and(|link| link.ends[end].addr.ip() == ip) {
                self.close(link, end, true);
            }
        }
    }

    /// Asks peers for more, and sends what there is to say.
    fn requests(&mut self, at: usize, part: usize) -> bool {
        let now = self.now;
        let mut dirty = Vec::new();
        self.nodes[at].parts[part].torrent.take_dirty(&mut dirty);
        for key in &dirty {
            let node = &mut self.nodes[at];
            let the_part = &mut node.parts[part];
            let mut memory = Memory {
                held: &mut the_part.memory,
                starved: &mut the_part.starved,
                max: node.plan.memory_max,
            };
            the_part.torrent.fill_requests(now, *key, &mut memory, &mut self.rng);
            let link = node.links[&Whose::Part(part, *key)];
            let end = self.end_of(link, at);
            loop {
                let torrent = &mut self.nodes[at].parts[part].torrent;
                let bytes = std::mem::take(torrent.out(now, *key));
                if bytes.is_empty() {
                    break;
                }
                for message in frames(&bytes) {
                    if let Message::Request(block) = message {
                        let has = torrent.peer(*key).has(block.piece);
                        assert!(has, "{at} asks for {block:?}, which the peer does not have");
                    }
                }
                self.transmit(link, end, Packet::Bytes(bytes));
            }
            self.wants_to_send(at, part, *key);
        }
        !dirty.is_empty()
    }

    // ---- uploads

    pub(crate) fn wants_to_send(&mut self, at: usize, part: usize, key: PeerKey) {
        let node = &mut self.nodes[at];
        let waits = node.parts[part].torrent.upcoming_uploads(key).next().is_some();
        if waits && !node.ring.contains(&(part, key)) {
            node.ring.push_back((part, key));
        }
    }

    /// Sends blocks in turn as fast as the line takes them.
    pub(crate) fn send_blocks(&mut self, at: usize) {
        while self.nodes[at].up_free <= self.now + 10 * MS {
            let Some((part, key)) = self.nodes[at].ring.pop_front() else { return };
            let link = self.nodes[at].links[&Whose::Part(part, key)];
            let end = self.end_of(link, at);
            if !self.has_window(link, end) {
                continue;
            }
            let Some(block) = self.nodes[at].parts[part].torrent.next_upload(key) else { continue };
            self.answer(at, part, key, block, (link, end));
            self.wants_to_send(at, part, key);
        }
        let node = &mut self.nodes[at];
        if !node.ring.is_empty() && !std::mem::replace(&mut node.uplink_armed, true) {
            let delay = node.up_free - self.now;
            self.later(at, delay, ToNode::Uplink);
        }
    }

    fn answer(&mut self, at: usize, part: usize, key: PeerKey, block: Block, (link, end): (usize, usize)) {
        let now = self.now;
        let nth = block.begin / (16 * 1024);
        let node = &mut self.nodes[at];
        let token = node.disk.get(&block.piece).map(|tokens| tokens[nth as usize]);
        let torrent = &mut node.parts[part].torrent;
        match (node.plan.manner, token) {
            (Manner::Snub, _) => {}
            (Manner::Refuses, _) | (_, None) => {
                torrent.refuse(key, block);
                let bytes = std::mem::take(torrent.out(now, key));
                if !bytes.is_empty() {
                    self.transmit(link, end, Packet::Bytes(bytes));
                }
            }
            (manner, Some(token)) => {
                let lie = u64::from(manner == Manner::Liar) * (1 + u64::from(key.0 % 8));
                torrent.sent_block(now, key, block);
                self.transmit(link, end, Packet::Block(block, token ^ lie));
            }
        }
    }

    // ---- what arrives

    pub(crate) fn receive(&mut self, link: usize, end: usize, packet: Packet) -> Result<(), PeerFault> {
        let this = &self.links[link].as_ref().expect("it is open").ends[end];
        let (at, now) = (this.node, self.now);
        match (packet, this.whose) {
            (Packet::Bytes(bytes), Whose::Fetching(key)) => {
                let fetching = self.nodes[at].fetching.as_mut().expect("its connections are its own");
                frames(&bytes).try_for_each(|message| fetching.message(now, key, message))
            }
            (Packet::Block(..), Whose::Fetching(key)) => {
                self.nodes[at].fetching.as_mut().expect("its connections are its own").block(key)
            }
            (Packet::Bytes(bytes), Whose::Part(part, key)) => frames(&bytes).try_for_each(|message| {
                if let Message::Request(block) = message
                    && !self.nodes[at].parts[part].torrent.picker().have().has(block.piece)
                {
                    let lost = self.nodes[at].lost.get(&block.piece);
                    let lost =
                        lost.unwrap_or_else(|| panic!("{at} never had {block:?}, and is asked for it"));
                    assert!(now - *lost < HEARD_OF, "{at} lost {block:?} long ago, and is asked for it");
                    self.requests_crossed += 1;
                }
                self.nodes[at].parts[part].torrent.message(now, key, message)
            }),
            (Packet::Block(block, token), Whose::Part(part, key)) => {
                let part = &mut self.nodes[at].parts[part];
                part.torrent.begin_block(key, block)?;
                if part.torrent.end_block(now, key, block) {
                    let memory = part.memory.get_mut(&block.piece).expect("an accepted block has its place");
                    memory[(block.begin / (16 * 1024)) as usize] = Some(token);
                }
                Ok(())
            }
        }
    }

    // ---- hash pool and disk

    fn hashed(&mut self, at: usize, part: usize, piece: PieceIndex) {
        let node = &mut self.nodes[at];
        let the_part = &mut node.parts[part];
        let memory = &the_part.memory[&piece];
        let tokens: Vec<u64> = memory.iter().map(|token| token.expect("a complete piece")).collect();
        let ok = is_right(piece, &tokens);
        let digests = || tokens.iter().map(|token| Sha1::digest(token.to_be_bytes()).into()).collect();
        assert_eq!(the_part.torrent.verdict(piece, ok, digests), ok);
        if ok {
            let delay = self.within(MS..50 * MS);
            self.later(at, delay, ToNode::Written(part, piece));
        } else {
            the_part.memory.remove(&piece);
            the_part.torrent.mark_hungry();
        }
    }

    fn written(&mut self, at: usize, part: usize, piece: PieceIndex) {
        let failed = self.chance(self.nodes[at].plan.disk_faults);
        let node = &mut self.nodes[at];
        let the_part = &mut node.parts[part];
        let tokens = the_part.memory.remove(&piece).expect("a piece that is written has memory");
        if failed {
            the_part.torrent.write_failed(piece);
        } else {
            node.disk.insert(piece, tokens.into_iter().map(|token| token.expect("verified")).collect());
            the_part.torrent.written(piece);
        }
        the_part.torrent.mark_hungry();
    }

    // ---- leases

    fn leased(&mut self, at: usize, part: usize, message: LeaseMessage) {
        let now = self.now;
        let node = &mut self.nodes[at];
        match message {
            LeaseMessage::Down(message) => {
                let part = &mut node.parts[part];
                let Role::Satellite(borrower) = &mut part.role else { unreachable!() };
                borrower.receive(now, &mut part.torrent, message);
            }
            LeaseMessage::Up(message) => {
                let home = &mut node.parts[0];
                let Role::Home(lender) = &mut home.role else { unreachable!() };
                lender.receive(&mut home.torrent, part, message);
            }
        }
    }

    fn settle(&mut self, at: usize, part: usize) {
        if self.nodes[at].parts.len() == 1 {
            return;
        }
        let now = self.now;
        let the_part = &mut self.nodes[at].parts[part];
        let mut out = Vec::new();
        let due = match &mut the_part.role {
            Role::Home(lender) => {
                lender.settle(now, &mut the_part.torrent, &mut self.rng);
                out.extend(lender.outgoing().map(|(shard, message)| (shard, LeaseMessage::Down(message))));
                lender.next_turn()
            }
            Role::Satellite(borrower) => {
                borrower.settle(now, &mut the_part.torrent);
                out.extend(borrower.outgoing().map(|message| (part, LeaseMessage::Up(message))));
                borrower.next_turn()
            }
        };
        for (shard, message) in out {
            // Queues keep their order.
            self.later(at, MS, ToNode::Lease(shard, message));
        }
        if let Some(due) = due.filter(|due| self.nodes[at].settle_armed.is_none_or(|armed| *due < armed)) {
            self.nodes[at].settle_armed = Some(due);
            self.later(at, due.saturating_duration_since(now), ToNode::Settle);
        }
    }

    // ---- metadata

    fn fetching_events(&mut self, at: usize) -> bool {
        let now = self.now;
        let mut busy = false;
        while let Some(event) = self.nodes[at].fetching.as_mut().and_then(|fetching| fetching.poll_event()) {
            busy = true;
            match event {
                FetchingEvent::Complete(info) => {
                    self.has_metadata(at, &info);
                    return true;
                }
                FetchingEvent::Ban(ip) => self.ban(at, ip),
                FetchingEvent::Close(key, fault) => self.end_peer(at, Whose::Fetching(key), fault),
                FetchingEvent::Peers(addrs) => _ = self.nodes[at].candidates.add_all(&addrs, Source::Pex),
                FetchingEvent::OwnAddress(teller, ours) => {
                    self.nodes[at].candidates.told_own_address(teller, ours)
                }
            }
        }
        let Some(fetching) = &mut self.nodes[at].fetching else { return busy };
        for key in fetching.take_dirty() {
            let bytes = self.nodes[at].fetching.as_mut().expect("seen just now").out(now, key);
            let link = self.nodes[at].links.get(&Whose::Fetching(key)).copied();
            if let Some(link) = link.filter(|_| !bytes.is_empty()) {
                let end = self.end_of(link, at);
                self.transmit(link, end, Packet::Bytes(bytes));
            }
        }
        busy
    }

    /// The torrent begins, and takes over the connections over which its metadata came.
    fn has_metadata(&mut self, at: usize, info: &[u8]) {
        assert!(info == &self.info[..], "metadata that nobody made");
        let now = self.now;
        let mut fetching = self.nodes[at].fetching.take().expect("it fetched");
        self.nodes[at].has_metadata = true;
        self.open_torrent(at);
        let old: Vec<(Whose, usize)> =
            self.nodes[at].links.iter().map(|(whose, link)| (*whose, *link)).collect();
        for (whose, link) in old {
            let Whose::Fetching(key) = whose else { unreachable!() };
            let end = self.end_of(link, at);
            let Some((info, said)) = fetching.take(key) else {
                self.close(link, end, true);
                continue;
            };
            let node = &mut self.nodes[at];
            let part = node.part_for_peer();
            node.parts[part].conns += 1;
            let new = node.parts[part].torrent.adopted(now, info);
            node.links.remove(&whose);
            let whose = Whose::Part(part, new);
            node.links.insert(whose, link);
            self.links[link].as_mut().expect("it is open").ends[end].whose = whose;
            if let Err(fault) = self.receive(link, end, Packet::Bytes(said)) {
                self.end_peer(at, whose, fault);
            }
        }
    }

    /// A coin for scenarios.
    pub fn roll(&mut self, below: usize) -> usize {
        self.rng.random_range(0..below)
    }
}

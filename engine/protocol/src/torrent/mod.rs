//! One torrent's decisions: its picker, peers and choker together, without a socket or a disk in sight.
//!
//! Role: takes in what peers say and what disk and hash pool report, and says what to send, whom to serve and which
//! piece to hash. Owner: the torrent's home shard, as plain `&mut`; the simulator drives the same type.
//!
//! Call order. When a connection is through its handshake: [`Torrent::connected`]. While it lives, for every receive:
//! [`Torrent::begin_block`], [`Torrent::end_block`], [`Torrent::message`] in stream order. Afterwards, and whenever
//! something changed, for each of [`Torrent::take_dirty`]: [`Torrent::fill_requests`], then send what
//! [`Torrent::out`] holds and what [`Torrent::next_upload`] names. When it ends: [`Torrent::gone`]. When
//! [`Torrent::next_tick`] says so, once a second at most: [`Torrent::tick`]. After each of these:
//! [`Torrent::poll_event`] until `None`.
//!
//! Invariant: a request that is given up while a receive may still write its block in place
//! ([`TorrentEvent::Retract`]) stays counted in the picker until [`Torrent::released`], so no other peer's bytes can
//! meet it there.

mod blocks;
mod donthave;
mod extensions;
mod holepunching;
mod messages;
mod pieces;
mod spread;
mod stats;
mod superseeding;
mod tick;
mod urgency;
mod web;
mod wishes;
mod worth;

pub use blocks::BlockPlace;
pub(crate) use extensions::Gossip;
pub use stats::Stats;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bitfield::Bitfield;
use crate::blame::Blame;
use crate::choker::{Choker, ChokerConfig};
use crate::deadlines::Deadlines;
use crate::geometry::{Block, Geometry};
use crate::holepunch::{Introductions, Rendezvous};
use crate::ids::{InfoHash, PeerId, PieceIndex};
use crate::peer::{Has, Peer, PeerFault, PeerInfo};
use crate::pex::Book;
use crate::picker::{PeerKey, Picker, PickerConfig};
use crate::rate::RateMeter;
use crate::request_window::{RequestWindow, WindowConfig};
use crate::superseed::SuperSeed;
use crate::wire::message::{Message, allowed_fast_set};

/// Bits of a [`PeerKey`] that index the peer table; the rest count how often an entry was used.
const KEY_INDEX_BITS: u32 = 20;
/// Gone peers whose address is still known, so that a liar is found after it left.
const MAX_PAST: usize = 1024;
/// Pieces a choked peer may have at once (BEP 6 suggests 10).
const ALLOWED_FAST: u32 = 10;

/// What can be set about a torrent.
#[derive(Clone, Debug)]
pub struct TorrentConfig {
    /// Order and endgame.
    pub picker: PickerConfig,
    /// How many requests to keep on the way.
    pub window: WindowConfig,
    /// Whom to serve.
    pub choker: ChokerConfig,
    /// Our listening port, told in the extended handshake; 0 = not listening.
    pub listen_port: u16,
    /// The `info` dictionary, which peers may fetch (BEP 9).
    pub metadata: Option<Arc<[u8]>>,
    /// Tell peers of each other, and listen to what they tell (BEP 11); never for a private torrent (BEP 27).
    pub pex: bool,
    /// UDP port of our DHT node, told to peers that have one too (BEP 5); 0 = none, or none for this torrent (BEP 27).
    pub dht_port: u16,
    /// Show each peer single pieces instead of all we have (BEP 16), if we have everything when it starts.
    pub super_seeding: bool,
}

/// What the torrent wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum TorrentEvent {
    /// All blocks of the piece are here: hash it, then call [`Torrent::verdict`].
    PieceComplete(PieceIndex),
    /// A request was given up while the peer's bytes may be on the way into the block's place. Call
    /// [`Torrent::released`] once no receive of that peer can write there; with `release` unset the call is not needed.
    Retract {
        /// The peer.
        peer: PeerKey,
        /// The block.
        block: Block,
        /// Whether [`Torrent::released`] must follow.
        release: bool,
    },
    /// End the connection, then call [`Torrent::gone`].
    Close(PeerKey, PeerFault),
    /// Avoid this address: it sent corrupt data.
    Ban(IpAddr),
    /// A peer told of others (BEP 11).
    Peers(Vec<SocketAddr>),
    /// The peer at the first address says that ours is the second one.
    OwnAddress(IpAddr, IpAddr),
    /// The peer at this address dials us now, through its NAT: dial it as well, over uTP (BEP 55).
    Punch(SocketAddr),
    /// A peer wants to meet one that is connected to none of this part's: call [`Torrent::relayed`] with what other parts
    /// of the torrent say.
    Relay(Rendezvous),
    /// A peer says that there is a DHT node; told once for each connection.
    DhtNode(SocketAddr),
    /// Every wanted piece is verified and written.
    Finished,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    peer: Option<Box<Peer>>,
}

/// The decisions of one torrent. See the module.
#[derive(Debug)]
pub struct Torrent {
    info_hash: InfoHash,
    our_id: PeerId,
    geometry: Geometry,
    config: TorrentConfig,
    picker: Picker,
    slots: Vec<Slot>,
    free: Vec<u32>,
    live: usize,
    choker: Choker,
    choke_due: Option<Instant>,
    /// Nobody wants anything: no round is needed until somebody does.
    choker_rests: bool,
    /// When time brings something for a peer, by its place in `slots`.
    due: Deadlines,
    /// What is wanted has changed: everybody's interest is looked at in the next tick.
    restless: bool,
    blame: Blame,
    past: VecDeque<(PeerKey, IpAddr)>,
    /// Addresses banned lately, so that each is told once.
    banned: VecDeque<IpAddr>,
    events: VecDeque<TorrentEvent>,
    dirty: Vec<PeerKey>,
    stats: Stats,
    /// How long the newest block was waited for.
    block_wait: Duration,
    down: RateMeter,
    up: RateMeter,
    finished_told: bool,
    cancels: Vec<(PeerKey, Block)>,
    picked: Vec<Block>,
    news: spread::News,
    super_seed: Option<SuperSeed>,
    /// Who is connected, to be told to others, where that is done.
    pex: Option<Book>,
    /// Who told of whom, where ut_holepunch is spoken.
    punch: Option<Introductions>,
    /// Somebody may be shown a piece.
    reveal_due: bool,
}

impl Torrent {
    /// A torrent of which `have` is verified and on disk.
    pub fn new(
        now: Instant,
        info_hash: InfoHash,
        our_id: PeerId,
        geometry: Geometry,
        config: TorrentConfig,
        have: Bitfield,
    ) -> Self {
        let picker = Picker::new(geometry, config.picker.clone(), have);
        Self::with_picker(now, info_hash, our_id, geometry, config, picker)
    }

    fn with_picker(
        now: Instant,
        info_hash: InfoHash,
        our_id: PeerId,
        geometry: Geometry,
        config: TorrentConfig,
        picker: Picker,
    ) -> Self {
        let super_seeds = config.super_seeding && picker.have().is_full();
        let mut this = Self {
            info_hash,
            our_id,
            geometry,
            picker,
            slots: Vec::new(),
            free: Vec::new(),
            live: 0,
            choker: Choker::new(config.choker.clone()),
            choke_due: None,
            choker_rests: false,
            due: Deadlines::default(),
            restless: false,
            blame: Blame::new(),
            past: VecDeque::new(),
            banned: VecDeque::new(),
            events: VecDeque::new(),
            dirty: Vec::new(),
            stats: Stats::default(),
            block_wait: Duration::ZERO,
            down: RateMeter::new(now),
            up: RateMeter::new(now),
            finished_told: false,
            cancels: Vec::new(),
            picked: Vec::new(),
            news: spread::News::default(),
            super_seed: super_seeds.then(|| SuperSeed::new(geometry.piece_count())),
            reveal_due: false,
            pex: config.pex.then(Book::default),
            punch: None,
            config,
        };
        this.check_finished();
        this
    }

    // ---- getters

    /// The swarm's name.
    pub fn info_hash(&self) -> InfoHash {
        self.info_hash
    }

    /// Sizes.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Piece states and priorities.
    pub fn picker(&self) -> &Picker {
        &self.picker
    }

    /// Piece states and priorities, to change priorities.
    pub fn picker_mut(&mut self) -> &mut Picker {
        self.restless = true;
        &mut self.picker
    }

    /// Sums so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Counts on from the sums of an earlier torrent of the same name in this process.
    pub fn go_on_from(&mut self, stats: Stats) {
        self.stats = stats;
    }

    /// Payload bytes per second, down and up.
    pub fn rates(&mut self, now: Instant) -> (u64, u64) {
        (self.down.rate(now), self.up.rate(now))
    }

    /// Connections through their handshake.
    pub fn peer_count(&self) -> usize {
        self.live
    }

    /// One connection's state. Panics when it is gone.
    pub fn peer(&self, key: PeerKey) -> &Peer {
        self.get(key).expect("a peer that is gone")
    }

    fn get(&self, key: PeerKey) -> Option<&Peer> {
        let slot = self.slots.get(key_index(key))?;
        if slot.generation != key.0 >> KEY_INDEX_BITS { None } else { slot.peer.as_deref() }
    }

    fn peer_mut(&mut self, key: PeerKey) -> &mut Peer {
        peer_of(&mut self.slots, key)
    }

    /// All connections.
    pub fn peer_keys(&self) -> impl Iterator<Item = PeerKey> + '_ {
        let live = self.slots.iter().enumerate().filter(|(_, slot)| slot.peer.is_some());
        live.map(|(at, slot)| PeerKey(slot.generation << KEY_INDEX_BITS | at as u32))
    }

    /// Whether every wanted piece is verified and written.
    pub fn is_finished(&self) -> bool {
        self.picker.is_finished()
    }

    /// The next thing to do; `None` when all is told.
    pub fn poll_event(&mut self) -> Option<TorrentEvent> {
        self.events.pop_front()
    }

    /// The peers for which something changed since the last call, each once. Those that send nothing come last, so that
    /// they do not take back at once what was just given up for their sake, or what they have rejected.
    pub fn take_dirty(&mut self, into: &mut Vec<PeerKey>) {
        into.clear();
        into.append(&mut self.dirty);
        into.retain(|key| match self.get(*key) {
            Some(_) => {
                self.slots[key_index(*key)].peer.as_mut().expect("just seen").dirty = false;
                true
            }
            None => false,
        });
        let useless = |key: &PeerKey| self.peer(*key).sends_nothing();
        if into.iter().any(useless) {
            into.sort_by_key(useless);
        }
    }

    fn mark(&mut self, key: PeerKey) {
        mark(&mut self.slots, &mut self.dirty, key);
    }

    /// Marks every connection dirty: memory for pieces has become free, or a limit changed.
    pub fn mark_all(&mut self) {
        let keys: Vec<PeerKey> = self.peer_keys().collect();
        keys.into_iter().for_each(|key| self.mark(key));
    }

    /// Marks the connections that could ask for more: memory for pieces has become free.
    pub fn mark_hungry(&mut self) {
        self.wake_idle();
    }

    // ---- connections

    /// A connection is through its handshake; our first messages (bitfield, extended handshake, allowed-fast) are
    /// queued. The caller has refused our own id and a second connection of one id ([`Torrent::has_id`]).
    pub fn connected(&mut self, now: Instant, info: PeerInfo) -> PeerKey {
        self.join(now, info, false)
    }

    /// As [`Torrent::connected`] for a connection over which metadata was fetched ([`crate::fetching`]): its bitfield's turn
    /// is over, so each piece that we have is told by itself.
    pub fn adopted(&mut self, now: Instant, info: PeerInfo) -> PeerKey {
        self.join(now, info, true)
    }

    fn join(&mut self, now: Instant, info: PeerInfo, adopted: bool) -> PeerKey {
        let window = RequestWindow::new(self.config.window.clone());
        let mut peer = Box::new(Peer::new(now, info, self.geometry.piece_count(), window));
        self.greet(&mut peer, adopted);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        assert!(index < 1 << KEY_INDEX_BITS, "a million connections on one torrent");
        let slot = &mut self.slots[index as usize];
        slot.generation = (slot.generation + 1) & (u32::MAX >> KEY_INDEX_BITS);
        slot.peer = Some(peer);
        self.live += 1;
        let key = PeerKey(slot.generation << KEY_INDEX_BITS | index);
        self.due.set(index as usize, Some(now));
        self.mark(key);
        self.list(now, key, None);
        key
    }

    fn greet(&self, peer: &mut Peer, adopted: bool) {
        let have = self.picker.have();
        let shown = if self.super_seed.is_some() { 0 } else { have.count() };
        match (shown, peer.fast()) {
            _ if adopted && shown == 0 => {}
            _ if adopted => have.iter().for_each(|piece| peer.push(&Message::Have(piece))),
            (0, false) => {}
            (0, true) => peer.push(&Message::HaveNone),
            (_, true) if have.is_full() => peer.push(&Message::HaveAll),
            _ => peer.push(&Message::Bitfield(have.as_wire())),
        }
        self.say_hello(peer);
        if self.config.dht_port != 0 && peer.info.reserved.dht() {
            peer.push(&Message::Port(self.config.dht_port));
        }
        if let (true, IpAddr::V4(ip)) = (peer.fast() && shown > 0, peer.info.addr.ip()) {
            let pieces = self.geometry.piece_count();
            let mut allowed = allowed_fast_set(ip, self.info_hash, pieces, ALLOWED_FAST);
            allowed.retain(|piece| have.has(*piece));
            let bytes = allowed.iter().map(|piece| u64::from(self.geometry.piece_size(*piece))).sum();
            peer.allow_fast(allowed, bytes);
        }
    }

    /// Whether a connection with this peer id exists, or it is our own id: a second one is refused.
    pub fn has_id(&self, id: PeerId) -> bool {
        id == self.our_id || self.slots.iter().flat_map(|slot| &slot.peer).any(|peer| peer.info.id == id)
    }

    /// The connection is over and nothing of it is in flight: its requests go back, its pieces are uncounted. Returns
    /// whether payload went over it, in either direction.
    pub fn gone(&mut self, key: PeerKey) -> bool {
        self.unlist(key);
        let slot = &mut self.slots[key_index(key)];
        assert_eq!(slot.generation, key.0 >> KEY_INDEX_BITS, "a peer that is gone");
        let peer = slot.peer.take().expect("a peer that is gone");
        self.free.push(key_index(key) as u32);
        self.due.set(key_index(key), None);
        self.live -= 1;
        for request in &peer.outstanding {
            self.picker.request_failed(key, request.block);
        }
        match &peer.has {
            Has::All => self.picker.seed_removed(),
            Has::Some(field) => self.picker.peer_bitfield_removed(field),
        }
        self.picker.peer_gone(key);
        if let Some(super_seed) = &mut self.super_seed {
            super_seed.leave(key);
        }
        if self.past.len() == MAX_PAST {
            self.past.pop_front();
        }
        self.past.push_back((key, peer.info.addr.ip()));
        if !peer.outstanding.is_empty() {
            self.wake_idle();
        }
        if !peer.am_choking {
            (self.choke_due, self.choker_rests) = (None, false);
        }
        peer.downloaded + peer.uploaded > 0
    }

    /// Requests became free: peers with room in their window may take them.
    fn wake_idle(&mut self) {
        self.idle_keys().into_iter().for_each(|key| self.mark(key));
    }

    fn idle_keys(&self) -> Vec<PeerKey> {
        let idle = |peer: &Peer| peer.am_interested && peer.outstanding.len() < peer.depth();
        self.peer_keys().filter(|key| idle(self.peer(*key))).collect()
    }

    fn ip_of(&self, key: PeerKey) -> Option<IpAddr> {
        if let Some(peer) = self.get(key) {
            return Some(peer.info.addr.ip());
        }
        self.past.iter().rev().find(|(past, _)| *past == key).map(|(_, ip)| *ip)
    }

    /// Bytes waiting to be sent to `key`; the caller takes them all. Counts as activity for keep-alives.
    pub fn out(&mut self, now: Instant, key: PeerKey) -> &mut Vec<u8> {
        let peer = peer_of(&mut self.slots, key);
        if let (true, Some(gossip), Some(info)) =
            (peer.out.is_empty(), &mut peer.gossip, &self.config.metadata)
        {
            gossip.serve_metadata(info, &mut peer.out);
        }
        if !peer.out.is_empty() {
            peer.last_sent = now;
        }
        &mut peer.out
    }

    fn fault(&mut self, key: PeerKey, fault: PeerFault) {
        self.events.push_back(TorrentEvent::Close(key, fault));
    }

    fn check_finished(&mut self) {
        if !self.finished_told && self.picker.is_finished() {
            self.finished_told = true;
            self.events.push_back(TorrentEvent::Finished);
            self.tell_all();
        }
    }
}

fn key_index(key: PeerKey) -> usize {
    (key.0 & ((1 << KEY_INDEX_BITS) - 1)) as usize
}

/// The peer behind `key`, borrowing the table alone.
fn peer_of(slots: &mut [Slot], key: PeerKey) -> &mut Peer {
    let slot = &mut slots[key_index(key)];
    assert_eq!(slot.generation, key.0 >> KEY_INDEX_BITS, "a peer that is gone");
    slot.peer.as_mut().expect("a peer that is gone")
}

fn mark(slots: &mut [Slot], dirty: &mut Vec<PeerKey>, key: PeerKey) {
    let peer = peer_of(slots, key);
    if !peer.dirty {
        peer.dirty = true;
        dirty.push(key);
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! One connection's protocol state: who chokes whom, who has what, what is asked for.
//!
//! Role: the facts of a connection and the small rules that need nothing else; rules that need the torrent (picker,
//! choker) are in [`crate::torrent`]. Owner: [`crate::torrent::Torrent`]. Invariant: every block in `outstanding` is
//! counted as requested by this peer in the picker, and the other way round.

mod status;

pub use status::PeerStatus;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::bitfield::{Bitfield, BitfieldError};
use crate::geometry::{BLOCK_LEN, Block};
use crate::ids::{PeerId, PieceIndex};
use crate::metadata::FetchFault;
use crate::picker::PeerHas;
use crate::rate::RateMeter;
use crate::request_window::RequestWindow;
use crate::score::{Flow, Record, Score};
use crate::torrent::Gossip;
use crate::wire::extension::ExtensionHandshake;
use crate::wire::handshake::Reserved;
use crate::wire::message::{Message, WireError};

/// Requests we let a peer queue: announced as `reqq` (BEP 10), more are rejected.
pub const MAX_UPLOAD_QUEUE: usize = 2000;
/// Rejected requests beyond the queue after which a peer is taken for hostile.
const MAX_OVERFLOW: u32 = 10_000;
/// Most answers to given-up requests that are put up with.
const MAX_LATE: u32 = 4096;
/// Most blocks that are thrown away beyond those that were of use: whoever chokes and sends late again and again.
const MAX_WASTED: u64 = 4096;
/// Unrequested, duplicate or unknown things a peer may send before it is closed.
const MAX_STRIKES: u32 = 512;
/// Our requests a peer may reject without sending a single block in between.
const MAX_REJECTS: u32 = 8192;
/// How often old offences are forgotten: connections that last for days must not die of rare ones.
const FORGIVE_EVERY: Duration = Duration::from_secs(10);
/// Strikes and requests beyond the queue that are forgotten then.
const FORGIVEN_STRIKES: u32 = 1;
const FORGIVEN_OVERFLOW: u32 = 200;
/// How often a choked peer may fetch each of its allowed-fast pieces.
const FAST_ROUNDS: u64 = 2;
/// Allowed-fast and suggest entries kept of one peer (BEP 6 speaks of about 10).
const MAX_HINTS: usize = 64;
/// Bytes that may wait for a peer that goes on talking: more than a window of requests and rejects of a whole queue.
pub(crate) const MAX_UNREAD: usize = 128 << 10;

/// What is known when a handshake is complete.
#[derive(Clone, Copy, Debug)]
pub struct PeerInfo {
    /// The other end.
    pub addr: SocketAddr,
    /// What it calls itself.
    pub id: PeerId,
    /// Extensions it speaks.
    pub reserved: Reserved,
    /// Whether it connected to us.
    pub incoming: bool,
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// Framing is broken.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The bitfield does not fit the torrent.
    #[error(transparent)]
    Bitfield(#[from] BitfieldError),
    /// Bitfield, have-all or have-none after other messages, or twice.
    #[error("the peer sent its bitfield late or twice")]
    LateBitfield,
    /// A piece index past the end.
    #[error("the peer names piece {0}, which does not exist")]
    NoSuchPiece(PieceIndex),
    /// A range outside its piece, empty or too long.
    #[error("the peer names an impossible block {0:?}")]
    NoSuchBlock(Block),
    /// A request for a piece that we never said we have.
    #[error("the peer requests piece {0}, which we do not have")]
    NotOurs(PieceIndex),
    /// A BEP 6 message without BEP 6.
    #[error("the peer sends fast-extension messages without having negotiated them")]
    FastNotNegotiated,
    /// Requests far beyond the announced queue length.
    #[error("the peer floods us with requests")]
    RequestFlood,
    /// Too many unrequested blocks, rejects, useless or unknown messages.
    #[error("the peer sends too much that nobody asked for")]
    TooMuchWaste,
    /// It goes on talking and never reads the answers.
    #[error("the peer does not read what it is sent")]
    Unread,
    /// Sent blocks that made a piece fail its hash.
    #[error("the peer sent corrupt data")]
    Corrupt,
    /// It gives no metadata, or a false one.
    #[error(transparent)]
    Metadata(#[from] FetchFault),
    /// It has no metadata, and no peers to tell of.
    #[error("the peer has no metadata")]
    NoMetadata,
    /// Nothing received for two minutes.
    #[error("the peer is silent")]
    Silent,
    /// Both sides have everything they want.
    #[error("nothing left to exchange")]
    Done,
}

impl PeerFault {
    /// Whether the address should be avoided from now on.
    pub fn is_hostile(&self) -> bool {
        !matches!(self, Self::Silent | Self::Done | Self::NoMetadata)
    }
}

/// A request that we sent.
#[derive(Clone, Copy, Debug)]
pub struct Outstanding {
    /// The block.
    pub block: Block,
    /// When.
    pub sent: Instant,
    /// This peer alone was asked, so its bytes may go straight to their place.
    pub in_place: bool,
}

/// What the peer has.
#[derive(Debug)]
pub(crate) enum Has {
    All,
    Some(Bitfield),
}

/// The state of one connection after its handshake. All `bool`s start as BEP 3 says: choked, not interested.
#[derive(Debug)]
pub struct Peer {
    pub(crate) info: PeerInfo,
    pub(crate) has: Has,
    pub(crate) may_bitfield: bool,
    pub(crate) am_choking: bool,
    pub(crate) am_interested: bool,
    pub(crate) peer_choking: bool,
    pub(crate) peer_interested: bool,
    pub(crate) upload_only: bool,
    /// It is connected over uTP, and so its port is the one that it listens on.
    pub(crate) utp: bool,
    /// It has said where its DHT node is.
    pub(crate) told_port: bool,
    pub(crate) snubbed: bool,
    /// What it sent waits because of a limit of ours: it is not to blame for its silence.
    pub(crate) held: bool,
    /// Far slower than others, as far as that was looked at.
    pub(crate) slow: bool,
    /// Most of what it was asked for did not come, as far as that was looked at ([`crate::score::UNRELIABLE`]).
    pub(crate) unreliable: bool,
    /// Until then it is asked for nothing: others may get on with what it was asked for.
    pub(crate) rests_until: Option<Instant>,
    pub(crate) outstanding: VecDeque<Outstanding>,
    pub(crate) window: RequestWindow,
    pub(crate) down: RateMeter,
    pub(crate) up: RateMeter,
    pub(crate) uploads: VecDeque<Block>,
    pub(crate) overflow: u32,
    pub(crate) strikes: u32,
    /// Blocks of its that were thrown away.
    wasted: u64,
    /// Requests given up lately: their blocks may still arrive and are then no offence.
    pub(crate) forgiven: u32,
    /// Rejects since the last block.
    pub(crate) rejects: u32,
    pub(crate) forgiven_at: Instant,
    pub(crate) allowed_in: Vec<PieceIndex>,
    pub(crate) allowed_out: Vec<PieceIndex>,
    /// Bytes that it may still have while choked.
    pub(crate) fast_credit: u64,
    pub(crate) suggested: Vec<PieceIndex>,
    useless_hints: u32,
    pub(crate) extension: Option<ExtensionHandshake>,
    /// Lost before it said whether it understands that (BEP 54), each once.
    pub(crate) disclaim_late: Vec<PieceIndex>,
    /// What is exchanged by extension messages, once it has said that it knows any.
    pub(crate) gossip: Option<Box<Gossip>>,
    /// When it last had a choking round of its own because it became interested.
    pub(crate) early_round: Option<Instant>,
    pub(crate) out: Vec<u8>,
    pub(crate) dirty: bool,
    pub(crate) connected: Instant,
    pub(crate) last_sent: Instant,
    pub(crate) last_received: Instant,
    pub(crate) last_block: Instant,
    pub(crate) uploaded: u64,
    pub(crate) downloaded: u64,
    /// Failures over this connection; its blocks are counted in bytes.
    pub(crate) failures: Record,
    /// What was known of the peer before.
    pub(crate) past: Record,
}

impl Peer {
    /// A connection whose handshake ended at `now`, with a torrent of `pieces` pieces.
    pub(crate) fn new(now: Instant, info: PeerInfo, pieces: u32, window: RequestWindow) -> Self {
        Self {
            info,
            has: Has::Some(Bitfield::empty(pieces)),
            may_bitfield: true,
            am_choking: true,
            am_interested: false,
            peer_choking: true,
            peer_interested: false,
            upload_only: false,
            utp: false,
            told_port: false,
            snubbed: false,
            held: false,
            slow: false,
            unreliable: false,
            rests_until: None,
            outstanding: VecDeque::new(),
            window,
            down: RateMeter::new(now),
            up: RateMeter::new(now),
            uploads: VecDeque::new(),
            overflow: 0,
            strikes: 0,
            wasted: 0,
            forgiven: 0,
            rejects: 0,
            forgiven_at: now,
            allowed_in: Vec::new(),
            allowed_out: Vec::new(),
            fast_credit: 0,
            suggested: Vec::new(),
            useless_hints: 0,
            extension: None,
            disclaim_late: Vec::new(),
            gossip: None,
            early_round: None,
            out: Vec::new(),
            dirty: false,
            connected: now,
            last_sent: now,
            last_received: now,
            last_block: now,
            uploaded: 0,
            downloaded: 0,
            failures: Record::default(),
            past: Record::default(),
        }
    }

    /// What it did over this connection of what was expected of it.
    pub fn record(&self) -> Record {
        let blocks = u32::try_from(self.downloaded / u64::from(BLOCK_LEN)).unwrap_or(u32::MAX);
        Record { blocks, ..self.failures }
    }

    /// How reliable it is, over all connections.
    pub fn reliability(&self) -> u8 {
        self.past.and(self.record()).reliability()
    }

    /// Requests that it may have on the way: a quarter of a stranger's at most if it is unreliable, since whoever fails us
    /// should hold up little at a time.
    pub(crate) fn depth(&self) -> usize {
        let size = self.window.size();
        if self.unreliable { size.min(self.window.smallest() / 4).max(1) } else { size }
    }

    pub(crate) fn score(&mut self, now: Instant) -> Score {
        let round_trip = self.window.round_trip();
        let flow = Flow { down_rate: self.down.rate(now), up_rate: self.up.rate(now), round_trip };
        Score::new(&self.past.and(self.record()), &flow)
    }

    /// Whether BEP 6 is spoken.
    pub fn fast(&self) -> bool {
        self.info.reserved.fast()
    }

    /// Its address and id.
    pub fn info(&self) -> &PeerInfo {
        &self.info
    }

    /// What it said in its extended handshake (BEP 10).
    pub fn extension(&self) -> Option<&ExtensionHandshake> {
        self.extension.as_ref()
    }

    /// Whether it has `piece`.
    pub fn has(&self, piece: PieceIndex) -> bool {
        match &self.has {
            Has::All => true,
            Has::Some(field) => field.has(piece),
        }
    }

    /// Whether it has every piece.
    pub fn is_seed(&self) -> bool {
        matches!(self.has, Has::All)
    }

    /// Pieces that it has, of `pieces`.
    pub(crate) fn piece_count(&self, pieces: u32) -> u32 {
        match &self.has {
            Has::All => pieces,
            Has::Some(field) => field.count(),
        }
    }

    pub(crate) fn peer_has(&self) -> PeerHas<'_> {
        match &self.has {
            Has::All => PeerHas::All,
            Has::Some(field) => PeerHas::Some(field),
        }
    }

    /// The blocks asked for and not yet here, oldest first, as far as they may be received in place.
    pub fn expected(&self) -> impl Iterator<Item = Block> + '_ {
        self.outstanding.iter().take_while(|request| request.in_place).map(|request| request.block)
    }

    /// The request for `block`, when it is outstanding.
    pub fn outstanding(&self, block: Block) -> Option<&Outstanding> {
        self.outstanding.iter().find(|request| request.block == block)
    }

    /// Forgets the request for `block`; answers come nearly always in order, so the search ends at the front.
    pub(crate) fn take_outstanding(&mut self, block: Block) -> Option<Outstanding> {
        let at = self.outstanding.iter().position(|request| request.block == block)?;
        self.outstanding.remove(at)
    }

    /// Queues a message for sending.
    pub(crate) fn push(&mut self, message: &Message<'_>) {
        message.encode(&mut self.out);
    }

    /// Counts an offence that is tolerable a few hundred times.
    pub(crate) fn strike(&mut self) -> Result<(), PeerFault> {
        self.strikes += 1;
        if self.strikes > MAX_STRIKES { Err(PeerFault::TooMuchWaste) } else { Ok(()) }
    }

    /// A block came that is not outstanding.
    pub(crate) fn wasted(&mut self) -> Result<(), PeerFault> {
        self.wasted += 1;
        if self.wasted > MAX_WASTED + self.downloaded / u64::from(BLOCK_LEN) {
            return Err(PeerFault::TooMuchWaste);
        }
        self.unrequested()
    }

    /// Something came that answers no request.
    pub(crate) fn unrequested(&mut self) -> Result<(), PeerFault> {
        if self.forgiven > 0 {
            self.forgiven -= 1;
            return Ok(());
        }
        self.strike()
    }

    /// Time passes: old offences are forgotten, slower than anyone honest makes them.
    pub(crate) fn forgive(&mut self, now: Instant) {
        if now.saturating_duration_since(self.forgiven_at) >= FORGIVE_EVERY {
            self.forgiven_at = now;
            self.strikes = self.strikes.saturating_sub(FORGIVEN_STRIKES);
            self.overflow = self.overflow.saturating_sub(FORGIVEN_OVERFLOW);
        }
    }

    /// Requests that were given up may still be answered.
    pub(crate) fn expect_late(&mut self, requests: usize) {
        self.forgiven = self.forgiven.saturating_add(requests as u32).min(MAX_LATE);
    }

    /// The peer rejected a request of ours.
    pub(crate) fn rejected(&mut self) -> Result<(), PeerFault> {
        self.rejects += 1;
        if self.rejects > MAX_REJECTS {
            return Err(PeerFault::TooMuchWaste);
        }
        if !self.peer_choking {
            self.failures.rejects = self.failures.rejects.saturating_add(1);
            // It serves us and yet does not: one request at a time until it sends a block.
            self.window.on_snub();
        }
        Ok(())
    }

    /// Lets the peer fetch `pieces` while choked.
    pub(crate) fn allow_fast(&mut self, pieces: Vec<PieceIndex>, bytes: u64) {
        pieces.iter().for_each(|piece| self.push(&Message::AllowedFast(*piece)));
        self.allowed_out = pieces;
        self.fast_credit = FAST_ROUNDS * bytes;
    }

    /// Whether `block` is served although the peer is choked; then it is paid for.
    pub(crate) fn take_fast(&mut self, block: Block) -> bool {
        let len = u64::from(block.len);
        let allowed = self.fast() && self.fast_credit >= len && self.allowed_out.contains(&block.piece);
        if allowed {
            self.fast_credit -= len;
        }
        allowed
    }

    /// Queues a request of the peer's, or rejects it when the queue is full.
    pub(crate) fn queue_upload(&mut self, block: Block) -> Result<(), PeerFault> {
        if self.uploads.len() < MAX_UPLOAD_QUEUE {
            self.uploads.push_back(block);
            return Ok(());
        }
        self.overflow += 1;
        if self.overflow > MAX_OVERFLOW || !self.fast() && self.overflow > MAX_UPLOAD_QUEUE as u32 {
            return Err(PeerFault::RequestFlood);
        }
        self.reject(block);
        Ok(())
    }

    /// Tells the peer that `block` will not come; peers without BEP 6 find out by themselves.
    pub(crate) fn reject(&mut self, block: Block) {
        if self.fast() {
            self.push(&Message::Reject(block));
        }
    }

    /// Remembers a hint of BEP 6. Nobody honest has more useless ones to give than two for each of `pieces`.
    pub(crate) fn hint(&mut self, allowed: bool, piece: PieceIndex, pieces: u32) -> Result<(), PeerFault> {
        let list = if allowed { &mut self.allowed_in } else { &mut self.suggested };
        if list.len() < MAX_HINTS && !list.contains(&piece) {
            list.push(piece);
            return Ok(());
        }
        self.useless_hints += 1;
        if self.useless_hints > pieces.saturating_mul(2).max(MAX_STRIKES) {
            Err(PeerFault::TooMuchWaste)
        } else {
            Ok(())
        }
    }

    /// Stops serving: queued requests are dropped, except those for allowed-fast pieces.
    pub(crate) fn choke(&mut self) {
        self.am_choking = true;
        self.push(&Message::Choke);
        let queued = std::mem::take(&mut self.uploads);
        for block in queued {
            if self.take_fast(block) {
                self.uploads.push_back(block);
            } else {
                self.reject(block);
            }
        }
    }

    /// Whether it does not answer requests, or rejects them although it serves us.
    pub(crate) fn sends_nothing(&self) -> bool {
        self.snubbed || self.rejects > 0 && !self.peer_choking
    }

    /// Whether it is asked for nothing for now.
    pub(crate) fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    /// Since when the peer has owed us blocks without sending any; `None` when nothing is owed.
    pub(crate) fn owing_for(&self, now: Instant) -> Option<Duration> {
        let oldest = self.outstanding.front()?;
        Some(now.saturating_duration_since(oldest.sent.max(self.last_block)))
    }
}

//! uTP connections as sockets of the ring: to the shard they look like TCP's.
//!
//! Role: moves bytes between receives and sends of [`super::Socket`]s and [`Connection`]s over connected UDP sockets.
//! Owner: the ring. A connection has a socket of its own, so the kernel sorts datagrams by peer and they arrive on the
//! shard that needs them. The ring polls it; reading and writing are plain calls (see [`io`]).
//!
//! Events follow from what is so ([`SocketRing::utp_event_of`]), not from what has happened: whoever changes a connection
//! lists it, and one that is listed in vain costs a look.
//!
//! Invariants: a connection with something to send is in `dirty` until the next flush; bytes that were delivered are in the
//! receive that is posted or in `unread`, and count as consumed only once they are in a receive; sent batches live until
//! the peer has acknowledged them, also when the shard has closed the socket: then the connection lingers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ccbt_protocol::deadlines::Deadlines;
use ccbt_protocol::utp::{Connection, Failure, Micros, Transmit};
use io_uring::{opcode, types};
use slab::Slab;

pub use self::ends::{Seat, UtpEnds, UtpSocket};
use self::io::{Datagrams, Outcome};
use self::outgoing::Outgoing;
use super::recv::RecvOp;
use super::send::SendBatch;
use super::user_data::{Op, UserData};
use super::{SocketKey, SocketRing};

mod ends;
pub mod io;
mod outgoing;
mod socket;

/// Bytes of packets that came too early, of all connections of a shard.
const EARLY_MAX: usize = 64 << 20;
/// Receive calls for one connection before others get their turn: 1 MiB of large datagrams.
const READS: usize = 16;
/// A socket whose datagrams keep coming is read once in such a time, as network cards hold back interrupts: to wake up, to
/// poll, to plan a receive and to acknowledge cost as much as many packets. A window lasts for longer, and a socket's
/// buffer holds one.
const PAUSE: Duration = Duration::from_micros(500);
/// A full socket is tried again after this time.
const RETRY: Duration = Duration::from_millis(2);
/// Packets too large for the interface in a row, before it is given a rest.
const REFUSED_MAX: usize = 16;
/// A closed connection has this long to deliver what was sent.
const LINGER: Duration = Duration::from_secs(3);
/// Connections that linger at most; others are reset.
const LINGERING_MAX: usize = 1024;
/// Datagrams of the DHT's that wait at most; more are lost.
const STRAYS_MAX: usize = 64;
/// Empty batches kept for reuse at most.
const SPARE_MAX: usize = 64;
/// Memory of a connection's unread bytes that is kept when they are read.
const KEPT: usize = 16 << 10;

/// What the clock of all connections of the process counts from: they may change the shard.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Time as connections want it.
pub fn micros(at: Instant) -> Micros {
    // Not 0: a timestamp difference of 0 means "unknown".
    at.saturating_duration_since(*EPOCH).as_micros() as Micros + 1
}

fn instant(at: Micros) -> Instant {
    *EPOCH + Duration::from_micros(at)
}

/// A connection outside of any ring.
#[derive(Debug)]
pub struct DetachedUtp {
    /// The connected UDP socket.
    pub socket: UtpSocket,
    /// Its state; nothing was sent but acknowledgements.
    pub conn: Connection,
    /// Bytes that were delivered and not received.
    pub unread: VecDeque<u8>,
}

struct Utp {
    conn: Connection,
    fd: RawFd,
    seat: Seat,
    generation: u32,
    /// Its socket; `None` once that is closed: then it lingers and owns the descriptor.
    key: Option<SocketKey>,
    own: Option<OwnedFd>,
    linger_until: Option<Instant>,
    outgoing: Outgoing,
    /// Bytes of the send in flight.
    sending: usize,
    unread: VecDeque<u8>,
    /// When the socket was read last, and when it is read next without a poll.
    read: Instant,
    read_at: Option<Instant>,
    /// It took nothing: when to send again.
    retry_at: Option<Instant>,
    /// Of the posted receive: bytes filled, and where the next one goes.
    filled: usize,
    place: Place,
    /// The posted receive ends at once; it was cancelled.
    at_once: bool,
    cancelled: bool,
    /// The shard waits for [`Event::Connected`].
    dialling: bool,
    /// It dials on when it hears that nobody listens.
    persists: bool,
    polling: bool,
    is_dirty: bool,
    is_listed: bool,
}

/// Where the next byte of a receive goes: number of the iovec, offset within it.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    pub nth: usize,
    pub offset: usize,
}

/// All of them.
pub(super) struct UtpSockets {
    slab: Slab<Box<Utp>>,
    generation: u32,
    deadlines: Deadlines,
    io: Datagrams,
    transmit: Transmit,
    /// To be pumped; to be looked at for events. Generations tell what is stale.
    dirty: Vec<(u32, u32)>,
    listed: VecDeque<(u32, u32)>,
    early: usize,
    lingering: usize,
    spare: Vec<SendBatch>,
    strays: VecDeque<(SocketAddr, Vec<u8>)>,
}

impl UtpSockets {
    pub fn new() -> Self {
        Self {
            slab: Slab::new(),
            generation: 0,
            deadlines: Deadlines::default(),
            io: Datagrams::new(),
            transmit: Transmit::default(),
            dirty: Vec::new(),
            listed: VecDeque::new(),
            early: 0,
            lingering: 0,
            spare: Vec::new(),
            strays: VecDeque::new(),
        }
    }

    pub fn has_events(&self) -> bool {
        !self.listed.is_empty() || !self.strays.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    fn get(&mut self, (index, generation): (u32, u32)) -> Option<&mut Utp> {
        self.slab.get_mut(index as usize).map(|utp| &mut **utp).filter(|utp| utp.generation == generation)
    }

    /// It has something to send, perhaps.
    fn soil(&mut self, index: u32) {
        let utp = &mut self.slab[index as usize];
        if !std::mem::replace(&mut utp.is_dirty, true) {
            self.dirty.push((index, utp.generation));
        }
    }

    /// There is an event to tell, perhaps.
    fn list(&mut self, index: u32) {
        let utp = &mut self.slab[index as usize];
        if utp.key.is_some() && !std::mem::replace(&mut utp.is_listed, true) {
            self.listed.push_back((index, utp.generation));
        }
    }
}

impl Utp {
    fn is_over(&self) -> bool {
        self.conn.failure().is_some() || self.conn.has_ended() && self.unread.is_empty()
    }

    fn error(&self) -> std::io::Error {
        use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, TimedOut};
        match self.conn.failure() {
            Some(Failure::TimedOut) => TimedOut.into(),
            Some(Failure::Refused) => ConnectionRefused.into(),
            Some(Failure::Reset) => ConnectionReset.into(),
            None => ConnectionAborted.into(),
        }
    }

    /// Moves unread bytes into the posted receive.
    fn fill(&mut self, recv: &mut RecvOp) {
        let mut moved = 0;
        loop {
            let (bytes, _) = self.unread.as_slices();
            let n = recv.fill(&mut self.place, bytes);
            self.unread.drain(..n);
            moved += n;
            if n == 0 {
                break;
            }
        }
        if self.unread.is_empty() && self.unread.capacity() > KEPT {
            self.unread = VecDeque::new();
        }
        self.filled += moved;
        self.conn.consumed(moved);
    }
}

impl SocketRing {
    /// Starts connecting over `socket`; `ids` are random.
    /// `Connected` follows.
    pub fn connect_utp(&mut self, socket: UtpSocket, ids: (u16, u16)) -> SocketKey {
        let conn = Connection::dial(io::config(&socket.fd), ids.0, ids.1);
        let key = self.add_utp(DetachedUtp { socket, conn, unread: VecDeque::new() });
        let index = self.utp_of(key);
        self.utp.slab[index as usize].dialling = true;
        key
    }

    /// Adds a connection.
    pub fn add_utp(&mut self, parts: DetachedUtp) -> SocketKey {
        let DetachedUtp { socket: UtpSocket { fd, seat }, conn, unread } = parts;
        let raw = fd.as_raw_fd();
        let key = self.add(fd);
        self.utp.generation = self.utp.generation.wrapping_add(1) & super::user_data::GENERATION_MASK;
        let generation = self.utp.generation;
        self.utp.early += conn.early_bytes();
        let utp = Utp {
            conn,
            fd: raw,
            seat,
            generation,
            key: Some(key),
            own: None,
            linger_until: None,
            outgoing: Outgoing::default(),
            sending: 0,
            unread,
            read: *EPOCH,
            read_at: None,
            retry_at: None,
            filled: 0,
            place: Place::default(),
            at_once: false,
            cancelled: false,
            dialling: false,
            persists: false,
            polling: false,
            is_dirty: false,
            is_listed: false,
        };
        let index = self.utp.slab.insert(Box::new(utp)) as u32;
        self.socket(key).utp = Some(index);
        self.poll_utp(index);
        self.utp.soil(index);
        key
    }

    fn utp_of(&self, key: SocketKey) -> u32 {
        self.get(key).and_then(|socket| socket.utp).expect("a uTP socket")
    }

    fn poll_utp(&mut self, index: u32) {
        let utp = &mut self.utp.slab[index as usize];
        if !std::mem::replace(&mut utp.polling, true) {
            let entry = opcode::PollAdd::new(types::Fd(utp.fd), libc::POLLIN as u32).build();
            let data = UserData::new(Op::Utp, utp.generation, index);
            self.push(entry, data);
        }
    }

    /// A poll has ended: takes in what has come.
    pub(super) fn utp_polled(&mut self, data: UserData) {
        let Some(utp) = self.utp.get((data.index, data.generation)) else { return };
        utp.polling = false;
        let is_busy = utp.read.elapsed() < PAUSE;
        self.read_utp(data.index, is_busy);
    }

    /// Takes in what has come; `is_busy`: if anything has, more will.
    fn read_utp(&mut self, index: u32, is_busy: bool) {
        let UtpSockets { slab, io, early, strays, .. } = &mut self.utp;
        let utp = &mut *slab[index as usize];
        let mut recv = utp.key.map(|key| &mut self.sockets[key.index as usize].recv);
        let others = *early - utp.conn.early_bytes();
        let mut any = false;
        for _ in 0..READS {
            utp.read = Instant::now();
            let now = micros(utp.read);
            let received = io.receive(utp.fd, &mut |bytes, segment| {
                any = true;
                for datagram in bytes.chunks(segment) {
                    if let (b'd', Some(peer)) = (datagram[0], utp.seat.peer()) {
                        if strays.len() < STRAYS_MAX {
                            strays.push_back((peer, datagram.to_vec()));
                        }
                        continue;
                    }
                    let room = EARLY_MAX.saturating_sub(others + utp.conn.early_bytes());
                    utp.take(now, datagram, room, recv.as_deref_mut());
                }
            });
            match received {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    if error.kind() == std::io::ErrorKind::ConnectionRefused {
                        utp.unreachable();
                    }
                    break;
                }
            }
        }
        *early = others + utp.conn.early_bytes();
        utp.read_at = (any && is_busy).then(|| utp.read + PAUSE);
        if utp.read_at.is_none() {
            self.poll_utp(index);
        }
        self.utp.soil(index);
        self.utp.list(index);
    }

    /// Sends what connections have to send.
    pub(super) fn flush_utp(&mut self) {
        while let Some(name) = self.utp.dirty.pop() {
            if let Some(utp) = self.utp.get(name) {
                utp.is_dirty = false;
                self.pump_utp(name.0);
            }
        }
    }

    fn pump_utp(&mut self, index: u32) {
        let UtpSockets { slab, io, transmit, deadlines, spare, .. } = &mut self.utp;
        let utp = &mut *slab[index as usize];
        let now = Instant::now();
        let mut refused = 0;
        utp.retry_at = None;
        while utp.conn.poll_transmit(micros(now), transmit) {
            match io.send(utp.fd, transmit, &utp.outgoing) {
                Outcome::Gone => {}
                Outcome::TooLarge if refused < REFUSED_MAX => {
                    refused += 1;
                    utp.conn.too_large(micros(now), transmit);
                }
                Outcome::Unreachable => {
                    utp.conn.unsent(transmit);
                    utp.unreachable();
                }
                Outcome::Full | Outcome::TooLarge => {
                    utp.conn.unsent(transmit);
                    utp.retry_at = Some(now + RETRY);
                    break;
                }
            }
        }
        if utp.outgoing.release(utp.conn.acked(), spare) {
            self.zero_copy.released = true;
        }
        deadlines.set(index as usize, utp.due());
        if utp.key.is_none() && utp.may_go(now) {
            return self.drop_utp(index);
        }
        self.utp.list(index);
    }

    /// Lets time pass for the connections that are due.
    pub fn run_utp_timers(&mut self, now: Instant) {
        while let Some(index) = self.utp.deadlines.pop(now) {
            if self.utp.slab[index].read_at.take_if(|at| *at <= now).is_some() {
                // First what has come: it may be what was waited for.
                self.read_utp(index as u32, true);
            }
            let utp = &mut *self.utp.slab[index];
            let now = micros(now.max(utp.read));
            if utp.conn.deadline().is_some_and(|at| at <= now) {
                utp.conn.handle_timeout(now);
            }
            self.utp.soil(index as u32);
        }
    }

    /// When [`Self::run_utp_timers`] has something to do.
    pub fn utp_deadline(&self) -> Option<Instant> {
        self.utp.deadlines.next()
    }

    fn drop_utp(&mut self, index: u32) {
        let utp = self.utp.slab.remove(index as usize);
        self.utp.deadlines.set(index as usize, None);
        self.utp.early -= utp.conn.early_bytes();
        self.utp.lingering -= usize::from(utp.key.is_none());
        if utp.polling {
            // It reads no memory of ours, but holds the descriptor open.
            let target = UserData::new(Op::Utp, utp.generation, index).pack();
            self.push(opcode::AsyncCancel::new(target).build(), UserData::new(Op::Cancel, 0, 0));
        }
    }
}

impl Utp {
    fn take(&mut self, now: Micros, datagram: &[u8], room: usize, mut recv: Option<&mut RecvOp>) {
        let (mut placed, mut dropped) = (0, 0);
        let (place, unread) = (&mut self.place, &mut self.unread);
        self.conn.handle(now, datagram, room, &mut |mut bytes| {
            let Some(recv) = recv.as_deref_mut() else {
                dropped += bytes.len();
                return;
            };
            if recv.in_flight && unread.is_empty() {
                let n = recv.fill(place, bytes);
                placed += n;
                bytes = &bytes[n..];
            }
            unread.extend(bytes);
        });
        self.filled += placed;
        self.conn.consumed(placed + dropped);
    }

    /// When time brings something. Every change of it soils the connection.
    fn due(&self) -> Option<Instant> {
        let timer = self.conn.deadline().map(instant);
        [timer, self.read_at, self.retry_at, self.linger_until].into_iter().flatten().min()
    }

    /// The other host says that nobody listens. Who dials believes it; later it may be anybody's word.
    fn unreachable(&mut self) {
        if !self.conn.is_open() && !self.persists {
            self.conn.abort();
        }
    }

    /// A closed connection has nothing left to do, or no time.
    fn may_go(&self, now: Instant) -> bool {
        let is_done = self.conn.is_flushed() && self.conn.has_ended();
        self.conn.failure().is_some() || is_done || self.linger_until.is_some_and(|until| until <= now)
    }
}

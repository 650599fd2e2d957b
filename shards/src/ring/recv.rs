//! Receive: RECVMSG scattered over a connection's scratch and the places of the blocks it expects.

use std::io;

use ccbt_protocol::fetching::MESSAGE_LEN_MAX;
use ccbt_protocol::geometry::Block;
use ccbt_protocol::wire::mse::Rc4;
use ccbt_protocol::wire::receiver::{Receiver, Segment};
use ccbt_storage::ring::features::Feature;
use io_uring::{cqueue, opcode, types};

use super::user_data::{Op, UserData};
use super::utp::Place;
use super::{LivePiece, PiecePin, SocketKey, SocketRing};

/// Most segments of one receive: 64 blocks, their headers, and the scratch at the end. 1 MiB is what one call moves at
/// most; more would only grow the iovec array of every connection.
pub const MAX_SEGMENTS: usize = 130;
/// Scratch of a connection: headers of one plan (65 × 13 bytes) and room for small messages behind them.
pub const SCRATCH_LEN: usize = 4096;
/// The same while a connection idles: a handshake, and the messages that come now and then.
pub const IDLE_SCRATCH_LEN: usize = 256;
/// Receives in a row that bring half of that at most, after which a connection idles.
const QUIET: u8 = 4;
/// `IORING_RECVSEND_POLL_FIRST`: do not try, wait for readiness at once.
const POLL_FIRST: u16 = 1;

/// Where the blocks of a plan lie.
pub trait Places {
    /// The piece being downloaded, when it is.
    fn piece(&self, block: Block) -> Option<&LivePiece>;
}

/// The receive of one socket.
pub struct RecvOp {
    pub in_flight: bool,
    /// It waits for something to receive.
    pub watching: bool,
    /// The socket was drained by the last receive: polling first saves a call that would find nothing.
    drained: bool,
    /// The last receive filled its scratch.
    filled: bool,
    /// Receives in a row that brought little, up to [`QUIET`].
    quiet: u8,
    receiver: Receiver,
    header: libc::msghdr,
    iovecs: Vec<libc::iovec>,
    segments: Vec<Segment>,
    pins: Vec<PiecePin>,
}

impl RecvOp {
    pub fn new() -> Self {
        // SAFETY: all-zero is a valid msghdr (null pointers, zero lengths).
        let header = unsafe { std::mem::zeroed() };
        Self {
            in_flight: false,
            watching: false,
            drained: true,
            filled: false,
            quiet: 0,
            receiver: Receiver::new(IDLE_SCRATCH_LEN, MESSAGE_LEN_MAX),
            header,
            iovecs: Vec::new(),
            segments: Vec::new(),
            pins: Vec::new(),
        }
    }

    /// A receive of `n` bytes has ended.
    pub fn done(&mut self, n: usize, flags: u32) {
        self.in_flight = false;
        self.filled = n >= self.receiver.scratch_len();
        self.quiet = if n <= IDLE_SCRATCH_LEN / 2 { (self.quiet + 1).min(QUIET) } else { 0 };
        self.drained = !cqueue::sock_nonempty(flags);
        self.pins.clear();
    }

    /// Copies the first of `bytes` to where the receive under way wants its next ones, and moves `place` on; returns how
    /// many it took.
    pub fn fill(&mut self, place: &mut Place, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while self.in_flight
            && taken < bytes.len()
            && let Some(iovec) = self.iovecs.get(place.nth)
        {
            let n = (iovec.iov_len - place.offset).min(bytes.len() - taken);
            // SAFETY: `scatter` and `recv_plain` have made the iovec from memory of this receive: scratch of the
            // receiver, or a piece that is pinned; both stay in place, and belong to this receive alone, while
            // `in_flight` is set. The range is within it, and `bytes` is no part of it.
            unsafe {
                let to = iovec.iov_base.cast::<u8>().add(place.offset);
                std::ptr::copy_nonoverlapping(bytes.as_ptr().add(taken), to, n);
            }
            (taken, place.offset) = (taken + n, place.offset + n);
            if place.offset == iovec.iov_len {
                *place = Place { nth: place.nth + 1, offset: 0 };
            }
        }
        taken
    }

    /// Decrypts the `n` bytes that the receive under way has brought, where they lie.
    pub fn decrypt(&mut self, n: usize, cipher: &mut Rc4) {
        let mut left = n;
        for iovec in &self.iovecs {
            let len = iovec.iov_len.min(left);
            // SAFETY: as in `fill`, and the kernel is through with it: its completion is being taken in.
            let bytes = unsafe { std::slice::from_raw_parts_mut(iovec.iov_base.cast::<u8>(), len) };
            cipher.apply(bytes);
            left -= len;
        }
    }

    pub fn watched(&mut self) {
        self.watching = false;
        self.drained = false;
    }

    /// Gives the next receive as much memory as it will need: a thousand connections that idle need little.
    fn fit(&mut self, expects_blocks: bool) {
        let is_large = self.receiver.scratch_len() == SCRATCH_LEN;
        if expects_blocks || self.filled {
            self.quiet = 0;
            if !is_large {
                self.receiver.resize_scratch(SCRATCH_LEN);
            }
        } else if is_large && self.quiet == QUIET {
            self.receiver.resize_scratch(IDLE_SCRATCH_LEN);
            (self.iovecs, self.segments, self.pins) = (Vec::new(), Vec::new(), Vec::new());
        }
    }

    #[cfg(test)]
    pub fn scratch_len(&self) -> usize {
        self.receiver.scratch_len()
    }

    fn scatter(&mut self, places: &impl Places, max_bytes: usize) {
        self.iovecs.clear();
        let mut left = max_bytes.max(1);
        let mut last_piece = None;
        for segment in &self.segments {
            let (ptr, len) = match *segment {
                Segment::Scratch { start, len } => {
                    assert!((start + len) as usize <= self.receiver.scratch_len());
                    (self.receiver.scratch_ptr().wrapping_add(start as usize), len)
                }
                Segment::Block { block, offset, len } => {
                    let piece = places.piece(block).expect("a planned block has its place");
                    let (pin, ptr) = piece.place(block, offset, len);
                    if last_piece != Some(block.piece) {
                        self.pins.push(pin);
                        last_piece = Some(block.piece);
                    }
                    (ptr, len)
                }
            };
            let len = (len as usize).min(left);
            left -= len;
            self.iovecs.push(libc::iovec { iov_base: ptr.cast(), iov_len: len });
            if left == 0 {
                break;
            }
        }
        self.header.msg_iov = self.iovecs.as_mut_ptr();
        self.header.msg_iovlen = self.iovecs.len();
    }
}

impl SocketRing {
    /// Starts a receive of at most `max_bytes`, planned from the blocks `expected` next, oldest request first; each of
    /// them must have its place and be expected in place from this socket alone. With `at_once` it ends at once, with
    /// `EAGAIN` when there is nothing to receive.
    pub fn recv(
        &mut self,
        key: SocketKey,
        expected: impl Iterator<Item = Block>,
        places: &impl Places,
        max_bytes: usize,
        at_once: bool,
    ) {
        let recv = &mut self.socket(key).recv;
        assert!(!recv.in_flight, "two receives on one socket");
        let mut expected = expected.peekable();
        recv.fit(expected.peek().is_some());
        recv.segments.clear();
        recv.segments.extend_from_slice(recv.receiver.plan(expected, MAX_SEGMENTS));
        recv.scatter(places, max_bytes);
        self.submit_recv(key, at_once);
    }

    /// Waits for something to receive; [`super::Event::Readable`] comes then. Not while a receive is in flight.
    pub fn watch(&mut self, key: SocketKey) {
        let socket = self.socket(key);
        assert!(
            !socket.closing && !socket.recv.in_flight && !socket.recv.watching,
            "a second look at a socket"
        );
        socket.recv.watching = true;
        if let Some(index) = socket.utp {
            return self.watch_utp(index);
        }
        let entry = opcode::PollAdd::new(types::Fd(socket.raw_fd()), libc::POLLIN as u32).build();
        self.push(entry, UserData::new(Op::Watch, key.generation, key.index));
    }

    /// Whether the socket was not empty when it was last looked at.
    pub fn has_bytes(&self, key: SocketKey) -> bool {
        self.get(key).is_some_and(|socket| match socket.utp {
            Some(index) => self.utp_has_bytes(index),
            None => !socket.recv.drained,
        })
    }

    /// Starts a receive of plain bytes: a handshake.
    pub fn recv_plain(&mut self, key: SocketKey) {
        let recv = &mut self.socket(key).recv;
        assert!(!recv.in_flight, "two receives on one socket");
        recv.segments.clear();
        let len = recv.receiver.scratch_len();
        recv.segments.push(Segment::Scratch { start: 0, len: len as u32 });
        let iovec = libc::iovec { iov_base: recv.receiver.scratch_ptr().cast(), iov_len: len };
        recv.iovecs.clear();
        recv.iovecs.push(iovec);
        recv.header.msg_iov = recv.iovecs.as_mut_ptr();
        recv.header.msg_iovlen = 1;
        self.submit_recv(key, false);
    }

    fn submit_recv(&mut self, key: SocketKey, at_once: bool) {
        let poll_first = if self.features.has(Feature::PollFirst) { POLL_FIRST } else { 0 };
        let socket = self.socket(key);
        assert!(!socket.closing, "a receive on a closing socket");
        if let Some(index) = socket.utp {
            return self.recv_utp(key, index, at_once);
        }
        socket.recv.in_flight = true;
        let ioprio = if socket.recv.drained && !at_once { poll_first } else { 0 };
        let flags = if at_once { libc::MSG_DONTWAIT as u32 } else { 0 };
        let fd = types::Fd(socket.raw_fd());
        let entry = opcode::RecvMsg::new(fd, &raw mut socket.recv.header).ioprio(ioprio).flags(flags).build();
        self.push(entry, UserData::new(Op::Recv, key.generation, key.index));
    }

    /// Whether a receive is in flight; `false` for a socket that is gone.
    pub fn is_receiving(&self, key: SocketKey) -> bool {
        self.get(key).is_some_and(|socket| socket.recv.in_flight)
    }

    /// Whether a receive is in flight or waited for; `false` for a socket that is gone.
    pub fn is_reading(&self, key: SocketKey) -> bool {
        self.get(key).is_some_and(|socket| socket.recv.in_flight || socket.recv.watching)
    }

    /// Whether the receive in flight may write into `block`'s place; `false` for a socket that is gone.
    pub fn may_write(&self, key: SocketKey, block: Block) -> bool {
        let Some(recv) = self.get(key).map(|socket| &socket.recv) else { return false };
        recv.in_flight
            && recv.segments.iter().any(|s| matches!(s, Segment::Block { block: b, .. } if *b == block))
    }

    /// Asks the kernel to end the receive in flight early; its [`super::Event::Received`] comes as usual, with
    /// `ECANCELED` when nothing had arrived.
    pub fn cancel_recv(&mut self, key: SocketKey) {
        let socket = self.socket(key);
        match socket.utp {
            _ if !socket.recv.in_flight => {}
            Some(index) => self.cancel_recv_utp(index),
            None => self.cancel(Op::Recv, key),
        }
    }

    /// The bytes of a [`SocketRing::recv_plain`] that returned `n`.
    pub fn plain_bytes(&mut self, key: SocketKey, n: usize) -> &[u8] {
        let recv = &mut self.socket(key).recv;
        assert!(!recv.in_flight);
        recv.receiver.scratch(n)
    }

    /// The message parser of this socket, between receives.
    pub fn receiver(&mut self, key: SocketKey) -> &mut Receiver {
        let recv = &mut self.socket(key).recv;
        assert!(!recv.in_flight, "the parser is the kernel's while a receive is in flight");
        &mut recv.receiver
    }
}

/// Receives end with these when they were cancelled, not when the connection broke.
pub fn was_cancelled(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::EINTR))
}

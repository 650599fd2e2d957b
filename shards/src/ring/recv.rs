//! Receive: RECVMSG scattered over a connection's scratch and the places of the blocks it expects, or, while it expects
//! none, RECV into a buffer that the kernel picks from those all sockets share. So an idle connection holds no memory.

use std::io;

use ccbt_protocol::geometry::Block;
use ccbt_protocol::wire::receiver::{Receiver, Segment, Sink};
use io_uring::{cqueue, opcode, squeue, types};

use super::shared;
use super::user_data::{Op, UserData};
use super::{LivePiece, PiecePin, SocketKey, SocketRing};

/// Most segments of one receive: 64 blocks, their headers, and the scratch at the end. 1 MiB is what one call moves at
/// most; more would only grow the iovec array of every connection.
pub const MAX_SEGMENTS: usize = 130;
/// Scratch of a connection: headers of one plan (65 × 13 bytes) and room for small messages behind them.
pub const SCRATCH_LEN: usize = 4096;
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
    /// The shared buffer that the last receive went to, until its bytes were looked at.
    picked: Option<u16>,
    /// The socket was drained by the last receive: polling first saves a call that would find nothing.
    drained: bool,
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
            picked: None,
            drained: true,
            receiver: Receiver::new(SCRATCH_LEN, 1 << 20),
            header,
            iovecs: Vec::new(),
            segments: Vec::new(),
            pins: Vec::new(),
        }
    }

    pub fn done(&mut self, result: &io::Result<usize>, flags: u32) {
        self.in_flight = false;
        self.picked = cqueue::buffer_select(flags);
        // Without a buffer nothing was taken out of the socket.
        self.drained = !cqueue::sock_nonempty(flags) && !result.as_ref().is_err_and(found_no_buffer);
        self.pins.clear();
    }

    /// Lets go of all that only scattered receives need.
    fn rest(&mut self) {
        self.receiver.rest();
        (self.iovecs, self.segments, self.pins) = (Vec::new(), Vec::new(), Vec::new());
    }

    fn scatter(&mut self, places: &impl Places, max_bytes: usize) {
        self.iovecs.clear();
        let mut left = max_bytes.max(1);
        let mut last_piece = None;
        for segment in &self.segments {
            let (ptr, len) = match *segment {
                Segment::Scratch { start, len } => {
                    assert!((start + len) as usize <= SCRATCH_LEN);
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
    /// them must have its place and be expected in place from this socket alone. [`SocketRing::commit`] follows its end.
    pub fn recv(
        &mut self,
        key: SocketKey,
        expected: impl Iterator<Item = Block>,
        places: &impl Places,
        max_bytes: usize,
    ) {
        let mut expected = expected.peekable();
        let has_shared = self.shared.is_some();
        let recv = &mut self.socket(key).recv;
        assert!(!recv.in_flight, "two receives on one socket");
        if has_shared && expected.peek().is_none() && recv.receiver.current().is_none() {
            return self.recv_shared(key, max_bytes);
        }
        recv.segments.clear();
        recv.segments.extend_from_slice(recv.receiver.plan(expected, MAX_SEGMENTS));
        recv.scatter(places, max_bytes);
        self.submit_recv(key);
    }

    /// Starts a receive of plain bytes: a handshake. [`SocketRing::plain_bytes`] follows its end.
    pub fn recv_plain(&mut self, key: SocketKey) {
        if self.shared.is_some() {
            return self.recv_shared(key, shared::LEN);
        }
        let recv = &mut self.socket(key).recv;
        assert!(!recv.in_flight, "two receives on one socket");
        recv.segments.clear();
        recv.segments.push(Segment::Scratch { start: 0, len: SCRATCH_LEN as u32 });
        let iovec = libc::iovec { iov_base: recv.receiver.scratch_ptr().cast(), iov_len: SCRATCH_LEN };
        recv.iovecs.clear();
        recv.iovecs.push(iovec);
        recv.header.msg_iov = recv.iovecs.as_mut_ptr();
        recv.header.msg_iovlen = 1;
        self.submit_recv(key);
    }

    fn submit_recv(&mut self, key: SocketKey) {
        let (fd, ioprio) = self.begin_recv(key);
        let header = &raw mut self.socket(key).recv.header;
        let entry = opcode::RecvMsg::new(fd, header).ioprio(ioprio).build();
        self.push(entry, UserData::new(Op::Recv, key.generation, key.index));
    }

    /// Starts a receive into a buffer of the kernel's choice.
    fn recv_shared(&mut self, key: SocketKey, max_bytes: usize) {
        let recv = &mut self.socket(key).recv;
        assert!(!recv.in_flight, "two receives on one socket");
        recv.rest();
        let (fd, ioprio) = self.begin_recv(key);
        let len = max_bytes.clamp(1, shared::LEN) as u32;
        let entry = opcode::Recv::new(fd, std::ptr::null_mut(), len)
            .buf_group(shared::GROUP)
            .ioprio(ioprio)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push(entry, UserData::new(Op::Recv, key.generation, key.index));
    }

    fn begin_recv(&mut self, key: SocketKey) -> (types::Fd, u16) {
        let socket = self.socket(key);
        assert!(!socket.closing, "a receive on a closing socket");
        assert!(socket.recv.picked.is_none(), "the bytes of the last receive were not looked at");
        socket.recv.in_flight = true;
        (types::Fd(socket.raw_fd()), if socket.recv.drained { POLL_FIRST } else { 0 })
    }

    /// Takes in the `n` bytes (0 after an error) of the receive that has ended; see [`Receiver::commit`].
    pub fn commit<S: Sink>(
        &mut self,
        key: SocketKey,
        n: usize,
        spill: &mut Vec<u8>,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let Some(id) = self.socket(key).recv.picked.take() else {
            return self.receiver(key).commit(n, spill, sink);
        };
        let buffers = self.shared.as_mut().expect("the buffer is one of them");
        let receiver = &mut self.sockets[key.index()].recv.receiver;
        let result = receiver.feed(buffers.bytes(id, n), sink);
        buffers.give_back(id);
        result
    }

    /// Gives the buffer back whose bytes nobody will look at any more.
    pub(super) fn drop_picked(&mut self, key: SocketKey) {
        if let Some(id) = self.socket(key).recv.picked.take() {
            self.shared.as_mut().expect("the buffer is one of them").give_back(id);
        }
    }

    /// Whether a receive is in flight; `false` for a socket that is gone.
    pub fn is_receiving(&self, key: SocketKey) -> bool {
        self.get(key).is_some_and(|socket| socket.recv.in_flight)
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
        if self.socket(key).recv.in_flight {
            self.cancel(Op::Recv, key);
        }
    }

    /// The bytes of a [`SocketRing::recv_plain`] that returned `n`.
    pub fn plain_bytes(&mut self, key: SocketKey, n: usize) -> Vec<u8> {
        let recv = &self.get(key).expect("a socket that is gone").recv;
        assert!(!recv.in_flight);
        let bytes = match (recv.picked, &self.shared) {
            (Some(id), Some(buffers)) => buffers.bytes(id, n),
            _ => recv.receiver.scratch(n),
        };
        let bytes = bytes.to_vec();
        self.drop_picked(key);
        bytes
    }

    /// The message parser of this socket, between receives.
    pub fn receiver(&mut self, key: SocketKey) -> &mut Receiver {
        let recv = &mut self.socket(key).recv;
        assert!(!recv.in_flight, "the parser is the kernel's while a receive is in flight");
        &mut recv.receiver
    }
}

/// Receives end with these when they were cancelled or all shared buffers were in use, not when the connection broke.
pub fn was_cancelled(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::EINTR)) || found_no_buffer(error)
}

fn found_no_buffer(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}

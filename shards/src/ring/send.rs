//! Send: SENDMSG gathered from a head buffer (messages, piece headers) and read slots (payload).

use std::io;
use std::rc::Rc;

use ccbt_storage::arena::PieceBuf;
use io_uring::{opcode, types};

use super::user_data::{Op, UserData};
use super::{SocketKey, SocketRing};

/// Most payload parts of one batch; with a header before each this stays below the kernel's 1024 iovecs.
pub const MAX_PARTS: usize = 64;

/// What one send carries, in order. Filled by the caller, owned by the ring while in flight, and reused.
#[derive(Default)]
pub struct SendBatch {
    head: Vec<u8>,
    parts: Vec<Part>,
    len: usize,
}

enum Part {
    Head { start: usize, len: usize },
    Slot { slot: Rc<PieceBuf>, start: usize, len: usize },
}

impl SendBatch {
    /// Appends message bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let start = self.head.len();
        self.head.extend_from_slice(bytes);
        self.len += bytes.len();
        match self.parts.last_mut() {
            Some(Part::Head { start: at, len }) if *at + *len == start => *len += bytes.len(),
            _ => self.parts.push(Part::Head { start, len: bytes.len() }),
        }
    }

    /// Appends `len` bytes of `slot` from `start`. Panics past its end.
    pub fn slot(&mut self, slot: &Rc<PieceBuf>, start: usize, len: usize) {
        assert!(start + len <= slot.len());
        self.len += len;
        self.parts.push(Part::Slot { slot: slot.clone(), start, len });
    }

    /// Bytes in the batch.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether another payload part should wait for the next batch.
    pub fn is_full(&self) -> bool {
        self.parts.len() >= 2 * MAX_PARTS
    }

    fn clear(&mut self) {
        self.head.clear();
        self.parts.clear();
        self.len = 0;
        // A bitfield of a huge torrent passed through once: do not keep its memory for ever.
        if self.head.capacity() > 64 * 1024 {
            self.head = Vec::new();
        }
    }
}

/// The send of one socket.
pub struct SendOp {
    pub in_flight: bool,
    batch: SendBatch,
    sent: usize,
    header: libc::msghdr,
    iovecs: Vec<libc::iovec>,
}

impl SendOp {
    pub fn new() -> Self {
        // SAFETY: all-zero is a valid msghdr (null pointers, zero lengths).
        let header = unsafe { std::mem::zeroed() };
        Self { in_flight: false, batch: SendBatch::default(), sent: 0, header, iovecs: Vec::new() }
    }

    /// Lays the unsent rest of the batch out as iovecs.
    fn gather(&mut self) {
        self.iovecs.clear();
        let mut skip = self.sent;
        for part in &self.batch.parts {
            let bytes = match part {
                Part::Head { start, len } => &self.batch.head[*start..*start + *len],
                Part::Slot { slot, start, len } => &slot.as_slice()[*start..*start + *len],
            };
            if skip >= bytes.len() {
                skip -= bytes.len();
                continue;
            }
            let bytes = &bytes[skip..];
            skip = 0;
            self.iovecs
                .push(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
        }
        self.header.msg_iov = self.iovecs.as_mut_ptr();
        self.header.msg_iovlen = self.iovecs.len();
    }

    /// Takes in a completion; `None` when a rest must be submitted.
    pub fn done(&mut self, result: io::Result<usize>) -> Option<io::Result<usize>> {
        self.in_flight = false;
        let result = match result {
            Ok(n) => {
                self.sent += n;
                if n > 0 && self.sent < self.batch.len {
                    return None;
                }
                Ok(self.sent)
            }
            Err(error) => Err(error),
        };
        self.sent = 0;
        self.batch.clear();
        Some(result)
    }
}

impl SocketRing {
    /// Whether a send is in flight.
    pub fn sending(&mut self, key: SocketKey) -> bool {
        self.socket(key).send.in_flight
    }

    /// The batch to fill for the next send; only while none is in flight.
    pub fn batch(&mut self, key: SocketKey) -> &mut SendBatch {
        let send = &mut self.socket(key).send;
        assert!(!send.in_flight, "the batch is the kernel's while a send is in flight");
        &mut send.batch
    }

    /// Sends the filled batch; [`super::Event::Sent`] comes when all of it is out. Nothing happens for an empty one.
    pub fn send(&mut self, key: SocketKey) {
        if !self.batch(key).is_empty() {
            self.submit_send(key);
        }
    }

    pub(super) fn submit_send(&mut self, key: SocketKey) {
        let socket = self.socket(key);
        if socket.closing {
            return;
        }
        socket.send.gather();
        socket.send.in_flight = true;
        let fd = types::Fd(socket.raw_fd());
        let entry =
            opcode::SendMsg::new(fd, &raw const socket.send.header).flags(libc::MSG_NOSIGNAL as u32).build();
        self.push(entry, UserData::new(Op::Send, key.generation, key.index));
    }
}

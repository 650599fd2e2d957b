//! Send: SENDMSG gathered from a head buffer (messages, piece headers) and read slots (payload).

use std::io;
use std::rc::Rc;

use ccbt_protocol::wire::mse::{Ciphers, Rc4};
use ccbt_storage::arena::PieceBuf;
use io_uring::{opcode, types};

use super::user_data::{Op, UserData};
use super::zero_copy::REPORT_USAGE;
use super::{SocketKey, SocketRing};
use crate::zero_copy::ZeroCopyConn;

/// Most payload parts of one batch; with a header before each this stays below the kernel's 1024 iovecs.
pub const MAX_PARTS: usize = 64;
/// Bytes of encrypted batches, which are copies, in flight at all connections of a shard before new ones become short:
/// peers that take what they asked for at their leisure would hold memory that no ceiling counts.
const ENCRYPTED_MAX: usize = 16 << 20;
/// Bytes of such a batch then.
const SHORT_BATCH: usize = 64 << 10;

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

    /// Whether there is anything but messages.
    pub(super) fn has_payload(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Slot { .. }))
    }

    /// Encrypts all of it. Read slots are others' as well, so it becomes a copy.
    pub(super) fn encrypt(&mut self, cipher: &mut Rc4) {
        let mut all = Vec::with_capacity(self.len);
        for part in &self.parts {
            all.extend_from_slice(self.bytes_of(part));
        }
        cipher.apply(&mut all);
        self.clear();
        self.len = all.len();
        self.parts.push(Part::Head { start: 0, len: all.len() });
        self.head = all;
    }

    /// The bytes of part number `nth`.
    pub(super) fn part(&self, nth: usize) -> Option<&[u8]> {
        self.parts.get(nth).map(|part| self.bytes_of(part))
    }

    fn bytes_of<'a>(&'a self, part: &'a Part) -> &'a [u8] {
        match part {
            Part::Head { start, len } => &self.head[*start..*start + *len],
            Part::Slot { slot, start, len } => &slot.as_slice()[*start..*start + *len],
        }
    }

    pub(super) fn clear(&mut self) {
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
    /// Bytes of the batch that are an encrypted copy.
    encrypted: usize,
    header: libc::msghdr,
    iovecs: Vec<libc::iovec>,
    /// What was learnt about sending without a copy.
    pub zero_copy: ZeroCopyConn,
    /// Where the batch goes when parts of it were sent without a copy.
    pub hold: Option<u32>,
    /// The send in flight is one without a copy.
    pub is_zero_copy: bool,
    /// The kernel would not send without a copy: the same again with one.
    pub refused: bool,
}

impl SendOp {
    pub fn new() -> Self {
        // SAFETY: all-zero is a valid msghdr (null pointers, zero lengths).
        let header = unsafe { std::mem::zeroed() };
        Self {
            in_flight: false,
            batch: SendBatch::default(),
            sent: 0,
            encrypted: 0,
            header,
            iovecs: Vec::new(),
            zero_copy: ZeroCopyConn::Unknown,
            hold: None,
            is_zero_copy: false,
            refused: false,
        }
    }

    pub fn batch_len(&self) -> usize {
        self.batch.len
    }

    pub fn has_payload(&self) -> bool {
        self.batch.has_payload()
    }

    pub fn replace_batch(&mut self, by: SendBatch) -> SendBatch {
        std::mem::replace(&mut self.batch, by)
    }

    /// Lays the unsent rest of the batch out as iovecs.
    fn gather(&mut self) {
        self.iovecs.clear();
        let mut skip = self.sent;
        for part in &self.batch.parts {
            let bytes = self.batch.bytes_of(part);
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

    /// Takes in a completion; `None` when a rest must be submitted. The batch stays until it is taken away.
    pub fn done(&mut self, result: io::Result<usize>) -> Option<io::Result<usize>> {
        self.in_flight = false;
        self.is_zero_copy = false;
        let result = match result {
            Err(_) if std::mem::take(&mut self.refused) => return None,
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
        let socket = self.socket(key);
        if let Some(ciphers) = &mut socket.ciphers {
            socket.send.batch.encrypt(&mut ciphers.outgoing);
            let len = socket.send.batch.len();
            let before = std::mem::replace(&mut socket.send.encrypted, len);
            self.encrypted = self.encrypted - before + len;
        }
        self.send_encrypted(key);
    }

    /// As [`Self::send`], of bytes that are encrypted already if they have to be.
    pub fn send_encrypted(&mut self, key: SocketKey) {
        if !self.batch(key).is_empty() {
            self.submit_send(key);
        }
    }

    /// Bytes that the next batch of a connection may have, of `most`.
    pub fn batch_room(&self, key: SocketKey, most: usize) -> usize {
        let is_encrypted = self.sockets[key.index as usize].ciphers.is_some();
        if is_encrypted && self.encrypted > ENCRYPTED_MAX { most.min(SHORT_BATCH) } else { most }
    }

    /// From now on, what is received and sent is decrypted and encrypted; `None`: as it is.
    pub fn set_ciphers(&mut self, key: SocketKey, ciphers: Option<Box<Ciphers>>) {
        self.socket(key).ciphers = ciphers;
    }

    /// The ciphers of an encrypted stream.
    pub fn ciphers(&mut self, key: SocketKey) -> Option<&mut Ciphers> {
        self.socket(key).ciphers.as_deref_mut()
    }

    /// Takes the ciphers out, for another ring.
    pub fn take_ciphers(&mut self, key: SocketKey) -> Option<Box<Ciphers>> {
        self.socket(key).ciphers.take()
    }

    pub(super) fn submit_send(&mut self, key: SocketKey) {
        let socket = &mut **self.sockets.get_mut(key.index as usize).expect("a socket that is gone");
        if socket.closing {
            return;
        }
        if let Some(index) = socket.utp {
            return self.send_utp(key, index);
        }
        socket.send.gather();
        socket.send.in_flight = true;
        let fd = types::Fd(socket.raw_fd());
        let (send, ends) = socket.send_and_ends();
        let hold = self.zero_copy.begin(key, send, ends);
        socket.send.is_zero_copy = hold.is_some();
        let header = &raw const socket.send.header;
        // MSG_WAITALL: the kernel sends what the socket buffer had no room for when there is, without asking us.
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
        let Some(hold) = hold else {
            let entry = opcode::SendMsg::new(fd, header).flags(flags).build();
            return self.push(entry, UserData::new(Op::Send, key.generation, key.index));
        };
        let entry = opcode::SendMsgZc::new(fd, header).ioprio(REPORT_USAGE).flags(flags).build();
        #[cfg(test)]
        let entry = if self.zero_copy.fault.is_some() { opcode::Nop::new().build() } else { entry };
        self.push(entry, UserData::new(Op::SendZc, 0, hold));
    }

    /// The batch of a send that is over, or will not go on: reused, or held until the kernel needs it no more.
    pub(super) fn finish_batch(&mut self, key: SocketKey) {
        let send = &mut self.sockets[key.index as usize].send;
        self.encrypted -= std::mem::take(&mut send.encrypted);
        match send.hold.take() {
            Some(hold) => self.zero_copy.keep(hold, send),
            None => send.batch.clear(),
        }
    }
}

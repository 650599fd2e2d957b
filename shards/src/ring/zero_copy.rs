//! Sends without a copy (`IORING_OP_SENDMSG_ZC`): what the kernel still reads when a send has completed.
//!
//! Role: holds batches until the kernel says that it needs them no more, and falls back to plain sends where it
//! refuses. Owner: the ring. Invariants: a batch is let go of only after the completion of each of its sends, and the
//! notification (`IORING_CQE_F_NOTIF`) of each that announced one (`IORING_CQE_F_MORE`), even when its socket is long
//! closed; a socket that is closed with batches held stays open to the kernel until they are acknowledged, for two
//! seconds at most: then the connection is reset, so that a peer that vanished cannot keep memory of ours.
//!
//! Life of a [`Hold`]: made with the first send of a batch → given the batch when that went out or its socket closed →
//! gone with the last notification.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use ccbt_storage::ring::features::Feature;
use io_uring::cqueue;

use super::send::{SendBatch, SendOp};
use super::{Event, SocketKey, SocketRing};
use crate::zero_copy::{ZeroCopyConn, ZeroCopyRule, ZeroCopySend};

/// `IORING_SEND_ZC_REPORT_USAGE`: the notification tells whether the kernel copied.
pub const REPORT_USAGE: u16 = 1 << 3;
/// `IORING_NOTIF_USAGE_ZC_COPIED`, in the result of a notification.
const COPIED: u32 = 1 << 31;
/// Empty batches kept for reuse at most.
const SPARE_MAX: usize = 64;

/// A batch that the kernel may still read.
pub struct Hold {
    key: SocketKey,
    /// Completions and notifications to come.
    pending: u32,
    len: usize,
    /// The socket has it while it is being sent.
    batch: Option<SendBatch>,
}

/// A closed socket whose last bytes are not acknowledged.
struct Lingering {
    key: SocketKey,
    fd: OwnedFd,
    is_late: bool,
}

/// The ring's part for sends without a copy.
pub struct ZeroCopy {
    rule: ZeroCopyRule,
    holds: slab::Slab<Hold>,
    lingering: Vec<Lingering>,
    spare: Vec<SendBatch>,
    /// Memory was let go of since the last [`Event::Released`].
    pub released: bool,
    /// A refusal was told.
    told: bool,
    /// Sends submitted, for metrics and tests.
    pub sends: u64,
    /// Notifications that said "copied".
    pub copied: u64,
    /// The next send fails with this error number instead of being submitted.
    #[cfg(test)]
    pub fault: Option<i32>,
}

impl ZeroCopy {
    pub fn new(mode: ZeroCopySend, held_max: usize) -> Self {
        Self {
            rule: ZeroCopyRule::new(mode, held_max),
            holds: slab::Slab::new(),
            lingering: Vec::new(),
            spare: Vec::new(),
            released: false,
            told: false,
            sends: 0,
            copied: 0,
            #[cfg(test)]
            fault: None,
        }
    }

    /// Whether the kernel holds nothing of ours.
    pub fn is_idle(&self) -> bool {
        self.holds.is_empty()
    }

    /// Gives up what the kernel may still read: its memory is never used again.
    pub fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.holds));
    }

    /// The hold that the next send of `send` belongs to; `None`: a plain send.
    pub fn begin(
        &mut self,
        key: SocketKey,
        send: &mut SendOp,
        ends: impl FnOnce() -> super::Ends,
    ) -> Option<u32> {
        let index = match send.hold {
            // The rest of a batch.
            Some(_) if send.zero_copy == ZeroCopyConn::GaveUp => return None,
            Some(index) => index,
            None => {
                let len = send.batch_len();
                if !send.has_payload() || !self.rule.decide(&mut send.zero_copy, len, Instant::now(), ends) {
                    return None;
                }
                self.rule.hold(len);
                let index = self.holds.insert(Hold { key, pending: 0, len, batch: None }) as u32;
                send.hold = Some(index);
                index
            }
        };
        self.holds[index as usize].pending += 1;
        self.sends += 1;
        Some(index)
    }

    /// Takes over the batch of a send that is over or will not go on.
    pub fn keep(&mut self, index: u32, send: &mut SendOp) {
        let spare = self.spare.pop().unwrap_or_default();
        self.holds[index as usize].batch = Some(send.replace_batch(spare));
        self.let_go(index);
    }

    fn let_go(&mut self, index: u32) {
        let hold = &self.holds[index as usize];
        if hold.pending > 0 || hold.batch.is_none() {
            return;
        }
        let hold = self.holds.remove(index as usize);
        self.rule.let_go(hold.len);
        let mut batch = hold.batch.expect("just seen");
        batch.clear();
        if self.spare.len() < SPARE_MAX {
            self.spare.push(batch);
        }
        self.released = true;
        if !self.lingering.is_empty() && !self.holds_for(hold.key) {
            self.lingering.retain(|lingering| lingering.key != hold.key);
        }
    }

    pub fn holds_for(&self, key: SocketKey) -> bool {
        self.holds.iter().any(|(_, hold)| hold.key == key)
    }

    /// A socket is closed for us; the kernel gets `fd` back once all is acknowledged.
    pub fn linger(&mut self, key: SocketKey, fd: OwnedFd) {
        if !self.holds.is_empty() && self.holds_for(key) {
            self.lingering.push(Lingering { key, fd, is_late: false });
        }
    }

    fn reset_late(&mut self) {
        for lingering in
            self.lingering.extract_if(.., |lingering| std::mem::replace(&mut lingering.is_late, true))
        {
            // Closing then drops what was not acknowledged, and the notifications come.
            let _ = socket2::SockRef::from(&lingering.fd).set_linger(Some(std::time::Duration::ZERO));
        }
    }
}

/// Errors that say "not this way": no memory that may be locked, or an operation, flag or socket that cannot.
pub fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS | libc::EOPNOTSUPP | libc::EINVAL))
}

impl SocketRing {
    /// Sends payload without a copy as `mode` wants it, with at most `held_max` bytes waiting for acknowledgement.
    /// `false`: this kernel cannot (before Linux 6.1), and all sends stay plain.
    pub fn set_zero_copy(&mut self, mode: ZeroCopySend, held_max: usize) -> bool {
        let known = self.features.has(Feature::SendmsgZc);
        let mode = if known { mode } else { ZeroCopySend::Off };
        self.zero_copy = ZeroCopy::new(mode, held_max);
        known
    }

    /// Says in the log what came of it.
    pub fn log_zero_copy(&self) {
        let (sends, copied) = (self.zero_copy.sends, self.zero_copy.copied);
        tracing::debug!(sends, copied, "zero-copy sends of this shard");
    }

    /// Whether a closed connection's last bytes wait for acknowledgement: [`SocketRing::reset_late`] has to be called.
    pub fn lingers(&self) -> bool {
        !self.zero_copy.lingering.is_empty()
    }

    /// Resets connections that were closed a second ago or more and whose last bytes are not acknowledged. To be called
    /// once a second.
    pub fn reset_late(&mut self) {
        self.zero_copy.reset_late();
    }

    pub(super) fn zero_copy_done(&mut self, index: u32, result: i32, flags: u32) -> Option<Event> {
        let hold = &mut self.zero_copy.holds[index as usize];
        let key = hold.key;
        if cqueue::notif(flags) {
            hold.pending -= 1;
            self.report(key, result as u32 & COPIED != 0);
            self.zero_copy.let_go(index);
            return None;
        }
        #[cfg(test)]
        let result = self.zero_copy.fault.take().map_or(result, |errno| -errno);
        if !cqueue::more(flags) {
            hold.pending -= 1;
        }
        if result < 0 && is_refusal(&io::Error::from_raw_os_error(-result)) {
            self.refused(key, -result);
        }
        self.socket_done(super::UserData::new(super::Op::Send, key.generation, key.index), result, flags)
    }

    fn report(&mut self, key: SocketKey, copied: bool) {
        self.zero_copy.copied += u64::from(copied);
        let Some(socket) =
            self.sockets.get_mut(key.index as usize).filter(|s| s.generation == key.generation)
        else {
            return;
        };
        let mut conn = socket.send.zero_copy;
        let local = || socket.ends().map(|(local, _)| local);
        if self.zero_copy.rule.report(&mut conn, copied, Instant::now(), local) {
            tracing::debug!(
                "zero-copy sends are copied by the kernel on this route; plain sends from now on"
            );
        }
        socket.send.zero_copy = conn;
    }

    fn refused(&mut self, key: SocketKey, errno: i32) {
        let send = &mut self.sockets[key.index as usize].send;
        self.zero_copy.rule.refused(&mut send.zero_copy);
        send.refused = true;
        if !std::mem::replace(&mut self.zero_copy.told, true) {
            let error = io::Error::from_raw_os_error(errno);
            tracing::info!(
                %error,
                "the kernel refuses a zero-copy send; plain sends are used instead. If memory is lacking, raise the \
                 limit of locked memory (ulimit -l), else set zero_copy_send to off"
            );
        }
    }
}

//! The shard's own io_uring ring for peer sockets.
//!
//! Role: every accept, connect, receive and send of a shard's peers. Owner: the shard's drive loop, on its thread; the
//! ring is set up `SINGLE_ISSUER`, so the kernel holds us to that. Invariant: memory that the kernel may write or read
//! ([`Socket`]'s scratch, headers and iovecs, the pieces behind [`PiecePin`]s, the read slots) lives in this module and
//! is let go only after the operation's completion was seen. That makes the interface safe: callers name sockets by
//! [`SocketKey`] and never hand over a pointer.
//!
//! Life of an operation: idle → in flight → (cancelled →) completed. Cancelling asks the kernel to finish early and
//! changes nothing else; the memory stays until the completion comes.
#![allow(unsafe_code)]

mod accept;
mod connect;
mod live;
mod recv;
mod send;
mod socket;
mod user_data;
pub mod utp;
mod zero_copy;

pub use live::{LivePiece, PiecePin};
pub use recv::{Places, was_cancelled};
pub use send::SendBatch;
pub use socket::{SocketKey, Stream};

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ccbt_storage::doorbell::Doorbell;
use ccbt_storage::ring::features::{Features, features, setup};
use io_uring::{IoUring, opcode, squeue, types};
use slab::Slab;

use self::socket::{Ends, Socket};
use self::user_data::{Op, UserData};
use self::utp::{DetachedUtp, UtpSocket, UtpSockets};
use self::zero_copy::ZeroCopy;
use crate::counters::SocketCounts;
use crate::zero_copy::ZeroCopySend;

/// Submission entries; the completion queue has four times as many, and the kernel keeps what overflows (NODROP).
const ENTRIES: u32 = 1024;

/// Rounds of 5 ms that uTP connections have to deliver their last bytes when the ring goes.
const ROUNDS_TO_DELIVER: usize = 100;

/// What the kernel finished.
#[derive(Debug)]
pub enum Event {
    /// A connection came in at listener number `listener`, with the peer's address.
    Accepted {
        /// The number [`SocketRing::listen`] returned.
        listener: u32,
        /// The connected socket, or why accepting failed.
        socket: io::Result<(OwnedFd, SocketAddr)>,
    },
    /// A connect ended.
    Connected(SocketKey, io::Result<()>),
    /// A [`SocketRing::watch`] has ended: there are bytes, an end or an error to receive.
    Readable(SocketKey),
    /// Bytes arrived along the last plan; 0 = the peer closed. `nonempty`: more is waiting in the socket.
    Received(SocketKey, io::Result<usize>),
    /// The whole batch went out (bytes), or the connection broke.
    Sent(SocketKey, io::Result<usize>),
    /// A socket that was [`SocketRing::close`]d has no operation left and is gone.
    Closed(SocketKey),
    /// A datagram of the DHT's that came to a uTP connection's socket, and who sent it.
    Stray(SocketAddr, Vec<u8>),
    /// Memory that sends without a copy had held is free.
    Released,
    /// The doorbell was rung.
    Bell,
}

/// The ring and the sockets on it.
pub struct SocketRing {
    ring: IoUring,
    features: Features,
    sockets: Slab<Box<Socket>>,
    generation: u32,
    /// By number; `None`: it has been given up.
    listeners: Vec<Option<OwnedFd>>,
    bell: Arc<Doorbell>,
    completions: VecDeque<(u64, i32, u32)>,
    closed: VecDeque<SocketKey>,
    timeout: Box<types::Timespec>,
    zero_copy: ZeroCopy,
    /// Bytes of batches that were encrypted and are not sent yet.
    encrypted: usize,
    utp: UtpSockets,
    /// When the timeout in flight ends the wait.
    timeout_at: Option<Instant>,
    counts: SocketCounts,
}

impl SocketRing {
    /// A ring that also watches `bell` and, while parked, writes its park descriptor at completions. Errors: what
    /// `io_uring_setup` says; the caller has probed before and explains.
    pub fn new(bell: Arc<Doorbell>) -> io::Result<Self> {
        Self::with(features()?, bell)
    }

    /// As [`Self::new`], with these features and no others.
    pub(crate) fn with(features: Features, bell: Arc<Doorbell>) -> io::Result<Self> {
        let ring = setup(features, ENTRIES, Some(ENTRIES * 4))?;
        ring.submitter().register_eventfd(bell.park_fd().as_raw_fd())?;
        let mut this = Self {
            ring,
            features,
            sockets: Slab::new(),
            generation: 0,
            listeners: Vec::new(),
            bell,
            completions: VecDeque::new(),
            closed: VecDeque::new(),
            timeout: Box::new(types::Timespec::new()),
            zero_copy: ZeroCopy::new(ZeroCopySend::Off, 0),
            encrypted: 0,
            utp: UtpSockets::new(),
            timeout_at: None,
            counts: SocketCounts::default(),
        };
        this.ring.completion().disable_eventfd();
        this.arm_bell();
        Ok(this)
    }

    /// Turns writing of the park eventfd on or off. Off while the loop runs: each write costs what a wake-up costs.
    pub fn set_parked(&mut self, parked: bool) {
        let queue = self.ring.completion();
        if parked { queue.enable_eventfd() } else { queue.disable_eventfd() }
    }

    fn arm_bell(&mut self) {
        let poll =
            opcode::PollAdd::new(types::Fd(self.bell.as_raw_fd()), libc::POLLIN as u32).multi(true).build();
        self.push(poll, UserData::new(Op::Bell, 0, 0));
    }

    /// Makes sure that a completion comes within `after`, for a parked loop with timers. At most one is in flight: the
    /// loop may wake earlier than asked, never later.
    pub fn arm_timeout(&mut self, after: Duration) {
        let at = Instant::now() + after;
        let entry = match self.timeout_at {
            Some(armed) if armed <= at => return,
            // One that has just ended is not found, and its completion wakes the loop.
            Some(_) => {
                let timeout = UserData::new(Op::Timeout, 0, 0).pack();
                opcode::TimeoutUpdate::new(timeout, &raw const *self.timeout).build()
            }
            None => opcode::Timeout::new(&raw const *self.timeout).build(),
        };
        // The kernel reads it when the entry is submitted, and no entry is left from an earlier call by then: each is
        // submitted before the loop parks.
        *self.timeout = types::Timespec::from(after);
        let op = if self.timeout_at.is_some() { Op::Cancel } else { Op::Timeout };
        self.timeout_at = Some(at);
        self.push(entry, UserData::new(op, 0, 0));
    }

    /// Queues `entry`, entering the kernel first when the submission queue is full.
    fn push(&mut self, entry: squeue::Entry, user_data: UserData) {
        let entry = entry.user_data(user_data.pack());
        loop {
            // SAFETY: every pointer in `entry` leads into memory owned by a boxed `Socket` or by this ring, which
            // outlives the operation: sockets are freed only with no operation in flight, see `Socket::retire`.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                self.counts.submissions += 1;
                return;
            }
            self.counts.enters += 1;
            match self.ring.submit() {
                Ok(_) => {}
                // CQ overflow backlog: reap, then try again.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => self.reap(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("io_uring_enter: {error}"),
            }
        }
    }

    /// Submits what is queued and takes in what has completed, without waiting.
    pub fn flush(&mut self) -> io::Result<()> {
        self.flush_utp();
        let queue = self.ring.submission();
        let idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
        drop(queue);
        if !idle {
            self.counts.enters += 1;
            tolerate(self.enter())?;
        }
        self.reap();
        Ok(())
    }

    /// Submits and lets the kernel post what has completed. Deferred completions are posted only by an enter that asks
    /// for events, which `IoUring::submit` is not; and while one is pending unposted, the eventfd is not written again.
    fn enter(&mut self) -> io::Result<usize> {
        /// `IORING_ENTER_GETEVENTS`
        const GETEVENTS: u32 = 1;
        let queued = self.ring.submission().len() as u32;
        // SAFETY: no argument is passed, and the queued entries are sound as `push` explains.
        unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, 0, GETEVENTS, None) }
    }

    /// Submits what is queued and waits until something completes or `timeout` passes.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.flush_utp();
        if self.has_events() {
            return self.flush();
        }
        let timespec = types::Timespec::from(timeout);
        let args = types::SubmitArgs::new().timespec(&timespec);
        self.counts.enters += 1;
        tolerate(self.ring.submitter().submit_with_args(1, &args))?;
        self.reap();
        Ok(())
    }

    fn reap(&mut self) {
        let mut queue = self.ring.completion();
        queue.sync();
        for entry in &mut queue {
            self.completions.push_back((entry.user_data(), entry.result(), entry.flags()));
        }
    }

    /// Whether [`SocketRing::next_event`] has something to tell.
    pub fn has_events(&self) -> bool {
        !self.completions.is_empty()
            || !self.closed.is_empty()
            || self.zero_copy.released
            || self.utp.has_events()
    }

    /// The next thing that happened; `None` when all is told.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(key) = self.closed.pop_front() {
                return Some(Event::Closed(key));
            }
            if std::mem::take(&mut self.zero_copy.released) {
                return Some(Event::Released);
            }
            if let Some(event) = self.utp_event() {
                return Some(event);
            }
            let (data, result, flags) = self.completions.pop_front()?;
            self.counts.completions += 1;
            let data = UserData::unpack(data);
            let event = match data.op {
                Op::Accept => self.accept_done(data.index, result, flags),
                Op::Connect | Op::Recv | Op::Send | Op::Watch => self.socket_done(data, result, flags),
                Op::SendZc => self.zero_copy_done(data.index, result, flags),
                Op::Bell => {
                    if !io_uring::cqueue::more(flags) {
                        self.arm_bell();
                    }
                    Some(Event::Bell)
                }
                Op::Timeout => {
                    self.timeout_at = None;
                    None
                }
                Op::Cancel => None,
                Op::Utp => {
                    self.utp_polled(data);
                    None
                }
            };
            if event.is_some() {
                return event;
            }
        }
    }

    fn socket_done(&mut self, data: UserData, result: i32, flags: u32) -> Option<Event> {
        let index = data.index as usize;
        let socket = &mut **self.sockets.get_mut(index).expect("an operation outlived its socket");
        assert_eq!(
            socket.generation & user_data::GENERATION_MASK,
            data.generation,
            "an operation of another socket"
        );
        let key = socket.key(data.index);
        let result =
            if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) };
        let event = match data.op {
            Op::Connect => {
                socket.connecting = None;
                Some(Event::Connected(key, result.map(drop)))
            }
            Op::Recv => Some(Event::Received(key, socket.recv_done(result, flags))),
            Op::Watch => {
                socket.recv.watched();
                Some(Event::Readable(key))
            }
            Op::Send => match socket.send_done(result) {
                Some(done) => {
                    self.finish_batch(key);
                    Some(Event::Sent(key, done))
                }
                None => {
                    self.submit_send(key);
                    None
                }
            },
            _ => unreachable!("not a socket's operation"),
        };
        let socket = &self.sockets[index];
        if !socket.closing {
            return event;
        }
        if !socket.busy() {
            self.retire(key);
        }
        None
    }

    /// Adds a connected socket. It must be non-blocking or plain: io_uring polls by itself.
    pub fn add(&mut self, fd: OwnedFd) -> SocketKey {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let index = self.sockets.insert(Box::new(Socket::new(fd, generation)));
        SocketKey { index: index as u32, generation }
    }

    /// Number of sockets, closing ones included.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// What was done so far.
    pub(crate) fn counts(&self) -> SocketCounts {
        self.counts
    }

    /// True without sockets.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    fn socket(&mut self, key: SocketKey) -> &mut Socket {
        let socket = &mut **self.sockets.get_mut(key.index as usize).expect("a socket that is gone");
        assert_eq!(socket.generation, key.generation, "a socket that is gone");
        socket
    }

    fn get(&self, key: SocketKey) -> Option<&Socket> {
        self.sockets
            .get(key.index as usize)
            .map(|socket| &**socket)
            .filter(|socket| socket.generation == key.generation)
    }

    /// Ends the connection. [`Event::Closed`] comes once no operation is left; no other event of `key` does.
    pub fn close(&mut self, key: SocketKey) {
        let socket = self.socket(key);
        if socket.closing {
            return;
        }
        socket.closing = true;
        if let Some(index) = socket.utp {
            self.close_utp(key, index);
            return self.retire(key);
        }
        socket.shutdown();
        if !socket.busy() {
            return self.retire(key);
        }
        self.cancel_ops(key);
    }

    fn cancel_ops(&mut self, key: SocketKey) {
        for op in [Op::Connect, Op::Recv, Op::Watch, Op::Send] {
            let busy = match op {
                Op::Connect => self.socket(key).connecting.is_some(),
                Op::Recv => self.socket(key).recv.in_flight,
                Op::Watch => self.socket(key).recv.watching,
                _ => self.socket(key).send.in_flight,
            };
            if busy {
                self.cancel(op, key);
            }
        }
    }

    fn cancel(&mut self, op: Op, key: SocketKey) {
        let send = &self.socket(key).send;
        let target = match send.hold {
            Some(hold) if op == Op::Send && send.is_zero_copy => UserData::new(Op::SendZc, 0, hold),
            _ => UserData::new(op, key.generation, key.index),
        };
        let target = target.pack();
        self.push(opcode::AsyncCancel::new(target).build(), UserData::new(Op::Cancel, 0, 0));
    }

    fn retire(&mut self, key: SocketKey) {
        self.finish_batch(key);
        let socket = self.sockets.remove(key.index as usize);
        assert!(!socket.busy(), "a socket freed under an operation");
        match socket.utp {
            Some(index) => self.linger_utp(index, socket.into_fd()),
            None => self.zero_copy.linger(key, socket.into_fd()),
        }
        self.closed.push_back(key);
    }

    /// The connection out of the ring again, to hand it to another shard; `None` while an operation is in flight.
    pub fn take(&mut self, key: SocketKey) -> Option<Stream> {
        if self.socket(key).busy() || self.zero_copy.holds_for(key) {
            return None;
        }
        let utp = match self.socket(key).utp {
            Some(index) => Some(self.take_utp(index)?),
            None => None,
        };
        let fd = self.sockets.remove(key.index as usize).into_fd();
        Some(match utp {
            Some((seat, conn, unread)) => {
                Stream::Utp(Box::new(DetachedUtp { socket: UtpSocket { fd, seat }, conn, unread }))
            }
            None => Stream::Tcp(fd),
        })
    }

    /// Adds a connection that came from elsewhere.
    pub fn adopt(&mut self, stream: Stream) -> SocketKey {
        match stream {
            Stream::Tcp(fd) => self.add(fd),
            Stream::Utp(parts) => self.add_utp(*parts),
        }
    }
}

impl Drop for SocketRing {
    /// Waits for operations in flight: their memory goes with `self`.
    fn drop(&mut self) {
        let keys: Vec<SocketKey> = self.sockets.iter().map(|(at, socket)| socket.key(at as u32)).collect();
        for key in keys {
            self.close(key);
        }
        for round in 0..1000 {
            while self.next_event().is_some() {}
            if self.sockets.is_empty() && self.zero_copy.is_idle() && self.utp.is_empty() {
                return;
            }
            if round == ROUNDS_TO_DELIVER {
                self.abort_utp();
            }
            self.run_utp_timers(Instant::now());
            // Peers have a moment to take the last bytes.
            if round % 100 == 99 {
                self.reset_late();
            }
            if self.wait(Duration::from_millis(5)).is_err() {
                break;
            }
        }
        // The kernel still owns that memory: leaking it is the only sound thing left.
        std::mem::forget(std::mem::take(&mut self.sockets));
        self.zero_copy.leak();
    }
}

/// Waiting that ends by time, signal or a completion backlog is no error.
fn tolerate(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY)) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

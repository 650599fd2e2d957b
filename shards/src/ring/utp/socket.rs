//! The shard's side of a uTP connection: what receives, sends and closes of its socket mean, and how they end.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Instant;

use ccbt_protocol::utp::{Config, Connection};

use super::{LINGER, LINGERING_MAX, Place, Seat};
use crate::ring::{Event, SocketKey, SocketRing};

impl SocketRing {
    /// The next event of any connection.
    pub(in crate::ring) fn utp_event(&mut self) -> Option<Event> {
        if let Some((from, bytes)) = self.utp.strays.pop_front() {
            return Some(Event::Stray(from, bytes));
        }
        while let Some(name) = self.utp.listed.front().copied() {
            if self.utp.get(name).is_some() {
                if let Some(event) = self.utp_event_of(name.0) {
                    return Some(event);
                }
                self.utp.slab[name.0 as usize].is_listed = false;
            }
            self.utp.listed.pop_front();
        }
        None
    }

    /// What there is to tell of a connection.
    fn utp_event_of(&mut self, index: u32) -> Option<Event> {
        let utp = &mut *self.utp.slab[index as usize];
        let key = utp.key?;
        let socket = &mut *self.sockets[key.index as usize];
        let failed = utp.conn.failure().is_some();
        if utp.dialling {
            if !failed && !utp.conn.is_open() {
                return None;
            }
            utp.dialling = false;
            return Some(Event::Connected(key, if failed { Err(utp.error()) } else { Ok(()) }));
        }
        if socket.send.in_flight && (failed || utp.conn.sent() >= utp.outgoing.end()) {
            socket.send.in_flight = false;
            let sent = std::mem::take(&mut utp.sending);
            return Some(Event::Sent(key, if failed { Err(utp.error()) } else { Ok(sent) }));
        }
        if socket.recv.watching && (!utp.unread.is_empty() || utp.is_over()) {
            socket.recv.watched();
            return Some(Event::Readable(key));
        }
        if !socket.recv.in_flight {
            return None;
        }
        let result = if utp.filled > 0 {
            Ok(std::mem::take(&mut utp.filled))
        } else if failed {
            Err(utp.error())
        } else if utp.conn.has_ended() {
            Ok(0)
        } else if utp.cancelled {
            Err(std::io::Error::from_raw_os_error(libc::ECANCELED))
        } else if utp.at_once {
            Err(std::io::ErrorKind::WouldBlock.into())
        } else {
            return None;
        };
        Some(Event::Received(key, socket.recv_done(result, 0)))
    }

    /// Whether `key` is a uTP connection.
    pub fn is_utp(&self, key: SocketKey) -> bool {
        self.get(key).is_some_and(|socket| socket.utp.is_some())
    }

    /// Goes on dialling when the other host says that nobody listens there: its NAT says so until it dials as well.
    pub fn persist_utp(&mut self, key: SocketKey) {
        let index = self.utp_of(key);
        self.utp.slab[index as usize].persists = true;
    }

    /// Whether the peer of a uTP connection that we have dialled is the one that dials: both did at the same time.
    pub fn was_accepted(&self, key: SocketKey) -> bool {
        let utp = self.get(key).and_then(|socket| socket.utp);
        utp.is_some_and(|index| self.utp.slab[index as usize].conn.was_accepted())
    }

    /// Whether no connection is left, lingering ones included.
    #[cfg(test)]
    pub fn utp_is_empty(&self) -> bool {
        self.utp.is_empty()
    }

    /// A receive of `key` was posted.
    pub(in crate::ring) fn recv_utp(&mut self, key: SocketKey, index: u32, at_once: bool) {
        let recv = &mut self.sockets[key.index as usize].recv;
        recv.in_flight = true;
        let utp = &mut *self.utp.slab[index as usize];
        (utp.filled, utp.place, utp.at_once, utp.cancelled) = (0, Place::default(), at_once, false);
        utp.fill(recv);
        // The window has opened, perhaps.
        if utp.filled > 0 {
            self.utp.soil(index);
        }
        self.utp.list(index);
    }

    pub(in crate::ring) fn watch_utp(&mut self, index: u32) {
        self.utp.list(index);
    }

    pub(in crate::ring) fn cancel_recv_utp(&mut self, index: u32) {
        self.utp.slab[index as usize].cancelled = true;
        self.utp.list(index);
    }

    /// Whether there are bytes that a receive would bring at once.
    pub(in crate::ring) fn utp_has_bytes(&self, index: u32) -> bool {
        let utp = &self.utp.slab[index as usize];
        !utp.unread.is_empty() || utp.is_over()
    }

    /// The batch of `key` goes out.
    pub(in crate::ring) fn send_utp(&mut self, key: SocketKey, index: u32) {
        let send = &mut self.sockets[key.index as usize].send;
        let batch = send.replace_batch(self.utp.spare.pop().unwrap_or_default());
        send.in_flight = true;
        let utp = &mut *self.utp.slab[index as usize];
        utp.sending = batch.len();
        utp.conn.write(batch.len());
        utp.outgoing.push(batch);
        self.utp.soil(index);
    }

    /// `key` is closed: what was sent is still delivered, if the peer takes it soon.
    pub(in crate::ring) fn close_utp(&mut self, key: SocketKey, index: u32) {
        let socket = &mut *self.sockets[key.index as usize];
        if socket.recv.in_flight {
            socket.recv.done(0, 0);
        }
        (socket.recv.watching, socket.send.in_flight) = (false, false);
        let utp = &mut *self.utp.slab[index as usize];
        utp.key = None;
        utp.unread = VecDeque::new();
        if utp.conn.is_open() && self.utp.lingering < LINGERING_MAX {
            utp.conn.close();
        } else {
            utp.conn.abort();
        }
        utp.linger_until = Some(Instant::now() + LINGER);
        self.utp.lingering += 1;
        self.utp.soil(index);
    }

    /// The descriptor of a closed socket.
    pub(in crate::ring) fn linger_utp(&mut self, index: u32, fd: OwnedFd) {
        self.utp.slab[index as usize].own = Some(fd);
    }

    /// The connection out of the ring again; `None` while something is on its way. The descriptor is the socket's.
    pub(in crate::ring) fn take_utp(&mut self, index: u32) -> Option<(Seat, Connection, VecDeque<u8>)> {
        let utp = &mut *self.utp.slab[index as usize];
        if !utp.outgoing.is_empty() {
            return None;
        }
        let config = Config { receive_window: 0, datagram_floor: 548, datagram_max: 548 };
        let conn = std::mem::replace(&mut utp.conn, Connection::dial(config, 0, 0));
        let (unread, seat) = (std::mem::take(&mut utp.unread), std::mem::take(&mut utp.seat));
        self.utp.early -= conn.early_bytes();
        self.drop_utp(index);
        Some((seat, conn, unread))
    }

    /// Ends all connections that linger, whatever they have not delivered.
    pub(in crate::ring) fn abort_utp(&mut self) {
        let all: Vec<u32> = self.utp.slab.iter().map(|(at, _)| at as u32).collect();
        for index in all {
            self.utp.slab[index as usize].conn.abort();
            self.utp.soil(index);
        }
        self.flush_utp();
    }
}

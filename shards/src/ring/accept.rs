//! Accept: one submission serves a listener for as long as it lives, where the kernel can (multishot).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use ccbt_storage::ring::features::Feature;
use io_uring::{cqueue, opcode, types};

use super::user_data::{Op, UserData};
use super::{Event, SocketKey, SocketRing};

impl SocketRing {
    /// Accepts connections of `socket`, which listens already, until the ring goes. Returns the listener's number.
    pub fn listen(&mut self, socket: OwnedFd) -> u32 {
        let free = self.listeners.iter().position(Option::is_none);
        let listener = free.unwrap_or(self.listeners.len());
        if free.is_none() {
            self.listeners.push(None);
        }
        self.listeners[listener] = Some(socket);
        self.arm_accept(listener as u32);
        listener as u32
    }

    /// Gives up a listener whose accept has ended with an error.
    pub fn unlisten(&mut self, listener: u32) {
        self.listeners[listener as usize] = None;
    }

    /// Submits the accept of `listener`, again after it ended with an error (EMFILE …) and the caller has waited.
    pub fn arm_accept(&mut self, listener: u32) {
        let Some(socket) = &self.listeners[listener as usize] else { return };
        let fd = types::Fd(socket.as_raw_fd());
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let entry = if self.features.has(Feature::AcceptMulti) {
            opcode::AcceptMulti::new(fd).flags(flags).build()
        } else {
            opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut()).flags(flags).build()
        };
        self.push(entry, UserData::new(Op::Accept, 0, listener));
    }

    /// The address of ours that `key` has.
    pub fn local_ip(&mut self, key: SocketKey) -> Option<IpAddr> {
        self.socket(key).ends().map(|(local, _)| local.to_canonical())
    }

    pub(super) fn accept_done(&mut self, listener: u32, result: i32, flags: u32) -> Option<Event> {
        if result < 0 {
            // The multishot ended; the caller re-arms when it is ready, so a full descriptor table cannot spin here.
            return Some(Event::Accepted { listener, socket: Err(io::Error::from_raw_os_error(-result)) });
        }
        if !cqueue::more(flags) {
            self.arm_accept(listener);
        }
        // SAFETY: a successful accept returns a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(result) };
        Some(Event::Accepted { listener, socket: peer_address(&fd).map(|addr| (fd, addr)) })
    }
}

/// Who is at the other end, IPv4-mapped addresses unmapped.
fn peer_address(fd: &OwnedFd) -> io::Result<SocketAddr> {
    let addr = socket2::SockRef::from(fd).peer_addr()?;
    let addr = addr.as_socket().ok_or_else(|| io::Error::other("not an IP connection"))?;
    Ok(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
}

//! Outgoing connections.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use io_uring::{opcode, types};

use super::user_data::{Op, UserData};
use super::{SocketKey, SocketRing};

impl SocketRing {
    /// Starts connecting `socket` (already bound if that matters) to `addr`; [`super::Event::Connected`] follows.
    pub fn connect(&mut self, socket: OwnedFd, addr: SocketAddr) -> SocketKey {
        let key = self.add(socket);
        let socket = self.socket(key);
        let addr = socket.connecting.insert(Box::new(addr.into()));
        let (ptr, len) = (addr.as_ptr(), addr.len());
        let entry = opcode::Connect::new(types::Fd(socket.raw_fd()), ptr.cast(), len).build();
        self.push(entry, UserData::new(Op::Connect, key.generation, key.index));
        key
    }
}

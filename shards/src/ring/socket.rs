//! One socket with the memory of its operations. Boxed, so that addresses hold while the slab grows.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use ccbt_protocol::wire::mse::Ciphers;

use super::recv::RecvOp;
use super::send::SendOp;
use super::utp::DetachedUtp;

/// Names a socket of one ring; never valid for another socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl SocketKey {
    /// Dense index, reused after [`super::Event::Closed`].
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// A key that no ring has given out.
    #[cfg(test)]
    pub fn for_test(index: u32) -> Self {
        Self { index, generation: 0 }
    }
}

/// A connection outside of any ring.
#[derive(Debug)]
pub enum Stream {
    /// A connected TCP socket.
    Tcp(OwnedFd),
    /// A uTP connection.
    Utp(Box<DetachedUtp>),
}

/// Local and remote address of a connection, if it has them.
pub type Ends = Option<(IpAddr, IpAddr)>;

/// At most one receive, one send and one connect are in flight.
pub struct Socket {
    fd: OwnedFd,
    pub generation: u32,
    pub recv: RecvOp,
    pub send: SendOp,
    /// The address of the connect in flight.
    pub connecting: Option<Box<socket2::SockAddr>>,
    pub closing: bool,
    /// The uTP connection behind it; the descriptor then is a connected UDP socket.
    pub utp: Option<u32>,
    /// Of an encrypted stream.
    pub ciphers: Option<Box<Ciphers>>,
}

impl Socket {
    pub fn new(fd: OwnedFd, generation: u32) -> Self {
        Self {
            fd,
            generation,
            recv: RecvOp::new(),
            send: SendOp::new(),
            connecting: None,
            closing: false,
            utp: None,
            ciphers: None,
        }
    }

    pub fn key(&self, index: u32) -> SocketKey {
        SocketKey { index, generation: self.generation }
    }

    pub fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub fn busy(&self) -> bool {
        self.recv.in_flight || self.recv.watching || self.send.in_flight || self.connecting.is_some()
    }

    /// Makes receives and sends in flight end soon.
    pub fn shutdown(&self) {
        // Fails on a socket that is not connected, which is as good.
        let _ = rustix::net::shutdown(self.fd.as_fd(), rustix::net::Shutdown::Both);
    }

    pub fn recv_done(&mut self, result: io::Result<usize>, flags: u32) -> io::Result<usize> {
        let n = *result.as_ref().unwrap_or(&0);
        if let Some(ciphers) = &mut self.ciphers {
            self.recv.decrypt(n, &mut ciphers.incoming);
        }
        self.recv.done(n, flags);
        result
    }

    /// `None`: a part went out and the rest must be submitted.
    pub fn send_done(&mut self, result: io::Result<usize>) -> Option<io::Result<usize>> {
        self.send.done(result)
    }

    /// Local and remote address.
    pub fn ends(&self) -> Ends {
        ends_of(self.fd.as_fd())
    }

    /// The send, and what tells the addresses.
    pub fn send_and_ends(&mut self) -> (&mut SendOp, impl FnOnce() -> Ends + '_) {
        let fd = self.fd.as_fd();
        (&mut self.send, move || ends_of(fd))
    }

    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

fn ends_of(fd: BorrowedFd<'_>) -> Ends {
    let socket = socket2::SockRef::from(&fd);
    let (local, remote) = (socket.local_addr().ok()?, socket.peer_addr().ok()?);
    Some((local.as_socket()?.ip(), remote.as_socket()?.ip()))
}

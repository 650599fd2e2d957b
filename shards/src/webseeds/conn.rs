//! One connection to an HTTP server, plain or TLS, never waiting.
//!
//! Owner: a job, or the list of idle connections. Invariant: bytes that were read ahead ([`Conn::ahead`]) come before
//! what the socket has.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use ccbt_storage::arena::PieceBuf;
use futures_rustls::pki_types::ServerName;
use futures_rustls::rustls::{ClientConfig, ClientConnection};
use socket2::{Protocol, Type};

use crate::binding::{Binding, socket_to};

/// Pieces that one receive fills at most.
const VECTORS: usize = 16;

/// See the module.
pub(super) struct Conn {
    socket: TcpStream,
    peer: IpAddr,
    tls: Option<Box<ClientConnection>>,
    /// Read from the socket and not used yet.
    pub ahead: Vec<u8>,
    out: Vec<u8>,
}

impl Conn {
    /// Begins to connect; the caller waits until the socket can be written to.
    pub fn open(addr: SocketAddr, bind: Option<&Binding>) -> io::Result<Self> {
        let socket = socket_to(bind, (Type::STREAM, Protocol::TCP), addr, 0, |_| Ok(()))?;
        match socket.connect(&addr.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let peer = addr.ip();
        Ok(Self { socket: socket.into(), peer, tls: None, ahead: Vec::new(), out: Vec::new() })
    }

    /// The other end.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Whether it stands; an error says why it does not.
    pub fn is_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        match self.socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// From now on everything is secured; the other end has to be `name`.
    pub fn secure(&mut self, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<()> {
        let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// Sends a request, as far as possible at once; [`Conn::flush`] sends the rest.
    pub fn send(&mut self, request: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.writer().write_all(request)?,
            None => self.out.extend_from_slice(request),
        }
        self.flush()
    }

    /// Sends what waits.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(sent) => drop(self.out.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) {
            match tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether something waits to be sent.
    pub fn wants_write(&self) -> bool {
        !self.out.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Reads what is there; 0: the server has hung up. Errors: `WouldBlock` when nothing is there.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.ahead.is_empty() {
            let len = self.ahead.len().min(into.len());
            into[..len].copy_from_slice(&self.ahead[..len]);
            self.ahead.drain(..len);
            return Ok(len);
        }
        let Some(tls) = &mut self.tls else { return self.socket.read(into) };
        loop {
            match tls.reader().read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Ended without a goodbye, as many do: framing tells what is missing.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            let read = tls.read_tls(&mut self.socket)?;
            if let Err(error) = tls.process_new_packets() {
                // The alert that says why.
                let _ = tls.write_tls(&mut self.socket);
                return Err(io::Error::other(error));
            }
            if tls.wants_write() {
                let _ = tls.write_tls(&mut self.socket);
            }
            if read == 0 {
                return Ok(0);
            }
        }
    }

    /// Reads up to `most` bytes into consecutive pieces, from the place `at` of the first one on.
    pub fn read_pieces(
        &mut self,
        pieces: &mut VecDeque<PieceBuf>,
        at: usize,
        most: u64,
    ) -> io::Result<usize> {
        let limit = usize::try_from(most).unwrap_or(usize::MAX);
        if self.tls.is_some() || !self.ahead.is_empty() {
            let place = &mut pieces.front_mut().expect("data has a place").as_mut_slice()[at..];
            let len = place.len().min(limit);
            return self.read(&mut place[..len]);
        }
        let mut vectors = Vec::with_capacity(VECTORS);
        let (mut skip, mut left) = (at, limit);
        for piece in pieces.iter_mut().take(VECTORS) {
            let place = &mut piece.as_mut_slice()[std::mem::take(&mut skip)..];
            let len = place.len().min(left);
            left -= len;
            vectors.push(IoSliceMut::new(&mut place[..len]));
            if left == 0 {
                break;
            }
        }
        self.socket.read_vectored(&mut vectors)
    }

    /// Whether it can serve another request: nothing has come since the last one, and it stands.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let nothing = |error: io::Error| error.kind() == ErrorKind::WouldBlock;
        self.ahead.is_empty() && self.read(&mut byte).is_err_and(nothing)
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

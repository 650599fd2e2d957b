//! Sockets and time limits on the executor.
//!
//! glommio's `TcpStream` is recv and send with readiness from the ring, whatever kind of socket is inside.
//! Ours are made here, so that they can be bound; a connected UDP socket in it gives what its own `UdpSocket`
//! does not: sends that are never cut, and receives that can be given up without losing a packet. Its
//! time-outs are not used, as they outlive the read they were set for; [`within`] is.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite, future};
use glommio::net::TcpStream;
use hyper::rt::ReadBufCursor;
use socket2::{Domain, Socket, Type};

use crate::executor;

/// Bytes read at once.
const READ_LEN: usize = 8 * 1024;
/// Bytes read before others get their turn: a fast sender must neither starve the shard nor outrun its time
/// limit.
const BURST_MAX: usize = 64 * 1024;
/// Bytes taken for one request. Far more than any answer has, however it is chunked; it ends what hyper
/// would read without end, such as interim responses.
const READ_MAX: usize = 4 * 1024 * 1024;

/// What `work` gives, or `None` when `limit` passes first; then it is dropped.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let ended = async { Some(work.await) };
    let timed_out = async {
        glommio::timer::sleep(limit).await;
        None
    };
    future::or(ended, timed_out).await
}

/// A socket of kind `kind` that is connected, or connecting, to `addr`.
fn open(addr: SocketAddr, kind: Type, bind: Option<IpAddr>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, None)?;
    socket.set_nonblocking(true)?;
    if let Some(bind) = bind {
        socket.bind(&SocketAddr::new(bind, 0).into())?;
    }
    match socket.connect(&addr.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    Ok(socket)
}

/// A TCP connection to `addr` that leaves from `bind`.
pub(super) async fn connect_tcp(addr: SocketAddr, bind: Option<IpAddr>) -> io::Result<TcpStream> {
    let mut stream = executor::stream(open(addr, Type::STREAM, bind)?.into());
    // Sending nothing waits until the connection stands, and tells why it does not.
    poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, &[])).await?;
    Ok(stream)
}

/// A UDP socket that takes packets of `addr` only: one to send with, one to receive with.
pub(super) fn connect_udp(addr: SocketAddr, bind: Option<IpAddr>) -> io::Result<(UdpSocket, TcpStream)> {
    let socket = UdpSocket::from(open(addr, Type::DGRAM, bind)?);
    let stream = executor::stream(socket.try_clone()?.into());
    Ok((socket, stream))
}

/// A connection, plain or secure.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// A connection as hyper wants it.
pub(super) struct HyperIo {
    stream: Box<dyn Duplex>,
    buffer: Box<[u8; READ_LEN]>,
    /// Bytes read for one request; whoever sends the next one resets it.
    read: Rc<Cell<usize>>,
    burst: usize,
}

impl HyperIo {
    pub fn new(stream: Box<dyn Duplex>, read: Rc<Cell<usize>>) -> Self {
        Self { stream, buffer: Box::new([0; READ_LEN]), read, burst: 0 }
    }

    fn stream(&mut self) -> Pin<&mut dyn Duplex> {
        Pin::new(&mut *self.stream)
    }
}

impl hyper::rt::Read for HyperIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.burst >= BURST_MAX {
            this.burst = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let room = cursor.remaining().min(READ_LEN);
        let result = Pin::new(&mut *this.stream).poll_read(cx, &mut this.buffer[..room]);
        if result.is_pending() {
            this.burst = 0;
        }
        match ready!(result) {
            Ok(len) => {
                this.burst += len;
                this.read.set(this.read.get() + len);
                if this.read.get() > READ_MAX {
                    return Poll::Ready(Err(io::Error::other("the tracker sends without end")));
                }
                cursor.put_slice(&this.buffer[..len]);
            }
            // Many servers end a secure connection without saying goodbye. An answer that was cut short this
            // way is found out as such: by its length, or as bencode.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for HyperIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_close(cx)
    }
}

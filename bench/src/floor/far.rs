//! The other end of the bare loops: feeds them or takes what they send, and looks at none of it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use crate::generator::net::{Interest, Poller};

/// Bytes of one system call.
const CHUNK: usize = 256 << 10;
/// Longer silence is an error.
const PATIENCE: Duration = Duration::from_secs(60);

/// Accepts so many connections.
pub(super) fn accept(listener: &TcpListener, count: u32) -> io::Result<Vec<TcpStream>> {
    listener.set_nonblocking(true)?;
    let mut poller = Poller::new()?;
    poller.add(listener, 0, Interest::Read)?;
    let (mut sockets, mut ready) = (Vec::new(), Vec::new());
    while sockets.len() < count as usize {
        poller.wait(PATIENCE, &mut ready)?;
        if ready.is_empty() {
            return Err(ErrorKind::TimedOut.into());
        }
        let (socket, _) = listener.accept()?;
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        sockets.push(socket);
    }
    Ok(sockets)
}

/// Sends `bytes` on each.
pub(super) fn feed(sockets: Vec<TcpStream>, bytes: u64) -> io::Result<()> {
    let chunk = vec![7; CHUNK];
    let mut left = vec![bytes; sockets.len()];
    each(&sockets, Interest::ReadWrite, |nth, mut socket| {
        let most = usize::try_from(left[nth]).unwrap_or(usize::MAX).min(CHUNK);
        left[nth] -= socket.write(&chunk[..most])? as u64;
        if left[nth] == 0 {
            socket.shutdown(Shutdown::Write)?;
        }
        Ok(left[nth] == 0)
    })
}

/// Receives until all have ended.
pub(super) fn drain(sockets: Vec<TcpStream>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    each(&sockets, Interest::Read, |_, mut socket| Ok(socket.read(&mut chunk)? == 0))
}

/// Calls `serve` for sockets that are ready, until it has said of each that it is done with it.
pub(super) fn each(
    sockets: &[TcpStream],
    interest: Interest,
    mut serve: impl FnMut(usize, &TcpStream) -> io::Result<bool>,
) -> io::Result<()> {
    let mut poller = Poller::new()?;
    let mut done = vec![false; sockets.len()];
    let (mut left, mut ready) = (sockets.len(), Vec::new());
    for (nth, socket) in sockets.iter().enumerate() {
        poller.add(socket, nth as u64, interest)?;
    }
    while left > 0 {
        poller.wait(PATIENCE, &mut ready)?;
        if ready.is_empty() {
            return Err(ErrorKind::TimedOut.into());
        }
        for ready in &ready {
            let nth = ready.token as usize;
            if done[nth] {
                continue;
            }
            match serve(nth, &sockets[nth]) {
                Ok(false) => {}
                Ok(true) => {
                    done[nth] = true;
                    left -= 1;
                    poller.remove(&sockets[nth])?;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

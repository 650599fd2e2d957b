//! Loopback sockets and readiness: thin, safe wrappers over rustix and std.
//!
//! Role: addresses of the synthetic peers, non-blocking dialling from them, and an epoll set. Used by the generators.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

/// Most synthetic peers one generator can have: what the address plan below holds.
pub const MAX_PEERS: usize = 2_000;

/// How often to look for a port that is free on all addresses.
const PORT_TRIES: usize = 50;

/// Address of the nth peer of a seeding generator: 127.1.1.1, 127.1.1.2 ….
pub fn seeder_address(nth: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, 1 + (nth / 250) as u8, 1 + (nth % 250) as u8)
}

/// Address of the nth peer of a leeching generator: 127.2.1.1, 127.2.1.2 ….
pub fn leecher_address(nth: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 2, 1 + (nth / 250) as u8, 1 + (nth % 250) as u8)
}

/// A TCP port that is free on 127.0.0.1 now.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// One non-blocking listener on each of `count` seeder addresses, all with the same port.
pub fn listen_on_all(count: usize) -> io::Result<(u16, Vec<TcpListener>)> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PORT_TRIES {
        let port = free_port()?;
        let all: io::Result<Vec<_>> = (0..count)
            .map(|nth| {
                let listener = TcpListener::bind((seeder_address(nth), port))?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            })
            .collect();
        match all {
            Ok(listeners) => return Ok((port, listeners)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Starts a non-blocking connect from `source`; completion or failure shows as writability or a read error.
pub fn dial(source: Ipv4Addr, target: SocketAddrV4) -> io::Result<TcpStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    rustix::net::bind(&socket, &SocketAddrV4::new(source, 0))?;
    match rustix::net::connect(&socket, &target) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

/// What a socket is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Incoming bytes or connections.
    Read,
    /// Incoming bytes, and room to send.
    ReadWrite,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        match self {
            Self::Read => epoll::EventFlags::IN,
            Self::ReadWrite => epoll::EventFlags::IN | epoll::EventFlags::OUT,
        }
    }
}

/// A readiness event: which token, and whether sending is possible.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// What the socket was registered with.
    pub token: u64,
    /// There are bytes, an end, or an error to read.
    pub readable: bool,
    /// There is room to send.
    pub writable: bool,
}

/// A level-triggered epoll set. Closing a socket takes it out of the set.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poller {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(256) })
    }

    /// Watches `socket`.
    pub fn add(&self, socket: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// Changes what `socket` is watched for.
    pub fn change(&self, socket: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// Watches `socket` no more.
    pub fn remove(&self, socket: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, socket)?)
    }

    /// Waits for at most `timeout` and fills `ready` with what happened.
    pub fn wait(&mut self, timeout: Duration, ready: &mut Vec<Ready>) -> io::Result<()> {
        ready.clear();
        self.events.clear();
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        ready.extend(self.events.iter().map(|event| {
            let (flags, data) = (event.flags, event.data);
            let broken = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            Ready {
                token: data.u64(),
                readable: broken || flags.contains(epoll::EventFlags::IN),
                writable: flags.contains(epoll::EventFlags::OUT),
            }
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_distinct_loopback() {
        let mut all: Vec<_> =
            (0..MAX_PEERS).flat_map(|nth| [seeder_address(nth), leecher_address(nth)]).collect();
        assert!(all.iter().all(Ipv4Addr::is_loopback));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 2 * MAX_PEERS);
    }

    #[test]
    fn dialled_connection_comes_from_its_source() {
        let (port, listeners) = listen_on_all(3).expect("loopback ports");
        let source = leecher_address(5);
        let stream = dial(source, SocketAddrV4::new(seeder_address(2), port)).expect("dial");
        let mut poller = Poller::new().expect("epoll");
        poller.add(&listeners[2], 42, Interest::Read).expect("watched");
        let mut ready = Vec::new();
        while ready.is_empty() {
            poller.wait(Duration::from_secs(1), &mut ready).expect("waits");
        }
        assert_eq!((ready[0].token, ready[0].readable), (42, true));
        let (accepted, from) = listeners[2].accept().expect("accepted");
        assert_eq!(from.ip(), source);
        drop((stream, accepted));
    }
}

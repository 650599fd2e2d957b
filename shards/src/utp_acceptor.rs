//! Incoming uTP connections, up to the socket that is theirs.
//!
//! Role: takes in what comes to the UDP socket of the listening port, which gets the datagrams of all who have no
//! connection yet, answers each valid SYN with a connected socket, and gives that to a shard. Owner: a thread of its own,
//! which sleeps unless strangers call; or the discovery thread, where the DHT has the same port. Invariants: nothing is
//! kept of a datagram that is no SYN; how many SYNs are answered is bounded ([`Admission`]), and how many connections
//! there are by the session's limit.
//!
//! All sockets of the port have SO_REUSEPORT. The kernel prefers a connected socket for its peer's datagrams (found by a
//! hash of both addresses since Linux 6.13; before, it walks all sockets of the port). Between `bind` and `connect` a new
//! socket would get a share of everybody's datagrams: a program on the group gives all that no connected socket claims to
//! its first member, which is this thread's.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use ccbt_protocol::utp::{Admission, Connection};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::discovery::{Stray, Strays};
use crate::inbox::Inbox;
use crate::messages::{Arrival, ToShard};
use crate::ring::Stream;
use crate::ring::utp::{DetachedUtp, UtpEnds, io as datagrams, micros};

/// Datagrams are cut here: a SYN has no payload.
const SYN_LEN_MAX: usize = 512;
/// Datagrams taken in before the other socket is looked at.
const BURST: usize = 64;

/// The running thread; it ends with this value.
pub struct UtpAcceptor {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Binds a UDP socket per address. Errors: one cannot be bound, or the port is another program's.
pub fn bind(listen: &[SocketAddr], port: u16) -> io::Result<Vec<UdpSocket>> {
    listen.iter().map(|addr| bind_one(SocketAddr::new(addr.ip(), port))).collect()
}

fn bind_one(addr: SocketAddr) -> io::Result<UdpSocket> {
    let new = || {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(addr), kind, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        Ok::<_, io::Error>(socket)
    };
    // With SO_REUSEPORT two sessions would share the port without a word; without it this shows that the port is free.
    new()?.bind(&addr.into())?;
    let socket = new()?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    datagrams::prefer_first(&socket)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// Takes in datagrams of peers without a connection; see the module.
pub struct Strangers {
    ends: UtpEnds,
    shards: Vec<Inbox>,
    next: usize,
    admission: Admission,
    connections: Arc<AtomicUsize>,
    connections_max: usize,
}

impl Strangers {
    /// `shards` take turns.
    pub fn new(
        ends: UtpEnds,
        shards: Vec<Inbox>,
        connections: Arc<AtomicUsize>,
        connections_max: usize,
    ) -> Self {
        let admission = Admission::default();
        Self { ends, shards, next: 0, admission, connections, connections_max }
    }

    /// Takes in a datagram that has come to the listening port from `from`.
    fn greet(&mut self, datagram: &[u8], from: SocketAddr) {
        if self.connections.load(Ordering::Relaxed) >= self.connections_max {
            return;
        }
        let now = micros(Instant::now());
        let Some(syn) = self.admission.admit(now, from, datagram) else { return };
        let socket = match self.ends.accept(from) {
            Ok(Some(socket)) => socket,
            // One that has just been dialled, or is going.
            Ok(None) => return,
            Err(error) => return tracing::debug!(%from, %error, "no socket for a uTP connection"),
        };
        let config = datagrams::config(&socket.fd);
        let conn = Connection::accept(now, config, &syn, rand::random()).expect("a SYN was admitted");
        let stream = Stream::Utp(Box::new(DetachedUtp { socket, conn, unread: Default::default() }));
        let shard = self.next % self.shards.len();
        self.next = self.next.wrapping_add(1);
        // One that is so far behind that its inbox is full takes no connections; the peer comes again.
        let _ = self.shards[shard].try_send(ToShard::Arrived(Box::new(Arrival { stream, addr: from })));
    }
}

impl Strays for Strangers {
    fn take(&mut self, stray: Stray<'_>) {
        self.greet(stray.bytes, stray.from);
    }
}

impl UtpAcceptor {
    /// Starts the thread that reads `sockets`.
    pub fn start(sockets: Vec<UdpSocket>, mut strangers: Strangers) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let told = stop.clone();
        let thread = std::thread::Builder::new().name("ccbt-utp".to_owned()).spawn(move || {
            let mut fds: Vec<PollFd<'_>> =
                sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
            fds.push(PollFd::new(&*told, PollFlags::IN));
            loop {
                match poll(&mut fds, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return tracing::error!(%error, "no more uTP connections are accepted"),
                }
                if fds.last().is_some_and(|fd| !fd.revents().is_empty()) {
                    return;
                }
                sockets.iter().for_each(|socket| read(socket, &mut strangers));
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

fn read(socket: &UdpSocket, strangers: &mut Strangers) {
    let mut buffer = [0; SYN_LEN_MAX];
    for _ in 0..BURST {
        // Errors are what became of earlier answers, or that there is nothing more.
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { return };
        strangers.greet(&buffer[..len], from);
    }
}

impl Drop for UtpAcceptor {
    fn drop(&mut self) {
        let _ = rustix::io::write(self.stop.as_fd(), &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

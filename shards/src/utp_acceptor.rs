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
use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::binding::Door;
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
    renewed: Sender<Vec<UtpDoor>>,
    thread: Option<JoinHandle<()>>,
}

/// A socket that strangers send to.
pub type UtpDoor = (UdpSocket, Door);

/// Binds a UDP socket per door whose interface is there. Errors: one cannot be bound, or the port is another program's.
pub fn bind(doors: &[Door]) -> io::Result<Vec<UtpDoor>> {
    bind_all(doors, bind_one)
}

/// As [`bind`], while this session has sockets at the port.
pub(crate) fn rebind(doors: &[Door]) -> io::Result<Vec<UtpDoor>> {
    bind_all(doors, share)
}

fn bind_all(doors: &[Door], bind: impl Fn(&Door) -> io::Result<UdpSocket>) -> io::Result<Vec<UtpDoor>> {
    let mut sockets = Vec::new();
    for door in doors {
        match bind(door) {
            Ok(socket) => sockets.push((socket, door.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

fn new(door: &Door) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    Socket::new(Domain::for_address(door.addr), kind, Some(Protocol::UDP))
}

/// With SO_REUSEPORT two sessions would share the port without a word; without it this shows that the port is free.
fn bind_one(door: &Door) -> io::Result<UdpSocket> {
    door.bind(&new(door)?)?;
    share(door)
}

fn share(door: &Door) -> io::Result<UdpSocket> {
    let socket = new(door)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    datagrams::prefer_first(&socket)?;
    door.bind(&socket)?;
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
    fn greet(&mut self, datagram: &[u8], from: SocketAddr, to: &Door) {
        if self.connections.load(Ordering::Relaxed) >= self.connections_max {
            return;
        }
        let now = micros(Instant::now());
        let Some(syn) = self.admission.admit(now, from, datagram) else { return };
        let socket = match self.ends.accept(to, from) {
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
        self.greet(stray.bytes, stray.from, stray.to);
    }
}

impl UtpAcceptor {
    /// Starts the thread that reads `sockets`.
    pub fn start(mut sockets: Vec<UtpDoor>, mut strangers: Strangers) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let told = stop.clone();
        let (renewed, news) = bounded(1);
        let thread = std::thread::Builder::new().name("ccbt-utp".to_owned()).spawn(move || {
            while let Some(new) = accept(&sockets, &told, &news, &mut strangers) {
                sockets = new;
            }
        })?;
        Ok(Self { stop, renewed, thread: Some(thread) })
    }

    /// What gives it other sockets, on any thread.
    pub fn renewer(&self) -> Renewer {
        Renewer { bell: self.stop.clone(), sockets: self.renewed.clone() }
    }
}

/// The way to give the thread other sockets.
pub struct Renewer {
    bell: Arc<OwnedFd>,
    sockets: Sender<Vec<UtpDoor>>,
}

impl Renewer {
    /// Strangers come to these from now on. `false`: it has not taken the last ones yet.
    pub fn renew(&self, sockets: Vec<UtpDoor>) -> bool {
        let taken = self.sockets.try_send(sockets).is_ok();
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
        taken
    }
}

/// Takes strangers in until other sockets come, or it is over.
fn accept(
    sockets: &[UtpDoor],
    told: &OwnedFd,
    news: &Receiver<Vec<UtpDoor>>,
    strangers: &mut Strangers,
) -> Option<Vec<UtpDoor>> {
    let mut fds: Vec<PollFd<'_>> =
        sockets.iter().map(|(socket, _)| PollFd::new(socket, PollFlags::IN)).collect();
    fds.push(PollFd::new(told, PollFlags::IN));
    loop {
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "no more uTP connections are accepted");
                return None;
            }
        }
        if fds.last().is_some_and(|fd| !fd.revents().is_empty()) {
            let _ = rustix::io::read(told, &mut [0; 8]);
            return news.try_recv().ok();
        }
        sockets.iter().for_each(|socket| read(socket, strangers));
    }
}

fn read((socket, door): &UtpDoor, strangers: &mut Strangers) {
    let mut buffer = [0; SYN_LEN_MAX];
    for _ in 0..BURST {
        // Errors are what became of earlier answers, or that there is nothing more.
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { return };
        strangers.greet(&buffer[..len], from, door);
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

//! UDP through a SOCKS5 proxy: an association (RFC 1928, 7) that is kept up.
//!
//! Role: the threads that speak UDP (DHT, trackers) have one [`Association`] each and send and receive by its [`Relay`]; a
//! thread of its own, `ccbt-socks`, opens the TCP connection that the association lives as long as, and opens another one
//! after a pause when that ends. Invariants: datagrams go to the address that the proxy has named and come from there
//! (the socket is connected); while there is no association, nothing is sent; a proxy that refuses for good is asked once,
//! and the user told.

use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ccbt_protocol::proxy::datagram::{self, HEADER_LEN_MAX};
use ccbt_protocol::proxy::{ProxyError, Target, Tunnel};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use socket2::{Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::binding::{Binding, socket_to};
use crate::proxying::Proxy;

/// Time that the proxy has to open an association.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before the next attempt, first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// An association that has stood for so long was a good one: the pauses begin anew.
const GOOD: Duration = Duration::from_secs(60);
/// How soon a proxy that has vanished is noticed: so long without a word, then three questions at this distance.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));

/// Where datagrams are sent and received, as long as one association stands.
#[derive(Debug)]
pub(crate) struct Relay {
    socket: UdpSocket,
    over: AtomicBool,
}

impl Relay {
    /// Sends `payload` to `to`. What is lost is lost, as in the network. Errors: it is not sent.
    pub fn send(&self, to: &Target, payload: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(HEADER_LEN_MAX + payload.len());
        datagram::wrap(to, payload, &mut bytes).map_err(io::Error::other)?;
        self.socket.send(&bytes).map(drop)
    }

    /// The socket: its datagrams are for [`datagram::unwrap`].
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Whether its association has ended. Whoever waits for the socket wakes then.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn end(&self) {
        self.over.store(true, Ordering::Release);
        let _ = SockRef::from(&self.socket).shutdown(std::net::Shutdown::Both);
    }
}

/// How an association does.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// It is being opened, or waits for the next attempt.
    Down,
    /// It stands.
    Up(Arc<Relay>),
    /// The proxy passes no datagrams on, and says why.
    Refused(String),
}

/// See the module. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Association {
    state: Arc<Mutex<State>>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Association {
    /// Begins; `what` is it for, in words. `changed` is called on its thread when the state has changed. Errors: no thread
    /// or descriptor is to be had.
    pub fn start(
        proxy: Proxy,
        bind: Option<Binding>,
        what: &'static str,
        changed: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let state = Arc::new(Mutex::new(State::Down));
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let keeper = Keeper {
            proxy,
            bind,
            what,
            state: state.clone(),
            stop: stop.clone(),
            changed: Box::new(changed),
        };
        let thread = std::thread::Builder::new().name("ccbt-socks".to_owned()).spawn(move || keeper.run())?;
        Ok(Self { state, stop, thread: Some(thread) })
    }

    /// How it does now.
    pub fn state(&self) -> State {
        self.state.lock().expect("no holder panics").clone()
    }
}

impl Drop for Association {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of a SOCKS association panicked");
        }
    }
}

/// Why there is no association.
enum Failure {
    /// Nobody wants one any more.
    Stopped,
    Refused(ProxyError),
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

struct Keeper {
    proxy: Proxy,
    bind: Option<Binding>,
    what: &'static str,
    state: Arc<Mutex<State>>,
    stop: Arc<OwnedFd>,
    changed: Box<dyn Fn() + Send>,
}

impl Keeper {
    fn run(self) {
        let what = self.what;
        let (mut pause, mut complained) = (PAUSE.0, false);
        loop {
            let began = Instant::now();
            let reason = match self.open() {
                Ok((stream, relay)) => {
                    tracing::info!(proxy = %self.proxy.addr, what, "the proxy passes datagrams on");
                    let relay = Arc::new(relay);
                    self.set(State::Up(relay.clone()));
                    let ended = self.stand_by(&stream);
                    relay.end();
                    self.set(State::Down);
                    complained = false;
                    match ended {
                        Err(Failure::Stopped) => return,
                        _ => "it has closed the connection".to_owned(),
                    }
                }
                Err(Failure::Stopped) => return,
                Err(Failure::Refused(error)) if error.is_lasting() => {
                    tracing::warn!(%error, "no {what}: the proxy passes no datagrams on; use one with UDP ASSOCIATE");
                    return self.set(State::Refused(error.to_string()));
                }
                Err(Failure::Refused(error)) => error.to_string(),
                Err(Failure::Io(error)) => error.to_string(),
            };
            if !std::mem::replace(&mut complained, true) {
                tracing::warn!(reason, "no {what} until the proxy passes datagrams on again");
            }
            if began.elapsed() >= GOOD {
                pause = PAUSE.0;
            }
            if self.wait(None, Instant::now() + pause).is_err() {
                return;
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    fn set(&self, state: State) {
        *self.state.lock().expect("no holder panics") = state;
        (self.changed)();
    }

    /// Asks for an association: its connection, and where datagrams go.
    fn open(&self) -> Result<(Socket, Relay), Failure> {
        let until = Instant::now() + OPEN_TIMEOUT;
        let bind = self.bind.as_ref();
        let mut stream = socket_to(bind, (Type::STREAM, Protocol::TCP), self.proxy.addr, 0, |_| Ok(()))?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE.0).with_interval(KEEPALIVE.1).with_retries(3);
        stream.set_tcp_keepalive(&keepalive)?;
        match stream.connect(&self.proxy.addr.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error.into()),
            _ => self.wait(Some((stream.as_fd(), PollFlags::OUT)), until)?,
        }
        if let Some(error) = stream.take_error()? {
            return Err(error.into());
        }
        let mut out = Vec::new();
        let mut tunnel = Tunnel::associate(self.proxy.credentials.clone(), &mut out);
        let mut bytes = [0; 512];
        loop {
            // A few hundred bytes in all: there is room for them.
            stream.write_all(&std::mem::take(&mut out))?;
            self.wait(Some((stream.as_fd(), PollFlags::IN)), until)?;
            let len = match stream.read(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                read => read?,
            };
            if len == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            if tunnel.push(&bytes[..len], &mut out).map_err(Failure::Refused)?.is_some() {
                break;
            }
        }
        let to = tunnel.relay(self.proxy.addr.ip()).map_err(Failure::Refused)?;
        let socket = socket_to(bind, (Type::DGRAM, Protocol::UDP), to, 0, |_| Ok(()))?;
        socket.connect(&to.into())?;
        Ok((stream, Relay { socket: socket.into(), over: AtomicBool::new(false) }))
    }

    /// Until the connection ends, of which the proxy says nothing more.
    fn stand_by(&self, mut stream: &Socket) -> Result<(), Failure> {
        loop {
            self.poll(Some((stream.as_fd(), PollFlags::IN)), None)?;
            match stream.read(&mut [0; 1]) {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                _ => return Ok(()),
            }
        }
    }

    /// Until the descriptor is ready, or without one until the time has come. Errors: stopped, or not ready in time.
    fn wait(&self, fd: Option<(BorrowedFd<'_>, PollFlags)>, until: Instant) -> Result<(), Failure> {
        let wanted = fd.is_some();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return if wanted { Err(io::Error::from(io::ErrorKind::TimedOut).into()) } else { Ok(()) };
            }
            if self.poll(fd, Some(left))? {
                return Ok(());
            }
        }
    }

    /// One sleep; whether the descriptor is ready. Errors: stopped.
    fn poll(
        &self,
        fd: Option<(BorrowedFd<'_>, PollFlags)>,
        limit: Option<Duration>,
    ) -> Result<bool, Failure> {
        let mut fds = vec![PollFd::new(&*self.stop, PollFlags::IN)];
        fds.extend(fd.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        let limit = limit
            .map(|limit| Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() });
        // Interrupted or not: whoever waits comes again.
        let _ = poll(&mut fds, limit.as_ref());
        if !fds[0].revents().is_empty() {
            return Err(Failure::Stopped);
        }
        Ok(fds.get(1).is_some_and(|fd| !fd.revents().is_empty()))
    }
}

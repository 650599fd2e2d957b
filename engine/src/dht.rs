//! Asking the DHT by itself: one search at a time, for a program that has no session.
//!
//! Role: a [`Dht`] node that only asks (BEP 43), with its own sockets, driven by its caller: [`Client::search`] and
//! [`Client::ping`] return when there is an answer or their time is up. Called by `ccbt-fast dht` and by users of the
//! library. Invariant: nothing waits longer than the time that was given, name look-ups apart from [`Client::start`].

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ccbt_protocol::dht::krpc::{Body, DATAGRAM_MAX, Message, Query};
use ccbt_protocol::dht::{Dht, DhtConfig, Event, Saved};
use rand::RngExt;
use rand::rngs::StdRng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use ccbt_protocol::dht::items::mutable_target;
pub use ccbt_protocol::dht::{Contact, Goal, Item, NodeId, Samples};

/// Peers kept of one search.
const PEERS_MAX: usize = 10_000;
/// Nodes whose samples are kept of one search.
const SAMPLES_MAX: usize = 256;

/// What a search came to.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Of [`Goal::Peers`]: each once.
    pub peers: Vec<SocketAddr>,
    /// Of [`Goal::Scrape`]: seeds and other peers, as estimated from Bloom filters (BEP 33).
    pub scraped: Option<(f64, f64)>,
    /// Of [`Goal::Get`]: the newest value.
    pub item: Option<Item>,
    /// Of [`Goal::Sample`]: what each node stores (BEP 51).
    pub samples: Vec<(Contact, Samples)>,
    /// Of the nearest nodes those that answered.
    pub nodes: usize,
    /// Nodes that stored what was to be stored.
    pub stored: usize,
    /// It did not end by itself within its time.
    pub timed_out: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    sockets: Vec<UdpSocket>,
    dht: Dht,
    rng: StdRng,
}

impl Client {
    /// Begins at `nodes` (`HOST:PORT`), whose names may take `patience` to be looked up. Errors: no socket, or none
    /// of the nodes has an address.
    pub fn start(nodes: &[String], patience: Duration) -> io::Result<Self> {
        let entries = resolve(nodes, patience);
        if entries.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no node to begin with has an address"));
        }
        let bind = |ip: IpAddr| {
            let socket = UdpSocket::bind((ip, 0))?;
            socket.set_nonblocking(true)?;
            io::Result::Ok(socket)
        };
        let v4 = bind(Ipv4Addr::UNSPECIFIED.into());
        // Many machines have no IPv6.
        let v6 = bind(Ipv6Addr::UNSPECIFIED.into()).ok().filter(|_| entries.iter().any(SocketAddr::is_ipv6));
        let families = [v4.is_ok(), v6.is_some()];
        let sockets: Vec<UdpSocket> = match v4 {
            Ok(v4) => std::iter::once(v4).chain(v6).collect(),
            Err(error) => vec![v6.ok_or(error)?],
        };
        let (now, mut rng): (_, StdRng) = (Instant::now(), rand::make_rng());
        let config = DhtConfig { families, read_only: true, saved: Saved::default() };
        let mut dht = Dht::new(now, &config, &mut rng);
        dht.enter_by(now, entries);
        Ok(Self { sockets, dht, rng })
    }

    /// Searches until the search ends, or `patience` is over: then what was found so far is returned.
    pub fn search(&mut self, goal: Goal, patience: Duration) -> Found {
        let end = Instant::now() + patience;
        let mut found = Found::default();
        let search = self.dht.start(Instant::now(), goal, &mut self.rng).expect("one search at a time");
        loop {
            while let Some(event) = self.dht.poll_event() {
                match event {
                    Event::Peers(of, peers) if of == search => {
                        for peer in peers {
                            if found.peers.len() < PEERS_MAX && !found.peers.contains(&peer) {
                                found.peers.push(peer);
                            }
                        }
                    }
                    Event::Scraped(of, seeds, peers) if of == search => found.scraped = Some((seeds, peers)),
                    Event::Found(of, item) if of == search => found.item = Some(*item),
                    Event::Samples(of, node, samples)
                        if of == search && found.samples.len() < SAMPLES_MAX =>
                    {
                        found.samples.push((node, samples));
                    }
                    Event::Done { search: of, nodes, stored } if of == search => {
                        return Found { nodes, stored, ..found };
                    }
                    _ => {}
                }
            }
            let now = Instant::now();
            if now >= end {
                self.dht.cancel(search);
                return Found { timed_out: true, ..found };
            }
            self.send();
            self.wait(self.dht.next_wakeup(now).min(end));
            let (dht, rng, now) = (&mut self.dht, &mut self.rng, Instant::now());
            for socket in &self.sockets {
                receive(socket, |from, bytes| dht.handle(now, from, bytes, rng));
            }
            if dht.next_wakeup(now) <= now {
                dht.tick(now, rng);
            }
        }
    }

    /// Asks one node whether it is there: its name, and how long the answer took. `None`: no answer within `patience`.
    pub fn ping(&mut self, node: SocketAddr, patience: Duration) -> Option<(NodeId, Duration)> {
        let begin = Instant::now();
        let transaction = self.rng.random::<[u8; 8]>().to_vec();
        let id = NodeId::random(&mut self.rng);
        let body = Body::Query { id, read_only: true, query: Query::Ping };
        let bytes = Message { transaction: transaction.clone(), body }.encode();
        self.transmit(node, &bytes);
        while begin.elapsed() < patience {
            self.wait(begin + patience);
            let mut answer = None;
            for socket in &self.sockets {
                receive(socket, |from, bytes| match Message::decode(bytes) {
                    Ok(Message { transaction: of, body: Body::Answer { id, .. } })
                        if from == node && of == transaction =>
                    {
                        answer = Some(id);
                    }
                    _ => {}
                });
            }
            if let Some(id) = answer {
                return Some((id, begin.elapsed()));
            }
        }
        None
    }

    fn send(&mut self) {
        while let Some(transmit) = self.dht.poll_transmit() {
            self.transmit(transmit.to, &transmit.bytes);
        }
    }

    /// What cannot be sent is lost, as in the network.
    fn transmit(&self, to: SocketAddr, bytes: &[u8]) {
        let fits = |socket: &&UdpSocket| socket.local_addr().is_ok_and(|own| own.is_ipv6() == to.is_ipv6());
        if let Some(socket) = self.sockets.iter().find(fits)
            && let Err(error) = socket.send_to(bytes, to)
        {
            tracing::debug!(%to, %error, "a datagram is not sent");
        }
    }

    fn wait(&self, until: Instant) {
        let wait = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let mut fds: Vec<_> = self
            .sockets
            .iter()
            .map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN))
            .collect();
        // Interrupted or not: the caller looks at everything.
        let _ = poll(&mut fds, Some(&wait));
    }
}

/// Takes the datagrams that are there, some at a time.
fn receive(socket: &UdpSocket, mut take: impl FnMut(SocketAddr, &[u8])) {
    let mut bytes = [0; DATAGRAM_MAX + 1];
    for _ in 0..64 {
        match socket.recv_from(&mut bytes) {
            Ok((len, from)) => take(from, &bytes[..len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // What an earlier datagram met with.
            Err(_) => {}
        }
    }
}

/// The addresses of `nodes` that are known in time; names are looked up side by side.
fn resolve(nodes: &[String], patience: Duration) -> Vec<SocketAddr> {
    let end = Instant::now() + patience;
    let (sender, results) = mpsc::channel();
    for node in nodes.iter().take(64) {
        let (node, sender) = (node.clone(), sender.clone());
        // It ends by itself when the resolver gives up; nobody waits for it.
        std::thread::spawn(move || _ = sender.send(node.to_socket_addrs().map(Vec::from_iter)));
    }
    drop(sender);
    let mut found = Vec::new();
    while let Ok(result) = results.recv_timeout(end.saturating_duration_since(Instant::now())) {
        found.extend(result.unwrap_or_default());
    }
    found
}

//! Finding peers without trackers: one DHT node (BEP 5, 32) and local discovery (BEP 14) for all torrents of all shards.
//!
//! Role: [`Discovery`] is what shards and the session say to the discovery thread ([`thread`]); what it finds goes to the
//! torrent's home as [`crate::messages::ToShard::AddPeers`]. Owner: [`crate::service::Service`] starts and ends the thread;
//! everybody else has a clone of the handle. Invariants: commands are bounded and never waited for; private torrents
//! (BEP 27) are never told to it, and refused if they are.

mod files;
mod lsd;
mod names;
mod proxied;
mod sockets;
mod swarms;
mod thread;

pub use names::parse_host;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use ccbt_protocol::dht::DhtStats;
use ccbt_protocol::ids::{InfoHash, TorrentKey};
use ccbt_storage::doorbell::Doorbell;
use crossbeam_channel::{Sender, bounded};

use crate::binding::{Binding, Door};
use crate::inbox::Inbox;
use crate::proxying::Proxy;
use proxied::Proxied;

/// Commands that wait at most. A shard that finds no room comes again a second later.
const COMMANDS_MAX: usize = 8192;

/// What the discovery thread is started with.
#[derive(Clone, Debug, Default)]
pub struct DiscoveryConfig {
    /// The DHT; `None`: none.
    pub dht: Option<DhtSettings>,
    /// Local discovery.
    pub lsd: bool,
    /// Where peers reach us; the port is that of TCP, 0 = none.
    pub listen: Vec<Door>,
    /// Packets leave from here. Loopback addresses: nothing leaves this machine, and no name is looked up.
    pub bind: Option<Binding>,
    /// The DHT speaks through this SOCKS5 proxy, and has no socket of its own.
    pub proxy: Option<Proxy>,
}

/// How the DHT is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhtSettings {
    /// UDP port; `None`: the same number as that of TCP.
    pub port: Option<u16>,
    /// `HOST:PORT` of nodes to begin with when no other is known.
    pub bootstrap: Vec<String>,
    /// Ask and do not answer (BEP 43): for a machine that cannot be reached.
    pub read_only: bool,
    /// Where nodes are kept between runs; `None`: nowhere.
    pub state_file: Option<PathBuf>,
}

impl Default for DhtSettings {
    fn default() -> Self {
        let hosts = ["router.bittorrent.com:6881", "dht.transmissionbt.com:6881", "dht.libtorrent.org:25401"];
        let bootstrap = hosts.map(str::to_owned).to_vec();
        Self { port: None, bootstrap, read_only: false, state_file: None }
    }
}

/// A torrent for which peers are wanted.
#[derive(Clone, Debug)]
pub struct Interest {
    /// Its name in the network.
    pub info_hash: InfoHash,
    /// Its name here: found peers are told with it.
    pub key: TorrentKey,
    /// The shard to tell.
    pub home: Inbox,
    /// BEP 27 forbids to look: nothing is done then.
    pub private: bool,
    /// Whether we have all of it (BEP 33).
    pub seed: bool,
    /// Look in the DHT.
    pub dht: bool,
    /// Look in the local network.
    pub lsd: bool,
}

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    Add(Interest),
    Remove(TorrentKey),
    Node(SocketAddr),
    Hosts(Vec<(String, u16)>),
    External(IpAddr),
    Reached(u16),
    Renew(Vec<Door>),
    Datagram(SocketAddr, Vec<u8>),
    Stop,
}

/// A datagram of the listening port that is not of the DHT.
#[derive(Clone, Copy, Debug)]
pub struct Stray<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Who sent it.
    pub from: SocketAddr,
    /// What the socket is bound to.
    pub to: &'a Door,
}

/// Takes datagrams that the DHT has no use for (uTP). Called on the discovery thread: it must not wait.
pub trait Strays: Send {
    /// Takes one.
    fn take(&mut self, stray: Stray<'_>);
}

/// How discovery does. Counts since the start, unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiscoveryStats {
    /// Of the DHT node.
    pub dht: DhtStats,
    /// Torrents that peers are looked for now.
    pub torrents: usize,
    /// Look-ups of torrents that have ended.
    pub lookups: u64,
    /// Of these, the ones in which a node stored our announce.
    pub announced: u64,
    /// Addresses that the DHT told, each time counted.
    pub dht_peers: u64,
    /// Announces of local discovery that were sent, and received from others.
    pub lsd_out: u64,
    /// As `lsd_out`, received from others.
    pub lsd_in: u64,
    /// Datagrams of the listening port that were not of the DHT.
    pub strays: u64,
    /// Commands and results that found no room.
    pub dropped: u64,
}

/// The way to the discovery thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct Discovery {
    commands: Sender<Command>,
    bell: Arc<Doorbell>,
    dht_port: u16,
    stats: Arc<Mutex<DiscoveryStats>>,
}

impl Discovery {
    /// Peers are wanted for a torrent, or what was said of it has changed. `false`: there is no room now, come again.
    pub fn add(&self, interest: Interest) -> bool {
        interest.private || self.send(Command::Add(interest))
    }

    /// No more peers for this torrent. `false` as with [`Self::add`].
    pub fn remove(&self, key: TorrentKey) -> bool {
        self.send(Command::Remove(key))
    }

    /// A peer says that it runs a DHT node (PORT). Lost when there is no room.
    pub fn node(&self, addr: SocketAddr) {
        self.send(Command::Node(addr));
    }

    /// Nodes that a torrent names. Lost when there is no room.
    pub fn hosts(&self, hosts: Vec<(String, u16)>) {
        if !hosts.is_empty() {
            self.send(Command::Hosts(hosts));
        }
    }

    /// Our address as a tracker or router sees it (BEP 24). Lost when there is no room.
    pub fn external(&self, ip: IpAddr) {
        self.send(Command::External(ip));
    }

    /// A router forwards this port to that of TCP: it is announced in the DHT. Lost when there is no room.
    pub fn reached(&self, port: u16) {
        self.send(Command::Reached(port));
    }

    /// A network interface that we are bound to has come back: sockets are opened anew. Lost when there is no room.
    pub(crate) fn renew(&self, listen: Vec<Door>) {
        self.send(Command::Renew(listen));
    }

    /// A datagram that came to a uTP socket of the listening port and is of the DHT. Lost when there is no room.
    pub fn datagram(&self, from: SocketAddr, bytes: Vec<u8>) {
        self.send(Command::Datagram(from, bytes));
    }

    /// UDP port of the DHT, to be told to peers; 0 = there is no DHT, or it does not answer.
    pub fn dht_port(&self) -> u16 {
        self.dht_port
    }

    /// How it does, as of a moment ago.
    pub fn stats(&self) -> DiscoveryStats {
        *self.stats.lock().expect("no holder panics")
    }

    fn send(&self, command: Command) -> bool {
        let sent = self.commands.try_send(command).is_ok();
        self.bell.ring();
        sent
    }
}

/// The running thread.
pub struct DiscoveryThread {
    handle: Discovery,
    thread: JoinHandle<()>,
}

impl DiscoveryThread {
    /// Starts it. What cannot be had (a port that is taken, an interface without multicast) is done without, with a
    /// warning. Errors: no thread or descriptor is to be had.
    pub fn start(config: DiscoveryConfig, strays: Option<Box<dyn Strays>>) -> io::Result<Self> {
        let (commands, receiver) = bounded(COMMANDS_MAX);
        let bell = Doorbell::new()?;
        let stats = Arc::<Mutex<DiscoveryStats>>::default();
        let udp = if config.proxy.is_some() { Vec::new() } else { sockets::open(&config) };
        let proxy = config.proxy.clone().filter(|_| config.dht.is_some());
        let through = |proxy| Proxied::start(proxy, config.bind.clone(), bell.clone());
        let proxied = proxy.map(through).transpose()?;
        let is_silent = config.dht.as_ref().is_none_or(|dht| dht.read_only);
        let waits = config.bind.as_ref().is_some_and(|bind| bind.interfaces().next().is_some());
        let waited_for = || {
            config
                .dht
                .as_ref()
                .and_then(|dht| dht.port)
                .or(config.listen.first().map(|door| door.addr.port()))
        };
        let own = udp.first().map(|socket| socket.door.addr.port());
        let dht_port = own.or_else(|| waited_for().filter(|_| waits)).filter(|_| !is_silent).unwrap_or(0);
        let worker = thread::Worker::new(
            config,
            udp,
            proxied,
            receiver,
            Arc::clone(&bell),
            Arc::clone(&stats),
            strays,
        );
        let thread =
            std::thread::Builder::new().name("ccbt-discovery".to_owned()).spawn(move || worker.run())?;
        Ok(Self { handle: Discovery { commands, bell, dht_port, stats }, thread })
    }

    /// For others.
    pub fn handle(&self) -> &Discovery {
        &self.handle
    }

    /// Ends it: nodes are saved.
    pub fn stop(self) {
        // Waits for room: the thread empties the queue.
        let _ = self.handle.commands.send(Command::Stop);
        self.handle.bell.ring();
        if self.thread.join().is_err() {
            tracing::error!("the discovery thread panicked");
        }
    }
}

#[cfg(test)]
mod tests;

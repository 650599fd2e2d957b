//! The discovery thread: one loop over its sockets, its commands and the clock.
//!
//! Owner of the DHT node, of the list of torrents and of local discovery. It sleeps in `poll` until a datagram comes, its
//! bell rings, or something is due. Invariant: whatever comes, a turn handles [`BURST`] datagrams of a socket at most, and
//! nothing in it waits.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ccbt_protocol::candidates::Source;
use ccbt_protocol::dht::krpc::DATAGRAM_MAX;
use ccbt_protocol::dht::{Dht, DhtConfig, Event, NodeId, Saved};
use ccbt_protocol::ids::TorrentKey;
use ccbt_protocol::lsd::HASHES_MAX;
use ccbt_storage::doorbell::Doorbell;
use crossbeam_channel::Receiver;
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::lsd::Lsd;
use super::names::{Names, parse_host};
use super::proxied::Proxied;
use super::sockets::Udp;
use super::swarms::{Swarms, unique};
use super::{Command, DhtSettings, DiscoveryConfig, DiscoveryStats, Stray, Strays, files, sockets};
use crate::association::Relay;
use crate::binding::Binding;
use crate::inbox::Inbox;
use crate::messages::ToShard;

/// Datagrams of one socket in a turn.
const BURST: usize = 64;
/// Commands in a turn.
const COMMANDS: usize = 256;
/// Between two saves of the table.
const SAVE: Duration = Duration::from_secs(15 * 60);
/// Nodes below which hosts to begin with are asked for again, first and at most so often.
const FEW_NODES: usize = 8;
const BOOTSTRAP: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(600));
/// Torrents that are added together are told to the local network together.
const GATHER: Duration = Duration::from_secs(1);
/// How often names are asked for that are looked up.
const NAMES: Duration = Duration::from_millis(50);
/// How often counters are told at most.
const TELL: Duration = Duration::from_millis(250);

/// See the module.
pub(super) struct Worker {
    config: DiscoveryConfig,
    udp: Vec<Udp>,
    /// In place of `udp`.
    proxied: Option<Proxied>,
    commands: Receiver<Command>,
    bell: Arc<Doorbell>,
    shared: Arc<Mutex<DiscoveryStats>>,
    strays: Option<Box<dyn Strays>>,
    dht: Option<Dht>,
    lsd: Option<Lsd>,
    lsd_from: Instant,
    /// Where the world reaches our TCP port, if a router forwards it.
    reached: Option<u16>,
    names: Names,
    swarms: Swarms,
    rng: StdRng,
    stats: DiscoveryStats,
    told: Instant,
    bootstrap: Instant,
    bootstrap_wait: Duration,
    save: Instant,
}

impl Worker {
    pub fn new(
        config: DiscoveryConfig,
        udp: Vec<Udp>,
        proxied: Option<Proxied>,
        commands: Receiver<Command>,
        bell: Arc<Doorbell>,
        shared: Arc<Mutex<DiscoveryStats>>,
        strays: Option<Box<dyn Strays>>,
    ) -> Self {
        let now = Instant::now();
        let mut rng: StdRng = rand::make_rng();
        // An interface that is not there yet may bring any family.
        let waits = config.bind.as_ref().is_some_and(|bind| bind.interfaces().next().is_some());
        let has = |v6: bool| waits || udp.iter().any(|udp| udp.door.addr.is_ipv6() == v6);
        let families = [has(false), has(true)];
        let settings = config.dht.as_ref().filter(|_| families != [false; 2] && proxied.is_none());
        let dht = settings.map(|settings| node(now, settings, families, &mut rng));
        // Only this machine is there.
        let lsd = config.lsd && !config.bind.as_ref().is_some_and(Binding::is_loopback);
        let lsd = lsd.then(|| Lsd::new(now, config.bind.clone(), rng.random()));
        Self {
            config,
            udp,
            proxied,
            commands,
            bell,
            shared,
            strays,
            dht,
            lsd,
            lsd_from: now,
            reached: None,
            names: Names::default(),
            swarms: Swarms::default(),
            rng,
            stats: DiscoveryStats::default(),
            told: now,
            bootstrap: now,
            bootstrap_wait: BOOTSTRAP.0,
            save: now + SAVE,
        }
    }

    /// Until it is told to stop, or everybody has hung up.
    pub fn run(mut self) {
        loop {
            let now = Instant::now();
            if !self.obey(now) {
                break;
            }
            self.renew_relay(now);
            let more = self.receive(now);
            self.bring_up(now);
            self.advance(now);
            self.send();
            self.tell(now);
            if !more {
                self.sleep(now);
            }
        }
        self.keep();
        self.publish();
    }

    /// Takes commands; `false` when it is over.
    fn obey(&mut self, now: Instant) -> bool {
        for _ in 0..COMMANDS {
            match self.commands.try_recv() {
                Ok(Command::Add(interest)) => {
                    if self.swarms.len() == 0 {
                        self.lsd_from = now + GATHER;
                    }
                    let cancelled = self.swarms.add(now, interest);
                    self.cancel(cancelled);
                    self.pace(now);
                }
                Ok(Command::Remove(key)) => {
                    let cancelled = self.swarms.remove(key);
                    self.cancel(cancelled);
                    self.pace(now);
                }
                Ok(Command::Node(addr)) => {
                    if let Some(dht) = self.dht.as_mut().filter(|_| may_contact(&self.config, addr)) {
                        dht.add_node(now, addr, &mut self.rng);
                    }
                }
                Ok(Command::Hosts(hosts)) => self.look_up(now, hosts),
                Ok(Command::Reached(port)) => self.reached = Some(port),
                Ok(Command::External(ip)) => {
                    if let Some(dht) = &mut self.dht {
                        dht.hint_external(now, ip, &mut self.rng);
                    }
                }
                Ok(Command::Renew(doors)) => {
                    self.config.listen = doors;
                    // The old ones first: they may have the port.
                    self.udp.clear();
                    if self.proxied.is_none() {
                        self.udp = sockets::open(&self.config);
                    }
                    self.bootstrap = now;
                    if let Some(lsd) = &mut self.lsd {
                        lsd.renew();
                    }
                }
                Ok(Command::Datagram(from, bytes)) => {
                    if let Some(dht) = &mut self.dht {
                        dht.handle(now, from, &bytes, &mut self.rng);
                    }
                }
                Ok(Command::Stop) | Err(crossbeam_channel::TryRecvError::Disconnected) => return false,
                Err(crossbeam_channel::TryRecvError::Empty) => return true,
            }
        }
        true
    }

    /// A new way through the proxy: the node begins, or begins anew. IPv4 only, as no proxy says that it has IPv6.
    fn renew_relay(&mut self, now: Instant) {
        let (Some(proxied), Some(settings)) = (&mut self.proxied, &self.config.dht) else { return };
        if proxied.renew() {
            self.dht.get_or_insert_with(|| node(now, settings, [true, false], &mut self.rng));
            self.bootstrap = now;
            self.pace(now);
        }
    }

    /// Asks as much as that many torrents need.
    fn pace(&mut self, now: Instant) {
        if let Some(dht) = &mut self.dht {
            dht.set_torrents(now, self.swarms.len());
        }
    }

    fn cancel(&mut self, search: Option<ccbt_protocol::dht::SearchId>) {
        if let (Some(search), Some(dht)) = (search, &mut self.dht) {
            dht.cancel(search);
        }
    }

    fn look_up(&mut self, now: Instant, hosts: Vec<(String, u16)>) {
        let is_loopback = self.config.bind.as_ref().is_some_and(Binding::is_loopback);
        let known = match self.proxied.as_mut().filter(|proxied| proxied.hostnames) {
            Some(proxied) => proxied.look_up(hosts, &mut self.rng),
            None => self.names.look_up(hosts, is_loopback),
        };
        self.enter_by(now, known);
    }

    fn enter_by(&mut self, now: Instant, addrs: Vec<SocketAddr>) {
        let config = &self.config;
        if let Some(dht) = &mut self.dht {
            dht.enter_by(now, addrs.into_iter().filter(|addr| may_contact(config, *addr)));
        }
    }

    /// Takes datagrams; whether there may be more.
    fn receive(&mut self, now: Instant) -> bool {
        let mut more = false;
        // One byte more: what fills it is too long.
        let mut bytes = [0; DATAGRAM_MAX + 1];
        for udp in &self.udp {
            let mut count = 0;
            while count < BURST {
                let (len, from) = match udp.socket.recv_from(&mut bytes) {
                    Ok(received) => received,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    // What an earlier datagram met with.
                    Err(_) => (0, udp.door.addr),
                };
                count += 1;
                let bytes = &bytes[..len];
                match (bytes.first(), &mut self.dht) {
                    (None, _) => {}
                    (Some(b'd'), Some(_)) if !udp.is_node => {}
                    (Some(b'd'), Some(dht)) => dht.handle(now, from, bytes, &mut self.rng),
                    _ => {
                        self.stats.strays += 1;
                        if let Some(strays) = &mut self.strays {
                            strays.take(Stray { bytes, from, to: &udp.door });
                        }
                    }
                }
            }
            more |= count == BURST;
        }
        more |= self.receive_proxied(now);
        for (peer, hashes) in self.lsd.as_mut().map(|lsd| lsd.receive(now)).unwrap_or_default() {
            self.stats.lsd_in += 1;
            for hash in hashes {
                if let Some((key, home)) = self.swarms.wanting(&hash) {
                    give(&mut self.stats, key, home, vec![peer], Source::Lsd);
                }
            }
        }
        more
    }

    /// As [`Self::receive`], through the proxy.
    fn receive_proxied(&mut self, now: Instant) -> bool {
        let (Some(proxied), Some(dht)) = (&mut self.proxied, &mut self.dht) else { return false };
        for _ in 0..BURST {
            match proxied.receive() {
                Ok(Some((from, Some(bytes)))) => dht.handle(now, from, bytes, &mut self.rng),
                Ok(Some((node, None))) => dht.enter_by(now, [node]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                // What an earlier datagram met with, or nobody's.
                Ok(None) | Err(_) => {}
            }
        }
        true
    }

    /// Looks for nodes to begin with while there are few.
    fn bring_up(&mut self, now: Instant) {
        let found = self.names.take();
        self.enter_by(now, found);
        if let (Some(proxied), Some(dht)) = (&mut self.proxied, &self.dht) {
            proxied.ask(now, dht.id(0).expect("it has IPv4"));
        }
        let (Some(dht), Some(settings)) = (&self.dht, &self.config.dht) else { return };
        if now < self.bootstrap {
            return;
        }
        if dht.stats().nodes.iter().sum::<usize>() >= FEW_NODES {
            (self.bootstrap, self.bootstrap_wait) = (now + BOOTSTRAP.1, BOOTSTRAP.0);
            return;
        }
        self.bootstrap = now + self.bootstrap_wait;
        self.bootstrap_wait = (self.bootstrap_wait * 2).min(BOOTSTRAP.1);
        let hosts = settings.bootstrap.iter().filter_map(|text| parse_host(text)).collect();
        self.look_up(now, hosts);
    }

    /// Looks up what is due, and takes what was found.
    fn advance(&mut self, now: Instant) {
        if let Some(dht) = &mut self.dht {
            if dht.next_wakeup(now) <= now {
                dht.tick(now, &mut self.rng);
            }
            let port = self.config.listen.first().map_or(0, |door| door.addr.port());
            let port = self.reached.filter(|_| port != 0).unwrap_or(port);
            while let Some((key, goal)) = self.swarms.next(now, port) {
                let Some(search) = dht.start(now, goal, &mut self.rng) else { break };
                self.swarms.started(key, search);
            }
            while let Some(event) = dht.poll_event() {
                match event {
                    Event::Peers(search, peers) => {
                        if let Some((key, home)) = self.swarms.found(search) {
                            let config = &self.config;
                            let mut peers = unique(peers);
                            peers.retain(|peer| may_contact(config, *peer));
                            self.stats.dht_peers += peers.len() as u64;
                            give(&mut self.stats, key, home, peers, Source::Dht);
                        }
                    }
                    Event::Done { search, nodes, stored } => {
                        if self.swarms.ended(now, search, nodes, &mut self.rng) {
                            self.stats.lookups += 1;
                            self.stats.announced += u64::from(stored > 0);
                        }
                    }
                    Event::External(ip) => tracing::info!(%ip, "DHT nodes see us at this address"),
                    Event::Scraped(..) | Event::Found(..) | Event::Samples(..) => {}
                }
            }
        }
        self.tell_lsd(now);
        if now >= self.save {
            self.save = now + SAVE;
            self.keep();
        }
    }

    fn tell_lsd(&mut self, now: Instant) {
        let Some(lsd) = &mut self.lsd else { return };
        let port = self.config.listen.first().map_or(0, |door| door.addr.port());
        while port != 0 && now >= self.lsd_from && self.swarms.next_due().1.is_some_and(|at| at <= now) {
            if let Err(at) = lsd.ready(now) {
                self.lsd_from = at;
                return;
            }
            let hashes = self.swarms.take_lsd(now, HASHES_MAX);
            self.stats.lsd_out += lsd.announce(now, port, hashes);
        }
    }

    fn send(&mut self) {
        let Some(dht) = &mut self.dht else { return };
        while let Some(transmit) = dht.poll_transmit() {
            let to = transmit.to;
            if let Some(proxied) = &self.proxied {
                if let Err(error) = proxied.send(to, &transmit.bytes) {
                    tracing::trace!(%to, %error, "a datagram is not sent");
                }
                continue;
            }
            let socket = self.udp.iter().find(|udp| udp.door.addr.is_ipv6() == to.is_ipv6());
            // Bound to loopback, nothing else can be reached. What is lost is lost, as in the network.
            if let Some(udp) = socket.filter(|_| may_contact(&self.config, to))
                && let Err(error) = udp.socket.send_to(&transmit.bytes, to)
            {
                tracing::trace!(%to, %error, "a datagram is not sent");
            }
        }
    }

    fn tell(&mut self, now: Instant) {
        if now.saturating_duration_since(self.told) >= TELL {
            self.told = now;
            self.publish();
        }
    }

    fn publish(&mut self) {
        self.stats.torrents = self.swarms.len();
        self.stats.dht = self.dht.as_ref().map(Dht::stats).unwrap_or_default();
        *self.shared.lock().expect("no holder panics") = self.stats;
    }

    /// Saves the table, if it is worth it.
    fn keep(&self) {
        let (Some(dht), Some(settings)) = (&self.dht, &self.config.dht) else { return };
        let saved = dht.save();
        if let (Some(path), false) = (&settings.state_file, saved.nodes.is_empty())
            && let Err(error) = files::save(path, &saved)
        {
            tracing::warn!(path = %path.display(), %error, "DHT nodes cannot be saved: the next start takes longer");
        }
    }

    /// Until something comes or is due.
    fn sleep(&mut self, now: Instant) {
        let dht = self.dht.as_ref().map(|dht| dht.next_wakeup(now));
        let (due, lsd_due) = self.swarms.next_due();
        // What is due and has not begun waits for another look-up to end.
        let due = due.filter(|at| self.dht.is_some() && *at > now);
        let lsd_due = lsd_due.filter(|_| self.lsd.is_some()).map(|at| at.max(self.lsd_from));
        let names = self.names.is_busy().then(|| now + NAMES);
        let bootstrap = self.dht.is_some().then_some(self.bootstrap);
        let save = self.dht.is_some().then_some(self.save);
        // So that the last change is told, too.
        let tell = self.is_untold().then(|| self.told + TELL);
        let first = [dht, due, lsd_due, names, bootstrap, save, tell].into_iter().flatten().min();
        let wait = first.map(|at| at.saturating_duration_since(now).max(Duration::from_millis(1)));
        self.bell.announce_sleep();
        if self.commands.is_empty() {
            let groups = self.lsd.as_ref().map(Lsd::sockets).unwrap_or_default();
            let mut fds = vec![PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN)];
            let relay = self.proxied.as_ref().and_then(Proxied::relay).map(Relay::socket);
            let sockets = self.udp.iter().map(|udp| &udp.socket).chain(groups).chain(relay);
            fds.extend(sockets.map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)));
            let wait = wait
                .map(|wait| Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() });
            // Interrupted or not: the loop looks at everything.
            let _ = poll(&mut fds, wait.as_ref());
        }
        self.bell.awake();
        self.bell.drain();
    }

    fn is_untold(&self) -> bool {
        let dht = self.dht.as_ref().map(Dht::stats).unwrap_or_default();
        let now = DiscoveryStats { torrents: self.swarms.len(), dht, ..self.stats };
        *self.shared.lock().expect("no holder panics") != now
    }
}

fn node(now: Instant, settings: &DhtSettings, families: [bool; 2], rng: &mut StdRng) -> Dht {
    let saved = saved(settings, rng);
    Dht::new(now, &DhtConfig { families, read_only: settings.read_only, saved }, rng)
}

/// What the last run left. Names are drawn anew but for what binds them to an address (BEP 42): processes that share a
/// state do not share a name.
fn saved(settings: &DhtSettings, rng: &mut impl Rng) -> Saved {
    let mut saved = settings.state_file.as_deref().map(files::load).unwrap_or_default();
    for id in saved.ids.iter_mut().flatten() {
        *id = renamed(*id, rng);
    }
    saved
}

fn renamed(id: NodeId, rng: &mut impl Rng) -> NodeId {
    let mut new = NodeId::random(rng);
    new.0[..2].copy_from_slice(&id.0[..2]);
    new.0[2] = id.0[2] & 0xf8 | new.0[2] & 0x07;
    new.0[19] = id.0[19] & 0x07 | new.0[19] & 0xf8;
    new
}

/// Whether packets may go there: a session that is bound to loopback stays there.
fn may_contact(config: &DiscoveryConfig, addr: SocketAddr) -> bool {
    config.bind.as_ref().is_none_or(|bind| !bind.is_loopback() || addr.ip().is_loopback())
}

/// Tells the home of a torrent what was found; what finds no room comes again with the next look-up.
fn give(stats: &mut DiscoveryStats, key: TorrentKey, home: &Inbox, peers: Vec<SocketAddr>, source: Source) {
    if !peers.is_empty() && home.try_send(ToShard::AddPeers(key, peers, source)).is_err() {
        stats.dropped += 1;
    }
}

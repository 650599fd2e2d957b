//! Local discovery over multicast (BEP 14), on every interface that is up.
//!
//! Owner: the discovery thread. Invariants: each torrent is told once in five minutes ([`super::swarms`]), and
//! [`PACKETS`] a second at most on each interface; of others as many are read, so that nobody can keep us busy; nothing
//! leaves through loopback interfaces, where only this machine is.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use ccbt_protocol::ids::InfoHash;
use ccbt_protocol::lsd::{self, Announce};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use crate::binding::Binding;

/// Interfaces that are used at most, by family.
const INTERFACES_MAX: usize = 16;
/// Announces per second and interface, and as many at once: with 24 torrents in each, 14,000 torrents in five minutes.
const PACKETS: u32 = 2;
/// Announces of others that are read per second.
const READ_MAX: u32 = 50;
/// Interfaces come and go.
const RENEW: Duration = Duration::from_secs(300);

/// A place to send from.
#[derive(Debug)]
struct Interface {
    socket: UdpSocket,
    group: SocketAddr,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lsd {
    bind: Option<Binding>,
    cookie: String,
    /// One per family, bound to the group: nothing that was sent to us alone arrives.
    receivers: Vec<UdpSocket>,
    interfaces: Vec<Interface>,
    renewed: Option<Instant>,
    /// The second that counts are of.
    second: Instant,
    sent: u32,
    read: u32,
}

impl Lsd {
    /// `cookie` is drawn anew for each process.
    pub fn new(now: Instant, bind: Option<Binding>, cookie: u64) -> Self {
        let cookie = format!("ccbt-{cookie:016x}");
        Self {
            bind,
            cookie,
            receivers: Vec::new(),
            interfaces: Vec::new(),
            renewed: None,
            second: now,
            sent: 0,
            read: 0,
        }
    }

    /// Interfaces have come or gone: they are looked at before the next announce.
    pub fn renew(&mut self) {
        self.renewed = None;
    }

    /// The sockets to poll.
    pub fn sockets(&self) -> &[UdpSocket] {
        &self.receivers
    }

    /// Whether it may announce now; else from when on.
    pub fn ready(&mut self, now: Instant) -> Result<(), Instant> {
        self.begin_second(now);
        if self.sent < PACKETS { Ok(()) } else { Err(self.second + Duration::from_secs(1)) }
    }

    fn begin_second(&mut self, now: Instant) {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.sent, self.read) = (now, 0, 0);
        }
    }

    /// Tells the networks of these torrents; how many packets that took.
    pub fn announce(&mut self, now: Instant, port: u16, hashes: Vec<InfoHash>) -> u64 {
        if self.renewed.is_none_or(|at| now.saturating_duration_since(at) >= RENEW) {
            self.renewed = Some(now);
            self.join();
        }
        self.sent += 1;
        let announce = Announce { port, hashes, cookie: Some(self.cookie.clone()) };
        let mut sent = 0;
        for interface in &self.interfaces {
            match interface.socket.send_to(&announce.write(interface.group.is_ipv6()), interface.group) {
                Ok(_) => sent += 1,
                Err(error) => {
                    tracing::debug!(group = %interface.group, %error, "local discovery cannot send")
                }
            }
        }
        sent
    }

    /// Reads what others announced: their address, and what they have.
    pub fn receive(&mut self, now: Instant) -> Vec<(SocketAddr, Vec<InfoHash>)> {
        self.begin_second(now);
        let mut heard = Vec::new();
        let mut bytes = [0; lsd::DATAGRAM_MAX + 1];
        for socket in &self.receivers {
            while let Ok((len, from)) = socket.recv_from(&mut bytes) {
                self.read += 1;
                if self.read > READ_MAX {
                    // Taken off the socket and not looked at.
                    continue;
                }
                let announce = Announce::parse(&bytes[..len]);
                if let Some(announce) =
                    announce.filter(|announce| announce.cookie.as_ref() != Some(&self.cookie))
                {
                    heard.push((SocketAddr::new(from.ip(), announce.port), announce.hashes));
                }
            }
        }
        heard
    }

    /// Opens what is not open yet, and joins the groups on all interfaces.
    fn join(&mut self) {
        if self.receivers.is_empty() {
            for group in [IpAddr::V4(lsd::GROUP_V4), IpAddr::V6(lsd::GROUP_V6)] {
                match receiver(group) {
                    Ok(socket) => self.receivers.push(socket),
                    Err(error) => tracing::debug!(%group, %error, "no local discovery for this family"),
                }
            }
        }
        let found = match if_addrs::get_if_addrs() {
            Ok(found) => found,
            Err(error) => {
                return tracing::warn!(%error, "local discovery does not know the network interfaces");
            }
        };
        // One address of each interface and family.
        let mut places: HashMap<(String, bool), (IpAddr, u32)> = HashMap::new();
        for interface in found {
            let ip = interface.ip();
            let wanted = self.bind.as_ref().is_none_or(|bind| bind.names(&interface.name, ip));
            if let (true, false, Some(index)) = (wanted, interface.is_loopback(), interface.index) {
                places.entry((interface.name, ip.is_ipv6())).or_insert((ip, index));
            }
        }
        self.interfaces.clear();
        for v6 in [false, true] {
            let ours = self
                .receivers
                .iter()
                .find(|socket| socket.local_addr().is_ok_and(|addr| addr.is_ipv6() == v6));
            let Some(receiver) = ours else { continue };
            for (ip, index) in places.values().filter(|(ip, _)| ip.is_ipv6() == v6).take(INTERFACES_MAX) {
                match join_one(receiver, *ip, *index) {
                    Ok(interface) => self.interfaces.push(interface),
                    Err(error) => tracing::debug!(%ip, %error, "no local discovery on this interface"),
                }
            }
        }
        tracing::debug!(interfaces = self.interfaces.len(), "local discovery");
    }
}

fn receiver(group: IpAddr) -> io::Result<UdpSocket> {
    let addr = SocketAddr::new(group, lsd::PORT);
    let socket =
        Socket::new(Domain::for_address(addr), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    // Every client of this machine listens there.
    socket.set_reuse_address(true)?;
    if group.is_ipv6() {
        socket.set_only_v6(true)?;
    } else {
        socket.set_multicast_all_v4(false)?;
    }
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

fn join_one(receiver: &UdpSocket, ip: IpAddr, index: u32) -> io::Result<Interface> {
    let receiver = socket2::SockRef::from(receiver);
    let domain = if ip.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    let joined = match ip {
        IpAddr::V4(ip) => {
            socket.bind(&SocketAddr::from((ip, 0)).into())?;
            socket.set_multicast_if_v4(&ip)?;
            socket.set_multicast_ttl_v4(1)?;
            receiver.join_multicast_v4_n(&lsd::GROUP_V4, &InterfaceIndexOrAddress::Index(index))
        }
        IpAddr::V6(_) => {
            socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
            socket.set_multicast_if_v6(index)?;
            socket.set_multicast_hops_v6(1)?;
            receiver.join_multicast_v6(&lsd::GROUP_V6, index)
        }
    };
    match joined {
        // Joined before.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        other => other?,
    }
    let group: IpAddr = if ip.is_ipv6() { lsd::GROUP_V6.into() } else { lsd::GROUP_V4.into() };
    Ok(Interface { socket: socket.into(), group: SocketAddr::new(group, lsd::PORT) })
}

//! Where sockets listen, and where what we send leaves from: addresses and network interfaces of this machine.
//!
//! Role: [`Binding`] is what the user has named, [`Door`] one socket address to listen on. Owner: values, copied to whoever
//! makes sockets. Invariants: a binding has a place at least; what is sent for a binding that names an interface leaves by
//! that interface or not at all. The kernel sees to it (SO_BINDTODEVICE, for everybody since Linux 5.7); where it does not
//! let us, the interface's addresses take its place, which routes may lead elsewhere (a warning says so).

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use socket2::{Domain, Protocol, Socket, Type};

/// Longest name of an interface in bytes (IFNAMSIZ without the zero).
const NAME_MAX: usize = 15;
/// Places of one binding at most.
const PLACES_MAX: usize = 16;

/// An address, or an interface with whatever addresses it has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// An address of this machine; an unspecified one: all of its family.
    Address(IpAddr),
    /// A network interface by its name.
    Interface(Arc<str>),
}

impl FromStr for Place {
    type Err = ();

    /// An IP address, also in brackets, or what Linux takes for an interface's name.
    fn from_str(text: &str) -> Result<Self, ()> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse() {
            return Ok(Self::Address(ip));
        }
        // Digits and dots alone are a mistyped address rather than a name.
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"/:,%[]\"'".contains(&byte);
        let is_name = (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(is_plain);
        if is_name && !is_number { Ok(Self::Interface(text.into())) } else { Err(()) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => ip.fmt(f),
            Self::Interface(name) => name.fmt(f),
        }
    }
}

impl Place {
    fn is_loopback(&self) -> bool {
        match self {
            Self::Address(ip) => ip.is_loopback(),
            Self::Interface(name) => &**name == "lo",
        }
    }

    /// Whether something can be sent to `peer` from here.
    fn reaches(&self, peer: IpAddr) -> bool {
        match self {
            Self::Address(ip) => ip.is_ipv4() == peer.is_ipv4() && (!ip.is_loopback() || peer.is_loopback()),
            Self::Interface(_) => !self.is_loopback() || peer.is_loopback(),
        }
    }

    /// Whether a socket at the local address `ip` is here.
    fn has(&self, ip: IpAddr) -> bool {
        match self {
            Self::Address(own) => *own == ip || own.is_unspecified() && own.is_ipv4() == ip.is_ipv4(),
            Self::Interface(name) => addresses_of(name).contains(&ip),
        }
    }

    /// Gives `socket` its local address: `port` (0: any) of this place.
    fn bind(&self, socket: &Socket, peer: IpAddr, port: u16) -> io::Result<()> {
        match self {
            Self::Address(ip) => socket.bind(&SocketAddr::new(*ip, port).into()),
            Self::Interface(name) => Door::of(name, peer.is_ipv4(), port)?.bind(socket),
        }
    }
}

/// Places that a session or a torrent is bound to: it listens on all of them, and connects from the first one that reaches
/// the peer. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Binding(Arc<[Place]>);

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places: Vec<String> = self.0.iter().map(Place::to_string).collect();
        f.write_str(&places.join(","))
    }
}

impl<T: Into<IpAddr>> From<T> for Binding {
    fn from(ip: T) -> Self {
        Self([Place::Address(ip.into())].into())
    }
}

impl FromStr for Binding {
    type Err = ();

    /// Places between commas.
    fn from_str(text: &str) -> Result<Self, ()> {
        let places = text.split(',').map(|place| place.trim().parse()).collect::<Result<Vec<Place>, ()>>()?;
        Self::new(places).ok_or(())
    }
}

impl Binding {
    /// `None` without places, or with more than 16.
    pub fn new(places: Vec<Place>) -> Option<Self> {
        (1..=PLACES_MAX).contains(&places.len()).then(|| Self(places.into()))
    }

    /// The places, in their order.
    pub fn places(&self) -> &[Place] {
        &self.0
    }

    /// Only this machine can be reached.
    pub fn is_loopback(&self) -> bool {
        self.0.iter().all(Place::is_loopback)
    }

    /// The interfaces that are named.
    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|place| match place {
            Place::Interface(name) => Some(&**name),
            Place::Address(_) => None,
        })
    }

    /// The addresses that are named and that are not those of every machine.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().filter_map(|place| match place {
            Place::Address(ip) if !ip.is_unspecified() && !ip.is_loopback() => Some(*ip),
            _ => None,
        })
    }

    /// Whether a place may go and come back.
    pub(crate) fn may_go(&self) -> bool {
        self.interfaces().next().is_some() || self.addresses().next().is_some()
    }

    /// Whether something can be sent to `peer`, as far as that is known without trying.
    pub fn reaches(&self, peer: IpAddr) -> bool {
        self.0.iter().any(|place| place.reaches(peer))
    }

    /// Whether a connection to our address `local` has come by one of the places.
    pub fn admits(&self, local: IpAddr) -> bool {
        self.0.iter().any(|place| place.has(local))
    }

    /// Whether the address `ip` of `interface` is one of the places.
    pub(crate) fn names(&self, interface: &str, ip: IpAddr) -> bool {
        self.0.iter().any(|place| match place {
            Place::Address(own) => *own == ip || own.is_unspecified() && own.is_ipv4() == ip.is_ipv4(),
            Place::Interface(name) => **name == *interface,
        })
    }

    /// Where to listen on `port`.
    pub fn doors(this: Option<&Self>, port: u16, has_ipv6: bool) -> Vec<Door> {
        let Some(this) = this else {
            let all = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
            return all[..1 + usize::from(has_ipv6)]
                .iter()
                .map(|ip| SocketAddr::new(*ip, port).into())
                .collect();
        };
        let mut doors = Vec::new();
        for place in this.places() {
            match place {
                Place::Address(ip) => doors.push(SocketAddr::new(*ip, port).into()),
                Place::Interface(name) if may_bind_device() => {
                    let families = [Some(true), has_ipv6.then_some(false)];
                    doors.extend(families.into_iter().flatten().map(|v4| Door::on(name, v4, port)));
                }
                Place::Interface(name) => {
                    let ips = addresses_of(name);
                    doors.extend(ips.into_iter().map(|ip| Door::from(SocketAddr::new(ip, port))));
                }
            }
        }
        doors.dedup();
        doors
    }
}

/// A new socket that may only reach `peer` from `binding`, on our `port` (0: any). `prepare` sets options before that.
/// Errors: no place of the binding reaches it, or each refuses, such as an interface that is not there.
pub fn socket_to(
    binding: Option<&Binding>,
    (kind, protocol): (Type, Protocol),
    peer: SocketAddr,
    port: u16,
    prepare: impl Fn(&Socket) -> io::Result<()>,
) -> io::Result<Socket> {
    let new = || {
        let socket = Socket::new(Domain::for_address(peer), kind.nonblocking().cloexec(), Some(protocol))?;
        prepare(&socket).map(|()| socket)
    };
    let Some(binding) = binding else {
        let socket = new()?;
        if port != 0 {
            socket.bind(&SocketAddr::new(unspecified(peer.is_ipv4()), port).into())?;
        }
        return Ok(socket);
    };
    let text = || format!("{peer} cannot be reached from {binding}, which this is bound to");
    let mut failure = None;
    for place in binding.places().iter().filter(|place| place.reaches(peer.ip())) {
        // A new one for each: who may bind a socket to an interface may not always bind it to another one.
        let socket = new()?;
        match place.bind(&socket, peer.ip(), port) {
            Ok(()) => return Ok(socket),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, text())))
}

/// A socket address to listen on, of one interface alone where it names one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The address.
    pub addr: SocketAddr,
    /// What comes in and goes out by other interfaces is not this socket's.
    pub device: Option<Arc<str>>,
}

impl From<SocketAddr> for Door {
    fn from(addr: SocketAddr) -> Self {
        Self { addr, device: None }
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.device {
            Some(device) => write!(f, "{} on {device}", self.addr),
            None => self.addr.fmt(f),
        }
    }
}

impl Door {
    fn on(device: &Arc<str>, v4: bool, port: u16) -> Self {
        Self { addr: SocketAddr::new(unspecified(v4), port), device: Some(device.clone()) }
    }

    /// One for a connection by `device`, or by its address where sockets may not be bound to interfaces.
    fn of(device: &Arc<str>, v4: bool, port: u16) -> io::Result<Self> {
        if may_bind_device() {
            return Ok(Self::on(device, v4, port));
        }
        let ip = addresses_of(device).into_iter().find(|ip| ip.is_ipv4() == v4);
        ip.map(|ip| SocketAddr::new(ip, port).into()).ok_or_else(|| missing(device))
    }

    /// The same with another port.
    pub fn at(&self, port: u16) -> Self {
        Self { addr: SocketAddr::new(self.addr.ip(), port), device: self.device.clone() }
    }

    /// Binds a new socket to it. Errors: [`io::ErrorKind::NotFound`]: its interface is not there.
    pub fn bind(&self, socket: &Socket) -> io::Result<()> {
        if let Some(device) = &self.device {
            socket.bind_device(Some(device.as_bytes())).map_err(|error| match error.raw_os_error() {
                Some(libc::ENODEV) => missing(device),
                _ => error,
            })?;
        }
        if self.addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&self.addr.into())
    }
}

/// The error of an interface that is not there.
fn missing(device: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no network interface {device} with an address"))
}

fn unspecified(v4: bool) -> IpAddr {
    if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// The addresses of an interface that others can send to; none where it is not there.
pub(crate) fn addresses_of(interface: &str) -> Vec<IpAddr> {
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    let own = all.into_iter().filter(|found| found.name == interface).map(|found| found.ip());
    // A link-local one needs the number of its link to be bound to.
    own.filter(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())).collect()
}

/// Whether this machine has the address.
pub(crate) fn is_ours(ip: IpAddr) -> bool {
    if_addrs::get_if_addrs().unwrap_or_default().iter().any(|found| found.ip() == ip)
}

/// Whether the kernel lets this process bind sockets to interfaces.
pub(crate) fn may_bind_device() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| {
        let tried = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), Some(Protocol::UDP))
            .and_then(|socket| socket.bind_device(Some(b"lo")));
        match tried {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                tracing::warn!(
                    "sockets cannot be bound to network interfaces here (needs Linux 5.7 or CAP_NET_RAW): \
                     their addresses are used, and what leaves from these goes where routes lead"
                );
                false
            }
            _ => true,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(text: &str) -> Binding {
        text.parse().expect("places")
    }

    #[test]
    fn places_are_addresses_or_names_of_interfaces() {
        let address = |text: &str| Ok(Place::Address(text.parse().expect("an address")));
        assert_eq!("10.0.0.2".parse(), address("10.0.0.2"));
        assert_eq!("[::1]".parse(), address("::1"));
        assert_eq!("fe80::2".parse(), address("fe80::2"));
        for name in ["eth0", "wg-home", "br0.100", "enp0s31f6", "tun@1"] {
            assert_eq!(name.parse(), Ok(Place::Interface(name.into())));
        }
        for bad in ["", "a b", "sixteen-letters-", "a/b", "a:1", "10.0.0", "300.1.1.1", "é", "[x]"] {
            assert_eq!(bad.parse::<Place>(), Err(()), "{bad}");
        }
        assert_eq!(binding("eth0, ::1").to_string(), "eth0,::1");
        assert!("eth0,,lo".parse::<Binding>().is_err());
        assert!(vec!["a"; 17].join(",").parse::<Binding>().is_err());
    }

    #[test]
    fn listens_on_every_place_of_both_families() {
        let shown = |text: Option<&str>, v6| -> Vec<String> {
            let binding = text.map(binding);
            Binding::doors(binding.as_ref(), 7, v6).iter().map(Door::to_string).collect()
        };
        assert_eq!(shown(None, true), ["0.0.0.0:7", "[::]:7"]);
        assert_eq!(shown(None, false), ["0.0.0.0:7"]);
        assert_eq!(shown(Some("127.0.0.1"), true), ["127.0.0.1:7"]);
        assert_eq!(shown(Some("::1,10.0.0.2"), true), ["[::1]:7", "10.0.0.2:7"]);
        if may_bind_device() {
            assert_eq!(shown(Some("eth9"), true), ["0.0.0.0:7 on eth9", "[::]:7 on eth9"]);
            assert_eq!(shown(Some("eth9,::1"), false), ["0.0.0.0:7 on eth9", "[::1]:7"]);
        }
    }

    #[test]
    fn a_place_is_taken_that_reaches_the_peer() {
        let from = |text: &str, peer: &str| {
            let peer = peer.parse().expect("an address");
            let socket = socket_to(Some(&binding(text)), (Type::DGRAM, Protocol::UDP), peer, 0, |_| Ok(()))?;
            Ok::<_, io::Error>(socket.local_addr()?.as_socket().expect("an IP socket").ip().to_string())
        };
        assert_eq!(from("127.0.0.9,127.0.0.8", "127.0.0.1:1").unwrap(), "127.0.0.9");
        assert_eq!(from("0.0.0.0", "192.0.2.1:1").unwrap(), "0.0.0.0");
        for (text, peer) in [("127.0.0.9", "[::1]:1"), ("127.0.0.9", "192.0.2.1:1"), ("lo", "192.0.2.1:1")] {
            assert_eq!(from(text, peer).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable, "{text}");
        }
        let error = from("nosuch0", "192.0.2.1:1").unwrap_err();
        assert!(error.to_string().contains("nosuch0"), "{error}");
        // The next one, when one is not there.
        assert_eq!(from("nosuch0,127.0.0.9", "127.0.0.1:1").unwrap(), "127.0.0.9");
    }

    #[test]
    fn what_has_come_by_a_place_is_admitted() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert!(binding("lo").admits(ip("127.0.0.1")) && !binding("lo").admits(ip("192.0.2.1")));
        assert!(
            binding("192.0.2.1").admits(ip("192.0.2.1")) && !binding("192.0.2.1").admits(ip("192.0.2.2"))
        );
        assert!(binding("::").admits(ip("2001:db8::1")) && !binding("::").admits(ip("192.0.2.1")));
        assert!(binding("lo,::1,127.0.0.1").is_loopback() && !binding("lo,eth0").is_loopback());
    }
}

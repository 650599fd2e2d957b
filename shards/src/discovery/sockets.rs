//! The UDP sockets of the listening port.
//!
//! Owner: the discovery thread. They may be shared (SO_REUSEPORT): a connection over UDP has a connected socket of its
//! own at the same port, and only what belongs to none of those arrives here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use super::DiscoveryConfig;
use crate::ring::utp::io::prefer_first;

/// A socket and what it is bound to.
#[derive(Debug)]
pub(super) struct Udp {
    pub socket: UdpSocket,
    pub local: SocketAddr,
}

/// Opens one for each address that is listened on, all with the same port. Those that cannot be had are left out.
pub(super) fn open(config: &DiscoveryConfig) -> Vec<Udp> {
    let Some(dht) = &config.dht else { return Vec::new() };
    let mut ips: Vec<IpAddr> = config.listen.iter().map(SocketAddr::ip).collect();
    if ips.is_empty() {
        ips.push(config.bind.unwrap_or(Ipv4Addr::UNSPECIFIED.into()));
        if config.bind.is_none() {
            ips.push(Ipv6Addr::UNSPECIFIED.into());
        }
    }
    let tcp = config.listen.first().map_or(0, SocketAddr::port);
    let mut port = dht.port.unwrap_or(tcp);
    let mut sockets: Vec<Udp> = Vec::new();
    for ip in ips {
        let addr = SocketAddr::new(ip, port);
        match bind(addr) {
            Ok(udp) => {
                port = udp.local.port();
                sockets.push(udp);
            }
            Err(error) => {
                tracing::warn!(%addr, %error, "no DHT there: the UDP port cannot be used; choose another --port")
            }
        }
    }
    sockets
}

fn bind(addr: SocketAddr) -> io::Result<Udp> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(addr), kind, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    // Without it a uTP connection that is being made takes others' datagrams for a moment.
    let _ = prefer_first(&socket);
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    let socket = UdpSocket::from(socket);
    let local = socket.local_addr()?;
    Ok(Udp { socket, local })
}

//! The UDP sockets of the listening port.
//!
//! Owner: the discovery thread. They may be shared (SO_REUSEPORT): a connection over UDP has a connected socket of its
//! own at the same port, and only what belongs to none of those arrives here.

use std::io;
use std::net::UdpSocket;

use socket2::{Domain, Protocol, Socket, Type};

use super::DiscoveryConfig;
use crate::binding::{Binding, Door};
use crate::ring::utp::io::prefer_first;

/// A socket and what it is bound to.
#[derive(Debug)]
pub(super) struct Udp {
    pub socket: UdpSocket,
    pub door: Door,
    /// The node of the DHT speaks by it: the first of its family. What others receive is only uTP's.
    pub is_node: bool,
}

/// Opens one for each address that is listened on, all with the same port. Those that cannot be had are left out.
pub(super) fn open(config: &DiscoveryConfig) -> Vec<Udp> {
    let Some(dht) = &config.dht else { return Vec::new() };
    let mut doors = config.listen.clone();
    if doors.is_empty() {
        doors = Binding::doors(config.bind.as_ref(), 0, true);
    }
    let mut port = dht.port.unwrap_or(doors[0].addr.port());
    let mut sockets: Vec<Udp> = Vec::new();
    for door in doors {
        let door = door.at(port);
        match bind(&door) {
            Ok((socket, door)) => {
                port = door.addr.port();
                let is_v6 = door.addr.is_ipv6();
                let is_node = !sockets.iter().any(|udp| udp.door.addr.is_ipv6() == is_v6);
                sockets.push(Udp { socket, door, is_node });
            }
            // It is opened when the interface comes.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%door, %error, "no DHT there: the UDP port cannot be used; choose another --port")
            }
        }
    }
    sockets
}

fn bind(door: &Door) -> io::Result<(UdpSocket, Door)> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(door.addr), kind, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    // Without it a uTP connection that is being made takes others' datagrams for a moment.
    let _ = prefer_first(&socket);
    door.bind(&socket)?;
    let socket = UdpSocket::from(socket);
    let port = socket.local_addr()?.port();
    Ok((socket, door.at(port)))
}

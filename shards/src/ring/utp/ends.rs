//! Which peers have a uTP socket of the listening port.
//!
//! Role: a connected socket of the listening port gets everything that its peer sends from its own one: two of them would
//! get each other's datagrams. So each peer has one at most, whoever has dialled; a further one of ours leaves from a port
//! of its own. Owner: all shards and the thread that accepts; asked when a connection begins or ends, never for a
//! datagram. Invariant: an address is listed as long as the [`UtpSocket`] lives.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use super::io::{connected, local_for};

/// See the module. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct UtpEnds {
    bind: Option<IpAddr>,
    /// 0 = nobody listens on UDP.
    port: u16,
    peers: Arc<Mutex<HashSet<SocketAddr>>>,
}

/// A place in the list, until it is dropped.
#[derive(Debug)]
struct Claim {
    peer: SocketAddr,
    peers: Arc<Mutex<HashSet<SocketAddr>>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.peers.lock().expect("no holder panics").remove(&self.peer);
    }
}

/// A UDP socket that is connected to one peer.
#[derive(Debug)]
pub struct UtpSocket {
    /// The descriptor.
    pub fd: OwnedFd,
    /// That peer's.
    pub seat: Seat,
}

/// What a socket holds of the list, apart from its descriptor.
#[derive(Debug, Default)]
pub struct Seat(Option<Claim>);

impl Seat {
    /// The peer, when its socket is of the listening port.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.0.as_ref().map(|claim| claim.peer)
    }
}

impl UtpEnds {
    /// `bind`: the address that sockets leave from; `port`: the UDP port that is listened on, 0 = none.
    pub fn new(bind: Option<IpAddr>, port: u16) -> Self {
        Self { bind, port, peers: Arc::default() }
    }

    /// Whether there is a UDP port that we listen on.
    pub fn is_listening(&self) -> bool {
        self.port != 0
    }

    fn claim(&self, peer: SocketAddr) -> Option<Claim> {
        let is_new = self.port != 0 && self.peers.lock().expect("no holder panics").insert(peer);
        is_new.then(|| Claim { peer, peers: Arc::clone(&self.peers) })
    }

    /// A socket to dial `peer` with: of the listening port, which is what NATs and peers know of us (BEP 55), if it can be.
    pub fn dial(&self, peer: SocketAddr) -> io::Result<UtpSocket> {
        if let Some(socket) = self.accept(peer)? {
            return Ok(socket);
        }
        Ok(UtpSocket { fd: connected(local_for(peer, self.bind, 0)?, peer)?, seat: Seat::default() })
    }

    /// A socket of the listening port for `peer`; `None`: it has one.
    pub fn accept(&self, peer: SocketAddr) -> io::Result<Option<UtpSocket>> {
        let Some(claim) = self.claim(peer) else { return Ok(None) };
        let fd = connected(local_for(peer, self.bind, self.port)?, peer)?;
        Ok(Some(UtpSocket { fd, seat: Seat(Some(claim)) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_peer_has_one_socket_of_the_port_at_a_time() {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ends = UtpEnds::new(Some([127, 0, 0, 1].into()), port);
        let peer: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let port_of = |socket: &UtpSocket| {
            socket2::SockRef::from(&socket.fd).local_addr().unwrap().as_socket().unwrap().port()
        };
        let first = ends.dial(peer).unwrap();
        assert_eq!((port_of(&first), first.seat.peer()), (port, Some(peer)));
        let second = ends.clone().dial(peer).unwrap();
        assert!(port_of(&second) != port && second.seat.peer().is_none());
        assert!(ends.accept(peer).unwrap().is_none());
        let other = ends.accept("127.0.0.1:10".parse().unwrap()).unwrap().expect("another peer");
        assert_eq!(port_of(&other), port);
        drop(first);
        assert_eq!(port_of(&ends.accept(peer).unwrap().expect("it is free again")), port);
        let none = UtpEnds::new(Some([127, 0, 0, 1].into()), 0).dial(peer).unwrap();
        assert!(none.seat.peer().is_none(), "nobody listens");
    }
}

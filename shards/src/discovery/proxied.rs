//! The DHT through a SOCKS5 proxy.
//!
//! Owner: the discovery thread, which has this in place of sockets of its own. Role: datagrams by the association's
//! [`Relay`], and hosts to begin with, whose names only the proxy looks up: they are sent a `ping`, and who answers is a
//! node. Invariants: [`HOSTS_MAX`] hosts are waited for; nothing leaves but through the association.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ccbt_protocol::dht::NodeId;
use ccbt_protocol::dht::krpc::{Body, DATAGRAM_MAX, Message, Query};
use ccbt_protocol::proxy::Target;
use ccbt_protocol::proxy::datagram::{self, HEADER_LEN_MAX};
use ccbt_storage::doorbell::Doorbell;
use rand::{Rng, RngExt};

use crate::association::{Association, Relay, State};
use crate::binding::Binding;
use crate::proxying::Proxy;

/// Hosts that have not answered; further ones are left out.
const HOSTS_MAX: usize = 64;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes of our transaction ids. The node's are shorter, so none is taken for another.
const TRANSACTION_LEN: usize = 12;

/// A host that is asked, or will be.
struct Host {
    to: Target,
    transaction: [u8; TRANSACTION_LEN],
    asked: Option<Instant>,
}

/// Who sent a datagram, and its bytes if they are for the node.
type Received<'a> = (SocketAddr, Option<&'a [u8]>);

/// See the module.
pub(super) struct Proxied {
    association: Association,
    /// The proxy looks names up.
    pub hostnames: bool,
    relay: Option<Arc<Relay>>,
    hosts: Vec<Host>,
    buffer: Vec<u8>,
}

impl Proxied {
    /// `bell` rings when the association comes or goes. Errors: no thread or descriptor is to be had.
    pub fn start(proxy: Proxy, bind: Option<Binding>, bell: Arc<Doorbell>) -> io::Result<Self> {
        let hostnames = proxy.hostnames;
        let association = Association::start(proxy, bind, "DHT", move || bell.ring())?;
        // One byte more: what fills it is too long.
        let buffer = vec![0; HEADER_LEN_MAX + DATAGRAM_MAX + 1];
        Ok(Self { association, hostnames, relay: None, hosts: Vec::new(), buffer })
    }

    /// Looks whether the association has come or gone; `true`: there is a new one.
    pub fn renew(&mut self) -> bool {
        if self.relay.as_ref().is_some_and(|relay| !relay.is_over()) {
            return false;
        }
        self.relay = match self.association.state() {
            State::Up(relay) if !relay.is_over() => Some(relay),
            _ => None,
        };
        self.relay.is_some()
    }

    /// What is polled.
    pub fn relay(&self) -> Option<&Relay> {
        self.relay.as_deref()
    }

    /// Hosts to begin with: the addresses that are known at once. Others are asked when there is an association.
    pub fn look_up(&mut self, hosts: Vec<(String, u16)>, rng: &mut impl Rng) -> Vec<SocketAddr> {
        let mut known = Vec::new();
        for (host, port) in hosts {
            match host.trim_matches(['[', ']']).parse::<IpAddr>() {
                Ok(ip) => known.push(SocketAddr::new(ip, port)),
                Err(_) if self.hosts.len() < HOSTS_MAX => {
                    self.hosts.push(Host {
                        to: Target::Name(host, port),
                        transaction: rng.random(),
                        asked: None,
                    });
                }
                Err(_) => {}
            }
        }
        known
    }

    /// Asks the hosts that have not been asked, as `id`, and forgets those that do not answer.
    pub fn ask(&mut self, now: Instant, id: NodeId) {
        self.hosts.retain(|host| host.asked.is_none_or(|asked| now < asked + PATIENCE));
        let Some(relay) = &self.relay else { return };
        for host in self.hosts.iter_mut().filter(|host| host.asked.is_none()) {
            host.asked = Some(now);
            let body = Body::Query { id, read_only: true, query: Query::Ping };
            let message = Message { transaction: host.transaction.to_vec(), body };
            if let Err(error) = relay.send(&host.to, &message.encode()) {
                tracing::debug!(host = ?host.to, %error, "a host to begin with is not asked");
            }
        }
    }

    /// The next datagram and who sent it; of hosts' answers only the latter. Errors: there is none, or what an earlier one
    /// met with.
    pub fn receive(&mut self) -> io::Result<Option<Received<'_>>> {
        let Some(relay) = &self.relay else { return Err(io::ErrorKind::WouldBlock.into()) };
        if relay.is_over() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = relay.socket().recv(&mut self.buffer)?;
        let Some((Some(from), bytes)) = datagram::unwrap(&self.buffer[..len]) else { return Ok(None) };
        if !self.hosts.is_empty()
            && let Ok(Message { transaction, body: Body::Answer { .. } }) = Message::decode(bytes)
            && let Some(at) = self.hosts.iter().position(|host| host.transaction[..] == transaction)
        {
            self.hosts.swap_remove(at);
            return Ok(Some((from, None)));
        }
        Ok(Some((from, Some(bytes))))
    }

    /// Sends a datagram of the node.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let relay = self.relay.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        relay.send(&Target::Addr(to), bytes)
    }
}

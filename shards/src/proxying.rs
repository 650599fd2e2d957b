//! Connections to peers through a proxy, up to the peer's first byte.
//!
//! Role: with a proxy every connection that we open leads to it; [`Tunnel`] asks it for the peer, and then the
//! connection is greeted as any other. Owner: the shard. Invariants: with a proxy for peers no socket is connected to
//! a peer, and nothing is listened on, neither over TCP nor UDP ([`Proxy::confine`]); without one this costs a look
//! at an `Option` for each attempt. UDP: [`crate::association`].

use std::net::SocketAddr;
use std::sync::Arc;

use ccbt_protocol::proxy::{Credentials, ProxyError, ProxyKind, Target, Tunnel};
use ccbt_protocol::wire::handshake::HandshakeReader;

use crate::conns::End;
use crate::dialling::Transport;
use crate::ring::SocketKey;
use crate::service::ServiceConfig;
use crate::shard::{Shard, Stage};

/// A proxy, and what goes through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// How it is spoken to.
    pub kind: ProxyKind,
    /// Where it is.
    pub addr: SocketAddr,
    /// Who we are to it.
    pub credentials: Option<Credentials>,
    /// Peers are connected to through it, and the DHT is asked through it, if it is SOCKS5. What cannot go through it is
    /// off then: incoming connections, uTP, LSD, and with HTTP the DHT.
    pub peers: bool,
    /// Trackers are asked through it. UDP trackers are not asked then, if it is no SOCKS5 proxy.
    pub trackers: bool,
    /// It looks the trackers' names up; else they are looked up here.
    pub hostnames: bool,
}

impl Proxy {
    /// Turns off what would leave past it.
    pub(crate) fn confine(&self, config: &mut ServiceConfig) {
        if self.peers {
            config.listen.clear();
            config.transports.utp = false;
            config.transports.tcp = true;
            config.transports.preferred = Transport::Tcp;
            match (self.kind, &mut config.discovery.dht) {
                // Nobody reaches us there unasked, or only for as long as we talk.
                (ProxyKind::Socks5, Some(dht)) => {
                    dht.read_only = true;
                    config.discovery.proxy = Some(self.clone());
                }
                _ => config.discovery.dht = None,
            }
            config.discovery.lsd = false;
        }
    }
}

impl Shard {
    /// Where a TCP connection to the peer `addr` leads.
    pub(crate) fn way_to(&self, addr: SocketAddr) -> SocketAddr {
        self.config.proxy.as_ref().map_or(addr, |proxy| proxy.addr)
    }

    /// A connection that we have opened stands: asks the proxy for the peer, if there is one. `false`: there is none.
    pub(crate) fn ask_proxy(&mut self, key: SocketKey) -> bool {
        let Some(proxy) = self.config.proxy.clone() else { return false };
        let Some(conn) = self.conn(key) else { return true };
        let mut out = Vec::new();
        let target = Target::Addr(conn.addr);
        let tunnel =
            Tunnel::new(proxy.kind, proxy.credentials.clone(), target, &mut out).expect("no name is told");
        conn.stage = Stage::Proxied(Box::new(tunnel));
        self.timers.conns.set(key.index(), Some(self.now + self.config.handshake_timeout));
        self.say(key, &out);
        self.ring.recv_plain(key);
        true
    }

    /// Bytes of the proxy.
    pub(crate) fn on_proxy_bytes(&mut self, key: SocketKey, bytes: &[u8]) {
        let conn = self.conns[key.index()].as_mut().expect("called for a connection that lives");
        let Stage::Proxied(tunnel) = &mut conn.stage else { panic!("not at its proxy") };
        let mut out = Vec::new();
        match tunnel.push(bytes, &mut out) {
            Err(error) => {
                tracing::debug!(addr = %conn.addr, %error, "no connection through the proxy");
                conn.proxy_fault = error.is_lasting() || matches!(error, ProxyError::Nonsense(_));
                self.end(key, End::Broken);
            }
            Ok(None) => {
                self.say(key, &out);
                self.ring.recv_plain(key);
            }
            // A peer says nothing before we do.
            Ok(Some(rest)) if !rest.is_empty() => self.end(key, End::Refused("it speaks before we do")),
            Ok(Some(_)) => {
                conn.stage = Stage::Handshake(HandshakeReader::default());
                self.begin_handshake(key);
            }
        }
    }
}

/// The proxy of a shard: that for peers.
pub(crate) fn for_peers(config: &ServiceConfig) -> Option<Arc<Proxy>> {
    config.proxy.clone().filter(|proxy| proxy.peers).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Instant;

    use ccbt_protocol::candidates::Source;

    use super::*;
    use crate::messages::ToShard;
    use crate::testing::{KEY, Rig};

    /// Failures that are counted to a peer behind a SOCKS5 proxy which gives these answers, one for each thing that it is
    /// told, and hangs up; none: nobody listens where it should be.
    fn failures(answers: &'static [&'static [u8]]) -> u32 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let served = std::thread::spawn(move || {
            if answers.is_empty() {
                return;
            }
            let (mut client, _) = listener.accept().unwrap();
            for answer in answers {
                assert!(client.read(&mut [0; 64]).unwrap() > 0);
                client.write_all(answer).unwrap();
            }
        });
        if answers.is_empty() {
            // Its socket is closed with it.
            while !served.is_finished() {
                std::thread::yield_now();
            }
        }
        let mut rig = Rig::new(|config| {
            let kind = ProxyKind::Socks5;
            let proxy =
                Proxy { kind, addr, credentials: None, peers: true, trackers: false, hostnames: false };
            config.proxy = Some(Arc::new(proxy));
        });
        rig.add(&[50_000], |add| add.root = add.root.join("copy"));
        rig.turn_until("download", |rig| rig.shard.homes[0].is_running());
        let peer: SocketAddr = "192.0.2.1:5".parse().unwrap();
        rig.shard.on_message(ToShard::AddPeers(KEY, vec![peer], Source::Tracker));
        let now = Instant::now();
        let is_waiting = |rig: &mut Rig| rig.shard.homes[0].candidates.next_ready(now).is_some();
        assert!(!is_waiting(&mut rig), "it is being dialled");
        rig.turn_until("end of the attempt", is_waiting);
        served.join().unwrap();
        rig.shard.homes[0].candidates.record(peer).connect_failures
    }

    #[test]
    fn the_proxys_failures_are_not_the_peers() {
        const NO_METHOD: &[u8] = &[5, 0xff];
        const HELLO: &[u8] = &[5, 0];
        const RULES: &[u8] = &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0];
        const NO_HOST: &[u8] = &[5, 4, 0, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(failures(&[]), 0, "nobody is there");
        assert_eq!(failures(&[NO_METHOD]), 0, "it does not want us");
        assert_eq!(failures(&[b"HTTP/1.1 400 What?\r\n\r\n"]), 0, "it is no SOCKS5 proxy");
        assert_eq!(failures(&[HELLO, RULES]), 0, "it may not go there");
        assert_eq!(failures(&[HELLO, NO_HOST]), 1, "the peer cannot be reached");
    }
}

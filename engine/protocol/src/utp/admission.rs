//! Which SYNs get an answer: nothing is kept of any other datagram, and an answer is no longer than what asked for it.
//!
//! Owner: whoever reads the socket that everybody can send to. Invariant: the memory is that of the constants below; a
//! source, and all of them together, start so many connections per second at most.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};

use super::packet::{Kind, Packet};
use super::{Micros, SECOND};

/// Sources that are told apart, by a hash that outsiders cannot foresee.
const SOURCES: usize = 1024;
/// Connections that networks of one hash may start per second.
const PER_SOURCE: u16 = 20;
/// Connections that all may start per second.
const TOTAL: u32 = 500;
/// Answered SYNs that are remembered: one that comes again before its socket is connected is no second connection.
const RECENT: usize = 512;

/// See the module.
#[derive(Debug)]
pub struct Admission {
    counts: Vec<u16>,
    total: u32,
    until: Micros,
    recent: VecDeque<(SocketAddr, u16)>,
    hasher: RandomState,
}

impl Default for Admission {
    fn default() -> Self {
        let (counts, recent) = (vec![0; SOURCES], VecDeque::with_capacity(RECENT));
        Self { counts, total: 0, until: 0, recent, hasher: RandomState::new() }
    }
}

/// What one party is likely to own: a /24, a /56.
fn network(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => u64::from(ip.to_bits() >> 8),
        IpAddr::V6(ip) => (ip.to_bits() >> 72) as u64 | 1 << 63,
    }
}

impl Admission {
    /// The SYN in `datagram`, if it is one that may be answered now.
    pub fn admit<'a>(&mut self, now: Micros, from: SocketAddr, datagram: &'a [u8]) -> Option<Packet<'a>> {
        let packet = Packet::decode(datagram).ok().filter(|packet| packet.kind == Kind::Syn)?;
        if from.port() == 0 || self.recent.contains(&(from, packet.id)) {
            return None;
        }
        if now >= self.until {
            self.counts.fill(0);
            (self.total, self.until) = (0, now + SECOND);
        }
        let count = &mut self.counts[self.hasher.hash_one(network(from.ip())) as usize % SOURCES];
        if *count >= PER_SOURCE || self.total >= TOTAL {
            return None;
        }
        *count += 1;
        self.total += 1;
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((from, packet.id));
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::utp::{Config, Connection, Transmit};

    fn syn(id: u16) -> Vec<u8> {
        let config = Config { receive_window: 1 << 20, datagram_floor: 548, datagram_max: 1472 };
        let mut out = Transmit::default();
        assert!(Connection::dial(config, id, 1).poll_transmit(0, &mut out));
        out.heads
    }

    #[test]
    fn syns_are_bounded_per_source_and_in_all() {
        let mut admission = Admission::default();
        let from = |n: u32| SocketAddr::new(IpAddr::V4((0x0a00_0000 + n).into()), 6881);
        let mut one = |now, n, id| admission.admit(now, from(n), &syn(id)).is_some();
        assert!(one(0, 1, 7));
        assert!(!one(0, 1, 7), "the same again");
        assert_eq!((100..200).filter(|id| one(0, 2, *id)).count(), 19, "one network, whatever its hosts");
        assert!(one(SECOND, 1, 8), "another second");
        let many = (0..20_000).filter(|n| one(3 * SECOND, n * 256, 9)).count();
        assert_eq!(many, TOTAL as usize);
        assert!(!one(3 * SECOND + 5, 1 << 23, 10));
    }

    #[test]
    fn nothing_else_is_answered() {
        let mut admission = Admission::default();
        let from = "[2001:db8::1]:5".parse().unwrap();
        assert!(admission.admit(0, "1.2.3.4:0".parse().unwrap(), &syn(1)).is_none());
        for bytes in [&b"d1:ad2:id20:"[..], &[], &[0x21; 20], &syn(1)[..19]] {
            assert!(admission.admit(0, from, bytes).is_none());
        }
        assert!(admission.admit(0, from, &syn(1)).is_some());
    }
}

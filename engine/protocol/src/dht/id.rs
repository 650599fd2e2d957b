//! Names of DHT nodes, their distances, and the names that an address may have (BEP 42).
//!
//! Invariant: [`NodeId::for_ip`] makes only ids that [`NodeId::fits`] the address.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use rand::Rng;

use crate::ids::{InfoHash, crc32c};

/// The name of a node, or a place in the same space: an info-hash, the target of a look-up (BEP 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub [u8; 20]);

/// How far two names are from each other: their exclusive or, as a big-endian number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Distance([u8; 20]);

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<InfoHash> for NodeId {
    fn from(hash: InfoHash) -> Self {
        Self(hash.0)
    }
}

impl NodeId {
    /// Any name.
    pub fn random(rng: &mut impl Rng) -> Self {
        let mut id = [0; 20];
        rng.fill_bytes(&mut id);
        Self(id)
    }

    /// A name that a node at `ip` may have (BEP 42); any name for local addresses.
    pub fn for_ip(ip: IpAddr, rng: &mut impl Rng) -> Self {
        let mut id = Self::random(rng);
        if !is_local(ip) {
            let prefix = prefix(ip, id.0[19]);
            id.0[..2].copy_from_slice(&prefix[..2]);
            id.0[2] = prefix[2] & 0xf8 | id.0[2] & 0x07;
        }
        id
    }

    /// Whether a node at `ip` may have this name (BEP 42). Local addresses may have any.
    pub fn fits(&self, ip: IpAddr) -> bool {
        let expected = prefix(ip, self.0[19]);
        is_local(ip) || self.0[..2] == expected[..2] && (self.0[2] ^ expected[2]) & 0xf8 == 0
    }

    /// How far it is from `other`.
    pub fn distance(&self, other: &Self) -> Distance {
        Distance(std::array::from_fn(|at| self.0[at] ^ other.0[at]))
    }

    /// Leading bits that it has in common with `other`: 0 to 160.
    pub fn shared_bits(&self, other: &Self) -> usize {
        let differs = self.0.iter().zip(&other.0).position(|(a, b)| a != b);
        differs.map_or(160, |at| at * 8 + (self.0[at] ^ other.0[at]).leading_zeros() as usize)
    }

    /// A random name that has exactly `bits` leading bits in common with it (all of them from 160 on).
    pub fn random_sharing(&self, bits: usize, rng: &mut impl Rng) -> Self {
        let mut id = Self::random(rng);
        for at in 0..bits.min(160) {
            id.set_bit(at, self.bit(at));
        }
        if bits < 160 {
            id.set_bit(bits, !self.bit(bits));
        }
        id
    }

    fn bit(&self, at: usize) -> bool {
        self.0[at / 8] & (0x80 >> (at % 8)) != 0
    }

    fn set_bit(&mut self, at: usize, value: bool) {
        let mask = 0x80 >> (at % 8);
        if value {
            self.0[at / 8] |= mask;
        } else {
            self.0[at / 8] &= !mask;
        }
    }
}

/// A node: its name and where it is reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Contact {
    /// Its name, as somebody says.
    pub id: NodeId,
    /// Its address.
    pub addr: SocketAddr,
}

/// The first bytes of the names that `ip` may have with a last byte of `last` (BEP 42).
fn prefix(ip: IpAddr, last: u8) -> [u8; 4] {
    const MASK_V4: [u8; 4] = [0x03, 0x0f, 0x3f, 0xff];
    const MASK_V6: [u8; 8] = [0x01, 0x03, 0x07, 0x0f, 0x1f, 0x3f, 0x7f, 0xff];
    let mut bytes: Vec<u8> = match ip {
        IpAddr::V4(ip) => ip.octets().iter().zip(MASK_V4).map(|(byte, mask)| byte & mask).collect(),
        IpAddr::V6(ip) => ip.octets().iter().zip(MASK_V6).map(|(byte, mask)| byte & mask).collect(),
    };
    bytes[0] |= (last & 0x07) << 5;
    crc32c(&bytes).to_be_bytes()
}

/// Whether BEP 42 asks nothing of this address, since others see it as another one or not at all.
pub fn is_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Whether a node may be there at all: a port, and an address of one machine.
pub fn is_reachable(addr: SocketAddr) -> bool {
    let ip = addr.ip();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0);
    let mapped = matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast && !mapped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn the_examples_of_bep_42() {
        let examples = [
            ("124.31.75.21", 1, [0x5f, 0xbf, 0xbf]),
            ("21.75.31.124", 86, [0x5a, 0x3c, 0xe9]),
            ("65.23.51.170", 22, [0xa5, 0xd4, 0x32]),
            ("84.124.73.14", 65, [0x1b, 0x03, 0x21]),
            ("43.213.53.83", 90, [0xe5, 0x6f, 0x6c]),
        ];
        for (ip, last, start) in examples {
            let mut id = [0; 20];
            id[..3].copy_from_slice(&start);
            id[19] = last;
            let ip = ip.parse().expect("an address");
            assert!(NodeId(id).fits(ip), "{ip}");
            id[0] ^= 1;
            assert!(!NodeId(id).fits(ip), "{ip}");
        }
    }

    #[test]
    fn local_addresses_may_have_any_name() {
        for ip in
            ["127.0.0.1", "10.1.2.3", "192.168.1.1", "172.31.0.1", "169.254.3.4", "::1", "fe80::1", "fd00::1"]
        {
            assert!(NodeId([7; 20]).fits(ip.parse().expect("an address")), "{ip}");
        }
        assert!(!NodeId([7; 20]).fits("172.32.0.1".parse().expect("an address")));
    }

    #[test]
    fn addresses_that_nobody_can_be_at() {
        for addr in [
            "1.2.3.4:0",
            "0.0.0.0:5",
            "0.1.2.3:5",
            "224.0.0.1:5",
            "255.255.255.255:1",
            "[::]:1",
            "[ff02::1]:1",
            "[::ffff:1.2.3.4]:5",
        ] {
            assert!(!is_reachable(addr.parse().expect("an address")), "{addr}");
        }
        assert!(is_reachable("1.2.3.4:5".parse().expect("an address")));
    }

    proptest! {
        #[test]
        fn made_names_fit(seed: u64, v4: u32, v6: u128) {
            let mut rng = SmallRng::seed_from_u64(seed);
            for ip in [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())] {
                prop_assert!(NodeId::for_ip(ip, &mut rng).fits(ip));
            }
        }

        #[test]
        fn shared_bits_and_distance(seed: u64, bits in 0usize..=160) {
            let mut rng = SmallRng::seed_from_u64(seed);
            let id = NodeId::random(&mut rng);
            let other = id.random_sharing(bits, &mut rng);
            prop_assert_eq!(id.shared_bits(&other), bits);
            prop_assert_eq!(id.distance(&other), other.distance(&id));
            prop_assert_eq!(id == other, bits == 160);
        }
    }
}

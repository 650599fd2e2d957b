//! Canonical peer priority (BEP 40): which of many addresses to connect to first.
//!
//! Role: a number that both ends of a connection compute alike and nobody can choose, so that a swarm whose members all
//! prefer high numbers becomes a random graph, and no stranger gets to the front by being told often. Called by
//! [`super::Candidates`]. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::ids::crc32c;

/// The priority of a connection between `ours` and `theirs`, the same from both ends; higher is better. `None` when
/// they are of different families.
pub fn canonical_priority(ours: SocketAddr, theirs: SocketAddr) -> Option<u32> {
    match (ours.ip().to_canonical(), theirs.ip().to_canonical()) {
        (a, b) if a == b => {
            let (a, b) = (ours.port().min(theirs.port()), ours.port().max(theirs.port()));
            Some(crc32c(&[a.to_be_bytes(), b.to_be_bytes()].concat()))
        }
        // Whole bytes count up to the one after the common prefix; of the others every second bit.
        (IpAddr::V4(a), IpAddr::V4(b)) => Some(of_bytes(a.octets(), b.octets(), 2)),
        (IpAddr::V6(a), IpAddr::V6(b)) => Some(of_bytes(a.octets(), b.octets(), 6)),
        _ => None,
    }
}

fn of_bytes<const N: usize>(a: [u8; N], b: [u8; N], least: usize) -> u32 {
    let common = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let whole = if common < least { least } else { common + 1 };
    let masked = |mut bytes: [u8; N]| {
        bytes.iter_mut().skip(whole).for_each(|byte| *byte &= 0x55);
        bytes
    };
    let (a, b) = (masked(a), masked(b));
    crc32c(&[a.min(b), a.max(b)].concat())
}

/// What others say our address is, for either family.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OwnAddress {
    v4: Said,
    v6: Said,
}

/// Believed when two addresses in a row say the same: it only orders a list.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    believed: Option<IpAddr>,
    last: Option<(IpAddr, IpAddr)>,
}

impl OwnAddress {
    /// `teller` says that we are at `ours`. Returns whether another address is believed now.
    pub fn told(&mut self, teller: IpAddr, ours: IpAddr) -> bool {
        let ours = ours.to_canonical();
        if ours.is_unspecified() || ours.is_loopback() || ours.is_multicast() {
            return false;
        }
        let said = if ours.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let agrees = said.last.is_some_and(|(before, address)| before != teller && address == ours);
        said.last = Some((teller, ours));
        agrees && said.believed.replace(ours) != Some(ours)
    }

    /// The address of ours that `addr` would see, as far as it is known.
    pub fn toward(&self, addr: SocketAddr) -> Option<IpAddr> {
        let is_v4 = matches!(addr.ip().to_canonical(), IpAddr::V4(_));
        if is_v4 { self.v4.believed } else { self.v6.believed }
    }
}

/// Whether `addr` is one that anybody on the Internet could have (RFC 6890).
pub fn is_global(addr: IpAddr) -> bool {
    match addr.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            let shared = a == 100 && b & 0xc0 == 64;
            let protocol = a == 192 && b == 0 && c == 0;
            let benchmark = a == 198 && b & 0xfe == 18;
            !(a == 0
                || a >= 224
                || ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_documentation()
                || shared
                || protocol
                || benchmark)
        }
        IpAddr::V6(ip) => is_global_v6(ip),
    }
}

/// Global unicast is 2000::/3 so far; without documentation.
fn is_global_v6(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    segments[0] & 0xe000 == 0x2000 && !(segments[0] == 0x2001 && segments[1] == 0xdb8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priority(a: &str, b: &str) -> u32 {
        let (a, b) = (a.parse().expect("an address"), b.parse().expect("an address"));
        let found = canonical_priority(a, b).expect("one family");
        assert_eq!(canonical_priority(b, a), Some(found), "the same from both ends");
        found
    }

    #[test]
    fn crc_and_the_examples_of_bep_40() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(priority("123.213.32.10:0", "98.76.54.32:0"), 0xec2d_7224);
        assert_eq!(priority("123.213.32.10:0", "123.213.32.234:0"), 0x9956_8189);
        // One machine: its ports.
        assert_eq!(priority("230.12.123.3:1234", "230.12.123.3:768"), crc32c(&[3, 0, 4, 210]));
        // The bits that are left out do not count.
        assert_eq!(priority("1.2.0.0:1", "3.4.5.6:1"), priority("1.2.170.170:9", "3.4.5.6:1"));
        assert_ne!(priority("1.2.0.0:1", "3.4.5.6:1"), priority("1.3.0.0:1", "3.4.5.6:1"));
        assert_eq!(priority("[2001:db9::1]:1", "[2002::1]:1"), priority("[2001:db9::3]:1", "[2002::1]:1"));
        let mixed = canonical_priority("1.2.3.4:1".parse().unwrap(), "[2002::1]:1".parse().unwrap());
        assert_eq!(mixed, None);
    }

    #[test]
    fn our_address_is_what_two_in_a_row_say() {
        let (one, two, ours) = ([1, 1, 1, 1].into(), [2, 2, 2, 2].into(), [9, 9, 9, 9].into());
        let addr = "5.5.5.5:5".parse().unwrap();
        let mut own = OwnAddress::default();
        assert!(!own.told(one, ours) && !own.told(one, ours), "one alone is not believed");
        assert_eq!(own.toward(addr), None);
        assert!(own.told(two, ours) && !own.told(one, ours));
        assert_eq!(own.toward(addr), Some(ours));
        assert!(!own.told(one, [127, 0, 0, 1].into()) && !own.told(two, [127, 0, 0, 1].into()));
        assert_eq!(own.toward("[2002::1]:1".parse().unwrap()), None);
    }

    #[test]
    fn addresses_that_anybody_could_have() {
        for text in ["8.8.8.8", "1.1.1.1", "2a00::1", "::ffff:8.8.8.8", "100.128.0.1"] {
            assert!(is_global(text.parse().unwrap()), "{text}");
        }
        let local =
            ["127.0.0.1", "10.1.2.3", "192.168.1.1", "172.20.1.1", "169.254.1.1", "100.64.0.1", "0.1.2.3"];
        let odd = [
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "198.18.0.1",
            "192.0.0.8",
            "::1",
            "fe80::1",
            "fc00::1",
        ];
        for text in local.into_iter().chain(odd).chain(["2001:db8::1", "ff02::1", "::", "::ffff:10.0.0.1"]) {
            assert!(!is_global(text.parse().unwrap()), "{text}");
        }
    }
}

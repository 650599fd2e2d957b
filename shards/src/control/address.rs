//! Which addresses to try, in what order, and which a redirect may lead to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::binding::Binding;

/// `ips` that can be reached from `bind`, the families taking turns, so that a family without a route costs
/// one wait.
pub(crate) fn in_turn(ips: &[IpAddr], bind: Option<&Binding>) -> Vec<IpAddr> {
    let usable = |ip: &&IpAddr| bind.is_none_or(|bind| bind.reaches(**ip));
    let (mut v4, mut v6): (Vec<_>, Vec<_>) = ips.iter().filter(usable).copied().partition(IpAddr::is_ipv4);
    if ips.first().is_some_and(IpAddr::is_ipv6) {
        std::mem::swap(&mut v4, &mut v6);
    }
    let (first, second) = (v4, v6);
    let mut order = Vec::with_capacity(first.len() + second.len());
    let mut seconds = second.into_iter();
    for ip in first {
        order.push(ip);
        order.extend(seconds.next());
    }
    order.extend(seconds);
    order
}

/// Whether a request that began at an announce URL with address `origin` may be redirected to `to`. A tracker
/// out on the Internet must not make us send requests into the user's own network (server-side request
/// forgery); one that is in that network already may.
pub(super) fn may_redirect(origin: IpAddr, to: IpAddr) -> bool {
    is_public(to) || !is_public(origin)
}

/// Whether the address is reached over the public Internet.
pub(crate) fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    let is_special = a == 0 || (a, b, c) == (192, 0, 0) || (a == 198 && (18..20).contains(&b)) || a >= 240;
    !(ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_multicast()
        || is_shared
        || is_special)
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let octets = ip.octets();
    let v4_at = |at: usize| Ipv4Addr::new(octets[at], octets[at + 1], octets[at + 2], octets[at + 3]);
    match ip.segments() {
        // Translators and tunnels carry an IPv4 address, which counts (RFC 6052, 3056, IPv4-compatible).
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => is_public_v4(v4_at(12)),
        [0x2002, ..] => is_public_v4(v4_at(2)),
        [0, 0, 0, 0, 0, 0, ..] => false,
        // Locally used translation prefix (RFC 8215).
        [0x64, 0xff9b, 1, ..] => false,
        [first, ..] => {
            let is_unique_local = first & 0xfe00 == 0xfc00;
            let is_link_or_site_local = first & 0xff80 == 0xfe80;
            !(is_unique_local || is_link_or_site_local || ip.is_multicast())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn private_addresses_are_known_in_every_disguise() {
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.0.8",
            "::",
            "::1",
            "::7f00:1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:c0a8:101::1",
        ] {
            assert!(!is_public(ip(text)), "{text}");
        }
        for text in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "192.0.1.1",
            "2606:4700::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert!(is_public(ip(text)), "{text}");
        }
    }

    #[test]
    fn redirects_lead_inwards_only_from_inside() {
        assert!(may_redirect(ip("1.1.1.1"), ip("8.8.8.8")));
        assert!(!may_redirect(ip("1.1.1.1"), ip("127.0.0.1")));
        assert!(!may_redirect(ip("2606:4700::1"), ip("fe80::1")));
        assert!(may_redirect(ip("192.168.1.2"), ip("192.168.1.3")));
        assert!(may_redirect(ip("127.0.0.1"), ip("8.8.8.8")));
    }

    #[test]
    fn families_take_turns_and_the_bind_address_chooses() {
        let ips = [ip("2001:db8::1"), ip("2001:db8::2"), ip("1.1.1.1"), ip("2001:db8::3"), ip("2.2.2.2")];
        let order = [ips[0], ips[2], ips[1], ips[4], ips[3]];
        assert_eq!(in_turn(&ips, None), order);
        assert_eq!(in_turn(&ips, Some(&ip("0.0.0.0").into())), [ips[2], ips[4]]);
        assert_eq!(in_turn(&ips, Some(&ip("::").into())), [ips[0], ips[1], ips[3]]);
        assert_eq!(in_turn(&[ips[2], ips[0], ips[1]], None), [ips[2], ips[0], ips[1]]);
        assert!(in_turn(&[], None).is_empty());
    }
}

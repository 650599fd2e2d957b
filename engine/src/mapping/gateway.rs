//! Routers on the way to the Internet, as Linux's routes say, and our own address as they see it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ccbt_shards::binding::{Binding, socket_to};
use socket2::{Protocol, Type};

/// Asked at most.
const GATEWAYS_MAX: usize = 4;

/// Default gateways of IPv4 that can be reached from `bind`, best first, each with our address on the way there.
pub(super) fn gateways(bind: Option<&Binding>) -> io::Result<Vec<(Ipv4Addr, IpAddr)>> {
    let routes = std::fs::read_to_string("/proc/thread-self/net/route")?;
    let named: Vec<&str> = bind.iter().flat_map(|bind| bind.interfaces()).collect();
    let mut found = Vec::new();
    for (interface, gateway) in default_gateways(&routes) {
        let is_named = named.is_empty() || named.contains(&interface);
        if is_named
            && let Ok(client) = client_for(SocketAddr::new(gateway.into(), crab_nat::GATEWAY_PORT), bind)
        {
            found.push((gateway, client));
        }
    }
    found.truncate(GATEWAYS_MAX);
    if found.is_empty() {
        let text = "there is no route to a gateway (IPv4) from where this is bound to";
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    Ok(found)
}

/// Our address on the way to `router`. Sends nothing.
pub(super) fn client_for(router: SocketAddr, bind: Option<&Binding>) -> io::Result<IpAddr> {
    let socket = socket_to(bind, (Type::DGRAM, Protocol::UDP), router, 0, |_| Ok(()))?;
    socket.connect(&router.into())?;
    let local = socket.local_addr()?.as_socket().map(|addr| addr.ip());
    local.filter(IpAddr::is_ipv4).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Interface and gateway of the default routes in `text`, of Linux's `net/route`, best first.
fn default_gateways(text: &str) -> Vec<(&str, Ipv4Addr)> {
    let mut found = Vec::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [interface, "00000000", gateway, flags, _, _, metric, "00000000", ..] = fields[..] else {
            continue;
        };
        let number = |text| u32::from_str_radix(text, 16).ok();
        let (Some(gateway), Some(flags), Ok(metric)) =
            (number(gateway), number(flags), metric.parse::<u32>())
        else {
            continue;
        };
        // RTF_UP and RTF_GATEWAY; the kernel writes the address as its own words are.
        if flags & 3 == 3 {
            found.push((metric, interface, Ipv4Addr::from(gateway.to_ne_bytes())));
        }
    }
    found.sort_by_key(|(metric, ..)| *metric);
    found.into_iter().map(|(_, interface, gateway)| (interface, gateway)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_default_route_comes_first() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            tun0\t00000000\t00000000\t0001\t0\t0\t50\t00000000\t0\t0\t0\n\
            eth0\t0000000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n\
            eth0\t00000000\tnonsense\t0003\t0\t0\t1\t00000000\t0\t0\t0\n\
            short\n";
        if cfg!(target_endian = "little") {
            let expected = [("eth0", Ipv4Addr::new(10, 0, 0, 1)), ("wlan0", Ipv4Addr::new(192, 168, 1, 1))];
            assert_eq!(default_gateways(text), expected);
        }
        assert!(default_gateways("").is_empty());
    }
}

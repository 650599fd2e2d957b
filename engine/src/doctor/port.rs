//! Whether peers can reach a port, as far as this machine can tell.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::Finding;

const PATIENCE: Duration = Duration::from_secs(1);

/// Listens on `port` and connects to it over loopback, by IPv4 and IPv6.
pub fn examine(port: u16) -> Vec<Finding> {
    vec![
        one("port-ipv4", (Ipv4Addr::LOCALHOST, port).into()),
        one("port-ipv6", (Ipv6Addr::LOCALHOST, port).into()),
    ]
}

fn one(check: &'static str, addr: SocketAddr) -> Finding {
    let listener = match TcpListener::bind(addr) {
        Ok(listener) => Some(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
        Err(error) if addr.is_ipv6() => {
            return Finding::warn(
                check,
                format!("no IPv6 here ({error})"),
                "peers with IPv6 alone are out of reach",
            );
        }
        Err(error) => {
            let advice = "choose another port with --port; those below 1024 need CAP_NET_BIND_SERVICE";
            return Finding::fail(check, format!("cannot listen on port {} ({error})", addr.port()), advice);
        }
    };
    let addr = listener.as_ref().and_then(|listener| listener.local_addr().ok()).unwrap_or(addr);
    let reached = TcpStream::connect_timeout(&addr, PATIENCE);
    match (reached, listener) {
        (Ok(_), Some(_)) => {
            Finding::ok(check, format!("port {} can be listened on and reached", addr.port()))
        }
        (Ok(_), None) => {
            Finding::ok(check, format!("somebody listens on port {} and can be reached", addr.port()))
        }
        (Err(error), _) => Finding::warn(
            check,
            format!("port {} cannot be reached over loopback ({error})", addr.port()),
            "look at the firewall: nft list ruleset",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn free_and_taken_ports_are_reached() {
        let free = one("port-ipv4", (Ipv4Addr::LOCALHOST, 0).into());
        assert!(free.verdict == Verdict::Ok && free.found.contains("listened on"), "{free:?}");
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let found = one("port-ipv4", taken.local_addr().expect("bound"));
        assert!(found.verdict == Verdict::Ok && found.found.starts_with("somebody listens"), "{found:?}");
    }

    #[test]
    fn an_address_that_is_not_ours_fails() {
        let found = one("port-ipv4", ([192, 0, 2, 1], 0).into());
        assert_eq!(found.verdict, Verdict::Fail);
    }
}

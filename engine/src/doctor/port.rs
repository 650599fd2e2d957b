//! Whether peers can reach a port, as far as this machine can tell.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::Finding;

const PATIENCE: Duration = Duration::from_secs(1);
/// A query of BEP 5 that every node answers.
const PING: &[u8] = b"d1:ad2:id20:ccbt-fast doctor ?!?e1:q4:ping1:t2:dr1:y1:qe";

/// Listens on `port` and connects to it over loopback, by IPv4 and IPv6; the same with packets, for uTP and the DHT.
pub fn examine(port: u16) -> Vec<Finding> {
    vec![
        one("port-ipv4", (Ipv4Addr::LOCALHOST, port).into()),
        one("port-ipv6", (Ipv6Addr::LOCALHOST, port).into()),
        packets((Ipv4Addr::LOCALHOST, port).into()),
    ]
}

/// Whether packets to the port arrive: ours at a socket of ours, or, if somebody has the port, a question to its DHT
/// node.
fn packets(addr: SocketAddr) -> Finding {
    let check = "port-udp";
    let port = addr.port();
    let asked = || -> io::Result<Finding> {
        let ours = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        ours.set_read_timeout(Some(PATIENCE))?;
        let mut answer = [0; 1500];
        match UdpSocket::bind(addr) {
            Ok(theirs) => {
                let port = theirs.local_addr()?.port();
                theirs.set_read_timeout(Some(PATIENCE))?;
                ours.send_to(PING, theirs.local_addr()?)?;
                theirs.recv(&mut answer)?;
                Ok(Finding::ok(check, format!("packets to UDP port {port} arrive (uTP, DHT)")))
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                ours.connect(addr)?;
                ours.send(PING)?;
                Ok(match ours.recv(&mut answer) {
                    Ok(len) if answer[..len].windows(6).any(|part| part == b"1:y1:r") => {
                        Finding::ok(check, format!("a DHT node answers at UDP port {port}"))
                    }
                    _ => Finding::warn(
                        check,
                        format!("somebody has UDP port {port}, and no DHT node answers there"),
                        format!(
                            "if that is ccbt-fast, enable_dht is off or it is behind a proxy; else choose another \
                             port: ss -ulpn sport = :{port}"
                        ),
                    ),
                })
            }
            Err(error) => Err(error),
        }
    };
    asked().unwrap_or_else(|error| {
        let found = format!("packets to UDP port {port} do not arrive over loopback ({error})");
        Finding::warn(check, found, "look at the firewall: nft list ruleset")
    })
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

    #[test]
    fn packets_arrive_or_a_node_answers() {
        let free = packets((Ipv4Addr::LOCALHOST, 0).into());
        assert!(free.verdict == Verdict::Ok && free.found.contains("arrive"), "{free:?}");
        let node = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let addr = node.local_addr().expect("bound");
        let answers = std::thread::spawn(move || {
            let mut query = [0; 100];
            let (len, from) = node.recv_from(&mut query).expect("asked");
            assert_eq!(&query[..len], PING);
            node.send_to(b"d1:rd2:id20:abcdefghij0123456789e1:t2:dr1:y1:re", from).expect("sent");
            node
        });
        let found = packets(addr);
        assert!(found.verdict == Verdict::Ok && found.found.contains("DHT node"), "{found:?}");
        let _silent = answers.join().expect("no panic");
        let found = packets(addr);
        assert!(found.verdict == Verdict::Warn && found.advice.is_some(), "{found:?}");
    }
}

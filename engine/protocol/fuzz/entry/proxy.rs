//! What must hold for any bytes of a proxy. The first byte chooses what is asked for and whether there is a password, the
//! second how the rest is cut; the same bytes are read as a datagram, too. Run by the fuzz target and over the corpus by
//! tests.

use std::net::{IpAddr, Ipv4Addr};

use ccbt_protocol::proxy::{Credentials, ProxyKind, Target, Tunnel, datagram};

/// Panics when an invariant breaks.
pub fn run(data: &[u8]) {
    let [choice, cut, bytes @ ..] = data else { return };
    let kind = if choice & 1 == 0 { ProxyKind::Socks5 } else { ProxyKind::Http };
    let credentials = (choice & 2 != 0).then(|| Credentials::new("user", "secret").expect("good ones"));
    let target = Target::Name("t.example".to_owned(), 80);
    let mut out = Vec::new();
    let mut tunnel = if choice & 4 == 0 {
        Tunnel::new(kind, credentials, target, &mut out).expect("a good name")
    } else {
        Tunnel::associate(credentials, &mut out)
    };
    let step = usize::from(*cut).max(1);
    for (nth, chunk) in bytes.chunks(step).enumerate() {
        match tunnel.push(chunk, &mut out) {
            Ok(None) => {}
            Ok(Some(rest)) => {
                assert!(
                    bytes[..(nth * step + chunk.len())].ends_with(&rest),
                    "what comes through is untouched"
                );
                if let Ok(relay) = tunnel.relay(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))) {
                    let ip = relay.ip();
                    assert!(relay.port() != 0 && !ip.is_multicast() && !ip.is_unspecified());
                }
                break;
            }
            Err(error) => {
                assert!(!error.to_string().contains("secret"));
                break;
            }
        }
    }
    assert!(out.len() < 1024, "a proxy cannot make us talk");
    if let Some((from, payload)) = datagram::unwrap(bytes) {
        assert!(bytes.ends_with(payload));
        let Some(from) = from else { return };
        let mut again = Vec::new();
        datagram::wrap(&Target::Addr(from), payload, &mut again).expect("no name");
        assert_eq!(datagram::unwrap(&again), Some((Some(from), payload)));
    }
}

//! Datagrams through SOCKS5 (RFC 1928, 7): the header before each.
//!
//! Called by who has an association ([`super::Tunnel::associate`]). Invariant: whatever is read, nothing beyond it is
//! touched and nothing is kept; fragments are nobody's, as the RFC allows.

use std::net::{IpAddr, SocketAddr};

use super::{FIELD_LEN_MAX, ProxyError, Target};

/// Longest header: reserved, fragment, type, a name with its length, port.
pub const HEADER_LEN_MAX: usize = 4 + 1 + FIELD_LEN_MAX + 2;

/// Appends to `out` what the proxy passes on to `to`: the header and `payload`.
///
/// # Errors
/// `to` has a name that is none.
pub fn wrap(to: &Target, payload: &[u8], out: &mut Vec<u8>) -> Result<(), ProxyError> {
    to.check()?;
    out.extend([0, 0, 0]);
    to.write(out);
    out.extend(payload);
    Ok(())
}

/// Who sent a datagram that came from the proxy, if it says so by an address, and what. `None`: it is none, or a fragment.
pub fn unwrap(datagram: &[u8]) -> Option<(Option<SocketAddr>, &[u8])> {
    match datagram {
        [_, _, 0, rest @ ..] => place(rest),
        _ => None,
    }
}

/// Type, address and port at the beginning of `bytes`, and what follows; no address where it is a name.
pub(super) fn place(bytes: &[u8]) -> Option<(Option<SocketAddr>, &[u8])> {
    let (kind, bytes) = bytes.split_first()?;
    let (ip, bytes) = match kind {
        1 => {
            let (ip, rest) = bytes.split_first_chunk::<4>()?;
            (Some(IpAddr::from(*ip)), rest)
        }
        4 => {
            let (ip, rest) = bytes.split_first_chunk::<16>()?;
            (Some(IpAddr::from(*ip).to_canonical()), rest)
        }
        3 => {
            let (len, rest) = bytes.split_first()?;
            (None, rest.get(usize::from(*len)..)?)
        }
        _ => return None,
    };
    let (port, payload) = bytes.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    Some((ip.map(|ip| SocketAddr::new(ip, port)), payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wrapped(to: &Target, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        wrap(to, payload, &mut out).unwrap();
        out
    }

    #[test]
    fn headers_are_as_the_rfc_has_them() {
        let v4 = Target::Addr("1.2.3.4:258".parse().unwrap());
        assert_eq!(wrapped(&v4, b"x"), [0, 0, 0, 1, 1, 2, 3, 4, 1, 2, b'x']);
        let name = Target::Name("t.example".into(), 80);
        assert_eq!(wrapped(&name, b"x"), b"\0\0\0\x03\x09t.example\0\x50x");
        assert_eq!(unwrap(&wrapped(&name, b"x")), Some((None, &b"x"[..])));
        assert_eq!(unwrap(&[0, 0, 1, 1, 1, 2, 3, 4, 1, 2, 9]), None, "a fragment");
        let bad = Target::Name("a b".into(), 1);
        assert_eq!(wrap(&bad, b"", &mut Vec::new()), Err(ProxyError::Name));
        let long = Target::Name("a".repeat(FIELD_LEN_MAX), 1);
        assert_eq!(wrapped(&long, b"").len(), HEADER_LEN_MAX);
    }

    proptest! {
        #[test]
        fn what_is_wrapped_is_unwrapped(ip: IpAddr, port: u16, payload: Vec<u8>) {
            let to = SocketAddr::new(ip.to_canonical(), port);
            let datagram = wrapped(&Target::Addr(to), &payload);
            prop_assert_eq!(unwrap(&datagram), Some((Some(to), &*payload)));
            let header = datagram.len() - payload.len();
            for len in 0..header {
                prop_assert_eq!(unwrap(&datagram[..len]), None, "cut short");
            }
        }
    }
}

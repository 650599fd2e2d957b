//! Hosts of nodes to begin with, to addresses.
//!
//! Owner: the discovery thread, which looks from time to time whether a look-up is done: names are looked up by the
//! process's own threads for that. Invariant: [`PENDING_MAX`] look-ups at a time, nothing is looked up for a session that
//! is bound to a loopback address.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use crate::control::look_up;

/// Look-ups at a time; further names are left out.
const PENDING_MAX: usize = 64;
/// Addresses used of one name.
const ADDRESSES_MAX: usize = 8;

/// Where an answer will be.
type Place = Arc<OnceLock<Result<Vec<IpAddr>, String>>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Names {
    pending: Vec<(u16, Place)>,
}

impl Names {
    /// Addresses that are known at once; others come with [`Self::take`].
    pub fn look_up(
        &mut self,
        hosts: impl IntoIterator<Item = (String, u16)>,
        is_loopback: bool,
    ) -> Vec<SocketAddr> {
        let mut known = Vec::new();
        for (host, port) in hosts {
            if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
                known.push(SocketAddr::new(ip, port));
            } else if !is_loopback && self.pending.len() < PENDING_MAX {
                self.pending.extend(look_up(&host).map(|slot| (port, slot)));
            }
        }
        known
    }

    /// Whether something is looked up.
    pub fn is_busy(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What has been found since.
    pub fn take(&mut self) -> Vec<SocketAddr> {
        let mut found = Vec::new();
        self.pending.retain(|(port, slot)| match slot.get() {
            None => true,
            Some(Ok(ips)) => {
                found.extend(
                    ips.iter().take(ADDRESSES_MAX).map(|ip| SocketAddr::new(ip.to_canonical(), *port)),
                );
                false
            }
            Some(Err(reason)) => {
                tracing::debug!(reason, "a host to begin with has no address");
                false
            }
        });
        found
    }
}

/// Host and port of `HOST:PORT`, with `[…]` around IPv6 addresses; `None` when it is not that.
pub fn parse_host(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_good = match bare {
        Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.len() <= 253 && !host.contains([':', '/', ' ', '[', ']']),
    };
    is_good.then(|| (bare.unwrap_or(host).to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        assert_eq!(parse_host("a.example:1"), Some(("a.example".into(), 1)));
        assert_eq!(parse_host("1.2.3.4:65535"), Some(("1.2.3.4".into(), 65_535)));
        assert_eq!(parse_host("[::1]:7"), Some(("::1".into(), 7)));
        for bad in ["", "a", "a:", ":1", "a:0", "a:65536", "::1:7", "[x]:7", "http://a:1", "a b:1"] {
            assert_eq!(parse_host(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses_at_once_names_later_and_never_from_loopback() {
        let mut names = Names::default();
        let hosts = || [("127.0.0.1".to_owned(), 7), ("localhost".to_owned(), 8)];
        assert_eq!(names.look_up(hosts(), true), [SocketAddr::from(([127, 0, 0, 1], 7))]);
        assert!(!names.is_busy());
        names.look_up(hosts(), false);
        let mut found = Vec::new();
        while names.is_busy() {
            found.extend(names.take());
            std::thread::yield_now();
        }
        assert!(found.iter().all(|addr| addr.port() == 8 && addr.ip().is_loopback()), "{found:?}");
    }
}

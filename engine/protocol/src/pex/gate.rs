//! What of a stranger's ut_pex messages is believed.
//!
//! Owner: the state of one connection. Invariant: from one peer at most [`BURST`] messages at once and one in
//! [`PACE_SECS`] afterwards are looked at, and [`MAX_TAKEN`] addresses of each.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::PexMessage;
use crate::candidates::is_global;
use crate::credit::Credit;

/// Messages that may come at once: clients begin with a full list, and a reconnection may follow soon.
const BURST: u32 = 3;
/// A message a minute is allowed (BEP 11); clocks differ.
const PACE_SECS: u64 = 45;
/// Addresses taken from one message: BEP 11 allows 50 of each family, and the first message may have more.
const MAX_TAKEN: usize = 100;
/// A message that names more is an offence.
const MAX_NAMED: usize = 400;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Gate(Credit<BURST, PACE_SECS>);

impl Gate {
    /// Of a connection that begins.
    pub fn new(now: Instant) -> Self {
        Self(Credit::new(now))
    }

    /// The addresses of `message` that are worth trying, told by the peer at `teller`. `None`: it came too early or names
    /// too many, which is an offence.
    pub fn pass(&mut self, now: Instant, teller: IpAddr, message: &PexMessage) -> Option<Vec<SocketAddr>> {
        if message.added.len() > MAX_NAMED || !self.0.pass(now) {
            return None;
        }
        let useful = message.added.iter().map(|(addr, _)| *addr).filter(|addr| is_plausible(teller, *addr));
        Some(useful.take(MAX_TAKEN).collect())
    }
}

/// Whether the peer at `teller` can know of a peer at `addr` that we can reach: addresses of this machine only from this
/// machine, those of a local network only from one, and all others if anybody could have them.
pub(crate) fn is_plausible(teller: IpAddr, addr: SocketAddr) -> bool {
    let (teller, ip) = (teller.to_canonical(), addr.ip().to_canonical());
    let is_usable = addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast();
    is_usable && (is_global(ip) || teller.is_loopback() || !ip.is_loopback() && !is_global(teller))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pex::Flags;

    const PACE: Duration = Duration::from_secs(PACE_SECS);

    fn message(addrs: &[&str]) -> PexMessage {
        let added = addrs.iter().map(|addr| (addr.parse().expect("an address"), Flags::default()));
        PexMessage { added: added.collect(), dropped: Vec::new() }
    }

    #[test]
    fn local_addresses_come_from_local_peers_only() {
        let all = [
            "8.8.8.8:1",
            "10.0.0.1:1",
            "127.0.0.1:1",
            "[fe80::1]:1",
            "0.0.0.0:1",
            "224.0.0.1:1",
            "9.9.9.9:0",
        ];
        let from = |teller: &str| {
            let mut gate = Gate::new(Instant::now());
            let passed =
                gate.pass(Instant::now(), teller.parse().unwrap(), &message(&all)).expect("the first");
            passed.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(from("1.1.1.1"), ["8.8.8.8:1"]);
        assert_eq!(from("192.168.0.7"), ["8.8.8.8:1", "10.0.0.1:1", "[fe80::1]:1"]);
        assert_eq!(from("127.0.0.1"), ["8.8.8.8:1", "10.0.0.1:1", "127.0.0.1:1", "[fe80::1]:1"]);
    }

    #[test]
    fn too_often_and_too_many_are_offences() {
        let (mut gate, mut now) = (Gate::new(Instant::now()), Instant::now());
        let (teller, one) = ([1, 1, 1, 1].into(), message(&["8.8.8.8:1"]));
        let passed = (0..50).filter(|_| gate.pass(now, teller, &one).is_some()).count();
        assert_eq!(passed, BURST as usize);
        for _ in 0..9 {
            now += PACE;
            assert!(gate.pass(now, teller, &one).is_some() && gate.pass(now, teller, &one).is_none());
        }
        now += PACE * 100;
        let many: Vec<String> = (0..=MAX_NAMED).map(|n| format!("8.8.{}.{}:1", n / 250, n % 250)).collect();
        let many = message(&many.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(gate.pass(now, teller, &many), None);
        let fewer = PexMessage { added: many.added[..MAX_NAMED].to_vec(), dropped: Vec::new() };
        assert_eq!(gate.pass(now, teller, &fewer).expect("not too many").len(), MAX_TAKEN);
    }
}

//! What others say our address is (BEP 42).
//!
//! Invariant: each machine has one voice, and [`VOTES_MAX`] of them are remembered. Only who answers a query of ours is
//! heard, so nobody can vote in another one's name.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::id::is_local;
use super::limits::subnet;

/// Voices remembered.
const VOTES_MAX: usize = 24;
/// So many must agree, and more than half of all.
const QUORUM: usize = 5;

#[derive(Debug, Default)]
pub(super) struct Votes {
    votes: VecDeque<(IpAddr, IpAddr)>,
}

impl Votes {
    /// `voter` sees us at `ip`. The address that most agree on.
    pub fn add(&mut self, voter: IpAddr, ip: IpAddr) -> Option<IpAddr> {
        if is_local(ip) || ip.is_unspecified() || ip.is_multicast() || ip.is_ipv4() != voter.is_ipv4() {
            return None;
        }
        let voter = subnet(voter);
        self.votes.retain(|(who, _)| *who != voter);
        self.votes.push_back((voter, ip));
        if self.votes.len() > VOTES_MAX {
            self.votes.pop_front();
        }
        let count = self.votes.iter().filter(|(_, said)| *said == ip).count();
        (count >= QUORUM && count * 2 > self.votes.len()).then_some(ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_of_several_machines() {
        let mut votes = Votes::default();
        let ip = |last| IpAddr::from([8, 8, 8, last]);
        for _ in 0..50 {
            assert_eq!(votes.add(ip(1), ip(99)), None, "one machine has one voice");
        }
        for voter in 2..QUORUM as u8 {
            assert_eq!(votes.add(ip(voter), ip(99)), None);
        }
        assert_eq!(votes.add(ip(200), ip(99)), Some(ip(99)));
        assert_eq!(votes.add(ip(201), "10.0.0.1".parse().expect("an address")), None);
        for voter in 20..60 {
            votes.add(ip(voter), ip(98));
        }
        assert_eq!(votes.add(ip(61), ip(98)), Some(ip(98)), "addresses change");
        assert_eq!(votes.votes.len(), VOTES_MAX);
    }
}

//! What each tracker host answered, for metrics.
//!
//! Role: counts by host. Owner: the tracker thread writes at the end of each request, and whoever looks reads.
//! Invariant: at most [`HOSTS_MAX`] hosts are told apart, since their names come from torrents: those that are met
//! first, as long as the process runs, and the rest together as [`REST`].

use std::collections::BTreeMap;
use std::time::Duration;

/// Hosts told apart.
pub const HOSTS_MAX: usize = 64;
/// The name of all others together; no host has it, as they have ports.
pub const REST: &str = "others";
/// Characters of a name that are kept.
const NAME_MAX: usize = 128;

/// What a tracker host did. Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostStats {
    /// Requests that were answered, refusals included.
    pub answered: u64,
    /// Of these, the ones that were refused, or answered with something else than BitTorrent's.
    pub refused: u64,
    /// Requests that were not answered.
    pub failed: u64,
    /// Requests that were not sent: the host was down, or they had no time left.
    pub unsent: u64,
    /// How long all those took that were answered.
    pub answer_time: Duration,
}

/// By name of the host with its port.
#[derive(Debug, Default)]
pub(super) struct Hosts(BTreeMap<String, HostStats>);

impl Hosts {
    /// The counts of a host.
    pub fn of(&mut self, host: &str) -> &mut HostStats {
        let name: String = host.chars().take(NAME_MAX).collect();
        let is_told_apart = self.0.contains_key(&name) || self.0.len() < HOSTS_MAX;
        self.0.entry(if is_told_apart { name } else { REST.to_owned() }).or_default()
    }

    /// Of each, by name.
    pub fn all(&self) -> Vec<(String, HostStats)> {
        self.0.iter().map(|(name, stats)| (name.clone(), *stats)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_torrents_do_not_add_up() {
        let mut hosts = Hosts::default();
        for number in 0..2 * HOSTS_MAX {
            hosts.of(&format!("{number}.example:80")).answered += 1;
        }
        hosts.of("0.example:80").failed += 1;
        hosts.of(&"x".repeat(9999)).unsent += 1;
        let all = hosts.all();
        assert_eq!(all.len(), HOSTS_MAX + 1);
        let of = |name: &str| all.iter().find(|(known, _)| known == name).expect("known").1;
        assert_eq!((of("0.example:80").answered, of("0.example:80").failed), (1, 1));
        assert_eq!((of(REST).answered, of(REST).unsent), (HOSTS_MAX as u64, 1));
    }
}

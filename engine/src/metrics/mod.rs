//! What the engine does, for Prometheus.
//!
//! Role: [`collect`] turns what shards, storage and the tracker thread count into the text of Prometheus, and a thread of
//! its own serves it over HTTP. Owner: [`crate::Session`]. Invariants: each thread counts for itself in plain numbers and
//! tells them four times a second at most, whether or not anybody asks; a scrape takes no lock that a shard waits for;
//! the number of series is bounded by shards, devices, [`MetricsSettings::torrents`] and
//! [`ccbt_shards::trackers::hosts::HOSTS_MAX`], not by what peers or torrents say.

mod catalogue;
mod collect;
mod process;
mod serve;
mod sheet;

use std::net::{IpAddr, Ipv4Addr};

pub(crate) use collect::{Collector, Picture};
pub(crate) use serve::MetricsServer;

/// Torrents with series of their own at most.
pub const TORRENTS_MAX: usize = 1000;

/// Who may ask, and how much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsSettings {
    /// Whether anybody may.
    pub enabled: bool,
    /// Address to listen on. Whoever reaches another one than loopback may read everything.
    pub address: IpAddr,
    /// Port; 0: the system chooses ([`crate::Session::metrics_address`] tells).
    pub port: u16,
    /// Torrents with series of their own, those that move the most first, [`TORRENTS_MAX`] at most; 0: none, only sums.
    pub torrents: usize,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { enabled: false, address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 9090, torrents: 0 }
    }
}

//! What each kind of machine should have, and why.

use std::fmt;
use std::str::FromStr;

/// A kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// A rented server with a gigabit: many torrents, mostly seeding.
    Seedbox1g,
    /// The same with ten.
    Seedbox10g,
    /// Transfers between data centres at 25 Gbit/s and more.
    Bulk25g,
    /// What matters is a disk without a head, and network of any rate.
    Nvme,
    /// What matters is a disk with a head.
    Hdd,
    /// A virtual machine with a gigabyte of memory or less.
    VpsSmall,
    /// A machine that somebody works at.
    Laptop,
}

/// The name of no profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no profile is called {0}: there are {names}", names = Profile::ALL.map(Profile::name).join(", "))]
pub struct UnknownProfile(String);

/// How a value of the kernel is compared with the one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    /// A larger one stays; of a list of three the last counts.
    AtLeast,
    /// A wider range stays.
    Range,
    /// It has to be this one.
    Exactly,
}

/// A setting of the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sysctl {
    pub name: &'static str,
    pub value: &'static str,
    pub compare: Compare,
    pub reason: &'static str,
}

/// A key of ccbt.toml, as `section.key`, with its value in TOML.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub key: &'static str,
    pub value: &'static str,
    pub reason: &'static str,
}

const fn at_least(name: &'static str, value: &'static str, reason: &'static str) -> Sysctl {
    Sysctl { name, value, compare: Compare::AtLeast, reason }
}

const fn exactly(name: &'static str, value: &'static str, reason: &'static str) -> Sysctl {
    Sysctl { name, value, compare: Compare::Exactly, reason }
}

const fn set(key: &'static str, value: &'static str, reason: &'static str) -> Setting {
    Setting { key, value, reason }
}

const QUEUE: &str = "peers that connect at the same moment wait here until they are accepted";
const RANGE: Sysctl = Sysctl {
    name: "net.ipv4.ip_local_port_range",
    value: "10240 65535",
    compare: Compare::Range,
    reason: "a port for each connection that is dialled, and those of a minute ago still count",
};
const IDLE: Sysctl = exactly(
    "net.ipv4.tcp_slow_start_after_idle",
    "0",
    "a peer that was choked for a while goes on with the rate it had",
);
const MTU: Sysctl = exactly(
    "net.ipv4.tcp_mtu_probing",
    "1",
    "connections through tunnels that drop large packets do not hang",
);

/// 1 Gbit/s × 250 ms.
const GIGABIT: &[Sysctl] = &[
    at_least("net.ipv4.tcp_rmem", "4096 131072 33554432", "1 Gbit/s from one peer that is 250 ms away"),
    at_least("net.ipv4.tcp_wmem", "4096 65536 33554432", "the same to one peer"),
    at_least("net.core.rmem_max", "8388608", "bursts of uTP and DHT packets are not lost"),
    at_least("net.core.wmem_max", "8388608", "the same when sending"),
    at_least("net.core.somaxconn", "4096", QUEUE),
    at_least("net.ipv4.tcp_max_syn_backlog", "8192", QUEUE),
    RANGE,
    IDLE,
    MTU,
];
/// 10 Gbit/s × 50 ms.
const TEN: &[Sysctl] = &[
    at_least("net.ipv4.tcp_rmem", "4096 262144 67108864", "10 Gbit/s from one peer that is 50 ms away"),
    at_least("net.ipv4.tcp_wmem", "4096 131072 67108864", "the same to one peer"),
    at_least("net.core.rmem_max", "16777216", "bursts of uTP and DHT packets are not lost"),
    at_least("net.core.wmem_max", "16777216", "the same when sending"),
    at_least("net.core.somaxconn", "8192", QUEUE),
    at_least("net.ipv4.tcp_max_syn_backlog", "16384", QUEUE),
    at_least(
        "net.core.netdev_max_backlog",
        "16384",
        "packets of 20 ms at 10 Gbit/s, where the card's queues meet the CPU",
    ),
    RANGE,
    IDLE,
    MTU,
];
/// 25 Gbit/s × 80 ms, or 100 Gbit/s × 20 ms.
const BULK: &[Sysctl] = &[
    at_least("net.ipv4.tcp_rmem", "4096 1048576 268435456", "25 Gbit/s from one peer that is 80 ms away"),
    at_least("net.ipv4.tcp_wmem", "4096 1048576 268435456", "the same to one peer"),
    at_least("net.core.rmem_max", "33554432", "bursts of uTP packets are not lost"),
    at_least("net.core.wmem_max", "33554432", "the same when sending"),
    at_least("net.core.somaxconn", "8192", QUEUE),
    at_least(
        "net.core.netdev_max_backlog",
        "65536",
        "packets of 20 ms, where the card's queues meet the CPU",
    ),
    RANGE,
    IDLE,
    MTU,
];
const SMALL: &[Sysctl] = &[RANGE, IDLE, MTU];

const MEMORY: &str = "piece memory: what is downloading and what is sent";
const SEEDBOX_1G: &[Setting] = &[
    set("engine.memory", "\"512MiB\"", MEMORY),
    set("network.max_global_peers", "4000", "many torrents with few peers each"),
    set("daemon.active_downloads", "10", "a gigabit is full with a few; others wait"),
];
const SEEDBOX_10G: &[Setting] = &[
    set("engine.memory", "\"2GiB\"", MEMORY),
    set("network.max_global_peers", "12000", "many torrents with few peers each"),
    set("network.max_peers_per_torrent", "250", "one hot torrent fills the line"),
    set("disk.max_open_files", "4096", "thousands of torrents that are asked for in turn"),
    set("daemon.active_downloads", "30", "no single torrent fills the line"),
];
const BULK_25G: &[Setting] = &[
    set("engine.memory", "\"4GiB\"", "piece memory: pieces of 16 MiB on every shard"),
    set("network.pipeline_depth_max", "4096", "64 MiB on the way to one peer"),
    set("strategy.upload_slots", "256", "every machine of the transfer is served at once"),
    set("discovery.enable_dht", "false", "the machines are known; nobody else needs to hear of them"),
    set("discovery.enable_lsd", "false", "the same in the local network"),
];
const NVME: &[Setting] = &[
    set("engine.memory", "\"1GiB\"", MEMORY),
    set("disk.max_open_files", "4096", "opening costs nothing here, closing and opening again does"),
];
const HDD: &[Setting] = &[
    set("engine.memory", "\"1GiB\"", "more pieces wait for their neighbours, so writes are longer"),
    set("disk.preallocate", "\"full\"", "files in one stretch: seeding reads without seeking"),
    set("daemon.active_downloads", "3", "heads move between files; few at a time are faster in sum"),
    set("disk.sync_interval", "\"5m\"", "each sync waits for the head"),
    set("disk.sync_bytes", "\"16GiB\"", "the same"),
];
const VPS_SMALL: &[Setting] = &[
    set("engine.memory", "\"64MiB\"", "the machine has little"),
    set("engine.shards", "1", "memory is divided among shards"),
    set("network.max_global_peers", "200", "the kernel's buffers of a connection take memory, too"),
    set("disk.max_open_files", "128", "the same for files"),
    set("daemon.active_downloads", "2", "pieces of few torrents are in memory at a time"),
];
const LAPTOP: &[Setting] = &[
    set("engine.memory", "\"128MiB\"", "the rest is for other programs"),
    set("network.max_global_peers", "200", "routers at home forget connections"),
    set("daemon.active_downloads", "3", "the line is shared"),
    set("daemon.active_seeds", "5", "the same"),
];

impl Profile {
    /// All there are.
    pub const ALL: [Self; 7] = [
        Self::Seedbox1g,
        Self::Seedbox10g,
        Self::Bulk25g,
        Self::Nvme,
        Self::Hdd,
        Self::VpsSmall,
        Self::Laptop,
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seedbox1g => "seedbox-1g",
            Self::Seedbox10g => "seedbox-10g",
            Self::Bulk25g => "bulk-25g+",
            Self::Nvme => "nvme",
            Self::Hdd => "hdd",
            Self::VpsSmall => "vps-small",
            Self::Laptop => "laptop",
        }
    }

    pub(super) fn sysctls(self) -> &'static [Sysctl] {
        match self {
            Self::Seedbox1g | Self::Hdd => GIGABIT,
            Self::Seedbox10g | Self::Nvme => TEN,
            Self::Bulk25g => BULK,
            Self::VpsSmall | Self::Laptop => SMALL,
        }
    }

    pub(super) fn settings(self) -> &'static [Setting] {
        match self {
            Self::Seedbox1g => SEEDBOX_1G,
            Self::Seedbox10g => SEEDBOX_10G,
            Self::Bulk25g => BULK_25G,
            Self::Nvme => NVME,
            Self::Hdd => HDD,
            Self::VpsSmall => VPS_SMALL,
            Self::Laptop => LAPTOP,
        }
    }

    /// Descriptors of a process: peers, files, and room.
    pub(super) fn descriptors(self) -> u64 {
        match self {
            Self::VpsSmall | Self::Laptop => 8192,
            _ => 65_536,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, UnknownProfile> {
        let found = Self::ALL.into_iter().find(|profile| profile.name() == text);
        found.ok_or_else(|| UnknownProfile(text.to_owned()))
    }
}

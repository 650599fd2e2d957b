//! The table of all keys: the one place where a key is defined.
//!
//! Parser, messages, `ccbt.toml`, environment variables, options, `config show` and the effect on the engine are derived
//! from it. A new key is one entry in a file below (and one line in the test of effects, which fails until it is there).

mod checkpoints;
mod daemon;
mod discovery;
mod disk;
mod limits;
mod logs;
mod network;
mod proxy;
mod strategy;
mod system;

use std::time::Duration;

use super::key::Key;
use super::kind::Kind;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

const PEERS: Kind = Kind::Int { min: 1, max: 65_000 };
const LIMIT: Kind = Kind::Rate { max: 4 * TIB };
const SECONDS: Kind = Kind::Time { bare: SECOND, min: SECOND, max: HOUR };

/// Sections in the order of the file, each with what it is about.
pub const SECTIONS: [(&str, &str); 10] = [
    ("network", "Connections to peers."),
    ("disk", "Files and checkpoints."),
    ("strategy", "What is asked of whom, and who is served."),
    ("discovery", "How peers are found."),
    ("proxy", "What all connections go through; with it nothing else leaves."),
    ("limits", "Rates, and when seeding ends."),
    ("observability", "Logs and metrics."),
    ("engine", "Threads, CPUs and memory."),
    ("security", "Whom to trust."),
    ("daemon", "`ccbt-fast daemon`: many torrents in one process."),
];

const PARTS: [&[Key]; 10] = [
    network::KEYS,
    disk::KEYS,
    checkpoints::KEYS,
    strategy::KEYS,
    discovery::KEYS,
    proxy::KEYS,
    limits::KEYS,
    logs::KEYS,
    system::KEYS,
    daemon::KEYS,
];

const COUNT: usize = {
    let (mut count, mut part) = (0, 0);
    while part < PARTS.len() {
        count += PARTS[part].len();
        part += 1;
    }
    count
};

/// All keys, section by section.
pub static KEYS: &[Key] = &{
    let mut all = [PARTS[0][0]; COUNT];
    let (mut at, mut part) = (0, 0);
    while part < PARTS.len() {
        let mut index = 0;
        while index < PARTS[part].len() {
            all[at] = PARTS[part][index];
            (at, index) = (at + 1, index + 1);
        }
        part += 1;
    }
    all
};

//! Keys of rates, and of when seeding ends.

use std::time::Duration;

use super::{LIMIT, MINUTE, YEAR};
use crate::config::key::{Key, key};
use crate::config::kind::{Kind, Value};

pub(super) const KEYS: &[Key] = &[
    key(
        "limits",
        "global_down_kib",
        LIMIT,
        "0",
        "What is received per second at most, all torrents together.",
        |effect, value| effect.settings.down_limit = value.number().expect("a rate"),
    )
    .at_once()
    .short_env("CCBT_DOWN_LIMIT")
    .flag("down-limit"),
    key(
        "limits",
        "global_up_kib",
        LIMIT,
        "0",
        "What is sent per second at most, all torrents together.",
        |effect, value| effect.settings.up_limit = value.number().expect("a rate"),
    )
    .at_once()
    .short_env("CCBT_UP_LIMIT")
    .flag("up-limit"),
    key(
        "limits",
        "per_torrent_down_kib",
        LIMIT,
        "0",
        "What each torrent receives per second at most.",
        |effect, value| effect.limits.down = value.number().expect("a rate"),
    )
    .at_once()
    .per_torrent()
    .flag("torrent-down-limit"),
    key(
        "limits",
        "per_torrent_up_kib",
        LIMIT,
        "0",
        "What each torrent sends per second at most.",
        |effect, value| effect.limits.up = value.number().expect("a rate"),
    )
    .at_once()
    .per_torrent()
    .flag("torrent-up-limit"),
    key(
        "limits",
        "per_peer_down_kib",
        LIMIT,
        "0",
        "What is received per second at most from each peer.",
        |effect, value| effect.limits.peer_down = value.number().expect("a rate"),
    )
    .at_once()
    .per_torrent()
    .flag("peer-down-limit"),
    key(
        "limits",
        "per_peer_up_kib",
        LIMIT,
        "0",
        "What is sent per second at most to each peer.",
        |effect, value| effect.limits.peer_up = value.number().expect("a rate"),
    )
    .at_once()
    .per_torrent()
    .flag("peer-up-limit"),
    key(
        "limits",
        "count_overhead",
        Kind::Bool,
        "false",
        "Limits count the headers of IP and TCP and acknowledgements, too, as estimated.",
        |effect, value| effect.settings.count_overhead = *value == Value::Bool(true),
    )
    .switch("count-overhead", true),
    key(
        "limits",
        "seed_time",
        Kind::Time { bare: MINUTE, min: Duration::ZERO, max: YEAR },
        "off",
        "Seed until this time has passed; with seed_ratio, until either is reached. Both off: a download ends when it \
         is finished, a seed when it is stopped.",
        |effect, value| effect.seed_time = value.time(),
    )
    .or("off")
    .at_once()
    .per_torrent()
    .flag("seed-time"),
    key(
        "limits",
        "seed_ratio",
        Kind::Ratio,
        "off",
        "Seed until this many times the torrent's size was sent.",
        |effect, value| effect.seed_ratio = if let Value::Ratio(ratio) = value { Some(*ratio) } else { None },
    )
    .or("off")
    .at_once()
    .per_torrent()
    .flag("seed-ratio"),
];

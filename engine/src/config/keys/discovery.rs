//! Keys of finding peers without trackers.

use crate::config::key::{Key, key};
use crate::config::kind::{Kind, Value};

pub(super) const KEYS: &[Key] = &[
    key(
        "discovery",
        "tracker_connections",
        Kind::Int { min: 1, max: 32 },
        "8",
        "Announces and scrapes under way at one tracker host; others wait for their turn.",
        |effect, value| effect.settings.tracker_connections = value.count().expect("a number"),
    ),
    key(
        "discovery",
        "enable_dht",
        Kind::Bool,
        "true",
        "Find peers in the distributed hash table (BEP 5), and answer others there. Never for private torrents.",
        |effect, value| {
            effect.settings.enable_dht = *value == Value::Bool(true);
            effect.torrent.use_dht = effect.settings.enable_dht;
        },
    )
    .per_torrent()
    .switch("no-dht", false),
    key(
        "discovery",
        "dht_port",
        Kind::Int { min: 1, max: 65_535 },
        "auto",
        "UDP port of the DHT; auto: the number of listen_port.",
        |effect, value| effect.settings.dht.port = value.number().and_then(|port| u16::try_from(port).ok()),
    )
    .or("auto"),
    key(
        "discovery",
        "dht_bootstrap",
        Kind::Hosts,
        "[\"router.bittorrent.com:6881\",\"dht.transmissionbt.com:6881\",\"dht.libtorrent.org:25401\"]",
        "Nodes of the DHT to begin with while no others are known; none: only those that peers and torrents tell of.",
        |effect, value| effect.settings.dht.bootstrap = value.hosts(),
    )
    .or("none")
    .trusted_only()
    .flag("dht-bootstrap"),
    key(
        "discovery",
        "dht_read_only",
        Kind::Bool,
        "false",
        "Ask other nodes and answer none (BEP 43): for a machine that others cannot reach.",
        |effect, value| effect.settings.dht.read_only = *value == Value::Bool(true),
    ),
    key(
        "discovery",
        "enable_lsd",
        Kind::Bool,
        "true",
        "Find peers in the local network by multicast (BEP 14). Never for private torrents.",
        |effect, value| {
            effect.settings.enable_lsd = *value == Value::Bool(true);
            effect.torrent.use_lsd = effect.settings.enable_lsd;
        },
    )
    .per_torrent()
    .switch("no-lsd", false),
];

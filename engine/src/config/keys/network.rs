//! Keys of connections to peers.

use ccbt_shards::dialling::Transport;
use ccbt_shards::encryption::Encryption;
use ccbt_shards::zero_copy::ZeroCopySend;

use super::{PEERS, SECONDS};
use crate::config::key::{Key, key};
use crate::config::kind::{Kind, Value};
use crate::mapping::PortMapping;

pub(super) const KEYS: &[Key] = &[
    key(
        "network",
        "listen_port",
        Kind::Int { min: 0, max: 65_535 },
        "auto",
        "Port to listen on; 0: the system chooses; auto: the first free one of 6881-6889, else as with 0.",
        |effect, value| effect.settings.port = value.number().and_then(|port| u16::try_from(port).ok()),
    )
    .or("auto")
    .short_env("CCBT_LISTEN_PORT")
    .flags('p', "port"),
    key(
        "network",
        "port_mapping",
        Kind::Choice(&["off", "auto", "pcp", "nat-pmp", "upnp"]),
        "off",
        "Ask the router to forward the ports for peers and the DHT, by PCP, NAT-PMP or UPnP; auto: by the first of these that \
         works. Not past a proxy. Off, since servers mostly have addresses of their own.",
        |effect, value| {
            effect.settings.port_mapping = match value.word() {
                "auto" => PortMapping::Auto,
                "pcp" => PortMapping::Pcp,
                "nat-pmp" => PortMapping::NatPmp,
                "upnp" => PortMapping::Upnp,
                _ => PortMapping::Off,
            };
        },
    )
    .trusted_only()
    .flag("port-mapping"),
    key(
        "network",
        "bind_address",
        Kind::Places,
        "any",
        "Addresses and network interfaces to listen on; connections leave from the first of them that reaches the peer. \
         By an interface or not at all: when it is gone, nothing leaves until it is back. Names are looked up by the system.",
        |effect, value| effect.settings.bind = value.places(),
    )
    .or("any")
    .trusted_only()
    .flag("bind"),
    key(
        "network",
        "bind_to",
        Kind::Places,
        "bind_address",
        "Addresses and interfaces that a torrent is bound to, of those of bind_address; without DHT and local discovery if \
         it is not all of them.",
        |effect, value| effect.torrent.bind_to = value.places(),
    )
    .or("bind_address")
    .trusted_only()
    .per_torrent()
    .flag("bind-to"),
    key(
        "network",
        "max_global_peers",
        PEERS,
        "auto",
        "Connections of all torrents together; auto: 500, or max_peers_per_torrent and 64 more if that is more.",
        |effect, value| effect.max_global_peers = value.count(),
    )
    .or("auto")
    .short_env("CCBT_MAX_PEERS")
    .flag("max-global-peers"),
    key(
        "network",
        "max_peers_per_torrent",
        PEERS,
        "100",
        "Connections of one torrent at most.",
        |effect, value| effect.torrent.max_peers = value.count().expect("a number"),
    )
    .per_torrent()
    .flag("max-peers"),
    key(
        "network",
        "pipeline_depth_min",
        Kind::Int { min: 1, max: 4096 },
        "16",
        "Requests that every peer may have on the way; more as its rate and distance want it.",
        |effect, value| effect.settings.window.floor = value.count().expect("a number"),
    ),
    key(
        "network",
        "pipeline_depth_max",
        Kind::Int { min: 1, max: 4096 },
        "4096",
        "Requests on the way to one peer at most.",
        |effect, value| effect.settings.window.ceiling = value.count().expect("a number"),
    ),
    key(
        "network",
        "request_timeout_min",
        SECONDS,
        "10s",
        "A peer that owes blocks may be silent for this long at least, whatever its rate.",
        |effect, value| effect.settings.window.request_timeout_min = value.time().expect("a time"),
    ),
    key(
        "network",
        "request_timeout_max",
        SECONDS,
        "1m",
        "A peer that owes blocks may not be silent for longer.",
        |effect, value| effect.settings.window.request_timeout_max = value.time().expect("a time"),
    ),
    key(
        "network",
        "zero_copy_send",
        Kind::Choice(&["auto", "on", "off"]),
        "auto",
        "Send without a copy in the kernel; auto: to other machines, unless the kernel copies.",
        |effect, value| {
            effect.settings.zero_copy_send = match value.word() {
                "on" => ZeroCopySend::On,
                "off" => ZeroCopySend::Off,
                _ => ZeroCopySend::Auto,
            };
        },
    )
    .flag("zero-copy-send"),
    key(
        "network",
        "web_seeds",
        Kind::Bool,
        "true",
        "Fetch from the HTTP servers that torrents name (BEP 19); those of --web-seed are asked anyway.",
        |effect, value| effect.torrent.use_web_seeds = *value == Value::Bool(true),
    )
    .per_torrent()
    .switch("no-web-seeds", false),
    key(
        "network",
        "web_seed_local",
        Kind::Bool,
        "false",
        "Web seeds of torrents, and redirects, may lead to loopback, private and link-local addresses.",
        |effect, value| effect.settings.web_seed_local = *value == Value::Bool(true),
    )
    .trusted_only()
    .switch("web-seed-local", true),
    key(
        "network",
        "enable_tcp",
        Kind::Bool,
        "true",
        "Connect to peers and accept them over TCP.",
        |effect, value| effect.settings.transports.tcp = *value == Value::Bool(true),
    )
    .switch("no-tcp", false),
    key(
        "network",
        "enable_utp",
        Kind::Bool,
        "false",
        "Connect to peers and accept them over uTP (BEP 29), on the UDP port of the same number.",
        |effect, value| effect.settings.transports.utp = *value == Value::Bool(true),
    )
    .switch("utp", true),
    key(
        "network",
        "prefer_transport",
        Kind::Choice(&["tcp", "utp"]),
        "tcp",
        "Tried first where both are enabled; the other one follows if that fails or takes 0.6 s.",
        |effect, value| {
            let is_utp = value.word() == "utp";
            effect.settings.transports.preferred = if is_utp { Transport::Utp } else { Transport::Tcp };
        },
    ),
    key(
        "network",
        "encryption_in",
        Kind::Choice(&["off", "prefer", "require"]),
        "prefer",
        "Encrypted connections (MSE) that peers open; off: refused, prefer: taken beside plain ones, require: RC4 only.",
        |effect, value| effect.settings.encryption.incoming = encryption(value),
    )
    .flag("encryption-in"),
    key(
        "network",
        "encryption_out",
        Kind::Choice(&["off", "prefer", "require"]),
        "off",
        "Encrypt the connections that we open (MSE); prefer: plain ones after that failed, require: RC4 only.",
        |effect, value| effect.settings.encryption.outgoing = encryption(value),
    )
    .flag("encryption-out"),
];

fn encryption(value: &Value) -> Encryption {
    match value.word() {
        "prefer" => Encryption::Prefer,
        "require" => Encryption::Require,
        _ => Encryption::Off,
    }
}

//! Keys of a proxy.

use ccbt_protocol::proxy::ProxyKind;

use crate::config::key::{Key, key};
use crate::config::kind::{Kind, Value};

pub(super) const KEYS: &[Key] = &[
    key(
        "proxy",
        "type",
        Kind::Choice(&["none", "socks5", "http"]),
        "none",
        "What it speaks; http: CONNECT.",
        |effect, value| {
            effect.proxy.kind = match value.word() {
                "socks5" => Some(ProxyKind::Socks5),
                "http" => Some(ProxyKind::Http),
                _ => None,
            };
        },
    )
    .trusted_only(),
    key(
        "proxy",
        "address",
        Kind::Hosts,
        "none",
        "HOST:PORT of the proxy; a name is looked up at the start, by your own name server.",
        |effect, value| effect.proxy.address = value.hosts(),
    )
    .or("none")
    .trusted_only(),
    key(
        "proxy",
        "credentials_file",
        Kind::Path,
        "none",
        "File with one line USERNAME:PASSWORD for the proxy.",
        |effect, value| effect.proxy.credentials_file = value.path(),
    )
    .or("none")
    .trusted_only(),
    key(
        "proxy",
        "peers",
        Kind::Bool,
        "true",
        "Connect to peers through it, with socks5 ask the DHT, too; incoming connections, uTP and local discovery are off then.",
        |effect, value| effect.proxy.peers = *value == Value::Bool(true),
    )
    .trusted_only(),
    key(
        "proxy",
        "trackers",
        Kind::Bool,
        "true",
        "Ask trackers through it; UDP trackers only with socks5.",
        |effect, value| effect.proxy.trackers = *value == Value::Bool(true),
    )
    .trusted_only(),
    key(
        "proxy",
        "hostnames",
        Kind::Bool,
        "true",
        "Let it look the trackers' names up; false: your own name server hears of them.",
        |effect, value| effect.proxy.hostnames = *value == Value::Bool(true),
    )
    .trusted_only(),
];

//! Keys of the log.

use tracing::level_filters::LevelFilter;

use super::MIB;
use crate::config::key::{Key, key};
use crate::config::kind::{Kind, Value};

pub(super) const KEYS: &[Key] = &[
    key(
        "observability",
        "log_level",
        Kind::Choice(&["off", "error", "warn", "info", "debug", "trace"]),
        "warn",
        "How much is logged.",
        |effect, value| effect.log.level = value.word().parse().unwrap_or(LevelFilter::WARN),
    )
    .at_once()
    .short_env("CCBT_LOG_LEVEL")
    .flag("log-level"),
    key(
        "observability",
        "log_filter",
        Kind::LogFilter,
        "none",
        "How much is logged by modules: \"info,ccbt_shards=debug\"; a level alone is for all others.",
        |effect, value| effect.log.filter = value.filter(),
    )
    .or("none")
    .at_once()
    .flag("log"),
    key(
        "observability",
        "log_format",
        Kind::Choice(&["text", "json"]),
        "text",
        "Lines for people, or a JSON object a line.",
        |effect, value| effect.log.json = value.word() == "json",
    )
    .flag("log-format"),
    key(
        "observability",
        "log_file",
        Kind::Path,
        "none",
        "The log is appended to this file; none: it goes to standard error.",
        |effect, value| effect.log.file = value.path(),
    )
    .or("none")
    .trusted_only()
    .flag("log-file"),
    key(
        "observability",
        "log_file_size",
        Kind::Size { bare: MIB, min: 64 << 10, max: 1 << 40 },
        "10MiB",
        "A log file that would become longer is renamed to FILE.1, the one before to FILE.2 …; unlimited: never.",
        |effect, value| effect.log.file_bytes = value.number(),
    )
    .or("unlimited")
    .trusted_only(),
    key(
        "observability",
        "log_files",
        Kind::Int { min: 1, max: 1000 },
        "5",
        "Log files that are kept, the present one included.",
        |effect, value| effect.log.files = value.count().unwrap_or(1),
    )
    .trusted_only(),
    key(
        "observability",
        "enable_peer_tracing",
        Kind::Bool,
        "false",
        "Log what becomes of each connection, with the peer's address, whatever the level is.",
        |effect, value| effect.log.peer_tracing = *value == Value::Bool(true),
    )
    .at_once(),
    key(
        "observability",
        "trace_peer",
        Kind::Peer,
        "none",
        "Log every message to and from this peer (IP:PORT, or IP for any port), without payload.",
        |effect, value| effect.settings.trace_peer = value.peer(),
    )
    .or("none")
    .flag("trace-peer"),
];

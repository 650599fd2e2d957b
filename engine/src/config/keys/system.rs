//! Keys of metrics, of threads and memory, and of trust.

use super::{MIB, TIB};
use crate::config::key::{Key, key};
use crate::config::kind::{Kind, Value};
use crate::sandbox::SandboxMode;

pub(super) const KEYS: &[Key] = &[
    key(
        "observability",
        "enable_metrics",
        Kind::Bool,
        "false",
        "Serve metrics for Prometheus: http://METRICS_ADDRESS:METRICS_PORT/metrics.",
        |effect, value| effect.settings.metrics.enabled = *value == Value::Bool(true),
    )
    .trusted_only()
    .switch("metrics", true),
    key(
        "observability",
        "metrics_port",
        Kind::Int { min: 1, max: 65535 },
        "9090",
        "Port of the metrics.",
        |effect, value| effect.settings.metrics.port = value.number().map_or(0, |port| port as u16),
    )
    .trusted_only()
    .flag("metrics-port"),
    key(
        "observability",
        "metrics_address",
        Kind::Address,
        "127.0.0.1",
        "Address of the metrics; everybody who reaches another one than loopback may read them.",
        |effect, value| {
            if let Value::Address(address) = value {
                effect.settings.metrics.address = *address;
            }
        },
    )
    .trusted_only(),
    key(
        "observability",
        "metrics_torrents",
        Kind::Int { min: 0, max: 1000 },
        "0",
        "So many torrents have metrics of their own, with their names: those that move the most.",
        |effect, value| effect.settings.metrics.torrents = value.count().unwrap_or(0),
    )
    .trusted_only(),
    key(
        "engine",
        "shards",
        Kind::Int { min: 1, max: 1024 },
        "auto",
        "Threads that serve peers, one per CPU; auto: what the CPUs leave beside storage and hashing.",
        |effect, value| effect.settings.layout.shards = value.count(),
    )
    .or("auto")
    .flag("shards"),
    key(
        "engine",
        "cpus",
        Kind::Cpus,
        "auto",
        "CPUs to use; auto: all that this process may use.",
        |effect, value| effect.settings.layout.cpus = value.cpus(),
    )
    .or("auto"),
    key(
        "engine",
        "storage_cpu",
        Kind::Int { min: 0, max: 4095 },
        "auto",
        "CPU of the storage thread; auto: the last one of four or more, else whichever is idle.",
        |effect, value| effect.settings.layout.storage_cpu = value.count(),
    )
    .or("auto"),
    key(
        "engine",
        "hash_cpus",
        Kind::Cpus,
        "auto",
        "CPUs of the hash threads, one thread each; auto: as disk.hash_workers says, on CPUs of their own where there \
         are four or more.",
        |effect, value| effect.settings.layout.hash_cpus = value.cpus(),
    )
    .or("auto"),
    key(
        "engine",
        "memory",
        Kind::Size { bare: MIB, min: 16 * MIB, max: TIB },
        "256MiB",
        "Memory for pieces at most: three quarters for downloads, one for uploads.",
        |effect, value| effect.settings.memory_bytes = value.count().expect("a size"),
    )
    .flag("memory"),
    key(
        "security",
        "tracker_ca_file",
        Kind::Path,
        "none",
        "PEM file with certificate authorities to trust for HTTPS trackers besides the system's.",
        |effect, value| effect.tracker_ca_file = value.path(),
    )
    .or("none")
    .trusted_only(),
    key(
        "security",
        "ip_filter",
        Kind::Path,
        "none",
        "List of IP addresses to have nothing to do with (DAT, P2P, P2B or CIDR; plain, gzip or zip), or a folder of lists; \
         read again when it changes.",
        |effect, value| effect.ip_filter.path = value.path(),
    )
    .or("none")
    .trusted_only()
    .at_once()
    .flag("ip-filter"),
    key(
        "security",
        "ip_filter_trackers",
        Kind::Bool,
        "false",
        "Trackers at addresses of the IP filter are not asked either.",
        |effect, value| effect.ip_filter.trackers = *value == Value::Bool(true),
    )
    .at_once(),
    key(
        "security",
        "sandbox",
        Kind::Choice(&["off", "auto", "strict"]),
        "off",
        "Keep this process to its folders (Landlock) and from system calls it does not need (seccomp); auto: as far as the \
         kernel goes, strict: end if it lacks something. No program but on_complete can be run then, and that one is kept \
         to the same folders.",
        |effect, value| {
            effect.sandbox.mode = match value.word() {
                "auto" => SandboxMode::Auto,
                "strict" => SandboxMode::Strict,
                _ => SandboxMode::Off,
            };
        },
    )
    .trusted_only(),
    key(
        "security",
        "sandbox_paths",
        Kind::Folders,
        "none",
        "Folders that torrents may be in with the sandbox, besides those that other keys name.",
        |effect, value| effect.sandbox.paths = value.folders(),
    )
    .or("none")
    .trusted_only(),
];

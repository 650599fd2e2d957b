//! The table of all keys: the one place where a key is defined.
//!
//! Parser, messages, `ccbt.toml`, environment variables, options, `config show` and the effect on the engine are derived
//! from it. A new key is one entry here (and one line in the test of effects, which fails until it is there).

use std::time::Duration;

use ccbt_protocol::picker::Strategy;
use ccbt_shards::sync::SyncPolicy;
use ccbt_storage::messages::Preallocate;
use tracing::level_filters::LevelFilter;

use super::key::{Key, key};
use super::kind::{Kind, Value};

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
pub const SECTIONS: [(&str, &str); 8] = [
    ("network", "Connections to peers."),
    ("disk", "Files."),
    ("strategy", "What is asked of whom, and who is served."),
    ("discovery", "How peers are found."),
    ("limits", "Rates, and when seeding ends."),
    ("observability", "Logs."),
    ("engine", "Threads, CPUs and memory."),
    ("security", "Whom to trust."),
];

/// All keys, section by section.
pub static KEYS: &[Key] = &[
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
        "bind_address",
        Kind::Address,
        "any",
        "Address to listen on and to connect from.",
        |effect, value| {
            effect.settings.bind = if let Value::Address(address) = value { Some(*address) } else { None };
        },
    )
    .or("any")
    .trusted_only()
    .flag("bind"),
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
        "disk",
        "output",
        Kind::Path,
        ".",
        "Folder that holds the torrents' files and folders; \".\" is the current one.",
        |effect, value| effect.torrent.output = value.path().unwrap_or_else(|| ".".into()),
    )
    .or(".")
    .per_torrent()
    .trusted_only()
    .flags('o', "output"),
    key(
        "disk",
        "move_completed",
        Kind::Path,
        "none",
        "Everything moves to this folder when it is finished, before seeding; an interrupted move is completed at \
         start.",
        |effect, value| effect.move_completed = value.path(),
    )
    .or("none")
    .per_torrent()
    .trusted_only()
    .download_flag("move-completed"),
    key(
        "disk",
        "preallocate",
        Kind::Choice(&["full", "sparse", "none"]),
        "sparse",
        "How files get their length. full: blocks are reserved, so that a full disk shows at once; sparse: the \
         length is set; none: files grow as pieces arrive.",
        |effect, value| {
            effect.torrent.preallocate = match value.word() {
                "full" => Preallocate::Full,
                "none" => Preallocate::None,
                _ => Preallocate::Sparse,
            };
        },
    )
    .per_torrent()
    .download_flag("preallocate"),
    key(
        "disk",
        "write_batch_kib",
        Kind::Size { bare: KIB, min: 128 * KIB, max: 4 * MIB },
        "auto",
        "Bytes per disk operation at most; auto: found out for each device while it works.",
        |effect, value| {
            effect.settings.disk_write_bytes = value.number().and_then(|bytes| u32::try_from(bytes).ok());
        },
    )
    .or("auto")
    .flag("disk-write-kib"),
    key(
        "disk",
        "queue_depth",
        Kind::Int { min: 1, max: 4096 },
        "auto",
        "Disk operations in flight per device; auto: found out for each device while it works.",
        |effect, value| {
            effect.settings.disk_queue_depth = value.number().and_then(|depth| u32::try_from(depth).ok());
        },
    )
    .or("auto")
    .flag("disk-queue-depth"),
    key(
        "disk",
        "hash_workers",
        Kind::Int { min: 1, max: 1024 },
        "auto",
        "Threads that hash; auto: one for eight CPUs, each of which does several GB/s.",
        |effect, value| effect.settings.layout.hash_threads = value.count(),
    )
    .or("auto"),
    key(
        "disk",
        "sync",
        Kind::Choice(&["checkpoint", "piece", "none"]),
        "checkpoint",
        "When written data is made to outlast a power cut. checkpoint: at the end, and as sync_interval and \
         sync_bytes say; piece: after each batch of pieces, before others hear of them; none: never.",
        |effect, value| {
            effect.settings.sync.policy = match value.word() {
                "piece" => SyncPolicy::Piece,
                "none" => SyncPolicy::None,
                _ => SyncPolicy::Checkpoint,
            };
        },
    )
    .download_flag("sync"),
    key(
        "disk",
        "sync_interval",
        Kind::Time { bare: SECOND, min: SECOND, max: DAY },
        "1m",
        "Time between syncs while pieces arrive.",
        |effect, value| effect.settings.sync.interval = value.time().expect("a time"),
    ),
    key(
        "disk",
        "sync_bytes",
        Kind::Size { bare: MIB, min: MIB, max: 1024 * TIB },
        "4GiB",
        "Bytes between syncs.",
        |effect, value| effect.settings.sync.bytes = value.number().expect("a size"),
    ),
    key(
        "disk",
        "max_open_files",
        Kind::Int { min: 1, max: 1 << 20 },
        "512",
        "Files open at a time; never more than a quarter of `ulimit -n`.",
        |effect, value| effect.settings.max_open_files = value.count().expect("a number"),
    ),
    key(
        "strategy",
        "piece_selection",
        Kind::Choice(&["rarest_first", "sequential", "round_robin"]),
        "rarest_first",
        "Order in which pieces are fetched. rarest_first: those with the fewest copies; sequential: from the first \
         to the last; round_robin: rising, going on behind the piece that was begun last.",
        |effect, value| {
            effect.torrent.picker.strategy = match value.word() {
                "sequential" => Strategy::Sequential,
                "round_robin" => Strategy::RoundRobin,
                _ => Strategy::RarestFirst,
            };
        },
    )
    .per_torrent()
    .short_env("CCBT_PIECE_SELECTION")
    .download_flag("piece-selection"),
    key(
        "strategy",
        "endgame_duplicates",
        Kind::Int { min: 1, max: 16 },
        "2",
        "Peers asked for the same block at most, towards the end.",
        |effect, value| effect.torrent.picker.endgame_duplicates = value.count().expect("a number"),
    )
    .per_torrent()
    .download_flag("endgame-duplicates"),
    key(
        "strategy",
        "random_first_pieces",
        Kind::Int { min: 0, max: 1000 },
        "4",
        "With rarest_first: this many pieces are picked at random before, to have something to trade.",
        |effect, value| {
            effect.torrent.picker.random_first = value.number().map_or(0, |pieces| pieces as u32);
        },
    )
    .per_torrent(),
    key(
        "strategy",
        "upload_slots",
        PEERS,
        "64",
        "Peers that are served at a time.",
        |effect, value| effect.settings.choker.slots = value.count().expect("a number"),
    ),
    key(
        "strategy",
        "optimistic_slots",
        Kind::Int { min: 0, max: 65_000 },
        "4",
        "Of these, drawn whatever they give.",
        |effect, value| effect.settings.choker.optimistic = value.count().expect("a number"),
    ),
    key(
        "strategy",
        "optimistic_interval",
        SECONDS,
        "30s",
        "How long one that was drawn is served at least.",
        |effect, value| effect.settings.choker.optimistic_interval = value.time().expect("a time"),
    ),
    key(
        "discovery",
        "enable_trackers",
        Kind::Bool,
        "true",
        "Ask the torrent's trackers.",
        |effect, value| effect.torrent.use_trackers = *value == Value::Bool(true),
    )
    .per_torrent()
    .switch("no-tracker", false),
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
    key(
        "observability",
        "log_level",
        Kind::Choice(&["off", "error", "warn", "info", "debug", "trace"]),
        "warn",
        "How much is logged.",
        |effect, value| effect.log_level = value.word().parse().unwrap_or(LevelFilter::WARN),
    )
    .at_once()
    .short_env("CCBT_LOG_LEVEL")
    .flag("log-level"),
    key(
        "observability",
        "log_file",
        Kind::Path,
        "none",
        "The log is appended to this file; none: it goes to standard error.",
        |effect, value| effect.log_file = value.path(),
    )
    .or("none")
    .trusted_only()
    .flag("log-file"),
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
];

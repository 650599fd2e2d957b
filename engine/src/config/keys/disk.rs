//! Keys of files.

use ccbt_shards::sync::SyncPolicy;
use ccbt_storage::messages::Preallocate;

use super::{DAY, KIB, MIB, SECOND, TIB};
use crate::config::key::{Key, key};
use crate::config::kind::Kind;

pub(super) const KEYS: &[Key] = &[
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
];

//! Keys of the daemon.

use std::time::Duration;

use super::{DAY, LIMIT, SECOND};
use crate::config::key::{Key, key};
use crate::config::kind::Kind;
use crate::daemon::SeedAction;

const ACTIVE: Kind = Kind::Int { min: 0, max: 1_000_000 };

pub(super) const KEYS: &[Key] = &[
    key(
        "daemon",
        "socket",
        Kind::Path,
        "auto",
        "Unix socket that the daemon is controlled by; auto: $XDG_RUNTIME_DIR/ccbt/daemon.sock.",
        |effect, value| effect.daemon.socket = value.path(),
    )
    .or("auto")
    .trusted_only(),
    key(
        "daemon",
        "listen",
        Kind::Loopback,
        "none",
        "Address that the daemon is controlled by besides, over HTTP, by those who show the token.",
        |effect, value| effect.daemon.listen = value.loopback(),
    )
    .or("none")
    .trusted_only(),
    key(
        "daemon",
        "token_file",
        Kind::Path,
        "auto",
        "File with the token for `listen`, made when it is not there; auto: daemon/token in state_dir.",
        |effect, value| effect.daemon.token_file = value.path(),
    )
    .or("auto")
    .trusted_only(),
    key(
        "daemon",
        "state_dir",
        Kind::Path,
        "auto",
        "Folder of the daemon's torrents and of checkpoints; auto: $XDG_STATE_HOME/ccbt or ~/.local/state/ccbt.",
        |effect, value| effect.daemon.state_dir = value.path(),
    )
    .or("auto")
    .trusted_only(),
    key(
        "daemon",
        "active_downloads",
        ACTIVE,
        "5",
        "Downloads that run at a time; the others wait in their order.",
        |effect, value| effect.daemon.queue.active_downloads = value.number().map(|number| number as u32),
    )
    .or("unlimited")
    .at_once(),
    key(
        "daemon",
        "active_seeds",
        ACTIVE,
        "unlimited",
        "Seeds that run at a time.",
        |effect, value| effect.daemon.queue.active_seeds = value.number().map(|number| number as u32),
    )
    .or("unlimited")
    .at_once(),
    key(
        "daemon",
        "active_limit",
        ACTIVE,
        "unlimited",
        "Torrents that run at a time, slow ones too; downloads come first.",
        |effect, value| effect.daemon.queue.active_limit = value.number().map(|number| number as u32),
    )
    .or("unlimited")
    .at_once(),
    key(
        "daemon",
        "slow_rate",
        LIMIT,
        "2KiB/s",
        "A torrent below this rate does not count for active_downloads and active_seeds; 0: all count.",
        |effect, value| effect.daemon.queue.slow_rate = value.number().expect("a rate"),
    )
    .at_once(),
    key(
        "daemon",
        "slow_after",
        Kind::Time { bare: SECOND, min: Duration::ZERO, max: DAY },
        "1m",
        "How long it must have been below.",
        |effect, value| effect.daemon.queue.slow_after = value.time().expect("a time"),
    )
    .at_once(),
    key(
        "daemon",
        "seed_action",
        Kind::Choice(&["pause", "remove"]),
        "pause",
        "What happens to a torrent of the daemon that reaches seed_ratio or seed_time; its files stay.",
        |effect, value| {
            effect.daemon.seed_action =
                if value.word() == "remove" { SeedAction::Remove } else { SeedAction::Pause };
        },
    )
    .at_once(),
    key(
        "daemon",
        "watch_dir",
        Kind::Path,
        "none",
        "Folder whose torrent files (NAME.torrent) the daemon adds; they are renamed to NAME.torrent.added.",
        |effect, value| effect.daemon.watch_dir = value.path(),
    )
    .or("none")
    .trusted_only()
    .at_once(),
    key(
        "daemon",
        "allowed_folders",
        Kind::Folders,
        "any",
        "Folders that clients of the daemon may name when they add or move torrents, with all below them and below \
         disk.output.",
        |effect, value| effect.daemon.allowed_folders = value.folders(),
    )
    .or("any")
    .trusted_only()
    .at_once(),
    key(
        "daemon",
        "on_complete",
        Kind::Command,
        "none",
        "Program that the daemon runs for each download that is complete, without a shell, with CCBT_NAME, \
         CCBT_INFO_HASH and CCBT_PATH in its environment; what it prints goes to the log.",
        |effect, value| effect.daemon.on_complete = value.command(),
    )
    .or("none")
    .trusted_only()
    .at_once(),
];

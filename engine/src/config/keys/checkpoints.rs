//! Keys of checkpoints: what is kept of torrents between runs.

use std::time::Duration;

use ccbt_protocol::checkpoint::Format;

use super::{DAY, SECOND};
use crate::config::effect::AutoResume;
use crate::config::key::{Key, key};
use crate::config::kind::{Kind, Value};

pub(super) const KEYS: &[Key] = &[
    key(
        "disk",
        "checkpoint_enabled",
        Kind::Bool,
        "true",
        "Keep checkpoints, and go on from them; without, what is there is hashed at each start.",
        |effect, value| effect.checkpoint_enabled = *value == Value::Bool(true),
    )
    .switch("no-checkpoint", false),
    key(
        "disk",
        "checkpoint_dir",
        Kind::Path,
        "auto",
        "Folder of checkpoints; auto: $XDG_STATE_HOME/ccbt/checkpoints, or ~/.local/state/ccbt/checkpoints.",
        |effect, value| effect.checkpoint_dir = value.path(),
    )
    .or("auto")
    .trusted_only()
    .flag("checkpoint-dir"),
    key(
        "disk",
        "checkpoint_interval",
        Kind::Time { bare: SECOND, min: Duration::from_millis(10), max: DAY },
        "30s",
        "Time between checkpoints of a torrent while something changes.",
        |effect, value| effect.settings.checkpoints.interval = value.time().expect("a time"),
    )
    .at_once()
    .flag("checkpoint-interval"),
    key(
        "disk",
        "checkpoint_pieces",
        Kind::Int { min: 0, max: u32::MAX as u64 },
        "1000",
        "One is written earlier when so many pieces have come; 0: by time only.",
        |effect, value| {
            effect.settings.checkpoints.pieces = value.number().map_or(0, |pieces| pieces as u32);
        },
    )
    .at_once()
    .flag("checkpoint-pieces"),
    key(
        "disk",
        "checkpoint_format",
        Kind::Choice(&["binary", "json"]),
        "binary",
        "Form of checkpoints: packed with zstd, or text.",
        |effect, value| {
            effect.settings.checkpoints.format = match value.word() {
                "json" => Format::Json,
                _ => Format::Binary,
            };
        },
    )
    .at_once()
    .flag("checkpoint-format"),
    key(
        "disk",
        "checkpoint_retention_days",
        Kind::Int { min: 1, max: 36_500 },
        "30",
        "Checkpoints of torrents that did not run for so many days are removed; never: they stay.",
        |effect, value| {
            let days = value.number().and_then(|days| u32::try_from(days).ok());
            effect.settings.checkpoints.keep = days.map(|days| DAY * days);
        },
    )
    .or("never")
    .at_once()
    .trusted_only(),
    key(
        "disk",
        "auto_delete_checkpoint_on_complete",
        Kind::Bool,
        "false",
        "Remove checkpoints of complete torrents that do not run; then the next start hashes them.",
        |effect, value| effect.settings.checkpoints.keep_completed = *value == Value::Bool(false),
    )
    .at_once()
    .trusted_only(),
    key(
        "disk",
        "auto_resume",
        Kind::Bool,
        "ask",
        "Whether a torrent that is added goes on from its checkpoint. ask: a download asks if there is a terminal, \
         else as true.",
        |effect, value| {
            effect.auto_resume = match value {
                Value::Bool(true) => AutoResume::Always,
                Value::Bool(false) => AutoResume::Never,
                _ => AutoResume::Ask,
            };
        },
    )
    .or("ask")
    .per_torrent(),
];

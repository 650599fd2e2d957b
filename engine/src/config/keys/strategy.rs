//! Keys of what is asked of whom, who is served, and how peers are found.

use ccbt_protocol::picker::Strategy;

use super::{PEERS, SECONDS};
use crate::config::key::{Key, key};
use crate::config::kind::{Kind, Value};

pub(super) const KEYS: &[Key] = &[
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
        "files",
        Kind::Files,
        "all",
        "Fetch only these files, by number as `info` prints them or by name with * and ?. What names no file of a torrent \
         says nothing of it; --files says more.",
        |effect, value| effect.files.only = value.files(),
    )
    .or("all")
    .per_torrent(),
    key(
        "strategy",
        "file_priority",
        Kind::FilePriorities,
        "none",
        "How much files are wanted; the last one that names a file counts. --file-priority says more.",
        |effect, value| effect.files.priorities = value.file_priorities(),
    )
    .or("none")
    .per_torrent(),
    key(
        "strategy",
        "streaming_mode",
        Kind::Bool,
        "false",
        "Fetch what is needed to play the largest wanted file first: its first and last pieces, then in order. One shard \
         serves such a torrent.",
        |effect, value| effect.torrent.streaming = *value == Value::Bool(true),
    )
    .per_torrent()
    .download_switch("streaming", true),
    key(
        "strategy",
        "super_seeding",
        Kind::Bool,
        "false",
        "Show each peer single pieces (BEP 16) if everything is there at the start: for the first seed of a new torrent. \
         One shard serves such a torrent.",
        |effect, value| effect.torrent.super_seeding = *value == Value::Bool(true),
    )
    .per_torrent()
    .switch("super-seeding", true),
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
        "discovery",
        "enable_http_trackers",
        Kind::Bool,
        "true",
        "Of these, ask those with http:// and https://.",
        |effect, value| effect.torrent.tracker_schemes.http = *value == Value::Bool(true),
    )
    .per_torrent(),
    key(
        "discovery",
        "enable_udp_trackers",
        Kind::Bool,
        "true",
        "Of these, ask those with udp://.",
        |effect, value| effect.torrent.tracker_schemes.udp = *value == Value::Bool(true),
    )
    .per_torrent(),
    key(
        "discovery",
        "enable_pex",
        Kind::Bool,
        "true",
        "Tell peers of each other, and take addresses from them (BEP 11). Never for private torrents.",
        |effect, value| effect.torrent.use_pex = *value == Value::Bool(true),
    )
    .per_torrent()
    .switch("no-pex", false),
];

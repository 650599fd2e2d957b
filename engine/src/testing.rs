//! Values for unit tests.

use ccbt_protocol::ids::TorrentKey;
use ccbt_protocol::metainfo::Metainfo;
use ccbt_protocol::metainfo::build::Builder;
use ccbt_protocol::torrent::Stats;
use ccbt_shards::messages::{State, TorrentStatus};

/// A single-file torrent with made-up hashes.
pub(crate) fn metainfo(name: &str, len: u64, piece_len: u32) -> Metainfo {
    let plan = Builder::single_file(name, len).piece_len(piece_len).plan().expect("sensible sizes");
    let hashes = vec![[7; 20]; plan.geometry().piece_count() as usize];
    Metainfo::parse(&plan.finish(&hashes)).expect("what was built is read")
}

/// A torrent of ten pieces of 16 KiB of which `pieces_done` are there.
pub(crate) fn status(key: TorrentKey, pieces_done: u32) -> TorrentStatus {
    TorrentStatus {
        key,
        state: State::Downloading,
        stats: Stats::default(),
        down_rate: 0,
        up_rate: 0,
        pieces_done,
        pieces_total: 10,
        pieces_durable: 0,
        blocks_partial: 0,
        syncs: 0,
        bytes_done: u64::from(pieces_done) << 14,
        bytes_total: 10 << 14,
        bytes_wanted: 10 << 14,
        bytes_left: (10 << 14) - (u64::from(pieces_done) << 14),
        peer_count: 0,
        peers: Vec::new(),
        candidates: 0,
        web: Default::default(),
    }
}

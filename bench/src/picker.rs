//! `ccbt-bench picker`: what choosing a block costs, by number of pieces and peers.
//!
//! Role: drives [`Picker`] alone, as a shard would: peers ask in turn, everything asked for arrives, pieces become
//! ours. Invariant: each figure is time per block from choice to arrival, HAVEs of completed pieces included, so that
//! growth with the size of torrent or swarm shows.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Instant;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::geometry::{BLOCK_LEN, Block, Geometry};
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::picker::{PeerHas, PeerKey, PeerView, Picker, PickerConfig, Received, Slots, Strategy};
use clap::Args;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use crate::error::BenchError;

/// Blocks in a piece: 256 KiB pieces, as torrents of 25 GiB with 100,000 pieces have.
const BLOCKS: u32 = 16;
/// Pieces that hold memory at most.
const MEMORY: usize = 1024;
/// Blocks asked for at a time.
const BATCH: usize = 32;
/// Every so many peers one is a seed.
const SEED_EVERY: usize = 10;

/// Options of `ccbt-bench picker`.
#[derive(Debug, Clone, Args)]
pub struct PickerArgs {
    /// Numbers of pieces
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pieces: Vec<u32>,
    /// Numbers of peers
    #[arg(long, value_delimiter = ',', default_value = "20,200,2000",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    peers: Vec<u32>,
    /// Blocks measured at most; fewer when the torrent is complete before
    #[arg(long, default_value_t = 400_000, value_parser = clap::value_parser!(u32).range(1..))]
    blocks: u32,
    /// Also write everything to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One combination.
#[derive(Debug, Clone, Serialize)]
struct Row {
    pieces: u32,
    peers: u32,
    blocks: u64,
    ns_per_block: f64,
    /// Against the same number of peers with the smallest torrent.
    growth: f64,
}

/// Measures every combination and prints the table.
///
/// Errors: the JSON file cannot be written.
pub fn run(args: &PickerArgs) -> Result<bool, BenchError> {
    let mut rows: Vec<Row> = Vec::new();
    println!("{:>8} {:>7} {:>9} {:>12} {:>7}", "pieces", "peers", "blocks", "ns per block", "growth");
    for &peers in &args.peers {
        let mut first = None;
        for &pieces in &args.pieces {
            let (blocks, ns_per_block) = measure(pieces, peers as usize, u64::from(args.blocks));
            let growth = ns_per_block / *first.get_or_insert(ns_per_block);
            println!("{pieces:>8} {peers:>7} {blocks:>9} {ns_per_block:>12.0} {growth:>7.2}");
            rows.push(Row { pieces, peers, blocks, ns_per_block, growth });
        }
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&rows).expect("plain numbers are JSON");
        std::fs::write(path, text + "\n").map_err(BenchError::file("write", path))?;
    }
    Ok(true)
}

struct Memory {
    free: usize,
}

impl Slots for Memory {
    fn acquire(&mut self, _piece: PieceIndex, _len: u32) -> bool {
        let some = self.free > 0;
        self.free -= usize::from(some);
        some
    }
}

/// What is on the way to us.
struct Peer {
    key: PeerKey,
    field: Option<Bitfield>,
    asked: VecDeque<Block>,
}

/// Blocks, and nanoseconds per block.
fn measure(pieces: u32, peers: usize, max: u64) -> (u64, f64) {
    let mut rng = SmallRng::seed_from_u64(1);
    let piece_len = u64::from(BLOCKS * BLOCK_LEN);
    let geometry = Geometry::new(u64::from(pieces) * piece_len, piece_len).expect("a usual torrent");
    let config = PickerConfig { strategy: Strategy::RarestFirst, ..PickerConfig::default() };
    let mut picker = Picker::new(geometry, config, Bitfield::empty(pieces));
    let mut swarm: Vec<Peer> = (0..peers).map(|nth| peer(nth, pieces, &mut picker, &mut rng)).collect();
    let mut memory = Memory { free: MEMORY };
    let (mut picked, mut cancels, mut hashing) = (Vec::new(), Vec::new(), Vec::new());
    let mut blocks = 0;
    let started = Instant::now();
    'all: loop {
        let before = blocks;
        for peer in &mut swarm {
            picked.clear();
            let has = peer.field.as_ref().map_or(PeerHas::All, PeerHas::Some);
            let view = PeerView { key: peer.key, has, only: None, suggested: &[], slow: false };
            picker.pick(&view, BATCH, &mut memory, &mut rng, &mut picked);
            peer.asked.extend(&picked);
        }
        for peer in &mut swarm {
            for block in peer.asked.drain(..) {
                blocks += 1;
                if picker.block_received(peer.key, block, &mut cancels) == Received::PieceComplete {
                    hashing.push(block.piece);
                }
            }
        }
        cancels.clear();
        for piece in hashing.drain(..) {
            picker.piece_verified(piece);
            picker.piece_written(piece);
            memory.free += 1;
            // Somebody else completes a piece as well.
            let nth = rng.random_range(0..swarm.len());
            if let Some(field) = &mut swarm[nth].field
                && field.insert(piece)
            {
                picker.peer_have(piece);
            }
        }
        if blocks >= max || picker.is_finished() || blocks == before {
            break 'all;
        }
    }
    (blocks, started.elapsed().as_nanos() as f64 / blocks.max(1) as f64)
}

fn peer(nth: usize, pieces: u32, picker: &mut Picker, rng: &mut SmallRng) -> Peer {
    let key = PeerKey(nth as u32);
    if nth.is_multiple_of(SEED_EVERY) {
        picker.seed_added();
        return Peer { key, field: None, asked: VecDeque::new() };
    }
    // Newcomers and those who are nearly done: what is rare differs widely.
    let share = rng.random_range(0.05..0.95);
    let mut field = Bitfield::empty(pieces);
    for piece in 0..pieces {
        if rng.random_bool(share) {
            field.insert(PieceIndex(piece));
        }
    }
    picker.peer_bitfield_added(&field);
    Peer { key, field: Some(field), asked: VecDeque::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_torrent_is_fetched_whole_and_a_large_one_as_far_as_asked() {
        let (blocks, ns) = measure(10, 3, 1_000_000);
        assert!(blocks >= u64::from(10 * BLOCKS) && ns > 0.0, "{blocks} blocks");
        let (blocks, _) = measure(2000, 5, 1000);
        assert!((1000..2000).contains(&blocks), "{blocks} blocks");
    }
}

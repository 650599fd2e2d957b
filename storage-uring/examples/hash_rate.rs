//! How fast one core hashes pieces, by backend: `cargo run --release -p ccbt-storage --example hash_rate
//! [piece KiB]`.
//!
//! Prints GB/s (10^9 bytes) of the best of several rounds, over pieces that are not all in the caches of one
//! core.

use std::time::{Duration, Instant};

use ccbt_storage::hash::{Backend, LANES_MAX, Sha1, sha1, update_lanes};

const SET_LEN: usize = 64 << 20;
const ROUNDS: usize = 5;
/// Leaves a piece for each lane.
const PIECE_KIB_MAX: usize = SET_LEN / 1024 / LANES_MAX;

fn main() {
    let argument = std::env::args().nth(1).unwrap_or_else(|| "256".to_owned());
    let piece_len = match argument.parse::<usize>() {
        Ok(kib) if (1..=PIECE_KIB_MAX).contains(&kib) => kib * 1024,
        _ => {
            eprintln!("piece length in KiB: a number from 1 to {PIECE_KIB_MAX}");
            std::process::exit(2);
        }
    };
    let bytes: Vec<u8> = (0..SET_LEN).map(|at| ((at * 2_654_435_761) >> 7) as u8).collect();
    let pieces: Vec<&[u8]> = bytes.chunks_exact(piece_len).collect();
    println!("pieces of {} KiB, best backend {:?}", piece_len / 1024, Backend::detect());
    for backend in [Backend::ShaNi, Backend::Portable] {
        if !backend.is_available() {
            println!("{backend:?}: not on this CPU");
            continue;
        }
        for lanes in 1..=LANES_MAX {
            report(&format!("{backend:?} x{lanes}"), &pieces, lanes, |pieces| {
                let mut hashers = vec![Sha1::with_backend(backend); pieces.len()];
                update_lanes(&mut hashers, pieces);
                hashers.into_iter().fold(0, |mixed, hasher| mixed ^ hasher.finalize()[0])
            });
        }
    }
    report("sha1()", &pieces, 1, |pieces| sha1(pieces[0])[0]);
}

fn report(name: &str, pieces: &[&[u8]], lanes: usize, hash: impl Fn(&[&[u8]]) -> u8) {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mixed = pieces.chunks_exact(lanes).fold(0, |mixed, pieces| mixed ^ hash(pieces));
        std::hint::black_box(mixed);
        best = best.min(start.elapsed());
    }
    let hashed = pieces.chunks_exact(lanes).len() * lanes * pieces[0].len();
    println!("{name:14} {:6.3} GB/s", hashed as f64 / best.as_secs_f64() / 1e9);
}

//! How fast one core hashes pieces, by backend: `cargo run --release -p ccbt-storage --example hash_rate [piece KiB]`.
//!
//! Prints GB/s (10^9 bytes) of the best of several rounds, over pieces that are not all in the caches of one core.

use std::time::{Duration, Instant};

use ccbt_storage::hash::{Backend, Sha1, sha1, sha1_pair, update_pair};

const SET_LEN: usize = 64 << 20;
const ROUNDS: usize = 5;

fn main() {
    let argument = std::env::args().nth(1).unwrap_or_else(|| "256".to_owned());
    let piece_len = match argument.parse::<usize>() {
        Ok(kib) if (1..=SET_LEN / 2048).contains(&kib) => kib * 1024,
        _ => {
            eprintln!("piece length in KiB: a number from 1 to {}", SET_LEN / 2048);
            std::process::exit(2);
        }
    };
    let bytes: Vec<u8> = (0..SET_LEN).map(|at| (at * 2_654_435_761 >> 7) as u8).collect();
    let pieces: Vec<&[u8]> = bytes.chunks_exact(piece_len).collect();
    println!("pieces of {} KiB, best backend {:?}", piece_len / 1024, Backend::detect());
    for backend in [Backend::ShaNi, Backend::Portable] {
        if !backend.is_available() {
            println!("{backend:?}: not on this CPU");
            continue;
        }
        report(&format!("{backend:?} x1"), &pieces, 1, |pieces| {
            let mut hasher = Sha1::with_backend(backend);
            hasher.update(pieces[0]);
            hasher.finalize()[0]
        });
        report(&format!("{backend:?} x2"), &pieces, 2, |pieces| {
            let (mut a, mut b) = (Sha1::with_backend(backend), Sha1::with_backend(backend));
            update_pair(&mut a, pieces[0], &mut b, pieces[1]);
            a.finalize()[0] ^ b.finalize()[0]
        });
    }
    report("sha1()", &pieces, 1, |pieces| sha1(pieces[0])[0]);
    report("sha1_pair()", &pieces, 2, |pieces| {
        let [a, b] = sha1_pair(pieces[0], pieces[1]);
        a[0] ^ b[0]
    });
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

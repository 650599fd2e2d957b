//! Hit rates of the policy beside plain least-recently-used, on what seeds meet.

use rand::rngs::Xoshiro256PlusPlus as TestRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// Extents that fit into the simulated memory.
const CAPACITY: usize = 200;

trait Cache {
    /// One reader passes `key`; whether it was there.
    fn read(&mut self, key: u64) -> bool;
}

struct Lru(Vec<u64>);

impl Cache for Lru {
    fn read(&mut self, key: u64) -> bool {
        let at = self.0.iter().position(|known| *known == key);
        match at {
            Some(at) => drop(self.0.remove(at)),
            None if self.0.len() == CAPACITY => drop(self.0.remove(0)),
            None => {}
        }
        self.0.push(key);
        at.is_some()
    }
}

impl Cache for Policy<u64> {
    fn read(&mut self, key: u64) -> bool {
        let hit = self.contains(&key);
        if !hit {
            if self.len() == CAPACITY {
                self.evict(|_| true).expect("nothing is held");
            }
            self.insert(key, 1);
        }
        self.used(&key);
        hit
    }
}

/// Share of hits of the policy and of LRU over the same reads.
fn hit_rates(reads: &[u64]) -> (f64, f64) {
    let rate = |cache: &mut dyn Cache| {
        let hits = reads.iter().filter(|key| cache.read(**key)).count();
        hits as f64 / reads.len() as f64
    };
    (rate(&mut Policy::new(CAPACITY)), rate(&mut Lru(Vec::new())))
}

#[test]
fn a_scan_does_not_push_the_hot_set_out() {
    let mut rng = TestRng::seed_from_u64(1);
    let (mut reads, mut scan) = (Vec::new(), 1_000_000);
    for _ in 0..40_000 {
        // Somebody fetches a few pieces again and again, others read whole torrents once.
        reads.push(rng.random_range(0..120));
        scan += 2;
        reads.extend([scan, scan + 1]);
    }
    let (policy, lru) = hit_rates(&reads);
    assert!(policy > lru * 1.3, "policy {policy:.3}, LRU {lru:.3}");
    assert!(policy > 0.3, "nearly all of the hot third stays: {policy:.3}");
}

#[test]
fn many_peers_at_the_same_pieces_are_served_as_by_lru() {
    let mut rng = TestRng::seed_from_u64(2);
    // 40 peers read a new piece of 16 extents each about the same time, some of them late.
    let mut reads = Vec::new();
    for piece in 0..400u64 {
        for extent in 0..16 {
            for _peer in 0..40 {
                let lag = rng.random_range(0..4u64);
                reads.push(piece.saturating_sub(lag / 3) * 16 + (extent + 16 - lag) % 16);
            }
        }
    }
    let (policy, lru) = hit_rates(&reads);
    assert!(policy >= lru - 0.005, "policy {policy:.3}, LRU {lru:.3}");
    assert!(policy > 0.95, "one read for forty: {policy:.3}");
}

#[test]
fn popular_files_of_many_win_over_the_rest() {
    let mut rng = TestRng::seed_from_u64(3);
    // Popularity falls as 1/rank over ten times what fits.
    let reads: Vec<u64> =
        (0..100_000).map(|_| (10.0 * CAPACITY as f64).powf(rng.random_range(0.0..1.0f64)) as u64).collect();
    let (policy, lru) = hit_rates(&reads);
    assert!(policy > lru, "policy {policy:.3}, LRU {lru:.3}");
}

#[test]
fn a_reader_behind_another_meets_what_the_first_one_left() {
    // Both read a torrent that does not fit; the second comes when the first is an eighth of what fits ahead.
    let reads: Vec<u64> = (0..4000u64).flat_map(|at| [at + CAPACITY as u64 / 8, at]).collect();
    let (policy, lru) = hit_rates(&reads);
    assert!(policy >= lru - 0.005 && policy > 0.45, "policy {policy:.3}, LRU {lru:.3}");
}

//! How fast this machine's cores hash what lies in memory: the other half of the limit, beside the device.
//!
//! Role: [`rate`] runs the kernel that `ccbt-fast` uses, on as many threads, over more memory than the caches
//! hold. Called once per round, so that it sees the machine as the programs do.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use ccbt_storage::hash::algorithm::Sha1Algorithm;
use ccbt_storage::hash::{Backend, LANES_MAX, Sha1, update_lanes};

/// Bytes of each message: all messages of a thread together are far more than its share of the caches.
const MESSAGE_LEN: usize = 8 << 20;
/// How long is measured.
const TIME: Duration = Duration::from_millis(500);
/// Bytes of a message that are hashed at a time.
const STEP_LEN: usize = 64 << 10;

/// MB/s of `threads` threads together.
pub(super) fn rate(threads: usize) -> f64 {
    let lanes = Backend::detect().lanes::<Sha1Algorithm>().min(LANES_MAX);
    let barrier = Barrier::new(threads);
    let worker = || {
        let data = vec![7u8; lanes * MESSAGE_LEN];
        let messages: Vec<&[u8]> = data.chunks(MESSAGE_LEN).collect();
        let mut hashers = vec![Sha1::new(); lanes];
        barrier.wait();
        let started = Instant::now();
        let (mut bytes, mut at) = (0usize, 0);
        while started.elapsed() < TIME {
            let slices: Vec<&[u8]> = messages.iter().map(|message| &message[at..at + STEP_LEN]).collect();
            update_lanes(&mut hashers, &slices);
            bytes += lanes * STEP_LEN;
            at = (at + STEP_LEN) % MESSAGE_LEN;
        }
        bytes as f64 / 1e6 / started.elapsed().as_secs_f64()
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().expect("hashing does not panic")).sum()
    })
}

//! The synthetic load: many cheap peers in one or few threads.
//!
//! Role: [`serve`] is a seeder of N peers for clients that download; [`fetch`] is a leecher of N peers for clients
//! that seed. Each peer has a loopback address of its own, since clients tell peers apart by address.
//! Invariant: a generator does per block only what the protocol forces it to, so that the client is what is measured;
//! its thread CPU time is reported beside every result.

pub mod codec;
pub mod fetch;
pub mod net;
pub mod pool;
pub mod probe;
pub mod serve;

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time (user and system) the calling thread has used so far.
pub(crate) fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

/// A fresh peer id of the generator (BEP 20 style prefix, then random bytes).
pub(crate) fn random_peer_id() -> [u8; 20] {
    let mut id: [u8; 20] = rand::random();
    id[..8].copy_from_slice(b"-CB0001-");
    id
}

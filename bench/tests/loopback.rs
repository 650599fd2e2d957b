//! The two generators against each other: proves both ends of the measuring device without any client.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ccbt_bench::generator::fetch::{FetchPlan, fetch};
use ccbt_bench::generator::probe;
use ccbt_bench::generator::serve::Seeder;
use ccbt_bench::payload::{BLOCK_LEN, Payload};

#[test]
fn leecher_fetches_everything_from_seeder() {
    let payload = Arc::new(Payload::new(16 << 20, 256 << 10).expect("valid sizes"));
    for threads in [1, 2] {
        let seeder = Seeder::start(Arc::clone(&payload), 3, threads).expect("listens on loopback");
        let target = seeder.peers()[2];
        assert!(probe::is_ready(target, &payload), "a synthetic seeder has everything");
        let plan = FetchPlan {
            payload: Arc::clone(&payload),
            target,
            connections: 5,
            window: 64,
            threads,
            cancel: Arc::new(AtomicBool::new(false)),
        };
        let fetched = fetch(&plan).expect("all blocks arrive with the right content");
        let (hello, request) = (seeder.first_handshake(), seeder.first_request());
        assert!(hello.is_some() && request > hello, "nobody asks before saying hello");
        let served = seeder.stop().expect("seeder ends");
        assert_eq!(fetched.blocks, payload.block_count());
        assert_eq!((fetched.unrequested, fetched.wrong, fetched.rejects), (0, 0, 0));
        assert_eq!(fetched.round_trip.summary().count, payload.block_count());
        assert_eq!(served.bytes, payload.block_count() * BLOCK_LEN as u64);
        assert!(served.handshakes >= 2, "the probe's, and that of at least one puller");
        assert!(served.depth_max > 1, "requests are pipelined");
    }
}

#[test]
fn probe_refuses_another_torrent_and_a_closed_port() {
    let payload = Arc::new(Payload::new(1 << 20, 256 << 10).expect("valid sizes"));
    let other = Payload::new(2 << 20, 256 << 10).expect("valid sizes");
    let seeder = Seeder::start(payload, 1, 1).expect("listens on loopback");
    let target = seeder.peers()[0];
    assert!(!probe::is_ready(target, &other));
    assert!(seeder.first_request().is_none());
    let served = seeder.stop().expect("seeder ends");
    assert_eq!(served.handshakes, 0);
    assert!(!probe::is_ready(target, &other), "nobody listens any more");
}

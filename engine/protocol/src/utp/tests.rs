//! Whole connections over a simulated network, and packets that no honest peer sends.

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::sim::{CONFIG, Link, Pair};
use super::*;

mod hostile;

fn good() -> Link {
    Link { delay: 20 * MS, ..Link::default() }
}

#[test]
fn a_stream_passes_both_ways_and_ends() {
    let mut pair = Pair::new(1, good(), [300_000, 200_000]);
    pair.run();
    assert!(pair.ends[0].conn.is_flushed() && pair.ends[1].conn.is_flushed());
    assert_eq!(pair.ends[0].conn.datagram_len(), CONFIG.datagram_max, "one probe, and it passed");
    // Slow start from four packets: 60, 120, 240 … ms.
    assert!(pair.net.now < 2 * SECOND, "{} µs", pair.net.now);
    assert!(pair.net.sent < 700, "{} packets for 340 with payload", pair.net.sent);
}

#[test]
fn a_window_that_is_closed_and_opened_again_loses_nothing() {
    for lose_update in [false, true] {
        let mut pair = Pair::new(2, good(), [3 * CONFIG.receive_window, 0]);
        pair.run_for(25 * MS);
        pair.ends[1].lazy = true;
        pair.run_for(20 * SECOND);
        let held = pair.ends[1].unread;
        assert!(held <= CONFIG.receive_window && held > CONFIG.receive_window - 2000, "{held}");
        let before = pair.net.sent;
        pair.run_for(120 * SECOND);
        assert!(pair.net.sent - before < 80, "{} packets while the window is closed", pair.net.sent - before);
        assert!(pair.net.sent > before, "nobody asks whether it has opened");
        assert_eq!(pair.ends[0].conn.failure(), None);
        pair.ends[1].lazy = false;
        pair.net.lose_next = if lose_update { 1 } else { 0 };
        pair.consume(1);
        pair.run();
    }
}

#[test]
fn nobody_at_the_other_end() {
    let mut pair = Pair::new(3, Link { loss: 1.0, ..good() }, [1000, 0]);
    pair.run_for(60 * SECOND);
    assert_eq!(pair.ends[0].conn.failure(), Some(Failure::TimedOut));
    assert_eq!(pair.net.sent, 3, "SYNs");
    assert_eq!(pair.ends[0].conn.deadline(), None);

    let mut pair = Pair::new(4, good(), [1_000_000, 0]);
    pair.run_for(200 * MS);
    assert!(pair.ends[0].conn.is_open());
    pair.net.link.loss = 1.0;
    pair.run_for(120 * SECOND);
    assert_eq!(pair.ends[0].conn.failure(), Some(Failure::TimedOut));
}

#[test]
fn a_reset_ends_it_and_is_refused_from_strangers() {
    let mut pair = Pair::new(5, good(), [1_000_000, 0]);
    pair.run_for(200 * MS);
    let mut stray = Vec::new();
    let reset = Packet {
        kind: Kind::Reset,
        id: 4711,
        timestamp: 0,
        difference: 0,
        window: 0,
        seq: Seq(1),
        ack: Seq(1),
        selective_ack: None,
        payload: &[],
    };
    reset.encode_head(&mut stray);
    pair.ends[0].conn.handle(pair.net.now, &stray, 0, &mut |_| panic!("no payload"));
    assert!(pair.ends[0].conn.is_open());
    pair.ends[1].conn.abort();
    pair.run_for(SECOND);
    assert_eq!(pair.ends[0].conn.failure(), Some(Failure::Reset));
    let mut conn = Connection::dial(CONFIG, 4711, 9);
    assert!(conn.poll_transmit(0, &mut Transmit::default()));
    conn.handle(5, &stray, 0, &mut |_| ());
    assert_eq!(conn.failure(), Some(Failure::Refused));
}

/// The SYN of a connection that is none of the pair's, and who waits for its answer.
fn another_dial() -> (Connection, Vec<u8>) {
    let mut other = Connection::dial(CONFIG, 77, 88);
    let mut out = Transmit::default();
    assert!(other.poll_transmit(0, &mut out));
    (other, out.heads)
}

#[test]
fn a_second_connection_over_the_same_ports_is_refused_when_the_first_proves_to_live() {
    let mut pair = Pair::new(16, good(), [1000, 0]);
    pair.ends.iter_mut().for_each(|end| end.closes = false);
    pair.run_for(300 * MS);
    let (mut other, syn) = another_dial();
    for _ in 0..50 {
        pair.ends[1].conn.handle(pair.net.now, &syn, 0, &mut |_| panic!("no payload"));
    }
    let before = pair.net.sent;
    pair.consume(1);
    pair.run_for(100 * MS);
    // One packet that must be answered, the answer, and the refusal.
    assert!(pair.net.sent - before <= 3, "{} packets for 50 SYNs", pair.net.sent - before);
    assert_eq!(pair.net.resets.len(), 1, "one refusal");
    other.handle(5, &pair.net.resets[0], 0, &mut |_| panic!("no payload"));
    assert_eq!(other.failure(), Some(Failure::Refused));
    pair.ends.iter_mut().for_each(|end| end.closes = true);
    pair.run();
}

/// Holes are punched that way (BEP 55): both dial from their one port.
#[test]
fn two_that_dial_each_other_share_one_connection() {
    for (ids, seqs) in [((1, 2), (9, 8)), ((1, 2), (8, 9)), ((1, 2), (9, 9)), ((2, 1), (9, 9))] {
        let mut ends = [Connection::dial(CONFIG, ids.0, seqs.0), Connection::dial(CONFIG, ids.1, seqs.1)];
        let mut out = Transmit::default();
        ends[0].write(3);
        ends[1].write(5);
        let (mut got, mut now) = ([0, 0], 0);
        for _ in 0..8 {
            let mut sent = [Vec::new(), Vec::new()];
            for at in 0..2 {
                if ends[at].deadline().is_some_and(|due| due <= now) {
                    ends[at].handle_timeout(now);
                }
                while ends[at].poll_transmit(now, &mut out) {
                    let mut bytes = std::mem::take(&mut out.heads);
                    let payload: usize =
                        out.packets.iter().map(|p| (p.payload.end - p.payload.start) as usize).sum();
                    bytes.resize(bytes.len() + payload, 7);
                    sent[at].push(bytes);
                }
            }
            now += 30 * MS;
            for at in 0..2 {
                for bytes in &sent[1 - at] {
                    ends[at].handle(now, bytes, 0, &mut |bytes| got[at] += bytes.len());
                }
            }
        }
        assert!(ends[0].is_open() && ends[1].is_open());
        assert_eq!(got, [5, 3]);
        assert!(ends[0].was_accepted() != ends[1].was_accepted(), "one of them dials");
    }
}

#[test]
fn a_peer_that_has_forgotten_the_connection_gets_another_soon() {
    let mut pair = Pair::new(17, good(), [1000, 0]);
    pair.ends.iter_mut().for_each(|end| end.closes = false);
    pair.run_for(SECOND);
    // It is gone without a word, and nothing of ours is on its way that would show it.
    pair.net.link.loss = 1.0;
    let (_, syn) = another_dial();
    let conn = &mut pair.ends[1].conn;
    conn.handle(pair.net.now, &syn, 0, &mut |_| panic!("no payload"));
    pair.consume(1);
    pair.run_for(3 * SECOND);
    assert_eq!(pair.ends[1].conn.failure(), Some(Failure::TimedOut));
    assert!(pair.net.resets.is_empty() && pair.ends[0].conn.failure().is_none());
}

#[test]
fn an_idle_connection_keeps_its_mapping_and_nothing_else() {
    let mut pair = Pair::new(6, good(), [1000, 1000]);
    pair.ends.iter_mut().for_each(|end| end.closes = false);
    pair.run_for(10 * SECOND);
    let before = pair.net.sent;
    pair.run_for(290 * SECOND);
    assert!((18..=22).contains(&(pair.net.sent - before)), "{} packets", pair.net.sent - before);
}

#[test]
fn a_path_that_drops_large_packets_is_found_out() {
    let mut pair = Pair::new(7, Link { mtu: 1300, ..good() }, [2_000_000, 0]);
    pair.run();
    let found = pair.ends[0].conn.datagram_len();
    assert!((1285..=1300).contains(&found), "{found}");

    let mut pair = Pair::new(8, good(), [4_000_000, 0]);
    pair.run_for(400 * MS);
    assert_eq!(pair.ends[0].conn.datagram_len(), 1472);
    pair.net.link.mtu = 900;
    pair.run();
    let found = pair.ends[0].conn.datagram_len();
    assert!((548..=900).contains(&found), "{found}");
}

#[test]
fn a_probe_that_our_own_host_refuses_costs_nothing() {
    let mut pair = Pair::new(9, Link { interface: 1400, ..good() }, [1_000_000, 0]);
    pair.run();
    let found = pair.ends[0].conn.datagram_len();
    assert!((1385..=1400).contains(&found), "{found}");
    assert!(pair.net.now < 3 * SECOND, "{} µs", pair.net.now);
}

#[test]
fn a_lost_packet_is_sent_again_at_once_even_twice() {
    let mut pair = Pair::new(10, good(), [600_000, 0]);
    pair.run_for(250 * MS);
    let lost = pair.net.count_data;
    // The packet, and its first retransmission 40 to 60 ms later.
    pair.net.lose_data_numbers(pair.ends[0].conn.sent(), 2);
    pair.run();
    assert!(pair.net.count_data > lost);
    assert!(pair.net.now < 1200 * MS, "a timeout is 500 ms: {} µs", pair.net.now);
}

/// A slow link with a queue of a second: LEDBAT fills the link and a tenth of the queue.
#[test]
fn the_queue_stays_near_the_target() {
    for drift in [0.0, 200e-6, -200e-6] {
        let link = Link { delay: 30 * MS, rate: 500_000, queue: 500_000, ..Link::default() };
        let mut pair = Pair::new(11, link, [60_000_000, 0]);
        pair.ends[0].clock = (u64::from(u32::MAX) - 40_000_000, drift);
        pair.run_for(20 * SECOND);
        pair.net.queued_max = 0;
        let before = pair.ends[1].received;
        pair.run_for(60 * SECOND);
        let rate = (pair.ends[1].received - before) / 60;
        assert!(rate > 440_000, "{rate} B/s, drift {drift}");
        let queued = pair.net.queued_max * 1000 / 500_000;
        assert!(queued < 200, "{queued} ms of queue, drift {drift}");
    }
}

/// A flow that only loss slows down (TCP Reno, as a model) takes the link; alone again, uTP takes it back.
#[test]
fn it_gives_way_to_tcp() {
    let link = Link { delay: 30 * MS, rate: 1_000_000, queue: 400_000, ..Link::default() };
    let mut pair = Pair::new(12, link, [400_000_000, 0]);
    pair.run_for(10 * SECOND);
    pair.net.start_reno();
    pair.run_for(20 * SECOND);
    let (utp, reno) = (pair.ends[1].received, pair.net.reno_bytes());
    pair.run_for(40 * SECOND);
    let utp = (pair.ends[1].received - utp) / 40;
    let reno = (pair.net.reno_bytes() - reno) / 40;
    assert!(utp < 150_000 && reno > 700_000, "uTP {utp}, TCP {reno} B/s");
    pair.net.stop_reno();
    pair.run_for(5 * SECOND);
    let before = pair.ends[1].received;
    pair.run_for(20 * SECOND);
    let rate = (pair.ends[1].received - before) / 20;
    assert!(rate > 800_000, "{rate} B/s when it is alone again");
}

#[test]
fn two_of_them_share_and_a_fast_path_is_filled() {
    let link = Link { delay: 25 * MS, rate: 12_500_000, queue: 2_000_000, ..Link::default() };
    let mut pair = Pair::new(13, link, [60_000_000, 0]);
    pair.run();
    // Its window lasts for 11.4 s; a thirty-second part of it is saved up, and acknowledgements wait for half a millisecond.
    assert!(pair.net.now < 12_500 * MS, "{} µs for 60 MB at 100 Mbit/s", pair.net.now);
}

/// Every byte arrives, once, in order, and both ends come to an end, whatever the network does.
#[test]
fn all_bytes_arrive_in_order() {
    let mut rng = SmallRng::seed_from_u64(4);
    for seed in 0..150 {
        let link = Link {
            loss: rng.random_range(0.0..0.12),
            duplicates: rng.random_range(0.0..0.1),
            delay: rng.random_range(100..80_000),
            jitter: rng.random_range(0..30_000),
            mtu: rng.random_range(600..1500),
            ..Link::default()
        };
        let lens = [rng.random_range(0..120_000), rng.random_range(0..120_000)];
        println!("{seed}: {lens:?} {link:?}");
        Pair::new(seed, link, lens).run();
    }
}

/// What the ring relies on: packets of a call are equal but for the last, and name the stream's bytes.
#[test]
fn calls_have_equal_packets() {
    let mut pair = Pair::new(14, Link { loss: 0.02, ..good() }, [2_000_000, 0]);
    pair.run();
    assert!(pair.net.largest_call > 4, "{} packets in one call", pair.net.largest_call);
}

#[test]
fn a_full_socket_loses_nothing() {
    let mut pair = Pair::new(15, Link { full: 0.3, ..good() }, [500_000, 100_000]);
    pair.run();
    assert_eq!(pair.net.lost, 0);
    assert!(pair.net.now < 8 * SECOND, "{} µs", pair.net.now);
}

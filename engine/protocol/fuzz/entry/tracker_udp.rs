//! What must hold for any packets of a UDP tracker, in any order. Run by the fuzz target and over the corpus by tests.
//!
//! The input is a family byte and packets, each after a byte of its length. They are decoded, and given to exchanges.

use std::time::{Duration, Instant};

use ccbt_protocol::ids::{InfoHash, PeerId};
use ccbt_protocol::tracker::udp::{
    AddressFamily, Exchange, Outcome, Query, Reply, RetryPlan, SCRAPE_HASHES_MAX, decode, transaction_of,
};
use ccbt_protocol::tracker::{
    AnnounceRequest, AnnounceResponse, Event, INTERVAL_MAX, INTERVAL_MIN, PEERS_MAX, TEXT_LEN_MAX,
};

const TRANSACTION: u32 = 0x0102_0304;

/// Panics when an invariant breaks.
pub fn run(data: &[u8]) {
    let Some((&first, mut rest)) = data.split_first() else { return };
    let family = if first.is_multiple_of(2) { AddressFamily::V4 } else { AddressFamily::V6 };
    check(rest, family);
    let mut packets = Vec::new();
    while let Some((&len, after)) = rest.split_first() {
        let (packet, after) = after.split_at(after.len().min(usize::from(len)));
        packets.push(packet);
        rest = after;
    }
    packets.iter().for_each(|packet| check(packet, family));
    exchange(&packets, family, Query::Announce(Box::new(request()), b"/announce".to_vec()));
    exchange(&packets, family, Query::Scrape(vec![InfoHash([7; 20])]));
}

fn check(packet: &[u8], family: AddressFamily) {
    let Some((transaction, reply)) = decode(packet, family) else { return };
    assert_eq!(transaction_of(packet), Some(transaction));
    match reply {
        Reply::Connect(_) => assert!(packet.len() >= 16),
        Reply::Announce(response) => check_response(&response),
        Reply::Scrape(entries) => assert!(entries.len() <= SCRAPE_HASHES_MAX),
        Reply::Error(failure) => {
            assert!(failure.reason.len() <= TEXT_LEN_MAX && !failure.reason.chars().any(char::is_control));
        }
    }
}

fn check_response(response: &AnnounceResponse) {
    assert!((INTERVAL_MIN..=INTERVAL_MAX).contains(&response.interval));
    assert!(response.peers.len() <= PEERS_MAX && response.peers.iter().all(|peer| peer.port() != 0));
}

/// Plays the packets into an exchange, one after each transmission, until it ends: it always does.
fn exchange(packets: &[&[u8]], family: AddressFamily, query: Query) {
    let mut now = Instant::now();
    let plan = RetryPlan { base: Duration::from_secs(1), tries_max: 4 };
    let mut exchange = Exchange::new(plan, family, TRANSACTION, query, None, now);
    let mut packets = packets.iter();
    let mut sent = 0;
    while let Some(deadline) = exchange.deadline() {
        now = now.max(deadline);
        sent += usize::from(exchange.poll_transmit(now).is_some());
        if let Some(packet) = packets.next() {
            let used = exchange.handle_packet(now, packet);
            assert!(!used || transaction_of(packet) == Some(TRANSACTION));
        }
        assert!(sent <= 4 * (plan.tries_max as usize + packets.len() + 260), "it never ends");
    }
    match exchange.outcome().expect("no deadline, so there is an outcome") {
        Outcome::Announced(response) => check_response(response),
        Outcome::Scraped(_) | Outcome::Refused(_) | Outcome::TimedOut => {}
    }
    assert!(exchange.poll_transmit(now + Duration::from_secs(99)).is_none());
}

fn request() -> AnnounceRequest {
    AnnounceRequest {
        info_hash: InfoHash([7; 20]),
        peer_id: PeerId([1; 20]),
        port: 6881,
        uploaded: 1,
        downloaded: 2,
        left: 3,
        event: Event::Started,
        numwant: None,
        key: 4,
        tracker_id: None,
        ip: None,
        other_ip: None,
    }
}
